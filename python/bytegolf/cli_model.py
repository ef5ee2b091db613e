"""`bytegolf eval` and `generate`: what a packed model makes of given bytes, and what it says itself."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path

from bytegolf import console, runner
from bytegolf._bytegolf import ShardSet
from bytegolf.artifact import load
from bytegolf.config import Config
from bytegolf.ids import document_ids
from bytegolf.model import Model

PROMPT_BYTES = 1 << 20


def artifact_of(path: Path) -> Path:
    """The artifact itself, or the one inside a run folder."""
    found = path / "artifact.bg" if path.is_dir() else path
    if not found.is_file():
        raise console.UserError(f"{found} does not exist" if path.is_dir() else f"{path} is no file and no run folder")
    return found


def ids_of(data: str, config: Config, split: str) -> runner.Ids:
    """A stream of ids: of shards (.bin, folder, glob), else of one document of text. UserError when nothing can be scored."""
    path = Path(data)
    if path.is_file() and path.suffix != ".bin":
        ids = document_ids(path.read_bytes(), config.byte_offset, config.bos_id)
    else:
        shards = ShardSet(data, config.family, split if path.is_dir() else "")
        ids = shards.read(0, len(shards))
    if len(ids) < 2:
        raise console.UserError(f"{data} holds nothing to score: {len(ids)} ids, and the first is context only")
    return ids


def stride_of(path: Path, model: Model, window: int) -> int:
    """The stride of the score of record: of the run that made the artifact where its config lies beside it."""
    own = path.parent / "config.toml"
    return min((Config.from_toml(own) if own.is_file() else model.config).eval_stride, window)


def eval_command(
    artifact: Path, data: str, window: int | None, stride: int | None, split: str, device: str, dtype: str, json: bool
) -> None:
    """Scores and prints."""
    path = artifact_of(artifact)
    model = load(path, device, dtype)
    window = window or model.config.seq_len
    stride = stride or stride_of(path, model, window)
    ids = ids_of(data, model.config, split)
    got = runner.score(model, ids, window, stride)
    size = path.stat().st_size
    if json:
        console.print_json(
            {"artifact": str(path), "artifact_bytes": size, "data": data, "device": model.device, "dtype": model.dtype}
            | asdict(got)
        )
        return
    table = console.table("", "figure", right=("figure",))
    table.add_row("artifact", f"{size:,} bytes")
    table.add_row("bits per byte", f"{got.bpb:.6f}")
    if got.floored_bpb is not None:
        table.add_row("bits per byte, whole windows only", f"{got.floored_bpb:.6f}")
    table.add_row("nats", f"{got.nats:.3f}")
    table.add_row("bytes", f"{got.bytes:,}")
    table.add_row("targets", f"{got.targets:,}")
    table.add_row("window, stride", f"{got.window}, {got.stride}")
    table.add_row("computed", f"on {model.device} in {model.dtype}")
    table.add_row("time", f"{console.duration(got.seconds)}, {console.size(got.bytes / max(got.seconds, 1e-9))}/s")
    console.stdout().print(table)


def generate_command(
    artifact: Path, prompt: str, n: int, temperature: float, seed: int, device: str, dtype: str
) -> None:
    """Writes the prompt and its continuation to standard output, byte by byte as they come."""
    model: Model = load(artifact_of(artifact), device, dtype)
    start = prompt.encode("utf-8", errors="surrogateescape")
    if len(start) > PROMPT_BYTES:
        raise console.UserError(f"the prompt has {len(start):,} bytes; at most {PROMPT_BYTES:,} are read")
    out = sys.stdout.buffer
    out.write(start)
    model.generate(start, n, temperature=temperature, seed=seed, emit=_show)
    out.write(b"\n")
    out.flush()


def _show(byte: bytes) -> None:
    sys.stdout.buffer.write(byte)
    sys.stdout.buffer.flush()
