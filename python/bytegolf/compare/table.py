"""`bytegolf report`: groups of runs in one table, and one-sided tests against a baseline number or group.

What single runs leave in their folders is run/report.py's; the formulas are in stats.py.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from bytegolf.compare.places import val_word
from bytegolf.compare.runs import RunGroup, collect
from bytegolf.errors import UserError
from bytegolf.screen import console
from bytegolf.stats import LARGEST, NATS_PER_BIT, Summary, Test, summarise, t_test, welch_test

Unit = Literal["bpb", "nats"]
WhichScore = Literal["sliding", "whole", "raw", "unquantised"]
_WORDS = {
    "sliding": "the artifact, sliding windows",
    "whole": "the artifact, whole chunks",
    "raw": "the last weights, whole chunks",
    "unquantised": "the chosen weights before quantisation, whole chunks",
}


@dataclass(frozen=True)
class Comparison:
    """A group beside the baseline, in bits per byte: plainly, and with the threshold as margin."""

    group: RunGroup
    summary: Summary
    plain: Test | None
    beyond: Test | None


@dataclass(frozen=True)
class Asked:
    """What is compared, and how. `threshold` is in nats per byte; `unit` is that of `values`, a baseline number and the plot."""

    what: Sequence[Path]
    values: Sequence[str] = ()
    baseline: str | None = None
    threshold: float = 0.005
    unit: Unit = "bpb"
    confidence: float = 0.99
    score: WhichScore = "sliding"
    plot: Path | None = None


def report_command(asked: Asked, as_json: bool) -> None:
    """Prints tables or JSON, and draws the plot.

    UserError names what cannot be read or does not fit; unfinished runs are left out and counted.
    """
    what, threshold, confidence, score = asked.what, asked.threshold, asked.confidence, asked.score
    if not 0 < confidence < 1:
        raise UserError(f"--confidence {confidence} is not between 0 and 1")
    if not 0 <= threshold <= LARGEST:
        raise UserError(f"--threshold {threshold} must be a number of nats, at least 0")
    per_bit = NATS_PER_BIT if asked.unit == "nats" else 1.0
    groups, notes = collect(what, score)
    groups += _given(asked.values, per_bit)
    if not groups:
        raise UserError("name sweep folders or run folders, or give --values a,b,c")
    twice = [name for name, count in Counter(group.name for group in groups).items() if count > 1]
    if twice:
        raise UserError(f"group {twice[0]} is given twice; name another with --values NAME=a,b,c")
    kept = [group for group in groups if group.values]
    for note in notes:
        console.say(note)
    for group in groups:
        if group.left_out:
            count = f"{group.left_out} of {group.left_out + len(group.values)} runs"
            console.say(f"group {group.name}: {count} without a score, left out")
    if not kept:
        raise UserError("no run with a score yet")
    against = _baseline(asked.baseline, kept, per_bit)
    if isinstance(against, RunGroup):
        _same_validation(against, kept)
    margin = threshold / NATS_PER_BIT
    compared = [_compare(group, against, margin, confidence) for group in kept]
    if as_json:
        found = _as_dict(compared, groups, against, threshold, confidence, score if what else None)
        console.print_json(found | {"notes": notes})
    else:
        _show(compared, against, threshold, confidence, score if what else None)
    if asked.plot is not None:
        _plot(compared, against, threshold, confidence, asked.unit, asked.plot)
        console.say(f"plot: {asked.plot}")


def _given(values: Sequence[str], per_bit: float) -> Iterable[RunGroup]:
    """Groups of --values: "a,b,c" or "name=a,b,c"."""
    for number, words in enumerate(values, 1):
        name, equals, cells = words.rpartition("=")
        name = name if equals else "values" if number == 1 else f"values {number}"
        found = [
            _float(cell, f"--values {words}: {cell.strip() or 'an empty value'}") / per_bit for cell in cells.split(",")
        ]
        yield RunGroup(name, found, [None] * len(found))


def _float(word: str, what: str) -> float:
    try:
        value = float(word)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise UserError(f"{what} is not a number")
    if abs(value) > LARGEST:
        raise UserError(f"{what} is too large: at most {LARGEST:g} in size")
    return value


def _baseline(word: str | None, groups: Sequence[RunGroup], per_bit: float) -> float | RunGroup | None:
    """A group by its name, else a number in bits per byte."""
    if word is None:
        return None
    for group in groups:
        if group.name == word:
            return group
    known = ", ".join(group.name for group in groups)
    try:
        float(word)
    except ValueError:
        raise UserError(f"--baseline {word} is neither a number nor a group with a score ({known})") from None
    return _float(word, f"--baseline {word}") / per_bit


def _same_validation(baseline: RunGroup, groups: Sequence[RunGroup]) -> None:
    """UserError when a group was scored on other ids than the baseline, as far as both are known."""
    for group in groups:
        if group.val_sha256 and baseline.val_sha256 and group.val_sha256 != baseline.val_sha256:
            raise UserError(
                f"--baseline {baseline.name}: it was scored on other validation data ({val_word(baseline.val_sha256)}) "
                f"than group {group.name} ({val_word(group.val_sha256)})"
            )


def _compare(group: RunGroup, against: float | RunGroup | None, margin: float, confidence: float) -> Comparison:
    summary = summarise(group.values, confidence)
    if against is None or against is group:
        return Comparison(group, summary, None, None)
    tests = [
        welch_test(group.values, against.values, margin=m, confidence=confidence)
        if isinstance(against, RunGroup)
        else t_test(group.values, against, margin=m, confidence=confidence)
        for m in (0.0, margin)
    ]
    return Comparison(group, summary, *tests)


def _as_dict(
    compared: Sequence[Comparison],
    groups: Sequence[RunGroup],
    against: float | RunGroup | None,
    threshold: float,
    confidence: float,
    score: WhichScore | None,
) -> dict[str, Any]:
    """All figures as plain values, in both units."""

    def test(found: Test | None) -> dict[str, Any] | None:
        if found is None:
            return None
        sizes = {"difference": found.difference, "low": found.low, "high": found.high, "margin": found.margin}
        return {"kind": found.kind, **_both(sizes), "df": found.df, "t": found.t, "p": found.p}

    def row(one: Comparison) -> dict[str, Any]:
        s = one.summary
        facts: dict[str, Any] = {
            "group": one.group.name,
            "n": s.n,
            "seeds": one.group.seeds,
            "left_out": one.group.left_out,
        }
        facts["val_sha256"] = one.group.val_sha256
        sizes = {"mean": s.mean, "sd": s.sd, "low": s.low, "high": s.high}
        figures = {"values_bpb": one.group.values, **_both(sizes)}
        return {**facts, **figures, "test": test(one.plain), "threshold_test": test(one.beyond)}

    base: dict[str, Any] | None = None
    if against is not None:
        name = against.name if isinstance(against, RunGroup) else None
        mean = summarise(against.values, confidence).mean if isinstance(against, RunGroup) else against
        base = {"group": name, **_both({"mean": mean})}
    return {
        "score": score,
        "confidence": confidence,
        "threshold": {"nats": threshold, "bpb": threshold / NATS_PER_BIT},
        "baseline": base,
        "groups": [row(one) for one in compared],
        "unscored": [group.name for group in groups if not group.values],
    }


def _both(sizes: dict[str, float | None]) -> dict[str, dict[str, float | None]]:
    return {
        "bpb": sizes,
        "nats": {name: None if size is None else size * NATS_PER_BIT for name, size in sizes.items()},
    }


def _show(
    compared: Sequence[Comparison],
    against: float | RunGroup | None,
    threshold: float,
    confidence: float,
    score: WhichScore | None,
) -> None:
    out = console.stdout()
    share = f"{100 * confidence:g} %"
    title = f"bits and nats per byte of {_WORDS[score]}" if score else "bits and nats per byte"
    columns: tuple[str, ...]
    columns = ("n", "mean bpb", "sd bpb", f"{share} interval bpb", "mean nats", "sd nats", f"{share} interval nats")
    table = console.table("group", *columns, title=title, right=columns)
    for one in compared:
        s, cells = one.summary, []
        for factor in (1.0, NATS_PER_BIT):
            cells += [f"{factor * s.mean:.8f}", _cell(s.sd, factor, ".5f"), _interval(s.low, s.high, factor, ".4f")]
        table.add_row(one.group.name, str(s.n), *cells)
    out.print(table)
    if against is None:
        return
    if isinstance(against, RunGroup):
        words, mean = f"group {against.name}", summarise(against.values, confidence).mean
    else:
        words, mean = "a number", against
    limit = threshold / NATS_PER_BIT
    title = (
        f"against {words}: {mean:.6f} bpb, {mean * NATS_PER_BIT:.6f} nats; "
        f"threshold {threshold:g} nats = {limit:.4f} bpb; one-sided: is the mean lower?"
    )
    tests = ("df", "t", "p", "t beyond threshold", "p beyond threshold")
    columns = ("difference bpb", f"{share} interval bpb", "difference nats", *tests)
    table = console.table("group", *columns, title=title, right=columns)
    for one in compared:
        if one.plain is None or one.beyond is None:
            continue
        a, b = one.plain, one.beyond
        cells = [f"{a.difference:+.5f}", _interval(a.low, a.high, 1.0, "+.4f"), f"{a.difference * NATS_PER_BIT:+.5f}"]
        cells += [_cell(a.df, 1.0, ".3g"), _cell(a.t, 1.0, ".2f"), _p(a.p), _cell(b.t, 1.0, ".2f"), _p(b.p)]
        table.add_row(one.group.name, *cells)
    out.print(table)


def _cell(value: float | None, factor: float, form: str) -> str:
    return "-" if value is None else format(factor * value, form)


def _interval(low: float | None, high: float | None, factor: float, form: str) -> str:
    return "-" if low is None or high is None else f"[{factor * low:{form}}, {factor * high:{form}}]"


def _p(p: float | None) -> str:
    return "-" if p is None else f"{p:.4f}" if p >= 0.0001 else f"{p:.1e}"


def _plot(
    compared: Sequence[Comparison],
    against: float | RunGroup | None,
    threshold: float,
    confidence: float,
    unit: Unit,
    picture: Path,
) -> None:
    from bytegolf.compare.intervals import Line, Row, draw_intervals

    factor = NATS_PER_BIT if unit == "nats" else 1.0
    rows = []
    for one in compared:
        values = [factor * value for value in one.group.values]
        rows.append(Row(one.group.name, values, summarise(values, confidence)))
    lines = []
    if against is not None:
        mean = factor * (summarise(against.values, confidence).mean if isinstance(against, RunGroup) else against)
        lines.append(Line(f"baseline: {against.name if isinstance(against, RunGroup) else f'{mean:g}'}", mean))
        lines.append(Line(f"threshold: {threshold:g} nats lower", mean - factor * threshold / NATS_PER_BIT))
    words = "bits per byte" if unit == "bpb" else "nats per byte"
    caption = f"runs, means and {100 * confidence:g} % intervals (lower is better)"
    draw_intervals(rows, lines, words, caption, picture)
