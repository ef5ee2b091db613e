"""`bytegolf submit`: finished runs become records/TRACK/DATE_NAME/, whole and checked, or are refused by name."""

from __future__ import annotations

import datetime
import os
import re
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bytegolf import FormatError, log
from bytegolf.bundle import script
from bytegolf.disk import sync_folder
from bytegolf.errors import UserError
from bytegolf.record.facts import Facts, Unfinished, read_facts
from bytegolf.record.fields import Submission, submission_of
from bytegolf.submission.check import (
    ARTIFACT,
    CONFIG,
    FIELDS,
    PAGE,
    REQUIREMENTS,
    TRACKS,
    Problem,
    coverage,
    files,
    log_name,
    requirements,
    rules,
)
from bytegolf.submission.page import page


class Refused(Exception):
    """The runs may not be submitted; `problems` holds each reason."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        """At least one problem."""
        super().__init__("; ".join(f"{p.name}: {p.text}" for p in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class SubmissionOptions:
    """What the author chooses. `seeds` names all that must be there (None: whichever are); `artifact_seed` whose artifact is
    carried (None: the best); `baseline` in bits per byte; `val_data` where the validation shards lie now."""

    name: str
    author: str
    github_id: str
    track: str
    out: Path = Path("records")
    date: str = ""
    blurb: str = ""
    idea: str = ""
    seeds: tuple[int, ...] | None = None
    artifact_seed: int | None = None
    baseline: float | None = None
    val_data: str | None = None
    unlimited_time: bool = False
    other_validation: bool = False


@dataclass(frozen=True)
class SubmissionFolder:
    """The folder that was written, its submission.json, and the facts of each seed."""

    folder: Path
    submission: Submission
    runs: tuple[Facts, ...]


def track_of(name: str) -> str:
    """A track's full name, of that or of its short form without `track_`."""
    for track in TRACKS:
        if name in (track, track.removeprefix("track_")):
            return track
    raise UserError(f"unknown track {name}; known: {', '.join(TRACKS)}")


def submit(folders: Sequence[Path], options: SubmissionOptions) -> SubmissionFolder:
    """Checks the runs, then writes the folder under a temporary name, verifies it and renames it.

    Refused with every reason that was found; UserError for words that cannot be; what the disk refuses goes through.
    Nothing is left on the disk then.
    """
    options = _settled(options)
    target = options.out / options.track / f"{options.date}_{options.name}"
    if not folders:
        raise UserError("name at least one finished run")
    if target.exists():
        raise UserError(f"{target} exists; choose another name or date")
    runs = _read(folders)
    problems = rules(runs, options.track, options.seeds, options.unlimited_time, options.other_validation)
    for run, folder in zip(runs, folders, strict=True):
        problems += files(run, folder)
        if not run.alone:
            text = (
                f"seed {run.seed}: {run.log} was written without a lock: two processes may have trained in this folder"
            )
            problems.append(Problem("not-alone", text))
        problems += _on_shards(run, options.val_data)
    if problems:
        raise Refused(problems)
    if options.artifact_seed is not None and options.artifact_seed not in {run.seed for run in runs}:
        raise UserError(f"seed {options.artifact_seed}, whose artifact is asked for, is not among the runs")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        submission = _write(temporary, dict(zip(folders, runs, strict=True)), options)
        _check(temporary, target.name, options)
        temporary.chmod(0o755)
        sync_folder(temporary)
        temporary.rename(target)
        sync_folder(target.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return SubmissionFolder(target, submission, tuple(runs))


def _settled(options: SubmissionOptions) -> SubmissionOptions:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]*", options.name):
        raise UserError(f"name {options.name!r} cannot name a folder: letters, digits and ._+- only")
    date = options.date or datetime.datetime.now(datetime.UTC).date().isoformat()
    try:
        good = datetime.date.fromisoformat(date).isoformat() == date
    except ValueError:
        good = False
    if not good:
        raise UserError(f"date {date!r} is not YYYY-MM-DD")
    track = track_of(options.track)
    if options.unlimited_time and track == TRACKS[0]:
        raise UserError(f"--unlimited-time is not for {track}")
    return SubmissionOptions(**{**options.__dict__, "track": track, "date": date})


def _read(folders: Sequence[Path]) -> list[Facts]:
    runs, unfinished = [], []
    for folder in folders:
        path = folder / log.NAME
        if not path.is_file():
            raise UserError(f"{folder} is not a run: it holds no {log.NAME}")
        try:
            runs.append(read_facts(path))
        except Unfinished as error:
            unfinished.append(Problem("unfinished", str(error)))
    if unfinished:
        raise Refused(unfinished)
    return runs


def _on_shards(run: Facts, val_data: str | None) -> list[Problem]:
    """Coverage against the shards themselves, where they are available; against the log's count of them elsewhere (see `rules`)."""
    from bytegolf.data.shards import check_hashes
    from bytegolf.ids import ids_sha256
    from bytegolf.streams import read_stream

    where = val_data or run.config.val_data
    try:
        check_hashes(where, run.config.vocab_name, "val")
        ids = read_stream(where, run.config.vocab_name)
    except FormatError:
        raise  # they are there, and not what was prepared
    except (ValueError, OSError):
        if val_data is not None:
            raise
        return []
    found = coverage(run, len(ids) - 1)
    if not found and ids_sha256(ids) != run.val_sha256:
        found.append(
            Problem("different-validation", f"seed {run.seed}: {where} does not hold the ids that were scored")
        )
    return found


def _write(folder: Path, runs: dict[Path, Facts], options: SubmissionOptions) -> Submission:
    facts = list(runs.values())
    config = facts[0].config
    submission = submission_of(
        facts,
        name=options.name,
        blurb=options.blurb
        or f"{config.family}, {config.num_layers} layers of width {config.model_dim}, T = {config.seq_len}.",
        track=options.track,
        author=options.author,
        github_id=options.github_id,
        date=options.date,
        artifact_seed=options.artifact_seed,
        baseline=options.baseline,
        log_names={run.seed: log_name(run.seed) for run in facts},
    )
    source = next(place for place, run in runs.items() if run.seed == submission.artifact_seed)
    shutil.copyfile(source / script.NAME, folder / script.NAME)
    shutil.copyfile(source / ARTIFACT, folder / ARTIFACT)
    for place, run in runs.items():
        shutil.copyfile(place / log.NAME, folder / log_name(run.seed))
    carried = script.read((folder / script.NAME).read_bytes(), script.NAME)
    (folder / CONFIG).write_text(carried.config, encoding="utf-8")
    (folder / REQUIREMENTS).write_text(requirements(carried.files, facts[0].device), encoding="utf-8")
    (folder / PAGE).write_text(page(submission, facts, options.idea), encoding="utf-8")
    submission.write(folder / FIELDS)
    for path in folder.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    return submission


def _check(folder: Path, name: str, options: SubmissionOptions) -> None:
    """The same checks that `verify` makes, before the folder gets its name."""
    from bytegolf.submission.verify import check_folder

    wrong = [claim for claim in check_folder(folder, name, options.track) if claim.ok is False]
    if wrong:
        texts = [f"{claim.what}: {claim.claimed} claimed, {claim.found} found" for claim in wrong]
        raise Refused([Problem("does-not-verify", text) for text in texts])
