#!/usr/bin/env python3
"""Quick check of an installed bytegolf, as cibuildwheel and scripts/build_wheel.py run it: python scripts/check_wheel.py

Imports it from outside the source tree, then makes shards, trains, packs, scores, inspects and samples a tiny model by the command
`bytegolf`. Needs no network, no GPU and nothing but the package's own requirements.
"""

import json
import math
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

SOURCES = Path(__file__).resolve().parent.parent / "python"
TINY = ("num_layers=2", "model_dim=32", "num_heads=2", "num_kv_heads=1", "seq_len=64", "xsa_last_n=1")
SHORT = ("train_batch_ids=256", "micro_batch_ids=256", "iterations=4", "train_budget_s=0", "eval_stride=64")


def bytegolf(*words: object, where: str) -> str:
    """Runs the installed command in folder `where`; ends the check with its words when it fails."""
    command = Path(sysconfig.get_path("scripts")) / "bytegolf"
    done = subprocess.run(
        [command, *map(str, words)], cwd=where, capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode:
        sys.exit(f"bytegolf {' '.join(map(str, words))}: status {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def main() -> None:
    import bytegolf as package  # not at the top: the message below is of more use than an ImportError's traceback

    home = Path(package.__file__).resolve()
    if home.is_relative_to(SOURCES):
        sys.exit(f"bytegolf came from the sources ({home}), not from an installed wheel")
    missing = [name for name in package.__all__ if not hasattr(package, name)]
    if missing:
        sys.exit(f"the installed package lacks {missing}")
    with tempfile.TemporaryDirectory() as folder:
        found = json.loads(bytegolf("doctor", "--json", where=folder))
        text = b"A wheel turns, and the road is read byte by byte. " * 200
        (Path(folder) / "text.txt").write_bytes(text)
        (Path(folder) / "held-out.txt").write_bytes(
            b"Other wheels turn on other roads, and are read byte by byte, too. " * 100
        )
        bytegolf("data", "prepare", "text.txt", "--val-sources", "held-out.txt", "-o", "data", where=folder)
        data = ("train_data=data", "val_data=data", "device=cpu")
        bytegolf("train", "byte260-jepa", *data, *TINY, *SHORT, "--run", "run", where=folder)
        artifact = Path(folder) / "run" / "artifact.bg"
        score = json.loads(bytegolf("eval", artifact, "text.txt", "--device", "cpu", "--json", where=folder))
        if not (math.isfinite(score["bpb"]) and 0 < score["bpb"] < 9 and score["bytes"] == len(text)):
            sys.exit(f"a tiny model scores {score}")
        again = package.load(artifact).bpb(text)
        if abs(again - score["bpb"]) > 1e-6:
            sys.exit(f"the command says {score['bpb']} bpb, the package {again}")
        bytegolf("pack", "run", "packed.bg", where=folder)
        if (Path(folder) / "packed.bg").read_bytes() != artifact.read_bytes():
            sys.exit("packing the run's checkpoint gave another file than the run")
        bytegolf("inspect", "packed.bg", where=folder)
        sample = bytegolf("generate", "packed.bg", "A ", "--n", "8", "--device", "cpu", where=folder)
        if not sample.strip():
            sys.exit("generate printed nothing")
    cuda = "with" if found["cuda"]["built"] else "without"
    print(f"bytegolf {package.__version__} from {home.parent} works ({cuda} CUDA kernels, {score['bpb']:.3f} bpb)")


if __name__ == "__main__":
    main()
