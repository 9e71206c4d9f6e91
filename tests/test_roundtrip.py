# SPDX-License-Identifier: Apache-2.0
"""Promise 1: lossless coding returns the same bits, whatever the type, shape and layout."""

from __future__ import annotations

import array as python_array
import math
import subprocess
import sys

import numpy as np
import pytest
import spec_decoder
from helpers import CONTENTS, NAMES, numpy_dtype, raw_bytes, repetitive, same, sample
from hypothesis import given, strategies as st

import gpucodec
from gpucodec import LZConfig, TensorConfig, codec, frame as container

BLOCK_SIZES = (None, *(1 << log for log in range(6, 17)))
configs = st.one_of(
    st.builds(
        TensorConfig, st.sampled_from(BLOCK_SIZES), st.sampled_from(["ratio", "fast", "auto"])
    ),
    st.sampled_from([TensorConfig(256, lz=True), LZConfig(), LZConfig("ratio", 4)]),
)
shapes = st.lists(st.integers(0, 40), max_size=5).filter(lambda s: math.prod(s) <= 20_000)


@st.composite
def arrays(draw):
    """Arrays of every type, of any shape, in layouts that are rarely contiguous."""
    name, shape = draw(st.sampled_from(NAMES)), tuple(draw(shapes))
    content, seed = draw(st.sampled_from(CONTENTS)), draw(st.integers(0, 2**32))
    array = sample(name, math.prod(shape), content, seed).reshape(shape)
    layout = draw(st.sampled_from(["C", "F", "transposed", "reversed", "strided", "broadcast"]))
    if layout == "F":
        return np.asfortranarray(array)
    if layout == "transposed":
        return array.transpose(draw(st.permutations(range(array.ndim))))
    if layout == "reversed":
        return array[(slice(None, None, -1),) * array.ndim]
    if layout == "strided":
        return array[tuple(slice(draw(st.integers(0, 2)), None, 2) for _ in shape)]
    if layout == "broadcast":
        return np.broadcast_to(array, (2, *shape))
    return array


@given(array=arrays(), config=configs)
def test_any_array_comes_back(array, config):
    frame = gpucodec.encode(array, config)
    assert same(gpucodec.decode(frame), array)
    assert frame.size <= gpucodec.max_encoded_size(array.shape, array.dtype, config)
    if array.size <= 2000:  # the oracle is slow
        told = spec_decoder.decode(frame.tobytes())
        assert told.raw.tobytes() == raw_bytes(array)


@given(
    bits=st.lists(st.integers(0, 2**64 - 1), max_size=300),
    name=st.sampled_from(NAMES),
    config=configs,
)
def test_any_bit_pattern_comes_back(bits, name, config):
    raw = np.array(bits, np.uint64).view(np.uint8)
    dtype = numpy_dtype(name)
    array = (raw & 1 if name == "bool" else raw)[: raw.size // dtype.itemsize * dtype.itemsize]
    assert same(gpucodec.decode(gpucodec.encode(array.view(dtype), config)), array.view(dtype))


@given(
    arrays_=st.lists(arrays(), max_size=5), config=configs, threads=st.sampled_from([None, 1, 3])
)
def test_batches_equal_single_calls(arrays_, config, threads):
    frames = gpucodec.encode_batch(arrays_, config, threads=threads)
    assert [f.tobytes() for f in frames] == [gpucodec.encode(a, config).tobytes() for a in arrays_]
    for decoded, array in zip(gpucodec.decode_batch(frames, threads=threads), arrays_, strict=True):
        assert same(decoded, array)


@pytest.mark.parametrize("name", [n for n in NAMES if numpy_dtype(n).itemsize <= 2])
def test_all_patterns_of_small_types(name):
    width = numpy_dtype(name).itemsize
    every = np.arange(256**width, dtype=f"<u{width}")
    if name == "bool":
        every = every[:2]
    shuffled = np.random.default_rng(0).permutation(every)
    for pattern in (every, shuffled, np.repeat(shuffled, 3)):
        array = pattern.view(numpy_dtype(name))
        assert same(gpucodec.decode(gpucodec.encode(array)), array)


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "complex128"])
def test_nan_payloads_infinities_zeros_and_denormals(name):
    dtype = numpy_dtype(name)
    width = {"complex128": 8}.get(name, dtype.itemsize)
    mantissa = {"float16": 10, "bfloat16": 7, "float32": 23}.get(name, 52)
    exponent = ((1 << 8 * width - 1) - 1) >> mantissa << mantissa
    rng = np.random.default_rng(1)
    payloads = rng.integers(0, 1 << mantissa, 1000, np.uint64)
    sign = rng.integers(0, 2, 1000, np.uint64) << np.uint64(8 * width - 1)
    denormal = payloads | sign
    nan = denormal | np.uint64(exponent)
    special = np.array([0, 1 << 8 * width - 1, exponent, exponent | 1 << 8 * width - 1], np.uint64)
    words = np.concatenate([nan, special, denormal, special]).astype(f"<u{width}")
    array = words.view(dtype)
    assert same(gpucodec.decode(gpucodec.encode(array)), array)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", NAMES)
def test_edge_sizes(name, content):
    for block in (64, 256):
        for n in (0, 1, 2, 63, 64, 65, 127, 128, 129, block - 1, block, block + 1, 3 * block + 1):
            array = sample(name, n, content)
            frame = gpucodec.encode(array, TensorConfig(block_size=block))
            assert same(gpucodec.decode(frame), array), n


@pytest.mark.parametrize("name", ["uint8", "bfloat16", "float32", "float64"])
def test_sizes_about_the_default_block(name):
    block = 32_768 if name == "float64" else 65_536
    for n in (block - 64, block - 1, block, block + 1, block + 64, 2 * block + 77):
        for content in CONTENTS:
            array = sample(name, n, content)
            assert same(gpucodec.decode(gpucodec.encode(array)), array), (n, content)


@pytest.mark.parametrize("content", ["text", "runs", "steps", "sparse"])
@pytest.mark.parametrize("name", ["uint8", "int16", "int32", "int64", "float32", "float64"])
def test_repetitions(name, content):
    block = (1 << 16) // numpy_dtype(name).itemsize
    for n in (0, 1, 2, 65, block - 1, block, block + 1, 3 * block + 77):
        array = repetitive(name, n, content)
        for config in (LZConfig(), LZConfig("ratio", 8), TensorConfig(lz=True)):
            assert same(gpucodec.decode(gpucodec.encode(array, config)), array), (n, config)


def test_lz_is_chosen_where_it_is_smaller_and_only_there():
    for name, content, plane, coder in (
        ("uint8", "text", 0, "lz"),
        ("int64", "text", 0, "lz_words"),
        ("float32", "ones", 0, "lz_words"),
        ("int32", "steps", 2, "lz"),
    ):
        array = repetitive(name, 50_000, content)
        plain, chosen = (gpucodec.encode(array, TensorConfig(lz=lz)) for lz in (False, True))
        assert chosen.size < 0.95 * plain.size, name
        assert coder in gpucodec.inspect(chosen).planes[plane].coders
    ids = repetitive("int64", 50_000, "text") - 32  # the most frequent is 0
    sizes = [gpucodec.encode(ids, TensorConfig(lz=lz)).size for lz in (False, True, None)]
    assert sizes[2] == sizes[1] < 0.95 * sizes[0]
    for name in ("uint8", "int16", "bfloat16", "float32"):
        array = sample(name, 50_000, "values")
        plain, chosen = (gpucodec.encode(array, TensorConfig(lz=lz)) for lz in (False, True))
        assert plain.tobytes() == chosen.tobytes()


def test_dense_floats_do_not_load_lz():
    code = (
        "import sys, numpy as np, gpucodec; a = np.random.default_rng(0).normal(size=300_000);"
        "config = gpucodec.TensorConfig(lz=True);"
        "[gpucodec.decode(gpucodec.encode(a.astype(t), config)) for t in ('f2', 'f4', 'f8')];"
        "assert not [name for name in sys.modules if 'kernels.lz' in name and name[-4:] != 'spec']"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("shape", [(), (0,), (1,) * 64, (0, 5), (5, 0, 7), (2, 3, 4, 5), (1, 1)])
def test_shapes(shape):
    array = np.arange(math.prod(shape), dtype=np.int32).reshape(shape)
    decoded = gpucodec.decode(gpucodec.encode(array))
    assert same(decoded, array)
    assert decoded.flags.writeable


def test_big_endian_input_decodes_to_native_values():
    for code in (">f4", ">u2", ">i8", ">c16", ">f2"):
        array = (np.arange(1000) * 3).astype(code)
        decoded = gpucodec.decode(gpucodec.encode(array))
        assert decoded.dtype.isnative
        np.testing.assert_array_equal(decoded, array)
        assert gpucodec.encode(array).tobytes() == gpucodec.encode(decoded).tobytes()


def test_input_is_not_changed_and_may_be_read_only():
    array = sample("bfloat16", 5000, "values")
    before = array.tobytes()
    array.flags.writeable = False
    assert same(gpucodec.decode(gpucodec.encode(array)), array)
    assert array.tobytes() == before


@pytest.mark.parametrize(
    "kind", [bytes, bytearray, memoryview, lambda b: python_array.array("B", b)]
)
def test_buffers_are_arrays_of_their_format(kind):
    data = sample("uint8", 1000, "skewed")
    decoded = gpucodec.decode(gpucodec.encode(kind(data.tobytes())))
    assert decoded.dtype == np.uint8
    np.testing.assert_array_equal(decoded, data)


def test_frames_may_be_any_buffer_at_any_address():
    array = sample("float32", 3000, "values")
    frame = gpucodec.encode(array, TensorConfig(block_size=1024)).tobytes()
    for offset in range(17):
        shifted = bytearray(offset) + frame
        for view in (memoryview(shifted)[offset:], np.frombuffer(shifted, np.uint8, offset=offset)):
            assert same(gpucodec.decode(view), array)
            gpucodec.verify(view)


OUT = {
    "same array": np.empty_like,
    "flat bytes": lambda a: np.empty(a.nbytes, np.uint8),
    "other type": lambda a: np.empty(a.nbytes // 2, np.int16),
    "bytearray": lambda a: bytearray(a.nbytes),
    "memoryview": lambda a: memoryview(bytearray(a.nbytes)),
    "odd address": lambda a: memoryview(bytearray(a.nbytes + 1))[1:],
    "python array": lambda a: python_array.array("f", bytes(a.nbytes)),
    "Fortran order": lambda a: np.empty(a.shape, a.dtype, order="F"),
    "strided": lambda a: np.empty((a.shape[0], 2 * a.shape[1]), a.dtype)[:, ::2],
}


@pytest.mark.parametrize("kind", OUT)
def test_decoding_into(kind):
    array = sample("float32", 6000, "values").reshape(60, 100)
    out = OUT[kind](array)
    result = gpucodec.decode(gpucodec.encode(array), out)
    assert result is out
    filled = (
        np.ascontiguousarray(out) if isinstance(out, np.ndarray) else np.frombuffer(out, np.uint8)
    )
    assert filled.tobytes() == array.tobytes()


def test_decoding_a_batch_into():
    arrays_ = [sample(name, 1000, "values") for name in NAMES]
    frames = gpucodec.encode_batch(arrays_)
    outs = [np.empty_like(a) for a in arrays_]
    results = gpucodec.decode_batch(frames, outs)
    assert all(result is out for result, out in zip(results, outs, strict=True))
    assert all(same(out, a) for out, a in zip(outs, arrays_, strict=True))


@pytest.mark.parametrize("content", ["values", "noise"])  # planes, and a stored frame
def test_any_run_of_blocks_decodes_alone(content):
    array = sample("float32", 1000, content)
    raw, frame = array.view(np.uint8), gpucodec.encode(array, TensorConfig(128))
    parsed = container.parse(frame[: container.table_bytes(frame[:40])], whole=False)
    for first in range(parsed.n_blocks + 1):
        for last in range(first, parsed.n_blocks + 1):
            payload = frame[parsed.offsets[first] : parsed.offsets[last]]
            expected = raw[512 * first : 512 * last]
            out = np.empty_like(expected)
            codec.decode_blocks(parsed, payload, first, last, out)
            np.testing.assert_array_equal(out, expected)
            if payload.size:
                with pytest.raises(gpucodec.TruncatedError):
                    codec.decode_blocks(parsed, payload[:-1], first, last, out)
                damaged = payload.copy()
                damaged[payload.size // 2] ^= 4
                with pytest.raises(gpucodec.CorruptionError, match="block"):
                    codec.decode_blocks(parsed, damaged, first, last, out)


def test_wrong_outputs_are_refused():
    array = sample("float32", 100, "values")
    frame = gpucodec.encode(array)
    frozen = np.empty_like(array)
    frozen.flags.writeable = False
    for out in (
        np.empty(99, np.float32),
        np.empty(101, np.float32),
        bytearray(0),
        bytes(400),
        frozen,
    ):
        with pytest.raises(ValueError, match="out"):
            gpucodec.decode(frame, out)


def test_types_without_a_place_in_the_format_are_refused():
    with pytest.raises(TypeError):
        gpucodec.encode(np.array([None, {}]))
    for array in (
        np.zeros(3, "datetime64[s]"),
        np.zeros(3, [("a", "f4"), ("b", "i2")]),
        np.zeros(3, np.longdouble),
        np.array(["text"]),
    ):
        with pytest.raises(gpucodec.UnsupportedError):
            gpucodec.encode(array)
    with pytest.raises(TypeError):
        gpucodec.encode(3.5)


def test_dlpack_input():
    class Exporter:
        """Only DLPack, no buffer and no __array__."""

        def __init__(self, array):
            self.array = array

        def __dlpack__(self, **kwargs):
            return self.array.__dlpack__(**kwargs)

        def __dlpack_device__(self):
            return self.array.__dlpack_device__()

    array = sample("float32", 500, "values").reshape(20, 25)
    assert gpucodec.encode(Exporter(array)).tobytes() == gpucodec.encode(array).tobytes()
