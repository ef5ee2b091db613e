"""The documents of one file, in order: a text is one, of JSON lines each line, of Parquet each row; packed or not.

A file's name says which of these it is, its first bytes whether it is packed, and whether it is something whose bytes are
not its text (`signs`), which is refused. What is wrong is a `FormatError` that names the file and the line or offset. Memory is
bounded: a large text goes by way of a temporary file of our own, which nobody can cut short while it is mapped.
"""

from __future__ import annotations

import io
import json
import mmap
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePath
from typing import Any

from bytegolf._bytegolf import FormatError
from bytegolf.documents.packed import BUFFER_BYTES, head_of, unpacked
from bytegolf.documents.signs import CODEC_OF_SUFFIX, foreign, foreign_name, is_json_lines

__all__ = ["AS_NAMED", "FORMATS", "Document", "Reading", "documents_of_file", "documents_of_stream", "kind_of"]

Document = bytes | bytearray | memoryview
FORMATS = ("auto", "text", "jsonl", "parquet", "sp")
KINDS = {".jsonl": "jsonl", ".ndjson": "jsonl", ".json": "jsonl", ".parquet": "parquet", ".bin": "sp"}
SPOOL_BYTES = 64 << 20  # of a text, before it goes to a temporary file
LINE_BYTES = 1 << 30  # of JSON; a longer one is refused, not read


@dataclass(frozen=True)
class Reading:
    """How files are read.

    format: one of FORMATS. ``auto`` decides by name and first bytes. ``text`` takes every file as one document, whatever it is,
    unpacked where it is packed. sp are shards of SentencePiece ids, which only `data prepare` reads.
    text_field: field that holds the text, of JSON lines and Parquet.
    """

    format: str = "auto"
    text_field: str = "text"

    def __post_init__(self) -> None:
        """ValueError for an unknown format."""
        if self.format not in FORMATS:
            raise ValueError(f"unknown format {self.format!r}; known: {', '.join(FORMATS)}")


AS_NAMED = Reading()


def kind_of(path: str | os.PathLike[str]) -> str:
    """text, jsonl, parquet or sp, by the suffix of the file's name, those of packing left out; anything unknown is text."""
    return KINDS.get(_bare(path).suffix.lower(), "text")


def documents_of_file(path: Path, reading: Reading) -> Iterator[Document]:
    """Documents of one file that is not of kind sp, in order; empty ones too."""
    with _naming(path), io.BufferedReader(io.FileIO(path), BUFFER_BYTES) as file:
        yield from documents_of_stream(file, str(path), reading)


def documents_of_stream(file: io.BufferedReader[Any], name: str, reading: Reading) -> Iterator[Document]:
    """The same of an open file, read from its beginning and closed at the end; `name` is used as a path's would be."""
    forced = reading.format == "text"
    kind = kind_of(name) if reading.format == "auto" else reading.format
    if kind == "sp":
        raise FormatError(f"{name}: a shard of ids cannot be read as documents; where it is packed, unpack it first")
    if not forced:
        _refuse_foreign(foreign(head_of(file)), kind, name)
    inner, codecs = unpacked(file, name, CODEC_OF_SUFFIX.get(PurePath(name).suffix.lower()))
    with inner:
        if not forced:
            _check(inner, codecs, kind, name, reading)
        if kind == "jsonl":
            yield from _json_lines(inner, name, reading.text_field)
        elif kind == "parquet":
            yield from _parquet(inner, name, reading.text_field)
        else:
            yield _text(inner)


def _bare(name: str | os.PathLike[str]) -> PurePath:
    """The name without suffixes of packing."""
    bare = PurePath(name)
    while bare.suffix.lower() in CODEC_OF_SUFFIX and bare.stem:
        bare = bare.with_name(bare.stem)
    return bare


def _check(file: io.BufferedReader[Any], codecs: tuple[str, ...], kind: str, name: str, reading: Reading) -> None:
    """Refuses what is not of its kind, by name and by what was unpacked."""
    named = CODEC_OF_SUFFIX.get(PurePath(name).suffix.lower())
    head = head_of(file)
    if named and not codecs:
        found = f"it begins with {head[:8].hex(' ')}" if head else "it is empty"
        raise FormatError(
            f"{name}: damaged {named} file: {found}, so it is not packed as its name says; rename it, or say --format text if it "
            "is text"
        )
    _refuse_foreign(foreign(head), kind, f"{name}, unpacked" if codecs else name)
    if kind == "parquet" and codecs:
        raise FormatError(f"{name}: a packed Parquet file; unpack it first")
    if reading.format != "auto" or kind != "text":
        return
    _refuse_foreign(foreign_name(str(_bare(name))), kind, name)
    start = file.peek(1)
    if is_json_lines(start, len(start) < BUFFER_BYTES, reading.text_field):
        raise FormatError(f"{name}: holds lines of JSON; say --format jsonl, or --format text to take it as it is")


def _refuse_foreign(found: tuple[str, str] | None, kind: str, name: str) -> None:
    if found is None or (kind == "parquet" and found[0] == "a Parquet file"):
        return
    what, remedy = found
    raise FormatError(f"{name}: this is {what}; {remedy}, or say --format text to take its bytes as they are")


def _text(file: io.BufferedReader[Any]) -> Document:
    """All of a stream as one document, in memory or in a mapped temporary file."""
    with tempfile.SpooledTemporaryFile(SPOOL_BYTES, prefix="bytegolf-") as spool:
        while piece := file.read(BUFFER_BYTES):
            with _naming(tempfile.gettempdir()):
                spool.write(piece)
        size = spool.tell()
        spool.seek(0)
        if size <= SPOOL_BYTES:
            return spool.read()
        spool.flush()
        return memoryview(mmap.mmap(spool.fileno(), size, access=mmap.ACCESS_READ))


def _json_lines(file: io.BufferedReader[Any], name: str, field: str) -> Iterator[bytes]:
    number = 0
    while line := file.readline(LINE_BYTES):
        number += 1
        if len(line) == LINE_BYTES and not line.endswith(b"\n"):
            raise FormatError(f"{name}, line {number}: longer than {LINE_BYTES:,} bytes")
        if line.isspace():
            continue
        text = _json_text(line, field, f"{name}, line {number}")
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


def _parquet(file: io.BufferedReader[Any], name: str, field: str) -> Iterator[bytes]:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise ValueError(f"{name}: reading Parquet needs pyarrow; install bytegolf[data]") from None
    try:
        with pq.ParquetFile(file) as table:
            schema = table.schema_arrow
            if field not in schema.names:
                raise FormatError(
                    f"{name}: no column {field!r}; columns here: {', '.join(map(repr, schema.names[:8]))}"
                )
            if schema.names.count(field) > 1:
                raise FormatError(
                    f"{name}: {schema.names.count(field)} columns are named {field!r}, so which one is meant cannot be told"
                )
            kind = schema.field(field).type
            wide = pa.types.is_large_string(kind) or pa.types.is_large_binary(kind)
            if not (wide or pa.types.is_string(kind) or pa.types.is_binary(kind)):
                raise FormatError(f"{name}: column {field!r} holds {kind}, not text")
            # A column named TEXT.MORE is read along with TEXT, so it is taken by name.
            for batch in table.iter_batches(batch_size=64, columns=[field]):
                for value in batch.column(field).cast(pa.large_binary() if wide else pa.binary()):
                    yield value.as_py() or b""
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise FormatError(f"{name}: not readable as Parquet: {error}") from None


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Puts the file's name on errors of the disk (reading and writing give none)."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror or str(error), str(path)) from None
