"""curves.png of a run's log: bits per byte, step size, gradient norm and speed against the bytes read."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bytegolf.errors import UserError
from bytegolf.extras import need
from bytegolf.log import read_log
from bytegolf.visible import visible

LARGEST = 1e100  # of a value that is drawn: axes are as long as sums of them
INK, FAINT, GRID = "#222222", "#9aa0a6", "#eceff1"
# Okabe and Ito's colours, distinguishable with any kind of colour vision (https://jfly.uni-koeln.de/color); their yellow is too light here.
BLUE, ORANGE, GREEN, PINK, AMBER, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9"
COLORS = (BLUE, ORANGE, GREEN, PINK, AMBER, SKY, INK)


@contextmanager
def style(what: str, **more: Any) -> Iterator[None]:
    """How all pictures look; `what` completes "matplotlib is needed ...". UserError when it is missing."""
    matplotlib = need("matplotlib", "plots", what)
    matplotlib.use("Agg")
    look: dict[str, Any] = {"font.size": 10, "axes.spines.top": False, "axes.spines.right": False, "axes.titlesize": 11}
    look |= {"axes.edgecolor": FAINT, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK}
    look |= {"svg.hashsalt": "bytegolf"}  # the same picture is the same file
    look |= {"text.parse_math": False}  # a name such as a$b$c is no formula
    with matplotlib.rc_context(look | more):
        yield


def shown_name(text: str) -> str:
    """A name in a picture: what has no sign is escaped, and one that begins with an underscore is shown, too."""
    return visible(f" {text}" if text.startswith("_") else text)


def save(figure: Any, picture: Path, option: str) -> None:
    """Writes a picture in the format of its suffix. UserError, naming the option, for one that is not known."""
    try:
        figure.savefig(picture, metadata={"Date": None} if picture.suffix == ".svg" else None)
    except ValueError as error:
        raise UserError(f"{option} {picture}: {error}") from None


def smoothed(values: list[float]) -> list[float]:
    """Exponential mean over about a fortieth of the curve, corrected for its start, over nan as if it were not there; fewer
    than 20 values as they are."""
    if len(values) < 20:
        return values
    weight = min(max(1 - 40 / len(values), 0.0), 0.98)
    out, mean, norm = [], 0.0, 0.0
    for value in values:
        if value != value:
            out.append(value)
            continue
        mean = weight * mean + (1 - weight) * value
        norm = weight * norm + (1 - weight)
        out.append(mean / norm)
    return out


def draw_curves(log: Path | str, picture: Path | str) -> None:
    """Reads log.jsonl and writes a PNG. Raises UserError when matplotlib is missing, ValueError for a log without steps."""
    lines = read_log(log)
    steps = [line for line in lines if line["kind"] == "step"]
    if not steps:
        raise ValueError(f"{log} holds no step to draw")
    scores = [line for line in lines if line["kind"] == "val" and line.get("bpb") is not None]
    with style("to draw curves"):
        _draw(steps, scores, str(Path(log).parent.name), Path(picture))


def series(steps: list[dict[str, Any]], name: str) -> list[float]:
    """One number of each line, nan where it is missing or too large to be drawn."""
    nan = float("nan")
    values = [nan if line.get(name) is None else float(line[name]) for line in steps]
    return [value if abs(value) <= LARGEST else nan for value in values]


def shown(values: list[float], also: list[float] | None = None) -> tuple[float, float]:
    """Limits of an axis for a falling curve: its first steps are high, so it ends where most of the run is. `also` is seen too."""
    usable = sorted(value for value in values if value == value)
    if not usable:
        return 0.0, 1.0
    lowest = min([usable[0], *(also or [])])
    high = usable[int(0.9 * (len(usable) - 1))] if len(usable) >= 20 else usable[-1]
    span = max(high - lowest, 0.1)
    return lowest - 0.08 * span, high + 0.25 * span


def speed(value: float, _: object = None) -> str:
    """Bytes per second on an axis."""
    return f"{value / 1e6:g} M" if value >= 1e6 else f"{value / 1000:g} k" if value >= 1000 else f"{value:.0f}"


def _draw(steps: list[dict[str, Any]], scores: list[dict[str, Any]], title: str, picture: Path) -> None:
    from matplotlib.figure import Figure

    unit, word = (1e6, "MB") if (steps[-1].get("bytes") or 0) < 2e9 else (1e9, "GB")
    read = [(line.get("bytes") or 0) / unit for line in steps]
    at = {line["step"]: x for line, x in zip(steps, read, strict=True)}

    figure = Figure(figsize=(9, 6), dpi=110, layout="constrained")
    grid = figure.add_gridspec(2, 3, height_ratios=[2, 1])
    main = figure.add_subplot(grid[0, :])
    bpb = series(steps, "bpb")
    main.plot(read, bpb, color=BLUE, alpha=0.25, linewidth=0.8)
    main.plot(read, smoothed(bpb), color=BLUE, linewidth=1.8, label="training batches (smoothed)")
    _draw_scores(main, scores, at, read)
    main.set_ylim(*shown(bpb, [line["bpb"] for line in scores]))
    main.set_ylabel("bits per byte")
    main.set_title(shown_name(title), loc="left", color=INK, fontweight="bold")
    main.legend(frameon=False, loc="upper right")

    panels = (("lr_factor", "step size, share of peak", ORANGE), ("grad_norm", "gradient norm", GREEN))
    for column, (name, label, color) in enumerate((*panels, ("bytes_per_s", "bytes per second", INK))):
        axes = figure.add_subplot(grid[1, column], sharex=main)
        values = series(steps, name)
        if name == "lr_factor":
            axes.plot(read, values, color=color, linewidth=1.5)
            axes.set_ylim(0, 1.08 * max([v for v in values if v == v], default=1))
        else:
            axes.plot(read, values, color=color, alpha=0.3, linewidth=0.8)
            axes.plot(read, smoothed(values), color=color, linewidth=1.5)
            axes.set_ylim(bottom=0)
        axes.set_title(label, loc="left", color=INK)
        if name == "bytes_per_s":
            axes.yaxis.set_major_formatter(speed)
    for axes in figure.axes:
        axes.grid(True, color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        if axes is not main:
            axes.set_xlabel(f"{word} read")
    figure.savefig(picture)


def _draw_scores(axes: Any, scores: list[dict[str, Any]], at: dict[int, float], read: list[float]) -> None:
    during = [line for line in scores if line.get("from") != "artifact" and line.get("weights") in (None, "raw")]
    if len(during) > 1:
        where = [at.get(line["step"], read[-1]) for line in during]
        axes.plot(where, [line["bpb"] for line in during], "o-", color=ORANGE, markersize=4, label="held-out text")
    for line in scores:
        if line.get("from") == "artifact":
            sliding = line.get("stride") != line.get("window")
            name = "artifact, sliding" if sliding else "artifact, whole chunks"
            axes.axhline(
                line["bpb"], color=GREEN if sliding else FAINT, linestyle="-" if sliding else "--", linewidth=1.2
            )
            axes.plot([], [], color=GREEN if sliding else FAINT, linestyle="-" if sliding else "--")
            axes.lines[-1].set_label(f"{name}: {line['bpb']:.4f}")
