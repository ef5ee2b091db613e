"""What can follow a run's log: TensorBoard, wandb (offline) and trackio.

log.jsonl is canonical. Each tracker is fed from it by a process of its own (`bytegolf track RUN --to NAME --follow`), which reads
the file as it grows: a tracker that raises, hangs, exits or hogs the machine cannot harm the run, nothing is
dropped when it is slow, and what it did not get can be sent later.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import math
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Protocol, cast

from bytegolf.errors import UserError


@dataclass(frozen=True)
class About:
    """The run that a tracker is opened for, in folder `home`. `key` is the same for all parts of a resumed run; `again` counts
    how often all of it was requested again."""

    home: Path
    name: str
    key: str
    again: int
    config: dict[str, Any]
    facts: dict[str, Any]


class Tracker(Protocol):
    """What is asked of an adapter; made with an About. Everything may raise or hang: it lives in the feeding process."""

    def log(self, step: int, time_s: float, values: dict[str, float]) -> None:
        """Values at a step (1 is the first); steps fall only after `rewind`. `time_s`: seconds since 1970."""

    def rewind(self, step: int) -> bool:
        """The steps after `step` come again. False when this tracker cannot take back what it got: then they are not sent."""

    def flush(self) -> None:
        """What was logged should become visible soon."""

    def close(self, reason: str) -> None:
        """The run has ended for this reason; "" when it continues elsewhere, or how it ended is not known."""


@dataclass(frozen=True)
class Kind:
    """A tracker by name: its adapter, the package that it needs ("": none), and how to look at what it holds."""

    adapter: str
    package: str
    look: str


KINDS = {
    "tensorboard": Kind("tensorboard:TensorBoard", "", "tensorboard --logdir {home}"),
    "wandb": Kind("wandb:Wandb", "wandb", "wandb sync {home}/wandb/offline-run-*"),
    "trackio": Kind("trackio:Trackio", "trackio", "trackio show --project {project}"),
}
PROJECT = "bytegolf"


def names_of(option: str) -> list[str]:
    """The trackers that option `track` names. UserError for an unknown one."""
    names = [name.strip() for name in option.strip('"').split(",") if name.strip()]
    for name in names:
        if name not in KINDS:
            raise UserError(f"option track names {name}; known: {', '.join(KINDS)}")
    return list(dict.fromkeys(names))


def missing(name: str) -> str:
    """Why the tracker cannot work here, as one line with what to do; "" when its package is there."""
    package = KINDS[name].package
    if not package:
        return ""
    try:
        spec = find_spec(package)
    except (ImportError, ValueError):
        spec = None
    if spec is None or spec.origin is None:  # a mere folder of that name is no package
        return f"package {package} is not installed; install it with: pip install 'bytegolf[track]'"
    return ""


def look(name: str, home: Path) -> str:
    """The command that shows what the tracker holds."""
    return KINDS[name].look.format(home=home, project=PROJECT)


def open_tracker(name: str, about: About) -> Tracker:
    """UserError when its package is missing; else whatever the package raises."""
    why = missing(name)
    if why:
        raise UserError(why)
    module, _, adapter = KINDS[name].adapter.partition(":")
    return cast(Tracker, getattr(importlib.import_module(f"bytegolf.trackers.{module}"), adapter)(about))


def home_of(log: Path) -> Path:
    """The folder that holds what belongs to a log: that of the run; of a log with a name of its own, one of that name beside it."""
    return log.parent if log.name == "log.jsonl" else log.with_suffix("")


def key_of(line: dict[str, Any], again: int = 0) -> str:
    """A name for a run by the first line of its log, equal whenever that log is read."""
    digest = hashlib.sha256(json.dumps(line, sort_keys=True).encode()).hexdigest()[:12]
    return f"{digest}-{again + 1}" if again else digest


def score_name(line: dict[str, Any]) -> str:
    """What a `val` line scored, in short: raw, ema, artifact, artifact_sliding."""
    name = "artifact" if line.get("from") == "artifact" else str(line.get("weights") or "raw")
    return name if line.get("stride") == line.get("window") else f"{name}_sliding"


def values_of(line: dict[str, Any]) -> dict[str, float]:
    """The numbers of a line by the names that trackers show; empty for lines without any. What was not finite is left out."""
    found: dict[str, Any] = {}
    if line["kind"] == "step":
        found = {f"train/{name}": value for name, value in line.items() if name not in ("kind", "time", "step")}
    elif line["kind"] == "val":
        found = {f"val/{score_name(line)}_bpb": line.get("bpb")}
    elif line["kind"] == "end" and line.get("reason") == "done":
        names = ("artifact_bytes", "parameters", "train_seconds", "train_bytes")
        found = {f"final/{name}": line.get(name) for name in names}
        found["final/bpb"] = (line.get("sliding") or {}).get("bpb")
        found["final/total_bytes"] = (line.get("made") or {}).get("total_bytes")
        if line.get("artifact_bytes") and line.get("parameters"):
            found["final/bits_per_weight"] = 8 * line["artifact_bytes"] / line["parameters"]
    return {
        name: float(value)
        for name, value in found.items()
        if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    }
