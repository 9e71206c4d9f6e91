# SPDX-License-Identifier: Apache-2.0
"""Arrays on a GPU of any library: by DLPack alone, and by interfaces that name strides."""

from __future__ import annotations

import cuda_shim
import cupy_shim
import numpy as np
import pytest
from helpers import NAMES, numpy_dtype, raw_bytes, sample

import gpucodec
import gpucodec.cuda
from gpucodec import UnsupportedError
from gpucodec.cuda import arrays, dlpack

PLAIN = gpucodec.TensorConfig(profile="plain")
pytestmark = pytest.mark.skipif(
    not cuda_shim.available(), reason="needs g++ on x86-64 Linux to run the kernels"
)


@pytest.fixture
def device(monkeypatch):
    return cuda_shim.install(monkeypatch)


class Exported:
    """An array on a GPU that speaks DLPack, and nothing else: of a maker with versions, or without."""

    def __init__(self, array, *, versioned: bool = True) -> None:
        self.array, self.versioned, self.streams = array, versioned, []

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, 0

    def __dlpack__(self, *, stream, **options):
        self.streams.append(stream)
        if options and not self.versioned:
            raise TypeError("unexpected keyword argument 'max_version'")
        return self.array.__dlpack__(**options)


@pytest.mark.parametrize("versioned", [True, False])
@pytest.mark.parametrize("name", [n for n in NAMES if numpy_dtype(n).isbuiltin == 1])
def test_arrays_that_speak_dlpack_alone(device, name, versioned):
    array = sample(name, 3_000, "values").reshape(3, -1)
    given = Exported(array, versioned=versioned)
    frame = gpucodec.encode(given, PLAIN)
    assert given.streams[-1] == dlpack.LEGACY_STREAM
    assert frame.numpy().tobytes() == gpucodec.encode(array, PLAIN).tobytes()
    out = np.zeros_like(array)
    gpucodec.decode(Exported(frame.numpy(), versioned=versioned), Exported(out))
    assert raw_bytes(out) == raw_bytes(array)
    assert gpucodec.encode(Exported(array[1]), PLAIN).numpy().tobytes() == (
        gpucodec.encode(array[1], PLAIN).tobytes()
    )
    with pytest.raises(UnsupportedError, match=r"shape \(2, 1\) has strides"):
        gpucodec.encode(Exported(array[1:, 7:8]), PLAIN)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2", "bool"])
def test_types_that_only_torch_exports(device, name):
    torch = pytest.importorskip("torch")
    tensor = torch.arange(500).to(getattr(torch, name)).reshape(20, 25)
    frame = gpucodec.encode(Exported(tensor), PLAIN)
    assert frame.numpy().tobytes() == gpucodec.encode(tensor, PLAIN).tobytes()


@pytest.mark.filterwarnings("ignore:ComplexHalf")
def test_what_dlpack_says_and_we_cannot_do_is_said(device):
    readonly = np.zeros(4, np.float32)
    readonly.flags.writeable = False
    frame = gpucodec.encode(readonly, PLAIN)
    with pytest.raises(ValueError, match="out is read-only"):
        gpucodec.decode(frame, Exported(readonly))
    with pytest.raises(ValueError, match=r"out of shape \(2, 2\) has strides \(4, 8\)"):
        gpucodec.decode(frame, Exported(np.zeros((2, 2), np.float32).T))
    with pytest.raises(ValueError, match="out has 8 bytes, the frame decodes to 16"):
        gpucodec.decode(frame, Exported(np.zeros(2, np.float32)))
    torch = pytest.importorskip("torch")
    with pytest.raises(UnsupportedError, match="the format has no type complex32"):
        gpucodec.encode(Exported(torch.zeros(4, dtype=torch.complex32)), PLAIN)


class Strided:
    """An array that names its strides, of any type, as Numba's and JAX's do."""

    def __init__(self, array: np.ndarray, *, typed: bool = True) -> None:
        self.array, self.shape = array, array.shape
        if typed:
            self.dtype = array.dtype

    @property
    def __cuda_array_interface__(self) -> dict:
        found = self.array.__array_interface__
        return {**found, "strides": self.array.strides, "version": 3, "stream": None}


def layouts(array: np.ndarray):
    """Ways in which an array of two axes may lie."""
    yield "transposed", array.T
    yield "every second", array[::2, 1::3]
    yield "backwards", array[::-1, ::-1]
    yield "repeated", np.broadcast_to(array[:1], (5, array.shape[1]))
    yield "a column", array[:, 3]
    yield "fields", array.reshape(10, -1, array.shape[1])[:, ::2]


@pytest.mark.parametrize("name", NAMES)
def test_strided_arrays_are_encoded_in_c_order(monkeypatch, name):
    cupy_shim.install(monkeypatch)
    array = sample(name, 6_000, "values").reshape(60, -1)
    for label, part in layouts(array):
        frame = gpucodec.encode(Strided(part), PLAIN)
        assert frame.get().tobytes() == gpucodec.encode(part, PLAIN).tobytes(), label
        with pytest.raises(ValueError, match=r"shape \(.*\) has strides \(|read-only"):
            gpucodec.decode(frame, Strided(part))


def test_frames_are_not_written_to_what_is_not_contiguous(monkeypatch):
    cupy_shim.install(monkeypatch)
    array = np.zeros(100, np.float32)
    room = np.full(4_096, 0xA5, np.uint8)
    with pytest.raises(ValueError, match=r"out of shape \(2048,\) has strides \(2,\)"):
        gpucodec.cuda.encode(Strided(array), PLAIN, out=Strided(room[::2]))
    room.flags.writeable = False
    with pytest.raises(ValueError, match="read-only"):
        gpucodec.cuda.encode(Strided(array), PLAIN, out=Strided(room))
    assert (room == 0xA5).all()


def test_strided_frames_are_decoded(monkeypatch):
    module = cupy_shim.install(monkeypatch).module
    array = sample("float32", 3_000, "values")
    frame = gpucodec.encode(array, PLAIN)
    apart = np.zeros(2 * frame.size, np.uint8)
    apart[::2] = frame
    decoded = gpucodec.decode(Strided(apart[::2]))
    assert isinstance(decoded, module.ndarray)
    assert decoded.get().tobytes() == array.tobytes()


def test_without_cupy_strides_are_named(device):
    array = np.zeros((4, 6), np.float32)
    with pytest.raises(UnsupportedError, match=r"shape \(6, 4\) has strides \(4, 24\) bytes"):
        gpucodec.encode(Strided(array.T), PLAIN)
    # strides that say the same as none
    frame = gpucodec.encode(Strided(array), PLAIN)
    assert frame.numpy().tobytes() == gpucodec.encode(array, PLAIN).tobytes()


def test_the_driver_is_asked_where_an_array_does_not_say(monkeypatch):
    module = cupy_shim.install(monkeypatch).module
    module.cuda.runtime.pointerGetAttributes = lambda address: type("", (), {"device": 3})
    assert arrays.view(Strided(np.zeros(3, np.float32))).index == 3
    assert arrays.view(cupy_shim.Array(np.zeros(3, np.float32))).index == 0


def test_elements_that_only_the_interface_knows(monkeypatch):
    cupy_shim.install(monkeypatch)
    array = np.arange(24, dtype=np.int16).reshape(4, 6)
    found = arrays.view(Strided(array.T, typed=False))
    assert found.require_dtype().name == "int16"
