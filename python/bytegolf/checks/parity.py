"""Does bytegolf compute what the published programs compute? Recomputes everything a fixture file holds.

A fixture is an .npz of reference values: whole models with gradients, a short training run, quantised tensors, sliding
scores, or the Newton-Schulz iteration. Its arrays show which. Every quantity becomes one `Check`: its worst error
against its tolerance.
"""

from __future__ import annotations

import json
import math
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bytegolf import _bytegolf
from bytegolf.codec import dequantise, quantise
from bytegolf.config import Config
from bytegolf.device import resolve
from bytegolf.model import Model
from bytegolf.scoring import evaluate

__all__ = ["Check", "check_fixture", "main_report"]

Array = npt.NDArray[Any]

# Tolerances by dtype, on any device. Tensors: relative L2 per tensor. Scalars: relative. None: shown, not judged.
# bfloat16 rounds each activation by up to 2^-9, so gradients are held in two ways, each tensor and the median over all
# tensors of the fixtures compared together. One fixture's median is shown: for a patched model rounding nothing but the
# operands of the matrix products in float64 gives 2.9e-2 already, for the others 1.0e-2 to 2.0e-2.
# tensors of few elements may cancel down to their rounding error and are only shown, as are weights after 40 steps.
# JEPA's losses in training are held more loosely: they read the blocks' output, and the blocks' weights end about a
# tenth apart after 40 steps on rounded gradients. Rounding nothing but the operands of the blocks' matrix products in
# float64 already moves both losses by 1e-1 (JEPA's own arithmetic exact), the cross-entropy by 2e-3 and the gradient's
# norm by 2e-2.
TOLERANCES: dict[str, dict[str, float | None]] = {
    "float64": {
        "logits": 1e-5,
        "gradient": 1e-5,
        "loss": 1e-6,
        "train_loss": 1e-5,
        "train_jepa": 1e-5,
        "train_scalar": 1e-5,
        "train_weights": 1e-4,
        "schedule": 1e-9,
        "sliding": 1e-5,
        "newton_schulz": 1e-10,
    },
    "float32": {
        "logits": 2e-4,
        "gradient": 2e-4,
        "loss": 1e-3,
        "train_loss": 1e-3,
        "train_jepa": 2e-2,
        "train_scalar": 2e-2,
        "train_weights": 2e-2,
        "schedule": 1e-9,
        "sliding": 2e-4,
        "newton_schulz": 2e-4,
    },
    "bfloat16": {
        "logits": 2e-2,
        "gradient": 8e-2,
        "gradient_median": 2.5e-2,
        "gradient_small": None,
        "loss": 5e-3,
        "train_loss": 1e-2,
        "train_jepa": 2e-1,
        "train_scalar": 5e-2,
        "train_weights": None,
        "schedule": 1e-9,
        "sliding": 2e-2,
        "newton_schulz": 6e-2,
    },
}
SMALL = 64  # elements; tensors of at most so many count as small

Limits = dict[str, float | None]


@dataclass(frozen=True)
class Check:
    """One quantity of a fixture: its worst error, where that is, and what is allowed (None: it is shown only)."""

    quantity: str
    error: float
    tolerance: float | None
    where: str = ""
    pooled: tuple[float, ...] = ()  # errors that count in the median over all fixtures

    @property
    def passed(self) -> bool:
        """NaN never passes."""
        return math.isfinite(self.error) if self.tolerance is None else self.error <= self.tolerance


def relative(got: Array | float, want: Array | float) -> float:
    """‖got - want‖ / ‖want‖ in float64; the plain norm where want is zero; infinite for other shapes."""
    a, b = np.asarray(got, dtype=np.float64), np.asarray(want, dtype=np.float64)
    if a.shape != b.shape:
        return float("inf")
    size = float(np.linalg.norm(b))
    return float(np.linalg.norm(a - b)) / (size if size > 0 else 1.0)


def definite(dtype: str, device: str) -> tuple[str, str]:
    """(dtype, device) as `device.resolve` has them, except that auto on the CPU means float64 here."""
    where, how = resolve(device, dtype)
    return ("float64" if dtype == "auto" and where == "cpu" else how), where


def check_fixture(path: str | Path, dtype: str = "auto", device: str = "cpu", threads: int = 0) -> list[Check]:
    """All checks of one fixture file. ValueError when the file is no fixture; OSError when it cannot be read."""
    dtype, device = definite(dtype, device)
    try:
        with np.load(path) as file:
            z = {name: file[name] for name in file.files}
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} is no .npz file: {error}") from None
    limits = TOLERANCES[dtype]
    if "lr_scale" in z:
        return list(_training(z, dtype, device, threads, limits))
    if "stream" in z:
        return list(_sliding(z, dtype, device, threads, limits))
    if "logits" in z:
        return list(_model(z, dtype, device, threads, limits))
    if any(name.startswith("stored/") for name in z):
        return list(_quantised_mixed(z))
    if any(name.startswith("q/") for name in z):
        return list(_quantised_byte256(z))
    if any(name.startswith("exact_") for name in z):
        return list(_newton_schulz(z, dtype, device, limits))
    raise ValueError(f"{path} holds none of the known kinds of reference values")


def _below(z: dict[str, Array], prefix: str) -> dict[str, Array]:
    return {name[len(prefix) :]: array for name, array in z.items() if name.startswith(prefix)}


def _config(z: dict[str, Array]) -> Config:
    return Config.from_published(json.loads(bytes(z["config"])))


def _worst(errors: dict[str, float], quantity: str, tolerance: float | None) -> Check:
    where = max(errors, key=lambda name: errors[name] if errors[name] == errors[name] else float("inf"))
    return Check(quantity, errors[where], tolerance, where)


def _model(z: dict[str, Array], dtype: str, device: str, threads: int, limits: Limits) -> Iterator[Check]:
    model = Model(_config(z), device, dtype, threads=threads)
    model.load_parameters(_below(z, "param/"))
    yield Check("logits", relative(model.logits(z["inputs"]), z["logits"]), limits["logits"])
    jepa_lambda = float(z["jepa_lambda"]) if "jepa_lambda" in z else 0.0
    losses = model.loss(z["inputs"], z["targets"], jepa_lambda, z.get("sigreg_directions"))
    for name in ("ce", "jepa_pred", "jepa_sigreg", "total"):
        if name in z:
            yield Check(name, relative(getattr(losses, name), z[name]), limits["loss"])
    model.zero_gradients()
    model.backward()
    got, want = model.gradients(), _below(z, "grad/")
    errors = {name: relative(got[name], want[name]) if name in got else float("inf") for name in want}
    errors |= {name: float(np.abs(got[name]).max()) for name in got if name not in want}  # absent there: zero here
    few = {name for name, array in got.items() if array.size <= SMALL} if "gradient_small" in limits else set()
    small = {name: error for name, error in errors.items() if name in few}
    large = {name: error for name, error in errors.items() if name not in small}
    yield _worst(large, f"{len(large)} gradients", limits["gradient"])
    if "gradient_median" in limits:
        median = float(np.median(list(large.values())))
        yield Check(f"median of {len(large)} gradients", median, None, pooled=tuple(large.values()))
    if small:
        yield _worst(small, f"{len(small)} gradients of at most {SMALL} elements", limits["gradient_small"])


def _training(z: dict[str, Array], dtype: str, device: str, threads: int, limits: Limits) -> Iterator[Check]:
    from bytegolf.trainer import Trainer

    config = _config(z)
    model = Model(config, device, dtype, threads=threads)
    model.load_parameters(_below(z, "init/"))
    trainer = Trainer(config, None, model=model)
    rows: dict[str, list[float]] = {}
    for inputs, targets in zip(z["inputs"], z["targets"], strict=True):
        step = trainer.step_on(inputs, targets, sigreg_directions=z.get("sigreg_directions"))
        for name, value in (
            ("ce", step.ce),
            ("jepa_pred", step.jepa_pred),
            ("jepa_sigreg", step.jepa_sigreg),
            ("grad_norm", step.grad_norm),
            ("lr_scale", step.lr_factor),
            ("jepa_lambda", step.jepa_lambda),
        ):
            rows.setdefault(name, []).append(value)
    kinds = {
        "ce": "train_loss",
        "jepa_pred": "train_jepa",
        "jepa_sigreg": "train_jepa",
        "grad_norm": "train_scalar",
        "lr_scale": "schedule",
        "jepa_lambda": "schedule",
    }
    for name, values in rows.items():
        errors = {f"step {n}": relative(a, b) for n, (a, b) in enumerate(zip(values, z[name], strict=True))}
        yield _worst(errors, f"{name}, {len(values)} steps", limits[kinds[name]])
    for prefix, got in (("final/", model.parameters()), ("ema/", trainer.ema)):
        want = _below(z, prefix)
        errors = {name: relative(got[name], want[name]) for name in want}
        yield _worst(errors, f"{prefix.rstrip('/')} weights", limits["train_weights"])


def _sliding(z: dict[str, Array], dtype: str, device: str, threads: int, limits: Limits) -> Iterator[Check]:
    model = Model(_config(z), device, dtype, threads=threads)
    model.load_parameters(_below(z, "param/"))
    for name in sorted(z):
        if not name.startswith("nll_seq"):
            continue
        window, stride = (int(part) for part in name.removeprefix("nll_seq").split("_stride"))
        score = evaluate(model, z["stream"], window, stride)
        what = f"window {window}, stride {stride}"
        yield Check(f"nll, {what}", relative(score.nll, z[name]), limits["sliding"])
        yield Check(f"bpb, {what}", relative(score.bpb, z[name.replace("nll", "bpb")]), limits["sliding"])


def _integers(got: dict[str, Array], want: dict[str, Array], kinds: dict[str, str]) -> Iterator[Check]:
    """Quantised integers and scales: equal, int8 rows at most 1 in 10,000 off by one."""
    missing = sorted(set(want) ^ set(got))
    yield Check("tensors stored on one side only", float(len(missing)), 0.0, ", ".join(missing[:3]))
    strict, loose, floats = {}, {}, {}
    for name in want.keys() & got.keys():
        a, b = got[name], want[name]
        if a.dtype != b.dtype or a.shape != b.shape:
            floats[f"{name}: {a.dtype}{a.shape} against {b.dtype}{b.shape}"] = float("inf")
        elif a.dtype == np.int8:
            off = np.abs(a.astype(np.int32) - b.astype(np.int32))
            if kinds.get(name.removesuffix(".q")) == "int8" and off.max(initial=0) <= 1:
                loose[name] = float(np.mean(off != 0))
            else:
                strict[name] = float(np.mean(off != 0))
        else:
            floats[name] = float(np.mean(a.reshape(-1).view(np.uint8) != b.reshape(-1).view(np.uint8)))
    for errors, what, tolerance in (
        (strict, "share of int6 values that differ", 0.0),
        (loose, "share of int8 values off by one", 1e-4),
        (floats, "share of float16 bytes that differ", 0.0),
    ):
        if errors:
            yield _worst(errors, what, tolerance)


def _quantised_mixed(z: dict[str, Array]) -> Iterator[Check]:
    stored = quantise(_below(z, "param/"), "int6_mixed")
    yield from _integers(stored, _below(z, "stored/"), json.loads(bytes(z["kinds"])))
    back, want = dequantise(_below(z, "stored/")), _below(z, "dequant/")
    yield _worst({name: relative(back[name], want[name]) for name in want}, "dequantised tensors", 1e-7)


def _quantised_byte256(z: dict[str, Array]) -> Iterator[Check]:
    want = _below(z, "pass/")
    for name, q in _below(z, "q/").items():
        want[f"{name}.q"] = q
        want[f"{name}.scale"] = z[f"scale/{name}"]
    yield from _integers(quantise(_below(z, "param/"), "int6_byte256"), want, {})


def _newton_schulz(z: dict[str, Array], dtype: str, device: str, limits: Limits) -> Iterator[Check]:
    errors = {}
    for name, want in _below(z, "exact_").items():
        matrix = z[f"G_{name}"].astype("float32" if dtype == "bfloat16" else dtype)
        errors[name] = relative(_bytegolf.newton_schulz(matrix, 5, device=device, dtype=dtype), want)
    yield _worst(errors, f"Newton-Schulz, {len(errors)} shapes", limits["newton_schulz"])


def pooled_checks(results: Iterable[list[Check]], dtype: str) -> list[Check]:
    """What is asked of all fixtures together."""
    errors = [error for checks in results for check in checks for error in check.pooled]
    if not errors:
        return []
    limit = TOLERANCES[dtype]["gradient_median"]
    return [Check(f"median of {len(errors)} gradients", float(np.median(errors)), limit)]


def main_report(paths: list[str], dtype: str, device: str, as_json: bool) -> int:
    """Prints the checks of all fixtures as a table or as JSON; 0 when all pass, 1 otherwise."""
    from bytegolf.screen import console

    dtype, device = definite(dtype, device)
    results = {path: check_fixture(path, dtype, device) for path in paths}
    if together := pooled_checks(results.values(), dtype):
        results["all together"] = together
    failed = sum(not check.passed for checks in results.values() for check in checks)
    if as_json:
        console.print_json(
            {
                "dtype": dtype,
                "device": device,
                "failed": failed,
                "fixtures": {path: [_plain(check) for check in checks] for path, checks in results.items()},
            }
        )
    else:
        _show(results, dtype, device)
    return 1 if failed else 0


def _plain(check: Check) -> dict[str, Any]:
    facts = asdict(check) | {"passed": check.passed}
    del facts["pooled"]
    return facts


def _show(results: dict[str, list[Check]], dtype: str, device: str) -> None:
    from bytegolf.screen import console

    names = ("fixture", "quantity", "worst error", "tolerance", "", "where")
    title = f"Parity with the published programs, {dtype} on {device}"
    table = console.table(*names, title=title, right=names[2:4])
    for path, checks in results.items():
        for i, check in enumerate(checks):
            verdict = console.text("ok", "green") if check.passed else console.text("MISSED", "red")
            allowed = "" if check.tolerance is None else f"{check.tolerance:.1e}"
            if check.tolerance is None and check.passed:
                verdict = console.text("shown")
            name = Path(path).stem if i == 0 else ""
            table.add_row(name, check.quantity, f"{check.error:.1e}", allowed, verdict, check.where)
        table.add_section()
    checks = [check for rows in results.values() for check in rows]
    out = console.stdout()
    out.print(table)
    out.print(f"{sum(check.passed for check in checks)} of {len(checks)} checks passed")
