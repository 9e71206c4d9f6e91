# SPDX-License-Identifier: Apache-2.0
"""Promise 10: memory is bounded by what the caller expects; lying headers are refused first."""

from __future__ import annotations

import struct
import time
import tracemalloc
from contextlib import contextmanager, suppress
from pathlib import Path

import make_frames
import numpy as np
import pytest
from helpers import sample

import gpucodec
from gpucodec import GpucodecError, LimitError, TensorConfig

MIB = 1 << 20
EDGES = (0, 1, 63, 64, 2**31 - 1, 2**31, 2**31 + 1, 2**32, 2**32 + 1, 2**63 - 1, 2**63, 2**64 - 1)


@contextmanager
def bounded(expected: int):
    """At most `expected` bytes and 64 MiB are asked of NumPy and Python meanwhile."""
    tracemalloc.start()
    try:
        yield
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak <= expected + 64 * MIB, peak


def resident_peak() -> int:
    """Peak resident bytes of this process."""
    text = Path("/proc/self/status").read_text()
    return 1024 * int(text.split("VmHWM:")[1].split()[0])


def with_field(frame: bytes, offset: int, code: str, value: int) -> bytes:
    changed = bytearray(frame)
    struct.pack_into(code, changed, offset, value & (1 << 8 * struct.calcsize(code)) - 1)
    return bytes(changed)


FRAME = gpucodec.encode(
    sample("float32", 1000, "values").reshape(10, 100), TensorConfig(256)
).tobytes()
FIELDS = {
    "n_dims": (6, "<B"),
    "block_log": (7, "<B"),
    "decoded_bytes": (8, "<Q"),
    "encoded_bytes": (16, "<Q"),
    "shape[0]": (40, "<Q"),
    "shape[1]": (48, "<Q"),
    "entry[0]": (56 + 8 * 4, "<I"),
    "entry[15]": (56 + 8 * 4 + 4 * 15, "<I"),
}


@pytest.mark.parametrize("value", EDGES)
@pytest.mark.parametrize("field", FIELDS)
def test_every_size_field_at_every_edge_is_refused(field, value):
    offset, code = FIELDS[field]
    start = make_frames.payload_start(FRAME)
    frame = with_field(FRAME, offset, code, value)
    if frame == FRAME:
        return
    for sealed in (frame, make_frames.reseal(frame, start), make_frames.reseal(frame)):
        for read in (gpucodec.decode, gpucodec.inspect, gpucodec.verify):
            with bounded(0), pytest.raises(GpucodecError):
                read(sealed)


@pytest.mark.parametrize(
    "shape",
    [(2**63,), (2**62, 2), (2**31, 2**31), (2**32, 2**32), (2**16, 2**16, 2**16, 2**16), (2**40,)],
)
def test_a_header_that_agrees_with_its_own_lie_is_refused(shape):
    """Few bytes that claim exabytes, products that wrap around 2^64 included."""
    product = int(np.prod(shape, dtype=object))
    for claimed in (product, product & 2**64 - 1):
        for block_log in (6, 16):
            header = struct.pack(
                "<4s4B4Q", b"gpcf", 1, 1, len(shape), block_log, claimed & 2**64 - 1, 0, 0, 0
            )
            frame = header + struct.pack(f"<{len(shape)}Q", *shape) + bytes(4096)
            frame = with_field(frame, 16, "<Q", len(frame))
            with bounded(0), pytest.raises(GpucodecError):
                gpucodec.decode(make_frames.reseal(frame))
            with bounded(0), pytest.raises(GpucodecError):
                gpucodec.decode(make_frames.reseal(frame), limit=None)


def test_shapes_that_numpy_cannot_hold_are_refused():
    for shape in ((2**63, 0), (0, 2**62, 2**62), (2**64 - 1, 2**64 - 1, 0), (2**62, 0, 4)):
        frame = empty_frame(shape)
        with pytest.raises(GpucodecError):
            gpucodec.decode(frame)
    assert gpucodec.decode(empty_frame((2**40, 0, 3))).shape == (2**40, 0, 3)


def empty_frame(shape: tuple[int, ...]) -> bytes:
    body = struct.pack(f"<{len(shape)}Q", *shape)
    body += bytes(-(40 + len(body)) % 16)
    header = struct.pack("<4s4B4Q", b"gpcf", 1, 1, len(shape), 6, 0, 40 + len(body), 0, 0)
    return make_frames.reseal(header + body)


def bomb(decoded_bytes: int) -> bytes:
    """A sound frame of constant blocks: 12 bytes for each 64 KiB."""
    n_blocks = decoded_bytes >> 16
    hash_of_zeros = make_frames.padded_hash(bytes(1 << 16))
    table = np.full(n_blocks, hash_of_zeros, "<u8").tobytes()
    table += np.full(n_blocks, 1 << 24, "<u4").tobytes()
    body = struct.pack("<Q", decoded_bytes) + table
    body += bytes(-(40 + len(body)) % 16)
    header = struct.pack("<4s4B4Q", b"gpcf", 1, 1, 1, 16, decoded_bytes, 40 + len(body), 0, 0)
    return make_frames.reseal(header + body)


def test_a_bomb_is_refused_before_it_is_allocated():
    frame = bomb(8 << 30)
    assert len(frame) < 2 * MIB
    before = resident_peak()
    with bounded(len(frame)):
        with pytest.raises(LimitError, match=str(8 << 30)):
            gpucodec.decode(frame)
        with pytest.raises(LimitError):
            gpucodec.decode_batch([FRAME, frame])
        assert gpucodec.inspect(frame).decoded_bytes == 8 << 30
    assert resident_peak() - before < 64 * MIB


def test_verify_needs_little_memory():
    frame = bomb(1 << 30)
    gpucodec.verify(frame)
    before = resident_peak()
    with bounded(len(frame)):
        gpucodec.verify(frame)
    assert resident_peak() - before < 64 * MIB


def test_decoding_needs_the_output_and_little_more():
    array = sample("bfloat16", 20 * MIB, "values")
    frame = gpucodec.encode(array)
    with bounded(array.nbytes):
        gpucodec.decode(frame)
    out = np.empty_like(array)
    with bounded(0):
        gpucodec.decode(frame, out)


def test_encoding_needs_the_frame_and_little_more():
    array = sample("float32", 10 * MIB, "values")
    most = gpucodec.max_encoded_size(array.shape, array.dtype)
    with bounded(most):
        gpucodec.encode(array)


def test_the_limit_is_exact():
    assert gpucodec.decode(FRAME, limit=4000).nbytes == 4000
    for limit in (0, 1, 3999):
        with pytest.raises(LimitError, match=str(limit)):
            gpucodec.decode(FRAME, limit=limit)
    assert gpucodec.decode(FRAME, limit=None).nbytes == 4000
    assert gpucodec.decode(empty_frame((0,)), limit=0).size == 0


def test_a_callers_output_is_the_limit():
    out = np.empty(4000, np.uint8)
    assert gpucodec.decode(FRAME, out, limit=10) is out
    for wrong in (3999, 4001, 0):
        with pytest.raises(ValueError, match=f"{wrong}.*4000"):
            gpucodec.decode(FRAME, np.empty(wrong, np.uint8))


def test_a_hostile_stream_length_costs_nothing():
    """The loop runs for the rows of the header, whatever a payload says."""
    made = next(m for m in make_frames.random_frames(0, 200) if m.frame[-1] or len(m.raw) > 500)
    start = make_frames.payload_start(made.frame)
    for value in EDGES:
        frame = with_field(made.frame, start, "<I", value & 0xFFFFFFFF)
        begin = time.process_time()
        with suppress(GpucodecError):
            gpucodec.decode(frame, threads=1)
        assert time.process_time() - begin < 1
