"""The state of every run of a sweep, and what is written and printed when one changes."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from bytegolf.record.files import CHECKPOINTS
from bytegolf.screen import console
from bytegolf.sweep.folder import RunProgress, Status, last_words, look, progress_of
from bytegolf.sweep.plan import Run
from bytegolf.sweep.results import FIGURES, HASHES, write_results


@dataclass
class Entry:
    """One run: its state, and the last words of an attempt that failed. `where` names its slot or job."""

    run: Run
    folder: Path
    status: Status = "waiting"
    attempts: int = 0
    where: str = ""
    error: str = ""
    output: list[str] = field(default_factory=list)
    figures: dict[str, Any] = field(default_factory=dict)
    progress: RunProgress = field(default_factory=RunProgress)


class View(Protocol):
    """Something that shows a board."""

    def say(self, text: str) -> None:
        """One line that stays."""

    def refresh(self, board: Board) -> None:
        """The board as it is now."""


class Board:
    """All runs of a sweep, in the order of the plan."""

    def __init__(self, runs: Sequence[Run], out: Path, groups: Collection[str] = ()) -> None:
        """Looks at what the folders below `out` hold; only runs of `groups` are to be made, all when none is named.

        UserError when another config made one of the folders.
        """
        self.out = out
        self._groups = set(groups) or {run.group for run in runs}
        self.entries = [Entry(run, out / run.name) for run in runs]
        self.view: View | None = None
        self.keep_checkpoints = True
        for entry in self.entries:
            found = look(entry.folder, entry.run.config)
            entry.status, entry.figures = found.status, found.figures
            if found.status == "interrupted":
                entry.progress = progress_of(entry.folder)

    def open(self) -> list[Entry]:
        """The runs that are to be started or resumed."""
        todo = ("waiting", "interrupted")
        return [entry for entry in self.entries if entry.status in todo and entry.run.group in self._groups]

    def count(self) -> Counter[str]:
        """How many runs have each status."""
        return Counter(entry.status for entry in self.entries)

    def started(self, entry: Entry, where: str, status: Status = "running") -> None:
        """An attempt begins."""
        again = f", attempt {entry.attempts + 1}" if entry.attempts else ""
        begun = (
            f", resumes after step {entry.progress.step}"
            if entry.status == "interrupted" and entry.progress.step
            else ""
        )
        entry.status, entry.where, entry.error, entry.output = status, where, "", []
        entry.attempts += 1
        self._say(f"{entry.run.name}: {status} on {where}{again}{begun}")
        self.write()

    def ended(self, entry: Entry, problem: str, retries: int, *, stopped: bool = False, since: int = 0) -> None:
        """An attempt is over: the log says whether the run is done; otherwise `problem` says what went wrong.

        A run that fell short waits for another attempt while `retries` last, unless it was `stopped` by us. Its output
        counts from byte `since`.
        """
        found = look(entry.folder, entry.run.config)
        entry.progress = progress_of(entry.folder)
        if found.status == "done":
            entry.status, entry.figures = "done", found.figures
            if not self.keep_checkpoints:
                shutil.rmtree(entry.folder / CHECKPOINTS, ignore_errors=True)
            name, score = entry.run.name, entry.figures["bpb_sliding"]
            size = f", {entry.figures['artifact_bytes']:,} bytes" if entry.figures["artifact_bytes"] is not None else ""
            self._say(f"{name}: done" + (f", {score:.4f} bpb{size}" if score is not None else ""))
        elif stopped:
            entry.status = "interrupted" if found.status == "interrupted" else "waiting"
        else:
            entry.output = last_words(entry.folder, since)
            entry.error = f"{problem}: {entry.output[-1].strip()}" if entry.output else problem
            entry.status = "failed" if entry.attempts > retries else found.status
            again = "" if entry.status == "failed" else "; trying again"
            self._say(f"{entry.run.name}: failed ({entry.error}){again}")
        self.write()

    def beat(self) -> None:
        """Asks the running ones how far they are, and shows it."""
        for entry in self.entries:
            if entry.status in ("running", "queued"):
                entry.progress = progress_of(entry.folder)
        if self.view is not None:
            self.view.refresh(self)

    def rows(self) -> list[dict[str, Any]]:
        """The rows of results.csv."""
        return [
            {
                "group": entry.run.group,
                "seed": entry.run.seed,
                **entry.run.changed,
                **{name: entry.figures.get(name) for name in (*FIGURES, *HASHES)},
                "status": entry.status,
                "attempts": entry.attempts,
                "error": entry.error or None,
                "folder": entry.run.name,
            }
            for entry in self.entries
        ]

    def write(self) -> None:
        """Replaces the results files."""
        write_results(self.out, self.rows())

    def _say(self, text: str) -> None:
        if self.view is not None:
            self.view.say(text)
        else:
            console.say(text)
