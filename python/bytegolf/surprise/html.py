"""`bytegolf.show` as HTML: the piece that a notebook shows, and a page that needs nothing else.

No scripts; every byte of the text is escaped. Light and dark follow the reader's settings, JupyterLab's and VS Code's
theme, or the one given to `show`.
"""

from __future__ import annotations

import math
from html import escape

from bytegolf.surprise.cells import Cell, shown_text
from bytegolf.surprise.costs import Costs
from bytegolf.surprise.scale import LEVELS, ramp

_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
html {{ {paper} }}
body {{ margin: 0 auto; max-width: 60rem; padding: 1.5rem; }}
</style>
</head>
<body>
{body}
</body>
</html>
"""
# `light-dark()` takes the first colour where color-scheme is light; browsers before 2024 keep the line above it, which is light.
_STYLE = """
.bgs { color-scheme: light dark; %(paper)s
  font-family: system-ui, sans-serif; font-size: 14px; line-height: 1.5; print-color-adjust: exact; }
[data-jp-theme-light="true"] .bgs, .vscode-light .bgs { color-scheme: light; }
[data-jp-theme-light="false"] .bgs, .vscode-dark .bgs { color-scheme: dark; }
.bgs h1 { font-size: 1.15rem; margin: 0 0 .25rem; }
.bgs p { margin: 0 0 .5rem; }
.bgs .scale { display: grid; grid-template-columns: repeat(%(levels)d, 1fr); max-width: 26rem; }
.bgs .scale i { height: .9rem; }
.bgs .scale b { grid-column: span %(quarter)d; font-weight: normal; font-variant-numeric: tabular-nums; }
.bgs .scale b:last-child { grid-column: span 1; white-space: nowrap; }
.bgs pre { font-family: ui-monospace, "DejaVu Sans Mono", Menlo, Consolas, monospace; font-size: 13px; line-height: 1.55;
  white-space: pre-wrap; overflow-wrap: anywhere; margin: .75rem 0 .5rem; padding: 0; background: none; color: inherit; }
.bgs pre span { background: none; }
.bgs .e { text-decoration: underline dotted; }
.bgs .n { opacity: .7; font-style: italic; text-decoration: underline; }
"""


def page(costs: Costs) -> str:
    """A whole page."""
    title = costs.title or "bytegolf: what each byte costs"
    return _PAGE.format(title=escape(shown_text(title)), paper=_paper(costs), body=fragment(costs))


def fragment(costs: Costs) -> str:
    """Style, title, scale and text, for use inside another page."""
    heading = f"<h1>{escape(shown_text(costs.title))}</h1>" if costs.title else ""
    first, *more = costs.words()
    notes = "".join(f"<p>{escape(line)}</p>" for line in more)
    text = "".join(_cell(costs, cell) for cell in costs.cells)
    return (
        f"<style>{_style(costs)}</style>\n"
        f'<div class="bgs"{_scheme(costs)}>{heading}<p>{escape(first)}</p>{_scale(costs)}\n<pre>{text}</pre>{notes}</div>'
    )


def _scheme(costs: Costs) -> str:
    return "" if costs.theme == "auto" else f' style="color-scheme: {costs.theme}"'


def _pairs() -> list[tuple[str, str, str, str]]:
    """(paper, ink) of the light ramp and of the dark one, for each level."""
    return [(a.paper, a.ink, b.paper, b.ink) for a, b in zip(ramp("light"), ramp("dark"), strict=True)]


def _colours(light_paper: str, light_ink: str, dark_paper: str, dark_ink: str) -> str:
    return (
        f"background: {light_paper}; background: light-dark({light_paper}, {dark_paper}); "
        f"color: {light_ink}; color: light-dark({light_ink}, {dark_ink});"
    )


def _paper(costs: Costs) -> str:
    scheme = "light dark" if costs.theme == "auto" else costs.theme
    return f"color-scheme: {scheme}; " + _colours(*_pairs()[0])


def _style(costs: Costs) -> str:
    pairs = _pairs()
    basic = _STYLE % {"paper": _colours(*pairs[0]), "levels": LEVELS + 1, "quarter": LEVELS // 4}
    return basic + "\n".join(f".bgs .s{n} {{ {_colours(*pair)} }}" for n, pair in enumerate(pairs)) + "\n"


def _scale(costs: Costs) -> str:
    steps = "".join(f'<i class="s{n}"></i>' for n in range(LEVELS + 1))
    labels = "".join(f"<b>{quarter * costs.top_bits / 4:g}{'+' * (quarter == 4)}</b>" for quarter in range(5))
    return f'<p>Bits of a character (all its bytes):</p><div class="scale">{steps}{labels}</div>'


def _cell(costs: Costs, cell: Cell) -> str:
    level = costs.level(cell.bits)
    name = "n" if level is None else f"s{level}"
    if cell.escaped:
        name += " e"
    # A newline's sign, then the newline itself: lines stay lines.
    end = "\n" if cell.ends_line else ""
    return f'<span class="{name}" title="{escape(_words(costs, cell))}">{escape(cell.text)}</span>{end}'


def _words(costs: Costs, cell: Cell) -> str:
    """The text shown for a character under the pointer."""
    at = f"byte {cell.first:,}" if cell.count == 1 else f"bytes {cell.first:,} to {cell.first + cell.count - 1:,}"
    parts = costs.nats[cell.first : cell.first + cell.count] / math.log(2)
    bits = "not scored" if math.isnan(cell.bits) else f"{cell.bits:.2f} bits"
    if cell.count > 1:
        bits += f" ({' + '.join(f'{b:.2f}' for b in parts)})"
    return f"{bits}, {at}: {costs.data[cell.first : cell.first + cell.count].hex(' ')}"
