"""`bytegolf verify`: every claim of a submission against what its folder holds, builds and scores."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from bytegolf import _bytegolf
from bytegolf.artifact import artifact_options
from bytegolf.bundle import bootstrap, script
from bytegolf.bundle.meter import LIMIT_S, sha256, weigh
from bytegolf.config import Config
from bytegolf.record.facts import Facts, read_facts
from bytegolf.record.fields import Submission, submission_of
from bytegolf.screen import console
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
# Variables that would lead a child to other sources, or make it one of several processes.
_OTHERS = ("PYTHONPATH", "RANK", "WORLD_SIZE", "LOCAL_", "MASTER_", "OMPI_", "PMI_", "PMIX_", "MPI_", "SLURM_")


@dataclass(frozen=True)
class Claim:
    """One claim: what it is about, what is claimed, what was found. `ok` None: not checked, `found` says why."""

    what: str
    claimed: str
    found: str
    ok: bool | None


@dataclass(frozen=True)
class Checking:
    """How much is checked: `quick` neither builds nor scores; `val_data` are the shards to score on; `tolerance` in bits per
    byte, None by device and numbers."""

    quick: bool = False
    fresh_environment: bool = True
    val_data: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    tolerance: float | None = None


def verify(folder: Path, checking: Checking) -> list[Claim]:
    """All claims of `folder` with their verdicts.

    Unless `quick`, the sources of train_gpt.py are built in a new virtual environment (or, without `fresh_environment`, taken
    with the extension of the running package), and the artifact is scored by them on `val_data`.
    """
    claims = check_folder(folder, folder.resolve().name, folder.resolve().parent.name)
    if checking.quick:
        return [*claims, Claim("rebuild and score", "", "not asked for", None)]
    if any(claim.ok is False for claim in claims if claim.what in (FIELDS, script.NAME, ARTIFACT, "files")):
        return [*claims, Claim("rebuild and score", "", "not tried: the files themselves are at fault", None)]
    submission = Submission.model_validate_json((folder / FIELDS).read_bytes())
    with tempfile.TemporaryDirectory(prefix="bytegolf-verify-") as name:
        place = Path(name)
        try:
            command = (_environment if checking.fresh_environment else lay_out)(folder.resolve(), place)
            made = _call([*command, "--version"], place)
        except _Failed as error:
            return [*claims, Claim("rebuild", "builds from train_gpt.py", str(error), False)]
        how = "built in a fresh environment" if checking.fresh_environment else "unpacked, with the present extension"
        claims.append(Claim("rebuild", "builds from train_gpt.py", f"{how}; bytegolf {made.strip()}", True))
        if checking.val_data is None:
            return [
                *claims,
                Claim("score", f"{submission.val_bpb:.8f}", "not computed: no shards given (--val-data)", None),
            ]
        try:
            claims += _score(folder, submission, command, place, checking.val_data, checking)
        except _Failed as error:
            claims.append(Claim("score", f"{submission.val_bpb:.8f}", str(error), False))
    return claims


def check_folder(folder: Path, name: str, track: str) -> list[Claim]:
    """What can be seen without building: files, schema, sizes, hashes, logs, tables. `name` and `track` are those of its place."""
    fixed = [ARTIFACT, CONFIG, PAGE, FIELDS, REQUIREMENTS, script.NAME]
    lacking = [file for file in fixed if not (folder / file).is_file()]
    if lacking:
        return [Claim("files", ", ".join(fixed), f"missing: {', '.join(lacking)}", False)]
    try:
        submission = Submission.model_validate_json((folder / FIELDS).read_bytes())
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        return [Claim(FIELDS, "fits its schema", f"{error.error_count()} faults; {where}: {first['msg']}", False)]
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
        except (ValueError, OSError) as error:
            claims.append(Claim(name, f"the log of seed {seed}", str(error), False))
    if len(runs) == len(logs):
        claims += _logs(submission, runs)
        claims += _texts(folder, submission, runs)
    return claims


def _listed(names: Any) -> str:
    return ", ".join(sorted(names))


def _equal(what: str, claimed: Any, found: Any) -> Claim:
    if isinstance(claimed, float) and isinstance(found, float):
        good = math.isclose(claimed, found, rel_tol=1e-9, abs_tol=1e-15)
    else:
        good = claimed == found
    return Claim(what, _word(claimed), _word(found), good)


def _word(value: Any) -> str:
    text = f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
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
        files = len(script.read((folder / script.NAME).read_bytes(), script.NAME).files)
        claims.append(Claim(script.NAME, "carries its sources", f"{files} files, each as its sha256 says", True))
    except ValueError as error:
        claims.append(Claim(script.NAME, "carries its sources", str(error), False))
    try:
        artifact_options(folder / ARTIFACT)
        claims.append(Claim(ARTIFACT, "can be read", "whole, checksum fits", True))
    except (ValueError, OSError, _bytegolf.FormatError) as error:
        claims.append(Claim(ARTIFACT, "can be read", str(error), False))
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
    wrong = [_equal(f"{field} (by the logs)", claimed.get(field), found.get(field)) for field in claimed | found]
    wrong = [claim for claim in wrong if not claim.ok]
    claims += wrong or [Claim("fields by the logs", f"{len(claimed)} values", "all follow from the logs", True)]
    unlimited = s.track == TRACKS[1] and max(s.wallclock_seconds, s.eval_time_seconds) > LIMIT_S
    broken = rules(runs, s.track, s.seeds, unlimited)
    claims += [Claim(problem.name, "nothing against the rules", problem.text, False) for problem in broken]
    if not broken:
        text = "size, coverage, seeds, options" + ("; time is unlimited here" if unlimited else ", times")
        claims.append(Claim("rules", "nothing against them", text, True))
    return claims


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
        return [Claim(REQUIREMENTS, "as the sources ask", str(error), False)]
    # Another version may have worded the page and comments otherwise; the figures must be the same.
    is_older = bool(bootstrap.differing(carried.files, script.ROOT)) and (script.ROOT / "csrc").is_dir()
    for name, part in zip(names, parts(submission, runs), strict=True):
        lines = [line for line in part.splitlines() if line not in text.splitlines()]
        good = part in text or (is_older and not _figures(part) - _figures(text))
        claims.append(
            Claim(f"{PAGE}: {name}", "as logs and fields say", "as claimed" if good or not lines else lines[0], good)
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
        return Claim(what, claimed, str(error), False)
    words = [f"`{name} = {other}` in place of `{name} = {own}`" for name, own, other in found]
    return Claim(what, claimed, words[0] if words else "equal", not words)


def _first_difference(claimed: str, found: str) -> str:
    if claimed == found:
        return "equal"
    a, b = claimed.splitlines(), found.splitlines()
    pairs = zip([*a, *[""] * len(b)], [*b, *[""] * len(a)], strict=True)
    return next((f"`{y}` in place of `{x}`" for x, y in pairs if x != y), "other ends of lines")


class _Failed(Exception):
    """A step of rebuilding or scoring that failed; the text is its last output."""


def _call(command: list[str], place: Path) -> str:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(_OTHERS)}
    environment["BYTEGOLF_CACHE"] = str(place / "cache")
    done = subprocess.run(command, cwd=place, env=environment, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    if done.returncode:
        last = [line for line in done.stderr.splitlines() if line.strip()][-6:]
        raise _Failed(
            f"{Path(command[0]).name} {' '.join(command[1:4])} ended with {done.returncode}: {' | '.join(last)}"
        )
    return done.stdout


def _environment(folder: Path, place: Path) -> list[str]:
    """The command that runs train_gpt.py by a new virtual environment; the first call builds."""
    console.say("making a virtual environment and installing requirements.txt")
    _call([sys.executable, "-m", "venv", str(place / "venv")], place)
    python = str(place / "venv" / "bin" / "python")
    words = ["install", "--quiet", "--disable-pip-version-check", "-r", str(folder / REQUIREMENTS)]
    _call([python, "-m", "pip", *words], place)
    console.say("building from train_gpt.py (minutes)")
    return [python, str(folder / script.NAME)]


def lay_out(folder: Path, place: Path) -> list[str]:
    """The command that runs train_gpt.py by this Python, its sources laid out already beside the extension that runs here."""
    text = (folder / script.NAME).read_bytes()
    digest = re.search(rb'^SHA256 = "([0-9a-f]{64})"$', text, re.M)
    if digest is None:
        raise _Failed(f"{script.NAME} names no SHA256")
    with _cache(place):
        ready = bootstrap.home(digest[1].decode())
    files = script.read(text, script.NAME).files
    differing = bootstrap.differing({k: v for k, v in files.items() if k.startswith("csrc/")}, script.ROOT)
    if differing and (script.ROOT / "csrc").is_dir():
        raise _Failed(f"the present extension is of other sources: {differing} differs; verify in a fresh environment")
    bootstrap.unpack(files, ready)
    (ready / CONFIG).write_text(script.read(text, script.NAME).config, encoding="utf-8")
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


def _score(
    folder: Path, submission: Submission, command: list[str], place: Path, val_data: str, checking: Checking
) -> list[Claim]:
    """The artifact on the given shards, by the code that train_gpt.py carries."""
    tolerance = checking.tolerance
    seed = submission.artifact_seed
    run = read_facts(folder / log_name(seed))
    claimed = submission.seed_results[str(seed)].val_bpb
    console.say(f"scoring {ARTIFACT} on {val_data}")
    words = ["eval", str(folder.resolve() / ARTIFACT), str(Path(val_data).resolve()), "--json"]
    words += ["--window", str(run.window), "--stride", str(run.stride), "--device", checking.device]
    words += ["--dtype", checking.dtype]
    got = json.loads(_call([*command, *words], place))
    same = (got["device"].partition(":")[0], got["dtype"]) == (run.device.partition(":")[0], run.dtype)
    bound = tolerance if tolerance is not None else SAME_BPB if same else OTHER_BPB
    off = abs(got["bpb"] - claimed)
    where = f"on {got['device']} in {got['dtype']}: {got['bpb']:.8f}, {off:.1e} away, {bound:.0e} allowed"
    ids = _read_ids(val_data, run.config)
    return [
        _equal("targets of the shards", run.targets, got["targets"]),
        _equal("bytes of the shards", submission.val_bytes, got["bytes"]),
        _equal("sha256 of the shards' ids", submission.val_sha256, ids),
        Claim(f"bits per byte of seed {seed}", f"{claimed:.8f}", where, off <= bound),
    ]


def _read_ids(val_data: str, config: Config) -> str:
    from bytegolf.data.shards import check_hashes
    from bytegolf.ids import ids_sha256
    from bytegolf.streams import read_stream

    check_hashes(val_data, config.vocab_name, "val")
    return ids_sha256(read_stream(val_data, config.vocab_name))


def claims_as_dict(claims: list[Claim]) -> dict[str, Any]:
    """For programs: whether all holds, and every claim."""
    return {"ok": all(claim.ok is not False for claim in claims), "claims": [asdict(claim) for claim in claims]}
