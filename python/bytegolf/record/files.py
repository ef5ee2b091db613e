"""Names in a run's folder, and a name for a new one."""

from __future__ import annotations

import time
from pathlib import Path

CHECKPOINTS = "checkpoints"


def new_folder(parent: Path, name: str) -> Path:
    """A path under `parent` that does not exist yet: NAME-date-time, with a number where two runs start in one second."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    path, number = parent / f"{name}-{stamp}", 1
    while path.exists():
        number += 1
        path = parent / f"{name}-{stamp}-{number}"
    return path
