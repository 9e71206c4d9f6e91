# SPDX-License-Identifier: Apache-2.0
"""As much of CuPy as zarr's GPU buffers and our codecs touch, over memory of the host.

Strict where CuPy is: no implicit way to NumPy, and only scalars and its own arrays are assigned. The
memory is that of NumPy, which for the shim's device is as good as its own.
"""

from __future__ import annotations

import sys
import threading
import types
from typing import TYPE_CHECKING, Any

import numpy as np
from cuda_shim import ShimDevice

if TYPE_CHECKING:
    import pytest

    from gpucodec.dtypes import DType


def _inside(value: Any) -> Any:
    if isinstance(value, Array):
        return value.memory
    if isinstance(value, np.ndarray) and value.ndim:
        message = "Unsupported type <class 'numpy.ndarray'>"
        raise TypeError(message)
    return value


class Array:
    """cupy.ndarray."""

    device = types.SimpleNamespace(id=0)

    def __init__(self, memory: np.ndarray) -> None:
        self.memory = np.asarray(memory)

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        message = "Implicit conversion to a NumPy array is not allowed. Use .get()"
        raise TypeError(message)

    def __array_function__(self, function: Any, _kinds: Any, values: Any, options: Any) -> Any:
        plain = [[*map(_inside, v)] if isinstance(v, list) else _inside(v) for v in values]
        made = function(*plain, **options)
        if isinstance(made, (tuple, list)):
            return [Array(one) for one in made]
        return Array(made) if isinstance(made, np.ndarray) else made

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        found = self.memory.__array_interface__
        strides = None if self.memory.flags.c_contiguous else self.memory.strides
        return {**found, "version": 3, "strides": strides, "typestr": self.memory.dtype.str}

    def __len__(self) -> int:
        return len(self.memory)

    def __getitem__(self, key: Any) -> Array:
        return Array(self.memory[_key(key)])

    def __setitem__(self, key: Any, value: Any) -> None:
        self.memory[_key(key)] = _inside(value)

    def __eq__(self, other: object) -> Array:  # type: ignore[override]
        return Array(self.memory == _inside(other))

    __hash__ = None  # type: ignore[assignment]

    def get(self) -> np.ndarray:
        return self.memory.copy()

    def tobytes(self, order: str = "C") -> bytes:
        return self.memory.tobytes(order)  # type: ignore[arg-type]


def _key(key: Any) -> Any:
    if isinstance(key, tuple):
        return tuple(one.memory if isinstance(one, Array) else one for one in key)
    return key.memory if isinstance(key, Array) else key


for _name in ("dtype", "ndim", "size", "shape", "nbytes", "itemsize", "strides", "flags"):
    setattr(Array, _name, property(lambda self, name=_name: getattr(self.memory, name)))
for _name in ("reshape", "view", "astype", "copy", "transpose", "ravel", "squeeze", "all"):
    setattr(
        Array,
        _name,
        lambda self, *a, _name=_name, **k: Array(getattr(self.memory, _name)(*a, **k)),
    )
Array.T = property(lambda self: Array(self.memory.T))  # type: ignore[attr-defined]
Array.fill = lambda self, value: self.memory.fill(value)  # type: ignore[attr-defined]
Array.__bool__ = lambda self: bool(self.memory)  # type: ignore[attr-defined]


class Module(types.ModuleType):
    """The module cupy. `copied` counts what crosses over, in bytes: to the device and back;
    `waits` how often somebody waited for the current stream.
    """

    ndarray = Array

    def __init__(self) -> None:
        super().__init__("cupy")
        self.copied = {"up": 0, "down": 0}
        self.waits = 0
        stream = types.SimpleNamespace(synchronize=self._wait)
        runtime = types.SimpleNamespace(
            pointerGetAttributes=lambda address: types.SimpleNamespace(device=0)
        )
        self.cuda = types.SimpleNamespace(get_current_stream=lambda: stream, runtime=runtime)

    def _wait(self) -> None:
        self.waits += 1

    def empty(self, shape: Any, dtype: Any = float, order: str = "C") -> Array:
        made = Array(np.empty(shape, dtype, order))  # type: ignore[call-overload]
        made.memory.reshape(-1, order="A").view(np.uint8)[:] = 0xA5
        return made

    def asarray(self, value: Any) -> Array:
        if isinstance(value, Array):
            return value
        if hasattr(value, "__cuda_array_interface__"):
            told = {**value.__cuda_array_interface__, "of": value}  # whose memory it is
            return Array(np.asarray(types.SimpleNamespace(__array_interface__=told)))
        array = np.array(value)
        self.copied["up"] += array.nbytes
        return Array(array)

    asanyarray = asarray

    def array(self, value: Any, dtype: Any = None) -> Array:
        return self.asarray(np.array(value, dtype))

    def frombuffer(self, value: Any, dtype: Any) -> Array:
        return self.asarray(np.frombuffer(value, dtype))

    def asnumpy(self, value: Any) -> np.ndarray:
        self.copied["down"] += value.nbytes
        return value.get() if isinstance(value, Array) else np.asarray(value)

    def ascontiguousarray(self, value: Array) -> Array:
        return Array(np.ascontiguousarray(value.memory))

    def concatenate(self, values: list[Array]) -> Array:
        return Array(np.concatenate([value.memory for value in values]))


# zarr works in threads, the shim in one; and after an error zarr's go on into the next test.
ONE = threading.Lock()


class Device(ShimDevice):
    """The shim's device, whose arrays are those above; counts what crosses over with the module."""

    def __init__(self, module: Module, order: int = 0, seed: int = 0) -> None:
        super().__init__(order, seed)
        self.module = module

    def array(self, dtype: DType, shape: tuple[int, ...]) -> Any:
        return self.module.empty(shape, dtype.numpy)

    def upload(self, to: int, array: np.ndarray, stream: int = 0) -> None:
        self.module.copied["up"] += array.nbytes
        super().upload(to, array, stream)

    def download(self, array: np.ndarray, at: int, stream: int = 0) -> None:
        self.module.copied["down"] += array.nbytes
        super().download(array, at, stream)

    def launch(self, *arguments: Any, **options: Any) -> None:
        with ONE:
            super().launch(*arguments, **options)


def install(monkeypatch: pytest.MonkeyPatch, order: int = 0) -> Device:
    """Make it the CuPy of everybody, and the shim its device."""
    import zarr.core.buffer.gpu

    from gpucodec.cuda import device as devices

    module = Module()
    device = Device(module, order, 7)
    monkeypatch.setitem(sys.modules, "cupy", module)
    monkeypatch.setattr(zarr.core.buffer.gpu, "cp", module)
    monkeypatch.setattr(devices, "find", lambda index: device)
    return device
