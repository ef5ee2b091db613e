"""Who is at work in a run's folder: one process at a time, which holds run.lock from before anything is built until the end.

The lock is the system's own where the file system has locks (they go over NFS, and end with their process however it ends). Where it
has none, the file itself is the lock: made exclusively, and taken over only when it was left on this host by a process that is gone.
In either case the file says in JSON who holds it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import socket
import struct
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from bytegolf.errors import UserError
from bytegolf.log import FLOCK

NAME = "run.lock"
# What file systems without locks answer.
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL)
_TAKEN = (errno.EAGAIN, errno.EACCES)
_TRIES = 20
_TRY_S = 0.1


@dataclass(frozen=True)
class Holder:
    """A process by host and number; `ticks` (when it began, in the kernel's units since `boot`) tells it from a later one of that number.
    since: seconds since 1970, UTC."""

    host: str
    pid: int
    ticks: int
    boot: str
    since: float

    @staticmethod
    def this() -> Holder:
        """This process, now."""
        return Holder(socket.gethostname(), os.getpid(), _ticks(os.getpid()) or 0, _boot(), round(time.time(), 3))

    def is_gone(self) -> bool:
        """Whether it is known to have ended; of another host nothing is known."""
        if self.host != socket.gethostname():
            return False
        return self.boot != _boot() or _ticks(self.pid) != self.ticks

    def words(self) -> str:
        """Host, process and time, for a message."""
        then = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(self.since))
        return f"process {self.pid} on {self.host}, since {then}"


class RunLock:
    """The right to write into a run's folder. As a context manager it is given up at the end."""

    def __init__(self, folder: Path, say: Callable[[str], object]) -> None:
        """Makes the folder when it is not there, and takes the lock. UserError naming the holder when another process has it; OSError
        when the folder cannot be written. `say` gets a line where a killed holder on another host has left its name."""
        self.folder = folder
        self.path = folder / NAME
        self.kind = ""
        """ "system", or "file" where the file system has no locks"""
        self._made = _make(folder)
        self._handle = -1
        try:
            left = self._take()
        except BaseException:
            self._remove_empty()
            raise
        if left is not None and left.host != socket.gethostname():
            say(f"{self.path}: left by {left.words()}; its lock is free, so that process has ended")

    def __enter__(self) -> RunLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

    def release(self) -> None:
        """Gives the lock up. A folder that was made for it and is still empty goes, too."""
        if self._handle < 0:
            return
        with contextlib.suppress(OSError):
            self.path.unlink()  # while it is held: who waits at this file sees that it is no longer the one in the folder
        os.close(self._handle)
        self._handle = -1
        self._remove_empty()

    def _remove_empty(self) -> None:
        with contextlib.suppress(OSError):
            for folder in self._made:
                folder.rmdir()

    def _take(self) -> Holder | None:
        """Returns who left the file without giving it up, if someone did."""
        for _ in range(_TRIES):
            opened = _open(self.path)
            if opened is None:
                continue
            handle, is_new = opened
            try:
                locked = _lock(handle)
                left = _read(handle) if not is_new else None
                if locked is False:
                    raise _refusal(self.folder, left)
                if (locked and _is_at(handle, self.path)) or (locked is None and is_new):
                    os.ftruncate(handle, 0)
                    os.pwrite(handle, _written(), 0)
                    self._handle, self.kind = handle, "system" if locked else "file"
                    return left
                if locked is None and left is not None:
                    if not left.is_gone():
                        raise _refusal(self.folder, left, by_file=True)
                    self._set_aside(left)
                elif locked is None:  # about to be written by who made it, or to go
                    time.sleep(_TRY_S)
            finally:
                if self._handle != handle:
                    os.close(handle)
        raise UserError(f"{self.path}: another process is about to take it; when none is at work there, remove it")

    def _set_aside(self, expected: Holder) -> None:
        aside = self.path.with_name(f"{NAME}.{os.getpid()}")
        with contextlib.suppress(OSError):
            self.path.rename(aside)
            if _holder_in(aside) != expected:  # someone was quicker
                aside.rename(self.path)
            else:
                aside.unlink()


def _open(path: Path) -> tuple[int, bool] | None:
    """The file and whether it is new; None when it went away in between."""
    with contextlib.suppress(FileExistsError):
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), True
    with contextlib.suppress(FileNotFoundError):
        return os.open(path, os.O_RDWR | os.O_CLOEXEC), False
    return None


def holder_of(folder: Path) -> Holder | None:
    """Who holds the lock of a run's folder now; None when nobody does. Only asks."""
    try:
        handle = os.open(folder / NAME, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        asked = struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(handle, fcntl.F_OFD_GETLK, asked)
        if struct.unpack(FLOCK, answer)[0] != fcntl.F_UNLCK:
            return _read(handle) or Holder("unknown host", 0, 0, "", time.time())
        return None
    except OSError:
        found = _read(handle)
        return None if found is None or found.is_gone() else found
    finally:
        os.close(handle)


def refuse_if_held(folder: Path) -> None:
    """UserError naming the holder when a process is at work in a run's folder."""
    found = holder_of(folder)
    if found is not None:
        raise _refusal(folder, found)


def _holder_in(path: Path) -> Holder | None:
    """What a lock file says; None when it is not there or says nothing."""
    try:
        return _parse(path.read_bytes()[:4096])
    except OSError:
        return None


def _refusal(folder: Path, holder: Holder | None, by_file: bool = False) -> UserError:
    who = holder.words() if holder is not None else "another process"
    words = f"{folder}: {who}, is at work there" if holder is not None else f"{folder}: {who} is at work there"
    if by_file:
        words += f" (this file system has no locks: if that process has ended, remove {folder / NAME})"
    return UserError(words)


def _lock(handle: int) -> bool | None:
    """Whether the lock was got; None where the file system has none. It belongs to the open file: it ends when that is closed."""
    try:
        fcntl.fcntl(handle, fcntl.F_OFD_SETLK, struct.pack(FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
    except OSError as error:
        if error.errno in _TAKEN:
            return False
        if error.errno in _NO_LOCKS:
            return None
        raise
    return True


def _is_at(handle: int, path: Path) -> bool:
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    here = os.fstat(handle)
    return (here.st_dev, here.st_ino) == (there.st_dev, there.st_ino)


def _written() -> bytes:
    return json.dumps(asdict(Holder.this())).encode() + b"\n"


def _read(handle: int) -> Holder | None:
    for _ in range(3):  # its holder may be about to write it
        with contextlib.suppress(OSError):
            if (found := _parse(os.pread(handle, 4096, 0))) is not None:
                return found
        if os.fstat(handle).st_size == 0:
            time.sleep(_TRY_S / 4)
    return None


def _parse(text: bytes) -> Holder | None:
    try:
        found: Any = json.loads(text)
        return Holder(
            str(found["host"]), int(found["pid"]), int(found["ticks"]), str(found["boot"]), float(found["since"])
        )
    except (ValueError, TypeError, KeyError, RecursionError, OverflowError):
        return None


def _ticks(pid: int) -> int | None:
    """When a process of this host began; None when there is none."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
        state, *fields = text[text.rindex(")") + 1 :].split()
        return None if state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return ""


def _make(folder: Path) -> list[Path]:
    """Makes a folder and those above it; returns the new ones, innermost first."""
    missing = []
    above = folder
    while not above.exists() and above != above.parent:
        missing.append(above)
        above = above.parent
    folder.mkdir(parents=True, exist_ok=True)
    return missing
