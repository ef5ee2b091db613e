"""Forged files, their checksums made right, under the commands that read them: one line and a status, or a figure; never a traceback,
a raw escape on the terminal, much memory, or a long time."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from bytegolf.checkpoint import read_checkpoint
from bytegolf.codec import pack_tensors, read_artifact
from campaign import forge, parsers, runs
from campaign.stage import Context, Outcome, Report, cases

COMMAND_S = 5.0  # of processor time
MOST_BYTES = 300 << 20  # of memory that a command may add to a process which has loaded it
CONTROLS = frozenset(
    [
        *range(0x00, 0x0A),
        *range(0x0B, 0x20),
        *range(0x7F, 0xA0),
        0x2028,
        0x2029,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    ]
)


def stage(context: Context) -> Outcome:
    """Artifacts, checkpoints, logs, configs and tables of sweeps."""
    runs.load()
    words = runs.prepare(context.folder)
    run = context.folder / "reference"
    if runs.call([*words, "--run", str(run)], context.folder / "reference.txt", 300.0):
        raise RuntimeError((context.folder / "reference.txt").read_text())
    good = _Good(run)

    def one(case: int, draw: random.Random, folder: Path, report: Report) -> int:
        count, mine = 0, folder / "run"
        shutil.copytree(run, mine)
        for _ in range(20):
            kind = draw.choice(("artifact", "checkpoint", "log", "config", "table"))
            lines = getattr(good, kind)(draw, mine, folder)
            for line in lines:
                _command(line)
                count += 1
            good.restore(mine)
            report.done(count)
        return count

    return cases(one, context)


class _Good:
    """A finished run, and how one of its files is forged in a copy."""

    def __init__(self, run: Path) -> None:
        self.run = run
        self.text, self.tensors = read_artifact(run / "artifact.bg")
        self.lines = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
        self.files = [path.relative_to(run) for path in run.rglob("*") if path.is_file()]
        self.state, self.facts = read_checkpoint(run / "checkpoints")
        self.manifest = next(run.glob("checkpoints/checkpoint-*/manifest.json"))

    def restore(self, run: Path) -> None:
        """Puts the right files back."""
        for path in self.files:
            if not (run / path).exists() or (run / path).read_bytes() != (self.run / path).read_bytes():
                shutil.copyfile(self.run / path, run / path)

    def artifact(self, draw: random.Random, run: Path, folder: Path) -> list[list[str]]:
        """Other names, shapes, values and options, as a writer that is not ours would pack them."""
        tensors: dict[str, Any] = dict(self.tensors)
        text = self.text
        for _ in range(draw.choice((1, 1, 2, 4))):
            name = draw.choice(list(tensors))
            kind = draw.random()
            if kind < 0.2:
                tensors[draw.choice(("x\x1b[31mred", "[/x]", "a.q", "b.scale", name + ".q", "é" * 40))] = tensors.pop(
                    name
                )
            elif kind < 0.35:
                array = tensors[name]
                tensors[name] = np.zeros(
                    draw.choice(((0,), (), (1, 1), (2, 3, 4), (1 << 20,), array.shape[::-1])), array.dtype
                )
            elif kind < 0.5:
                kinds = (np.float16, np.float32, np.float64, np.int8, np.int32, np.uint8, np.int64)
                tensors[name] = tensors[name].astype(draw.choice(kinds))
            elif kind < 0.65 and tensors[name].dtype.kind == "f" and tensors[name].size:
                array = tensors[name].copy()
                array.reshape(-1)[draw.randrange(array.size)] = draw.choice((np.nan, np.inf, -np.inf, 6e4, 0))
                tensors[name] = array
            elif kind < 0.75:
                del tensors[name]
                tensors = tensors or {"x": np.zeros(1, np.float32)}
            else:
                lines = text.splitlines(keepends=True) or [""]
                at = draw.randrange(len(lines))
                option = lines[at].partition("=")[0].strip()
                value = draw.choice(
                    ("0", "1", "1024", "65536", "16777216", "-1", "nan", '"\x1b[2Jx"', '"auto"', "1e30", "true")
                )
                lines[at] = (
                    f"{option} = {value}\n"
                    if draw.random() < 0.8
                    else forge.flip(draw, lines[at].encode()).decode("utf-8", "replace")
                )
                text = "".join(lines)
        file = run / "artifact.bg"
        with contextlib.suppress(ValueError, TypeError):
            pack_tensors(tensors, file, text, threads=1)
        return [
            ["inspect", str(file)],
            ["eval", str(file), str(self.run.parent / "data")],
            ["generate", str(file), "the", "--bytes", "4"],
        ]

    def checkpoint(self, draw: random.Random, run: Path, folder: Path) -> list[list[str]]:
        """Other facts, sealed."""
        body = json.loads(self.manifest.read_text(encoding="utf-8"))
        file = run / self.manifest.relative_to(self.run)
        if draw.random() < 0.8:
            body["facts"] = forge.changed(draw, body["facts"])
            file.write_bytes(parsers.seal(body))
        else:
            file.write_bytes(parsers.seal(forge.changed(draw, body)))
        return [["pack", str(run), str(folder / "x.bg")], ["export", str(run), str(folder / "x.safetensors")]]

    def log_lines(self, draw: random.Random) -> bytes:
        """The log with some values of some lines changed."""
        lines = [forge.text_of(line) for line in self.lines]
        for _ in range(draw.choice((1, 2, 5))):
            at = draw.choice((0, len(lines) - 1, draw.randrange(len(lines))))
            kind = draw.random()
            if kind < 0.85:
                lines[at] = forge.text_of(forge.changed(draw, self.lines[at]))
            elif kind < 0.97:
                lines[at] = forge.flip(draw, lines[at])
            else:
                lines[at] = forge.deep_json(draw)
        return b"\n".join(lines) + b"\n"

    def log(self, draw: random.Random, run: Path, folder: Path) -> list[list[str]]:
        """Other values."""
        (run / "log.jsonl").write_bytes(self.log_lines(draw))
        submit = ["submit", str(run), "--out", str(folder / "out"), "--name", "n", "--author", "A", "--github-id", "a"]
        return [
            ["report", str(run)],
            ["watch", str(run), "--once"],
            ["watch", str(run), "--json"],
            [*submit, "--track", "track_non_record_16mb"],
        ]

    def config(self, draw: random.Random, run: Path, folder: Path) -> list[list[str]]:
        """Other options."""
        file = folder / "c.toml"
        file.write_bytes(forge.flip(draw, (self.run / "config.toml").read_bytes()))
        return [["train", str(file), "train_data=", "--run", str(folder / "new")]]

    def table(self, draw: random.Random, run: Path, folder: Path) -> list[list[str]]:
        """Results of a sweep."""
        file = folder / "results.csv"
        text = b"group,seed,bpb,nats\nplain,0,1.5,1.0\nplain,1,1.6,1.1\nother,0,1.4,1.2\n"
        file.write_bytes(forge.flip(draw, text))
        return [["report", str(file)]]


def _command(words: list[str]) -> None:
    """Runs one command here; AssertionError for what a command never does."""
    from bytegolf.cli import main

    out, err = io.StringIO(), io.StringIO()
    peak, began, status = _peak(), time.process_time(), 0
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            main(words)
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else 1
        except Exception as error:
            at = traceback.extract_tb(error.__traceback__)[-1]
            raise AssertionError(
                f"{words[0]}: {type(error).__name__} at {Path(at.filename).name}:{at.lineno} {at.line}"
            ) from error
    said = out.getvalue() + err.getvalue()
    raw = sorted(
        {hex(ord(sign)) for sign in said if ord(sign) in CONTROLS} - {"0x1b"} | ({"0x1b"} if "\x1b" in said else set())
    )
    if raw and words[0] != "generate":
        raise AssertionError(f"{words[0]}: raw {', '.join(raw)} reach the terminal")
    if status not in (0, 1, 2):
        raise AssertionError(f"{words[0]}: status {status}")
    if time.process_time() - began > COMMAND_S:
        raise AssertionError(f"{words[0]}: takes more than {COMMAND_S:g} s")
    if _peak() - peak > MOST_BYTES:
        raise AssertionError(f"{words[0]}: takes {(_peak() - peak) >> 20} MiB")


def _peak() -> int:
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
