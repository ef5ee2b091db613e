"""A disk that becomes full under a run, a preparation, a pack or an export: said plainly, the newest checkpoint kept, resumed when there is room."""

from __future__ import annotations

import os
import random
import shutil
import subprocess
from pathlib import Path

from campaign import kills, runs
from campaign.stage import Context, Outcome, Report, cases

END_S = 300.0
SMALLEST, LARGEST = 64 << 10, 4 << 20  # bytes of the tmpfs: a run of the campaign takes about 1.5 MB


def stage(context: Context) -> Outcome:
    """Each case has a tmpfs of its own, of a size at which something does not fit."""
    place = context.folder / "probe"
    place.mkdir(parents=True, exist_ok=True)
    if os.geteuid() != 0 or not _mount(place, SMALLEST):
        return Outcome(skipped="a tmpfs needs root")
    _unmount(place)
    runs.load()
    words = runs.prepare(context.folder)
    reference = context.folder / "reference"
    if runs.call([*words, "--run", str(reference)], context.folder / "reference.txt", END_S):
        raise RuntimeError((context.folder / "reference.txt").read_text())
    expected = runs.result(reference)
    source = context.folder / "source.txt"
    source.write_text("text to be prepared\n" * 20_000, encoding="utf-8")

    def one(case: int, draw: random.Random, folder: Path, report: Report) -> int:
        disk = folder / "disk"
        disk.mkdir()
        size = int(SMALLEST * (LARGEST / SMALLEST) ** draw.random())
        if not _mount(disk, size):
            raise RuntimeError("the tmpfs is gone")
        try:
            kind = draw.choice(("train", "train", "prepare", "pack", "export"))
            what = f"{kind} on a disk of {size} bytes: "
            if kind == "train":
                _train(words, disk, folder, expected, what)
            else:
                target = disk / {"prepare": "data", "pack": "x.bg", "export": "x.safetensors"}[kind]
                line = {
                    "prepare": ["data", "prepare", str(source), "-o", str(target)],
                    "pack": ["pack", str(reference), str(target)],
                    "export": ["export", str(reference), str(target)],
                }[kind]
                status = runs.call(line, folder / "said.txt", END_S)
                said = (folder / "said.txt").read_text(encoding="utf-8", errors="replace")
                _check(status, said, what, str(disk))
                left = [path.name for path in disk.rglob("*") if path.is_file()] if status else []
                if left:
                    raise AssertionError(f"{what}leaves {left[:3]}")
        finally:
            _unmount(disk)
        return 1

    return cases(one, context)


def _train(words: list[str], disk: Path, folder: Path, expected: dict[str, str], what: str) -> None:
    run = disk / "run"
    status = runs.call([*words, "--run", str(run)], folder / "said.txt", END_S)
    _check(status, (folder / "said.txt").read_text(encoding="utf-8", errors="replace"), what, str(disk))
    kills.check_whole(run, expected)
    if status == 0:
        return
    subprocess.run(["mount", "-o", f"remount,size={16 * LARGEST}", str(disk)], check=True)
    if not kills.has_checkpoint(run):
        shutil.rmtree(run, ignore_errors=True)
    try:
        kills.finish(words, run, folder, expected)
    except kills.Wrong as error:
        raise AssertionError(f"{what}with room again {error}") from None


def _check(status: int, said: str, what: str, disk: str) -> None:
    if status not in (0, 1, 2) or "Traceback" in said:
        raise AssertionError(f"{what}status {status}: {said[-300:]}")
    if status != 0 and disk not in said:
        raise AssertionError(f"{what}the message names no path: {said[-300:]}")


def _mount(folder: Path, size_bytes: int) -> bool:
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(folder)], capture_output=True, check=False
    )
    return done.returncode == 0


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "-l", str(folder)], capture_output=True, check=False)
