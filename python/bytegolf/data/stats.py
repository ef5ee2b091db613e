"""What a data set holds: counts, byte entropy, and what general compressors make of it."""

from __future__ import annotations

import bz2
import lzma
import os
import shutil
import subprocess
import zlib
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from bytegolf._bytegolf import ShardSet
from bytegolf.data.shards import read_text

__all__ = ["DataStats", "byte_entropy", "compressor_bpb", "data_stats", "stats_table"]


@dataclass(frozen=True)
class DataStats:
    """``entropy_bpb``: order-0 entropy of all bytes, bits per byte. ``compressors``: bits per byte by name, over the
    first ``compressed_bytes`` bytes of text."""

    shards: int
    documents: int
    bytes: int
    ids: int
    entropy_bpb: float
    compressed_bytes: int
    compressors: dict[str, float]


def byte_entropy(counts: np.ndarray[tuple[int], np.dtype[np.int64]]) -> float:
    """Order-0 entropy in bits per byte of a table of 256 counts; 0 when there are none."""
    total = int(counts.sum())
    p = counts[counts > 0] / max(total, 1)
    return float(-(p * np.log2(p)).sum()) + 0.0


def compressor_bpb(data: bytes) -> dict[str, float]:
    """Bits per byte of ``data`` after each compressor at its strongest usual setting, frames and headers included.

    Keys: ``zlib -9``, ``bz2 -9``, ``xz -9e``, and ``zstd -19`` where the zstandard package or the zstd program is
    found. Empty data has no bits per byte: ValueError.
    """
    if not data:
        raise ValueError("no data to compress")
    sizes = {
        "zlib -9": len(zlib.compress(data, 9)),
        "bz2 -9": len(bz2.compress(data, 9)),
        "xz -9e": len(lzma.compress(data, preset=9 | lzma.PRESET_EXTREME)),
    }
    zstd = _zstd_size(data)
    if zstd is not None:
        sizes["zstd -19"] = zstd
    return {name: 8.0 * size / len(data) for name, size in sizes.items()}


def _zstd_size(data: bytes, level: int = 19) -> int | None:
    try:
        import zstandard
    except ImportError:
        program = shutil.which("zstd")
        if program is None:
            return None
        run = subprocess.run([program, f"-{level}", "-c", "-q"], input=data, capture_output=True, check=False)
        return len(run.stdout) if run.returncode == 0 else None
    return len(zstandard.ZstdCompressor(level=level).compress(data))


def data_stats(
    where: str | os.PathLike[str] | list[str], family: str = "byte260", split: str = "", compress_bytes: int = 4_000_000
) -> DataStats:
    """Reads all shards once (every id is checked) and compresses the first ``compress_bytes`` bytes (0: nothing).

    ValueError or FormatError names the path and offset of what is wrong.
    """
    shards = ShardSet(where, family, split)
    counts = np.zeros(256, dtype=np.int64)
    documents, sample = 0, bytearray()
    for text, begun in read_text(shards, family):
        documents += begun
        counts += np.bincount(np.frombuffer(text, dtype=np.uint8), minlength=256)
        if len(sample) < compress_bytes:
            sample += text[: compress_bytes - len(sample)]
    return DataStats(
        shards=len(shards.shards),
        documents=documents,
        bytes=int(counts.sum()),
        ids=len(shards),
        entropy_bpb=byte_entropy(counts),
        compressed_bytes=len(sample),
        compressors=compressor_bpb(bytes(sample)) if sample else {},
    )


def stats_table(stats: DataStats) -> Table:
    """The same as a table for the terminal."""
    table = Table("what", "value", title="data")
    table.columns[1].justify = "right"
    for name in ("shards", "documents", "bytes", "ids"):
        table.add_row(name, f"{getattr(stats, name):,}")
    table.add_row("entropy of single bytes", f"{stats.entropy_bpb:.4f} BPB")
    for name, bpb in sorted(stats.compressors.items(), key=lambda item: -item[1]):
        table.add_row(f"{name} (first {stats.compressed_bytes:,} bytes)", f"{bpb:.4f} BPB")
    return table
