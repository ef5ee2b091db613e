"""Which published files to download, and whether they arrived whole: what `bytegolf data fetch` does.

The challenge's data is in the Hugging Face dataset repository ``willdepueoai/parameter-golf`` below ``datasets/``:

    datasets/datasets/fineweb10B_sp1024/fineweb_val_000000.bin     shards of ids, validation
    datasets/datasets/fineweb10B_sp1024/fineweb_train_000000.bin   ... and training, up to 100,000,000 ids each
    datasets/tokenizers/fineweb_1024_bpe.model                     the SentencePiece model of sp1024
    datasets/docs_selected.jsonl                                   the documents themselves; the first 50,000 are validation

Byte shards are not among them: fetch sp1024 or the documents, then `bytegolf data prepare`.
"""

from __future__ import annotations

import fnmatch
import hashlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

__all__ = ["REPO_ID", "FetchOptions", "Hub", "HuggingFaceHub", "RemoteFile", "fetch", "select"]

REPO_ID = "willdepueoai/parameter-golf"


@dataclass(frozen=True)
class RemoteFile:
    """A file of the repository. ``digest``: sha256 for large files, git's blob hash (sha1) for small ones, "" unknown."""

    path: str
    size: int
    digest: str = ""


class Hub(Protocol):
    """What fetching needs of a file store; tests put their own in its place."""

    def files(self, repo_id: str, revision: str, folder: str) -> Iterable[RemoteFile]:
        """Every file below ``folder``."""

    def download(self, repo_id: str, revision: str, path: str, output: Path) -> Path:
        """Stores one file as output/path, resuming where it can."""


@dataclass(frozen=True)
class FetchOptions:
    """``patterns`` (globs over whole paths) replaces the choice by variant, train_shards, val, tokenizer and docs."""

    output: str | os.PathLike[str]
    repo_id: str = REPO_ID
    revision: str = "main"
    root: str = "datasets"  # folder of the repository
    variant: str = "sp1024"
    train_shards: int = 1  # the first n
    val: bool = True
    tokenizer: bool = True
    docs: bool = False  # docs_selected.jsonl, some 40 GB
    patterns: list[str] = field(default_factory=list)


def fetch(options: FetchOptions, hub: Hub | None = None, report: Callable[[str], None] | None = None) -> list[Path]:
    """Downloads what `select` chooses and returns the local paths; files already there and whole are left alone.

    Each file's size and hash are compared with what the store says; a file that differs is deleted. ValueError: nothing
    matches, or huggingface-hub is not installed. OSError: the store or the disk refused, or a file did not arrive whole.
    """
    hub = hub or HuggingFaceHub()
    say = report or (lambda line: None)
    output = Path(options.output)
    chosen = select(list(hub.files(options.repo_id, options.revision, options.root)), options)
    paths = []
    for number, file in enumerate(chosen, 1):
        path = output / file.path
        if path.is_file() and not _fault(path, file):
            say(f"[{number}/{len(chosen)}] {file.path}: already here")
        else:
            say(f"[{number}/{len(chosen)}] {file.path}: {file.size:,} bytes")
            path = hub.download(options.repo_id, options.revision, file.path, output)
            fault = _fault(path, file)
            if fault:
                path.unlink(missing_ok=True)
                raise OSError(f"{file.path} of {options.repo_id} did not arrive whole: {fault}; deleted, fetch again")
        paths.append(path)
    return paths


def select(files: list[RemoteFile], options: FetchOptions) -> list[RemoteFile]:
    """The files that the options ask for, by path. ValueError names what is not published."""
    o = options
    if o.train_shards < 0:
        raise ValueError(f"train_shards = {o.train_shards} must not be negative")
    files = sorted(files, key=lambda f: f.path)
    for file in files:
        if file.path.startswith("/") or ".." in file.path.split("/"):
            raise ValueError(f"{o.repo_id} names a file outside its folder: {file.path}")
    if o.patterns:
        chosen = [f for f in files if any(fnmatch.fnmatch(f.path, p) for p in o.patterns)]
        if not chosen:
            raise ValueError(f"{o.repo_id} has no file below {o.root} that matches {' or '.join(o.patterns)}")
        return chosen
    folder = f"{o.root}/datasets/fineweb10B_{o.variant}"
    train = [f for f in files if fnmatch.fnmatch(f.path, f"{folder}/*_train_*.bin")]
    val = [f for f in files if fnmatch.fnmatch(f.path, f"{folder}/*_val_*.bin")]
    if not train and not val and (o.train_shards or o.val):
        known = sorted({f.path.split("/")[-2].removeprefix("fineweb10B_") for f in files if f.path.endswith(".bin")})
        raise ValueError(
            f"{o.repo_id} has no variant {o.variant!r} below {o.root}; published: {', '.join(known) or 'none'}"
        )
    if len(train) < o.train_shards:
        raise ValueError(f"train_shards = {o.train_shards}, but {o.repo_id} has {len(train)} of {o.variant}")
    chosen = train[: o.train_shards] + (val if o.val else [])
    if o.tokenizer:
        name = f"{o.root}/tokenizers/fineweb_{o.variant.removeprefix('sp')}_bpe.*"
        chosen += [f for f in files if fnmatch.fnmatch(f.path, name)]
    if o.docs:
        docs = [f for f in files if f.path == f"{o.root}/docs_selected.jsonl"]
        if not docs:
            raise ValueError(f"{o.repo_id} has no {o.root}/docs_selected.jsonl")
        chosen += docs
    if not chosen:
        raise ValueError("nothing to fetch: train_shards = 0 and neither val, tokenizer nor docs")
    return chosen


def _fault(path: Path, file: RemoteFile) -> str:
    """What differs between the local file and the published one, or ""."""
    size = path.stat().st_size
    if size != file.size:
        return f"{size:,} bytes instead of {file.size:,}"
    if not file.digest:
        return ""
    is_git = len(file.digest) == 40
    digest = hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False) if is_git else hashlib.sha256()
    with open(path, "rb") as data:
        while piece := data.read(1 << 20):
            digest.update(piece)
    return "" if digest.hexdigest() == file.digest else f"its hash is {digest.hexdigest()} instead of {file.digest}"


class HuggingFaceHub:
    """The real store, through huggingface-hub. ``endpoint``: another server that speaks its protocol."""

    def __init__(self, endpoint: str | None = None) -> None:
        try:
            import huggingface_hub
        except ImportError:
            raise ValueError("fetching needs huggingface-hub; install bytegolf[data]") from None
        self._hub = huggingface_hub
        self._endpoint = endpoint

    def files(self, repo_id: str, revision: str, folder: str) -> Iterable[RemoteFile]:
        found = []
        try:
            api = self._hub.HfApi(endpoint=self._endpoint)
            tree = api.list_repo_tree(repo_id, folder or None, recursive=True, revision=revision, repo_type="dataset")
            for entry in tree:
                if isinstance(entry, self._hub.hf_api.RepoFile):
                    found.append(RemoteFile(entry.path, entry.size, entry.lfs.sha256 if entry.lfs else entry.blob_id))
        except Exception as error:  # the library's errors come from several packages
            raise OSError(f"cannot list {repo_id} at {revision}: {_first_line(error)}") from None
        return found

    def download(self, repo_id: str, revision: str, path: str, output: Path) -> Path:
        try:
            return Path(
                self._hub.hf_hub_download(
                    repo_id, path, revision=revision, repo_type="dataset", local_dir=output, endpoint=self._endpoint
                )
            )
        except OSError as error:
            if error.errno is not None:  # the disk's own words
                raise
            raise OSError(f"cannot download {path} of {repo_id}: {_first_line(error)}") from None
        except Exception as error:
            raise OSError(f"cannot download {path} of {repo_id}: {_first_line(error)}") from None


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
