#!/usr/bin/env python3
"""The part of requirements/ci.lock that an installation needs, for `pip install --require-hashes -r`.

    python scripts/locked.py --extras demo,test    bytegolf's own requirements, these extras, what a build needs, and all below them
    python scripts/locked.py --packages numpy      these packages and all below them

Status 1 and the reason where the lock is of another Python or system, or lacks a package. Needs nothing but Python.
"""

import argparse
import platform
import re
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
LOCK = ROOT / "requirements" / "ci.lock"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def name_of(requirement: str) -> str:
    """A package's name as indices compare it."""
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    return re.sub(r"[-_.]+", "-", found[0]).lower() if found else ""


def build_requirements() -> list[str]:
    """What a build needs, with bounds."""
    tools = PROJECT["tool"]["scikit-build"]
    return [*PROJECT["build-system"]["requires"], *(f"{tool}{tools[tool]['version']}" for tool in ("cmake", "ninja"))]


def declared(extras: list[str]) -> list[str]:
    """What pyproject.toml asks for with these extras, without what only a build needs."""
    optional = PROJECT["project"]["optional-dependencies"]
    return [*PROJECT["project"]["dependencies"], *(line for extra in extras for line in optional[extra])]


def read_lock(text: str) -> tuple[str, dict[str, str], dict[str, set[str]]]:
    """The system that a lock is for, each package's lines, and the packages that each is needed by."""
    head, _, rest = text.partition("\n")
    blocks, needed_by = {}, {}
    for block in re.split(r"^(?=[a-z0-9])", rest, flags=re.MULTILINE):
        if block.strip():
            name = name_of(block)
            via = re.search(r"^ +# via (.*)$", block, re.MULTILINE)
            blocks[name] = "".join(
                line for line in block.splitlines(keepends=True) if not line.lstrip().startswith("#")
            )
            needed_by[name] = {name_of(word) for word in via[1].split(", ")} if via else set()
    return head.removeprefix("# "), blocks, needed_by


def closure(roots: set[str], needed_by: dict[str, set[str]]) -> set[str]:
    """`roots` and all that they need, at any depth."""
    found = set(roots)
    while more := {name for name, parents in needed_by.items() if name not in found and parents & found}:
        found |= more
    return found


def here() -> str:
    """This Python and system, in the words of a lock's first line."""
    python = f"{sys.implementation.name} {sys.version_info.major}.{sys.version_info.minor}"
    return f"{python} {sys.platform} {platform.machine()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--extras", help="names with commas between them")
    which.add_argument("--packages", nargs="+")
    which.add_argument(
        "--declared-build", action="store_true", help="what a build needs, with bounds instead of a lock"
    )
    args = parser.parse_args()
    if args.declared_build:
        print("\n".join(build_requirements()))
        return
    system, blocks, needed_by = read_lock(LOCK.read_text(encoding="utf-8"))
    if system != here():
        sys.exit(f"{LOCK.relative_to(ROOT)} is for {system}, and this is {here()}")
    if args.packages:
        roots = {name_of(name) for name in args.packages}
    else:
        roots = {name_of(line) for line in declared([word for word in args.extras.split(",") if word])}
        roots |= {name_of(line) for line in PROJECT["build-system"]["requires"]}
    lacking = sorted(roots - blocks.keys())
    if lacking:
        sys.exit(f"{LOCK.relative_to(ROOT)} has no {', '.join(lacking)}")
    wanted = closure(roots, needed_by)
    sys.stdout.write("".join(block for name, block in blocks.items() if name in wanted))


if __name__ == "__main__":
    main()
