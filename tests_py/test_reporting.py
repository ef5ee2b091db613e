"""`bytegolf report`: groups from sweeps, runs and words; both units; tests against numbers and groups; mistakes."""

import json
import math

import pytest

from bytegolf.cli import main
from bytegolf.log import RunLog
from bytegolf.sweep.results import FACTS, FIGURES, read_results, write_results

pytest.importorskip("scipy", reason="statistics come from scipy, extra [sweep]")
PUBLISHED = "1.21456865,1.21197405,1.21744342,1.21660625"


def report(capsys, *arguments):
    """(status, standard output, standard error) of one report."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as left:
        main(["report", *map(str, arguments)])
    captured = capsys.readouterr()
    return left.value.code, captured.out, captured.err


def write_sweep(folder, groups):
    """results.* of a sweep whose groups have these scores; None is a run that failed."""
    folder.mkdir()
    rows = []
    for group, values in groups.items():
        for seed, value in enumerate(values):
            done = dict.fromkeys(FIGURES, value) if value else dict.fromkeys(FIGURES)
            facts = dict(zip(FACTS, ["done" if value else "failed", 1, None, f"{group}-seed-{seed}"], strict=True))
            rows.append({"group": group, "seed": seed, "num_layers": 2, **done, **facts})
    write_results(folder, rows)
    return folder


def write_run(folder, bpb, **options):
    folder.mkdir()
    log = RunLog(folder / "log.jsonl")
    log.write("start", step=0, config=options)
    if bpb:
        log.write("end", reason="done", sliding={"bpb": bpb}, whole={"bpb": bpb + 0.1})
    log.close()
    return folder


@pytest.mark.parametrize(("baseline", "t", "p"), [("1.2244", "-7.60", "0.0024"), ("1.2269", "-9.65", "0.0012")])
def test_the_published_figures(capsys, baseline, t, p):
    status, out, err = report(capsys, "--values", PUBLISHED, "--baseline", baseline)
    assert (status, err) == (0, "")
    for word in ("1.21514809", "[1.2080, 1.2223]", t, p, "0.005 nats = 0.0072 bpb"):
        assert word in out


def test_nats_are_bpb_times_ln_2_and_change_no_test(capsys):
    _, out, _ = report(capsys, "--values", PUBLISHED, "--baseline", 1.2244, "--json")
    bits = json.loads(out)
    nats = ",".join(str(float(x) * math.log(2)) for x in PUBLISHED.split(","))
    _, out, _ = report(capsys, "--values", nats, "--baseline", 1.2244 * math.log(2), "--unit", "nats", "--json")
    other = json.loads(out)
    one, two = bits["groups"][0], other["groups"][0]
    for unit in ("bpb", "nats"):
        assert one[unit] == pytest.approx(two[unit])
    assert one["test"]["p"] == pytest.approx(two["test"]["p"])
    assert one["threshold_test"]["p"] == pytest.approx(two["threshold_test"]["p"])
    assert one["nats"]["mean"] == pytest.approx(one["bpb"]["mean"] * math.log(2))
    assert one["threshold_test"]["nats"]["margin"] == pytest.approx(0.005)


def test_groups_of_a_sweep_against_one_of_them(capsys, tmp_path):
    scipy_stats = pytest.importorskip("scipy.stats", reason="what they are compared with")
    groups = {"full": [1.20, 1.21, 1.22], "off": [1.24, 1.26, 1.25, None], "broken": [None]}
    folder = write_sweep(tmp_path / "sweep", groups)
    status, out, err = report(capsys, folder, "--baseline", "off", "--threshold", 0, "--json")
    assert status == 0
    assert "off: 1 of 4 runs" in err
    found = json.loads(out)
    full, off = found["groups"]
    assert found["unscored"] == ["broken"]
    assert (full["group"], full["n"], full["seeds"], off["left_out"]) == ("full", 3, [0, 1, 2], 1)
    assert off["test"] is None
    want = scipy_stats.ttest_ind(groups["full"], groups["off"][:3], equal_var=False, alternative="less")
    assert full["test"]["p"] == pytest.approx(want.pvalue)
    assert full["threshold_test"]["p"] == pytest.approx(want.pvalue)
    # The table of results says the same, in either form.
    for name in ("results.csv", "results.jsonl"):
        assert json.loads(report(capsys, folder / name, "--baseline", "off", "--threshold", 0, "--json")[1]) == found


def test_runs_without_a_sweep_are_grouped_by_their_options(capsys, tmp_path):
    runs = [write_run(tmp_path / f"a{seed}", 1.2 + seed / 100, num_layers=2, seed=seed) for seed in range(3)]
    runs += [write_run(tmp_path / f"b{seed}", 1.3 + seed / 100, num_layers=3, seed=seed) for seed in range(2)]
    runs.append(write_run(tmp_path / "c", None, num_layers=3, seed=9))
    status, out, err = report(capsys, *runs, "--score", "whole", "--json")
    assert status == 0
    assert [(g["group"], g["n"], g["seeds"]) for g in json.loads(out)["groups"]] == [
        ("num_layers=2", 3, [0, 1, 2]),
        ("num_layers=3", 2, [0, 1]),
    ]
    assert json.loads(out)["groups"][0]["bpb"]["mean"] == pytest.approx(1.31)
    assert "num_layers=3: 1 of 3 runs" in err


def test_two_sweeps_keep_their_groups_apart(capsys, tmp_path):
    paths = [write_sweep(tmp_path / name, {"full": [1.2, 1.3]}) for name in ("one", "two")]
    _, out, _ = report(capsys, *paths, "--values", "mine=1.1,1.2", "--json")
    assert [g["group"] for g in json.loads(out)["groups"]] == ["one/full", "two/full", "mine"]


@pytest.mark.parametrize("suffix", [".png", ".svg"])
@pytest.mark.parametrize("baseline", [None, "1.22", "off"])
def test_a_plot_is_drawn(capsys, tmp_path, suffix, baseline):
    pytest.importorskip("matplotlib", reason="draws the plot, extra [plots]")
    folder = write_sweep(tmp_path / "sweep", {"full": [1.20, 1.21, 1.22], "off": [1.24]})
    words = [] if baseline is None else ["--baseline", baseline]
    status, _, _ = report(capsys, folder, *words, "--plot", tmp_path / f"p{suffix}", "--unit", "nats")
    assert status == 0
    assert (tmp_path / f"p{suffix}").stat().st_size > 5000


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "sweep folders"),
        (["{tmp}/none"], "none does not exist"),
        (["{tmp}"], "neither results.jsonl nor log.jsonl"),
        (["--values", "1.2,1.x"], "1.x"),
        (["--values", "1.2,,1.3"], "empty"),
        (["--values", "1.2,nan"], "nan"),
        (["--values", "1.2,1.3", "--baseline", "full"], "full"),
        (["--values", "1.2,1.3", "--confidence", "99"], "--confidence"),
        (["--values", "1.2,1.3", "--threshold", "-1"], "--threshold"),
        (["--values", "1.2,1.3", "--plot", "{tmp}/p.xyz"], "p.xyz"),
        (["{tmp}/bad.jsonl"], "bad.jsonl, line 1"),
        (["{tmp}/bad.csv"], "bad.csv, row 1"),
        (["{tmp}/word.csv"], "bpb_sliding = much"),
    ],
)
def test_mistakes_are_one_line(capsys, tmp_path, arguments, words):
    (tmp_path / "bad.jsonl").write_text("{")
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    (tmp_path / "word.csv").write_text("group,status,bpb_sliding\nfull,done,much\n")
    status, _, err = report(capsys, *[a.format(tmp=tmp_path) for a in arguments])
    assert status == 2
    assert err.count("\n") == 1
    assert words in err


def test_pandas_reads_the_results(tmp_path):
    pandas = pytest.importorskip("pandas", reason="reads the results as users do")
    folder = write_sweep(tmp_path / "sweep", {"full": [1.2, None]})
    table = pandas.read_csv(folder / "results.csv")
    assert list(table.columns) == ["group", "seed", "num_layers", *FIGURES, *FACTS]
    assert table.bpb_sliding.tolist()[0] == 1.2
    assert table.bpb_sliding.isna().tolist() == [False, True]
    lines = pandas.read_json(folder / "results.jsonl", lines=True)
    assert lines.status.tolist() == table.status.tolist() == ["done", "failed"]
    assert [row["folder"] for row in read_results(folder)] == ["full-seed-0", "full-seed-1"]
