"""How fast one GPU runs the parts of a training step and whole steps: `bytegolf bench --device cuda`.

Single operations are checked against the CPU in float64 at a small size before they are timed at training's size, by the
GPU's own clock. Beside each figure is its share of the larger of two floors measured in the same run: its arithmetic
at the rate of a large matrix product, its bytes at the rate of copying.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from bytegolf import _bytegolf
from bytegolf.device import resolve
from bytegolf.record import fingerprint
from bytegolf.screen import console

Row = dict[str, Any]

ROWS, LENGTH = 12, 4096  # what one forward and backward of byte260-jepa takes
SLIDING_IDS, STRIDE = 1_980_000, 512
STARTS = 3  # processes

# A process of its own: argv holds when it was started, device, dtype, rows and length.
_START = """
import json, sys, time
import numpy as np
import bytegolf
began, device, dtype, rows, length = float(sys.argv[1]), *sys.argv[2:4], *map(int, sys.argv[4:6])
marks = {"imported": time.time() - began}
config = bytegolf.Config.preset("byte260-jepa", seq_len=length, train_batch_ids=rows * length, micro_batch_ids=rows * length)
trainer = bytegolf.Trainer(config, None, device=device, dtype=dtype)
marks["model"] = time.time() - began
ids = np.random.default_rng(0).integers(4, 260, (rows, length)).astype(np.int32)
trainer.step_on(ids, ids)
marks["first_step"] = time.time() - began
print(json.dumps(marks))
"""


def _start(device: str, dtype: str, rows: int, length: int) -> list[Row]:
    """From the start of a Python process to the end of its first training step."""
    runs = []
    for _ in range(STARTS):
        words = [sys.executable, "-c", _START, repr(time.time()), device, dtype, str(rows), str(length)]
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"the process that was to take a first step failed: {done.stderr[-800:]}")
        runs.append(json.loads(done.stdout))
    kinds = {
        "imported": "process start to bytegolf imported",
        "model": "process start to model and optimiser on the device",
        "first_step": "process start to the end of the first step",
    }
    return [_row("start", what, [run[name] for run in runs]) for name, what in kinds.items()]


def _sliding(device: str, dtype: str, rows: int, length: int) -> list[Row]:
    """Sliding evaluation of as many ids as golfmix_val has bytes (fewer for short windows), random ones."""
    from bytegolf.config import Config
    from bytegolf.model import Model
    from bytegolf.scoring import evaluate

    model = Model(Config.preset("byte260-jepa", seq_len=length), device, dtype)
    stride = min(STRIDE, length)
    count = SLIDING_IDS if length == LENGTH else 4 * rows * length
    ids = np.random.default_rng(0).integers(4, 260, count).astype(np.int32)
    seconds = []
    for _ in range(2):  # the first also makes the plan
        began = time.perf_counter()
        evaluate(model, ids, length, stride)
        seconds.append(time.perf_counter() - began)
    row = _row("sliding", f"sliding score of {count:,} ids, window {length}, stride {stride}", seconds[1:])
    return [{**row, "ids": float(count)}]


def _row(group: str, what: str, seconds: list[float]) -> Row:
    blank = {"flops": 0.0, "bytes": 0.0, "ids": 0.0, "error": None, "tolerance": 0.0, "checked_at": ""}
    return {"group": group, "what": what, "seconds": seconds, "memory_bytes": 0.0, **blank}


def _scaling(device: str, dtype: str, rows: int, length: int) -> list[Row]:
    from bytegolf.bench.scaling import scaling

    return scaling(device, dtype, rows, length)


EXTRA: dict[str, Callable[[str, str, int, int], list[Row]]] = {
    "start": _start,
    "sliding": _sliding,
    "scaling": _scaling,
}


def names() -> list[str]:
    """Everything that `run` can measure, in its order."""
    return [*_bytegolf.device_bench_groups(), *EXTRA]


def run(
    device: str,
    dtype: str = "auto",
    as_json: bool = False,
    groups: Sequence[str] | None = None,
    *,
    budget_s: float = 1.0,
    rows: int = ROWS,
    length: int = LENGTH,
) -> dict[str, Any]:
    """Measures `groups` (all when None), prints a table each as it is done, or JSON at the end, and returns the same values.

    budget_s: seconds of timed calls for each figure (at least 3 calls are made). rows, length: of ids that one forward and
    backward takes. Returns `machine` (facts, gemm_tflops, copy_gbs) and `rows`. ValueError for unknown words, and where
    the device cannot be used.
    """
    device, dtype = resolve(device, dtype)
    unknown = [group for group in groups or () if group not in names()]
    if unknown:
        raise ValueError(f"nothing called {unknown[0]!r} to measure on {device}; known are {', '.join(names())}")
    rates = _bytegolf.device_rates(min(0.5, budget_s), device, dtype)
    info = _bytegolf.gpu_info()
    machine = {
        **fingerprint.machine(),
        "commit": fingerprint.commit(),
        "device": device,
        "dtype": dtype,
        "gpus": info["gpus"],
        "driver": info["driver"],
        "runtime": info["runtime"],
        "libraries": _bytegolf.cuda_library_report() if device == "cuda" else [],
        "gemm_tflops": rates["gemm_flops"] / 1e12,
        "copy_gbs": rates["copy_bytes"] / 1e9,
        "rows": rows,
        "length": length,
    }
    found: dict[str, Any] = {"machine": machine, "rows": []}
    if not as_json:
        _show_machine(machine)
    for group in groups or names():
        if group in EXTRA:
            raw = EXTRA[group](device, dtype, rows, length)
        else:
            raw = _bytegolf.bench_device(group, budget_s, device, dtype, rows, length)
        figures = [figure(row, rates) for row in raw]
        found["rows"].extend(figures)
        if not as_json:
            show(group, figures)
    if as_json:
        console.print_json(found)
    return found


def figure(raw: Row, rates: dict[str, float]) -> Row:
    """What is shown of one piece of work."""
    seconds = sorted(raw["seconds"])
    median, quarter = statistics.median(seconds), len(seconds) // 4
    arithmetic, copying = raw["flops"] / rates["gemm_flops"], raw["bytes"] / rates["copy_bytes"]
    error = raw["error"]
    return {
        "group": raw["group"],
        "what": raw["what"],
        "calls": len(seconds),
        "median_ms": 1e3 * median,
        "best_ms": 1e3 * seconds[0],
        "spread_percent": 100 * (seconds[-1 - quarter] - seconds[quarter]) / median,
        "arithmetic_floor_ms": 1e3 * arithmetic,
        "bytes_floor_ms": 1e3 * copying,
        "tflops": raw["flops"] / median / 1e12,
        "gbs": raw["bytes"] / median / 1e9,
        "share": max(arithmetic, copying) / median,
        "ids_per_s": raw["ids"] / median,
        "memory_bytes": raw["memory_bytes"],
        "error": error,
        "tolerance": raw["tolerance"],
        "checked_at": raw["checked_at"],
        "ok": error is None or bool(error <= raw["tolerance"]),
    }


def _show_machine(machine: dict[str, Any]) -> None:
    gpu = machine["gpus"][0]["name"] if machine["device"] == "cuda" and machine["gpus"] else machine["cpu"]
    versions = "; ".join(f"{row['name']} {row['version']}" for row in machine["libraries"])
    console.stdout().print(
        f"{gpu}, {machine['dtype']}, {machine['rows']} rows of {machine['length']} ids"
        f"{'; ' + versions if versions else ''}. Rates of this run: {machine['gemm_tflops']:.4g} TFLOP/s (large matrix "
        f"product of random numbers), {machine['copy_gbs']:.0f} GB/s (copy, read plus written).\n"
        "median: ms a call; spread: between quartiles, over the median; share: of the larger of both floors; error: "
        "relative, against the CPU in float64 at a small size."
    )


def show(group: str, figures: list[Row]) -> None:
    """Prints the figures of one group as a table."""
    numbers = ("median", "spread", "calls", "TFLOP/s", "GB/s", "share", "ids/s", "memory", "error")
    table = console.table(group, *numbers, right=numbers)
    for column in table.columns:
        column.no_wrap = True
    for row in figures:
        error = "" if row["error"] is None else f"{row['error']:.0e}"
        table.add_row(
            row["what"],
            _ms(row["median_ms"]),
            f"{row['spread_percent']:.0f} %",
            str(row["calls"]),
            f"{row['tflops']:.4g}" if row["tflops"] else "",
            f"{row['gbs']:.0f}" if row["gbs"] else "",
            f"{100 * row['share']:.0f} %" if row["share"] else "",
            f"{row['ids_per_s']:,.0f}" if row["ids_per_s"] else "",
            console.size(int(row["memory_bytes"])) if row["memory_bytes"] else "",
            error if row["ok"] else f"[red]{error} > {row['tolerance']:.0e}[/]",
        )
    out = console.stdout()
    if not out.is_terminal:
        out.width = max(out.width, 160)
    out.print(table)
    sys.stdout.flush()


def _ms(value: float) -> str:
    return f"{value:.4f}" if value < 1 else f"{value:.3f}" if value < 100 else f"{value:.1f}"
