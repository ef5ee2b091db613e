"""Options that several verbs share: how each is written and what --help says of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

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
MaxDecoded = Annotated[
    int,
    Parameter(
        name="--max-decoded-bytes",
        help="Refuse a file whose tensors unpack to more; of a model, its parameters as float32.",
    ),
]
Run = Annotated[Path | None, Parameter(name="--run", help="Folder of the run; by default a new one below runs/.")]
Format = Annotated[
    Literal["auto", "text", "jsonl", "parquet"],
    Parameter(
        name="--format",
        help="Of a file that is no shard. auto goes by its name and first bytes, as `data prepare` does, and refuses what is not "
        "text; text takes it as one document, unpacked where it is packed.",
    ),
]
TextField = Annotated[str, Parameter(name="--text-field", help="Field that holds the text, in JSON lines and Parquet.")]
