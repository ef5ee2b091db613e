"""Where the code of a submission may run: with an empty environment, no network and nothing to write, as far as the system lets us."""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from bytegolf.submission import confined

NOBODY = 65534  # uid and gid that own nothing
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32")
_ETC = ("/etc/alternatives", "/etc/ld.so.cache", "/etc/ld.so.conf", "/etc/ld.so.conf.d", "/etc/localtime")


class Failed(Exception):
    """What was run in the sandbox did not end well; the text says how, with its last lines."""


@dataclass(frozen=True)
class Limits:
    """What the code may take. `seconds` of wall clock for all, and of each core for a process; memory and files for each process
    or file; `disk_bytes` in all where a file system in memory can be had."""

    seconds: int = 3600
    memory_bytes: int = 32 << 30
    file_bytes: int = 1 << 30
    disk_bytes: int = 4 << 30
    processes: int = 4096
    output_bytes: int = 1 << 20


@dataclass(frozen=True)
class Work:
    """One command: it sees the `readable` paths and may write below `place` only, where `laid_out` is copied to first."""

    command: Sequence[str]
    place: Path
    readable: Sequence[Path]
    laid_out: Path | None = None
    environment: dict[str, str] | None = None
    uses_gpu: bool = False


@dataclass(frozen=True)
class Level:
    """One way to keep code in: its name, what it keeps out in words, and whether it gives the code a uid of its own."""

    name: str
    words: str
    own_user: bool = False
    proc: bool = True


_BUBBLEWRAP = "bubblewrap: no network, own namespaces, nothing writable but a private folder in memory"
_UNSHARE = "weaker, own namespaces only: no network, but it reads and writes what {whose} may"
LEVELS = (
    Level("bubblewrap", f"{_BUBBLEWRAP}, user nobody", own_user=True),
    Level("bubblewrap", f"{_BUBBLEWRAP}; processes are not counted", proc=True),
    Level("bubblewrap", f"{_BUBBLEWRAP}; no /proc; processes are not counted", proc=False),
    Level("unshare", _UNSHARE.format(whose="the user nobody"), own_user=True),
    Level("unshare", _UNSHARE.format(whose="you")),
    Level(
        "nobody",
        "weak, no namespaces: it has the network, and reads and writes what the user nobody may",
        own_user=True,
    ),
    Level("none", "NONE: it has the network, and reads and writes what you may; only the environment is empty"),
)


def best_level(readable: Sequence[Path]) -> Level:
    """The strongest level that works here, found by looking at all that must be readable from within each."""
    look = "import os, sys\nfor p in sys.argv[1:]: (os.listdir if os.path.isdir(p) else open)(p)"
    probe = [sys.executable, "-I", "-S", "-c", look, *map(str, readable)]
    for level in LEVELS:
        if level.own_user and os.geteuid() != 0:
            continue
        needed = {"bubblewrap": "bwrap", "unshare": "unshare"}.get(level.name)
        if needed and not shutil.which(needed):
            continue
        with tempfile.TemporaryDirectory(prefix="bytegolf-sandbox-") as name, contextlib.suppress(Failed, OSError):
            place = Path(name)
            place.chmod(0o755)
            run(level, Work(probe, place / "work", readable), Limits(seconds=300))
            return level
    raise AssertionError("the last level always works")


def python_paths() -> list[Path]:
    """What this Python needs to be read: its installation, its environment, and the folders that it imports from."""
    paths = [Path(sys.prefix), Path(sys.base_prefix), *map(Path, sys.path), Path(sys.executable).resolve()]
    return [path for path in paths if path.is_absolute() and path.exists()]


def run(level: Level, work: Work, limits: Limits) -> str:
    """What the command wrote to standard output; Failed when it ends badly or takes more than its limits."""
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "HOME": str(work.place)}
    environment |= {"TMPDIR": str(work.place), "PYTHONDONTWRITEBYTECODE": "1"} | (work.environment or {})
    told = asdict(limits) | {"files": 4096, "core_bytes": 0}
    told["seconds"] *= os.cpu_count() or 1  # of processor time, which all threads of a process spend
    limited = {name: told[name] for name in confined.LIMITS}
    if work.uses_gpu:
        del limited["memory_bytes"]  # CUDA reserves addresses far beyond the memory that it takes
    copies = [(str(work.laid_out), str(work.place / "cache"))] if work.laid_out else []
    spec = json.dumps({"copies": copies, "limits": limited})
    entry = [sys.executable, "-I", "-S", str(Path(confined.__file__).resolve()), spec, *work.command]
    if level.name != "bubblewrap":
        work.place.mkdir(parents=True, exist_ok=True)
        if level.own_user:
            os.chown(work.place, NOBODY, NOBODY)
    if level.name == "unshare":
        own = ["--map-root-user"] if os.geteuid() and not level.own_user else []
        entry = [
            "unshare",
            *own,
            "--net",
            "--ipc",
            "--uts",
            "--pid",
            "--fork",
            "--kill-child",
            *_as_nobody(level),
            *entry,
        ]
    elif level.name == "nobody":
        entry = [*_as_nobody(level), *entry]
    elif level.name == "bubblewrap":
        entry = [*_as_nobody(level), *_bubblewrap(level, work, limits), *entry]
    return _watched(entry, work, environment, limits)


def _as_nobody(level: Level) -> list[str]:
    who = str(NOBODY)
    return ["setpriv", "--reuid", who, "--regid", who, "--clear-groups", "--no-new-privs"] if level.own_user else []


def _bubblewrap(level: Level, work: Work, limits: Limits) -> list[str]:
    words = ["bwrap", "--unshare-user", "--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net"]
    words += [
        "--unshare-cgroup-try",
        "--hostname",
        "sandbox",
        "--die-with-parent",
        "--new-session",
        "--cap-drop",
        "ALL",
    ]
    words += ["--uid", str(NOBODY), "--gid", str(NOBODY)]
    for name in _SYSTEM:
        path = Path(name)
        if path.is_symlink():
            words += ["--symlink", os.readlink(path), name]
        elif path.exists():
            words += ["--ro-bind", name, name]
    for name in _ETC:
        words += ["--ro-bind-try", name, name]
    words += ["--dev", "/dev", *(["--proc", "/proc"] if level.proc else [])]
    words += ["--size", str(64 << 20), "--tmpfs", "/tmp"]
    if work.uses_gpu:
        for path in sorted(Path("/dev").glob("nvidia*")):
            words += ["--dev-bind", str(path), str(path)]
    for path in _outermost([*work.readable, Path(confined.__file__).resolve()]):
        words += ["--ro-bind", str(path), str(path)]
    words += ["--size", str(limits.disk_bytes), "--tmpfs", str(work.place), "--chdir", str(work.place)]
    return [*words, "--remount-ro", "/", "--"]


def _outermost(paths: Iterable[Path]) -> list[Path]:
    """Each path once, without those that the system's folders or others of them hold already; a folder before what it holds."""
    found: list[Path] = []
    for path in sorted(set(paths), key=lambda path: len(path.parts)):
        if not any(path.is_relative_to(other) for other in [*found, Path("/usr")]):
            found.append(path)
    return found


def _watched(command: list[str], work: Work, environment: dict[str, str], limits: Limits) -> str:
    """Runs it until it ends, its time is over or it has written too much; then everything that it started is ended."""
    program = shutil.which(command[0]) or command[0]
    child = subprocess.Popen(
        [program, *command[1:]],
        cwd=work.place if work.place.is_dir() else "/",
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    assert child.stdout is not None and child.stderr is not None
    out, err = bytearray(), bytearray()
    problem, deadline = "", time.monotonic() + limits.seconds
    try:
        with selectors.DefaultSelector() as watch:
            watch.register(child.stdout, selectors.EVENT_READ, out)
            watch.register(child.stderr, selectors.EVENT_READ, err)
            while watch.get_map() and not problem:
                left = deadline - time.monotonic()
                if left <= 0:
                    problem = f"was still running after {limits.seconds} s"
                for key, _ in watch.select(max(0.0, min(left, 1.0))):
                    piece = os.read(key.fd, 1 << 16)
                    if not piece:
                        watch.unregister(key.fileobj)
                    key.data.extend(piece)
                    if len(key.data) > limits.output_bytes:
                        problem = f"wrote more than {limits.output_bytes:,} bytes of output"
                if child.poll() is not None and not problem:
                    # Something that it left behind may hold the pipes for ever: what is in them is all that counts.
                    _drain(watch, limits)
                    break
    finally:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        child.stdout.close()
        child.stderr.close()
    status = child.returncode
    if not problem and status:
        problem = f"ended with {status}" if status > 0 else f"was ended by signal {-status}"
    if problem:
        last = [line for line in err.decode("utf-8", errors="replace").splitlines() if line.strip()][-6:]
        raise Failed(f"the submission's code {problem}" + (f": {' | '.join(last)[-2000:]}" if last else ""))
    return out.decode("utf-8", errors="replace")


def _drain(watch: selectors.BaseSelector, limits: Limits) -> None:
    """Takes what the pipes hold already."""
    while ready := watch.select(0):
        for key, _ in ready:
            piece = os.read(key.fd, 1 << 16)
            key.data.extend(piece)
            if not piece or len(key.data) > limits.output_bytes:
                watch.unregister(key.fileobj)
