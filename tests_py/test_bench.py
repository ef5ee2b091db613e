"""Benchmarks: what they report, that results are checked before they are timed, and what they refuse."""

import json

import pytest

from bytegolf import _bytegolf, device
from bytegolf.bench import command, whole
from bytegolf.bench.whole import Asked
from bytegolf.cli import main

SMALL = Asked("cpu", "float32", 1, 64)


@pytest.mark.parametrize("group", ["attention", "elementwise", "newton_schulz", "adam"])
def test_every_operation_equals_its_definition_before_it_is_timed(group):
    rows = _bytegolf.bench_group(group, 2, 616, 0.0)  # longer than the window, not a multiple of a tile
    assert rows
    for row in rows:
        assert row["error"] is not None
        assert row["error"] <= row["tolerance"], row["what"]
        assert row["checked_at"]
        assert len(row["seconds"]) == len(row["cpu_seconds"]) >= 3
        assert row["bytes"] > 0
        assert (row["flops"] > 0) == (group not in ("elementwise", "adam"))


def test_matrix_products_are_those_of_the_model_and_some_with_each_library_that_is_here():
    found = command.run_bench(as_json=True, ops=["gemm"], budget_s=0.01, rows=2, length=616)
    live = {library["name"] for library in _bytegolf.gemm_libraries() if library["available"]}
    assert live < {row["what"].split()[0] for row in found["rows"]}
    assert "head 512 -> 260 forward" in {row["what"] for row in found["rows"]}
    missed = [(row["what"], row["error"]) for row in found["rows"] if not row["ok"]]
    assert not missed
    assert all(row["gflops"] > 0 and row["share"] > 0 and row["gemm_share_cpu"] > 0 for row in found["rows"])


def test_figures_come_with_their_floors_and_a_checked_result():
    found = command.run_bench(as_json=True, ops=["adam"], budget_s=0.01, threads=1)
    assert found["machine"]["gemm_gflops"] > 0
    assert found["machine"]["copy_gbs"] > 0
    for row in found["rows"]:
        assert row["ok"], row
        assert row["calls"] >= 3
        assert row["median_ms"] >= row["best_ms"] > 0
        assert row["bytes_floor_ms"] > 0


def test_the_command_prints_a_table_or_json(capsys):
    for arguments in (["bench", "adam", "--budget-s", "0.01"], ["bench", "adam", "--json", "--budget-s", "0.01"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
        out = capsys.readouterr().out
        if "--json" in arguments:
            assert json.loads(out)["rows"][0]["group"] == "adam"
        else:
            assert "parameters and their average" in out
            assert "GB/s" in out
            assert "ids/s" not in out  # empty columns are left out


def test_every_library_says_where_it_is_or_why_not():
    libraries = _bytegolf.gemm_libraries()
    assert [library["name"] for library in libraries] == ["builtin", "onednn", "openblas"]
    assert libraries[0]["available"]
    assert all(library["detail"] for library in libraries)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"device": "cuda:x"}, "cuda"),
        ({"ops": ["gem"]}, "nothing called 'gem' to measure on cpu; known are gemm, attention"),
        ({"ops": ["adam"], "library": "mkl"}, "mkl"),
    ],
)
def test_unknown_names_are_refused_by_name(arguments, word):
    with pytest.raises(ValueError, match=word):
        command.run_bench(**arguments)


def test_the_core_refuses_unknown_groups_and_sizes():
    with pytest.raises(ValueError, match="unknown group optimiser to measure; known are gemm, attention"):
        _bytegolf.bench_group("optimiser", 1, 64, 0.0)  # of a GPU
    with pytest.raises(ValueError, match="cannot time 0 rows of 64 ids"):
        _bytegolf.bench_group("adam", 0, 64, 0.0)


def test_each_device_has_its_groups():
    words = ["gemm", "attention", "elementwise", "newton_schulz", "adam", "step", "generate", "codec"]
    assert command.names() == words
    words = ["gemm", "attention", "elementwise", "optimiser", "model", "step", "start", "sliding", "scaling"]
    assert command.names("cuda:1") == words


RAW = whole.raw_row("gemm", "a product", [2e-3, 2e-3, 1e-3, 3e-3], flops=4e9, bytes=1e6, tolerance=1e-2)
RATES = {"gemm_flops": 4e12, "gemm_flops_cpu": 2e12, "copy_bytes": 1e12}


def test_a_figure_is_held_against_the_larger_of_its_floors():
    row = command.figure(RAW, RATES)
    assert row["median_ms"] == pytest.approx(2)
    assert row["best_ms"] == pytest.approx(1)
    assert row["gflops"] == pytest.approx(2000)
    assert row["share"] == pytest.approx(0.5)
    assert row["gemm_share_cpu"] == 0
    assert command.figure(RAW | {"flops": 0.0, "bytes": 5e8}, RATES)["share"] == pytest.approx(0.25)


def test_a_figure_of_the_cpu_is_that_of_its_best_call_and_has_a_share_by_cpu_time():
    row = command.figure(RAW | {"cpu_seconds": [4e-3, 4e-3, 2.5e-3, 5e-3]}, RATES)
    assert row["gflops"] == pytest.approx(4000)
    assert row["share"] == pytest.approx(1)
    assert row["gemm_share_cpu"] == pytest.approx(0.8)


def test_a_figure_is_judged_only_when_it_was_checked():
    assert command.figure(RAW, RATES)["ok"]
    assert command.figure(RAW | {"error": 1e-3}, RATES)["ok"]
    assert not command.figure(RAW | {"error": 0.1}, RATES)["ok"]
    assert not command.figure(RAW | {"error": float("nan")}, RATES)["ok"]


def test_the_first_step_of_a_process_is_timed(monkeypatch):
    monkeypatch.setattr(whole, "STARTS", 1)
    rows = whole.start(SMALL)
    assert [row["group"] for row in rows] == ["start"] * 3
    assert 0 < min(rows[0]["seconds"]) < min(rows[2]["seconds"])


def test_a_sliding_score_is_timed():
    (row,) = whole.sliding(SMALL)
    assert row["ids"] == 256
    assert row["seconds"][0] > 0


@pytest.mark.skipif(bool(device.why_no_gpu()), reason=f"needs a GPU: {device.why_no_gpu()}")
def test_every_operation_is_right_on_the_gpu():
    found = command.run_bench("cuda", as_json=True, ops=["gemm", "attention", "elementwise"], budget_s=0.0)
    missed = [(row["what"], row["error"]) for row in found["rows"] if not row["ok"]]
    assert not missed
