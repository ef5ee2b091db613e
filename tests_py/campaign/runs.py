"""Tiny runs of the command, each in a process of its own that can be ended at any moment: what kills and clocks are tried on.

Processes are forked from this one, which has loaded everything and started no thread, so that one costs little more than what it does.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from campaign.stage import end_with_parent

OPTIONS = {
    "num_layers": 2, "model_dim": 16, "num_heads": 2, "num_kv_heads": 1, "rope_dims": 4, "xsa_last_n": 1, "bigram_vocab_size": 16,
    "bigram_dim": 4, "bigram_init": "normal", "jepa_chunk_size": 4, "jepa_latent_dim": 6, "jepa_proj_hidden": 5, "seq_len": 16,
    "eval_stride": 8, "micro_batch_ids": 32, "train_batch_ids": 64, "iterations": 40, "warmdown_iters": 10, "ema_decay": 0.9,
    "swa_every": 2, "swa_last_frac": 0.75, "shuffle": True, "log_every": 1, "checkpoint_every": 3, "device": "cpu", "rank_timeout_s": 20.0,
}  # fmt: skip


def load() -> None:
    """Loads what runs need, once, before the first fork; starts no thread."""
    import matplotlib  # noqa: F401

    from bytegolf.bundle import script
    from bytegolf.config import Config
    from bytegolf.run import report, runner  # noqa: F401
    from bytegolf.stored import packing  # noqa: F401

    script.own_script(Config())  # its archive is kept


def prepare(folder: Path, **changes: object) -> list[str]:
    """Lays out data and a config in `folder`; the words of `bytegolf train` for them, without --run."""
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "data").exists():
        from bytegolf.data.shards import write_shards

        documents = [b"document %d: the quick brown fox jumps over %d lazy dogs\n" % (n, n * n) for n in range(60)]
        write_shards(documents[:50], folder / "data", prefix="train", shard_ids=700)
        write_shards(documents[50:], folder / "data", prefix="val")
    options = {**OPTIONS, "train_data": str(folder / "data"), "val_data": str(folder / "data"), **changes}
    rows = [f"{name} = {json.dumps(value)}\n" for name, value in options.items()]
    name = hashlib.sha256("".join(rows).encode()).hexdigest()[:8]
    path = folder / f"{name}.toml"
    path.write_text("".join(rows), encoding="utf-8")
    return ["train", str(path)]


@dataclass
class Child:
    """One command under way. output: what it said."""

    pid: int
    output: Path
    status: int | None = None  # exit status, or minus a signal's number

    def wait(self, seconds: float) -> int | None:
        """Its status, or None when it is not over by then."""
        end = time.monotonic() + seconds
        while self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.status = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                return None
            else:
                time.sleep(0.002)
        return self.status

    def kill(self, number: int = signal.SIGKILL) -> None:
        """Ends it and whatever it has started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)
        self.wait(10)

    def said(self) -> str:
        """Its output so far."""
        return self.output.read_text(encoding="utf-8", errors="replace") if self.output.exists() else ""


def start(
    words: Sequence[str],
    output: Path,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Child:
    """Starts `bytegolf WORDS`; `before` runs in the new process first."""
    output.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid:
        with contextlib.suppress(OSError):
            os.setpgid(pid, pid)
        return Child(pid, output)
    status = 70
    try:
        os.setpgid(0, 0)
        end_with_parent()
        file = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(file, 1)
        os.dup2(file, 2)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (
            io.TextIOWrapper(io.FileIO(1, "w", closefd=False)),
            io.TextIOWrapper(io.FileIO(2, "w", closefd=False), write_through=True),
        )
        os.environ.update(environment or {})
        if before is not None:
            before()
        from bytegolf.cli import main

        main(list(words))
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def call(words: Sequence[str], output: Path, seconds: float = 120.0, before: Callable[[], None] | None = None) -> int:
    """Runs a command to its end; its status. TimeoutError when it takes longer."""
    child = start(words, output, before=before)
    status = child.wait(seconds)
    if status is None:
        child.kill()
        raise TimeoutError(f"bytegolf {' '.join(words)} is not over after {seconds:g} s")
    return status


def result(run: Path) -> dict[str, str]:
    """What must be equal between two runs of the same options: the artifact, and every tensor of the last checkpoint."""
    from bytegolf.checkpoint import read_checkpoint

    tensors, facts = read_checkpoint(run / "checkpoints")
    found = {name: hashlib.sha256(array.tobytes()).hexdigest() for name, array in tensors.items()}
    found["steps"] = str(facts["progress"]["step"])
    found["artifact"] = file_hash(run / "artifact.bg")
    return found


def file_hash(path: Path) -> str:
    """SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def difference(got: Mapping[str, str], expected: Mapping[str, str]) -> str:
    """The first thing that differs, or ""."""
    if got.keys() != expected.keys():
        return f"other tensors: {sorted(set(got) ^ set(expected))[:3]}"
    return next((f"{name} differs" for name, value in expected.items() if got[name] != value), "")
