"""How shards of SentencePiece ids (sp1024 and its kin) become the bytes they were made from.

Piece by piece, with a table of each piece's bytes, and document by document: bos begins one. Decoding whole shards
instead glues documents together. What the model's normaliser threw away (control characters, runs of spaces, letters it
does not know) is not in the ids and cannot come back.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytegolf._bytegolf import SHARD_HEADER_BYTES, SHARD_MAGIC, SHARD_VERSION, FormatError

__all__ = ["PieceTable", "sp_documents"]

SPACE = "\u2581"  # SentencePiece's mark of a space
CHUNK_IDS = 1 << 18


class PieceTable:
    """The bytes of every piece of a SentencePiece model.

    A byte-fallback piece is one byte; the mark of a space is one space; control, unknown and unused pieces give nothing.
    ``dummy_prefix``: the model puts a space before each document that the text did not have.
    ValueError when the model cannot be read or has no bos.
    """

    def __init__(self, model: str | os.PathLike[str]) -> None:
        try:
            import sentencepiece
        except ImportError:
            raise ValueError("reading sp shards needs sentencepiece; install bytegolf[data]") from None
        if not Path(model).is_file():
            raise ValueError(f"no such SentencePiece model: {os.fspath(model)}")
        try:
            sp: Any = sentencepiece.SentencePieceProcessor(model_file=os.fspath(model))
        except (OSError, RuntimeError) as error:
            raise ValueError(f"{os.fspath(model)}: not a SentencePiece model: {error}") from None
        if sp.bos_id() < 0:
            raise ValueError(f"{os.fspath(model)}: this model has no bos, so documents cannot be separated")
        self.bos: int = sp.bos_id()
        self.unknown: int = sp.unk_id()
        self.pieces: list[bytes] = []
        for i in range(sp.vocab_size()):
            piece: str = sp.id_to_piece(i)
            if sp.is_byte(i):
                self.pieces.append(bytes([int(piece[1:-1], 16)]))  # "<0x41>"
            elif sp.is_control(i) or sp.is_unknown(i) or sp.is_unused(i):
                self.pieces.append(b"")
            else:
                self.pieces.append(piece.replace(SPACE, " ").encode("utf-8"))
        first = sp.encode("a", out_type=str)
        self.dummy_prefix = bool(first) and first[0].startswith(SPACE)

    def text(self, ids: NDArray[Any]) -> bytes:
        """The bytes of ids (1-d, all inside the vocabulary), spaces as they are."""
        pieces = self.pieces
        return b"".join([pieces[i] for i in ids.tolist()])


def sp_documents(shards: list[Path], model: str | os.PathLike[str]) -> Iterator[bytes]:
    """The documents of shards that continue each other, in order; memory is bounded by the longest document.

    FormatError names the shard and the offset for a damaged header, an id outside the model, or text before the
    first bos. Warns at the end when unknown pieces, whose text the shards do not hold, gave no bytes.
    """
    table = PieceTable(model)
    document: list[bytes] | None = None
    unknown = 0
    for path in shards:
        for at, chunk in _chunks(path):
            if int(chunk.max()) >= len(table.pieces):
                bad = int(np.argmax(chunk >= len(table.pieces)))
                offset = SHARD_HEADER_BYTES + 2 * (at + bad)
                raise FormatError(
                    f"shard {path}: id {chunk[bad]} at offset {offset} is outside the model's {len(table.pieces)} pieces"
                )
            unknown += int(np.count_nonzero(chunk == table.unknown))
            for i, part in enumerate(np.split(chunk, np.flatnonzero(chunk == table.bos))):
                if i > 0:
                    if document is not None:
                        yield _joined(document, table)
                    document = []
                if len(part) == 0:
                    continue
                if document is None:
                    raise FormatError(
                        f"shard {path}: offset {SHARD_HEADER_BYTES + 2 * at} is inside a document; the shard before it is missing"
                    )
                document.append(table.text(part))
    if document is not None:
        yield _joined(document, table)
    if unknown:
        warnings.warn(
            f"{unknown:,} unknown pieces in {shards[0].parent} gave no bytes: that text is lost", stacklevel=2
        )


def _joined(parts: list[bytes], table: PieceTable) -> bytes:
    text = b"".join(parts)
    return text[1:] if table.dummy_prefix and text.startswith(b" ") else text


def _chunks(path: Path) -> Iterator[tuple[int, NDArray[np.uint16]]]:
    """The ids of a shard in pieces, each with the number of its first. Read, not mapped: a file may be truncated in use."""
    size = path.stat().st_size
    if size < SHARD_HEADER_BYTES:
        raise FormatError(f"shard {path}: has {size} bytes, fewer than the header's {SHARD_HEADER_BYTES}")
    header = np.fromfile(path, dtype="<i4", count=4)
    if header[0] != SHARD_MAGIC:
        raise FormatError(
            f"shard {path}: magic at offset 0 is {header[0]} instead of {SHARD_MAGIC}: not a shard of ids"
        )
    if header[1] != SHARD_VERSION:
        raise FormatError(f"shard {path}: version at offset 4 is {header[1]}; only {SHARD_VERSION} is known")
    expected = SHARD_HEADER_BYTES + 2 * int(header[2])
    if header[2] <= 0 or size != expected:
        raise FormatError(
            f"shard {path}: count of ids at offset 8 is {header[2]}, so the file should have {expected} bytes, but it has {size}"
        )
    count = int(header[2])
    with open(path, "rb") as file:
        file.seek(SHARD_HEADER_BYTES)
        for at in range(0, count, CHUNK_IDS):
            data = file.read(2 * min(CHUNK_IDS, count - at))
            if len(data) != 2 * min(CHUNK_IDS, count - at):
                raise FormatError(
                    f"shard {path}: ends at offset {SHARD_HEADER_BYTES + 2 * at + len(data)} though it had {size} bytes "
                    "when it was opened: it was truncated in use"
                )
            yield at, np.frombuffer(data, dtype="<u2")
