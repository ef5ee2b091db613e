"""The package's rooms: what train_gpt.py leaves behind, and that what it carries does without it."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from bytegolf import _bytegolf
from bytegolf.bundle import script

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "python" / "bytegolf"


def layers():
    """The layers of pyproject.toml from top to bottom, each a set of rooms and files."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    (found,) = [c["layers"] for c in project["tool"]["importlinter"]["contracts"] if c["type"] == "layers"]
    return [set(layer.split(" | ")) for layer in found]


def test_what_is_left_out_stands_above_all_that_travels_but_the_words_of_the_command():
    rest = layers()[2:]  # below __main__ and cli, which import a verb's room when the verb runs
    assert layers()[:2] == [{"__main__"}, {"cli"}]
    upper = [layer & set(script.LEFT_OUT) for layer in rest]
    travels = [number for number, (layer, out) in enumerate(zip(rest, upper, strict=True)) if layer - out]
    left_out = [number for number, out in enumerate(upper) if out]
    assert max(left_out) < min(travels)
    assert set().union(*upper) == set(script.LEFT_OUT)


def test_every_name_left_out_is_a_room():
    assert all((PACKAGE / name / "__init__.py").is_file() for name in script.LEFT_OUT)


def test_no_file_lies_beside_the_library_but_in_a_room():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert rooms | files == set().union(*layers())


def test_every_carried_module_is_imported_without_what_is_left_out(tmp_path):
    paths = script.source_paths(ROOT)
    if not paths:
        pytest.skip("the package runs without its sources")
    carried = [path for path in paths if path.startswith("python/bytegolf/")]
    for path in carried:
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / path, tmp_path / path)
    assert not any((tmp_path / "python" / "bytegolf" / room).exists() for room in script.LEFT_OUT)
    extension = Path(_bytegolf.__file__)
    shutil.copyfile(extension, tmp_path / "python" / "bytegolf" / extension.name)
    names = [path.removeprefix("python/").removesuffix(".py").replace("/", ".") for path in carried]
    names = [name.removesuffix(".__init__") for name in names if not name.endswith("__main__")]
    lines = [
        "import sys, importlib",
        # An editable installation would come before the path.
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in type(f).__module__]",
        f"sys.path.insert(0, {str(tmp_path / 'python')!r})",
        f"for name in {names!r}: importlib.import_module(name)",
        "import bytegolf; print(bytegolf.__file__)",
    ]
    done = subprocess.run([sys.executable, "-c", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(tmp_path)
