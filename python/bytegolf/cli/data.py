"""The verbs of `bytegolf data`: from files to shards, from the store to the disk, and what shards hold."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from bytegolf.cli.words import Json
from bytegolf.errors import UserError

app = App(name="data", help="Make, fetch, describe and verify shards of ids.", help_format="markdown")
Family = Literal["byte260", "byte256"]
Many = Parameter(consume_multiple=True, negative="")


@Parameter(name="*")
@dataclass(frozen=True)
class Reading:
    """How sources are read.

    Parameters
    ----------
    format
        Of the sources. auto goes by each file's name and first bytes and refuses what is not text (archives, tables, pointers);
        text takes every file as it is, unpacked where it is packed.
    glob
        File names taken from folders.
    text_field
        Field that holds the text, in JSON lines and Parquet.
    tokenizer
        SentencePiece model of sp1024 shards.
    """

    format: Literal["auto", "text", "jsonl", "parquet", "sp"] = "auto"
    glob: str = "*"
    text_field: str = "text"
    tokenizer: Path | None = None


@Parameter(name="*")
@dataclass(frozen=True)
class HeldOut:
    """Which documents become the validation.

    Parameters
    ----------
    split
        Where documents go that are not held out.
    val_sources
        Files and folders whose documents are held out for validation.
    val_first
        Hold out the first n documents; empty ones do not count.
    val_every
        Hold out every n-th document; empty ones do not count.
    val_fraction
        Hold out this share, chosen by the hash of each document.
    allow_overlap
        Keep files and documents in the training that are held out, too; by default they are left out and counted.
    """

    split: Literal["train", "val"] = "train"
    val_sources: Annotated[tuple[Path, ...], Many] = ()
    val_first: int = 0
    val_every: int = 0
    val_fraction: float = 0.0
    allow_overlap: Annotated[bool, Parameter(negative="")] = False


@Parameter(name="*")
@dataclass(frozen=True)
class Limits:
    """Where reading ends, and a shard.

    Parameters
    ----------
    max_documents
        Stop after n documents; empty ones do not count. 0 reads all.
    max_bytes
        Stop before more than n bytes of text; 0 reads all.
    shard_ids
        Ids in one shard.
    """

    max_documents: int = 0
    max_bytes: int = 0
    shard_ids: int = 100_000_000


@Parameter(name="*")
@dataclass(frozen=True)
class Expected:
    """Counts without which nothing is written.

    Parameters
    ----------
    expect
        Refuse unless the counts are those of a published set: fineweb-val.
    expect_documents
        Refuse unless so many documents were written.
    expect_bytes
        Refuse unless so many bytes of text were written.
    """

    expect: str = ""
    expect_documents: int | None = None
    expect_bytes: int | None = None


READING, HELD_OUT, LIMITS, EXPECTED = Reading(), HeldOut(), Limits(), Expected()  # as they are unless asked otherwise


@app.command
def prepare(
    *sources: Path,
    output: Annotated[Path, Parameter(alias="-o")],
    family: Family = "byte260",
    reading: Reading = READING,
    held_out: HeldOut = HELD_OUT,
    limits: Limits = LIMITS,
    overwrite: bool = False,
    expected: Expected = EXPECTED,
) -> None:
    """Turn files and folders into shards, document by document.

    Reads text files, JSON lines (both plain or packed: gz, xz, zst, bz2, lzma), Parquet, and sp1024 shards (piece by piece, with
    their tokenizer). All or nothing is written, in memory bounded by the longest document. A file that is named twice is read
    once; what is held out stands in no training shard.

    Parameters
    ----------
    sources
        Files and folders to read.
    output
        Folder that gets the shards.
    family
        Vocabulary: byte260 puts bos before each document, byte256 the bytes alone.
    overwrite
        Replace shards that are there.
    """
    from bytegolf.data import prepare as preparing
    from bytegolf.screen import console

    if not sources:
        raise UserError("name at least one file or folder to read")
    words = vars(reading) | vars(held_out) | vars(limits) | vars(expected)
    words |= {"val_sources": list(held_out.val_sources)}
    options = preparing.PrepareOptions(list(sources), output, family, overwrite=overwrite, **words)
    result = preparing.prepare(options, console.stderr())
    for note in preparing.prepare_notes(result):
        console.say(note)
    console.stdout().print(preparing.prepare_table(result))


@app.command
def fetch(
    *,
    output: Annotated[Path, Parameter(alias="-o")],
    variant: str = "sp1024",
    train_shards: int = 1,
    val: bool = True,
    tokenizer: bool = True,
    docs: bool = False,
    repo_id: str | None = None,
    revision: str = "main",
    patterns: Annotated[tuple[str, ...], Many] = (),
) -> None:
    """Download the published FineWeb files of the challenge; files already whole are left alone.

    Parameters
    ----------
    output
        Folder that gets the files.
    variant
        Tokenisation of the published shards.
    train_shards
        The first n training shards.
    val
        The validation shards too.
    tokenizer
        The tokenizer's files too.
    docs
        The documents themselves too (some 40 GB).
    repo_id
        Repository of the hub; by default the challenge's.
    revision
        Branch, tag or commit of it.
    patterns
        Globs over whole paths, in place of the choices above.
    """
    from bytegolf.data import fetch as fetching
    from bytegolf.screen import console

    options = fetching.FetchOptions(
        output=output,
        repo_id=repo_id or fetching.REPO_ID,
        revision=revision,
        variant=variant,
        train_shards=train_shards,
        val=val,
        tokenizer=tokenizer,
        docs=docs,
        patterns=list(patterns),
    )
    for path in fetching.fetch(options, report=console.say):
        console.stdout().print(str(path), markup=False)


@app.command
def stats(
    shards: str,
    /,
    *,
    family: Family = "byte260",
    split: Literal["", "train", "val"] = "",
    compress_bytes: int = 4_000_000,
    as_json: Json = False,
) -> None:
    """Count what shards hold, and what general compressors make of it.

    Parameters
    ----------
    shards
        Shard file, folder or glob.
    family
        Vocabulary of the ids.
    split
        Which shards of a folder that holds both.
    compress_bytes
        Give the compressors the first n bytes of text; 0 leaves them out.
    """
    from dataclasses import asdict

    from bytegolf.data.stats import data_stats, stats_table
    from bytegolf.screen import console

    found = data_stats(shards, family, split, compress_bytes)
    if as_json:
        console.print_json(asdict(found))
    else:
        console.stdout().print(stats_table(found))


@app.command
def verify(
    folder: Path,
    /,
    *,
    as_json: Json = False,
) -> int:
    """Compare every byte of a prepared folder with its manifests: shards that are missing, foreign, exchanged or changed.

    Ends with status 0 when all is as it was prepared, else 1.

    Parameters
    ----------
    folder
        Folder that `data prepare` has made.
    """
    from dataclasses import asdict

    from bytegolf.data.verify import verify_folder, verify_table
    from bytegolf.screen import console

    found = verify_folder(folder, console.say)
    if as_json:
        console.print_json([asdict(finding) for finding in found])
    else:
        console.stdout().print(verify_table(folder, found))
    return 1 if any(finding.fault for finding in found) else 0
