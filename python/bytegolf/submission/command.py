"""What `bytegolf submit` and `bytegolf verify` print, and their exit statuses."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bytegolf.bundle.meter import LIMIT_S, Size
from bytegolf.errors import UserError
from bytegolf.record.fields import is_challenge_validation, validation_words
from bytegolf.screen import console
from bytegolf.submission.folder import Refused, SubmissionFolder, SubmissionOptions, submit
from bytegolf.submission.page import sentences
from bytegolf.submission.verify import Checking, verdict_as_dict, verify


def submit_command(runs: Sequence[Path], options: SubmissionOptions, as_json: bool) -> int:
    """0 when the folder was made, 1 when the runs were refused."""
    try:
        made = submit(runs, options)
    except Refused as refused:
        if as_json:
            reasons = [{"name": p.name, "text": p.text} for p in refused.problems]
            console.print_json({"refused": reasons})
        else:
            table = console.table("refused", "why")
            for problem in refused.problems:
                table.add_row(problem.name, problem.text)
            console.stdout().print(table)
        return 1
    if as_json:
        console.print_json({"folder": str(made.folder), **json.loads(made.submission.model_dump_json())})
    else:
        _show(made)
    return 0


def _show(made: SubmissionFolder) -> None:
    s, out = made.submission, console.stdout()
    table = console.table("", "figure", "margin", right=("figure",))
    for run in sorted(made.runs, key=lambda run: run.seed):
        size = Size(run.code_bytes or 0, run.artifact_bytes)
        table.add_row(f"seed {run.seed}", f"{run.bpb:.6f} bpb", f"{size.total_bytes:,} bytes, {size.margin()}")
    table.add_row("mean", f"{s.val_bpb:.6f} bpb", "")
    table.add_row("code", f"{s.bytes_code or 0:,} bytes", "train_gpt.py as it is on the disk")
    table.add_row("artifact", f"{s.artifact_bytes:,} bytes", f"of seed {s.artifact_seed}")
    table.add_row(
        "code + artifact", f"{s.bytes_total or 0:,} bytes", Size(s.bytes_code or 0, s.artifact_bytes).margin()
    )
    for what, seconds in (("training", s.wallclock_seconds), ("evaluation", s.eval_time_seconds)):
        table.add_row(
            what, f"{seconds:.1f} s", f"{LIMIT_S - seconds:.1f} s of {LIMIT_S:.0f} s left, longest of the seeds"
        )
    out.print(table)
    odd = next((run for run in made.runs if not is_challenge_validation(run)), made.runs[0])
    out.print(f"validation: {validation_words(odd)}")
    for sentence in sentences(s.statistics):
        out.print(sentence, markup=False)
    out.print(str(made.folder), markup=False)


def verify_command(folder: Path, checking: Checking, as_json: bool, ask: bool = False) -> int:
    """0 when nothing speaks against any claim, 1 otherwise. `ask`: at a terminal, ask whether the folder's code may run."""
    from rich.text import Text

    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    at_terminal = sys.stdin.isatty() and sys.stderr.isatty() and not as_json
    verdict = verify(folder, checking, _asked if ask and at_terminal else None)
    wrong = verdict.mismatches
    if as_json:
        console.print_json(verdict_as_dict(verdict))
        return 1 if wrong else 0
    table = console.table("claim", "claimed", "found", "verdict")
    for claim in verdict.claims:
        said = "not checked" if claim.ok is None else "holds" if claim.ok else "MISMATCH"
        table.add_row(*(Text(word) for word in (claim.what, claim.claimed, claim.found, said)))  # never markup
    out = console.stdout()
    out.print(table)
    if verdict.sandbox is not None:
        out.print(f"the folder's code ran in this sandbox: {verdict.sandbox}", markup=False)
    if wrong:
        out.print(f"{len(wrong)} mismatches: {', '.join(claim.what for claim in wrong)}", markup=False)
    return 1 if wrong else 0


def _asked(plan: str) -> bool:
    """Whether the person at the terminal says yes to what would run."""
    console.say(f"The folder's own code has not been run. With a yes, verify {plan}.")
    sys.stderr.write("Run it? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")
