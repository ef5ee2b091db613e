# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 05 · Kernels: formula, reference, speed
#
# Nearly all time of training goes into a handful of operations. For four of them this notebook gives the **formula**, writes
# it down as a few lines of NumPy (the **reference**), compares the core with it, and then measures the **speed** against what
# the machine could do.
#
# `bytegolf.kernels` has single operations of the C++ core on NumPy arrays. Training does not come this way: it stays inside the
# core. But it runs the same code.
#
# **To run it:** open this file in Jupyter with the jupytext extension, or
# `.venv/bin/jupytext --to ipynb notebooks/05_kernels.py`, or `.venv/bin/python scripts/run_notebooks.py 05`. About two minutes,
# on a quiet machine; `BYTEGOLF_NOTEBOOK_SECONDS=5` shortens the measurements.

# %%
import json
import math
import os
import subprocess
import sys
import time

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

from bytegolf import kernels

BLUE, ORANGE, GREEN, INK, FAINT = "#1f6fb4", "#d9601a", "#2a8a4a", "#222222", "#9aa0a6"
plt.rcParams.update({
    "figure.dpi": 110, "figure.constrained_layout.use": True, "font.size": 10, "axes.titlelocation": "left",
    "axes.titleweight": "bold", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#eceff1", "axes.axisbelow": True, "axes.edgecolor": FAINT,
})  # fmt: skip
SECONDS = float(os.environ.get("BYTEGOLF_NOTEBOOK_SECONDS", 60))
draw = np.random.default_rng(0)
errors = {}


def compare(name, kernel, reference, *arrays):
    """Largest error of the core beside the largest value, in float64 and float32; the reference is always float64."""
    wanted = reference(*arrays)
    for dtype in (np.float64, np.float32):
        given = [a.astype(dtype) if a.dtype.kind == "f" else a for a in arrays]
        got = kernel(*given)
        errors.setdefault(name, {})[np.dtype(dtype).name] = np.abs(got - wanted).max() / np.abs(wanted).max()
    return pd.Series(errors[name]).map("{:.1e}".format)


# %% [markdown]
# ## Root-mean-square norm
#
# Every layer reads its input scaled to unit size, row by row:
#
# $$y_i = \frac{x_i}{\sqrt{\frac1D \sum_j x_j^2 + \varepsilon}} .$$


# %%
def rms_norm(x, eps=1e-7):
    return x / np.sqrt(np.mean(x**2, axis=-1, keepdims=True) + eps)


compare("rms_norm", kernels.rms_norm, rms_norm, draw.standard_normal((64, 512)))

# %% [markdown]
# ## Attention
#
# Each position $t$ asks a question $q_t$; each position $s \le t$ offers a key $k_s$ and a value $v_s$. The answer is a mean of the
# values, weighted by how well the keys fit:
#
# $$y_t = \sum_{s \le t} p_{ts} v_s, \qquad
#   p_{ts} = \frac{e^{q_t \cdot k_s / \sqrt d}}{\sum_{r \le t} e^{q_t \cdot k_r / \sqrt d}} .$$
#
# Heads do this side by side; with *grouped keys* several query heads share one head of keys and values. The reference makes the
# whole matrix $p$, $T^2$ numbers for every head. The core never has more than a small block of it: it goes through the keys once
# and keeps a running maximum and sum.


# %%
def weights(q, k):
    """p [B, H, T, T] of q [B, T, H, d] and k [B, T, G, d]."""
    k = np.repeat(k, q.shape[2] // k.shape[2], axis=2)
    scores = np.einsum("bthd,bshd->bhts", q, k) / math.sqrt(q.shape[-1])
    T = q.shape[1]
    scores = np.where(np.tri(T, dtype=bool), scores, -np.inf)
    p = np.exp(scores - scores.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def attention(q, k, v):
    v = np.repeat(v, q.shape[2] // v.shape[2], axis=2)
    return np.einsum("bhts,bshd->bthd", weights(q, k), v)


def normals(T, heads=8, groups=4, d=64):
    return [draw.standard_normal((1, T, h, d)) for h in (heads, groups, groups)]


compare("attention", kernels.attention, attention, *normals(200))

# %% [markdown]
# The time of both grows with $T^2$, but only the reference's memory does. A window (`window=256`: the last 256 positions only)
# makes time grow with $T$.


# %%
def best(work, budget_s):
    """Seconds of the fastest of several calls."""
    work()
    spent, fastest = 0.0, math.inf
    while spent < budget_s:
        began = time.perf_counter()
        work()
        took = time.perf_counter() - began
        spent, fastest = spent + took, min(fastest, took)
    return fastest


lengths = [128, 256, 512, 1024, 2048] + [4096] * (SECONDS >= 30)
budget_s = SECONDS / 300
times = {"NumPy": [], "core": [], "core, window 256": []}
for T in lengths:
    q, k, v = (a.astype(np.float32) for a in normals(T))
    if T <= 1024:
        times["NumPy"].append(best(lambda q=q, k=k, v=v: attention(q, k, v), budget_s))
    times["core"].append(best(lambda q=q, k=k, v=v: kernels.attention(q, k, v), budget_s))
    times["core, window 256"].append(best(lambda q=q, k=k, v=v: kernels.attention(q, k, v, window=256), budget_s))

figure, axes = plt.subplots(figsize=(8, 3.8))
for (name, seconds), colour in zip(times.items(), (FAINT, BLUE, GREEN), strict=True):
    axes.plot(lengths[: len(seconds)], 1e3 * np.array(seconds), "o-", color=colour, linewidth=1.8)
    axes.annotate(
        name,
        (lengths[len(seconds) - 1], 1e3 * seconds[-1]),
        (8, 0),
        textcoords="offset points",
        color=colour,
        va="center",
    )
axes.set(
    xscale="log",
    yscale="log",
    xticks=lengths,
    xticklabels=lengths,
    title="attention forward, 8 heads of 64, float32",
    xlabel="positions T",
    ylabel="ms",
    xlim=(110, lengths[-1] * 2.6),
)
axes.minorticks_off()
axes.yaxis.set_major_formatter("{x:g}")
plt.show()

# %% [markdown]
# ## Softmax and cross-entropy
#
# Logits become nats: $\ell = \ln \sum_v e^{z_v} - z_{\text{target}}$. Taken literally the exponential overflows in float32 from 89
# on; with the maximum $m$ taken out first, $\ln \sum_v e^{z_v} = m + \ln \sum_v e^{z_v - m}$, nothing can.


# %%
def softmax_xent(z, target):
    m = z.max(axis=-1)
    return m + np.log(np.exp(z - m[:, None]).sum(axis=-1)) - z[np.arange(len(z)), target]


logits, target = 20 * draw.standard_normal((64, 260)), draw.integers(0, 260, 64)
compare("softmax_xent", kernels.softmax_xent, softmax_xent, logits, target)

# %%
with np.errstate(over="ignore"):
    literally = np.log(np.exp(np.float32([[200, 0]])).sum())
f"literally: {literally}; core: {kernels.softmax_xent(np.float32([[200, 0]]), [1])[0]}"

# %% [markdown]
# ## Newton-Schulz
#
# Muon does not step along the gradient $G = U \Sigma V^\top$ but along $U V^\top$: all singular values become one, so that no
# direction of a matrix is learnt only because its gradient is large. No decomposition is needed for that: an odd
# polynomial of a matrix acts on its singular values alone, and
#
# $$X \leftarrow a X + (b A + c A^2) X, \quad A = X X^\top, \qquad \text{so} \qquad \sigma \leftarrow a\sigma + b\sigma^3 + c\sigma^5,$$
#
# with $a, b, c = 3.4445, -4.7750, 2.0315$, five times, from $X = G / \lVert G \rVert_F$. Products of matrices only: what machines do best.


# %%
def newton_schulz(g, steps=5):
    x = g / (np.linalg.norm(g) + 1e-7)
    for _ in range(steps):
        A = x @ x.T
        x = 3.4445 * x + (-4.7750 * A + 2.0315 * A @ A) @ x
    return x


g = draw.standard_normal((128, 256)) @ np.diag(np.geomspace(1, 0.01, 256))
compare("newton_schulz", kernels.newton_schulz, newton_schulz, g)

# %% [markdown]
# The coefficients are not those of a convergent iteration. They blow small values up as fast as possible, and settle for
# "between 0.7 and 1.2" instead of 1.

# %%
shades = [ORANGE, *plt.cm.cividis([0.9, 0.7, 0.5, 0.3, 0.0])]
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8))
sigma = np.geomspace(1e-4, 1, 2000)
value = sigma
for step, shade in enumerate(shades):
    left.plot(sigma, value, color=shade, linewidth=1.5)
    rises = np.argmax(value > 0.4)
    left.annotate(
        "before" if step == 0 else f"{step}",
        (sigma[rises], value[rises]),
        (-3, 2),
        textcoords="offset points",
        color=shade,
        ha="right",
    )
    value = 3.4445 * value - 4.7750 * value**3 + 2.0315 * value**5
left.axhline(1, color=FAINT, linestyle="--", linewidth=1)
left.set(
    title="the polynomial, once to five times",
    xlabel="singular value before",
    ylabel="singular value after",
    xscale="log",
    ylim=(0, 1.3),
    xlim=(1e-4, 1),
)
left.xaxis.set_major_formatter("{x:g}")

for step, shade in enumerate(shades):
    spectrum = np.linalg.svd(kernels.newton_schulz(g, steps=step), compute_uv=False)
    right.plot(np.arange(1, len(spectrum) + 1), spectrum, color=shade, linewidth=1.6)
    label = {0: "before", 4: "", 5: "4, 5"}.get(step, f"{step}")
    right.annotate(label, (len(spectrum), spectrum[-1]), (4, 0), textcoords="offset points", color=shade, va="center")
right.set(
    title="singular values of a gradient, largest first", xlabel="number", yscale="log", xlim=(1, 145), ylim=(3e-3, 2)
)
right.yaxis.set_major_formatter("{x:g}")
plt.show()

# %% [markdown]
# ## All four, beside each other

# %%
table = pd.DataFrame(errors).T
assert (table.float64 < 1e-12).all() and (table.float32 < 1e-4).all()
table.style.format("{:.1e}").set_caption("largest error over largest value, core against NumPy in float64")

# %% [markdown]
# ## Speed: the roofline
#
# An operation needs arithmetic and it needs memory; the machine has a rate for each. One that does $I$ operations per byte
# moved can at best reach
#
# $$\text{rate} \le \min(\text{arithmetic rate},\; I \cdot \text{copying rate}) .$$
#
# `bytegolf bench` checks every operation against float64, times it, and measures both rates in the same run. Its `--json`
# is drawn here: left what is bound by arithmetic; right the rest, its bytes as a share of the rate of a plain copy. Above 100 %
# the arrays stayed in the cache; far below it exponentials, roots and sines take longer than the memory does.

# %%
ops = ["gemm", "attention", "newton_schulz", "adam", "elementwise"]
bench = subprocess.run(
    [sys.executable, "-m", "bytegolf", "bench", *ops, "--budget-s", str(SECONDS / 200), "--json"],
    capture_output=True,
    text=True,
    check=True,
)
found = json.loads(bench.stdout)
machine, rows = found["machine"], pd.DataFrame(found["rows"])
peak, copy = machine["gemm_gflops"], machine["copy_gbs"]
computing = rows[rows.arithmetic_floor_ms > 0].copy()
computing["intensity"] = computing.arithmetic_floor_ms * peak / (computing.bytes_floor_ms * copy)
moving = rows[rows.arithmetic_floor_ms == 0]

figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=[1.25, 1])
span = np.geomspace(1, 3 * computing.intensity.max(), 200)
left.plot(span, np.minimum(peak, span * copy), color=INK, linewidth=1.5)
left.annotate(f"matrix products {peak:.0f} GFLOP/s", (1.1 * peak / copy, peak), (0, 6), textcoords="offset points")
left.text(
    1.1,
    2 * copy,
    f"copying {copy:.0f} GB/s",
    rotation=math.degrees(math.atan(copy)),
    rotation_mode="anchor",
    transform_rotates_text=True,
)
marks = {"gemm": "o", "attention": "s", "newton_schulz": "^"}
for (op, marker), colour in zip(marks.items(), (FAINT, BLUE, ORANGE), strict=True):
    some = computing[computing.group == op]
    left.plot(some.intensity, some.gflops, marker, color=colour, markersize=7, alpha=0.9, label=op.replace("_", " "))
left.set(
    xscale="log",
    yscale="log",
    xlabel="operations per byte",
    ylabel="GFLOP/s, best call",
    title="bound by arithmetic",
    ylim=(min(copy, 5), peak * 2.5),
)
left.set_yticks([t for t in (5, 10, 20, 50, 100, 200, 500, 1000, 2000) if min(copy, 5) <= t <= peak * 2.5])
left.yaxis.set_major_formatter("{x:g}")
left.yaxis.minorticks_off()
left.xaxis.set_major_formatter("{x:g}")
left.legend(frameon=False, loc="lower right")

share = (100 * moving.gbs / copy).to_numpy()
names = [what if group == "elementwise" else group for group, what in zip(moving.group, moving.what, strict=True)]
bars = right.barh(names, share, color=BLUE, height=0.75)
right.bar_label(bars, [f"{v:.0f}" for v in share], padding=3, fontsize=7)
right.axvline(100, color=INK, linewidth=1.2)
right.set(title="everything else: bytes moved", xlabel="% of the copying rate", xlim=(0, share.max() * 1.12))
right.tick_params(axis="y", labelsize=7)
right.invert_yaxis()
right.grid(False, axis="y")
plt.show()

# %%
print(
    f"{machine['threads']} threads, {machine['target']}; load {machine['load']:.1f}"
    + (" - more than the cores: these figures are too low" if machine["load"] > 1.3 * machine["threads"] else "")
)

# %% [markdown]
# ## Further
#
# `bytegolf bench --device cuda` does the same on a GPU; `records/bench` keeps figures of a CPU and of an H200. The contract
# of each kernel is in its header below `csrc/kernels/`.
