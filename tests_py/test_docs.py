"""The documentation says what is there: its examples are read by the package itself, and the built pages name everything."""

import dataclasses
import html
import inspect
import os
import re
import shlex
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import bytegolf
from bytegolf import _bytegolf
from bytegolf.cli import app
from bytegolf.config import Config
from bytegolf.options import split
from bytegolf.sweep.spec import Spec

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = ROOT / "notebooks"
PAGES = sorted((NOTEBOOKS / "docs").rglob("*.md"))
OPTIONS = {row["name"] for row in _bytegolf.option_table()}


def blocks(language):
    """(page, text) of every fenced block of a language."""
    found = [
        (page, text)
        for page in PAGES
        for text in re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.M | re.S)
    ]
    assert found, f"no page has a block of {language}"
    return found


def verbs(parent=app, path=()):
    """(words, function) of every verb, those of verbs with verbs too."""
    for name in parent.resolved_commands():
        if not name.startswith("-"):
            verb = parent[name]
            if verb.default_command is None:
                yield from verbs(verb, (*path, name))
            else:
                yield (*path, name), verb.default_command


def test_every_command_of_the_pages_is_one_that_the_package_understands():
    for page, text in blocks("sh"):
        for line in text.splitlines():
            command, *words = shlex.split(line, comments=True)
            assert command == "bytegolf", f"{page}: {line}"
            function, bound, _ = app.parse_args(words, exit_on_error=False, print_error=False)
            assert callable(function), f"{page}: {line}"
            changes = [word for word in bound.args if isinstance(word, str) and "=" in word]
            unknown = split(changes).keys() - OPTIONS
            assert not unknown, f"{page}: {line} names {unknown}"


def test_every_sweep_file_of_the_pages_is_one_that_sweep_takes():
    for page, text in blocks("toml"):
        assert Spec.model_validate(tomllib.loads(text)).seeds, page


def test_every_python_example_of_the_pages_compiles_and_uses_names_that_exist():
    for page, text in blocks("python"):
        compile(text, str(page), "exec")
        for name in re.findall(r"\bbytegolf\.(\w+)", text):
            assert name in bytegolf.__all__, f"{page}: bytegolf.{name}"


def test_every_option_that_a_page_sets_is_one():
    for page in PAGES:
        for name in re.findall(r"`([a-z0-9_]+)=[^`]*`", page.read_text(encoding="utf-8")):
            assert name in OPTIONS | {"name"}, f"{page}: {name}"


def test_the_page_of_notebooks_names_each_of_them():
    page = (NOTEBOOKS / "docs" / "how-to" / "notebooks.md").read_text(encoding="utf-8")
    missing = [path.stem for path in NOTEBOOKS.glob("[0-9][0-9]_*.py") if f"`{path.stem}`" not in page]
    assert not missing


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The built pages as text, by path; built as strictly as MkDocs can."""
    if find_spec("mkdocs") is None:
        pytest.skip("needs MkDocs: pip install 'bytegolf[docs]'")
    out = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-f", NOTEBOOKS / "mkdocs.yml", "-d", out]
    environment = os.environ | {"NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {str(path.relative_to(out)): path.read_text(encoding="utf-8") for path in out.rglob("*.html")}


def text_of(page):
    """What a reader sees, spaces made one."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", "", page)).split())


@pytest.mark.slow
def test_every_page_is_built_and_none_holds_a_mark_that_was_not_replaced(site):
    expected = {str(page.relative_to(NOTEBOOKS / "docs").with_suffix(".html")) for page in PAGES}
    expected |= {f"reference/{name}.html" for name in ("python", "cli", "options")}
    expected |= {f"notebooks/{path.stem}.html" for path in NOTEBOOKS.glob("[0-9][0-9]_*.py")}
    assert expected == site.keys() - {"404.html"}
    for name, page in site.items():
        prose = text_of(re.sub(r"<(code|pre|svg)\b.*?</\1>", "", page, flags=re.S))
        assert not re.search(r"@@|\]\(|\*\*|```|\./run ", prose), f"{name}: a mark or a command stands among the words"
        assert "<!-- include" not in page, name


@pytest.mark.slow
def test_every_public_name_and_member_has_its_place(site):
    places = set(re.findall(r'id="(bytegolf\.[\w.]+)"', site["reference/python.html"]))
    wanted = {f"bytegolf.{name}" for name in bytegolf.__all__}
    for name in bytegolf.__all__:
        kind = getattr(bytegolf, name)
        if isinstance(kind, type) and not issubclass(kind, BaseException):
            members = {member for member in dir(kind) if not member.startswith("_")}
            if issubclass(kind, Config):  # options are on a page of their own; the rest is for the core
                members -= OPTIONS | {"set", "copy", "validate", "parse"}
            wanted |= {f"bytegolf.{name}.{member}" for member in members}
    assert not wanted - places, sorted(wanted - places)


def options_of(function):
    """Name and parameter of each option; a dataclass among the parameters stands for its fields."""
    for name, parameter in inspect.signature(function, eval_str=True).parameters.items():
        kind = getattr(parameter.annotation, "__origin__", parameter.annotation)
        if dataclasses.is_dataclass(kind):
            yield from options_of(kind)
        else:
            yield name, parameter


@pytest.mark.slow
def test_every_verb_and_each_of_its_options_has_its_place(site):
    page = site["reference/cli.html"]
    found = list(verbs())
    assert len(found) >= 15
    for path, function in found:
        start = page.find(f'id="bytegolf-{"-".join(path)}"')
        assert start >= 0, path
        ends = [end for end in (page.find("<h2", start), page.find("<h3", start), len(page)) if end >= 0]
        text = text_of(page[start : min(ends)])
        for name, parameter in options_of(function):
            if any(getattr(mark, "show", None) is False for mark in getattr(parameter.annotation, "__metadata__", ())):
                continue  # for processes of ours, not for people
            shown = name.upper() if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL) else None
            named = [
                mark.name for mark in getattr(parameter.annotation, "__metadata__", ()) if getattr(mark, "name", None)
            ]
            assert (shown or (named[0][0] if named else f"--{name.replace('_', '-')}")) in text, f"{path}: {name}"


@pytest.mark.slow
def test_every_option_has_its_place_with_its_default_and_its_meaning(site):
    page = site["reference/options.html"]
    text = text_of(page)
    for row in _bytegolf.option_table():
        assert f'id="option-{row["name"]}"' in page, row["name"]
        assert f"{row['name']} {Config().get(row['name'])}" in text, row["name"]
        assert " ".join(row["doc"].split()) in text, row["name"]


@pytest.mark.slow
def test_no_page_fetches_anything_from_elsewhere(site):
    for name, page in site.items():
        fetched = re.findall(r'<(?:script|img|iframe|source)\b[^>]*\bsrc="([^"]+)"', page)
        fetched += re.findall(r'<link\b[^>]*\bhref="([^"]+)"', page)
        elsewhere = [one for one in fetched if re.match(r"(https?:)?//", one)]
        assert not elsewhere, f"{name}: {elsewhere}"
