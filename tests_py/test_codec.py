"""The codec as Python sees it: quantisation bit for bit, artifacts there and back, damage refused."""

import os
from pathlib import Path
from typing import Any

import bytegolf
import numpy as np
import pytest
from bytegolf import codec

SHARED = Path(os.environ.get("BYTEGOLF_SHARED", Path(__file__).resolve().parents[2] / "shared"))


def load_fixture(name: str) -> dict[str, Any]:
    path = SHARED / name
    if not path.exists():
        pytest.skip(f"{path} is not there")
    with np.load(path) as arrays:
        return dict(arrays)


def expected_of(fixture: dict[str, Any]) -> dict[str, Any]:
    """The stored form in one naming: NAME.q, NAME.scale, NAME."""
    renamed = {"stored/": "", "q/": ".q", "scale/": ".scale", "pass/": ""}
    return {
        key.removeprefix(prefix) + suffix: array
        for key, array in fixture.items()
        for prefix, suffix in renamed.items()
        if key.startswith(prefix)
    }


@pytest.mark.parametrize("scheme", ["int6_mixed", "int6_byte256"])
def test_quantised_values_are_those_of_the_fixture(scheme: str) -> None:
    fixture = load_fixture(f"fixtures/quant_{scheme}.npz")
    params = {key.removeprefix("param/"): a for key, a in fixture.items() if key.startswith("param/")}
    stored, expected = codec.quantise(params, scheme), expected_of(fixture)
    assert set(stored) == set(expected)
    for name, array in expected.items():
        assert (stored[name].dtype, stored[name].shape) == (array.dtype, array.shape), name
        assert stored[name].tobytes() == array.tobytes(), name
    for name, array in codec.dequantise(stored).items():
        if f"dequant/{name}" in fixture:
            assert array.dtype == np.float32
            assert array.tobytes() == fixture[f"dequant/{name}"].tobytes(), name


def test_quantise_does_not_depend_on_threads_or_input_precision() -> None:
    weights = np.random.default_rng(0).normal(0, 0.2, (300, 257))
    one = codec.quantise({"blocks.0.w": weights}, "int6_mixed", threads=1)
    for other in (
        codec.quantise({"blocks.0.w": weights.astype(np.float32)}, "int6_mixed", threads=3),
        codec.quantise({"blocks.0.w": np.asfortranarray(weights)}, "int6_mixed"),
    ):
        assert {k: v.tobytes() for k, v in one.items()} == {k: v.tobytes() for k, v in other.items()}


def test_scalars_stay_scalars() -> None:
    stored = codec.quantise({"bigram.scale": np.array(0.05)}, "int6_mixed")
    assert stored["bigram.scale"].shape == () and stored["bigram.scale"].dtype == np.float16
    assert codec.dequantise(stored)["bigram.scale"].shape == ()


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e39, 70000.0])
def test_quantise_refuses_what_is_not_a_number_and_names_the_tensor(bad: float) -> None:
    for shape in [(3,), (300, 300)]:
        weights = np.zeros(shape)
        weights.flat[2] = bad
        if bad == 70000.0 and len(shape) == 2:
            continue  # a large weight of a quantised row is just a large step
        with pytest.raises(bytegolf.NumericsError, match=r"blocks\.3\.w"):
            codec.quantise({"blocks.3.w": weights}, "int6_mixed")


def test_quantise_refuses_foreign_input() -> None:
    with pytest.raises(ValueError, match="unknown scheme int5"):
        codec.quantise({"a": np.zeros(3)}, "int5")
    with pytest.raises(ValueError, match="tensor a is int32"):
        codec.quantise({"a": np.zeros(3, np.int32)}, "int6_mixed")
    with pytest.raises(ValueError, match=r"no a\.scale"):
        codec.dequantise({"a.q": np.zeros((2, 2), np.int8)})
