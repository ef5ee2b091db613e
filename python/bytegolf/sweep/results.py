"""results.csv and results.jsonl of a sweep: one row per run, rewritten whole whenever a run ends.

Columns: group, seed, each option that the sweep changes, bpb_sliding, bpb_whole, bpb_raw, bpb_unquantised,
artifact_bytes, steps, seconds, status, attempts, error, folder (relative to the sweep's). Runs without a figure leave it
empty. pandas.read_csv reads the first, pandas.read_json(..., lines=True) the second.
"""

from __future__ import annotations

import csv
import io
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bytegolf.errors import UserError

CSV, JSONL = "results.csv", "results.jsonl"
FIGURES = ("bpb_sliding", "bpb_whole", "bpb_raw", "bpb_unquantised", "artifact_bytes", "steps", "seconds")
FACTS = ("status", "attempts", "error", "folder")


def write_results(folder: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Replaces both files; a reader sees the old rows or the new ones, never half of them."""
    columns = list(rows[0]) if rows else ["group", "seed", *FIGURES, *FACTS]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    _replace(folder / CSV, text.getvalue())
    _replace(folder / JSONL, "".join(json.dumps(row, allow_nan=False) + "\n" for row in rows))


def read_results(path: Path) -> list[dict[str, Any]]:
    """The rows of a sweep's folder, of results.jsonl or of results.csv (where every cell is text, empty ones None).

    UserError names file and line of what cannot be read.
    """
    if path.is_dir():
        path = path / JSONL if (path / JSONL).exists() else path / CSV
    rows: list[dict[str, Any]] = []
    with path.open(encoding="utf-8", newline="") as file:
        if path.suffix == ".csv":
            rows = [{name: cell or None for name, cell in row.items() if name} for row in csv.DictReader(file)]
        else:
            for number, line in enumerate(file, 1):
                try:
                    row = json.loads(line)
                except json.JSONDecodeError as error:
                    raise UserError(f"{path}, line {number}: {error}") from None
                if not isinstance(row, dict):
                    raise UserError(f"{path}, line {number}: no JSON object")
                rows.append(row)
    for number, row in enumerate(rows, 1):
        for name in ("group", "status"):
            if row.get(name) is None:
                raise UserError(f"{path}, row {number}: no {name}")
    return rows


def _replace(path: Path, text: str) -> None:
    made = path.with_name(f".{path.name}.{os.getpid()}")
    made.write_text(text, encoding="utf-8")
    made.replace(path)
