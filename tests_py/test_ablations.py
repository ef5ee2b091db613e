"""What records/ablations/spec.toml says of its groups, on a tiny model: which cases coincide, and what learns from what."""

from pathlib import Path

import numpy as np
import pytest
from test_trainer import text, tiny

from bytegolf.model import Model
from bytegolf.sweep.spec import load_spec
from bytegolf.trainer import Trainer

GROUPS = load_spec(Path(__file__).resolve().parents[1] / "records" / "ablations" / "spec.toml").groups
LEARNS_FROM_JEPA = ("jepa_projector.", "jepa_predictor.")


def trained(**options):
    """(initial weights, weights at the end, cross-entropy of each step) of a whole run."""
    config = tiny(jepa_phase1_frac=0.0, jepa_phase2_frac=1.0, bigram_init="zero").replace(**options)
    trainer, ces = Trainer(config, text()), []
    before = {name: array.copy() for name, array in trainer.model.parameters().items()}
    trainer.run(lambda result: ces.append(result.ce))
    return before, trainer.model.parameters(), ces


def changed(before, after):
    return {name for name, array in before.items() if array.tobytes() != after[name].tobytes()}


def test_without_jepas_losses_projector_and_predictor_keep_their_initial_bits_and_the_injection_learns():
    before, after, _ = trained(**GROUPS["lambda-0"])
    kept = set(before) - changed(before, after)
    jepa = {name for name in before if name.startswith(LEARNS_FROM_JEPA)}
    assert len(jepa) == 5
    # The matrices of the bigram branch start at zero, as published, and stay there (decay moves its scale).
    assert kept == jepa | {"bigram.embed.weight", "bigram.proj.weight"}
    assert all(np.any(before[name]) for name in jepa)
    assert "jepa_injection.weight" in changed(before, after)
    before, after, _ = trained(**GROUPS["full"])
    assert jepa <= changed(before, after)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_jepas_losses_reach_projector_and_predictor_and_these_learn_from_nothing_else(dtype):
    model = Model(tiny(), dtype=dtype)
    draw = np.random.default_rng(5)
    weights = dict(model.parameters())
    # An injection of zero would hide a path from the cross-entropy to the predictor.
    weights["jepa_injection.weight"] = draw.normal(size=weights["jepa_injection.weight"].shape)
    model.load_parameters(weights)
    ids, targets = draw.integers(4, 260, (2, 2, 16))
    found = []
    for weight in (0.0, 0.5):
        model.zero_gradients()
        model.loss(ids, targets, jepa_lambda=weight)
        model.backward()
        found.append({name: array.copy() for name, array in model.gradients().items()})
    without, with_losses = found
    for name, gradient in with_losses.items():
        if name.startswith(LEARNS_FROM_JEPA):
            assert not np.any(without[name]), name
            assert np.any(gradient), name
        else:
            assert gradient.tobytes() == without[name].tobytes(), name
    assert np.any(without["jepa_injection.weight"])


def test_the_bigram_branch_as_published_learns_nothing_and_its_repair_does():
    _, _, published = trained(**GROUPS["full"])
    _, _, off = trained(**GROUPS["bigram-off"])
    assert off == published
    before, after, repaired = trained(**GROUPS["bigram-repaired"])
    assert {name for name in before if name.startswith("bigram.")} <= changed(before, after)
    assert repaired != published


def test_without_the_average_training_is_the_same():
    _, full, _ = trained(**GROUPS["full"])
    _, off, _ = trained(**GROUPS["ema-off"])
    assert not changed(full, off)


@pytest.mark.parametrize("group", ["jepa-off", "jepa-no-sigreg", "smear-off", "xsa-off", "norm-scale-off"])
def test_each_other_part_changes_training(group):
    assert trained(**GROUPS[group])[2] != trained(**GROUPS["full"])[2]
