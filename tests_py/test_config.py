"""Config from Python: presets, text and back, published names, and refusals that name the option."""

import copy
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from bytegolf._bytegolf import option_table
from bytegolf.config import Config

SHARED = Path(os.environ.get("BYTEGOLF_SHARED", Path(__file__).resolve().parents[2] / "shared"))


@pytest.mark.parametrize("name", Config.preset_names())
def test_every_preset_survives_toml(name, tmp_path):
    config = Config.preset(name)
    config.to_toml(tmp_path / "config.toml")
    again = Config.from_toml(tmp_path / "config.toml")
    assert again == config
    assert again.to_dict() == config.to_dict()


def test_toml_is_valid_for_other_readers(tmp_path):
    import tomllib

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
