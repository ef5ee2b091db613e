"""Documents -> shards -> documents: format, counts, refusals, and what the folder holds after a failure."""

import json
import os
import resource
import struct
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import bytegolf
from bytegolf import _bytegolf as core
from bytegolf.data import ShardWriter, read_documents, read_ids, read_text, sentencepieces, write_shards
from bytegolf.data.stats import compressor_bpb, data_stats, stats_table


def test_bytes_of_a_shard_are_those_of_the_published_format(tmp_path):
    counts = write_shards([b"ab", b"", b"\xff"], tmp_path, "byte260", prefix="val")
    assert (counts.documents, counts.bytes, counts.ids, counts.empty) == (2, 3, 5, 1)
    data = (tmp_path / "val_000000.bin").read_bytes()
    assert struct.unpack("<4i", data[:16]) == (20240520, 1, 5, 260)
    assert data[16:1024] == bytes(1008)
    assert struct.unpack("<5H", data[1024:]) == (1, 101, 102, 1, 259)
    manifest = json.loads((tmp_path / "val_manifest.json").read_text())
    assert manifest["documents"] == 2 and manifest["empty_documents_skipped"] == 1
    assert manifest["shards"][0]["ids"] == 5
    assert sorted(os.listdir(tmp_path)) == ["val_000000.bin", "val_manifest.json"]


def test_byte256_writes_the_bytes_alone(tmp_path):
    write_shards([b"ab", b"\x00\xff"], tmp_path, "byte256")
    assert read_ids(tmp_path, "byte256").tolist() == [97, 98, 0, 255]
    assert list(read_documents(tmp_path, "byte256")) == [b"ab\x00\xff"]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.binary(max_size=40), min_size=1, max_size=12), st.integers(1, 50))
def test_documents_come_back_whatever_the_shard_size(tmp_path_factory, documents, shard_ids):
    folder = tmp_path_factory.mktemp("shards")
    full = [d for d in documents if d]
    if not full:
        with pytest.raises(ValueError, match="no documents"):
            write_shards(documents, folder, shard_ids=shard_ids)
        assert os.listdir(folder) == []
        return
    counts = write_shards(documents, folder, shard_ids=shard_ids)
    assert list(read_documents(folder)) == full
    assert b"".join(text for text, _ in read_text(folder)) == b"".join(full)
    assert counts.ids == sum(map(len, full)) + len(full) == len(read_ids(folder))
    assert all(s["ids"] == shard_ids for s in counts.shards[:-1])


def test_equal_documents_give_equal_bytes(tmp_path):
    for name in ("a", "b"):
        write_shards([b"x" * 5000, b"y"], tmp_path / name, shard_ids=700, source="s")
    names = sorted(os.listdir(tmp_path / "a"))
    assert len(names) == 9
    assert all((tmp_path / "a" / n).read_bytes() == (tmp_path / "b" / n).read_bytes() for n in names)


def test_an_interruption_leaves_what_was_there(tmp_path):
    write_shards([b"old"], tmp_path)

    def documents():
        yield b"new" * 100
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(documents(), tmp_path, shard_ids=10, overwrite=True)
    assert sorted(os.listdir(tmp_path)) == ["train_000000.bin", "train_manifest.json"]
    assert list(read_documents(tmp_path)) == [b"old"]


def test_existing_shards_are_kept_unless_overwriting(tmp_path):
    write_shards([b"a" * 50], tmp_path, shard_ids=10)
    with pytest.raises(ValueError, match=r"already holds train_000000\.bin"):
        write_shards([b"b"], tmp_path)
    write_shards([b"b"], tmp_path, overwrite=True)
    assert list(read_documents(tmp_path)) == [b"b"]  # and the five longer ones are gone
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="is a file"):
        write_shards([b"b"], tmp_path / "file")


def test_leftovers_of_a_killed_run_are_removed(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".train-{dead.pid}-abc").mkdir()
    (tmp_path / f".train-{os.getpid()}-abc").mkdir()
    write_shards([b"b"], tmp_path)
    assert f".train-{dead.pid}-abc" not in os.listdir(tmp_path)
    assert f".train-{os.getpid()}-abc" in os.listdir(tmp_path)


def test_a_full_disk_is_an_os_error_that_names_the_file(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, limits[1]))
    try:
        with pytest.raises(OSError, match=r"train_000000\.bin"):
            write_shards([b"x" * 5_000_000], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "options", [{"shard_ids": 0}, {"shard_ids": 1 << 31}, {"prefix": "../x"}, {"family": "byte999"}]
)
def test_impossible_options_are_refused(tmp_path, options):
    with pytest.raises(ValueError):
        ShardWriter(tmp_path, **options)


def shard(path, ids, magic=20240520, version=1, count=None, vocab=0):
    header = np.zeros(256, "<i4")
    header[:4] = magic, version, len(ids) if count is None else count, vocab
    path.write_bytes(header.tobytes() + np.asarray(ids, "<u2").tobytes())
    return str(path)


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        ({"magic": 7}, "magic at offset 0 is 7"),
        ({"version": 9}, "version at offset 4 is 9"),
        ({"count": 5}, "should have 1034 bytes, but it has 1030"),
        ({"ids": []}, "holds no ids"),
        ({"ids": [4, 260, 5]}, "id 260 at offset 1026 is outside byte260"),
        ({"vocab": 256}, "vocabulary at offset 12 is 256"),
    ],
)
def test_damaged_shards_are_format_errors_with_path_and_offset(tmp_path, fault, says):
    path = shard(tmp_path / "x.bin", **{"ids": [4, 5, 6], **fault})
    with pytest.raises(bytegolf.FormatError, match=says) as error:
        read_ids(path)
    assert path in str(error.value)


def test_missing_and_short_shards_are_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.bin: No such file"):
        read_ids(tmp_path / "none.bin")
    (tmp_path / "short.bin").write_bytes(b"x")
    with pytest.raises(bytegolf.FormatError, match="has 1 bytes"):
        read_ids(tmp_path / "short.bin")
    with pytest.raises(ValueError, match="id -1 at index 1"):
        read_ids(np.array([4, -1]))
    with pytest.raises(TypeError):
        core.ShardSet(3)


def test_loader_gives_numpy_batches_and_resumes(tmp_path):
    write_shards([bytes(range(200))], tmp_path, shard_ids=70)
    loader = core.Loader(str(tmp_path), 4, 8, micro_batches=2, seed=3)
    x, y = loader.batch(0, 1)
    assert x.dtype == np.int32 and x.shape == y.shape == (2, 4)
    assert x.ravel().tolist() == [12 + i for i in range(8)] and (y == x + 1).all()  # ids 9..16 of bos, 4, 5, ...
    for shuffle in (False, True):
        a = core.Loader(tmp_path, 4, 8, micro_batches=2, seed=3, shuffle=shuffle)
        went = [a.batch(s, m) for s in range(20) for m in range(2)]
        b = core.Loader(core.ShardSet([tmp_path]), 4, 8, micro_batches=2, seed=3, shuffle=shuffle, prefetch=0)
        assert all(np.array_equal(b.batch(n // 2, n % 2), went[n]) for n in (39, 7, 8, 0))


def test_stats_count_and_compress(tmp_path):
    text = b"the quick brown fox " * 500
    write_shards([text, b"\x00"], tmp_path)
    stats = data_stats(tmp_path)
    assert (stats.documents, stats.bytes, stats.ids, stats.shards) == (2, 10_001, 10_003, 1)
    assert stats.compressed_bytes == 10_001
    assert set(stats.compressors) >= {"zlib -9", "bz2 -9", "xz -9e"}
    assert all(0 < bpb < 0.5 for bpb in stats.compressors.values())
    assert stats_table(stats).row_count == 5 + len(stats.compressors)
    write_shards([bytes(range(256)) * 4], tmp_path / "flat", "byte256")
    flat = data_stats(tmp_path / "flat", "byte256", compress_bytes=0)
    assert flat.entropy_bpb == 8.0 and flat.documents == 1 and flat.compressors == {}
    with pytest.raises(ValueError, match="no data"):
        compressor_bpb(b"")


def test_a_published_shard_truncated_while_it_is_read_is_named(tmp_path):
    path = tmp_path / "fineweb_train_000000.bin"
    shard(path, np.ones(sentencepieces.CHUNK_IDS * 2 + 5), vocab=1024)
    chunks = sentencepieces._chunks(path)
    at, ids = next(chunks)
    assert at == 0 and len(ids) == sentencepieces.CHUNK_IDS
    os.truncate(path, 1024 + 2 * sentencepieces.CHUNK_IDS + 40)
    with pytest.raises(bytegolf.FormatError, match=rf"ends at offset {1064 + 2 * sentencepieces.CHUNK_IDS} though"):
        next(chunks)
