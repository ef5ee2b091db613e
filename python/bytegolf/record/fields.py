"""submission.json: its fields, how they follow from the logs of the seeds, and nothing else."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from pydantic import BaseModel, ConfigDict, Field

from bytegolf.bundle.meter import LIMIT_BYTES, RECORD_NATS, VAL_BYTES, VAL_DOCUMENTS
from bytegolf.disk import write_whole
from bytegolf.record.facts import Facts

CONFIDENCE = 0.99


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)


class Statistics(_Strict):
    """Over the seeds, in bits per byte: mean, standard deviation (n - 1), interval of the mean; and Student's one-sided test
    that the mean lies below baseline - margin. None where one seed, or no baseline, leaves nothing to say."""

    n: int
    mean: float
    sd: float | None
    confidence: float
    low: float | None
    high: float | None
    baseline: float | None
    margin: float
    t: float | None
    p: float | None


class SeedResult(_Strict):
    """One seed. Sizes in bytes, times in seconds, losses in nats per scored id."""

    val_bpb: float
    val_loss: float
    val_bpb_whole_chunks: float
    pre_quant_val_bpb: float
    artifact_bytes: int
    bytes_total: int | None
    wallclock_seconds: float
    eval_time_seconds: float
    step_stop: int
    log: str
    log_sha256: str
    artifact_sha256: str


class Submission(_Strict):
    """The whole file. val_loss, val_bpb and pre_quant_val_bpb are means over the seeds, times the longest of any seed; sizes,
    step_stop and whole chunks are of `artifact_seed`, whose artifact is carried. challenge_validation: whether all seeds were scored
    on the challenge's whole validation set. Units as in SeedResult."""

    author: str = "anonymous"
    github_id: str = ""
    name: str
    blurb: str
    date: str
    track: str
    hardware: str
    seeds: list[int] = Field(min_length=1)
    seed_results: dict[str, SeedResult]
    val_loss: float
    val_bpb: float
    val_bpb_std: float | None
    val_bpb_whole_chunks: float
    val_bpb_whole_chunks_floored: float | None
    pre_quant_val_bpb: float
    val_bytes: int
    val_targets: int
    val_sha256: str
    challenge_validation: bool | None = None  # None in files of versions that did not say it
    wallclock_seconds: float
    eval_time_seconds: float
    step_stop: int
    bytes_total: int | None
    bytes_code: int | None
    artifact_bytes: int
    artifact_seed: int
    artifact_sha256: str
    code_sha256: str | None
    config_sha256: str
    within_limit: bool
    statistics: Statistics

    def write(self, path: Path) -> None:
        """Writes the JSON with a newline at its end."""
        write_whole(path, self.model_dump_json(indent=2).encode() + b"\n")


def is_challenge_validation(run: Facts) -> bool:
    """Whether a run was scored on the challenge's whole validation set, by the counts of its ids and bytes.

    Where a vocabulary has a bos, each document begins with one; where it has none, the first byte is context alone.
    """
    has_bos = run.config.bos_id >= 0
    ids = VAL_BYTES + (VAL_DOCUMENTS if has_bos else 0)
    return (run.val_ids, run.targets, run.bytes) == (ids, ids - 1, VAL_BYTES if has_bos else VAL_BYTES - 1)


def validation_words(run: Facts) -> str:
    """What a run was scored on, in words."""
    if is_challenge_validation(run):
        return "the challenge's own, whole"
    return f"not the challenge's own validation set: {run.bytes:,} bytes in {run.val_ids:,} ids"


def statistics_of(values: Sequence[float], baseline: float | None, margin_nats: float = RECORD_NATS) -> Statistics:
    """Statistics of the seeds' bits per byte; a record's margin is given in nats per scored unit, here a byte."""
    from bytegolf.stats import summarise, t_test

    summary, margin = summarise(values, CONFIDENCE), margin_nats / math.log(2)
    test = None if baseline is None else t_test(values, baseline, margin=margin, confidence=CONFIDENCE)
    return Statistics(
        n=summary.n,
        mean=summary.mean,
        sd=summary.sd,
        confidence=CONFIDENCE,
        low=summary.low,
        high=summary.high,
        baseline=baseline,
        margin=margin,
        t=test.t if test else None,
        p=test.p if test else None,
    )


def submission_of(
    runs: Sequence[Facts],
    *,
    name: str,
    blurb: str,
    track: str,
    author: str = "anonymous",
    github_id: str = "",
    date: str = "",
    artifact_seed: int | None = None,
    baseline: float | None = None,
    log_names: dict[int, str] | None = None,
) -> Submission:
    """All fields from what the logs say. `artifact_seed` None takes the best; `date` "" is today (UTC)."""
    best = min(runs, key=lambda run: (run.bpb, run.seed))
    kept = best if artifact_seed is None else next(run for run in runs if run.seed == artifact_seed)
    seeds = sorted(runs, key=lambda run: run.seed)
    statistics = statistics_of([run.bpb for run in seeds], baseline)
    results = {str(run.seed): _result(run, (log_names or {}).get(run.seed, run.log.name)) for run in seeds}
    return Submission(
        author=author,
        github_id=github_id,
        name=name,
        blurb=blurb,
        date=date or datetime.datetime.now(datetime.UTC).date().isoformat(),
        track=track,
        hardware="; ".join(sorted({run.hardware for run in runs})),
        seeds=[run.seed for run in seeds],
        seed_results=results,
        val_loss=fmean(run.loss for run in seeds),
        val_bpb=statistics.mean,
        val_bpb_std=statistics.sd,
        val_bpb_whole_chunks=kept.whole_bpb,
        val_bpb_whole_chunks_floored=kept.floored_bpb,
        pre_quant_val_bpb=fmean(run.pre_quant_bpb for run in seeds),
        val_bytes=kept.bytes,
        val_targets=kept.targets,
        val_sha256=kept.val_sha256,
        challenge_validation=all(is_challenge_validation(run) for run in runs),
        wallclock_seconds=max(run.train_s for run in runs),
        eval_time_seconds=max(run.eval_s for run in runs),
        step_stop=kept.steps,
        bytes_total=kept.total_bytes,
        bytes_code=kept.code_bytes,
        artifact_bytes=kept.artifact_bytes,
        artifact_seed=kept.seed,
        artifact_sha256=kept.artifact_sha256,
        code_sha256=kept.code_sha256,
        config_sha256=kept.config_sha256,
        within_limit=all(run.total_bytes is not None and run.total_bytes <= LIMIT_BYTES for run in runs),
        statistics=statistics,
    )


def _result(run: Facts, log: str) -> SeedResult:
    return SeedResult(
        val_bpb=run.bpb,
        val_loss=run.loss,
        val_bpb_whole_chunks=run.whole_bpb,
        pre_quant_val_bpb=run.pre_quant_bpb,
        artifact_bytes=run.artifact_bytes,
        bytes_total=run.total_bytes,
        wallclock_seconds=run.train_s,
        eval_time_seconds=run.eval_s,
        step_stop=run.steps,
        log=log,
        log_sha256=run.log_sha256,
        artifact_sha256=run.artifact_sha256,
    )
