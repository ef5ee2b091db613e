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


def slurm_answers():
    """Whether jobs can be submitted from here, and a node would take them."""
    if not all(map(shutil.which, ("sbatch", "srun", "squeue", "sinfo"))):
        return False
    done = subprocess.run(
        ["sinfo", "--noheader", "--format=%T"], capture_output=True, text=True, timeout=20, check=False
    )
    return done.returncode == 0 and any(state in done.stdout for state in ("idle", "mixed", "allocated"))


real = pytest.mark.skipif(not slurm_answers(), reason="no Slurm answers here")
CLUSTERS = [pytest.param("local", id="processes"), pytest.param("slurm", id="slurm", marks=real)]
TABLE = '[slurm]\ncluster = "{cluster}"\ntime_min = 5\npoll_s = 0.5\n'


def spec_for(cluster, groups=""):
    text = SPEC.partition("[local]")[0].replace("seeds = [0, 1]", 'seeds = [0]\non = "slurm"')
    return text + groups + TABLE.replace("{cluster}", cluster)


@pytest.mark.parametrize("cluster", CLUSTERS)
def test_jobs_end_in_results_and_failures_are_told(place, tmp_path, capsys, cluster):  # noqa: F811
    spec, out = place(spec_for(cluster, '[groups.good]\n[groups.bad]\npack_weights = "swa"\n')), tmp_path / "out"
    status, shown, err = sweep(capsys, spec, "--out", out)
    assert status == 1
    assert "good-seed-0: queued on job" in err
    good, bad = read_results(out)
    assert (good["status"], good["attempts"], good["steps"]) == ("done", 1, 4)
    assert (bad["status"], bad["attempts"]) == ("failed", 2)
    assert bad["error"].startswith("exit status 2: bytegolf: option pack_weights")
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
    while not (log.exists() and '"step": 5,' in log.read_text()):
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
    assert "goes on after step" in err


@real
def test_jobs_on_slurm_outlive_the_sweep_are_found_again_and_resume_after_a_requeue(place, tmp_path, capsys):  # noqa: F811
    spec, out = place(spec_for("slurm").replace("[overrides]", "[overrides]\niterations = 20000")), tmp_path / "out"
    child = begin(spec, out)
    child.send_signal(signal.SIGINT)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 130
    number = json.loads((out / "jobs.json").read_text())["base-seed-0"]
    assert f"scancel {number} ends them" in err
    # What Slurm sends before a time limit: the run writes its checkpoint, the job goes back into the queue.
    subprocess.run(["scancel", "--signal=USR2", number], check=True)
    log, limit = out / "base-seed-0" / "log.jsonl", time.monotonic() + 60
    while '"reason": "interrupted"' not in log.read_text() and time.monotonic() < limit:
        time.sleep(0.2)
    assert '"reason": "interrupted"' in log.read_text()
    # Slurm lets a requeued job wait for two minutes; a user may not want to.
    while time.monotonic() < limit and log.read_text().count('"kind": "start"') < 2:
        time.sleep(1)
        subprocess.run(["scontrol", "update", f"JobId={number}", "StartTime=now"], check=False, capture_output=True)
    status, _, err = sweep(capsys, spec, "--out", out)
    assert status == 0
    assert f"base-seed-0: queued on job {number}" in err
    lines = read_log(log)
    assert len([line for line in lines if line["kind"] == "start"]) == 2
    assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, 20001))
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
