"""Clocks that jump while a run trains: figures of time stay sensible, results stay those of right clocks, and the run resumes."""

from __future__ import annotations

import ctypes
import json
import os
import random
from collections.abc import Callable
from pathlib import Path

from campaign import kills, runs
from campaign.preload import preloaded
from campaign.stage import Context, Outcome, Report, cases

SHIM = Path(__file__).with_name("clock_shim.c")
END_S = 120.0
BUDGET_S = 1.0
# Bits of clock_shim_set.
CLOCKS = {"wall": 1, "monotonic, forwards": 2, "monotonic, back and forth": 4, "both": 5}


def stage(context: Context) -> Outcome:
    """Runs by steps and by the clock, stopped and resumed, while one clock or both jump."""
    return preloaded(SHIM, inside, context)


def inside(context: Context) -> Outcome:
    """The stage itself, where the library is loaded."""
    runs.load()
    words = runs.prepare(context.folder)
    by_clock = runs.prepare(context.folder, train_budget_s=BUDGET_S, iterations=1_000_000, warmdown_iters=50)
    reference = context.folder / "reference"
    if runs.call([*words, "--run", str(reference)], context.folder / "reference.txt", END_S):
        raise RuntimeError((context.folder / "reference.txt").read_text())
    expected = runs.result(reference)

    def one(case: int, draw: random.Random, folder: Path, report: Report) -> int:
        name = draw.choice(list(CLOCKS))
        most_s = draw.choice((0.01, 1.0, 3600.0, 1e8))
        wild = _wild(CLOCKS[name], draw.randrange(1, 1 << 30), draw.choice((3, 50, 1000)), most_s)
        what = f"{name} by {most_s:g} s: "
        run = folder / "run"
        budget = draw.random() < 0.4 and CLOCKS[name] < 4  # a clock that goes back cannot end a run by the clock
        child = runs.start([*(by_clock if budget else words), "--run", str(run)], folder / "said.txt", before=wild)
        if not budget and draw.random() < 0.5 and child.wait(draw.random()) is None:
            child.kill()
        status = child.wait(END_S)
        if status is None:
            child.kill()
            raise AssertionError(f"{what}does not end")
        if status == 0 or kills.has_checkpoint(run):
            kills.check_whole(run, expected if not budget else {"artifact": _hash(run)})
        if status >= 0 and status != 0:
            raise AssertionError(f"{what}status {status}: {child.said()[-300:]}")
        _check_log(run, what)
        if budget:
            return 1
        if status != 0:  # killed: resumed under the same clocks
            if not kills.has_checkpoint(run):
                return 1
            child = runs.start(["train", "--resume", "--run", str(run)], folder / "said.txt", before=wild)
            if child.wait(END_S) != 0:
                raise AssertionError(f"{what}does not resume: {child.said()[-300:]}")
            _check_log(run, what)
        different = runs.difference(runs.result(run), expected)
        if different:
            raise AssertionError(f"{what}{different}")
        return 1

    return cases(one, context)


def _wild(which: int, seed: int, every: int, most_s: float) -> Callable[[], None]:
    def begin() -> None:
        ctypes.CDLL(None).clock_shim_set(
            which, ctypes.c_long(seed + os.getpid()), ctypes.c_long(every), ctypes.c_double(most_s)
        )

    return begin


def _hash(run: Path) -> str:
    return runs.file_hash(run / "artifact.bg") if (run / "artifact.bg").exists() else ""


def _check_log(run: Path, what: str) -> None:
    """Elapsed time and time left are never negative, elapsed time never falls within one process, and nothing is null."""
    before = 0.0
    if not (run / "log.jsonl").exists():
        return
    for text in (run / "log.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except ValueError:
            continue  # cut short by the kill
        if line["kind"] == "start":
            before = 0.0
        if line["kind"] != "step":
            continue
        for name in ("elapsed_s", "left_s", "bytes_per_s", "lr_factor"):
            if line[name] is None or line[name] < 0:
                raise AssertionError(f"{what}step {line['step']} has {name} = {line[name]}")
        if line["elapsed_s"] < before:
            raise AssertionError(f"{what}elapsed_s falls from {before} to {line['elapsed_s']} at step {line['step']}")
        before = line["elapsed_s"]
