"""The parsers in C++, under libFuzzer with the address and undefined-behaviour sanitizers: how they are built and run."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from campaign.stage import ROOT, Context, Finding, Outcome

FOLDER = ROOT / "build" / "fuzz"
LOG = ROOT / "build" / "fuzz.log"
MOST_BYTES = {"artifact": 4096, "shard": 1024 + 256, "config": 2048}  # of an input
FINDINGS = 10  # after which a target is left alone
# A leak check at the end needs ptrace, which containers may forbid; then it is left out, and the note says so.
ASAN = "allocator_may_return_null=0:detect_stack_use_after_return=1"


def build() -> str:
    """Builds the targets; why they cannot be had here, or "". RuntimeError with the log's end when the build fails."""
    if shutil.which("clang++") is None:
        return "clang++ is missing"
    resources = subprocess.run(
        ["clang++", "-print-resource-dir"], capture_output=True, text=True, check=True
    ).stdout.strip()
    if not list(Path(resources).glob("lib/*/libclang_rt.fuzzer*")):
        return "libclang-rt-dev is missing"
    FOLDER.mkdir(parents=True, exist_ok=True)
    launcher = ["-DCMAKE_CXX_COMPILER_LAUNCHER=ccache"] if shutil.which("ccache") else []
    options = ["-DBYTEGOLF_FUZZ=ON", "-DBYTEGOLF_PYTHON=OFF", "-DBYTEGOLF_CUDA=OFF", "-DCMAKE_CXX_COMPILER=clang++"]
    flags = ["-DCMAKE_BUILD_TYPE=Release", "-DCMAKE_CXX_FLAGS_RELEASE=-O1 -g1"]
    with LOG.open("w", encoding="utf-8") as log:
        for command in (
            ["cmake", "-S", str(ROOT), "-B", str(FOLDER), "-G", "Ninja", *options, *flags, *launcher],
            ["cmake", "--build", str(FOLDER), "--target", "fuzz"],
        ):
            if subprocess.run(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, check=False
            ).returncode:
                raise RuntimeError(
                    "the fuzz targets cannot be built:\n" + "\n".join(LOG.read_text().splitlines()[-40:])
                )
    return ""


def leaks_can_be_checked() -> bool:
    """Whether LeakSanitizer may stop this process's threads, tried on an input of nothing."""
    options = os.environ | {"ASAN_OPTIONS": f"{ASAN}:detect_leaks=1"}
    done = subprocess.run([FOLDER / "fuzz_config", "-runs=1"], env=options, capture_output=True, text=True, check=False)
    return "LeakSanitizer has encountered a fatal error" not in done.stderr and done.returncode == 0


@dataclass
class _Job:
    """One process of a target."""

    process: subprocess.Popen[bytes]
    log: Path
    left: int  # executions still wanted; 0: any number
    executions: int = 0
    findings: list[Finding] = field(default_factory=list)


def target(name: str, context: Context) -> Outcome:
    """Runs one target in context.jobs processes that share a corpus, which later campaigns begin with."""
    missing = build()
    if missing:
        return Outcome(skipped=missing)
    program = FOLDER / f"fuzz_{name}"
    if context.input is not None:
        done = subprocess.run([program, context.input], capture_output=True, text=True, errors="replace", check=False)
        print(done.stderr)
        bad = (
            [context.keep(context.input.read_bytes(), _words(done.stderr), [str(program), "FILE"])]
            if done.returncode
            else []
        )
        return Outcome(1, bad)
    leaks = leaks_can_be_checked()
    corpus, folder = FOLDER / "corpus" / name, context.folder
    for place in (corpus, folder):
        place.mkdir(parents=True, exist_ok=True)
    end = time.monotonic() + context.seconds
    outcome = Outcome(note="" if leaks else "leaks are not checked")
    goal = -(-context.goal // context.jobs) if context.goal else 0
    environment = os.environ | {
        "ASAN_OPTIONS": f"{ASAN}:detect_leaks={int(leaks)}",
        "UBSAN_OPTIONS": "print_stacktrace=1",
    }
    environment["LSAN_OPTIONS"] = "print_suppressions=0"

    def start(number: int, left: int, attempt: int) -> _Job:
        seconds = max(int(end - time.monotonic()), 1)
        log = folder / f"job-{number}-{attempt}.log"
        words = [program, f"-max_total_time={seconds}", f"-seed={1 + context.seed * 1000 + number + 100 * attempt}"]
        words += [f"-max_len={MOST_BYTES[name]}", "-timeout=20", "-rss_limit_mb=2048", "-malloc_limit_mb=640"]
        words += [
            f"-artifact_prefix={folder}/{number}-{attempt}-",
            "-print_final_stats=1",
            "-len_control=0",
            "-reload=10",
        ]
        words += [f"-runs={left}"] if left else []
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*words, corpus], stdout=file, stderr=file, stdin=subprocess.DEVNULL, env=environment
            )
        return _Job(process, log, left)

    jobs = {number: start(number, goal, 0) for number in range(context.jobs)}
    attempts = 0
    while jobs:
        for number, job in list(jobs.items()):
            if job.process.poll() is None:
                continue
            del jobs[number]
            text = job.log.read_text(encoding="utf-8", errors="replace")
            executions = _executions(text)
            outcome.executions += executions
            if job.process.returncode == 0:
                continue
            attempts += 1
            files = sorted(folder.glob(job.log.stem.removeprefix("job-") + "-*"))
            data = files[-1].read_bytes() if files else b""
            outcome.findings.append(context.keep(data, _words(text), [str(program), "FILE"]))
            left = max(job.left - executions, 0)
            if len(outcome.findings) < FINDINGS and time.monotonic() < end and (left or not goal):
                jobs[number] = start(number, left, attempts)
        time.sleep(0.2)
    return outcome


def _executions(log: str) -> int:
    final = re.search(r"stat::number_of_executed_units:\s*(\d+)", log)
    if final:
        return int(final[1])
    return max((int(n) for n in re.findall(r"^#(\d+)\s", log, re.M)), default=0)


def _words(log: str) -> str:
    """The line of a sanitizer's report that says what happened, and the first place in our own code."""
    what = re.search(r"(SUMMARY: .*|ERROR: .*|.*runtime error: .*|terminate called.*)", log)
    where = re.search(r"csrc/[\w/]+\.(?:cpp|h):\d+", log)
    return f"{what[1] if what else 'ended with a failure'} {where[0] if where else ''}".strip()
