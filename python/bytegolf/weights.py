"""Weights to and from safetensors (https://github.com/huggingface/safetensors), under the published names.

A file written here carries the model section of the options as text in its metadata, under "bytegolf". The published
programs' state dicts carry none: to read one, name the config, which is then checked against names and shapes.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import safetensors
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from bytegolf import _bytegolf
from bytegolf._bytegolf import MAX_DECODED_BYTES, FormatError
from bytegolf.artifact import chosen_weights, some
from bytegolf.config import Config
from bytegolf.device import resolve
from bytegolf.disk import write_whole
from bytegolf.ids import AnyArray
from bytegolf.model import Model
from bytegolf.weights_config import differences, implied_options, shown

__all__ = ["load_safetensors", "save_safetensors", "write_safetensors"]

Array = npt.NDArray[Any]

HEADER_CAP_BYTES = 16 << 20
OPTIONS = "bytegolf"  # key of our options in the metadata
_DTYPES = {"F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": np.uint16}
# What a state dict may hold beside parameters, and why it is left aside.
_BUFFERS = [
    (re.compile(r"(^|\.)_?inv_freq$"), "rotary frequencies: computed from rope_base and rope_dims"),
    (re.compile(r"(^|\.)_?(cos|sin)(_cached|_cache)?$"), "rotary table: computed from rope_base and rope_dims"),
    (re.compile(r"(^|\.)\w*sigreg\w*(\.|$)"), "SIGReg's directions and points: training only"),
]
_LATENT_HEAD = "jepa_head."
_deserialize: Callable[[bytes], list[tuple[str, dict[str, Any]]]] = (
    safetensors.deserialize
)  # it has no types of its own


def save_safetensors(
    model: Any,
    path: str | os.PathLike[str],
    weights: Literal["ema", "swa", "raw"] | Mapping[str, AnyArray] | None = None,
) -> int:
    """Writes all parameters of a model with its options, in the master dtype, and returns the bytes written.

    `model` and `weights` as for `pack`: a Model or Trainer; "raw", "ema", "swa" or a dict. The file appears whole or not at all.
    """
    model, params = chosen_weights(model, weights)
    return write_safetensors(path, params, model.config)


def write_safetensors(path: str | os.PathLike[str], params: Mapping[str, AnyArray], config: Config) -> int:
    """Writes parameters of `config` under their names; returns the bytes written. OSError when the disk refuses."""
    arrays = {name: np.asarray(_bytegolf.host_array(value, name), order="C") for name, value in params.items()}
    # "pt": the framework whose names and layout these are; other readers ask for it.
    data = save(arrays, metadata={"format": "pt", OPTIONS: config.text(["model"])})
    write_whole(path, data)
    return len(data)


def load_safetensors(
    path: str | os.PathLike[str],
    config: Config | None = None,
    device: str = "cpu",
    dtype: str = "auto",
    threads: int = 0,
    *,
    say: Callable[[str], object] | None = None,
    max_decoded_bytes: int = MAX_DECODED_BYTES,
) -> Model:
    """The model whose weights a safetensors file holds: one written here, or a published program's state dict.

    config: options of the model; only a file written here has its own. float64, float32, float16 and bfloat16 are read;
    prefixes that wrappers leave (`module.`, `_orig_mod.`) are dropped. Left aside, each with a line to `say`: rotary tables, SIGReg's
    buffers, a latent head that the config has no use for, and an output matrix equal to the token table it is tied to.
    OSError when the file cannot be read; FormatError naming file and tensor for damage, unknown or missing tensors, NaN and
    infinity, and parameters that take more than max_decoded_bytes as float32; ValueError for options that do not fit, with what
    names and shapes say they should be. Names and shapes are compared before a tensor is read or a model built.
    """
    file = _header(Path(path))
    wrong_config = FormatError if config is None else ValueError
    config = _own_config(file) if config is None else config
    if config.jepa_pred_k > 0 and not any(name.startswith(_LATENT_HEAD) for name in file.shapes):
        config = config.replace(jepa_pred_k=0)  # the latent head is used in training only and often left out
    wrong = differences(config, file.shapes)
    if wrong:
        raise wrong_config(f"{path}: the config does not fit, its tensors say {'; '.join(wrong)}")
    device, dtype = resolve(device, dtype)
    if config.num_layers > len(file.shapes):  # every block has tensors of its own
        raise wrong_config(f"{path}: {len(file.shapes)} tensors for num_layers = {config.num_layers}")
    try:
        shapes = {str(row["name"]): tuple(row["shape"]) for row in _bytegolf.declared_parameters(config)}
    except ValueError as error:
        raise wrong_config(f"{path}: {error}") from error
    aside = _left_aside(file, config, shapes)
    missing = [name for name in shapes if name not in file.shapes]
    if missing:
        raise FormatError(f"{path}: lacks {some(missing)}")
    for name, shape in shapes.items():
        if file.shapes[name] != shape:
            raise FormatError(
                f"{path}: tensor {file.keys[name]} has shape {file.shapes[name]}, the config makes it {shape}"
            )
    total = sum(4 * math.prod(shape) for shape in shapes.values())
    if total > max_decoded_bytes:
        raise FormatError(f"{path}: parameters of {total} bytes as float32; max_decoded_bytes = {max_decoded_bytes}")
    arrays = _read(file)
    _check_aside(file, aside, arrays, config)
    try:
        model = Model(config, device, dtype, threads=threads)
    except ValueError as error:
        raise wrong_config(f"{path}: {error}") from error
    model.load_parameters({name: arrays[name] for name in shapes})
    for name, reason in aside.items():
        if say is not None:
            say(f"{path}: tensor {file.keys[name]} is left aside ({reason})")
    return model


@dataclass(frozen=True)
class _File:
    """What a file says about itself: published name -> key and shape, and our options where it has them."""

    path: Path
    keys: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    options: str


def _header(path: Path) -> _File:
    _check_header(path)
    keys: dict[str, str] = {}
    shapes: dict[str, tuple[int, ...]] = {}
    try:
        with safe_open(path, framework="np") as file:
            metadata = file.metadata() or {}
            found = file.keys()
            for key in found:
                name, part = published_name(key), file.get_slice(key)
                if name in keys:
                    raise FormatError(f"{path}: tensors {keys[name]} and {key} are both {name}")
                if part.get_dtype() not in _DTYPES and _reason(name) is None:
                    raise FormatError(f"{path}: tensor {key} is {part.get_dtype()}; read are {', '.join(_DTYPES)}")
                keys[name], shapes[name] = key, tuple(part.get_shape())
    except SafetensorError as error:
        raise FormatError(f"{path}: no safetensors file: {error}") from error
    return _File(path, keys, shapes, metadata.get(OPTIONS, ""))


def _check_header(path: Path) -> None:
    """What the safetensors library does not look at: the size of the header before it is parsed, names given twice and names that
    are not printable. FormatError, or an OSError that names the file."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if size < 8 or length > size - 8 or length > HEADER_CAP_BYTES:
            raise FormatError(
                f"{path}: no safetensors file: a header of {length} bytes in a file of {size}; {HEADER_CAP_BYTES} are allowed"
            )
        text = file.read(length)
    try:
        json.loads(text, object_pairs_hook=_no_twins)
    except RecursionError:
        raise FormatError(f"{path}: no safetensors file: its header nests too deeply") from None
    except ValueError as error:
        raise FormatError(f"{path}: no safetensors file: {error}") from error


def _no_twins(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"its header has {name!r} twice")
        if not name.isprintable():
            raise ValueError(f"its header has the name {name!r}, which is not printable")
        found[name] = value
    return found


def published_name(key: str) -> str:
    """The key of a state dict without what DistributedDataParallel, torch.compile and outer modules put before it."""
    parts = [part for part in key.split(".") if part != "_orig_mod"]
    while parts and parts[0] in ("module", "model"):
        parts = parts[1:]
    return ".".join(parts)


def _own_config(file: _File) -> Config:
    if not file.options:
        found = ", ".join(f"{name} = {shown(value)}" for name, value in implied_options(file.shapes).items())
        raise ValueError(
            f"{file.path} carries no options of bytegolf: give a config (its tensors say {found or 'nothing'}; they cannot "
            "say rope_dims, xsa_last_n, ln_scale, jepa_chunk_size and the like)"
        )
    try:
        return Config.stored(file.options, "the options inside")
    except ValueError as error:
        raise FormatError(f"{file.path}: {error}") from error


def _reason(name: str) -> str | None:
    return next((why for pattern, why in _BUFFERS if pattern.search(name)), None)


def _left_aside(file: _File, config: Config, shapes: Mapping[str, tuple[int, ...]]) -> dict[str, str]:
    """Name -> reason of what is no parameter of the model; FormatError for what nobody knows."""
    aside: dict[str, str] = {}
    unknown = []
    for name in file.shapes:
        if name in shapes:
            continue
        reason = _reason(name)
        if name.startswith(_LATENT_HEAD) and config.family == "byte256":
            reason = "latent head: training only"
        elif name == "lm_head.weight" and config.tie_embeddings:
            reason = "equal to the token table, which it is tied to"
        if reason is None:
            unknown.append(file.keys[name])
        else:
            aside[name] = reason
    if unknown:
        raise FormatError(f"{file.path}: the model has no {some(unknown)}")
    return aside


def _read(file: _File) -> dict[str, Array]:
    """Every tensor of a known dtype by published name; bfloat16 as float32."""
    names = {key: name for name, key in file.keys.items()}
    arrays: dict[str, Array] = {}
    try:
        rows = _deserialize(file.path.read_bytes())
    except SafetensorError as error:
        raise FormatError(f"{file.path}: no safetensors file: {error}") from error
    for key, row in rows:
        if row["dtype"] not in _DTYPES or key not in names:
            continue
        array = np.frombuffer(row["data"], dtype=_DTYPES[row["dtype"]]).reshape(row["shape"])
        if row["dtype"] == "BF16":  # the upper half of a float32
            array = np.asarray(array.astype(np.uint32) << np.uint32(16), dtype=np.uint32).view(np.float32)
        if not np.isfinite(array).all():
            raise FormatError(f"{file.path}: tensor {key} holds NaN or infinity")
        arrays[names[key]] = array
    return arrays


def _check_aside(file: _File, aside: Mapping[str, str], arrays: Mapping[str, Array], config: Config) -> None:
    """What is left aside says nothing else than the config: a tied matrix equals its table, frequencies are those of rope_base."""
    for name in aside:
        key = file.keys[name]
        if name == "lm_head.weight" and not np.array_equal(arrays[name], arrays["tok_emb.weight"]):
            raise ValueError(
                f"{file.path}: tensor {key} differs from tok_emb.weight: the config needs tie_embeddings = false"
            )
        if name.split(".")[-1].lstrip("_") == "inv_freq" and name in arrays:
            half = arrays[name].size
            if 2 * half != (config.rope_dims or config.model_dim // config.num_heads):
                raise ValueError(
                    f"{file.path}: tensor {key} has {half} frequencies: the config needs rope_dims = {2 * half}"
                )
            expected = config.rope_base ** -(np.arange(half) / half)
            if not np.allclose(arrays[name].astype(np.float64).reshape(-1), expected, rtol=1e-2):  # bfloat16 has 2^-9
                raise ValueError(
                    f"{file.path}: tensor {key} holds other frequencies than those of rope_base = {config.rope_base:g}"
                )
