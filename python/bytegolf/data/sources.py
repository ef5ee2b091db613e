"""Which files a source means, each of them once, and the documents of all: `documents` reads them, sp1024 shards are read here."""

from __future__ import annotations

import fnmatch
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from bytegolf.data.sentencepieces import sp_documents
from bytegolf.documents import FORMATS, Document, Reading, documents_of_file, kind_of

__all__ = ["FORMATS", "Found", "Identity", "documents_of", "files_of", "find", "identity_of"]

Identity = tuple[int, int]
"""Device and inode: one file has one, by whatever spelling, symbolic or hard link it is named."""

# Files about a data set, by the upper-case stem of their names: in a folder they are documents only beside others of their suffix.
ABOUT = frozenset({"README", "LICENSE", "LICENCE", "COPYING", "NOTICE", "CITATION", "CITATIONS", "CHANGELOG", "CHANGES",
                   "AUTHORS", "CONTRIBUTING", "CODE_OF_CONDUCT", "SECURITY", "DATASET_CARD", "DATASHEET"})  # fmt: skip


@dataclass
class Found:
    """Files in the order of reading, and what was left out: files named more than once, and files about the data."""

    files: list[Path] = field(default_factory=list)
    repeated: list[Path] = field(default_factory=list)
    about: list[Path] = field(default_factory=list)


def identity_of(path: Path) -> Identity:
    """What tells whether two paths lead to one file."""
    status = path.stat()
    return status.st_dev, status.st_ino


def find(sources: list[str | os.PathLike[str]], glob: str = "*", format: str = "auto") -> Found:
    """The files of all sources, each once: see `files_of`. README, LICENSE and the like in a folder are documents only when others
    in it have the same suffix, when ``glob`` asks for them, or when the format is text."""
    found, seen = Found(), set[Identity]()
    for source in sources:
        files = files_of(source, glob)
        if Path(source).is_dir() and glob == "*" and format != "text":
            files, about = _without_about(files)
            found.about += about
            if not files:
                raise ValueError(f"folder {source} holds nothing but {about[0].name}; name files to have them read")
        for path in files:
            own = identity_of(path)
            (found.repeated if own in seen else found.files).append(path)
            seen.add(own)
    return found


def _without_about(files: list[Path]) -> tuple[list[Path], list[Path]]:
    """The documents of a folder, and its files about them; these alone are documents, unless a hub's card of a data set."""
    about = [path for path in files if path.stem.upper() in ABOUT and kind_of(path) == "text"]
    others = set(files).difference(about)
    rows = any(kind_of(path) != "text" for path in others)
    alike = set() if rows else {path.suffix.lower() for path in others}
    dropped = {path for path in about if _is_card(path) or (others and path.suffix.lower() not in alike)}
    return [path for path in files if path not in dropped], sorted(dropped)


def _is_card(path: Path) -> bool:
    """A README with a table of facts in YAML, as hubs of data sets have it."""
    with open(path, "rb") as file:
        return path.stem.upper() == "README" and file.read(4) in (b"---\n", b"---\r")


def files_of(source: str | os.PathLike[str], glob: str = "*") -> list[Path]:
    """The file itself, or the folder's files at any depth whose name matches ``glob``, by path, without hidden ones. Links are
    followed, each folder once.

    ValueError when there is nothing, or a link leads nowhere; OSError for a folder that cannot be read.
    """
    path = Path(source)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise ValueError(
            f"{path} is neither a file nor a folder" if path.exists() else f"no such file or folder: {path}"
        )
    files, seen = [], set[Identity]()
    for folder, folders, names in os.walk(path, onerror=_fail, followlinks=True):
        own = identity_of(Path(folder))
        if own in seen:  # a link back, or to a folder that was read
            folders.clear()
            continue
        seen.add(own)
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in names:
            file = Path(folder, name)
            if name.startswith(".") or not fnmatch.fnmatch(name, glob):
                continue
            if file.is_symlink() and not file.exists():
                raise ValueError(f"{file} is a link to {os.readlink(file)}, which does not exist")
            if file.is_file():
                files.append(file)
    if not files:
        raise ValueError(f"folder {path} holds no file that matches {glob!r}")
    return sorted(files)


def _fail(error: OSError) -> None:
    raise error


def documents_of(
    files: list[Path],
    format: str = "auto",
    text_field: str = "text",
    tokenizer: str | os.PathLike[str] | None = None,
) -> Iterator[Document]:
    """Documents of the files in order, as `documents.documents_of_file` reads them.

    sp: SentencePiece shards (by name: ``.bin``); neighbouring shards continue each other, and ``tokenizer`` (the model file) is
    needed.
    """
    reading = Reading(format, text_field)
    at = 0
    while at < len(files):
        path = files[at]
        at += 1
        if not _is_sp(path, format):
            yield from documents_of_file(path, reading)
            continue
        shards = [path]
        while at < len(files) and _is_sp(files[at], format):
            shards.append(files[at])
            at += 1
        if tokenizer is None:
            raise ValueError(f"{path}: shards of ids need the SentencePiece model that made them (tokenizer)")
        yield from sp_documents(shards, tokenizer)


def _is_sp(path: Path, format: str) -> bool:
    return format == "sp" or (format == "auto" and path.suffix.lower() == ".bin")
