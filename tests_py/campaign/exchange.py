"""Two machines' files exchanged: a file of one run laid into another run's folder, then the commands that read it.

A command refuses it by words, or what it says is right for one of the two runs. It never ends with a traceback, and `submit` never passes.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from campaign import runs
from campaign.stage import Context, Outcome, Report, cases

FOLDERS = ("finished", "stopped")
FILES = (
    "artifact.bg",
    "log.jsonl",
    "config.toml",
    "train_gpt.py",
    "checkpoints",
    "state.safetensors",
    "manifest.json",
    "latest",
)
DATA = ("train_000000.bin", "train_000001.bin", "val_000000.bin", "train_manifest.json", "all", "two names")
COMMANDS = ("resume", "submit", "eval", "pack", "inspect", "report", "watch", "export")
REFUSED = {  # what must not pass
    *itertools.product(("artifact.bg", "log.jsonl", "train_gpt.py"), ("submit",)),
    *itertools.product(("state.safetensors", "manifest.json"), ("resume", "pack", "export")),
    ("checkpoints", "resume"),
    *itertools.product(("train_000000.bin", "train_000001.bin", "val_000000.bin", "all", "two names"), ("resume",)),
    *itertools.product(("val_000000.bin", "all"), ("submit",)),
}
END_S = 300.0
RELATIVE = {"train_data": "data", "val_data": "data"}  # the folder below which a command runs decides
SUBMISSION = ("--name", "n", "--author", "A", "--github-id", "a", "--track", "track_non_record_16mb")


def stage(context: Context) -> Outcome:
    """Runs that differ in seed, in size, or in data; each file; each command."""
    runs.load()
    from bytegolf.data.shards import write_shards

    here, other = context.folder, context.folder / "other"
    other.mkdir(parents=True, exist_ok=True)
    write_shards(
        [b"other text %d of equal length, without foxes or dogs.\n" % n for n in range(50)],
        other / "data",
        prefix="train",
        shard_ids=700,
    )
    write_shards([b"other text to be held out %d\n" % n for n in range(10)], other / "data", prefix="val")
    kinds: dict[str, dict[str, object]] = {"base": {}, "seed": {"seed": 1}, "size": {"model_dim": 32}, "data": {}}
    for kind, changes in kinds.items():
        words = runs.prepare(here, **{**RELATIVE, **changes})
        for state in FOLDERS:
            run = here / f"{kind}-{state}"
            child = runs.start(
                [*words, "--run", str(run)],
                here / f"{kind}-{state}.txt",
                before=_chdir(other if kind == "data" else here),
            )
            if state == "stopped":
                _stop_midway(child, run)
            elif child.wait(END_S) != 0:
                raise RuntimeError(child.said())
    results = {kind: runs.result(context.folder / f"{kind}-finished") for kind in kinds}
    todo = list(itertools.product([kind for kind in kinds if kind != "base"], FILES, COMMANDS))
    todo += list(itertools.product(["data"], DATA, ("resume", "submit")))
    context.random("order").shuffle(todo)
    if context.goal:  # every one of them, once
        context = replace(context, goal=len(todo))

    def one(case: int, draw: random.Random, folder: Path, report: Report) -> int:
        kind, file, command = todo[case % len(todo)]
        state = "stopped" if command == "resume" else "finished"
        run = folder / "run"
        shutil.copytree(here / f"base-{state}", run)
        shutil.copytree(here / "data", folder / "data")
        theirs = other / "data" if file in DATA else here / f"{kind}-{state}"
        _exchange(theirs, folder / "data" if file in DATA else run, file)
        status = runs.call(_words(command, run, folder), folder / "said.txt", END_S, _chdir(folder))
        said = (folder / "said.txt").read_text(encoding="utf-8", errors="replace")
        what = f"{file} of a run of another {kind}, {command}: "
        if "Traceback" in said or status not in (0, 1, 2):
            raise AssertionError(f"{what}status {status}: {said[-300:]}")
        if status != 0:
            return 1
        if (file, command) in REFUSED and not _equal(here / f"{kind}-{state}", here / f"base-{state}", file):
            raise AssertionError(f"{what}passes")
        if command == "resume" and all(runs.difference(runs.result(run), results[k]) for k in ("base", kind)):
            raise AssertionError(f"{what}goes on to the end with bits that are neither run's")
        return 1

    return cases(one, context)


def _stop_midway(child: runs.Child, run: Path) -> None:
    end = time.monotonic() + END_S
    while not any((run / "checkpoints").glob("checkpoint-*")) and child.wait(0) is None and time.monotonic() < end:
        time.sleep(0.002)
    child.kill()


def _place(run: Path, file: str) -> Path | None:
    """Where a file of this name lies in a run's folder."""
    if file in ("state.safetensors", "manifest.json"):
        return next(iter((run / "checkpoints").glob(f"checkpoint-*/{file}")), None)
    if file == "latest":
        return run / "checkpoints" / file
    return run / file


def _exchange(source: Path, target: Path, file: str) -> None:
    """Lays the file of `source` into `target`, as a careless copy would."""
    if file == "all":
        shutil.rmtree(target)
        shutil.copytree(source, target)
    elif file == "two names":
        first, second = (target / name for name in DATA[:2])
        first.rename(target / "x")
        second.rename(first)
        (target / "x").rename(second)
    else:
        theirs, ours = _place(source, file), _place(target, file)
        assert theirs is not None and ours is not None, file
        if theirs.is_dir():
            shutil.rmtree(ours)
            shutil.copytree(theirs, ours)
        elif theirs.exists():
            shutil.copyfile(theirs, ours)


def _chdir(folder: Path) -> Callable[[], None]:
    return lambda: os.chdir(folder)


def _equal(a: Path, b: Path, file: str) -> bool:
    one, other = _place(a, file), _place(b, file)
    return (
        one is not None
        and other is not None
        and one.is_file()
        and other.is_file()
        and one.read_bytes() == other.read_bytes()
    )


def _words(command: str, run: Path, folder: Path) -> list[str]:
    if command == "resume":
        return ["train", "--resume", "--run", str(run)]
    if command == "submit":
        return ["submit", str(run), "--out", str(folder / "out"), *SUBMISSION]
    if command in ("pack", "export"):
        return [command, str(run), str(folder / ("x.bg" if command == "pack" else "x.safetensors"))]
    if command == "inspect":
        return ["inspect", str(run / "artifact.bg")]
    if command == "eval":
        return ["eval", str(run), "data", "--json"]
    if command == "watch":
        return ["watch", str(run), "--once"]
    return [command, str(run)]
