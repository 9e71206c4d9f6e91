# SPDX-License-Identifier: Apache-2.0
"""Containers of quantized tensors: damaged, cut, made to lie, as large as they get."""

from __future__ import annotations

import random

import judge
import ml_dtypes
import numpy as np
import pytest
from helpers import LEVELS, run_python
from mutate_quantized import FORMATS, mutant_of, rehashed, seeds_of_mutants

import gpucodec
from gpucodec.dtypes import BY_NAME
from gpucodec.errors import CorruptionError, GpucodecError, TruncatedError, UnsupportedError
from gpucodec.quant import (
    ErrorBound,
    QuantizeConfig,
    decode_quantized,
    encode_quantized,
    frame as containers,
    quantize,
)


@pytest.fixture(scope="module")
def container():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(20, 100)).astype(np.float32)
    x[::3, 5] = np.nan
    config = QuantizeConfig("int4_asym", 32, bound=ErrorBound(abs=10.0), seed=3)
    return encode_quantized(x, config)


def decodes_or_refuses(frame):
    try:
        decoded = decode_quantized(frame, limit=1 << 20)
    except GpucodecError:
        return False
    assert decoded.nbytes <= 1 << 20
    return True


@pytest.fixture(scope="module")
def small():
    """Containers that use every part, small enough to try every bit."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(2, 40)).astype(np.float32)
    x[1, 5] = np.nan
    return [
        encode_quantized(x, QuantizeConfig("int4_asym", 32)),
        encode_quantized(x[:, 5:9], QuantizeConfig("nvfp4", axis=0)),
    ]


def test_a_container_cut_anywhere_is_truncated(small):
    for frame in small:
        for size in range(4, frame.size):
            with pytest.raises(TruncatedError):
                gpucodec.decode(frame[:size])
        with pytest.raises(CorruptionError, match="bytes, but"):
            gpucodec.decode(np.append(frame, np.uint8(0)))


def test_every_flipped_bit_is_noticed(small):
    for frame in small:
        for at in range(frame.size * 8):
            broken = frame.copy()
            broken[at // 8] ^= 1 << at % 8
            with pytest.raises(GpucodecError):
                gpucodec.decode(broken)


def test_headers_that_lie_with_a_valid_hash(container):
    """Every byte of the header, set to many values: refused, or decoded to what it then says."""
    rng = np.random.default_rng(1)
    refused = 0
    for at in [*range(4, 24), *range(32, 64 + 16 + 5 * 16)]:
        for value in {0, 1, 2, 3, 127, 255, int(rng.integers(256))}:
            frame = container.copy()
            frame[at] = value
            refused += not decodes_or_refuses(rehashed(frame))
    assert refused > 300


def test_parts_of_other_containers_are_refused(container):
    rng = np.random.default_rng(5)
    other = encode_quantized(
        rng.normal(size=(20, 100)).astype(np.float32), QuantizeConfig("int4_asym", 32)
    )
    sizes = container[80 : 80 + 16].view(np.uint64)
    start = 80 + 16 * 5
    frame = container.copy()
    codes = slice(start, start + int(sizes[0]))
    theirs = other[80 + 16 * 3 :][: int(sizes[0])]
    frame[codes][: theirs.size] = theirs
    with pytest.raises(GpucodecError, match="hash"):
        decode_quantized(frame)


def test_positions_that_leave_the_tensor_are_refused():
    quantized = quantize(np.ones((4, 64), np.float32), QuantizeConfig("int8"))
    for steps in ([256], [255, 0], [0, 0xFFFFFFFF], [0xFFFFFFFF] * 3):
        parts = [
            gpucodec.encode(array)
            for array in (
                quantized.codes,
                quantized.scales,
                np.array(steps, np.uint32),
                np.ones(len(steps), np.float32),
            )
        ]
        frame = containers.join(quantized.config, BY_NAME["float32"], (4, 64), 1.0, parts)
        with pytest.raises(GpucodecError, match="positions"):
            decode_quantized(frame)


def test_parts_of_another_shape_or_type_are_refused():
    quantized = quantize(np.ones((4, 64), np.float32), QuantizeConfig("int8"))
    good = [quantized.codes, quantized.scales, np.zeros(1, np.uint32), np.ones(1, np.float32)]
    for i, wrong in (
        (0, np.zeros((4, 1 << 20), np.uint8)),
        (0, quantized.codes.view(np.int8)),
        (1, quantized.scales.reshape(-1)),
        (2, np.zeros((1, 1), np.uint32)),
        (2, np.zeros(1, np.uint64)),
        (2, np.zeros(257, np.uint32)),
        (3, np.ones(2, np.float32)),
        (3, np.ones(1, np.float64)),
    ):
        arrays = [*good[:i], wrong, *good[i + 1 :]]
        parts = [gpucodec.encode(array) for array in arrays]
        frame = containers.join(quantized.config, BY_NAME["float32"], (4, 64), 1.0, parts)
        with pytest.raises(GpucodecError, match=r"header makes|have shape"):
            decode_quantized(frame)


# --- mutants whose hashes hold -------------------------------------------------------------------


def check_mutants(count, seed):
    rng = random.Random(seed)
    frames = list(seeds_of_mutants())
    outcomes = {True: 0, False: 0}
    for _ in range(count):
        frame = mutant_of(rng.choice(frames), rng)
        outcomes[judge.agree(frame.tobytes())] += 1
    return outcomes


def test_the_document_judges_mutants_alike():
    outcomes = check_mutants(1_000, 1)
    assert min(outcomes.values()) > 100, outcomes


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
def test_the_document_judges_many_mutants_alike(seed):
    check_mutants(20_000, seed)


@pytest.mark.parametrize("level", LEVELS)
def test_no_byte_beside_the_arrays_is_touched(level):
    assert run_python("quant_worker.py", "guard", "600", level=level) == "600\n"


# --- salvage -------------------------------------------------------------------------------------


def damaged(frame, name, number):
    """A copy with one payload byte of a block of a part changed, and which part that is."""
    [part] = [part for part in containers.parse(frame).parts if part.name == name]
    piece = gpucodec.frame.parse(frame[part.start : part.stop])
    begin, end = piece.offsets[number : number + 2]
    assert end > begin, "the block has no payload"
    broken = frame.copy()
    broken[part.start + (begin + end) // 2] ^= 64
    return broken


def bad_mask(salvaged):
    mask = np.zeros(salvaged.array.size, bool)
    size = salvaged.array.itemsize
    for bad in salvaged.bad_blocks:
        assert bad.start < bad.stop
        assert bad.start % size == bad.stop % size == 0
        mask[bad.start // size : bad.stop // size] = True
    return mask.reshape(salvaged.array.shape)


@pytest.fixture(scope="module", params=[("int8", -1), ("mxfp4", -1), ("int4_asym", 0)], ids=str)
def sizeable(request):
    """An array of rows that end within a block, and its container, of several blocks a part."""
    name, axis = request.param
    rng = np.random.default_rng(0)
    x = rng.normal(size=(1100, 1001)).astype(ml_dtypes.bfloat16)
    exceptional = rng.permutation(x.size)[: x.size // 10]
    payloads = rng.integers(0x7FC0, 0x7FFF, exceptional.size).astype(np.uint16)
    x.reshape(-1)[exceptional] = payloads.view(x.dtype)
    config = QuantizeConfig(name, 16, axis=axis)
    frame = encode_quantized(x, config)
    return config, frame, gpucodec.decode(frame)


def elements_of(part, number, config, values):
    """Which elements a block of a part has a say in, blocks along the last axis."""
    rows, row = values.shape
    first, last = number << 16, number + 1 << 16
    if part == "codes":
        per_row = -(-row * config.spec.bits // 8)
        byte = np.arange(row) * config.spec.bits // 8 + np.arange(rows)[:, None] * per_row
        return (byte >= first) & (byte < last)
    if part in {"scales", "offsets"}:
        block = np.arange(row) // config.block + np.arange(rows)[:, None] * -(-row // config.block)
        return (block >= first) & (block < last)
    places = np.flatnonzero(np.isnan(values.astype(np.float32)))
    mask = np.zeros(rows * row, bool)
    if part == "values":
        mask[places[first:last]] = True
    else:
        mask[places[first - 1] + 1 if first else 0 :] = True
    return mask.reshape(rows, row)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("part", ["codes", "scales", "offsets", "positions", "values"])
def test_salvage_returns_what_a_damaged_block_has_no_say_in(sizeable, part, number):
    config, frame, whole = sizeable
    if part == "offsets" and not config.spec.has_offsets:
        pytest.skip("the format has none")
    broken = damaged(frame, part, number)
    with pytest.raises(CorruptionError):
        gpucodec.decode(broken)
    moved = whole.T if config.axis == 0 else whole
    expected = elements_of(part, number, config, moved)
    expected = expected.T if config.axis == 0 else expected
    salvaged = gpucodec.decode(broken, salvage=True)
    assert {bad.reason.partition(":")[0] for bad in salvaged.bad_blocks} == {part}
    assert {bad.block for bad in salvaged.bad_blocks} == {number}
    assert (bad_mask(salvaged) == expected).all()
    found = salvaged.array.view(np.uint16)
    assert (found[~expected] == whole.view(np.uint16)[~expected]).all()
    assert not found[expected].any()


def test_salvage_of_several_damages_and_into_other_memory(sizeable):
    _, frame, whole = sizeable
    broken = damaged(damaged(frame, "codes", 3), "scales", 1)
    out = np.full((1100, 2002), 7, whole.dtype)[:, ::2]
    salvaged = gpucodec.decode(broken, out, salvage=True)
    assert salvaged.array is out
    mask = bad_mask(salvaged)
    assert 0 < mask.sum() < mask.size
    assert (np.ascontiguousarray(out).view(np.uint16)[~mask] == whole.view(np.uint16)[~mask]).all()
    sound = gpucodec.decode(frame, salvage=True)
    assert not sound.bad_blocks
    assert sound.array.tobytes() == whole.tobytes()
    with pytest.raises(ValueError, match="dequantize=False"):
        decode_quantized(broken, dequantize=False, salvage=True)


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("name", FORMATS)
def test_no_container_is_larger_than_max_encoded_size(name, dtype):
    rng = np.random.default_rng(2)
    raw = rng.integers(0, 256, (3, 5000, np.dtype(dtype).itemsize), np.uint8)
    patterns = raw.view(dtype)[..., 0]
    kinds = [
        patterns[0],
        np.full(5000, np.nan, dtype),
        patterns[1].reshape(50, 100),
        patterns[2][:1],
    ]
    kinds += [np.zeros((0, 4), dtype), np.zeros((), dtype), patterns[0].reshape(100, 50)]
    kinds.append(np.where(np.arange(5000) % 2 == 0, patterns[1], np.array(1, dtype)))
    for x in kinds:
        for axis in (-1, "auto") if name == "log8" else (-1, 0) if x.ndim else (-1,):
            config = QuantizeConfig(name, 16, axis=axis, bound=ErrorBound(rel=0.0))
            most = gpucodec.max_encoded_size(x.shape, dtype, config)
            assert encode_quantized(x, config).size <= most
    assert (
        gpucodec.max_encoded_size(5000, dtype, config)
        < 5000 * (np.dtype(dtype).itemsize + 6) + 4096
    )
    with pytest.raises(UnsupportedError, match="not a float"):
        gpucodec.max_encoded_size(5000, np.int32, config)


# --- together with plain frames ------------------------------------------------------------------


def test_frames_and_containers_decode_alike():
    x = np.random.default_rng(1).normal(size=(40, 64)).astype(np.float32)
    container = encode_quantized(x, QuantizeConfig("int8"))
    lossy = decode_quantized(container)
    out = [None, np.empty_like(x), np.empty_like(x)]
    found = gpucodec.decode_batch([gpucodec.encode(x), container, gpucodec.encode(-x)], out)
    assert (found[0] == x).all()
    assert found[1] is out[1]
    assert (out[1] == lossy).all()
    assert (out[2] == -x).all()
    assert (gpucodec.decode(container.tobytes()) == lossy).all()
    gpucodec.verify(container)
    info = gpucodec.inspect(container)
    assert (info.config.format, info.dtype, info.shape) == ("int8", "float32", (40, 64))
    assert set(info.parts) == {"codes", "scales"}
    assert info.encoded_bytes == container.size
    with pytest.raises(gpucodec.LimitError):
        gpucodec.decode(container, limit=x.nbytes - 1)


def test_verify_needs_little_memory():
    """A container of 256 MiB of codes that takes some kilobytes."""
    tracemalloc = pytest.importorskip("tracemalloc")
    shape, config = (1 << 14, 1 << 14), QuantizeConfig("int8", 4096)
    codes = np.zeros((1, 1 << 20), np.uint8)
    parts = [
        gpucodec.encode(np.broadcast_to(codes, (256, 1 << 20)).reshape(shape)),
        gpucodec.encode(np.ones((1 << 14, 4), np.float32)),
    ]
    frame = containers.join(config, BY_NAME["float32"], shape, 1.0, parts)
    tracemalloc.start()
    gpucodec.verify(frame)
    assert tracemalloc.get_traced_memory()[1] < 40 << 20
    tracemalloc.stop()
    with pytest.raises(gpucodec.LimitError):
        gpucodec.decode(frame, limit=1 << 20)
