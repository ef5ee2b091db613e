"""From files of any known kind to train and validation shards: what `bytegolf data prepare` does.

Documents stream through once (twice to hold out every n-th); memory is bounded by the longest document and 16 bytes for each
held-out one. Either everything is written or nothing. Held-out text is kept out of the training: a file that is named on both
sides, and every training document whose bytes are those of a held-out one, is left out and counted.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from bytegolf._bytegolf import vocab
from bytegolf.data.shards import Counts, ShardWriter, commit, read_documents
from bytegolf.data.sources import documents_of, find, identity_of
from bytegolf.documents import Document

__all__ = ["EXPECTED", "LeftOut", "PrepareOptions", "PrepareResult", "prepare", "prepare_notes", "prepare_table"]

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
    val_first: int = 0  # the first n documents are, empty ones not counted
    val_every: int = 0  # every n-th document is, empty ones not counted
    val_fraction: float = 0.0  # a document is when the hash of its bytes says so: equal documents stay together
    allow_overlap: bool = False  # leave held-out files and documents in the training, too
    max_documents: int = 0  # of the sources, empty ones not counted; 0: all
    max_bytes: int = 0  # of text of the sources; the document that would exceed it ends the reading; 0: all
    shard_ids: int = 100_000_000
    overwrite: bool = False
    expect: str = ""  # a name of EXPECTED
    expect_documents: int | None = None  # in all that is written
    expect_bytes: int | None = None


@dataclass
class LeftOut:
    """How much of the sources was not written, by reason; the manifest of the training has it too."""

    repeated_files: int = 0
    """named more than once, by any spelling or link; read once"""
    about_files: int = 0
    """README, LICENSE and the like in a folder of other files"""
    held_out_files: int = 0
    """named for the training and for the validation; validation alone"""
    held_out_documents: int = 0
    """training documents with the bytes of a held-out one"""


@dataclass(frozen=True)
class PrepareResult:
    """Counts by split, what was left out, the folder, and how long it took."""

    counts: dict[str, Counts]
    left_out: LeftOut
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
    files, val_files, left_out = _files(o)
    rule = _rule(o)
    splits = ["train", "val"] if rule else [o.split]
    note = ", ".join(str(Path(s).name) for s in [*o.sources, *o.val_sources])
    with ExitStack() as stack:
        writers = {
            split: stack.enter_context(ShardWriter(o.output, o.family, split, o.shard_ids, o.overwrite, note))
            for split in splits
        }
        beside = None if rule or o.allow_overlap else _Beside.of(o)  # while the writer keeps others out of the folder
        tick = stack.enter_context(_progress(console, writers))
        held = beside.documents(tick) if beside and o.split == "train" else _Digests()
        for document in _read(val_files, o):
            writers["val"].add(document)
            held.add(document)
            tick()
        read = 0
        if o.val_every and not o.allow_overlap:
            read = _hold_out_every(files, o, held, tick)
        number = 0
        for document in _limited(_read(files, o), o):
            if not len(document):
                writers[o.split].add(document)
                continue
            split = _split_of(document, number, o) if rule else o.split
            number += 1
            if split == "train" and not o.allow_overlap and document in held:
                left_out.held_out_documents += 1
            else:
                writers[split].add(document)
            if split == "val" and not o.val_every:
                held.add(document)
            tick()
        if read and read != number:
            raise ValueError(f"the sources changed while they were read: {read:,} documents, then {number:,}")
        _check_counts(o, {split: writer.counts for split, writer in writers.items()})
        for split, writer in writers.items():
            if not writer.counts.documents:
                out = f", {left_out.held_out_documents} held-out ones left out" if left_out.held_out_documents else ""
                raise ValueError(f"no documents for the {split} shards ({writer.counts.empty} empty ones skipped{out})")
        if beside and o.split == "val":
            beside.refuse(held, tick)
        for split, writer in writers.items():
            writer.facts = {"divided_by": rule} | ({"left_out": asdict(left_out)} if split == o.split else {})
        commit(list(writers.values()))
        counts = {split: writer.counts for split, writer in writers.items()}
    return PrepareResult(counts, left_out, Path(o.output), time.monotonic() - started)


def prepare_notes(result: PrepareResult) -> list[str]:
    """What was left out, a sentence each."""
    out = result.left_out
    notes = [
        (out.repeated_files, "file", "named more than once: read once"),
        (
            out.about_files,
            "file",
            "about the data (README, LICENSE and the like) not read: name them to have them read",
        ),
        (out.held_out_files, "file", "of the validation left out of the training"),
        (out.held_out_documents, "document", "of the validation left out of the training"),
    ]
    return [f"{n:,} {what}{'s' * (n != 1)} {words}" for n, what, words in notes if n]


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


def _rule(o: PrepareOptions) -> str:
    """What decides which documents are held out, as the manifest has it; "" when all go to one split."""
    if o.val_sources:
        return "val_sources"
    return next((f"{n} = {getattr(o, n)}" for n in ("val_first", "val_every", "val_fraction") if getattr(o, n)), "")


def _files(o: PrepareOptions) -> tuple[list[Path], list[Path], LeftOut]:
    """The files of the training and of the validation, no file among both, and what was left out."""
    sources, held = find(o.sources, o.glob, o.format), find(o.val_sources, o.glob, o.format)
    taken = set() if o.allow_overlap else {identity_of(path) for path in held.files}
    files = [path for path in sources.files if identity_of(path) not in taken]
    if not files:
        raise ValueError(
            f"nothing is left to train on: every file of the sources is among val_sources ({held.files[0]})"
        )
    repeated, about = len(sources.repeated) + len(held.repeated), len(sources.about) + len(held.about)
    return files, held.files, LeftOut(repeated, about, held_out_files=len(sources.files) - len(files))


def _read(files: list[Path], o: PrepareOptions) -> Iterator[Document]:
    return documents_of(files, o.format, o.text_field, o.tokenizer)


class _Digests:
    """Which documents were added, by 16 bytes of a hash of each; most others are told by their length alone."""

    def __init__(self) -> None:
        self._lengths: set[int] = set()
        self._digests: set[bytes] = set()

    def __len__(self) -> int:
        return len(self._digests)

    def add(self, document: Document) -> None:
        if len(document):
            self._lengths.add(len(document))
            self._digests.add(_digest(document))

    def __contains__(self, document: Document) -> bool:
        return len(document) in self._lengths and _digest(document) in self._digests


def _digest(document: Document) -> bytes:
    return hashlib.blake2b(document, digest_size=16).digest()


def _hold_out_every(files: list[Path], o: PrepareOptions, held: _Digests, tick: Callable[[], None]) -> int:
    """Adds every n-th document, some of which come after their equals; returns the number of all."""
    number = 0
    for document in _limited(_read(files, o), o):
        if len(document):
            if _split_of(document, number, o) == "val":
                held.add(document)
            number += 1
            tick()
    return number


@dataclass(frozen=True)
class _Beside:
    """Shards of the other split that are in the folder and stay there."""

    folder: Path
    split: str
    family: str

    @staticmethod
    def of(o: PrepareOptions) -> _Beside | None:
        """None when there are none. ValueError when what they hold cannot be kept apart from what this call writes."""
        folder, split = Path(o.output), "val" if o.split == "train" else "train"
        if not any(folder.glob(f"{split}_[0-9]*.bin")):
            return None
        facts = _manifest(folder / f"{split}_manifest.json")
        family = str(facts.get("family", o.family))
        remedy = "make both in one call, name another folder, or allow the overlap (--allow-overlap)"
        if facts.get("divided_by"):
            raise ValueError(
                f"{folder} holds {split} shards of another call, which divided its documents by {facts['divided_by']}; {o.split} "
                f"shards of this call may hold the same text: {remedy}"
            )
        if vocab(family)["bos"] < 0:
            raise ValueError(
                f"{folder} holds {split} shards of another call; the family {family} does not separate documents, so whether "
                f"this call's {o.split} shards hold the same ones cannot be told: {remedy}"
            )
        return _Beside(folder, split, family)

    def documents(self, tick: Callable[[], None]) -> _Digests:
        found = _Digests()
        for document in read_documents(self.folder, self.family, self.split):
            found.add(document)
            tick()
        return found

    def refuse(self, held: _Digests, tick: Callable[[], None]) -> None:
        """ValueError when a document that is to be held out is among them."""
        common = 0
        for document in read_documents(self.folder, self.family, self.split):
            common += document in held
            tick()
        if common:
            raise ValueError(
                f"{common:,} documents of the {self.split} shards in {self.folder} are among the {len(held):,} that are to be held "
                "out; nothing was written: make both in one call (--val-sources), or allow the overlap (--allow-overlap)"
            )


def _manifest(path: Path) -> dict[str, object]:
    """{} when there is none that can be read: the shards themselves are looked at then."""
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


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
