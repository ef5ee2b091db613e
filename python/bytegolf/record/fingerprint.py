"""Where and with what a run happened: machine, versions, commit. Written to the log, shown by `bytegolf doctor`."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from bytegolf import _bytegolf


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def cpu_facts() -> dict[str, Any]:
    """Model name and instruction sets of the CPU, as the kernel names them; only known flags that matter here."""
    model, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                model = value.strip()
            elif key.strip() in ("flags", "Features"):
                flags = set(value.split())
                break
    except OSError:
        pass
    interesting = (
        "sse4_2 avx fma f16c avx2 avx_vnni avx512f avx512bw avx512_vnni avx512_bf16 amx_bf16 amx_int8 asimd sve"
    )
    return {"model": model, "features": [f for f in interesting.split() if f in flags]}


def memory_bytes() -> tuple[int, int]:
    """Bytes of memory: (total, available now); (0, 0) where the system does not say."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return 0, 0
    kib = {line.split(":")[0]: int(line.split()[1]) for line in lines if ":" in line}
    return kib.get("MemTotal", 0) * 1024, kib.get("MemAvailable", 0) * 1024


def commit() -> str | None:
    """Commit of the checkout the package runs from, with '+changes' when files differ; None outside a checkout."""
    here = Path(__file__).resolve()
    root = here.parents[3] if len(here.parents) > 3 else here.parent
    if not (root / ".git").exists():
        return None

    def git(*args: str) -> str:
        done = subprocess.run(
            ["git", "-C", str(root), *args],
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
            stdin=subprocess.DEVNULL,
        )
        return done.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def package_version(name: str) -> str | None:
    """Version of an installed package, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def hardware(device: str, processes: int = 1) -> str:
    """What computes, in words: one GPU a process, or the CPU."""
    gpus = _bytegolf.gpu_info()["gpus"] if device.startswith("cuda") else []
    return f"{processes} x {gpus[0]['name']}" if gpus else f"{cores()} cores of {cpu_facts()['model']}"


def machine() -> dict[str, Any]:
    """Facts of this machine and build that a figure is measured under."""
    cpu = cpu_facts()
    total, _ = memory_bytes()
    return {
        "system": f"{platform.system()} {platform.release()}",
        "cpu": cpu["model"],
        "cpu_target": _bytegolf.cpu_target(),
        "cores": cores(),
        "memory_bytes": total,
        "python": platform.python_version(),
        "numpy": package_version("numpy"),
        "zstd": _bytegolf.zstd_version(),
        "executable": sys.executable,
    }
