"""The verbs that look at runs: `watch` in the terminal, `plot` as a picture, `track` in a tracker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from bytegolf.errors import UserError

app = App(help_format="markdown")


@app.command
def watch(
    *runs: Path,
    once: Annotated[bool, Parameter(negative="")] = False,
    every_s: float = 1.0,
    as_json: Annotated[
        bool, Parameter(name="--json", negative="", help="Print the state once, as one JSON value.")
    ] = False,
) -> int:
    """Show runs live, from their logs; `q` or Ctrl-C leaves and does not touch them.

    Ends by itself when the runs have ended. Status 1 when one ended other than well, or its process is gone.

    Parameters
    ----------
    runs
        Folders of runs and of sweeps, or logs. What is not there yet is waited for.
    once
        Print one frame and leave.
    every_s
        Seconds between looks at the logs.
    """
    from bytegolf.watch.command import watch_command

    if not runs:
        raise UserError("name at least one folder of a run or a sweep")
    if not 0.05 <= every_s <= 3600:
        raise UserError(f"--every-s {every_s:g} is not between 0.05 and 3600")
    return watch_command(runs, once, every_s, as_json)


@app.command
def plot(
    *runs: Path,
    output: Annotated[tuple[Path, ...], Parameter(name=["--output", "-o"], negative="", show_default=False)] = (),
    what: str = "",
    against: Literal["bytes", "steps", "seconds"] = "bytes",
    title: str = "",
) -> None:
    """Draw the curves of runs in one picture: loss, bits per byte, speed, step size, gradient norm, bits per weight.

    Runs that differ in their seed only have one colour; those of a sweep are named as its groups are.

    Parameters
    ----------
    runs
        Folders of runs and of sweeps, or logs.
    output
        Picture to write (.png, .svg, .pdf); may be repeated. By default plot.png and plot.svg, in the folder when one is named.
    what
        Panels to draw, a,b,c, of: loss, bpb, speed, lr, grad_norm, bits. By default all.
    against
        What runs from left to right.
    title
        Words above the picture.
    """
    from bytegolf.compare.plot import plot_command

    if not runs:
        raise UserError("name at least one folder of a run or a sweep, or a log")
    names = [name.strip() for name in what.split(",") if name.strip()]
    plot_command(runs, output, names, against, title)


@app.command
def track(
    run: Path,
    /,
    *,
    to: str,
    again: Annotated[bool, Parameter(negative="")] = False,
    follow: Annotated[bool, Parameter(negative="", show=False)] = False,
) -> None:
    """Send the log of a run to a tracker: what it has not got yet, each step once. Option `track` does it during the run.

    Parameters
    ----------
    run
        Folder of a run, or a log.
    to
        tensorboard, wandb (offline unless WANDB_MODE says otherwise) or trackio; several as a,b.
    again
        Send all, as a new run of the tracker.
    follow
        Until standard input ends, for runs that start this beside themselves.
    """
    from bytegolf.trackers.command import track_command

    track_command(run, to, again, follow)
