"""The bytes of a text with what each costs: all that a terminal or a page shows of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import numpy.typing as npt

from bytegolf.surprise.cells import Cell, cells_of
from bytegolf.surprise.scale import LEVELS

Theme = Literal["auto", "dark", "light"]


@dataclass(frozen=True, repr=False, eq=False)
class Costs:
    """What the bytes of a text cost, character by character; the scale, and the words beside it. `show` says what the fields mean."""

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
        return list(cells_of(self.data[:end], self.nats[:end] / math.log(2)))

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
