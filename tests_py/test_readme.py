"""README.md says what is there: its map against the tree, its links, commands and Python against reality."""

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from bytegolf import _bytegolf
from bytegolf.cli import app
from bytegolf.data import write_shards
from bytegolf.options import split

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
OPTIONS = {row["name"] for row in _bytegolf.option_table()}


def tracked():
    """Paths that git tracks or would track, relative to the root."""
    done = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        pytest.skip("no git checkout")
    return [Path(p) for p in done.stdout.decode().split("\0") if p and (ROOT / p).exists()]


def folders():
    """The folders that the map names: those of the root, the rooms of the core, and the package with its rooms."""
    found = set()
    for path in tracked():
        levels = {"csrc": (2,), "python": (2, 3)}.get(path.parts[0], (1,))
        found |= {"/".join(path.parts[:n]) + "/" for n in levels if len(path.parts) > n}
    return found


def named_in_map():
    """Paths in backquotes in the first column of the map."""
    part = re.search(r"<!-- map.*?-->(.*?)<!-- end of map -->", README, re.S)[1]
    cells = [line.split("|")[1] for line in part.splitlines() if line.startswith("| `")]
    return [name for cell in cells for name in re.findall(r"`([^`]+)`", cell)]


def test_the_map_names_each_folder_of_the_tree_once_and_nothing_else():
    assert len(folders()) > 15
    assert sorted(named_in_map()) == sorted(folders())


def test_the_page_fits_a_screen_and_a_short_read():
    lines = README.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120] == []


def test_links_and_pictures_exist():
    targets = re.findall(r"\]\(([^)#:]+)\)", README)
    assert len(targets) > 15
    assert [target for target in targets if not (ROOT / target).exists()] == []


def commands():
    """Every line of a block that begins with `./run`, without its comment, as words."""
    lines = re.findall(r"^    (\./run .*)$", README, re.M)
    return [words for line in lines if (words := shlex.split(line, comments=True)[1:])]


def test_every_command_is_one_that_the_package_understands():
    assert len(commands()) >= 4
    for words in commands():
        function, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
        assert callable(function), words
        changes = [word for word in bound.args if isinstance(word, str) and "=" in word]
        assert split(changes).keys() <= OPTIONS, words


def test_its_python_runs(tmp_path, monkeypatch, capsys):
    (code,) = re.findall(r"^```python\n(.*?)^```", README, re.M | re.S)
    budget = "train_budget_s=60"
    assert budget in code
    assert 'bytegolf.Trainer(config, "data")' in code
    documents = [b"def main(argv):\n    return %d\n" % n for n in range(400)]
    write_shards(documents, tmp_path / "data", "byte260", prefix="train")
    monkeypatch.chdir(tmp_path)
    short = "iterations=2, warmdown_iters=1, micro_batch_ids=512, train_batch_ids=512, num_layers=2"
    exec(compile(code.replace(budget, short), "README.md", "exec"), {})
    size = (tmp_path / "model.bg").stat().st_size
    first = capsys.readouterr().out.splitlines()[0]
    assert re.fullmatch(rf"{size} bytes, \d\.\d+ bits per byte", first)
