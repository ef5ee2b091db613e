"""`bytegolf surprise`: a text coloured by what a packed model finds surprising in it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bytegolf.artifact import load
from bytegolf.documents import AS_NAMED, Reading
from bytegolf.errors import UserError
from bytegolf.scoring import evaluate
from bytegolf.screen import console
from bytegolf.stored.open import Stored, artifact_of, documents_in, stream_ids, stride_of
from bytegolf.surprise.costs import Theme
from bytegolf.surprise.shown import show


@dataclass(frozen=True)
class Colouring:
    """What is coloured and how: a file (`-`: standard input), which is read as `reading` says, windows in ids (None by the config),
    bits at the upper end of the scale, and the page to write instead of printing."""

    file: str
    html: Path | None = None
    window: int | None = None
    stride: int | None = None
    top: float = 8.0
    theme: Theme = "auto"
    reading: Reading = AS_NAMED


def surprise_command(stored: Stored, colouring: Colouring, as_json: bool) -> None:
    """Scores the file's documents as one stream, as `eval` does; prints their bytes in colours or JSON, or writes a page."""
    file, html = colouring.file, colouring.html
    path = artifact_of(stored.path)
    name = "standard input" if file == "-" else file
    documents = [bytes(document) for document in documents_in(file, colouring.reading) if len(document)]
    data = b"".join(documents)
    if not data:
        raise UserError(f"{name} holds no byte to score")
    model = load(path, stored.device, stored.dtype, max_decoded_bytes=stored.max_decoded_bytes)
    window = model.config.seq_len if colouring.window is None else colouring.window
    stride = stride_of(path, model, window) if colouring.stride is None else colouring.stride
    ids = stream_ids(iter(documents), model.config)
    is_byte = ids >= model.config.byte_offset
    every = np.full(len(ids), np.nan)  # the first id is context only
    if len(ids) > 1:
        every[1:] = evaluate(model, ids, window, stride).nll
    nats = every[is_byte]
    between = float(np.nansum(every[~is_byte]))  # of bos, which `eval` counts too
    shown = show(data, nats, title=f"{name}, by {path}", top_bits=colouring.top, theme=colouring.theme, limit=None)
    bpb = shown.bits_per_byte
    if between:
        bpb += between / (math.log(2) * shown.scored_bytes)
        console.say(
            f"{len(documents):,} documents; with the ids between them {bpb:.4f} bits per byte, as `bytegolf eval` counts"
        )
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
                "documents": len(documents),
                "nats_between_documents": between,
                "scored_bytes": shown.scored_bytes,
                "bpb": bpb if shown.scored_bytes else None,
                "nats": [None if math.isnan(value) else value for value in nats.tolist()],
            }
        )
    elif html is None:
        console.stdout().print(shown)
    else:
        console.say(f"{html}: {shown.words()[0]}, window {window}, stride {stride}")
