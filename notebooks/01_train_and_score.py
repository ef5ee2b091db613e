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
# # 01 · Train and score in five minutes
#
# A language model of bytes gives every byte of a text a probability. An arithmetic coder turns such probabilities into a
# file, and the file has, to within a few bytes, as many bits as the model's **surprise** adds up to:
#
# $$\text{bits} = -\sum_i \log_2 p(x_i \mid x_1 \dots x_{i-1}), \qquad
#   \text{bits per byte} = \frac{\text{bits}}{\text{number of bytes}}.$$
#
# So training a model and building a compressor are one thing, and its score can be compared with zstd's and xz's. Here a small
# one is trained on the text that Python itself carries, packed into an artifact of about one megabyte, read back, and
# scored on documents that it has not seen.
#
# **To run it:** open this file in Jupyter with the jupytext extension, or make a notebook of it,
# `.venv/bin/jupytext --to ipynb notebooks/01_train_and_score.py`, or run all of them,
# `.venv/bin/python scripts/run_notebooks.py`. It needs `pip install 'bytegolf[notebooks]'`. Training takes five minutes;
# `BYTEGOLF_NOTEBOOK_SECONDS=30` in the environment makes it 30 seconds, and the result that much worse.

# %%
import math
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from IPython.display import Markdown, display

import bytegolf
from bytegolf.data import write_shards
from bytegolf.data.corpus import corpus_documents, corpus_kinds
from bytegolf.data.stats import compressor_bpb

SECONDS = float(os.environ.get("BYTEGOLF_NOTEBOOK_SECONDS", 300))
FOLDER = Path("runs/notebook-01")
FOLDER.mkdir(parents=True, exist_ok=True)

BLUE, ORANGE, GREEN, INK, FAINT = "#1f6fb4", "#d9601a", "#2a8a4a", "#222222", "#9aa0a6"
plt.rcParams.update({
    "figure.dpi": 110, "figure.constrained_layout.use": True, "font.size": 10, "axes.titlelocation": "left",
    "axes.titleweight": "bold", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#eceff1", "axes.axisbelow": True, "axes.edgecolor": FAINT,
})  # fmt: skip

# %% [markdown]
# ## Data
#
# Python carries about six megabytes of English and code: the language reference that `help()` prints, the docstrings of the
# standard library, and its sources. Whole documents of prose are held out, and no run of 12 words occurs on both sides.
# Sources are three quarters of the text but not what is scored, so only every tenth source file is read.

# %%
train, held_out = corpus_documents()
train = [d for d in train if d.kind != "sources"] + [d for d in train if d.kind == "sources"][::10]
config = bytegolf.Config.preset("demo")

for prefix, documents in (("train", train), ("val", held_out)):
    write_shards((d.text for d in documents), FOLDER / "data", config.family, prefix=prefix, overwrite=True)

pd.DataFrame(
    {
        side: {
            kind: f"{count} documents, {size / 1e3:,.0f} kB" for kind, (count, size) in corpus_kinds(documents).items()
        }
        for side, documents in (("training", train), ("held out", held_out))
    }
)

# %%
held_out_text = b"".join(d.text for d in held_out)
print(held_out_text[:600].decode())

# %% [markdown]
# ## Model
#
# A configuration is a flat table of options, each with its unit (`bytegolf config demo` prints them all). The preset `demo`
# is a transformer with U-Net skips: 4 blocks of width 192, a context of 512 bytes, 1.2 million weights.

# %%
config = config.replace(
    train_data=FOLDER / "data",
    train_budget_s=SECONDS,  # the clock decides: the learning rate falls to zero exactly there
    warmdown_iters=300 if SECONDS >= 120 else 20,
)
trainer = bytegolf.Trainer(config, FOLDER / "data")
before = trainer.model.bpb(held_out_text[:4096])
config, f"{trainer.model.num_parameters:,} weights, {before:.3f} bits per byte before training"

# %% [markdown]
# An untrained model knows nothing: about $\log_2 260 \approx 8$ bits per byte.
#
# ## Training, live
#
# `Trainer.run` calls back after every step. The picture is redrawn every few seconds; `pause()` stops the run's clock
# for that time, so that drawing and scoring cost no training time.

# %%
PROBE = held_out_text[:4096]
steps, probes = [], [(0.0, before)]
figure, (curve, rate) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=[3, 1])
view = display(figure, display_id=True)


def smooth(values, span):
    """Mean over the last `span` values."""
    sums = np.cumsum(np.insert(values, 0, 0.0))
    first = np.maximum(np.arange(1, len(values) + 1) - span, 0)
    return (sums[1:] - sums[first]) / (np.arange(1, len(values) + 1) - first)


def draw():
    seconds, bits, factor = np.array(steps).T
    curve.clear()
    curve.plot(seconds, bits, color=BLUE, alpha=0.25, linewidth=0.8)
    curve.plot(seconds, smooth(bits, 20), color=BLUE, linewidth=1.8)
    at, score = np.array(probes).T
    curve.plot(at, score, "o-", color=ORANGE, markersize=4, linewidth=1.2)
    last = smooth(bits, 20)[-1]
    up, down = ("bottom", "top") if score[-1] < last else ("top", "bottom")
    curve.annotate(
        f"training text {last:.2f}",
        (seconds[-1], last),
        (6, 5 if up == "bottom" else -5),
        textcoords="offset points",
        color=BLUE,
        va=up,
    )
    curve.annotate(
        f"held-out text {score[-1]:.2f}",
        (at[-1], score[-1]),
        (6, 5 if down == "bottom" else -5),
        textcoords="offset points",
        color=ORANGE,
        va=down,
    )
    curve.set(
        xlim=(0, SECONDS * 1.25),
        ylim=(min(1.5, bits.min() - 0.1), 8.2),
        title="bits per byte",
        xlabel="seconds of training",
    )
    rate.clear()
    rate.fill_between(seconds, factor, color=GREEN, alpha=0.2)
    rate.plot(seconds, factor, color=GREEN, linewidth=1.5)
    rate.set(xlim=(0, SECONDS), ylim=(0, 1.1), title="step size, share of peak", xlabel="seconds of training")
    view.update(figure)


def watch(step):
    steps.append((step.elapsed_s, step.ce / math.log(2), step.lr_factor))
    if step.elapsed_s - probes[-1][0] >= SECONDS / 20:
        trainer.pause()
        probes.append((step.elapsed_s, trainer.model.bpb(PROBE, stride=config.seq_len)))
        draw()


trainer.run(watch)
probes.append((trainer.seconds, trainer.model.bpb(PROBE, stride=config.seq_len)))
draw()
plt.close(figure)
f"{trainer.steps_done} steps, {trainer.bytes / 1e6:.2f} MB read in {trainer.seconds:.1f} s of a budget of {SECONDS:.0f} s"

# %% [markdown]
# ## Packing
#
# `pack` takes the running average of the weights (EMA), rounds the large matrices to 6 bits with one scale a row and the rest to
# float16, and codes both by what it learns of their distribution ([03](03_where_the_bytes_go.py) looks into that). What the file does not hold is lost; everything after this line uses the model
# **read back from disk**.

# %%
artifact = FOLDER / "model.bg"
size = bytegolf.pack(trainer, artifact)
model = bytegolf.load(artifact)
f"{artifact}: {size:,} bytes, {8 * size / model.num_parameters:.2f} bits per weight"

# %% [markdown]
# ## Scoring
#
# Every byte is scored once. *Whole chunks* cut the text into pieces of 512 bytes, so that the first byte of each is guessed
# from nothing; *sliding windows* of the same length move on by 128 bytes, so that every byte has at least 384 before
# it: slower, and closer to what the model can do. The compressors get the same text alone. They are not told what Python's
# documentation looks like, and the bytes of the model are not in its score: a comparison of how well the text is known, not
# of files.

# %%
text = held_out_text if SECONDS >= 60 else held_out_text[:6000]


def scored(parameters=None, stride=None):
    """Bits per byte of `text` with these parameters, or with the artifact's."""
    judge = model
    if parameters is not None:
        judge = bytegolf.Model(config)
        judge.load_parameters(parameters)
    return judge.bpb(text, stride=stride)


chunk = config.seq_len
rivals = compressor_bpb(text)
scores = {
    "zlib -9": rivals["zlib -9"],
    "zstd -19": rivals.get("zstd -19", math.nan),
    "xz -9e": rivals["xz -9e"],
    "last weights, whole chunks": scored(trainer.model.parameters(), chunk),
    "average of weights, whole chunks": scored(trainer.ema, chunk),
    "artifact, whole chunks": scored(stride=chunk),
    "artifact, sliding windows": scored(stride=config.eval_stride),
}

figure, axes = plt.subplots(figsize=(8.5, 3.2))
names, values = list(scores), list(scores.values())
colours = [FAINT] * 3 + ["#8fb8da"] * 2 + [BLUE] * 2
bars = axes.barh(names, values, color=colours)
axes.bar_label(bars, [f"{value:.4f}" for value in values], padding=4, color=INK)
axes.set(
    title=f"{len(text) / 1e3:,.0f} kB of held-out documentation, lower is better",
    xlabel="bits per byte",
    xlim=(0, max(values) * 1.12),
)
axes.invert_yaxis()
axes.grid(False, axis="y")
plt.show()

# %% [markdown]
# From the average of the weights to the artifact, both in whole chunks: that is what rounding costs, a hundredth of a bit more or
# less.
#
# ## What it says
#
# A model of the next byte is also a writer: draw a byte, append it, repeat. Temperature below 1 makes the likely likelier.

# %%
for temperature in (0.5, 0.8, 1.0):
    said = model.generate(b"The function ", 240, temperature=temperature, seed=1)
    body = said.decode("utf-8", errors="replace").replace("\n", "\n    ")
    display(Markdown(f"**temperature {temperature}**\n\n    The function {body}"))

# %% [markdown]
# ## Further
#
# - `bytegolf train`, `eval` and `generate` do all this from the command line, with checkpoints and a report.
# - [02](02_what_is_surprising.py) asks what the artifact finds surprising, [03](03_where_the_bytes_go.py) where its bytes go.
