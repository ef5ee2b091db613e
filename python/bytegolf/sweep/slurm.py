"""The queue on Slurm, through submitit: one job per run; the sweep itself only submits, watches and counts.

Job numbers are kept in jobs.json, so that a sweep started again finds its jobs. The result of a run is read from its
folder; that a job is over is known from the result that submitit leaves or, when it was killed, by its absence from squeue.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bytegolf.errors import UserError
from bytegolf.extras import need
from bytegolf.ranks.environment import RANK_VARIABLES
from bytegolf.screen.interrupt import Interrupts
from bytegolf.sweep.board import Board, Entry
from bytegolf.sweep.folder import OUTPUT, log_ended
from bytegolf.sweep.job import TrainJob
from bytegolf.sweep.local import ending
from bytegolf.sweep.spec import Slurm

JOBS, LOGS = "jobs.json", "jobs"
# sbatch hands our environment on: of a job that this sweep is itself part of, nothing may reach those that it submits.
_OUTER = (*RANK_VARIABLES, "SLURM_JOB_ID", "SLURM_JOBID", "SLURM_ARRAY_JOB_ID", "SLURM_ARRAY_TASK_ID")
GONE_S = 20.0  # a job missing from squeue for so long is over (requeued ones are missing for a moment)


class SlurmQueue:
    """Submits what is open on a board and follows it until nothing is left or a signal comes; jobs continue without it."""

    def __init__(self, board: Board, slurm: Slurm, name: str, retries: int, jobs: int | None) -> None:
        """UserError when submitit or Slurm is missing, or when one of them refuses an option of [slurm]."""
        submitit = need("submitit", "sweep", "to run on Slurm")
        self.board, self.slurm, self.retries = board, slurm, retries
        self.ours = slurm.cluster == "local"
        self.jobs: dict[str, Any] = {}
        self._since: dict[str, int] = {}
        self._missing: dict[str, float] = {}
        self._logs = board.out / LOGS
        parameters = _resources(slurm, name)
        if not self.ours:
            for key in ("partition", "account", "qos", "constraint"):
                if getattr(slurm, key) is not None:
                    parameters[f"slurm_{key}"] = getattr(slurm, key)
            parameters["slurm_array_parallelism"] = jobs or slurm.jobs
            parameters["slurm_setup"] = slurm.setup or None
            parameters["slurm_additional_parameters"] = slurm.extra or None
        try:
            limits = {} if self.ours else {"slurm_max_num_timeout": slurm.requeues}
            self._executor = submitit.AutoExecutor(self._logs, cluster=slurm.cluster, **limits)
            self._executor.update_parameters(**parameters)
        except (RuntimeError, ValueError, TypeError) as error:
            raise UserError(f"[slurm]: {error}") from None
        self._known = _read(board.out / JOBS)

    def farewell(self) -> str:
        """Which jobs continue."""
        numbers = " ".join(job.job_id for job in self.jobs.values())
        return "" if self.ours or not numbers else f"jobs continue (scancel {numbers} ends them); "

    def run(self, interrupts: Interrupts) -> None:
        """Takes up jobs that are still known to Slurm, submits the rest, and waits."""
        self._take_up()
        while True:
            if interrupts.asked:
                if self.ours:
                    self._cancel()
                return
            waiting = [entry for entry in self.board.open() if entry.run.name not in self.jobs]
            if waiting:
                self._submit(waiting)
            if not self.jobs:
                return
            self._collect()
            self.board.beat()
            self._sleep(interrupts)

    def _take_up(self) -> None:
        if self.ours:
            return
        submitit = need("submitit", "sweep", "to run on Slurm")
        there = _squeue(list(self._known.values()))
        for entry in self.board.open():
            number = self._known.get(entry.run.name)
            if number is not None and number in there:
                self.jobs[entry.run.name] = submitit.SlurmJob(self._logs, number)
                self.board.started(entry, f"job {number}", "queued")

    def _submit(self, entries: Sequence[Entry]) -> None:
        """One array for all of them."""
        made = []
        try:
            with _without(_OUTER), self._executor.batch():
                for entry in entries:
                    output = entry.folder / OUTPUT
                    self._since[entry.run.name] = output.stat().st_size if output.exists() else 0
                    job = TrainJob(
                        str(entry.folder.absolute()),
                        entry.run.config.text(),
                        ranks=self.slurm.ranks_per_run,
                        tasks=self.slurm.ranks_per_run if self.slurm.nodes > 1 else 1,
                    )
                    made.append(self._executor.submit(job))
        except Exception as error:  # submitit has its own kinds for what sbatch refuses
            raise UserError(f"Slurm refused the jobs: {' '.join(str(error).split())}") from None
        for entry, submitted in zip(entries, made, strict=True):
            self.jobs[entry.run.name] = submitted.task(0)  # of a job of several tasks the first one's result counts
            self._known[entry.run.name] = submitted.job_id
            self.board.started(entry, f"job {submitted.job_id}", "queued")
        text = json.dumps(self._known, indent=1) + "\n"
        (self.board.out / JOBS).write_text(text, encoding="utf-8")

    def _collect(self) -> None:
        states = None if self.ours else _squeue([job.job_id for job in self.jobs.values()])
        now = time.monotonic()
        for entry in self.board.entries:
            job = self.jobs.get(entry.run.name)
            if job is None:
                continue
            # Not submitit's done(): it asks sacct, which many clusters lack, and speaks on standard output when that fails.
            over = job.done() if self.ours else job.paths.result_pickle.exists()
            if states is not None and not over:
                state = states.get(job.job_id)
                entry.status = "running" if state in ("RUNNING", "COMPLETING") else "queued"
                if state is not None:
                    self._missing.pop(entry.run.name, None)
                over = state is None and now - self._missing.setdefault(entry.run.name, now) >= GONE_S
            elif not over:
                entry.status = "running"
            if over:
                del self.jobs[entry.run.name]
                self._missing.pop(entry.run.name, None)
                if not self.ours:
                    job.cancel(check=False)  # one that Slurm has put into its queue again would meet the next attempt
                self.board.ended(entry, _problem(job), self.retries, since=self._since.get(entry.run.name, 0))

    def _cancel(self) -> None:
        """Jobs that are processes of this machine end with us, each with a checkpoint."""
        for entry in self.board.entries:
            job = self.jobs.pop(entry.run.name, None)
            if job is not None:
                job.cancel()
                self._since.pop(entry.run.name, None)
                _wait(job, entry)
                self.board.ended(entry, "", self.retries, stopped=True)

    def _sleep(self, interrupts: Interrupts) -> None:
        until = time.monotonic() + self.slurm.poll_s
        while time.monotonic() < until and not interrupts.asked:
            time.sleep(0.1)


def _resources(slurm: Slurm, name: str) -> dict[str, Any]:
    """What a job asks for, in submitit's words."""
    parameters: dict[str, Any] = {"name": name, "timeout_min": slurm.time_min, "nodes": slurm.nodes}
    parameters["tasks_per_node"] = slurm.ranks_per_node if slurm.nodes > 1 else 1
    for key in ("gpus_per_node", "cpus_per_task", "mem_gb"):
        if getattr(slurm, key) is not None:
            parameters[key] = getattr(slurm, key)
    if slurm.ranks_per_run > 1 and slurm.gpus_per_node is None:
        parameters["gpus_per_node"] = slurm.ranks_per_node
    return parameters


@contextlib.contextmanager
def _without(names: Sequence[str]) -> Iterator[None]:
    """While entered, variables are missing from our environment."""
    kept = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(kept)


def _problem(job: Any) -> str:
    """Why a job left its run unfinished, in a line."""
    if not job.paths.result_pickle.exists():  # asking for a result would wait for it
        said = [line for line in (job.stderr() or "").splitlines() if line.strip()]
        return f"job {job.job_id} left no result" + (f" ({said[-1].strip()})" if said else "")
    try:
        return ending(int(job.result()))
    except Exception as error:  # whatever the job raised
        lines = [line for line in str(error).splitlines() if line.strip()]
        return f"job {job.job_id}: {lines[-1].strip() if lines else type(error).__name__}"


def _wait(job: Any, entry: Entry, seconds: float = 60.0) -> None:
    """Until a cancelled job has written its checkpoint and the last line of its log."""
    until = time.monotonic() + seconds
    while not (job.done() and log_ended(entry.folder)) and time.monotonic() < until:
        time.sleep(0.1)


def _squeue(numbers: Sequence[str]) -> dict[str, str]:
    """State of each job that Slurm has in its queue. UserError when Slurm does not answer."""
    if not numbers:
        return {}
    try:
        done = subprocess.run(
            ["squeue", "--noheader", "--array", "--me", "--format=%i %T"],
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = " ".join((getattr(error, "stderr", None) or str(error)).split())
        raise UserError(f"squeue: {said}; jobs continue, and the same command finds them again") from None
    found = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if line.strip())
    return {number: found[number] for number in numbers if number in found}


def _read(path: Path) -> dict[str, str]:
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None
    return {str(name): str(number) for name, number in found.items()}
