"""Benchmarks of a device: every operation is right before it is timed, and what is said of the figures."""

import pytest

from bytegolf import _bytegolf, device
from bytegolf.bench import cpu, gpu

SMALL = {"device": "cpu", "dtype": "float32", "rows": 1, "length": 64}  # the table of operations knows no device


@pytest.mark.parametrize("group", ["gemm", "attention", "elementwise"])
def test_every_operation_equals_its_definition_before_it_is_timed(group):
    rows = _bytegolf.bench_device(group, 0.0, **SMALL)
    assert rows
    for row in rows:
        assert row["error"] is not None
        assert row["error"] <= row["tolerance"], row["what"]
        assert row["checked_at"]
        assert len(row["seconds"]) >= 3
        assert row["bytes"] > 0
        assert (row["flops"] > 0) == (group != "elementwise")


def test_groups_are_those_that_the_core_knows():
    assert gpu.names() == [*_bytegolf.device_bench_groups(), "start", "sliding", "scaling"]
    with pytest.raises(ValueError, match="unknown group nothing to measure; known are gemm, attention"):
        _bytegolf.bench_device("nothing", 0.0, **SMALL)


def test_a_figure_is_held_against_the_larger_of_its_floors_and_judged_only_when_checked():
    raw = {"group": "gemm", "what": "a product", "flops": 4e9, "bytes": 1e6, "ids": 0.0, "memory_bytes": 0.0}
    raw |= {"seconds": [2e-3, 2e-3, 2e-3, 3e-3], "error": 1e-3, "tolerance": 1e-2, "checked_at": "B 2"}
    rates = {"gemm_flops": 4e12, "copy_bytes": 1e12}
    row = gpu.figure(raw, rates)
    assert row["median_ms"] == pytest.approx(2)
    assert row["tflops"] == pytest.approx(2)
    assert row["share"] == pytest.approx(0.5)
    assert row["ok"]
    assert not gpu.figure(raw | {"error": 0.1}, rates)["ok"]
    assert not gpu.figure(raw | {"error": float("nan")}, rates)["ok"]
    assert gpu.figure(raw | {"error": None}, rates)["ok"]


def test_a_table_is_printed_for_each_group(capsys):
    found = gpu.run("cpu", "float32", groups=["gemm"], budget_s=0.0, rows=1, length=64)
    out = capsys.readouterr().out
    assert "head 512 -> 260 forward" in out
    assert "TFLOP/s" in out
    assert found["machine"]["copy_gbs"] > 0


def test_the_first_step_of_a_process_is_timed(monkeypatch):
    monkeypatch.setattr(gpu, "STARTS", 1)
    rows = gpu.EXTRA["start"]("cpu", "float32", 1, 64)
    assert [row["group"] for row in rows] == ["start"] * 3
    assert 0 < min(rows[0]["seconds"]) < min(rows[2]["seconds"])


def test_a_sliding_score_is_timed():
    (row,) = gpu.EXTRA["sliding"]("cpu", "float32", 1, 64)
    assert row["ids"] == 256
    assert row["seconds"][0] > 0


@pytest.mark.skipif(bool(device.why_no_gpu()), reason=f"needs a GPU: {device.why_no_gpu()}")
def test_every_operation_is_right_on_the_gpu():
    found = cpu.run_bench("cuda", ops=["gemm", "attention", "elementwise"], budget_s=0.0)
    missed = [(row["what"], row["error"]) for row in found["rows"] if not row["ok"]]
    assert not missed


def test_unknown_groups_are_refused_by_name():
    with pytest.raises(ValueError, match="nothing called 'adam' to measure on cpu; known are gemm, attention"):
        gpu.run("cpu", groups=["adam"])
