"""How a run's options come together: a preset or TOML file, then `name=value` overrides from the command line."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from bytegolf.config import Config


def resolve(source: str, overrides: Iterable[str] = ()) -> Config:
    """The options named by `source` with `overrides` applied, checked.

    `source` is a preset's name or the path of a TOML file (which lays over the preset byte260-jepa). Each override is
    `name=value`. Raises ValueError that names the option, with the nearest known name for an unknown one.
    """
    changes = split(overrides)
    if source in Config.preset_names():
        return Config.preset(source, **changes)
    if Path(source).is_file():
        return Config.from_toml(source).replace(**changes)
    raise ValueError(f"{source} is neither a file nor a preset ({', '.join(Config.preset_names())})")


def split(overrides: Iterable[str]) -> dict[str, str]:
    """name=value words as a dict; dashes before and inside a name are forgiven."""
    changes: dict[str, str] = {}
    for item in overrides:
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"expected name=value, got {item}")
        changes[name.removeprefix("--").replace("-", "_")] = value
    return changes
