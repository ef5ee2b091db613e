"""How the state of a run reaches the disk and comes back: all of it or nothing, whatever happens in between.

A checkpoint path is a folder:

    PATH/checkpoint-000007/state.safetensors   the tensors (https://github.com/huggingface/safetensors)
    PATH/checkpoint-000007/manifest.json       facts (step, clock, config, ...), sizes and SHA-256 of the files beside it
    PATH/latest                                the name of the newest folder

Each is written under a temporary name, flushed to the disk and renamed; older folders go last. So a process killed at
any moment leaves a complete checkpoint, and so does a full disk.
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
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file

from bytegolf._bytegolf import FormatError

Array = npt.NDArray[Any]

FORMAT = "bytegolf checkpoint"
VERSION = 1
STATE, MANIFEST, LATEST = "state.safetensors", "manifest.json", "latest"
_DTYPES = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64"}
_FOLDER = re.compile(r"checkpoint-(\d{6,12})")
_MANIFEST_CAP_BYTES = 16 << 20


def write_checkpoint(path: str | os.PathLike[str], tensors: Mapping[str, Array], facts: Mapping[str, Any]) -> Path:
    """Writes `tensors` (float32 or float64, any rank) and `facts` (JSON values) as the newest checkpoint of `path`.

    Returns the numbered folder. Nothing is copied in memory. Raises OSError naming the path when the disk refuses (full,
    read-only, over a limit): the checkpoint that was there before is untouched then.
    """
    root = Path(path)
    temporary: Path | None = None
    try:
        _make_folder(root)
        number = 1 + max((n for n, _ in _folders(root)), default=0)
        final = root / f"checkpoint-{number:06d}"
        temporary = Path(tempfile.mkdtemp(prefix=".tmp-", dir=root))
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
        _sync_folder(temporary)
        temporary.rename(final)
        temporary = final
        _sync_folder(root)
        _write_latest(root, final.name)
        temporary = None
    except OSError as error:
        words = f"checkpoint not written, an older one is kept: {error.strerror or error}"
        raise OSError(error.errno, words, str(root)) from error
    finally:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
    _prune(root, final)
    return final


def read_checkpoint(path: str | os.PathLike[str]) -> tuple[dict[str, Array], dict[str, Any]]:
    """The tensors and facts of the newest checkpoint of `path`, every byte checked.

    Raises FileNotFoundError when there is none, FormatError naming the file for anything missing, truncated,
    oversized, changed or foreign.
    """
    folder = newest(path)
    body = _read_manifest(folder / MANIFEST)
    entry = body["files"][STATE]
    file = folder / STATE
    try:
        size = file.stat().st_size
        if size != entry["bytes"]:
            raise FormatError(f"{file}: {size} bytes, the manifest says {entry['bytes']}")
        with file.open("rb") as stream:
            if hashlib.file_digest(stream, "sha256").hexdigest() != entry["sha256"]:
                raise FormatError(f"{file}: its SHA-256 is not the manifest's: the file was changed")
        return load_file(file), body["facts"]
    except OSError as error:
        raise FormatError(f"{file}: {error.strerror or error}") from error
    except (SafetensorError, KeyError) as error:
        raise FormatError(f"{file}: {error}") from error


def newest(path: str | os.PathLike[str]) -> Path:
    """The folder of the newest complete checkpoint of `path`; FileNotFoundError when there is none."""
    root = Path(path)
    folders = dict(_folders(root)) if root.is_dir() else {}
    if not folders:
        raise FileNotFoundError(2, "no checkpoint there", str(root))
    pointer = root / LATEST
    try:
        with pointer.open("rb") as file:
            name = file.read(64).decode("ascii", "replace").removesuffix("\n")
    except FileNotFoundError:  # killed before the first pointer was written: numbered folders are complete
        return folders[max(folders)]
    except OSError as error:
        raise FormatError(f"{pointer}: {error.strerror or error}") from error
    if _FOLDER.fullmatch(name) is None or not (root / name).is_dir():
        raise FormatError(f"{pointer}: names no checkpoint folder: {name!r}")
    return root / name


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


def _write_latest(root: Path, name: str) -> None:
    handle, temporary = tempfile.mkstemp(prefix=".tmp-", dir=root)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(name.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, root / LATEST)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(root)


def _prune(root: Path, keep: Path) -> None:
    # A folder loses its name before its files, so that a numbered folder is complete as long as it is there.
    with contextlib.suppress(OSError):  # what cannot be removed now is removed next time
        for number, folder in _folders(root):
            if folder != keep:
                folder.rename(root / f".tmp-old-{number}-{os.getpid()}")
        for entry in root.glob(".tmp-*"):
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
    _sync_folder(root.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
