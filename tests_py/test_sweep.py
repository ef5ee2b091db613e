"""`bytegolf sweep` on the CPU: the queue, failures and retries, going on after Ctrl-C and after a kill, and its results."""

import contextlib
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from bytegolf.cli import main
from bytegolf.data.shards import write_shards
from bytegolf.log import read_log
from bytegolf.sweep.results import FIGURES, read_results

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
iterations = 4
train_batch_ids = 64
micro_batch_ids = 64
warmdown_iters = 2
muon_momentum_warmup_steps = 2
ema_decay = 0.5
log_every = 1
eval_stride = 8
device = "cpu"
"""
SPEC = """
config = "tiny.toml"
retries = 1
seeds = [0, 1]
[overrides]
train_data = "{data}"
val_data = "{data}"
[local]
devices = "cpu"
jobs = 2
threads = 1
"""
LONG = 'config = "tiny.toml"\nseeds = [0, 1, 2]\n[overrides]\ntrain_data = "{data}"\nval_data = "{data}"\n[local]\njobs = 2\nthreads = 1\n'


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with one training and one validation shard."""
    root = tmp_path_factory.mktemp("sweep data")  # with a space
    draw = np.random.default_rng(0)
    for prefix, size in (("train", 600), ("val", 60)):
        write_shards([bytes(draw.choice(list(b"abcde "), size).tolist())], root, prefix=prefix)
    return root


@pytest.fixture
def place(tmp_path, data):
    """A folder with tiny.toml, and a writer of sweep files."""
    (tmp_path / "tiny.toml").write_text(TINY)

    def write(text):
        path = tmp_path / "spec.toml"
        path.write_text(text.replace("{data}", str(data)))
        return path

    return write


def sweep(capsys, *words):
    """(status, standard output, standard error) of one sweep in this process."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["sweep", *map(str, words)])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def starts(out):
    """How often each run was started, by its folder's name."""
    logs = {path.parent.name: path for path in out.glob("*/log.jsonl")}
    return {name: path.read_text().count('"kind": "start"') for name, path in logs.items()}


def test_all_runs_are_made_and_a_second_call_makes_none(place, tmp_path, capsys):
    spec, out = (
        place(SPEC.replace("seeds = [0, 1]", "seeds = [0]") + "[groups.plain]\n[groups.no-smear]\nsmear = false\n"),
        tmp_path / "my sweep",
    )
    status, shown, _ = sweep(capsys, spec, "--out", out, "--dry-run")
    assert (status, out.exists()) == (0, False)
    assert "2 runs: 2 waiting" in shown
    status, shown, err = sweep(capsys, spec, "--out", out, "--groups", "plain")
    assert status == 0
    assert "2 runs: 1 done, 1 waiting" in shown
    status, shown, _ = sweep(capsys, spec, "--out", out)
    assert status == 0
    assert "2 runs: 2 done" in shown
    assert {"core 0", "core 1"} >= {line.split(" on ")[1] for line in err.splitlines() if ": running on " in line}
    rows = read_results(out)
    assert [(row["group"], row["seed"], row["smear"]) for row in rows] == [
        ("plain", 0, True),
        ("no-smear", 0, False),
    ]
    for row in rows:
        assert (row["status"], row["error"], row["steps"]) == ("done", None, 4)
        assert all(isinstance(row[name], int | float) for name in FIGURES)
        assert (out / row["folder"] / "checkpoints" / "latest").exists()
        end = read_log(out / row["folder"] / "log.jsonl")[-1]
        assert (row["bpb_sliding"], row["artifact_bytes"]) == (end["sliding"]["bpb"], end["artifact_bytes"])
    assert len({row["bpb_sliding"] for row in rows}) == 2
    status, shown, _ = sweep(capsys, spec, "--out", out, "--json")
    assert status == 0
    assert json.loads(shown)["done"] == 2
    assert [row["bpb_sliding"] for row in json.loads(shown)["runs"]] == [row["bpb_sliding"] for row in rows]
    assert set(starts(out).values()) == {1}
    # More seeds make more runs; what is there stays.
    spec.write_text(spec.read_text().replace("seeds = [0]", "seeds = [0, 1]"))
    assert sweep(capsys, spec, "--out", out)[0] == 0
    assert sorted(starts(out).values()) == [1] * 4
    # Another option would make other runs: refused, and nothing is lost.
    status, _, err = sweep(capsys, spec, "matrix_lr=0.5", "--out", out)
    assert status == 2
    assert "matrix_lr = 0.025, the sweep file now gives 0.5" in err
    assert "--out" in err
    assert len(read_results(out)) == 4


def test_a_failing_run_is_tried_again_and_told_with_its_last_words(place, tmp_path, capsys):
    spec = place(SPEC.replace("seeds = [0, 1]", "seeds = [5]") + '[groups.good]\n[groups.bad]\npack_weights = "swa"\n')
    status, shown, err = sweep(capsys, spec, "--out", tmp_path / "out")
    assert status == 1
    assert "2 runs: 1 done, 1 failed" in shown
    assert "trying again" in err
    assert "bad-seed-5: failed after 2 attempts" in err
    assert "    bytegolf: option pack_weights = swa, but this run only has raw, ema weights" in err
    good, bad = read_results(tmp_path / "out")
    assert (good["status"], bad["status"], bad["attempts"], bad["bpb_sliding"]) == ("done", "failed", 2, None)
    assert bad["error"].startswith("exit status 2: bytegolf: option pack_weights")
    # The second attempt went on from the first one's checkpoint: only what failed was done again.
    assert "resumes after step 4" in (tmp_path / "out" / "bad-seed-5" / "output.log").read_text()
    # The next call tries the failed one only.
    assert sweep(capsys, spec, "--out", tmp_path / "out")[0] == 1
    assert starts(tmp_path / "out") == {"good-seed-5": 1, "bad-seed-5": 4}


def test_a_run_without_a_checkpoint_starts_over_and_keeps_its_log(place, tmp_path, capsys):
    spec, out = place(SPEC.replace("seeds = [0, 1]", "seeds = [0]")), tmp_path / "out"
    spec.write_text("keep_checkpoints = false\n" + spec.read_text())
    (out / "base-seed-0").mkdir(parents=True)
    (out / "base-seed-0" / "log.jsonl").write_text('{"kind": "step", "step": 3}\n{"kind": "st')
    assert sweep(capsys, spec, "--out", out)[0] == 0
    assert not (out / "base-seed-0" / "checkpoints").exists()
    assert (out / "base-seed-0" / "log.1.jsonl").read_text().startswith('{"kind": "step", "step": 3}')
    assert [line["step"] for line in read_log(out / "base-seed-0" / "log.jsonl") if line["kind"] == "step"] == [
        1,
        2,
        3,
        4,
    ]


def start(place, out, *words):
    """A sweep of long runs in a process of its own, once two of them log steps."""
    spec = place(LONG)
    command = [sys.executable, "-m", "bytegolf", "sweep", str(spec), *words, "--out", str(out)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    limit = time.monotonic() + 300
    while time.monotonic() < limit and child.poll() is None:
        logs = [path.read_text() for path in out.glob("*/log.jsonl")]
        if sum('"step": 5,' in text for text in logs) == 2:
            return child, spec
        time.sleep(0.05)
    child.kill()
    for process in orphans(out):
        os.kill(process, signal.SIGKILL)
    pytest.fail(f"no two runs under way: {child.communicate()[1]}")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_leaves_checkpoints_and_the_same_command_goes_on(place, tmp_path, capsys, number):
    out = tmp_path / "out"
    child, spec = start(place, out, "iterations=1500")
    child.send_signal(number)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 128 + number
    assert "resume with: bytegolf sweep" in err
    assert [row["status"] for row in read_results(out)] == ["interrupted", "interrupted", "waiting"]
    for seed in (0, 1):
        assert (out / f"base-seed-{seed}" / "checkpoints" / "latest").exists()
    if number == signal.SIGTERM:
        return
    # With a checkpoint_every of its own: how a run is watched may change, what it computes not.
    status, _, err = sweep(capsys, spec, "iterations=1500", "checkpoint_every=1000", "--out", out)
    assert status == 0
    assert "resumes after step" in err
    for seed in range(3):
        lines = read_log(out / f"base-seed-{seed}" / "log.jsonl")
        assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, 1501))


def test_runs_outlive_a_killed_sweep_and_no_second_one_meets_them(place, tmp_path, capsys):
    out = tmp_path / "out"
    child, spec = start(place, out, "iterations=1000000")
    child.kill()
    child.communicate()
    words = (spec, "iterations=1000000", "--out", out)
    status, _, err = sweep(capsys, *words)
    assert status == 2
    assert "at work there" in err
    for process in orphans(out):
        os.kill(process, signal.SIGINT)
    # A dying process gives up its command line, by which orphans() knows it, before its files: the lock comes last.
    limit, free = time.monotonic() + 300, False
    with (out / ".lock").open() as lock:
        while not free and time.monotonic() < limit:
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                free = True
            time.sleep(0.05)
    assert free, f"the lock is held by {orphans(out)}"
    assert not orphans(out)
    assert all('"kind": "end"' in (out / f"base-seed-{seed}" / "log.jsonl").read_text() for seed in (0, 1))


def orphans(out):
    """Processes of runs below `out`."""
    found = []
    for entry in os.listdir("/proc"):
        try:
            words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0") if entry.isdigit() else []
        except OSError:
            continue
        if b"train" in words and any(word.startswith(bytes(out)) for word in words):
            found.append(int(entry))
    return found


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["none.toml"], "none.toml"),
        (["{spec}", "--jobs", "0"], "--jobs"),
        (["{spec}", "num_layer=2"], "num_layers"),
        (["{spec}", "device=cuda"], "devices = cpu"),
        (["{spec}", "seed=1"], "seeds"),
        (["{spec}", "val_data=/nowhere/at/all"], "/nowhere/at/all"),
        (["{spec}", "--groups", "full"], "--groups full"),
    ],
)
def test_mistakes_are_one_line_and_leave_nothing(place, tmp_path, capsys, words, said):
    spec = place(SPEC)
    status, out, err = sweep(capsys, *[word.format(spec=spec) for word in words], "--out", tmp_path / "out")
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert said in err
    assert not (tmp_path / "out").exists()


def test_more_threads_than_cores_are_refused(place, tmp_path, capsys):
    spec = place(SPEC.replace("threads = 1", "threads = 100000"))
    status, _, err = sweep(capsys, spec, "--out", tmp_path / "out")
    assert status == 2
    assert "threads = 100000" in err
