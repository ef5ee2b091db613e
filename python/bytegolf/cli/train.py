"""The verbs that make a run: `config` prints options, `train`, `launch` and `demo` train by them."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter

from bytegolf.cli.words import Run

app = App(help_format="markdown")


@app.command
def demo(*overrides: str, seconds: float = 120.0, seed: int = 0, run: Run = None) -> None:
    """Do the main job on text that Python itself carries: train, pack, score, compare with zstd and xz.

    Parameters
    ----------
    overrides
        Options to change, as name=value (see `bytegolf config demo`).
    seconds
        Length of training.
    seed
        Key of initial weights and data order.
    """
    from bytegolf.demo.command import run_demo
    from bytegolf.options import split
    from bytegolf.record.files import new_folder

    run_demo(run or new_folder(Path("runs"), "demo"), seconds=seconds, seed=seed, overrides=split(overrides))


TRAIN_USAGE = (
    "Usage: bytegolf train CONFIG [name=value ...] [--run FOLDER]\n       bytegolf train --resume --run FOLDER"
)


@app.command(usage=TRAIN_USAGE)
def train(
    config: str | None = None,
    /,
    *overrides: str,
    run: Run = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
) -> None:
    """Train by a TOML file or preset, then pack, read back, score and report.

    Ctrl-C writes a checkpoint and prints the command that resumes; a second one leaves at once.

    Parameters
    ----------
    config
        TOML file, or a preset's name. With --resume the run's own config.toml.
    overrides
        Options to change, as name=value; train_data and val_data name the shards. `bytegolf config` shows all with their meaning.
    resume
        Go on from the newest checkpoint of --run.
    """
    from bytegolf.run.command import train as go

    go(config, overrides, run, resume)


@app.command(usage="Usage: bytegolf launch [--gpus N | --ranks N] CONFIG [name=value ...] [--run FOLDER] [--resume]")
def launch(
    config: str | None = None,
    /,
    *overrides: str,
    gpus: int | None = None,
    ranks: int | None = None,
    run: Run = None,
    resume: Annotated[bool, Parameter(negative="")] = False,
) -> int:
    """Train on several GPUs of this host: `bytegolf train` in one process each, which end together.

    Under torchrun, srun or mpirun no launch is needed: there `bytegolf train` finds its rank itself.

    Parameters
    ----------
    config
        TOML file, or a preset's name, as for `train`.
    overrides
        Options to change, as name=value. train_batch_ids is that of all ranks together.
    gpus
        How many GPUs; by default all that are visible.
    ranks
        How many processes, when they compute on the CPU; they share out its cores.
    resume
        Go on from the newest checkpoint of --run, whatever the number of ranks that wrote it.
    """
    from bytegolf.ranks.launch import launch_training

    return launch_training(config, overrides, gpus, ranks, run, resume)


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
    from bytegolf.visible import visible

    text = resolve(preset, overrides).toml(docs=docs)
    sys.stdout.write(visible(text) if sys.stdout.isatty() else text)
