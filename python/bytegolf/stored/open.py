"""What the words of a command mean on the disk: a model, a stream of ids, the stride of its score."""

from __future__ import annotations

import io
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bytegolf._bytegolf import MAX_DECODED_BYTES, SHARD_MAGIC, ShardSet
from bytegolf.artifact import load
from bytegolf.config import Config
from bytegolf.documents import Document, Reading, documents_of_file, documents_of_stream
from bytegolf.errors import UserError
from bytegolf.ids import Ids, document_ids
from bytegolf.model import Model
from bytegolf.options import resolve
from bytegolf.screen import console
from bytegolf.weights import load_safetensors


def artifact_of(path: Path) -> Path:
    """The artifact itself, or the one inside a run folder."""
    found = path / "artifact.bg" if path.is_dir() else path
    if not found.is_file():
        raise UserError(f"{found} does not exist" if path.is_dir() else f"{path} is neither a file nor a run folder")
    return found


@dataclass(frozen=True)
class Stored:
    """A model on the disk, and how to compute with it: an artifact, a run folder, or weights in .safetensors, whose options
    `config` names where they carry none. Parameters of more than max_decoded_bytes, as float32, are refused."""

    path: Path
    config: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    max_decoded_bytes: int = MAX_DECODED_BYTES


def model_of(stored: Stored) -> tuple[Path, Model]:
    """The file and its model: of safetensors by the options that `config` names (or those inside), else of an artifact."""
    path, config, device, dtype = stored.path, stored.config, stored.device, stored.dtype
    if path.suffix == ".safetensors":
        return path, load_safetensors(
            path,
            resolve(config) if config else None,
            device,
            dtype,
            say=console.say,
            max_decoded_bytes=stored.max_decoded_bytes,
        )
    if config:
        raise UserError(f"--config is for .safetensors; {path} has its options inside")
    found = artifact_of(path)
    return found, load(found, device, dtype, max_decoded_bytes=stored.max_decoded_bytes)


def ids_of(data: str, config: Config, split: str, reading: Reading) -> Ids:
    """A stream of ids: of shards (.bin, folder, glob), else of a file's documents, as `data prepare` would write them.

    UserError when nothing can be scored.
    """
    path = Path(data)
    if path.is_file() and not (reading.format == "auto" and _is_shard(path)):
        ids = stream_ids(documents_of_file(path, reading), config)
    else:
        shards = ShardSet(data, config.vocab_name, split if path.is_dir() else "")
        ids = shards.read(0, len(shards))
    if len(ids) < 2:
        raise UserError(f"{data} holds nothing to score: {len(ids)} ids, and the first is context only")
    return ids


def _is_shard(path: Path) -> bool:
    with open(path, "rb") as file:
        return path.suffix.lower() == ".bin" or file.read(4) == SHARD_MAGIC.to_bytes(4, "little")


def documents_in(file: str, reading: Reading) -> Iterator[Document]:
    """The documents of a file, or of standard input, whose name is -."""
    if file != "-":
        return documents_of_file(Path(file), reading)
    whole = io.BufferedReader(io.BytesIO(sys.stdin.buffer.read()))
    return documents_of_stream(whole, "standard input", reading)


def stream_ids(documents: Iterator[Document], config: Config) -> Ids:
    """Documents one after the other, each after bos where the family has one; empty ones are skipped, as in shards."""
    parts = [
        document_ids(bytes(document), config.byte_offset, config.bos_id) for document in documents if len(document)
    ]
    return np.concatenate(parts) if parts else np.empty(0, dtype=np.int32)


def stride_of(path: Path, model: Model, window: int) -> int:
    """The stride of the score of record: of the run that made the artifact, where its config is beside it."""
    own = path.parent / "config.toml"
    return min((Config.of_run(own) if own.is_file() else model.config).eval_stride, window)
