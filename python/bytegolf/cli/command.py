"""The whole command, put together from its verbs, and how users' mistakes are distinguished from bugs.

Verbs import what they need when they run, so that `--help` answers at once.
"""

from __future__ import annotations

import io
import sys
import warnings
from typing import TextIO

from cyclopts import App, CycloptsError

from bytegolf._bytegolf import FormatError, NumericsError, __version__
from bytegolf.cli import data, machine, model, submission, sweep, train, watch
from bytegolf.errors import Stopped, UserError
from bytegolf.visible import one_line

app = App(
    name="bytegolf",
    version=__version__,
    help="Train, squeeze and score byte-level language models.",
    help_epilogue="`bytegolf VERB --help` lists a verb's options. With --traceback anywhere, errors show where they arose.",
    help_format="markdown",
)
app.command(data.app)
for part in (train, model, machine, sweep, submission, watch):
    app.update(part.app)


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs one command and leaves with its status (0 done, 1 missed, 2 user's mistake, 130 interrupted)."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    _replace_what_cannot_be_written()
    traceback = "--traceback" in tokens
    tokens = [t for t in tokens if t != "--traceback"]
    warnings.showwarning = _warn
    try:
        status = _run(tokens or ["--help"])
    except KeyboardInterrupt:
        status = _refuse("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()
        status = 141
    except Stopped as stop:
        status = _refuse(str(stop), stop.status)
    except NumericsError as error:
        if traceback:
            raise
        status = _refuse(str(error), 1)
    except (UserError, FormatError, ValueError, OSError, CycloptsError) as error:
        if traceback:
            raise
        status = _refuse(str(error), 2)
    sys.exit(status)


def _run(tokens: list[str]) -> int:
    command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    status = command(*bound.args, **bound.kwargs)
    return status if isinstance(status, int) else 0


def _warn(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """One line for the user, without the place in the sources."""
    sys.stderr.write(f"bytegolf: warning: {one_line(str(message))}\n")


def _refuse(message: str, status: int) -> int:
    sys.stderr.write(f"bytegolf: {one_line(message)}\n")
    return status


def _replace_what_cannot_be_written() -> None:
    """Where standard output or error is ASCII, say, a letter that it lacks becomes ? instead of ending the command."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")
