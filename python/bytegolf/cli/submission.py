"""The verbs of submissions: `submit` makes the folder, `verify` checks every claim of one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from bytegolf.cli.words import Json
from bytegolf.errors import UserError

app = App(help_format="markdown")


@app.command
def submit(
    *runs: Path,
    name: str,
    author: str,
    github_id: str,
    track: str,
    out: Path = Path("records"),
    date: str = "",
    blurb: str = "",
    idea: Path | None = None,
    seeds: str = "",
    artifact_seed: int | None = None,
    baseline: float | None = None,
    val_data: str | None = None,
    unlimited_time: Annotated[bool, Parameter(negative="")] = False,
    other_validation: Annotated[bool, Parameter(negative="")] = False,
    as_json: Json = False,
) -> int:
    """Make a submission folder of finished runs, one for each seed, or refuse them by name and margin (status 1).

    Parameters
    ----------
    runs
        Folders of finished runs, equal but for their seeds.
    name
        Of the submission and, after the date, of its folder.
    track
        track_10min_16mb or track_non_record_16mb.
    out
        Folder below which TRACK/DATE_NAME is made.
    date
        YYYY-MM-DD; by default today (UTC).
    blurb
        One sentence; by default the model in figures.
    idea
        Markdown file whose text goes under "Idea" in README.md.
    seeds
        Those that must be there, e.g. 1,2,3.
    artifact_seed
        Whose artifact the folder carries; by default the best.
    baseline
        Bits per byte that the mean is tested against.
    val_data
        Where the validation shards lie now, when not where the runs found them.
    unlimited_time
        Allow more than 600 s of training or evaluation (non-record track only).
    other_validation
        Allow scores of other text than the challenge's whole validation set on the record track; the submission says so.
    """
    from bytegolf.config import read_text
    from bytegolf.submission.command import submit_command
    from bytegolf.submission.folder import SubmissionOptions

    try:
        wanted = tuple(int(seed) for seed in seeds.split(",")) if seeds else None
    except ValueError:
        raise UserError(f"--seeds {seeds} is not a list of whole numbers such as 1,2,3") from None
    options = SubmissionOptions(
        name=name,
        author=author,
        github_id=github_id,
        track=track,
        out=out,
        date=date,
        blurb=blurb,
        idea=read_text(idea) if idea else "",
        seeds=wanted,
        artifact_seed=artifact_seed,
        baseline=baseline,
        val_data=val_data,
        unlimited_time=unlimited_time,
        other_validation=other_validation,
    )
    return submit_command(runs, options, as_json)


@app.command
def verify(
    folder: Path,
    /,
    *,
    val_data: str | None = None,
    quick: Annotated[bool, Parameter(negative="")] = False,
    run_code: bool | None = None,
    venv: bool = True,
    device: Literal["auto", "cpu", "cuda"] = "auto",
    dtype: Literal["auto", "float32", "float64", "bfloat16"] = "auto",
    tolerance: float | None = None,
    time_limit: int = 3600,
    as_json: Json = False,
) -> int:
    """Check every claim of a submission. Status 1 and a list on any mismatch, after which nothing else is done.

    Sizes, hashes, fields and tables are compared first. Then the artifact is scored on your shards by the bytegolf that you
    have installed: that is the score of record. Nothing of the folder runs: its train_gpt.py is a stranger's program, and is
    built and run only with --run-code, or after a yes at a terminal, in a sandbox without network, environment or any folder
    to write (Debian's package bubblewrap; without it a weaker one, which is named). What it prints must agree with our score.

    Parameters
    ----------
    folder
        TRACK/DATE_NAME as `submit` made it.
    val_data
        Validation shards to score the artifact on.
    quick
        Only count and compare: score nothing, run nothing.
    run_code
        Also build and run the folder's train_gpt.py in a sandbox; --no-run-code never asks.
    venv
        Build it in a new virtual environment, for which pip installs what bytegolf itself needs, and nothing that the folder
        names; --no-venv takes this one with its extension.
    device, dtype
        Where and in which numbers to score.
    tolerance
        Bits per byte by which the score may differ; by default 1e-6 on the device and in the numbers of the log, else 2e-3.
    time_limit
        Seconds after which the folder's code is ended.
    """
    from bytegolf.submission.command import verify_command
    from bytegolf.submission.sandbox import Limits
    from bytegolf.submission.verify import Checking

    checking = Checking(
        quick=quick,
        run_code=bool(run_code),
        fresh_environment=venv,
        val_data=val_data,
        device=device,
        dtype=dtype,
        tolerance=tolerance,
        limits=Limits(seconds=time_limit),
    )
    return verify_command(folder, checking, as_json, ask=run_code is None and not quick)
