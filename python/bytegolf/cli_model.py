"""`bytegolf eval` and `generate`: what a model on disk makes of given bytes, and what it says itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from bytegolf import console, runner
from bytegolf._bytegolf import ShardSet
from bytegolf.artifact import load
from bytegolf.config import Config
from bytegolf.ids import document_ids
from bytegolf.model import Model
from bytegolf.options import resolve
from bytegolf.weights import load_safetensors

PROMPT_BYTES = 1 << 20


def artifact_of(path: Path) -> Path:
    """The artifact itself, or the one inside a run folder."""
    found = path / "artifact.bg" if path.is_dir() else path
    if not found.is_file():
        raise console.UserError(
            f"{found} does not exist" if path.is_dir() else f"{path} is neither a file nor a run folder"
        )
    return found


def model_of(path: Path, config: str | None, device: str, dtype: str) -> tuple[Path, Model]:
    """The file and its model: of safetensors by the options that `config` names (or those inside), else of an artifact."""
    if path.suffix == ".safetensors":
        return path, load_safetensors(path, resolve(config) if config else None, device, dtype, say=console.say)
    if config:
        raise console.UserError(f"--config is for .safetensors; {path} has its options inside")
    found = artifact_of(path)
    return found, load(found, device, dtype)


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
    """The stride of the score of record: of the run that made the artifact, where its config is beside it."""
    own = path.parent / "config.toml"
    return min((Config.from_toml(own) if own.is_file() else model.config).eval_stride, window)


def eval_command(
    artifact: Path,
    data: str,
    config: str | None,
    window: int | None,
    stride: int | None,
    split: str,
    device: str,
    dtype: str,
    json: bool,
) -> None:
    """Scores and prints."""
    path, model = model_of(artifact, config, device, dtype)
    window = window or model.config.seq_len
    stride = stride or (stride_of(path, model, window) if config is None else min(model.config.eval_stride, window))
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
    table.add_row("weights" if path.suffix == ".safetensors" else "artifact", f"{size:,} bytes")
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
    artifact: Path,
    prompts: Sequence[str],
    config: str | None,
    n: int,
    temperature: float,
    top_p: float,
    stop: Sequence[str],
    seed: int,
    device: str,
    dtype: str,
    json: bool,
) -> None:
    """Writes prompts and their continuations to standard output: of one prompt byte by byte, of several row by row."""
    starts = [_bytes_of(p) for p in prompts]
    for start in starts:
        if len(start) > PROMPT_BYTES:
            raise console.UserError(f"the prompt has {len(start):,} bytes; at most {PROMPT_BYTES:,} are read")
    path, model = model_of(artifact, config, device, dtype)
    stops = [_bytes_of(s) for s in stop]
    out = sys.stdout.buffer
    if len(starts) == 1 and not json:
        bytes_drawn = model.stream(starts[0], n, temperature, seed, top_p=top_p, stop=stops)
        out.write(starts[0])
        for byte in bytes_drawn:
            out.write(byte)
            out.flush()
        out.write(b"\n")
        out.flush()
        return
    began = time.perf_counter()
    texts = model.generate(starts, n, temperature, seed, top_p=top_p, stop=stops)
    if json:
        # What is not UTF-8 becomes a replacement sign in `text`; `hex` is exact.
        rows = [
            {"prompt": _shown(start), "text": _shown(text), "bytes": len(text), "hex": text.hex()}
            for start, text in zip(starts, texts, strict=True)
        ]
        facts = {
            "artifact": str(path),
            "device": model.device,
            "dtype": model.dtype,
            "seconds": time.perf_counter() - began,
        }
        options = {"n": n, "temperature": temperature, "top_p": top_p, "stop": list(stop), "seed": seed}
        console.print_json(facts | options | {"rows": rows})
        return
    for row, (start, text) in enumerate(zip(starts, texts, strict=True)):
        out.write(b"%s--- %d\n%s%s\n" % (b"\n" if row else b"", row, start, text))
    out.flush()


def _bytes_of(text: str) -> bytes:
    return text.encode("utf-8", errors="surrogateescape")


def _shown(text: bytes) -> str:
    return text.decode("utf-8", errors="replace")
