"""What a person sees of a sweep: a live table on a terminal, a line for each event elsewhere, and a table at the end."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from bytegolf.screen import console
from bytegolf.sweep.board import Board, Entry

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

STYLE = {"done": "green", "failed": "red", "running": "cyan", "queued": "yellow", "interrupted": "yellow"}
PLAIN_EVERY_S = 60.0
MOST_ROWS = 24


class SweepView:
    """Shows a board on standard error; a context manager."""

    def __init__(self) -> None:
        """Nothing is shown before it is entered."""
        self._console = console.stderr()
        self._live: Live | None = None
        self._next = time.monotonic() + PLAIN_EVERY_S

    def __enter__(self) -> SweepView:
        if sys.stderr.isatty():
            from rich.live import Live

            self._live = Live(console=self._console, auto_refresh=False, transient=True)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """One line that stays."""
        self._console.print(text, markup=False)

    def refresh(self, board: Board) -> None:
        """Redraws the live table; elsewhere a line now and then."""
        if self._live is not None:
            self._live.update(live_table(board), refresh=True)
        elif time.monotonic() >= self._next:
            self._next = time.monotonic() + PLAIN_EVERY_S
            going = [
                f"{e.run.name} step {e.progress.step}"
                for e in board.entries
                if e.status == "running" and e.progress.step
            ]
            self.say(f"{counts(board)}" + (f" ({', '.join(going)})" if going else ""))


def counts(board: Board) -> str:
    """The state of the sweep, in words: "12 runs: 3 done, 2 running, 7 waiting"."""
    found = board.count()
    order = ("done", "running", "queued", "waiting", "interrupted", "failed")
    parts = [f"{found[status]} {status}" for status in order if found[status]]
    return f"{len(board.entries)} runs: {', '.join(parts)}"


def live_table(board: Board) -> Table:
    """Running and failed runs first, then as many others as fit, with bars of progress."""
    from rich.progress_bar import ProgressBar

    rank = {"running": 0, "queued": 1, "failed": 2, "interrupted": 3, "waiting": 4, "done": 5}
    shown = sorted(board.entries, key=lambda entry: rank[entry.status])[:MOST_ROWS]
    table = console.table("run", "", "progress", "step", "bpb", "left", "where", right=("step", "bpb", "left"))
    for entry in shown:
        steps = entry.run.config.iterations
        step = entry.figures.get("steps") or entry.progress.step
        bar = ProgressBar(total=1.0, completed=_share(entry), width=18)
        score = entry.figures.get("bpb_sliding", entry.progress.bpb)
        left = entry.progress.left_s if entry.status == "running" else None
        table.add_row(
            console.text(entry.run.name),
            console.text(entry.status, STYLE.get(entry.status, "dim")),
            bar,
            f"{step:,}/{steps:,}" if step else "",
            f"{score:.4f}" if score is not None else "",
            console.duration(left) if left else "",
            console.text(entry.where if entry.status in ("running", "queued") else entry.error[:60]),
        )
    more = len(board.entries) - len(shown)
    table.caption = counts(board) + (f"; {more} not shown" if more else "")
    table.caption_justify = "left"
    return table


def _share(entry: Entry) -> float:
    """How much of the training is done, by steps or by the clock, whichever ends first."""
    if entry.status == "done":
        return 1.0
    share = entry.progress.step / max(entry.run.config.iterations, 1)
    budget = entry.run.config.train_budget_s
    if budget and entry.progress.left_s is not None and entry.progress.step:
        share = max(share, 1 - entry.progress.left_s / budget)
    return min(max(share, 0.0), 1.0)


def show_results(board: Board) -> None:
    """The table of all runs on standard output; the last lines of failed runs on standard error."""
    right = ("seed", "sliding bpb", "whole bpb", "raw bpb", "artifact bytes", "steps", "time")
    table = console.table("group", *right, "status", right=right)
    for entry in board.entries:
        f = entry.figures
        scores = [f.get(f"bpb_{name}") for name in ("sliding", "whole", "raw")]
        table.add_row(
            entry.run.group,
            str(entry.run.seed),
            *("" if score is None else f"{score:.4f}" for score in scores),
            *("" if f.get(name) is None else f"{f[name]:,}" for name in ("artifact_bytes", "steps")),
            "" if f.get("seconds") is None else console.duration(f["seconds"]),
            entry.status,
        )
    console.stdout().print(table)
    for entry in board.entries:
        if entry.status == "failed":
            console.say(f"{entry.folder}: failed after {entry.attempts} attempts; its last lines:")
            for line in entry.output or [entry.error]:
                console.say(f"    {line}")
