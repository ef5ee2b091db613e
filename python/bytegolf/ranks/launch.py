"""Which of several processes this one is: what torchrun, Slurm, mpirun and `bytegolf launch` say in the environment; and
`bytegolf launch` itself, which starts one process a GPU on this host and ends them together."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from bytegolf.errors import UserError
from bytegolf.ranks.environment import RANK_VARIABLES, free_port
from bytegolf.visible import one_line, visible

GRACE_S = 25.0  # between the first rank that fails and the killing of those still there


def launch_training(
    config: str | None, overrides: Sequence[str], gpus: int | None, ranks: int | None, run: Path | None, resume: bool
) -> int:
    """`bytegolf launch`: returns its status. UserError for GPUs that are not there."""
    from bytegolf import _bytegolf, device

    if gpus is not None and ranks is not None:
        raise UserError("--gpus and --ranks are two ways to say how many processes: name one")
    count = ranks
    if count is None:
        unusable = device.why_no_gpu()
        if unusable:
            raise UserError(f"no GPU can be used here: {unusable} (--ranks N trains in N processes on the CPU)")
        visible = len(_bytegolf.gpu_info()["gpus"])
        count = visible if gpus is None else gpus
        if not 1 <= count <= visible:
            raise UserError(f"--gpus {count}: {visible} can be seen here")
    elif count < 1:
        raise UserError(f"--ranks {count}: at least 1")
    words = ["train", *([config] if config is not None else []), *overrides]
    if not any(word.startswith("device=") for word in words):
        words.append(f"device={'cuda' if ranks is None else 'cpu'}")
    words += ["--run", str(run)] if run is not None else []
    words += ["--resume"] if resume else []
    return launch(words, count, cores=ranks is not None)


def launch(words: Sequence[str], count: int, cores: bool, module: str = "bytegolf") -> int:
    """Runs `python -m MODULE WORDS` as `count` ranks on this host and returns the status of the whole: 0 when all end with 0, else the
    first failure's. What rank 0 prints goes to the screen; of the others standard error only, each line with its rank. With
    `cores` the ranks share out this process's cores. Ctrl-C goes to all ranks; a second one ends them."""
    return _Launch([sys.executable, "-m", module, *words], count, cores).run()


class _Launch:
    def __init__(self, words: Sequence[str], count: int, cores: bool) -> None:
        self.words, self.count, self.cores = words, count, cores
        self.processes: list[subprocess.Popen[bytes]] = []
        self.signals: list[int] = []  # that this process got
        self.sent: set[int] = set()  # that the ranks got from it
        self.threads: list[threading.Thread] = []

    def run(self) -> int:
        key, port = secrets.token_hex(16), free_port()
        old = {number: signal.signal(number, self._note) for number in (signal.SIGINT, signal.SIGTERM)}
        try:
            for rank in range(self.count):
                self._start(rank, key, port)
            return self._wait()
        finally:
            for process in self.processes:
                if process.poll() is None:
                    process.kill()
            for thread in self.threads:
                thread.join(timeout=2)
            for number, handler in old.items():
                signal.signal(number, handler)

    def _note(self, number: int, frame: object) -> None:
        self.signals.append(number)

    def _start(self, rank: int, key: str, port: int) -> None:
        taken = {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}
        own = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": self.count, "LOCAL_WORLD_SIZE": self.count}
        own_text = {name: str(value) for name, value in own.items()}
        where = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "BYTEGOLF_RANKS_KEY": key}
        process = subprocess.Popen(
            self.words,
            stdin=subprocess.DEVNULL,
            stdout=None if rank == 0 else subprocess.DEVNULL,
            stderr=None if rank == 0 else subprocess.PIPE,
            env=taken | own_text | where,
            start_new_session=True,  # Ctrl-C reaches ranks through us only
            close_fds=False,  # a lock that is held through us is held through our ranks
        )
        self.processes.append(process)
        if self.cores:
            _give_cores(process.pid, rank, self.count)
        if process.stderr is not None:
            thread = threading.Thread(target=_prefix, args=(process.stderr, rank), daemon=True)
            thread.start()
            self.threads.append(thread)

    def _wait(self) -> int:
        left = dict(enumerate(self.processes))  # ranks whose end has not been seen
        first = 0  # status of the first rank that failed
        killed = (
            0  # of the first that a signal ended: the others leave because of it, and may be seen to leave before it
        )
        deadline = float("inf")
        received = 0
        while True:
            if len(self.signals) > received:
                received = len(self.signals)
                self._send(self.signals[-1])
                if received > 1:
                    deadline = min(deadline, time.monotonic() + 5)
            for rank, process in list(left.items()):
                status = process.poll()
                if status is None:
                    continue
                del left[rank]
                if status < 0 and -status not in self.sent:
                    _say(f"rank {rank} was killed by {_signal_name(-status)}")
                    killed = killed or _status(status)
                if status and not first:
                    first = _status(status)
                    deadline = min(deadline, time.monotonic() + GRACE_S)
            if not left:
                return killed or first
            if time.monotonic() > deadline:
                deadline = float("inf")
                for rank in left:
                    _say(f"rank {rank} is still there: killed")
                self._send(signal.SIGKILL)
            time.sleep(0.05)

    def _send(self, number: int) -> None:
        self.sent.add(number)
        for process in self.processes:
            if process.poll() is None:
                process.send_signal(number)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def _status(status: int) -> int:
    return 128 - status if status < 0 else status


def _say(text: str) -> None:
    sys.stderr.write(f"bytegolf launch: {one_line(text)}\n")
    sys.stderr.flush()


def _prefix(stream: IO[bytes], rank: int) -> None:
    for line in stream:
        sys.stderr.write(f"[rank {rank}] {visible(line.decode(errors='replace').rstrip())}\n")
        sys.stderr.flush()


def _give_cores(pid: int, rank: int, count: int) -> None:
    if not hasattr(os, "sched_setaffinity"):
        return
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) >= count:
        os.sched_setaffinity(pid, cores[len(cores) * rank // count : len(cores) * (rank + 1) // count])
