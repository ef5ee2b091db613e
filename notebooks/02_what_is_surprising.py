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
# # 02 · What the model finds surprising
#
# A score is one number. It sums up one number for each byte: its **surprise**, the nats (or bits) that it costs given
# all bytes before it,
#
# $$s_i = -\ln p(x_i \mid x_1 \dots x_{i-1}) \ \text{nats}, \qquad
#   \text{bits per byte} = \frac{1}{N \ln 2} \sum_{i=1}^{N} s_i .$$
#
# `model.surprise(data)` returns them, `bytegolf.show(data, nats)` colours the text by them. Where does a small model pay?
#
# **To run it:** open this file in Jupyter with the jupytext extension, or
# `.venv/bin/jupytext --to ipynb notebooks/02_what_is_surprising.py`, or `.venv/bin/python scripts/run_notebooks.py 01 02`.
# It takes the model of notebook 01 where that has run in the same folder, and else trains one for two minutes
# (`BYTEGOLF_NOTEBOOK_SECONDS` changes that).

# %%
import math
import os
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd

import bytegolf
from bytegolf.data import write_shards
from bytegolf.data.corpus import corpus_documents

BLUE, ORANGE, GREEN, INK, FAINT = "#1f6fb4", "#d9601a", "#2a8a4a", "#222222", "#9aa0a6"
plt.rcParams.update({
    "figure.dpi": 110, "figure.constrained_layout.use": True, "font.size": 10, "axes.titlelocation": "left",
    "axes.titleweight": "bold", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#eceff1", "axes.axisbelow": True, "axes.edgecolor": FAINT,
})  # fmt: skip
SECONDS = float(os.environ.get("BYTEGOLF_NOTEBOOK_SECONDS", 120))

# %%
train, held_out = corpus_documents(sources=False)
artifact = Path("runs/notebook-01/model.bg")
if not artifact.exists():
    artifact = Path("runs/notebook-02/model.bg")
    write_shards((d.text for d in train), artifact.parent, "byte260", overwrite=True)
    config = bytegolf.Config.preset("demo", train_budget_s=SECONDS, warmdown_iters=300 if SECONDS >= 120 else 20)
    trainer = bytegolf.Trainer(config, artifact.parent)
    trainer.run()
    bytegolf.pack(trainer, artifact)
model = bytegolf.load(artifact)

# Some documents from the middle: prose that the model has not read.
text = b"".join(d.text for d in held_out[3:])[: 40_000 if SECONDS >= 60 else 4_000]
nats = model.surprise(text, stride=128)
bits = nats / math.log(2)

assert math.isclose(bits.mean(), model.bpb(text, stride=128))  # nothing but the score, taken apart
f"{artifact}: {len(text):,} bytes, {bits.mean():.4f} bits per byte"

# %% [markdown]
# ## The text itself
#
# Uncoloured is what the model expected, strongly coloured what it did not; point at a character to see its bits. The first letters
# of words are dear, their ends cheap: once a word is recognised, the rest is nearly free.

# %%
bytegolf.show(text[:2400], nats[:2400], title="held-out documentation")

# %% [markdown]
# ## Few bytes carry most of the bits
#
# Sort the bytes by what they cost. If all cost the same, the curve on the right would be the diagonal.

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.6), width_ratios=[1.3, 1])
left.hist(bits, bins=np.arange(0, 20.5, 0.5), color=BLUE, weights=np.full(len(bits), 100 / len(bits)))
left.axvline(bits.mean(), color=ORANGE)
left.annotate(
    f"mean {bits.mean():.2f}",
    (bits.mean(), 1),
    (5, -3),
    xycoords=("data", "axes fraction"),
    textcoords="offset points",
    color=ORANGE,
    va="top",
)
left.axvline(np.median(bits), color=GREEN)
left.annotate(
    f"median {np.median(bits):.2f}",
    (np.median(bits), 0.85),
    (5, -3),
    bbox={"color": "white", "pad": 1},
    xycoords=("data", "axes fraction"),
    textcoords="offset points",
    color=GREEN,
    va="top",
)
left.set(title="surprise of single bytes", xlabel="bits", ylabel="% of the bytes")

dearest = np.sort(bits)[::-1]
share_bytes = 100 * np.arange(1, len(bits) + 1) / len(bits)
share_bits = 100 * np.cumsum(dearest) / bits.sum()
right.plot(share_bytes, share_bits, color=BLUE, linewidth=2)
right.plot([0, 100], [0, 100], color=FAINT, linestyle="--", linewidth=1)
tenth, quarter = np.interp([10, 25], share_bytes, share_bits)
right.plot([10, 25], [tenth, quarter], "o", color=ORANGE)
right.annotate(
    f"10 % of the bytes\ncost {tenth:.0f} % of the bits",
    (10, tenth),
    (12, -14),
    textcoords="offset points",
    color=ORANGE,
)
right.annotate(f"25 %: {quarter:.0f} %", (25, quarter), (10, -12), textcoords="offset points", color=ORANGE)
right.set(
    title="the dearest bytes first", xlabel="% of the bytes", ylabel="% of the bits", xlim=(0, 100), ylim=(0, 102)
)
plt.show()

# %% [markdown]
# ## By kind of character
#
# What is dear for a single byte need not matter for the whole: a class weighs by its price **times** its number.


# %%
def kind(byte):
    c = chr(byte)
    if byte >= 128:
        return "beyond ASCII"
    if c == "\n":
        return "newline"
    if c == " ":
        return "space"
    if c.islower():
        return "lower-case letter"
    if c.isupper():
        return "capital letter"
    if c.isdigit():
        return "digit"
    return "punctuation" if c.isprintable() else "control character"


table = pd.DataFrame({"kind": [kind(b) for b in text], "bits": bits})
kinds = table.groupby("kind").bits.agg(["size", "mean", "sum"])
kinds["% of bytes"] = 100 * kinds["size"] / len(text)
kinds["% of bits"] = 100 * kinds["sum"] / bits.sum()
kinds = kinds.sort_values("mean")

figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.2), sharey=True)
bars = left.barh(kinds.index, kinds["mean"], color=BLUE)
left.bar_label(bars, [f"{m:.2f}" for m in kinds["mean"]], padding=3)
left.set(title="price: bits of one such byte", xlabel="bits", xlim=(0, kinds["mean"].max() * 1.15))
y = np.arange(len(kinds))
for offset, column, colour in ((0.2, "% of bytes", FAINT), (-0.2, "% of bits", ORANGE)):
    bars = right.barh(y + offset, kinds[column], height=0.38, color=colour)
    right.bar_label(bars, [f"{v:.1f} {column}" for v in kinds[column]], padding=3, color=colour, fontsize=8)
right.set(
    title="weight: share of the whole", xlabel="%", xlim=(0, kinds[["% of bytes", "% of bits"]].max().max() * 1.35)
)
for axes in (left, right):
    axes.grid(False, axis="y")
plt.show()

# %% [markdown]
# ## By place in the word, and in the line
#
# Letters of a word are numbered from 1. The first is by far the dearest; then it becomes clear which word it is. (Only longer words
# have a fifth letter. They are rarer, and dearer.) Along a line the first columns stand out (what comes next: an indent, a list, a
# new sentence?), and the last ones, in text that is broken by hand: a newline may come after any word.

# %%
word_place, column = np.zeros(len(text), int), np.zeros(len(text), int)
for i, byte in enumerate(text):
    word_place[i] = word_place[i - 1] + 1 if i and chr(byte).isalpha() else int(chr(byte).isalpha())
    column[i] = column[i - 1] + 1 if i and text[i - 1] != 10 else 0


def means(place, top):
    """(places 0 .. top - 1 that occur 20 times or more, their mean bits, the standard errors of these)."""
    groups = {p: bits[place == p] for p in range(top) if np.count_nonzero(place == p) >= 20}
    spread = [g.std(ddof=1) / math.sqrt(len(g)) for g in groups.values()]
    return np.array(list(groups)), np.array([g.mean() for g in groups.values()]), np.array(spread)


figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.4), width_ratios=[1, 1.6], sharey=True)
place, mean, error = (part[1:] for part in means(word_place, 13))
left.errorbar(place, mean, error, fmt="o-", color=BLUE, ecolor="#8fb8da", elinewidth=4, markersize=5)
left.annotate("first letter", (1, mean[0]), (10, -2), textcoords="offset points", color=BLUE)
left.set(
    title="by place in the word",
    xlabel="letter of the word",
    ylabel="bits (mean, with its standard error)",
    xticks=[1, 3, 5, 7, 9, 11],
)
left.set_ylim(bottom=0)
place, mean, error = means(column, 79)
right.fill_between(place, mean - error, mean + error, color="#8fb8da", alpha=0.6, linewidth=0)
right.plot(place, mean, color=BLUE, linewidth=1.2)
right.axhline(bits.mean(), color=FAINT, linestyle="--", linewidth=1)
right.annotate("all", (place[-1], bits.mean()), (4, -3), textcoords="offset points", color=FAINT)
right.set(title="by place in the line", xlabel="column")
plt.show()

# %% [markdown]
# ## What costs most
#
# Summed over the text, by byte; and the single dearest moments, each with what stood before it.

# %%
by_byte = table.assign(byte=list(text)).groupby("byte").bits.agg(["size", "mean", "sum"]).nlargest(12, "sum")
by_byte.index = [repr(chr(b)) for b in by_byte.index]
by_byte["sum"] = 100 * by_byte["sum"] / bits.sum()
by_byte.columns = ["how often", "bits each", "% of all bits"]
by_byte.style.format({"bits each": "{:.2f}", "% of all bits": "{:.1f}"})

# %%
dear = np.argsort(bits)[::-1][:12]
pd.DataFrame(
    {
        "after": [repr(text[max(i - 44, 0) : i].decode(errors="replace"))[1:-1] for i in dear],
        "came": [repr(chr(text[i])) for i in dear],
        "bits": [f"{bits[i]:.1f}" for i in dear],
        "chance": [f"1 in {2 ** bits[i]:,.0f}" for i in dear],
    }
).style.hide(axis="index").set_properties(subset=["after"], **{"text-align": "right", "font-family": "monospace"})

# %% [markdown]
# ## Along the text
#
# The running mean shows documents that the model knows the likes of and such that it does not. Dashed lines are the starts of
# documents.

# %%
span = max(50, len(text) // 80)
running = np.convolve(bits, np.ones(span) / span, mode="valid")
at = (np.arange(len(running)) + span / 2) / 1e3

figure, axes = plt.subplots(figsize=(10, 3))
axes.plot(at, running, color=BLUE, linewidth=1)
axes.axhline(bits.mean(), color=ORANGE, linewidth=1)
axes.annotate(f"mean {bits.mean():.2f}", (at[-1], bits.mean()), (4, 3), textcoords="offset points", color=ORANGE)
start = 0
for document in held_out[3:]:
    if start >= len(text):
        break
    axes.axvline(start / 1e3, color=FAINT, linestyle="--", linewidth=0.8)
    if len(document.text) > len(text) / 40:  # room for its name
        axes.annotate(
            document.name,
            (start / 1e3, 1),
            (2, 2),
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=FAINT,
            fontsize=7,
            rotation=30,
        )
    start += len(document.text)
axes.set(xlabel="kB of text", ylabel=f"bits per byte, mean of {span}", xlim=(0, len(text) / 1e3))
axes.set_title("surprise along the text", pad=38)
plt.show()

# %% [markdown]
# ## Further
#
# The same from the command line: `bytegolf surprise ARTIFACT FILE` colours a file in the terminal, `--html page.html` writes a
# page to pass on, `--json` gives the numbers.
