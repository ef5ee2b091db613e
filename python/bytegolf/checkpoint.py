"""How the state of a run reaches the disk and comes back: all of it or nothing, whatever happens in between.

A checkpoint path is a folder:

    PATH/checkpoint-000007/state.safetensors   the tensors (https://github.com/huggingface/safetensors)
    PATH/checkpoint-000007/manifest.json       facts (step, clock, config, ...), sizes and SHA-256 of the files beside it
    PATH/latest                                the name of the newest folder, for people and older versions

Each is written under a temporary name, flushed to the disk and renamed; older folders go last, when `latest` no longer names
them. So a process killed at any moment leaves a complete checkpoint, and so does a full disk or one that fails any call.
The newest is the highest number that is whole.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import tempfile
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from bytegolf._bytegolf import FormatError
from bytegolf.disk import TEMPORARY, is_full, sync_folder, what_to_free, write_whole

Array = npt.NDArray[Any]
_Found = TypeVar("_Found")

FORMAT = "bytegolf checkpoint"
VERSION = 1
STATE, MANIFEST, LATEST = "state.safetensors", "manifest.json", "latest"
_DTYPES = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64"}
_FOLDER = re.compile(r"checkpoint-(\d{6,12})")
_MANIFEST_CAP_BYTES = 16 << 20


def write_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, Array], facts: Mapping[str, Any]) -> Path:
    """Writes `tensors` (float32 or float64, any rank) and `facts` (JSON values) as the newest checkpoint of `path`.

    Returns the numbered folder. Nothing is copied in memory. Raises OSError naming the path when the disk refuses (full,
    read-only, over a limit), and saying what to free where there is no room: the checkpoint that was there before is untouched then.
    """
    root = Path(path)
    temporary: Path | None = None
    older = renamed = False
    try:
        _make_folder(root)
        numbers = [number for number, _ in _folders(root)]
        older = bool(numbers)
        final = root / f"checkpoint-{1 + max(numbers, default=0):06d}"
        temporary = Path(tempfile.mkdtemp(prefix=TEMPORARY, dir=root))
        with _synced(temporary / STATE) as file:
            digest, size = _write_tensors(file, tensors)
        body = {
            "format": FORMAT,
            "version": VERSION,
            "facts": dict(facts),
            "files": {STATE: {"bytes": size, "sha256": digest}},
        }
        with _synced(temporary / MANIFEST) as file:
            file.write(_manifest_bytes(body))
        sync_folder(temporary)
        temporary.rename(final)
        # From here on the new one may be what a resume finds, and what `latest` names: it stays, whatever fails.
        renamed = True
        sync_folder(root)
        write_whole(root / LATEST, final.name.encode() + b"\n")
    except OSError as error:
        if renamed:
            words = f"{final.name} is whole, but the disk has not confirmed it" + ("; the one before is kept" * older)
        else:
            words = "checkpoint not written, " + ("an older one is kept" if older else "and there is no older one")
        words += f": {error.strerror or error}"
        if is_full(error):
            words += f"; {what_to_free(root, None if renamed else _needed_bytes(tensors))}"
        raise OSError(error.errno, words, str(root)) from error
    finally:
        if temporary is not None and not renamed:
            shutil.rmtree(temporary, ignore_errors=True)
    _prune(root, final)
    return final


@dataclass(frozen=True)
class Checkpoint:
    """One that was read, every byte checked: its folder, the tensors, and the facts."""

    folder: Path
    tensors: dict[str, Array]
    facts: dict[str, Any]


def read_newest(path: str | os.PathLike[str], say: Callable[[str], object] | None = None) -> Checkpoint:
    """The newest whole checkpoint of `path`.

    One that is damaged is passed over where an older one is whole (`say`, or else a warning, names both). FileNotFoundError when
    there is none, FormatError naming the file for anything missing, truncated, oversized, changed or foreign.
    """
    return _newest_that(path, _read_folder, say or _warn)


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors and facts of `read_newest`."""
    found = read_newest(path)
    return found.tensors, found.facts


def newest(path: str | os.PathLike[str]) -> Path:
    """The folder of the newest checkpoint of `path` whose manifest is whole and whose files have the sizes that it says.

    FileNotFoundError when there is none, FormatError when none is whole.
    """
    return _newest_that(path, lambda folder: (_check_sizes(folder), folder)[1], lambda text: None)


def _newest_that(path: str | os.PathLike[str], read: Callable[[Path], _Found], say: Callable[[str], object]) -> _Found:
    # A folder gets its number when it is whole, and numbers only grow. `latest` says the same for people and for older versions;
    # it may be missing or name another folder after a kill or a disk that failed.
    root = Path(path)
    while True:
        folders = sorted(_folders(root), reverse=True) if root.is_dir() else []
        if not folders:
            raise FileNotFoundError(2, "no checkpoint there", str(root))
        problem: FormatError | None = None
        for _, folder in folders:
            try:
                found = read(folder)
            except FormatError as error:
                problem = problem or error
                continue
            if problem is not None:
                say(f"{problem}; the older {folder} is whole, and is taken instead")
            return found
        assert problem is not None
        if sorted(_folders(root), reverse=True) == folders:
            raise problem
        # A run that is still going has put a newer one in their place meanwhile.


def _read_folder(folder: Path) -> Checkpoint:
    body = _check_sizes(folder)
    file = folder / STATE
    try:
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != body["files"][STATE]["sha256"]:
                raise FormatError(f"{file}: its SHA-256 is not the manifest's: the file was changed")
        return Checkpoint(folder, load_file(file), body["facts"])
    except OSError as error:
        raise FormatError(f"{file}: {error.strerror or error}") from error
    except (SafetensorError, KeyError) as error:
        raise FormatError(f"{file}: {error}") from error


def _check_sizes(folder: Path) -> dict[str, Any]:
    body = _read_manifest(folder / MANIFEST)
    file, expected = folder / STATE, body["files"][STATE]["bytes"]
    try:
        size = file.stat().st_size
    except OSError as error:
        raise FormatError(f"{file}: {error.strerror or error}") from error
    if size != expected:
        raise FormatError(f"{file}: {size} bytes, the manifest says {expected}")
    return body


def _warn(text: str) -> None:
    warnings.warn(text, stacklevel=4)


def _needed_bytes(tensors: Mapping[str, Array]) -> int:
    """About: the header and the manifest are small."""
    return sum(array.nbytes for array in tensors.values()) + (1 << 16)


def _folders(root: Path) -> list[tuple[int, Path]]:
    matches = ((_FOLDER.fullmatch(entry.name), entry) for entry in root.iterdir())
    return [(int(match[1]), entry) for match, entry in matches if match and entry.is_dir()]


def _write_tensors(file: io.BufferedWriter, tensors: Mapping[str, Array]) -> tuple[str, int]:
    # Own writer of safetensors: views of the arenas go out without a copy, hashed on the way, and errors keep their errno.
    header: dict[str, Any] = {}
    end = 0
    for name, array in tensors.items():
        if array.dtype not in _DTYPES:
            raise ValueError(f"tensor {name} is {array.dtype}; a checkpoint holds float32 and float64")
        header[name] = {
            "dtype": _DTYPES[array.dtype],
            "shape": list(array.shape),
            "data_offsets": [end, end + array.nbytes],
        }
        end += array.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    size = 0
    parts: list[bytes | memoryview] = [len(text).to_bytes(8, "little"), text]
    for part in itertools.chain(parts, map(_bytes_of, tensors.values())):
        file.write(part)
        digest.update(part)
        size += len(part)
    return digest.hexdigest(), size


def _bytes_of(array: Array) -> memoryview:
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8).data


def _manifest_bytes(body: Mapping[str, Any]) -> bytes:
    # The last member seals the others, so that a changed digit of the step or the clock does not go unnoticed.
    seal = hashlib.sha256(json.dumps(body, sort_keys=True, allow_nan=False).encode()).hexdigest()
    return json.dumps({**body, "seal": seal}, indent=1, sort_keys=True, allow_nan=False).encode() + b"\n"


def _read_manifest(file: Path) -> dict[str, Any]:
    try:
        with file.open("rb") as stream:
            raw = stream.read(_MANIFEST_CAP_BYTES + 1)
    except OSError as error:
        raise FormatError(f"{file}: {error.strerror or error}") from error
    if len(raw) > _MANIFEST_CAP_BYTES:
        raise FormatError(f"{file}: more than {_MANIFEST_CAP_BYTES} bytes are too many for a manifest")
    try:
        body = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{file}: not JSON: {error}") from error
    if not isinstance(body, dict) or body.get("format") != FORMAT:
        raise FormatError(f"{file}: not the manifest of a bytegolf checkpoint")
    if body.get("version") != VERSION:
        raise FormatError(f"{file}: version {body.get('version')!r}, this program reads {VERSION}")
    body.pop("seal", None)
    try:
        unchanged = _manifest_bytes(body) == raw
    except ValueError:  # NaN and the like, which the writer refuses
        unchanged = False
    if not unchanged:
        raise FormatError(f"{file}: its seal does not fit: the file was changed")
    entry = body.get("files", {}).get(STATE) if isinstance(body.get("files"), dict) else None
    if not (
        isinstance(entry, dict)
        and isinstance(entry.get("bytes"), int)
        and isinstance(entry.get("sha256"), str)
        and isinstance(body.get("facts"), dict)
    ):
        raise FormatError(f"{file}: lacks the size and hash of {STATE}, or the facts")
    return body


def _prune(root: Path, keep: Path) -> None:
    # A folder loses its name before its files, so that a numbered folder is complete as long as it is there.
    with contextlib.suppress(OSError):  # what cannot be removed now is removed next time
        for number, folder in _folders(root):
            if folder != keep:
                folder.rename(root / f"{TEMPORARY}old-{number}-{os.getpid()}")
        for entry in root.glob(f"{TEMPORARY}*"):
            shutil.rmtree(entry) if entry.is_dir() else entry.unlink()


class _synced:
    """A new file that is on the disk when the block ends."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> io.BufferedWriter:
        self._file: io.BufferedWriter = self._path.open("xb")
        return self._file

    def __exit__(self, kind: object, error: object, trace: object) -> None:
        with self._file:
            if kind is None:
                self._file.flush()
                os.fsync(self._file.fileno())


def _make_folder(root: Path) -> None:
    if root.is_dir():
        return
    root.mkdir(parents=True, exist_ok=True)
    sync_folder(root.parent)
