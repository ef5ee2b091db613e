"""How fast this machine runs the parts of a step, and how far that is from what it could do: `bytegolf bench`.

Every op is checked against its definition before it is timed. Beside each figure are two floors measured in the same
run: its arithmetic at the machine's rate of matrix products, and its bytes at the machine's rate of copying.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from bytegolf import _bytegolf
from bytegolf.bench import gpu
from bytegolf.device import find_libraries
from bytegolf.record import fingerprint
from bytegolf.screen import console

Row = dict[str, Any]

EXTRA: dict[str, Callable[[float, int], list[Row]]] = {}


def names() -> list[str]:
    """Everything that `run_bench` can measure, in its order."""
    return [*_bytegolf.bench_ops(), *EXTRA]


def run_bench(
    device: str = "cpu",
    json: bool = False,
    ops: Sequence[str] | None = None,
    *,
    budget_s: float = 1.0,
    threads: int = 0,
    library: str = "builtin",
    dtype: str = "auto",
) -> dict[str, Any]:
    """Measures `ops` (all when None), prints a table or JSON, and returns the same values.

    device: "cpu" as below, in float32; any other as in `bench_device`, in `dtype`. budget_s: seconds of timed calls per op. threads: 0 means one per core. library: what multiplies
    matrices ("builtin", "onednn", "openblas"). Returns `machine` (facts, gemm_gflops, copy_gbs) and `rows`, each with
    op, shape, median_ms, best_ms, spread_percent (quartiles over median), arithmetic_floor_ms, bytes_floor_ms, gflops,
    gemm_share (by the wall clock), gemm_share_cpu (by CPU time, which other programs cannot stretch), error, tolerance, ok. Raises ValueError for an unknown device, op or library.
    """
    if device != "cpu":
        return gpu.run(device, dtype, json, ops, budget_s=budget_s)
    unknown = [op for op in ops or () if op not in names()]
    if unknown:
        raise ValueError(f"nothing called {unknown[0]!r} to measure; known are {', '.join(names())}")
    find_libraries()
    rates = _bytegolf.machine_rates(budget_s=min(0.5, budget_s), threads=threads, library=library)
    machine = {
        **fingerprint.machine(),
        "threads": threads or fingerprint.cores(),
        "target": _bytegolf.cpu_target(),
        "gemm_library": library,
        "gemm_libraries": _bytegolf.gemm_libraries(),
        "gemm_gflops": rates["gemm_flops"] / 1e9,
        "copy_gbs": rates["copy_bytes"] / 1e9,
    }
    rows: list[Row] = []
    for op in ops or names():
        if op in EXTRA:
            raw = EXTRA[op](budget_s, threads)
        else:
            raw = _bytegolf.bench_op(op, budget_s=budget_s, threads=threads, library=library)
        rows.extend(_figure(row, rates) for row in raw)
    machine["load"] = os.getloadavg()[0]
    found = {"machine": machine, "rows": rows}
    if json:
        console.print_json(found)
    else:
        show(found)
    return found


def _figure(raw: Row, rates: dict[str, float]) -> Row:
    seconds = sorted(raw["seconds"])
    median = statistics.median(seconds)
    quarter = len(seconds) // 4
    spread = seconds[-1 - quarter] - seconds[quarter]
    flops, size = raw["flops"], raw["bytes"]
    return {
        "op": raw["op"],
        "shape": raw["shape"],
        "calls": len(seconds),
        "median_ms": 1e3 * median,
        "best_ms": 1e3 * seconds[0],
        "spread_percent": 100 * spread / median,
        "arithmetic_floor_ms": 1e3 * flops / rates["gemm_flops"],
        "bytes_floor_ms": 1e3 * size / rates["copy_bytes"],
        "gflops": flops / seconds[0] / 1e9,
        "gbs": size / seconds[0] / 1e9,
        "gemm_share": flops / seconds[0] / rates["gemm_flops"],
        "gemm_share_cpu": flops / min(raw["cpu_seconds"]) / rates["gemm_flops_cpu"] if "cpu_seconds" in raw else 0.0,
        "error": raw["error"],
        "tolerance": raw["tolerance"],
        "ok": bool(raw["error"] <= raw["tolerance"]),
        **raw.get("more", {}),
    }


def show(found: dict[str, Any]) -> None:
    """Prints what `run_bench` returned as a table."""
    machine = found["machine"]
    numbers = ("median", "best", "spread", "arithmetic", "bytes", "GFLOP/s", "of GEMM", "by CPU", "error")
    table = console.table("op", "shape", *numbers, right=numbers)
    for column in table.columns:
        column.no_wrap = True
    for row in found["rows"]:
        flops = row["arithmetic_floor_ms"] > 0
        table.add_row(
            row["op"],
            row["shape"],
            _ms(row["median_ms"]),
            _ms(row["best_ms"]),
            f"{row['spread_percent']:.0f} %",
            _ms(row["arithmetic_floor_ms"]) if flops else "",
            _ms(row["bytes_floor_ms"]) if row["bytes_floor_ms"] else "",
            f"{row['gflops']:.0f}" if flops else "",
            f"{100 * row['gemm_share']:.0f} %" if flops else "",
            f"{100 * row['gemm_share_cpu']:.0f} %" if flops else "",
            f"{row['error']:.0e}" if row["ok"] else f"[red]{row['error']:.0e} > {row['tolerance']:.0e}[/]",
        )
    out = console.stdout()
    if not out.is_terminal:
        out.width = max(out.width, 160)  # a file or a pipe has no edge to fold at
    out.print(table)
    out.print(
        f"{machine['threads']} threads, {machine['target']}, GEMM library {machine['gemm_library']}: "
        f"{machine['gemm_gflops']:.0f} GFLOP/s (float32, 2048x512x512, best call); "
        f"copying {machine['copy_gbs']:.1f} GB/s (read plus written)."
    )
    out.print(
        "median, best: ms a call; spread: between quartiles, over the median; arithmetic, bytes: floors in ms at those "
        "two rates; of GEMM: share of the GEMM rate, best call; by CPU: the same by CPU time; error: relative, against "
        "the definition."
    )
    if machine["load"] > 1.3 * machine["threads"]:
        out.print(
            f"[yellow]The machine was busy (load {machine['load']:.1f} on {machine['cores']} cores): "
            "trust the shares by CPU time.[/]"
        )


def _ms(value: float) -> str:
    return f"{value:.3f}" if value < 1 else f"{value:.2f}" if value < 100 else f"{value:.0f}"


def _timed(work: Callable[[], Any], budget_s: float, least: int = 1) -> list[float]:
    seconds: list[float] = []
    while len(seconds) < least or sum(seconds) < budget_s:
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return seconds


def _codec(budget_s: float, threads: int) -> list[Row]:
    """Quantising and packing 24.6 M parameters with the shapes of byte260-jepa, and reading them back."""
    from bytegolf.codec import dequantise, load_parameters, pack_parameters, quantise

    random = np.random.default_rng(0)
    shapes: dict[str, tuple[int, ...]] = {"tok_emb.weight": (260, 512), "bigram.embed.weight": (4096, 32)}
    for layer in range(13):
        for name, shape in {
            "attn.c_q": (512, 512),
            "attn.c_k": (256, 512),
            "attn.c_v": (256, 512),
            "attn.proj": (512, 512),
            "mlp.fc": (1024, 512),
            "mlp.proj": (512, 1024),
        }.items():
            shapes[f"blocks.{layer}.{name}.weight"] = shape
    # Heavy tails, as trained rows have them: the largest of a row sets its step.
    params = {k: (0.02 * random.standard_t(6, s)).astype(np.float32) for k, s in shapes.items()}
    count = sum(p.size for p in params.values())
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.bgolf"
        size = pack_parameters(params, path, threads=threads)
        pack = _timed(lambda: pack_parameters(params, path, threads=threads), budget_s)
        read = _timed(lambda: load_parameters(path, threads=threads), budget_s)
        back = load_parameters(path, threads=threads)[1]
    want = dequantise(quantise(params, "int6_mixed", threads=threads))
    error = max(float(np.max(np.abs(back[k] - want[k]))) for k in params)
    what = f"{count / 1e6:.1f} M parameters, {console.size(size)}"
    common = {"shape": what, "flops": 0.0, "error": error, "tolerance": 0.0, "more": {"artifact_bytes": size}}
    return [
        {"op": "pack", "bytes": 4.0 * count + size, "seconds": pack, **common},
        {"op": "read", "bytes": 4.0 * count + size, "seconds": read, **common},
    ]


EXTRA["codec"] = _codec
