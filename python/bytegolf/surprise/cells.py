"""A text as characters that can be shown, each with what its bytes cost; and lines of them."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

TAB = 8
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


def cells_of(data: bytes, bits: npt.NDArray[np.float64]) -> Iterator[Cell]:
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
                column = 0 if held.ends_line else column + width_of(held.text)
            text = _visible(character, column)
            held = Cell(text, at, count, cost, text != character, character == "\n")
        at += count
    if held is not None:
        yield held


def shown_text(text: str) -> str:
    """A title as a terminal or a page may show it, in one line: what cannot be shown is written as in a text."""
    data = text.encode("utf-8", errors="backslashreplace")
    return "".join(cell.text for cell in cells_of(data, np.zeros(len(data))))


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
        size = width_of(cell.text)
        while line and used + size > width:
            space = next((n for n in range(len(line) - 1, -1, -1) if line[n].text == " "), None)
            cut = (
                len(line)
                if space is None or sum(width_of(c.text) for c in line[: space + 1]) < width // 2
                else space + 1
            )
            yield line[:cut]
            line = line[cut:]
            used = sum(width_of(c.text) for c in line)
        line.append(cell)
        used += size
        if cell.ends_line:
            yield line
            line, used = [], 0
    if line:
        yield line


def width_of(text: str) -> int:
    from rich.cells import cell_len

    return len(text) if text.isascii() else cell_len(text)
