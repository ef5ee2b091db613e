"""Where runs go on one machine: GPUs by their numbers, cores dealt out, refusals; and the live table of their progress."""

import os

import pytest
from rich.console import Console

from bytegolf import _bytegolf, device
from bytegolf.config import Config
from bytegolf.errors import UserError
from bytegolf.sweep import local
from bytegolf.sweep.board import Board
from bytegolf.sweep.folder import RunProgress
from bytegolf.sweep.plan import Run
from bytegolf.sweep.show import live_table
from bytegolf.sweep.spec import Local


def run_of(name="r", **options):
    return Run(name, "g", 0, Config.preset("demo", **options), {})


@pytest.fixture
def cores(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)


@pytest.fixture
def gpus(monkeypatch, cores):
    """A machine of four GPUs and eight cores."""
    monkeypatch.setattr(device, "why_no_gpu", lambda: "")
    monkeypatch.setattr(_bytegolf, "gpu_info", lambda: {"gpus": [{}] * 4})
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.fixture
def no_gpu(monkeypatch, cores):
    monkeypatch.setattr(device, "why_no_gpu", lambda: "there is no driver")


def seen(slots):
    return [slot.environment["CUDA_VISIBLE_DEVICES"] for slot in slots]


def test_each_gpu_is_one_slot(gpus):
    slots = local.slots(Local(), [run_of()])
    assert [slot.name for slot in slots] == ["gpu 0", "gpu 1", "gpu 2", "gpu 3"]
    assert seen(slots) == ["0", "1", "2", "3"]
    assert {slot.cores for slot in slots} == {None}


def test_gpus_are_those_that_this_process_may_use(gpus, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7, GPU-5ab,2,3")
    assert seen(local.slots(Local(devices=[1, 2]), [run_of()])) == ["GPU-5ab", "2"]


def test_more_jobs_than_gpus_share_them(gpus):
    slots = local.slots(Local(devices=[0, 2], threads=2), [run_of()], jobs=4)
    assert seen(slots) == ["0", "2", "0", "2"]
    assert [slot.cores for slot in slots] == [{0, 1}, {2, 3}, {4, 5}, {6, 7}]


@pytest.mark.parametrize(
    ("table", "jobs", "cores_each"),
    [
        (Local(), None, [8]),
        (Local(jobs=3), None, [2, 2, 2]),
        (Local(threads=4), None, [4, 4]),
        (Local(jobs=2, threads=1), None, [1, 1]),
        (Local(jobs=2), 4, [2, 2, 2, 2]),
    ],
)
def test_on_the_cpu_cores_are_dealt_out_and_no_gpu_is_seen(no_gpu, table, jobs, cores_each):
    slots = local.slots(table, [run_of()], jobs)
    assert [len(slot.cores) for slot in slots] == cores_each
    assert len(frozenset.union(*(slot.cores for slot in slots))) == sum(cores_each)
    assert set(seen(slots)) == {""}


def test_a_config_for_the_cpu_leaves_gpus_alone(gpus):
    assert seen(local.slots(Local(), [run_of(device="cpu")])) == [""]


@pytest.mark.parametrize(
    ("table", "options", "words"),
    [
        (Local(devices=[4]), {}, "no GPU 4"),
        (Local(devices="cpu"), {"device": "cuda"}, "device = cuda"),
        (Local(devices="cuda"), {"device": "cpu"}, "device = cpu"),
        (Local(threads=9), {}, "threads = 9"),
    ],
)
def test_what_does_not_fit_the_machine_is_refused(gpus, table, options, words):
    with pytest.raises(UserError, match=words):
        local.slots(table, [run_of(**options)])


@pytest.mark.parametrize("table", [Local(devices="cuda"), Local(devices=[0])])
def test_why_a_gpu_cannot_be_used_is_told(no_gpu, table):
    with pytest.raises(UserError, match="there is no driver"):
        local.slots(table, [run_of()])


def test_a_killed_process_is_named_by_its_signal():
    assert local.ending(-9) == "killed by SIGKILL"
    assert local.ending(2) == "exit status 2"


def test_the_live_table_shows_running_runs_first_and_stays_short(tmp_path):
    board = Board([run_of(f"run-{i}", iterations=100) for i in range(40)], tmp_path)
    board.entries[35].status, board.entries[35].progress = "running", RunProgress(50, 2.5, 90.0)
    board.entries[35].where = "gpu 3"
    board.entries[36].status, board.entries[36].error = "failed", "exit status 2: [red]no[/red]"
    board.entries[0].status, board.entries[0].figures = "done", {"bpb_sliding": 1.25, "steps": 100}
    console = Console(width=150, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(live_table(board))
    lines = console.export_text().splitlines()
    body = [line for line in lines if "run-" in line]
    assert len(body) == 24
    for word in ("run-35", "running", "50/100", "2.5000", "1 min 30 s", "gpu 3"):
        assert word in body[0]
    assert "[red]no[/red]" in body[1]
    assert "40 runs: 1 done, 1 running, 37 waiting, 1 failed; 16 not shown" in lines[-1]
