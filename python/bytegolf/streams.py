"""Streams of held-out ids: read whole, and scored by one model."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bytegolf._bytegolf import ShardSet
from bytegolf.errors import UserError
from bytegolf.ids import Ids
from bytegolf.model import Model
from bytegolf.ranks.group import Group
from bytegolf.scoring import evaluate


@dataclass(frozen=True)
class StreamScore:
    """One scoring of held-out ids. `floored_bpb` covers whole windows only, as published figures do (None: no whole one)."""

    window: int
    stride: int
    bpb: float
    nats: float
    bytes: int
    targets: int
    seconds: float
    floored_bpb: float | None = None
    by_position: dict[str, float] | None = None


def read_stream(where: str, family: str) -> Ids:
    """All ids of the held-out shards as one array; FormatError or ValueError names path and offset."""
    shards = ShardSet(where, family, "val")
    if len(shards) < 2:
        raise UserError(f"{where} holds {len(shards)} ids; scoring needs at least 2")
    return shards.read(0, len(shards))


def score(
    model: Model,
    ids: Ids,
    window: int,
    stride: int,
    progress: Callable[[int, int], None] | None = None,
    group: Group | None = None,
) -> StreamScore:
    """Scores one stream of ids; the first is context only. `progress(targets done, targets)` is called now and then. The ranks of
    `group` share the work; `floored_bpb` and `by_position` are rank 0's to know."""
    started = time.perf_counter()
    got = evaluate(model, ids, window, stride, progress, group)
    seconds = time.perf_counter() - started
    floored, positions = None, None
    whole = (len(ids) - 1) // window * window
    if stride == window and whole and (group is None or group.rank == 0):
        nats = got.nll[:whole].reshape(-1, window).sum(axis=0, dtype=np.float64)
        is_byte = (ids[1 : whole + 1] >= model.config.byte_offset).reshape(-1, window).sum(axis=0)
        floored = float(nats.sum()) / (math.log(2) * int(is_byte.sum())) if is_byte.any() else None
        positions = _by_position(nats, is_byte)
    return StreamScore(window, stride, got.bpb, got.nats, got.bytes, got.targets, seconds, floored, positions)


def _by_position(nats: NDArray[Any], is_byte: NDArray[Any]) -> dict[str, float]:
    """BPB of the targets that see 1-64, 65-128, 129-256, ... ids before them: how much far context is worth."""
    found, first = {}, 0
    while first < len(nats):
        last = min(max(64, 2 * first), len(nats))
        size = int(is_byte[first:last].sum())
        if size:
            found[f"{first + 1}-{last}"] = float(nats[first:last].sum()) / (math.log(2) * size)
        first = last
    return found
