# SPDX-License-Identifier: Apache-2.0
"""A GPU, as the engine needs it; by CuPy, or in tests by one that runs the kernels on the host."""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ..errors import UnsupportedError
from ..kernels import cuda as kernels
from . import occupancy
from .pinned import PinnedMemory

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..dtypes import DType

    Host = np.ndarray[Any, Any]


class Memory(Protocol):
    """Device memory that lives as long as this object, and as the work queued with it."""

    @property
    def address(self) -> int:
        """Of its first byte, a multiple of 256."""


class Device(Protocol):
    """What the engine needs of a GPU. All work goes to `stream`, a handle, in order."""

    def allocate(self, n_bytes: int, stream: int) -> Memory:
        """Memory with any content."""

    def upload(self, to: int, array: Host, stream: int) -> None:
        """Copy a host array to an address. Pinned memory must not change until that is done."""

    def upload_parts(
        self, to: int, parts: Sequence[tuple[int, Host]], n_bytes: int, stream: int
    ) -> None:
        """Copy host bytes to their places in `n_bytes` at an address, by one copy. They may change when
        this returns.
        """

    def download(self, array: Host, at: int, stream: int) -> None:
        """Fill a host array from an address, once all that is queued has run."""

    def copy(self, to: int, at: int, n_bytes: int, stream: int) -> None:
        """Copy between device addresses."""

    def clear(self, at: int, n_bytes: int, stream: int) -> None:
        """Write zeros."""

    def launch(
        self, kernel: str, n_blocks: int, n_threads: int, arguments: Sequence[int], stream: int
    ) -> None:
        """Run a kernel; arguments are addresses and numbers of 64 bits."""

    def current_stream(self) -> int:
        """The stream that its library would use now."""

    def follow(self, stream: int, other: int) -> None:
        """Let what is queued on `stream` from now on wait for what is queued on `other`."""

    def array(self, dtype: DType, shape: tuple[int, ...]) -> Any:
        """A new array of its library."""


class CupyMemory:
    """Of CuPy's pool: what is freed is used again by later work of the same stream only."""

    def __init__(self, pointer: Any) -> None:
        self.pointer = pointer

    @property
    def address(self) -> int:
        """Of its first byte."""
        return int(self.pointer.ptr)


class CupyDevice:
    """A CUDA device by way of CuPy."""

    def __init__(self, index: int) -> None:
        import cupy

        self.cupy = cupy
        self.runtime = cupy.cuda.runtime
        self.index = index
        self.device = cupy.cuda.Device(index)
        self.pinned = PinnedMemory(cupy)
        self._modules: dict[str, Any] = {}
        self._functions: dict[str, Any] = {}

    def _stream(self, stream: int) -> Any:
        return self.cupy.cuda.ExternalStream(stream, self.index)

    @cached_property
    def _limits(self) -> occupancy.Limits:
        return occupancy.Limits.of(self.device.attributes)

    def _function(self, kernel: str) -> Any:
        """A kernel; its module is compiled, or comes from CuPy's cache, on first use."""
        if kernel not in self._functions:
            [name, *_] = [name for name in kernels.MODULES if kernel in kernels.kernels(name)]
            if name not in self._modules:
                self._modules[name] = self.cupy.RawModule(
                    code=kernels.source(name), options=kernels.OPTIONS, backend="nvrtc"
                )
            self._functions[kernel] = self._modules[name].get_function(kernel)
        return self._functions[kernel]

    def allocate(self, n_bytes: int, stream: int) -> CupyMemory:
        """Memory of CuPy's pool."""
        with self.device, self._stream(stream):
            return CupyMemory(self.cupy.cuda.alloc(max(1, n_bytes)))

    def _copy(self, to: int, at: int, n_bytes: int, kind: int, stream: int) -> None:
        if n_bytes:
            with self.device:
                self.runtime.memcpyAsync(to, at, n_bytes, kind, stream)

    def upload(self, to: int, array: Host, stream: int) -> None:
        """From pageable memory the runtime stages the bytes before it returns."""
        kind = self.runtime.memcpyHostToDevice
        self._copy(to, array.ctypes.data, array.nbytes, kind, stream)

    def upload_parts(
        self, to: int, parts: Sequence[tuple[int, Host]], n_bytes: int, stream: int
    ) -> None:
        """By way of pinned memory, if there is some."""
        with self.device:
            memory, whole = self.pinned.allocate(n_bytes)
            for at, part in parts:
                whole[at : at + part.size] = part
            self.upload(to, whole, stream)
            self.pinned.hold(memory, n_bytes, self._stream(stream))

    def download(self, array: Host, at: int, stream: int) -> None:
        """Waits for the stream."""
        kind = self.runtime.memcpyDeviceToHost
        self._copy(array.ctypes.data, at, array.nbytes, kind, stream)
        with self.device:
            self.runtime.streamSynchronize(stream)

    def copy(self, to: int, at: int, n_bytes: int, stream: int) -> None:
        """On the device."""
        self._copy(to, at, n_bytes, self.runtime.memcpyDeviceToDevice, stream)

    def clear(self, at: int, n_bytes: int, stream: int) -> None:
        """Write zeros."""
        if n_bytes:
            with self.device:
                self.runtime.memsetAsync(at, 0, n_bytes, stream)

    def launch(
        self, kernel: str, n_blocks: int, n_threads: int, arguments: Sequence[int], stream: int
    ) -> None:
        """Run a kernel, with no more of its blocks at a time than `low_occupancy` allows."""
        values = tuple(np.uint64(value) for value in arguments)
        with self.device, self._stream(stream):
            function, unused = self._function(kernel), 0
            if occupancy.is_low():
                unused = occupancy.padding(self._limits, n_threads, function.shared_size_bytes)
                function.max_dynamic_shared_size_bytes = max(
                    function.max_dynamic_shared_size_bytes, unused
                )
            function((n_blocks,), (n_threads,), values, shared_mem=unused)

    def current_stream(self) -> int:
        """CuPy's current stream on this device."""
        with self.device:
            return int(self.cupy.cuda.get_current_stream().ptr)

    def follow(self, stream: int, other: int) -> None:
        """By an event."""
        with self.device:
            event = self.cupy.cuda.Event(disable_timing=True)
            event.record(self._stream(other))
            self._stream(stream).wait_event(event)

    def array(self, dtype: DType, shape: tuple[int, ...]) -> Any:
        """A CuPy array."""
        with self.device:
            try:
                return self.cupy.empty(shape, dtype.numpy)
            except (TypeError, ValueError) as error:
                message = f"CuPy has no type {dtype.name} ({error}); pass out=, a tensor or uint8"
                raise UnsupportedError(message) from error


EXTRAS = "pip install 'gpucodec[cuda12]' or 'gpucodec[cuda13]', as the driver needs"


@cache
def find(index: int) -> Device:
    """The device of this number, after it has compiled and run a kernel.

    Raises
    ------
    UnsupportedError
        CuPy, the driver or the compiler is missing or does not work; the message says which.

    """
    try:
        import cupy
    except ImportError as error:
        message = f"arrays on a GPU need CuPy, which cannot be imported ({error}): {EXTRAS}"
        raise UnsupportedError(message) from error
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        message = f"the CUDA driver does not work: {error}"
        raise UnsupportedError(message) from error
    if not 0 <= index < count:
        message = f"there is no CUDA device {index}, only {count}"
        raise UnsupportedError(message)
    code = 'extern "C" __global__ void probe(int* out) { *out = 42; }'
    try:  # an importable CuPy and a driver are not enough: NVRTC may be missing or too old
        with cupy.cuda.Device(index):
            out = cupy.zeros(1, np.int32)
            cupy.RawKernel(code, "probe", backend="nvrtc")((1,), (1,), (out,))
            result = int(out[0])
    except Exception as error:
        message = f"CUDA device {index} cannot compile and run a kernel ({error}): {EXTRAS}"
        raise UnsupportedError(message) from error
    if result != 42:  # noqa: PLR2004 - what the kernel writes
        message = f"CUDA device {index} ran a kernel with the result {result} instead of 42"
        raise UnsupportedError(message)
    return CupyDevice(index)
