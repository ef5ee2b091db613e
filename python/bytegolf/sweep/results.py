"""results.csv and results.jsonl of a sweep: one row per run, rewritten whole whenever a run ends.

Columns: group, seed, each option that the sweep changes, bpb_sliding, bpb_whole, bpb_raw, bpb_unquantised,
artifact_bytes, steps, seconds, artifact_sha256, val_sha256 (of the ids that were scored), status, attempts, error, folder
(relative to the sweep's). Runs without a figure leave it empty. pandas.read_csv reads the first, pandas.read_json(..., lines=True) the second.
"""

from __future__ import annotations

import csv
import io
import json
import math
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import NoneType
from typing import Any

from bytegolf.errors import UserError

CSV, JSONL = "results.csv", "results.jsonl"
FIGURES = ("bpb_sliding", "bpb_whole", "bpb_raw", "bpb_unquantised", "artifact_bytes", "steps", "seconds")
HASHES = ("artifact_sha256", "val_sha256")
FACTS = ("status", "attempts", "error", "folder")


def write_results(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replaces both files; a reader sees the old rows or the new ones, never half of them."""
    columns = list(rows[0]) if rows else ["group", "seed", *FIGURES, *HASHES, *FACTS]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _replace(folder / CSV, text.getvalue())
    _replace(folder / JSONL, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows of a sweep's folder, of results.jsonl or of results.csv: figures as numbers, seeds as integers, empty cells None.

    In a CSV file options are text. UserError names file and line of what cannot be read.
    """
    if path.is_dir():
        path = path / JSONL if (path / JSONL).exists() else path / CSV
    rows: list[dict[str, Any]] = []
    for where, row in _raw(path):
        try:
            rows.append(_typed(row))
        except ValueError as error:
            raise UserError(f"{path}, {where}: {error}") from None
    return rows


def _raw(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each row as it stands, and where."""
    try:
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UserError(f"{path}, line {line}: byte {error.start} is not UTF-8 text") from None
    if path.suffix == ".csv":
        reader = csv.DictReader(io.StringIO(text, newline=""))
        try:
            for number, row in enumerate(reader, 1):
                yield f"row {number}", {name: cell or None for name, cell in row.items() if name}
        except csv.Error as error:
            raise UserError(f"{path}, line {reader.line_num}: {error}") from None
        return
    for number, words in enumerate(text.split("\n"), 1):
        if not words.strip():
            continue
        try:
            row = json.loads(words)
        except RecursionError:
            raise UserError(f"{path}, line {number}: its JSON nests too deeply") from None
        except ValueError as error:
            raise UserError(f"{path}, line {number}: {error}") from None
        if not isinstance(row, dict):
            raise UserError(f"{path}, line {number}: no JSON object")
        yield f"line {number}", row


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    """A row with its facts checked. ValueError names what is missing or of another type."""
    for name in ("group", "status"):
        if row.get(name) is None:
            raise ValueError(f"no {name}")
    for name in ("group", "status", "error", "folder", *HASHES):
        if not isinstance(row.get(name), (str, NoneType)):
            raise ValueError(f"{name} = {str(row[name])[:40]} is not a text")
    found = dict(row)
    for name, kind in (("seed", int), ("attempts", int), *((name, float) for name in FIGURES)):
        value = row.get(name)
        if value is None:
            continue
        try:
            found[name] = kind(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None
        except (ValueError, OverflowError):
            found[name] = None
        if found[name] is None or not math.isfinite(found[name]):
            raise ValueError(f"{name} = {str(value)[:40]} is not a number")
    return found


def _replace(path: Path, text: str) -> None:
    made = path.with_name(f".{path.name}.{os.getpid()}")
    made.write_text(text, encoding="utf-8")
    made.replace(path)
