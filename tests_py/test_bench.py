"""Benchmarks: what they report, that results are checked, and what they refuse."""

import json

import pytest

from bytegolf import _bytegolf
from bytegolf.bench import cpu
from bytegolf.cli import main


def test_figures_come_with_their_floors_and_a_checked_result():
    found = cpu.run_bench(json=True, ops=["adam"], budget_s=0.01, threads=1)
    assert found["machine"]["gemm_gflops"] > 0
    assert found["machine"]["copy_gbs"] > 0
    for row in found["rows"]:
        assert row["ok"], row
        assert row["calls"] >= 3
        assert row["median_ms"] >= row["best_ms"] > 0
        assert row["bytes_floor_ms"] > 0


def test_matrix_products_are_timed_with_each_library_that_is_here():
    found = cpu.run_bench(json=True, ops=["gemm"], budget_s=0.01)
    live = {library["name"] for library in _bytegolf.gemm_libraries() if library["available"]}
    assert {row["shape"].split()[0] for row in found["rows"]} == live
    assert all(row["ok"] and row["gflops"] > 0 and row["gemm_share"] > 0 for row in found["rows"])


def test_the_command_prints_a_table_or_json(capsys):
    for arguments in (["bench", "adam", "--budget-s", "0.01"], ["bench", "adam", "--json", "--budget-s", "0.01"]):
        with pytest.raises(SystemExit) as left:
            main(arguments)
        assert left.value.code == 0
        out = capsys.readouterr().out
        if "--json" in arguments:
            assert json.loads(out)["rows"][0]["op"] == "adam"
        else:
            assert "of GEMM" in out
            assert "adam" in out


def test_every_library_says_where_it_is_or_why_not():
    libraries = _bytegolf.gemm_libraries()
    assert [library["name"] for library in libraries] == ["builtin", "onednn", "openblas"]
    assert libraries[0]["available"]
    assert all(library["detail"] for library in libraries)


@pytest.mark.parametrize(
    ("arguments", "word"),
    [({"device": "cuda"}, "cuda"), ({"ops": ["gem"]}, "gemm"), ({"ops": ["adam"], "library": "mkl"}, "mkl")],
)
def test_unknown_names_are_refused_by_name(arguments, word):
    with pytest.raises(ValueError, match=word):
        cpu.run_bench(**arguments)
