"""The campaign itself: `./test py -m torture` runs a short one. What it is made of is tried in every run of the tests: that it finds what
is there to be found, keeps it, and tries it again."""

import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from campaign import forge, parsers, stage
from campaign.stages import STAGES

ROOT = Path(__file__).resolve().parents[1]
TABLE_WIDTH = 80


def context(tmp_path, **more):
    given = {"stage": "toml", "seed": 1, "seconds": 60.0, "goal": 128, "folder": tmp_path / "work", "jobs": 1}
    return stage.Context(**{**given, **more})


class Brittle(stage.Parser):
    """Accepts anything but what has an x in it, of which it makes a mess."""

    ends_the_process = False

    def seeds(self):
        return [b"aaaa"]

    def mutate(self, draw, data):
        return forge.flip(draw, data)

    def attempt(self, data):
        if b"x" in data and self.ends_the_process:
            os.kill(os.getpid(), signal.SIGKILL)
        if b"x" in data:
            raise ZeroDivisionError(data)
        if b"\0" in data:
            raise ValueError("refused, as it should be")


class Abrupt(Brittle):
    ends_the_process = True


@pytest.fixture
def kept(tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "BUILD", tmp_path / "build")
    return tmp_path / "build" / "findings"


@pytest.mark.parametrize(("parser", "words"), [(Brittle, "ZeroDivisionError"), (Abrupt, "SIGKILL")])
def test_what_breaks_a_parser_is_found_kept_and_found_again(tmp_path, kept, parser, words):
    outcome = stage.fuzz(parser, context(tmp_path, goal=200_000))
    assert outcome.executions >= 64 or parser is Abrupt
    (found,) = outcome.findings
    assert words in found.words
    assert b"x" in Path(found.file).read_bytes()
    assert found.command.endswith(f"scripts/torture.py --only toml --input {found.file}")
    assert found.command in Path(found.file).with_suffix(".txt").read_text()
    (again,) = stage.fuzz(parser, context(tmp_path, input=Path(found.file))).findings
    assert again.words == found.words


def test_a_parser_that_takes_a_gigabyte_is_a_finding(tmp_path, kept):
    class Greedy(Brittle):
        def attempt(self, data):
            if data != b"aaaa":
                bytearray(2 << 30)

    (found,) = stage.fuzz(Greedy, context(tmp_path)).findings
    assert "MemoryError" in found.words


def test_equal_seeds_try_equal_inputs(tmp_path):
    def inputs(seed):
        draw = context(tmp_path, seed=seed).random(0)
        return [forge.flip(draw, b"some bytes to be changed") for _ in range(50)]

    assert inputs(1) == inputs(1) != inputs(2)


def test_a_case_that_raises_is_a_finding_which_its_number_repeats(tmp_path, kept):
    def one(case, draw, folder, report):
        if case == 3:
            raise RuntimeError("three")
        return 1

    outcome = stage.cases(one, context(tmp_path, goal=6))
    (found,) = outcome.findings
    assert found.command.endswith("--only toml --seed 1 --case 3")
    assert outcome.executions >= 5
    assert (
        stage.cases(one, context(tmp_path, case=3)).findings
        and not stage.cases(one, context(tmp_path, case=4)).findings
    )


def test_json_is_changed_in_one_place_or_a_few_and_stays_json():
    draw, good = random.Random(1), {"a": [1, 2.5, "x"], "b": {"c": None}}
    changed = [forge.changed(draw, good) for _ in range(300)]
    assert sum(value != good for value in changed) > 250
    assert good == {"a": [1, 2.5, "x"], "b": {"c": None}}
    for value in changed:
        json.loads(forge.text_of(value))


def test_each_parser_accepts_its_seeds_and_takes_a_few_hundred_changes():
    words = [
        "--only",
        *parsers.PARSERS,
        "--seconds",
        "3",
        "--jobs",
        "1",
        "--seed",
        "1",
    ]  # a process of its own: it forks
    done = subprocess.run(
        [sys.executable, "scripts/torture.py", *words], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = {
        row[0]: int(row[1].replace(",", ""))
        for row in map(str.split, done.stdout.splitlines()[-len(parsers.PARSERS) - 1 : -1])
    }
    assert rows.keys() == parsers.PARSERS.keys()
    assert min(rows.values()) >= 64


def test_the_table_has_a_row_for_each_stage_and_fits_a_terminal():
    sys.path.insert(0, str(ROOT / "scripts"))
    try:
        import torture
    finally:
        sys.path.pop(0)
    rows = [(row, stage.Outcome(10_000_000_000, note="n" * 99, skipped="s" * 99), 99_999.0) for row in STAGES]
    lines = torture._table(rows).splitlines()
    assert [line.split()[0] for line in lines] == ["stage", *(row.name for row in STAGES), "all"]
    assert max(map(len, lines)) <= TABLE_WIDTH


@pytest.mark.torture
def test_a_short_campaign_finds_nothing():
    done = subprocess.run([sys.executable, str(ROOT / "scripts" / "torture.py")], cwd=ROOT, check=False)
    assert done.returncode == 0
