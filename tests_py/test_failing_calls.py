"""Every system call that changes a folder fails in turn, with a full disk and with an I/O error, once and for ever, or is the last of its
process: what is left is the old or the new, whole, and the next attempt succeeds. See shim/driver.py."""

import collections
import os
import shutil
import tempfile
from pathlib import Path

import pytest
from shim import driver

pytestmark = pytest.mark.skipif(driver.library() is None, reason="no C compiler")


@pytest.fixture
def place():
    """A folder in memory where there is one: nothing here depends on a disk."""
    memory = Path("/dev/shm")
    made = Path(tempfile.mkdtemp(dir=memory if os.access(memory, os.W_OK) else None))
    yield made
    shutil.rmtree(made)


def outcomes(rows):
    return {(row["kind"], row["left"]) for row in rows}


def test_a_checkpoint_is_found_whatever_call_of_a_save_fails(place):
    rows = driver.run("checkpoint", place)
    each = collections.Counter((row["at"], row["kind"]) for row in rows)
    assert set(each.values()) == {1, 2}  # killed once, refused with ENOSPC and EIO
    assert outcomes(rows) == {(kind, left) for kind in ("once", "ever", "kill") for left in ("old", "new")}
    for row in rows:
        if row["status"] == driver.REFUSED and row["left"] == "old":
            assert "checkpoint not written, an older one is kept" in row["said"]
        elif row["status"] == driver.REFUSED:
            assert "checkpoint-000002 is whole" in row["said"] and "the one before is kept" in row["said"]
        if row["status"] == driver.REFUSED and row["error"] == "ENOSPC":
            assert "make room" in row["said"]


def test_the_first_checkpoint_of_a_run_is_there_or_not(place):
    rows = driver.run("first-checkpoint", place, "--kinds", "once,kill")
    assert outcomes(rows) == {(kind, left) for kind in ("once", "kill") for left in ("old", "new")}


@pytest.mark.parametrize("scene", ["artifact", "export", "log"])
def test_pack_export_and_the_log_leave_the_old_or_the_new(place, scene):
    rows = driver.run(scene, place, "--kinds", "once,kill")
    assert {"old", "new"} == {row["left"] for row in rows}
    assert all("place" in row["said"] for row in rows if row["status"] == driver.REFUSED)  # names the path


def test_a_submission_is_whole_or_not_there(place):
    rows = driver.run("submit", place, "--every", "7", "--kinds", "kill")
    assert len(rows) > 3
    lefts = [row["left"] for row in sorted(rows, key=lambda row: int(row["at"]))]
    assert lefts[0] == "old" and lefts == sorted(lefts, reverse=True)  # what is there once is not taken back
