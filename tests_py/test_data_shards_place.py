"""Shards get to their names all or none, whatever kills the writer, and one process at a time writes into a folder."""

import errno
import os
import shutil
import signal

import pytest

from bytegolf import FormatError
from bytegolf.data import ShardWriter, read_documents, write_shards
from bytegolf.data.folder import LOCK
from bytegolf.data.prepare import PrepareOptions, prepare
from bytegolf.data.verify import verify_folder
from bytegolf.manifest import JOURNAL

CALLS = ("replace", "rename", "unlink", "rmdir", "fsync", "mkdir", "link")  # of os: all that changes a folder
OLD = {"train": [b"old one " * 9, b"old three"], "val": [b"old two " * 5, b"old four"]}
NEW = {"train": [b"new one"], "val": [b"new two"]}


def documents(folder):
    """What the splits hold; None for one that refuses to be read because of the journal."""
    found = {}
    for split in ("train", "val"):
        try:
            found[split] = list(read_documents(folder, split=split))
        except FormatError as error:
            assert JOURNAL in str(error)
            found[split] = None
    return found


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder of OLD in several shards, and the sources of NEW, which needs fewer."""
    place = tmp_path_factory.mktemp("place")
    for split, texts in OLD.items():
        write_shards(texts, place / "old", prefix=split, shard_ids=20)
    (place / "new").mkdir()
    for number, text in enumerate([NEW["train"][0], NEW["val"][0]]):
        (place / "new" / f"{number}.txt").write_bytes(text)
    return place


def overwrite(place, folder):
    prepare(PrepareOptions([place / "new"], folder, val_every=2, shard_ids=6, overwrite=True))


def at_call(number, happens):
    """Wraps the calls so that `happens` is called in place of the one of that number."""
    count = 0

    def wrap(call):
        def wrapped(*args, **kwargs):
            nonlocal count
            count += 1
            return happens() if count == number else call(*args, **kwargs)

        return wrapped

    return [(name, wrap(getattr(os, name))) for name in CALLS]


def finish(folder, started_from):
    """The next writer finishes what was begun, and says so; afterwards the folder is whole and holds nothing else."""
    with pytest.raises(ValueError, match=r"now holds what an interrupted|already holds"):
        write_shards([b"x"], folder)
    found = documents(folder)
    assert found in (OLD, NEW)
    if started_from in (OLD, NEW):
        assert found == started_from
    assert [f for f in verify_folder(folder) if f.fault] == []
    assert all(not name.startswith(".") for name in os.listdir(folder))
    return found


def test_a_kill_at_any_call_leaves_the_old_set_or_the_new_one(places, tmp_path):
    seen = []
    for number in range(1, 200):
        folder = shutil.copytree(places / "old", tmp_path / str(number))
        child = os.fork()
        if child == 0:
            try:
                for name, call in at_call(number, lambda: os._exit(77)):
                    setattr(os, name, call)
                overwrite(places, folder)
            finally:
                os._exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        found = documents(folder)
        assert found in (OLD, NEW, {"train": None, "val": None})
        if status == 0:
            assert found == NEW
            break
        assert status == 77
        seen.append("old" if finish(folder, found) == OLD else "new" if found == NEW else "finished")
    assert len(seen) > 20
    assert [*dict.fromkeys(seen)] == ["old", "finished", "new"]  # in this order, and no way back


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_a_call_that_fails_leaves_the_old_set_or_the_new_one(places, tmp_path, code, monkeypatch):
    def fails():
        raise OSError(code, os.strerror(code))

    seen = set()
    for number in range(1, 200):
        folder = shutil.copytree(places / "old", tmp_path / str(number))
        failed = False

        def happens():
            nonlocal failed
            failed = True
            fails()

        with monkeypatch.context() as patch:
            for name, call in at_call(number, happens):
                patch.setattr(os, name, call)
            try:
                overwrite(places, folder)
                ended = "well"
            except OSError as error:
                assert error.errno == code
                ended = "badly"
        found = documents(folder)
        assert found in (OLD, NEW, {"train": None, "val": None})
        assert ended == "badly" or found == NEW
        if not failed:
            break
        if ended == "badly" and found == OLD:
            assert all(name in ("", LOCK) or not name.startswith(".train-") for name in os.listdir(folder))
        for left in folder.glob(".*-*-*"):  # of this process, which lives: only its end frees the name
            if found["train"] is not None:
                shutil.rmtree(left)
        seen.add((ended, "old" if finish(folder, found) == OLD else "new"))
    assert not failed and {("badly", "old"), ("badly", "new")} <= seen


def test_the_second_process_is_refused_with_the_first_ones_number(tmp_path):
    go, ready = os.pipe()[::-1], os.pipe()
    child = os.fork()
    if child == 0:
        try:
            with ShardWriter(tmp_path, prefix="train") as writer:
                os.write(ready[1], b"x")
                os.read(go[1], 1)
                writer.add(b"the first one's")
                writer.commit()
        finally:
            os._exit(0)
    assert os.read(ready[0], 1) == b"x"
    for prefix in ("train", "val"):
        with pytest.raises(ValueError, match=rf"is being written to by process {child} on \S+; wait for it"):
            ShardWriter(tmp_path, prefix=prefix, overwrite=True)
    os.write(go[0], b"x")
    os.waitpid(child, 0)
    assert list(read_documents(tmp_path)) == [b"the first one's"]
    assert sorted(os.listdir(tmp_path)) == ["train_000000.bin", "train_manifest.json"]


def test_a_killed_process_holds_nothing(tmp_path):
    ready = os.pipe()
    child = os.fork()
    if child == 0:
        ShardWriter(tmp_path)
        os.write(ready[1], b"x")
        signal.pause()
    assert os.read(ready[0], 1) == b"x"
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    write_shards([b"after it"], tmp_path)
    assert sorted(os.listdir(tmp_path)) == ["train_000000.bin", "train_manifest.json"]


def test_one_process_may_write_two_prefixes_at_once_and_each_once(tmp_path):
    with ShardWriter(tmp_path, prefix="train") as train, ShardWriter(tmp_path, prefix="val") as val:
        with pytest.raises(ValueError, match="val shards, by this process"):
            ShardWriter(tmp_path, prefix="val")
        train.add(b"a"), val.add(b"b")
        val.commit()
        train.commit()
    assert documents(tmp_path) == {"train": [b"a"], "val": [b"b"]}
    assert LOCK not in os.listdir(tmp_path)


def test_what_appears_meanwhile_is_not_overwritten(tmp_path):
    with ShardWriter(tmp_path) as writer:
        writer.add(b"mine")
        write_shards([b"theirs"], tmp_path / "elsewhere")
        for name in ("train_000000.bin", "train_manifest.json"):  # by a program that asks no lock
            shutil.copyfile(tmp_path / "elsewhere" / name, tmp_path / name)
        with pytest.raises(ValueError, match="another process has written train shards there meanwhile"):
            writer.commit()
    assert list(read_documents(tmp_path)) == [b"theirs"]
    assert sorted(os.listdir(tmp_path)) == ["elsewhere", "train_000000.bin", "train_manifest.json"]


@pytest.mark.parametrize(
    "journal",
    [
        b"",
        b"[" * 100_000,
        b'{"format": 1, "moves": [["..", "x"]], "remove": []}',
        b'{"format": 1, "moves": [[".s", "../x"]], "remove": []}',
        b'{"format": 1, "moves": [], "remove": ["/etc/passwd"]}',
        b'{"format": 1, "moves": [], "remove": [3]}',
        b'{"format": 1, "moves": [[".s", "train_000000.bin"]], "remove": []}',  # which is nowhere
    ],
)
def test_a_journal_is_untrusted_input(tmp_path, journal):
    (tmp_path / JOURNAL).write_bytes(journal)
    with pytest.raises(FormatError, match=r"\.prepare\.journal"):
        ShardWriter(tmp_path)
    assert os.listdir(tmp_path) == [JOURNAL]
