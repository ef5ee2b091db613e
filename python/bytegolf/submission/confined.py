"""The first lines that run inside the sandbox, our own: they copy what was laid out, set limits, and become the command.

Run by path with Python alone (`python -I confined.py SPEC COMMAND...`); imports nothing of the package.
"""

from __future__ import annotations

import contextlib
import json
import os
import resource
import shutil
import sys

LIMITS = {
    "memory_bytes": resource.RLIMIT_AS,
    "file_bytes": resource.RLIMIT_FSIZE,
    "processes": resource.RLIMIT_NPROC,
    "seconds": resource.RLIMIT_CPU,
    "files": resource.RLIMIT_NOFILE,
    "core_bytes": resource.RLIMIT_CORE,
}


def main(spec: str, command: list[str]) -> None:
    """`spec` is JSON: `copies` (pairs of folders, from and to) and `limits` (by the names above)."""
    told = json.loads(spec)
    for source, target in told["copies"]:
        shutil.copytree(source, target)
    for name, value in told["limits"].items():
        _, most = resource.getrlimit(LIMITS[name])
        if most != resource.RLIM_INFINITY:
            value = min(value, most)
        with contextlib.suppress(ValueError, OSError):  # a system without this limit
            resource.setrlimit(LIMITS[name], (value, value))
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
