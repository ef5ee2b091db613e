"""log.jsonl: one JSON object a line, resumed runs read as one, damage at the end forgiven; and the curves drawn from it."""

import json
import math

import numpy as np
import pytest

from bytegolf.log import RunLog, read_log
from bytegolf.pictures.curves import draw_curves, smoothed


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
