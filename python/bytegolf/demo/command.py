"""`bytegolf demo`: the main job on text that every Python carries, with no download, in a few minutes on two cores."""

from __future__ import annotations

from pathlib import Path

from bytegolf.artifact import load
from bytegolf.codec import UNLIMITED
from bytegolf.config import Config
from bytegolf.data.corpus import corpus_documents, corpus_kinds
from bytegolf.data.shards import write_shards
from bytegolf.data.stats import compressor_bpb
from bytegolf.run import report, runner
from bytegolf.screen import console

COMPRESSORS = ("zstd -19", "xz -9e")
PROMPT = b"The "
SAMPLE_BYTES = 400
# Two minutes read about two million bytes. The corpus holds three times as much source text as prose: every tenth source
# file keeps the demo's reading close to the prose it is scored on, and all three kinds in it.
SOURCES_EVERY = 10


def prepare(folder: Path, family: str, say: console.Say) -> bytes:
    """Writes training and validation shards of the embedded corpus into `folder`; returns the held-out text."""
    train, val = corpus_documents()
    train = [d for d in train if d.kind != "sources"] + [d for d in train if d.kind == "sources"][::SOURCES_EVERY]
    for prefix, documents in (("train", train), ("val", val)):
        write_shards((d.text for d in documents), folder, family, prefix=prefix, source="the text of this Python")
        parts = ", ".join(
            f"{n} {kind} ({console.size(size)})" for kind, (n, size) in corpus_kinds(documents).items() if n
        )
        say(f"{'training' if prefix == 'train' else 'held-out'} documents: {parts}")
    return b"".join(d.text for d in val)


def run_demo(folder: Path, *, seconds: float, seed: int, overrides: dict[str, str]) -> runner.Report:
    """Prepares data, trains for `seconds`, packs, scores, compares with compressors, samples, and prints the result."""
    say = console.say
    say(f"writes into {folder}")
    folder.mkdir(parents=True)
    config = Config.preset("demo")
    held_out = prepare(folder / "data", config.vocab_name, say)
    where = str(folder / "data")
    usual = {"train_data": where, "val_data": where, "train_budget_s": float(seconds), "seed": seed, "log_every": 1}
    config = config.replace(**usual | overrides)
    got = runner.run(config, folder, what="demo")
    assert got is not None  # no other ranks
    say("compressing the held-out text with zstd -19 and xz -9e")
    compressed = compressor_bpb(held_out)
    baselines = tuple(report.Baseline(name, compressed[name]) for name in COMPRESSORS if name in compressed)
    model = load(folder / "artifact.bg", config.device, config.dtype, max_decoded_bytes=UNLIMITED)
    text = model.generate(PROMPT, SAMPLE_BYTES, temperature=0.8, seed=seed)
    sample = console.printable(text)
    about = report.Presentation(
        name="bytegolf demo",
        blurb="A small byte260-jepa trained on the documentation and sources that Python itself carries.",
        command="bytegolf demo",
        baselines=baselines,
        sample=sample,
    )
    report.show(got, report.write_files(got, about), about)
    return got
