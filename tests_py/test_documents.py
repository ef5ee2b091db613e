"""Files as documents: packed streams are read to their end or refused with the offset, and what is not text is not taken for it."""

import bz2
import gzip
import io
import lzma
import os
import random
import sqlite3
import struct
import subprocess
import sys
import tarfile
import zipfile

import numpy as np
import pytest

from bytegolf import FormatError
from bytegolf.documents import Reading, documents_of_file, documents_of_stream, kind_of

zstandard = pytest.importorskip("zstandard")

PACK = {
    "gz": gzip.compress,
    "xz": lzma.compress,
    "bz2": bz2.compress,
    "zst": zstandard.ZstdCompressor().compress,
    "lzma": lambda data: lzma.compress(data, format=lzma.FORMAT_ALONE),
}
MANY = [codec for codec in PACK if codec != "lzma"]  # one file may hold several streams of these
SKIPPABLE = struct.pack("<II", 0x184D2A53, 5) + b"notes"  # a zstd frame that decoders pass over


def lines(*texts):
    return "".join(f'{{"text": "{t}"}}\n' for t in texts).encode()


def read(folder, name, data, format="auto", field="text"):
    path = folder / name
    path.write_bytes(data)
    return [bytes(document) for document in documents_of_file(path, Reading(format, field))]


@pytest.mark.parametrize("codec", MANY)
@pytest.mark.parametrize("streams", [2, 3, 40])
def test_every_stream_of_a_packed_file_is_read(tmp_path, codec, streams):
    texts = [f"document {n}" for n in range(streams)]
    packed = b"".join(PACK[codec](lines(text)) for text in texts)
    assert read(tmp_path, f"x.jsonl.{codec}", packed) == [text.encode() for text in texts]


@pytest.mark.parametrize(
    ("codec", "padding"), [("xz", 4), ("xz", 8), ("xz", 1 << 17), ("gz", 1), ("gz", 512), ("gz", (1 << 17) + 3)]
)
def test_padding_of_zeros_is_passed_over_between_streams_and_at_the_end(tmp_path, codec, padding):
    a, b, zeros = PACK[codec](lines("one")), PACK[codec](lines("two")), bytes(padding)
    assert read(tmp_path, f"x.jsonl.{codec}", a + zeros + b + zeros) == [b"one", b"two"]
    assert read(tmp_path, f"x.txt.{codec}", PACK[codec](b"left ") + zeros + PACK[codec](b"right")) == [b"left right"]


def test_the_program_xz_and_this_reader_agree_on_padded_files(tmp_path):
    packed = lzma.compress(b"one\n") + bytes(12) + lzma.compress(b"two\n") + bytes(4)
    path = tmp_path / "x.txt.xz"
    path.write_bytes(packed)
    try:
        by_xz = subprocess.run(["xz", "-dc", path], capture_output=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("the program xz is not here")
    assert read(tmp_path, "x.txt.xz", packed) == [by_xz] == [b"one\ntwo\n"]


# Of each codec what may not follow a stream; `at` counts from its end. bzip2 and zstd know no padding.
@pytest.mark.parametrize(
    ("codec", "tail", "at"),
    [
        ("xz", b"rubbish", 0),
        ("xz", bytes(4) + b"rubbish", 4),
        ("xz", bytes(3), 3),  # the format pads by multiples of four
        ("xz", bytes(6) + lzma.compress(b"x"), 6),
        ("xz", lzma.compress(b"x")[:3], 0),  # a header that is cut
        ("xz", b"\xfd7zXX" + lzma.compress(b"x")[5:], 0),
        ("bz2", b"rubbish", 0),
        ("bz2", bytes(4), 0),
        ("bz2", b"BZ", 0),
        ("bz2", b"BZx" + bz2.compress(b"x")[3:], 0),
        ("gz", b"rubbish", 0),
        ("gz", bytes(9) + b"rubbish", 9),
        ("gz", b"\x1f", 0),
        ("zst", b"rubbish", 0),
        ("zst", bytes(8), 0),
        ("lzma", b"\0", 0),
        ("lzma", lzma.compress(b"x", format=lzma.FORMAT_ALONE), 0),
    ],
)
def test_what_follows_a_stream_and_is_none_is_refused_with_its_offset(tmp_path, codec, tail, at):
    first = PACK[codec](lines("one"))
    with pytest.raises(FormatError, match=rf"x\.jsonl\.{codec}: damaged .*byte {len(first) + at}\b"):
        read(tmp_path, f"x.jsonl.{codec}", first + tail)


@pytest.mark.parametrize("codec", MANY)
def test_a_later_stream_cut_anywhere_is_refused(tmp_path, codec):
    first, second = PACK[codec](lines("one")), PACK[codec](lines("two"))
    for size in range(1, len(second)):
        with pytest.raises(FormatError, match=rf"x\.jsonl\.{codec}: damaged .*\b{len(first)}\b"):
            read(tmp_path, f"x.jsonl.{codec}", first + second[:size])


@pytest.mark.parametrize("codec", ["xz", "bz2", "gz", "zst"])
def test_no_flipped_bit_of_a_later_stream_goes_unseen(tmp_path, codec):
    pack = zstandard.ZstdCompressor(write_checksum=True).compress if codec == "zst" else PACK[codec]
    text = "".join(random.Random(5).choices("abcdefgh ", k=300))
    first, second = pack(lines("one")), pack(lines(text))
    for bit in random.Random(1).sample(range(8 * len(second)), 200):
        flipped = bytearray(second)
        flipped[bit // 8] ^= 1 << bit % 8
        try:
            found = read(tmp_path, f"x.jsonl.{codec}", first + flipped)
        except FormatError:
            continue
        # Bytes of a header that say nothing of the content: gzip's time and system, a skippable frame's length is not reached.
        assert found == [b"one", text.encode()], bit


def test_zstd_frames_that_are_to_be_skipped_may_stand_anywhere(tmp_path):
    one, two = PACK["zst"](lines("one")), PACK["zst"](lines("two"))
    packed = SKIPPABLE + one + SKIPPABLE + SKIPPABLE + two + SKIPPABLE
    assert read(tmp_path, "x.jsonl.zst", packed) == [b"one", b"two"]
    assert read(tmp_path, "x.jsonl", packed) == [b"one", b"two"]
    with pytest.raises(FormatError, match="damaged"):
        read(tmp_path, "x.jsonl.zst", packed[:-1])


@pytest.mark.parametrize("codec", PACK)
@pytest.mark.parametrize("name", ["x.jsonl", "x.jsonl.gz", "x.jsonl.xz", "x.jsonl.zstd", "x.jsonl.gzip", "x.jsonl.bz2"])
def test_the_first_bytes_say_how_a_file_is_packed_not_its_name(tmp_path, codec, name):
    assert read(tmp_path, name, PACK[codec](lines("one", "two"))) == [b"one", b"two"]


def test_a_packing_inside_a_packing_is_unpacked_too(tmp_path):
    twice = gzip.compress(gzip.compress(lines("one")))
    assert read(tmp_path, "x.jsonl.gz.gz", twice) == read(tmp_path, "x.jsonl.gz", twice) == [b"one"]
    assert read(tmp_path, "x.jsonl.xz.gz", gzip.compress(lzma.compress(lines("one")))) == [b"one"]
    assert read(tmp_path, "x.txt", PACK["zst"](bz2.compress(b"text"))) == [b"text"]
    with pytest.raises(FormatError, match=r"unpacked from gz: damaged or cut gz file: it ends at byte 10"):
        read(tmp_path, "x.jsonl.gz.gz", gzip.compress(gzip.compress(lines("one"))[:10]))
    data = b"text"
    for _ in range(6):
        data = gzip.compress(data)
    with pytest.raises(FormatError, match="packed more than 4 times over"):
        read(tmp_path, "x.txt", data)


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.jsonl.zstd", "jsonl"),
        ("a.NDJSON.gzip", "jsonl"),
        ("a.json.lzma", "jsonl"),
        ("a.jsonl.gz.xz", "jsonl"),
        ("a.parquet", "parquet"),
        ("a.bin", "sp"),
        ("a.txt.bzip2", "text"),
        ("gz", "text"),
        (".gz", "text"),
        ("a", "text"),
    ],
)
def test_the_kind_is_by_the_name_without_its_packing(name, kind):
    assert kind_of(name) == kind


def test_lzma_of_the_old_form_with_unusual_properties_is_read_by_its_name(tmp_path):
    filters = [{"id": lzma.FILTER_LZMA1, "preset": 6, "lc": 1, "lp": 2, "pb": 1}]
    packed = lzma.compress(lines("one"), format=lzma.FORMAT_ALONE, filters=filters)
    assert packed[0] == (1 * 5 + 2) * 9 + 1  # by hand: (pb * 5 + lp) * 9 + lc
    assert read(tmp_path, "x.jsonl.lzma", packed) == [b"one"]
    with pytest.raises(FormatError, match="damaged"):
        read(tmp_path, "x.jsonl.lzma", packed[:-3])


@pytest.mark.parametrize("data", [b"", b"plain text", lines("one"), b"\x1f", b"BZh is how bzip2 begins", b"\0\0\0\0"])
@pytest.mark.parametrize("suffix", ["gz", "gzip", "xz", "bz2", "zst", "zstd", "lzma"])
def test_a_name_that_promises_a_packing_needs_one(tmp_path, data, suffix):
    with pytest.raises(FormatError, match=rf"x\.jsonl\.{suffix}: damaged .* so it is not packed as its name says"):
        read(tmp_path, f"x.jsonl.{suffix}", data)
    assert read(tmp_path, f"x.txt.{suffix}", data, "text") == [data]


def tar_of(format):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=format) as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = 5
        archive.addfile(member, io.BytesIO(b"inner"))
    return out.getvalue()


def tar_before_posix():
    """A header as the first tar wrote it: no magic, only a checksum. By hand, from tar(5)."""
    block = bytearray(512)
    block[:5] = b"a.txt"
    block[100:108], block[124:136], block[136:148] = b"0000644\0", b"00000000005\0", b"00000000000\0"
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block) + b"inner".ljust(512, b"\0") + bytes(1024)


def zip_of(names):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name in names:
            archive.writestr(name, "inner")
    return out.getvalue()


def npy():
    out = io.BytesIO()
    np.save(out, np.arange(3))
    return out.getvalue()


def sqlite(tmp_path):
    with sqlite3.connect(tmp_path / "made.db") as made:
        made.execute("create table t (x)")
    made.close()
    return (tmp_path / "made.db").read_bytes()


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"4d7a" * 16 + b"\nsize 12345\n"
# What a file is, and its first bytes: made by the program itself where Python has it, else as its specification says.
FOREIGN = {
    "a tar archive": tar_of(tarfile.USTAR_FORMAT),
    "a tar archive ": tar_of(tarfile.GNU_FORMAT),
    "a tar archive  ": tar_of(tarfile.PAX_FORMAT),
    "a tar archive   ": tar_before_posix(),
    "a zip archive": zip_of(["a.txt"]),
    "an empty zip archive": zip_of([]),
    "a 7z archive": b"7z\xbc\xaf\x27\x1c\0\x04",
    "a rar archive": b"Rar!\x1a\x07\x01\0",
    "an lz4 file": b"\x04\x22\x4d\x18\x64\x40\xa7",
    "a file of the program compress": b"\x1f\x9d\x90\x61\xc4",
    "a Git LFS pointer": LFS,
    "a git-annex pointer": b"/annex/objects/SHA256E-s5--2cf24dba.txt\n",
    "an Arrow file": b"ARROW1\0\0\xff\xff\xff\xff",
    "an Arrow stream": b"\xff\xff\xff\xff\x78\0\0\0\x10\0\0\0",
    "a Feather file": b"FEA1\0\0\0\0",
    "a Parquet file": b"PAR1\x15\x04\x15",
    "an HDF5 file": b"\x89HDF\r\n\x1a\n\0\0",
    "a NumPy array": npy(),
    "a pickle": b"\x80\x04\x95\x05\0\0\0\0\0\0\0]\x94.",
    "a pickle ": b"\x80\x02]q\0.",
    "a PDF document": b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n",
    "a picture": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a compiled program or library": b"\x7fELF\x02\x01\x01",
    "compiled Python": b"\xa7\r\r\n\0\0\0\0\x12\x34\x56\x78",
    "a shard of ids": struct.pack("<4i", 20240520, 1, 2, 260),
}


@pytest.mark.parametrize("what", FOREIGN)
@pytest.mark.parametrize("name", ["x.txt", "x", "x.jsonl", "x.jsonl.gz"])
def test_a_file_whose_bytes_are_not_its_text_is_refused_unless_forced(tmp_path, what, name):
    data = FOREIGN[what]
    with pytest.raises(FormatError, match=rf"{name}: this is {what.strip()}.*--format text"):
        read(tmp_path, name, data)
    with pytest.raises(FormatError, match=rf"{name}, unpacked: this is {what.strip()}"):
        read(tmp_path, name, gzip.compress(data))
    assert read(tmp_path, name, data, "text") == read(tmp_path, name, gzip.compress(data), "text") == [data]


def test_a_database_is_refused(tmp_path):
    with pytest.raises(FormatError, match="an SQLite database"):
        read(tmp_path, "x.txt", sqlite(tmp_path))


@pytest.mark.parametrize(
    "name", ["x.csv", "x.TSV", "x.csv.gz", "x.arrow", "x.feather", "x.zip", "x.br", "x.Z", "x.lz4", "x.tgz"]
)
def test_a_name_that_promises_no_text_is_refused(tmp_path, name):
    data = b"id,text\n1,one\n"
    packed = gzip.compress(data) if name.endswith(".gz") else data
    with pytest.raises(FormatError, match=rf"{name}: this is an? .*--format text"):
        read(tmp_path, name, packed)
    assert read(tmp_path, name, packed, "text") == [data]


@pytest.mark.parametrize(
    "data",
    [
        lines("one"),
        lines("one", "two"),
        b'{"id": 1}\n{"id": 2}\n',
        b'\n\xef\xbb\xbf{"text": "a"}',
        lines("a" * 3_000, "b") * 500,
    ],
)
def test_lines_of_json_are_not_taken_for_text(tmp_path, data):
    with pytest.raises(FormatError, match=r"x\.txt: holds lines of JSON; say --format jsonl"):
        read(tmp_path, "x.txt", data)
    assert read(tmp_path, "x.txt", data, "text") == [data]


# Each of them begins like something above and is text all the same.
@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"BZh9 is what a bzip2 file begins with",
        b"PK is a short name",
        b"PK\n",
        b"{not json}\n{at all}\n",
        b'{"a": 1}',
        b'{"a": 1}\n[2]\n',
        b"7z x archive",
        b"]\0\0",
        b"version https://example.org\n",
        b"ORCHARDS\n",
        b"GGUF is a format\n",
        b"a\n" * 400,
        bytes(2000),
        bytes(range(256)) * 9,
        "ünïcödé ☃\n".encode("utf-16"),
        b"x" * 257 + b"ustad" + b"y" * 300,
    ],
)
def test_text_that_begins_like_something_else_is_taken_as_it_is(tmp_path, data):
    assert read(tmp_path, "x.txt", data) == [data]


def test_a_stream_without_a_name_of_a_file_is_read_the_same_way():
    def of(data, format="auto"):
        return list(documents_of_stream(io.BufferedReader(io.BytesIO(data)), "standard input", Reading(format)))

    assert of(b"text") == of(gzip.compress(b"text")) == [b"text"]
    assert of(lines("one", "two"), "jsonl") == of(lzma.compress(lines("one", "two")), "jsonl") == [b"one", b"two"]
    with pytest.raises(FormatError, match="standard input: holds lines of JSON"):
        of(lines("one"))


def test_large_texts_are_whole_in_memory_or_by_way_of_a_file(tmp_path, monkeypatch):
    monkeypatch.setattr("bytegolf.documents.read.SPOOL_BYTES", 100_000)
    data = random.Random(2).randbytes(3_000_001)
    for size in (99_999, 100_000, 100_001, len(data)):
        assert read(tmp_path, "x.txt", data[:size]) == [data[:size]]
        assert read(tmp_path, "x.txt.gz", gzip.compress(data[:size], 1)) == [data[:size]]


def test_a_text_that_is_cut_short_while_it_is_used_stays_whole(tmp_path, monkeypatch):
    monkeypatch.setattr("bytegolf.documents.read.SPOOL_BYTES", 100_000)
    path, data = tmp_path / "x.txt", random.Random(3).randbytes(1_000_000)
    path.write_bytes(data)
    document = next(documents_of_file(path, Reading()))
    os.truncate(path, 10)  # reading pages of a mapped file that are gone would end the process
    assert bytes(document) == data


def test_a_line_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("bytegolf.documents.read.LINE_BYTES", 1000)
    with pytest.raises(FormatError, match=r"x\.jsonl\.gz, line 2: longer than 1,000 bytes"):
        read(tmp_path, "x.jsonl.gz", gzip.compress(lines("one") + b"[" * 5000))
    assert read(tmp_path, "x.jsonl", lines("a" * 900)) == [b"a" * 900]


BOMB = """
import resource, sys
from pathlib import Path
from bytegolf.documents import Reading, documents_of_file
for size in ("small", "large"):
    for path in sorted(Path(sys.argv[1], size).iterdir()):
        assert list(documents_of_file(path, Reading())) == [b"one"], path
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_follow_what_a_file_unpacks_to(tmp_path):
    """Blank lines before the one document, in files of some kilobytes: 160 MiB of them, and 48 in three streams where that is slow."""
    blank = (b" " * ((1 << 20) - 1) + b"\n") * 16
    before = {"gz": gzip.compress(blank * 10, 1), "zst": PACK["zst"](blank * 10)}
    before |= {codec: PACK[codec](blank) * 3 for codec in ("bz2", "xz")}
    for size in ("small", "large"):
        (tmp_path / size).mkdir()
        for codec, packed in before.items():
            start = packed if size == "large" else b""
            (tmp_path / size / f"x.jsonl.{codec}").write_bytes(start + PACK[codec](lines("one")))
    done = subprocess.run([sys.executable, "-c", BOMB, tmp_path], capture_output=True, text=True, check=True)
    small, large = map(int, done.stdout.split())
    assert large - small < 128 << 10  # kilobytes; most of it zstd's, whose output cannot be limited


def test_parquet_names_are_exact(tmp_path):
    pa = pytest.importorskip("pyarrow")
    pq = pytest.importorskip("pyarrow.parquet")

    def made(columns, names):
        out = io.BytesIO()
        pq.write_table(pa.Table.from_arrays([pa.array(c) for c in columns], names=names), out)
        return out.getvalue()

    twice = made([["a"], ["b"], [1]], ["text", "text", "n"])
    with pytest.raises(FormatError, match=r"x\.parquet: 2 columns are named 'text'"):
        read(tmp_path, "x.parquet", twice)
    dotted = made([["wrong"], ["right"]], ["text.more", "text"])
    assert read(tmp_path, "x.parquet", dotted) == [b"right"]
    assert read(tmp_path, "x.data", dotted, "parquet") == [b"right"]
    with pytest.raises(FormatError, match=r"this is a Parquet file; name it \.parquet, or say --format parquet"):
        read(tmp_path, "x.txt", dotted)
    with pytest.raises(FormatError, match="a packed Parquet file; unpack it first"):
        read(tmp_path, "x.parquet.gz", gzip.compress(dotted))
    with pytest.raises(FormatError, match="a Git LFS pointer"):
        read(tmp_path, "x.parquet", LFS)


def test_errors_of_the_disk_name_the_file(tmp_path):
    with pytest.raises(OSError, match=r"none\.txt"):
        list(documents_of_file(tmp_path / "none.txt", Reading()))
    with pytest.raises(OSError, match=os.fspath(tmp_path)):
        list(documents_of_file(tmp_path, Reading()))
    with pytest.raises(ValueError, match="unknown format 'docx'"):
        Reading("docx")
