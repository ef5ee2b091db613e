"""What the log of a finished run says, and whether it is consistent."""

from __future__ import annotations

import hashlib
import itertools
import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytegolf.bundle.meter import sha256
from bytegolf.bundle.script import shared
from bytegolf.config import Config
from bytegolf.log import read_log


class Unfinished(ValueError):
    """A log without the last line of a finished run, or of a version that did not write what a submission needs."""


@dataclass(frozen=True)
class Facts:
    """One run by its log. Sizes in bytes, times in seconds; bpb, nats, bytes and targets are of the score of record.
    eval_s: reading the artifact and every scoring of it. world_size: ranks. hardware: of a run that was resumed elsewhere, all.
    alone: whether its writer is known to have been the only one. train_sha256: None in logs of older versions."""

    log: Path
    log_sha256: str
    seed: int
    config: Config
    version: str
    commit: str | None
    hardware: str
    world_size: int
    device: str
    dtype: str
    parameters: int
    steps: int
    train_bytes: int
    train_s: float
    eval_s: float
    weights: str
    bpb: float
    nats: float
    bytes: int
    targets: int
    window: int
    stride: int
    whole_bpb: float
    floored_bpb: float | None
    pre_quant_bpb: float
    artifact_bytes: int
    artifact_sha256: str
    code_bytes: int | None
    code_sha256: str | None
    total_bytes: int | None
    config_sha256: str
    train_ids: int
    val_ids: int
    val_sha256: str
    disagreements: tuple[str, ...]  # of the log's lines with each other
    alone: bool = True
    train_sha256: str | None = None

    @property
    def loss(self) -> float:
        """Nats per scored id."""
        return self.nats / self.targets


def read_facts(path: Path) -> Facts:
    """Unfinished for a log that does not end well, ValueError for one that holds no log or names unknown options."""
    lines = read_log(path)
    starts, end = [line for line in lines if line["kind"] == "start"], lines[-1]
    if not starts or end["kind"] != "end" or end.get("reason") != "done":
        reason = end.get("reason", "nothing") if end["kind"] == "end" else "no last line"
        raise Unfinished(f"{path}: not the log of a finished run ({reason})")
    try:
        return _facts(path, lines, starts, end)
    except (KeyError, TypeError, AttributeError, ArithmeticError) as error:
        raise Unfinished(f"{path}: its lines lack what a submission needs: {error}") from None


def _facts(path: Path, lines: list[dict[str, Any]], starts: list[dict[str, Any]], end: dict[str, Any]) -> Facts:
    start, made, record, whole = starts[-1], end["made"], end["sliding"], end["whole"]
    config = Config.stored(start["config"], f"the options of {path}")
    eval_s = (
        end["load_seconds"] + record["seconds"] + (whole["seconds"] if whole["stride"] != record["stride"] else 0.0)
    )
    facts = {
        "seed": start["seed"],
        "config": config,
        **{name: start[name] for name in ("version", "commit", "dtype")},
        "hardware": ", then ".join(dict.fromkeys(line["hardware"] for line in starts)),
        "world_size": _world_size(start),
        "device": start["device"].partition(":")[0],  # cuda:1 is as good as cuda:0
        **{name: end[name] for name in ("parameters", "steps", "train_bytes", "weights", "artifact_bytes")},
        "train_s": end["train_seconds"],
        "eval_s": eval_s,
        **{name: record[name] for name in ("bpb", "nats", "bytes", "targets", "window", "stride")},
        "whole_bpb": whole["bpb"],
        "floored_bpb": whole["floored_bpb"],
        "pre_quant_bpb": end["unquantised"]["bpb"],
        **made,
    }
    found = tuple(_disagreements(lines, starts, end, config))
    return Facts(path, sha256(path), **facts, disagreements=found, alone=all(_alone(line) for line in starts))


def _alone(start: dict[str, Any]) -> bool:
    """Whether a `start` line's writer held its folder (`lock`), or its log in versions before that. The oldest do not say."""
    return bool(start.get("lock") or start.get("locked", True))


def _world_size(start: dict[str, Any]) -> int:
    """Ranks by a `start` line; logs of one process need not say."""
    return int(start.get("world_size", 1))


def config_hash(config: Config) -> str:
    """Names the options that all seeds share: "2:" and the SHA-256 of their canonical form."""
    return f"2:{hashlib.sha256(shared(config).canonical().encode()).hexdigest()}"


def config_hash_like(said: str, names: Iterable[str], config: Config) -> str:
    """The hash of `config` as the version made it that wrote `said`; `names` are the options that it knew, in its order.

    The first hash had no number before it: SHA-256 of the lines of all options but those that a run chooses for itself.
    """
    if ":" in said:
        return config_hash(config)
    own, config = ("seed", "train_data", "val_data", "device", "track"), shared(config)
    text = "".join(f"{name} = {config.get(name)}\n" for name in names if name not in own)
    return hashlib.sha256(text.encode()).hexdigest()


def _disagreements(
    lines: list[dict[str, Any]], starts: list[dict[str, Any]], end: dict[str, Any], config: Config
) -> list[str]:
    made, found = end["made"], []

    def same(what: str, one: Any, other: Any, tolerance: float = 0.0) -> None:
        is_number = isinstance(one, float) and isinstance(other, (int, float))
        if not (math.isclose(one, other, rel_tol=tolerance, abs_tol=tolerance) if is_number else one == other):
            found.append(f"{what}: {one} and {other}")

    for line in starts:
        same("seed and option seed", line["seed"], line["config"]["seed"])
        where = f"where the run was resumed at step {line['step']}"
        for name in ("seed", "code_sha256", "train_sha256", "val_sha256"):
            known = next((start[name] for start in starts if name in start), None)  # older versions wrote fewer
            if line.get(name, known) != known:
                found.append(f"{name} changed {where}")
        first, later = (Config.stored(options, "the log") for options in (starts[0]["config"], line["config"]))
        # Neither does a tracker change what is computed, nor where the same data lies.
        alike = ["track", *(f"{kind}_data" for kind in ("train", "val") if f"{kind}_sha256" in line)]
        for name, before, after in first.differences(later):
            if name not in alike:
                found.append(f"config changed {where}: {name} from {before} to {after}")
        if _world_size(line) != _world_size(starts[0]):
            found.append(f"world_size changed {where}")
        gpus = re.match(r"(\d+) x ", line["hardware"])
        if gpus:  # one per rank
            same("ranks and GPUs", _world_size(line), int(gpus[1]))
    again = config_hash_like(made["config_sha256"], starts[-1]["config"], config)
    same("sha256 of the options and config_sha256", again, made["config_sha256"])
    same("code_sha256 at start and end", starts[-1]["code_sha256"], made["code_sha256"])
    for name in ("train_sha256", "val_sha256"):
        if name in starts[-1] and name in made:
            same(f"{name} at start and end", starts[-1][name], made[name])
    if made["code_bytes"] is not None:
        same("code + artifact and total_bytes", made["code_bytes"] + end["artifact_bytes"], made["total_bytes"])
    for name in ("whole", "sliding"):
        claim = end[name]
        scored = [
            line
            for line in lines
            if line["kind"] == "val" and line["from"] == "artifact" and line["stride"] == claim["stride"]
        ]
        if not scored:
            found.append(f"no line gives the artifact's score at stride {claim['stride']}")
            continue
        for fact in ("bpb", "nats", "bytes", "targets"):
            same(f"{fact} of the last score and of the end", scored[-1][fact], claim[fact])
        same(
            f"bpb of {name} and its nats over its bytes",
            claim["bpb"],
            claim["nats"] / math.log(2) / claim["bytes"],
            1e-9,
        )
    found += _interleaved(lines)
    steps = [line for line in lines if line["kind"] == "step"]
    if not steps or steps[-1]["step"] != end["steps"]:
        found.append(f"last step {steps[-1]['step'] if steps else 'missing'}, but the end says {end['steps']} steps")
    elif steps[-1]["elapsed_s"] > end["train_seconds"] + 0.01:
        found.append(f"last step at {steps[-1]['elapsed_s']:.2f} s, but the end says {end['train_seconds']:.2f} s")
    return found


def _interleaved(lines: list[dict[str, Any]]) -> list[str]:
    """Signs that two processes wrote the log at once: of one alone the steps increase, and it ends once."""
    found = []
    steps = [line["step"] for line in lines if line["kind"] == "step"]
    for before, after in itertools.pairwise(steps):
        if after <= before:
            found.append(f"step {after} follows step {before}: two processes wrote this log")
            break
    ends = sum(line["kind"] == "end" for line in lines)
    if ends > 1:
        found.append(f"the run ends {ends} times: two processes wrote this log")
    return found
