"""bytegolf.Model and bytegolf.evaluate as Python sees them: shapes, dtypes, known values, errors that change nothing."""

import math
import threading
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bytegolf import Config, Model, NumericsError, evaluate
from bytegolf.device import why_no_gpu

PRESETS = ["byte260-jepa", "byte260", "byte256", "byte256-jepa", "byte256-patch", "demo"]
SIZES = {
    "num_layers": 2,
    "model_dim": 16,
    "num_heads": 2,
    "seq_len": 16,
    "eval_stride": 8,
    "micro_batch_ids": 16,
    "train_batch_ids": 16,
    "bigram_vocab_size": 31,
    "bigram_dim": 4,
    "jepa_latent_dim": 6,
    "jepa_proj_hidden": 5,
    "byte_embed_dim": 6,
    "norm_eps": 1e-6,
}


def tiny(preset: str, **more: object) -> Config:
    """A preset shrunk to sizes that run in no time."""
    byte260 = not preset.startswith("byte256")
    family = {"num_kv_heads": 1, "rope_dims": 4, "xsa_last_n": 1} if byte260 else {"num_kv_heads": 2}
    return Config.preset(preset, **{**SIZES, **family, **more})


def random_model(preset: str, dtype: str = "float64", threads: int = 2, **more: object) -> Model:
    """A model whose every parameter is random."""
    model = Model(tiny(preset, **more), dtype=dtype, threads=threads)
    draw = np.random.default_rng(3)
    params = {}
    for name, value in model.parameters().items():
        matrix = value.ndim >= 2 and "resid_mix" not in name and "skip_weights" not in name
        noise = draw.standard_normal(value.shape) * (0.3 if not matrix else 1 / math.sqrt(value[0].size))
        params[name] = np.asarray(noise if matrix else value + noise, dtype=value.dtype)
    model.load_parameters(params)
    return model


def batch(model: Model, b: int, t: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    ids = np.random.default_rng(seed).integers(0, model.config.vocab_size, (b, t + 1))
    return ids[:, :-1], ids[:, 1:]


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shapes_and_dtypes_are_as_promised(preset: str, dtype: str) -> None:
    model = random_model(preset, dtype)
    ids, targets = batch(model, 2, 12)
    logits = model.logits(ids)
    assert logits.shape == (2, 12, model.config.vocab_size) and logits.dtype == dtype
    losses = model.loss(ids, targets, jepa_lambda=0.1)
    assert losses.ce > 0 and losses.total >= losses.ce
    model.backward()
    gradients, params = model.gradients(), model.parameters()
    assert list(gradients) == list(params)
    for name, value in params.items():
        assert gradients[name].shape == value.shape and gradients[name].dtype == value.dtype == dtype
    if "bigram.scale" in params:
        assert params["bigram.scale"].shape == ()
    assert any(np.any(g) for g in gradients.values())
    model.zero_gradients()
    assert not any(np.any(g) for g in model.gradients().values())


@pytest.mark.parametrize("preset", PRESETS)
def test_nll_is_the_log_softmax_of_the_logits(preset: str) -> None:
    model = random_model(preset)
    ids, _ = batch(model, 3, 12)
    logits = model.logits(ids)[:, :-1]
    expected = np.log(np.exp(logits).sum(-1)) - np.take_along_axis(logits, ids[:, 1:, None], -1)[..., 0]
    nll = model.nll(ids)
    assert nll.dtype == np.float64 and nll.shape == (3, 11)
    np.testing.assert_allclose(nll, expected, rtol=1e-12)


@settings(max_examples=25, deadline=None)
@given(preset=st.sampled_from(PRESETS), t=st.integers(0, 11), seed=st.integers(0, 99))
def test_logits_before_a_change_keep_their_bits(preset: str, t: int, seed: int) -> None:
    model = random_model(preset, "float32")
    ids, other = batch(model, 1, 12, seed)
    changed = ids.copy()
    changed[:, t:] = other[:, t:]
    before, after = model.logits(ids), model.logits(changed)
    assert before[:, :t].tobytes() == after[:, :t].tobytes()


def test_the_seed_decides_the_first_values() -> None:
    config = tiny("byte256")
    one, same, other = Model(config, seed=1).parameters(), Model(config, seed=1).parameters(), Model(config, seed=2)
    assert all(np.array_equal(one[name], same[name]) for name in one)
    assert not np.array_equal(one["tok_emb.weight"], other.parameters()["tok_emb.weight"])


def test_parameters_are_copies_and_come_back_to_the_bit() -> None:
    model = random_model("byte260-jepa", "float32")
    ids, _ = batch(model, 1, 12)
    logits, params = model.logits(ids), model.parameters()
    for value in params.values():
        value[...] = 0
    assert np.array_equal(model.logits(ids), logits)
    other = Model(model.config, seed=9)
    other.load_parameters(model.parameters())
    assert other.logits(ids).tobytes() == logits.tobytes()


def test_load_parameters_changes_nothing_when_something_does_not_fit() -> None:
    model = random_model("byte260", "float32")
    good = model.parameters()
    fresh = {name: value + 1 for name, value in good.items()}
    name = "blocks.0.attn.c_q.weight"

    def wrong(**change: object) -> dict[str, object]:
        return {**fresh, **change}

    missing = {key: value for key, value in fresh.items() if key != name}
    for bad, words in [
        (missing, name),
        (wrong(stranger=np.zeros(3)), "stranger"),
        (wrong(**{name: fresh[name][:3]}), name),
        (wrong(**{name: fresh[name].astype(np.int32)}), name),
        (wrong(**{name: fresh[name].astype(np.complex64)}), name),
        (wrong(**{name: "text"}), name),
    ]:
        with pytest.raises(ValueError, match=words):
            model.load_parameters(bad)  # type: ignore[arg-type]
        assert all(np.array_equal(value, good[key]) for key, value in model.parameters().items())
    model.load_parameters(fresh)
    assert np.array_equal(model.parameters()[name], fresh[name])


def test_integer_ids_of_any_width_are_taken_and_others_are_not() -> None:
    model = random_model("byte260")
    ids, _ = batch(model, 2, 8)
    expected = model.logits(ids)
    for dtype in (np.uint16, np.int32, np.int64, np.uint32):
        assert np.array_equal(model.logits(ids.astype(dtype)), expected)
    assert np.array_equal(model.logits(np.asfortranarray(ids)), expected)
    assert np.array_equal(model.logits(ids[:, ::-1][:, ::-1]), expected)
    for bad in (ids.astype(float), ids[0], ids[None], ids.astype(bool), np.zeros((0, 4), int), np.zeros((2, 0), int)):
        with pytest.raises(ValueError):
            model.logits(bad)


def test_errors_name_what_is_wrong() -> None:
    model = random_model("byte260")
    ids, targets = batch(model, 2, 8)
    for value in (260, -1):
        bad = ids.copy()
        bad[1, 3] = value
        with pytest.raises(ValueError, match=f"row 1 position 3 holds id {value}"):
            model.logits(bad)
    with pytest.raises(ValueError, match="vocabulary"):
        model.logits(ids + 2**40)
    with pytest.raises(ValueError, match="targets"):
        model.loss(ids, targets[:, :-1])
    with pytest.raises(ValueError, match="loss"):
        model.backward()
    with pytest.raises(ValueError, match="at least one target"):
        model.loss(ids, np.full_like(ids, -1))
    with pytest.raises(ValueError, match="unknown layer convolution"):
        Model(tiny("byte260", block="attention convolution"))
    if why_no_gpu():
        with pytest.raises(ValueError, match="cuda"):
            Model(tiny("byte260"), device="cuda")
    with pytest.raises(ValueError, match="unknown device"):
        Model(tiny("byte260"), device="tpu")
    with pytest.raises(ValueError, match="dtype"):
        Model(tiny("byte260"), dtype="float16")
    with pytest.raises(ValueError, match="sigreg_directions"):
        random_model("byte260-jepa").loss(ids, targets, 0.1, np.zeros((3, 3)))


def test_nan_weights_raise_numerics_error() -> None:
    model = random_model("byte260")
    params = model.parameters()
    params["blocks.1.mlp.fc.weight"][0, 0] = np.nan
    model.load_parameters(params)
    ids, targets = batch(model, 1, 8)
    with pytest.raises(NumericsError, match="ce"):
        model.loss(ids, targets)
    with pytest.raises(NumericsError):
        model.bpb(b"some text")
    with pytest.raises(NumericsError):
        model.generate(b"some text", 3)


def test_uniform_logits_score_log2_of_the_vocabulary() -> None:
    for preset, vocabulary in (("byte260", 260), ("byte256", 256)):
        model = random_model(preset)
        params = model.parameters()
        params["tok_emb.weight"][:] = 0
        model.load_parameters(params)
        data = bytes(range(200))
        targets = 200 if preset == "byte260" else 199  # without bos the first byte is context only
        score = evaluate(model, np.arange(4, 204), window=16, stride=5)
        assert score.targets == score.bytes == 199
        assert model.bpb(data) == pytest.approx(math.log2(vocabulary), rel=1e-13)
        assert score.nats == pytest.approx(199 * math.log(vocabulary), rel=1e-13)
        assert model.bpb(data) * targets == pytest.approx(math.log2(vocabulary) * targets)


@pytest.mark.parametrize("length", [2, 3, 16, 17, 18, 40])
@pytest.mark.parametrize(("window", "stride"), [(16, 16), (16, 8), (16, 5), (4, 1), (32, 32)])
def test_evaluate_scores_each_target_once_and_like_single_windows(length: int, window: int, stride: int) -> None:
    model = random_model("byte260-jepa", jepa_chunk_size=4)
    stream = np.random.default_rng(length).integers(0, 260, length)
    expected = np.full(length - 1, np.nan)
    for start in range(0, length - 1, stride):
        piece = stream[start : start + window + 1]
        # Extra ids at the end would change which chunks are whole: give the model exactly the window's inputs.
        logits = model.logits(piece[None, :-1])[0]
        nats = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(piece) - 1), piece[1:]]
        for t, value in enumerate(nats):
            if np.isnan(expected[start + t]):
                expected[start + t] = value
    score = evaluate(model, stream, window, stride)
    np.testing.assert_allclose(score.nll, expected, rtol=1e-11)
    assert score.targets == length - 1 and score.bytes == int((stream[1:] >= 4).sum())
    assert score.nats == pytest.approx(expected.sum(), rel=1e-12)


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize(("window", "stride"), [(None, None), (16, 16), (16, 3), (8, 8)])
def test_surprise_sums_to_the_score_of_the_same_windows(preset: str, window: int | None, stride: int | None) -> None:
    model = random_model(preset)
    data = "Überraschung, 37 Bytes lang … \n\0".encode() + b"\xff\xfe"
    nats = model.surprise(data, window, stride)
    assert nats.dtype == np.float64 and nats.shape == (len(data),)
    scored = nats[np.isfinite(nats)]
    assert len(scored) == len(data) - (model.config.bos_id < 0)
    assert scored.sum() / (math.log(2) * len(scored)) == pytest.approx(model.bpb(data, window, stride), rel=1e-13)


def test_surprise_is_the_log_softmax_of_the_logits_after_bos() -> None:
    model = random_model("byte260")
    data = b"fifteen letters"
    ids = np.concatenate([[1], np.frombuffer(data, np.uint8) + 4])  # the published byte260: bos 1, bytes from 4 on
    logits = model.logits(ids[None, :-1])[0]
    expected = np.log(np.exp(logits).sum(-1)) - logits[np.arange(len(data)), ids[1:]]
    np.testing.assert_allclose(model.surprise(data), expected, rtol=1e-12)


def test_a_family_without_bos_does_not_score_the_first_byte() -> None:
    nats = random_model("byte256").surprise(b"abc")
    assert np.isnan(nats[0]) and np.isfinite(nats[1:]).all()
    assert np.isnan(random_model("byte256").surprise(b"a")).tolist() == [True]
    for preset in ("byte256", "byte260"):
        assert random_model(preset).surprise(b"").shape == (0,)


def test_surprise_of_a_byte_does_not_depend_on_later_bytes() -> None:
    model = random_model("byte260-jepa")
    assert np.array_equal(model.surprise(b"the same start, then this")[:16], model.surprise(b"the same start, so")[:16])


def test_generate_is_a_function_of_its_arguments() -> None:
    model = random_model("byte260-jepa", "float32")
    text = model.generate(b"ab", 30, seed=5)
    assert isinstance(text, bytes) and len(text) == 30
    assert random_model("byte260-jepa", "float32", threads=1).generate(b"ab", 30, seed=5) == text
    assert model.generate(b"ab", 30, seed=6) != text
    assert model.generate(b"ab", 0) == b""
    seen: list[bytes] = []

    def emit(byte: bytes) -> bool:
        seen.append(byte)
        return len(seen) < 4

    assert model.generate(b"ab", 30, seed=5, emit=emit) == text[:4] == b"".join(seen)

    def fail(byte: bytes) -> None:
        raise KeyError(byte)

    with pytest.raises(KeyError):
        model.generate(b"ab", 30, emit=fail)


@pytest.mark.parametrize("preset", ["byte260-jepa", "byte256", "byte256-patch"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_generate_with_the_cache_gives_the_bytes_of_the_window_computed_anew(preset: str, dtype: str) -> None:
    model = random_model(preset, dtype)
    prompts = [b"ab", b"a prompt that is longer than the window", b"c"]
    texts = model.generate(prompts, 40, seed=3)
    assert [len(t) for t in texts] == [40, 40, 40]
    assert model.generate(prompts, 40, seed=3, cache=False) == texts
    assert model.generate(b"ab", 40, seed=3) == texts[0]
    assert model.generate([b"zz", prompts[1]], 40, seed=3)[1] == texts[1]
    assert model.generate([], 40) == []


def test_stream_gives_the_bytes_of_generate_one_at_a_time() -> None:
    model = random_model("byte260-jepa", "float32")
    text = model.generate(b"ab", 30, seed=5, top_p=0.9)
    stop = text[10:12]
    until = text[: text.index(stop) + 2]
    assert b"".join(model.stream(b"ab", 30, seed=5, top_p=0.9)) == text
    stream = model.stream(b"ab", 30, seed=5, top_p=0.9, stop=stop)
    assert next(stream) == text[:1]
    model.nll(np.full((2, 5), 70))  # other work between two bytes
    assert text[:1] + b"".join(stream) == until == model.generate(b"ab", 30, seed=5, top_p=0.9, stop=[b"never!", stop])


def test_emit_of_several_prompts_receives_rows_and_ends_them() -> None:
    model = random_model("byte260", "float32")
    seen: list[tuple[int, bytes]] = []

    def emit(row: int, byte: bytes) -> bool:
        seen.append((row, byte))
        return row == 0 or len(seen) < 6

    texts = model.generate([b"ab", b"cd"], 9, seed=5, emit=emit)
    assert [len(t) for t in texts] == [9, 3]
    assert texts == [b"".join(byte for row, byte in seen if row == r) for r in (0, 1)]


@pytest.mark.parametrize(
    ("options", "words"),
    [({"top_p": 0.0}, "top_p"), ({"top_p": 1.1}, "top_p"), ({"stop": [b""]}, "empty stop"), ({"n": -1}, "n >= 0")],
)
def test_generate_refuses_what_it_cannot_draw(options: dict[str, object], words: str) -> None:
    model = random_model("byte260", "float32")
    arguments = {"n": 5} | options
    with pytest.raises(ValueError, match=words):
        model.generate(b"ab", **arguments)
    with pytest.raises(ValueError, match=words):
        model.stream(b"ab", **arguments)  # before the first byte is asked for


def test_other_python_threads_run_while_the_model_works() -> None:
    model = random_model("byte260", "float64", 1, model_dim=64, seq_len=16)
    ids, targets = batch(model, 64, 16)
    ticks, during, done = 0, [0], threading.Event()

    def work() -> None:
        until = time.monotonic() + 300
        while max(during) <= 5 and time.monotonic() < until:  # on a machine that is busy, some calls see no tick
            before = ticks
            model.loss(ids, targets)
            during.append(ticks - before)
        done.set()

    worker = threading.Thread(target=work)
    worker.start()
    while not done.is_set():
        ticks += 1
        time.sleep(0.001)
    worker.join()
    assert max(during) > 5, "the interpreter's lock was held during each call"
