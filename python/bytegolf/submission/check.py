"""Why a set of runs may not be submitted: each reason by name, with the margin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from bytegolf.artifact import artifact_options
from bytegolf.bundle import script
from bytegolf.bundle.meter import LIMIT_S, RECORD_SEEDS, Size, sha256, weigh
from bytegolf.config import Config
from bytegolf.record.facts import Facts
from bytegolf.record.fields import Submission, is_challenge_validation, submission_of, validation_words

TRACKS = ("track_10min_16mb", "track_non_record_16mb")
ARTIFACT, CONFIG, PAGE, FIELDS, REQUIREMENTS = (
    "artifact.bg",
    "config.toml",
    "README.md",
    "submission.json",
    "requirements.txt",
)


@dataclass(frozen=True)
class Problem:
    """One reason: a name for programs, and what was found against what must be."""

    name: str
    text: str


def rules(
    runs: Sequence[Facts],
    track: str,
    seeds: Sequence[int] | None = None,
    unlimited_time: bool = False,
    other_validation: bool = False,
) -> list[Problem]:
    """What the logs themselves show against the challenge's rules and against each other.

    `seeds` names all that must be there; None means whichever are. `unlimited_time` lifts the limits of time on the
    non-record track, `other_validation` the record track's condition that the challenge's whole validation set was scored.
    """
    found = []
    for run in runs:
        who = f"seed {run.seed}"
        if run.code_bytes is None:
            found.append(Problem("no-code", f"{who}: made by a package without its sources, so no train_gpt.py exists"))
        else:
            size = Size(run.code_bytes, run.artifact_bytes)
            if size.margin_bytes < 0:
                text = (
                    f"{who}: {size.code_bytes:,} code + {size.artifact_bytes:,} artifact = {size.total_bytes:,} bytes"
                )
                found.append(Problem("over-limit", f"{text}, {size.margin()}"))
        if not unlimited_time:
            for name, what, seconds in (
                ("training", "training", run.train_s),
                ("evaluation", "evaluation", run.eval_s),
            ):
                if seconds > LIMIT_S:
                    text = f"{who}: {seconds:.3f} s of {what} are {seconds - LIMIT_S:.3f} s over {LIMIT_S:.0f} s"
                    found.append(Problem(f"{name}-time", text))
        found += coverage(run, run.val_ids - 1)
        if track == TRACKS[0] and not other_validation and not is_challenge_validation(run):
            text = f"{who}: {validation_words(run)}; --other-validation allows it and says so"
            found.append(Problem("other-validation", text))
        found += [Problem("log-disagrees", f"{who}: {text}") for text in run.disagreements]
    return found + _together(runs, track, seeds)


def coverage(run: Facts, targets: int) -> list[Problem]:
    """Whether a run scored all `targets` of the validation shards."""
    if run.targets == targets:
        return []
    share = 100 * run.targets / targets if targets else 0
    text = f"{run.targets:,} targets scored of {targets:,} ({share:.2f} %), {targets - run.targets:,} missing"
    return [Problem("partial-validation", f"seed {run.seed}: {text}")]


def _together(runs: Sequence[Facts], track: str, seeds: Sequence[int] | None) -> list[Problem]:
    found = []
    counts = Counter(run.seed for run in runs)
    for seed, count in sorted(counts.items()):
        if count > 1:
            names = ", ".join(str(run.log) for run in runs if run.seed == seed)
            found.append(Problem("duplicate-seed", f"seed {seed} comes {count} times: {names}"))
    for seed in seeds or ():
        if seed not in counts:
            found.append(Problem("missing-seed", f"seed {seed} has no run among those named"))
    if track == TRACKS[0] and len(counts) < RECORD_SEEDS:
        text = f"{len(counts)} of the {RECORD_SEEDS} seeds that {track} asks for"
        found.append(Problem("missing-seed", text))
    first = runs[0]
    for run in runs[1:]:
        pair = f"seeds {first.seed} and {run.seed}"
        for text in differences(first, run):
            found.append(Problem("different-configs", f"{pair}: {text}"))
        same = not script.shared(first.config).differences(script.shared(run.config))
        if run.code_sha256 != first.code_sha256 and same:
            found.append(Problem("different-code", f"{pair} were made by different sources"))
        if run.val_sha256 != first.val_sha256:
            found.append(Problem("different-validation", f"{pair} were scored on different ids"))
    return found


def differences(one: Facts, other: Facts) -> list[str]:
    """Options, data and arithmetic in which two runs differ, but for what a run chooses for itself."""
    found = [f"`{x}` and `{y}`" for x, y in _pairs(script.shared(one.config), script.shared(other.config))]
    for name in ("world_size", "device", "dtype", "version", "train_ids"):
        x, y = getattr(one, name), getattr(other, name)
        if x != y:
            found.append(f"{name} {x} and {y}")
    if one.train_sha256 and other.train_sha256 and one.train_sha256 != other.train_sha256:
        found.append(f"other training data (train_sha256 {one.train_sha256[:12]} and {other.train_sha256[:12]})")
    return found


def files(run: Facts, folder: Path) -> list[Problem]:
    """What a run's folder holds against what its log says: sizes and hashes, seed, options, and the run's own report."""
    found: list[Problem] = []
    pairs: list[tuple[str, object, object]] = []
    lacking = [name for name in (ARTIFACT, CONFIG, script.NAME) if not (folder / name).is_file()]
    if lacking:
        return [Problem("log-disagrees", f"{folder} lacks {', '.join(lacking)}, which its log mentions")]
    size = weigh(folder / script.NAME, folder / ARTIFACT)
    pairs += [
        ("bytes of code", run.code_bytes, size.code_bytes),
        ("bytes of artifact", run.artifact_bytes, size.artifact_bytes),
        ("bytes in all", run.total_bytes, size.total_bytes),
        ("sha256 of code", run.code_sha256, sha256(folder / script.NAME)),
        ("sha256 of artifact", run.artifact_sha256, sha256(folder / ARTIFACT)),
    ]
    config = Config.of_run(folder / CONFIG)
    pairs.append(("seed", run.seed, config.seed))
    pairs += [("option", f"`{x}`", f"`{y}`") for x, y in _pairs(run.config, config)]
    carried = script.load(folder / script.NAME).config
    own = Config.stored(carried, f"the options of {folder / script.NAME}")
    pairs += [("option in train_gpt.py", f"`{x}`", f"`{y}`") for x, y in _pairs(script.shared(config), own)]
    model = Config.stored(artifact_options(folder / ARTIFACT), f"the options inside {folder / ARTIFACT}")
    pairs += [("option in the artifact", f"`{x}`", f"`{y}`") for x, y in _pairs(config, model, ["model"])]
    report = folder / FIELDS
    if report.is_file():
        try:
            said = Submission.model_validate_json(report.read_bytes())
        except ValidationError as error:
            first = error.errors(include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            text = f"seed {run.seed}: {report} does not fit its schema: {where}: {first['msg']}"
            return [*found, Problem("log-disagrees", text)]
        again = submission_of([run], name=said.name, blurb=said.blurb, track=said.track, date=said.date)
        pairs += [
            (f"{field} of {FIELDS}", getattr(again, field), getattr(said, field))
            for field in Submission.model_fields
            if field != "seed_results" and field in said.model_fields_set
        ]
    for what, logged, there in pairs:
        if logged != there:
            found.append(Problem("log-disagrees", f"seed {run.seed}: {what}: the log says {logged}, {folder} {there}"))
    return found


def _pairs(one: Config, other: Config, sections: Sequence[str] = ("model", "train", "run")) -> list[tuple[str, str]]:
    return [(f"{name} = {x}", f"{name} = {y}") for name, x, y in one.differences(other, list(sections))]


def requirements(carried: dict[str, bytes], device: str) -> str:
    """requirements.txt: what pyproject.toml asks for, what the build needs, and cuBLAS for runs on a GPU."""
    import tomllib

    project = tomllib.loads(carried["pyproject.toml"].decode())
    needed = list(project["project"]["dependencies"])
    needed += [word for word in project["build-system"]["requires"] if word.startswith("pybind11")]
    needed += [f"{tool}{project['tool']['scikit-build'][tool]['version']}" for tool in ("cmake", "ninja")]
    if device == "cuda":
        needed += project["project"]["optional-dependencies"]["cuda"]
    head = "# Also needed: a C++20 compiler, headers of zstd and Highway (Debian: g++ libzstd-dev libhwy-dev)"
    head += "; CUDA toolkit 12.8 or later.\n" if device == "cuda" else ".\n"
    return head + "".join(f"{word}\n" for word in needed)


def log_name(seed: int) -> str:
    """Name of a seed's log in a submission."""
    return f"train_seed{seed}.jsonl"
