"""The verbs of many runs: `sweep` makes them, `report` compares them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

app = App(help_format="markdown")
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON value instead of a table.")]


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
    json: Json = False,
) -> None:
    """Compare groups of runs: mean, spread, interval, and one-sided tests that a mean lies below a baseline.

    Student's test against a number, Welch's against a group; each plainly, and for baseline minus threshold.

    Parameters
    ----------
    what
        Folders of sweeps and of runs, or a sweep's results.csv.
    values
        Scores to compare, a,b,c or name=a,b,c; may be repeated.
    baseline
        A group's name, or a number in the unit.
    threshold
        Nats per byte by which a mean must lie below the baseline in the second test.
    unit
        Of --values, of a baseline number, and of the plot; tables show both.
    confidence
        Of the two-sided intervals.
    score
        Which score of the runs: of the artifact (sliding windows or whole chunks), of the last weights, of the chosen weights.
    plot
        Picture to draw (.png, .svg, .pdf).
    """
    from bytegolf.reporting import report_command

    report_command(what, values, baseline, threshold, unit, confidence, score, json, plot)
