"""`bytegolf sweep` through submitit: as processes of this machine everywhere, and on Slurm where its commands answer."""

import json
import shutil
import signal
import subprocess
import sys
import time

import pytest
from test_sweep import SPEC, data, place, starts, sweep  # noqa: F401  (fixtures)

from bytegolf.log import read_log
from bytegolf.sweep.results import read_results

pytest.importorskip("submitit", reason="talks to Slurm, extra [sweep]")
pandas = pytest.importorskip("pandas", reason="reads results.csv")


def slurm_answers():
    """Whether jobs can be submitted from here, and a node would take them."""
    if not all(map(shutil.which, ("sbatch", "srun", "squeue", "sinfo"))):
        return False
    words = ["timeout", "20", "sinfo", "--noheader", "--format=%T"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return done.returncode == 0 and any(state in done.stdout for state in ("idle", "mixed", "allocated"))


REAL = [pytest.mark.slurm, pytest.mark.skipif(not slurm_answers(), reason="no Slurm answers here")]


def real(test):
    """Marks a test that submits jobs."""
    for mark in REAL:
        test = mark(test)
    return test


CLUSTERS = [pytest.param("local", id="processes"), pytest.param("slurm", id="slurm", marks=REAL)]
TABLE = '[slurm]\ncluster = "{cluster}"\ntime_min = 5\npoll_s = 0.5\n'


def spec_for(cluster, groups=""):
    text = SPEC.partition("[local]")[0].replace("seeds = [0, 1]", 'seeds = [0]\non = "slurm"')
    return text + groups + TABLE.replace("{cluster}", cluster)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_jobs_end_in_results_and_failures_are_told(place, tmp_path, capsys, monkeypatch, cluster):  # noqa: F811
    # Whoever calls us from within a job of several ranks: it is none of our jobs' business.
    outer = {"SLURM_PROCID": "3", "SLURM_NTASKS": "8", "SLURM_ARRAY_JOB_ID": "7", "SLURM_ARRAY_TASK_ID": "5"}
    for name, value in {**outer, "RANK": "3", "WORLD_SIZE": "8", "OMPI_COMM_WORLD_SIZE": "8"}.items():
        monkeypatch.setenv(name, value)
    spec, out = place(spec_for(cluster, '[groups.good]\n[groups.bad]\npack_weights = "swa"\n')), tmp_path / "out"
    status, shown, err = sweep(capsys, spec, "--out", out)
    assert status == 1
    assert "good-seed-0: queued on job" in err
    good, bad = read_results(out)
    assert (good["status"], good["attempts"], good["steps"]) == ("done", 1, 4)
    assert (bad["status"], bad["attempts"]) == ("failed", 2)
    assert bad["error"].startswith("exit status 2: bytegolf: option pack_weights")
    assert "bad-seed-0: failed after 2 attempts; its last lines:" in err
    table = pandas.read_csv(out / "results.csv")
    assert list(table["status"]) == ["done", "failed"]
    assert (table["bpb_sliding"][0], table["artifact_bytes"][0]) == (good["bpb_sliding"], good["artifact_bytes"])
    assert table["bpb_sliding"].isna().tolist() == [False, True]
    # Standard output is the table alone.
    assert shown.splitlines()[-1].startswith("2 runs: 1 done, 1 failed")
    assert "WARNING" not in shown + err
    assert set(json.loads((out / "jobs.json").read_text())) == {"good-seed-0", "bad-seed-0"}
    assert starts(out) == {"good-seed-0": 1, "bad-seed-0": 2}


def begin(spec, out):
    """A sweep in a process of its own, once its run logs steps."""
    words = [sys.executable, "-m", "bytegolf", "sweep", str(spec), "--out", str(out)]
    child = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    log, limit = out / "base-seed-0" / "log.jsonl", time.monotonic() + 90
    while not (log.exists() and '"kind": "step"' in log.read_text()):
        if time.monotonic() > limit or child.poll() is not None:
            child.kill()
            pytest.fail(f"no run under way: {child.communicate()}")
        time.sleep(0.05)
    return child


def test_processes_end_with_the_sweep_and_resume(place, tmp_path, capsys):  # noqa: F811
    spec, out = place(spec_for("local").replace("[overrides]", "[overrides]\niterations = 1500")), tmp_path / "out"
    child = begin(spec, out)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=90)
    assert child.returncode == 130, err
    assert read_results(out)[0]["status"] == "interrupted"
    assert (out / "base-seed-0" / "checkpoints" / "latest").exists()
    status, _, err = sweep(capsys, spec, "--out", out)
    assert status == 0
    assert "resumes after step" in err


@pytest.fixture
def slurm_job():
    """A list for numbers of jobs, which end with the test whatever it comes to."""
    numbers = []
    yield numbers
    for number in numbers:
        subprocess.run(["scancel", number], check=False, capture_output=True)


@real
def test_a_job_outlives_the_sweep_is_found_again_and_goes_on_after_its_time_limit(place, tmp_path, capsys, slurm_job):  # noqa: F811
    # The warning comes 90 s before the limit of one minute: with Slurm's next look at its limits, at most 30 s after the start.
    # Training alone takes longer, by its own clock, which goes on where the checkpoint stopped it.
    options = "[overrides]\niterations = 100000000\nlog_every = 100\ntrain_budget_s = 35\n"
    text = spec_for("slurm").replace("[overrides]\n", options).replace("time_min = 5", "time_min = 1")
    spec, out = place(text), tmp_path / "out"
    child = begin(spec, out)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    number = json.loads((out / "jobs.json").read_text())["base-seed-0"]
    slurm_job.append(number)
    assert f"scancel {number} ends them" in err
    log, limit = out / "base-seed-0" / "log.jsonl", time.monotonic() + 120
    assert '"kind": "end"' not in log.read_text()  # the job goes on
    while '"kind": "end"' not in log.read_text() and time.monotonic() < limit:
        time.sleep(0.2)
    assert '"reason": "interrupted"' in log.read_text()
    stopped = read_log(log)[-1]["step"]
    # Slurm lets a requeued job wait for two minutes; a user may not want to, nor be warned again. But a node that still clears up
    # after the first attempt refuses the second one, and the job would be held.
    time.sleep(5)
    while time.monotonic() < limit and log.read_text().count('"kind": "start"') < 2:
        time.sleep(0.5)
        words = ["scontrol", "update", f"JobId={number}", "StartTime=now", "TimeLimit=10"]
        subprocess.run(words, check=False, capture_output=True)
    status, _, err = sweep(capsys, spec, "--out", out)
    assert status == 0
    assert f"base-seed-0: queued on job {number}" in err
    assert "timed-out" in "".join(path.read_text() for path in (out / "jobs").glob("*_log.*"))
    lines = read_log(log)
    assert [line["step"] for line in lines if line["kind"] == "start"] == [0, stopped]
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    assert steps == [1, *range(100, steps[-1], 100), steps[-1]]
    assert steps[-1] > stopped
    assert 30 < lines[-1]["train_seconds"] <= 35
    assert read_results(out)[0]["attempts"] == 1


@real
def test_a_job_that_was_killed_is_submitted_again(place, tmp_path):  # noqa: F811
    spec, out = place(spec_for("slurm").replace("[overrides]", "[overrides]\niterations = 3000")), tmp_path / "out"
    child = begin(spec, out)
    number = json.loads((out / "jobs.json").read_text())["base-seed-0"]
    subprocess.run(["scancel", number], check=True)
    _, err = child.communicate(timeout=120)
    assert child.returncode == 0, err
    assert "trying again" in err
    assert read_results(out)[0]["attempts"] == 2


def test_without_slurm_nothing_is_begun(place, tmp_path, capsys, monkeypatch):  # noqa: F811
    monkeypatch.setenv("PATH", "")
    status, _, err = sweep(capsys, place(spec_for("slurm")), "--out", tmp_path / "out")
    assert (status, err.count("\n")) == (2, 1)
    assert "[slurm]" in err
    assert "srun" in err


@real
def test_two_tasks_of_srun_train_as_one_run(place, data, tmp_path):  # noqa: F811
    config, run = place(SPEC).parent / "tiny.toml", tmp_path / "run"
    where = [f"train_data={data}", f"val_data={data}", "device=cpu", "train_batch_ids=128"]
    words = [sys.executable, "-m", "bytegolf", "train", config, *where, "--run", run]
    done = subprocess.run(
        ["srun", "-n", "2", "--overcommit", *map(str, words)], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    first, last = read_log(run / "log.jsonl")[0], read_log(run / "log.jsonl")[-1]
    assert (first["world_size"], last["reason"]) == (2, "done")
