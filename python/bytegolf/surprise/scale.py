"""The colour scale of `bytegolf.show`: a ramp for dark and one for light pages, and what can be read on it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

__all__ = ["LEVELS", "Colour", "contrast", "ramp"]

LEVELS = 24  # steps of the scale above 0
# From what was expected (the page's own colour) to what was not. Lightness goes one way only, so that the order can be
# seen with any kind of colour vision, and in grey.
_STOPS = {
    "light": ("#ffffff", "#fff1c9", "#ffc972", "#f08a2c", "#bb4a0c", "#6f2403"),
    "dark": ("#14161a", "#3a2a1c", "#74431a", "#bb6a1b", "#f3a63f", "#ffedbd"),
}
_INKS = ("#000000", "#ffffff")  # of any ground one of the two contrasts by 4.58 at least


@dataclass(frozen=True)
class Colour:
    """Background and ink of one level, as #rrggbb."""

    paper: str
    ink: str


def ramp(theme: Literal["dark", "light"]) -> list[Colour]:
    """LEVELS + 1 colours from 0 to the top, even steps in OKLab between the stops; ink is the one that contrasts more."""
    stops = [_oklab(_rgb(stop)) for stop in _STOPS[theme]]
    colours = []
    for level in range(LEVELS + 1):
        place = level / LEVELS * (len(stops) - 1)
        below = min(int(place), len(stops) - 2)
        share = place - below
        paper = _hex(_from_oklab([a + share * (b - a) for a, b in zip(stops[below], stops[below + 1], strict=True)]))
        colours.append(Colour(paper, max(_INKS, key=lambda ink: contrast(ink, paper))))
    return colours


def contrast(one: str, other: str) -> float:
    """Ratio of luminances as the WCAG defines it: 1 to 21, at least 4.5 for text to be legible."""
    high, low = sorted((_luminance(one), _luminance(other)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def _luminance(colour: str) -> float:
    return sum(weight * part for weight, part in zip((0.2126, 0.7152, 0.0722), _rgb(colour), strict=True))


def _rgb(colour: str) -> list[float]:
    """Linear light of #rrggbb (sRGB)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    return [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]


def _hex(rgb: Sequence[float]) -> str:
    parts = [min(max(p, 0.0), 1.0) for p in rgb]
    coded = [12.92 * p if p <= 0.0031308 else 1.055 * p ** (1 / 2.4) - 0.055 for p in parts]
    return "#" + "".join(f"{round(255 * c):02x}" for c in coded)


# OKLab (B. Ottosson 2020): a colour space whose steps look alike. Linear sRGB -> cones -> cube roots -> L, a, b.
_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _oklab(rgb: Sequence[float]) -> list[float]:
    lab: Any = _LAB @ np.cbrt(_CONES @ np.asarray(rgb))
    return [float(v) for v in lab]


def _from_oklab(lab: Sequence[float]) -> list[float]:
    rgb: Any = np.linalg.inv(_CONES) @ (np.linalg.inv(_LAB) @ np.asarray(lab)) ** 3
    return [float(v) for v in rgb]
