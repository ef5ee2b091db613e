"""One process at a time in a run's folder: who comes second is told who is first; who was killed holds nothing."""

import errno
import json
import os
import socket
import subprocess
import sys

import pytest

from bytegolf.errors import UserError
from bytegolf.record import lock
from bytegolf.record.lock import NAME, Holder, RunLock, holder_of, refuse_if_held

HOLD = """
import sys
from pathlib import Path
from bytegolf.record.lock import RunLock
held = RunLock(Path(sys.argv[1]), print)
print(held.kind, flush=True)
sys.stdin.read()
"""


def hold(folder, program=HOLD):
    """A process that holds the lock until it is killed or its input ends."""
    words = [sys.executable, "-c", program, str(folder)]
    process = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    kind = process.stdout.readline().strip()
    return process, kind


def end(process, kill=False):
    if kill:
        process.kill()
    process.stdin.close()
    process.stdout.close()
    process.wait(60)


def unexpected(text):
    raise AssertionError(text)


def no_locks(handle, command, argument=0):
    raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))


@pytest.fixture
def without_locks(monkeypatch):
    """A file system without locks, for this process; NO_LOCKS is the same for others."""
    monkeypatch.setattr(lock.fcntl, "fcntl", no_locks)


NO_LOCKS = HOLD.replace(
    "held =",
    "import errno, fcntl\ndef no_locks(*_): raise OSError(errno.ENOLCK, 'none')\nfcntl.fcntl = no_locks\nheld =",
)


def test_the_second_is_told_host_and_process_of_the_first(tmp_path):
    process, kind = hold(tmp_path)
    assert kind == "system"
    with pytest.raises(
        UserError, match=rf"process {process.pid} on {socket.gethostname()}, since 20.* is at work there"
    ):
        RunLock(tmp_path, unexpected)
    assert holder_of(tmp_path).pid == process.pid
    with pytest.raises(UserError, match=str(process.pid)):
        refuse_if_held(tmp_path)
    end(process)
    refuse_if_held(tmp_path)
    with RunLock(tmp_path, unexpected):
        assert holder_of(tmp_path).pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_the_same_process_cannot_take_it_twice(tmp_path):
    with RunLock(tmp_path, unexpected), pytest.raises(UserError, match=str(os.getpid())):
        RunLock(tmp_path, unexpected)


def test_a_killed_holder_holds_nothing(tmp_path):
    process, _ = hold(tmp_path)
    end(process, kill=True)
    assert (tmp_path / NAME).exists()
    with RunLock(tmp_path, unexpected):
        assert json.loads((tmp_path / NAME).read_text())["pid"] == os.getpid()


def test_a_name_that_was_left_on_another_host_is_said(tmp_path):
    (tmp_path / NAME).write_text(json.dumps({"host": "elsewhere", "pid": 7, "ticks": 1, "boot": "b", "since": 0}))
    said = []
    RunLock(tmp_path, said.append).release()
    assert len(said) == 1 and "process 7 on elsewhere" in said[0]


@pytest.mark.parametrize(
    "text", ["", "nonsense", "[]", "1", '{"host": 1}', "[" * 5000, '{"host": "h", "pid": 1e999}', "\x00" * 99]
)
def test_what_is_in_a_free_lock_file_does_not_matter(tmp_path, text):
    (tmp_path / NAME).write_text(text)
    RunLock(tmp_path, unexpected).release()


def test_a_folder_that_is_made_for_the_lock_goes_again_while_it_is_empty(tmp_path):
    RunLock(tmp_path / "a" / "b", unexpected).release()
    assert not (tmp_path / "a").exists()
    with RunLock(tmp_path / "a" / "b", unexpected):
        (tmp_path / "a" / "b" / "kept").touch()
    assert [p.name for p in (tmp_path / "a" / "b").iterdir()] == ["kept"]


def test_without_locks_the_file_itself_is_the_lock(tmp_path, without_locks):
    with RunLock(tmp_path, unexpected) as held:
        assert held.kind == "file"
        with pytest.raises(UserError, match=rf"process {os.getpid()} on .* has no locks: .* remove {tmp_path / NAME}"):
            RunLock(tmp_path, unexpected)
        assert holder_of(tmp_path).pid == os.getpid()
    assert holder_of(tmp_path) is None
    RunLock(tmp_path, unexpected).release()


def test_without_locks_a_killed_process_of_this_host_holds_nothing(tmp_path, without_locks):
    process, kind = hold(tmp_path, NO_LOCKS)
    assert kind == "file"
    with pytest.raises(UserError, match=f"process {process.pid} "):
        RunLock(tmp_path, unexpected)
    end(process, kill=True)
    assert holder_of(tmp_path) is None
    with RunLock(tmp_path, unexpected):
        assert holder_of(tmp_path).pid == os.getpid()
    assert list(tmp_path.iterdir()) == []


def test_without_locks_a_process_of_another_host_is_believed(tmp_path, without_locks):
    here = Holder.this()
    for host, pid, ticks, held in [
        ("elsewhere", here.pid, here.ticks, True),
        (here.host, here.pid, here.ticks, True),
        (here.host, here.pid, here.ticks + 1, False),  # the number was given again
        (here.host, 1 << 30, 1, False),
    ]:
        text = json.dumps({"host": host, "pid": pid, "ticks": ticks, "boot": here.boot, "since": 0})
        (tmp_path / NAME).write_text(text)
        if held:
            with pytest.raises(UserError, match=f"process {pid} on {host}"):
                RunLock(tmp_path, unexpected)
        else:
            RunLock(tmp_path, unexpected).release()


def test_of_many_at_once_one_gets_it(tmp_path):
    program = """
import sys, time
from pathlib import Path
from bytegolf.errors import UserError
from bytegolf.record.lock import RunLock
print("ready", flush=True)
sys.stdin.readline()
try:
    held = RunLock(Path(sys.argv[1]), print)
except UserError:
    print("refused", flush=True)
else:
    print("got it", flush=True)
    sys.stdin.read()
    held.release()
"""
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", program, str(tmp_path / "run")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    words = [process.stdout.readline().strip() for process in processes]
    for process in processes:
        end(process)
    assert sorted(words) == ["got it", "refused", "refused", "refused"]
    assert not (tmp_path / "run" / NAME).exists()


def test_a_folder_that_cannot_be_written_says_so(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        RunLock(tmp_path / "file", unexpected)
