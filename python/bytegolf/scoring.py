"""Scoring: bits per byte of a stream of ids, every target exactly once."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from bytegolf import _bytegolf
from bytegolf.ids import LARGEST, AnyArray, as_ids, in_range

if TYPE_CHECKING:
    from bytegolf.ranks.group import Group

__all__ = ["Score", "evaluate"]


@dataclass(frozen=True)
class Score:
    """What a stream costs. bpb = nats / (ln 2 * bytes); special ids cost nats but are no bytes."""

    bpb: float
    """bits per byte"""
    nats: float
    """sum over all targets"""
    bytes: int
    """targets that are bytes"""
    targets: int
    """ids that were scored, special ones too"""
    nll: npt.NDArray[np.float64]
    """nats of each target, in order"""


def evaluate(
    model: _bytegolf.Model,
    ids: AnyArray,
    window: int | None = None,
    stride: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    group: Group | None = None,
) -> Score:
    """Scores one stream of ids [M]: its first id is context only, so M ids have M-1 targets.

    Windows start every `stride` ids, hold at most `window` inputs, and score the targets that no earlier window held;
    stride == window scores whole chunks. Defaults: seq_len and eval_stride of the model. Sums are float64.
    `progress(targets done, targets)` is called now and then. ValueError for ids outside the vocabulary, fewer than two
    ids, or not 1 <= stride <= window.

    group: ranks that hold the same model and ids and share the windows; every rank gets the whole's sums, `nll` is whole on
    rank 0 alone.
    """
    window = model.config.seq_len if window is None else window
    window = in_range("window", window, 1, LARGEST)
    stride = min(model.config.eval_stride, window) if stride is None else in_range("stride", stride, 1, window)
    part, parts = (group.rank, group.world) if group is not None else (0, 1)
    run = _bytegolf.Evaluation(model, as_ids(ids, 1), window, stride, part, parts)
    while run.advance():
        if progress is not None:
            progress(run.targets, run.total)
        if group is not None:
            group.tick("scoring")
    if group is None:
        return Score(run.bpb, run.nats, run.bytes, run.targets, run.nll)
    own = run.nll[run.first : run.first + run.total]
    sums = np.array(group.all_gather([run.nats, run.bytes, run.targets])).sum(axis=0)
    nll = np.concatenate(group.gather_array(own) or [own])
    nats, size, targets = float(sums[0]), int(sums[1]), int(sums[2])
    return Score(nats / (math.log(2) * size) if size else math.nan, nats, size, targets, nll)
