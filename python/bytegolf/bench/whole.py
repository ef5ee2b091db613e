"""What `bytegolf bench --device cuda` times from Python: a first step from the start of a process, a sliding score."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import numpy as np

Row = dict[str, Any]

SLIDING_IDS, STRIDE = 1_980_000, 512
STARTS = 3  # processes


@dataclass(frozen=True)
class Asked:
    """What is to be measured: where, in which numbers, how many rows of how many ids at once, for how long."""

    device: str
    dtype: str
    rows: int
    length: int
    budget_s: float = 1.0
    threads: int = 0  # of the CPU


def raw_row(group: str, what: str, seconds: list[float], **known: Any) -> Row:
    """A row as the core gives it, from calls timed here."""
    blank = {"flops": 0.0, "bytes": 0.0, "ids": 0.0, "error": None, "tolerance": 0.0, "checked_at": ""}
    return {"group": group, "what": what, "seconds": seconds, "cpu_seconds": [], "memory_bytes": 0.0, **blank, **known}


# A process of its own: argv holds when it was started, device, dtype, rows and length.
_START = """
import json, sys, time
import numpy as np
import bytegolf
began, device, dtype, rows, length = float(sys.argv[1]), *sys.argv[2:4], *map(int, sys.argv[4:6])
marks = {"imported": time.time() - began}
ids = rows * length
config = bytegolf.Config.preset("byte260-jepa", seq_len=length, train_batch_ids=ids, micro_batch_ids=ids)
trainer = bytegolf.Trainer(config, None, device=device, dtype=dtype)
marks["model"] = time.time() - began
ids = np.random.default_rng(0).integers(4, 260, (rows, length)).astype(np.int32)
trainer.step_on(ids, ids)
marks["first_step"] = time.time() - began
print(json.dumps(marks))
"""


def start(asked: Asked) -> list[Row]:
    """From the start of a Python process to the end of its first training step."""
    runs = []
    for _ in range(STARTS):
        words = [repr(time.time()), asked.device, asked.dtype, str(asked.rows), str(asked.length)]
        done = subprocess.run([sys.executable, "-c", _START, *words], capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the process that was to take a first step failed: {done.stderr[-800:]}")
        runs.append(json.loads(done.stdout))
    kinds = {
        "imported": "process start to bytegolf imported",
        "model": "process start to model and optimiser on the device",
        "first_step": "process start to the end of the first step",
    }
    return [raw_row("start", what, [run[name] for run in runs]) for name, what in kinds.items()]


def sliding(asked: Asked) -> list[Row]:
    """Sliding evaluation of as many ids as golfmix_val has bytes (fewer for short windows), random ones."""
    from bytegolf.config import Config
    from bytegolf.model import Model
    from bytegolf.scoring import evaluate

    length = asked.length
    model = Model(Config.preset("byte260-jepa", seq_len=length), asked.device, asked.dtype)
    stride = min(STRIDE, length)
    count = SLIDING_IDS if length > STRIDE else 4 * asked.rows * length
    ids = np.random.default_rng(0).integers(4, 260, count).astype(np.int32)
    seconds = []
    for _ in range(2):  # the first also makes the plan
        began = time.perf_counter()
        evaluate(model, ids, length, stride)
        seconds.append(time.perf_counter() - began)
    what = f"sliding score of {count:,} ids, window {length}, stride {stride}"
    return [raw_row("sliding", what, seconds[1:], ids=float(count))]
