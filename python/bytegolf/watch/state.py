"""What a run's log says so far: numbers, curves, and whether it is still running."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from bytegolf.compare.places import LoggedRun
from bytegolf.log import counted, writer_lives
from bytegolf.record.follow import LogTail
from bytegolf.trackers import score_name

Standing = Literal["waiting", "training", "scoring", "silent", "gone", "done", "interrupted", "failed"]
OVER = ("done", "interrupted", "failed", "gone")
# A run logs every log_every steps; one that stays quiet this much longer than usual counts as silent.
SILENT_S, SILENT_STEPS = 30.0, 10.0
GONE_S = 3.0  # a lock that nobody holds may be one that the next part of the run is about to take
CURVE_POINTS = 4096


@dataclass
class LoggedScore:
    """The newest scoring of one kind."""

    step: int
    bpb: float | None


@dataclass
class Watched:
    """One run. `look` brings it up to date."""

    place: LoggedRun
    now: Callable[[], float] = time.time
    start: dict[str, Any] = field(default_factory=dict)
    step: dict[str, Any] = field(default_factory=dict)  # the newest such line
    end: dict[str, Any] = field(default_factory=dict)
    scores: dict[str, LoggedScore] = field(default_factory=dict)
    problems: list[str] = field(default_factory=list)  # of trackers
    resumed: list[int] = field(default_factory=list)  # after which steps
    curve: list[tuple[int, float, float]] = field(default_factory=list)  # step, loss, bpb
    trouble: str = ""  # why the log cannot be read
    faults: list[str] = field(default_factory=list)  # lines of it that were left out, and why
    last_kind: str = ""
    last_s: float = 0.0  # time of the newest line

    def __post_init__(self) -> None:
        self._tail = LogTail(self.place.log)
        self._files = 0
        self._longest_s = 0.0  # usual time between lines

    def look(self) -> bool:
        """Reads what is new; returns whether there was anything."""
        try:
            lines = self._tail.read()
            self.trouble = ""
        except OSError as error:
            self.trouble = str(error)
            return False
        self.faults = self._tail.faults
        if self._tail.files != self._files:
            first = self._files == 0
            self._files = self._tail.files
            if not first:
                self._forget()
            lines = counted(lines)
        for line in lines:
            self._take(line)
        return bool(lines)

    @property
    def share(self) -> float:
        """How much of training is done, 0 to 1, by steps or by the clock, whichever ends first."""
        if self.end.get("reason") == "done":
            return 1.0
        config, step = self.start.get("config") or {}, self.step
        share = self.done / max(int(config.get("iterations") or 1), 1)
        elapsed, left = step.get("elapsed_s"), step.get("left_s")
        if elapsed is not None and left is not None and elapsed + left > 0:
            share = max(share, elapsed / (elapsed + left))
        return min(max(share, 0.0), 1.0)

    @property
    def done(self) -> int:
        """Steps done."""
        return int(self.step.get("step") or self.start.get("step") or 0)

    @property
    def age_s(self) -> float:
        """Seconds since the newest line."""
        return max(self.now() - self.last_s, 0.0) if self.last_s else 0.0

    @property
    def standing(self) -> Standing:
        """State of the run; "gone": no process writes the log any more, and it has no end."""
        if not self.last_s:
            return "waiting"
        if self.end:
            reason = self.end.get("reason")
            return "done" if reason == "done" else "interrupted" if reason == "interrupted" else "failed"
        if self.start.get("locked") and self.age_s > GONE_S and writer_lives(self.place.log) is False:
            return self.standing if self.look() else "gone"  # its last lines may be younger than our last look
        # Scoring and packing at the end take as long as they take.
        if self.share >= 1.0 and self.done:
            return "scoring"
        return "silent" if self.age_s > max(SILENT_S, SILENT_STEPS * self._longest_s) else "training"

    @property
    def final_bpb(self) -> float | None:
        """The score of record, once there."""
        found = self.end.get("sliding")
        return found.get("bpb") if isinstance(found, dict) else None

    def _forget(self) -> None:
        self.start, self.step, self.end, self.scores = {}, {}, {}, {}
        self.problems, self.resumed, self.curve = [], [], []
        self._longest_s, self.last_s, self.last_kind = 0.0, 0.0, ""

    def _take(self, line: dict[str, Any]) -> None:
        kind, step, when = line["kind"], int(line.get("step") or 0), float(line.get("time") or 0.0)
        if kind == "start":
            self.start, self.end = line, {}
            if step:
                self.resumed.append(step)
            self.curve = [point for point in self.curve if point[0] <= step]
            self.scores = {name: score for name, score in self.scores.items() if score.step <= step}
            self.step = self.step if int(self.step.get("step") or 0) <= step else {}
        elif kind == "step":
            if self.last_kind == "step":
                self._longest_s = max(0.9 * self._longest_s, when - self.last_s)
            self.step = line
            self._draw(step, line)
        elif kind == "val":
            self.scores[score_name(line)] = LoggedScore(step, line.get("bpb"))
        elif kind == "track":
            self.problems.append(f"{line.get('tracker')}: {line.get('problem')}")
        elif kind == "end":
            self.end = line
        self.last_s, self.last_kind = when or self.last_s, kind

    def _draw(self, step: int, line: dict[str, Any]) -> None:
        """Keeps the curve below CURVE_POINTS, at even distances."""
        loss, bpb = line.get("total"), line.get("bpb")
        if loss is None and bpb is None:
            return
        nan = float("nan")
        self.curve.append((step, nan if loss is None else loss, nan if bpb is None else bpb))
        if len(self.curve) >= CURVE_POINTS:
            del self.curve[1:-1:2]

    def as_dict(self) -> dict[str, Any]:
        """For programs: all but the curve."""
        names = ("step", "bpb", "total", "lr_factor", "grad_norm", "bytes", "bytes_per_s", "elapsed_s", "left_s")
        return {
            "name": self.place.name,
            "log": str(self.place.log),
            "group": self.place.group,
            "standing": self.standing,
            "share": round(self.share, 6),
            "iterations": (self.start.get("config") or {}).get("iterations"),
            **{name: self.step.get(name) for name in names},
            "step": self.done,
            "scores": {name: {"step": score.step, "bpb": score.bpb} for name, score in self.scores.items()},
            "final_bpb": self.final_bpb,
            "reason": self.end.get("reason"),
            "resumed_after": self.resumed,
            "age_s": round(self.age_s, 3),
            "trackers": self.problems,
            "trouble": self.trouble,
            "faults": self.faults,
        }
