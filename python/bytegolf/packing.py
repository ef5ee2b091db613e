"""`bytegolf pack`: an artifact from a run's newest checkpoint, without training it to its end."""

from __future__ import annotations

import time
from pathlib import Path

from bytegolf import console
from bytegolf.artifact import pack
from bytegolf.checkpoint import read_checkpoint
from bytegolf.config import Config
from bytegolf.model import Model


def pack_command(source: Path, output: Path, weights: str, scheme: str) -> None:
    """Reads the checkpoint of a run folder (or checkpoint folder) `source`, packs one set of its weights, and says what came out.

    UserError when there is no checkpoint or it lacks those weights; FormatError for a damaged one.
    """
    inside = source / "checkpoints"
    folder = inside if inside.is_dir() else source
    state, facts = read_checkpoint(folder)
    config = Config.from_text(str(facts.get("config", "")), f"the options of {folder}")
    names = [key.removeprefix("weights/") for key in state if key.startswith("weights/")]
    kept = {key.partition("/")[0] for key in state}
    averaged = weights == "raw" or weights in kept
    if not names or not averaged or (weights == "swa" and not facts["progress"]["snapshots"]):
        raise console.UserError(f"the checkpoint in {folder} holds no {weights} weights")
    chosen = {name: state.get(f"{weights}/{name}", state[f"weights/{name}"]) for name in names}
    model = Model(config)
    started = time.perf_counter()
    size = pack(model, output, scheme, chosen)
    seconds = time.perf_counter() - started
    step, bits = facts["progress"]["step"], 8 * size / sum(array.size for array in chosen.values())
    words = f"{output}: {size:,} bytes, {bits:.2f} bits a weight, {weights} weights of step {step}"
    console.stdout().print(f"{words}, packed in {console.duration(seconds)}", markup=False)
