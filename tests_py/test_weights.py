"""Weights to and from safetensors: the published programs' state dicts load and score, ours come back to the bit."""

import json
import os
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from test_model import PRESETS, random_model, tiny

import bytegolf
from bytegolf import Config, FormatError, Model, Trainer, cli, load_safetensors, save_safetensors
from bytegolf.checkpoint import write_checkpoint
from bytegolf.stored.packing import pack_command
from bytegolf.weights_config import implied_options

SHARED = Path(os.environ.get("BYTEGOLF_SHARED", Path(__file__).resolve().parents[1] / ".." / "shared"))
FIXTURES = ["byte256_jepa_k4", "byte256_patch4", "byte256_plain", "byte260_head64", "byte260_jepa", "byte260_plain"]

# Names and shapes of a published state dict (byte260-jepa of one layer, D = 8, two heads, one key/value head), by hand from
# its module's attributes.
PUBLISHED = {
    "tok_emb.weight": (260, 8),
    "bigram.embed.weight": (31, 4),
    "bigram.proj.weight": (8, 4),
    "bigram.scale": (),
    "smear.gate": (8,),
    "skip_weights": (1, 8),
    "blocks.1.attn_scale": (8,),
    "blocks.1.mlp_scale": (8,),
    "blocks.1.resid_mix": (2, 8),
    "blocks.1.attn.c_q.weight": (8, 8),
    "blocks.1.attn.c_k.weight": (4, 8),
    "blocks.1.attn.c_v.weight": (4, 8),
    "blocks.1.attn.proj.weight": (8, 8),
    "blocks.1.attn.q_gain": (2,),
    "blocks.1.mlp.fc.weight": (16, 8),
    "blocks.1.mlp.proj.weight": (8, 16),
    "jepa_projector.fc1.weight": (5, 8),
    "jepa_projector.fc2.weight": (6, 5),
    "jepa_predictor.start_token": (6,),
    "jepa_predictor.fc1.weight": (6, 6),
    "jepa_predictor.fc2.weight": (6, 6),
    "jepa_injection.weight": (8, 6),
}
PUBLISHED |= {name.replace(".1.", ".0."): shape for name, shape in PUBLISHED.items()}


def fixture(name):
    """(config, parameters, everything) of reference values of a published program."""
    path = SHARED / "fixtures" / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"reference values not found at {path}: set BYTEGOLF_SHARED to the folder that holds fixtures/")
    with np.load(path) as file:
        z = {key: file[key] for key in file.files}
    params = {key.removeprefix("param/"): value for key, value in z.items() if key.startswith("param/")}
    return Config.from_published(json.loads(bytes(z["config"]))), params, z


def write_raw(path, tensors, metadata=None):
    """A safetensors file by hand, for dtypes that NumPy has not: name -> (dtype, shape, bytes)."""
    header, data = ({"__metadata__": metadata} if metadata else {}), b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def bfloat16(array):
    """Bits of the nearest bfloat16, ties to even."""
    bits = np.asarray(array, dtype=np.float32).view(np.uint32).astype(np.uint64)
    return np.asarray((bits + 0x7FFF + (bits >> 16 & 1)) >> 16, dtype=np.uint16)


def relative(got, want):
    return np.linalg.norm(got - want) / np.linalg.norm(want)


@pytest.mark.parametrize("name", FIXTURES)
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod.model."])
def test_a_published_state_dict_loads_and_computes_the_published_logits(name, prefix, tmp_path):
    config, params, z = fixture(name)
    path = tmp_path / "state.safetensors"
    save_file({prefix + key: value for key, value in params.items()}, path, metadata={"format": "pt"})
    model = load_safetensors(path, config, dtype="float64")
    assert relative(model.logits(z["inputs"]), z["logits"]) < 1e-6
    assert {row["name"]: tuple(row["shape"]) for row in model.specs()} == {k: v.shape for k, v in params.items()}
    # In float32 files and float32 arithmetic.
    save_file({prefix + key: value.astype(np.float32) for key, value in params.items()}, path)
    assert relative(load_safetensors(path, config).logits(z["inputs"]), z["logits"]) < 2e-4


@pytest.mark.parametrize("name", FIXTURES)
def test_a_state_dict_in_bfloat16_is_the_model_of_the_rounded_weights(name, tmp_path):
    config, params, z = fixture(name)
    rounded = {key: bfloat16(value) for key, value in params.items()}
    path = tmp_path / "state.safetensors"
    write_raw(path, {f"module.{key}": ("BF16", value.shape, value.tobytes()) for key, value in rounded.items()})
    model = load_safetensors(path, config, dtype="float64")
    same = Model(config, dtype="float64")
    same.load_parameters({key: (value.astype(np.uint32) << 16).view(np.float32) for key, value in rounded.items()})
    assert np.array_equal(model.logits(z["inputs"]), same.logits(z["inputs"]))
    assert 0 < relative(model.logits(z["inputs"]), z["logits"]) < 5e-2  # bfloat16 keeps 8 bits


def test_a_published_state_dict_scores_as_the_published_program_does(tmp_path, capsys):
    config, params, z = fixture("sliding_eval")
    (tmp_path / "config.toml").write_text(config.text())
    save_file({f"_orig_mod.{key}": value for key, value in params.items()}, tmp_path / "state.safetensors")
    keys = [key for key in z if key.startswith("bpb_seq")]
    assert keys
    model = load_safetensors(tmp_path / "state.safetensors", config, dtype="float64")
    for key in keys:
        window, stride = map(int, re.fullmatch(r"bpb_seq(\d+)_stride(\d+)", key).groups())
        assert bytegolf.evaluate(model, z["stream"], window, stride).bpb == pytest.approx(float(z[key]), rel=1e-6)
    # The same by the command, on shards.
    header = np.zeros(256, dtype="<i4")
    header[:3] = 20240520, 1, len(z["stream"])
    (tmp_path / "val.bin").write_bytes(header.tobytes() + z["stream"].astype("<u2").tobytes())
    words = [tmp_path / "state.safetensors", tmp_path / "val.bin", "--config", tmp_path / "config.toml", "--json"]
    with pytest.raises(SystemExit) as left:
        cli.main(
            [
                "eval",
                *map(str, words),
                "--dtype",
                "float64",
                "--device",
                "cpu",
                f"--window={window}",
                f"--stride={stride}",
            ]
        )
    assert left.value.code == 0
    assert json.loads(capsys.readouterr().out)["bpb"] == pytest.approx(float(z[key]), rel=1e-6)


def test_the_published_names_are_ours():
    config = tiny("byte260-jepa", num_layers=2, model_dim=8, num_heads=2, mlp_mult=2, rope_dims=2)
    assert {row["name"]: tuple(row["shape"]) for row in Model(config).specs()} == PUBLISHED
    assert implied_options(PUBLISHED) == {
        "family": "byte260",
        "num_layers": 2,
        "model_dim": 8,
        "num_heads": 2,
        "num_kv_heads": 1,
        "mlp_mult": 2.0,
        "smear": True,
        "bigram_vocab_size": 31,
        "bigram_dim": 4,
        "patch_size": 1,
        "tie_embeddings": True,
        "jepa_proj_hidden": 5,
        "jepa_latent_dim": 6,
    }


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("preset", PRESETS)
def test_what_is_saved_comes_back_to_the_bit_with_its_options(preset, dtype, tmp_path):
    model = random_model(preset, dtype)
    path = tmp_path / "weights.safetensors"
    assert save_safetensors(model, path) == path.stat().st_size
    # By the independent reader: names, dtypes and shapes, rank 0 included.
    params, read = model.parameters(), load_file(path)
    assert set(read) == set(params)
    assert all(
        read[k].dtype == dtype and read[k].shape == v.shape and np.array_equal(read[k], v) for k, v in params.items()
    )
    with safe_open(path, framework="np") as file:
        assert file.metadata()["format"] == "pt"
    back = load_safetensors(path, dtype=dtype)
    assert back.config.text(["model"]) == model.config.text(["model"])
    assert all(np.array_equal(value, params[name]) for name, value in back.parameters().items())
    assert not [entry for entry in tmp_path.iterdir() if entry != path]


def test_a_trainer_saves_its_average_its_last_weights_or_what_it_is_given(tmp_path):
    trainer = Trainer(tiny("byte256", ema_decay=0.5, iterations=4, train_batch_ids=32, micro_batch_ids=32), None)
    ids = np.random.default_rng(0).integers(0, 256, (2, 17))
    trainer.step_on(ids[:, :-1], ids[:, 1:])
    path = tmp_path / "weights.safetensors"
    for weights, want in [
        (None, trainer.ema),
        ("ema", trainer.ema),
        ("raw", trainer.model.parameters()),
        (trainer.model.views(), trainer.model.parameters()),
    ]:
        save_safetensors(trainer, path, weights)
        assert all(np.array_equal(value, want[name]) for name, value in load_file(path).items())
    with pytest.raises(ValueError, match='no "swa" weights available'):
        save_safetensors(trainer, path, "swa")


def test_buffers_that_state_dicts_carry_are_left_aside_and_said(tmp_path):
    model = random_model("byte260-jepa", "float32", rope_dims=4)
    params = {f"module.{name}": value for name, value in model.parameters().items()}
    extra = {
        "module.blocks.0.attn.rotary.inv_freq": np.array([1.0, 0.01], dtype=np.float32),  # 10000 ** -(j / 2)
        "module.blocks.0.attn.rotary._cos_cached": np.ones((1, 16, 1, 2), dtype=np.float32),
        "module.jepa_sigreg.directions": np.ones((6, 256), dtype=np.float32),
        "module.jepa_sigreg.steps": np.ones(1, dtype=np.int64),
        "module.lm_head.weight": params["module.tok_emb.weight"].copy(),
    }
    path = tmp_path / "state.safetensors"
    save_file({**params, **extra}, path)
    said = []
    loaded = load_safetensors(path, model.config, say=said.append)
    assert all(np.array_equal(value, params[f"module.{name}"]) for name, value in loaded.parameters().items())
    assert len(said) == len(extra) and all(sum(f"tensor {name} is" in line for line in said) == 1 for name in extra)


def test_a_latent_head_may_be_there_or_not(tmp_path):
    path = tmp_path / "state.safetensors"
    model = random_model("byte256-jepa", "float32")
    params = model.parameters()
    without = {name: value for name, value in params.items() if not name.startswith("jepa_head.")}
    assert len(without) < len(params)
    ids = np.random.default_rng(0).integers(0, 256, (1, 16))
    for tensors, config in [
        (params, model.config.replace(jepa_pred_k=0)),
        (without, model.config),
        (params, model.config),
    ]:
        save_file(tensors, path)
        assert np.array_equal(load_safetensors(path, config).logits(ids), model.logits(ids))


def test_options_that_do_not_fit_are_named_with_what_the_tensors_say(tmp_path):
    model = random_model("byte260-jepa", "float32")
    path = tmp_path / "state.safetensors"
    save_file(model.parameters(), path)
    for change, words in [
        ({"num_layers": 3}, r"num_layers = 2 \(the config has 3\)"),
        ({"model_dim": 32}, r"model_dim = 16 \(the config has 32\)"),
        ({"num_kv_heads": 2}, r"num_kv_heads = 1 \(the config has 2\)"),
        ({"mlp_mult": 3.0}, r"mlp_mult = 2 \(the config has 3\)"),
        ({"bigram_vocab_size": 0}, r"bigram_vocab_size = 31 \(the config has 0\)"),
        ({"smear": False}, r"smear = true \(the config has false\)"),
        ({"tie_embeddings": False}, r"tie_embeddings = true \(the config has false\)"),
        ({"jepa_chunk_size": 0}, r"jepa_chunk_size > 0 \(the config has 0\)"),
        ({"jepa_latent_dim": 7}, r"jepa_latent_dim = 6 \(the config has 7\)"),
    ]:
        with pytest.raises(ValueError, match=words) as caught:
            load_safetensors(path, model.config.replace(**change))
        assert str(path) in str(caught.value) and str(caught.value).count("the config has") == 1
    with pytest.raises(ValueError, match=r"family = byte260 \(the config has byte256\)"):
        load_safetensors(path, tiny("byte256"))
    with pytest.raises(
        ValueError, match=r"carries no options of bytegolf: give a config .*num_layers = 2, model_dim = 16"
    ):
        load_safetensors(path)


def test_buffers_that_contradict_the_options_are_refused(tmp_path):
    model = random_model("byte260", "float32", rope_dims=4)
    params, path = model.parameters(), tmp_path / "state.safetensors"
    for name, value, words in [
        ("lm_head.weight", params["tok_emb.weight"] + 1, "tie_embeddings = false"),
        ("blocks.0.attn.rotary.inv_freq", np.ones(4, dtype=np.float32), "rope_dims = 8"),
        ("blocks.0.attn.rotary.inv_freq", np.array([1, 0.002], dtype=np.float32), "rope_base = 10000"),
    ]:
        save_file({**params, name: value}, path)
        with pytest.raises(ValueError, match=words) as caught:
            load_safetensors(path, model.config)
        assert name in str(caught.value) and str(path) in str(caught.value)


def test_damaged_files_are_refused_by_file_and_tensor(tmp_path):
    model = random_model("byte260", "float32")
    params, path, name = model.parameters(), tmp_path / "state.safetensors", "blocks.1.mlp.fc.weight"
    infinite = params[name].copy()
    infinite[3, 2] = np.inf

    def without(*names):
        return {key: value for key, value in params.items() if key not in names}

    for tensors, words in [
        ({**params, "stranger": np.zeros(3, dtype=np.float32)}, "the model has no stranger"),
        (without(name), f"lacks {name}"),
        ({**without(name), name: params[name][:, :8].copy()}, f"tensor {name} has shape .*8"),
        ({**params, name: params[name].astype(np.int32)}, f"tensor {name} is I32; read are F64, F32, F16, BF16"),
        ({**params, name: infinite}, f"tensor {name} holds NaN or infinity"),
        ({**params, f"module.{name}": params[name]}, f"tensors .*{name} and .*{name} are both {name}"),
    ]:
        save_file(tensors, path)
        with pytest.raises(FormatError, match=words) as caught:
            load_safetensors(path, model.config)
        assert str(path) in str(caught.value)
    save_file(params, path)
    whole = path.read_bytes()
    own = model.config.text(["model"])
    for options, words in [
        ("num_layers = two", "num_layers"),
        ("patch_size = 8", "needs family = byte256"),
        (own.replace("attention mlp", "attention ml"), "unknown layer ml"),
        (own.replace("model_dim = 16", "model_dim = 16384"), r"model_dim = 16 \(the config has 16384\)"),
    ]:
        save_file(params, path, metadata={"bytegolf": options})
        with pytest.raises(FormatError, match=words) as caught:
            load_safetensors(path)
        assert str(path) in str(caught.value)
    for damaged in [b"", whole[:7], whole[:400], whole[:-1], whole + b"x", b"\xff" * 64, whole[:8] + b"[" + whole[9:]]:
        path.write_bytes(damaged)
        with pytest.raises(FormatError, match="no safetensors file"):
            load_safetensors(path, model.config)
    with pytest.raises(OSError, match=r"nothing\.safetensors"):
        load_safetensors(tmp_path / "nothing.safetensors", model.config)
    with pytest.raises(OSError):
        save_safetensors(model, tmp_path / "no" / "folder.safetensors")


def run(*words, code=0):
    with pytest.raises(SystemExit) as left:
        cli.main([str(word) for word in words])
    assert left.value.code == code


def test_export_eval_generate_and_pack_take_and_give_safetensors(tmp_path, capsysbinary):
    config = tiny("byte256", ema_decay=0.5, iterations=4, train_batch_ids=32, micro_batch_ids=32)
    trainer = Trainer(config, None)
    ids = np.random.default_rng(0).integers(0, 256, (2, 17))
    trainer.step_on(ids[:, :-1], ids[:, 1:])
    trainer.checkpoint(tmp_path / "run" / "checkpoints")
    text = tmp_path / "text.txt"
    text.write_bytes(bytes(range(256)) * 2)
    weights, plain = tmp_path / "weights.safetensors", tmp_path / "plain.safetensors"

    run("export", tmp_path / "run", weights, "--weights", "raw")
    assert b"raw weights of step 1" in capsysbinary.readouterr().out
    params = trainer.model.parameters()
    assert all(np.array_equal(value, params[name]) for name, value in load_file(weights).items())
    run("export", tmp_path / "run", weights)
    ema = trainer.ema
    assert all(np.array_equal(value, ema[name]) for name, value in load_file(weights).items())
    capsysbinary.readouterr()

    run("eval", weights, text, "--json", "--device", "cpu")
    expected = load_safetensors(weights)
    got = json.loads(capsysbinary.readouterr().out)
    assert got["bpb"] == pytest.approx(expected.bpb(text.read_bytes()), rel=1e-12)
    run("generate", weights, "ab", "--n", "5", "--seed", "3", "--device", "cpu")
    assert capsysbinary.readouterr().out == b"ab" + expected.generate(b"ab", 5, seed=3) + b"\n"

    # Without options inside, a config is needed; with them it is not, and an artifact takes none.
    save_file(load_file(weights), plain)
    options = tmp_path / "options.toml"
    options.write_text(config.replace(eval_stride=16).text())
    run("eval", plain, text, code=2)
    assert b"carries no options" in capsysbinary.readouterr().err
    run("eval", plain, text, "--config", options, "--json", "--device", "cpu")
    other = json.loads(capsysbinary.readouterr().out)
    assert other["stride"] == 16 and other["bpb"] == pytest.approx(
        expected.bpb(text.read_bytes(), stride=16), rel=1e-12
    )
    run("pack", plain, tmp_path / "one.bg", "--config", options)
    run("pack", tmp_path / "run", tmp_path / "two.bg")
    assert (tmp_path / "one.bg").read_bytes() == (tmp_path / "two.bg").read_bytes()
    run("export", tmp_path / "one.bg", tmp_path / "back.safetensors")
    unpacked = bytegolf.load(tmp_path / "one.bg").parameters()
    assert all(np.array_equal(v, unpacked[k]) for k, v in load_file(tmp_path / "back.safetensors").items())
    capsysbinary.readouterr()
    for words in [("eval", tmp_path / "one.bg", text), ("pack", tmp_path / "run", tmp_path / "x.bg")]:
        run(*words, "--config", "byte256", code=2)
        assert b"--config is for .safetensors" in capsysbinary.readouterr().err
    run("export", tmp_path / "run", tmp_path / "weights.bin", code=2)
    assert b"should be named .safetensors" in capsysbinary.readouterr().err


def test_torch_reads_what_is_saved_and_its_state_dicts_load(tmp_path):
    torch = pytest.importorskip("torch", reason="needs torch")
    from safetensors.torch import load_file as torch_load
    from safetensors.torch import save_file as torch_save

    model = random_model("byte260-jepa", "float32")
    path = tmp_path / "weights.safetensors"
    save_safetensors(model, path)
    state = torch_load(path)
    assert all(np.array_equal(state[name].numpy(), value) for name, value in model.parameters().items())
    for dtype in (torch.float32, torch.bfloat16, torch.float16, torch.float64):
        torch_save({f"_orig_mod.{name}": value.to(dtype) for name, value in state.items()}, path)
        loaded = load_safetensors(path, model.config).parameters()
        assert all(np.array_equal(loaded[name], value.to(dtype).float().numpy()) for name, value in state.items())


def test_half_precision_comes_in_exactly(tmp_path):
    model = random_model("byte256", "float32")
    halves = {name: value.astype(np.float16) for name, value in model.parameters().items()}
    save_file(halves, tmp_path / "half.safetensors")
    loaded = load_safetensors(tmp_path / "half.safetensors", model.config).parameters()
    assert all(np.array_equal(loaded[name], value.astype(np.float32)) for name, value in halves.items())


@settings(max_examples=60, deadline=None)
@given(at=st.floats(0, 1, exclude_max=True), value=st.integers(0, 255), cut=st.booleans())
def test_no_changed_byte_of_a_header_brings_another_error(at, value, cut, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "changed.safetensors"
    model = random_model("byte260", "float32")
    save_safetensors(model, path)
    content = bytearray(path.read_bytes())
    end = 8 + int.from_bytes(content[:8], "little")
    if cut:
        del content[int(at * len(content)) :]
    else:
        content[int(at * end)] = value
    path.write_bytes(content)
    try:
        loaded = load_safetensors(path)
    except ValueError as error:  # FormatError is one
        assert str(path) in str(error)
    else:
        assert not cut and set(loaded.parameters()) == set(model.parameters())


def safetensors_of(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
TWICE = b'{"a": %b, "a": %b}' % (json.dumps(ONE).encode(), json.dumps(ONE).encode())


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (safetensors_of(TWICE, bytes(4)), "its header has 'a' twice"),
        (safetensors_of({"a\x1b[2J": ONE}, bytes(4)), r"'a\x1b[2J', which is not printable"),
        (safetensors_of(b'{"a":' * 100_000), "its header nests too deeply"),
        (struct.pack("<Q", 1 << 62) + b"{}", "a header of 4611686018427387904 bytes in a file of 10"),
        (struct.pack("<Q", 17 << 20) + bytes(17 << 20), "16777216 are allowed"),
        (b"abc", "a header of"),
        (safetensors_of({"a": {"dtype": "F8_E4M3", "shape": [4], "data_offsets": [0, 4]}}, bytes(4)), "F8_E4M3"),
        (safetensors_of({"a": ONE | {"data_offsets": [4, 8]}}, bytes(8)), "no safetensors file"),
        (safetensors_of({"a": ONE | {"shape": [1 << 40]}}, bytes(4)), "no safetensors file"),
    ],
    ids=["twice", "escape", "deep", "huge", "large", "short", "float8", "hole", "lie"],
)
def test_headers_that_lie_are_refused_with_the_file(tmp_path, data, words):
    path = tmp_path / "h.safetensors"
    path.write_bytes(data)
    with pytest.raises(FormatError) as caught:
        load_safetensors(path, Config.preset("byte260"))
    assert words in str(caught.value) and "h.safetensors" in str(caught.value) and "\x1b" not in str(caught.value)


def test_a_config_larger_than_its_file_builds_no_model(tmp_path):
    path = tmp_path / "c.safetensors"
    text = "family = byte260\nnum_layers = 24\nmodel_dim = 65536\nnum_heads = 16\nnum_kv_heads = 8\n"
    path.write_bytes(safetensors_of({"__metadata__": {"bytegolf": text}, "a": ONE}, bytes(4)))
    with pytest.raises(FormatError, match=r"c\.safetensors: .*(24|num_layers)"):
        load_safetensors(path)


def test_checkpoints_of_no_run_are_refused_in_words(tmp_path):
    text = Config.preset("byte260").text(["model"])
    for number, facts in enumerate(
        [{}, {"config": text}, {"config": text, "progress": {}}, {"config": 3, "progress": 3}]
    ):
        folder = tmp_path / str(number)
        write_checkpoint(folder, {"weights/a": np.zeros(2, np.float32)}, facts)
        with pytest.raises(FormatError, match="neither the options nor the step"):
            pack_command(folder, tmp_path / "o.bg", "raw", "int6_mixed", None)
    whole = tmp_path / "whole"
    write_checkpoint(whole, {"weights/a": np.zeros(2, np.float32)}, {"config": text, "progress": {"step": 3}})
    with pytest.raises(FormatError, match=r"whole: 1 tensors for num_layers = 13"):
        pack_command(whole, tmp_path / "o.bg", "raw", "int6_mixed", None)
    assert not (tmp_path / "o.bg").exists()
