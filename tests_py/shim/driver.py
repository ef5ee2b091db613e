"""Every system call of an act fails in turn, or is the process's last: what is left must be the old or the new, whole.

    python tests_py/shim/driver.py SCENE FOLDER [--every N] [--kinds once,ever,kill]

runs one scene of scenes.py under the library failing_calls.c, compiles it first, and prints one JSON line a case. `run` does the same
for a test and returns the lines. Every act runs in a process of its own, forked from one that has loaded all it needs.
"""

from __future__ import annotations

import argparse
import ctypes
import errno
import functools
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import traceback
from pathlib import Path

HERE = Path(__file__).resolve().parent
KINDS = ("once", "ever", "kill")
ERRORS = (errno.ENOSPC, errno.EIO)
DONE, REFUSED, BROKEN = 0, 3, 4  # how an act ended: without an error, with an OSError, with any other


@functools.cache
def library() -> Path | None:
    """The compiled shim; None where there is no C compiler."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return None
    made = Path(tempfile.mkdtemp(prefix="failing-calls-")) / "failing_calls.so"
    words = [compiler, "-shared", "-fPIC", "-O1", "-o", str(made), str(HERE / "failing_calls.c"), "-ldl", "-lpthread"]
    subprocess.run(words, check=True)
    return made


def environment(**more: object) -> dict[str, str]:
    """What a process needs to run under the shim."""
    return {**os.environ, "LD_PRELOAD": str(library()), **{name: str(value) for name, value in more.items()}}


def run(scene: str, folder: Path, *options: str, timeout_s: float = 600.0) -> list[dict[str, object]]:
    """All cases of a scene in `folder`, which is empty: {"call", "at", "kind", "error", "left", "status"} each, `left` being "old" or "new".

    AssertionError with the case for anything else.
    """
    words = [sys.executable, str(HERE / "driver.py"), scene, str(folder), *options]
    done = subprocess.run(words, env=environment(), capture_output=True, text=True, timeout=timeout_s, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def _cases(count: int, every: int, kinds: list[str]) -> list[tuple[int, str, int]]:
    cases = []
    for at in range(0, count, every):
        for kind in kinds:
            cases += [(at, kind, number) for number in ((0,) if kind == "kill" else ERRORS)]
    return cases


def _forked(act, shim, folder: Path, at: int, number: int, ever: bool, words: Path) -> int:
    """Status of the act in a child of its own: DONE, REFUSED, BROKEN, or minus the signal that ended it."""
    child = os.fork()
    if child == 0:
        status = BROKEN
        try:
            shim.failing_calls_set(os.fsencode(folder), at, number, int(ever))
            act(folder)
            status = DONE
        except OSError as error:
            status = REFUSED
            words.write_text(str(error))
        except BaseException:
            words.write_text(traceback.format_exc())
        finally:
            shim.failing_calls_set(b"", -1, 0, 0)
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def main() -> None:
    """One scene."""
    parser = argparse.ArgumentParser()
    parser.add_argument("scene")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--every", type=int, default=1)
    parser.add_argument("--kinds", default=",".join(KINDS))
    options = parser.parse_args()
    shim = ctypes.CDLL(None)
    shim.failing_calls_count.restype = ctypes.c_long
    shim.failing_calls_name.restype = ctypes.c_char_p
    shim.failing_calls_set.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    sys.path.insert(0, str(HERE.parent))
    scene = importlib.import_module("shim.scenes").SCENES[options.scene](options.folder)
    root = options.folder.resolve()
    before, place, words = root / "before", root / "place", root / "words"
    before.mkdir(parents=True)
    scene.prepare(before)
    shutil.copytree(before, place, symlinks=True)
    shim.failing_calls_set(os.fsencode(place), -1, 0, 0)
    scene.act(place)
    count = shim.failing_calls_count()
    shim.failing_calls_set(b"", -1, 0, 0)
    assert count > 3, f"{count} calls seen: the shim is not at work"
    assert scene.left(place, helpless=False) == "new"
    for at, kind, number in _cases(count, options.every, options.kinds.split(",")):
        shutil.rmtree(place)
        shutil.copytree(before, place, symlinks=True)
        words.unlink(missing_ok=True)
        status = _forked(scene.act, shim, place, at, number, kind == "ever", words)
        said = words.read_text() if words.exists() else ""
        case = {"at": at, "kind": kind, "error": errno.errorcode.get(number, "SIGKILL"), "status": status, "said": said}
        assert status != BROKEN, f"{case}"
        assert (status == -signal.SIGKILL) == (kind == "kill"), f"{case}"
        try:
            case["left"] = scene.left(place, helpless=kind != "once")
            assert case["left"] in ("old", "new")
            assert status != DONE or case["left"] == "new"
            scene.act(place)  # and it works the next time
            assert scene.left(place, helpless=kind != "once") == "new"
        except BaseException as error:
            raise AssertionError(f"{case}") from error
        print(json.dumps(case))


if __name__ == "__main__":
    main()
