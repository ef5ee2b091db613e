"""The verbs of many runs: `sweep` makes them, `report` compares them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from bytegolf.cli.words import Json
from bytegolf.errors import UserError

app = App(help_format="markdown")


@app.command
def sweep(
    spec: Path,
    /,
    *overrides: str,
    out: Path | None = None,
    on: Literal["local", "slurm"] | None = None,
    jobs: int | None = None,
    groups: str = "",
    dry_run: Annotated[bool, Parameter(negative="")] = False,
    as_json: Json = False,
) -> int:
    """Train every run of a sweep file: groups x grid x seeds, each in a folder of its own.

    The same command continues where an earlier one stopped: finished runs are left alone, interrupted ones resume from their
    checkpoint. Ctrl-C writes checkpoints. Status 1 when a run failed for good.

    Parameters
    ----------
    spec
        TOML file: config, seeds, [overrides], [groups.NAME], [grid], [local], [slurm].
    overrides
        Options for all runs, as name=value.
    out
        Folder that gets the runs and results.csv; by default runs/NAME.
    on
        Where to run, instead of what the file says.
    jobs
        Runs at once, in place of the file's number.
    groups
        Make the runs of these groups only, a,b,c.
    dry_run
        Show the runs and their state; start none.
    """
    from bytegolf.options import split
    from bytegolf.sweep.command import SweepOptions, sweep_command

    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs {jobs} is not at least 1")
    chosen = tuple(name.strip() for name in groups.split(",") if name.strip())
    options = SweepOptions(out, on, jobs, groups=chosen, dry_run=dry_run)
    return sweep_command(spec, split(overrides), options, as_json)


@app.command
def report(
    *what: Path,
    values: Annotated[tuple[str, ...], Parameter(negative="", show_default=False)] = (),
    baseline: str | None = None,
    threshold: float = 0.005,
    unit: Literal["bpb", "nats"] = "bpb",
    confidence: float = 0.99,
    score: Literal["sliding", "whole", "raw", "unquantised"] = "sliding",
    plot: Path | None = None,
    as_json: Json = False,
) -> None:
    """Compare groups of runs: mean, spread, interval, and one-sided tests that a mean lies below a baseline.

    Student's test against a number, Welch's against a group; each plainly, and for baseline minus threshold. A run counts once,
    under whatever names it is given; runs scored on different validation data are groups of their own.

    Parameters
    ----------
    what
        Folders of sweeps and of runs, or a sweep's results.csv.
    values
        Scores to compare, a,b,c or name=a,b,c; may be repeated.
    baseline
        A group's name, or a number in the unit.
    threshold
        Nats per byte by which a mean must be below the baseline in the second test.
    unit
        Of --values, of a baseline number, and of the plot; tables show both.
    confidence
        Of the two-sided intervals.
    score
        Which score of the runs: of the artifact (sliding windows or whole chunks), of the last weights, of the chosen weights.
    plot
        Picture to draw (.png, .svg, .pdf).
    """
    from bytegolf.compare.table import Asked, report_command

    numbers = {"threshold": threshold, "confidence": confidence}
    report_command(Asked(what, values, baseline, unit=unit, score=score, plot=plot, **numbers), as_json)
