"""What every stage of the campaign has in common: its place to work, its limits, how a finding is kept, and many processes at once."""

from __future__ import annotations

import ctypes
import hashlib
import json
import mmap
import os
import random
import resource
import shlex
import shutil
import signal
import sys
import time
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build" / "torture"
KEPT = 40  # findings of one stage of which a file is kept
MEMORY_BYTES = 1 << 30  # address space that a process may take beyond what it has when it begins
EXECUTION_S = 5.0  # of processor time for one execution of a parser


@dataclass(frozen=True)
class Finding:
    """Something that should not have happened. words: one line; file: what repeats it; command: how."""

    stage: str
    words: str
    file: str
    command: str


@dataclass
class Outcome:
    """What a stage did. skipped: why it could not run here; note: what else its row says."""

    executions: int = 0
    findings: list[Finding] = field(default_factory=list)
    note: str = ""
    skipped: str = ""


@dataclass(frozen=True)
class Context:
    """What a stage may use. seconds: time for it; goal: executions after which it may stop, 0 for none; only: the single case of
    a stage to be repeated, else -1; input: a kept file to be tried again; jobs: processes at once."""

    stage: str
    seed: int
    seconds: float
    goal: int
    folder: Path
    jobs: int
    case: int = -1
    input: Path | None = None

    def keep(self, data: bytes, words: str, command: Sequence[str] | None = None) -> Finding:
        """Keeps what led to a finding. `command` may hold FILE, which stands for the file; by default the stage tries it again."""
        kept = BUILD / "findings"
        kept.mkdir(parents=True, exist_ok=True)
        file = kept / f"{self.stage}-{hashlib.sha256(data).hexdigest()[:12]}"
        if len(list(kept.glob(f"{self.stage}-*"))) < 2 * KEPT:
            file.write_bytes(data)
        again = command or [sys.executable, "scripts/torture.py", "--only", self.stage, "--input", "FILE"]
        line = shlex.join(str(file) if word == "FILE" else str(word) for word in again)
        words = " ".join(words.split())[:300]
        file.with_suffix(".txt").write_text(f"{words}\n{line}\n", encoding="utf-8")
        return Finding(self.stage, words, str(file), line)

    def case_command(self, case: int) -> list[str]:
        """Repeats one numbered case of this stage."""
        words = ["--only", self.stage, "--seed", str(self.seed), "--case", str(case)]
        return [sys.executable, "scripts/torture.py", *words]

    def random(self, *more: object) -> random.Random:
        """Random numbers that depend on the campaign's seed, this stage and `more`."""
        return random.Random(f"{self.seed} {self.stage} {' '.join(map(str, more))}")


@dataclass(frozen=True)
class Stage:
    """One row of the table. share: of a short campaign's time; goal: executions of a long one; hours: the most a long one may
    take for it; run: does the work."""

    name: str
    share: float
    goal: int
    run: Callable[[Context], Outcome]
    hours: float = 4.0


# Parsers in Python: many executions of one function, in processes of their own.


class Parser(ABC):
    """A parser under attack: valid inputs, how they are changed, one execution, and what it may raise."""

    allowed: tuple[type[BaseException], ...] = (ValueError, OSError)

    def __init__(self, folder: Path) -> None:
        """`folder` is this process's own, in memory where possible."""
        self.folder = folder

    @abstractmethod
    def seeds(self) -> list[bytes]:
        """Inputs that are accepted."""

    @abstractmethod
    def mutate(self, draw: random.Random, data: bytes) -> bytes:
        """A changed input."""

    @abstractmethod
    def attempt(self, data: bytes) -> None:
        """One execution. Whatever it raises beyond `allowed` is a finding; so is AssertionError."""


def fuzz(make: Callable[[Path], Parser], context: Context) -> Outcome:
    """Runs a parser in context.jobs processes until time or goal is reached."""
    if context.input is not None:
        return _attempt_again(make, context)
    end = time.monotonic() + context.seconds
    goal = -(-context.goal // context.jobs) if context.goal else 0
    return in_processes(lambda number, report: _fuzz_one(make, context, number, end, goal, report), context)


@dataclass
class Report:
    """How one process tells the campaign what it did, also when it is killed by what it tries."""

    count: mmap.mmap  # 8 bytes: executions
    input: mmap.mmap  # 4 bytes: size; then the input under trial
    path: Path  # findings as JSON lines

    def trying(self, data: bytes) -> None:
        """The input that is tried now."""
        size = min(len(data), len(self.input) - 4)
        self.input[:4] = size.to_bytes(4, "little")
        self.input[4 : 4 + size] = data[:size]

    def done(self, executions: int) -> None:
        """How many are behind us."""
        self.count[:8] = executions.to_bytes(8, "little")

    def found(self, data: bytes, words: str, case: int = -1) -> None:
        """Something that should not happen; `case` when its number repeats it, not its data."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"data": data.hex(), "words": words, "case": case}) + "\n")


def in_processes(body: Callable[[int, Report], None], context: Context, jobs: int = 0, limit: bool = True) -> Outcome:
    """body(number, report) in a process each; a process that dies is a finding with the input that it tried. limit: of memory."""
    outcome = Outcome()
    context.folder.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    running: dict[int, Report] = {}
    for number in range(jobs or context.jobs):
        report = Report(mmap.mmap(-1, 4096), mmap.mmap(-1, 4 << 20), context.folder / f"found-{number}.jsonl")
        report.path.unlink(missing_ok=True)
        pid = os.fork()
        if pid == 0:
            status = 70
            try:
                end_with_parent()
                if limit:
                    _limit()
                body(number, report)
                status = 0
            except BaseException:  # the campaign itself failed: said loudly, not as a finding of the parser
                traceback.print_exc()
            finally:
                os._exit(status)
        running[pid] = report
    for pid, report in running.items():
        _, status = os.waitpid(pid, 0)
        shutil.rmtree(memory_folder() / f"bytegolf-torture-{pid}", ignore_errors=True)  # of one that was killed
        outcome.executions += int.from_bytes(report.count[:8], "little")
        if os.WIFSIGNALED(status):
            size = int.from_bytes(report.input[:4], "little")
            words = f"the process was ended by {signal.Signals(os.WTERMSIG(status)).name}"
            outcome.findings.append(context.keep(bytes(report.input[4 : 4 + size]), words))
        elif status:
            raise RuntimeError(f"stage {context.stage}: its process failed; the reason is above")
        if report.path.exists():
            for line in report.path.read_text(encoding="utf-8").splitlines():
                row = json.loads(line)
                if all(row["words"] != known.words for known in outcome.findings):
                    command = context.case_command(row["case"]) if row["case"] >= 0 else None
                    outcome.findings.append(context.keep(bytes.fromhex(row["data"]), row["words"], command))
    return outcome


def cases(one: Callable[[int, random.Random, Path, Report], int], context: Context, jobs: int = 0) -> Outcome:
    """Numbered cases until time or goal is reached: one(case, draw, folder, report) does one and returns how much it executed.

    What it raises is a finding, which its number repeats. `folder` is new and goes afterwards.
    """
    jobs = 1 if context.case >= 0 else jobs or context.jobs
    end = time.monotonic() + context.seconds
    goal = -(-context.goal // jobs) if context.goal else 0

    def body(number: int, report: Report) -> None:
        case, count = context.case if context.case >= 0 else number, 0
        while True:
            folder = context.folder / f"case-{case}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            try:
                count += one(case, context.random(case), folder, report)
            except Exception as error:
                if context.case >= 0:
                    traceback.print_exc()
                report.found(f"case {case}: {error}\n".encode(), f"{type(error).__name__}: {error}", case)
            report.done(count)
            if context.case < 0:  # a repeated one is left to be looked at
                shutil.rmtree(folder, ignore_errors=True)
            case += jobs
            if context.case >= 0 or time.monotonic() >= end or (goal and count >= goal):
                return

    return in_processes(body, context, jobs, limit=False)


def _limit() -> None:
    # A parser that takes a gigabyte for a file of kilobytes fails with MemoryError, which is a finding.
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY_BYTES, used + MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def end_with_parent() -> None:
    """This process is killed when the one that started it ends, however that happens."""
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG


def memory_folder() -> Path:
    """Where small files are fast."""
    shm = Path("/dev/shm")
    return shm if os.access(shm, os.W_OK) else BUILD


def _fuzz_one(
    make: Callable[[Path], Parser], context: Context, number: int, end: float, goal: int, report: Report
) -> None:
    draw = context.random(number)
    folder = memory_folder() / f"bytegolf-torture-{os.getpid()}"
    folder.mkdir(parents=True)
    try:
        parser = make(folder)
        corpus = parser.seeds()
        fixed = len(corpus)
        for data in corpus:
            parser.attempt(data)  # a seed that is refused would make the stage worthless
        seen: set[str] = set()
        count = 0
        while time.monotonic() < end and not (goal and count >= goal):
            for _ in range(64):
                data = parser.mutate(draw, draw.choice(corpus))
                report.trying(data)
                words, accepted = _attempt(parser, data)
                count += 1
                if words and words not in seen:
                    seen.add(words)
                    report.found(data, words)
                if accepted and draw.random() < 0.05:  # what is accepted is changed further
                    if len(corpus) < fixed + 200:
                        corpus.append(data)
                    else:
                        corpus[fixed + draw.randrange(200)] = data
            report.done(count)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _attempt(parser: Parser, data: bytes) -> tuple[str, bool]:
    """What is wrong ("": nothing), and whether the input was accepted."""
    began = time.process_time()
    words, accepted = "", False
    try:
        parser.attempt(data)
        accepted = True
    except parser.allowed:
        pass
    except BaseException as error:
        at = traceback.extract_tb(error.__traceback__)[-1]
        words = f"{type(error).__name__} at {Path(at.filename).name}:{at.lineno} {at.line or ''}"
    if time.process_time() - began > EXECUTION_S:
        words = words or f"takes more than {EXECUTION_S:g} s"
    return words, accepted


def _attempt_again(make: Callable[[Path], Parser], context: Context) -> Outcome:
    assert context.input is not None
    data = context.input.read_bytes()

    def body(number: int, report: Report) -> None:
        folder = memory_folder() / f"bytegolf-torture-{os.getpid()}"
        folder.mkdir(parents=True)
        try:
            parser = make(folder)
            report.trying(data)
            words, _ = _attempt(parser, data)
            report.done(1)
            if words:
                report.found(data, words)
                try:
                    parser.attempt(data)
                except BaseException:
                    traceback.print_exc(limit=-8)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    return in_processes(body, context, jobs=1)
