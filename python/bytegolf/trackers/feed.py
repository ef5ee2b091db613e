"""From a log to a tracker, line by line, each once: what `bytegolf track` does, also beside a run."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from bytegolf.errors import UserError
from bytegolf.log import counted
from bytegolf.record.follow import LogTail
from bytegolf.trackers import About, Tracker, home_of, key_of, open_tracker, score_name, values_of

KEEP_EVERY = 500  # lines, of a long log sent at once: an interruption does not resend them
STATE = "track"  # folder in the run's: NAME.json (what was sent), NAME.log (the tracker's output)


@dataclass
class Sent:
    """What a tracker has: of the run `key`, all up to `step`, these scores, `session` and `end` (times of those lines)."""

    key: str = ""
    again: int = 0
    step: int = 0
    scores: list[str] = field(default_factory=list)
    session: float = 0.0
    end: float = 0.0
    lines: int = 0


def sent_by(log: Path, name: str) -> Sent:
    """What the tracker has received of the log, by its state file; nothing when no state file can be read."""
    try:
        return Sent(**json.loads((home_of(log) / STATE / f"{name}.json").read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        return Sent()


class Feed:
    """Sends a log to one tracker. A context manager: one process at a time sends a log to a tracker."""

    def __init__(self, log: Path, name: str, *, again: bool = False, wait: bool = False) -> None:
        """`again` makes a new run of the tracker and sends all; `wait` waits for another process that sends this log."""
        self._log, self._name, self._wait, self._again = log, name, wait, again
        self._home = home_of(log)
        self._about: About | None = None
        self._tracker: Tracker | None = None
        self._tail = LogTail(log)
        self._lock: IO[bytes] | None = None
        self.sent = Sent()
        self.lines = 0  # sent by this object

    def __enter__(self) -> Feed:
        folder = self._home / STATE
        folder.mkdir(parents=True, exist_ok=True)
        self._lock = (folder / f"{self._name}.lock").open("ab")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | (0 if self._wait else fcntl.LOCK_NB))
        except BlockingIOError:
            self._lock.close()
            raise UserError(f"{self._log}: another process sends it to {self._name} just now") from None
        self.sent = sent_by(self._log, self._name)
        return self

    def __exit__(self, *_: object) -> None:
        if self._lock is not None:
            self._lock.close()

    def run(self, pause: Callable[[], bool] | None = None) -> Sent:
        """Sends what is there; with `pause`, which waits a while and says whether to continue, until the run ends.

        UserError when the tracker's package or every line is missing; else what the tracker or the disk raise.
        """
        lines, reason, going = counted(self._tail.read()), "", True
        while True:
            for number, line in enumerate(lines, 1):
                self._one(line)
                if number % KEEP_EVERY == 0 and self._tracker is not None:
                    self._keep()
                reason = str(line.get("reason", "")) if line["kind"] == "end" else reason
            if lines and self._tracker is not None:
                self._tracker.flush()
                self._keep()
            if reason or (not going and not lines) or pause is None:
                break
            going = pause() and going
            lines = self._tail.read()
        if self._about is None and pause is None:
            raise UserError(f"{self._log} holds no line of a run's log")
        if self._tracker is not None:
            self._tracker.close(reason)
            self._keep()
        return self.sent

    def _one(self, line: dict[str, Any]) -> None:
        if self._about is None:
            self._about = self._first(line)
        sent, step = self.sent, int(line.get("step") or 0)
        when = float(line.get("time") or 0.0)
        if line["kind"] == "start" and when > sent.session:
            sent.session = when
            if step < sent.step and self._open().rewind(step):
                sent.step = step
                sent.scores = [score for score in sent.scores if int(score.split()[0]) <= step]
        elif line["kind"] == "step" and step > sent.step:
            self._send(step, when, line)
            sent.step = step
        elif line["kind"] == "val":
            score = f"{step} {score_name(line)} {line.get('stride')}"
            if score not in sent.scores:
                self._send(step, when, line)
                sent.scores.append(score)
        elif line["kind"] == "end" and when > sent.end:
            self._send(step, when, line)
            sent.end = when

    def _send(self, step: int, time_s: float, line: dict[str, Any]) -> None:
        values = values_of(line)
        if values:
            self._open().log(step, time_s, values)
            self.sent.lines += 1
            self.lines += 1

    def _open(self) -> Tracker:
        """Opened when there is something to send, so that nothing new makes no new file."""
        if self._tracker is None:
            assert self._about is not None
            self._tracker = open_tracker(self._name, self._about)
        return self._tracker

    def _first(self, line: dict[str, Any]) -> About:
        """The first line says which run this is; another run's state does not count."""
        if self.sent.key != key_of(line):
            self.sent = Sent(key=key_of(line), again=self.sent.again if self._again else 0)
        if self._again:
            self.sent = Sent(key=self.sent.key, again=self.sent.again + 1)
        config = line.get("config")
        names = ("version", "commit", "hardware", "device", "dtype", "seed", "parameters")
        return About(
            home=self._home,
            name=self._home.resolve().name,
            key=key_of(line, self.sent.again),
            again=self.sent.again,
            config=config if isinstance(config, dict) else {},
            facts={name: line[name] for name in names if name in line},
        )

    def _keep(self) -> None:
        path = self._home / STATE / f"{self._name}.json"
        made = path.with_suffix(f".{os.getpid()}")
        made.write_text(json.dumps(asdict(self.sent)), encoding="utf-8")
        made.replace(path)
