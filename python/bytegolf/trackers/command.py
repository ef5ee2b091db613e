"""`bytegolf track`: sends a log to a tracker afterwards, or beside the run that writes it."""

from __future__ import annotations

import os
import select
import signal
import sys
from pathlib import Path

from bytegolf.errors import UserError
from bytegolf.log import log_of
from bytegolf.screen import console
from bytegolf.trackers import home_of, look, names_of
from bytegolf.trackers.feed import Feed

POLL_S = 0.5
# For what is left when the run is gone. The run itself waits less; this ends a process whose run was killed.
LEFT_ALONE_S = 60


def track_command(run: Path, to: str, again: bool, follow: bool) -> None:
    """UserError for an unknown tracker, a missing package or log, and while another process sends the same."""
    log = log_of(run)
    for name in names_of(to):
        with Feed(log, name, again=again, wait=follow) as feed:
            try:
                sent = feed.run(_run_goes_on if follow else None)
            except (UserError, OSError):
                raise
            except Exception as error:  # any package may raise anything; a person wants one line of it
                raise UserError(f"{name}: {type(error).__name__}: {error}") from error
        if not follow:
            new = f"{feed.lines:,} lines" if feed.lines else "nothing new"
            console.say(f"{name}: sent {new}; has all up to step {sent.step}; to look: {look(name, home_of(log))}")


def _run_goes_on() -> bool:
    """Waits a while. The run holds the other end of our input: its end means that no line will come, or that it was killed."""
    ready, _, _ = select.select([sys.stdin], [], [], POLL_S)
    if not ready or os.read(sys.stdin.fileno(), 4096):
        return True
    signal.signal(signal.SIGALRM, signal.SIG_DFL)  # ends the process even where a tracker never comes back to Python
    signal.alarm(LEFT_ALONE_S)
    return False
