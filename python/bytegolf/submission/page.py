"""README.md of a submission: the author's words, and tables that follow from submission.json and the logs alone."""

from __future__ import annotations

import re
from collections.abc import Sequence

from bytegolf.bundle.meter import LIMIT_BYTES, LIMIT_S
from bytegolf.bundle.script import NAME, OWN
from bytegolf.config import Config
from bytegolf.record.facts import Facts
from bytegolf.record.fields import Statistics, Submission, is_challenge_validation
from bytegolf.submission.check import ARTIFACT, CONFIG, FIELDS, REQUIREMENTS, TRACKS


def page(submission: Submission, runs: Sequence[Facts], idea: str) -> str:
    """The whole text."""
    head, results, repeat = parts(submission, runs)
    return f"{head}\n## Idea\n\n{idea.strip() or submission.blurb}\n\n{results}\n{repeat}"


def parts(submission: Submission, runs: Sequence[Facts]) -> tuple[str, str, str]:
    """What README.md must contain word for word: its head, results with statistics and options, and how to repeat them."""
    s = submission
    author = f"{s.author} ({s.github_id})" if s.github_id else s.author
    head = f"# {s.name}\n\n{s.blurb}\n\nBy {author}, {s.date}, `{s.track}`. Hardware: {s.hardware}.\n"
    seeds = sorted(runs, key=lambda run: run.seed)
    results = [
        "## Results",
        "",
        "| seed | bits per byte | nats per id | whole chunks | before quantisation | steps | training, s | evaluation, s | artifact, bytes | code + artifact, bytes |",
        "|---:|---:|---:|---:|---:|---:|---:|---:|---:|---:|",
        *(_row(run) for run in seeds),
        f"| **mean** | **{s.val_bpb:.6f}** | {s.val_loss:.6f} | | {s.pre_quant_val_bpb:.6f} | | | | | |",
        "",
        *_score(seeds[0]),
        "",
        *_limits(submission, seeds),
        "",
        "### Statistics",
        "",
        *sentences(s.statistics),
        "",
        "### Options",
        "",
        f"Those that differ from the plain preset of the family; [{CONFIG}]({CONFIG}) holds all.",
        "",
        "```toml",
        *options(seeds[0].config),
        "```",
    ]
    return head, "\n".join(results) + "\n", _repeat(submission, seeds)


def _row(run: Facts) -> str:
    figures = [
        f"{run.bpb:.6f}",
        f"{run.loss:.6f}",
        f"{run.whole_bpb:.6f}",
        f"{run.pre_quant_bpb:.6f}",
        f"{run.steps:,}",
    ]
    figures += [f"{run.train_s:.1f}", f"{run.eval_s:.1f}", f"{run.artifact_bytes:,}", f"{run.total_bytes or 0:,}"]
    return f"| {run.seed} | " + " | ".join(figures) + " |"


def _score(run: Facts) -> list[str]:
    ranks = f" by {run.world_size} processes" if run.world_size > 1 else ""
    whose = "the challenge's own" if is_challenge_validation(run) else "not the challenge's own validation set"
    return [
        f"The score is that of the artifact read back from disk, in windows of {run.window} ids at stride {run.stride}, computed on",
        f"{run.device} in {run.dtype}{ranks}: {run.targets:,} ids, each scored once, {run.bytes:,} of them bytes ({whose}).",
    ]


def _limits(submission: Submission, runs: Sequence[Facts]) -> list[str]:
    largest, train = max(run.total_bytes or 0 for run in runs), submission.wallclock_seconds
    evaluation = submission.eval_time_seconds
    scored, targets = min(run.targets for run in runs), max(run.val_ids - 1 for run in runs)
    return [
        f"Code is {NAME} as it lies here: {submission.bytes_code or 0:,} bytes. With the artifact of seed {submission.artifact_seed}"
        f" {submission.bytes_total or 0:,} bytes count.",
        "",
        "| limit | largest of the seeds | at most | margin |",
        "|---|---:|---:|---:|",
        f"| code + artifact, bytes | {largest:,} | {LIMIT_BYTES:,} | {LIMIT_BYTES - largest:,} |",
        f"| training, s | {train:.3f} | {LIMIT_S:.0f} | {LIMIT_S - train:.3f} |",
        f"| evaluation, s | {evaluation:.3f} | {LIMIT_S:.0f} | {LIMIT_S - evaluation:.3f} |",
        f"| validation ids left out | {targets - scored:,} | 0 | {scored - targets:,} |",
        *_remarks(submission),
    ]


def _remarks(submission: Submission) -> list[str]:
    """What a reader must know that no number of these tables says."""
    remarks = []
    if submission.track == TRACKS[0] and submission.challenge_validation is False:
        remarks.append(
            f"{TRACKS[0]} is scored on the challenge's whole validation set; these scores are of other text, as was asked for."
        )
    if submission.track == TRACKS[0] and not re.search(r"\b8 x .*H100", submission.hardware):
        remarks.append(f"{TRACKS[0]} is timed on 8 H100; these runs were not made on them.")
    if max(submission.wallclock_seconds, submission.eval_time_seconds) > LIMIT_S:
        remarks.append("This submission is for unlimited time.")
    return ["", *remarks] if remarks else []


def sentences(statistics: Statistics) -> list[str]:
    """Statistics in words."""
    s = statistics
    if s.sd is None:
        spread = f"One seed: {s.mean:.8f} bits per byte; nothing can be said of the spread."
    else:
        spread = f"{s.n} seeds: mean {s.mean:.8f} bits per byte, standard deviation {s.sd:.8f}"
        if s.low is not None and s.high is not None:
            spread += f", {100 * s.confidence:g} % interval of the mean [{s.low:.8f}, {s.high:.8f}]"
        spread += "."
    if s.baseline is None:
        return [spread, "No baseline was named."]
    aim = f"below {s.baseline:g} by at least {s.margin:.6f} bits per byte"
    if s.t is None or s.p is None:
        return [spread, f"That the mean lies {aim} cannot be tested without a spread."]
    verdict = "holds" if s.p < 0.01 else "does not hold"
    test = f"One-sided t test that the mean lies {aim}: t = {s.t:.4f}, p = {s.p:.4g}; at p < 0.01 this {verdict}."
    return [spread, test]


def options(config: Config) -> list[str]:
    """Lines of the options that differ from the family's plain preset, but for those that a run chooses for itself."""
    plain = set(Config.preset(config.family).text().splitlines())
    lines = [line for line in config.text().splitlines() if line not in plain or line.startswith("family ")]
    return [line for line in lines if line.split("=")[0].strip() not in OWN]


def _repeat(submission: Submission, runs: Sequence[Facts]) -> str:
    seeds = " ".join(str(run.seed) for run in runs)
    ranks = runs[0].world_size
    program = f"torchrun --standalone --nproc_per_node={ranks}" if ranks > 1 else "python"
    lines = [
        "## To repeat it",
        "",
        "    pip install -r requirements.txt",
        f"    for seed in {seeds}; do",
        f"      DATA_PATH=./data/datasets/fineweb10B_byte260 SEED=$seed {program} {NAME}",
        "    done",
        f"    python {NAME} eval {ARTIFACT} SHARDS --stride {runs[0].stride}",
        "",
        f"{NAME} unpacks its sources, builds them before the clock starts, trains, packs, reads the artifact back and scores it;",
        f"`python {NAME} --help` tells what it needs and reads. `bytegolf verify` checks every figure on this page from this folder alone.",
        "",
        "| file | what |",
        "|---|---|",
        f"| {NAME} | all sources, compressed, and what builds and runs them |",
        f"| {ARTIFACT} | the packed model of seed {submission.artifact_seed} |",
        *(f"| {result.log} | log of seed {seed} |" for seed, result in submission.seed_results.items()),
        f"| {FIELDS}, {CONFIG}, {REQUIREMENTS} | figures, options, Python packages |",
    ]
    return "\n".join(lines) + "\n"
