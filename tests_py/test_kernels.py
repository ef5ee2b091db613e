"""bytegolf.kernels: single operations of the core against NumPy, by the formulas of their papers."""

import math

import numpy as np
import pytest

from bytegolf import kernels
from bytegolf.device import why_no_gpu

draw = np.random.default_rng(5)
gpu = pytest.param("cuda", marks=pytest.mark.skipif(bool(why_no_gpu()), reason=f"needs a GPU: {why_no_gpu()}"))
devices = pytest.mark.parametrize("device", ["cpu", gpu])


def close(got, wanted, dtype):
    assert got.dtype == dtype
    bound = 1e-12 if dtype == np.float64 else 2e-5
    assert np.abs(got - wanted).max() <= bound * np.abs(wanted).max()


def rms(x, scale, eps):
    return scale * x / np.sqrt((x**2).mean(-1, keepdims=True) + eps)


def attend(q, k, v, window):
    """Softmax attention by loops, one position at a time."""
    B, T, H, d = q.shape
    y = np.zeros_like(q)
    for b in range(B):
        for h in range(H):
            g = h // (H // k.shape[2])
            for t in range(T):
                first = max(0, t - window + 1) if window else 0
                p = np.exp([q[b, t, h] @ k[b, s, g] / math.sqrt(d) for s in range(first, t + 1)])
                y[b, t, h] = p @ v[b, first : t + 1, g] / p.sum()
    return y


@devices
def test_each_kernel_agrees_with_its_formula_on_every_device(device):
    """In float32, which all devices know."""
    x = draw.standard_normal((6, 40))
    q, k = draw.standard_normal((2, 9, 4, 8)), draw.standard_normal((2, 9, 2, 8))
    v, z, target = draw.standard_normal(k.shape), 9 * draw.standard_normal((6, 260)), draw.integers(0, 260, 6)
    single = [a.astype(np.float32) for a in (x, q, k, v, z)]
    how = {"device": device, "dtype": "float32"}
    close(kernels.rms_norm(single[0], **how), rms(x, 1, 1e-7), np.float32)
    close(kernels.attention(*single[1:4], **how), attend(q, k, v, 0), np.float32)
    nats = np.log(np.exp(z).sum(-1)) - z[np.arange(6), target]
    got = kernels.softmax_xent(single[4], target, **how)
    assert got.dtype == np.float64 and np.allclose(got, nats, rtol=1e-5)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("shape", [(40,), (6, 40), (2, 3, 40), (0, 40)])
def test_rms_norm_scales_the_last_dimension(dtype, shape):
    x = draw.standard_normal(shape)
    got = kernels.rms_norm(x.astype(dtype), scale=0.5, eps=0.1)
    assert got.shape == shape
    if x.size:
        close(got, rms(x, 0.5, 0.1), dtype)


@pytest.mark.parametrize("window", [0, 1, 3, 50])
def test_attention_sees_the_last_positions_of_its_own_group(window):
    q, k, v = (
        draw.standard_normal((1, 11, 6, 4)),
        draw.standard_normal((1, 11, 3, 4)),
        draw.standard_normal((1, 11, 3, 4)),
    )
    close(kernels.attention(q, k, v, window), attend(q, k, v, window), np.float64)


def test_attention_takes_arrays_in_any_memory_order():
    q, k, v = (draw.standard_normal((2, 4, 7, 8)).swapaxes(1, 2) for _ in range(3))
    close(kernels.attention(q, k, v), attend(q, k, v, 0), np.float64)


def test_cross_entropy_of_known_logits_is_known():
    # By hand: uniform logits over V cost ln V; a lead of 200 costs nothing or 200; -1 is not scored.
    assert kernels.softmax_xent(np.zeros((2, 7)), [0, 6]) == pytest.approx([math.log(7)] * 2)
    assert kernels.softmax_xent(np.array([[200.0, 0]] * 3), [0, 1, -1]) == pytest.approx([0, 200, 0])


def test_newton_schulz_moves_singular_values_by_the_polynomial():
    u, _, vt = np.linalg.svd(draw.standard_normal((6, 9)), full_matrices=False)
    sigma = np.array([3.0, 2, 1, 0.5, 0.1, 0.01])
    value = sigma / np.linalg.norm(sigma)
    for _ in range(5):
        value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
    for transpose in (False, True):
        wanted = (u * value) @ vt
        given = (u * sigma) @ vt
        got = kernels.newton_schulz(given.T if transpose else given)
        assert np.allclose(got, wanted.T if transpose else wanted, atol=1e-5)  # 1e-7 is added to the norm


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: kernels.rms_norm(np.arange(4)), "float32 or float64"),
        (lambda: kernels.rms_norm(np.array(1.0)), "dimension"),
        (lambda: kernels.attention(np.zeros((1, 2, 3, 4)), np.zeros((1, 2, 2, 4)), np.zeros((1, 2, 2, 4))), "multiple"),
        (lambda: kernels.attention(np.zeros((1, 2, 2, 4)), np.zeros((1, 3, 2, 4)), np.zeros((1, 3, 2, 4))), "shape"),
        (lambda: kernels.attention(np.zeros((2, 4)), np.zeros((2, 4)), np.zeros((2, 4))), "dimensions"),
        (lambda: kernels.attention(*(np.zeros((1, 2, 2, 4), t) for t in ("f4", "f8", "f8"))), "one type"),
        (lambda: kernels.attention(*[np.zeros((1, 2, 2, 4))] * 3, window=-1), "window"),
        (lambda: kernels.softmax_xent(np.zeros((2, 3)), [0, 3]), "target 1 is 3"),
        (lambda: kernels.softmax_xent(np.zeros((2, 3)), [0]), "targets"),
        (lambda: kernels.softmax_xent(np.zeros((2, 3)), [0.0, 1.0]), "integers"),
        (lambda: kernels.newton_schulz(np.zeros(3)), "matrix"),
        (lambda: kernels.rms_norm(np.zeros((2, 3)), dtype="bfloat16"), "bfloat16"),
        (lambda: kernels.rms_norm(np.zeros((2, 3)), device="tpu"), "tpu"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
