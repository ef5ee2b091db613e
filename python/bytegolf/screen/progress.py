"""What a person sees during a run: a live line on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING, Any

from bytegolf.screen import console

if TYPE_CHECKING:
    from rich.progress import Progress as RichProgress

PLAIN_EVERY_S = 10.0


class Progress:
    """Shows `update`s and `say`s on standard error; a context manager."""

    def __init__(self, what: str, quiet: bool = False) -> None:
        """`what` names the work, e.g. "train"; `quiet` shows nothing."""
        self._what = what
        self._quiet = quiet
        self._console = console.stderr()
        self._live: RichProgress | None = None
        self._last = -PLAIN_EVERY_S

    def __enter__(self) -> Progress:
        if sys.stderr.isatty() and not self._quiet:
            from rich.progress import BarColumn, TextColumn
            from rich.progress import Progress as RichProgress

            words = (TextColumn("{task.description}", markup=False), TextColumn("{task.fields[facts]}", markup=False))
            columns = (words[0], BarColumn(bar_width=24), words[1])
            self._live = RichProgress(*columns, console=self._console, transient=True)
            self._task = self._live.add_task(self._what, total=1.0, facts="starting")
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            self._live.stop()

    def update(self, facts: dict[str, Any], share_done: float) -> None:
        """Shows a `step` line of the log; `share_done` is 0 to 1."""
        now = time.monotonic()
        if self._live is None and now - self._last < PLAIN_EVERY_S and share_done < 1:
            return
        self._last = now
        words = (
            f"step {facts['step']}  {facts['bpb']:.4f} bpb  loss {facts['total']:.4f}  lr {facts['lr_factor']:.2f}  "
            f"{console.size(facts['bytes_per_s'])}/s  {console.duration(facts['left_s'])} left"
        )
        if self._live is not None:
            self._live.update(self._task, completed=share_done, facts=words)
        else:
            self._print(f"{self._what}: {words}")

    def share(self, done: int, total: int) -> None:
        """Shows how far a scoring is, on a terminal."""
        if self._live is not None:
            self._live.update(self._task, completed=done / max(total, 1), facts=f"scored {done:,} of {total:,} ids")

    def say(self, text: str) -> None:
        """One line that stays."""
        self._print(text)

    def _print(self, text: str) -> None:
        if not self._quiet:
            self._console.print(text, markup=False)
