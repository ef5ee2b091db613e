"""Curves in text: a line of blocks, or a field of braille dots; plain letters where the terminal has nothing better."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

LARGEST = 1e100  # differences and sums of such values are finite
BLOCKS, PLAIN = "▁▂▃▄▅▆▇█", "_.-=+*#@"
# Bits of a braille sign's dots, by column and row from the top (Unicode 2800 + bits).
_DOTS = ((0x01, 0x02, 0x04, 0x40), (0x08, 0x10, 0x20, 0x80))


def resample(values: Sequence[float], count: int) -> list[float]:
    """Means of `count` equal parts; fewer where there are fewer values. What is not finite, or too large to be drawn, is left out."""
    values = [value for value in values if abs(value) <= LARGEST]
    count = min(count, len(values))
    edges = [len(values) * i // count for i in range(count + 1)] if count else []
    return [sum(values[a:b]) / (b - a) for a, b in itertools.pairwise(edges)]


def _stretched(points: Sequence[float], count: int) -> list[float]:
    """`count` values on straight lines between the points."""
    if len(points) == 1 or count == 1:
        return [points[0]] * count
    made = []
    for i in range(count):
        at = i * (len(points) - 1) / (count - 1)
        left = min(int(at), len(points) - 2)
        made.append(points[left] + (at - left) * (points[left + 1] - points[left]))
    return made


def shown_range(values: Sequence[float]) -> tuple[float, float]:
    """Lowest and highest value to show: a curve's first fall, its highest tenth, is cut off where it is much of the height."""
    ordered = sorted(values)
    low, high = ordered[0], ordered[-1]
    most = ordered[int(0.9 * (len(ordered) - 1))]
    if len(ordered) >= 10 and high - low > 2 * (most - low) > 0:
        high = most + 0.25 * (most - low)
    return low, high


def sparkline(values: Sequence[float], width: int, *, plain: bool = False) -> str:
    """One line of at most `width` signs; "" without values."""
    points = resample(values, width)
    if not points:
        return ""
    low, high = shown_range(points)
    signs = PLAIN if plain else BLOCKS
    span = high - low or 1.0
    return "".join(signs[min(max(int((v - low) / span * len(signs)), 0), len(signs) - 1)] for v in points)


def chart(values: Sequence[float], width: int, height: int, *, plain: bool = False) -> tuple[list[str], float, float]:
    """(lines of signs, lowest and highest value shown): a curve of `width` by `height` signs, drawn from left to right."""
    across, down = (1, 1) if plain else (2, 4)
    points = resample(values, width * across)
    if not points:
        return [" " * width] * height, 0.0, 0.0
    points = _stretched(points, width * across)
    low, high = shown_range(points)
    span, rows = high - low or 1.0, height * down
    cells = [[0] * width for _ in range(height)]
    before: int | None = None
    for x, value in enumerate(points):
        y = rows - 1 - min(max(round((value - low) / span * (rows - 1)), 0), rows - 1)
        near = y if before is None else before + (y > before) - (y < before)
        for between in range(min(near, y), max(near, y) + 1):
            cells[between // down][x // across] |= _DOTS[x % across][between % down]
        before = y
    if plain:
        return ["".join("*" if cell else " " for cell in row).ljust(width) for row in cells], low, high
    return ["".join(chr(0x2800 + cell) if cell else " " for cell in row) for row in cells], low, high
