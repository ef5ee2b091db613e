"""From a sweep file to its runs: groups x grid x seeds, each with a folder name and its whole config."""

from __future__ import annotations

import hashlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytegolf._bytegolf import option_table
from bytegolf.config import Config, toml_value
from bytegolf.errors import UserError
from bytegolf.options import resolve
from bytegolf.sweep.spec import Spec, Value

LONGEST = 100  # characters of a folder's name before it is cut


@dataclass(frozen=True)
class Run:
    """One run of a sweep. `name` is its folder's; `changed` the options that the sweep sets anywhere, as this run has them."""

    name: str
    group: str
    seed: int
    config: Config
    changed: dict[str, Any]


def plan(spec: Spec, source: Path) -> list[Run]:
    """All runs, group by group. UserError names `source` (the spec's file) and the group that the core refuses.

    Relative data paths are those of the working folder and are made absolute, so that a run may be resumed from elsewhere.
    """
    base = _base(spec, source)
    names = _option_order(
        {*spec.overrides, *spec.grid, *(name for options in spec.groups.values() for name in options)}
    )
    runs: list[Run] = []
    for group, options in _groups(spec).items():
        try:
            merged = {**spec.overrides, **options}
            config = base.replace(**{name: toml_value(name, value) for name, value in merged.items()})
        except ValueError as error:
            raise UserError(f"{source}, group {group}: {error}") from None
        for which in ("train_data", "val_data"):
            if not getattr(config, which):
                raise UserError(
                    f"{source}, group {group}: option {which} is empty: set it in [overrides] or on the command line"
                )
            config = config.replace(**{which: Path(getattr(config, which)).absolute()})
        for seed in spec.seeds:
            made = config.replace(seed=seed)
            name = _slug(f"{group}-seed-{seed}")
            runs.append(Run(name, group, seed, made, {option: getattr(made, option) for option in names}))
    return _unique(runs)


def choose(runs: Sequence[Run], names: Sequence[str]) -> set[str]:
    """The groups that `names` mean: a group's whole name, or the part of it that [groups.NAME] gives.

    UserError for a name that is no group's.
    """
    groups = list(dict.fromkeys(run.group for run in runs))
    found: set[str] = set()
    for name in names:
        meant = [group for group in groups if group == name or group.startswith(f"{name} ")]
        if not meant:
            raise UserError(f"--groups {name}: no such group; known: {', '.join(groups)}")
        found.update(meant)
    return found


def _base(spec: Spec, source: Path) -> Config:
    """The config by its preset's name or its path beside the spec."""
    if spec.config in Config.preset_names():
        return Config.preset(spec.config)
    path = source.parent / spec.config
    if not path.is_file():
        known = ", ".join(Config.preset_names())
        raise UserError(f"{source}: config: {spec.config} is neither a file beside it nor a preset ({known})")
    try:
        return resolve(str(path))
    except ValueError as error:
        raise UserError(f"{source}: config: {error}") from None


def _groups(spec: Spec) -> dict[str, dict[str, Value]]:
    """Options of each group: every named group at every point of the grid."""
    found: dict[str, dict[str, Value]] = {}
    for named, options in (spec.groups or {"": {}}).items():
        for point in itertools.product(*spec.grid.values()):
            at = dict(zip(spec.grid, point, strict=True))
            words = [named] if named else []
            words += [f"{name}={_word(value)}" for name, value in at.items()]
            found[" ".join(words) or "base"] = {**options, **at}
    return found


def _word(value: Value) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _option_order(names: set[str]) -> list[str]:
    return [row["name"] for row in option_table() if row["name"] in names]


def _slug(words: str) -> str:
    """A folder name: what file systems or shells dislike becomes an underscore; long ones are cut and distinguished by a hash."""
    clean = re.sub(r"[^A-Za-z0-9._=+-]+", "_", words)
    return clean if len(clean) <= LONGEST else f"{clean[: LONGEST - 9]}-{_hash(words)}"


def _hash(words: str) -> str:
    return hashlib.sha256(words.encode()).hexdigest()[:8]


def _unique(runs: list[Run]) -> list[Run]:
    """Runs whose names the underscores made equal get a hash of their group's."""
    names = [run.name for run in runs]
    return [
        Run(f"{run.name}-{_hash(run.group)}", run.group, run.seed, run.config, run.changed)
        if names.count(run.name) > 1
        else run
        for run in runs
    ]
