"""What of bytegolf is live on this machine, and why something is not: `bytegolf doctor`."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

from bytegolf import _bytegolf, device
from bytegolf.record import fingerprint
from bytegolf.screen import console

GEMM_BUDGET_S = 0.2  # seconds of measuring, per library

# Optional packages: module, name on the index, extra of bytegolf, what for.
OPTIONAL = (
    ("matplotlib", "matplotlib", "plots", "curves.png of a run, `plot`"),
    ("pyarrow", "pyarrow", "data", "`data prepare` from Parquet"),
    ("zstandard", "zstandard", "data", "`data prepare` from .zst files"),
    ("sentencepiece", "sentencepiece", "data", "`data prepare` from sp1024 shards"),
    ("huggingface_hub", "huggingface-hub", "data", "`data fetch`"),
    ("scipy", "scipy", "sweep", "`report`"),
    ("submitit", "submitit", "sweep", "`sweep` on Slurm"),
    ("tensorboard", "tensorboard", "track", "looking at what option track wrote"),
    ("wandb", "wandb", "track", "option track"),
    ("trackio", "trackio", "track", "option track"),
    ("pytest", "pytest", "test", "./test"),
    ("hypothesis", "hypothesis", "test", "./test"),
)


def doctor_command(as_json: bool) -> None:
    """Prints all findings, as a table or as JSON."""
    found = examine()
    if as_json:
        console.print_json(found)
    else:
        show(found)


def examine() -> dict[str, Any]:
    """All findings, as plain values for JSON."""
    cpu = fingerprint.cpu_facts()
    total, available = fingerprint.memory_bytes()
    return {
        "bytegolf": {"version": _bytegolf.__version__, "commit": fingerprint.commit()},
        "cpu": {
            "model": cpu["model"],
            "features": cpu["features"],
            "target": _bytegolf.cpu_target(),
            "cores": fingerprint.cores(),
        },
        "memory": {"total_bytes": total, "available_bytes": available},
        "gemm": gemm_libraries(),
        "zstd": {"live": True, "version": _bytegolf.zstd_version()},
        "cuda": cuda(),
        "packages": [
            {
                "name": name,
                "version": fingerprint.package_version(name) if find_spec(module) else None,
                "extra": extra,
                "for": use,
            }
            for module, name, extra, use in OPTIONAL
        ],
    }


def cuda() -> dict[str, Any]:
    """What CUDA has to say: built or not, versions, GPUs, libraries, and why no GPU can be used."""
    device.find_libraries()
    info = _bytegolf.gpu_info()
    libraries = _bytegolf.cuda_library_report() if info["built"] else []
    why = device.why_no_gpu()
    return {"live": not why, "why": why, **info, "libraries": libraries}


def _gflops(library: str) -> float:
    return float(_bytegolf.bench_rates(GEMM_BUDGET_S, library=library)["gemm_flops"]) / 1e9


def gemm_libraries() -> list[dict[str, Any]]:
    """Each library that can multiply matrices: whether it is usable, its measured speed, and what is known about it."""
    device.find_libraries()
    found = []
    for row in _bytegolf.gemm_libraries():
        live = bool(row["available"])
        rate = _gflops(row["name"]) if live else None
        found.append({"name": row["name"], "live": live, "gflops": rate, "detail": row["detail"]})
    return found


def show(found: dict[str, Any]) -> None:
    """Prints the findings of `examine` as a table."""
    rows = console.table("part", "state", "details")
    yes, no = console.text("live", "green"), console.text("off", "yellow")
    about, cpu, memory = found["bytegolf"], found["cpu"], found["memory"]
    rows.add_row("bytegolf", yes, f"{about['version']}, commit {about['commit'] or 'unknown'}")
    rows.add_row("cpu", yes, f"{cpu['model']}; {cpu['cores']} cores; {' '.join(cpu['features'])}")
    rows.add_row("kernels", yes, f"Highway target {cpu['target']}")
    for gemm in found["gemm"]:
        speed = f"{gemm['gflops']:.0f} GFLOP/s in float32 (2048x512x512); " if gemm["live"] else ""
        rows.add_row(f"gemm: {gemm['name']}", yes if gemm["live"] else no, speed + gemm["detail"])
    free, total = console.size(memory["available_bytes"]), console.size(memory["total_bytes"])
    rows.add_row("memory", yes, f"{free} free of {total}")
    rows.add_row("zstd", yes, f"{found['zstd']['version']}")
    gpu = found["cuda"]
    state = [] if gpu["built"] else ["no CUDA kernels in this build (nvcc was not found, or BYTEGOLF_CUDA=OFF)"]
    if gpu["built"]:
        runtime = f"kernels for compute capability 9.0, runtime {gpu['runtime'] or 'unknown'}"
        state = [runtime, f"driver {gpu['driver']}" if gpu["driver"] else "no driver"]
        state += [gpu["why"]] if gpu["why"] else []
    rows.add_row("cuda", yes if gpu["live"] else no, "; ".join(state))
    for index, one in enumerate(gpu["gpus"]):
        usable = one["capability"] == "9.0"
        details = f"{one['name']}, compute capability {one['capability']}, {console.size(one['total_bytes'])}"
        rows.add_row(f"gpu {index}", yes if usable else no, details)
    for library in gpu["libraries"]:
        version = f"{library['version']}, {library['path']}" + ("" if library["always"] else "; for several GPUs")
        rows.add_row(f"cuda: {library['name']}", no if library["problem"] else yes, library["problem"] or version)
    for package in found["packages"]:
        live = package["version"] is not None
        hint = package["version"] if live else f"pip install 'bytegolf[{package['extra']}]'"
        rows.add_row(package["name"], yes if live else no, f"{hint}; for {package['for']}")
    console.stdout().print(rows)
