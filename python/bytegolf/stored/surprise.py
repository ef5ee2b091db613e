"""`bytegolf surprise`: a text coloured by what a packed model finds surprising in it."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Literal

from bytegolf.artifact import load
from bytegolf.errors import UserError
from bytegolf.screen import console
from bytegolf.stored.open import artifact_of, stride_of
from bytegolf.surprise.shown import show


def surprise_command(
    artifact: Path,
    file: str,
    html: Path | None,
    window: int | None,
    stride: int | None,
    top: float,
    theme: Literal["auto", "dark", "light"],
    device: str,
    dtype: str,
    json: bool,
) -> None:
    """Scores FILE (`-`: standard input) as one document; prints it in colours or JSON, or writes a page."""
    path = artifact_of(artifact)
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    name = "standard input" if file == "-" else file
    if not data:
        raise UserError(f"{name} holds no byte to score")
    model = load(path, device, dtype)
    window = window or model.config.seq_len
    stride = stride or stride_of(path, model, window)
    nats = model.surprise(data, window, stride)
    shown = show(data, nats, title=f"{name}, by {path}", top_bits=top, theme=theme, limit=None)
    if html is not None:
        shown.html(html)
    if json:
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
