"""`bytegolf pack` and `export`: a run's or file's weights as an artifact, and as safetensors."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from bytegolf._bytegolf import MAX_DECODED_BYTES, FormatError
from bytegolf.artifact import check_shapes, load, pack
from bytegolf.checkpoint import read_checkpoint
from bytegolf.codec import UNLIMITED
from bytegolf.config import Config
from bytegolf.errors import UserError
from bytegolf.model import Model
from bytegolf.options import resolve
from bytegolf.screen import console
from bytegolf.weights import load_safetensors, save_safetensors


def pack_command(source: Path, output: Path, weights: str, scheme: str, config: str | None) -> None:
    """Packs one set of weights of a run folder's (or checkpoint folder's) newest checkpoint, or a .safetensors file.

    UserError when there is no checkpoint or it lacks those weights; FormatError for a damaged one.
    """
    if source.suffix == ".safetensors":
        model = load_safetensors(
            source, resolve(config) if config else None, say=console.say, max_decoded_bytes=UNLIMITED
        )
        chosen, origin = model.parameters(), f"weights of {source}"
    elif config:
        raise UserError(f"--config is for .safetensors; {source} has its options inside")
    else:
        model, chosen, origin = _checkpoint_weights(source, weights)
    started = time.perf_counter()
    size = pack(model, output, scheme, chosen)
    seconds = time.perf_counter() - started
    bits = 8 * size / sum(array.size for array in chosen.values())
    words = f"{output}: {size:,} bytes, {bits:.2f} bits per weight, {origin}"
    console.stdout().print(f"{words}, packed in {console.duration(seconds)}", markup=False)


def export_command(source: Path, output: Path, weights: str, max_decoded_bytes: int = MAX_DECODED_BYTES) -> None:
    """Writes an artifact's weights, or one set of those of a newest checkpoint, as safetensors with the options inside."""
    if output.suffix != ".safetensors":
        raise UserError(f"{output} should be named .safetensors: other commands know it by that")
    if source.is_dir():
        model, chosen, origin = _checkpoint_weights(source, weights)
    else:
        model = load(source, max_decoded_bytes=max_decoded_bytes)
        chosen, origin = model.parameters(), f"weights of {source}"
    size = save_safetensors(model, output, chosen)
    console.stdout().print(f"{output}: {size:,} bytes, {len(chosen)} tensors, {origin}", markup=False)


def _checkpoint_weights(source: Path, weights: str) -> tuple[Model, dict[str, Any], str]:
    inside = source / "checkpoints"
    folder = inside if inside.is_dir() else source
    state, facts = read_checkpoint(folder)
    text, progress = facts.get("config"), facts.get("progress")
    if not isinstance(text, str) or not isinstance(progress, dict) or not isinstance(progress.get("step"), int):
        raise FormatError(f"the checkpoint in {folder} says neither the options nor the step of a run")
    config = Config.stored(text, f"the options of {folder}")
    names = [key.removeprefix("weights/") for key in state if key.startswith("weights/")]
    kept = {key.partition("/")[0] for key in state}
    averaged = weights == "raw" or weights in kept
    if not names or not averaged or (weights == "swa" and not progress.get("snapshots")):
        raise UserError(f"the checkpoint in {folder} holds no {weights} weights")
    chosen = {name: state.get(f"{weights}/{name}", state[f"weights/{name}"]) for name in names}
    shapes = {name: tuple(array.shape) for name, array in chosen.items()}
    check_shapes(f"the checkpoint in {folder}", config, shapes, whole=True)
    return Model(config), chosen, f"{weights} weights of step {progress['step']}"
