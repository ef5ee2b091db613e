"""How weights become a file and come back: quantisation, the artifact, and both in one step."""

import importlib
import math
import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from bytegolf import _bytegolf
from bytegolf._bytegolf import MAX_DECODED_BYTES, FormatError
from bytegolf.errors import UserError

Array = npt.NDArray[Any]

# For a file that this process has just written: no limit but what its tensors say.
UNLIMITED = 2**62

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

    Raises ValueError for integers without their scales, scales of the wrong length or not finite, two tensors for one name, or a
    dtype other than int8, float16 and float32.
    """
    facts = {key: (array.dtype.name, array.shape) for key, array in stored.items()}
    params: dict[str, Array] = {}
    for name, key in _parameters_of(facts).items():
        array = stored[key]
        if array.dtype != np.int8:
            params[name] = array.astype(np.float32)
            continue
        scale = stored[f"{name}.scale"]
        if not np.isfinite(scale).all():
            raise ValueError(f"tensor {name}.scale holds NaN or infinity")
        params[name] = _bytegolf.dequantise_tensor(
            np.ascontiguousarray(array).reshape(array.shape),
            np.ascontiguousarray(scale).reshape(scale.shape),
            threads,
        )
    return params


Facts = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> dtype, shape


def _parameters_of(facts: Facts) -> dict[str, str]:
    """Name of each parameter -> key of its values, of what `quantise` makes; ValueError as `dequantise`."""
    found: dict[str, str] = {}
    for key, (dtype, shape) in facts.items():
        name = key.removesuffix(".q")
        if dtype == "int8":
            rows = () if len(shape) < 2 else shape[:1]
            if name == key or facts.get(f"{name}.scale") != ("float16", rows):
                raise ValueError(f"tensor {key} is int8 but has no {name}.scale of float16 {rows} beside it")
        elif dtype in ("float16", "float32"):
            partner = facts.get(f"{key.removesuffix('.scale')}.q") if key.endswith(".scale") else None
            if partner is not None and partner[0] == "int8":
                continue
            name = key
        else:
            raise ValueError(f"tensor {key} is {dtype}; expected int8, float16 or float32")
        if name in found:
            raise ValueError(f"tensors {found[name]} and {key} are both {name}")
        found[name] = key
    return found


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
    dtype = importlib.import_module("ml_dtypes").bfloat16 if row["dtype"] == "bfloat16" else row["dtype"]
    return np.asarray(row["bytes"].view(dtype).reshape(row["shape"]))


def read_artifact(
    path: str | os.PathLike[str], *, threads: int = 0, max_decoded_bytes: int = MAX_DECODED_BYTES
) -> tuple[str, dict[str, Array]]:
    """The configuration text and the arrays of an artifact, in their order, writable.

    Memory follows what the file really holds, up to max_decoded_bytes for all arrays together. Raises FormatError naming path,
    offset and tensor when the file is not exactly what was written or holds more; OSError when it cannot be read; UserError for
    bfloat16 where ml-dtypes, which brings that type to NumPy, is not installed.
    """
    reader = _bytegolf.ArtifactReader(os.fspath(path), max_decoded_bytes)
    for row in reader.tensors:
        if row["dtype"] == "bfloat16":
            try:
                importlib.import_module("ml_dtypes")
            except ImportError as error:
                raise UserError(
                    f"{os.fspath(path)}: tensor {row['name']} is bfloat16: install ml-dtypes to read it"
                ) from error
            break
    found = reader.read(threads)
    return found["config"], {row["name"]: _as_array(row) for row in found["tensors"]}


def unpack_tensors(
    path: str | os.PathLike[str], *, threads: int = 0, max_decoded_bytes: int = MAX_DECODED_BYTES
) -> dict[str, Array]:
    """The arrays of an artifact: what `pack_tensors` was given, bit for bit. Limit and errors as for `read_artifact`."""
    return read_artifact(path, threads=threads, max_decoded_bytes=max_decoded_bytes)[1]


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


class StoredParameters:
    """The parameters of an artifact, whose names and shapes are known before any of them is decoded."""

    def __init__(self, path: str | os.PathLike[str], max_decoded_bytes: int = MAX_DECODED_BYTES) -> None:
        """FormatError naming the file for damage, for tensors that are no parameters, and for more than max_decoded_bytes
        of them, as float32; OSError when it cannot be read."""
        self._path = os.fspath(path)
        self._reader = _bytegolf.ArtifactReader(self._path, max_decoded_bytes)
        self.config_text = self._reader.config
        facts = {row["name"]: (str(row["dtype"]), tuple(row["shape"])) for row in self._reader.tensors}
        try:
            keys = _parameters_of(facts)
        except ValueError as error:
            raise FormatError(f"{self._path}: {error}") from error
        self.shapes = {name: facts[key][1] for name, key in keys.items()}
        total = 0
        for name, shape in self.shapes.items():
            total += 4 * math.prod(shape)
            if total > max_decoded_bytes:
                raise FormatError(
                    f"{self._path}: tensor {name} of {4 * math.prod(shape)} bytes as float32: all parameters together take more "
                    f"than max_decoded_bytes = {max_decoded_bytes}"
                )

    def read(self, threads: int = 0) -> dict[str, Array]:
        """All parameters, dequantised to float32. FormatError for damage, NaN and infinity."""
        stored = {row["name"]: _as_array(row) for row in self._reader.read(threads)["tensors"]}
        try:
            params = dequantise(stored, threads=threads)
        except ValueError as error:
            raise FormatError(f"{self._path}: {error}") from error
        for name, array in params.items():
            if not np.isfinite(array).all():
                raise FormatError(f"{self._path}: tensor {name} holds NaN or infinity")
        return params


def load_parameters(
    path: str | os.PathLike[str], *, threads: int = 0, max_decoded_bytes: int = MAX_DECODED_BYTES
) -> tuple[str, dict[str, Array]]:
    """The configuration text of an artifact and its parameters, dequantised to float32; see `StoredParameters`."""
    stored = StoredParameters(path, max_decoded_bytes)
    return stored.config_text, stored.read(threads)
