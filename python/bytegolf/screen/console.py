"""What every command prints with: consoles, tables, and words for bytes and seconds."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any, Protocol

from bytegolf.visible import visible

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text


def stdout() -> Console:
    """Console for results; lines of any length and tables of up to 160 columns when it is no terminal."""
    from bytegolf.screen.terminal import Terminal

    terminal = sys.stdout.isatty()
    return Terminal(soft_wrap=not terminal, width=None if terminal else 160)


def stderr() -> Console:
    """Console for progress and messages."""
    from bytegolf.screen.terminal import Terminal

    return Terminal(stderr=True, soft_wrap=not sys.stderr.isatty())


def print_json(value: Any) -> None:
    """One JSON value on standard output, for programs."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, allow_nan=True) + "\n")


def table(*columns: str, title: str | None = None, right: tuple[str, ...] = ()) -> Table:
    """An empty table with these headings; those in `right` are set flush right (numbers)."""
    from rich import box
    from rich.table import Table

    made = Table(title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False)
    for name in columns:
        made.add_column(name, justify="right" if name in right else "left", overflow="fold")
    return made


def printable(text: bytes) -> str:
    """Bytes as text that is safe on a terminal and in a page: what is not UTF-8 and control characters become a replacement sign."""
    return "".join(c if c.isprintable() or c == "\n" else "\ufffd" for c in text.decode("utf-8", errors="replace"))


def text(words: str, style: str = "") -> Text:
    """Words in a style, for tables and lines; escaped here, since rich measures such texts as they are."""
    from rich.text import Text

    return Text(visible(words), style=style)


def size(count: float) -> str:
    """Bytes in words, decimal units: 14,182,907 -> '14.18 MB'."""
    if count < 1000:
        return f"{count:.0f} B"
    for unit in ("kB", "MB", "GB"):
        count /= 1000
        if count < 999.5 or unit == "GB":
            break
    return f"{count:.{2 if count < 100 else 0}f} {unit}"


def duration(seconds: float) -> str:
    """Seconds in words: 75 -> '1 min 15 s'."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class Say(Protocol):
    """Something that shows one line of progress."""

    def __call__(self, text: str) -> None:
        """Shows `text`."""


def say(text: str) -> None:
    """One line of progress on standard error."""
    stderr().print(text, markup=False)
