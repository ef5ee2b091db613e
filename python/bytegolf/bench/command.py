"""How fast one device runs the parts of a step, and how far that is from what it could do: `bytegolf bench`.

Every operation is checked against the CPU in float64 before it is timed. Beside each figure are two floors measured
in the same run: its arithmetic at the rate of a large matrix product, its bytes at the rate of copying.
"""

from __future__ import annotations

import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from bytegolf import _bytegolf
from bytegolf.bench.scaling import scaling
from bytegolf.bench.whole import Asked, Row, raw_row, sliding, start
from bytegolf.device import find_libraries, resolve
from bytegolf.record import fingerprint
from bytegolf.screen import console

if TYPE_CHECKING:
    from rich.text import Text

# Rows and ids that one forward and backward takes: of training byte260-jepa; on the CPU what fits into seconds.
SIZES = {"cpu": (2, 1024), "cuda": (12, 4096)}


def _codec(asked: Asked) -> list[Row]:
    """Quantising and packing 24.6 M parameters with the shapes of byte260-jepa, and reading them back."""
    from bytegolf.codec import dequantise, load_parameters, pack_parameters, quantise

    random, threads = np.random.default_rng(0), asked.threads
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
        work: dict[str, Callable[[], Any]] = {
            "pack": lambda: pack_parameters(params, path, threads=threads),
            "read": lambda: load_parameters(path, threads=threads),
        }
        timed = {verb: _timed(call, asked.budget_s) for verb, call in work.items()}
        back = load_parameters(path, threads=threads)[1]
    want = dequantise(quantise(params, "int6_mixed", threads=threads))
    return [
        raw_row(
            "codec",
            f"{verb} {count / 1e6:.1f} M parameters, {console.size(size)}",
            **timed[verb],
            bytes=4.0 * count + size,
            error=max(float(np.max(np.abs(back[k] - want[k]))) for k in params),
            checked_at="the size timed, absolute",
        )
        for verb in work
    ]


def _timed(work: Callable[[], Any], budget_s: float) -> dict[str, list[float]]:
    seconds: list[float] = []
    cpu_seconds: list[float] = []
    while not seconds or sum(seconds) < budget_s:
        began, cpu_began = time.perf_counter(), time.process_time()
        work()
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - cpu_began)
    return {"seconds": seconds, "cpu_seconds": cpu_seconds}


# What is timed from Python, after the groups of the core.
WHOLE: dict[str, dict[str, Callable[[Asked], list[Row]]]] = {
    "cpu": {"codec": _codec},
    "cuda": {"start": start, "sliding": sliding, "scaling": scaling},
}


def names(device: str = "cpu") -> list[str]:
    """Everything that `run_bench` can measure on the device, in its order."""
    kind = device.partition(":")[0]
    return [*_bytegolf.bench_groups(kind), *WHOLE[kind]]


def run_bench(
    device: str = "cpu",
    as_json: bool = False,
    ops: Sequence[str] | None = None,
    *,
    budget_s: float = 1.0,
    threads: int = 0,
    library: str = "builtin",
    dtype: str = "auto",
    rows: int = 0,
    length: int = 0,
) -> dict[str, Any]:
    """Measures the groups `ops` (all when None), prints a table of each or JSON at the end; returns the same values.

    budget_s: seconds of timed calls, for a whole group on the CPU, for each figure on a GPU (at least 3 calls are
    made). threads (0: one per core) and library (what multiplies matrices: builtin, onednn, openblas) apply to the
    CPU. rows, length: of ids that one forward and backward takes; 0 means those of SIZES. Returns `machine` (facts,
    gemm_gflops, copy_gbs) and `rows`, each as `figure` makes it. Raises ValueError for an unknown device, group or
    library, and where the device cannot be used.
    """
    device, dtype = resolve(device, dtype)
    kind = device.partition(":")[0]
    known = names(device)
    unknown = [op for op in ops or () if op not in known]
    if unknown:
        raise ValueError(f"nothing called {unknown[0]!r} to measure on {device}; known are {', '.join(known)}")
    find_libraries()
    asked = Asked(device, dtype, rows or SIZES[kind][0], length or SIZES[kind][1], budget_s, threads)
    rates = _bytegolf.bench_rates(min(0.5, budget_s), device, dtype, threads, library)
    machine = _machine(asked, library, rates)
    found: dict[str, Any] = {"machine": machine, "rows": []}
    if not as_json:
        _show_machine(machine)
    for group in ops or known:
        if group in WHOLE[kind]:
            raw = WHOLE[kind][group](asked)
        else:
            raw = _bytegolf.bench_group(
                group, asked.rows, asked.length, budget_s, device, dtype, threads=threads, library=library
            )
        figures = [figure(row, rates) for row in raw]
        found["rows"].extend(figures)
        if not as_json:
            show(group, figures)
    machine["load"] = os.getloadavg()[0]
    if as_json:
        console.print_json(found)
    elif kind == "cpu" and machine["load"] > 1.3 * machine["threads"]:
        console.stdout().print(
            f"The machine was busy (load {machine['load']:.1f} on {machine['cores']} cores): "
            "trust the shares by CPU time.",
            style="yellow",
        )
    return found


def _machine(asked: Asked, library: str, rates: dict[str, float]) -> dict[str, Any]:
    """Facts that the figures depend on."""
    machine = {
        **fingerprint.machine(),
        "commit": fingerprint.commit(),
        "device": asked.device,
        "dtype": asked.dtype,
        "rows": asked.rows,
        "length": asked.length,
        "gemm_gflops": rates["gemm_flops"] / 1e9,
        "copy_gbs": rates["copy_bytes"] / 1e9,
    }
    if asked.device == "cpu":
        machine["threads"] = asked.threads or fingerprint.cores()
        machine["target"] = _bytegolf.cpu_target()
        machine["gemm_library"] = library
        machine["gemm_libraries"] = _bytegolf.gemm_libraries()
    else:
        info = _bytegolf.gpu_info()
        machine |= {key: info[key] for key in ("gpus", "driver", "runtime")}
        machine["libraries"] = _bytegolf.cuda_library_report()
    return machine


def figure(raw: Row, rates: dict[str, float]) -> Row:
    """What is shown of one piece of work.

    On the CPU, where other programs stretch calls, gflops, gbs and share are those of the best call, as the rates are;
    on a GPU those of the median. share: of the larger of both floors; gemm_share_cpu: of the arithmetic by CPU time.
    """
    seconds = sorted(raw["seconds"])
    median, quarter = statistics.median(seconds), len(seconds) // 4
    cpu_seconds, error = raw["cpu_seconds"], raw["error"]
    call = seconds[0] if cpu_seconds else median
    arithmetic, copying = raw["flops"] / rates["gemm_flops"], raw["bytes"] / rates["copy_bytes"]
    return {
        "group": raw["group"],
        "what": raw["what"],
        "calls": len(seconds),
        "median_ms": 1e3 * median,
        "best_ms": 1e3 * seconds[0],
        "spread_percent": 100 * (seconds[-1 - quarter] - seconds[quarter]) / median,
        "arithmetic_floor_ms": 1e3 * arithmetic,
        "bytes_floor_ms": 1e3 * copying,
        "gflops": raw["flops"] / call / 1e9,
        "gbs": raw["bytes"] / call / 1e9,
        "share": max(arithmetic, copying) / call,
        "gemm_share_cpu": raw["flops"] / min(cpu_seconds) / rates["gemm_flops_cpu"] if cpu_seconds else 0.0,
        "ids_per_s": raw["ids"] / call,
        "memory_bytes": raw["memory_bytes"],
        "error": error,
        "tolerance": raw["tolerance"],
        "checked_at": raw["checked_at"],
        "ok": error is None or bool(error <= raw["tolerance"]),
    }


def _show_machine(machine: dict[str, Any]) -> None:
    if machine["device"] == "cpu":
        library = f"GEMM library {machine['gemm_library']}"
        where = f"{machine['cpu']}, {machine['threads']} threads, {machine['target']}, {library}"
    else:
        versions = "; ".join(f"{row['name']} {row['version']}" for row in machine["libraries"])
        where = f"{machine['gpus'][0]['name']}; {versions}"
    console.stdout().print(
        f"{where}. {machine['dtype']}, {machine['rows']} rows of {machine['length']} ids. Rates of this run: "
        f"{machine['gemm_gflops']:,.0f} GFLOP/s (large matrix product), {machine['copy_gbs']:,.1f} GB/s (copy, read "
        "plus written).\n"
        "median, best: ms a call; spread: between quartiles, over the median; arithmetic, bytes: floors in ms at "
        "those two rates; share: of the larger of both (CPU: best call, GPU: median); by CPU: of arithmetic, by CPU "
        "time; error: relative, against the CPU in float64."
    )


def _ms(value: float) -> str:
    return "" if not value else f"{value:.4f}" if value < 1 else f"{value:.3f}" if value < 100 else f"{value:.1f}"


def _number(value: float) -> str:
    return "" if not value else f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %" if share else ""


def _error(row: Row) -> str | Text:
    error = "" if row["error"] is None else f"{row['error']:.0e}"
    return error if row["ok"] else console.text(f"{error} > {row['tolerance']:.0e}", "red")


# Headings and cells of a group's table; a column that is empty in every row is left out.
COLUMNS: dict[str, Callable[[Row], str | Text]] = {
    "median": lambda row: _ms(row["median_ms"]),
    "best": lambda row: _ms(row["best_ms"]),
    "spread": lambda row: f"{row['spread_percent']:.0f} %",
    "calls": lambda row: str(row["calls"]),
    "arithmetic": lambda row: _ms(row["arithmetic_floor_ms"]),
    "bytes": lambda row: _ms(row["bytes_floor_ms"]),
    "GFLOP/s": lambda row: _number(row["gflops"]),
    "GB/s": lambda row: _number(row["gbs"]),
    "share": lambda row: _percent(row["share"]),
    "by CPU": lambda row: _percent(row["gemm_share_cpu"]),
    "ids/s": lambda row: _number(row["ids_per_s"]),
    "memory": lambda row: console.size(row["memory_bytes"]) if row["memory_bytes"] else "",
    "error": _error,
}


def show(group: str, figures: list[Row]) -> None:
    """Prints the figures of one group as a table."""
    cells = {heading: [cell(row) for row in figures] for heading, cell in COLUMNS.items()}
    cells = {heading: column for heading, column in cells.items() if any(column)}
    table = console.table(group, *cells, right=tuple(cells))
    for column in table.columns:
        column.no_wrap = True
    for row, *shown in zip([row["what"] for row in figures], *cells.values(), strict=True):
        table.add_row(row, *shown)
    out = console.stdout()
    if not out.is_terminal:
        out.width = max(out.width, 160)  # a file or a pipe has no edge to fold at
    out.print(table)
    sys.stdout.flush()
