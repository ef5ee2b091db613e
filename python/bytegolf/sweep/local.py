"""The queue on this machine: runs as processes, one at a time on each slot (a GPU or several, or a share of the cores)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar

from bytegolf import _bytegolf, device
from bytegolf.errors import UserError
from bytegolf.screen.interrupt import Interrupts
from bytegolf.sweep.board import Board, Entry
from bytegolf.sweep.folder import OUTPUT, command, environment
from bytegolf.sweep.plan import Run
from bytegolf.sweep.spec import Local

POLL_S = 0.2
BEAT_S = 1.0


@dataclass(frozen=True)
class Slot:
    """Where one run at a time goes: a name, variables of its environment, its cores (None: all), and its ranks."""

    name: str
    environment: dict[str, str]
    cores: frozenset[int] | None = None
    ranks: int = 1


def slots(local: Local, runs: Sequence[Run], jobs: int | None = None) -> list[Slot]:
    """The slots that the table [local] describes; `jobs` replaces its number of runs at once.

    GPUs are numbered as this process sees them; those left over when each run takes several stay idle. UserError for GPUs
    that are not there, and for more cores than there are.
    """
    jobs = jobs or local.jobs
    wanted = {run.config.device for run in runs}
    gpus = _gpus(local, wanted)
    if gpus and "cpu" in wanted:
        raise UserError("[local] devices asks for GPUs, but option device = cpu in some runs")
    each = local.gpus_per_run
    if each > 1 and each > len(gpus):
        raise UserError(f"[local] gpus_per_run = {each}, but there are {len(gpus) or 'no'} GPUs to use")
    bundles = [gpus[first : first + each] for first in range(0, len(gpus) - each + 1, each)]
    count = jobs or len(bundles) or (_cores_by(local.threads) if local.threads else 1)
    shares = _shares(count, local.threads)
    if not gpus:
        return [Slot(_cpu_name(share), {"CUDA_VISIBLE_DEVICES": ""}, share) for share in shares]
    seen = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = [name.strip() for name in seen.split(",")] if seen else [str(i) for i in range(max(gpus) + 1)]
    made = []
    for i, share in enumerate(shares):
        bundle = bundles[i % len(bundles)]
        visible = {"CUDA_VISIBLE_DEVICES": ",".join(names[gpu] for gpu in bundle)}
        name = f"gpu{'s' if each > 1 else ''} {','.join(map(str, bundle))}"
        made.append(Slot(name, visible, share if local.threads else None, each))
    return made


def _gpus(local: Local, wanted: set[str]) -> list[int]:
    """The GPUs to use; none means the CPU."""
    if local.devices == "cpu" or (local.devices == "auto" and wanted == {"cpu"}):
        if "cuda" in wanted:
            raise UserError("[local] devices = cpu, but option device = cuda in some runs")
        return []
    unusable = device.why_no_gpu()
    if unusable:
        if local.devices == "auto" and "cuda" not in wanted:
            return []
        raise UserError(f"[local] devices = {local.devices}: {unusable}; `bytegolf doctor` says more")
    there = len(_bytegolf.gpu_info()["gpus"])
    if isinstance(local.devices, str):
        return list(range(there))
    for gpu in local.devices:
        if gpu >= there:
            raise UserError(f"[local] devices: there is no GPU {gpu}; this process sees {there}")
    return list(dict.fromkeys(local.devices))


def _cores() -> list[int]:
    return sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else list(range(os.cpu_count() or 1))


def _cores_by(threads: int) -> int:
    return max(len(_cores()) // threads, 1)


def _shares(count: int, threads: int | None) -> list[frozenset[int]]:
    """Cores of each of `count` slots: `threads` each, or all of them dealt out evenly; they overlap when there are too few."""
    cores = _cores()
    each = threads or max(len(cores) // count, 1)
    if each > len(cores):
        raise UserError(f"[local] threads = {each}, but this process may use {len(cores)} cores")
    return [frozenset(cores[(i * each + j) % len(cores)] for j in range(each)) for i in range(count)]


def _cpu_name(share: frozenset[int]) -> str:
    return f"core {min(share)}" if len(share) == 1 else f"{len(share)} cores from {min(share)} on"


@dataclass
class _Job:
    entry: Entry
    slot: Slot
    process: subprocess.Popen[bytes]
    since: int


@dataclass
class LocalQueue:
    """Runs what is open on a board until nothing is left or a signal comes. `lock` is inherited by every run."""

    board: Board
    slots: Sequence[Slot]
    retries: int
    lock: int
    jobs: list[_Job] = field(default_factory=list)
    ours: ClassVar[bool] = True  # a signal to the sweep is one to its runs

    def farewell(self) -> str:
        """Nothing continues without us."""
        return ""

    def run(self, interrupts: Interrupts) -> None:
        """The signal's first coming asks every run for a checkpoint and waits for them."""
        beat = 0.0
        asked = False
        try:
            while True:
                self._collect(interrupts.asked)
                if interrupts.asked and not asked:
                    asked = True
                    self._signal(signal.SIGINT)
                if not asked:
                    self._start()
                if not self.jobs:
                    return
                if time.monotonic() >= beat:
                    beat = time.monotonic() + BEAT_S
                    self.board.beat()
                time.sleep(POLL_S)
        finally:  # an error of ours must not leave runs without a keeper
            self._signal(signal.SIGINT)

    def _start(self) -> None:
        busy = {id(job.slot) for job in self.jobs}
        free = [slot for slot in self.slots if id(slot) not in busy]
        for slot, entry in zip(free, self.board.open(), strict=False):
            self.board.started(entry, slot.name)
            try:
                words = command(entry.folder, entry.run.config, slot.ranks)
                output = entry.folder / OUTPUT
                since = output.stat().st_size if output.exists() else 0
                self.jobs.append(_Job(entry, slot, self._spawn(words, slot, entry), since))
            except (
                OSError,
                ValueError,
                UserError,
            ) as error:  # a damaged checkpoint, a full disk: this run's trouble only
                self.board.ended(entry, str(error), self.retries, since=1 << 62)

    def _spawn(self, words: list[str], slot: Slot, entry: Entry) -> subprocess.Popen[bytes]:
        """A process in a session of its own, so that Ctrl-C reaches it through us only, on the slot's cores."""
        with (entry.folder / OUTPUT).open("ab") as output, _Cores(slot.cores):
            return subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**environment(), **slot.environment},
                start_new_session=True,
                pass_fds=(self.lock,),
            )

    def _collect(self, stopped: bool) -> None:
        for job in list(self.jobs):
            status = job.process.poll()
            if status is not None:
                self.jobs.remove(job)
                self.board.ended(job.entry, ending(status), self.retries, stopped=stopped, since=job.since)

    def _signal(self, number: signal.Signals) -> None:
        for job in self.jobs:
            if job.process.poll() is None:
                job.process.send_signal(number)


class _Cores:
    """While entered, this thread and what it starts keep to some cores."""

    def __init__(self, cores: frozenset[int] | None) -> None:
        self._cores = cores if hasattr(os, "sched_setaffinity") else None

    def __enter__(self) -> None:
        if self._cores is not None:
            self._before = os.sched_getaffinity(0)
            os.sched_setaffinity(0, self._cores)

    def __exit__(self, *_: object) -> None:
        if self._cores is not None:
            os.sched_setaffinity(0, self._before)


def ending(status: int) -> str:
    """How a process ended, in words."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    return f"exit status {status}"
