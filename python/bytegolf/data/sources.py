"""Where documents come from: text files and folders, JSON lines, Parquet, and sp1024 shards, each as a stream of bytes.

Every reader holds one document (or one 1 MiB piece) at a time; plain text files are mapped, not read. What is wrong with
an input is a `FormatError` that names the file and the line or offset.
"""

from __future__ import annotations

import bz2
import fnmatch
import gzip
import io
import json
import lzma
import mmap
import os
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from bytegolf._bytegolf import FormatError
from bytegolf.data.sentencepieces import sp_documents
from bytegolf.data.shards import Document

__all__ = ["FORMATS", "documents_of", "files_of", "format_of"]

FORMATS = ("auto", "text", "jsonl", "parquet", "sp")
COMPRESSED = (".gz", ".xz", ".zst", ".bz2")
MAP_FROM_BYTES = 1 << 20  # smaller text files are simply read


def files_of(source: str | os.PathLike[str], glob: str = "*") -> list[Path]:
    """The file itself, or the folder's files at any depth whose name matches ``glob``, by path, without hidden ones.

    ValueError when there is nothing.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(f"no such file or folder: {path}")
    found = []
    for folder, folders, names in os.walk(path):
        folders[:] = [f for f in folders if not f.startswith(".")]
        found += [Path(folder, n) for n in names if not n.startswith(".") and fnmatch.fnmatch(n, glob)]
    files = sorted(f for f in found if f.is_file())
    if not files:
        raise ValueError(f"folder {path} holds no file that matches {glob!r}")
    return files


def format_of(path: Path) -> str:
    """text, jsonl, parquet or sp, by the file's suffix; anything unknown is text."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSED:
        suffixes.pop()
    last = suffixes[-1] if suffixes else ""
    return {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".bin": "sp"}.get(
        last, "text"
    )


def documents_of(
    files: list[Path],
    format: str = "auto",
    text_field: str = "text",
    tokenizer: str | os.PathLike[str] | None = None,
) -> Iterator[Document]:
    """Documents of the files in order.

    format: one of FORMATS; ``auto`` decides by suffix. text: one file is one document, its bytes taken as they are (a
    ``.gz``, ``.xz``, ``.zst`` or ``.bz2`` is unpacked). jsonl, parquet: one line or row is one document, its text in
    ``text_field``. sp: SentencePiece shards; neighbouring shards continue each other, and ``tokenizer`` (the
    model file) is needed.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; known: {', '.join(FORMATS)}")
    at = 0
    while at < len(files):
        path = files[at]
        kind = format_of(path) if format == "auto" else format
        at += 1
        if kind == "text":
            yield _text(path)
        elif kind == "jsonl":
            yield from _json_lines(path, text_field)
        elif kind == "parquet":
            yield from _parquet(path, text_field)
        else:
            shards = [path]
            while at < len(files) and (format == "sp" or format_of(files[at]) == "sp"):
                shards.append(files[at])
                at += 1
            if tokenizer is None:
                raise ValueError(f"{path}: shards of ids need the SentencePiece model that made them (tokenizer)")
            yield from sp_documents(shards, tokenizer)


def _text(path: Path) -> Document:
    if path.suffix.lower() in COMPRESSED:
        with _unpacked(path) as stream:
            return stream.read()
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size < MAP_FROM_BYTES:
            return file.read()
        return memoryview(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))


def _json_lines(path: Path, field: str) -> Iterator[bytes]:
    with _unpacked(path) as stream:
        number = 0
        for line in stream:
            number += 1
            if line.isspace():
                continue
            text = _json_text(line, field, f"{path}, line {number}")
            del line  # a line may be 100 MB
            yield text


def _json_text(line: bytes, field: str, where: str) -> bytes:
    try:
        row = json.loads(str(line, "utf-8-sig"))
    except UnicodeDecodeError as error:
        raise FormatError(f"{where}: not valid UTF-8 at byte {error.start}") from None
    except ValueError as error:
        raise FormatError(f"{where}: not valid JSON: {error}") from None
    except RecursionError:
        raise FormatError(f"{where}: JSON nested too deeply") from None
    if not isinstance(row, dict):
        raise FormatError(f"{where}: expected an object with the field {field!r}, got {type(row).__name__}")
    if field not in row:
        known = ", ".join(map(repr, list(row)[:8])) or "none"
        raise FormatError(f"{where}: no field {field!r}; fields here: {known}")
    text = row[field]
    if not isinstance(text, str):
        raise FormatError(f"{where}: field {field!r} holds {type(text).__name__}, not text")
    return text.encode("utf-8", errors="surrogatepass")  # a lone \ud800 is legal JSON


def _parquet(path: Path, field: str) -> Iterator[bytes]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError(f"{path}: reading Parquet needs pyarrow; install bytegolf[data]") from None
    try:
        with pq.ParquetFile(path) as file:
            names = file.schema_arrow.names
            if field not in names:
                raise FormatError(f"{path}: no column {field!r}; columns here: {', '.join(map(repr, names[:8]))}")
            kind = file.schema_arrow.field(field).type
            wide = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
            if not (wide or pa.types.is_string(kind) or pa.types.is_binary(kind)):
                raise FormatError(f"{path}: column {field!r} holds {kind}, not text")
            for batch in file.iter_batches(batch_size=64, columns=[field]):
                for value in batch.column(0).cast(pa.large_binary() if wide else pa.binary()):
                    yield value.as_py() or b""
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FormatError(f"{path}: not readable as Parquet: {error}") from None


@contextmanager
def _unpacked(path: Path) -> Iterator[IO[bytes]]:
    """The file's bytes, unpacked by its suffix; damage is a FormatError."""
    suffix = path.suffix.lower()
    with _open(path, suffix) as opened:
        try:
            yield opened
        except (EOFError, zlib.error, lzma.LZMAError, gzip.BadGzipFile) as error:
            raise FormatError(f"{path}: damaged or cut {suffix[1:]} file: {error}") from None
        except OSError as error:
            if error.errno is not None or suffix not in COMPRESSED:
                raise
            raise FormatError(f"{path}: damaged {suffix[1:]} file: {error}") from None


def _open(path: Path, suffix: str) -> IO[bytes]:
    if suffix == ".gz":
        return cast(IO[bytes], gzip.open(path, "rb"))
    if suffix == ".xz":
        return lzma.open(path, "rb")
    if suffix == ".bz2":
        return bz2.open(path, "rb")
    if suffix == ".zst":
        return io.BufferedReader(_ZstdFile(path), 1 << 20)
    return open(path, "rb", buffering=1 << 20)


class _ZstdFile(io.RawIOBase):
    """Any number of zstd frames as one stream; unlike zstandard's own reader it refuses a cut last frame."""

    def __init__(self, path: Path) -> None:
        try:
            import zstandard
        except ImportError:
            raise ValueError(f"{path}: reading .zst needs zstandard; install bytegolf[data]") from None
        self._error: type[Exception] = zstandard.ZstdError
        self._context = zstandard.ZstdDecompressor(max_window_size=1 << 31)
        self._path, self._file = path, open(path, "rb")  # noqa: SIM115 (closed by close())
        self._frame: Any = None
        self._packed = self._ready = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._ready:
            if not self._packed:
                self._packed = self._file.read(1 << 16)
                if not self._packed:
                    if self._frame is not None:
                        raise FormatError(f"{self._path}: damaged or cut zst file: the last frame does not end")
                    return 0
            if self._frame is None:
                self._frame = self._context.decompressobj()
            try:
                self._ready = self._frame.decompress(self._packed)
            except self._error as error:
                raise FormatError(f"{self._path}: damaged zst file: {error}") from None
            self._packed = b""
            if self._frame.eof:
                self._packed, self._frame = self._frame.unused_data, None
        n = min(len(buffer), len(self._ready))
        buffer[:n] = self._ready[:n]
        self._ready = self._ready[n:]
        return n

    def close(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()
        super().close()
