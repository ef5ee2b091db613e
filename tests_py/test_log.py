"""log.jsonl: one JSON object a line, resumed runs read as one, damage at the end forgiven; and the curves drawn from it."""

import json
import math

import numpy as np
import pytest

from bytegolf.cli import main
from bytegolf.log import RunLog, read_log
from bytegolf.pictures.curves import draw_curves, smoothed
from bytegolf.record.follow import LogTail


def write_run(path, steps, first=1):
    log = RunLog(path)
    log.write("start", step=first - 1)
    for step in range(first, first + steps):
        log.write("step", step=step, bpb=8.0 / step, grad_norm=1.0, lr_factor=1.0, bytes=step * 4096, bytes_per_s=1e5)
    log.close()


def test_every_line_is_one_json_object(tmp_path):
    log = RunLog(tmp_path / "log.jsonl")
    log.write(
        "step", step=np.int64(3), loss=np.float32(0.5), broken=math.nan, nested={"a": [np.float64(1), None, True]}
    )
    log.close()
    (line,) = (tmp_path / "log.jsonl").read_text().splitlines()
    got = json.loads(line)
    assert got.pop("time") > 1.6e9
    assert got == {"kind": "step", "step": 3, "loss": 0.5, "broken": None, "nested": {"a": [1.0, None, True]}}


def test_steps_done_again_after_a_resume_count_once(tmp_path):
    path = tmp_path / "log.jsonl"
    write_run(path, 10)
    write_run(path, 7, first=6)
    assert [line["step"] for line in read_log(path) if line["kind"] == "step"] == list(range(1, 13))


def test_a_line_cut_short_is_skipped_and_the_next_stands_alone(tmp_path):
    path = tmp_path / "log.jsonl"
    write_run(path, 2)
    with path.open("a") as file:
        file.write('{"kind": "step", "st')
    write_run(path, 1, first=3)
    assert [line["step"] for line in read_log(path) if line["kind"] == "step"] == [1, 2, 3]


def test_an_empty_log_is_refused(tmp_path):
    (tmp_path / "log.jsonl").write_text("")
    with pytest.raises(ValueError, match="no line"):
        read_log(tmp_path / "log.jsonl")


@pytest.mark.parametrize("steps", [1, 5, 60])
def test_curves_are_drawn_from_any_length(tmp_path, steps):
    pytest.importorskip("matplotlib")
    path = tmp_path / "log.jsonl"
    write_run(path, steps)
    log = RunLog(path)
    log.write("val", step=steps, weights="ema", window=64, stride=16, bpb=2.0, **{"from": "artifact"})
    log.close()
    draw_curves(path, tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_smoothing_keeps_a_constant():
    assert smoothed([2.0] * 50) == pytest.approx([2.0] * 50)


# Lines that nobody's run wrote


WRONG = [
    ('{"kind": "start", "step": "x"}', 'step = "x" is not a whole number from 0 on'),
    ('{"kind": "start", "seed": 1.5}', "seed = 1.5"),
    ('{"kind": "start", "seed": true}', "seed = true"),
    ('{"kind": "start", "time": "now"}', 'time = "now" is not a number'),
    ('{"kind": "start", "time": 1e999}', "time = Infinity"),
    ('{"kind": "start", "config": [1]}', "config = [1] is not an object"),
    ('{"kind": "start", "config": {"iterations": "many"}}', "config.iterations"),
    ('{"kind": "start", "config": {"later": [1]}}', "config.later = [1]"),
    ('{"kind": "start", "hardware": {"a": 1}}', "hardware"),
    ('{"kind": "start", "locked": 1}', "locked = 1 is neither true nor false"),
    ('{"kind": "step", "bpb": 1}', "says no step"),
    ('{"kind": "step", "step": -1}', "step = -1"),
    ('{"kind": "step", "step": 1, "bpb": "low"}', "bpb"),
    ('{"kind": "step", "step": 1, "some_loss": 1' + "0" * 400 + "}", "some_loss"),
    ('{"kind": "step", "step": 1' + "0" * 30 + "}", "step = 1000"),
    ('{"kind": "step", "step": ' + "1" * 5000 + "}", "too many digits"),
    ('{"kind": "val", "step": 1, "bpb": []}', "bpb = []"),
    ('{"kind": "end", "sliding": 3}', "sliding = 3 is not an object"),
    ('{"kind": "end", "sliding": {"bpb": "x"}}', "sliding.bpb"),
    ('{"kind": "end", "made": {"val_sha256": 4}}', "made.val_sha256"),
    ('{"kind": "end", "reason": 7}', "reason = 7 is not a text"),
    ('{"kind": "track", "problem": 7}', "problem"),
    ('{"kind": "other", "step": {}}', "step = {}"),
    ('{"kind": "end", "x": ' + "[" * 100 + "]" * 100 + "}", "nests too deeply"),
    ('{"kind": "end", "x": ' + "[" * 100_000 + "]" * 100_000 + "}", "nests too deeply"),
]


@pytest.mark.parametrize(("text", "words"), WRONG, ids=range(len(WRONG)))
def test_a_value_of_a_wrong_type_is_named_with_file_and_line(tmp_path, capsys, text, words):
    path = tmp_path / "log.jsonl"
    good = '{"kind": "start", "step": 0, "config": {"iterations": 5}}\n{"kind": "step", "step": 1, "bpb": 2.0}\n'
    path.write_text(f"{good}{text}\n")
    with pytest.raises(ValueError, match="line 3: ") as error:
        read_log(path)
    assert str(error.value).startswith(f"{path}, line 3: ")
    assert words in str(error.value)
    assert len(str(error.value)) < len(str(path)) + 200
    # What follows a log goes on without the line, and says so; what compares runs ends with it.
    tail = LogTail(path)
    assert [line["kind"] for line in tail.read()] == ["start", "step"]
    assert tail.faults == [f"{error.value}; left out"]
    for verb, status in (("report", 2), ("plot", 2), ("watch", 0)):
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([verb, str(tmp_path), *(["--once"] if verb == "watch" else [])])
        captured = capsys.readouterr()
        assert left.value.code == status
        assert "line 3: " in " ".join((captured.out + captured.err).split())
        assert "Traceback" not in captured.err


def test_what_is_not_a_number_is_missing(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"kind": "step", "step": 1, "bpb": NaN, "total": null}\n')
    (line,) = read_log(tmp_path / "log.jsonl")
    assert (line["bpb"], line["total"]) == (None, None)


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ('{"group": 1, "status": "done"}', "line 2: group = 1 is not a text"),
        ('{"group": "a", "status": "done", "seed": "x"}', "line 2: seed = x is not a number"),
        ('{"group": "a", "status": "done", "seed": [1]}', "line 2: seed = [1]"),
        ('{"group": "a", "status": "done", "bpb_sliding": NaN}', "line 2: bpb_sliding = nan"),
        ('{"group": "a", "status": "done", "bpb_sliding": {}}', "line 2: bpb_sliding = {}"),
        ('{"group": "a", "status": "done", "bpb_sliding": 1' + "0" * 400 + "}", "line 2: bpb_sliding"),
        ('{"group": "a", "status": "done", "folder": 3}', "line 2: folder = 3"),
        ('{"group": ' + "[" * 100_000, "line 2: its JSON nests too deeply"),
        ('{"group": ' + "1" * 5000 + "}", "line 2: "),
        ("[]", "line 2: no JSON object"),
        ("\udcff", "line 2: byte"),
    ],
)
def test_results_of_wrong_types_are_named_with_file_and_line(tmp_path, capsys, row, words):
    path = tmp_path / "results.jsonl"
    path.write_bytes(f'{{"group": "a", "status": "done"}}\n{row}\n'.encode("utf-8", "surrogateescape"))
    for verb in (["report"], ["watch", "--once"], ["plot"]):
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            main([*verb, str(tmp_path)])
        captured = capsys.readouterr()
        assert left.value.code == 2
        assert f"results.jsonl, {words}" in captured.err
        assert captured.err.count("\n") == 1
