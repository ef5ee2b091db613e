"""How weights become a file and come back: quantisation, the artifact, and both in one step."""

import importlib
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bytegolf import _bytegolf

Array = npt.NDArray[Any]


Specs = Iterable[Mapping[str, Any]]  # rows as of Model.specs(); "name" and "codec" are read


def codec_by_name(name: str, rank: int) -> str:
    """The codec of a tensor that nothing declares, by the published programs' rule for their names.

    The one place where a name decides: a state dict from elsewhere has nothing but names. A model declares its codecs.
    """
    return "matrix" if name.startswith("blocks.") and rank == 2 else "other"


def quantise(
    params: Mapping[str, Array], scheme: str, specs: Specs | None = None, *, threads: int = 0
) -> dict[str, Array]:
    """Turns float32 (or float64, rounded to float32 first) arrays into the stored form of `scheme`.

    `specs` (Model.specs()) declares each tensor's codec: matrix, other, or left_out, which is skipped. Without it, for
    dicts from elsewhere, the published names decide.

    Returns, in the order of `params`, `NAME.q` int8 [rows, ...] and `NAME.scale` float16 [rows] for what is quantised,
    NAME float16 for what stays float. Schemes: "int6_mixed", "int6_byte256". threads 0 means one per core; the result
    does not depend on it. Raises ValueError for an unknown scheme, codec or dtype and for a tensor that `specs` lacks,
    NumericsError naming the tensor for NaN, infinity, or values beyond float16.
    """
    declared = None if specs is None else {str(row["name"]): str(row["codec"]) for row in specs}
    stored: dict[str, Array] = {}
    for name, array in params.items():
        array = np.asarray(array)
        codec = codec_by_name(name, array.ndim) if declared is None else declared.get(name)
        if codec is None:
            raise ValueError(f"tensor {name} is not declared in specs")
        if codec == "left_out":
            continue
        if array.dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
            raise ValueError(f"tensor {name} is {array.dtype}; quantise takes float32 or float64")
        with np.errstate(over="ignore"):
            single = np.asarray(array, dtype=np.float32, order="C")
        values, scale = _bytegolf.quantise_tensor(name, single, codec, scheme, threads)
        for key, part in [(name, values)] if scale is None else [(f"{name}.q", values), (f"{name}.scale", scale)]:
            if key in stored:
                raise ValueError(f"two tensors would both be stored as {key}")
            stored[key] = part
    return stored


def dequantise(stored: Mapping[str, Array], *, threads: int = 0) -> dict[str, Array]:
    """Turns what `quantise` returned (or an artifact held) back into float32 arrays under their own names, in order.

    Raises ValueError for integers without their scales, scales of the wrong length, or a dtype other than int8, float16 and float32.
    """
    params: dict[str, Array] = {}
    for key, array in stored.items():
        name = key.removesuffix(".q")
        if array.dtype == np.int8:
            scale = stored.get(f"{name}.scale")
            rows = () if array.ndim < 2 else array.shape[:1]
            if name == key or scale is None or scale.dtype != np.float16 or scale.shape != rows:
                raise ValueError(f"tensor {key} is int8 but has no {name}.scale of float16 {rows} beside it")
            params[name] = _bytegolf.dequantise_tensor(
                np.ascontiguousarray(array).reshape(array.shape),
                np.ascontiguousarray(scale).reshape(scale.shape),
                threads,
            )
        elif array.dtype in (np.dtype(np.float16), np.dtype(np.float32)):
            partner = stored.get(f"{key.removesuffix('.scale')}.q") if key.endswith(".scale") else None
            if partner is None or partner.dtype != np.int8:
                params[key] = array.astype(np.float32)
        else:
            raise ValueError(f"tensor {key} is {array.dtype}; expected int8, float16 or float32")
    return params


def pack_tensors(
    tensors: Mapping[str, Array], path: str | os.PathLike[str], config_text: str = "", *, threads: int = 0
) -> int:
    """Writes named arrays of rank 0 to 8 as an artifact and returns its size in bytes.

    dtypes: float16, float32, float64, bfloat16 (of ml_dtypes), int8, int32, int64, uint8, uint16. Name, order, dtype, shape and
    every bit (NaN payloads too) are kept. The same input gives the same bytes at any thread count. The file appears whole or not at all.
    Raises ValueError for what cannot be stored and OSError when the disk refuses.
    """
    rows = []
    for name, given in tensors.items():
        array = np.asarray(given)
        shape = array.shape  # ascontiguousarray would turn rank 0 into rank 1
        if array.dtype.byteorder == ">":
            array = array.astype(array.dtype.newbyteorder("<"))
        if array.dtype.hasobject:
            raise ValueError(f"tensor {name}: arrays of {array.dtype} cannot be stored")
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        rows.append((name, array.dtype.name, list(shape), flat))
    return int(_bytegolf.write_artifact(os.fspath(path), rows, config_text, threads))


def _as_array(row: dict[str, Any]) -> Array:
    if row["dtype"] == "bfloat16":
        try:
            bfloat16 = importlib.import_module("ml_dtypes").bfloat16
        except ImportError as error:
            raise ImportError(f"tensor {row['name']} is bfloat16: install ml-dtypes to read it") from error
        return np.asarray(row["bytes"].view(bfloat16).reshape(row["shape"]))
    return np.asarray(row["bytes"].view(row["dtype"]).reshape(row["shape"]))


def read_artifact(path: str | os.PathLike[str], *, threads: int = 0) -> tuple[str, dict[str, Array]]:
    """The configuration text and the arrays of an artifact, in their order, writable.

    Raises FormatError naming path, offset and tensor when the file is not exactly what was written; OSError when it cannot be read.
    """
    found = _bytegolf.read_artifact(os.fspath(path), threads)
    return found["config"], {row["name"]: _as_array(row) for row in found["tensors"]}


def unpack_tensors(path: str | os.PathLike[str], *, threads: int = 0) -> dict[str, Array]:
    """The arrays of an artifact: what `pack_tensors` was given, bit for bit. Errors as for `read_artifact`."""
    return read_artifact(path, threads=threads)[1]


def pack_parameters(
    params: Mapping[str, Array],
    path: str | os.PathLike[str],
    scheme: str = "int6_mixed",
    config_text: str = "",
    specs: Specs | None = None,
    *,
    threads: int = 0,
) -> int:
    """Quantises float parameters as `quantise` does, writes them with their configuration, and returns the bytes written."""
    return pack_tensors(quantise(params, scheme, specs, threads=threads), path, config_text, threads=threads)


def load_parameters(path: str | os.PathLike[str], *, threads: int = 0) -> tuple[str, dict[str, Array]]:
    """The configuration text of an artifact and its parameters, dequantised to float32."""
    config_text, stored = read_artifact(path, threads=threads)
    return config_text, dequantise(stored, threads=threads)
