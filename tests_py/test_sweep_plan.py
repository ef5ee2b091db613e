"""The sweep file and its runs: what is accepted, what is refused and with which words, and how runs are named."""

from pathlib import Path

import pytest

from bytegolf.errors import UserError
from bytegolf.sweep.plan import choose, plan
from bytegolf.sweep.spec import load_spec

DATA = '[overrides]\ntrain_data = "data"\nval_data = "/data"\n'


def write(folder, text):
    path = folder / "widths.toml"
    path.write_text(text)
    return path


def runs_of(folder, text, **words):
    path = write(folder, text)
    return plan(load_spec(path, words), path)


def test_runs_are_groups_times_grid_times_seeds(tmp_path):
    text = 'config = "demo"\nseeds = [3, 1]\n' + DATA
    text += (
        "[groups.full]\n[groups.no-smear]\nsmear = false\n[grid]\nmatrix_lr = [0.02, 0.03]\nln_scale = [true, false]\n"
    )
    runs = runs_of(tmp_path, text)
    assert len(runs) == 2 * 4 * 2
    assert len({run.name for run in runs}) == 16
    assert [run.seed for run in runs[:2]] == [3, 1]
    assert runs[0].group == "full matrix_lr=0.02 ln_scale=true"
    assert runs[0].name == "full_matrix_lr=0.02_ln_scale=true-seed-3"
    last = runs[-1]
    assert (last.config.smear, last.config.matrix_lr, last.config.ln_scale, last.config.seed) == (False, 0.03, False, 1)
    # Every option that is set anywhere is told of every run, in the order of the table.
    assert list(runs[0].changed) == ["ln_scale", "smear", "matrix_lr", "train_data", "val_data"]
    assert runs[0].changed["smear"] is True


def test_layers_lie_over_each_other_in_order(tmp_path, monkeypatch):
    (tmp_path / "base.toml").write_text('num_layers = 5\nseed = 9\nmatrix_lr = 0.5\nsmear = false\nval_data = "/v"\n')
    text = 'config = "base.toml"\nseeds = [0]\n[overrides]\nmatrix_lr = 0.1\ntrain_data = "data"\n'
    monkeypatch.chdir(tmp_path)
    (run,) = runs_of(tmp_path, text + "[groups.a]\nsmear = true\n", scalar_lr="0.2")
    config = run.config
    assert (config.num_layers, config.seed, config.matrix_lr, config.smear, config.scalar_lr) == (5, 0, 0.1, True, 0.2)
    # A relative path is the working folder's; the run may be resumed from another one.
    assert (config.train_data, config.val_data) == (str(tmp_path / "data"), "/v")
    assert run.group == "a"


def test_without_groups_and_grid_there_is_one_group(tmp_path):
    (run,) = runs_of(tmp_path, 'config = "demo"\nseeds = [0]\n' + DATA)
    assert (run.group, run.name) == ("base", "base-seed-0")


def test_the_name_is_the_files_unless_given(tmp_path):
    assert load_spec(write(tmp_path, 'config = "demo"\nseeds = [0]')).name == "widths"
    assert load_spec(write(tmp_path, 'config = "demo"\nseeds = [0]\nname = "x"')).name == "x"


def test_folder_names_are_safe_and_differ(tmp_path):
    text = 'config = "demo"\nseeds = [0]\n' + DATA + '[grid]\nattn_windows = ["4,8", "4/8", "{}"]\n'
    with pytest.raises(UserError, match="attn_windows"):  # the core's word on what is no list of windows
        runs_of(tmp_path, text.format("x" * 300))
    names = [run.name for run in runs_of(tmp_path, text.format("4," * 80 + "4").replace('"4/8", ', ""))]
    assert names[0] == "attn_windows=4_8-seed-0"
    assert len(names[1]) == 100


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("config = 3\nseeds = [0]", ["config", "string"]),
        ('config = "demo"', ["seeds", "required"]),
        ('config = "demo"\nseeds = []', ["seeds"]),
        ('config = "demo"\nseeds = [0, 0]', ["seeds", "twice"]),
        ('config = "demo"\nseeds = [0, "a"]', ["seeds.1"]),
        ('config = "demo"\nseeds = [0]\nretires = 2', ["retires"]),
        ('config = "demo"\nseeds = [0]\nname = "a/b"', ["name", "a/b"]),
        ('config = "demo"\nseeds = [0]\n[overrides]\nnum_layer = 2', ["overrides", "num_layers"]),
        ('config = "demo"\nseeds = [0]\n[overrides]\nseed = 2', ["overrides", "seeds"]),
        ('config = "demo"\nseeds = [0]\n[overrides]\nnum_layers = [2]', ["overrides.num_layers"]),
        ('config = "demo"\nseeds = [0]\n[groups.full]\nnum_layers = 0', ["groups", "full", "num_layers"]),
        ('config = "demo"\nseeds = [0]\n[groups."a/b"]', ["groups", "a/b"]),
        ('config = "demo"\nseeds = [0]\n[grid]\nmatrix_lr = []', ["grid.matrix_lr"]),
        ('config = "demo"\nseeds = [0]\n[grid]\nmatrix_lr = [0.1, 0.1]', ["grid", "matrix_lr", "twice"]),
        ('config = "demo"\nseeds = [0]\n[grid]\nsmear = [true]\n[groups.a]\nsmear = false', ["smear", "groups.a"]),
        ('config = "demo"\nseeds = [0]\n[local]\njobs = 0', ["local.jobs"]),
        ('config = "demo"\nseeds = [0]\n[local]\ndevices = "gpu"', ["local.devices"]),
        ('config = "demo"\nseeds = [0]\n[slurm]\npartitoin = "a"', ["slurm.partitoin"]),
        ('config = "demo"\nseeds = [0', ["Unclosed array"]),
    ],
)
def test_a_mistake_names_file_and_field(tmp_path, text, words):
    with pytest.raises(UserError) as caught:
        load_spec(write(tmp_path, text))
    for word in ["widths.toml", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('config = "none.toml"\nseeds = [0]', ["config", "none.toml", "byte260-jepa"]),
        ('config = "bad.toml"\nseeds = [0]', ["config", "bad.toml", "num_layer"]),
        ('config = "demo"\nseeds = [0]\n[groups.a]\nnum_heads = 7\n', ["group a", "num_heads"]),
        ('config = "demo"\nseeds = [0]', ["train_data"]),
    ],
)
def test_what_the_core_refuses_names_the_group(tmp_path, text, words):
    (tmp_path / "bad.toml").write_text("num_layer = 3\n")
    with pytest.raises(UserError) as caught:
        runs_of(tmp_path, text)
    for word in ["widths.toml", *words]:
        assert word in str(caught.value)


@pytest.mark.parametrize(("word", "table"), [("matrix_lr", "[grid]"), ("smear", "[groups.a]")])
def test_a_word_that_would_do_nothing_is_refused(tmp_path, word, table):
    path = write(tmp_path, 'config = "demo"\nseeds = [0]\n[groups.a]\nsmear = false\n[grid]\nmatrix_lr = [0.1]')
    with pytest.raises(UserError, match=word) as caught:
        load_spec(path, {word: "1"})
    assert table in str(caught.value)


def test_groups_are_chosen_by_name_or_by_the_part_before_the_grid(tmp_path):
    text = 'config = "demo"\nseeds = [0]\n' + DATA + "[groups.a]\n[groups.ab]\n[grid]\nmatrix_lr = [0.1, 0.2]\n"
    runs = runs_of(tmp_path, text)
    assert choose(runs, []) == set()
    assert choose(runs, ["a"]) == {"a matrix_lr=0.1", "a matrix_lr=0.2"}
    assert choose(runs, ["ab matrix_lr=0.2"]) == {"ab matrix_lr=0.2"}
    with pytest.raises(UserError, match=r"--groups b: .*known: a matrix_lr=0.1"):
        choose(runs, ["b"])


RECORDS = Path(__file__).resolve().parents[1] / "records"


@pytest.mark.parametrize("spec", sorted(RECORDS.glob("*/spec.toml")), ids=lambda path: path.parent.name)
def test_sweep_files_that_are_kept_can_be_run(spec):
    runs = plan(load_spec(spec, {"train_data": "/data", "val_data": "/data"}), spec)
    assert len({run.name for run in runs}) == len(runs) >= 2
    configs = [run.config.replace(seed=0).text() for run in runs]
    assert len(set(configs)) == len({run.group for run in runs})
