"""Config from Python: presets, text and back, published names, and refusals that name the option."""

import copy
import json
import os
import pickle
import tomllib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf._bytegolf import option_table
from bytegolf.config import Config
from bytegolf.errors import UserError
from bytegolf.sweep.plan import plan
from bytegolf.sweep.spec import load_spec

SHARED = Path(os.environ.get("BYTEGOLF_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.mark.parametrize("name", Config.preset_names())
def test_every_preset_survives_toml(name, tmp_path):
    config = Config.preset(name)
    config.to_toml(tmp_path / "config.toml")
    again = Config.from_toml(tmp_path / "config.toml")
    assert again == config
    assert again.to_dict() == config.to_dict()


def test_toml_is_valid_for_other_readers(tmp_path):
    config = Config.preset("demo", train_data='a "quoted" \\ path')
    assert tomllib.loads(config.text(docs=True)) == config.to_dict()


def test_replace_leaves_the_original_alone():
    config = Config.preset("demo")
    other = config.replace(num_layers=7, shuffle=False, matrix_lr=np.float64(0.5), train_data=Path("a"))
    assert (config.num_layers, other.num_layers, other.shuffle, other.matrix_lr, other.train_data) == (
        4,
        7,
        False,
        0.5,
        "a",
    )


def test_pickle_and_repr_keep_what_differs():
    config = Config.preset("byte256", num_layers=3)
    assert pickle.loads(pickle.dumps(config)) == config
    assert copy.deepcopy(config) == config
    assert repr(config) == "Config(byte256, num_layers=3)"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"num_layer": 3}, "num_layers"),
        ({"num_layers": 0}, "num_layers"),
        ({"num_heads": 7}, "num_heads"),
        ({"smear": 3}, "smear"),
    ],
)
def test_refusals_name_the_option(changes, words):
    with pytest.raises(ValueError, match=words):
        Config.preset("demo", **changes)


def test_text_that_is_no_utf8_is_refused_with_its_path(tmp_path):
    (tmp_path / "c.toml").write_bytes(b"seed = 1\n\xff")
    with pytest.raises(ValueError, match=r"c\.toml: byte 9"):
        Config.from_toml(tmp_path / "c.toml")


def test_published_names_become_options():
    published = {"family": "byte256", "vocab_size": 256, "model_dim": 64, "num_heads": 4, "num_kv_heads": 4}
    config = Config.from_published(published | {"mlp_hidden": 192, "bigram_hash_buckets": 64, "bigram_hash_dim": 8})
    assert (config.family, config.mlp_mult, config.mlp_dim, config.bigram_vocab_size, config.bigram_dim) == (
        "byte256",
        3.0,
        192,
        64,
        8,
    )
    with pytest.raises(ValueError, match="vocab_size"):
        Config.from_published({"family": "byte260", "vocab_size": 256})


def test_configs_of_the_fixtures_are_understood():
    files = sorted((SHARED / "fixtures").glob("*.npz"))
    if not files:
        pytest.skip("no fixtures beside the repository")
    seen = 0
    for file in files:
        with np.load(file) as data:
            if "config" not in data:
                continue
            published = json.loads(bytes(data["config"]))
        if "family" not in published or file.stem.startswith(("blt_", "hnet_")):  # architectures not held yet
            continue
        config = Config.from_published(published)
        seen += 1
        for row in option_table():
            if row["name"] in published:
                assert getattr(config, row["name"]) == published[row["name"]], file.name
    assert seen


# TOML. Expected values are those of Python's tomllib.

TEXTS = st.text(st.characters(blacklist_categories=["Cs"], min_codepoint=32), max_size=40)
PLACES = TEXTS.filter(lambda text: text == text.strip(" "))  # `replace` takes text forms, whose ends do not count


@settings(max_examples=200, deadline=None)
@given(
    train_data=PLACES.filter(lambda text: not text or text[0] not in "\"'"),
    seed=st.integers(0, 2**63 - 1),
    matrix_lr=st.floats(0, 1e6),
    smear=st.booleans(),
)
def test_what_is_written_is_toml_and_reads_back_equal(tmp_path_factory, **values):
    config = Config().replace(**values)
    path = tmp_path_factory.getbasetemp() / "written.toml"
    config.to_toml(path)
    assert tomllib.loads(path.read_text()) == config.to_dict()
    assert values.items() <= tomllib.loads(path.read_text()).items()
    assert Config.from_toml(path) == config
    assert Config.of_run(path) == config
    assert pickle.loads(pickle.dumps(config)) == config


@settings(max_examples=200, deadline=None)
@given(text=TEXTS)
def test_any_text_means_what_tomllib_says(text):
    written = f"train_data = {json.dumps(text, ensure_ascii=False)}".replace(
        "\x7f", "\\u007f"
    )  # TOML as JSON, but for this sign
    assert Config.from_text(written).train_data == tomllib.loads(written)["train_data"] == text


@pytest.mark.parametrize(
    ("text", "name", "value"),
    [
        ('train_data = "a\\u00e9b"', "train_data", "aéb"),
        ("train_data = 'C:\\x\"y'", "train_data", 'C:\\x"y'),
        ('train_data = """two"""', "train_data", "two"),
        ('"seed" = 4', "seed", 4),
        ("seed = 0x10", "seed", 16),
        ("seed = 1_000", "seed", 1000),
        ("matrix_lr = 1", "matrix_lr", 1.0),
        ("matrix_lr = 1e-2", "matrix_lr", 0.01),
        ("smear = false # not now", "smear", False),
        ("seed = 7\r\n", "seed", 7),
    ],
)
def test_toml_as_tomllib_reads_it(text, name, value):
    assert tomllib.loads(text)[name] == value
    assert getattr(Config.from_text(text), name) == value


NOT_TOML = [
    ("seed = 1e3", "option seed = 1000.0 is a float, not an integer"),
    ("seed = 5.0", "is a float"),
    ('seed = "5"', "is a text"),
    ("seed = true", "is a truth value"),
    ("seed = [1]", "is an array"),
    ("seed = 1979-05-27", "is a date or time"),
    ("seed = {a = 1}", "is a table"),
    ("smear = 1", "is an integer, not true or false"),
    ("train_data = 3", "not a text in quotes"),
    ("train_data = abc", "no TOML"),
    ("train_data = 'a", "no TOML"),
    ('train_data = "a\\tb"', "control character"),
    ('train_data = "a\\nb"', "line break"),
    ("seed = 1__0", "no TOML"),
    ("seed = _5", "no TOML"),
    ("seed = 012", "no TOML"),
    ("matrix_lr = .5", "no TOML"),
    ("matrix_lr = nan", "outside"),
    ("matrix_lr = inf", "outside"),
    ("seed = 9223372036854775808", "64 bits"),
    ("seed = " + "1" * 5000, "too many digits"),
    ("a = " + "[" * 5000, "nests too deeply"),
    ("num_layer = 2", "did you mean num_layers?"),
    ("num_layers = 0", "outside 1 to"),
    ("[model]", "is a table"),
    ("model.seed = 1", "is a table"),
    ("num_heads = 8", "Cannot overwrite"),
    ("a\rb = 1", "no TOML"),
]


@pytest.mark.parametrize(("text", "words"), NOT_TOML, ids=range(len(NOT_TOML)))
def test_what_is_no_toml_or_no_option_is_named_with_its_line(tmp_path, text, words):
    path = tmp_path / "c.toml"
    path.write_bytes(f"num_heads = 4\n\n{text}\n".encode())
    with pytest.raises(ValueError, match=r"c\.toml, line 3: ") as error:
        Config.from_toml(path)
    assert words in str(error.value)
    # A sweep file refuses the same line in a table of its own, with its line there.
    sweep = tmp_path / "s.toml"
    if "overwrite" not in words and "is a table" not in words:
        sweep.write_bytes(
            f'config = "demo"\nseeds = [1]\n[overrides]\n{text}\n'.replace("seed =", "iterations =").encode()
        )
        with pytest.raises(UserError, match=r"s\.toml, line 4: "):
            load_spec(sweep)


def test_a_byte_order_mark_is_named(tmp_path):
    (tmp_path / "c.toml").write_bytes(b"\xef\xbb\xbfseed = 1\n")
    with pytest.raises(ValueError, match=r"c\.toml, line 1: begins with a byte order mark"):
        Config.from_toml(tmp_path / "c.toml")


@pytest.mark.parametrize("value", ['"a b"', "' a '", '"\\"q\\""', '"a\\u00e9"', '"\\u007f"', "'x\\y'"])
def test_a_line_means_the_same_in_a_config_and_in_a_sweep(tmp_path, value):
    (tmp_path / "c.toml").write_text(f"train_data = {value}\nval_data = 'v'\n")
    (tmp_path / "s.toml").write_text(
        f'config = "byte260-jepa"\nseeds = [1]\n[overrides]\ntrain_data = {value}\nval_data = "v"\n'
    )
    (run,) = plan(load_spec(tmp_path / "s.toml"), tmp_path / "s.toml")
    wanted = Config.from_toml(tmp_path / "c.toml").train_data
    assert wanted == tomllib.loads(f"v = {value}")["v"]
    assert run.config.train_data == os.path.join(os.getcwd(), wanted)


def test_the_config_of_an_older_run_reads_as_it_was_written(tmp_path):
    config = Config.preset("demo", train_data="a\x7fb")
    (tmp_path / "config.toml").write_text(config.text(docs=True))  # what older versions wrote, this sign as it is
    assert Config.of_run(tmp_path / "config.toml").train_data == "a\x7fb"
    with pytest.raises(ValueError, match="line"):
        Config.from_toml(tmp_path / "config.toml")


def test_a_stored_name_is_no_second_line():
    with pytest.raises(ValueError, match="cannot name an option"):
        Config.stored({"seed = 1\nnum_layers": 3}, "the log")


def test_a_path_that_is_no_text_is_refused_by_name():
    with pytest.raises(ValueError, match=r"option train_data = 'd\\udcff' is not UTF-8 text"):
        Config().replace(train_data="d\udcff")
