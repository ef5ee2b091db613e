"""bytegolf computes what the published programs compute: every value of every fixture, within its tolerance."""

import os
from pathlib import Path

import pytest

from bytegolf.checks.parity import check_fixture, pooled_checks
from bytegolf.device import why_no_gpu

SHARED = Path(os.environ.get("BYTEGOLF_SHARED", Path(__file__).resolve().parents[1] / ".." / "shared"))
NAMES = [
    "byte256_jepa_k4",
    "byte256_patch4",
    "byte256_plain",
    "byte260_head64",
    "byte260_jepa",
    "byte260_plain",
    "newton_schulz",
    "quant_int6_byte256",
    "quant_int6_mixed",
    "sliding_eval",
    "train_byte260_jepa",
]
# What parity does not read yet, by the first word of the name: other architectures, layers, optimisers and quantisers.
UNREAD = {
    "blt",
    "canon",
    "gated",
    "gla",
    "gptq",
    "hnet",
    "mamba2",
    "ngram",
    "normuon",
    "polar",
    "schedules",
    "xsa",
}


@pytest.mark.parametrize(
    ("device", "dtype"), [("cpu", "float64"), ("cpu", "float32"), ("cuda", "float32"), ("cuda", "bfloat16")]
)
@pytest.mark.parametrize("name", NAMES)
def test_every_value_of_the_fixture_is_met(name: str, device: str, dtype: str) -> None:
    if device == "cuda" and (unusable := why_no_gpu()):
        pytest.skip(f"needs a GPU: {unusable}")
    path = SHARED / "fixtures" / f"{name}.npz"
    if not path.exists():
        pytest.skip(f"reference values not found at {path}: set BYTEGOLF_SHARED to the folder that holds fixtures/")
    if name.startswith("quant_") and dtype != "float64":
        pytest.skip("quantisation has one precision")
    checks = check_fixture(path, dtype, device)
    assert checks, "a fixture without a check proves nothing"
    missed = [check for check in checks if not check.passed]
    assert not missed, "\n".join(map(str, missed))


def test_the_median_gradient_in_bfloat16_is_close() -> None:
    if unusable := why_no_gpu():
        pytest.skip(f"needs a GPU: {unusable}")
    paths = [SHARED / "fixtures" / f"{name}.npz" for name in NAMES if name.startswith("byte2")]
    if not all(path.exists() for path in paths):
        pytest.skip(f"no reference values at {SHARED / 'fixtures'}: set BYTEGOLF_SHARED to the folder above")
    (check,) = pooled_checks([check_fixture(path, "bfloat16", "cuda") for path in paths], "bfloat16")
    assert check.passed, check


def test_no_fixture_is_forgotten() -> None:
    folder = SHARED / "fixtures"
    if not folder.exists():
        pytest.skip(f"no reference values at {folder}: set BYTEGOLF_SHARED to the folder that holds fixtures/")
    there = {path.stem for path in folder.glob("*.npz")}
    assert sorted(name for name in there if name.split("_")[0] not in UNREAD) == NAMES
