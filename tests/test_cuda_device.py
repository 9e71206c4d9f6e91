# SPDX-License-Identifier: Apache-2.0
"""`CupyDevice`, call by call: a module that records stands in for CuPy, whose signatures it has.

What the calls do on a GPU is for `pytest -m gpu`; here is shown that they are the right ones, with the
stream and the device in force.
"""

from __future__ import annotations

import contextlib
import ctypes
import sys
import types
import weakref

import numpy as np
import pytest

import gpucodec.cuda
from gpucodec.cuda import device as devices, pinned
from gpucodec.dtypes import BY_NAME
from gpucodec.errors import UnsupportedError
from gpucodec.kernels import cuda

HOPPER = {
    "MaxSharedMemoryPerMultiprocessor": 228 * 1024,
    "MaxSharedMemoryPerBlockOptin": 227 * 1024,
    "ReservedSharedMemoryPerBlock": 1024,
    "MaxThreadsPerMultiProcessor": 2048,
}
TURING = {
    "MaxSharedMemoryPerMultiprocessor": 64 * 1024,
    "MaxSharedMemoryPerBlockOptin": 64 * 1024,
    "MaxThreadsPerMultiProcessor": 1024,
}


class Kernel:
    """cupy.RawKernel, which uses a little shared memory."""

    shared_size_bytes = 5_000
    max_dynamic_shared_size_bytes = 48 * 1024 - shared_size_bytes

    def __init__(self, recorder: Recorder, name: str) -> None:
        self.recorder, self.name = recorder, name

    def __call__(self, grid, block, arguments, *, shared_mem=0):
        assert all(type(value) is np.uint64 for value in arguments)
        assert shared_mem <= self.max_dynamic_shared_size_bytes
        numbers = tuple(map(int, arguments))
        self.recorder.note("launch", self.name, grid, block, numbers, shared_mem)


class Pinned(bytearray):
    """cupy.cuda.PinnedMemoryPointer: as large as its pool makes it."""

    def __init__(self, size: int) -> None:
        super().__init__(2 * size)

    __hash__ = object.__hash__


class Recorder(types.ModuleType):
    """As much of CuPy 14 as the device touches."""

    def __init__(self) -> None:
        super().__init__("cupy")
        self.log: list[tuple] = []
        self.inside: list[str] = []
        self.events: list[types.SimpleNamespace] = []
        self.pinned = weakref.WeakSet()
        runtime = types.SimpleNamespace(
            memcpyHostToDevice=1,
            memcpyDeviceToHost=2,
            memcpyDeviceToDevice=3,
            memcpyAsync=lambda dst, src, size, kind, stream: self.note(
                "memcpyAsync", dst, src, size, kind, stream
            ),
            memsetAsync=lambda ptr, value, size, stream: self.note(
                "memsetAsync", ptr, value, size, stream
            ),
            streamSynchronize=lambda stream: self.note("streamSynchronize", stream),
            CUDARuntimeError=RuntimeError,
        )
        self.cuda = types.SimpleNamespace(
            runtime=runtime,
            Device=lambda index: self.using(f"device {index}", attributes=HOPPER),
            ExternalStream=self.stream,
            Event=self.event,
            alloc=self.alloc,
            alloc_pinned_memory=self.alloc_pinned,
            get_current_stream=lambda: types.SimpleNamespace(ptr=77),
        )

    def note(self, *call) -> None:
        self.log.append((*call, tuple(self.inside)))

    def using(self, name: str, **attributes):
        @contextlib.contextmanager
        def enter():
            self.inside.append(name)
            yield
            self.inside.pop()

        class Context(types.SimpleNamespace):
            def __enter__(context) -> None:  # noqa: N805
                context.opened = [*getattr(context, "opened", []), enter()]
                context.opened[-1].__enter__()

            def __exit__(context, *error) -> None:  # noqa: N805
                context.opened.pop().__exit__(*error)

        return Context(name=name, **attributes)

    def stream(self, ptr, device_id=-1):
        name = f"stream {ptr} of {device_id}"
        return self.using(name, wait_event=lambda event: self.note("wait", name, event.made))

    def event(self, block=False, disable_timing=False, interprocess=False):
        assert disable_timing
        made = len(self.log)
        self.events.append(
            types.SimpleNamespace(
                made=made, done=False, record=lambda stream: self.note("record", stream.name, made)
            )
        )
        return self.events[-1]

    def alloc_pinned(self, size):
        if size == 13:
            raise RuntimeError("the limit of locked memory")
        self.pinned.add(memory := Pinned(size))
        return memory

    def alloc(self, size):
        self.note("alloc", size)
        return types.SimpleNamespace(ptr=4096)

    def empty(self, shape, dtype):
        self.note("empty", shape, dtype)
        if dtype == BY_NAME["float8_e5m2"].numpy:
            raise TypeError("no such type")
        return "an array"

    def RawModule(self, code=None, *, path=None, options=(), backend="nvrtc"):  # noqa: N802
        assert isinstance(options, tuple)
        self.note("module", code, options, backend)

        def get_function(name):
            return Kernel(self, name)

        return types.SimpleNamespace(get_function=get_function)


@pytest.fixture
def cupy(monkeypatch):
    module = Recorder()
    monkeypatch.setitem(sys.modules, "cupy", module)
    return module


BOTH = ("device 2", "stream 5 of 2")


def test_memory_is_of_the_pool_of_the_stream(cupy):
    device = devices.CupyDevice(2)
    assert device.allocate(100, 5).address == 4096
    device.allocate(0, 5)  # of which an address is wanted all the same
    assert cupy.log == [("alloc", 100, BOTH), ("alloc", 1, BOTH)]


def test_copies_are_queued_on_the_stream_and_only_downloads_wait(cupy):
    device = devices.CupyDevice(2)
    array = np.zeros(10, np.uint8)
    at = array.ctypes.data
    device.upload(1000, array, 5)
    device.copy(1, 2, 3, 5)
    device.clear(8, 9, 5)
    device.copy(1, 2, 0, 5)
    device.clear(1, 0, 5)
    here = ("device 2",)
    assert cupy.log == [
        ("memcpyAsync", 1000, at, 10, 1, 5, here),
        ("memcpyAsync", 1, 2, 3, 3, 5, here),
        ("memsetAsync", 8, 0, 9, 5, here),
    ]
    cupy.log.clear()
    device.download(array, 1000, 5)
    assert cupy.log == [
        ("memcpyAsync", at, 1000, 10, 2, 5, here),
        ("streamSynchronize", 5, here),
    ]


def test_parts_are_copied_once_from_pinned_memory_that_is_held_until_then(cupy):
    device = devices.CupyDevice(2)
    sent = []
    device.runtime.memcpyAsync = lambda to, at, n, kind, stream: sent.append(
        (to, ctypes.string_at(at, n), kind, stream)
    )
    a, b = np.arange(5, dtype=np.uint8), np.full(3, 7, np.uint8)

    def send(n_bytes: int = 11) -> bytes:
        device.upload_parts(1000, [(0, a), (8, b)], n_bytes, 5)
        to, raw, kind, stream = sent.pop()
        assert (to, kind, stream, len(raw)) == (1000, 1, 5, n_bytes)
        return raw

    for n in (1, 2):
        raw = send()
        assert (raw[:5], raw[8:11]) == (a.tobytes(), b.tobytes())
        assert len(cupy.pinned) == n  # the copies are under way
    assert cupy.log[-1][:2] == ("record", "stream 5 of 2")
    cupy.events[0].done = True
    send()
    assert len(cupy.pinned) == 2
    for event in cupy.events:
        event.done = True
    assert send(13)[8:11] == b.tobytes()  # of pageable memory, as the system grants no other
    assert not cupy.pinned
    assert len(cupy.events) == 3


def test_pinned_memory_is_bounded(cupy, monkeypatch):
    monkeypatch.setattr(pinned, "MOST", 40)
    memory = pinned.PinnedMemory(cupy)
    for _ in range(5):
        found, whole = memory.allocate(15)
        assert whole.size == 15
        memory.hold(found, 15, types.SimpleNamespace(name="5"))
    assert len(cupy.events) == 2
    cupy.events[0].done = True
    assert memory.allocate(15)[0] is not None


def test_kernels_are_compiled_once_with_the_options_of_the_tests(cupy):
    device = devices.CupyDevice(2)
    for _ in range(2):
        device.launch("hash_bytes", 7, 64, [1, 2**63, 3], 5)
    device.launch("decode_blocks", 1, 256, [0] * 11, 5)
    modules = [call for call in cupy.log if call[0] == "module"]
    assert modules == [("module", cuda.source("decode"), cuda.OPTIONS, "nvrtc", BOTH)]
    launches = [call for call in cupy.log if call[0] == "launch"]
    assert launches[0] == ("launch", "hash_bytes", (7,), (64,), (1, 2**63, 3), 0, BOTH)
    assert len(launches) == 3


def resident(attributes, n_threads, unused):
    """Blocks that a multiprocessor runs at a time, by its threads and shared memory."""
    each = unused + Kernel.shared_size_bytes + attributes.get("ReservedSharedMemoryPerBlock", 0)
    each = -(-each // 128) * 128
    by_threads = min(attributes["MaxThreadsPerMultiProcessor"] // n_threads, 32)
    return min(by_threads, attributes["MaxSharedMemoryPerMultiprocessor"] // each)


@pytest.mark.parametrize("attributes", [HOPPER, TURING])
@pytest.mark.parametrize("n_threads", [32, 64, 256, 1024])
@pytest.mark.parametrize("share", [0.01, 0.1, 0.25, 0.5, 0.75, 1.0])
def test_low_occupancy_leaves_room(cupy, monkeypatch, attributes, n_threads, share):
    device = devices.CupyDevice(2)
    monkeypatch.setattr(device.device, "attributes", attributes)
    with gpucodec.cuda.low_occupancy(share):
        device.launch("hash_bytes", 7, n_threads, [1], 5)
    device.launch("hash_bytes", 7, n_threads, [1], 5)
    held_back, free = [call[-2] for call in cupy.log if call[0] == "launch"]
    assert free == 0
    most = resident(attributes, n_threads, 0)
    allowed = min(attributes["MaxThreadsPerMultiProcessor"] // n_threads, 32) * share
    assert 1 <= resident(attributes, n_threads, held_back) <= max(1, allowed)
    assert resident(attributes, n_threads, held_back) >= min(most, int(allowed))


@pytest.mark.parametrize("share", [0, -1, 1.1, float("nan")])
def test_a_share_that_is_none_is_refused(share):
    with pytest.raises(ValueError, match=str(share)), gpucodec.cuda.low_occupancy(share):
        pass


def test_every_kernel_is_found_in_a_module(cupy):
    device = devices.CupyDevice(0)
    names = {name for module in cuda.MODULES for name in cuda.kernels(module)}
    for name in names:
        device.launch(name, 1, 32, [], 0)
    assert {call[1] for call in cupy.log if call[0] == "launch"} == names
    assert sum(call[0] == "module" for call in cupy.log) <= len(cuda.MODULES)


def test_streams_follow_each_other_by_events(cupy):
    device = devices.CupyDevice(2)
    assert device.current_stream() == 77
    device.follow(5, 6)
    assert cupy.log == [
        ("record", "stream 6 of 2", 0, ("device 2",)),
        ("wait", "stream 5 of 2", 0, ("device 2",)),
    ]


def test_types_that_cupy_lacks_are_said(cupy):
    device = devices.CupyDevice(2)
    assert device.array(BY_NAME["float32"], (2, 3)) == "an array"
    with pytest.raises(UnsupportedError, match="no type float8_e5m2"):
        device.array(BY_NAME["float8_e5m2"], (2,))
