"""Where to compute and in which numbers: "auto" made definite, and why a GPU cannot be used."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

from bytegolf import _bytegolf

DEVICES = ("cpu", "cuda")
DTYPES = {"cpu": ("float32", "float64"), "cuda": ("bfloat16", "float32")}  # the first of each is what "auto" means
# Where NVIDIA's Python packages for CUDA 13 and 12 keep their libraries, below the folder `nvidia`.
_WHEEL_FOLDERS = ("cu13/lib", "cublas/lib")


def resolve(device: str = "auto", dtype: str = "auto") -> tuple[str, str]:
    """The device and dtype that these words stand for.

    device auto: cuda when a GPU can be used, else cpu. dtype auto: bfloat16 on cuda, float32 on cpu. ValueError for
    unknown words, a dtype that the device does not know, and cuda where it cannot be used (with the reason).
    """
    if device not in ("auto", *DEVICES):
        raise ValueError(f"unknown device {device}; known: auto, {', '.join(DEVICES)}")
    if device != "cpu":
        unusable = why_no_gpu()
        if device == "cuda" and unusable:
            raise ValueError(f"device cuda: {unusable}; `bytegolf doctor` says more")
        device = "cpu" if unusable else "cuda"
    if dtype == "auto":
        return device, DTYPES[device][0]
    if dtype not in DTYPES[device]:
        known = {name for names in DTYPES.values() for name in names}
        what = f"device {device} does not compute in {dtype}" if dtype in known else f"unknown dtype {dtype}"
        raise ValueError(f"{what}; known on {device}: auto, {', '.join(DTYPES[device])}")
    return device, dtype


@functools.cache
def why_no_gpu() -> str:
    """Why no GPU can be used, or "". Looks once a process."""
    find_libraries()
    unusable = str(_bytegolf.gpu_info()["unusable"])
    if unusable:
        return unusable
    missing = [f"{row['name']} {row['problem']}" for row in _bytegolf.cuda_library_report() if row["problem"]]
    return f"{missing[0]} (pip install 'bytegolf[cuda]' brings it)" if missing else ""


@functools.cache
def find_libraries() -> None:
    """Tells the core where NVIDIA's Python packages keep CUDA's libraries, when they are installed."""
    for folder in library_folders():
        _bytegolf.add_cuda_library_folder(str(folder))


def library_folders() -> list[Path]:
    """Folders of CUDA libraries that came as Python packages; importing none of them."""
    spec = importlib.util.find_spec("nvidia")  # a namespace: each of NVIDIA's packages adds to it
    places = [Path(place) for place in (spec.submodule_search_locations if spec else None) or ()]
    return [place / folder for place in places for folder in _WHEEL_FOLDERS if (place / folder).is_dir()]
