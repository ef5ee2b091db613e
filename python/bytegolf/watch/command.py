"""`bytegolf watch`: looks at logs again and again, draws, and leaves when asked or when the runs have ended."""

from __future__ import annotations

import os
import select
import shlex
import signal
import sys
import termios
import threading
import time
import tty
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from bytegolf.compare.places import LoggedRun, is_sweep, places
from bytegolf.errors import UserError
from bytegolf.screen import console
from bytegolf.sweep.results import read_results
from bytegolf.visible import visible
from bytegolf.watch.draw import frame, line, words
from bytegolf.watch.state import OVER, Watched

PLAIN_EVERY_S = 10.0  # between lines where there is no terminal
AGAIN_S = 5.0  # between looks for new runs of a sweep
SETTLED_S = 6.0  # a sweep starts its next run within this after one has ended


def watch_command(paths: Sequence[Path], once: bool, every_s: float, as_json: bool) -> int:
    """Returns the exit status: 0, or 1 when a run ended other than well or its process is gone."""
    watch = _Watch(paths)
    if once or as_json:
        for path in paths:
            if not path.exists():
                raise UserError(f"{path} does not exist")
    watch.look()
    if as_json:
        found = [run.as_dict() for run in watch.runs]
        console.print_json(found[0] if len(found) == 1 else found)
        return watch.status()
    if once:
        _show(watch)
        return watch.status()
    with suppress(KeyboardInterrupt), _interrupted() as left:
        if sys.stdout.isatty():
            _live(watch, every_s, left)
        else:
            _plain(watch, every_s, left)
    _show(watch)
    return watch.status()


class _Watch:
    """The runs that the paths mean; where more may come, they are looked up again."""

    def __init__(self, paths: Sequence[Path]) -> None:
        self._paths = paths
        self.runs: list[Watched] = []
        self._next, self._over_since = 0.0, 0.0

    def look(self) -> bool:
        """Brings all up to date; returns whether anything is new."""
        now, new = time.monotonic(), False
        if now >= self._next:
            self._next = now + AGAIN_S
            new = self._gather(places(self._paths))
        return bool([run for run in self.runs if run.look()]) or new

    def over(self) -> bool:
        """Whether nothing more is to be expected."""
        if not all(run.standing in OVER for run in self.runs) and not self._left_by_sweeps():
            self._over_since = 0.0
            return False
        if len(self.runs) == 1 and not any(is_sweep(path) for path in self._paths):
            return True
        self._over_since = self._over_since or time.monotonic()
        return time.monotonic() - self._over_since >= SETTLED_S

    def status(self) -> int:
        return int(any(run.standing in ("failed", "gone") for run in self.runs))

    def _gather(self, found: Sequence[LoggedRun]) -> bool:
        known = {run.place.log.resolve(): run for run in self.runs}
        self.runs = [known.get(place.log.resolve()) or Watched(place) for place in found]
        return len(self.runs) != len(known)

    def _left_by_sweeps(self) -> bool:
        """Whether the runs that have not ended wait in sweeps that start none: those were interrupted."""
        sweeps = [path for path in self._paths if is_sweep(path)]
        waiting = [run for run in self.runs if run.standing not in OVER]
        if not sweeps or not all(run.standing == "waiting" and run.place.group is not None for run in waiting):
            return False
        rows = [row for path in sweeps for row in read_results(path)]
        return not any(row["status"] in ("running", "queued") for row in rows)


def _show(watch: _Watch) -> None:
    out = console.stdout()
    out.print(frame(watch.runs, out.width, 1000, plain=not out.encoding.startswith("utf")))
    for run in watch.runs:
        if run.standing in ("gone", "interrupted"):
            out.print(f"resume with: bytegolf train --resume --run {shlex.quote(str(run.place.log.parent))}")


def _live(watch: _Watch, every_s: float, left: Callable[[], bool]) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    out = console.stdout()
    plain = not out.encoding.startswith("utf")
    # In the alternate screen a frame of any height is redrawn in place; the last one is printed after it.
    with _keys(), Live(console=out, screen=True, auto_refresh=False) as live:
        while not (watch.over() or left()):
            foot = Text("q leaves; the run continues", style="dim")
            live.update(Group(frame(watch.runs, out.width, out.height - 1, plain=plain), foot), refresh=True)
            if _pressed(every_s) in ("q", "Q", "\x03"):
                return
            watch.look()


def _plain(watch: _Watch, every_s: float, left: Callable[[], bool]) -> None:
    last, said = -PLAIN_EVERY_S, ""
    while not (watch.over() or left()):
        now = time.monotonic()
        text = "\n".join(line(run) if run.step else f"{run.place.name}  {words(run)}" for run in watch.runs)
        if now - last >= PLAIN_EVERY_S and text != said:
            sys.stdout.write(visible(text) + "\n")
            sys.stdout.flush()
            last, said = now, text
        time.sleep(every_s)
        watch.look()


@contextmanager
def _interrupted() -> Iterator[Callable[[], bool]]:
    """Tells whether Ctrl-C came. As an exception it is lost where Python is just inside a destructor or a callback."""
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    old = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield lambda: bool(came)
    finally:
        signal.signal(signal.SIGINT, old)


@contextmanager
def _keys() -> Iterator[None]:
    """Keys come at once and are not shown, where there is a keyboard."""
    if not sys.stdin.isatty():
        yield
        return
    old = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, old)


def _pressed(seconds: float) -> str:
    """The key pressed within a time, "" for none."""
    if not sys.stdin.isatty():
        time.sleep(seconds)
        return ""
    ready, _, _ = select.select([sys.stdin], [], [], seconds)
    return os.read(sys.stdin.fileno(), 16).decode("ascii", "replace")[-1:] if ready else ""
