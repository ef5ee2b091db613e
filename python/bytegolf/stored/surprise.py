"""`bytegolf surprise`: a text coloured by what a packed model finds surprising in it."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from pathlib import Path

from bytegolf.artifact import load
from bytegolf.errors import UserError
from bytegolf.screen import console
from bytegolf.stored.open import Stored, artifact_of, stride_of
from bytegolf.surprise.costs import Theme
from bytegolf.surprise.shown import show


@dataclass(frozen=True)
class Colouring:
    """What is coloured and how: a file (`-`: standard input), windows in ids (None by the config), bits at the upper end of the
    scale, and the page to write instead of printing."""

    file: str
    html: Path | None = None
    window: int | None = None
    stride: int | None = None
    top: float = 8.0
    theme: Theme = "auto"


def surprise_command(stored: Stored, colouring: Colouring, as_json: bool) -> None:
    """Scores the file as one document; prints it in colours or JSON, or writes a page."""
    file, html = colouring.file, colouring.html
    path = artifact_of(stored.path)
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    name = "standard input" if file == "-" else file
    if not data:
        raise UserError(f"{name} holds no byte to score")
    model = load(path, stored.device, stored.dtype, max_decoded_bytes=stored.max_decoded_bytes)
    window = model.config.seq_len if colouring.window is None else colouring.window
    stride = stride_of(path, model, window) if colouring.stride is None else colouring.stride
    nats = model.surprise(data, window, stride)
    shown = show(data, nats, title=f"{name}, by {path}", top_bits=colouring.top, theme=colouring.theme, limit=None)
    if html is not None:
        shown.html(html)
    if as_json:
        console.print_json(
            {
                "artifact": str(path),
                "data": name,
                "device": model.device,
                "dtype": model.dtype,
                "window": window,
                "stride": stride,
                "bytes": len(data),
                "scored_bytes": shown.scored_bytes,
                "bpb": shown.bits_per_byte if shown.scored_bytes else None,
                "nats": [None if math.isnan(value) else value for value in nats.tolist()],
            }
        )
    elif html is None:
        console.stdout().print(shown)
    else:
        console.say(f"{html}: {shown.words()[0]}, window {window}, stride {stride}")
