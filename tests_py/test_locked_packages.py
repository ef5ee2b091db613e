"""requirements/*.lock: every declared dependency with a version inside its bounds, hashes for all, and only what is needed."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# What `./test`, `./run` and `.ci/run` ask for.
EXTRAS = ("demo", "data", "sweep", "docs", "notebooks", "test", "lint", "cuda")


def locked():
    """scripts/locked.py as a module."""
    spec = importlib.util.spec_from_file_location("locked", ROOT / "scripts" / "locked.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def versions(lock):
    """Version of each package by a regular expression of our own."""
    return dict(re.findall(r"^([a-z0-9][a-z0-9.-]*)==(\S+)", lock.read_text(), re.MULTILINE))


def declared():
    lines = [*PROJECT["project"]["dependencies"], *PROJECT["build-system"]["requires"]]
    lines += [line for extra in EXTRAS for line in PROJECT["project"]["optional-dependencies"][extra]]
    tools = PROJECT["tool"]["scikit-build"]
    return [*lines, *(f"{tool}{tools[tool]['version']}" for tool in ("cmake", "ninja"))]


@pytest.mark.parametrize("line", sorted(set(declared())))
def test_every_declared_dependency_is_locked_within_its_bounds(line):
    wanted = Requirement(line)
    assert wanted.specifier.contains(versions(ROOT / "requirements/ci.lock")[wanted.name.lower()]), line


def test_the_compilers_packages_are_locked_within_their_bounds():
    found = versions(ROOT / "requirements/cuda.lock")
    asked = [Requirement(line) for line in (ROOT / "requirements/cuda.in").read_text().splitlines()]
    assert found.keys() == {wanted.name for wanted in asked}
    assert all(wanted.specifier.contains(found[wanted.name]) for wanted in asked)


@pytest.mark.parametrize("name", ["ci.lock", "cuda.lock"])
def test_every_package_has_hashes_and_no_index_is_named(name):
    text = (ROOT / "requirements" / name).read_text()
    packages = re.split(r"^(?=[a-z0-9])", text, flags=re.MULTILINE)[1:] if name == "cuda.lock" else None
    packages = packages or re.split(r"^(?=[a-z0-9])", text.partition("\n")[2], flags=re.MULTILINE)[1:]
    assert len(packages) == len(versions(ROOT / "requirements" / name)) > 5
    for package in packages:
        assert re.search(r"--hash=sha256:[0-9a-f]{64}\b", package), package.splitlines()[0]
    assert not re.search(r"://|--(extra-)?index-url|--find-links|--trusted-host", text)


def test_what_setup_and_ci_install_are_these_extras():
    asked = set(
        re.findall(r"\b(?:setup|extras=)\s*([a-z,]+)", (ROOT / "test").read_text() + (ROOT / "run").read_text())
    )
    names = {name for words in asked for name in words.split(",") if name}
    assert names & PROJECT["project"]["optional-dependencies"].keys() <= set(EXTRAS)
    assert f"for extra in {' '.join(EXTRAS)};" in (ROOT / "scripts/lock.sh").read_text()


def run(*words):
    return subprocess.run([sys.executable, ROOT / "scripts/locked.py", *words], capture_output=True, text=True)


def test_a_part_of_the_lock_holds_what_its_packages_need():
    if locked().read_lock((ROOT / "requirements/ci.lock").read_text())[0] != locked().here():
        pytest.skip("the lock is of another Python")
    said = run("--packages", "pydantic").stdout
    names = set(re.findall(r"^([a-z0-9-]+)==", said, re.MULTILINE))
    # Source: the metadata of pydantic 2 on PyPI.
    assert names == {"pydantic", "pydantic-core", "annotated-types", "typing-extensions", "typing-inspection"}
    assert said.count("--hash=sha256:") > 50
    demo = run("--extras", "demo").stdout
    assert "pybind11==" in demo
    assert "jax==" not in demo


def test_what_the_lock_does_not_have_is_named():
    done = run("--extras", "track")
    assert done.returncode == 1
    assert done.stdout == ""
    assert "trackio" in done.stderr or "this is" in done.stderr


def test_a_lock_of_another_python_is_not_used():
    module = locked()
    system, blocks, needed_by = module.read_lock(
        "# cpython 3.9 plan9 z80\na==1 \\\n    --hash=sha256:0\nb==2\n    # via a, c\n"
    )
    assert system == "cpython 3.9 plan9 z80" != module.here()
    assert blocks == {"a": "a==1 \\\n    --hash=sha256:0\n", "b": "b==2\n"}
    assert module.closure({"a"}, needed_by) == {"a", "b"}
    assert module.closure({"b"}, needed_by) == {"b"}


@pytest.mark.parametrize(
    ("dependencies", "status", "words"),
    [
        ([{"name": "a", "version": "1", "vulns": []}], 0, "1 of 1 packages looked up"),
        ([{"name": "a", "version": "1", "vulns": [{"id": "X-1", "fix_versions": ["2"]}]}], 1, "a 1: X-1, fixed in 2"),
        ([{"name": "a", "skip_reason": "not found"}], 77, "skipped, no database"),
        (None, 77, "skipped, no database"),
    ],
)
def test_an_audit_that_looked_nothing_up_does_not_pass(tmp_path, dependencies, status, words):
    said = "no network" if dependencies is None else json.dumps({"dependencies": dependencies})
    (tmp_path / "pip_audit.py").write_text(f"print({said!r})")
    audit = [sys.executable, ROOT / ".ci" / "audit.py"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    done = subprocess.run(audit, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert (done.returncode, words in done.stdout) == (status, True)
