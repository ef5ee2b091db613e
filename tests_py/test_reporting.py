"""`bytegolf report`: groups from sweeps, runs and words; both units; tests against numbers and groups; mistakes."""

import json
import math
import os
import shutil

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


def write_run(folder, bpb, made=None, **options):
    folder.mkdir(parents=True)
    log = RunLog(folder / "log.jsonl")
    log.write("start", step=0, config=options)
    if bpb:
        facts = {"made": made} if made else {}
        log.write("end", reason="done", sliding={"bpb": bpb}, whole={"bpb": bpb + 0.1}, **facts)
    log.close()
    return folder


def write_runs_of_sweep(folder, values, val="a" * 64, group="base"):
    """A sweep with the logs of its runs, as `sweep` leaves them."""
    rows = []
    for seed, value in enumerate(values):
        name = f"{group}-seed-{seed}"
        made = {"val_sha256": val, "artifact_sha256": f"{seed:064}", "train_ids": 100}
        write_run(folder / name, value, made, seed=seed, num_layers=2)
        figures = dict.fromkeys(FIGURES, value) | {"seconds": 1.5 + seed}
        facts = dict(zip(FACTS, ["done", 1, None, name], strict=True))
        rows.append({"group": group, "seed": seed, **figures, **facts})
    write_results(folder, rows)
    return folder


def groups_of(capsys, *arguments):
    """{group: (n, seeds)} and the words beside it."""
    status, out, err = report(capsys, *arguments, "--json")
    assert status == 0, err
    return {g["group"]: (g["n"], g["seeds"]) for g in json.loads(out)["groups"]}, err


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
        (["--values", "1e308,1e308"], "--values 1e308,1e308: 1e308 is too large"),
        (["--values", "1.2,-1e101"], "-1e101 is too large"),
        (["--values", "1.2,1.3", "--baseline", "1e308"], "--baseline 1e308 is too large"),
        (["--values", "1.2,1.3", "--threshold", "1e308"], "--threshold"),
        (["--values", "a=1.2", "--values", "a=1.3"], "group a is given twice"),
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


# Each run once


@pytest.fixture
def two_runs(tmp_path, monkeypatch):
    """Runs s1 and s2 of one config, in the working folder."""
    monkeypatch.chdir(tmp_path)
    for seed, value in ((1, 4.4), (2, 4.7)):
        made = {"val_sha256": "a" * 64, "artifact_sha256": f"{seed:064}", "train_ids": 100}
        write_run(tmp_path / f"s{seed}", value, made, seed=seed, num_layers=2)
    (tmp_path / "link").symlink_to("s1")
    (tmp_path / "hard").mkdir()
    os.link(tmp_path / "s1" / "log.jsonl", tmp_path / "hard" / "log.jsonl")
    shutil.copytree(tmp_path / "s1", tmp_path / "copy")
    (tmp_path / "renamed.jsonl").write_bytes((tmp_path / "s1" / "log.jsonl").read_bytes())
    return tmp_path


AGAIN = [
    "s1",
    "./s1",
    "s1/",
    "s1/../s1",
    "{tmp}/s1",
    "s1/log.jsonl",
    "./s1/log.jsonl",
    "link",
    "link/log.jsonl",
    "hard",
]
AGAIN += ["copy", "copy/log.jsonl", "renamed.jsonl"]


@pytest.mark.parametrize("again", AGAIN)
def test_a_run_counts_once_however_it_is_named(capsys, two_runs, again):
    stats = pytest.importorskip("scipy.stats")
    status, out, err = report(
        capsys, "s1", "s2", again.format(tmp=two_runs), "s2", "--baseline", 4.6, "--threshold", 0, "--json"
    )
    assert status == 0
    (group,) = json.loads(out)["groups"]
    assert (group["n"], group["seeds"]) == (2, [1, 2])
    assert group["test"]["p"] == pytest.approx(stats.ttest_1samp([4.4, 4.7], 4.6, alternative="less").pvalue)
    (line,) = err.splitlines()
    assert line.startswith("counted once: ")
    assert "s2 is named again" in line
    assert json.loads(out)["notes"] == [line]


@pytest.mark.parametrize(
    "again",
    [
        ["sw"],
        ["./sw"],
        ["sw/results.csv"],
        ["sw/results.jsonl"],
        ["swlink"],
        ["sw/base-seed-0"],
        ["sw/base-seed-1/log.jsonl"],
        ["swcopy"],
        ["swcopy/base-seed-0"],
        ["alone.csv"],
    ],
)
@pytest.mark.parametrize("turned", [False, True])
def test_a_sweep_counts_once_beside_itself_its_tables_and_its_runs(capsys, tmp_path, monkeypatch, again, turned):
    monkeypatch.chdir(tmp_path)
    write_runs_of_sweep(tmp_path / "sw", [4.0, 4.1])
    (tmp_path / "swlink").symlink_to("sw")
    shutil.copytree(tmp_path / "sw", tmp_path / "swcopy")
    shutil.copy(tmp_path / "sw" / "results.csv", tmp_path / "alone.csv")
    words = [*again, "sw"] if turned else ["sw", *again]
    found, err = groups_of(capsys, *words)
    assert [(n, seeds) for n, seeds in found.values()] == [(2, [0, 1])]
    assert len(err.splitlines()) == ("copy" in again[0] or "alone" in again[0] or "seed" in again[0])


def test_the_same_seed_with_equal_options_is_no_second_run(capsys, tmp_path):
    first = write_run(tmp_path / "a", 4.4, {"artifact_sha256": "1" * 64, "val_sha256": "a" * 64}, seed=1, num_layers=2)
    same = write_run(tmp_path / "b", 4.4, {"artifact_sha256": "1" * 64, "val_sha256": "a" * 64}, seed=1, num_layers=2)
    found, err = groups_of(capsys, first, same)
    assert [n for n, _ in found.values()] == [1]
    assert "counted once" in err
    # An older version noted no hashes: options, seed and score tell.
    old = [write_run(tmp_path / name, 4.5, seed=3, num_layers=2) for name in ("c", "d")]
    found, err = groups_of(capsys, *old)
    assert [n for n, _ in found.values()] == [1]
    # Other results of the same seed: nothing says which one counts.
    other = write_run(tmp_path / "e", 4.6, {"artifact_sha256": "2" * 64, "val_sha256": "a" * 64}, seed=1, num_layers=2)
    status, _, err = report(capsys, first, other)
    assert status == 2
    assert err.count("\n") == 1
    assert all(words in err for words in (str(first), str(other), "seed 1", "4.400000", "4.600000"))


def test_runs_scored_on_other_data_are_groups_of_their_own(capsys, tmp_path):
    def run(name, value, val, **options):
        # s1 and o1 are of one training, whose artifact was scored on two texts.
        made = {"val_sha256": val * 64, "artifact_sha256": f"{options['seed']:064}"} if val else None
        return write_run(tmp_path / name, value, made, num_layers=2, **options)

    paths = [run("s1", 4.4, "a", seed=1), run("s2", 4.5, "a", seed=2), run("o1", 5.2, "b", seed=1)]
    found, err = groups_of(capsys, *paths)
    assert found == {"runs (val aaaaaaaa)": (2, [1, 2]), "runs (val bbbbbbbb)": (1, [1])}
    assert "different validation data" in err
    assert "cannot be compared" in err
    # A version that noted nothing counts with the others, with a word, while there is one set.
    old = run("old", 4.6, None, seed=3)
    found, err = groups_of(capsys, *paths[:2], old)
    assert found == {"runs": (3, [1, 2, 3])}
    assert "1 runs do not say what they were scored on" in err
    found, err = groups_of(capsys, *paths, old)
    assert found["runs (unknown)"] == (1, [3])


def test_a_baseline_scored_on_other_data_is_refused(capsys, tmp_path):
    one = write_runs_of_sweep(tmp_path / "one", [4.0, 4.1], group="a")
    two = write_runs_of_sweep(tmp_path / "two", [4.2, 4.3], val="b" * 64, group="b")
    status, out, err = report(capsys, one, two, "--baseline", "two/b")
    assert (status, out) == (2, "")
    assert err.splitlines()[-1].startswith(
        "bytegolf: --baseline two/b: it was scored on other validation data (val bbbbbbbb)"
    )
    assert report(capsys, one, two, "--baseline", "4.5")[0] == 0
    three = write_runs_of_sweep(tmp_path / "three", [4.4, 4.5], group="c")
    assert report(capsys, one, three, "--baseline", "three/c")[0] == 0


def test_groups_of_one_name_from_two_places_stay_apart(capsys, tmp_path):
    one = write_runs_of_sweep(tmp_path / "x" / "sw", [4.0, 4.1])
    two = write_runs_of_sweep(tmp_path / "y" / "sw", [4.2, 4.3])
    found, _ = groups_of(capsys, one, two)
    assert list(found) == ["x/sw/base", "y/sw/base"]
    alone = write_run(tmp_path / "base", 4.9, seed=7)
    found, _ = groups_of(capsys, one, alone)
    assert found == {"base": (2, [0, 1]), "base (no sweep)": (1, [7])}


def test_runs_on_another_amount_of_training_data_are_another_group(capsys, tmp_path):
    runs = [
        write_run(tmp_path / f"r{i}", 4.0 + i, {"train_ids": ids, "val_sha256": "a" * 64}, seed=i, num_layers=2)
        for i, ids in enumerate((100, 100, 200))
    ]
    found, _ = groups_of(capsys, *runs)
    assert found == {"train_ids=100": (2, [0, 1]), "train_ids=200": (1, [2])}
