"""From files of any known kind to train and validation shards: what `bytegolf data prepare` does.

Documents stream through once; memory is bounded by the longest document. Either everything is written or nothing.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bytegolf.data.shards import Counts, Document, ShardWriter, commit
from bytegolf.data.sources import documents_of, files_of

__all__ = ["EXPECTED", "PrepareOptions", "PrepareResult", "prepare", "prepare_table"]

PathLike = str | os.PathLike[str]

# (split that is counted, documents, bytes of text) of published data sets
EXPECTED: dict[str, tuple[str, int, int]] = {"fineweb-val": ("val", 50_000, 151_080_891)}


@dataclass(frozen=True)
class PrepareOptions:
    """What to read, what to write and how to divide it.

    At most one of val_first, val_every, val_fraction and val_sources says what becomes validation; with none of them all
    documents go to ``split``.
    """

    sources: list[PathLike]  # files and folders
    output: PathLike  # folder for the shards
    family: str = "byte260"
    format: str = "auto"  # auto, text, jsonl, parquet or sp
    glob: str = "*"  # file names taken from folders
    text_field: str = "text"  # of JSON lines and Parquet
    tokenizer: PathLike | None = None  # SentencePiece model, for sp shards
    split: str = "train"  # "train" or "val": where documents go that are not held out
    val_sources: list[PathLike] = field(default_factory=list)  # their documents are the validation
    val_first: int = 0  # the first n documents are
    val_every: int = 0  # every n-th document is
    val_fraction: float = 0.0  # a document is when the hash of its bytes says so: equal documents stay together
    max_documents: int = 0  # of the sources; 0: all
    max_bytes: int = 0  # of text of the sources; the document that would exceed it ends the reading; 0: all
    shard_ids: int = 100_000_000
    overwrite: bool = False
    expect: str = ""  # a name of EXPECTED
    expect_documents: int | None = None  # in all that is written
    expect_bytes: int | None = None


@dataclass(frozen=True)
class PrepareResult:
    """Counts by split, the files that were written, and how long it took."""

    counts: dict[str, Counts]
    output: Path
    seconds: float

    @property
    def documents(self) -> int:
        return sum(c.documents for c in self.counts.values())

    @property
    def bytes(self) -> int:
        return sum(c.bytes for c in self.counts.values())


def prepare(options: PrepareOptions, console: Console | None = None) -> PrepareResult:
    """Reads, divides, writes, checks the counts, and only then puts the shards in place.

    console: shows live progress when it is a terminal. ValueError for impossible options, missing inputs and counts that
    differ from those expected; FormatError naming file and line or offset for bad input; OSError for the disk.
    """
    o = options
    _check(o)
    started = time.monotonic()
    files = [f for source in o.sources for f in files_of(source, o.glob)]
    val_files = [f for source in o.val_sources for f in files_of(source, o.glob)]
    held_out = bool(val_files or o.val_first or o.val_every or o.val_fraction)
    splits = ["train", "val"] if held_out else [o.split]
    note = ", ".join(str(Path(s).name) for s in [*o.sources, *o.val_sources])
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(ShardWriter(o.output, o.family, split, o.shard_ids, o.overwrite, note))
            for split in splits
        }
        tick = stack.enter_context(_progress(console, writers))
        for number, document in enumerate(_limited(documents_of(files, o.format, o.text_field, o.tokenizer), o)):
            writers[_split_of(document, number, o) if held_out else o.split].add(document)
            tick()
        for document in documents_of(val_files, o.format, o.text_field, o.tokenizer):
            writers["val"].add(document)
            tick()
        _check_counts(o, {split: writer.counts for split, writer in writers.items()})
        for split, writer in writers.items():
            if not writer.counts.documents:
                raise ValueError(f"no documents for the {split} shards ({writer.counts.empty} empty ones skipped)")
        commit(list(writers.values()))
        counts = {split: writer.counts for split, writer in writers.items()}
    return PrepareResult(counts, Path(o.output), time.monotonic() - started)


def prepare_table(result: PrepareResult) -> Table:
    """Counts by split, for the terminal."""
    table = Table(
        "split",
        "documents",
        "bytes",
        "ids",
        "shards",
        "empty, skipped",
        title=f"{result.output} in {result.seconds:.1f} s",
    )
    for column in table.columns[1:]:
        column.justify = "right"
    for split, c in result.counts.items():
        table.add_row(split, f"{c.documents:,}", f"{c.bytes:,}", f"{c.ids:,}", f"{len(c.shards):,}", f"{c.empty:,}")
    return table


def _check(o: PrepareOptions) -> None:
    if not o.sources:
        raise ValueError("no sources named: expected files or folders")
    if o.split not in ("train", "val"):
        raise ValueError(f"split = {o.split!r} must be train or val")
    rules = [n for n in ("val_sources", "val_first", "val_every", "val_fraction") if getattr(o, n)]
    if len(rules) > 1:
        raise ValueError(f"{' and '.join(rules)} contradict each other: one of them decides what is held out")
    if rules and o.split != "train":
        raise ValueError(f"split = {o.split!r} and {rules[0]} contradict each other")
    for name in ("val_first", "val_every", "max_documents", "max_bytes"):
        if getattr(o, name) < 0:
            raise ValueError(f"{name} = {getattr(o, name)} must not be negative")
    if o.val_every == 1:
        raise ValueError("val_every = 1 leaves nothing to train on; use split = 'val'")
    if not 0.0 <= o.val_fraction < 1.0:
        raise ValueError(f"val_fraction = {o.val_fraction} must be at least 0 and below 1")
    if o.expect and o.expect not in EXPECTED:
        raise ValueError(f"unknown expectation {o.expect!r}; known: {', '.join(EXPECTED)}")


def _limited(documents: Iterator[Document], o: PrepareOptions) -> Iterator[Document]:
    taken = size = 0
    for document in documents:
        if o.max_documents and taken == o.max_documents:
            return
        if o.max_bytes and size + len(document) > o.max_bytes:
            return
        size += len(document)
        taken += len(document) > 0
        yield document


def _split_of(document: Document, number: int, o: PrepareOptions) -> str:
    if o.val_first:
        held = number < o.val_first
    elif o.val_every:
        held = number % o.val_every == o.val_every - 1
    elif o.val_fraction:
        held = int.from_bytes(hashlib.blake2b(document, digest_size=8).digest(), "little") < o.val_fraction * 2.0**64
    else:
        held = False
    return "val" if held else "train"


def _check_counts(o: PrepareOptions, counts: dict[str, Counts]) -> None:
    total = list(counts.values())
    wanted: list[tuple[str, list[Counts], int | None, int | None]] = [
        ("all", total, o.expect_documents, o.expect_bytes)
    ]
    if o.expect:
        split, documents, size = EXPECTED[o.expect]
        wanted.append((f"{o.expect}", [counts[split]] if split in counts else total, documents, size))
    for name, parts, want_documents, want_bytes in wanted:
        found = sum(c.documents for c in parts), sum(c.bytes for c in parts)
        for what, have, want in (("documents", found[0], want_documents), ("bytes", found[1], want_bytes)):
            if want is not None and have != want:
                raise ValueError(
                    f"count check failed ({name}): {have:,} {what} instead of {want:,}; nothing was written"
                )


@contextmanager
def _progress(console: Console | None, writers: dict[str, ShardWriter]) -> Iterator[Callable[[], None]]:
    """A function to call after each document; draws ten times a second on a terminal, else does nothing."""
    if console is None or not console.is_terminal:
        yield lambda: None
        return
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("reading", total=None)
        started = shown = time.monotonic()

        def tick() -> None:
            nonlocal shown
            now = time.monotonic()
            if now - shown < 0.1:
                return
            shown = now
            documents = sum(w.counts.documents for w in writers.values())
            size = sum(w.counts.bytes for w in writers.values())
            progress.update(
                task,
                description=f"{documents:,} documents, {size / 1e6:,.1f} MB, {size / 1e6 / (now - started):,.0f} MB/s",
            )

        yield tick
