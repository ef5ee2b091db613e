"""Every system call of a save fails in turn, once and for ever, or is the process's last: shim/driver.py does it, scene by scene."""

from __future__ import annotations

import importlib
import importlib.util
import shutil
import subprocess
import time

from campaign.stage import Context, Outcome

SHORT_EVERY = 7  # of a short campaign: each so-manieth call


def stage(context: Context) -> Outcome:
    """All scenes, every call of each in a long campaign; a scene of a short one begins at a call drawn from the seed."""
    if importlib.util.find_spec("shim") is None:
        return Outcome(skipped="tests_py/shim is not there")
    driver, scenes = importlib.import_module("shim.driver"), importlib.import_module("shim.scenes").SCENES
    if driver.library() is None:
        return Outcome(skipped="no C compiler")
    outcome, end = Outcome(), time.monotonic() + context.seconds
    names = list(scenes)
    if not context.goal:
        context.random("order").shuffle(names)
    done = 0
    for name in names:
        left = end - time.monotonic()
        if left <= 0:
            break
        folder = context.folder / name
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        options = [] if context.goal else ["--every", str(SHORT_EVERY)]
        try:
            outcome.executions += len(
                driver.run(name, folder, *options, timeout_s=left if context.goal else max(left, 60.0))
            )
            done += 1
        except subprocess.TimeoutExpired as late:
            outcome.executions += len((late.stdout or b"").splitlines())
        except AssertionError as error:
            outcome.findings.append(context.keep(str(error).encode(), f"scene {name}: {str(error)[-250:]}"))
    outcome.note = f"{done} of {len(names)} scenes"
    return outcome
