"""One run as a job of submitit: trains in a process of its own, and hands itself back when Slurm wants the node."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bytegolf import console
from bytegolf.config import Config
from bytegolf.sweep.folder import OUTPUT, command

_LOOK = os.WEXITED | os.WNOHANG | os.WNOWAIT  # has it ended? without waiting, and without taking its status away


@dataclass
class TrainJob:
    """Called on the node, it starts or resumes the run of `folder` and returns the exit status of `bytegolf train`.

    Before preemption or the time limit submitit calls `checkpoint`, and puts what that returns into the queue again.
    """

    folder: str
    config: str
    process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    asked: bool = False  # whether the process was told to stop

    def __call__(self) -> int:
        """Waits for the run to end."""
        folder = Path(self.folder)
        words = command(folder, Config.from_text(self.config, f"the options of {folder}"))
        with (folder / OUTPUT).open("ab") as output:
            self.process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
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
        submitit = console.need("submitit", "sweep", "to run on Slurm")
        return submitit.helpers.DelayedSubmission(TrainJob(self.folder, self.config))

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


def _leave_signals_to_us() -> None:
    """Slurm sends the warning of a time limit to every process of a job; unknown to the run, it would end it at once."""
    for number in (signal.SIGUSR1, signal.SIGUSR2):
        signal.signal(number, signal.SIG_IGN)
