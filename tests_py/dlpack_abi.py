"""DLPack's C ABI by ctypes, from its specification: takes capsules apart and makes them, without any array library."""

import ctypes

import numpy as np

CPU, CUDA = 1, 2
INT, UINT, FLOAT, BFLOAT = 0, 1, 2, 4


class Device(ctypes.Structure):
    _fields_ = [("type", ctypes.c_int32), ("index", ctypes.c_int32)]


class Type(ctypes.Structure):
    _fields_ = [("code", ctypes.c_uint8), ("bits", ctypes.c_uint8), ("lanes", ctypes.c_uint16)]


class Tensor(ctypes.Structure):
    _fields_ = [
        ("data", ctypes.c_void_p),
        ("device", Device),
        ("ndim", ctypes.c_int32),
        ("dtype", Type),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    ]


DELETER = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    NAME = b"dltensor"
    _fields_ = [("tensor", Tensor), ("context", ctypes.c_void_p), ("deleter", DELETER)]


class ManagedVersioned(ctypes.Structure):
    NAME = b"dltensor_versioned"
    _fields_ = [
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", DELETER),
        ("flags", ctypes.c_uint64),
        ("tensor", Tensor),
    ]


_api = ctypes.pythonapi
_api.PyCapsule_GetName.restype = ctypes.c_char_p
_api.PyCapsule_GetName.argtypes = [ctypes.py_object]
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_api.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]


def name_of(capsule) -> bytes:
    return _api.PyCapsule_GetName(capsule)


def rename(capsule, name):
    """What a taker does. The bytes must outlive the capsule: a literal does."""
    assert _api.PyCapsule_SetName(capsule, name) == 0


def opened(capsule):
    """The struct inside a capsule, which stays the capsule's."""
    kind = ManagedVersioned if b"versioned" in name_of(capsule) else Managed
    return kind.from_address(_api.PyCapsule_GetPointer(capsule, name_of(capsule)))


def shape_of(tensor):
    return tuple(tensor.shape[i] for i in range(tensor.ndim)), tuple(tensor.strides[i] for i in range(tensor.ndim))


class Producer:
    """An array of a library nobody knows: `address` in memory that `keep` keeps. Counts the deleter's calls."""

    def __init__(self, address, shape, code, bits, *, kind=ManagedVersioned, strides=None, device=(CPU, 0), keep=None):
        self.kind, self.device, self.keep, self.deleted, self.asked = kind, device, keep, 0, []
        self.managed = kind()
        if kind is ManagedVersioned:
            self.managed.major, self.managed.minor = 1, 1
        self._shape = (ctypes.c_int64 * max(1, len(shape)))(*shape)
        self._strides = (ctypes.c_int64 * len(strides))(*strides) if strides is not None else None
        self._deleter = DELETER(self._delete)
        self.managed.deleter = self._deleter
        self.managed.tensor = Tensor(
            address,
            Device(*device),
            len(shape),
            Type(code, bits, 1),
            self._shape,
            ctypes.cast(self._strides, ctypes.POINTER(ctypes.c_int64)) if strides is not None else None,
            0,
        )

    @classmethod
    def of(cls, array: np.ndarray, code: int, **more):
        """Over a NumPy array's memory, whatever NumPy thinks is in it."""
        strides = tuple(s // array.itemsize for s in array.strides)
        return cls(array.ctypes.data, array.shape, code, 8 * array.itemsize, strides=strides, keep=array, **more)

    def _delete(self, _):
        self.deleted += 1

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, **asked):
        self.asked.append(asked)
        if self.kind is Managed and "max_version" in asked:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        return _api.PyCapsule_New(ctypes.addressof(self.managed), self.kind.NAME, None)
