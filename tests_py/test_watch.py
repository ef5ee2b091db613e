"""`bytegolf watch`: logs of other processes while they grow, frames of the terminal, and how it ends."""

import io
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time

import pytest
from rich.console import Console

from bytegolf.cli import main
from bytegolf.compare.places import LoggedRun
from bytegolf.log import RunLog
from bytegolf.record.follow import LogTail
from bytegolf.sweep.results import write_results
from bytegolf.watch.chart import chart, sparkline
from bytegolf.watch.draw import frame
from bytegolf.watch.state import CURVE_POINTS, Watched

# Writes a log as a run does: a step each 0.05 s, then the given last act.
WRITER = """
import os, sys, time
from pathlib import Path
from bytegolf.log import RunLog
folder, steps, act = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
folder.mkdir(parents=True, exist_ok=True)
journal = RunLog(folder / "log.jsonl")
journal.write("start", step=0, seed=0, parameters=1000, device="cpu", dtype="float32", config={"iterations": steps, "family": "byte260"})
for step in range(1, steps + 1):
    time.sleep(0.05)
    journal.write("step", step=step, total=5.0 / step, bpb=8.0 / step, grad_norm=1.25, lr_factor=0.5, bytes=step * 4096,
                  bytes_per_s=81920.0, elapsed_s=step * 0.05, left_s=(steps - step) * 0.05)
journal.write("val", step=steps, bpb=2.5, window=64, stride=16, weights="ema", **{"from": "artifact"})
if act == "end":
    journal.write("end", reason="done", step=steps, sliding={"bpb": 2.5}, artifact_bytes=500, parameters=1000)
    journal.close()
elif act == "fail":
    journal.write("end", reason="NumericsError: loss is nan", step=steps)
elif act == "die":
    os.kill(os.getpid(), 9)
else:
    time.sleep(1e6)
"""


@pytest.fixture
def writer():
    """Starts a process that writes a log; ended with the test."""
    started = []

    def start(folder, steps, act):
        started.append(subprocess.Popen([sys.executable, "-c", WRITER, str(folder), str(steps), act]))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


def step_line(step, **more):
    return {"kind": "step", "time": 1000.0 + step, "step": step, "total": 5.0 / step, "bpb": 8.0 / step} | more


def start_line(step=0, **more):
    return {"kind": "start", "time": 1000.0 + step, "step": step, "config": {"iterations": 100}} | more


def put(path, *lines):
    with path.open("a") as file:
        file.writelines(json.dumps(line) + "\n" for line in lines)


def watched(path, now=1000.0):
    run = Watched(LoggedRun("r", path), now=lambda: now)
    run.look()
    return run


def drawn(*runs, width=100, height=40, plain=False):
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(frame(runs, width, height, plain=plain))
    return console.export_text()


def in_terminal(*words, keys="", after="", meanwhile=None, limit=60):
    """(exit status, what a terminal got) of one command; sends `keys`, or the signal of that name, once `after` was seen.
    `meanwhile` is called with what was seen so far."""
    parent, child = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40", "PYTHONIOENCODING": "utf-8"}
    command = [sys.executable, "-m", "bytegolf", *map(str, words)]
    with subprocess.Popen(command, stdin=child, stdout=child, stderr=child, env=environment) as process:
        os.close(child)
        seen, until = b"", time.monotonic() + limit
        while time.monotonic() < until:
            ready, _, _ = select.select([parent], [], [], 0.2)
            try:
                data = os.read(parent, 65536) if ready else b""
            except OSError:  # the terminal's other side is closed
                break
            seen += data
            if keys and re.search(after, seen.decode("utf-8", "replace")):
                process.send_signal(signal.SIGINT) if keys == "SIGINT" else os.write(parent, keys.encode())
                keys = ""
            if meanwhile is not None:
                meanwhile(seen.decode("utf-8", "replace"))
            if not ready and process.poll() is not None:
                break
        if process.poll() is None and time.monotonic() >= until:
            process.kill()
        status = process.wait()
    os.close(parent)
    return status, seen.decode("utf-8", "replace")


def bytegolf(*arguments):
    with pytest.raises(SystemExit) as left:
        main([str(a) for a in arguments])
    return left.value.code


def test_a_tail_waits_for_the_file_and_for_whole_lines(tmp_path):
    path = tmp_path / "log.jsonl"
    tail = LogTail(path)
    assert tail.read() == []
    path.write_text('{"kind": "step", "step": 1}\n{"kind": "st')
    assert tail.read() == [{"kind": "step", "step": 1}]
    with path.open("a") as file:
        file.write('ep", "step": 2}\nnonsense\n')
    assert tail.read() == [{"kind": "step", "step": 2}]
    assert tail.read() == []


def test_a_tail_reads_nothing_twice(tmp_path):
    path = tmp_path / "log.jsonl"
    put(path, *[step_line(s) for s in range(1, 1001)])
    tail = LogTail(path)
    assert len(tail.read()) == 1000
    with path.open("r+b") as file:  # who reads the start again would now see nonsense
        file.write(b"#" * 10000)
    put(path, step_line(1001))
    assert tail.read() == [step_line(1001)]


def test_a_new_log_in_the_place_of_an_old_one_is_read_from_its_start(tmp_path):
    path = tmp_path / "log.jsonl"
    put(path, start_line(), *[step_line(s) for s in range(1, 9)])
    run = watched(path)
    path.rename(tmp_path / "log.1.jsonl")
    put(path, start_line(), step_line(1))
    run.look()
    assert (run.done, len(run.curve)) == (1, 1)


def test_a_resumed_run_shows_its_later_steps_once(tmp_path):
    path = tmp_path / "log.jsonl"
    put(
        path,
        start_line(),
        *[step_line(s) for s in range(1, 11)],
        {"kind": "end", "time": 1011, "reason": "interrupted"},
    )
    run = watched(path)
    assert run.standing == "interrupted"
    put(path, start_line(5), *[step_line(s, total=1.0) for s in range(6, 9)])
    run.look()
    assert run.standing == "training"
    assert [point[0] for point in run.curve] == list(range(1, 9))
    assert [point[1] for point in run.curve[5:]] == [1.0] * 3
    assert run.resumed == [5]
    assert "resumed after step 5" in drawn(run)
    assert watched(path).curve == run.curve  # as when it is read at once


def test_a_frame_shows_all_that_a_step_and_the_scores_tell(tmp_path):
    path = tmp_path / "log.jsonl"
    facts = {
        "grad_norm": 0.375,
        "lr_factor": 0.25,
        "bytes": 2_500_000,
        "bytes_per_s": 81920.0,
        "elapsed_s": 75.0,
        "left_s": 225.0,
    }
    put(path, start_line(seed=7, parameters=12345, dtype="float32", hardware="2 cores"))
    put(path, *[step_line(s, **facts) for s in range(1, 26)])
    put(path, {"kind": "val", "time": 1026, "step": 20, "weights": "raw", "window": 8, "stride": 8, "bpb": 3.125})
    for plain in (False, True):
        text = drawn(watched(path, 1030.0), plain=plain)
        for words in ("training", "25 %", "step 25 of 100", "3 min 45 s left", "0.3200", "0.2000", "0.375", "0.250"):
            assert words in text
        for words in ("81.92 kB/s", "2.50 MB", "1 min 15 s", "3.1250 bpb", "step 20", "12,345 parameters", "seed 7"):
            assert words in text
    assert text.isascii()


def test_a_run_that_says_nothing_is_silent_and_one_whose_process_is_gone_is_told(tmp_path):
    path = tmp_path / "log.jsonl"
    journal = RunLog(path)
    journal.write("start", step=0, config={"iterations": 100})
    journal.write("step", step=1, bpb=8.0)
    now = time.time()
    assert watched(path, now + 5).standing == "training"
    assert watched(path, now + 100).standing == "silent"
    assert "silent for 1 min 40 s" in drawn(watched(path, now + 100))
    journal.close()  # as the system does for a process that was killed
    assert watched(path, now + 1).standing == "training"  # the next part may be about to begin
    assert watched(path, now + 5).standing == "gone"


def test_a_slow_run_is_not_called_silent(tmp_path):
    path = tmp_path / "log.jsonl"
    put(path, start_line(), *[step_line(s, time=1000.0 + 60 * s) for s in range(1, 4)])
    assert watched(path, 1180.0 + 300).standing == "training"
    assert watched(path, 1180.0 + 900).standing == "silent"


def test_a_log_of_a_writer_without_a_lock_is_never_called_gone(tmp_path):
    path = tmp_path / "log.jsonl"
    put(path, start_line(), step_line(1))
    assert watched(path, 1e6).standing == "silent"


def test_a_long_run_keeps_a_bounded_curve_with_both_its_ends(tmp_path):
    path = tmp_path / "log.jsonl"
    put(path, start_line(), *[step_line(s) for s in range(1, 3 * CURVE_POINTS)])
    run = watched(path)
    assert len(run.curve) < CURVE_POINTS
    assert (run.curve[0][0], run.curve[-1][0]) == (1, 3 * CURVE_POINTS - 1)


def test_in_a_terminal_it_follows_another_process_and_ends_with_it(tmp_path):
    def written():
        """A step each time the one before is on the screen, which is sent in here."""
        (tmp_path / "run").mkdir()
        journal = RunLog(tmp_path / "run" / "log.jsonl")
        config = {"iterations": 80, "family": "byte260"}
        journal.write("start", step=0, parameters=1000, device="cpu", dtype="float32", config=config)
        for step in (20, 40, 60, 80):
            journal.write("step", step=step, total=5.0 / step, bpb=8.0 / step, elapsed_s=step, left_s=80.0 - step)
            while f"step {step} of 80" not in (yield):
                pass
        journal.write("val", step=80, bpb=2.5, window=64, stride=16, weights="ema", **{"from": "artifact"})
        journal.write("end", reason="done", step=80, sliding={"bpb": 2.5}, artifact_bytes=500, parameters=1000)
        journal.close()
        while True:
            yield

    writer = written()
    next(writer)
    status, seen = in_terminal("watch", tmp_path / "run", "--every-s", "0.1", meanwhile=writer.send)
    assert status == 0
    last = seen[seen.rindex("\x1b[?1049l") :]  # what stays when the terminal's own screen is back
    for words in ("done", "100 %", "step 80 of 80", "2.5000 bpb", "500 bytes", "4.00 bits per weight"):
        assert words in last


def test_q_leaves_and_the_run_goes_on(tmp_path, writer):
    process = writer(tmp_path / "run", 4, "stay")
    status, seen = in_terminal("watch", tmp_path / "run", "--every-s", "0.1", keys="q", after="step 4 of 4")
    assert status == 0
    assert "q leaves" in seen
    assert process.poll() is None


def test_ctrl_c_leaves_in_good_order(tmp_path, writer):
    process = writer(tmp_path / "run", 4, "stay")
    parent_status, seen = in_terminal("watch", tmp_path / "run", "--every-s", "0.1", keys="SIGINT", after="step 4 of 4")
    assert "Traceback" not in seen
    assert parent_status == 0
    assert process.poll() is None


@pytest.mark.parametrize(
    ("act", "status", "words"),
    [("end", 0, "done"), ("fail", 1, "failed: NumericsError: loss is nan"), ("die", 1, "its process is gone")],
)
def test_without_a_terminal_it_waits_for_the_run_prints_lines_and_says_how_it_ended(
    tmp_path, writer, act, status, words
):
    with subprocess.Popen(
        [sys.executable, "-m", "bytegolf", "watch", str(tmp_path / "run"), "--every-s", "0.1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as watching:
        time.sleep(0.5)  # it waits for a folder that is not there yet
        writer(tmp_path / "run", 10, act)
        out, err = watching.communicate(timeout=60)
    assert watching.returncode == status, err
    assert words in out
    assert "step 10 of 10" in out
    assert ("resume with: bytegolf train --resume --run" in out) == (act == "die")


def test_a_sweep_shows_all_its_runs_and_those_that_wait(tmp_path, capsys):
    rows = []
    for seed, status in ((0, "done"), (1, "running"), (2, "waiting")):
        rows.append({"group": "g", "seed": seed, "status": status, "folder": f"g-seed-{seed}"})
        if status != "waiting":
            (tmp_path / f"g-seed-{seed}").mkdir()
            put(tmp_path / f"g-seed-{seed}" / "log.jsonl", start_line(), step_line(1), step_line(2))
    put(tmp_path / "g-seed-0" / "log.jsonl", {"kind": "end", "time": 1003, "reason": "done", "sliding": {"bpb": 1.75}})
    write_results(tmp_path, rows)
    assert bytegolf("watch", tmp_path, "--once") == 0
    text = capsys.readouterr().out
    for words in ("g-seed-0", "g-seed-1", "g-seed-2", "1.7500", "1 waiting", "1 done", "4.0000"):
        assert words in text
    assert bytegolf("watch", tmp_path, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert [run["standing"] for run in found] == ["done", "silent", "waiting"]
    assert [run["group"] for run in found] == ["g"] * 3


def test_once_of_nothing_is_a_mistake_told_in_one_line(tmp_path, capsys):
    for words in (["--once", tmp_path / "none"], ["--json", tmp_path / "none"], []):
        assert bytegolf("watch", *words) == 2
        assert capsys.readouterr().err.count("\n") == 1


def test_curves_fall_from_left_to_right():
    line = [10.0 - 0.1 * i for i in range(101)]
    assert sparkline(line, 8) == "█▇▆▅▄▃▂▁"
    assert sparkline(line, 8, plain=True) == "@#*+=-._"
    rows, low, high = chart(line, 12, 4, plain=True)
    first = ["".join(column).index("*") for column in zip(*rows, strict=True)]
    assert (first[0], first[-1]) == (0, 3)
    assert first == sorted(first)
    assert (low, high) == pytest.approx((0.0, 10.0), abs=0.5)


@pytest.mark.parametrize("values", [[], [1.0], [2.0] * 50, [float("nan")] * 3, [float("nan"), 1.0]])
def test_any_curve_can_be_drawn(values):
    rows, _, _ = chart(values, 10, 3)
    assert [len(row) for row in rows] == [10] * 3
    sparkline(values, 10)


def test_values_at_the_end_of_float64_are_drawn_around(tmp_path):
    path = tmp_path / "log.jsonl"
    huge = [1.7e308, -1.7e308, 1e200, 3.0, 2.0]
    put(
        path,
        start_line(),
        *(step_line(n, total=value, bpb=value, bytes_per_s=1.7e308) for n, value in enumerate(huge, 1)),
    )
    run = watched(path)
    run.look()
    out = io.StringIO()
    Console(file=out, width=100).print(frame([run], 100, 40))
    Console(file=out, width=100).print(frame([run, watched(path)], 100, 40))
    assert "step 5" in out.getvalue()
    assert sparkline(huge, 8)
