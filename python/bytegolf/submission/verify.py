"""`bytegolf verify`: every claim of a submission against what its folder holds, and its score by our own code.

Nothing of the folder runs unless that is asked for, and never after a mismatch. See SECURITY.md for what is trusted.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bytegolf import _bytegolf
from bytegolf.artifact import artifact_options, load
from bytegolf.bundle import bootstrap, script
from bytegolf.bundle.meter import LIMIT_BYTES, LIMIT_S, sha256, weigh
from bytegolf.config import Config
from bytegolf.device import resolve
from bytegolf.ids import Ids, ids_sha256
from bytegolf.record.facts import Facts, read_facts
from bytegolf.record.fields import Submission, is_challenge_validation, submission_of, validation_words
from bytegolf.record.fingerprint import memory_bytes
from bytegolf.screen import console
from bytegolf.streams import read_stream, score
from bytegolf.submission import sandbox
from bytegolf.submission.check import (
    ARTIFACT,
    CONFIG,
    FIELDS,
    PAGE,
    REQUIREMENTS,
    TRACKS,
    log_name,
    requirements,
    rules,
)
from bytegolf.submission.page import parts

SAME_BPB = 1e-6  # where the score is computed on the same kind of device, in the same numbers
OTHER_BPB = 2e-3  # elsewhere: bfloat16 and float32 round differently
# The most that is read of each file; the artifact and train_gpt.py have the challenge's limit.
SIZES = {CONFIG: 1 << 20, PAGE: 4 << 20, FIELDS: 4 << 20, REQUIREMENTS: 1 << 16}
LOG_BYTES = 1 << 28
SCORE_BYTES = 1 << 16  # the most that the carried code may say of its score
# Variables that would lead a child to other sources, or make it one of several processes.
_OTHERS = ("PYTHONPATH", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "OMPI_", "PMI_", "PMIX_", "MPI_", "SLURM_")
_TOOLS = ("pybind11>=2.13.6", "cmake>=3.25", "ninja>=1.10")  # of a build, where pyproject.toml is not there to say
_REQUIREMENT = re.compile(r"([A-Za-z0-9][A-Za-z0-9._-]*)((,?(>=|<=|==|!=|~=|<|>)[0-9][0-9.]*(\.\*)?)*)")
# What other people's JSON can raise in code that takes it for a log of ours.
_MALFORMED = (ValueError, TypeError, LookupError, AttributeError, ArithmeticError, RecursionError, OSError)


@dataclass(frozen=True)
class Claim:
    """One claim: what it is about, what is claimed, what was found. `ok` None: not checked, `found` says why."""

    what: str
    claimed: str
    found: str
    ok: bool | None


@dataclass(frozen=True)
class Checking:
    """How much is checked: `quick` scores nothing; `run_code` also builds and runs the folder's train_gpt.py, in a sandbox and in
    a new virtual environment unless `fresh_environment` is False; `val_data` are the shards to score on; `tolerance` in bits per
    byte, None by device and numbers; `limits` of what the carried code may take."""

    quick: bool = False
    run_code: bool = False
    fresh_environment: bool = True
    val_data: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    tolerance: float | None = None
    limits: sandbox.Limits = field(default_factory=sandbox.Limits)


@dataclass(frozen=True)
class Score:
    """The artifact on the given shards, by whose code ever."""

    bpb: float
    targets: int
    bytes: int
    device: str
    dtype: str


@dataclass(frozen=True)
class Verdict:
    """All claims; the score of record, which our own code computed (None: not computed); and the sandbox that the carried code ran
    in (None: none of it ran)."""

    claims: tuple[Claim, ...]
    score: Score | None = None
    sandbox: str | None = None

    @property
    def mismatches(self) -> list[Claim]:
        """What does not hold."""
        return [claim for claim in self.claims if claim.ok is False]


def verify(folder: Path, checking: Checking, may_run: Callable[[str], bool] | None = None) -> Verdict:
    """All claims of `folder` with their verdicts.

    Unless `quick`, the artifact is scored by the running package on `val_data`; that score is the one of record. Only when
    nothing has failed, and `checking.run_code` or `may_run(what would run, in words)` says so, the folder's own train_gpt.py is
    built and run in a sandbox; what it prints is a second claim.
    """
    claims = check_folder(folder, folder.resolve().name, folder.resolve().parent.name)
    carried, own = "score by the carried code", "score by our own code"
    if checking.quick:
        return Verdict((*claims, Claim(own, "", "not asked for", None)))
    wrong = sum(claim.ok is False for claim in claims)
    if wrong:
        return Verdict((*claims, Claim(own, "", f"not tried, and nothing was run: {wrong} mismatches above", None)))
    submission = Submission.model_validate_json((folder / FIELDS).read_bytes())
    run = read_facts(folder / log_name(submission.artifact_seed))
    found: Score | None = None
    if checking.val_data is None:
        claims.append(Claim(own, f"{run.bpb:.8f}", "not computed: no shards given (--val-data)", None))
    else:
        ids = _read_ids(checking.val_data, run.config)
        console.say(f"scoring {ARTIFACT} on {checking.val_data} by our own code")
        try:
            found = _own_score(folder, run, ids, checking)
            claims += _against(run, submission, found, ids, checking)
        except (*_MALFORMED, _bytegolf.FormatError, RuntimeError, MemoryError) as error:
            claims.append(Claim(own, f"{run.bpb:.8f}", _shown(_fault(error)), False))
        if any(claim.ok is False for claim in claims):
            return Verdict((*claims, Claim(carried, "", "not run: there are mismatches above", None)), found)
    files = script.load(folder / script.NAME).files
    readable = _readable(folder, checking)
    level = sandbox.best_level(readable) if checking.run_code or may_run is not None else None
    plan = _plan(level, checking) if level is not None else ""
    if level is None or not (checking.run_code or (may_run is not None and may_run(plan))):
        return Verdict((*claims, Claim(carried, "", "not run: --run-code was not given", None)), found)
    console.say(plan)
    try:
        claims += _carried(folder, run, files, found, level, readable, checking)
    except (sandbox.Failed, _Failed) as error:
        claims.append(Claim(carried, "builds and scores the same", _shown(str(error)), False))
    return Verdict(tuple(claims), found, level.words)


def check_folder(folder: Path, name: str, track: str) -> list[Claim]:
    """What can be seen without building: files, schema, sizes, hashes, logs, tables. `name` and `track` are those of its place."""
    fixed = [ARTIFACT, CONFIG, PAGE, FIELDS, REQUIREMENTS, script.NAME]
    lacking = [file for file in fixed if not (folder / file).is_file()]
    if lacking:
        return [Claim("files", ", ".join(fixed), f"missing: {', '.join(lacking)}", False)]
    unfit = _unfit(folder)
    if unfit:
        return [Claim("files", "plain files of the usual sizes", unfit, False)]
    try:
        submission = Submission.model_validate_json((folder / FIELDS).read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        text = f"{error.error_count()} faults; {where}: {first['msg']}"
        return [Claim(FIELDS, "fits its schema", _shown(text), False)]
    claims = [Claim(FIELDS, "fits its schema", "fits", True)]
    claims.append(_equal("folder", f"{submission.track}/{submission.date}_{submission.name}", f"{track}/{name}"))
    claims.append(_equal("track", "a known one", submission.track if submission.track not in TRACKS else "a known one"))
    logs = [log_name(seed) for seed in submission.seeds]
    claims.append(_equal("files", _listed([*fixed, *logs]), _listed(file.name for file in folder.iterdir())))
    if not all((folder / name).is_file() for name in logs):
        return claims
    claims += _sizes(folder, submission)
    runs: list[Facts] = []
    for seed, name in zip(submission.seeds, logs, strict=True):
        try:
            runs.append(read_facts(folder / name))
        except _MALFORMED as error:
            claims.append(Claim(name, f"the log of seed {seed}", _shown(_fault(error)), False))
    if len(runs) == len(logs):
        try:
            claims += _logs(submission, runs)
            claims += _texts(folder, submission, runs)
        except _MALFORMED as error:
            claims.append(Claim("fields by the logs", "follow from the logs", _shown(_fault(error)), False))
    return claims


def _fault(error: BaseException) -> str:
    plain = isinstance(error, (ValueError, OSError, _bytegolf.FormatError))
    return str(error) if plain else f"{type(error).__name__}: {error}"


def _unfit(folder: Path) -> str:
    """What in the folder is no plain file, or larger than is ever read; "" when nothing is."""
    for path in sorted(folder.iterdir()):
        facts = path.lstat()
        if not stat.S_ISREG(facts.st_mode):
            return f"{_shown(path.name)} is not a plain file"
        usual = LIMIT_BYTES if path.name in (ARTIFACT, script.NAME) else SIZES.get(path.name, LOG_BYTES)
        if facts.st_size > usual:
            return f"{_shown(path.name)} has {facts.st_size:,} bytes, more than {usual:,}"
    return ""


def _shown(text: str) -> str:
    """Text of a stranger in one line, with nothing in it that a terminal would obey."""
    return " ".join(console.printable(text.encode("utf-8", errors="replace")).split())


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))


def _equal(what: str, claimed: Any, found: Any) -> Claim:
    if isinstance(claimed, float) and isinstance(found, float):
        good = math.isclose(claimed, found, rel_tol=1e-9, abs_tol=1e-15)
    else:
        good = claimed == found
    return Claim(what, _word(claimed), _word(found), good)


def _word(value: Any) -> str:
    text = _shown(f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value))
    return text if len(text) <= 200 else f"{text[:200]} ..."


def _sizes(folder: Path, submission: Submission) -> list[Claim]:
    size = weigh(folder / script.NAME, folder / ARTIFACT)
    claims = [
        _equal("bytes_code", submission.bytes_code, size.code_bytes),
        _equal("artifact_bytes", submission.artifact_bytes, size.artifact_bytes),
        _equal("bytes_total", submission.bytes_total, size.total_bytes),
        Claim("limit", "within 16,000,000 bytes", size.margin(), size.margin_bytes >= 0),
        _equal("sha256 of train_gpt.py", submission.code_sha256, sha256(folder / script.NAME)),
        _equal("sha256 of artifact", submission.artifact_sha256, sha256(folder / ARTIFACT)),
    ]
    try:
        carried = script.read((folder / script.NAME).read_bytes(), script.NAME)
        text = f"{len(carried.files)} files, each as its sha256 says"
        claims.append(Claim(script.NAME, "carries its sources", text, True))
        line = carried.foreign_line
        text = "equal" if line is None else f"line {line} is not theirs"
        claims.append(Claim(f"program of {script.NAME}", "that of its sources", text, line is None))
    except ValueError as error:
        claims.append(Claim(script.NAME, "carries its sources", _shown(str(error)), False))
    try:
        artifact_options(folder / ARTIFACT)
        claims.append(Claim(ARTIFACT, "can be read", "whole, checksum fits", True))
    except (ValueError, OSError, _bytegolf.FormatError) as error:
        claims.append(Claim(ARTIFACT, "can be read", _shown(str(error)), False))
    return claims


def _logs(submission: Submission, runs: list[Facts]) -> list[Claim]:
    """Each field against what follows from the logs, then the challenge's rules."""
    claims: list[Claim] = []
    s = submission
    again = submission_of(
        runs,
        name=s.name,
        blurb=s.blurb,
        track=s.track,
        author=s.author,
        github_id=s.github_id,
        date=s.date,
        artifact_seed=s.artifact_seed if s.artifact_seed in s.seeds else None,
        baseline=s.statistics.baseline,
    )
    claimed, found = _flat(s.model_dump()), _flat(again.model_dump())
    if s.challenge_validation is None:  # of a version that did not say it
        del claimed["challenge_validation"], found["challenge_validation"]
    wrong = [_equal(f"{field} (by the logs)", claimed.get(field), found.get(field)) for field in claimed | found]
    wrong = [claim for claim in wrong if not claim.ok]
    claims += wrong or [Claim("fields by the logs", f"{len(claimed)} values", "all follow from the logs", True)]
    unlimited = s.track == TRACKS[1] and max(s.wallclock_seconds, s.eval_time_seconds) > LIMIT_S
    for run in runs:
        at, usual = (run.window, run.stride), (run.config.seq_len, min(run.config.eval_stride, run.config.seq_len))
        if at != usual:
            claims.append(_equal(f"window, stride of seed {run.seed}", _word(usual), _word(at)))
    broken = rules(runs, s.track, s.seeds, unlimited, s.challenge_validation is not True)
    claims += [Claim(problem.name, "nothing against the rules", problem.text, False) for problem in broken]
    if not broken:
        text = "size, coverage, seeds, options" + ("; time is unlimited here" if unlimited else ", times")
        claims.append(Claim("rules", "nothing against them", text, True))
    claims.append(_validation(s, runs))
    return claims


def _validation(submission: Submission, runs: list[Facts]) -> Claim:
    """What was scored. A folder that does not say it is not held to it."""
    said = submission.challenge_validation
    claimed = {True: "the challenge's own, whole", False: "other text", None: "not said"}[said]
    odd = next((run for run in runs if not is_challenge_validation(run)), runs[0])
    return Claim(
        "validation set",
        claimed,
        validation_words(odd),
        None if said is None else said == all(map(is_challenge_validation, runs)),
    )


def _flat(value: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, item in value.items():
        found |= _flat(item, f"{prefix}{name}.") if isinstance(item, dict) else {f"{prefix}{name}": item}
    return found


def _texts(folder: Path, submission: Submission, runs: list[Facts]) -> list[Claim]:
    """README.md, config.toml, requirements.txt and the artifact's options against logs and train_gpt.py."""
    text = (folder / PAGE).read_text(encoding="utf-8", errors="replace")
    names = ("head", "results, statistics and options", "how to repeat")
    claims = []
    try:
        carried = script.read((folder / script.NAME).read_bytes(), script.NAME)
        needed = requirements(carried.files, runs[0].device)
    except (ValueError, KeyError) as error:
        return [Claim(REQUIREMENTS, "as the sources ask", _shown(str(error)), False)]
    # Another version may have worded the page and comments otherwise; the figures must be the same.
    is_older = bool(bootstrap.differing(carried.files, script.ROOT)) and (script.ROOT / "csrc").is_dir()
    for name, part in zip(names, parts(submission, runs), strict=True):
        lines = [line for line in part.splitlines() if line not in text.splitlines()]
        good = part in text or (is_older and not _figures(part) - _figures(text))
        claims.append(
            Claim(
                f"{PAGE}: {name}",
                "as logs and fields say",
                "as claimed" if good or not lines else _shown(lines[0]),
                good,
            )
        )
    own = (folder / CONFIG).read_text(encoding="utf-8", errors="replace")
    claims.append(
        Claim(CONFIG, "options of train_gpt.py", _first_difference(carried.config, own), carried.config == own)
    )
    logged = runs[0].config
    claims.append(_options(script.NAME, script.shared(logged), carried.config, ["model", "train", "run"]))
    there = (folder / REQUIREMENTS).read_text(encoding="utf-8", errors="replace")
    good = needed == there or (is_older and _packages(needed) == _packages(there))
    claims.append(Claim(REQUIREMENTS, "as the sources ask", _first_difference(needed, there), good))
    foreign = _foreign_packages(there)
    claims.append(Claim("packages", "those that bytegolf knows", foreign or "no other is named", not foreign))
    with contextlib.suppress(ValueError, OSError, _bytegolf.FormatError):  # reported above
        claims.append(_options("the artifact", logged, artifact_options(folder / ARTIFACT), ["model"]))
    return claims


def _figures(text: str) -> Counter[str]:
    """The words of a page that hold a digit, and how often each comes."""
    return Counter(word.rstrip(".,;:") for word in re.findall(r"[^\s|`*()\[\]]*\d[^\s|`*()\[\]]*", text))


def _packages(text: str) -> list[str]:
    return [line for line in text.splitlines() if not line.startswith("#")]


def _options(where: str, logged: Config, there: str, sections: list[str]) -> Claim:
    """Options stored somewhere against those of the logs, by what they mean."""
    what, claimed = f"options in {where}", "those of the logs"
    try:
        found = logged.differences(Config.stored(there, where), sections)
    except ValueError as error:
        return Claim(what, claimed, _shown(str(error)), False)
    words = [f"`{name} = {other}` in place of `{name} = {own}`" for name, own, other in found]
    return Claim(what, claimed, _shown(words[0]) if words else "equal", not words)


def _first_difference(claimed: str, found: str) -> str:
    if claimed == found:
        return "equal"
    a, b = claimed.splitlines(), found.splitlines()
    pairs = zip([*a, *[""] * len(b)], [*b, *[""] * len(a)], strict=True)
    return next((_word(f"`{y}` in place of `{x}`") for x, y in pairs if x != y), "other ends of lines")


def _foreign_packages(text: str) -> str:
    """The first line of a requirements.txt that is more than a package that we know and its version; "" when there is none."""
    known = {_REQUIREMENT.match(line)[1].lower() for line in _own_packages("cuda")}  # type: ignore[index]
    for line in _packages(text):
        found = _REQUIREMENT.fullmatch(line.strip())
        if line.strip() and (found is None or found[1].lower() not in known):
            return _word(f"`{line}`")
    return ""


def _own_packages(device: str) -> list[str]:
    """What our own sources need to be built and run, with our own bounds: all that is ever installed."""
    own = script.ROOT / "pyproject.toml"
    if own.is_file():
        return _packages(requirements({own.name: own.read_bytes()}, device))
    said = [line for line in metadata.requires("bytegolf") or [] if "extra ==" not in line or 'extra == "cuda"' in line]
    return [re.sub(r"[\s()]", "", line.partition(";")[0]) for line in said] + list(_TOOLS)


class _Failed(Exception):
    """A step before the sandbox that failed; the text is its last output."""


def _call(command: list[str], place: Path) -> str:
    """A command of ours, with the caller's environment: nothing of the folder."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_OTHERS)}
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-6:]
        raise _Failed(
            f"{Path(command[0]).name} {' '.join(command[1:4])} ended with {done.returncode}: {' | '.join(last)}"
        )
    return done.stdout


def _environment(place: Path, device: str) -> str:
    """The Python of a new virtual environment with our own packages: by our lock file where it is for this Python, else by bounds."""
    console.say("making a virtual environment with the packages that bytegolf itself needs, wheels only")
    _call([sys.executable, "-m", "venv", str(place / "venv")], place)
    python = str(place / "venv" / "bin" / "python")
    needed, locked = _own_packages(device), script.ROOT / "scripts" / "locked.py"
    words = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]
    if locked.is_file():
        names = [_REQUIREMENT.match(line)[1] for line in needed]  # type: ignore[index]
        done = subprocess.run([sys.executable, str(locked), "--packages", *names], capture_output=True, text=True)
        if done.returncode == 0:
            (place / "locked.txt").write_text(done.stdout, encoding="utf-8")
            needed = ["--require-hashes", "-r", str(place / "locked.txt")]
    _call([*words, *needed], place)
    return python


def lay_out(folder: Path, place: Path) -> list[str]:
    """The command that runs train_gpt.py by this Python, its sources laid out already beside the extension that runs here."""
    carried = script.load(folder / script.NAME)
    with _cache(place):
        ready = bootstrap.home(carried.sha256)
    files = carried.files
    differing = bootstrap.differing({k: v for k, v in files.items() if k.startswith("csrc/")}, script.ROOT)
    if differing and (script.ROOT / "csrc").is_dir():
        raise _Failed(f"the present extension is of other sources: {differing} differs; build it anew (no --no-venv)")
    bootstrap.unpack(files, ready)
    (ready / CONFIG).write_text(carried.config, encoding="utf-8")
    extension = Path(_bytegolf.__file__)
    shutil.copy2(extension, ready / "python" / "bytegolf" / extension.name)
    (ready / bootstrap.BUILT).touch()
    return [sys.executable, str(folder / script.NAME)]


@contextlib.contextmanager
def _cache(place: Path) -> Iterator[None]:
    before = os.environ.get("BYTEGOLF_CACHE")
    os.environ["BYTEGOLF_CACHE"] = str(place / "cache")
    try:
        yield
    finally:
        if before is None:
            del os.environ["BYTEGOLF_CACHE"]
        else:
            os.environ["BYTEGOLF_CACHE"] = before


def _own_score(folder: Path, run: Facts, ids: Ids, checking: Checking) -> Score:
    """The artifact on the given shards, by the running package: codec, model and scoring are ours."""
    model = load(folder / ARTIFACT, checking.device, checking.dtype)
    got = score(model, ids, run.window, run.stride)
    return Score(got.bpb, got.targets, got.bytes, model.device, model.dtype)


def _against(run: Facts, submission: Submission, got: Score, ids: Ids, checking: Checking) -> list[Claim]:
    """Shards and score against what the log of the artifact's seed claims."""
    bound = _bound(got, run.device, run.dtype, checking)
    off = abs(got.bpb - run.bpb)
    where = f"on {got.device} in {got.dtype}, by our own code: {got.bpb:.8f}, {off:.1e} away, {bound:.0e} allowed"
    return [
        _equal("targets of the shards", run.targets, got.targets),
        _equal("bytes of the shards", submission.val_bytes, got.bytes),
        _equal("sha256 of the shards' ids", submission.val_sha256, ids_sha256(ids)),
        Claim(f"bits per byte of seed {run.seed}", f"{run.bpb:.8f}", where, off <= bound),
    ]


def _bound(got: Score, device: str, dtype: str, checking: Checking) -> float:
    """Bits per byte by which two scores may differ."""
    if checking.tolerance is not None:
        return checking.tolerance
    same = (got.device.partition(":")[0], got.dtype) == (device.partition(":")[0], dtype)
    return SAME_BPB if same else OTHER_BPB


def _read_ids(val_data: str, config: Config) -> Ids:
    from bytegolf.data.shards import check_hashes

    check_hashes(val_data, config.vocab_name, "val")
    return read_stream(val_data, config.vocab_name)


def _readable(folder: Path, checking: Checking) -> list[Path]:
    """All that the carried code may read beside the system: this Python, the folder, and the shards."""
    paths = [*sandbox.python_paths(), folder.resolve()]
    if checking.val_data is not None:
        data = Path(checking.val_data).resolve()
        paths.append(data if data.exists() else data.parent)  # a glob
    return paths


def _plan(level: sandbox.Level, checking: Checking) -> str:
    """What would run, in words."""
    if checking.fresh_environment:
        packages = ", ".join(_own_packages(resolve(checking.device)[0]))
        what = f"installs from your package index, wheels only, none that the folder names: {packages}; then builds and runs"
    else:
        what = "runs, with this Python and its extension,"
    return f"{what} the folder's {script.NAME} in this sandbox: {level.words}"


def _carried(
    folder: Path,
    run: Facts,
    files: dict[str, bytes],
    own: Score | None,
    level: sandbox.Level,
    readable: list[Path],
    checking: Checking,
) -> list[Claim]:
    """The folder's train_gpt.py in the sandbox: that it builds, and that its score agrees with our own."""
    device = resolve(checking.device)[0]
    with tempfile.TemporaryDirectory(prefix="bytegolf-verify-") as name:
        place = Path(name)
        place.chmod(0o755)
        if checking.fresh_environment:
            python, laid_out = _environment(place, device), None
            readable = [*readable, place / "venv"]
            console.say(f"building from {script.NAME} (minutes)")
        else:
            lay_out(folder, place)
            python, laid_out = sys.executable, place / "cache"
            readable = [*readable, laid_out]
        program = [python, str(folder.resolve() / script.NAME)]
        line = shlex.join([*program, "--version"])
        if checking.val_data is not None:
            words = ["eval", str(folder.resolve() / ARTIFACT), str(Path(checking.val_data).resolve()), "--json"]
            words += ["--window", str(run.window), "--stride", str(run.stride)]
            words += ["--device", checking.device, "--dtype", checking.dtype]
            line += f" && exec {shlex.join([*program, *words])}"
        work = place / "work"
        variables = {"BYTEGOLF_CACHE": str(work / "cache")}
        if os.environ.get("BYTEGOLF_CUDA") in ("AUTO", "ON", "OFF"):
            variables["BYTEGOLF_CUDA"] = os.environ["BYTEGOLF_CUDA"]
        job = sandbox.Work(["sh", "-c", line], work, readable, laid_out, variables, device.startswith("cuda"))
        total, _ = memory_bytes()
        most = min(checking.limits.memory_bytes, max(8 << 30, total * 3 // 4))
        printed = sandbox.run(level, job, replace(checking.limits, memory_bytes=most))
    version, _, rest = printed.partition("\n")
    how = "built in a fresh environment" if checking.fresh_environment else "unpacked, with the present extension"
    claims = [Claim("rebuild", f"builds from {script.NAME}", f"{how}; bytegolf {_word(version)}", True)]
    if own is None:
        return claims
    theirs = printed_score(rest)
    bound = _bound(theirs, own.device, own.dtype, checking)
    off = abs(theirs.bpb - own.bpb)
    where = f"on {_word(theirs.device)} in {_word(theirs.dtype)}: {theirs.bpb:.8f}, {off:.1e} away, {bound:.0e} allowed"
    good = off <= bound and (theirs.targets, theirs.bytes) == (own.targets, own.bytes)
    return [*claims, Claim("score by the carried code", f"{own.bpb:.8f} by our own", where, good)]


def printed_score(text: str) -> Score:
    """A score out of what carried code printed: one small JSON object with these fields, of these types; sandbox.Failed else."""
    if len(text) > SCORE_BYTES:
        raise sandbox.Failed(f"the submission's code printed {len(text):,} characters where a score was expected")
    try:
        got = json.loads(text)
        values = {name: got[name] for name in Score.__dataclass_fields__}
        found = Score(**values)
        numbers = type(found.bpb) is float and type(found.targets) is int and type(found.bytes) is int
        if not (numbers and math.isfinite(found.bpb) and type(found.device) is str and type(found.dtype) is str):
            raise TypeError("a field of another type")
    except (ValueError, TypeError, LookupError, RecursionError) as error:
        raise sandbox.Failed(
            f"the submission's code printed no score: {_word(text[:80])} ({type(error).__name__})"
        ) from None
    return found


def verdict_as_dict(verdict: Verdict) -> dict[str, Any]:
    """For programs: whether all holds, the score of record, the sandbox, and every claim."""
    return {
        "ok": not verdict.mismatches,
        "score": asdict(verdict.score) if verdict.score else None,
        "ran_carried_code": verdict.sandbox is not None,
        "sandbox": verdict.sandbox,
        "claims": [asdict(claim) for claim in verdict.claims],
    }
