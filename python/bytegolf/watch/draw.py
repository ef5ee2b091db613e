"""Frames: one run with its curve and all its numbers, or a table of many."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from bytegolf.screen import console
from bytegolf.watch.chart import chart, sparkline
from bytegolf.watch.state import Watched

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.text import Text

STYLE = {
    "waiting": "dim",
    "training": "cyan",
    "scoring": "cyan",
    "silent": "yellow",
    "gone": "red",
    "done": "green",
    "interrupted": "yellow",
    "failed": "red",
}
SCORES = {
    "raw": "held-out, raw weights",
    "ema": "held-out, ema weights",
    "swa": "held-out, swa weights",
    "artifact": "held-out, artifact, whole chunks",
    "artifact_sliding": "held-out, artifact, sliding",
}
MOST_ROWS = 40
MOST_FAULTS = 3  # lines of a log that were left out, the newest ones


def frame(runs: Sequence[Watched], width: int, height: int, *, plain: bool = False) -> RenderableType:
    """All runs in their present state. `plain`: the terminal shows ASCII only. Long tables are cut to `height` lines."""
    return _one(runs[0], width, height, plain) if len(runs) == 1 else _table(runs, width, height, plain)


def words(run: Watched) -> str:
    """The state of a run, in a sentence without its name."""
    standing, age = run.standing, console.duration(run.age_s)
    if run.trouble:
        return f"cannot be read: {run.trouble}"
    if standing == "waiting":
        return f"waiting for {run.place.log}"
    if standing == "failed":
        return f"failed: {run.end.get('reason')}"
    if standing == "silent":
        return f"silent for {age}"
    if standing == "gone":
        return f"its process is gone; last line {age} ago"
    return {"scoring": "trained; packing and scoring", "interrupted": "interrupted"}.get(standing, standing)


def line(run: Watched) -> str:
    """A run in one line of text."""
    step = run.step
    parts = [run.place.name, words(run), f"step {run.done:,}{_of(run)}"]
    if step:
        parts += [_number(step.get("bpb"), "{:.4f} bpb"), f"loss {_number(step.get('total'), '{:.4f}')}"]
        parts += [f"{_number(step.get('bytes_per_s'), '', console.size)}/s"]
        if run.standing in ("training", "silent"):
            parts.append(f"{_number(step.get('left_s'), '', console.duration)} left")
    if run.final_bpb is not None:
        parts.append(f"score {run.final_bpb:.4f} bpb")
    return "  ".join(parts)


def _one(run: Watched, width: int, height: int, plain: bool) -> RenderableType:
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    width = min(width, 120)
    head = Text.assemble(console.text(run.place.name, "bold"), "  ", console.text(words(run), STYLE[run.standing]))
    parts: list[RenderableType] = [head]
    if run.start:
        parts += [console.text(_about(run), "dim"), _bar(run, width, plain)]
    if run.step:
        left, right = _numbers(run), _scores(run)
        both = Table.grid(padding=(0, 4))
        both.add_row(left, right)
        parts += [Text(""), both]
    loss = [point[1] if point[1] == point[1] else point[2] for point in run.curve]
    rows = min(max(height - 18, 4), 10)
    if len(loss) > 1 and width >= 30:
        lines, low, high = chart(loss, width - 11, rows, plain=plain)
        labels = [f"{high:9.3f} ", *[" " * 10] * (rows - 2), f"{low:9.3f} "]
        first, last = run.curve[0][0], run.curve[-1][0]
        parts += [Text(""), Text("loss, nats", style="dim")]
        parts += [
            Text.assemble((label, "dim"), ("|" if plain else "│", "dim"), (row, "cyan"))
            for label, row in zip(labels, lines, strict=True)
        ]
        parts.append(
            Text(" " * 11 + f"step {first:,}" + f"{last:,}".rjust(max(width - 11 - len(f"step {first:,}"), 1)), "dim")
        )
    parts += [console.text(f"tracker {problem}", "yellow") for problem in run.problems]
    parts += [console.text(fault, "yellow") for fault in run.faults[-MOST_FAULTS:]]
    return Group(*parts)


def _about(run: Watched) -> str:
    config = run.start.get("config") or {}
    parts = [f"{config.get('family', 'model')}"]
    if run.start.get("parameters"):
        parts.append(f"{run.start['parameters']:,} parameters")
    parts.append(f"seed {run.start.get('seed', '?')}")
    parts.append(f"{run.start.get('dtype', '')} on {run.start.get('hardware') or run.start.get('device', '?')}")
    if run.resumed:
        parts.append("resumed after step " + ", ".join(f"{step:,}" for step in run.resumed))
    return ", ".join(part.strip() for part in parts if part.strip())


def _bar(run: Watched, width: int, plain: bool) -> RenderableType:
    from rich.text import Text

    words = f" {100 * run.share:3.0f} %  step {run.done:,}{_of(run)}"
    if run.standing in ("training", "silent"):
        words += f"  {_number(run.step.get('left_s'), '', console.duration)} left"
    cells = max(min(width - len(words) - 1, 60), 4)
    full = round(run.share * cells)
    signs = ("#", "-") if plain else ("━", "━")
    return Text.assemble((signs[0] * full, STYLE[run.standing]), (signs[1] * (cells - full), "grey37"), words)


def _numbers(run: Watched) -> RenderableType:
    from rich.table import Table

    step, grid = run.step, Table.grid(padding=(0, 2))
    grid.add_column(style="dim")
    grid.add_column(justify="right", min_width=10)
    grid.add_row("bits per byte", _number(step.get("bpb"), "{:.4f}"))
    grid.add_row("loss", _number(step.get("total"), "{:.4f}"))
    grid.add_row("gradient norm", _number(step.get("grad_norm"), "{:.3f}"))
    grid.add_row("lr, share of peak", _number(step.get("lr_factor"), "{:.3f}"))
    grid.add_row("bytes/s", f"{_number(step.get('bytes_per_s'), '', console.size)}/s")
    grid.add_row("read", _number(step.get("bytes"), "", console.size))
    grid.add_row("training clock", _number(step.get("elapsed_s"), "", console.duration))
    return grid


def _scores(run: Watched) -> RenderableType:
    from rich.table import Table

    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(justify="right", no_wrap=True)
    grid.add_column(style="dim", no_wrap=True)
    for name, score in run.scores.items():
        label = SCORES.get(name, f"held-out, {name.replace('_', ', ')}")
        grid.add_row(label, _number(score.bpb, "{:.4f} bpb"), f"step {score.step:,}")
    size, parameters = run.end.get("artifact_bytes"), run.end.get("parameters")
    if size and parameters:
        grid.add_row("artifact", f"{size:,} bytes", f"{8 * size / parameters:.2f} bits per weight")
    if not run.scores:
        grid.add_row("no held-out score yet", "", "")
    return grid


def _table(runs: Sequence[Watched], width: int, height: int, plain: bool) -> RenderableType:
    from rich.progress_bar import ProgressBar
    from rich.text import Text

    rank = {"training": 0, "scoring": 0, "silent": 0, "gone": 1, "failed": 1, "interrupted": 2, "waiting": 3, "done": 4}
    most = max(min(height - 6, MOST_ROWS), 3)
    chosen = sorted(runs, key=lambda run: rank[run.standing])[:most]
    shown = [run for run in runs if run in chosen] if len(runs) <= most else chosen
    wide = width >= 120
    right = ("step", "bpb", "loss", "bytes/s", "left", "score")
    more = ("lr", "grad norm") if wide else ()
    columns = ("run", "", "progress", "step", "bpb", "loss", *more, "bytes/s", "left", "score", "curve")
    table = console.table(*columns, right=(*right, *more))
    for column in table.columns:
        column.no_wrap = True
    for run in shown:
        step = run.step
        going = run.standing in ("training", "silent")
        extra = (_number(step.get("lr_factor"), "{:.2f}"), _number(step.get("grad_norm"), "{:.2f}")) if wide else ()
        newest = run.final_bpb if run.final_bpb is not None else _newest(run)
        table.add_row(
            console.text(run.place.name),
            Text(run.standing, style=STYLE[run.standing]),
            f"{100 * run.share:.0f} %" if plain else ProgressBar(total=1.0, completed=run.share, width=10),
            f"{run.done:,}",
            _number(step.get("bpb"), "{:.4f}"),
            _number(step.get("total"), "{:.4f}"),
            *extra,
            _number(step.get("bytes_per_s"), "", console.size),
            _number(step.get("left_s"), "", console.duration) if going else "",
            _number(newest, "{:.4f}"),
            Text(sparkline([point[1] for point in run.curve], 16 if wide else 8, plain=plain), style="cyan"),
        )
    counts = Counter[str](run.standing for run in runs)
    caption = f"{len(runs)} runs: " + ", ".join(f"{counts[name]} {name}" for name in STYLE if counts[name])
    hidden = len(runs) - len(shown)
    table.caption = caption + (f"; {hidden} not shown" if hidden else "")
    table.caption_justify = "left"
    troubles: list[Text] = [
        console.text(f"{run.place.name}: {words(run)}", STYLE[run.standing])
        for run in shown
        if run.trouble or run.standing in ("failed", "gone", "silent")
    ]
    troubles += [console.text(run.faults[-1], "yellow") for run in shown if run.faults]
    from rich.console import Group

    return Group(table, *troubles)


def _newest(run: Watched) -> float | None:
    newest = max(run.scores.values(), key=lambda score: score.step, default=None)
    return newest.bpb if newest else None


def _of(run: Watched) -> str:
    iterations = (run.start.get("config") or {}).get("iterations")
    return f" of {iterations:,}" if iterations else ""


def _number(value: Any, form: str, say: Any = None) -> str:
    if not isinstance(value, (int, float)):
        return "?"
    return str(say(value)) if say else form.format(value)
