"""log.jsonl of a run: one JSON object per line, appended and flushed, never rewritten.

Every line has `kind` and `time` (seconds since 1970, UTC). Kinds:

start       version, commit, machine, hardware, device, dtype, world_size (ranks), seed, config, code_sha256 (of train_gpt.py), parameters,
            step (0, or where a resumed run starts), locked (whether the writer holds a lock on this file while it lives, see
            `writer_lives`), lock (how it holds the run's folder: "system" or "file", see record/lock.py), train_sha256 and val_sha256
            (identity of the training data, hash of the held-out ids)
step        step, losses in nats, bpb (of the batch), grad_norm, lr_factor, bytes (read so far), bytes_per_s, elapsed_s, left_s
val         step, weights, window, stride, bpb, nats, bytes, targets, seconds; `from` is "memory" or "artifact"
checkpoint  step, path, seconds
end         reason ("done", "interrupted" or the error), and for "done" the whole report
track       tracker, problem, sent_step: a tracker got no further than that step. Only written when one has a problem; may follow `end`
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import math
import os
import struct
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from bytegolf.disk import naming
from bytegolf.errors import UserError
from bytegolf.log_lines import parse

NAME = "log.jsonl"
FLOCK = "hhqqi0q"  # struct flock of 64-bit Linux: type, whence, start, length, pid


class Listener(Protocol):
    """Something that wants to know when the log grows. It must not raise."""

    def wrote(self, kind: str) -> None:
        """A line of this kind is in the file."""

    def close(self) -> None:
        """The last line is in the file, which is still open: `write` may add what there is to say."""


class RunLog:
    """Appends lines to log.jsonl."""

    def __init__(self, path: Path) -> None:
        """Opens for appending; a last line that a crash cut short is closed first, so that the next one is a line of its own."""
        self.path = path
        self._handle = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o666)
        self._locked = _lock(self._handle)
        self._writing = threading.Lock()  # the watch of the ranks writes from a thread of its own
        self.listeners: list[Listener] = []
        size = os.fstat(self._handle).st_size
        if size > 0 and os.pread(self._handle, 1, size - 1) != b"\n":
            self._append(b"\n")

    def write(self, kind: str, **facts: Any) -> None:
        """Adds one line and hands it to the system: all of it, or, with an OSError that names the log, nothing."""
        if kind == "start":
            facts["locked"] = self._locked
        line = json.dumps({"kind": kind, "time": round(time.time(), 3), **_plain(facts)}, allow_nan=False)
        self._append(line.encode("ascii") + b"\n")
        if kind != "track":  # which listeners write themselves
            for listener in self.listeners:
                listener.wrote(kind)

    def close(self) -> None:
        """Makes the lines durable and closes the file."""
        for listener in self.listeners:
            listener.close()
        handle, self._handle = self._handle, -1
        with naming(self.path):
            try:
                os.fsync(handle)
            finally:
                os.close(handle)

    def _append(self, line: bytes) -> None:
        with self._writing, naming(self.path):
            size = os.fstat(self._handle).st_size
            try:
                at = 0
                while at < len(line):
                    at += os.write(self._handle, line[at:])
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._handle, size)
                raise


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


def _lock(handle: int) -> bool:
    """Locks the open file for as long as this process has it open. False where the system has no such locks, or it is taken."""
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except (AttributeError, OSError):
        return False
    return True


def writer_lives(path: Path | str) -> bool | None:
    """Whether a process holds the lock of a log: only asks, takes nothing. None where the system cannot say.

    False means something only for logs whose `start` line has locked = true.
    """
    try:
        with open(path, "rb") as file:
            asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
            answer = fcntl.fcntl(file, fcntl.F_OFD_GETLK, asked)
    except (AttributeError, OSError):
        return None
    return bool(struct.unpack(FLOCK, answer)[0] != fcntl.F_UNLCK)


class EmptyLog(ValueError):
    """A file without any line of a run's log, such as one that is just being begun."""


def read_log(path: Path | str) -> list[dict[str, Any]]:
    """The lines that count (see `counted`). A line cut short by a crash is skipped.

    Raises EmptyLog for a file without any line, ValueError naming the line for a value of a wrong type, OSError when it cannot
    be read.
    """
    kept = counted(_lines(Path(path)))
    if not kept:
        raise EmptyLog(f"{path} holds no line of a run's log")
    return kept


def counted(lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where a run was resumed at step s, earlier lines beyond s are left out: they were done again.

    The `end` of a run is the last line, before it what trackers said while the log was closed.
    """
    kept: list[dict[str, Any]] = []
    for line in lines:
        if line["kind"] == "start":
            kept = [old for old in kept if (old.get("step") or 0) <= (line.get("step") or 0) and old["kind"] != "end"]
        kept.append(line)
    last = len(kept) - 1
    while last >= 0 and kept[last]["kind"] == "track":
        last -= 1
    if last >= 0 and kept[last]["kind"] == "end":
        kept.append(kept.pop(last))
    return kept


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    with path.open("rb") as file:
        for number, text in enumerate(file, 1):
            try:
                line = parse(text)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            if line is not None:
                yield line


def log_of(path: Path) -> Path:
    """The log of a run's folder, or the file itself. UserError when there is none."""
    if path.is_file():
        return path
    if (path / NAME).is_file():
        return path / NAME
    raise UserError(f"{path} holds no {NAME}" if path.is_dir() else f"{path} does not exist")
