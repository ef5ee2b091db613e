"""The verbs of a machine: what is live on it, how fast it is, and whether it agrees with the published programs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from bytegolf.cli.words import Dtype, Json
from bytegolf.errors import UserError

app = App(help_format="markdown")


@app.command
def parity(
    *files: Path,
    dtype: Annotated[
        Literal["auto", "float64", "float32", "bfloat16"],
        Parameter(help="Arithmetic to compare in; auto: float64 on cpu, bfloat16 on cuda."),
    ] = "auto",
    device: Literal["cpu", "cuda"] = "cpu",
    as_json: Json = False,
) -> int:
    """Recompute what fixtures of the published programs hold, and show the worst errors. Status 1 on any miss.

    Parameters
    ----------
    files
        Fixtures (.npz) of any kind.
    device
        Where to compute.
    """
    from bytegolf.checks.parity import main_report

    if not files:
        raise UserError("name at least one fixture (.npz)")
    return main_report([str(f) for f in files], dtype, device, as_json)


@app.command
def doctor(*, as_json: Json = False) -> None:
    """Show what is live on this machine (CPU features, GEMM and its speed, CUDA and its GPUs, zstd) and why something is not."""
    from bytegolf.checks.doctor import doctor_command

    doctor_command(as_json)


@app.command
def bench(
    *ops: str,
    device: Literal["cpu", "cuda"] = "cpu",
    dtype: Dtype = "auto",
    threads: int = 0,
    library: str = "builtin",
    budget_s: float = 1.0,
    as_json: Json = False,
) -> int:
    """Time each op and a whole training step, beside what the machine's arithmetic and memory allow.

    Parameters
    ----------
    ops
        What to measure, all when none is named: gemm, attention, elementwise, newton_schulz, adam, step, generate, codec; on cuda
        gemm, attention, elementwise, optimiser, model, step, start, sliding, scaling (several GPUs).
    device
        cpu: float32 at B = 2, T = 1024. cuda: at the sizes of training, 12 rows of 4096 ids.
    threads
        0 means one per core.
    library
        Library for matrix products: builtin, onednn, openblas.
    budget_s
        Seconds of timed calls: for each group on the CPU, for each figure on a GPU.
    """
    from bytegolf.bench.command import run_bench

    found = run_bench(device, as_json, ops or None, threads=threads, library=library, budget_s=budget_s, dtype=dtype)
    return 0 if all(row["ok"] for row in found["rows"]) else 1
