"""What each byte of a text costs, as colours on the text: `bytegolf.show`, for terminals and notebooks.

The pages are made in html.py; what the bytes cost comes from `Model.surprise`.
"""

from __future__ import annotations

import io
import math
import os
import sys
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from bytegolf.surprise.cells import Cell, lines_of, shown_text, width_of
from bytegolf.surprise.costs import Costs, Theme
from bytegolf.surprise.html import fragment, page
from bytegolf.surprise.scale import LEVELS, Colour, ramp

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment
    from rich.style import Style

BARS, PLAIN = " ▁▂▃▄▅▆▇█", " .:-=+*#@"  # the same scale where there are no colours; and where there is ASCII only


def show(
    data: bytes,
    nats: npt.ArrayLike,
    *,
    title: str = "",
    top_bits: float = 8.0,
    theme: Theme = "auto",
    limit: int | None = 20_000,
) -> Shown:
    """Colours `data` by what each of its bytes costs: `nats` [len(data)], as `Model.surprise` returns them.

    The result displays itself: as HTML in a notebook, in colours at Python's prompt and when printed
    on a terminal, with a line of bars below each line of text where there are no colours. `.html(path)` writes a page that
    needs nothing else. A character is coloured by the sum of its bytes; bytes that are not UTF-8, and characters without a
    shape of their own, appear as escapes.

    top_bits: bits at the upper end of the scale; 8 is what a byte costs when nothing is known. theme: of the page or
    the terminal; auto follows the reader's settings. limit: bytes that are shown, None for all; the averages are always of
    all. ValueError when nats does not fit data.
    """
    cost = np.asarray(nats, dtype=np.float64)
    if cost.shape != (len(data),):
        raise ValueError(f"nats must hold one number for each of the {len(data)} bytes, got shape {cost.shape}")
    if not (math.isfinite(top_bits) and top_bits > 0):
        raise ValueError(f"top_bits = {top_bits} is not a positive number of bits")
    if theme not in ("auto", "dark", "light"):
        raise ValueError(f"unknown theme {theme}; known: auto, dark, light")
    if limit is not None and limit < 0:
        raise ValueError(f"limit = {limit} is not a number of bytes")
    return Shown(bytes(data), cost, title, float(top_bits), theme, limit)


class Shown(Costs):
    """What `show` returns: data with its costs, ready to be looked at."""

    def html(self, path: str | os.PathLike[str] | None = None) -> str:
        """A whole page that needs nothing else, as text; written to `path` when one is given."""
        text = page(self)
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return text

    def _repr_html_(self) -> str:
        return fragment(self)

    def __str__(self) -> str:
        """For the current terminal, in the colours it has."""
        from rich.console import Console

        terminal = sys.stdout.isatty()
        width = None if terminal else 100
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        sheet = io.BytesIO()
        file = io.TextIOWrapper(sheet, encoding, errors="replace", newline="\n")
        # Inside Jupyter a console would otherwise display what it prints, beside the HTML that the notebook asks for.
        console = Console(file=file, force_terminal=terminal or None, force_jupyter=False, width=width)
        console.print(self, end="")
        file.flush()
        return sheet.getvalue().decode(encoding).rstrip("\n")

    __repr__ = __str__

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Title, text, legend; bars instead of colours where there are fewer than 256 of them."""
        from rich.segment import Segment
        from rich.style import Style

        plain = console.no_color or console.color_system in (None, "standard", "windows")
        colours = None if plain else ramp(_terminal_theme() if self.theme == "auto" else self.theme)
        width = max(options.max_width, 20)
        bars = BARS if console.encoding.startswith("utf") else PLAIN
        if self.title:
            yield from (Segment(shown_text(self.title), Style(bold=True)), Segment.line())
        for line in lines_of(self.cells, width):
            yield from self._bars(line, bars) if colours is None else self._coloured(line, colours)
        yield Segment.line()
        yield from self._scale_in_bars(bars) if colours is None else self._scale(colours, min(width, 40))
        for text in self.words():
            yield from (Segment(text, Style(dim=True)), Segment.line())

    def _coloured(self, line: Sequence[Cell], colours: Sequence[Colour]) -> Iterator[Segment]:
        from rich.segment import Segment

        for cell in line:
            yield Segment(cell.text, _style(colours, self.level(cell.bits), cell.escaped))
        yield Segment.line()

    def _bars(self, line: Sequence[Cell], bars: str) -> Iterator[Segment]:
        from rich.segment import Segment

        yield from (Segment("".join(cell.text for cell in line).rstrip()), Segment.line())
        marks = "".join(self._bar(cell.bits, bars) * width_of(cell.text) for cell in line).rstrip()
        yield from (Segment(marks), Segment.line())

    def _bar(self, bits: float, bars: str) -> str:
        level = self.level(bits)
        return "?" if level is None else bars[math.ceil(level * (len(bars) - 1) / LEVELS)]

    def _scale(self, colours: Sequence[Colour], width: int) -> Iterator[Segment]:
        """The scale itself, its numbers written on it."""
        from rich.segment import Segment

        labels = [" "] * width
        for quarter in range(5):
            words = f"{quarter * self.top_bits / 4:g}" + "+" * (quarter == 4)
            at = min(quarter * width // 4, width - len(words))
            labels[at : at + len(words)] = words
        for column, mark in enumerate(labels):
            yield Segment(mark, _style(colours, round(LEVELS * column / (width - 1)), False))
        yield from (Segment(" bits of a character (all its bytes)"), Segment.line())

    def _scale_in_bars(self, bars: str) -> Iterator[Segment]:
        from rich.segment import Segment

        step = self.top_bits / (len(bars) - 1)
        marks = "  ".join(f"{mark} {step * n:g}" for n, mark in enumerate(bars) if 0 < n < len(bars) - 1)
        yield from (Segment("bits of a character (all its bytes), at most:"), Segment.line())
        yield from (Segment(f"{marks}  {bars[-1]} more"), Segment.line())


def _style(colours: Sequence[Colour], level: int | None, escaped: bool) -> Style:
    from rich.style import Style

    if level is None:
        return Style(dim=True, italic=True, underline=escaped)
    return Style(color=colours[level].ink, bgcolor=colours[level].paper, underline=escaped)


def _terminal_theme() -> Literal["dark", "light"]:
    """What the terminal reports about its background (COLORFGBG: ink;paper, of 16 colours); dark when it says nothing."""
    paper = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return "light" if paper in ("7", "15") else "dark"
