"""NaN and infinity put into every tensor of a run's state: an error that names the tensor, or a refusal to pack, never silence."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from bytegolf import FormatError, NumericsError, pack
from bytegolf.checkpoint import read_checkpoint, write_checkpoint
from bytegolf.config import Config
from bytegolf.trainer import Trainer
from campaign import runs
from campaign.stage import Context, Outcome, Report, cases

STEPS = 3  # after the value was put in
VALUES = (math.nan, math.inf, -math.inf)
WHERE = ("first", "any", "all")


@dataclass(frozen=True)
class _Case:
    """One value in one tensor. dtype: of the model."""

    name: str
    value: float
    where: str


def stage(context: Context) -> Outcome:
    """Each tensor of weights, moments and averages, each value, at its first element, at any, at all of them."""
    config = Config.preset("byte260-jepa", **{**runs.OPTIONS, "iterations": 12})
    data = np.random.default_rng(3).integers(4, 260, 3000)
    trainer = Trainer(config, data)
    for _ in range(5):
        trainer.step()
    trainer.checkpoint(context.folder / "good")
    tensors, facts = read_checkpoint(context.folder / "good")
    del trainer  # its threads do not survive a fork
    todo = [_Case(*row) for row in itertools.product(tensors, VALUES, WHERE)]
    context.random("order").shuffle(todo)
    if context.goal:  # every one of them, once
        context = replace(context, goal=len(todo))

    def one(case: int, draw: random.Random, folder: Path, report: Report) -> int:
        row = todo[case % len(todo)]
        forged = dict(tensors)
        array = forged[row.name].copy()
        flat = array.reshape(-1)
        at = {"first": slice(0, 1), "any": slice(k := draw.randrange(flat.size), k + 1), "all": slice(None)}[row.where]
        flat[at] = row.value
        forged[row.name] = array
        write_checkpoint(folder / "c", forged, facts)
        trouble = _survives(config, data, folder, row)
        if trouble:
            raise AssertionError(f"{row.value} in {row.name} ({row.where}): {trouble}")
        return 1

    return cases(one, context)


def _survives(config: Config, data: np.ndarray, folder: Path, row: _Case) -> str:
    """What is wrong with how the run took it, or ""."""
    plain = row.name.partition("/")[2]
    trainer = Trainer(config, data)
    try:
        trainer.resume(folder / "c")
        for _ in range(STEPS):
            result = trainer.step()
            if not math.isfinite(result.total) or not math.isfinite(result.grad_norm):
                return f"step {result.step} reports loss {result.total} and gradient {result.grad_norm}"
    except (NumericsError, FormatError, ValueError) as error:
        named = [name for name in _names(trainer) if name in str(error)]
        return "" if named or "loss" in str(error) else f"the error names no tensor: {error}"
    # Survived: whatever is still not finite must be noticed before it becomes an artifact or a checkpoint.
    bad = [name for name, view in trainer.views().items() if not np.isfinite(np.asarray(view)).all()]
    if not bad:
        return ""
    for kind in ("raw", "ema", "swa"):
        try:
            pack(trainer, folder / f"{kind}.bg", weights=kind)
        except NumericsError as error:
            if plain in str(error):
                return ""
    return f"{STEPS} steps later {bad[0]} is not finite, and neither a step nor a pack has said so"


def _names(trainer: Trainer) -> Iterator[str]:
    for name in trainer.views():
        yield name.partition("/")[2]
