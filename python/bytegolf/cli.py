"""The command `bytegolf`: one function per verb, and how mistakes are told from bugs.

Verbs import what they need when they run, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, CycloptsError, Parameter

from bytegolf import FormatError, NumericsError, __version__
from bytegolf.console import UserError

app = App(
    name="bytegolf",
    version=__version__,
    help="Train, squeeze and score byte-level language models.",
    help_epilogue="`bytegolf VERB --help` tells the options of a verb. With --traceback anywhere, errors show where they arose.",
    help_format="markdown",
)
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON value instead of a table.")]


@app.command
def doctor(*, json: Json = False) -> None:
    """Show what is live on this machine (CPU features, GEMM library and its speed, CUDA, zstd) and why something is not."""
    from bytegolf import console
    from bytegolf import doctor as examination

    found = examination.examine()
    if json:
        console.print_json(found)
    else:
        examination.show(found)


@app.command
def config(preset: str = "byte260-jepa", /, *overrides: str, docs: bool = True) -> None:
    """Print a preset as TOML, ready to be edited and trained.

    Parameters
    ----------
    preset
        byte260-jepa, byte260, byte256, byte256-jepa, byte256-patch, demo; or a TOML file.
    overrides
        Options to change, as name=value.
    docs
        With the unit and meaning of each option as a comment.
    """
    from bytegolf.options import resolve

    sys.stdout.write(resolve(preset, list(overrides)).text(docs=docs))


@app.command
def bench(
    *ops: str, device: str = "cpu", threads: int = 0, library: str = "builtin", budget_s: float = 1.0, json: Json = False
) -> int:
    """Time each op and a whole training step, beside what the machine's arithmetic and memory allow.

    Parameters
    ----------
    ops
        What to measure, all when none is named: gemm, attention_forward, attention_backward, newton_schulz, adam, step, codec.
    device
        cpu.
    threads
        0 means one per core.
    library
        Who multiplies matrices: builtin, onednn, openblas.
    budget_s
        Seconds of timed calls for each op.
    """
    from bytegolf.bench import run_bench

    found = run_bench(device, json, ops or None, threads=threads, library=library, budget_s=budget_s)
    return 0 if all(row["ok"] for row in found["rows"]) else 1


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs one command and leaves with its status (0 done, 1 missed, 2 user's mistake, 130 interrupted)."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    traceback = "--traceback" in tokens
    tokens = [t for t in tokens if t != "--traceback"]
    try:
        status = _run(tokens or ["--help"])
    except KeyboardInterrupt:
        sys.stderr.write("interrupted\n")
        status = 130
    except BrokenPipeError:
        sys.stderr.close()
        status = 141
    except NumericsError as error:
        if traceback:
            raise
        status = _refuse(str(error), 1)
    except (UserError, FormatError, ValueError, OSError, CycloptsError) as error:
        if traceback:
            raise
        status = _refuse(str(error), 2)
    sys.exit(status)


def _run(tokens: list[str]) -> int:
    command, bound, _ = app.parse_args(tokens, exit_on_error=False, print_error=False)
    status = command(*bound.args, **bound.kwargs)
    return status if isinstance(status, int) else 0


def _refuse(message: str, status: int) -> int:
    sys.stderr.write("bytegolf: " + " ".join(message.split()) + "\n")
    return status


__all__ = ["Path", "app", "main"]
