"""Weights & Biases, offline unless WANDB_MODE says otherwise; WANDB_PROJECT names another project."""

from __future__ import annotations

import importlib
import os
from typing import Any

from bytegolf.trackers import PROJECT, About


class Wandb:
    """A run of wandb. All parts of a resumed run have one id, so that `wandb sync` joins them."""

    def __init__(self, about: About) -> None:
        """Whatever wandb raises goes through."""
        # Its own choice of a place for caches and settings stays; what it stores of the run is in the run's folder.
        wandb: Any = importlib.import_module("wandb")
        about.home.mkdir(parents=True, exist_ok=True)
        mode = os.environ.get("WANDB_MODE", "offline")
        self._run: Any = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            name=about.name,
            id=about.key,
            dir=str(about.home),
            mode=mode,
            resume=None if mode == "offline" else "allow",
            config=about.config | {"run": about.facts},
            settings=wandb.Settings(console="off", silent=True),
        )

    def log(self, step: int, time_s: float, values: dict[str, float]) -> None:
        """One row of the history; rows of one step are one."""
        self._run.log({**values, "time": time_s}, step=step)

    def rewind(self, step: int) -> bool:
        """Its history only grows."""
        return False

    def flush(self) -> None:
        """It has a thread for that."""

    def close(self, reason: str) -> None:
        """Marks the run failed when it was."""
        self._run.finish(exit_code=0 if reason in ("", "done", "interrupted") else 1)
