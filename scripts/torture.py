#!/usr/bin/env python3
"""A campaign that tries to break bytegolf: parsers under fuzzing, forged files, kills, failing calls, a full disk, NaN, wrong clocks.

    .venv/bin/python scripts/torture.py                    two minutes, each stage a share of them
    .venv/bin/python scripts/torture.py --seconds 600      ten
    .venv/bin/python scripts/torture.py --long             until each stage has reached its goal (hours); writes records/torture/
    .venv/bin/python scripts/torture.py --only log kills   some stages alone

Equal seeds try the same inputs in the same order. The table at the end has a row for each stage; the status is 1 when anything was found.
What was found is kept in build/torture/findings: the input, and beside it in a .txt what happened and the command that tries it again.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests_py"))

from campaign.stage import BUILD, Context, Outcome, Stage  # noqa: E402
from campaign.stages import STAGES  # noqa: E402

RECORDS = ROOT / "records" / "torture"


def main() -> int:
    """Runs what was asked for; 0 without findings, 1 with, 2 when a stage itself failed."""
    options = _options()
    stages = [stage for stage in STAGES if not options.only or stage.name in options.only]
    BUILD.mkdir(parents=True, exist_ok=True)
    whole = sum(stage.share for stage in stages)
    rows, failed = [], False
    for stage in stages:
        print(f"== {stage.name}", flush=True)
        started = time.monotonic()
        context = Context(
            stage=stage.name,
            seed=options.seed,
            seconds=stage.hours * 3600 if options.long else options.seconds * stage.share / whole,
            goal=stage.goal if options.long else 0,
            folder=BUILD / "work" / stage.name,
            jobs=options.jobs,
            case=options.case,
            input=options.input,
        )
        shutil.rmtree(context.folder, ignore_errors=True)
        context.folder.mkdir(parents=True)
        try:
            outcome = stage.run(context)
        except Exception:
            traceback.print_exc()
            outcome, failed = Outcome(note="the stage itself failed"), True
        for finding in outcome.findings:
            print(f"FOUND {finding.words}\n      {finding.command}", flush=True)
        rows.append((stage, outcome, time.monotonic() - started))
    table = _table(rows)
    print("\n" + table)
    if options.long or options.record:
        _record(table, options, rows)
    return 2 if failed else int(any(outcome.findings for _, outcome, _ in rows))


def _options() -> argparse.Namespace:
    names = [stage.name for stage in STAGES]
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    length = parser.add_mutually_exclusive_group()
    length.add_argument("--seconds", type=float, default=120.0, help="for all stages together (default: %(default)g)")
    length.add_argument("--long", action="store_true", help="until each stage has reached its goal; hours")
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn (default: %(default)s)")
    parser.add_argument("--only", nargs="+", choices=names, metavar="NAME", help=f"stages: {', '.join(names)}")
    parser.add_argument(
        "--jobs", type=int, default=len(os.sched_getaffinity(0)), help="processes at once (default: the cores)"
    )
    parser.add_argument("--case", type=int, default=-1, help="one numbered case of one stage, again")
    parser.add_argument("--input", type=Path, help="one kept file of one stage, again")
    parser.add_argument("--record", action="store_true", help="write records/torture/ as --long does")
    options = parser.parse_args()
    if (options.input or options.case >= 0) and len(options.only or []) != 1:
        parser.error("--input and --case try one thing of one stage again: name it with --only")
    return options


def _table(rows: list[tuple[Stage, Outcome, float]]) -> str:
    lines = [f"{'stage':<14} {'executions':>12} {'findings':>9} {'seconds':>8}  note"]
    for stage, outcome, seconds in rows:
        note = (outcome.skipped and f"skipped: {outcome.skipped}") or outcome.note
        lines.append(
            f"{stage.name:<14} {outcome.executions:>12,} {len(outcome.findings):>9} {seconds:>8.0f}  {note[:30]}".rstrip()
        )
    executions = sum(outcome.executions for _, outcome, _ in rows)
    findings = sum(len(outcome.findings) for _, outcome, _ in rows)
    lines.append(f"{'all':<14} {executions:>12,} {findings:>9} {sum(s for *_, s in rows):>8.0f}")
    return "\n".join(lines)


def _record(table: str, options: argparse.Namespace, rows: list[tuple[Stage, Outcome, float]]) -> None:
    """Adds the table to records/torture/, with what it was made from."""
    commit = subprocess.run(
        ["git", "describe", "--always", "--dirty"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    now = datetime.now(UTC)
    what = f"commit {commit.stdout.strip() or 'unknown'}, {now:%Y-%m-%d %H:%M} UTC, seed {options.seed}, {options.jobs} processes"
    found = "".join(f"\n- {f.stage}: {f.words}" for _, outcome, _ in rows for f in outcome.findings)
    skipped = "".join(f"\n- {s.name} was skipped: {o.skipped}" for s, o, _ in rows if o.skipped)
    RECORDS.mkdir(parents=True, exist_ok=True)
    kind = "long" if options.long else "short"
    name = RECORDS / f"{now:%Y-%m-%d}-{kind}-{now:%H%M}.md"
    command = " ".join(["scripts/torture.py", *sys.argv[1:]])
    name.write_text(
        f"# {what}\n\n    {command}\n\n```\n{table}\n```\n{found}{skipped}\n".rstrip() + "\n", encoding="utf-8"
    )
    print(f"kept as {name.relative_to(ROOT)}")


if __name__ == "__main__":
    sys.exit(main())
