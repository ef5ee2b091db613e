"""A stage inside a process that has a library of ours preloaded: how the library is compiled, and how the outcome comes back."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from campaign.stage import BUILD, ROOT, Context, Finding, Outcome, end_with_parent

PROGRAM = "import sys; sys.path.insert(0, sys.argv[1]); from campaign.preload import inside; inside(sys.argv[2], sys.argv[3], sys.argv[4])"


def library(source: Path) -> Path | None:
    """The compiled library; None without a C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    BUILD.mkdir(parents=True, exist_ok=True)
    target = BUILD / f"{source.stem}.so"
    subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-Wall", "-o", target, source, "-ldl", "-lpthread"], check=True
    )
    return target


def preloaded(source: Path, function: Callable[[Context], Outcome], context: Context) -> Outcome:
    """function(context) in a process that begins with the library of `source`."""
    shim = library(source)
    if shim is None:
        return Outcome(skipped="no C compiler")
    answer = BUILD / f"{context.stage}.json"
    answer.unlink(missing_ok=True)
    asked = {**asdict(context), "folder": str(context.folder), "input": str(context.input) if context.input else None}
    words = [f"{function.__module__}:{function.__qualname__}", json.dumps(asked), str(answer)]
    environment = os.environ | {"LD_PRELOAD": str(shim), "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    done = subprocess.run([sys.executable, "-c", PROGRAM, str(ROOT / "tests_py"), *words], env=environment, check=False)
    if done.returncode or not answer.exists():
        raise RuntimeError(f"stage {context.stage}: its process ended with status {done.returncode}")
    got = json.loads(answer.read_text(encoding="utf-8"))
    return Outcome(**{**got, "findings": [Finding(**row) for row in got["findings"]]})


def inside(function: str, asked: str, answer: str) -> None:
    """What that process does."""
    end_with_parent()
    module, name = function.split(":")
    fields = json.loads(asked)
    context = Context(
        **{**fields, "folder": Path(fields["folder"]), "input": Path(fields["input"]) if fields["input"] else None}
    )
    outcome = getattr(__import__(module, fromlist=[name]), name)(context)
    Path(answer).write_text(json.dumps(asdict(outcome)), encoding="utf-8")
