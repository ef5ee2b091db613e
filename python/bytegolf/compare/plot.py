"""`bytegolf plot`: the curves of several runs in one picture, the seeds of a group in one colour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bytegolf._bytegolf import FormatError
from bytegolf.bundle.meter import sha256
from bytegolf.compare.places import LoggedRun, names_of_groups, places, split_by_validation
from bytegolf.errors import UserError
from bytegolf.inspect import group_of, inspect_artifact
from bytegolf.log import read_log
from bytegolf.pictures.curves import COLORS, FAINT, GRID, INK, save, series, shown, shown_name, smoothed, speed, style
from bytegolf.screen import console

Against = Literal["bytes", "steps", "seconds"]
_FIELD = {"bytes": "bytes", "steps": "step", "seconds": "elapsed_s"}
DASHES = ("-", "--", ":", "-.")  # for each further round of the colours
MOST_ROWS = 12  # groups of tensors in the panel of bits
WHOLE, REST = "whole file", "all others"
FEW = 4  # runs up to which single batches are shown behind the smoothed curve


@dataclass
class Bits:
    """What an artifact takes: bytes and weights of each group of tensors (scales are counted to what they scale), and the whole."""

    whole: float
    groups: dict[str, tuple[int, int]] = field(default_factory=dict)


@dataclass
class Drawn:
    """One run. Curves are over `step` lines; `val` and `final` hold scores (x, bits per byte)."""

    label: str
    group: str
    x: list[float]
    curves: dict[str, list[float]]
    val: list[tuple[float, float]]
    final: tuple[float, float] | None
    bits: Bits | None


def plot_command(
    paths: Sequence[Path], output: Sequence[Path], what: Sequence[str], against: Against, title: str
) -> list[Path]:
    """Draws and says what was written. UserError for unknown panels, formats and paths, and when no run has a step."""
    for name in what:
        if name not in PANELS:
            raise UserError(f"--what {name}: known panels are {', '.join(PANELS)}")
    runs = load(paths, against)
    pictures = list(output)
    if not pictures:
        folder = paths[0] if len(paths) == 1 and paths[0].is_dir() else Path()
        pictures = [folder / "plot.png", folder / "plot.svg"]
    draw(runs, pictures, list(dict.fromkeys(what)) or list(PANELS), against, title)
    for picture in pictures:
        console.say(f"plot: {picture}")
    return pictures


def load(paths: Sequence[Path], against: Against) -> list[Drawn]:
    """The runs that have made a step; of others one line on the terminal. UserError when none has, or a path holds no run."""
    found: list[tuple[LoggedRun, list[dict[str, Any]]]] = []
    copies: dict[str, LoggedRun] = {}
    for place in places(paths):
        if not place.log.exists():
            if place.group is None:
                raise UserError(f"{place.log} does not exist")
            lines = []
        else:
            lines = read_log(place.log)
            first = copies.setdefault(sha256(place.log), place)
            if first is not place:
                console.say(f"drawn once: {place.name} is a copy of {first.name}")
                continue
        if any(line["kind"] == "step" for line in lines):
            found.append((place, lines))
        else:
            console.say(f"{place.name}: no step yet, left out")
    if not found:
        raise UserError(f"{', '.join(map(str, paths))}: no run with a step to draw")
    groups = _groups(found)
    return [_drawn(place, lines, group, against) for (place, lines), group in zip(found, groups, strict=True)]


def _groups(found: Sequence[tuple[LoggedRun, list[dict[str, Any]]]]) -> list[str]:
    """The group of each run: the sweep's own, with the sweep's name before it where there are several; else by equal options."""
    sweeps = {place.log.resolve().parent.parent for place, _ in found if place.group is not None}
    names = [place.group if len(sweeps) < 2 else f"{_sweep_name(place)}/{place.group}" for place, _ in found]
    alone = [i for i, (place, _) in enumerate(found) if place.group is None]
    configs = [next((line.get("config") for line in found[i][1] if line["kind"] == "start"), None) or {} for i in alone]
    made = names_of_groups(configs) if configs else []
    for i, name in zip(alone, made, strict=True):
        single = made.count(name) == 1
        names[i] = found[i][0].name if single else f"{made.count(name)} runs" if name == "runs" else name
    # A mean is of runs that were scored on the same data.
    ids = [
        (lines[-1].get("made") or {}).get("val_sha256") if lines[-1]["kind"] == "end" else None for _, lines in found
    ]
    split = split_by_validation([str(name) for name in names], ids)
    if split != names:
        console.say("runs of a group that were scored on different validation data are drawn as groups of their own")
    return split


def _sweep_name(place: LoggedRun) -> str:
    return place.log.resolve().parent.parent.name


def _drawn(place: LoggedRun, lines: list[dict[str, Any]], group: str, against: Against) -> Drawn:
    steps = [line for line in lines if line["kind"] == "step"]
    x = series(steps, _FIELD[against])
    at, numbers = np.asarray(x), [line["step"] for line in steps]
    loss = [line if line.get("total") is not None else line | {"total": line.get("ce")} for line in steps]
    curves = {"loss": series(loss, "total"), "bpb": series(steps, "bpb"), "lr": series(steps, "lr_factor")}
    curves |= {"grad_norm": series(steps, "grad_norm"), "speed": series(steps, "bytes_per_s")}
    scores = [line for line in lines if line["kind"] == "val" and line.get("bpb") is not None]
    during = [line for line in scores if line.get("from") != "artifact" and line.get("weights") in (None, "raw")]
    during = during if len(during) > 1 else []  # a single one is that of the end
    val = [(float(np.interp(line["step"], numbers, at)), float(line["bpb"])) for line in during]
    record = [line for line in scores if line.get("from") == "artifact"][-1:]
    final = (x[-1], float(record[0]["bpb"])) if record else None
    return Drawn(place.name, group, x, curves, val, final, _bits(place, lines[-1]))


def _bits(place: LoggedRun, end: dict[str, Any]) -> Bits | None:
    """From the artifact beside the log; without one from the log's last line; None for an unfinished run."""
    artifact = place.log.parent / "artifact.bg"
    if artifact.is_file() and place.log.name == "log.jsonl":
        try:
            return weights_of(inspect_artifact(artifact))
        except (FormatError, OSError) as error:
            console.say(f"{place.name}: {error}")
    size, parameters = end.get("artifact_bytes"), end.get("parameters")
    return Bits(8 * size / parameters) if size and parameters else None


def weights_of(report: dict[str, Any]) -> Bits:
    """From the report of `inspect_artifact`."""
    quantised = {row["name"].removesuffix(".q") for row in report["tensors"] if row["name"].endswith(".q")}
    groups: dict[str, tuple[int, int]] = {}
    for row in report["tensors"]:
        base = row["name"].removesuffix(".q").removesuffix(".scale")
        is_scale = base in quantised and row["name"].endswith(".scale")
        name = group_of(base if base in quantised else row["name"]).removesuffix(".weight").replace("blocks.*.", "")
        size, count = groups.get(name, (0, 0))
        groups[name] = (size + row["stored_bytes"], count + (0 if is_scale else row["elements"]))
    return Bits(report["bits_per_weight"], groups)


def draw(runs: Sequence[Drawn], pictures: Sequence[Path], what: Sequence[str], against: Against, title: str) -> None:
    """Writes the pictures. UserError when matplotlib is missing, or for a suffix it does not know."""
    with style("to draw a plot"):
        from matplotlib.figure import Figure

        colors = _colors(runs)
        wide = 2 if len(what) > 1 else 1
        rows = -(-len(what) // wide)
        figure = Figure(figsize=(5.6 * wide + 0.4, 3.3 * rows + 0.6), dpi=120, layout="constrained")
        grid = figure.add_gridspec(rows, wide)
        for index, name in enumerate(what):
            last = index == len(what) - 1 and len(what) % wide
            axes = figure.add_subplot(grid[index // wide, :] if last else grid[index // wide, index % wide])
            PANELS[name](axes, runs, colors)
            axes.set_axisbelow(True)
            axes.grid(True, axis="x" if name == "bits" else "both", color=GRID, linewidth=0.8)
            if name != "bits":
                _along(axes, runs, against)
        figure.suptitle(shown_name(title or _title(runs)), x=0.01, ha="left", color=INK, fontweight="bold", fontsize=12)
        _legend(figure, runs, colors, what)
        for picture in pictures:
            save(figure, picture, "--output")


Colors = dict[str, tuple[str, str]]
Panel = Callable[[Any, Sequence[Drawn], Colors], None]


def _colors(runs: Sequence[Drawn]) -> Colors:
    """Colour and dashes of each group, in the order of the runs."""
    names = dict.fromkeys(run.group for run in runs)
    return {name: (COLORS[i % len(COLORS)], DASHES[i // len(COLORS) % len(DASHES)]) for i, name in enumerate(names)}


def _title(runs: Sequence[Drawn]) -> str:
    return runs[0].label if len(runs) == 1 else f"{len(runs)} runs"


def _legend(figure: Any, runs: Sequence[Drawn], colors: Colors, what: Sequence[str]) -> None:
    from matplotlib.lines import Line2D

    entries: list[Any] = []
    if len(colors) > 1 or len(runs) > 1:
        for name, (color, dashes) in colors.items():
            count = sum(run.group == name for run in runs)
            words = f"{name} (n = {count})" if count > 1 and not name.endswith(" runs") else name
            look: dict[str, Any] = {"color": color, "linestyle": dashes, "linewidth": 2}
            entries.append(Line2D([], [], label=shown_name(words), **look))
    if "bpb" in what:
        marks: dict[str, Any] = {"color": FAINT, "markeredgecolor": INK, "markerfacecolor": "white"}
        if any(run.val for run in runs):
            entries.append(Line2D([], [], marker="o", markersize=4, label="held-out text", **marks))
        if any(run.final for run in runs):
            entries.append(Line2D([], [], marker="D", linestyle="", markersize=6, label="artifact, held-out", **marks))
    if entries:
        longest = max(len(str(entry.get_label())) for entry in entries)
        columns = min(max(int(9 * figure.get_figwidth()) // (longest + 6), 1), 5)
        figure.legend(handles=entries, frameon=False, loc="outside lower left", ncols=columns, fontsize=9)


def _along(axes: Any, runs: Sequence[Drawn], against: Against) -> None:
    """The axis that runs from left to right, in a unit that keeps its numbers short."""
    longest = max(run.x[-1] for run in runs)
    unit, word = 1.0, "steps"
    if against == "bytes":
        unit, word = (1e9, "GB read") if longest >= 2e9 else (1e6, "MB read") if longest >= 2e6 else (1e3, "kB read")
    elif against == "seconds":
        unit, word = (3600.0, "hours") if longest >= 7200 else (60.0, "minutes") if longest >= 300 else (1.0, "seconds")
        word += " of training"
    axes.xaxis.set_major_formatter(lambda value, _: f"{value / unit:,.10g}")
    axes.set_xlim(left=0)
    axes.set_xlabel(word)


def _lines(axes: Any, runs: Sequence[Drawn], colors: Colors, name: str, *, smooth: bool = True) -> list[float]:
    """One curve for each run; returns the values that the axis should show."""
    values: list[float] = []
    for run in runs:
        color, dashes = colors[run.group]
        several = sum(other.group == run.group for other in runs) > 1
        raw = run.curves[name]
        drawn = smoothed(raw) if smooth else raw
        if smooth and len(runs) <= FEW:
            axes.plot(run.x, raw, color=color, alpha=0.18, linewidth=0.7)
        marker = "o" if len(run.x) == 1 else ""
        axes.plot(run.x, drawn, dashes, color=color, linewidth=1.0 if several else 1.7, marker=marker, markersize=3)
        values += raw if len(runs) <= FEW else drawn
    return values


def _loss(axes: Any, runs: Sequence[Drawn], colors: Colors) -> None:
    axes.set_title("training loss, nats", loc="left", color=INK)
    axes.set_ylim(*shown(_lines(axes, runs, colors, "loss")))


def _bpb(axes: Any, runs: Sequence[Drawn], colors: Colors) -> None:
    axes.set_title("bits per byte", loc="left", color=INK)
    values, scores = _lines(axes, runs, colors, "bpb"), []
    for run in runs:
        color, _ = colors[run.group]
        if run.val:
            x, y = [at for at, _ in run.val], [value for _, value in run.val]
            look: dict[str, Any] = {"markersize": 3.5, "markerfacecolor": "white", "linewidth": 0.7, "alpha": 0.9}
            axes.plot(x, y, "o-", color=color, **look)
            scores += [value for _, value in run.val]
        if run.final:
            axes.plot(*run.final, "D", color=color, markersize=6, markeredgecolor="white", zorder=4, clip_on=False)
            scores.append(run.final[1])
    low, high = shown(values, [min(scores)] if scores else None)
    axes.set_ylim(low, high)
    # Scores in words at the right edge, of each group their mean, lowest first and never over each other.
    step, free = 0.065 * (high - low), low
    for group, (color, _) in sorted(colors.items(), key=lambda item: _mean(runs, item[0])):
        mean = _mean(runs, group)
        if mean != np.inf and len(colors) <= 8:
            free = max(mean, free)
            end = max(run.final[0] for run in runs if run.group == group and run.final)
            axes.annotate(
                f"{mean:.4f}", (end, free), (8, 0), "data", "offset points", color=color, fontsize=8.5, va="center"
            ).set_in_layout(True)
            free += step


def _mean(runs: Sequence[Drawn], group: str) -> float:
    scores = [run.final[1] for run in runs if run.group == group and run.final]
    return sum(scores) / len(scores) if scores else float("inf")


def _lr(axes: Any, runs: Sequence[Drawn], colors: Colors) -> None:
    axes.set_title("step size, share of peak", loc="left", color=INK)
    values = _lines(axes, runs, colors, "lr", smooth=False)
    axes.set_ylim(0, 1.08 * max([v for v in values if v == v], default=1.0) or 1.0)


def _grad_norm(axes: Any, runs: Sequence[Drawn], colors: Colors) -> None:
    axes.set_title("gradient norm, before clipping", loc="left", color=INK)
    axes.set_ylim(0, shown(_lines(axes, runs, colors, "grad_norm"))[1])


def _speed(axes: Any, runs: Sequence[Drawn], colors: Colors) -> None:
    axes.set_title("bytes per second", loc="left", color=INK)
    _lines(axes, runs, colors, "speed")
    axes.set_ylim(bottom=0)
    axes.yaxis.set_major_formatter(speed)


def _bits_panel(axes: Any, runs: Sequence[Drawn], colors: Colors) -> None:
    """A bar for each group of runs: the whole artifact, then its largest groups of tensors, the others together."""
    axes.set_title("artifact, bits per weight", loc="left", color=INK)
    of_groups = {g: [run.bits for run in runs if run.group == g and run.bits is not None] for g in colors}
    of_groups = {group: bits for group, bits in of_groups.items() if bits}
    if not of_groups:
        axes.text(0.5, 0.5, "no artifact yet", ha="center", color=FAINT, transform=axes.transAxes)
        axes.set_axis_off()
        return
    every = [bits for found in of_groups.values() for bits in found]
    names = _rows(every)
    height = 0.8 / len(of_groups)
    ends: dict[str, list[float]] = {name: [] for name in names}
    for index, (group, found) in enumerate(of_groups.items()):
        offset = (index - (len(of_groups) - 1) / 2) * height
        for row, name in enumerate(names):
            values = [value for bits in found if (value := _bits_of(bits, name, names)) is not None]
            if not values:
                continue
            mean = sum(values) / len(values)
            axes.barh(row + offset, mean, height, color=colors[group][0], alpha=0.85 if name == WHOLE else 0.55)
            ends[name].append(mean)
    for row, name in enumerate(names):
        if ends[name] and (len(of_groups) == 1 or (name == WHOLE and len(of_groups) <= 6)):
            words = ", ".join(f"{value:.2f}" for value in ends[name])
            axes.text(max(ends[name]), row, f" {words}", va="center", fontsize=7.5, color=INK)
    axes.set_yticks(range(len(names)), [shown_name(name) for name in names], fontsize=8)
    axes.set_ylim(max(len(names), 4) - 0.4, -0.6)
    axes.set_xlim(left=0)
    axes.margins(x=0.12)


def _rows(every: Sequence[Bits]) -> list[str]:
    """The whole file, the largest groups of tensors, the others together where they are more than one."""
    sizes: dict[str, int] = {}
    for bits in every:
        for name, (size, _) in bits.groups.items():
            sizes[name] = max(sizes.get(name, 0), size)
    ordered = sorted(sizes, key=lambda name: -sizes[name])
    return [WHOLE, *ordered] if len(ordered) <= MOST_ROWS else [WHOLE, *ordered[: MOST_ROWS - 1], REST]


def _bits_of(bits: Bits, name: str, rows: Sequence[str]) -> float | None:
    if name == WHOLE:
        return bits.whole
    of = [pair for group, pair in bits.groups.items() if group == name or (name == REST and group not in rows)]
    size, count = sum(pair[0] for pair in of), sum(pair[1] for pair in of)
    return 8 * size / count if count else None


PANELS: dict[str, Panel] = {
    "loss": _loss,
    "bpb": _bpb,
    "speed": _speed,
    "lr": _lr,
    "grad_norm": _grad_norm,
    "bits": _bits_panel,
}
