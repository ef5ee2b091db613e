"""The console that every command prints with: names and texts from files are shown, never obeyed."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from bytegolf.visible import visible


class Terminal(Console):
    """Text is text: no markup, no names of emoji, and what a terminal would obey is written as an escape (see `visible`).

    Styles are given as arguments or as rich's `Text`.
    """

    def __init__(self, **options: Any) -> None:
        """Options of rich's Console."""
        super().__init__(markup=False, emoji=False, highlight=False, **options)

    def render_str(self, text: str, **options: Any) -> Text:
        """A string on its way to a line or into a table; escaped first, since tables measure it next."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """What is left for the terminal; here even what was no string gets its escapes."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)
