# SPDX-License-Identifier: Apache-2.0
"""Palettes, sparse and predicted frames through the API: chosen where they pay, read everywhere."""

from __future__ import annotations

import make_frames
import numpy as np
import pytest
import spec_decoder
import zarr
from helpers import numpy_dtype, raw_bytes, same, sample
from zarr.storage import MemoryStore

import gpucodec
from gpucodec import CorruptionError, TensorConfig, codec, frame as container
from gpucodec.kernels import spec
from gpucodec.zarr import TensorCodec

PROFILES = ("ratio", "fast", "auto")
FLOATS = ("float16", "bfloat16", "float32", "float64")


def pruned(name: str, n: int, share: float = 0.9, *, signed: bool = False) -> np.ndarray:
    """Values of which most are zero; `signed`: half of these are -0.0."""
    rng = np.random.default_rng(n)
    values = rng.normal(0, 0.02 if name in {*FLOATS, "complex64"} else 900, n)
    if signed:
        return (values * (rng.random(n) >= share)).astype(numpy_dtype(name))
    return np.where(rng.random(n) < share, 0, values).astype(numpy_dtype(name))


def matrix(name: str, n_rows: int = 700, n_columns: int = 100, zeros: float = 0) -> np.ndarray:
    """A product of rows and columns, with a pattern of rank 1: what a model is found for."""
    rng = np.random.default_rng(n_rows)
    logs = rng.normal(0, 2, (n_rows, 1)) + rng.normal(0, 2, (1, n_columns))
    logs += rng.normal(size=(n_rows, 1)) * rng.normal(size=(1, n_columns))
    values = np.exp2(logs + rng.normal(0, 0.3, logs.shape) - 3)
    return np.where(rng.random(logs.shape) < zeros, 0, values).astype(numpy_dtype(name))


ARRAYS = {
    **{f"pruned {name}": pruned(name, 9000) for name in (*FLOATS, "int32", "uint64", "complex64")},
    "pruned, signed zeros": pruned("bfloat16", 9000, signed=True),
    **{f"matrix {name}": matrix(name) for name in ("float16", "bfloat16", "float32")},
    "matrix with zeros": matrix("float32", zeros=0.5),
    "matrix of 3 dimensions": matrix("bfloat16").reshape(70, 10, 100),
    "weights": sample("bfloat16", 9000, "values"),
}


def encoded(label: str, profile: str = "ratio") -> np.ndarray:
    return gpucodec.encode(ARRAYS[label], TensorConfig(4096, profile))


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("label", ARRAYS)
def test_every_reader_reads_them(label, profile):
    array, frame = ARRAYS[label], encoded(label, profile)
    assert same(gpucodec.decode(frame), array)
    assert same(gpucodec.decode_batch([frame, frame])[1], array)
    assert spec_decoder.decode(frame.tobytes()).raw.tobytes() == raw_bytes(array)
    gpucodec.verify(frame)
    assert frame.size <= gpucodec.max_encoded_size(array.shape, array.dtype, TensorConfig(4096))
    rescued, bad = gpucodec.decode(frame, salvage=True)
    assert same(rescued, array)
    assert not bad


@pytest.mark.parametrize("label", ["pruned float32", "matrix float32", "matrix with zeros"])
def test_any_run_of_blocks_decodes_alone(label):
    array, frame = ARRAYS[label], encoded(label)
    raw = array.reshape(-1).view(np.uint8)
    parsed = container.parse(frame[: container.table_bytes(frame[:40])], whole=False)
    for first in range(parsed.n_blocks):
        for last in (first + 1, first + 2, parsed.n_blocks):
            if last <= parsed.n_blocks:
                expected = raw[first * parsed.block_bytes : last * parsed.block_bytes]
                out = np.empty_like(expected)
                payload = frame[parsed.offsets[first] : parsed.offsets[last]]
                codec.decode_blocks(parsed, payload, first, last, out)
                np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("label", ARRAYS)
def test_zarr_reads_parts_of_them(label):
    array = ARRAYS[label]
    serializer = TensorCodec(block_size=4096, profile="auto")
    options = {"chunks": array.shape, "serializer": serializer, "compressors": None}
    store = MemoryStore()
    zarr.create_array(store, data=array, **options)
    opened = zarr.open_array(store)
    codecs = opened.metadata.to_dict()["codecs"]
    assert codecs[0]["configuration"] == {"block_size": 4096, "profile": "auto"}
    for part in (slice(0, 1), slice(len(array) // 2, len(array) // 2 + 3), slice(-1, None)):
        assert raw_bytes(opened[part]) == raw_bytes(array[part])


def test_zeros_are_left_out_where_that_is_smaller():
    for name in (*FLOATS, "int32", "uint64", "complex64"):
        info = gpucodec.inspect(encoded(f"pruned {name}"))
        assert info.packed_blocks == info.n_blocks
        assert [plane.role for plane in info.planes[:3]] == ["mask", "signs", "words"]
    for name in ("uint8", "float8_e4m3fn"):  # one plane: nothing to gain
        assert not container.parse(gpucodec.encode(pruned(name, 9000))).flags
    dense = pruned("bfloat16", 200_000, 0.001)
    assert not container.parse(gpucodec.encode(dense)).flags
    half = np.concatenate([pruned("bfloat16", 65_536), sample("bfloat16", 65_536, "values")])
    info = gpucodec.inspect(gpucodec.encode(half))
    assert (info.packed_blocks, info.n_blocks) == (1, 2)


def test_blocks_of_which_little_is_left_are_twice_as_large():
    for name, n in (("bfloat16", 200_000), ("float64", 100_000)):
        array = pruned(name, n)
        frame = gpucodec.encode(array)
        usual = TensorConfig().block_log(array.itemsize)
        assert container.parse(frame).block_log == usual + 1
        assert frame.size < gpucodec.encode(array, TensorConfig(1 << usual)).size
        assert spec_decoder.decode(frame.tobytes()).raw.tobytes() == raw_bytes(array)
        assert same(gpucodec.decode(frame), array)
        gpucodec.verify(frame)
    for array in (
        pruned("bfloat16", 200_000, 0.7),
        pruned("bfloat16", 60_000),  # one block
        pruned("int32", 200_000),
        np.concatenate([pruned("bfloat16", 300_000), pruned("bfloat16", 40_000, 0.5)]),
    ):
        usual = TensorConfig().block_log(array.itemsize)
        assert container.parse(gpucodec.encode(array)).block_log == usual


def hidden(*, in_blocks: bool = True) -> np.ndarray:
    """Dense words, but zero in the rows that are sampled: of the array, and perhaps of its blocks."""
    rows = sample("bfloat16", 300_032, "values").reshape(-1, spec.ROW)
    rows[:: -(-len(rows) // spec.SPARSE_PROBE_ROWS)] = 0
    if in_blocks:
        rows[:: spec.SPARSE_STRIDE] = 0
    return rows.reshape(-1)


@pytest.mark.parametrize("in_blocks", [True, False])
@pytest.mark.parametrize("profile", PROFILES)
def test_blocks_that_are_dense_all_the_same_are_not_large(in_blocks, profile):
    """As patches have positions of 16 bits, longer planes cannot be coded."""
    array = hidden(in_blocks=in_blocks)
    frame = gpucodec.encode(array, TensorConfig(profile=profile))
    assert container.parse(frame).block_log == 16
    assert frame.size < 0.8 * array.nbytes
    assert same(gpucodec.decode(frame), array)
    assert spec_decoder.decode(frame.tobytes()).raw.tobytes() == raw_bytes(array)


def test_only_frames_that_may_be_large_have_large_blocks():
    frame = gpucodec.encode(sample("bfloat16", 9000, "values"))
    frame[7] = 17
    with pytest.raises(CorruptionError, match="block_log is 17, not 6 to 16"):
        gpucodec.decode(make_frames.reseal(frame.tobytes()))


def test_words_of_one_plane_that_matters_are_not_packed_for_nothing():
    """Small integers: the zeros cost as little in their plane as in a mask."""
    rng = np.random.default_rng(0)
    counts = np.minimum(rng.geometric(0.5, 70_000) - 1, 200).astype(np.int64)
    frame = gpucodec.encode(counts)
    parsed = container.parse(frame)
    words = counts.astype(np.uint8)
    assert frame.size < gpucodec.encode(words).size * 1.05
    assert parsed.flags in {0, spec.SPARSE}


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32"])
def test_models_are_taken_where_they_are_smaller(name):
    array = ARRAYS[f"matrix {name}"]
    info = gpucodec.inspect(gpucodec.encode(array))
    assert info.model is not None
    assert (info.model.n_rows, info.model.n_columns) == array.shape
    assert info.model.rank >= 1
    assert info.model.encoded_bytes < 0.05 * info.encoded_bytes
    plain = gpucodec.encode(array.reshape(-1))  # a vector has no rows
    assert info.encoded_bytes < 0.97 * plain.size
    fast = gpucodec.inspect(gpucodec.encode(array, TensorConfig(profile="fast")))
    assert fast.model is not None
    assert fast.model.rank == 0
    noise = sample(name, array.size, "values").reshape(array.shape)
    assert gpucodec.inspect(gpucodec.encode(noise)).model is None


def test_a_frame_may_be_sparse_and_predicted():
    info = gpucodec.inspect(encoded("matrix with zeros"))
    assert info.model is not None
    assert info.packed_blocks == info.n_blocks


def test_profiles_choose_the_coders():
    weights = sample("bfloat16", 200_000, "values")
    sizes, coders = {}, {}
    for profile in PROFILES:
        info = gpucodec.inspect(gpucodec.encode(weights, TensorConfig(profile=profile)))
        sizes[profile] = info.encoded_bytes
        coders[profile] = set(info.planes[0].coders)
    assert coders == {"ratio": {"rans8"}, "auto": {"rans8"}, "fast": {"palette3"}}
    assert sizes["ratio"] == sizes["auto"] < sizes["fast"] < weights.nbytes / 1.33
    assert gpucodec.encode(weights).tobytes() == gpucodec.encode(weights, TensorConfig()).tobytes()
    rare = np.zeros(65_536, np.uint16)
    rare[::5000] = 0x4000  # a constant with exceptions
    info = gpucodec.inspect(gpucodec.encode(rare, TensorConfig(profile="auto")))
    assert info.encoded_bytes < 400


def test_profiles_that_do_not_exist_are_refused():
    for profile in ("", "Ratio", "best", None, 1):
        with pytest.raises(ValueError, match=r"profile is .* ratio, fast, auto"):
            TensorConfig(profile=profile)
    assert TensorConfig().to_json() == {}
    config = TensorConfig(profile="fast")
    assert config.to_json() == {"profile": "fast"}
    assert TensorConfig.from_json(config.to_json()) == config


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("name", ["float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_all_patterns_in_every_profile(name, profile):
    """All bit patterns, also among zeros, and as a matrix of rows of different scale."""
    width = numpy_dtype(name).itemsize
    every = np.arange(256**width, dtype=f"<u{width}")
    rng = np.random.default_rng(0)
    shuffled = rng.permutation(np.repeat(every, 2))
    zeros = np.where(rng.random(shuffled.size) < 0.5, 0, shuffled).astype(every.dtype)
    sorted_rows = every.reshape(-1, 64)  # rows share their exponents
    for pattern in (every, shuffled, zeros, sorted_rows, np.repeat(sorted_rows, 3, axis=0)):
        array = pattern.view(numpy_dtype(name))
        frame = gpucodec.encode(array, TensorConfig(profile=profile))
        assert same(gpucodec.decode(frame), array)


def test_the_patterns_of_a_matrix_have_a_model():
    for name in ("float16", "bfloat16"):
        rows = np.arange(1 << 16, dtype=np.uint16).reshape(-1, 64).view(numpy_dtype(name))
        assert gpucodec.inspect(gpucodec.encode(rows)).model is not None


@pytest.mark.parametrize("label", ["matrix float32", "matrix with zeros"])
def test_flipped_bits_and_cuts_of_predicted_frames_are_noticed(label):
    """The small seeds of test_corruption are made; these are the encoder's."""
    frame = bytearray(encoded(label))
    parsed = container.parse(frame)
    places = [*range(parsed.payloads), *range(parsed.payloads, len(frame), 997), len(frame) - 1]
    for at in places:
        frame[at] ^= 1 << at % 8
        with pytest.raises(gpucodec.GpucodecError):
            gpucodec.decode(frame, threads=1)
        frame[at] ^= 1 << at % 8
    for length in (39, 40, parsed.payloads - 17, parsed.payloads, len(frame) - 1):
        with pytest.raises(gpucodec.TruncatedError):
            gpucodec.decode(frame[:length])


def test_a_damaged_block_of_a_predicted_frame_is_named():
    frame = encoded("matrix with zeros").copy()
    offsets = container.parse(frame).offsets
    frame[offsets[3] + 20] ^= 1
    with pytest.raises(CorruptionError, match="block 3 of"):
        gpucodec.decode(frame)
    array, bad = gpucodec.decode(frame, salvage=True)
    assert [block.block for block in bad] == [3]
    whole = ARRAYS["matrix with zeros"].reshape(-1).copy()
    whole[3 * 4096 : 4 * 4096] = 0
    assert raw_bytes(array.reshape(-1)) == raw_bytes(whole)


def test_every_part_of_the_table_is_known_before_the_blocks_are_read():
    for label in ("pruned float32", "matrix float32", "matrix with zeros"):
        frame = encoded(label)
        size = container.table_bytes(frame[:40])
        assert size == container.parse(frame).payloads
        assert container.parse(frame[:size], whole=False).encoded_bytes == frame.size
