#!/usr/bin/env python3
"""Writes python/bytegolf/_bytegolf.pyi from the built module: .venv/bin/python scripts/make_stub.py (after ./test)."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

TARGET = Path(__file__).resolve().parent.parent / "python" / "bytegolf" / "_bytegolf.pyi"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pybind11_stubgen", "bytegolf._bytegolf", "-o", folder, "--exit-code"]
        subprocess.run(command, check=True)
        text = (Path(folder) / "bytegolf" / "_bytegolf.pyi").read_text(encoding="utf-8")
    # The module checks integers and floats itself; callers read simple types.
    text = text.replace("typing.SupportsInt | typing.SupportsIndex", "int")
    text = text.replace("typing.SupportsFloat | typing.SupportsIndex", "float")
    # Arrays come in as arrays: the package converts what is like one.
    text = text.replace("numpy.typing.ArrayLike", "numpy.typing.NDArray[typing.Any]")
    text = re.sub(r"collections\.abc\.Callable(?!\[)", "collections.abc.Callable[..., typing.Any]", text)
    # Containers whose element types pybind11 does not know; only in place of a type, not in docstrings.
    whole = {"list": "list[typing.Any]", "tuple": "tuple[typing.Any, ...]", "dict": "dict[str, typing.Any]"}
    text = re.sub(r"(?<=-> )(list|tuple|dict)(?=:\n)|(?<=: )(list|tuple|dict)(?=[,)]| = )", lambda m: whole[m[0]], text)
    text = re.sub(r"def __(eq|ne)__\(self, arg0: \w+\)", r"def __\1__(self, other: object)", text)
    text = re.sub(r"\n    __hash__: typing.ClassVar\[None\] = None", "", text)
    text = re.sub(r"__version__: str = .*", "__version__: str", text)
    text = re.sub(r"from __future__ import annotations\n", "", text)
    text = '"""Types of the C++ core; made by scripts/make_stub.py."""\n' + text.split('"""', 2)[2].lstrip("\n")
    TARGET.write_text(text, encoding="utf-8")
    ruff = Path(sys.executable).parent / "ruff"
    subprocess.run([ruff, "check", "-q", "--fix-only", TARGET], check=False)
    subprocess.run([ruff, "format", "-q", TARGET], check=True)
    print(f"wrote {TARGET}")


if __name__ == "__main__":
    main()
