"""Runs of several ranks in a sweep: GPUs in bundles, the command and environment each run gets, and jobs of several tasks."""

import json
import os
import socket
import stat
import sys
import threading

import pytest
from test_sweep_local import cores, gpus, no_gpu, run_of, seen  # noqa: F401  (fixtures)

from bytegolf.config import Config
from bytegolf.errors import UserError
from bytegolf.screen.interrupt import Interrupts
from bytegolf.sweep import job, local
from bytegolf.sweep.board import Board
from bytegolf.sweep.folder import RANK_VARIABLES, command, environment
from bytegolf.sweep.slurm import _resources
from bytegolf.sweep.spec import Local, Slurm


@pytest.fixture
def outer(monkeypatch):
    """What a process sees that srun or torchrun started as rank 3 of 8."""
    facts = {
        "SLURM_PROCID": "3",
        "SLURM_NTASKS": "8",
        "SLURM_LOCALID": "3",
        "SLURM_JOB_NODELIST": "n[1-2]",
        "RANK": "3",
    }
    facts |= {"WORLD_SIZE": "8", "LOCAL_RANK": "3", "MASTER_ADDR": "n1", "MASTER_PORT": "29500"}
    facts |= {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "3"}
    for name, value in facts.items():
        monkeypatch.setenv(name, value)
    return facts


@pytest.fixture
def python(tmp_path, monkeypatch):
    """In Python's place a program that writes its words and environment to the run's folder, named last, and fails."""
    program = tmp_path / "python"
    program.write_text(
        '#!/bin/sh\nfor last; do :; done\nprintf "%s\\n" "$@" >"$last/words"\nenv >"$last/env"\nexit 3\n'
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setattr(sys, "executable", str(program))
    return program


def told(folder):
    """(words, environment) that the program in Python's place wrote."""
    env = dict(line.split("=", 1) for line in (folder / "env").read_text().splitlines() if "=" in line)
    return (folder / "words").read_text().splitlines(), env


def test_gpus_are_dealt_out_in_bundles_and_what_is_left_over_stays_idle(gpus):  # noqa: F811
    assert seen(local.slots(Local(gpus_per_run=2), [run_of()])) == ["0,1", "2,3"]
    (slot,) = local.slots(Local(gpus_per_run=3), [run_of()])
    assert (slot.name, slot.environment, slot.ranks) == ("gpus 0,1,2", {"CUDA_VISIBLE_DEVICES": "0,1,2"}, 3)


def test_bundles_keep_to_the_gpus_that_are_named_and_may_be_shared(gpus, monkeypatch):  # noqa: F811
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "7,GPU-5ab,2,3")
    slots = local.slots(Local(devices=[3, 1], gpus_per_run=2, threads=4), [run_of()], jobs=2)
    assert seen(slots) == ["3,GPU-5ab", "3,GPU-5ab"]
    assert [slot.cores for slot in slots] == [{0, 1, 2, 3}, {4, 5, 6, 7}]


def test_too_few_gpus_for_one_run_are_refused(gpus):  # noqa: F811
    with pytest.raises(UserError, match=r"gpus_per_run = 5, but there are 4 GPUs"):
        local.slots(Local(gpus_per_run=5), [run_of()])


@pytest.mark.parametrize("table", [Local(gpus_per_run=2), Local(gpus_per_run=2, devices="cpu")])
def test_several_gpus_a_run_are_refused_where_runs_go_to_the_cpu(no_gpu, table):  # noqa: F811
    with pytest.raises(UserError, match=r"gpus_per_run = 2, but there are no GPUs"):
        local.slots(table, [run_of()])


def test_a_run_of_several_ranks_is_launched_and_resumed_by_launch(tmp_path):
    config = Config.preset("demo")
    assert command(tmp_path / "a", config, 4)[1:] == [
        *("-m", "bytegolf", "launch", "--gpus", "4"),
        *(str(tmp_path / "a" / "config.toml"), "--run", str(tmp_path / "a")),
    ]
    assert command(tmp_path / "b", config)[1:4] == ["-m", "bytegolf", "train"]


def test_no_variable_of_a_rank_is_handed_on(outer):
    assert set(outer) <= set(RANK_VARIABLES)
    assert environment() == {name: value for name, value in os.environ.items() if name not in outer}


def test_the_local_queue_starts_runs_that_are_no_ranks_of_ours(gpus, outer, python, tmp_path):  # noqa: F811
    board = Board([run_of()], tmp_path / "out")
    (tmp_path / "out").mkdir()
    with (tmp_path / "lock").open("w") as lock:
        slots = local.slots(Local(gpus_per_run=2), [run_of()])
        local.LocalQueue(board, slots, 0, lock.fileno()).run(Interrupts())
    assert board.entries[0].error == "exit status 3"
    words, env = told(tmp_path / "out" / "r")
    assert words[1:5] == ["bytegolf", "launch", "--gpus", "2"]
    assert env["CUDA_VISIBLE_DEVICES"] == "0,1"
    assert not set(outer) & set(env)


def test_a_job_of_one_task_launches_all_ranks_of_its_run(outer, python, tmp_path):
    made = job.TrainJob(str(tmp_path / "r"), Config.preset("demo").text(), ranks=8)
    assert made() == 3
    words, env = told(tmp_path / "r")
    assert words[1:5] == ["bytegolf", "launch", "--gpus", "8"]
    assert not set(outer) & set(env)


def test_tasks_of_a_job_on_several_nodes_are_the_ranks_and_meet_at_the_first(python, tmp_path, monkeypatch):
    folder, config = tmp_path / "r", Config.preset("demo").text()
    folder.mkdir()
    # What an attempt before this one left behind must not be taken for its own.
    (folder / job.PLAN).write_text(json.dumps({"attempt": ["9", "0"], "words": ["old"], "variables": {}}))
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "1")
    plans = {}

    def task(rank):
        plans[rank] = job.TrainJob(str(folder), config, ranks=2, tasks=2)._plan(folder, rank)

    second = threading.Thread(target=task, args=(1,))
    second.start()
    second.join(0.5)
    assert second.is_alive()  # it waits for the first
    task(0)
    second.join(10)
    for words, env in plans.values():
        assert words[1:4] == ["-m", "bytegolf", "train"]
        assert (env["MASTER_ADDR"], env["SLURM_JOB_ID"]) == (socket.gethostname(), "9")
    assert plans[0] == plans[1]


def test_a_task_whose_first_never_comes_says_so(tmp_path, monkeypatch):
    monkeypatch.setenv("SLURM_JOB_ID", "9")
    monkeypatch.setattr(job, "PLAN_S", 0.1)
    with pytest.raises(RuntimeError, match=r"task 1 has waited .*ranks\.json"):
        job.TrainJob(str(tmp_path), Config.preset("demo").text(), ranks=2, tasks=2)._plan(tmp_path, 1)


def test_the_job_that_goes_on_has_as_many_ranks(tmp_path):
    pytest.importorskip("submitit", reason="talks to Slurm, extra [sweep]")
    again = job.TrainJob(str(tmp_path), Config.preset("demo").text(), ranks=4, tasks=4).checkpoint().function
    assert (again.ranks, again.tasks, again.asked, again.process) == (4, 4, False, None)


@pytest.mark.parametrize(
    ("table", "nodes", "tasks", "gpus_each"),
    [
        (Slurm(), 1, 1, None),
        (Slurm(gpus_per_node=1), 1, 1, 1),
        (Slurm(ranks_per_run=8), 1, 1, 8),
        (Slurm(ranks_per_run=16, nodes=2), 2, 8, 8),
        (Slurm(ranks_per_run=4, nodes=2, gpus_per_node=0), 2, 2, 0),
    ],
)
def test_a_job_asks_for_a_gpu_for_each_rank(table, nodes, tasks, gpus_each):
    asked = _resources(table, "n")
    assert (asked["nodes"], asked["tasks_per_node"], asked.get("gpus_per_node")) == (nodes, tasks, gpus_each)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"ranks_per_run": 3, "nodes": 2}, "not a multiple of nodes = 2"),
        ({"ranks_per_run": 4, "gpus_per_node": 2}, "gpus_per_node = 2, but there are 4 ranks a node"),
        ({"ranks_per_run": 2, "nodes": 2, "cluster": "local"}, "this machine alone"),
    ],
)
def test_ranks_that_do_not_fit_their_nodes_are_refused(table, words):
    with pytest.raises(ValueError, match=words):
        Slurm(**table)
