"""Which runs a path means: a run's folder, a log, or every run of a sweep's folder; and which of them belong together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytegolf import log
from bytegolf.config import Config

# Options that say where data lies and how a run is watched, and its seed; runs that differ in nothing else are one group.
IRRELEVANT = {"seed", "train_data", "val_data", "log_every", "val_every", "val_ids", "checkpoint_every", "track"}


@dataclass(frozen=True)
class LoggedRun:
    """A log, and the name of its run in tables; `group` and `seed` are those of a sweep, where it is part of one."""

    name: str
    log: Path
    group: str | None = None
    seed: int | None = None


def is_sweep(path: Path) -> bool:
    """Whether the folder holds the results of a sweep."""
    from bytegolf.sweep.results import CSV, JSONL

    return path.is_dir() and ((path / JSONL).exists() or (path / CSV).exists())


def places(paths: Iterable[Path]) -> list[LoggedRun]:
    """All runs that the paths mean, whether their logs are there yet or not: of a sweep all in its results, of another folder
    without a log those that lie in it."""
    found: list[LoggedRun] = []
    for path in paths:
        if is_sweep(path):
            found += _of_sweep(path)
            continue
        inside = [] if path.is_file() or (path / log.NAME).exists() else sorted(path.glob(f"*/{log.NAME}"))
        if inside:
            found += [LoggedRun(file.parent.name, file) for file in inside]
        else:
            file = path if path.is_file() or path.suffix == ".jsonl" else path / log.NAME
            found.append(LoggedRun(place_name(file), file))
    unique: dict[object, LoggedRun] = {}
    for place in found:
        unique.setdefault(identity(place.log), place)
    return _with_distinct_names(list(unique.values()))


def place_name(path: Path) -> str:
    """What a run is called: its folder's name, of a log with a name of its own that name."""
    real = path.resolve()
    return real.parent.name if path.name == log.NAME else real.name if path.is_dir() else path.stem


def identity(path: Path) -> object:
    """Equal for the same file under any name: device and inode, or its real path while there is none."""
    try:
        facts = path.stat()
    except OSError:
        return path.resolve()
    return facts.st_dev, facts.st_ino


def _of_sweep(folder: Path) -> list[LoggedRun]:
    from bytegolf.sweep.results import read_results

    rows = read_results(folder)
    return [
        LoggedRun(row["folder"], folder / row["folder"] / log.NAME, row["group"], row["seed"])
        for row in rows
        if row.get("folder") is not None and row.get("seed") is not None
    ]


def _with_distinct_names(found: list[LoggedRun]) -> list[LoggedRun]:
    """Runs of one name get that of the folder above before it."""
    names = [place.name for place in found]
    return [
        place
        if names.count(place.name) == 1
        else LoggedRun(f"{place.log.parent.resolve().parent.name}/{place.name}", place.log, place.group, place.seed)
        for place in found
    ]


def names_of_groups(configs: Sequence[dict[str, Any]]) -> list[str]:
    """A name for each run, equal for runs of one group: the options in which groups differ; "" for a single run."""
    if len(configs) == 1:
        return [""]
    absent = Config.absent().to_dict()  # what a run means by an option that was added after it
    configs = [absent | config if config else config for config in configs]
    options = {name for config in configs for name in config} - IRRELEVANT
    differing = [name for name in sorted(options) if len({str(config.get(name)) for config in configs}) > 1]
    return [" ".join(f"{name}={config.get(name)}" for name in differing) or "runs" for config in configs]


def val_word(val_sha256: str | None) -> str:
    """A short name of validation ids."""
    return "unknown" if val_sha256 is None else f"val {val_sha256[:8]}"


def split_by_validation(names: Sequence[str], val_sha256: Sequence[str | None]) -> list[str]:
    """The names of groups, with that of the validation ids after each where runs of a group are known to differ in them."""
    known: dict[str, set[str]] = {}
    for name, val in zip(names, val_sha256, strict=True):
        known.setdefault(name, set()).update([val] if val else [])
    return [
        f"{name} ({val_word(val)})" if len(known[name]) > 1 else name
        for name, val in zip(names, val_sha256, strict=True)
    ]
