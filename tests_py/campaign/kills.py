"""SIGKILL at random moments: of training, of one rank of two, of `data prepare` and of `pack`. Afterwards nothing may be lost or half written."""

from __future__ import annotations

import os
import random
import shutil
import time
from pathlib import Path

import numpy as np

from campaign import runs
from campaign.stage import Context, Outcome, Report, cases

RANKS_LEAVE_S = 200.0  # within which the other rank leaves: the 120 s that ranks wait for each other to come, and what a loaded machine adds
END_S = 300.0  # of any command


class Wrong(AssertionError):
    """What must hold after a kill does not."""


def training(context: Context) -> Outcome:
    """Runs that are killed again and again, then resumed to the end: the same bits as a run that nobody disturbed."""
    runs.load()
    words = runs.prepare(context.folder)
    took, expected = _undisturbed(words, context.folder / "reference")

    def one(case: int, draw: random.Random, folder: Path, report: Report) -> int:
        run, kills = folder / "run", 0
        for _ in range(draw.choice((1, 1, 2, 3, 5))):
            child = _go_on(words, run, folder)
            if child.wait(draw.random() * took) is None:
                child.kill()
                kills += 1
                check_whole(run, expected)
        finish(words, run, folder, expected)
        return kills

    return cases(one, context)


def ranks(context: Context) -> Outcome:
    """One rank of two is killed: the other leaves, and both resume to the same bits."""
    runs.load()
    words = runs.prepare(context.folder)
    started = time.monotonic()
    both = _ranks(words, context.folder / "reference", context.folder, False)
    for child in both:
        if child.wait(END_S) != 0:
            raise RuntimeError(f"two ranks do not train: {child.said()}")
    took, expected = time.monotonic() - started, runs.result(context.folder / "reference")

    def one(case: int, draw: random.Random, folder: Path, report: Report) -> int:
        run = folder / "run"
        both = _ranks(words, run, folder, False)
        victim = draw.randrange(2)
        kills = 0
        if (
            not context.goal or draw.random() < 0.9
        ):  # before they have met, the other waits for two minutes: for long campaigns
            end = time.monotonic() + END_S
            while not (run / "log.jsonl").exists() and both[0].wait(0.005) is None and time.monotonic() < end:
                pass
        if both[victim].wait(draw.random() * 0.8 * took) is None:
            both[victim].kill()
            kills = 1
            if both[1 - victim].wait(RANKS_LEAVE_S) is None:
                for child in both:
                    child.kill()
                raise Wrong(f"rank {1 - victim} is still there {RANKS_LEAVE_S:g} s after rank {victim} was killed")
        for child in both:
            child.wait(END_S)
        check_whole(run, expected)
        for _ in range(3):
            resume = has_checkpoint(run)
            if not resume:
                shutil.rmtree(run, ignore_errors=True)
            both = _ranks(words, run, folder, resume)
            states = [child.wait(END_S) for child in both]
            if states == [0, 0]:
                break
        else:
            raise Wrong(f"two ranks do not resume: {states}: {both[0].said()[-300:]}")
        different = runs.difference(runs.result(run), expected)
        if different:
            raise Wrong(f"after a kill of rank {victim}: {different}")
        return kills

    return cases(one, context, jobs=max(context.jobs // 2, 1))


def preparing(context: Context) -> Outcome:
    """`data prepare` is killed: a split is there whole or not at all, and the next call makes the same."""
    runs.load()
    source = context.folder / "source"
    source.mkdir(parents=True, exist_ok=True)
    for number in range(300):
        (source / f"{number}.txt").write_text(
            f"document {number}: " + "lazy dogs jump " * (number % 40), encoding="utf-8"
        )
    words = ["data", "prepare", str(source), "--val-every", "10", "--shard-ids", "4000"]
    started = time.monotonic()
    if runs.call([*words, "-o", str(context.folder / "reference")], context.folder / "reference.txt"):
        raise RuntimeError((context.folder / "reference.txt").read_text())
    took, expected = time.monotonic() - started, _splits(context.folder / "reference")

    def one(case: int, draw: random.Random, folder: Path, report: Report) -> int:
        out, kills = folder / "out", 0
        for _ in range(draw.choice((1, 2))):
            child = runs.start(
                [*words, "-o", str(out), *(["--overwrite"] if out.exists() else [])], folder / "said.txt"
            )
            if child.wait(draw.random() * took) is None:
                child.kill()
                kills += 1
            for split, ids in _splits(out).items():
                if not np.array_equal(ids, expected[split]):
                    raise Wrong(f"after a kill split {split} holds {len(ids)} ids of {len(expected[split])}")
        if runs.call([*words, "-o", str(out), "--overwrite"], folder / "said.txt", END_S):
            raise Wrong(f"cannot be prepared again: {(folder / 'said.txt').read_text()[-300:]}")
        found = _splits(out)
        if found.keys() != expected.keys() or any(not np.array_equal(found[s], expected[s]) for s in expected):
            raise Wrong("prepared again it holds something else")
        left = [path.name for path in out.iterdir() if path.name.startswith(".") and path.is_dir()]
        if left:
            raise Wrong(f"the next call leaves what the killed one had begun: {left}")
        return kills

    return cases(one, context)


def packing(context: Context) -> Outcome:
    """`pack` over an older file is killed: the old file or the new one, nothing else."""
    runs.load()
    words = runs.prepare(context.folder)
    run = context.folder / "reference"
    _undisturbed(words, run)
    started = time.monotonic()
    if runs.call(["pack", str(run), str(context.folder / "new.bg")], context.folder / "said.txt"):
        raise RuntimeError((context.folder / "said.txt").read_text())
    took = time.monotonic() - started
    new, old = (context.folder / "new.bg").read_bytes(), b"what was there before"

    def one(case: int, draw: random.Random, folder: Path, report: Report) -> int:
        file, kills = folder / "x.bg", 0
        file.write_bytes(old)
        for _ in range(3):
            child = runs.start(["pack", str(run), str(file)], folder / "said.txt")
            if child.wait(draw.random() * took) is None:
                child.kill()
                kills += 1
            if file.read_bytes() not in (old, new):
                raise Wrong(f"after a kill the file of {len(new)} bytes has {file.stat().st_size} of something else")
        if runs.call(["pack", str(run), str(file)], folder / "said.txt", END_S) or file.read_bytes() != new:
            raise Wrong(f"cannot be packed again: {(folder / 'said.txt').read_text()[-300:]}")
        return kills

    return cases(one, context)


def has_checkpoint(run: Path) -> bool:
    """Whether a run's folder holds a checkpoint, whole or not."""
    return any((run / "checkpoints").glob("checkpoint-*"))


def check_whole(run: Path, expected: dict[str, str]) -> None:
    """Whatever moment the run was killed at: a numbered checkpoint can be read, and an artifact is the whole one."""
    from bytegolf.checkpoint import read_checkpoint

    if has_checkpoint(run):
        read_checkpoint(run / "checkpoints")
    if (run / "artifact.bg").exists() and runs.file_hash(run / "artifact.bg") != expected["artifact"]:
        raise Wrong("the artifact is not the one of an undisturbed run")


def finish(words: list[str], run: Path, folder: Path, expected: dict[str, str]) -> None:
    """Resumes to the end and compares with the undisturbed run."""
    child = _go_on(words, run, folder)
    if child.wait(END_S) != 0:
        child.kill()
        raise Wrong(f"it does not resume: status {child.status}: {child.said()[-300:]}")
    different = runs.difference(runs.result(run), expected)
    if different:
        raise Wrong(f"after kills and resumes: {different}")


def _go_on(words: list[str], run: Path, folder: Path) -> runs.Child:
    """Starts the run, or resumes it where there is a checkpoint."""
    if has_checkpoint(run):
        return runs.start(["train", "--resume", "--run", str(run)], folder / "said.txt")
    shutil.rmtree(run, ignore_errors=True)  # killed before its first checkpoint: nothing to resume
    return runs.start([*words, "--run", str(run)], folder / "said.txt")


def _undisturbed(words: list[str], run: Path) -> tuple[float, dict[str, str]]:
    """Seconds and result of a run that nobody kills."""
    started = time.monotonic()
    if runs.call([*words, "--run", str(run)], run.parent / "reference.txt", END_S):
        raise RuntimeError((run.parent / "reference.txt").read_text())
    return time.monotonic() - started, runs.result(run)


def _ranks(words: list[str], run: Path, folder: Path, resume: bool) -> list[runs.Child]:
    from bytegolf.ranks.environment import free_port

    where = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
    where["BYTEGOLF_RANKS_KEY"] = os.urandom(16).hex()
    line = ["train", "--resume", "--run", str(run)] if resume else [*words, "--run", str(run)]
    return [
        runs.start(line, folder / f"rank{n}.txt", {**where, "RANK": str(n), "LOCAL_RANK": str(n)}) for n in range(2)
    ]


def _splits(folder: Path) -> dict[str, np.ndarray]:
    """The ids of each split that has shards."""
    from bytegolf.data.shards import read_ids

    found = {}
    for split in ("train", "val"):
        if any(folder.glob(f"{split}_*.bin")):
            found[split] = read_ids(folder, split=split)
    return found
