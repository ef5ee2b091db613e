"""Two data sets are the same when their ids are, in order; nothing else counts."""

import hashlib

import numpy as np
import pytest

from bytegolf import data_identity as module
from bytegolf._bytegolf import ShardSet
from bytegolf.data import write_shards
from bytegolf.data_identity import data_identity

TEXTS = [b"one document", b"another one", b"\x00\xff and a third"]


def test_it_is_the_sha256_of_vocabulary_length_and_ids():
    by_hand = hashlib.sha256(b"bytegolf data 1\nbyte260\n3\n" + bytes([1, 0, 101, 0, 3, 1])).hexdigest()
    assert data_identity(np.array([1, 101, 259])) == by_hand
    assert data_identity(ShardSet(np.array([1, 101, 259]))) == by_hand
    assert data_identity(np.array([1, 101, 255]), "byte256") != data_identity(np.array([1, 101, 255]), "byte260")


def test_names_folders_cuts_and_other_splits_do_not_change_it(tmp_path):
    write_shards(TEXTS, tmp_path / "a", shard_ids=7)
    write_shards(TEXTS, tmp_path / "b", shard_ids=1000, prefix="other")
    write_shards([b"held out"], tmp_path / "b", prefix="val")
    one = data_identity(tmp_path / "a")
    assert one == data_identity(str(tmp_path / "b" / "other_*.bin"))
    assert one == data_identity(sorted((tmp_path / "a").glob("*.bin")))
    assert one != data_identity(tmp_path / "b", split="val")


def test_swapped_missing_changed_and_reordered_shards_are_other_data(tmp_path):
    write_shards(TEXTS, tmp_path, shard_ids=10)
    (tmp_path / "train_manifest.json").unlink()  # which would refuse the changed one
    files = sorted(tmp_path.glob("*.bin"))
    found = {data_identity(files)}
    found.add(data_identity([files[1], files[0], *files[2:]]))
    found.add(data_identity(files[:-1]))
    found.add(data_identity([*files[:1], *files[2:]]))
    changed = bytearray(files[1].read_bytes())
    changed[1024] ^= 1
    files[1].write_bytes(changed)
    found.add(data_identity(files))
    write_shards(TEXTS[::-1], tmp_path / "sorted", shard_ids=10)
    found.add(data_identity(tmp_path / "sorted"))
    assert len(found) == 6


def test_a_long_stream_is_known_by_evenly_spaced_blocks(monkeypatch):
    monkeypatch.setattr(module, "WHOLE_IDS", 20)
    monkeypatch.setattr(module, "BLOCKS", 3)
    monkeypatch.setattr(module, "BLOCK_IDS", 4)
    ids = np.arange(4, 34, dtype="<u2")  # 30 ids: blocks begin at 0, 13 and 26
    blocks = np.concatenate([ids[0:4], ids[13:17], ids[26:30]])
    by_hand = hashlib.sha256(b"bytegolf data 1\nbyte260\n30\n" + blocks.tobytes()).hexdigest()
    assert data_identity(ids) == by_hand
    moved = np.concatenate([ids[:5], ids[6:], ids[5:6]])  # one id moved to the end shifts all after it
    assert data_identity(moved) != by_hand
    assert data_identity(ids[:29]) != by_hand


def test_what_cannot_be_read_is_named(tmp_path):
    with pytest.raises(ValueError, match=r"none\.bin"):
        data_identity(tmp_path / "none.bin")
