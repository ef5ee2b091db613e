"""A bytegolf submission in one file: C++, CUDA and Python sources, compressed, and the few lines that unpack and build them.

    torchrun --standalone --nproc_per_node=8 train_gpt.py    train, pack, read back and score; also with any other number
    python train_gpt.py name=value ...                       the same in one process, with options changed
    python train_gpt.py VERB ...                             another verb of the carried package (eval, inspect, generate, ...)
    python train_gpt.py --unpack FOLDER                      only lay out the sources

From the environment: DATA_PATH (folder of *_train_*.bin and *_val_*.bin shards), SEED, RUN_ID (names the run's folder below runs/),
ITERATIONS, MAX_WALLCLOCK_SECONDS, VAL_LOSS_EVERY; BYTEGOLF_CACHE (where the build is kept); RANK, WORLD_SIZE and the like are
read by the package. Unpacking and building happen before training starts its clock, once per host.

Needed: Python 3.11, the packages in requirements.txt, a C++20 compiler, CMake, Ninja, headers of zstd and Highway; for GPUs the CUDA
toolkit 12.8 or later.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import lzma
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import time
from importlib import import_module, util
from pathlib import Path

DATA_PATH = "./data/datasets/fineweb10B_byte260"
OPTIONS = {
    "SEED": "seed",
    "ITERATIONS": "iterations",
    "MAX_WALLCLOCK_SECONDS": "train_budget_s",
    "VAL_LOSS_EVERY": "val_every",
}
PACKAGES = ("numpy", "pydantic", "cyclopts", "rich", "safetensors", "pybind11")
HEADERS = {"zstd.h": "libzstd-dev", "hwy/highway.h": "libhwy-dev"}
BUILT = ".built"  # written last into a folder that is ready
# An archive may come from anybody: what one may take. The package's own: 1.4 MB, 350 files, 400,000 characters.
ARCHIVE_LIMIT = 4_000_000  # characters of base85
RAW_LIMIT = 32_000_000  # bytes unpacked
MEMORY_LIMIT = 128_000_000  # bytes that LZMA may take for its dictionary
TABLE_LIMIT = 2_000_000  # bytes of the table
FILES_LIMIT = 10_000
PATH_LIMIT = 200  # characters
PIECE = 500_000  # characters that are decoded at a time, a multiple of base85's 5
ROW = re.compile(rb"([0-9a-f]{64}) (0|[1-9][0-9]{0,8}) ([^\n]+)")
NAME = re.compile(r"[A-Za-z0-9_.+-]+")


def carried(archive: str, digest: str) -> dict[str, bytes]:
    """The files of an archive by path: LZMA in base85 of a table (sha256, bytes, path a line), an empty line, the contents.

    ValueError naming what is wrong when the whole or any file is not what its hash says, when a path could lead out of the
    folder or to a file that another one names too, and when anything exceeds the limits above.
    """
    raw = decompressed(archive)
    if hashlib.sha256(raw).hexdigest() != digest:
        raise ValueError("the archive is damaged: its sha256 is not the one written above it")
    end = raw.find(b"\n\n", 0, TABLE_LIMIT)
    if end < 0:
        raise ValueError(f"the archive is damaged: no table of files ends within {TABLE_LIMIT:,} bytes")
    rows, at = table(raw[:end]), end + 2
    files = {}
    for path, (sha256, size) in rows.items():
        data = raw[at : at + size]
        at += size
        if len(data) != size or hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"the archive is damaged: {path} is not what its sha256 says")
        files[path] = data
    if at != len(raw):
        raise ValueError(f"the archive is damaged: {len(raw) - at:,} bytes follow its last file")
    return files


def decompressed(archive: str) -> bytes:
    """What base85 and LZMA give, piece by piece and never more than RAW_LIMIT bytes; ValueError for anything but one whole stream."""
    if len(archive) > ARCHIVE_LIMIT:
        raise ValueError(f"the archive has {len(archive):,} characters; at most {ARCHIVE_LIMIT:,} are read")
    stream = lzma.LZMADecompressor(format=lzma.FORMAT_XZ, memlimit=MEMORY_LIMIT)
    pieces, total = [], 0
    for start in range(0, len(archive), PIECE):
        try:
            if stream.eof:
                raise ValueError("something follows the end of the stream")
            piece = stream.decompress(base64.b85decode(archive[start : start + PIECE]), RAW_LIMIT + 1 - total)
        except (ValueError, lzma.LZMAError) as error:
            raise ValueError(f"the archive is damaged: {error}") from None
        total += len(piece)
        if total > RAW_LIMIT:
            raise ValueError(f"the archive holds more than {RAW_LIMIT:,} bytes, which is all that is unpacked")
        pieces.append(piece)
    if not stream.eof or stream.unused_data:
        raise ValueError(
            f"the archive is damaged: its stream {'has bytes after its end' if stream.eof else 'is cut off'}"
        )
    return b"".join(pieces)


def table(text: bytes) -> dict[str, tuple[str, int]]:
    """sha256 and bytes by path, in the table's order. ValueError for a line that is no such row, and for a path that is refused."""
    rows: dict[str, tuple[str, int]] = {}
    folders: set[str] = set()
    seen: dict[str, str] = {}
    for number, line in enumerate(text.split(b"\n"), 1):
        row = ROW.fullmatch(line)
        if row is None or number > FILES_LIMIT:
            what = f"has more than {FILES_LIMIT:,} files" if row else f"line {number} of its table is no row"
            raise ValueError(f"the archive is damaged: {what}")
        path = row[3].decode("ascii", errors="backslashreplace")
        parts = path.split("/")
        if path.startswith("/") or ".." in parts:
            raise ValueError(f"the archive holds a path outside its folder: {path!r}")
        if len(path) > PATH_LIMIT or not all(NAME.fullmatch(part) and part != "." for part in parts):
            raise ValueError(f"the archive holds a path that not every system can have: {path[:PATH_LIMIT]!r}")
        # Where capitals do not count, two names may be one file; and a file cannot be a folder too.
        low = path.lower()
        if low in seen:
            raise ValueError(f"the archive holds a path twice: {seen[low]} and {path}")
        seen[low] = path
        folders |= {"/".join(low.split("/")[:depth]) for depth in range(1, len(parts))}
        rows[path] = row[1].decode(), int(row[2])
    both = sorted(folders & seen.keys())
    if both:
        raise ValueError(f"the archive holds a path that is both a file and a folder: {seen[both[0]]}")
    return rows


def unpack(files: dict[str, bytes], folder: Path) -> None:
    """Writes the files below `folder`, then reads all of them back. OSError for a link on the way, which may lead elsewhere."""
    for path in files:
        for step in (folder / path, *(folder / path).parents):
            if step == folder:
                break
            if step.is_symlink():
                raise OSError(f"{step} is a symbolic link; nothing is unpacked through one")
    for path, data in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(data)
    changed = differing(files, folder)
    if changed:
        raise OSError(f"{folder / changed} does not hold what was written")


def differing(files: dict[str, bytes], folder: Path) -> str:
    """The first path whose file below `folder` is missing or differs from what it should be; "" when all agree."""
    for path, data in files.items():
        if not (folder / path).is_file() or (folder / path).read_bytes() != data:
            return path
    return ""


def tool(name: str) -> str | None:
    """A program that came as a Python package beside this interpreter, or one from the PATH."""
    return shutil.which(name, path=str(Path(sys.executable).parent)) or shutil.which(name)


def missing() -> list[str]:
    """What a build lacks here, each with how to get it."""
    lacks = [f"Python package {name} (pip install {name})" for name in PACKAGES if util.find_spec(name) is None]
    lacks += [f"{name} (pip install {name})" for name in ("cmake", "ninja") if not tool(name)]
    compiler = shutil.which(os.environ.get("CXX", "c++").split()[0])
    if compiler is None:
        return [*lacks, "a C++20 compiler (Debian: g++, or set CXX)"]
    places = [f"-I{sysconfig.get_path('include')}"]
    headers = HEADERS | {"Python.h": "python3-dev"}
    for header, package in headers.items():
        source = f"#include <{header}>\n".encode()
        if subprocess.run([compiler, "-E", "-x", "c++", *places, "-"], input=source, capture_output=True).returncode:
            lacks.append(f"header {header} (Debian: {package})")
    toolkit = os.environ.get("CUDACXX") or shutil.which("nvcc") or Path("/usr/local/cuda/bin/nvcc").is_file()
    if Path("/dev/nvidiactl").exists() and not toolkit and os.environ.get("BYTEGOLF_CUDA") != "OFF":
        lacks.append("nvcc for the GPU (CUDA toolkit 12.8 or later; BYTEGOLF_CUDA=OFF trains on the CPU)")
    return lacks


def build(folder: Path) -> None:
    """Compiles the extension and lays it beside the package. SystemExit naming what is missing, or with the build's last lines."""
    lacks = missing()
    if lacks:
        sys.exit("train_gpt.py: cannot build, missing here:\n  " + "\n  ".join(lacks))
    pybind = import_module("pybind11").get_cmake_dir()
    options = {
        "BYTEGOLF_CUDA": os.environ.get("BYTEGOLF_CUDA", "AUTO"),
        "CMAKE_MAKE_PROGRAM": tool("ninja"),
        "Python_EXECUTABLE": sys.executable,
        "pybind11_DIR": pybind,
        "SKBUILD_PROJECT_VERSION": version(folder),
    }
    cmake = str(tool("cmake"))
    words = [f"-D{name}={value}" for name, value in options.items()]
    environment = {
        "CCACHE_BASEDIR": str(folder),
        "CCACHE_NOHASHDIR": "1",
        **os.environ,
    }  # should ccache be the launcher
    log, started = folder / "build.log", time.monotonic()
    print(f"train_gpt.py: building in {folder} (minutes the first time) ...", file=sys.stderr, flush=True)
    with log.open("wb") as out:
        for command in ([cmake, "-S", ".", "-B", "build", "-G", "Ninja", *words], [cmake, "--build", "build"]):
            done = subprocess.run(
                command, cwd=folder, env=environment, stdout=out, stderr=out, stdin=subprocess.DEVNULL
            )
            if done.returncode:
                out.flush()
                tail = log.read_text(errors="replace").splitlines()[-40:]
                sys.exit("\n".join([*tail, f"train_gpt.py: the build failed (whole log: {log})"]))
    for module in (folder / "build").glob("_bytegolf*.so"):
        shutil.copy2(module, folder / "python" / "bytegolf" / module.name)
    cuda = "with" if "CUDA kernels: ON" in log.read_text(errors="replace") else "without"
    seconds = time.monotonic() - started
    print(f"train_gpt.py: built {cuda} CUDA kernels in {seconds:.0f} s", file=sys.stderr, flush=True)


def version(folder: Path) -> str:
    """The version in pyproject.toml."""
    project = import_module("tomllib").loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return str(project["version"])


def home(digest: str) -> Path:
    """The folder below the cache that holds this archive, built for this Python and with or without CUDA."""
    base = (
        os.environ.get("BYTEGOLF_CACHE") or Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "bytegolf"
    )
    kind = f"{sys.implementation.cache_tag}-{os.environ.get('BYTEGOLF_CUDA', 'AUTO').lower()}"
    return Path(base).absolute() / f"{digest[:16]}-{kind}"


def ready(files: dict[str, bytes], digest: str) -> Path:
    """The unpacked, built folder; the first process of a host makes it, the others wait for that."""
    folder = home(digest)
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        lock = folder.with_suffix(".lock").open("w")
    except OSError as error:
        sys.exit(f"train_gpt.py: {error}; name another folder in BYTEGOLF_CACHE")
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / BUILT).is_file() or differing(files, folder):
            shutil.rmtree(folder, ignore_errors=True)
            fresh = Path(tempfile.mkdtemp(prefix=".new-", dir=folder.parent))
            try:
                unpack(files, fresh)
                shutil.copy2(__file__, fresh / "train_gpt.py")
                (fresh / "config.toml").write_text(CONFIG, encoding="utf-8")
                fresh.rename(folder)  # before the build: CMake remembers where it was
                build(folder)
                (folder / BUILT).touch()
            finally:
                shutil.rmtree(fresh, ignore_errors=True)
    return folder


def run(folder: Path, words: list[str]) -> None:
    """One command of the carried package, in this process. Leaves with its status."""
    # An editable installation of bytegolf would come before the path.
    sys.meta_path[:] = [finder for finder in sys.meta_path if "editable" not in type(finder).__module__]
    sys.path.insert(0, str(folder / "python"))
    os.environ["PYTHONPATH"] = os.pathsep.join([sys.path[0], *filter(None, [os.environ.get("PYTHONPATH")])])
    package = import_module("bytegolf")
    if not Path(str(package.__file__)).resolve().is_relative_to(folder.resolve()):
        sys.exit(f"train_gpt.py: another bytegolf is in the way: {package.__file__}")
    import_module("bytegolf.cli").main(words)


def training(folder: Path, changes: list[str]) -> list[str]:
    """The arguments of `bytegolf train` for the challenge's environment variables; `changes` come last and win."""
    environment = os.environ
    data = environment.get("DATA_PATH", DATA_PATH)
    options = {"train_data": data, "val_data": data}
    options |= {option: environment[name] for name, option in OPTIONS.items() if environment.get(name)}
    words = dict(word.split("=", 1) for word in changes)
    options |= {name.removeprefix("--").replace("-", "_"): value for name, value in words.items()}
    name = environment.get("RUN_ID") or f"seed-{options.get('seed', 0)}"
    return ["train", str(folder / "config.toml"), *(f"{k}={v}" for k, v in options.items()), "--run", f"runs/{name}"]


def main(words: list[str]) -> None:
    """Does what the first lines of this file say."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this file meets any Python
        sys.exit("train_gpt.py: needs Python 3.11 or later")
    if words[:1] in (["--help"], ["-h"]):
        print(__doc__)
        return
    try:
        files = carried(ARCHIVE, SHA256)
    except ValueError as error:
        sys.exit(f"train_gpt.py: {error}")
    if words[:1] == ["--unpack"] and len(words) == 2:
        try:
            unpack(files, Path(words[1]))
        except OSError as error:
            sys.exit(f"train_gpt.py: {error}")
        return
    folder = ready(files, SHA256)
    run(folder, training(folder, words) if all("=" in word for word in words) else words)


CONFIG = ""
SHA256 = ""
ARCHIVE = ""

if __name__ == "__main__":
    main(sys.argv[1:])
