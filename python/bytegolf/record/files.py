"""Names in a run's folder, and a name for a new one."""

from __future__ import annotations

import os
import time
from pathlib import Path

CHECKPOINTS = "checkpoints"


def as_text(path: str | os.PathLike[str]) -> str:
    """A path for a page or a JSON file, which are UTF-8 whatever the locale: bytes that are not become `\\xff` and so on."""
    name = os.fspath(path)
    try:
        raw = os.fsencode(name)
    except UnicodeEncodeError:  # text that did not come from this locale's command line
        raw = name.encode("utf-8", "surrogateescape")
    return raw.decode("utf-8", "backslashreplace")


def new_folder(parent: Path, name: str) -> Path:
    """A path under `parent` that does not exist yet: NAME-date-time, with a number where two runs start in one second."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path, number = parent / f"{name}-{stamp}", 1
    while path.exists():
        number += 1
        path = parent / f"{name}-{stamp}-{number}"
    return path
