"""The folder of one run: what state it is in, how the run is started or resumed there, and its last lines of output."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from bytegolf import log
from bytegolf.checkpoint import newest
from bytegolf.config import Config
from bytegolf.errors import UserError
from bytegolf.log_lines import parse
from bytegolf.ranks.environment import RANK_VARIABLES
from bytegolf.record.files import CHECKPOINTS
from bytegolf.record.lock import refuse_if_held
from bytegolf.sweep.results import HASHES

OUTPUT = "output.log"
TAIL_BYTES = 1 << 16
# What may differ between a run that is there and the plan: how it is watched, not what it computes.
_WATCHING = {"log_every", "val_every", "val_ids", "checkpoint_every", "track", "rank_check_every", "rank_timeout_s"}

Status = Literal["waiting", "queued", "running", "interrupted", "failed", "done"]


@dataclass
class Found:
    """The state of a run's folder: "waiting" (nothing there), "interrupted" (begun, not done) or "done" with its figures."""

    status: Status = "waiting"
    figures: dict[str, Any] = field(default_factory=dict)


def look(folder: Path, config: Config) -> Found:
    """Reads the folder of a run. UserError when another config made what is there, or its log cannot be one."""
    path = folder / log.NAME
    if not path.exists():
        return Found()
    try:
        lines = log.read_log(path)
    except log.EmptyLog:
        return Found("interrupted")
    except ValueError as error:
        raise UserError(str(error)) from None
    start = next((line for line in lines if line["kind"] == "start"), None)
    if start is not None:
        _compare(folder, start.get("config") or {}, config)
    end = lines[-1]
    if start is None or end["kind"] != "end" or end.get("reason") != "done":
        return Found("interrupted")
    return Found("done", _figures(end))


def _figures(end: dict[str, Any]) -> dict[str, Any]:
    scores = {name: (end.get(name) or {}).get("bpb") for name in ("sliding", "whole", "raw", "unquantised")}
    figures: dict[str, Any] = {f"bpb_{name}": value for name, value in scores.items()}
    return {
        **figures,
        "artifact_bytes": end.get("artifact_bytes"),
        "steps": end.get("steps"),
        "seconds": end.get("train_seconds"),
        **{name: (end.get("made") or {}).get(name) for name in HASHES},
    }


def _compare(folder: Path, was: dict[str, Any], config: Config) -> None:
    try:
        options = Config.stored(was, f"the log in {folder}").differences(config) if was else []
    except ValueError as error:
        raise UserError(str(error)) from None
    for name, there, now in options:
        if name not in _WATCHING:
            raise UserError(
                f"{folder}: its run has {name} = {there}, the sweep file now gives {now}; "
                "choose another folder with --out, or remove that run's"
            )


def environment() -> dict[str, str]:
    """This process's environment, for a run of its own: without what says which rank of something we are."""
    return {name: value for name, value in os.environ.items() if name not in RANK_VARIABLES}


def command(folder: Path, config: Config, ranks: int = 1) -> list[str]:
    """Makes the folder ready and returns the command that starts the run, or resumes it from its newest checkpoint.

    With more than one of `ranks` that is `bytegolf launch`, which starts so many processes on this machine, a GPU each. A
    log without a checkpoint is that of a run that must start over: it is kept as log.N.jsonl. UserError naming the process that is
    at work in the folder.
    """
    verb = ["launch", "--gpus", str(ranks)] if ranks > 1 else ["train"]
    words = [sys.executable, "-m", "bytegolf", *verb]
    refuse_if_held(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config.to_toml(folder / "config.toml")
    if (folder / log.NAME).exists():
        try:
            newest(folder / CHECKPOINTS)
            return [*words, "--resume", "--run", str(folder)]
        except FileNotFoundError:
            number = 1
            while (old := folder / f"log.{number}.jsonl").exists():
                number += 1
            (folder / log.NAME).rename(old)
    return [*words, str(folder / "config.toml"), "--run", str(folder)]


@dataclass(frozen=True)
class RunProgress:
    """Where a run under way is: steps done, BPB of the last batch logged, seconds of training left (None: not known yet)."""

    step: int = 0
    bpb: float | None = None
    left_s: float | None = None


def progress_of(folder: Path) -> RunProgress:
    """The newest step line, from the end of the log only, so that it may be asked often."""
    for text in reversed(_tail(folder / log.NAME)):
        if '"kind": "step"' in text:
            try:
                line = parse(text) or {}
            except ValueError:
                continue
            if line.get("kind") == "step" and line.get("step") is not None:
                return RunProgress(line["step"], line.get("bpb"), line.get("left_s"))
    return RunProgress()


def log_ended(folder: Path) -> bool:
    """Whether the newest line of the log says that a run is over, or there is no log."""
    lines = [text for text in _tail(folder / log.NAME) if '"kind": "track"' not in text]  # those may follow the end
    return not lines or '"kind": "end"' in lines[-1]


def last_words(folder: Path, since: int = 0, lines: int = 8) -> list[str]:
    """The last lines that the run's process wrote, from byte `since` of its output on."""
    return [text for text in _tail(folder / OUTPUT, since) if text.strip()][-lines:]


def _tail(path: Path, since: int = 0) -> list[str]:
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            file.seek(max(since, size - TAIL_BYTES))
            return file.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return []
