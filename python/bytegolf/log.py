"""log.jsonl of a run: one JSON object a line, appended and flushed, never rewritten.

Every line has `kind` and `time` (seconds since 1970, UTC). Kinds:

start       version, commit, machine, hardware, device, dtype, world_size (ranks), seed, config, code_sha256 (of train_gpt.py), parameters, step (0, or
            where a resumed run goes on)
step        step, losses in nats, bpb (of the batch), grad_norm, lr_factor, bytes (read so far), bytes_per_s, elapsed_s, left_s
val         step, weights, window, stride, bpb, nats, bytes, targets, seconds; `from` is "memory" or "artifact"
checkpoint  step, path, seconds
end         reason ("done", "interrupted" or the error), and for "done" the whole report
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

NAME = "log.jsonl"


class RunLog:
    """Appends lines to log.jsonl."""

    def __init__(self, path: Path) -> None:
        """Opens for appending; a last line that a crash cut short is closed first, so that the next one stands alone."""
        cut = path.exists() and path.stat().st_size > 0 and not path.read_bytes().endswith(b"\n")
        self._file = path.open("a", encoding="utf-8")
        if cut:
            self._file.write("\n")

    def write(self, kind: str, **facts: Any) -> None:
        """Adds one line and hands it to the system."""
        line = json.dumps({"kind": kind, "time": round(time.time(), 3), **_plain(facts)}, allow_nan=False)
        self._file.write(line + "\n")
        self._file.flush()

    def close(self) -> None:
        """Makes the lines durable and closes the file."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


class NoLog:
    """What ranks other than the first write into."""

    def write(self, kind: str, **facts: Any) -> None:
        """Nothing."""

    def close(self) -> None:
        """Nothing."""


def _plain(value: Any) -> Any:
    """Values as JSON knows them: NumPy numbers become Python's, numbers that are not finite become null."""
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if value is None or isinstance(value, (bool, int, str)) else str(value)


def read_log(path: Path | str) -> list[dict[str, Any]]:
    """The lines that count: where a run was resumed at step s, earlier lines beyond s are left out (they were done again).

    A line cut short by a crash is skipped. Raises ValueError for a file without any line, OSError when it cannot be read.
    """
    kept: list[dict[str, Any]] = []
    for line in _lines(Path(path)):
        if line["kind"] == "start":
            kept = [old for old in kept if old.get("step", 0) <= line.get("step", 0) and old["kind"] != "end"]
        kept.append(line)
    if not kept:
        raise ValueError(f"{path} holds no line of a run's log")
    return kept


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open(encoding="utf-8", errors="replace") as file:
        for text in file:
            try:
                line = json.loads(text)
            except json.JSONDecodeError:
                continue
            if isinstance(line, dict) and isinstance(line.get("kind"), str):
                yield line
