"""The command `bytegolf`: one function per verb, and how mistakes are told from bugs.

Verbs import what they need when they run, so that `--help` answers at once.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, CycloptsError, Parameter

from bytegolf import FormatError, NumericsError, __version__, cli_data, cli_submission, cli_sweep, cli_watch
from bytegolf.console import Stopped, UserError

app = App(
    name="bytegolf",
    version=__version__,
    help="Train, squeeze and score byte-level language models.",
    help_epilogue="`bytegolf VERB --help` tells a verb's options. With --traceback anywhere, errors show where they arose.",
    help_format="markdown",
)
app.command(cli_data.app)
app.update(cli_sweep.app)
app.update(cli_submission.app)
app.update(cli_watch.app)
Json = Annotated[bool, Parameter(name="--json", negative="", help="Print one JSON value instead of a table.")]
Device = Annotated[
    Literal["auto", "cpu", "cuda"],
    Parameter(name="--device", help="Where to compute; auto: a GPU when one can be used, else the CPU."),
]
Dtype = Annotated[
    Literal["auto", "float32", "float64", "bfloat16"],
    Parameter(name="--dtype", help="Numbers to compute in; auto: bfloat16 on cuda, float32 on cpu."),
]
ConfigOf = Annotated[
    str | None,
    Parameter(
        name="--config", help="TOML file or preset: options of a .safetensors file that carries none of its own."
    ),
]
Run = Annotated[Path | None, Parameter(name="--run", help="Folder of the run; by default a new one below runs/.")]


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
    from bytegolf.demo import run_demo
    from bytegolf.options import split
    from bytegolf.training import new_folder

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

    Ctrl-C writes a checkpoint and says how to go on; a second one leaves at once.

    Parameters
    ----------
    config
        TOML file, or a preset's name. With --resume the run's own config.toml.
    overrides
        Options to change, as name=value; train_data and val_data name the shards. `bytegolf config` shows all with their meaning.
    resume
        Go on from the newest checkpoint of --run.
    """
    from bytegolf.training import train as go

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
    from bytegolf.launch import launch_training

    return launch_training(config, overrides, gpus, ranks, run, resume)


@app.command
def eval(
    artifact: Path,
    data: str,
    /,
    *,
    config: ConfigOf = None,
    window: int | None = None,
    stride: int | None = None,
    split: Literal["", "train", "val"] = "val",
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Score an artifact on shards or on a file of text.

    Parameters
    ----------
    artifact
        Packed model, run folder, or weights in .safetensors.
    data
        Shard file (.bin), folder or glob; any other file is one document of text.
    window
        Ids that a window holds; by default the config's seq_len.
    stride
        Distance of windows; by default the config's eval_stride. Equal to window it gives whole chunks.
    split
        Which shards of a folder that holds both.
    """
    from bytegolf.cli_model import eval_command

    eval_command(artifact, data, config, window, stride, split, device, dtype, json)


@app.command
def pack(
    source: Path,
    output: Path,
    /,
    *,
    weights: Literal["ema", "raw", "swa"] = "ema",
    scheme: Literal["int6_mixed", "int6_byte256"] = "int6_mixed",
    config: ConfigOf = None,
) -> None:
    """Pack the newest checkpoint of a run, or weights in .safetensors, into an artifact.

    Parameters
    ----------
    source
        Run folder, its checkpoints, or a .safetensors file (a published program's state dict, say).
    output
        File to write.
    weights
        Which weights of a checkpoint: their average, the last ones, or the mean of snapshots.
    scheme
        Quantisation.
    """
    from bytegolf.packing import pack_command

    pack_command(source, output, weights, scheme, config)


@app.command
def export(source: Path, output: Path, /, *, weights: Literal["ema", "raw", "swa"] = "ema") -> None:
    """Write weights as safetensors, under the published names and with the options inside.

    Parameters
    ----------
    source
        Run folder or its checkpoints (the newest one), or an artifact.
    output
        File to write, NAME.safetensors.
    weights
        Which weights of a checkpoint: their average, the last ones, or the mean of snapshots.
    """
    from bytegolf.packing import export_command

    export_command(source, output, weights)


@app.command
def inspect(artifact: Path, /, *, tensors: Annotated[bool, Parameter(negative="")] = False, json: Json = False) -> None:
    """Show an artifact's tensors, bits per weight, and where its bytes go.

    Parameters
    ----------
    artifact
        Packed model.
    tensors
        One row per tensor, not per group.
    """
    from bytegolf import console
    from bytegolf import inspect as inspection

    found = inspection.inspect_artifact(artifact)
    if json:
        console.print_json(found)
    else:
        inspection.print_report(found, console.stdout(), every_tensor=tensors)


@app.command
def generate(
    artifact: Path,
    /,
    *prompts: str,
    config: ConfigOf = None,
    n: int = 400,
    temperature: float = 1.0,
    top_p: float = 1.0,
    stop: Annotated[list[str] | None, Parameter(negative="")] = None,
    seed: int = 0,
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Sample bytes that follow a prompt, as they come; or each of several prompts, all at once.

    Parameters
    ----------
    artifact
        Packed model, run folder, or weights in .safetensors.
    prompts
        Texts that samples go on from; none is one empty prompt.
    n
        Bytes to sample, of each.
    temperature
        Below 1 safer, above 1 wilder; 0 always takes the likeliest byte.
    top_p
        Draw from the smallest set of likeliest bytes that holds this probability; 1 leaves none out.
    stop
        A sample ends with this text, once it has written it; may be given several times.
    seed
        Key of the draw: the same seed gives the same bytes.
    """
    from bytegolf.cli_model import generate_command

    generate_command(artifact, prompts or ("",), config, n, temperature, top_p, stop or (), seed, device, dtype, json)


@app.command
def surprise(
    artifact: Path,
    file: Annotated[str, Parameter(allow_leading_hyphen=True)],
    /,
    *,
    html: Path | None = None,
    window: int | None = None,
    stride: int | None = None,
    top: float = 8.0,
    theme: Literal["auto", "dark", "light"] = "auto",
    device: Device = "auto",
    dtype: Dtype = "auto",
    json: Json = False,
) -> None:
    """Colour a text by what the model finds surprising in it, byte by byte.

    Parameters
    ----------
    artifact
        Packed model, or a run folder.
    file
        Text, one document; - reads standard input.
    html
        Write a page that needs nothing else, instead of printing.
    window
        Ids that a window holds; by default the config's seq_len.
    stride
        Distance of windows; by default the config's eval_stride.
    top
        Bits at the upper end of the colour scale.
    theme
        Colours for dark or light ground; auto: as the terminal or the reader's browser says.
    """
    from bytegolf.cli_surprise import surprise_command

    surprise_command(artifact, file, html, window, stride, top, theme, device, dtype, json)


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

    sys.stdout.write(resolve(preset, overrides).text(docs=docs))


@app.command
def parity(
    *files: Path,
    dtype: Annotated[
        Literal["auto", "float64", "float32", "bfloat16"],
        Parameter(help="Arithmetic to compare in; auto: float64 on cpu, bfloat16 on cuda."),
    ] = "auto",
    device: Literal["cpu", "cuda"] = "cpu",
    json: Json = False,
) -> int:
    """Recompute what fixtures of the published programs hold, and show the worst errors. Status 1 on any miss.

    Parameters
    ----------
    files
        Fixtures (.npz) of any kind.
    device
        Where to compute.
    """
    from bytegolf.parity import main_report

    if not files:
        raise UserError("name at least one fixture (.npz)")
    return main_report([str(f) for f in files], dtype, device, json)


@app.command
def doctor(*, json: Json = False) -> None:
    """Show what is live on this machine (CPU features, GEMM and its speed, CUDA and its GPUs, zstd) and why something is not."""
    from bytegolf import console
    from bytegolf import doctor as examination

    found = examination.examine()
    if json:
        console.print_json(found)
    else:
        examination.show(found)


@app.command
def bench(
    *ops: str,
    device: Literal["cpu", "cuda"] = "cpu",
    dtype: Dtype = "auto",
    threads: int = 0,
    library: str = "builtin",
    budget_s: float = 1.0,
    json: Json = False,
) -> int:
    """Time each op and a whole training step, beside what the machine's arithmetic and memory allow.

    Parameters
    ----------
    ops
        What to measure, all when none is named: gemm, attention, elementwise, newton_schulz, adam, step, generate, codec; on cuda
        gemm, attention, elementwise, optimiser, model, step, start, sliding, scaling (several GPUs).
    device
        cpu: float32 at B = 2, T = 1024. cuda: at the sizes of training, 12 rows of 4096 ids.
    threads
        0 means one per core.
    library
        Who multiplies matrices: builtin, onednn, openblas.
    budget_s
        Seconds of timed calls: for each group on the CPU, for each figure on a GPU.
    """
    from bytegolf.bench import run_bench

    found = run_bench(device, json, ops or None, threads=threads, library=library, budget_s=budget_s, dtype=dtype)
    return 0 if all(row["ok"] for row in found["rows"]) else 1


def main(arguments: list[str] | None = None) -> None:
    """Entry point: runs one command and leaves with its status (0 done, 1 missed, 2 user's mistake, 130 interrupted)."""
    tokens = list(sys.argv[1:] if arguments is None else arguments)
    traceback = "--traceback" in tokens
    tokens = [t for t in tokens if t != "--traceback"]
    try:
        status = _run(tokens or ["--help"])
    except KeyboardInterrupt:
        status = _refuse("interrupted", 130)
    except BrokenPipeError:
        sys.stderr.close()
        status = 141
    except Stopped as stop:
        status = _refuse(str(stop), stop.status)
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
