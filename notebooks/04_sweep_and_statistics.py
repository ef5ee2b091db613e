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
# # 04 · A four-seed sweep with its statistics
#
# Train the same model twice from different seeds and the scores differ. A change that is worth less than that difference
# cannot be seen in one run of each; so changes are judged by **several seeds of each**, and by a test that knows how few they
# are.
#
# This notebook writes a sweep file, runs `bytegolf sweep`, reads `results.csv`, and computes what `bytegolf report` prints:
# means, intervals, Student's and Welch's tests. At the end it does the same with four published numbers.
#
# **To run it:** open this file in Jupyter with the jupytext extension, or
# `.venv/bin/jupytext --to ipynb notebooks/04_sweep_and_statistics.py`, or `.venv/bin/python scripts/run_notebooks.py 04`.
# Eight runs of half a minute each; `BYTEGOLF_NOTEBOOK_SECONDS` is the seconds of one.

# %%
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from scipy import stats

from bytegolf.data import write_shards
from bytegolf.data.corpus import corpus_documents

BLUE, ORANGE, GREEN, INK, FAINT = "#1f6fb4", "#d9601a", "#2a8a4a", "#222222", "#9aa0a6"
plt.rcParams.update({
    "figure.dpi": 110, "figure.constrained_layout.use": True, "font.size": 10, "axes.titlelocation": "left",
    "axes.titleweight": "bold", "axes.spines.top": False, "axes.spines.right": False, "axes.grid": True,
    "grid.color": "#eceff1", "axes.axisbelow": True, "axes.edgecolor": FAINT,
})  # fmt: skip
SECONDS = float(os.environ.get("BYTEGOLF_NOTEBOOK_SECONDS", 30))
FOLDER = Path("runs/notebook-04")
FOLDER.mkdir(parents=True, exist_ok=True)


def bytegolf(*arguments):
    """What the command `bytegolf` prints."""
    plain = {name: value for name, value in os.environ.items() if name not in ("FORCE_COLOR", "CLICOLOR_FORCE")}
    command = [sys.executable, "-m", "bytegolf", *arguments]
    done = subprocess.run(command, env=plain, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


# %% [markdown]
# ## The sweep
#
# The question: what is the bigram table worth, which adds to each byte's embedding a row looked up by the byte **and the one before
# it**? One group has it, one has not; four seeds each. A seed decides the first weights and the order of the data.
#
# Runs end after a fixed number of steps, not by the clock: on a busy machine the clock would add a difference of its own.

# %%
train, held_out = corpus_documents(sources=False)
write_shards((d.text for d in train), FOLDER / "data", prefix="train", overwrite=True)
val_bytes = 20_000 if SECONDS >= 15 else 3_000
write_shards([b"".join(d.text for d in held_out)[:val_bytes]], FOLDER / "data", prefix="val", overwrite=True)

iterations = max(8, round(6 * SECONDS))  # about 6 steps a second on two cores
RUNS = FOLDER / f"runs-{iterations}"  # the same sweep again finds its finished runs there
spec = FOLDER / "bigram.toml"
spec.write_text(f"""
config = "demo"
seeds = [0, 1, 2, 3]

[overrides]
train_data = "{(FOLDER / "data").resolve()}"
val_data = "{(FOLDER / "data").resolve()}"
num_layers = 2
model_dim = 128
num_heads = 2
seq_len = 256
train_batch_ids = 2048
micro_batch_ids = 2048
iterations = {iterations}
warmdown_iters = {iterations // 2}
ema_decay = 0.8
muon_momentum_warmup_steps = {max(1, iterations // 4)}

[groups.bigram]

[groups.no-bigram]
bigram_vocab_size = 0

[local]
jobs = 2
threads = 1
""")
print(bytegolf("sweep", str(spec), "--out", str(RUNS), "--dry-run"))

# %%
bytegolf("sweep", str(spec), "--out", str(RUNS))
results = pd.read_csv(RUNS / "results.csv")
results[["group", "seed", "bpb_sliding", "bpb_whole", "artifact_bytes", "steps", "seconds", "status"]]

# %% [markdown]
# ## Means and intervals
#
# Of $n$ values with mean $\bar x$ and standard deviation $s = \sqrt{\sum (x_i - \bar x)^2 / (n-1)}$, the mean of *all* seeds lies
# with confidence $c$ in
#
# $$\bar x \pm t_{(1+c)/2,\;n-1} \, \frac{s}{\sqrt n} .$$
#
# The factor $t$ is what few seeds cost: at 99 % it is 5.84 for four seeds, 9.92 for three, 63.7 for two, and 2.58 for very many.

# %%
CONFIDENCE = 0.99


def summary(values):
    """n, mean, standard deviation and interval of the mean."""
    n, mean, sd = len(values), np.mean(values), np.std(values, ddof=1)
    half = stats.t.ppf((1 + CONFIDENCE) / 2, n - 1) * sd / math.sqrt(n)
    return {"n": n, "mean": mean, "sd": sd, "low": mean - half, "high": mean + half}


groups = {name: rows.bpb_sliding.to_numpy() for name, rows in results.groupby("group")}
pd.DataFrame({name: summary(values) for name, values in groups.items()}).T

# %% [markdown]
# ## Is the difference real?
#
# Welch's test compares two groups whose spreads may differ:
#
# $$t = \frac{\bar x - \bar y}{\sqrt{s_x^2/n + s_y^2/m}}, \qquad
# \nu = \frac{(s_x^2/n + s_y^2/m)^2}{\frac{(s_x^2/n)^2}{n-1} + \frac{(s_y^2/m)^2}{m-1}} .$$
#
# $p$ is the chance of a $t$ this low if the groups had equal means: one-sided, because only a *lower* score is an improvement.

# %%
x, y = groups["bigram"], groups["no-bigram"]
a, b = x.var(ddof=1) / len(x), y.var(ddof=1) / len(y)
t = (x.mean() - y.mean()) / math.sqrt(a + b)
df = (a + b) ** 2 / (a**2 / (len(x) - 1) + b**2 / (len(y) - 1))
p = stats.t.cdf(t, df)

f"{x.mean() - y.mean():+.4f} bits per byte, t = {t:.2f} with {df:.2f} degrees of freedom, p = {p:.2g}"

# %% [markdown]
# `bytegolf report` says the same, in a table or as JSON. Its second test asks for more: a record must be better by 0.005 nats per
# byte, and so the difference plus this margin is tested.


# %%
def tests(*arguments):
    """Both tests of `bytegolf report`, of the group that is compared."""
    report = json.loads(bytegolf("report", *arguments, "--json"))
    group = next(group for group in report["groups"] if group["test"])
    rows = {"lower at all": group["test"], f"lower by {report['threshold']['nats']} nats": group["threshold_test"]}
    return pd.DataFrame({name: {key: test[key] for key in ("kind", "df", "t", "p")} for name, test in rows.items()}).T


table = tests(str(RUNS), "--baseline", "no-bigram")
np.testing.assert_allclose(table.loc["lower at all", ["df", "t", "p"]].astype(float), [df, t, p], rtol=1e-6)
table

# %% [markdown]
# Runs of one seed read the same batches in both groups. Where that makes their scores rise and fall together, the differences
# seed by seed spread less than the scores, and a test of the *pairs* sees smaller effects. It needs the seeds to be paired before
# anyone looks at the scores.

# %%
pairs = results.pivot(index="seed", columns="group", values="bpb_sliding")
pairs["difference"] = pairs["bigram"] - pairs["no-bigram"]
paired = stats.ttest_rel(pairs["bigram"], pairs["no-bigram"], alternative="less")
pairs.style.format("{:.4f}").set_caption(f"paired: t = {paired.statistic:.2f}, p = {paired.pvalue:.2g}")


# %%
def dots(axes, rows, baseline=None):
    """Every run a dot, each group's mean with its interval, the baseline a line."""
    for at, values in enumerate(rows.values()):
        s = summary(values)
        axes.plot([s["low"], s["high"]], [at, at], color="#8fb8da", linewidth=7, solid_capstyle="butt")
        axes.plot(values, [at] * len(values), "o", color=BLUE, markeredgecolor="white", markersize=8)
        axes.plot(s["mean"], at, "|", color=INK, markersize=18, markeredgewidth=2)
        axes.annotate(f"{s['mean']:.4f}", (s["mean"], at - 0.28), color=INK, ha="center")
    if baseline is not None:
        axes.axvline(baseline, color=ORANGE)
        axes.annotate(
            f"baseline {baseline}",
            (baseline, 0.02),
            (-4, 0),
            ha="right",
            xycoords=("data", "axes fraction"),
            textcoords="offset points",
            color=ORANGE,
        )
    axes.set(
        yticks=range(len(rows)), yticklabels=rows, ylim=(len(rows) - 0.5, -0.6), xlabel="bits per byte, lower is better"
    )
    axes.ticklabel_format(axis="x", useOffset=False)
    axes.grid(False, axis="y")


figure, axes = plt.subplots(figsize=(8.5, 2.6))
dots(axes, groups)
axes.set_title(f"bigram table: {x.mean() - y.mean():+.4f} bits per byte, p = {p:.2g} (bars: 99 % intervals)")
plt.show()

# %% [markdown]
# ## Four published numbers
#
# A published record reports four seeds, and claims to beat a baseline of 1.2244. Against a fixed number it is Student's test:
# $t = (\bar x - x_0) \,/\, (s / \sqrt n)$ with $\nu = n - 1$.

# %%
published, baseline = np.array([1.21456865, 1.21197405, 1.21744342, 1.21660625]), 1.2244
t = (published.mean() - baseline) / (published.std(ddof=1) / math.sqrt(len(published)))
p = stats.t.cdf(t, len(published) - 1)
print(f"mean {published.mean():.8f}   t = {t:.2f}   p = {p:.4f}")
assert (round(published.mean(), 8), round(t, 2), round(p, 4)) == (1.21514809, -7.60, 0.0024)
tests("--values", ",".join(map(str, published)), "--baseline", str(baseline))

# %%
figure, axes = plt.subplots(figsize=(8.5, 1.9))
dots(axes, {"published": published}, baseline)
axes.set_title(f"t = {t:.2f}, p = {p:.4f}: below the baseline, although the 99 % interval is wide")
plt.show()

# %% [markdown]
# ## How many seeds?
#
# Half the width of the 99 % interval, in standard deviations of a single run: $t_{0.995,\,n-1} / \sqrt n$. The third and fourth seed
# buy most; from ten on only the square root is left. With the spread measured above, the right axis says which differences
# can be seen at all.

# %%
n = np.arange(2, 17)
half = stats.t.ppf(0.995, n - 1) / np.sqrt(n)
sd = max(values.std(ddof=1) for values in groups.values())

figure, axes = plt.subplots(figsize=(8.5, 3.4))
axes.plot(n, half, "o-", color=BLUE)
axes.plot(n, stats.norm.ppf(0.995) / np.sqrt(n), color=FAINT, linestyle="--", linewidth=1)
axes.annotate(
    "if the spread were known",
    (n[-1], stats.norm.ppf(0.995) / np.sqrt(n[-1])),
    (0, -14),
    textcoords="offset points",
    color=FAINT,
    ha="right",
)
for seeds in (2, 3, 4, 8):
    axes.annotate(f"{half[seeds - 2]:.2g}", (seeds, half[seeds - 2]), (6, 6), textcoords="offset points", color=BLUE)
axes.set(
    yscale="log",
    ylim=(0.35, 90),
    title="half the 99 % interval of a mean",
    xlabel="seeds",
    ylabel="standard deviations",
    xticks=n,
)
axes.yaxis.set_major_formatter("{x:g}")
right = axes.secondary_yaxis("right", functions=(lambda v: v * sd, lambda v: v / sd))
right.set_ylabel(f"bits per byte, at sd = {sd:.4f}")
right.yaxis.set_major_formatter("{x:g}")
plt.show()
