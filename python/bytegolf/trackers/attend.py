"""The run's side of trackers: starts the processes that feed them, notices when one falls, and waits for them a bounded time."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytegolf.log import RunLog
from bytegolf.screen import console
from bytegolf.trackers import look, missing, names_of
from bytegolf.trackers.feed import STATE, sent_by

LAST_WORDS_S = 10.0  # after the run's last line, for all trackers together
SHOWN_CHARACTERS = 300


def attend(journal: RunLog, option: str, folder: Path, say: console.Say = console.say) -> None:
    """Has the trackers that option `track` names follow the journal of a run. UserError for an unknown name."""
    names = names_of(option)
    if names:
        journal.listeners.append(Attendants(names, journal, folder, say))


@dataclass
class _Feeder:
    name: str
    process: subprocess.Popen[bytes]
    output: Path
    since: int  # bytes of its output that earlier parts of the run left


class Attendants:
    """The feeding processes of one run. Nothing in here raises; each problem is reported once, on the terminal and in the log."""

    def __init__(self, names: list[str], journal: RunLog, folder: Path, say: console.Say) -> None:
        """Nothing is started before the log has its first line."""
        self._names, self._journal, self._folder, self._say = names, journal, folder, say
        self._log = folder / "log.jsonl"
        self._feeders: list[_Feeder] = []

    def wrote(self, kind: str) -> None:
        """Starts them at the log's first line; later looks whether one has left."""
        if kind == "start":
            for name in self._names:
                self._guarded(name, lambda name=name: self._start(name))  # type: ignore[misc]
        for feeder in list(self._feeders):
            self._guarded(feeder.name, lambda feeder=feeder: self._look_after(feeder, kind))  # type: ignore[misc]

    def close(self) -> None:
        """Lets them send the last lines, then ends those that have not left."""
        for feeder in self._feeders:
            self._guarded(feeder.name, lambda feeder=feeder: _let_go(feeder))  # type: ignore[misc]
        until = time.monotonic() + LAST_WORDS_S
        for feeder in list(self._feeders):
            self._guarded(feeder.name, lambda feeder=feeder: self._wait(feeder, until))  # type: ignore[misc]
        self._feeders.clear()

    def _guarded(self, name: str, work: Callable[[], Any]) -> None:
        try:
            work()
        except Exception as error:
            self._tell(name, f"{type(error).__name__}: {error}")

    def _start(self, name: str) -> None:
        why = missing(name)
        if why:
            self._tell(name, why)
            return
        output = self._folder / STATE / f"{name}.log"
        output.parent.mkdir(parents=True, exist_ok=True)
        words = [sys.executable, "-m", "bytegolf", "track", str(self._folder), "--to", name, "--follow"]
        with output.open("ab") as file:
            since = file.seek(0, os.SEEK_END)
            # A session of its own: Ctrl-C reaches the run alone. The end of the pipe says that the run is over, however it ended.
            process = subprocess.Popen(
                words,
                stdin=subprocess.PIPE,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, "CUDA_VISIBLE_DEVICES": ""},
                start_new_session=True,
            )
        self._feeders.append(_Feeder(name, process, output, since))
        self._say(f"{name} follows the log; to look: {look(name, self._folder)}")

    def _look_after(self, feeder: _Feeder, kind: str) -> None:
        status = feeder.process.poll()
        if status is None or (kind == "end" and status == 0):
            return
        self._feeders.remove(feeder)
        self._tell(feeder.name, _problem(feeder, status))

    def _wait(self, feeder: _Feeder, until: float) -> None:
        try:
            status = feeder.process.wait(max(until - time.monotonic(), 0.05))
        except subprocess.TimeoutExpired:
            _end(feeder.process)
            self._tell(feeder.name, f"had not left {LAST_WORDS_S:g} s after the run's last line, and was ended")
            return
        except BaseException:  # Ctrl-C: nobody wants to wait
            _end(feeder.process)
            raise
        if status != 0:
            self._tell(feeder.name, _problem(feeder, status))

    def _tell(self, name: str, problem: str) -> None:
        step = sent_by(self._log, name).step
        again = f"bytegolf track {self._folder} --to {name}"
        with suppress(Exception):  # a closed terminal
            self._say(f"{name} failed: {problem}. It has all up to step {step}; the run continues; later: {again}")
        with suppress(OSError):  # a full disk stops the run at its own next line, not here
            self._journal.write("track", tracker=name, problem=problem, sent_step=step)


def _problem(feeder: _Feeder, status: int) -> str:
    """The last line of its output, or how it left."""
    how = f"left with status {status}"
    if status < 0:
        how = f"killed by {signal.Signals(-status).name}"
    with feeder.output.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(feeder.since, size - 4096))
        words = [line for line in console.printable(file.read()).splitlines() if line.strip()]
    return f"{words[-1].strip().removeprefix('bytegolf: ')[:SHOWN_CHARACTERS]} ({how})" if words else how


def _let_go(feeder: _Feeder) -> None:
    if feeder.process.stdin is not None:
        feeder.process.stdin.close()


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ends the process and what it started."""
    with suppress(OSError, subprocess.TimeoutExpired):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(1.0)
