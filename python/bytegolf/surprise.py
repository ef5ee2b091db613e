"""What each byte of a text costs, as colours on the text: `bytegolf.show`, for terminals and notebooks.

The pages are made in surprise_html.py; what the bytes cost comes from `Model.surprise`.
"""

from __future__ import annotations

import io
import math
import os
import sys
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from bytegolf.surprise_scale import LEVELS, Colour, ramp

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment
    from rich.style import Style

__all__ = ["Cell", "Shown", "lines_of", "show"]

Theme = Literal["auto", "dark", "light"]
TAB = 8
BARS = " ▁▂▃▄▅▆▇█"  # the same scale where there are no colours
_MARKED = {"\n": "↵", "\t": "→", "\x7f": "^?"}
_JOINER, _SKIN_TONES = "\u200d", range(0x1F3FB, 0x1F400)


@dataclass(frozen=True)
class Cell:
    """One character as it is shown: its bytes are data[first : first + count], and `bits` is what they cost together.

    bits is NaN where one of them was not scored. stand_in: `text` is an arrow (for a newline or tab) or an escape, in the
    place of what cannot be shown as it is.
    """

    text: str
    first: int
    count: int
    bits: float
    stand_in: bool = False
    ends_line: bool = False

    @property
    def escaped(self) -> bool:
        """Whether `text` is an escape, which a reader could take for the text itself."""
        return self.stand_in and self.text[0] not in "↵→"


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


@dataclass(frozen=True, repr=False, eq=False)
class Shown:
    """What `show` returns: data with its costs, ready to be looked at."""

    data: bytes
    nats: npt.NDArray[np.float64]
    title: str
    top_bits: float
    theme: Theme
    limit: int | None

    @cached_property
    def cells(self) -> list[Cell]:
        """The characters that are shown, in order."""
        end = len(self.data) if self.limit is None else min(self.limit, len(self.data))
        for _ in range(3):  # a character that the limit cuts is left out whole; none is longer than 4 bytes
            if 0 < end < len(self.data) and self.data[end] & 0xC0 == 0x80:
                end -= 1
        return list(_cells(self.data[:end], self.nats[:end] / math.log(2)))

    @property
    def hidden_bytes(self) -> int:
        """Bytes beyond the limit."""
        return len(self.data) - sum(cell.count for cell in self.cells)

    @property
    def scored_bytes(self) -> int:
        """Bytes that have a cost."""
        return int(np.count_nonzero(~np.isnan(self.nats)))

    @property
    def bits_per_byte(self) -> float:
        """Mean over all bytes that were scored; NaN when none was."""
        return float(np.nansum(self.nats)) / math.log(2) / self.scored_bytes if self.scored_bytes else math.nan

    def level(self, bits: float) -> int | None:
        """Step of the scale, 0 to LEVELS; None for NaN."""
        return None if math.isnan(bits) else round(LEVELS * min(max(bits / self.top_bits, 0.0), 1.0))

    def words(self) -> list[str]:
        """What is printed beside the text: totals, then what a reader could miss."""
        lines = [f"{len(self.data):,} bytes"]
        if self.scored_bytes:
            lines[0] += f", {self.bits_per_byte:.4f} bits per byte"
        if self.scored_bytes < len(self.data):
            lines[0] += f" ({len(self.data) - self.scored_bytes:,} not scored)"
        if self.hidden_bytes:
            lines.append(f"{self.hidden_bytes:,} more bytes are not shown: limit = {self.limit:,}")
        return lines

    def html(self, path: str | os.PathLike[str] | None = None) -> str:
        """A whole page that needs nothing else, as text; written to `path` when one is given."""
        from bytegolf.surprise_html import page

        text = page(self)
        if path is not None:
            with open(path, "w", encoding="utf-8") as file:
                file.write(text)
        return text

    def _repr_html_(self) -> str:
        from bytegolf.surprise_html import fragment

        return fragment(self)

    def __str__(self) -> str:
        """For the current terminal, in the colours it has."""
        from rich.console import Console

        terminal = sys.stdout.isatty()
        width = None if terminal else 100
        # Inside Jupyter a console would otherwise display what it prints, beside the HTML that the notebook asks for.
        console = Console(file=io.StringIO(), force_terminal=terminal or None, force_jupyter=False, width=width)
        console.print(self, end="")
        return str(console.file.getvalue()).rstrip("\n")  # type: ignore[attr-defined]

    __repr__ = __str__

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
        """Title, text, legend; bars instead of colours where there are fewer than 256 of them."""
        from rich.segment import Segment
        from rich.style import Style

        plain = console.no_color or console.color_system in (None, "standard", "windows")
        colours = None if plain else ramp(_terminal_theme() if self.theme == "auto" else self.theme)
        width = max(options.max_width, 20)
        if self.title:
            yield from (Segment(self.title, Style(bold=True)), Segment.line())
        for line in lines_of(self.cells, width):
            yield from self._bars(line) if colours is None else self._coloured(line, colours)
        yield Segment.line()
        yield from self._scale_in_bars() if colours is None else self._scale(colours, min(width, 40))
        for text in self.words():
            yield from (Segment(text, Style(dim=True)), Segment.line())

    def _coloured(self, line: Sequence[Cell], colours: Sequence[Colour]) -> Iterator[Segment]:
        from rich.segment import Segment

        for cell in line:
            yield Segment(cell.text, _style(colours, self.level(cell.bits), cell.escaped))
        yield Segment.line()

    def _bars(self, line: Sequence[Cell]) -> Iterator[Segment]:
        from rich.segment import Segment

        yield from (Segment("".join(cell.text for cell in line).rstrip()), Segment.line())
        marks = "".join(self._bar(cell.bits) * _width(cell.text) for cell in line).rstrip()
        yield from (Segment(marks), Segment.line())

    def _bar(self, bits: float) -> str:
        level = self.level(bits)
        return "?" if level is None else BARS[math.ceil(level * (len(BARS) - 1) / LEVELS)]

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

    def _scale_in_bars(self) -> Iterator[Segment]:
        from rich.segment import Segment

        step = self.top_bits / (len(BARS) - 1)
        marks = "  ".join(f"{mark} {step * n:g}" for n, mark in enumerate(BARS) if 0 < n < len(BARS) - 1)
        yield from (Segment("bits of a character (all its bytes), at most:"), Segment.line())
        yield from (Segment(f"{marks}  {BARS[-1]} more"), Segment.line())


def _cells(data: bytes, bits: npt.NDArray[np.float64]) -> Iterator[Cell]:
    """Characters in order; combining marks, skin tones and what a joiner joins belong to the character before them."""
    at, column, held = 0, 0, None
    for character in data.decode("utf-8", errors="surrogateescape"):
        count = _bytes_of(character)
        cost = float(bits[at : at + count].sum())
        if held is not None and _continues(held, character):
            held = Cell(held.text + character, held.first, held.count + count, held.bits + cost)
        else:
            if held is not None:
                yield held
                column = 0 if held.ends_line else column + _width(held.text)
            text = _visible(character, column)
            held = Cell(text, at, count, cost, text != character, character == "\n")
        at += count
    if held is not None:
        yield held


def _bytes_of(character: str) -> int:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return 1  # a byte that is not UTF-8
    return 1 + (code > 0x7F) + (code > 0x7FF) + (code > 0xFFFF)


def _continues(held: Cell, character: str) -> bool:
    if held.stand_in:
        return False
    joined = held.text.endswith(_JOINER) and character.isprintable()
    return (
        joined
        or character == _JOINER
        or ord(character) in _SKIN_TONES
        or unicodedata.category(character) in ("Mn", "Me", "Mc")
    )


def _visible(character: str, column: int) -> str:
    """The character, or what is shown for it: an arrow, ^M for a control character, an escape."""
    code = ord(character)
    if character == "\t":
        return _MARKED[character] + " " * (TAB - 1 - column % TAB)
    if character in _MARKED:
        return _MARKED[character]
    if code < 0x20:
        return f"^{chr(0x40 + code)}"
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"
    if not character.isprintable() or unicodedata.category(character) in ("Mn", "Me", "Mc"):
        return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
    return character


def lines_of(cells: Sequence[Cell], width: int) -> Iterator[list[Cell]]:
    """Lines of at most `width` columns: broken after newlines, else after the last space of a full line, else anywhere."""
    line: list[Cell] = []
    used = 0
    for cell in cells:
        size = _width(cell.text)
        while line and used + size > width:
            space = next((n for n in range(len(line) - 1, -1, -1) if line[n].text == " "), None)
            cut = (
                len(line) if space is None or sum(_width(c.text) for c in line[: space + 1]) < width // 2 else space + 1
            )
            yield line[:cut]
            line = line[cut:]
            used = sum(_width(c.text) for c in line)
        line.append(cell)
        used += size
        if cell.ends_line:
            yield line
            line, used = [], 0
    if line:
        yield line


def _width(text: str) -> int:
    from rich.cells import cell_len

    return len(text) if text.isascii() else cell_len(text)


def _style(colours: Sequence[Colour], level: int | None, escaped: bool) -> Style:
    from rich.style import Style

    if level is None:
        return Style(dim=True, italic=True, underline=escaped)
    return Style(color=colours[level].ink, bgcolor=colours[level].paper, underline=escaped)


def _terminal_theme() -> Literal["dark", "light"]:
    """What the terminal reports about its background (COLORFGBG: ink;paper, of 16 colours); dark when it says nothing."""
    paper = os.environ.get("COLORFGBG", "").rpartition(";")[2]
    return "light" if paper in ("7", "15") else "dark"
