"""trackio, local: its database lies where TRACKIO_DIR says, else where trackio keeps it."""

from __future__ import annotations

import importlib
import os
from typing import Any

from bytegolf.trackers import PROJECT, About


class Trackio:
    """A run of trackio, by the run's name and key."""

    def __init__(self, about: About) -> None:
        """Whatever trackio raises goes through."""
        # Nothing is to be asked of the network for local numbers.
        os.environ.setdefault("HF_HUB_OFFLINE", "1")
        os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
        trackio: Any = importlib.import_module("trackio")
        self._run: Any = trackio.init(
            project=PROJECT,
            name=f"{about.name}-{about.key}",
            config=about.config | {"run": about.facts},
            resume="allow",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def log(self, step: int, time_s: float, values: dict[str, float]) -> None:
        """One row."""
        self._run.log(dict(values), step=step)

    def rewind(self, step: int) -> bool:
        """Its table only grows."""
        return False

    def flush(self) -> None:
        """It has a thread for that."""

    def close(self, reason: str) -> None:
        """Waits until all is in the database."""
        self._run.finish()
