"""Statistics of a few runs: mean, spread, interval, and one-sided t tests that a group's mean lies below a baseline.

Lower is better throughout (bits or nats per byte). Every test here asks H1: mean < baseline - margin. t and p do not
change with the unit as long as all numbers share it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bytegolf.extras import need

NATS_PER_BIT = math.log(2)
LARGEST = 1e100  # of a value; squares of larger ones leave float64


@dataclass(frozen=True)
class Summary:
    """Summary of n values. sd divides by n - 1; low and high bound the mean (Student's t). None where n = 1 gives none."""

    n: int
    mean: float
    sd: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Test:
    """One comparison. `difference` = mean - baseline, with its two-sided interval; `p` is one-sided.

    df, t, p and the interval are None where a spread is missing: a single value, or values all equal.
    """

    kind: str
    difference: float
    margin: float
    low: float | None = None
    high: float | None = None
    df: float | None = None
    t: float | None = None
    p: float | None = None


def summarise(values: Sequence[float], confidence: float = 0.99) -> Summary:
    """The summary of at least one value."""
    n, mean, sd = _moments(values)
    half = None if sd is None else _quantile(confidence, n - 1) * sd / math.sqrt(n)
    return Summary(n, mean, sd, *_around(mean, half))


def t_test(values: Sequence[float], baseline: float, *, margin: float = 0.0, confidence: float = 0.99) -> Test:
    """Student's one-sample test against a number: t = (mean - (baseline - margin)) / (sd / sqrt(n)), df = n - 1."""
    n, mean, sd = _moments(values)
    error = None if sd is None else sd / math.sqrt(n)
    return _test("one-sample t", mean - baseline, error, n - 1, margin, confidence)


def welch_test(
    values: Sequence[float], others: Sequence[float], *, margin: float = 0.0, confidence: float = 0.99
) -> Test:
    """Welch's test against another group, whose variance may differ; df after Welch and Satterthwaite."""
    n, mean, sd = _moments(values)
    m, other, spread = _moments(others)
    if sd is None or spread is None or sd == spread == 0:
        return _test("Welch", mean - other, None, 0, margin, confidence)
    unit = max(sd, spread)  # df does not depend on it, and squares of tiny spreads do not become 0
    a, b = (sd / unit) ** 2 / n, (spread / unit) ** 2 / m
    df = (a + b) ** 2 / (a * a / (n - 1) + b * b / (m - 1))
    return _test("Welch", mean - other, unit * math.sqrt(a + b), df, margin, confidence)


def _test(kind: str, difference: float, error: float | None, df: float, margin: float, confidence: float) -> Test:
    if not error or not math.isfinite(difference / error):
        return Test(kind, difference, margin)
    t = (difference + margin) / error
    low, high = _around(difference, _quantile(confidence, df) * error)
    return Test(kind, difference, margin, low, high, df, t, float(_student().cdf(t, df)))


def _moments(values: Sequence[float]) -> tuple[int, float, float | None]:
    """(n, mean, standard deviation over n - 1, or None for one value). ValueError for no value or one that is not finite or too large."""
    if not values:
        raise ValueError("no value to average")
    if not all(math.isfinite(value) for value in values):
        raise ValueError(f"not every value is finite: {', '.join(map(str, values))}")
    largest = max(values, key=abs)
    if abs(largest) > LARGEST:
        raise ValueError(f"{largest:g} is too large: statistics are of values of at most {LARGEST:g} in size")
    n, mean = len(values), math.fsum(values) / len(values)
    if n == 1:
        return n, mean, None
    # Equal values have no spread, whatever rounding does to their mean.
    squares = 0.0 if min(values) == max(values) else math.fsum((value - mean) ** 2 for value in values)
    return n, mean, math.sqrt(squares / (n - 1))


def _around(middle: float, half: float | None) -> tuple[float | None, float | None]:
    return (None, None) if half is None else (middle - half, middle + half)


def _quantile(confidence: float, df: float) -> float:
    """Half the width of a two-sided interval, in standard errors."""
    if not 0 < confidence < 1:
        raise ValueError(f"confidence = {confidence} is not between 0 and 1")
    return float(_student().ppf(0.5 + confidence / 2, df))


def _student() -> Any:
    """Student's distribution; SciPy is loaded when a table needs it."""
    return need("scipy.stats", "sweep", "for statistics").t
