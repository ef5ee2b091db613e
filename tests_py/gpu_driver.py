"""A small other program on the same GPU: memory, a stream and copies by NVIDIA's driver alone (libcuda, through ctypes)."""

import ctypes

import dlpack_abi as abi
import numpy as np


class Gpu:
    """The first GPU's primary context, which CUDA's runtime in bytegolf shares, and one stream that waits for nobody."""

    def __init__(self):
        self._cuda = ctypes.CDLL("libcuda.so.1")
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self.call("cuInit", 0)
        self.call("cuDeviceGet", ctypes.byref(device), 0)
        self.call("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
        self.call("cuCtxSetCurrent", context)
        self.call("cuStreamCreate", ctypes.byref(stream), 1)  # CU_STREAM_NON_BLOCKING
        self.stream = stream.value
        self._busy = self.allocate(1 << 30)

    def call(self, name, *arguments):
        status = getattr(self._cuda, name)(*arguments)
        assert status == 0, f"{name} gave {status}"

    def allocate(self, size_bytes):
        address = ctypes.c_uint64()
        self.call("cuMemAlloc_v2", ctypes.byref(address), ctypes.c_size_t(max(size_bytes, 1)))
        return address.value

    def upload(self, array):
        """Address of a copy of a NumPy array's bytes, in C order; there when this returns."""
        array = np.asarray(array, order="C")
        address = self.allocate(array.nbytes)
        self.call(
            "cuMemcpyHtoD_v2",
            ctypes.c_uint64(address),
            ctypes.c_void_p(array.ctypes.data),
            ctypes.c_size_t(array.nbytes),
        )
        self.call("cuCtxSynchronize")
        return address

    def read(self, address, shape, dtype):
        """Bytes of the GPU as a NumPy array, behind what is on our stream and no other."""
        self.synchronise()
        out = np.empty(shape, dtype=dtype)
        self.call("cuMemcpyDtoHAsync_v2", ctypes.c_void_p(out.ctypes.data), ctypes.c_uint64(address),
                  ctypes.c_size_t(out.nbytes), ctypes.c_void_p(self.stream))  # fmt: skip
        self.synchronise()
        return out

    def copy(self, to, source, size_bytes):
        """Put on our stream."""
        self.call("cuMemcpyDtoDAsync_v2", ctypes.c_uint64(to), ctypes.c_uint64(source), ctypes.c_size_t(size_bytes),
                  ctypes.c_void_p(self.stream))  # fmt: skip

    def keep_busy(self):
        """Some tens of milliseconds of work on our stream."""
        for _ in range(60):
            self.call("cuMemsetD8Async", ctypes.c_uint64(self._busy), ctypes.c_ubyte(0), ctypes.c_size_t(1 << 30),
                      ctypes.c_void_p(self.stream))  # fmt: skip

    def let_wait(self, stream):
        """Makes another stream wait for ours, as a DLPack producer must."""
        event = ctypes.c_void_p()
        self.call("cuEventCreate", ctypes.byref(event), 2)  # CU_EVENT_DISABLE_TIMING
        self.call("cuEventRecord", event, ctypes.c_void_p(self.stream))
        self.call("cuStreamWaitEvent", ctypes.c_void_p(stream), event, 0)
        self.call("cuEventDestroy_v2", event)

    def synchronise(self):
        self.call("cuStreamSynchronize", ctypes.c_void_p(self.stream))


class ByInterface:
    """An array that shows itself by CUDA's array interface only; `stream` is where it is still being written."""

    def __init__(self, address, array, stream=None):
        self.__cuda_array_interface__ = {
            "shape": array.shape,
            "typestr": array.dtype.str,
            "data": (address, False),
            "strides": None if array.flags.c_contiguous else array.strides,
            "version": 3,
            "stream": stream,
        }


class ByDlpack(abi.Producer):
    """An array that shows itself by DLPack and keeps the contract of streams."""

    def __init__(self, gpu, address, shape, code, bits, **more):
        super().__init__(address, shape, code, bits, device=(abi.CUDA, 0), **more)
        self._gpu = gpu

    def __dlpack__(self, **asked):
        if "max_version" in asked:
            self._gpu.let_wait(asked["stream"])
        return super().__dlpack__(**asked)
