"""A prepared folder is read only as it was prepared: names, counts and hashes against its manifest, which is not trusted either."""

import json
import os
import shutil
import sys
from contextlib import suppress

import numpy as np
import pytest

from bytegolf import Config, FormatError, Trainer
from bytegolf import _bytegolf as core
from bytegolf import manifest as module
from bytegolf.cli import main
from bytegolf.data import read_ids, write_shards
from bytegolf.data.shards import check_hashes
from bytegolf.data.stats import data_stats
from bytegolf.data.verify import verify_folder
from bytegolf.streams import read_stream

DOCUMENTS = [b"the first document", b"a second one", b"and the third of them"]  # 54 ids with bos


@pytest.fixture
def folder(tmp_path):
    """val_000000.bin ... val_000004.bin of 10 ids each, val_000005.bin of 4, and their manifest."""
    place = tmp_path / "data"
    assert write_shards(DOCUMENTS, place, prefix="val", shard_ids=10).ids == 54
    return place


def refused(where, *says, family="byte260", split="", hashes=False):
    with pytest.raises(FormatError) as error:
        core.ShardSet(where, family, split, hashes=hashes)
    for words in ("val_manifest.json", *says):
        assert words in str(error.value)


def shard(path, ids):
    """Writes a shard that is in order by itself."""
    header = np.zeros(256, "<i4")
    header[:4] = 20240520, 1, len(ids), 260
    path.write_bytes(header.tobytes() + np.asarray(ids, "<u2").tobytes())


def test_a_prepared_folder_is_read_by_any_name(folder, monkeypatch):
    everything = read_ids(folder)
    assert len(everything) == 54
    for where in (str(folder / "val_*.bin"), str(folder / "*.bin"), sorted(folder.glob("*.bin"))):
        assert np.array_equal(read_ids(where), everything)
    assert read_ids(folder / "val_000005.bin").tolist() == everything[50:].tolist()
    assert read_ids(folder / "val_00000[12].bin").tolist() == everything[10:30].tolist()
    monkeypatch.chdir(folder)
    assert len(read_ids("val_000005.bin")) == 4 and len(read_ids("*.bin")) == 54 and len(read_ids(".")) == 54


@pytest.mark.parametrize("number", [0, 2, 5])
def test_a_missing_shard_is_named(folder, number):
    name = f"val_00000{number}.bin"
    (folder / name).unlink()
    says = ("lists 6 shards", f"{name} is missing")
    refused(folder, *says)
    refused(folder, *says, split="val")
    refused(folder / "*.bin", *says)
    refused(folder / "val_*.bin", *says)
    refused(folder / name, *says)
    assert len(read_ids(folder / "val_000001.bin")) == 10  # which is as it was


def test_every_reader_refuses(folder):
    (folder / "val_000003.bin").unlink()
    config = Config.preset("demo").replace(seq_len=8, micro_batch_ids=8, train_batch_ids=8)
    readers = [
        lambda: read_ids(folder),
        lambda: data_stats(folder),
        lambda: read_stream(str(folder), "byte260"),
        lambda: check_hashes(folder),
        lambda: core.Loader(folder, 4, 8),
        lambda: Trainer(config, folder / "val_*.bin"),
    ]
    for reader in readers:
        with pytest.raises(FormatError, match=r"val_manifest\.json lists 6 shards, but val_000003\.bin is missing"):
            reader()


@pytest.mark.parametrize("name", ["val_000006.bin", "val_7.bin", "x_val_000000.bin"])
def test_a_foreign_shard_is_named(folder, name):
    shutil.copyfile(folder / "val_000005.bin", folder / name)
    refused(folder, f"does not list '{name}'", split="val")
    refused(folder / "*val_*.bin", f"does not list '{name}'")
    if name.startswith("val_"):
        refused(folder / name, f"does not list '{name}'")
    else:
        assert len(read_ids(folder / name)) == 4  # named for itself, it belongs to no manifest


def test_a_renamed_set_is_not_the_prepared_one(folder):
    for path in folder.glob("*.bin"):
        path.rename(folder / f"fineweb_{path.name}")
    refused(folder, "val_000000.bin is missing")


@pytest.mark.parametrize("ids", [9, 11])
def test_another_number_of_ids_is_named_with_both(folder, ids):
    shard(folder / "val_000002.bin", [5] * ids)
    refused(folder, "val_000002.bin should hold 10 ids in 1044 bytes", f"but it has {1024 + 2 * ids} bytes")
    refused(folder / "val_000002.bin", "should hold 10 ids")
    assert len(read_ids(folder / "val_000001.bin")) == 10


def test_changed_and_exchanged_shards_are_known_by_their_hash(folder, monkeypatch):
    a, b = folder / "val_000001.bin", folder / "val_000003.bin"
    first, second = a.read_bytes(), b.read_bytes()
    a.write_bytes(second), b.write_bytes(first)
    refused(folder, "val_000001.bin was changed or exchanged")
    a.write_bytes(first), b.write_bytes(second[:-2] + b"\x09\x00")
    refused(folder, "val_000003.bin was changed or exchanged")
    monkeypatch.setattr(module, "HASHED_BYTES", 5000)  # six files are more than that, each is less
    assert len(read_ids(folder)) == 54  # a large set is hashed on request alone
    assert len(read_ids(sorted(folder.glob("*.bin")))) == 54
    refused(folder, "val_000003.bin was changed or exchanged", hashes=True)
    with pytest.raises(FormatError, match="val_000003"):
        check_hashes(folder, "byte260", "val")


def test_another_family_is_named(folder):
    refused(folder, "its shards are byte260, but byte256 is asked for", family="byte256")


def test_each_split_answers_for_itself(folder):
    write_shards(DOCUMENTS, folder, prefix="train", shard_ids=30)
    (folder / "train_000000.bin").unlink()
    assert len(read_ids(folder, split="val")) == 54
    with pytest.raises(FormatError, match=r"train_manifest\.json .* train_000000\.bin is missing"):
        read_ids(folder, split="train")
    (folder / "train_manifest.json").write_text("{")
    assert len(read_ids(folder, split="val")) == 54


def test_a_folder_without_a_manifest_is_taken_as_it_is(folder):
    (folder / "val_000001.bin").unlink()
    (folder / "val_manifest.json").unlink()
    (folder / "dataset_manifest.json").write_text('{"shards": "of another program"}')
    (folder / "_manifest.json").write_text("[]")
    assert len(read_ids(folder)) == 44
    check_hashes(folder)


ROW = {"file": "val_000000.bin", "ids": 10, "sha256": "0" * 64}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\xff",
        b"[]",
        b"null",
        b"[" * 100_000,
        b'{"shards":' * 50_000,
        b'{"format": 1, "family": "byte260", "ids": ' + b"9" * 5000 + b', "shards": []}',
        {"format": 2},
        {"format": True},
        {"format": "1"},
        {"family": 260},
        {"family": None},
        {"shards": {}},
        {"shards": []},
        {"shards": [3]},
        {"shards": [ROW, ROW], "ids": 20},
        {"shards": [{**ROW, "file": "../val_000000.bin"}]},
        {"shards": [{**ROW, "file": "/etc/passwd"}]},
        {"shards": [{**ROW, "file": "other_000000.bin"}]},
        {"shards": [{**ROW, "file": "val_000000.bin\n"}]},
        {"shards": [{**ROW, "file": ["val_000000.bin"]}]},
        {"shards": [{**ROW, "ids": -1}]},
        {"shards": [{**ROW, "ids": 10.0}]},
        {"shards": [{**ROW, "ids": True}], "ids": 1},
        {"shards": [{**ROW, "ids": 1 << 40}], "ids": 1 << 40},
        {"shards": [{**ROW, "ids": None}]},
        {"shards": [{**ROW, "sha256": "0" * 63}]},
        {"shards": [{**ROW, "sha256": 0}]},
        {"shards": [{"file": "val_000000.bin"}]},
        {"ids": 11},
        {"ids": float("nan")},
        {"ids": "\x1b[31m" * 1000},
    ],
)
def test_a_manifest_is_untrusted_input(folder, body):
    if not isinstance(body, bytes):
        body = json.dumps({"format": 1, "family": "byte260", "ids": 10, "shards": [ROW], **body}).encode()
    (folder / "val_manifest.json").write_bytes(body)
    with pytest.raises(FormatError, match=r"val_manifest\.json") as error:
        read_ids(folder)
    assert len(str(error.value)) < 600 and "\x1b" not in str(error.value)


def test_a_manifest_that_is_no_file_is_refused_without_waiting(folder):
    (folder / "val_manifest.json").unlink()
    os.mkfifo(folder / "val_manifest.json")
    refused(folder, "not a regular file")
    (folder / "val_manifest.json").unlink()
    (folder / "val_manifest.json").mkdir()
    with pytest.raises((FormatError, OSError), match=r"val_manifest\.json"):
        read_ids(folder)


def test_verify_reads_every_byte_and_names_each_fault(folder, capsys):
    assert [f.fault for f in verify_folder(folder)] == [""] * 6
    write_shards(DOCUMENTS, folder, "byte256", shard_ids=1000)  # each manifest with its own family
    (folder / "val_000000.bin").unlink()
    shard(folder / "val_000001.bin", [5] * 9)
    data = (folder / "val_000002.bin").read_bytes()
    (folder / "val_000002.bin").write_bytes(data[:-1] + b"\x01")
    shard(folder / "other.bin", [5])
    found = {f.file: f.fault for f in verify_folder(folder) if f.fault}
    assert found.keys() == {"val_000000.bin", "val_000001.bin", "val_000002.bin", "other.bin"}
    assert "is missing" in found["val_000000.bin"] and "foreign" in found["other.bin"]
    assert "should hold 10 ids" in found["val_000001.bin"] and "SHA-256" in found["val_000002.bin"]
    with pytest.raises(SystemExit) as end:
        main(["data", "verify", str(folder), "--json"])
    assert end.value.code == 1
    assert {f["file"] for f in json.loads(capsys.readouterr().out) if f["fault"]} == found.keys()
    with pytest.raises(ValueError, match=r"holds no PREFIX_manifest\.json"):
        verify_folder(folder.parent)


def test_verify_ends_with_status_0_when_all_is_as_it_was(folder, capsys):
    with pytest.raises(SystemExit) as end:
        main(["data", "verify", str(folder)])
    assert end.value.code == 0
    assert capsys.readouterr().out.count("yes") == 6


def test_an_undeclared_vocabulary_is_said_on_one_line(tmp_path, capsys):
    header = np.zeros(256, "<i4")
    header[:4] = 20240520, 1, 3, 0
    (tmp_path / "x.bin").write_bytes(header.tobytes() + np.array([1, 101, 102], "<u2").tobytes())
    with pytest.warns(UserWarning, match=r"x\.bin declares no vocabulary .* taken for byte260"):
        core.ShardSet(tmp_path / "x.bin")
    with pytest.raises(SystemExit) as end:
        main(["data", "stats", str(tmp_path / "x.bin"), "--compress-bytes", "0"])
    assert end.value.code == 0
    with pytest.raises(SystemExit) as end:
        main(["data", "stats", str(tmp_path / "x.bin"), "--family", "byte256"])
    assert end.value.code == 2
    assert "is not byte256" in capsys.readouterr().err


def test_a_shard_truncated_under_a_run_is_an_error_of_the_step(tmp_path):
    shard(tmp_path / "x.bin", [1] + [4 + i % 250 for i in range(5000)])
    sizes = {"seq_len": 16, "micro_batch_ids": 64, "train_batch_ids": 64, "shuffle": False, "iterations": 1000}
    small = {
        "num_layers": 1,
        "model_dim": 32,
        "num_heads": 2,
        "num_kv_heads": 1,
        "xsa_last_n": 0,
        "train_budget_s": 0.0,
    }
    trainer = Trainer(Config.preset("demo").replace(**sizes, **small), tmp_path / "x.bin")
    trainer.step()
    os.truncate(tmp_path / "x.bin", 1024 + 2 * 600)
    with pytest.raises(FormatError, match=r"x\.bin: ends at or before offset 2224 though it had 11026 bytes"):
        for _ in range(100):
            trainer.step()
    done = trainer.steps_done
    assert 1 <= done < 20
    trainer.checkpoint(tmp_path / "c")  # what was done is not lost
    with suppress(FormatError):
        trainer.step()
    assert trainer.steps_done == done


def test_a_file_name_that_is_not_utf8_is_read(tmp_path):
    folder = os.fsdecode(os.fsencode(tmp_path) + b"/d\xff")
    write_shards(DOCUMENTS, folder)
    shards = core.ShardSet(folder)
    assert shards.shards == [(folder + "/train_000000.bin", 54)]
    os.unlink(folder + "/train_000000.bin")
    shutil.copyfile(sys.executable, folder + "/train_000001.bin")
    with pytest.raises(FormatError, match="is missing"):
        core.ShardSet(folder)
