"""What is in an artifact and where its bytes go: the report of `bytegolf inspect`."""

from __future__ import annotations

import math
import os
import re
from typing import Any

from bytegolf import _bytegolf
from bytegolf._bytegolf import MAX_DECODED_BYTES

_BYTES_OF = {
    "float64": 8,
    "int64": 8,
    "float32": 4,
    "int32": 4,
    "float16": 2,
    "bfloat16": 2,
    "uint16": 2,
    "int8": 1,
    "uint8": 1,
}


def group_of(name: str) -> str:
    """The name with every number replaced by `*`: tensors that differ only in their layer belong together."""
    return re.sub(r"\d+", "*", name)


def inspect_artifact(path: str | os.PathLike[str], *, max_decoded_bytes: int = MAX_DECODED_BYTES) -> dict[str, Any]:
    """Checks the whole artifact (checksum, every stream), piece by piece without keeping a tensor, and says what it holds.

    Keys: `path`, `file_bytes`, `frame_bytes` (header, index, checksum), `model_bytes` (row and column classes and frequency
    tables shared by the int8 matrices), `weights` (elements, scales left out), `bits_per_weight` (of the whole file), `config`,
    `tensors` and `groups`: lists of dicts with `name`, `dtype`, `shape` (groups: `count`), `coding`, `elements`, `raw_bytes`,
    `stored_bytes`, `bits_per_weight`. stored_bytes of all tensors + frame_bytes + model_bytes = file_bytes.
    Raises FormatError for a damaged file and for tensors of more than max_decoded_bytes together, OSError when it cannot be read.
    """
    found = _bytegolf.ArtifactReader(os.fspath(path), max_decoded_bytes).check()
    tensors: list[dict[str, Any]] = []
    groups: dict[str, dict[str, Any]] = {}
    for row in found["tensors"]:
        elements = math.prod(row["shape"])
        tensor = {
            "name": row["name"],
            "dtype": row["dtype"],
            "shape": list(row["shape"]),
            "coding": row["coding"],
            "elements": elements,
            "raw_bytes": elements * _BYTES_OF[row["dtype"]],
            "stored_bytes": row["stored_bytes"],
        }
        tensors.append(tensor)
        group = groups.setdefault(
            group_of(row["name"]),
            {"name": group_of(row["name"]), "dtype": row["dtype"], "coding": row["coding"], "count": 0}
            | dict.fromkeys(["elements", "raw_bytes", "stored_bytes"], 0),
        )
        group["count"] += 1
        for part in ("dtype", "coding"):
            if group[part] != tensor[part]:
                group[part] = "several"
        for total in ("elements", "raw_bytes", "stored_bytes"):
            group[total] += tensor[total]
    for row in [*tensors, *groups.values()]:
        row["bits_per_weight"] = 8 * row["stored_bytes"] / row["elements"] if row["elements"] else 0.0
    names = {t["name"] for t in tensors}
    scales = {f"{n.removesuffix('.q')}.scale" for n in names if n.endswith(".q")}
    weights = sum(t["elements"] for t in tensors if t["name"] not in scales)
    return {
        "path": os.fspath(path),
        "file_bytes": found["file_bytes"],
        "frame_bytes": found["frame_bytes"],
        "model_bytes": found["model_bytes"],
        "weights": weights,
        "bits_per_weight": 8 * found["file_bytes"] / weights if weights else 0.0,
        "config": found["config"],
        "tensors": tensors,
        "groups": list(groups.values()),
    }
