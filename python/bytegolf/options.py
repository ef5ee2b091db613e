"""How a run's options come together: a preset or TOML file, then `name=value` overrides from the command line."""

from __future__ import annotations

from pathlib import Path

from bytegolf._bytegolf import Config


def resolve(source: str, overrides: list[str]) -> Config:
    """The options named by `source` with `overrides` applied, checked.

    `source` is a preset's name or the path of a TOML file (which lays over the preset byte260-jepa). Each override is
    `name=value`. Raises ValueError that names the option, with the nearest known name for an unknown one.
    """
    if source in Config.preset_names():
        config = Config.preset(source)
    elif Path(source).is_file():
        text = Path(source).read_text(encoding="utf-8")
        config = Config.parse(text, source, Config())
    else:
        known = ", ".join(Config.preset_names())
        raise ValueError(f"{source} is neither a file nor a preset ({known})")
    for item in overrides:
        name, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"expected name=value, got {item}")
        config.set(name.removeprefix("--").replace("-", "_"), value)
    config.validate()
    return config
