"""README.md says what is there: its map against the tree, its links and commands against reality."""

import re
import subprocess
from pathlib import Path

import pytest

from bytegolf.cli import app

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


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


def named_in_map():
    """Paths in backquotes in the first column of the map; bare names below `python/bytegolf/` belong to it."""
    part = re.search(r"<!-- map.*?-->(.*?)<!-- end of map -->", README, re.S)[1]
    found, parent = set(), ""
    for line in part.splitlines():
        for name in re.findall(r"`([^`]+)`", line.split("|")[1] if line.startswith("| `") else ""):
            if name == "python/bytegolf/":
                parent = name
            elif name.startswith("tests_"):
                parent = ""
            found.add(name if name == parent else parent + name)
    return found


def test_the_map_names_every_entry_of_the_tree():
    missing = set()
    for path in tracked():
        parts = path.parts
        levels = {"csrc": 2, "python": 3}.get(parts[0], 1)
        name = "/".join(parts[:levels])
        if parts[0] == "csrc" and len(parts) == 2:
            continue
        missing.add(name + ("/" if len(parts) > levels else ""))
    missing -= named_in_map()
    assert not missing, f"the map in README.md lacks {sorted(missing)}"


def test_the_map_names_nothing_else():
    gone = [name for name in named_in_map() if not (ROOT / name).exists()]
    assert not gone, f"the map in README.md names {gone}"


def test_links_and_pictures_exist():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


def test_commands_are_verbs():
    verbs = {v for v in app.resolved_commands() if not v.startswith("-")}
    for verb in re.findall(r"\./run ([a-z]+)", README):
        assert verb in verbs, verb
