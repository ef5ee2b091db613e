"""How finished shards get to their names: one process at a time in a folder, and all of them or none.

A set of files is staged in folders of its own below the one it is meant for. Then the journal is written, which says what is to be
moved and removed; that is the moment at which the new set counts. A kill before it leaves the folder as it was; after a
later one, readers refuse the folder (`bytegolf.manifest.hold`) until the next writer has finished the moves.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import socket
import stat
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bytegolf._bytegolf import FormatError
from bytegolf.manifest import JOURNAL

__all__ = ["Claim", "Move", "naming", "place", "recover", "sync"]

LOCK = ".prepare.lock"
_NO_LOCKS = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}  # of file systems that cannot lock
_CAP_BYTES = 1 << 26


@dataclass(frozen=True)
class Move:
    """A staged file: `name` in the folder `staging`, both below the folder that gets it under the same name."""

    staging: str
    name: str


class Claim:
    """This process's right to write shards of one prefix into a folder, until `release`.

    A lock file in the folder keeps out other processes, of other hosts too where the file system locks across them (NFS does);
    the kernel frees it when the process dies. One process may hold several prefixes of a folder, each once.

    Raises ValueError naming the holder when the folder is taken, OSError when the disk refuses.
    """

    def __init__(self, folder: Path, prefix: str) -> None:
        self._key, self._prefix = (os.getpid(), os.path.realpath(folder)), prefix
        with _guard:
            held = _held.get(self._key)
            if held is None:
                held = _held[self._key] = _Held(folder / LOCK, _lock(folder))
            elif prefix in held.prefixes:
                raise ValueError(f"{folder} is being written to: {prefix} shards, by this process")
            held.prefixes.add(prefix)
            self.locked = held.fd >= 0

    def release(self) -> None:
        """Lets others in; a second call does nothing."""
        with _guard:
            held = _held.get(self._key)
            if held is None or self._prefix not in held.prefixes:
                return
            held.prefixes.remove(self._prefix)
            if held.prefixes:
                return
            del _held[self._key]
            if held.fd >= 0:
                with contextlib.suppress(OSError):  # removed before it is freed: nobody locks a file that is gone
                    os.unlink(held.path)
                os.close(held.fd)


@dataclass
class _Held:
    path: Path
    fd: int  # -1: the file system cannot lock
    prefixes: set[str] = field(default_factory=set)


_guard = threading.Lock()
_held: dict[tuple[int, str], _Held] = {}  # by process, since a fork copies it, and folder


def _lock(folder: Path) -> int:
    path = folder / LOCK
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = _holder(fd)
            os.close(fd)
            raise ValueError(f"{folder} is being written to by {holder}; wait for it, or name another folder") from None
        except OSError as error:
            os.close(fd)
            if error.errno in _NO_LOCKS:
                return -1
            raise
        with contextlib.suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(fd), os.stat(path)):
                break
        os.close(fd)  # its holder removed it meanwhile
    os.ftruncate(fd, 0)
    os.write(fd, f"process {os.getpid()} on {socket.gethostname()}\n".encode("utf-8", "replace"))
    return fd


def _holder(fd: int) -> str:
    for _ in range(20):  # it writes its name right after it has locked
        line = os.pread(fd, 200, 0).decode("utf-8", "replace").strip()
        if re.fullmatch(r"process \d+ on [\w.-]+", line):
            return line
        time.sleep(0.02)
    return "another process"


def place(folder: Path, moves: Sequence[Move], remove: Sequence[str]) -> None:
    """Moves the staged files to their names and removes files that the new set does not have: all, or nothing. The caller holds a
    Claim, and has synced the staged files themselves.

    OSError when the disk refuses. When the journal stands by then, the staged files stay for `recover`.
    """
    for staging in {move.staging for move in moves}:
        sync(folder / staging)
    body = {"format": 1, "moves": [[move.staging, move.name] for move in moves], "remove": list(remove)}
    draft = folder / (JOURNAL + ".draft")
    try:
        with naming(draft), open(draft, "w", encoding="utf-8") as file:
            json.dump(body, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, folder / JOURNAL)
    except OSError:
        with contextlib.suppress(OSError):
            os.unlink(draft)
        raise
    sync(folder)
    _apply(folder, moves, remove)


def recover(folder: Path) -> list[str]:
    """Finishes what `place` was killed in, and returns the names that the folder has got. The caller holds a Claim.

    FormatError for a journal that is not one, or that names files which are in neither place; OSError when the disk refuses.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(folder / (JOURNAL + ".draft"))
    journal = folder / JOURNAL
    if not os.path.lexists(journal):
        return []
    moves, remove = _read(journal)
    for move in moves:
        if not any(os.path.lexists(folder / place) for place in (f"{move.staging}/{move.name}", move.name)):
            raise FormatError(
                f"{journal}: {move.name} is neither in {move.staging} nor in its place; prepare the data anew"
            )
    _apply(folder, moves, remove)
    return [move.name for move in moves]


def sync(folder: Path) -> None:
    """Makes a folder's entries durable."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno != errno.EINVAL:  # of file systems that cannot sync a folder
            raise OSError(error.errno, error.strerror, str(folder)) from None
    finally:
        os.close(fd)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Puts the file's name on errors of the disk (write() itself gives none)."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def _apply(folder: Path, moves: Sequence[Move], remove: Sequence[str]) -> None:
    """What the journal says; done twice it is as if done once."""
    for move in moves:
        with contextlib.suppress(FileNotFoundError):  # moved before
            os.replace(folder / move.staging / move.name, folder / move.name)
    for name in remove:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(folder / name)
    sync(folder)
    os.unlink(folder / JOURNAL)
    sync(folder)
    for staging in {move.staging for move in moves}:
        shutil.rmtree(folder / staging, ignore_errors=True)


def _read(journal: Path) -> tuple[list[Move], list[str]]:
    if not stat.S_ISREG(os.lstat(journal).st_mode) or os.lstat(journal).st_size > _CAP_BYTES:
        raise FormatError(f"{journal}: not the journal of `bytegolf data prepare`")
    try:
        body: Any = json.loads(journal.read_bytes().decode("utf-8"))
        moves = [Move(staging, name) for staging, name in body["moves"]]
        remove = list(body["remove"])
        names = [move.name for move in moves] + remove
        good = body["format"] == 1 and all(re.fullmatch(r"[^/\0.][^/\0]*", name) for name in names)
        good = good and all(re.fullmatch(r"\.[^/\0.][^/\0]*", move.staging) for move in moves)
    except (ValueError, TypeError, KeyError, RecursionError):
        good = False
    if not good:
        raise FormatError(f"{journal}: not the journal of `bytegolf data prepare`")
    return moves, remove
