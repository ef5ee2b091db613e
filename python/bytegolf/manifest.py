"""Whether a folder still holds what was prepared: its shards against PREFIX_manifest.json, which `data prepare` writes beside them.

    {"format": 1, "family": "byte260", "ids": 1799, "shards": [{"file": "val_000000.bin", "ids": 1000, "sha256": "..."}, ...]}

A folder without a manifest (published shards, say) is taken as it is. The manifest itself may come from anywhere: whatever it
holds, it is read or refused with a FormatError that names it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bytegolf._bytegolf import SHARD_HEADER_BYTES, FormatError

SUFFIX = "_manifest.json"
JOURNAL = ".prepare.journal"  # there while the shards of a finished `data prepare` are moved to their names
HASHED_BYTES = 1 << 29  # up to so many bytes of shards are hashed whenever they are read (under a second)
_CAP_BYTES = 1 << 26
_SHARD = re.compile(r"_[0-9]+\.bin")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True)
class Row:
    """What a manifest says of one shard."""

    file: str
    ids: int
    sha256: str

    @property
    def size_bytes(self) -> int:
        """Of the file."""
        return SHARD_HEADER_BYTES + 2 * self.ids


@dataclass(frozen=True)
class Manifest:
    """One PREFIX_manifest.json."""

    path: Path
    family: str
    rows: dict[str, Row]

    @property
    def prefix(self) -> str:
        """What its shards' names begin with."""
        return self.path.name.removesuffix(SUFFIX)


Place = tuple[
    str, Sequence[str], Callable[[str], bool]
]  # a folder, names of files there, and whether a name is asked for


def hold(places: Sequence[Place], family: str, hashes: bool = False) -> None:
    """Compares shards that are to be read with the manifests beside them. The names of a place are all those there that match.

    Every shard of a manifest whose name matches must be there, each with its number of ids; no file may be there that the
    manifest does not list. SHA-256 are compared when all shards together have at most HASHED_BYTES bytes, or with `hashes`.

    Raises FormatError naming manifest, shard and both values; OSError when the disk refuses.
    """
    known: dict[Path, Manifest] = {}  # each is read once, however many of its files are named
    listed = [found for place in places for found in _listed(place, family, known)]
    total = sum(_check_size(manifest, row) for manifest, row in listed)
    if hashes or total <= HASHED_BYTES:
        for manifest, row in listed:
            _check_hash(manifest, row)


def manifests_of(folder: str | os.PathLike[str]) -> list[Manifest]:
    """All manifests of a folder, by name. FormatError or OSError for one that cannot be read."""
    return [read_manifest(path) for path in _paths(Path(folder))]


def read_manifest(path: Path) -> Manifest:
    """One manifest. FormatError says what is wrong with it; OSError when the disk refuses."""
    data = _bytes(path)
    try:
        body = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise FormatError(f"{path}: not JSON that can be read: {str(error) or type(error).__name__}") from None
    if not isinstance(body, dict) or not isinstance(body.get("shards"), list):
        raise FormatError(f"{path}: not the manifest of a prepared folder (an object with a list `shards`)")
    if body.get("format") != 1 or isinstance(body["format"], bool):
        raise FormatError(f"{path}: format is {_short(body.get('format'))}; only 1 is known")
    family = body.get("family")
    if not isinstance(family, str):
        raise FormatError(f"{path}: family is {_short(family)}, not a name")
    prefix = path.name.removesuffix(SUFFIX)
    rows: dict[str, Row] = {}
    for number, entry in enumerate(body["shards"]):
        row = _row(entry, prefix)
        if row is None:
            raise FormatError(
                f"{path}: shard {number} is not a file {prefix}_000000.bin with ids and sha256: {_short(entry)}"
            )
        if row.file in rows:
            raise FormatError(f"{path}: lists {row.file} twice")
        rows[row.file] = row
    ids = sum(row.ids for row in rows.values())
    if not rows or body.get("ids") != ids:
        raise FormatError(f"{path}: says {_short(body.get('ids'))} ids, but its {len(rows)} shards have {ids}")
    return Manifest(path, family, rows)


def check_shard(manifest: Manifest, row: Row) -> None:
    """Compares one shard's length and SHA-256 with its row; FormatError names manifest, shard and both values."""
    _check_size(manifest, row)
    _check_hash(manifest, row)


def _paths(folder: Path) -> list[Path]:
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return []
    return [folder / n for n in sorted(names) if n.endswith(SUFFIX) and n != SUFFIX and not n.startswith(".")]


def _listed(place: Place, family: str, known: dict[Path, Manifest]) -> list[tuple[Manifest, Row]]:
    """The rows of a place's files; nothing where no manifest concerns them."""
    folder, names, matches = Path(place[0]), place[1], place[2]
    if os.path.lexists(folder / JOURNAL):
        raise FormatError(
            f"{folder / JOURNAL}: shards are being moved to their names here, or that was interrupted; "
            "if nothing runs, another `bytegolf data prepare` into this folder finishes it first"
        )
    manifests = list(_concerned(folder, names, matches, known))
    if not manifests:
        return []
    rows: dict[str, tuple[Manifest, Row]] = {}
    for manifest in manifests:
        if manifest.family != family:
            raise FormatError(f"{manifest.path}: its shards are {manifest.family}, but {family} is asked for")
        rows |= {row.file: (manifest, row) for row in manifest.rows.values()}
    found = set(names)
    for name, (manifest, _) in rows.items():
        if name not in found and matches(name):
            raise FormatError(f"{manifest.path} lists {len(manifest.rows)} shards, but {name} is missing")
    for name in names:
        if name not in rows:
            raise FormatError(
                f"{manifests[0].path} does not list {name!r}: a foreign shard among those that were prepared"
            )
    return [rows[name] for name in names]


def _concerned(
    folder: Path, names: Sequence[str], matches: Callable[[str], bool], known: dict[Path, Manifest]
) -> Iterator[Manifest]:
    """The manifests whose shards are, or should be, among those that match."""
    for path in _paths(folder):
        prefix = path.name.removesuffix(SUFFIX)
        has_shards = any(name.startswith(prefix) and _SHARD.fullmatch(name[len(prefix) :]) for name in names)
        if not has_shards and not matches(f"{prefix}_000000.bin"):
            continue
        if path not in known:
            try:
                known[path] = read_manifest(path)
            except FormatError:
                if has_shards:
                    raise
                continue  # another program's file of such a name
        yield known[path]


def _bytes(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe is refused, not waited for
    try:
        if not stat.S_ISREG(os.fstat(fd).st_mode):
            raise FormatError(f"{path}: not a regular file")
        with open(fd, "rb", closefd=False) as file:
            data = file.read(_CAP_BYTES + 1)
    finally:
        os.close(fd)
    if len(data) > _CAP_BYTES:
        raise FormatError(f"{path}: more than {_CAP_BYTES} bytes are too many for a manifest")
    return data


def _row(entry: Any, prefix: str) -> Row | None:
    if not isinstance(entry, dict):
        return None
    file, ids, sha256 = entry.get("file"), entry.get("ids"), entry.get("sha256")
    good = (
        isinstance(file, str)
        and file.startswith(prefix)
        and _SHARD.fullmatch(file[len(prefix) :])
        and isinstance(ids, int)
        and not isinstance(ids, bool)
        and 0 < ids < 1 << 31
        and isinstance(sha256, str)
        and _SHA256.fullmatch(sha256)
    )
    return Row(str(file), int(ids), str(sha256)) if good and ids is not None else None


def _check_size(manifest: Manifest, row: Row) -> int:
    try:
        size = (manifest.path.parent / row.file).stat().st_size
    except FileNotFoundError:
        raise FormatError(f"{manifest.path} lists {len(manifest.rows)} shards, but {row.file} is missing") from None
    if size != row.size_bytes:
        raise FormatError(
            f"{manifest.path}: {row.file} should hold {row.ids} ids in {row.size_bytes} bytes, but it has {size} bytes"
        )
    return size


def _check_hash(manifest: Manifest, row: Row) -> None:
    with open(manifest.path.parent / row.file, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != row.sha256:
        raise FormatError(
            f"{manifest.path}: {row.file} was changed or exchanged: its SHA-256 is {found}, but {row.sha256} was prepared"
        )


def _short(value: Any) -> str:
    """A value of unknown size, for a message."""
    if isinstance(value, (dict, list)):
        return f"{type(value).__name__} of {len(value)}"
    text = repr(value)
    return text if len(text) <= 60 else text[:60] + "..."
