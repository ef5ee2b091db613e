"""How documents become shards of ids and how shards are read back.

A shard is 256 little-endian int32 (magic, version, number of ids, size of the vocabulary), then uint16 ids. Family
``byte260`` writes bos before each document and no eos; ``byte256`` writes the bytes alone, so documents run together.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bytegolf._bytegolf import SHARD_HEADER_BYTES, SHARD_MAGIC, SHARD_VERSION, ShardSet, vocab

__all__ = ["Counts", "ShardWriter", "read_documents", "read_ids", "read_text", "write_shards"]

Document = bytes | bytearray | memoryview
PIECE_BYTES = 1 << 20  # text converted at a time: memory stays bounded whatever a document's length


@dataclass
class Counts:
    """What a set of shards holds. ``empty`` documents were skipped and are not among ``documents``."""

    documents: int = 0
    bytes: int = 0
    ids: int = 0
    empty: int = 0
    shards: list[dict[str, Any]] = field(default_factory=list)  # file, ids, sha256 of the file


class ShardWriter:
    """Writes documents to ``folder/PREFIX_000000.bin`` ... of ``shard_ids`` ids each (the last one shorter), and
    ``PREFIX_manifest.json``. Documents continue across a shard's end, as in the published data.

    Everything is written under a temporary folder and renamed by ``commit()``; until then, and after an exception or
    Ctrl-C inside a ``with``, the folder holds what it held before. Equal input gives equal bytes.

    ValueError: shards of that prefix exist and ``overwrite`` is false, or the family is unknown. OSError: the disk
    refused; the message names the file.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        family: str = "byte260",
        prefix: str = "train",
        shard_ids: int = 100_000_000,
        overwrite: bool = False,
        source: str = "",
    ) -> None:
        if shard_ids < 1 or shard_ids >= 1 << 31:
            raise ValueError(f"shard_ids = {shard_ids} must be 1 to {2**31 - 1}")
        if not prefix or "/" in prefix or prefix.startswith("."):
            raise ValueError(f"prefix {prefix!r} cannot begin a file name")
        self.vocab = vocab(family)
        self.folder, self.prefix, self.shard_ids, self.source = Path(folder), prefix, shard_ids, source
        self.counts = Counts()
        self.facts: dict[str, Any] = {}  # further entries of the manifest, to be set before finish()
        self._old = sorted(self.folder.glob(f"{prefix}_[0-9]*.bin"))
        if self._old and not overwrite:
            raise ValueError(
                f"{self.folder} already holds {self._old[0].name}; ask for overwriting or name another folder"
            )
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise ValueError(f"{self.folder} is a file, but shards need a folder") from None
        self._sweep()
        self._temporary = Path(tempfile.mkdtemp(prefix=f".{prefix}-{os.getpid()}-", dir=self.folder))
        self._file: IO[bytes] | None = None
        self._path = Path()
        self._in_shard = 0
        self._finished = False
        self._manifest = f"{prefix}_manifest.json"
        self._bos = np.array([self.vocab["bos"]], dtype="<u2") if self.vocab["bos"] >= 0 else None

    def add(self, document: Document) -> bool:
        """Appends one document; an empty one is counted and skipped (returns False)."""
        view = memoryview(document).cast("B")
        if not len(view):
            self.counts.empty += 1
            return False
        if self._bos is not None:
            self._write(self._bos)
        for at in range(0, len(view), PIECE_BYTES):
            ids = np.frombuffer(view[at : at + PIECE_BYTES], dtype=np.uint8).astype("<u2")
            ids += self.vocab["byte_offset"]
            self._write(ids)
        self.counts.documents += 1
        self.counts.bytes += len(view)
        return True

    def finish(self) -> None:
        """Writes what is still missing to disk, without putting it in place. ValueError when there is not one document."""
        if self._finished:
            return
        self._finish_shard()
        if not self.counts.documents:
            self.abort()
            raise ValueError(
                f"no documents for {self.folder / self.prefix}: nothing to write ({self.counts.empty} empty)"
            )
        manifest = {
            "format": 1,
            "family": self.vocab["family"],
            "source": self.source,
            "documents": self.counts.documents,
            "bytes": self.counts.bytes,
            "ids": self.counts.ids,
            "empty_documents_skipped": self.counts.empty,
            **self.facts,
            "shards": self.counts.shards,
        }
        name = self._manifest
        with _naming(self._temporary / name), open(self._temporary / name, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        self._finished = True

    def commit(self) -> Counts:
        """Finishes, moves the shards to their names and returns the counts."""
        self.finish()
        new = [shard["file"] for shard in self.counts.shards]
        for file_name in [*new, self._manifest]:
            os.replace(self._temporary / file_name, self.folder / file_name)
        for old in self._old:
            if old.name not in new:
                old.unlink(missing_ok=True)
        _sync_folder(self.folder)
        shutil.rmtree(self._temporary, ignore_errors=True)
        return self.counts

    def abort(self) -> None:
        """Throws away everything since the start."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        shutil.rmtree(self._temporary, ignore_errors=True)

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._temporary.exists():
            self.abort()

    def _write(self, ids: NDArray[np.uint16]) -> None:
        while len(ids):
            if self._file is None:
                self._path = self._temporary / f"{self.prefix}_{len(self.counts.shards):06d}.bin"
                with _naming(self._path):
                    self._file = open(self._path, "wb", buffering=PIECE_BYTES)  # noqa: SIM115 (it outlives this call)
                    self._file.write(bytes(SHARD_HEADER_BYTES))
            part = ids[: self.shard_ids - self._in_shard]
            with _naming(self._path):
                self._file.write(part.data)
            self._in_shard += len(part)
            self.counts.ids += len(part)
            ids = ids[len(part) :]
            if self._in_shard == self.shard_ids:
                self._finish_shard()

    def _finish_shard(self) -> None:
        if self._file is None:
            return
        header = np.zeros(SHARD_HEADER_BYTES // 4, dtype="<i4")
        header[:4] = SHARD_MAGIC, SHARD_VERSION, self._in_shard, self.vocab["size"]
        with _naming(self._path):
            self._file.seek(0)
            self._file.write(header.tobytes())
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.close()
            with open(self._path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
        self.counts.shards.append({"file": self._path.name, "ids": self._in_shard, "sha256": digest})
        self._file, self._in_shard = None, 0

    def _sweep(self) -> None:
        """Removes what a killed run of this prefix has left."""
        for left in self.folder.glob(f".{self.prefix}-*-*"):
            pid = left.name.split("-")[-2]
            if pid.isdigit() and not _alive(int(pid)):
                shutil.rmtree(left, ignore_errors=True)


def write_shards(
    documents: Iterable[Document],
    folder: str | os.PathLike[str],
    family: str = "byte260",
    shard_ids: int = 100_000_000,
    prefix: str = "train",
    overwrite: bool = False,
    source: str = "",
) -> Counts:
    """Streams documents to shards, all or nothing; see `ShardWriter`."""
    with ShardWriter(folder, family, prefix, shard_ids, overwrite, source) as writer:
        for document in documents:
            writer.add(document)
        return writer.commit()


def read_ids(
    where: str | os.PathLike[str] | list[str] | NDArray[Any], family: str = "byte260", split: str = ""
) -> NDArray[np.uint16]:
    """All ids of a shard, folder, glob or list of those as one array (uint16), every id checked.

    ValueError or FormatError names the path and offset of what is wrong.
    """
    shards = ShardSet(where, family, split)
    ids = np.empty(len(shards), dtype=np.uint16)
    for at in range(0, len(ids), PIECE_BYTES):
        count = min(PIECE_BYTES, len(ids) - at)
        ids[at : at + count] = shards.read(at, count)
    return ids


def read_text(
    where: str | os.PathLike[str] | list[str] | NDArray[Any], family: str = "byte260", split: str = ""
) -> Iterator[tuple[bytes, int]]:
    """Streams (text, documents begun) in pieces of up to 1 MiB: special ids give no byte, each bos begins a document.

    A family without bos counts the whole as one document.
    """
    shards, v = ShardSet(where, family, split), vocab(family)
    begun = 0 if v["bos"] >= 0 else 1
    for at in range(0, len(shards), PIECE_BYTES):
        ids = shards.read(at, min(PIECE_BYTES, len(shards) - at))
        if v["bos"] >= 0:
            begun = int(np.count_nonzero(ids == v["bos"]))
        yield (ids[ids >= v["byte_offset"]] - v["byte_offset"]).astype(np.uint8).tobytes(), begun
        begun = 0


def read_documents(
    where: str | os.PathLike[str] | list[str] | NDArray[Any], family: str = "byte260", split: str = ""
) -> Iterator[bytes]:
    """The documents as bytes, in order; memory is bounded by the longest. A family without bos gives one document.

    Text before the first bos counts as a document; special ids other than bos are dropped.
    """
    shards, v = ShardSet(where, family, split), vocab(family)
    document, begun = bytearray(), False
    for at in range(0, len(shards), PIECE_BYTES):
        ids = shards.read(at, min(PIECE_BYTES, len(shards) - at))
        cuts = np.flatnonzero(ids == v["bos"]) if v["bos"] >= 0 else np.empty(0, dtype=np.int64)
        for i, part in enumerate(np.split(ids, cuts)):
            if i > 0:
                if begun or document:
                    yield bytes(document)
                document, begun = bytearray(), True
            document += (part[part >= v["byte_offset"]] - v["byte_offset"]).astype(np.uint8).tobytes()
    if begun or document:
        yield bytes(document)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Puts the file's name on errors of the disk (write() itself gives none)."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
