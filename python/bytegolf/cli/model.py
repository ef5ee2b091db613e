"""The verbs of a stored model: score it, pack and export it, look into it, let it speak."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import App, Parameter

from bytegolf._bytegolf import MAX_DECODED_BYTES
from bytegolf.cli.words import ConfigOf, Device, Dtype, Format, Json, MaxDecoded, TextField

app = App(help_format="markdown")


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
    format: Format = "auto",
    text_field: TextField = "text",
    device: Device = "auto",
    dtype: Dtype = "auto",
    max_decoded_bytes: MaxDecoded = MAX_DECODED_BYTES,
    as_json: Json = False,
) -> None:
    """Score an artifact on shards or on a file of documents.

    Parameters
    ----------
    artifact
        Packed model, run folder, or weights in .safetensors.
    data
        Shard file (.bin), folder or glob; any other file (text, JSON lines, Parquet; plain or packed) is read as `data prepare`
        reads it, and scores as the shards made of it do.
    window
        Ids that a window holds; by default the config's seq_len.
    stride
        Distance of windows; by default the config's eval_stride. Equal to window it gives whole chunks.
    split
        Which shards of a folder that holds both.
    """
    from bytegolf.documents import Reading
    from bytegolf.stored.command import Scoring, eval_command
    from bytegolf.stored.open import Stored

    scoring = Scoring(data, split, window=window, stride=stride, reading=Reading(format, text_field))
    eval_command(Stored(artifact, config, device, dtype, max_decoded_bytes), scoring, as_json)


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
    from bytegolf.stored.packing import pack_command

    pack_command(source, output, weights, scheme, config)


@app.command
def export(
    source: Path,
    output: Path,
    /,
    *,
    weights: Literal["ema", "raw", "swa"] = "ema",
    max_decoded_bytes: MaxDecoded = MAX_DECODED_BYTES,
) -> None:
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
    from bytegolf.stored.packing import export_command

    export_command(source, output, weights, max_decoded_bytes)


@app.command
def inspect(
    artifact: Path,
    /,
    *,
    tensors: Annotated[bool, Parameter(negative="")] = False,
    max_decoded_bytes: MaxDecoded = MAX_DECODED_BYTES,
    as_json: Json = False,
) -> None:
    """Show an artifact's tensors, bits per weight, and where its bytes go.

    Parameters
    ----------
    artifact
        Packed model.
    tensors
        One row per tensor, not per group.
    """
    from bytegolf.stored.command import inspect_command

    inspect_command(artifact, tensors, as_json, max_decoded_bytes)


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
    max_decoded_bytes: MaxDecoded = MAX_DECODED_BYTES,
    as_json: Json = False,
) -> None:
    """Sample bytes that follow a prompt, as they come; or each of several prompts, all at once.

    Parameters
    ----------
    artifact
        Packed model, run folder, or weights in .safetensors.
    prompts
        Texts that the samples continue; without any, one empty prompt.
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
    from bytegolf.stored.command import Sampling, generate_command
    from bytegolf.stored.open import Stored

    sampling = Sampling(prompts or ("",), n, temperature, top_p=top_p, stop=stop or (), seed=seed)
    generate_command(Stored(artifact, config, device, dtype, max_decoded_bytes), sampling, as_json)


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
    format: Format = "auto",
    text_field: TextField = "text",
    device: Device = "auto",
    dtype: Dtype = "auto",
    max_decoded_bytes: MaxDecoded = MAX_DECODED_BYTES,
    as_json: Json = False,
) -> None:
    """Colour a text by what the model finds surprising in it, byte by byte.

    Parameters
    ----------
    artifact
        Packed model, or a run folder.
    file
        Text, JSON lines or Parquet, plain or packed, read as `data prepare` reads it; - reads standard input.
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
    from bytegolf.documents import Reading
    from bytegolf.stored.open import Stored
    from bytegolf.stored.surprise import Colouring, surprise_command

    reading = Reading(format, text_field)
    colouring = Colouring(file, html, window=window, stride=stride, top=top, theme=theme, reading=reading)
    surprise_command(Stored(artifact, None, device, dtype, max_decoded_bytes), colouring, as_json)
