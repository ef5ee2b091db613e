"""Single kernels of the core on NumPy arrays: to compare with a formula, to time, to teach. Training does not come this way.

Arrays are float32 or float64 in any memory order and keep their type. device: cpu, cuda or auto; dtype: what is computed in
there, auto for the array's own on the CPU and bfloat16 on CUDA. Each call copies its arrays to the device and back. threads:
0 means one per core; the result has the same bits at any number. ValueError for shapes that do not fit and a device or
dtype that cannot be used.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from bytegolf import _bytegolf
from bytegolf.device import resolve
from bytegolf.ids import as_ids

__all__ = ["attention", "newton_schulz", "rms_norm", "softmax_xent"]

Array = npt.NDArray[Any]


def rms_norm(
    x: Array, scale: float = 1.0, eps: float = 1e-7, *, device: str = "cpu", dtype: str = "auto", threads: int = 0
) -> Array:
    """scale * x / sqrt(mean(x^2) + eps) along the last dimension of x [..., D]."""
    x = _floats(x, "x")
    if x.ndim == 0:
        raise ValueError("x must have at least one dimension")
    rows = x.reshape(-1, x.shape[-1]) if x.size else np.zeros((0, x.shape[-1]), x.dtype)
    return _bytegolf.rms_norm(rows, scale, eps, threads, *_where(x, device, dtype)).reshape(x.shape)


def attention(
    q: Array, k: Array, v: Array, window: int = 0, *, device: str = "cpu", dtype: str = "auto", threads: int = 0
) -> Array:
    """Causal softmax attention: q [B,T,H,d], k and v [B,T,G,d], H a multiple of G -> [B,T,H,d].

    y[b,t,h] = sum_s p[s] v[b,s,g], p = softmax over s <= t of q[b,t,h] . k[b,s,g] / sqrt(d), g = h // (H // G). With a
    window s is also above t - window. All three of one type.
    """
    q, k, v = _floats(q, "q"), _floats(k, "k"), _floats(v, "v")
    if not q.dtype == k.dtype == v.dtype:
        raise ValueError(f"q, k and v must be of one type, got {q.dtype}, {k.dtype} and {v.dtype}")
    return _bytegolf.attention(q, k, v, window, threads, *_where(q, device, dtype))


def softmax_xent(
    logits: Array, targets: npt.ArrayLike, *, device: str = "cpu", dtype: str = "auto", threads: int = 0
) -> npt.NDArray[np.float64]:
    """Nats of each target: ln sum_v exp(logits[n,v]) - logits[n,targets[n]], float64 [N]; 0 where the target is -1."""
    logits = _floats(logits, "logits")
    return _bytegolf.softmax_xent(logits, as_ids(targets, 1, "targets"), threads, *_where(logits, device, dtype))


def newton_schulz(g: Array, steps: int = 5, *, device: str = "cpu", dtype: str = "auto", threads: int = 0) -> Array:
    """The matrix that Muon steps along: g [rows, cols] with its singular values drawn towards 1.

    X = g / |g|, then `steps` times X <- a X + (b A + c A A) X with A = X X^T and the published (a, b, c) = (3.4445, -4.7750,
    2.0315); a matrix with more rows than columns goes through transposed.
    """
    g = _floats(g, "g")
    return _bytegolf.newton_schulz(g, steps, threads, *_where(g, device, dtype))


def _floats(values: Array, what: str) -> Array:
    array = np.asarray(values)
    if array.dtype not in (np.float32, np.float64):
        raise ValueError(f"{what} must be float32 or float64, got {array.dtype}")
    return np.asarray(array, order="C")


def _where(array: Array, device: str, dtype: str) -> tuple[str, str]:
    """(device, dtype) for the core, where "" is the array's own type."""
    device, usual = resolve(device, dtype)
    return device, "" if dtype == "auto" and device == "cpu" else usual
