"""What bytegolf.Trainer promises: the published recipe to the digit, exact resume, budgets kept, nothing half-loaded."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from bytegolf import FormatError, NumericsError, _bytegolf
from bytegolf.checkpoint import read_checkpoint, write_checkpoint
from bytegolf.config import Config
from bytegolf.data.shards import write_shards
from bytegolf.model import Model
from bytegolf.trainer import StepResult, Trainer

SHARED = Path(os.environ.get("BYTEGOLF_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def fixture(name: str) -> dict[str, np.ndarray]:
    path = SHARED / "fixtures" / name
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    with np.load(path) as file:
        return dict(file)


def tiny(**changes: object) -> Config:
    options = {
        "num_layers": 2, "model_dim": 16, "num_heads": 2, "num_kv_heads": 1, "rope_dims": 4, "xsa_last_n": 1,
        "bigram_vocab_size": 16, "bigram_dim": 4, "bigram_init": "normal", "jepa_chunk_size": 4, "jepa_latent_dim": 6,
        "jepa_proj_hidden": 5, "jepa_lambda_max": 0.5, "seq_len": 16, "eval_stride": 8, "micro_batch_ids": 32,
        "train_batch_ids": 64, "iterations": 8, "warmdown_iters": 4, "muon_momentum_warmup_steps": 5,
        "ema_decay": 0.9, "swa_every": 2, "swa_last_frac": 0.75,
    }  # fmt: skip
    return Config.preset("byte260-jepa", **{**options, **changes})


def text() -> np.ndarray:
    return np.random.default_rng(3).integers(100, 108, 3000)


def state_of(trainer: Trainer) -> dict[str, np.ndarray]:
    sets = {"weights": trainer.model.parameters(), "ema": trainer.ema, "swa": trainer.swa or {}}
    return {f"{kind}/{name}": array for kind, arrays in sets.items() for name, array in arrays.items()}


def assert_equal(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == array.dtype and got[name].tobytes() == array.tobytes(), name


def exact(r: StepResult) -> tuple[float, ...]:
    return (r.ce, r.losses.jepa_pred, r.losses.jepa_sigreg, r.total, r.grad_norm, r.lr_factor, r.muon_momentum)


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    return float(np.linalg.norm(got - expected) / max(float(np.linalg.norm(expected)), 1e-300))


@pytest.mark.parametrize(("dtype", "losses", "weights"), [("float64", 1e-5, 1e-4), ("float32", 1e-3, 2e-2)])
def test_the_published_recipe_is_followed_for_all_its_steps(dtype: str, losses: float, weights: float) -> None:
    f = fixture("train_byte260_jepa.npz")
    published = json.loads(bytes(f["config"]))
    _, B, T = f["inputs"].shape
    config = Config.from_published(
        {**published, "seq_len": T, "eval_stride": T, "micro_batch_ids": B * T, "train_batch_ids": B * T}
    )
    model = Model(config, dtype=dtype)
    model.load_parameters({k.removeprefix("init/"): v for k, v in f.items() if k.startswith("init/")})
    trainer = Trainer(config, None, model=model)
    for n in range(config.iterations):
        got = trainer.step_on(f["inputs"][n], f["targets"][n], sigreg_directions=f["sigreg_directions"])
        assert got.lr_factor == pytest.approx(f["lr_scale"][n], rel=1e-12)
        assert got.jepa_lambda == pytest.approx(f["jepa_lambda"][n], rel=1e-12, abs=1e-15)
        assert got.losses.ce == pytest.approx(f["ce"][n], rel=losses), f"step {n}"
        assert got.losses.jepa_pred == pytest.approx(f["jepa_pred"][n], rel=losses), f"step {n}"
        assert got.losses.jepa_sigreg == pytest.approx(f["jepa_sigreg"][n], rel=losses), f"step {n}"
        assert got.grad_norm == pytest.approx(f["grad_norm"][n], rel=losses), f"step {n}"
    assert trainer.done
    for kind, arrays in [("final", model.parameters()), ("ema", trainer.ema)]:
        for name, array in arrays.items():
            assert relative(array, f[f"{kind}/{name}"]) <= weights, f"{kind}/{name}"


@pytest.mark.parametrize("shape", ["64x64", "128x64", "64x192", "512x32"])
def test_newton_schulz_equals_the_exact_iteration(shape: str) -> None:
    f = fixture("newton_schulz.npz")
    got = _bytegolf.newton_schulz(f[f"G_{shape}"].astype(np.float64))
    assert relative(got, f[f"exact_{shape}"]) < 1e-10
    single = _bytegolf.newton_schulz(f[f"G_{shape}"])
    assert single.dtype == np.float32
    assert relative(single, f[f"exact_{shape}"]) < 1e-5


def test_newton_schulz_refuses_what_is_no_matrix() -> None:
    with pytest.raises(ValueError, match="takes a matrix"):
        _bytegolf.newton_schulz(np.zeros(3))
    with pytest.raises(TypeError):
        _bytegolf.newton_schulz(np.zeros((3, 3), np.int32))


def test_muon_moves_matrices_as_its_formula_in_numpy_says() -> None:
    config = tiny(grad_clip_norm=0.01, jepa_lambda_max=0.0)
    trainer = Trainer(config, text(), dtype="float64")
    name = "blocks.0.mlp.fc.weight"  # 32 x 16: taller than wide
    buffer = np.zeros_like(trainer.model.parameters()[name])
    for n in range(3):
        before = trainer.model.parameters()[name]
        result = trainer.step()
        gradient = trainer.model.gradients()[name] * min(1.0, 0.01 / (result.grad_norm + 1e-6))
        momentum = 0.92 + (0.99 - 0.92) * n / 5
        buffer = momentum * buffer + gradient
        x = (gradient + momentum * buffer).T
        x = x / (np.linalg.norm(x) + 1e-7)
        for _ in range(5):
            a = x @ x.T
            x = 3.4445 * x + (-4.7750 * a + 2.0315 * a @ a) @ x
        expected = before * (1 - 0.025 * 0.04) - 0.025 * np.sqrt(2) * x.T
        assert relative(trainer.model.parameters()[name], expected) < 1e-12


def test_results_say_what_happened_and_the_callback_may_stop() -> None:
    trainer = Trainer(tiny(), text())
    assert trainer.steps_done == 0 and not trainer.done and trainer.swa is None
    seen: list[StepResult] = []
    last = trainer.run(lambda result: seen.append(result) or (False if result.step == 2 else None))
    assert last is seen[-1] and [r.step for r in seen] == [0, 1, 2]
    assert trainer.steps_done == 3 and last.bytes == last.ids == 64 and trainer.bytes == 3 * 64
    assert last.total == pytest.approx(
        last.ce + last.jepa_lambda * (last.losses.jepa_pred + 0.02 * last.losses.jepa_sigreg)
    )
    last = trainer.run()
    assert last is not None and last.step == 7 and last.lr_factor == 0.25 and trainer.done
    assert trainer.swa is not None
    assert trainer.run() is None
    with pytest.raises(ValueError, match="the run is over"):
        trainer.step()


def test_averages_are_copies_with_all_names() -> None:
    trainer = Trainer(tiny(swa_last_frac=1.0), text(), dtype="float64")
    snapshots = []
    expected = trainer.model.parameters()
    for n in range(4):
        trainer.step()
        weights = trainer.model.parameters()
        expected = {name: 0.9 * expected[name] + 0.1 * weights[name] for name in weights}
        if n % 2 == 1:
            snapshots.append(weights)
    ema, swa = trainer.ema, trainer.swa
    assert ema.keys() == weights.keys() and swa is not None and swa.keys() == weights.keys()
    for name in weights:
        np.testing.assert_allclose(ema[name], expected[name], rtol=1e-12, atol=1e-15)
        np.testing.assert_allclose(swa[name], (snapshots[0][name] + snapshots[1][name]) / 2, rtol=1e-12, atol=1e-15)
    ema[name] += 1
    assert not np.array_equal(trainer.ema[name], ema[name])
    assert Trainer(tiny(ema_decay=0.0), text()).ema == {}


@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_resume_is_exact_to_the_bit(tmp_path: Path, dtype: str, shuffle: bool) -> None:
    config = tiny(shuffle=shuffle)
    whole, first, second = (Trainer(config, text(), dtype=dtype) for _ in range(3))
    results = [whole.step() for _ in range(6)]
    for _ in range(3):
        first.step()
    first.checkpoint(tmp_path)
    second.step()  # it need not be fresh
    second.resume(tmp_path)
    assert second.steps_done == 3
    assert second.seconds == pytest.approx(first.seconds, abs=0.5)
    assert [exact(second.step()) for _ in range(3)] == [exact(result) for result in results[3:]]
    assert_equal(state_of(second), state_of(whole))
    assert second.bytes == whole.bytes


RESUMED = """
import sys, numpy as np
sys.path.insert(0, sys.argv[3])
from test_trainer import Trainer, state_of, text, tiny
trainer = Trainer(tiny(), text())
trainer.resume(sys.argv[1])
trainer.step()
np.savez(sys.argv[2], **state_of(trainer))
"""


def test_a_new_process_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    trainer = Trainer(tiny(), text())
    for _ in range(3):
        trainer.step()
    trainer.checkpoint(tmp_path / "c")
    command = [sys.executable, "-c", RESUMED, tmp_path / "c", tmp_path / "out.npz", Path(__file__).parent]
    subprocess.run(command, check=True)
    trainer.step()
    with np.load(tmp_path / "out.npz") as got:
        assert_equal(dict(got), state_of(trainer))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model_dim": 32}, "model_dim = 16` there.*model_dim = 32` here"),
        ({"matrix_lr": 0.5}, "matrix_lr"),
        ({"seed": 9}, "seed = 0` there"),
        ({"swa_last_frac": 0.0}, "swa_last_frac"),
    ],
)
def test_a_checkpoint_of_another_config_is_refused(tmp_path: Path, changes: dict[str, object], words: str) -> None:
    Trainer(tiny(), text()).checkpoint(tmp_path)
    trainer = Trainer(tiny(**changes), text())
    with pytest.raises(ValueError, match=f"{tmp_path.name}.*another run.*{words}"):
        trainer.resume(tmp_path)


def test_a_checkpoint_of_another_dtype_or_data_is_refused(tmp_path: Path) -> None:
    Trainer(tiny(), text()).checkpoint(tmp_path)
    with pytest.raises(ValueError, match="dtype float32 there, float64 here"):
        Trainer(tiny(), text(), dtype="float64").resume(tmp_path)
    with pytest.raises(ValueError, match="data of 3000 ids there, 2000 here"):
        Trainer(tiny(), text()[:2000]).resume(tmp_path)
    with pytest.raises(FileNotFoundError):
        Trainer(tiny(), text()).resume(tmp_path / "none")


def damage_missing(t: dict[str, np.ndarray]) -> None:
    del t["first/tok_emb.weight"]


def damage_shape(t: dict[str, np.ndarray]) -> None:
    t["second/tok_emb.weight"] = t["second/tok_emb.weight"][1:]


def damage_dtype(t: dict[str, np.ndarray]) -> None:
    t["ema/tok_emb.weight"] = t["ema/tok_emb.weight"].astype(np.float64)


def damage_extra(t: dict[str, np.ndarray]) -> None:
    t["weights/extra"] = np.zeros(3, np.float32)


@pytest.mark.parametrize(
    ("damage", "words"),
    [
        (damage_missing, "first/tok_emb.weight is missing"),
        (damage_shape, r"second/tok_emb.weight has shape \(259, 16\) where the run has \(260, 16\)"),
        (damage_dtype, "ema/tok_emb.weight is float64 where the run has float32"),
        (damage_extra, "weights/extra is unknown"),
    ],
)
def test_a_checkpoint_with_wrong_tensors_names_them_and_loads_nothing(tmp_path: Path, damage, words: str) -> None:  # type: ignore[no-untyped-def]
    trainer = Trainer(tiny(), text())
    trainer.step()
    trainer.checkpoint(tmp_path)
    tensors, facts = read_checkpoint(tmp_path)
    damage(tensors)
    write_checkpoint(tmp_path, tensors, facts)
    trainer.step()
    before = state_of(trainer)
    with pytest.raises(FormatError, match=rf"state\.safetensors: .*{words}"):
        trainer.resume(tmp_path)
    assert_equal(state_of(trainer), before)
    assert trainer.steps_done == 2


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"step": -1}, "step -1"),
        ({"step": 10**6}, "step 1000000 of 8"),
        ({"step": "1"}, "progress"),
        ({"elapsed_s": -1.0}, "elapsed_s"),
        ({"snapshots": 5}, "snapshots"),
        ({"more": 1}, "progress"),
    ],
)
def test_a_checkpoint_with_impossible_progress_is_refused(
    tmp_path: Path, changes: dict[str, object], words: str
) -> None:
    trainer = Trainer(tiny(), text())
    trainer.step()
    trainer.checkpoint(tmp_path)
    tensors, facts = read_checkpoint(tmp_path)
    write_checkpoint(tmp_path, tensors, {**facts, "progress": {**facts["progress"], **changes}})
    with pytest.raises(FormatError, match=words):
        trainer.resume(tmp_path)
    assert trainer.steps_done == 1


def test_no_step_begins_that_would_pass_the_budget_and_the_step_size_ends_with_it() -> None:
    """By the definitions in csrc/optim/schedule.h, at whatever speed the machine runs and wherever it stalls."""
    budget, warmdown = 1.0, 20
    trainer = Trainer(tiny(train_budget_s=budget, iterations=10**6, warmdown_iters=warmdown), text())
    steps: list[StepResult] = []
    trainer.run(steps.append)

    def predicted_s(n: int) -> float:
        return 1.25 * max(step.seconds for step in steps[max(0, n - 16) : n]) + 0.02

    def factor(n: int, elapsed_s: float) -> float:
        mean_s = (elapsed_s - steps[0].elapsed_s) / (n - 1)
        return min(1.0, (1 + max(0.0, budget - elapsed_s - predicted_s(n)) / mean_s) / warmdown)

    assert steps[0].lr_factor == 1
    for n in range(2, len(steps)):
        before, after = steps[n - 1].elapsed_s, steps[n].elapsed_s
        assert before + predicted_s(n) <= budget
        assert factor(n, after) - 1e-9 <= steps[n].lr_factor <= factor(n, before) + 1e-9
    assert trainer.done and trainer.seconds + predicted_s(len(steps)) > budget


def test_nan_stops_the_step_names_the_tensor_and_changes_nothing() -> None:
    trainer = Trainer(tiny(), text())
    trainer.step()
    weights = trainer.model.parameters()
    weights["blocks.1.attn_scale"][3] = np.nan
    trainer.model.load_parameters(weights)
    before = state_of(trainer)
    with pytest.raises(NumericsError, match=r"step 1 .*blocks\.1\.attn_scale"):
        trainer.step()
    assert_equal(state_of(trainer), before)
    assert trainer.steps_done == 1


def test_wrong_arguments_are_named() -> None:
    with pytest.raises(ValueError, match="model options that differ"):
        Trainer(tiny(num_layers=3), text(), model=Model(tiny()))
    with pytest.raises(ValueError, match="integers"):
        Trainer(tiny(), text() * 0.5)
    with pytest.raises(ValueError, match="260"):
        Trainer(tiny(), text() + 200)
    trainer = Trainer(tiny(), None)
    with pytest.raises(ValueError, match="without data"):
        trainer.step()
    ids = np.full((2, 16), 5)
    with pytest.raises(ValueError, match="shape"):
        trainer.step_on(ids, ids[:1])
    with pytest.raises(ValueError, match="integers"):
        trainer.step_on(ids * 0.5, ids)
    with pytest.raises(ValueError, match="micro-batches"):
        trainer.step_on(ids, ids, micro_batches=3)
    with pytest.raises(ValueError, match="sigreg_directions"):
        trainer.step_on(ids, ids, sigreg_directions=np.ones((3, 256)))


def test_seeds_decide_weights_and_order() -> None:
    first = [Trainer(tiny(shuffle=True), text(), seed=seed).step().ce for seed in (1, 1, 2)]
    assert first[0] == first[1] != first[2]


def test_damage_in_the_data_under_a_run_leaves_the_state_of_whole_steps(tmp_path: Path) -> None:
    write_shards([bytes((text() - 4).astype(np.uint8))], tmp_path / "data", prefix="train")
    trainer = Trainer(tiny(iterations=10**6), tmp_path / "data")
    trainer.step()
    shard = next((tmp_path / "data").glob("*.bin"))
    with shard.open("r+b") as file:  # in place, as a disk that fails would
        file.seek(1024)
        file.write(b"\xff" * (shard.stat().st_size - 1024))
    with pytest.raises(FormatError, match=rf"{shard.name}.*65535"):
        while True:
            before = state_of(trainer)
            trainer.step()
    assert trainer.whole
    assert_equal(state_of(trainer), before)
    trainer.checkpoint(tmp_path / "c")
    tensors, facts = read_checkpoint(tmp_path / "c")
    assert facts["progress"]["step"] == trainer.steps_done > 0
    assert tensors["weights/tok_emb.weight"].tobytes() == before["weights/tok_emb.weight"].tobytes()


def test_a_checkpoint_knows_its_data_by_what_it_holds(tmp_path: Path) -> None:
    ids = text()
    trainer = Trainer(tiny(), ids)
    trainer.step()
    trainer.checkpoint(tmp_path / "c", held_out="a" * 64)
    write_shards([bytes((ids - 4).astype(np.uint8))], tmp_path / "data", prefix="train")
    shards = _bytegolf.ShardSet(tmp_path / "data")
    in_file = shards.read(0, len(shards))
    for data, problem in [
        (ids, None),
        (ids[::-1], "other training data"),
        (ids[:-1], "data of 3000 ids there, 2999 here"),
    ]:
        other = Trainer(tiny(), data)
        if problem is None:
            other.resume(tmp_path / "c", held_out="a" * 64)
            assert other.steps_done == 1
        else:
            with pytest.raises(ValueError, match=problem):
                other.resume(tmp_path / "c")
            assert other.steps_done == 0
    assert Trainer(tiny(), in_file).data_sha256 == Trainer(tiny(), tmp_path / "data").data_sha256 != trainer.data_sha256
    with pytest.raises(ValueError, match="other held-out data"):
        Trainer(tiny(), ids).resume(tmp_path / "c", held_out="b" * 64)
    Trainer(tiny(), ids).resume(tmp_path / "c")  # what is not scored need not say


def test_a_checkpoint_of_an_older_version_says_what_it_cannot_say(tmp_path: Path) -> None:
    ids = text()
    trainer = Trainer(tiny(), ids)
    trainer.step()
    tensors, facts = read_checkpoint(trainer.checkpoint(tmp_path / "new").parent)
    older = {name: fact for name, fact in facts.items() if name not in ("data_sha256", "held_out_sha256")}
    write_checkpoint(tmp_path / "old", tensors, older)
    said: list[str] = []
    other = Trainer(tiny(), ids)
    other.resume(tmp_path / "old", held_out="a" * 64, say=said.append)
    assert other.steps_done == 1 and len(said) == 1 and "an older version wrote it" in said[0]
    with pytest.warns(UserWarning, match="an older version wrote it"):
        Trainer(tiny(), ids[::-1]).resume(tmp_path / "old")
    with pytest.raises(ValueError, match="data of 3000 ids there"):
        Trainer(tiny(), ids[:-5]).resume(tmp_path / "old")


@pytest.mark.parametrize("kind", ["weights", "first", "second", "ema", "swa"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_checkpoint_with_a_value_that_is_not_finite_is_refused_by_tensor(
    tmp_path: Path, kind: str, value: float
) -> None:
    trainer = Trainer(tiny(), text())
    trainer.step()
    trainer.checkpoint(tmp_path)
    tensors, facts = read_checkpoint(tmp_path)
    name = [name for name in tensors if name.startswith(f"{kind}/")][-1]
    tensors[name] = tensors[name].copy()
    tensors[name].reshape(-1)[-1] = value
    write_checkpoint(tmp_path, tensors, facts)
    before = state_of(trainer)
    with pytest.raises(FormatError, match=f"tensor {name} holds NaN or infinity"):
        trainer.resume(tmp_path)
    assert_equal(state_of(trainer), before)
