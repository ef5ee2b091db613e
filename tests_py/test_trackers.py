"""Trackers get what log.jsonl holds, each step once, also after a resume; and nothing that a tracker does can stop a run."""

import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest

from bytegolf import trackers
from bytegolf.cli import main
from bytegolf.data.shards import write_shards
from bytegolf.errors import UserError
from bytegolf.log import RunLog, read_log, writer_lives
from bytegolf.record.facts import read_facts
from bytegolf.sweep.folder import log_ended
from bytegolf.trackers import attend
from bytegolf.trackers.feed import Feed, sent_by
from bytegolf.trackers.tensorboard import crc32c

# A package `wandb` that notes what it gets; each test may break one part of it.
FAKE = """
import ctypes, json, os, re, signal, sys, time
class Run:
    def log(self, values, step):
        {log}
        with open(os.environ["NOTES"], "a") as file:
            file.write(json.dumps([step, values]) + "\\n")
    def finish(self, exit_code):
        {finish}
def Settings(**_):
    pass
def init(**_):
    {init}
    return Run()
{top}
"""


@pytest.fixture
def fake(tmp_path, monkeypatch):
    """Makes the package; returns what reads its notes: (step, values) in the order of arrival."""
    folder, notes = tmp_path / "packages", tmp_path / "notes"
    folder.mkdir()
    real = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "wandb"}
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", str(folder))
    monkeypatch.setenv("NOTES", str(notes))

    def make(**parts):
        code = FAKE.format(**{"log": "pass", "finish": "pass", "init": "pass", "top": ""} | parts)
        (folder / "wandb.py").write_text(code)
        return lambda: [json.loads(text) for text in notes.read_text().splitlines()] if notes.exists() else []

    yield make
    sys.modules.pop("wandb", None)
    sys.modules.update(real)


def write_steps(journal, steps, first=1, factor=1.0):
    for step in range(first, first + steps):
        journal.write("step", step=step, bpb=factor * 8.0 / step, grad_norm=1.0, lr_factor=1.0, bytes=step * 4096)


def write_run(path, steps, first=1, factor=1.0, end="done"):
    journal = RunLog(path)
    journal.write("start", step=first - 1, seed=3, config={"model_dim": 16})
    write_steps(journal, steps, first, factor)
    score = {"window": 64, "stride": 16, "weights": "ema", "from": "artifact"}
    journal.write("val", step=first + steps - 1, bpb=factor * 2.0, **score)
    if end:
        journal.write("end", reason=end, step=first + steps - 1, artifact_bytes=1000, parameters=2000)
    journal.close()


def wait_for(what, seconds=30.0):
    limit = time.monotonic() + seconds
    while time.monotonic() < limit:
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError("waited in vain")


def tensorboard_scalars(folder):
    """{tag: [(step, value)]} as TensorBoard's own reader finds them."""
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = event_accumulator.EventAccumulator(str(folder), size_guidance={"scalars": 0, "tensors": 0})
    found.Reload()
    tags = found.Tags()["scalars"]
    return {tag: [(event.step, event.value) for event in found.Scalars(tag)] for tag in tags}


@pytest.mark.parametrize(
    ("data", "crc"), [(bytes(32), 0x8A9136AA), (b"\xff" * 32, 0x62A8AB43), (bytes(range(32)), 0x46DD794E)]
)
def test_the_crc_is_castagnolis(data, crc):
    """Values of RFC 3720, B.4."""
    assert crc32c(data) == crc != zlib.crc32(data)


def test_tensorboard_reads_every_number_of_the_log(tmp_path):
    write_run(tmp_path / "log.jsonl", 12)
    with Feed(tmp_path / "log.jsonl", "tensorboard") as feed:
        feed.run()
    got = tensorboard_scalars(tmp_path / "tensorboard")
    wanted = [line for line in read_log(tmp_path / "log.jsonl") if line["kind"] == "step"]
    for name in ("bpb", "grad_norm", "lr_factor", "bytes"):
        assert got[f"train/{name}"] == [(line["step"], np.float32(line[name])) for line in wanted]
    assert got["val/artifact_sliding_bpb"] == [(12, 2.0)]
    assert got["final/bits_per_weight"] == [(12, 4.0)]


def test_tensorboard_shows_the_options(tmp_path):
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write_run(tmp_path / "log.jsonl", 1)
    with Feed(tmp_path / "log.jsonl", "tensorboard") as feed:
        feed.run()
    found = event_accumulator.EventAccumulator(str(tmp_path / "tensorboard"))
    found.Reload()
    text = found.Tensors("config")[0].tensor_proto.string_val[0].decode()
    assert "| model_dim | 16 |" in text
    assert "| seed | 3 |" in text


@pytest.mark.parametrize("order", ["as it grew", "afterwards"])
def test_steps_done_again_count_once_in_tensorboard_with_their_new_values(tmp_path, order):
    path = tmp_path / "log.jsonl"
    write_run(path, 10, end="interrupted")
    if order == "as it grew":
        with Feed(path, "tensorboard") as feed:
            feed.run()
    write_run(path, 7, first=6, factor=3.0)
    with Feed(path, "tensorboard") as feed:
        feed.run()
    wanted = [(s, np.float32((1.0 if s < 6 else 3.0) * 8.0 / s)) for s in range(1, 13)]
    assert tensorboard_scalars(tmp_path / "tensorboard")["train/bpb"] == wanted


def test_a_tracker_that_only_grows_gets_each_step_of_a_resumed_run_once(tmp_path, fake):
    notes = fake()
    path = tmp_path / "log.jsonl"
    write_run(path, 10, end="interrupted")
    for first, steps in ((6, 7), (9, 6)):
        with Feed(path, "wandb") as feed:
            feed.run()
        write_run(path, steps, first=first)
    with Feed(path, "wandb") as feed:
        feed.run()
    trained = [step for step, values in notes() if "train/bpb" in values]
    assert trained == list(range(1, 15))


def test_sending_twice_sends_nothing_new_and_again_sends_all(tmp_path, fake, capsys):
    notes = fake()
    write_run(tmp_path / "log.jsonl", 5)
    words = ["track", str(tmp_path), "--to", "wandb,tensorboard"]
    told = []
    for arguments in (words, words, [*words, "--again"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
        told.append((capsys.readouterr().err.count("nothing new"), len(notes())))
    assert told == [(0, 7), (2, 7), (0, 14)]
    assert len(list((tmp_path / "tensorboard").rglob("events.out.tfevents.*"))) == 2


def test_another_run_in_the_same_folder_is_sent_whole(tmp_path, fake):
    notes = fake()
    path = tmp_path / "log.jsonl"
    for _ in range(2):
        write_run(path, 4)
        with Feed(path, "wandb") as feed:
            feed.run()
        path.unlink()
        time.sleep(0.002)  # the start line tells runs apart, by its time at least
    assert [step for step, values in notes() if "train/bpb" in values] == [1, 2, 3, 4] * 2


def test_what_a_package_raises_is_one_line_of_the_verb(tmp_path, fake, capsys):
    fake(log="raise KeyError('no luck')")
    write_run(tmp_path / "log.jsonl", 5)
    for words, told in (("wandb", "wandb: KeyError: 'no luck'"), ("wandbee", "wandbee; known: tensorboard")):
        with pytest.raises(SystemExit) as left:
            main(["track", str(tmp_path), "--to", words])
        assert left.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line


def test_one_process_at_a_time_sends_a_log_to_a_tracker(tmp_path, fake):
    fake()
    write_run(tmp_path / "log.jsonl", 5)
    with Feed(tmp_path / "log.jsonl", "wandb"):
        with pytest.raises(UserError, match="another process"), Feed(tmp_path / "log.jsonl", "wandb"):
            pass
        with Feed(tmp_path / "log.jsonl", "tensorboard") as other:
            assert other.run().step == 5


def attended(folder, steps=20):
    """The lines of a run that `wandb` follows, as the runner writes them."""
    folder.mkdir()
    journal = RunLog(folder / "log.jsonl")
    said = []
    attend.attend(journal, "wandb", folder, said.append)
    journal.write("start", step=0, config={"track": "wandb"})
    write_steps(journal, steps)
    return journal, said


def finish(journal):
    journal.write("end", reason="done", step=20)
    journal.close()


HANG = "time.sleep(1e6)"
HOSTILE = {
    "raises when imported": ({"top": "raise RuntimeError('no luck')"}, "no luck"),
    "raises when opened": ({"init": "raise RuntimeError('no luck')"}, "no luck"),
    "raises at a step": ({"log": "raise KeyError('no luck')"}, "no luck"),
    "has no disk": ({"log": "raise OSError(28, 'No space left on device')"}, "No space left"),
    "exits": ({"log": "sys.exit(0)"}, "status 0"),
    "exits at once": ({"init": "os._exit(0)"}, "status 0"),
    "crashes": ({"log": "ctypes.string_at(0)"}, "SIGSEGV"),
    "is killed": ({"log": "os.kill(os.getpid(), signal.SIGKILL)"}, "SIGKILL"),
}
STUCK = {
    "hangs when opened": {"init": HANG},
    "hangs at a step": {"log": HANG},
    "hangs at the end": {"finish": HANG},
    "hangs and holds the interpreter": {"log": "re.match('(a+)+$', 'a' * 64 + 'b')"},
    "hangs and ignores signals": {
        "init": "[signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; os.close(0); " + HANG
    },
    "hangs at exit": {"top": "import atexit; atexit.register(time.sleep, 1e6)"},
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_tracker_that_falls_is_told_once_while_the_run_goes_on(tmp_path, fake, name):
    parts, words = HOSTILE[name]
    fake(**parts)
    journal, said = attended(tmp_path / "run")
    path = tmp_path / "run" / "log.jsonl"

    def told():
        journal.write("checkpoint", step=20)
        return [line for line in read_log(path) if line["kind"] == "track"]

    (line,) = wait_for(told)
    finish(journal)
    assert words in line["problem"]
    assert (line["tracker"], line["sent_step"]) == ("wandb", 0)
    (once,) = [text for text in said if words in text]
    assert f"bytegolf track {tmp_path / 'run'} --to wandb" in once
    lines = read_log(path)
    assert [each["kind"] for each in lines].count("track") == 1
    assert lines[-1]["reason"] == "done"


@pytest.mark.parametrize("name", STUCK)
def test_a_tracker_that_hangs_holds_the_end_of_a_run_for_a_bounded_time(tmp_path, fake, monkeypatch, name):
    fake(**STUCK[name])
    monkeypatch.setattr(attend, "LAST_WORDS_S", 1.5)
    journal, said = attended(tmp_path / "run")
    started = time.monotonic()
    write_steps(journal, 200, first=21)
    assert time.monotonic() - started < 5.0  # no step waits
    time.sleep(1.0)  # for the process to get where it hangs
    started = time.monotonic()
    finish(journal)
    assert time.monotonic() - started < 9.0  # LAST_WORDS_S is 1.5
    lines = read_log(tmp_path / "run" / "log.jsonl")
    assert [line["kind"] for line in lines[-2:]] == ["track", "end"]
    assert "was ended" in lines[-2]["problem"]
    assert len([text for text in said if "was ended" in text]) == 1
    wait_for(lambda: not writers_of(tmp_path / "run"), 5.0)


def writers_of(folder):
    """Processes that still feed a tracker from this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = process.read_bytes().split(b"\0")
        except OSError:
            continue
        if b"--follow" in words and str(folder).encode() in words:
            found.append(int(process.parent.name))
    return found


def test_a_slow_tracker_delays_no_step_and_misses_none(tmp_path, fake, monkeypatch):
    monkeypatch.setattr(attend, "LAST_WORDS_S", 60.0)
    notes = fake(log="while not os.path.exists(os.environ['NOTES'] + '.go'): time.sleep(0.01)")
    journal, said = attended(tmp_path / "run", 1)
    write_steps(journal, 149, first=2)  # a step that waited for the tracker would wait for ever
    assert notes() == []
    Path(os.environ["NOTES"] + ".go").touch()
    finish(journal)
    assert [step for step, _ in notes()] == list(range(1, 151))
    assert len(said) == 1  # that it follows


@pytest.mark.parametrize("why", ["no package", "a folder of that name"])
def test_a_missing_package_is_told_once_with_the_line_that_installs_it(tmp_path, monkeypatch, why):
    class Spec:
        origin = None

    monkeypatch.setattr(trackers, "find_spec", lambda name: None if why == "no package" else Spec())
    journal, said = attended(tmp_path / "run")
    finish(journal)
    assert len(said) == 1
    assert "pip install 'bytegolf[track]'" in said[0]
    (line,) = [line for line in read_log(tmp_path / "run" / "log.jsonl") if line["kind"] == "track"]
    assert "pip install 'bytegolf[track]'" in line["problem"]


def test_a_system_that_starts_no_process_is_told_and_the_run_goes_on(tmp_path, fake, monkeypatch):
    fake()

    def refuse(*_, **__):
        raise OSError(11, "Resource temporarily unavailable")

    monkeypatch.setattr(subprocess, "Popen", refuse)
    journal, said = attended(tmp_path / "run")
    finish(journal)
    assert len(said) == 1
    assert "Resource temporarily unavailable" in said[0]
    assert read_log(tmp_path / "run" / "log.jsonl")[-1]["kind"] == "end"


def test_a_killed_run_leaves_no_process_behind_and_all_its_steps_sent(tmp_path, fake):
    notes = fake()
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path\n"
        "import test_trackers\n"
        "journal, _ = test_trackers.attended(Path(sys.argv[2]), 50)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    folder = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", code, str(Path(__file__).parent), str(folder)], timeout=60)
    assert done.returncode == -signal.SIGKILL
    wait_for(lambda: not writers_of(folder))
    assert [step for step, _ in notes()] == list(range(1, 51))
    assert sent_by(folder / "log.jsonl", "wandb").step == 50


TINY = """
num_layers = 2
model_dim = 16
num_heads = 2
num_kv_heads = 1
rope_dims = 4
xsa_last_n = 1
bigram_vocab_size = 0
jepa_chunk_size = 0
seq_len = 16
iterations = 30
train_batch_ids = 64
micro_batch_ids = 64
warmdown_iters = 2
muon_momentum_warmup_steps = 2
ema_decay = 0.5
log_every = 1
eval_stride = 8
device = "cpu"
"""


def train(folder, root, *words):
    """Exit status of one training run on a few bytes."""
    if not (root / "tiny.toml").exists():
        text = np.random.default_rng(0).choice(np.frombuffer(b"abcd ", np.uint8), 700).tobytes()
        write_shards([text], root / "data", prefix="train")
        write_shards([text[:90]], root / "data", prefix="val")
        (root / "tiny.toml").write_text(f'{TINY}train_data = "{root}/data"\nval_data = "{root}/data"\n')
    with pytest.raises(SystemExit) as left:
        main(["train", str(root / "tiny.toml"), *words, "--run", str(folder)])
    return left.value.code


def test_a_run_trains_packs_and_scores_the_same_beside_a_tracker_that_fails_and_one_that_works(tmp_path, fake, capsys):
    fake(log="raise RuntimeError('no luck')")
    assert train(tmp_path / "alone", tmp_path) == 0
    assert train(tmp_path / "tracked", tmp_path, "track=tensorboard,wandb") == 0
    alone, tracked = (read_facts(tmp_path / name / "log.jsonl") for name in ("alone", "tracked"))
    assert alone.disagreements == tracked.disagreements == ()
    assert alone.bpb == tracked.bpb
    assert alone.code_sha256 == tracked.code_sha256  # who follows a run is no part of its recipe
    assert capsys.readouterr().err.count("no luck") == 1
    losses = [
        (line["step"], np.float32(line["ce"])) for line in read_log(tmp_path / "alone" / "log.jsonl") if "ce" in line
    ]
    assert tensorboard_scalars(tmp_path / "tracked" / "tensorboard")["train/ce"] == losses


def test_another_tracker_after_a_resume_is_no_disagreement_and_another_option_is_one(tmp_path):
    assert train(tmp_path / "run", tmp_path, "iterations=3") == 0
    path = tmp_path / "run" / "log.jsonl"
    lines = [json.loads(text) for text in path.read_text().splitlines()]
    for option, value, words in (
        ("track", "tensorboard", []),
        (
            "grad_clip_norm",
            0.125,
            ["config changed where the run was resumed at step 3: grad_clip_norm from 0.3 to 0.125"],
        ),
    ):
        resumed = lines[0] | {"step": 3, "config": lines[0]["config"] | {option: value}}
        end = [line for line in lines if line["kind"] in ("val", "end")]
        begun = [line for line in lines if line not in end]
        path.write_text("".join(json.dumps(line) + "\n" for line in [*begun, resumed, *end]))
        changed = [found for found in read_facts(path).disagreements if "changed where" in found]
        assert changed == words


def test_an_unknown_tracker_is_refused_before_anything_is_made(tmp_path, capsys):
    assert train(tmp_path / "run", tmp_path, "track=tensorbored") == 2
    assert "tensorbored; known: tensorboard, wandb, trackio" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_what_trackers_say_after_the_end_stands_before_it(tmp_path):
    write_run(tmp_path / "log.jsonl", 2)
    journal = RunLog(tmp_path / "log.jsonl")
    journal.write("track", tracker="wandb", problem="late", sent_step=1)
    journal.close()
    assert log_ended(tmp_path)
    assert [line["kind"] for line in read_log(tmp_path / "log.jsonl")] == [
        "start",
        "step",
        "step",
        "val",
        "track",
        "end",
    ]


def test_the_lock_tells_whether_the_writer_lives_and_reading_does_not_lose_it(tmp_path):
    path = tmp_path / "log.jsonl"
    journal = RunLog(path)
    journal.write("start", step=0)
    assert read_log(path)[0]["locked"] is True
    assert writer_lives(path) is True
    journal.close()
    assert writer_lives(path) is False
    assert writer_lives(tmp_path / "none") is None


def leveldb_records(data):
    """Records of a .wandb file: 7 bytes of its own, then LevelDB's log format (blocks of 32 KiB; checksum, length, type)."""
    at, record = 7, b""
    while at + 7 <= len(data):
        if 32768 - at % 32768 < 7:
            at += 32768 - at % 32768
        size, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        record += data[at + 7 : at + 7 + size]
        at += 7 + size
        if kind in (1, 4):  # full, last
            yield record
            record = b""


def test_wandb_keeps_every_step_offline(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="needs package wandb: pip install 'bytegolf[track]'")
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.delenv("WANDB_MODE", raising=False)
    write_run(tmp_path / "log.jsonl", 6)
    done = subprocess.run(
        [sys.executable, "-m", "bytegolf", "track", str(tmp_path), "--to", "wandb"], capture_output=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    (file,) = tmp_path.glob("wandb/offline-run-*/*.wandb")
    steps = []
    for data in leveldb_records(file.read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {item.key or "/".join(item.nested_key): item.value_json for item in record.history.item}
            steps.append((record.history.step.num, float(row["train/bpb"])))
    assert steps == [(step, 8.0 / step) for step in range(1, 7)]


def test_trackio_keeps_every_step_in_its_local_database(tmp_path):
    pytest.importorskip("trackio", reason="needs package trackio: pip install 'bytegolf[track]'")
    write_run(tmp_path / "log.jsonl", 6)
    done = subprocess.run(
        [sys.executable, "-m", "bytegolf", "track", str(tmp_path), "--to", "trackio"],
        env={**os.environ, "TRACKIO_DIR": str(tmp_path / "trackio")},
        capture_output=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    with sqlite3.connect(tmp_path / "trackio" / "bytegolf.db") as database:
        rows = [(step, json.loads(metrics)) for step, metrics in database.execute("select step, metrics from metrics")]
    assert [(step, row["train/bpb"]) for step, row in rows if "train/bpb" in row] == [(s, 8.0 / s) for s in range(1, 7)]
