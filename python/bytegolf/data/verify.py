"""Whether a prepared folder still holds what was prepared, to the byte: what `bytegolf data verify` does."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.table import Table
from rich.text import Text

from bytegolf._bytegolf import FormatError
from bytegolf.manifest import JOURNAL, Manifest, Row, check_shard, manifests_of

__all__ = ["Finding", "verify_folder", "verify_table"]


@dataclass(frozen=True)
class Finding:
    """One shard that a manifest lists, or one file that should not be there. ``fault``: what is wrong, "" when nothing is."""

    file: str
    ids: int
    family: str
    fault: str


def verify_folder(folder: str | os.PathLike[str], say: Callable[[str], None] | None = None) -> list[Finding]:
    """Reads every byte of every shard that a manifest of `folder` lists; `say` hears of each before it is read.

    One Finding per listed shard, then one for each foreign shard and for the journal of an interrupted `data prepare`.
    ValueError when the folder holds no manifest, FormatError naming a manifest that is none, OSError when the disk refuses.
    """
    place = Path(folder)
    if not place.is_dir():
        raise ValueError(f"{place} is not a folder")
    manifests = manifests_of(place)
    if not manifests:
        raise ValueError(
            f"{place} holds no PREFIX_manifest.json to compare its shards with; `bytegolf data stats` counts what they hold"
        )
    found = []
    for manifest in manifests:
        for row in manifest.rows.values():
            if say is not None:
                say(f"{row.file}: {row.size_bytes:,} bytes")
            found.append(Finding(row.file, row.ids, manifest.family, _fault(manifest, row)))
    listed = {finding.file for finding in found}
    for name in sorted(os.listdir(place)):
        if name.endswith(".bin") and name not in listed:
            found.append(Finding(name, 0, "", "a foreign shard: no manifest here lists it"))
        if name == JOURNAL:
            found.append(Finding(name, 0, "", "`bytegolf data prepare` is at work here, or was interrupted"))
    return found


def verify_table(folder: str | os.PathLike[str], found: list[Finding]) -> Table:
    """The same for the terminal."""
    table = Table("file", "family", "ids", "as it was prepared", title=Text(str(folder)))
    table.columns[2].justify = "right"
    for finding in found:
        table.add_row(*map(Text, (finding.file, finding.family, f"{finding.ids:,}", finding.fault or "yes")))
    return table


def _fault(manifest: Manifest, row: Row) -> str:
    try:
        check_shard(manifest, row)
    except FormatError as error:
        return str(error)
    return ""
