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
# # 03 · Where the artifact's bytes go
#
# Of a submission two things count, together at most 16,000,000 bytes: the code and the **artifact**, the file that holds the
# weights. How do a million 32-bit numbers become a megabyte, and what takes the room?
#
# 1. *Quantise.* Every row of a large matrix gets one scale $s = \max(\max_i |w_i|,\, 1) / 31$ (as float16), and its weights become
#    integers $q = \mathrm{round}(w / s) \in \{-32, \dots, 31\}$: six bits at most. Large tables get eight bits; what has at most 65,536
#    elements stays float16.
# 2. *Code.* The integers are not equally frequent. A coder that knows their frequencies needs
#    $H = -\sum_v p_v \log_2 p_v$ bits each (the entropy, **order 0**), and one that also learns which rows and columns
#    are large, less.
#
# **To run it:** open this file in Jupyter with the jupytext extension, or
# `.venv/bin/jupytext --to ipynb notebooks/03_where_the_bytes_go.py`, or `.venv/bin/python scripts/run_notebooks.py 03`.
# A model of three blocks, wide enough for six bits, is trained for three minutes (`BYTEGOLF_NOTEBOOK_SECONDS` changes that).

# %%
import os
import re
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import bytegolf
from bytegolf.bundle.meter import LIMIT_BYTES
from bytegolf.bundle.script import own_script
from bytegolf.data import write_shards
from bytegolf.data.corpus import corpus_documents
from bytegolf.inspect import inspect_artifact

BLUE, ORANGE, GREEN, INK, FAINT = "#1f6fb4", "#d9601a", "#2a8a4a", "#222222", "#9aa0a6"
plt.rcParams.update({
    "figure.dpi": 110, "figure.constrained_layout.use": True, "font.size": 10, "axes.titlelocation": "left",
    "axes.titleweight": "bold", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#eceff1", "axes.axisbelow": True, "axes.edgecolor": FAINT,
})  # fmt: skip
SECONDS = float(os.environ.get("BYTEGOLF_NOTEBOOK_SECONDS", 180))
FOLDER = Path("runs/notebook-03")
FOLDER.mkdir(parents=True, exist_ok=True)

# %%
config = bytegolf.Config.preset(
    "demo",
    num_layers=3,
    model_dim=320,
    num_heads=5,
    num_kv_heads=5,
    train_budget_s=SECONDS,
    warmdown_iters=100 if SECONDS >= 60 else 10,
)
write_shards((d.text for d in corpus_documents(sources=False)[0]), FOLDER / "data", overwrite=True)
trainer = bytegolf.Trainer(config, FOLDER / "data")
trainer.run()
artifact = FOLDER / "model.bg"
bytegolf.pack(trainer, artifact)
model = bytegolf.load(artifact)

# %% [markdown]
# ## Every byte, accounted for
#
# `inspect_artifact` (on the command line `bytegolf inspect`) reads the whole file and says what each tensor takes. The parts add
# up to the file, to the byte.

# %%
found = inspect_artifact(artifact)
tensors = pd.DataFrame(found["tensors"])
assert tensors.stored_bytes.sum() + found["model_bytes"] + found["frame_bytes"] == found["file_bytes"]


names = set(tensors.name)


def part(name):
    """Which part of the model a tensor belongs to."""
    if name.removesuffix(".scale") + ".q" in names:
        return "row scales"
    if "attn" in name:
        return "attention"
    if "mlp" in name:
        return "MLP"
    if "jepa" in name:
        return "JEPA"
    if name.startswith(("tok_emb", "bigram")):
        return "embeddings"
    return "vectors and scalars"


tensors["part"] = tensors.name.map(part)
parts = tensors.groupby("part").stored_bytes.sum()
parts["tables of the coder"] = found["model_bytes"]
parts["header, index, options"] = found["frame_bytes"]
parts = parts.sort_values()

figure, axes = plt.subplots(figsize=(9, 3.2))
bars = axes.barh(parts.index, parts / 1e3, color=BLUE)
axes.bar_label(bars, [f"{v / 1e3:,.1f} kB, {100 * v / found['file_bytes']:.1f} %" for v in parts], padding=4)
axes.set(
    title=f"{found['file_bytes']:,} bytes for {found['weights']:,} weights: {found['bits_per_weight']:.2f} bits each",
    xlabel="kB of the artifact",
    xlim=(0, parts.max() / 1e3 * 1.25),
)
axes.grid(False, axis="y")
plt.show()

# %% [markdown]
# ## Layer by layer
#
# Bits per weight of each matrix. The dashed line is a matrix of normal numbers of standard deviation 1, whose largest weight sets
# the step. Trained weights are much smaller than that, and a step is never below 1/31: most of them become integers near zero, which
# are cheap. The output matrices (`proj`) start at zero and are the cheapest.

# %%
matrices = tensors[tensors.name.str.match(r"blocks\.\d+\..*\.q$")].copy()
matrices["layer"] = matrices.name.str.extract(r"blocks\.(\d+)\.").astype(int)
matrices["kind"] = matrices.name.str.replace(r"blocks\.\d+\.|\.weight\.q$", "", regex=True)
grid = matrices.pivot(index="kind", columns="layer", values="bits_per_weight")

draw = np.random.default_rng(0)
normal = FOLDER / "normal.bg"
bytegolf.pack_tensors(bytegolf.quantise({"blocks.0.w": draw.standard_normal((512, 512))}, "int6_mixed"), normal)
by_chance = next(t["bits_per_weight"] for t in inspect_artifact(normal)["tensors"] if t["name"].endswith(".q"))

figure, axes = plt.subplots(figsize=(8.5, 3.6))
places = np.arange(len(grid.columns))
colours = dict(zip(grid.index, plt.cm.cividis(np.linspace(0.05, 0.95, len(grid))), strict=True))
for number, (name, row) in enumerate(grid.iterrows()):
    width = 0.8 / len(grid)
    axes.bar(places + (number - (len(grid) - 1) / 2) * width, row, width * 0.92, color=colours[name], label=name)
axes.axhline(by_chance, color=ORANGE, linestyle="--")
axes.annotate(
    f"normal numbers {by_chance:.2f}",
    (places[-1] + 0.42, by_chance),
    (0, 3),
    textcoords="offset points",
    color=ORANGE,
    ha="right",
)
axes.set(
    title="bits per weight of each matrix",
    xlabel="block",
    ylabel="bits",
    xticks=places,
    xticklabels=grid.columns,
    ylim=(0, 6.2),
)
axes.grid(False, axis="x")
axes.legend(frameon=False, ncols=len(grid), loc="upper center", bbox_to_anchor=(0.5, -0.17), fontsize=9)
plt.show()

# %% [markdown]
# ## What the integers look like
#
# All six-bit values together. Plain six-bit packing would spend 6 bits on each; their entropy says what a coder that knows
# this histogram needs; the file has fewer still.

# %%
stored = bytegolf.unpack_tensors(artifact)
values = np.concatenate([stored[name].ravel() for name in matrices.name])
count = np.bincount(values.astype(int) + 32, minlength=64)[:64]


def entropy(counts):
    """Bits per value, order 0."""
    p = counts[counts > 0] / counts.sum()
    return float(-(p * np.log2(p)).sum())


spent = 8 * matrices.stored_bytes.sum() / matrices.elements.sum()
figure, axes = plt.subplots(figsize=(9, 3.4))
axes.bar(np.arange(-32, 32), 100 * count / count.sum(), width=0.85, color=BLUE)
axes.set(title=f"{len(values):,} six-bit weights", xlabel="integer", ylabel="% of the weights", xlim=(-33, 32))
rows = {"six bits, packed": 6, "entropy, order 0": entropy(count), "in the file": spent}
text = "\n".join(f"{name:<18}{bits:.2f} bits each" for name, bits in rows.items())
axes.text(0.98, 0.95, text, transform=axes.transAxes, ha="right", va="top", family="monospace", color=INK)
plt.show()

# %% [markdown]
# Matrix by matrix: below the diagonal the coder does better than its matrix's own histogram, because it knows more than the
# histogram. Rows share one scale, but columns have sizes of their own, and those can be learnt while decoding.

# %%
own = np.array([entropy(np.bincount(stored[name].ravel().astype(int) + 128)) for name in matrices.name])
figure, axes = plt.subplots(figsize=(5.2, 4.6))
low, high = min(own.min(), matrices.bits_per_weight.min()) - 0.1, max(own.max(), matrices.bits_per_weight.max()) + 0.1
axes.plot([low, high], [low, high], color=FAINT, linestyle="--", linewidth=1)
for (name, rows), marker in zip(matrices.assign(own=own).groupby("kind"), "osD^vP*X<>", strict=False):
    axes.plot(
        rows.own,
        rows.bits_per_weight,
        marker,
        color=colours[name],
        markeredgecolor=INK,
        markeredgewidth=0.4,
        label=name,
        markersize=7,
    )
axes.set(
    title="each matrix: entropy and file",
    xlabel="bits each, entropy of its values",
    ylabel="bits each, in the file",
    xlim=(low, high),
    ylim=(low, high),
    aspect="equal",
)
axes.legend(frameon=False, fontsize=8)
saved = 100 * (1 - matrices.stored_bytes.sum() * 8 / (own * matrices.elements).sum())
axes.text(
    0.97,
    0.04,
    f"{saved:.1f} % below the entropies" if saved >= 0 else f"{-saved:.1f} % above the entropies",
    transform=axes.transAxes,
    ha="right",
    color=INK,
)
plt.show()

# %% [markdown]
# ## What rounding costs
#
# Rounding moves a weight by at most half a step, $|w - s q| \le s/2$, and by $s / \sqrt{12}$ on average where weights are spread over
# many steps. Where most of them lie within half a step of zero, the error is the weight itself. The same in bits per byte is a
# question to the score: notebook 01 asks it.

# %%
before, after = trainer.ema, bytegolf.dequantise(stored)
rows = {}
for name in matrices.name:
    weight = name.removesuffix(".q")
    w, error = before[weight].astype(float), after[weight].astype(float) - before[weight]
    step = stored[weight + ".scale"].astype(float)
    assert (np.abs(error) <= 0.5001 * step[:, None]).all()
    size = np.sqrt(np.mean(w**2))
    if size > 0:
        rows[re.sub(r"^blocks\.|\.weight$", "", weight)] = (
            size,
            np.sqrt(np.mean(step**2) / 12),
            np.sqrt(np.mean(error**2)),
        )
pd.DataFrame(rows, index=["size of the weights", "step / √12", "size of the error"]).T.style.format("{:.4f}")

# %% [markdown]
# ## The meter
#
# Code counts as it is on the disk: one `train_gpt.py` that carries all sources, compressed. The artifact of this small
# model leaves most of the room empty; at its bits per weight the limit would hold the number of weights in the title.

# %%
code = len(own_script(model.config) or b"")  # empty where bytegolf was installed without its sources
size = found["file_bytes"]
room = 8 * (LIMIT_BYTES - code) / found["bits_per_weight"]

figure, axes = plt.subplots(figsize=(9, 1.9))
axes.barh([0], [LIMIT_BYTES / 1e6], color="#eceff1", height=0.5)
axes.barh([0], [code / 1e6], color=ORANGE, height=0.5)
axes.barh([0], [size / 1e6], left=code / 1e6, color=BLUE, height=0.5)
axes.axvline(LIMIT_BYTES / 1e6, color=INK, linewidth=1.5)
axes.annotate(f"code {code:,}", (code / 2e6, 0.27), (0, 4), textcoords="offset points", color=ORANGE)
axes.annotate(
    f"artifact {size:,}", ((code + size) / 1e6, 0), (6, 0), textcoords="offset points", color=BLUE, va="center"
)
axes.annotate(f"limit {LIMIT_BYTES:,}", (LIMIT_BYTES / 1e6, 0.27), (-4, 4), textcoords="offset points", ha="right")
axes.set(
    title=f"{LIMIT_BYTES - code - size:,} bytes left: {room / 1e6:.1f} million weights would fit",
    xlabel="MB (decimal)",
    yticks=[],
    xlim=(0, 16.4),
    ylim=(-0.35, 0.6),
)
axes.grid(False)
axes.spines["left"].set_visible(False)
plt.show()
