"""`bytegolf sweep`: from a sweep file to finished runs and their results."""

from __future__ import annotations

import fcntl
import functools
import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from bytegolf._bytegolf import ShardSet
from bytegolf.errors import Stopped, UserError
from bytegolf.extras import need
from bytegolf.screen import console
from bytegolf.screen.interrupt import Interrupts
from bytegolf.sweep.board import Board
from bytegolf.sweep.local import LocalQueue, slots
from bytegolf.sweep.plan import Run, choose, plan
from bytegolf.sweep.results import CSV
from bytegolf.sweep.show import SweepView, counts, show_results
from bytegolf.sweep.slurm import SlurmQueue
from bytegolf.sweep.spec import load_spec

LOCK = ".lock"


@dataclass(frozen=True)
class SweepOptions:
    """What the call says in place of the sweep file: the folder, where to run, how many runs at once, which groups (none: all)."""

    out: Path | None = None
    on: Literal["local", "slurm"] | None = None
    jobs: int | None = None
    groups: Sequence[str] = ()
    dry_run: bool = False


def sweep_command(source: Path, overrides: dict[str, str], options: SweepOptions, as_json: bool) -> int:
    """Runs what is not done yet and returns the exit status: 0 when every run is done, 1 when one failed.

    UserError names file and field; Stopped after Ctrl-C, saying how to resume.
    """
    spec = load_spec(source, overrides)
    runs = plan(spec, source)
    out, jobs, groups = options.out or Path("runs") / spec.name, options.jobs, options.groups
    board = Board(runs, out, choose(runs, groups))
    board.keep_checkpoints = spec.keep_checkpoints
    if options.dry_run:
        _show(board, as_json)
        return 0
    made = slots(spec.local, runs, jobs) if (options.on or spec.on) == "local" else []
    if made:
        _open_data(runs)
    else:
        need("submitit", "sweep", "to run on Slurm")
    out.mkdir(parents=True, exist_ok=True)
    lock = _lock(out)
    try:
        _keep_spec(source, overrides, out / "spec.toml")
        board.write()
        queue: LocalQueue | SlurmQueue
        if made:
            queue = LocalQueue(board, made, spec.retries, lock)
        else:
            queue = SlurmQueue(board, spec.slurm, spec.name, spec.retries, jobs)
        words = ["--groups", ",".join(groups)] if groups else []
        again = shlex.join(["bytegolf", "sweep", str(source), *_words(overrides), "--out", str(out), *words])
        message = "interrupted: runs write their checkpoints; press Ctrl-C again to leave at once"
        with Interrupts(message if queue.ours else "leaving; jobs continue") as interrupts, SweepView() as view:
            board.view = view
            view.say(f"{out}: {counts(board)}")
            queue.run(interrupts)
        board.write()
        if interrupts.asked and (board.open() or queue.jobs):
            raise Stopped(interrupts.status, f"{counts(board)}; {queue.farewell()}resume with: {again}")
    finally:
        os.close(lock)
    _show(board, as_json)
    return 1 if board.count()["failed"] else 0


def _open_data(runs: Sequence[Run]) -> None:
    """Opens the shards of every run once, so that a wrong path is reported once, before the first run."""
    for config in [run.config for run in runs]:
        for where, split in ((config.train_data, "train"), (config.val_data, "val")):
            _open(where, config.vocab_name, split)


@functools.cache
def _open(where: str, family: str, split: str) -> None:
    ShardSet(where, family, split)


def _show(board: Board, as_json: bool) -> None:
    if as_json:
        console.print_json({"folder": str(board.out), **board.count(), "runs": board.rows()})
        return
    show_results(board)
    done = board.count()["done"]
    words = f"; {board.out / CSV} has all of it; bytegolf report {shlex.quote(str(board.out))} compares groups"
    console.stdout().print(counts(board) + (words if done else ""), markup=False)


def _lock(out: Path) -> int:
    """A lock that this process and every run it starts hold: two sweeps never share a folder, not even after a crash of one."""
    handle = os.open(out / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise UserError(f"{out}: another sweep, or a run that one started, is at work there") from None
    return handle


def _words(overrides: dict[str, str]) -> list[str]:
    return [f"{name}={value}" for name, value in overrides.items()]


def _keep_spec(source: Path, overrides: dict[str, str], copy: Path) -> None:
    """A copy of the sweep file beside its results, with where it came from."""
    if source.resolve() != copy.resolve():
        origin = shlex.join([str(source), *_words(overrides)])
        copy.write_text(f"# Copy of {origin}\n{source.read_text(encoding='utf-8')}", encoding="utf-8")
