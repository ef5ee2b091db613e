"""One run as a job of submitit: trains in a process of its own, and hands itself back when Slurm wants the node."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bytegolf.config import Config
from bytegolf.extras import need
from bytegolf.ranks.environment import free_port
from bytegolf.sweep.folder import OUTPUT, command, environment

PLAN = "ranks.json"  # what the first task tells the others
PLAN_S = 120.0  # how long they wait for it
_LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT  # has it ended? without waiting, and without taking its status away


@dataclass
class TrainJob:
    """Called on the node, it starts or resumes the run of `folder` and returns the exit status of `bytegolf train`.

    With one of `tasks` it does so for all `ranks` of the run, on one node. With more it is called in each of them, on several
    nodes, and each is one rank: the first prepares the folder and gives the others the command and the address to meet at.
    Before preemption or the time limit submitit calls the first one's `checkpoint`, and puts what that returns into the queue again.
    """

    folder: str
    config: str
    ranks: int = 1
    tasks: int = 1
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    asked: bool = False  # whether the process was told to stop

    def __call__(self) -> int:
        """Waits for the run to end."""
        folder, rank = Path(self.folder), int(os.environ.get("SLURM_PROCID", 0)) if self.tasks > 1 else 0
        words, variables = self._plan(folder, rank)
        with (folder / (f"output.{rank}.log" if rank else OUTPUT)).open("ab") as output:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=variables,
                start_new_session=True,
                preexec_fn=_leave_signals_to_us,
            )
        try:
            return self.process.wait()
        except BaseException:
            self._stop()
            raise

    def checkpoint(self) -> Any:
        """Asks the run for a checkpoint, waits for it, and returns the job that resumes from there."""
        self._stop()
        submitit = need("submitit", "sweep", "to run on Slurm")
        return submitit.helpers.DelayedSubmission(TrainJob(self.folder, self.config, self.ranks, self.tasks))

    def _plan(self, folder: Path, rank: int) -> tuple[list[str], dict[str, str]]:
        """Command and environment of this task's process. RuntimeError when the first task never gives them."""
        config = Config.stored(self.config, f"the options of {folder}")
        if self.tasks == 1:
            return command(folder, config, self.ranks), environment()
        path, attempt = folder / PLAN, [os.environ["SLURM_JOB_ID"], os.environ.get("SLURM_RESTART_COUNT", "0")]
        if rank == 0:
            where = {"MASTER_ADDR": socket.gethostname(), "MASTER_PORT": str(free_port(""))}
            made = path.with_suffix(".new")
            words = command(folder, config)
            made.write_text(json.dumps({"attempt": attempt, "words": words, "variables": where}), encoding="utf-8")
            made.replace(path)
        until = time.monotonic() + PLAN_S
        while (plan := _read(path)).get("attempt") != attempt:  # one of an earlier attempt may still be there
            if time.monotonic() > until:
                raise RuntimeError(f"task {rank} has waited {PLAN_S:.0f} s for task 0 to write {path}")
            time.sleep(0.2)
        return plan["words"], {**os.environ, **plan["variables"]}

    def _stop(self) -> None:
        """May be called by a signal's handler in the middle of `wait`, whose lock it therefore leaves alone."""
        try:
            while self.process is not None and os.waitid(os.P_PID, self.process.pid, _LOOK) is None:
                if not self.asked:
                    os.kill(self.process.pid, signal.SIGINT)
                    self.asked = True
                time.sleep(0.1)
        except ChildProcessError:  # gone and waited for
            return


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        return found
    except FileNotFoundError:
        return {}


def _leave_signals_to_us() -> None:
    """Slurm sends the warning of a time limit to every process of a job; unknown to the run, it would end it at once."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
