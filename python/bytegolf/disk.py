"""How files reach the disk whole or not at all, and what to say when there is no room for them."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
from collections.abc import Iterator
from pathlib import Path

TEMPORARY = ".tmp-"
"""Start of the names of what is not whole yet."""


def write_whole(path: str | os.PathLike[str], data: bytes) -> None:
    """Puts `data` at `path`: a reader sees what was there before or all of it, after a kill or a loss of power too.

    OSError naming the path when the disk refuses. A new file's permissions follow the umask.
    """
    target = Path(path)
    temporary = target.parent / f"{TEMPORARY}{secrets.token_hex(8)}"
    with naming(target):
        handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            os.replace(temporary, target)
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable. OSError when the disk refuses."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno != errno.EINVAL:  # some file systems cannot sync a folder; the names are there
            raise
    finally:
        os.close(handle)


@contextlib.contextmanager
def naming(path: Path) -> Iterator[None]:
    """Inside, an OSError of a call on an open file gets the path that such calls do not know."""
    try:
        yield
    except OSError as error:
        if error.filename is None and error.errno is not None:
            raise OSError(error.errno, error.strerror, str(path)) from error
        raise


def is_full(error: BaseException) -> bool:
    """Whether an error says that there is no room: a full disk, a full quota, or a file over a limit."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def free_bytes(folder: Path) -> int | None:
    """Bytes that may still be written into the file system of `folder`; None when it does not say. A quota may leave fewer."""
    try:
        there = os.statvfs(folder)
    except OSError:
        return None
    return there.f_bavail * there.f_frsize


def what_to_free(folder: Path, needed_bytes: int | None = None) -> str:
    """In words: what is needed and free where `folder` lies."""
    free = free_bytes(folder)
    there = f"{free:,} bytes are free" if free is not None else "the file system does not say how much is free"
    if needed_bytes is None:
        return f"{there} in {folder}: make room there"
    if free is not None and free < needed_bytes:
        return (
            f"{needed_bytes:,} bytes are needed, {there} in {folder}: make room for {needed_bytes - free:,} more there"
        )
    return f"{needed_bytes:,} bytes are needed, {there} in {folder}: make room there, or raise the quota or limit"
