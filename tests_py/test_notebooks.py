"""Every notebook runs from top to bottom and draws its pictures; minutes, hence slow."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.py"))
PICTURES = {"01": 2, "02": 4, "03": 5, "04": 3, "05": 3}  # that each shows at least
SECONDS = {"04": "1"}  # of one run of the sweep, which has eight


def test_there_are_five_and_each_says_how_to_run_it():
    assert [path.name[:2] for path in NOTEBOOKS] == sorted(PICTURES)
    for path in NOTEBOOKS:
        text = path.read_text(encoding="utf-8")
        assert re.search(rf"^# # {path.name[:2]} · ", text, re.M), f"{path.name} has no heading with its number"
        assert f".venv/bin/jupytext --to ipynb notebooks/{path.name}" in text
        assert "bytegolf._bytegolf" not in text and " _" not in re.findall(r"^(?:from|import) bytegolf.*$", text, re.M)
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            assert (path.parent / target).exists(), f"{path.name} links to {target}"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all of them run, so that 02 finds the model of 01 as it does for a reader."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_notebook_runs_and_draws(path, folder, monkeypatch):
    for package in ("jupytext", "nbclient", "ipykernel"):
        pytest.importorskip(package, reason="needs pip install 'bytegolf[notebooks]'")
    monkeypatch.syspath_prepend(ROOT / "scripts")
    run_notebooks = __import__("run_notebooks")
    monkeypatch.setenv("BYTEGOLF_NOTEBOOK_SECONDS", SECONDS.get(path.name[:2], "6"))
    book = run_notebooks.execute(path, folder, limit_s=600)
    outputs = [output for cell in book.cells for output in cell.get("outputs", [])]
    pictures = [output for output in outputs if "image/png" in output.get("data", {})]
    assert len(pictures) >= PICTURES[path.name[:2]]
    assert not [output["text"] for output in outputs if output.get("name") == "stderr"], "a cell warns"
    if path.name.startswith("02"):
        cell = next(cell for cell in book.cells if cell.source.startswith("bytegolf.show("))
        assert len(cell.outputs) == 1 and '<div class="bgs"' in cell.outputs[0]["data"]["text/html"]
    run_notebooks.write(book, folder / path.stem)
    assert (folder / f"{path.stem}.html").stat().st_size > 100_000  # with the pictures in it
