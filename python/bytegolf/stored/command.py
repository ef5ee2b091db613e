"""`bytegolf eval`, `generate` and `inspect`: what a model on disk makes of given bytes, what it says itself, what it holds."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from bytegolf._bytegolf import MAX_DECODED_BYTES
from bytegolf.documents import AS_NAMED, Reading
from bytegolf.errors import UserError
from bytegolf.inspect import inspect_artifact
from bytegolf.screen import console
from bytegolf.stored.open import Stored, ids_of, model_of, stride_of
from bytegolf.streams import score
from bytegolf.visible import VisibleBytes

PROMPT_BYTES = 1 << 20


@dataclass(frozen=True)
class Scoring:
    """What is scored, and how: shards, which of a folder (`split`), or a file of documents, which is read as `reading` says;
    windows in ids, None by the config."""

    data: str
    split: str = "val"
    window: int | None = None
    stride: int | None = None
    reading: Reading = AS_NAMED


@dataclass(frozen=True)
class Sampling:
    """What is drawn: `n` bytes after each prompt, from the smallest set of likeliest bytes that holds `top_p`."""

    prompts: Sequence[str] = ("",)
    n: int = 400
    temperature: float = 1.0
    top_p: float = 1.0
    stop: Sequence[str] = ()
    seed: int = 0


def eval_command(stored: Stored, scoring: Scoring, as_json: bool) -> None:
    """Scores and prints."""
    path, model = model_of(stored)
    window = model.config.seq_len if scoring.window is None else scoring.window
    usual = stride_of(path, model, window) if stored.config is None else min(model.config.eval_stride, window)
    stride = usual if scoring.stride is None else scoring.stride
    data = scoring.data
    ids = ids_of(data, model.config, scoring.split, scoring.reading)
    got = score(model, ids, window, stride)
    size = path.stat().st_size
    if as_json:
        console.print_json(
            {"artifact": str(path), "artifact_bytes": size, "data": data, "device": model.device, "dtype": model.dtype}
            | asdict(got)
        )
        return
    table = console.table("", "figure", right=("figure",))
    table.add_row("weights" if path.suffix == ".safetensors" else "artifact", f"{size:,} bytes")
    table.add_row("bits per byte", f"{got.bpb:.6f}")
    if got.floored_bpb is not None:
        table.add_row("bits per byte, whole windows only", f"{got.floored_bpb:.6f}")
    table.add_row("nats", f"{got.nats:.3f}")
    table.add_row("bytes", f"{got.bytes:,}")
    table.add_row("targets", f"{got.targets:,}")
    table.add_row("window, stride", f"{got.window}, {got.stride}")
    table.add_row("computed", f"on {model.device} in {model.dtype}")
    table.add_row("time", f"{console.duration(got.seconds)}, {console.size(got.bytes / max(got.seconds, 1e-9))}/s")
    console.stdout().print(table)


def generate_command(stored: Stored, sampling: Sampling, as_json: bool) -> None:
    """Writes prompts and their continuations to standard output: of one prompt byte by byte, of several row by row."""
    starts = [_bytes_of(p) for p in sampling.prompts]
    for start in starts:
        if len(start) > PROMPT_BYTES:
            raise UserError(f"the prompt has {len(start):,} bytes; at most {PROMPT_BYTES:,} are read")
    path, model = model_of(stored)
    n, temperature, top_p, seed = sampling.n, sampling.temperature, sampling.top_p, sampling.seed
    stops = [_bytes_of(s) for s in sampling.stop]
    if len(starts) == 1 and not as_json:
        bytes_drawn = model.stream(starts[0], n, temperature, seed, top_p=top_p, stop=stops)
        write = _writer()
        write(starts[0])
        for byte in bytes_drawn:
            write(byte)
        write(b"\n", last=True)
        return
    began = time.perf_counter()
    texts = model.generate(starts, n, temperature, seed, top_p=top_p, stop=stops)
    if as_json:
        # What is not UTF-8 becomes a replacement sign in `text`; `hex` is exact.
        rows = [
            {"prompt": _shown(start), "text": _shown(text), "bytes": len(text), "hex": text.hex()}
            for start, text in zip(starts, texts, strict=True)
        ]
        facts = {
            "artifact": str(path),
            "device": model.device,
            "dtype": model.dtype,
            "seconds": time.perf_counter() - began,
        }
        options = {"n": n, "temperature": temperature, "top_p": top_p, "stop": list(sampling.stop), "seed": seed}
        console.print_json(facts | options | {"rows": rows})
        return
    for row, (start, text) in enumerate(zip(starts, texts, strict=True)):
        _writer()(b"%s--- %d\n%s%s\n" % (b"\n" if row else b"", row, start, text), last=True)


class _Writer(Protocol):
    def __call__(self, data: bytes, last: bool = False) -> None:
        """Shows some bytes at once; after the `last` no others come."""


def _writer() -> _Writer:
    """Writes to standard output: the bytes themselves, but on a terminal, which would obey some of them, what `visible` shows."""
    if not sys.stdout.isatty():

        def write(data: bytes, last: bool = False) -> None:
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()

        return write
    text = VisibleBytes()

    def show(data: bytes, last: bool = False) -> None:
        sys.stdout.write(text(data, last))
        sys.stdout.flush()

    return show


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")


def _shown(text: bytes) -> str:
    return text.decode("utf-8", errors="replace")


def inspect_command(artifact: Path, tensors: bool, as_json: bool, max_decoded_bytes: int = MAX_DECODED_BYTES) -> None:
    """Shows what an artifact holds: groups of tensors, or with `tensors` each of them."""
    found = inspect_artifact(artifact, max_decoded_bytes=max_decoded_bytes)
    if as_json:
        console.print_json(found)
    else:
        _show_contents(found, every_tensor=tensors)


def _show_contents(report: dict[str, Any], *, every_tensor: bool) -> None:
    """Draws the report as a table, one row per group of tensors (or per tensor), then the totals."""
    out = console.stdout()
    of = "shape" if every_tensor else "count"
    right = (of, "bytes", "bits each", "share")
    title = f"{report['path']}: {report['file_bytes']:,} bytes"
    table = console.table("tensor", of, "stored as", *right[1:], title=title, right=right)
    for column in table.columns[1:]:
        column.no_wrap = True

    def share(size: int) -> str:
        return f"{100 * size / report['file_bytes']:.2f} %"

    for row in report["tensors"] if every_tensor else report["groups"]:
        table.add_row(
            row["name"],
            "x".join(map(str, row["shape"])) or "scalar" if every_tensor else str(row["count"]),
            f"{row['dtype']} {row['coding']}",
            f"{row['stored_bytes']:,}",
            f"{row['bits_per_weight']:.3f}",
            share(row["stored_bytes"]),
        )
    table.add_section()
    for label, size in [
        ("classes and tables of the int8 matrices", report["model_bytes"]),
        ("header, index, config, checksum", report["frame_bytes"]),
    ]:
        table.add_row(label, "", "", f"{size:,}", "", share(size))
    table.add_row(
        f"all {report['weights']:,} weights",
        "",
        "",
        f"{report['file_bytes']:,}",
        f"{report['bits_per_weight']:.3f}",
        "100.00 %",
    )
    out.print(table)
    if report["config"]:
        out.print(report["config"].rstrip())
