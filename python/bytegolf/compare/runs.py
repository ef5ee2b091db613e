"""The runs that `report` compares: each counted once, however often and under whatever name it was given, and by groups that were
scored on the same data.

A run is known by its log: the file itself (device and inode, so that links do not matter) and its SHA-256, so that copies do not.
Runs with equal options and an equal seed are not independent: with the same result they count once, with different ones they are
refused, since nothing says which one counts. Groups are split where their runs were scored on different validation ids.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bytegolf import log
from bytegolf.bundle.meter import sha256
from bytegolf.compare.places import names_of_groups, place_name, split_by_validation, val_word
from bytegolf.errors import UserError
from bytegolf.log_lines import parse
from bytegolf.sweep.results import CSV, FIGURES, JSONL, read_results


@dataclass
class RunGroup:
    """Bits per byte of the runs that differ in their seed only; `left_out` counts those without a score; `val_sha256` names the ids
    that they were scored on, None where no run says it."""

    name: str
    values: list[float] = field(default_factory=list)
    seeds: list[int | None] = field(default_factory=list)
    left_out: int = 0
    val_sha256: str | None = None


@dataclass(frozen=True)
class ScoredRun:
    """One run under one of its names. `value`: bits per byte, None while unfinished; `group` is the sweep's, None for a run alone."""

    where: str
    group: str | None
    seed: int | None
    value: float | None
    options: dict[str, Any]
    train_ids: int | None
    val_sha256: str | None
    artifact_sha256: str | None
    keys: frozenset[Any]  # what only this run has


def collect(what: Sequence[Path], score: str) -> tuple[list[RunGroup], list[str]]:
    """The groups that paths hold, those of sweeps by name, other runs by equal options; and what a reader must know of them.

    With several sweeps each name is FOLDER/GROUP. UserError names what cannot be read, and two runs of one seed that differ.
    """
    sweeps, alone = _sources(what)
    names = _sweep_names(list(sweeps.values()))
    found = [run for path, name in zip(sweeps.values(), names, strict=True) for run in _of_sweep(path, name, score)]
    taken = {run.group for run in found}
    lone = [_read_run(path, score) for path in alone]
    runs, notes = _each_once([*found, *lone])
    lone = [run for run in runs if run.group is None]
    # Runs on another amount of training data do not belong to one group, whatever the folder is called.
    sized = all(run.train_ids is not None for run in lone)
    groups = names_of_groups([run.options | ({"train_ids": run.train_ids} if sized else {}) for run in lone])
    by_name: dict[str, list[ScoredRun]] = {}
    for run in runs:
        if run.group is not None:
            by_name.setdefault(run.group, []).append(run)
    for run, name in zip(lone, groups, strict=True):
        name = name or place_name(Path(run.where))
        by_name.setdefault(f"{name} (no sweep)" if name in taken else name, []).append(run)
    made: list[RunGroup] = []
    for name, members in by_name.items():
        members, more = _independent(name, members)
        notes += more
        made += _split(name, members, notes)
    scored = {group.val_sha256 for group in made if group.values and group.val_sha256}
    if len(scored) > 1:
        words = ", ".join(f"{group.name}: {val_word(group.val_sha256)}" for group in made if group.values)
        notes.append(f"the groups were scored on different validation data, so their means cannot be compared: {words}")
    return made, notes


def _sources(what: Sequence[Path]) -> tuple[dict[Path, Path], list[Path]]:
    """Results of sweeps by where they really are, and the other paths."""
    sweeps: dict[Path, Path] = {}
    alone = []
    for path in what:
        if _is_sweep(path):
            own = path.resolve().parent if path.is_file() and path.name in (CSV, JSONL) else path.resolve()
            sweeps.setdefault(own, path)
        else:
            alone.append(path)
    return sweeps, alone


def _is_sweep(path: Path) -> bool:
    if path.is_dir():
        return (path / JSONL).exists() or (path / CSV).exists()
    if not path.is_file() or path.suffix not in (".csv", ".jsonl") or path.name == log.NAME:
        return False
    return path.suffix == ".csv" or not _is_log(path)


def _is_log(path: Path) -> bool:
    """Whether the first line is one of a log."""
    with path.open("rb") as file:
        try:
            return parse(file.readline(1 << 20)) is not None
        except ValueError:
            return True  # the line is named when the log is read


def _sweep_names(paths: Sequence[Path]) -> list[str]:
    """What comes before the groups of each sweep: nothing for a single one, else its folder's name, longer where two are equal."""
    if len(paths) < 2:
        return [""] * len(paths)
    folders = [(path if path.is_dir() else path.parent).resolve() for path in paths]
    for parts in range(1, max(len(folder.parts) for folder in folders) + 1):
        names = ["/".join(folder.parts[-parts:]).lstrip("/") for folder in folders]
        if len(set(names)) == len(names):
            return [f"{name}/" for name in names]
    return [f"{path}/" for path in paths]  # results of one folder under other names


def _of_sweep(path: Path, prefix: str, score: str) -> Iterable[ScoredRun]:
    base = (path if path.is_dir() else path.parent).resolve()
    for row in read_results(path):
        value = row.get(f"bpb_{score}") if row["status"] == "done" else None
        place = base / row["folder"] / log.NAME if row.get("folder") else None
        there = place is not None and place.is_file()
        keys: set[Any] = {("place", str(place))} if place is not None else set()
        made: dict[str, Any] = {}
        if place is not None and there:
            keys |= _keys(place)
            made = _made(place)
        figures = tuple(row.get(name) for name in FIGURES)
        if row.get("seconds") is not None and (there or path.is_file()):
            keys.add(("figures", row.get("seed"), *figures))  # a table that was taken out of its folder
        yield ScoredRun(
            where=f"{path}, {row.get('folder') or row['group']}",
            group=f"{prefix}{row['group']}",
            seed=row.get("seed"),
            value=value,
            options={},
            train_ids=None,
            val_sha256=row.get("val_sha256") or made.get("val_sha256"),
            artifact_sha256=row.get("artifact_sha256") or made.get("artifact_sha256"),
            keys=frozenset(keys),
        )


def _made(path: Path) -> dict[str, Any]:
    """What the last `end` of a log says of its files, without reading its other lines; {} when it says nothing."""
    made: dict[str, Any] = {}
    with path.open("rb") as file:
        for text in file:
            if b'end"' not in text:
                continue
            try:
                line = parse(text)
            except ValueError:
                continue  # the results say what counts
            if line is not None and line["kind"] == "end":
                made = line.get("made") or {}
    return made


def _keys(path: Path) -> set[Any]:
    facts = path.stat()
    return {("file", facts.st_dev, facts.st_ino), ("log", sha256(path))}


def _log_of(path: Path) -> Path:
    if path.is_file():
        return path
    if (path / log.NAME).is_file():
        return path / log.NAME
    why = f"holds neither {JSONL} nor {log.NAME}" if path.is_dir() else "does not exist"
    raise UserError(f"{path} {why}: name the folder of a sweep or of a run")


def _read_run(path: Path, score: str) -> ScoredRun:
    """One run by its log."""
    file = _log_of(path)
    lines = log.read_log(file)
    start: dict[str, Any] = next((line for line in reversed(lines) if line["kind"] == "start"), {})
    end = lines[-1] if lines[-1]["kind"] == "end" and lines[-1].get("reason") == "done" else {}
    made, config = end.get("made") or {}, start.get("config") or {}
    seed = config.get("seed", start.get("seed"))
    figures = [(end.get(name.removeprefix("bpb_")) or {}).get("bpb") for name in FIGURES[:4]]
    figures += [end.get(name) for name in ("artifact_bytes", "steps", "train_seconds")]
    keys = _keys(file) | ({("figures", seed, *figures)} if end.get("train_seconds") is not None else set())
    return ScoredRun(
        where=str(path),
        group=None,
        seed=seed,
        value=(end.get(score) or {}).get("bpb"),
        options=config,
        train_ids=made.get("train_ids"),
        val_sha256=made.get("val_sha256"),
        artifact_sha256=made.get("artifact_sha256"),
        keys=frozenset(keys),
    )


def _each_once(runs: Iterable[ScoredRun]) -> tuple[list[ScoredRun], list[str]]:
    """The first of each run, and one line about the others."""
    kept: list[ScoredRun] = []
    known: dict[Any, ScoredRun] = {}
    results: dict[Any, ScoredRun] = {}  # one artifact with one score on one text: of a run that was made again, say
    again: list[str] = []
    for run in runs:
        same = next((known[key] for key in run.keys if key in known), None)
        result = (run.artifact_sha256, run.seed, run.val_sha256, run.value)
        if same is None and run.group is None and run.artifact_sha256 is not None:
            same = results.get(result)
        if same is None:
            kept.append(run)
            known |= dict.fromkeys(run.keys, run)
            results.setdefault(result, run)
        else:
            again.append(f"{run.where} is {same.where}" if run.where != same.where else f"{run.where} is named again")
    return kept, [f"counted once: {'; '.join(again)}"] if again else []


def _independent(name: str, runs: Sequence[ScoredRun]) -> tuple[list[ScoredRun], list[str]]:
    """The runs of a group, of each seed on the same data one. UserError when two of them differ."""
    kept: list[ScoredRun] = []
    notes = []
    for run in runs:
        twin = next(
            (
                one
                for one in kept
                if run.seed is not None
                and one.seed == run.seed
                and (one.val_sha256 == run.val_sha256 or None in (one.val_sha256, run.val_sha256))
            ),
            None,
        )
        if twin is None or run.value is None or twin.value is None:
            kept.append(run)
        elif run.value == twin.value:
            notes.append(f"counted once: {run.where} has options, seed and score of {twin.where}")
        else:
            raise UserError(
                f"{twin.where} and {run.where} have equal options and seed {run.seed}, but scores {twin.value:.6f} and "
                f"{run.value:.6f}: the same seed is no independent run, so name only one of them"
            )
    return kept, notes


def _split(name: str, runs: Sequence[ScoredRun], notes: list[str]) -> list[RunGroup]:
    """One group for each set of validation ids. Runs of versions that did not note them go with the others where there is one set."""
    known = list(dict.fromkeys(run.val_sha256 for run in runs if run.val_sha256 is not None))
    silent = sum(run.val_sha256 is None and run.value is not None for run in runs)
    if silent and known:
        words = "counted with the others" if len(known) == 1 else "a group of their own"
        notes.append(f"group {name}: {silent} runs do not say what they were scored on; {words}")
    values = [known[0] if run.val_sha256 is None and len(known) == 1 else run.val_sha256 for run in runs]
    made: dict[str, RunGroup] = {}
    for run, val, full in zip(runs, values, split_by_validation([name] * len(runs), values), strict=True):
        if run.value is None:
            # What is not scored yet belongs to no set: it is counted with the first.
            full, val = next(iter(made), full), None
        group = made.setdefault(full, RunGroup(full))
        group.val_sha256 = group.val_sha256 or val
        if run.value is None:
            group.left_out += 1
        else:
            if not math.isfinite(run.value):
                raise UserError(f"{run.where}: the score {run.value} is not a number")
            group.values.append(run.value)
            group.seeds.append(run.seed)
    return list(made.values())
