"""How much faster several GPUs (or processes on the CPU) train, and whether they train the same: `bench scaling`.

Each figure comes from processes of its own, as `bytegolf launch` starts them. Checked first: the losses of CHECKED
steps with one global batch, by one rank and by all.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bytegolf import _bytegolf
from bytegolf.bench.whole import Asked, Row, raw_row
from bytegolf.config import Config
from bytegolf.device import of_rank
from bytegolf.errors import UserError
from bytegolf.ranks.environment import ranks_here
from bytegolf.ranks.group import Group
from bytegolf.ranks.launch import launch
from bytegolf.record import fingerprint

CHECKED, TIMED, WARM = 100, 60, 10  # steps
LOSS_TOLERANCE = 1e-3  # nats, absolute: sums in another order, a hundred steps long


def ranks_to_try(device: str) -> list[int]:
    """1, 2, 4, ... and all: GPUs that are visible, or cores."""
    most = len(_bytegolf.gpu_info()["gpus"]) if device == "cuda" else fingerprint.cores()
    return sorted({most, *(2**k for k in range(most.bit_length()) if 2**k <= most)})


def scaling(asked: Asked) -> list[Row]:
    """One row for each number of ranks, rows * length ids per rank and step; share_of_linear beside it in `what`."""
    device = asked.device
    counts = ranks_to_try(device)
    per_rank = asked.rows * asked.length
    found: list[Row] = []
    one_s = 0.0
    for count in counts:
        error = None
        if count > 1:
            one, all_ranks = (_trained(asked, ranks, count * per_rank, CHECKED)["losses"] for ranks in (1, count))
            error = max(abs(a - b) for a, b in zip(one, all_ranks, strict=True))
        timed = _trained(asked, count, count * per_rank, WARM + TIMED)
        seconds = timed["seconds"][WARM:]
        middle = float(np.median(seconds))
        one_s = one_s or middle
        one_of, many_of = ("GPU", "GPUs") if device == "cuda" else ("process", "processes")
        name = f"{count} {one_of if count == 1 else many_of}"
        linear = f"; {100 * one_s / middle:.1f} % of linear" if count > 1 else ""
        found.append(
            raw_row(
                "scaling",
                f"{name}, {per_rank:,} ids each{linear}",
                seconds,
                ids=count * per_rank,
                error=error,
                tolerance=LOSS_TOLERANCE,
                checked_at=f"{CHECKED} steps of {count * per_rank:,} ids by 1 and by {count}",
            )
        )
    return found


def _trained(asked: Asked, ranks: int, batch: int, steps: int) -> dict[str, Any]:
    """What `work` wrote, run by so many ranks."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "result.json"
        words = [asked.device, asked.dtype, asked.rows, asked.length, batch, steps, out]
        status = launch(
            [str(word) for word in words], ranks, cores=asked.device == "cpu", module="bytegolf.bench.scaling"
        )
        if status != 0 or not out.is_file():
            raise UserError(f"{ranks} ranks could not train {steps} steps (status {status})")
        return dict(json.loads(out.read_text()))


def work(words: Sequence[str]) -> None:
    """One rank: trains the preset byte260-jepa, smaller on the CPU; rank 0 writes losses and seconds of each step."""
    from bytegolf.data.corpus import embedded_corpus
    from bytegolf.trainer import Trainer

    device, dtype, rows, length, batch, steps, out = words
    options: dict[str, Any] = {} if device == "cuda" else {"num_layers": 2, "model_dim": 128, "num_heads": 4}
    config = Config.preset("byte260-jepa").replace(
        seq_len=int(length),
        micro_batch_ids=int(rows) * int(length),
        train_batch_ids=int(batch),
        rank_check_every=0,
        **options,
    )
    text = b"".join(embedded_corpus()[0])
    ids = np.frombuffer(text, np.uint8).astype(np.uint16) + config.byte_offset
    ranks = ranks_here()
    group = Group(ranks) if ranks is not None else None
    where = of_rank(device, group.ranks.local_rank) if group is not None else device
    trainer = Trainer(config, ids, device=where, dtype=dtype, group=group)
    losses, seconds = [], []
    for _ in range(int(steps)):
        began = time.perf_counter()
        losses.append(trainer.step().ce)
        seconds.append(time.perf_counter() - began)
    trainer.check_ranks()
    if group is None or group.rank == 0:
        Path(out).write_text(json.dumps({"losses": losses, "seconds": seconds}))
    if group is not None:
        group.close()


if __name__ == "__main__":
    work(sys.argv[1:])
