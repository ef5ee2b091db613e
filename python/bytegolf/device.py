"""Where to compute and in which numbers: "auto" made definite, and why a GPU cannot be used."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from bytegolf import _bytegolf

DEVICES = ("cpu", "cuda")
DTYPES = {"cpu": ("float32", "float64"), "cuda": ("bfloat16", "float32")}  # the first of each is what "auto" means
# Where NVIDIA's Python packages for CUDA 13 and 12 keep their libraries, below the folder `nvidia`.
_WHEEL_FOLDERS = ("cu13/lib", "cublas/lib", "nccl/lib")


def resolve(device: str = "auto", dtype: str = "auto") -> tuple[str, str]:
    """The device and dtype that these words stand for.

    device auto: cuda when a GPU can be used, else cpu; cuda:1 is the second visible GPU. dtype auto: bfloat16 on cuda, float32 on
    cpu. ValueError for unknown words, a dtype that the device does not know, and cuda where it cannot be used (with the reason).
    """
    kind, colon, number = device.partition(":")
    if kind not in ("auto", *DEVICES) or (colon and (kind != "cuda" or not number.isdecimal())):
        raise ValueError(f"unknown device {device}; known: auto, {', '.join(DEVICES)}, cuda:NUMBER")
    if kind != "cpu":
        unusable = why_no_gpu()
        if kind == "cuda" and unusable:
            raise ValueError(f"device {device}: {unusable}; `bytegolf doctor` says more")
        kind = "cpu" if unusable else "cuda"
    chosen = kind + colon + number
    if dtype == "auto":
        return chosen, DTYPES[kind][0]
    if dtype not in DTYPES[kind]:
        known = {name for names in DTYPES.values() for name in names}
        what = f"device {kind} does not compute in {dtype}" if dtype in known else f"unknown dtype {dtype}"
        raise ValueError(f"{what}; known on {kind}: auto, {', '.join(DTYPES[kind])}")
    return chosen, dtype


def of_rank(device: str, local_rank: int) -> str:
    """The device of one of several ranks on a host: each has a GPU of its own, or all are on the CPU.

    A rank that sees one GPU only was given it by its launcher. ValueError for more ranks than GPUs.
    """
    kind, _ = resolve(device)
    if kind != "cuda":
        return kind
    count = len(_bytegolf.gpu_info()["gpus"])
    if local_rank >= count > 1:
        raise ValueError(f"local rank {local_rank} has no GPU of its own: {count} are visible here")
    return f"cuda:{local_rank if count > 1 else 0}"


@functools.cache
def why_no_gpu() -> str:
    """Why no GPU can be used, or "". Looks once a process."""
    find_libraries()
    unusable = str(_bytegolf.gpu_info()["unusable"])
    if unusable:
        return unusable
    missing = [
        f"{row['name']} {row['problem']}" for row in _bytegolf.cuda_library_report() if row["problem"] and row["always"]
    ]
    return f"{missing[0]} (pip install 'bytegolf[cuda]' brings it)" if missing else ""


@functools.cache
def find_libraries() -> None:
    """Tells the core where Python packages keep libraries that it can use, when they are installed: NVIDIA's those of CUDA,
    scipy-openblas32 OpenBLAS.
    """
    for folder in library_folders():
        _bytegolf.add_cuda_library_folder(str(folder))
    openblas = importlib.util.find_spec("scipy_openblas32")
    if openblas is not None and openblas.origin is not None:
        _bytegolf.add_gemm_library_folder(str(Path(openblas.origin).parent / "lib"))


def library_folders() -> list[Path]:
    """Folders of CUDA libraries that came as Python packages; importing none of them."""
    spec = importlib.util.find_spec("nvidia")  # a namespace: each of NVIDIA's packages adds to it
    places = [Path(place) for place in (spec.submodule_search_locations if spec else None) or ()]
    return [place / folder for place in places for folder in _WHEEL_FOLDERS if (place / folder).is_dir()]
