"""What the folder of a run promises: one writer at a time, the data it was begun with, a checkpoint whatever ends it, any name."""

import contextlib
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from shim import driver
from test_cli_train import TINY, text

from bytegolf import FormatError
from bytegolf.checkpoint import read_checkpoint
from bytegolf.cli import main
from bytegolf.data.shards import write_shards
from bytegolf.log import read_log
from bytegolf.record.facts import read_facts
from bytegolf.record.lock import NAME as LOCK
from bytegolf.run import runner
from bytegolf.trainer import Trainer

STEPS = 12


def bytegolf(*arguments):
    """Exit status of one command in this process."""
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code


def command(*arguments, **options):
    """One command in a process of its own."""
    words = [sys.executable, "-m", "bytegolf", *arguments]
    return subprocess.run(words, capture_output=True, timeout=300, check=False, **options)


def said(capsys):
    return " ".join(capsys.readouterr().err.split())


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    """Shards `data` in two files, and `tiny.toml`."""
    root = tmp_path_factory.mktemp("folder")
    for i in range(2):  # as many ids in each
        (root / f"part{i}").mkdir()
        write_shards([text(10 * i + j, 300)[:1400] for j in range(4)], root / f"part{i}", prefix="train")
    write_shards([text(100 + i, 60) for i in range(3)], root / "data", prefix="val")
    for i in range(2):
        (root / f"part{i}" / "train_000000.bin").rename(root / "data" / f"train_00000{i}.bin")
    (root / "tiny.toml").write_text(
        TINY.replace("val_every = 8", "val_every = 0") + "device = 'cpu'\n".replace("'", '"')
    )
    return root


@pytest.fixture
def place(kept, tmp_path):
    """A copy, to be changed."""
    shutil.copytree(kept, tmp_path / "p")
    return tmp_path / "p"


def words(place, *changes):
    data = [f"{name}_data={place / 'data'}" for name in ("train", "val")]
    return ["train", str(place / "tiny.toml"), *data, f"iterations={STEPS}", *changes]


class StopsAfter:
    """Interrupts that come after so many steps."""

    def __init__(self, steps):
        self.left, self.status = steps, 130

    def __call__(self, message):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    @property
    def asked(self):
        self.left -= 1
        return self.left < 0


@pytest.fixture
def stopped(place, monkeypatch, capsys):
    """A run in `place/run` that was stopped after 5 of its steps."""
    with monkeypatch.context() as patch:
        patch.setattr(runner, "Interrupts", StopsAfter(5))
        assert bytegolf(*words(place), "--run", place / "run") == 130
    assert "stopped after step 5" in said(capsys)
    return place / "run"


def resume(run, *changes):
    return bytegolf("train", "--resume", "--run", run, *changes)


def steps_of(run):
    return [line["step"] for line in read_log(run / "log.jsonl") if line["kind"] == "step"]


# The identity of data.


def test_a_run_says_which_data_it_was_begun_with_and_goes_on_over_the_same_elsewhere(place, stopped):
    start = read_log(stopped / "log.jsonl")[0]
    assert len(start["train_sha256"]) == len(start["val_sha256"]) == 64
    (place / "data").rename(place / "moved")
    moved = [f"{name}_data={place / 'moved'}" for name in ("train", "val")]
    assert bytegolf("train", *moved, "--resume", "--run", stopped) == 0
    facts = read_facts(stopped / "log.jsonl")
    assert facts.disagreements == () and facts.alone
    assert (facts.train_sha256, facts.val_sha256) == (start["train_sha256"], start["val_sha256"])
    assert steps_of(stopped) == list(range(1, STEPS + 1))


def test_shards_that_changed_places_are_other_data(place, stopped, capsys):
    first, second = (place / "data" / f"train_00000{i}.bin" for i in range(2))
    first.rename(place / "aside")
    second.rename(first)
    (place / "aside").rename(second)
    assert resume(stopped) == 2
    assert "other training data" in said(capsys)
    assert steps_of(stopped) == [1, 2, 3, 4, 5]


def test_one_changed_id_is_other_data(place, stopped, capsys):
    shard = place / "data" / "train_000001.bin"
    ids = bytearray(shard.read_bytes())
    ids[-2:] = (ids[-1] << 8 | ids[-2] ^ 1).to_bytes(2, "little")
    shard.write_bytes(ids)
    assert resume(stopped) == 2
    assert "other training data" in said(capsys)


def test_other_held_out_text_is_refused_before_the_first_step(place, stopped, capsys):
    write_shards([text(300, 400)], place / "other", prefix="val")
    assert resume(stopped, f"val_data={place / 'other'}") == 2
    assert "other held-out data than the run was scored on before" in said(capsys)
    assert steps_of(stopped) == [1, 2, 3, 4, 5]


# One writer.


def wait_for_step(log, step, process):
    until = time.monotonic() + 240
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError, ValueError):
            if any(line["kind"] == "step" and line["step"] >= step for line in read_log(log)):
                return
        time.sleep(0.05)
    raise AssertionError(process.communicate()[1])


def test_a_second_writer_is_refused_and_told_who_is_at_work(place, capsys):
    run, long = place / "run", words(place, "iterations=1000000", "checkpoint_every=2")
    first = subprocess.Popen([sys.executable, "-m", "bytegolf", *long, "--run", run], stderr=subprocess.PIPE)
    try:
        wait_for_step(run / "log.jsonl", 5, first)
        config = (run / "config.toml").read_bytes()
        for again in (["--resume"], []):
            assert bytegolf(*long, "seed=9", *again, "--run", run) == 2
            assert f"process {first.pid} on " in said(capsys)
        assert (run / "config.toml").read_bytes() == config
        assert sum(line["kind"] == "start" for line in read_log(run / "log.jsonl")) == 1
    finally:
        first.kill()
        first.communicate()
    assert (run / LOCK).exists()
    assert resume(run, "iterations=1000001") == 2  # refused for its options, not for the lock of the dead
    assert "`iterations = 1000000` there" in said(capsys)
    assert not (run / LOCK).exists()


def test_a_log_of_two_writers_or_of_none_that_held_it_is_not_submitted(place, stopped, capsys):
    assert resume(stopped) == 0
    log = stopped / "log.jsonl"
    good = log.read_text().splitlines(keepends=True)
    submit = ["submit", stopped, "--name", "N", "--author", "A", "--github-id", "a", "--track", "non_record_16mb"]
    submit += ["--out", place / "out"]

    def refused(lines):
        log.write_text("".join(lines))
        capsys.readouterr()
        assert bytegolf(*submit) == 1
        return " ".join(capsys.readouterr().out.split())

    step = next(i for i, line in enumerate(good) if '"step": 9,' in line)
    assert "two processes wrote this log" in refused([*good[: step + 1], good[step - 1], *good[step + 1 :]])
    assert "ends 2 times" in refused([*good[:-1], good[-1], good[-1]])
    unlocked = [json.loads(line) for line in good]
    for line in unlocked:
        if line["kind"] == "start":
            del line["lock"]
            line["locked"] = False
    assert "without a lock" in refused([json.dumps(line) + "\n" for line in unlocked])
    log.write_text("".join(good))
    assert bytegolf(*submit) == 0


# A checkpoint whatever ends it.


def test_damage_in_the_data_ends_a_run_with_a_checkpoint_an_end_line_and_the_words(place, monkeypatch, capsys):
    step = Trainer.step

    def failing(self):
        if self.steps_done == 3:
            raise FormatError("shard x.bin: ended at byte 5000 of 9000")
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", failing)
        assert bytegolf(*words(place), "--run", place / "run") == 2
    assert "shard x.bin: ended at byte 5000 of 9000" in said(capsys)
    end = read_log(place / "run" / "log.jsonl")[-1]
    assert (end["kind"], end["step"]) == ("end", 3) and "x.bin" in end["reason"]
    assert read_checkpoint(place / "run" / "checkpoints")[1]["progress"]["step"] == 3
    assert resume(place / "run") == 0
    assert steps_of(place / "run") == list(range(1, STEPS + 1))


def test_a_shard_cut_short_under_a_run_ends_it_with_a_checkpoint_and_the_place(place, monkeypatch, capsys):
    shard = next((place / "data").glob("train_*.bin"))
    step, size = Trainer.step, shard.stat().st_size

    def cutting(self):
        if self.steps_done == 3:
            os.truncate(shard, 1024)
        return step(self)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "step", cutting)
        assert (
            bytegolf(*words(place, "iterations=100000"), "--run", place / "run") == 2
        )  # batches read ahead are used up first
    words_said = said(capsys)
    assert shard.name in words_said and "1024" in words_said and size > 1024
    end = read_log(place / "run" / "log.jsonl")[-1]
    assert end["kind"] == "end" and shard.name in end["reason"]
    assert read_checkpoint(place / "run" / "checkpoints")[1]["progress"]["step"] == end["step"] >= 3


def test_a_full_disk_keeps_the_newest_checkpoint_and_says_what_to_free(place):
    if driver.library() is None:
        pytest.skip("no C compiler")
    run, counted = place / "run", place / "calls"
    shim = {"FAILING_CALLS_UNDER": run, "FAILING_CALLS_ERRNO": errno.ENOSPC, "FAILING_CALLS_EVER": 1}
    often = words(place, "checkpoint_every=2", "--run", str(run))
    done = command(*often, env=driver.environment(**shim, FAILING_CALLS_COUNT=counted))
    assert done.returncode == 0, done.stderr
    artifact = read_log(run / "log.jsonl")[-1]["made"]["artifact_sha256"]
    calls = counted.read_text().split()
    at = len(calls) // 2
    for which in (at, at + 11, len(calls) - 20):
        shutil.rmtree(run)
        done = command(*often, env=driver.environment(**shim, FAILING_CALLS_AT=which))
        words_said = " ".join(done.stderr.decode().split())
        assert done.returncode == 2, words_said
        assert str(run) in words_said and "bytes are free" in words_said and "make room" in words_said
        assert f"bytegolf train --resume --run {run}" in words_said
        at_step = read_checkpoint(run / "checkpoints")[1]["progress"]["step"]
        assert at_step > 0
        assert resume(run) == 0  # there is room again
        assert steps_of(run)[-1] == STEPS
        assert read_log(run / "log.jsonl")[-1]["made"]["artifact_sha256"] == artifact


# Any name.

UTF8 = {"LC_ALL": "C.UTF-8"}
ASCII = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


@pytest.mark.parametrize("locale", [UTF8, ASCII], ids=["UTF-8", "ASCII"])
@pytest.mark.parametrize("name", [b"r\xff", "ré €".encode()], ids=["not UTF-8", "UTF-8"])
def test_a_run_folder_may_have_any_name(place, locale, name):
    env = {**os.environ, **locale}
    run = os.fsencode(place) + b"/" + name
    done = command(*words(place), "--run", run, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    for file in ("artifact.bg", "submission.json", "README.md", "log.jsonl"):
        assert os.path.getsize(run + b"/" + file.encode()) > 0
    assert json.loads(Path(os.fsdecode(run), "submission.json").read_bytes())["step_stop"] == STEPS
    done = command("eval", run + b"/artifact.bg", str(place / "data"), "--json", env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    assert json.loads(done.stdout)["targets"] > 0
    weights = os.fsencode(place) + b"/w" + name + b".safetensors"
    for arguments in (["export", run, weights], ["eval", weights, str(place / "data")], ["report", run]):
        done = command(*arguments, env=env)
        assert done.returncode == 0, done.stderr[-2000:]
    done = command("eval", run + b"/none.bg", str(place / "data"), env=env)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1 and b"none.bg" in done.stderr


@pytest.mark.parametrize("locale", [UTF8, ASCII], ids=["UTF-8", "ASCII"])
def test_data_under_a_name_that_options_cannot_hold_is_refused_before_anything_is_made(place, locale):
    env = {**os.environ, **locale}
    odd = os.fsencode(place) + b"/d\xff"
    os.rename(place / "data", odd)
    run = str(place / "run")
    done = command("train", str(place / "tiny.toml"), b"train_data=" + odd, b"val_data=" + odd, "--run", run, env=env)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1, done.stderr
    assert b"train_data" in done.stderr and b"is not UTF-8" in done.stderr and b"udcff" in done.stderr
    assert not os.path.exists(run)
    done = command("eval", str(place / "none.bg"), odd, env=env)
    assert done.returncode == 2 and done.stderr.count(b"\n") == 1


@pytest.mark.parametrize("locale", [UTF8, ASCII], ids=["UTF-8", "ASCII"])
def test_data_under_a_name_in_utf8_is_read_in_any_locale(place, locale):
    env = {**os.environ, **locale}
    odd = os.fsencode(place) + "/dé €".encode()
    os.rename(place / "data", odd)
    run = str(place / "run")
    data = [b"train_data=" + odd, b"val_data=" + odd]
    done = command("train", str(place / "tiny.toml"), *data, "iterations=3", "--run", run, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    other = command("train", "--resume", "--run", run, env={**os.environ, **UTF8})  # the options are the same text
    assert other.returncode == 0, other.stderr[-2000:]


# Small.


def test_numbers_outside_what_the_core_counts_with_are_named(place, stopped, capsys):
    assert resume(stopped) == 0
    data = place / "data"
    for arguments, expected in [
        (["generate", stopped, "--seed", -1], "seed = -1 is outside 0 to 18446744073709551615"),
        (["generate", stopped, "--seed", 10**23], f"seed = {10**23} is outside"),
        (["generate", stopped, "--n", -5], "n = -5 is outside"),
        (["generate", stopped, "--n", 10**23], f"n = {10**23} is outside"),
        (["eval", stopped, data, "--window", 0], "window = 0 is outside 1 to"),
        (["eval", stopped, data, "--stride", 0], "stride = 0 is outside 1 to"),
        (["eval", stopped, data, "--window", 10**23], "window"),
        (["surprise", stopped, place / "tiny.toml", "--stride", 0], "stride = 0 is outside 1 to"),
    ]:
        capsys.readouterr()
        assert bytegolf(*arguments) == 2, arguments
        found = capsys.readouterr()
        assert expected in found.err and found.err.count("\n") == 1 and not found.out


def test_ctrl_c_while_another_run_is_refused_leaves_the_first_alone(place):
    run = place / "run"
    first = subprocess.Popen(
        [sys.executable, "-m", "bytegolf", *words(place, "iterations=1000000"), "--run", run], stderr=subprocess.PIPE
    )
    try:
        wait_for_step(run / "log.jsonl", 2, first)
        done = command(*words(place), "--run", str(run))
        assert done.returncode == 2 and str(first.pid).encode() in done.stderr
        first.send_signal(signal.SIGINT)
        _, err = first.communicate(timeout=120)
    finally:
        first.kill()
    assert first.returncode == 130 and b"--resume" in err
    assert np.all(np.diff(steps_of(run)) == 1)
