"""Executes notebooks and keeps the results as .ipynb and .html.

    .venv/bin/python scripts/run_notebooks.py [NAME ...] [--out build/notebooks] [--seconds S] [--limit-s S]

NAME: a notebook's number or the start of its name (01, 03_where); all when none is given. Each runs in a kernel of its own
with the output folder as working folder, so that what one trained the next one finds. --seconds shortens training in
all of them (BYTEGOLF_NOTEBOOK_SECONDS); --limit-s: seconds that one may take. Needs `pip install 'bytegolf[notebooks]'`.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"


def sources(names: list[str]) -> list[Path]:
    """The notebooks that these names mean, in order. SystemExit for a name that means none."""
    known = sorted(FOLDER.glob("[0-9][0-9]_*.py"))
    for name in names:
        if not any(path.name.startswith(name) for path in known):
            raise SystemExit(f"no notebook {name}; known: {', '.join(path.stem for path in known)}")
    return [path for path in known if not names or any(path.name.startswith(name) for name in names)]


def execute(source: Path, folder: Path, limit_s: float) -> Any:
    """The notebook of a percent script, executed in `folder`. nbclient's CellExecutionError shows the cell that failed."""
    import jupytext
    from nbclient import NotebookClient

    book = jupytext.read(source)
    client = NotebookClient(book, timeout=limit_s, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    kernel = client.create_kernel_manager()
    kernel.kernel_spec.argv[0] = sys.executable  # this very Python, whatever kernels the machine has registered
    with tempfile.TemporaryDirectory(prefix="bytegolf-") as sockets:  # no network, and a path short enough for a socket
        kernel.transport, kernel.ip, kernel.connection_file = "ipc", f"{sockets}/kernel", f"{sockets}/kernel.json"
        return client.execute()


def write(book: Any, path: Path) -> None:
    """path.ipynb and path.html."""
    import nbformat
    from nbconvert import HTMLExporter

    nbformat.write(book, path.with_suffix(".ipynb"))
    html, _ = HTMLExporter().from_notebook_node(book, resources={"metadata": {"name": path.stem}})
    path.with_suffix(".html").write_text(html, encoding="utf-8")


def main(arguments: list[str] | None = None) -> None:
    """Runs what the command line names; leaves with the first failure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--out", type=Path, default=FOLDER.parent / "build" / "notebooks")
    parser.add_argument("--seconds", type=float)
    parser.add_argument("--limit-s", type=float, default=1800)
    given = parser.parse_args(arguments)
    chosen = sources(given.names)
    given.out.mkdir(parents=True, exist_ok=True)
    if given.seconds is not None:
        os.environ["BYTEGOLF_NOTEBOOK_SECONDS"] = str(given.seconds)
    for source in chosen:
        began = time.monotonic()
        print(f"{source.stem} ...", end=" ", flush=True)
        book = execute(source, given.out, given.limit_s)
        write(book, given.out / source.stem)
        print(f"{time.monotonic() - began:.0f} s, {given.out / source.stem}.html", flush=True)


if __name__ == "__main__":
    main()
