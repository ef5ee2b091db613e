"""submission.json: what the challenge asks of a submission, checked, and how many bytes count against its limit."""

from __future__ import annotations

import datetime
from pathlib import Path

from pydantic import BaseModel, Field

LIMIT_BYTES = 16_000_000  # code + artifact, decimal
CODE = ("csrc", "python", "CMakeLists.txt", "pyproject.toml")
CODE_SUFFIXES = {".h", ".cpp", ".def", ".cu", ".cuh", ".py", ".txt", ".toml"}


class Submission(BaseModel):
    """Fields of submission.json. Sizes in bytes, times in seconds, losses in nats per scored id."""

    author: str = "anonymous"
    github_id: str = ""
    name: str
    blurb: str
    date: str = Field(default_factory=lambda: datetime.datetime.now(datetime.UTC).date().isoformat())
    track: str = "non-record"
    hardware: str
    seeds: list[int]
    seed_results: dict[str, float]
    val_loss: float
    val_bpb: float
    val_bpb_whole_chunks: float
    val_bpb_whole_chunks_floored: float | None = None
    pre_quant_val_bpb: float | None = None
    val_bytes: int
    wallclock_seconds: float
    eval_time_seconds: float
    step_stop: int
    bytes_total: int
    bytes_code: int | None
    artifact_bytes: int
    within_limit: bool

    def write(self, path: Path) -> None:
        """Writes the JSON with a newline at its end."""
        path.write_text(self.model_dump_json(indent=2) + "\n", encoding="utf-8")


def code_bytes() -> int | None:
    """Bytes of every source needed to build and run, uncompressed; None where the package runs without its sources."""
    root = Path(__file__).resolve().parents[2]
    if not (root / "csrc").is_dir() or not (root / "CMakeLists.txt").is_file():
        return None
    total = 0
    for name in CODE:
        part = root / name
        files = [part] if part.is_file() else sorted(p for p in part.rglob("*") if p.suffix in CODE_SUFFIXES)
        total += sum(p.stat().st_size for p in files)
    return total
