"""How documents become shards of ids and how shards are read back.

A shard is 256 little-endian int32 (magic, version, number of ids, size of the vocabulary), then uint16 ids. Family
``byte260`` writes bos before each document and no eos; ``byte256`` writes the bytes alone, so documents run together.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from bytegolf._bytegolf import SHARD_HEADER_BYTES, SHARD_MAGIC, SHARD_VERSION, ShardSet, vocab
from bytegolf.data.folder import Claim, Move, naming, place, recover
from bytegolf.manifest import JOURNAL, SUFFIX

__all__ = [
    "Counts",
    "ShardWriter",
    "check_hashes",
    "commit",
    "read_documents",
    "read_ids",
    "read_text",
    "write_shards",
]

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

    Everything is written under a temporary folder and renamed by ``commit()``, all or nothing; until then, and after an
    exception or Ctrl-C inside a ``with``, the folder holds what it held before. From construction to ``commit()`` or ``abort()``
    no other process may write shards into the folder. What a process that was killed inside ``commit()`` has begun is
    finished first. Equal input gives equal bytes.

    ValueError: another process writes into the folder, shards of that prefix exist and ``overwrite`` is false, or the
    family is unknown. OSError: the disk refused; the message names the file.
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
        self._manifest = prefix + SUFFIX
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except FileExistsError:
            raise ValueError(f"{self.folder} is a file, but shards need a folder") from None
        self._claim = Claim(self.folder, prefix)
        try:
            finished = recover(self.folder)
            if self._claim.locked:
                self._sweep()
            self._before = self._present()
            old = [name for name in self._before if name != self._manifest]
            if old and not overwrite:
                holds = f"now holds what an interrupted `data prepare` had finished ({finished[0]})" if finished else ""
                raise ValueError(
                    f"{self.folder} {holds or f'already holds {old[0]}'}; ask for overwriting or name another folder"
                )
            self._temporary = Path(tempfile.mkdtemp(prefix=f".{prefix}-{os.getpid()}-", dir=self.folder))
        except BaseException:
            self._claim.release()
            raise
        self._file: IO[bytes] | None = None
        self._path = Path()
        self._in_shard = 0
        self._finished = False
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
        with naming(self._temporary / name), open(self._temporary / name, "w", encoding="utf-8") as file:
            json.dump(manifest, file, indent=1)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        self._finished = True

    def commit(self) -> Counts:
        """Finishes, moves the shards to their names and returns the counts."""
        commit([self])
        return self.counts

    def abort(self) -> None:
        """Throws away everything since the start, and lets other processes in."""
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None
        if not os.path.lexists(self.folder / JOURNAL):  # else the next writer moves what is staged
            shutil.rmtree(self._temporary, ignore_errors=True)
        self._claim.release()

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.abort()

    def _moves(self) -> list[Move]:
        """All that commit() puts in place; the manifest comes last."""
        names = [*(shard["file"] for shard in self.counts.shards), self._manifest]
        return [Move(self._temporary.name, name) for name in names]

    def _surplus(self) -> list[str]:
        """What lies there under names that are not written again. ValueError when it is not what lay there at the start."""
        if self._present() != self._before:
            raise ValueError(
                f"{self.folder}: another process has written {self.prefix} shards there meanwhile; nothing was put in place"
            )
        return sorted(self._before.keys() - {move.name for move in self._moves()})

    def _present(self) -> dict[str, tuple[int, int, int]]:
        """Shards and manifest of this prefix in the folder, sorted by name, with what changes when they are written."""
        found = {}
        shard = re.compile(re.escape(self.prefix) + r"_[0-9].*\.bin", re.DOTALL)
        for name in sorted(os.listdir(self.folder)):
            if name == self._manifest or shard.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):
                    info = os.stat(self.folder / name)
                    found[name] = (info.st_ino, info.st_size, info.st_mtime_ns)
        return found

    def _write(self, ids: NDArray[np.uint16]) -> None:
        while len(ids):
            if self._file is None:
                self._path = self._temporary / f"{self.prefix}_{len(self.counts.shards):06d}.bin"
                with naming(self._path):
                    self._file = open(self._path, "wb", buffering=PIECE_BYTES)  # noqa: SIM115 (it outlives this call)
                    self._file.write(bytes(SHARD_HEADER_BYTES))
            part = ids[: self.shard_ids - self._in_shard]
            with naming(self._path):
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
        with naming(self._path):
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
        """Removes what killed writers have left."""
        for left in self.folder.iterdir():
            staged = re.fullmatch(r"\..+-([0-9]+)-[a-z0-9_]+", left.name)
            if staged and left.is_dir() and not left.is_symlink() and not _alive(int(staged[1])):
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


def commit(writers: Sequence[ShardWriter]) -> None:
    """Finishes writers of one folder and moves the shards of all to their names: all of them, or none.

    ValueError when one has no documents or another process has written there; OSError when the disk refuses. The folder then
    holds what it held, or refuses to be read until the next writer has finished the moves.
    """
    for writer in writers:
        writer.finish()  # all that may fail comes before the first shard is put in place
    moves = [move for writer in writers for move in writer._moves()]
    surplus = [name for writer in writers for name in writer._surplus()]
    place(writers[0].folder, moves, surplus)
    for writer in writers:
        writer._claim.release()


def check_hashes(where: str | os.PathLike[str] | list[str], family: str = "byte260", split: str = "") -> None:
    """Reads every byte of shards that lie beside a manifest and compares it with the SHA-256 there; without one, their headers alone
    are checked.

    FormatError naming manifest, shard and both hashes.
    """
    ShardSet(where, family, split, hashes=True)


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
    where: str | os.PathLike[str] | list[str] | NDArray[Any] | ShardSet, family: str = "byte260", split: str = ""
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


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True
