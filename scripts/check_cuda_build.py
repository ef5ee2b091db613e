#!/usr/bin/env python3
"""Checks a CMake folder that was built with CUDA kernels: scripts/check_cuda_build.py build/cuda, with or without a GPU.

The module loads; where there is no GPU, asking for one says why, and the CUDA tests skip, saying why. Where there is
one, the CUDA tests pass.
"""

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType


def load(folder: Path) -> ModuleType:
    """The module as it was built, not the installed one."""
    (path,) = folder.glob("_bytegolf*.so")
    spec = importlib.util.spec_from_file_location("_bytegolf", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    folder = Path(sys.argv[1])
    core = load(folder)
    info = core.gpu_info()
    assert info["built"], info
    print(f"the module loads; no GPU can be used: {info['unusable']}" if info["unusable"] else f"GPUs: {info['gpus']}")
    if info["unusable"]:
        try:
            core.Model(core.Config.preset("demo"), "cuda", "bfloat16", 0, 1)
        except OSError as error:
            assert info["unusable"] in str(error) and "doctor" in str(error), error
            print(f"asking for one: {error}")
        else:
            sys.exit("a model was made on a GPU that cannot be used")
    command = [str(folder / "bytegolf_tests"), "--gtest_filter=*Cuda*:*CUDA*:*Gpu*"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    ran, skipped, passed = (
        int(found[1]) if (found := re.search(pattern, done.stdout)) else 0
        for pattern in (r"(\d+) tests? from .* ran", r"SKIPPED *\] (\d+) test", r"PASSED *\] (\d+) test")
    )
    if done.returncode or not ran or (info["unusable"] and not skipped):
        sys.exit(f"{done.stdout[-3000:]}\n{done.stderr[-2000:]}\nthe CUDA tests did not do as they should")
    print(f"CUDA tests: {ran} ran, {passed} passed, {skipped} SKIPPED" + (" (no GPU)" if skipped else ""))


if __name__ == "__main__":
    main()
