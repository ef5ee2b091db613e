"""What the first bytes of a file say it is: a packing that can be undone, or something whose bytes are not its text."""

from __future__ import annotations

import json
import struct
import tarfile
from pathlib import PurePath

from bytegolf._bytegolf import SHARD_MAGIC

__all__ = ["CODEC_OF_SUFFIX", "HEAD_BYTES", "begins_stream", "codec_of", "foreign", "foreign_name", "is_json_lines"]

HEAD_BYTES = 1024  # enough for every sign below; tar's is at 257

CODEC_OF_SUFFIX = {
    ".gz": "gz",
    ".gzip": "gz",
    ".xz": "xz",
    ".zst": "zst",
    ".zstd": "zst",
    ".bz2": "bz2",
    ".bzip2": "bz2",
    ".lzma": "lzma",
}

_UNPACK = "unpack it first"
_ARCHIVE = "name the files inside it as sources, after unpacking it with "
_EXPORT = "export its text as JSON lines or Parquet"

# (offset, bytes there, what it is, what to do), of things that `prepare` does not read as they are
_SIGNS: tuple[tuple[int, bytes, str, str], ...] = (
    (0, b"PK\x03\x04", "a zip archive", _ARCHIVE + "unzip"),
    (0, b"PK\x05\x06", "an empty zip archive", _ARCHIVE + "unzip"),
    (0, b"PK\x07\x08", "a zip archive in parts", _ARCHIVE + "unzip"),
    (257, b"ustar", "a tar archive", _ARCHIVE + "tar -x"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7z archive", _ARCHIVE + "7z x"),
    (0, b"Rar!\x1a\x07", "a rar archive", _ARCHIVE + "unrar"),
    (0, b"MSCF\0\0\0\0", "a cab archive", _ARCHIVE + "cabextract"),
    (0, b"!<arch>\n", "an ar archive", _ARCHIVE + "ar x"),
    (0, b"\x04\x22\x4d\x18", "an lz4 file", f"{_UNPACK} with lz4 -d"),
    (0, b"\x02\x21\x4c\x18", "an lz4 file of the old kind", f"{_UNPACK} with lz4 -d"),
    (0, b"\x1f\x9d", "a file of the program compress", f"{_UNPACK} with gzip -d"),
    (0, b"\x1f\xa0", "a file of the program compress", f"{_UNPACK} with gzip -d"),
    (0, b"\x1f\x1e", "a file of the program pack", f"{_UNPACK} with gzip -d"),
    (0, b"LZIP\x01", "an lzip file", f"{_UNPACK} with lzip -d"),
    (0, b"\x89LZO\0\r\n\x1a\n", "an lzop file", f"{_UNPACK} with lzop -d"),
    (0, b"\xff\x06\0\0sNaPpY", "a snappy file", _UNPACK),
    (0, b"\x78\x9c", "a zlib stream", _UNPACK),
    (0, b"\x78\xda", "a zlib stream", _UNPACK),
    (0, b"ARROW1", "an Arrow file", _EXPORT),
    (0, b"FEA1", "a Feather file", _EXPORT),
    (0, b"PAR1", "a Parquet file", "name it .parquet, or say --format parquet"),
    (0, b"Obj\x01", "an Avro file", _EXPORT),
    (0, b"\x89HDF\r\n\x1a\n", "an HDF5 file", _EXPORT),
    (0, b"\x93NUMPY", "a NumPy array", _EXPORT),
    (0, b"SQLite format 3\0", "an SQLite database", _EXPORT),
    (0, b"(lp0\n", "a pickle", _EXPORT),
    (0, b"(dp0\n", "a pickle", _EXPORT),
    (0, b"GGUF\x02\0\0\0", "weights in GGUF", "it holds no text"),
    (0, b"GGUF\x03\0\0\0", "weights in GGUF", "it holds no text"),
    (0, b"WARC/1.", "a WARC archive", _EXPORT),
    (0, b"%PDF-", "a PDF document", "turn it into text first"),
    (0, b"{\\rtf", "an RTF document", "turn it into text first"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "a document of an office program", "turn it into text first"),
    (0, b"\x89PNG\r\n\x1a\n", "a picture", "it holds no text"),
    (0, b"\xff\xd8\xff", "a picture", "it holds no text"),
    (0, b"GIF87a", "a picture", "it holds no text"),
    (0, b"GIF89a", "a picture", "it holds no text"),
    (0, b"\x7fELF", "a compiled program or library", "it holds no text"),
    (0, b"version https://git-lfs", "a Git LFS pointer, not the file itself", "fetch the file with git lfs pull"),
    (0, b"version https://hawser", "a Git LFS pointer, not the file itself", "fetch the file with git lfs pull"),
    (0, b"# xet version ", "a Xet pointer, not the file itself", "fetch the file with git xet"),
    (0, b"/annex/objects/", "a git-annex pointer, not the file itself", "fetch the file with git annex get"),
    (0, struct.pack("<i", SHARD_MAGIC), "a shard of ids", "name it .bin"),
)

# Formats without a sign of their own, or whose sign a damaged file may lack.
_SUFFIXES = {
    ".csv": ("a table of separated values", _EXPORT),
    ".tsv": ("a table of separated values", _EXPORT),
    ".psv": ("a table of separated values", _EXPORT),
    ".arrow": ("an Arrow file", _EXPORT),
    ".arrows": ("an Arrow file", _EXPORT),
    ".feather": ("a Feather file", _EXPORT),
    ".ipc": ("an Arrow file", _EXPORT),
    ".orc": ("an ORC file", _EXPORT),
    ".avro": ("an Avro file", _EXPORT),
    ".tfrecord": ("a file of TensorFlow records", _EXPORT),
    ".xls": ("a spreadsheet", _EXPORT),
    ".xlsx": ("a spreadsheet", _EXPORT),
    ".ods": ("a spreadsheet", _EXPORT),
    ".br": ("a Brotli file", f"{_UNPACK} with brotli -d"),
    ".lz4": ("an lz4 file", f"{_UNPACK} with lz4 -d"),
    ".lz": ("an lzip file", f"{_UNPACK} with lzip -d"),
    ".lzo": ("an lzop file", f"{_UNPACK} with lzop -d"),
    ".sz": ("a snappy file", _UNPACK),
    ".snappy": ("a snappy file", _UNPACK),
    ".z": ("a file of the program compress", f"{_UNPACK} with gzip -d"),
    ".7z": ("a 7z archive", _ARCHIVE + "7z x"),
    ".rar": ("a rar archive", _ARCHIVE + "unrar"),
    ".zip": ("a zip archive", _ARCHIVE + "unzip"),
    ".cpio": ("a cpio archive", _ARCHIVE + "cpio -i"),
    ".tar": ("a tar archive", _ARCHIVE + "tar -x"),
    ".tgz": ("a tar archive", _ARCHIVE + "tar -x"),
    ".tbz2": ("a tar archive", _ARCHIVE + "tar -x"),
    ".txz": ("a tar archive", _ARCHIVE + "tar -x"),
    ".tzst": ("a tar archive", _ARCHIVE + "tar -x"),
    ".dvc": ("a DVC pointer, not the file itself", "fetch the file with dvc pull"),
}

_BZIP2_BLOCK = (bytes.fromhex("314159265359"), bytes.fromhex("177245385090"))  # of a first block, of an empty stream


def codec_of(head: bytes, named: str | None = None) -> str | None:
    """gz, xz, zst, bz2 or lzma when a file that begins with `head` is packed so, else None. `named`: what its name says."""
    if head[:4] == b"BZh" + head[3:4] and head[4:10] not in _BZIP2_BLOCK:
        return None  # three letters alone may begin a text
    for codec in ("gz", "xz", "zst", "bz2"):
        if begins_stream(codec, head):
            return codec
    return "lzma" if _is_lzma_alone(head, named == "lzma") else None


def begins_stream(codec: str, head: bytes) -> bool:
    """Whether a stream (member, frame) of the codec begins like this."""
    if codec == "gz":
        return head.startswith(b"\x1f\x8b")
    if codec == "xz":
        return head.startswith(b"\xfd7zXZ\0")
    if codec == "bz2":
        return head[:3] == b"BZh" and head[3:4] in b"123456789" and len(head) > 3
    if codec == "zst":  # a frame, or one to be skipped
        return head.startswith(b"\x28\xb5\x2f\xfd") or (head[1:4] == b"\x2a\x4d\x18" and head[0] & 0xF0 == 0x50)
    return False  # LZMA's old form is one stream and nothing after it


def _is_lzma_alone(head: bytes, named: bool) -> bool:
    """LZMA_alone has no magic. A file named so may have any properties; others the usual ones, and a dictionary as encoders make it.

    Source: xz's lzma-file-format.txt, 1.1.
    """
    if len(head) < 13:
        return False
    dictionary, size = struct.unpack_from("<IQ", head, 1)
    if size != (1 << 64) - 1 and size >= 1 << 38:
        return False
    if named:
        return head[0] < 225
    powers = [1 << n for n in range(12, 32)]
    return head[0] == 0x5D and (dictionary in [*powers, 0xFFFFFFFF] or dictionary in [p + p // 2 for p in powers])


def foreign(head: bytes) -> tuple[str, str] | None:
    """(what it is, what to do) when a file that begins with `head` holds something else than its text; None for anything else."""
    for offset, sign, what, remedy in _SIGNS:
        if head.startswith(sign, offset):
            return what, remedy
    if len(head) > 2 and head[0] == 0x80 and head[1] in (2, 3, 4, 5):
        return "a pickle", _EXPORT
    if head.startswith(b"\xff\xff\xff\xff") and len(head) >= 8 and 0 < int.from_bytes(head[4:8], "little") < 1 << 24:
        return "an Arrow stream", _EXPORT
    if head[2:4] == b"\r\n" and head[4:8] in (b"\0\0\0\0", b"\1\0\0\0", b"\3\0\0\0"):
        return "compiled Python", "it holds no text"
    if _is_tar(head[:512]):
        return "a tar archive", _ARCHIVE + "tar -x"
    return None


def _is_tar(block: bytes) -> bool:
    """A header of the oldest kind, which has no magic but a checksum."""
    if len(block) < 512 or not any(block):
        return False
    try:
        tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def foreign_name(name: str) -> tuple[str, str] | None:
    """The same by the suffix of the file's name, that of packing left out."""
    return _SUFFIXES.get(PurePath(name).suffix.lower())


def is_json_lines(start: bytes, whole: bool, field: str) -> bool:
    """Whether text that begins with `start` is lines of JSON objects: its first two are, or its only one holds `field`.

    whole: `start` is all there is. Lines that `start` cuts off are not looked at.
    """
    if not start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"{"):
        return False
    lines = start.split(b"\n")
    lines = [line for line in (lines if whole else lines[:-1]) if line.strip()][:2]
    rows = []
    for line in lines:
        try:
            rows.append(json.loads(str(line, "utf-8-sig")))
        except (ValueError, RecursionError):
            return False
    if not rows or not all(isinstance(row, dict) for row in rows):
        return False
    return len(rows) == 2 or isinstance(rows[0].get(field), str)
