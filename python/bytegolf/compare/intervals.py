"""A picture of groups of runs: every run a dot, each group's mean with its interval, the baseline a line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytegolf.pictures.curves import BLUE, GRID, INK, ORANGE, save, shown_name, style
from bytegolf.stats import Summary


@dataclass(frozen=True)
class Row:
    """One group: its name, the values of its runs and their summary, all in one unit."""

    name: str
    values: Sequence[float]
    summary: Summary


@dataclass(frozen=True)
class Line:
    """A vertical line at a value, with what it is."""

    label: str
    value: float


def draw_intervals(rows: Sequence[Row], lines: Sequence[Line], unit: str, caption: str, picture: Path) -> None:
    """Writes a picture in the format of its suffix (.png, .svg, .pdf). UserError when matplotlib is missing."""
    with style("to draw a plot", **{"axes.spines.left": False}):
        _draw(rows, lines, unit, caption, picture)


def _draw(rows: Sequence[Row], lines: Sequence[Line], unit: str, caption: str, picture: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 1.6 + 0.42 * len(rows)), dpi=120, layout="constrained")
    axes: Any = figure.add_subplot()
    for y, row in enumerate(rows):
        axes.plot(row.values, [y] * len(row.values), "o", color=BLUE, markersize=6, markeredgecolor="white", zorder=3)
        if row.summary.low is not None and row.summary.high is not None:
            axes.plot([row.summary.low, row.summary.high], [y, y], color=BLUE, alpha=0.5, linewidth=3)
        axes.plot(row.summary.mean, y, "|", color=INK, markersize=14, markeredgewidth=2)
    for line, dashes in zip(lines, ("-", "--", ":"), strict=False):
        axes.axvline(line.value, color=ORANGE, linestyle=dashes, linewidth=1.2, label=shown_name(line.label))
    axes.set_yticks(range(len(rows)), [shown_name(f"{row.name}  (n = {row.summary.n})") for row in rows])
    axes.set_ylim(len(rows) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.grid(True, axis="x", color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_xlabel(unit)
    axes.set_title(caption, loc="left", color=INK, fontsize=10)
    if lines:
        figure.legend(frameon=False, loc="outside lower left", ncols=len(lines), fontsize=9)
    save(figure, picture, "--plot")
