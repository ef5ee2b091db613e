"""How ids come in: any library's integer array, checked once, then int32 in C order as the core reads them."""

from __future__ import annotations

import hashlib
import operator
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from bytegolf import _bytegolf

Ids = npt.NDArray[np.int32]
LARGEST_SEED = (1 << 64) - 1  # the core's keys are unsigned numbers of 64 bits
LARGEST = (1 << 63) - 1  # of its signed numbers


class SupportsDLPack(Protocol):
    """An array of any library that shares it by DLPack: torch, CuPy, JAX, `bytegolf.Array`."""

    def __dlpack__(self) -> Any:
        """A capsule."""

    def __dlpack_device__(self) -> Any:
        """Kind and number of the device."""


AnyArray = npt.ArrayLike | SupportsDLPack


def as_ids(values: AnyArray, dimensions: int, what: str = "ids") -> Ids:
    """`values` as an int32 array of so many dimensions; ValueError for other kinds of numbers, ranks or ranges.

    int32 in C order in host memory is used without a copy; an array on a GPU is copied once.
    """
    array = _bytegolf.host_array(values, what)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{what} must be integers, got {array.dtype}")
    if array.ndim != dimensions:
        raise ValueError(f"{what} must have {dimensions} dimension{'s' * (dimensions > 1)}, got shape {array.shape}")
    if array.size and (array.min() < -1 or array.max() > 65535):
        raise ValueError(f"{what} must be in the vocabulary, got values from {array.min()} to {array.max()}")
    return np.ascontiguousarray(array, dtype=np.int32)


def in_range(name: str, value: int, low: int, high: int) -> int:
    """`value` as Python's int; ValueError naming it when it is not in low..high, TypeError when it is no integer."""
    number = operator.index(value)
    if not low <= number <= high:
        raise ValueError(f"{name} = {number} is outside {low} to {high}")
    return number


def document_ids(data: bytes, byte_offset: int, bos_id: int) -> Ids:
    """One document as ids: bos where the family has one (bos_id >= 0), then byte + byte_offset."""
    ids = np.frombuffer(data, dtype=np.uint8).astype(np.int32) + np.int32(byte_offset)
    return np.concatenate([np.array([bos_id], dtype=np.int32), ids]) if bos_id >= 0 else ids


def ids_sha256(ids: Ids) -> str:
    """SHA-256 of ids as shards hold them: little-endian uint16, headers left out."""
    return hashlib.sha256(ids.astype("<u2").tobytes()).hexdigest()
