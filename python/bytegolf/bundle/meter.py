"""The limits of the challenge, and the one count of bytes that log, JSON, README and screen show."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

LIMIT_BYTES = 16_000_000  # code + artifact, decimal
LIMIT_S = 600.0  # of training, and again of evaluation
RECORD_SEEDS = 3
VAL_DOCUMENTS, VAL_BYTES = 50_000, 151_080_891  # the validation set: the first documents of docs_selected.jsonl
RECORD_NATS = 0.005  # by which a record must beat the standing one, per scored id


@dataclass(frozen=True)
class Size:
    """Bytes that count: of the self-extracting train_gpt.py as it is on the disk, and of the artifact."""

    code_bytes: int
    artifact_bytes: int

    @property
    def total_bytes(self) -> int:
        """Code and artifact."""
        return self.code_bytes + self.artifact_bytes

    @property
    def margin_bytes(self) -> int:
        """Bytes left below the limit; negative above it."""
        return LIMIT_BYTES - self.total_bytes

    def margin(self) -> str:
        """The margin in words."""
        where = "below" if self.margin_bytes >= 0 else "OVER"
        return f"{abs(self.margin_bytes):,} bytes {where} the limit of {LIMIT_BYTES:,}"


def weigh(script: Path, artifact: Path) -> Size:
    """Counts both files on the disk. OSError when one cannot be read."""
    return Size(script.stat().st_size, artifact.stat().st_size)


def sha256(path: Path) -> str:
    """SHA-256 of a file, as hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
