# SPDX-License-Identifier: Apache-2.0
"""Quantization inside zarr, both formats, and inside numcodecs."""

from __future__ import annotations

import json
import pickle

import ml_dtypes
import numcodecs
import numpy as np
import pytest
import zarr
from zarr_stores import CountingStore, SyncCountingStore, replace

from gpucodec.errors import GpucodecError, UnsupportedError
from gpucodec.kernels.quantspec import BY_NAME
from gpucodec.quant import (
    ErrorBound,
    QuantizeConfig,
    decode_quantized,
    dequantize,
    encode_quantized,
    quantize,
)
from gpucodec.quant.numcodecs import Quantize
from gpucodec.zarr import QuantizeCodec


def sample(dtype=np.float32):
    x = np.random.default_rng(0).normal(size=(100, 90)).astype(dtype)
    x[3, 4], x[50, 60] = np.nan, -0.0
    return x


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64", ">f4"])
def test_zarr_v3_arrays_hold_quantized_chunks(dtype):
    x = sample(dtype)
    store = zarr.storage.MemoryStore()
    codec = QuantizeCodec("int8", block_size=32, bound={"abs": 0.01})
    created = zarr.create_array(
        store, shape=x.shape, chunks=(40, 50), dtype=x.dtype, serializer=codec, compressors=None
    )
    created[...] = x
    array = zarr.open_array(store, mode="r")
    read = array[...]
    assert read.shape == x.shape
    assert np.isnan(read[3, 4])
    assert np.signbit(read[50, 60])
    fine = ~np.isnan(x)
    assert np.abs(read[fine] - x[fine]).max() <= 0.01
    assert (array[30:60, 20:80][:5] == read[30:35, 20:80]).all()
    config = QuantizeConfig("int8", 32, bound=ErrorBound(abs=0.01))
    chunk = dequantize(quantize(x[:40, :50], config))
    assert np.array_equal(read[:40, :50], chunk, equal_nan=True)


PARTIAL = [
    ("int8", (1000, 900), -1),
    ("mxfp4", (1000, 901), -1),
    ("log8", (300, 12, 40), 0),
    ("nf4", (600_000,), -1),
    ("int4_asym", (300, 50, 40), 1),
]
SELECTIONS = [
    (slice(100, 110),),
    (slice(5, 300, 7),),
    (-1,),
    (slice(7, 7),),
    (slice(250, 290), slice(3, 9)),
    (Ellipsis, slice(1, 3)),
    (250, slice(11, 12), slice(5, None)),
    (np.array([3, 200, 201]),),
]


@pytest.mark.parametrize(("name", "shape", "axis"), PARTIAL)
def test_a_part_of_a_chunk_is_that_part_of_the_whole(name, shape, axis):
    x = np.abs(np.random.default_rng(0).normal(size=shape)).astype(np.float32)
    x.reshape(-1)[::1007] = np.nan
    for store in (CountingStore(), SyncCountingStore()):
        zarr.create_array(
            store,
            data=x,
            chunks=shape,
            serializer=QuantizeCodec(name, axis=axis),
            compressors=None,
        )
        array = zarr.open_array(store, mode="r+")  # read-only would be a copy of the store
        whole = array[...]
        stored = store.n_bytes
        for selection in SELECTIONS:
            if len(selection) > len(shape):
                continue
            store.reads.clear()
            found = np.asarray(array.oindex[selection])
            assert found.tobytes() == np.ascontiguousarray(whole[selection]).tobytes(), selection
            assert len(store.reads) in ({0} if found.size == 0 else {1, 3})
        if name == "int8":
            store.reads.clear()
            array[100:110]
            assert store.n_bytes < stored / 5, "a part of the chunk fetched most of it"


@pytest.mark.parametrize("at", [30, 300, -300])
def test_damage_is_noticed_in_partial_reads(at):
    x = np.random.default_rng(0).normal(size=(1000, 900)).astype(np.float32)
    x[::9, 5] = np.inf
    store = zarr.storage.MemoryStore()
    zarr.create_array(
        store, data=x, chunks=x.shape, serializer=QuantizeCodec("int8"), compressors=None
    )
    frame = np.array(store._store_dict["c/0/0"].as_numpy_array())
    for changed in (
        np.where(np.arange(frame.size) == at % frame.size, frame ^ 1, frame),
        frame[:-9],
    ):
        replace(store, "c/0/0", changed.astype(np.uint8))
        with pytest.raises(GpucodecError) as caught:
            zarr.open_array(store, mode="r")[3:9]
        assert any("c/0/0" in note for note in caught.value.__notes__)


@pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning")
def test_shards_and_narrow_types_hold_quantized_chunks():
    x = np.random.default_rng(0).normal(size=(64, 96)).astype(ml_dtypes.bfloat16)
    store = zarr.storage.MemoryStore()
    zarr.create_array(
        store,
        data=x,
        chunks=(16, 48),
        shards=(32, 96),
        serializer=QuantizeCodec("mxfp8_e5m2", scaling_mode="floor"),
        compressors=None,
    )
    found = zarr.open_array(store, mode="r")[20:40, 10:70]
    config = QuantizeConfig("mxfp8_e5m2", scaling_mode="floor")
    expected = np.empty_like(x)
    for i in range(0, 64, 16):
        for j in range(0, 96, 48):
            expected[i : i + 16, j : j + 48] = dequantize(
                quantize(x[i : i + 16, j : j + 48], config)
            )
    assert found.tobytes() == expected[20:40, 10:70].tobytes()


@pytest.mark.parametrize("name", list(BY_NAME))
def test_both_zarr_formats_return_what_the_codec_does(name):
    x = np.abs(sample())
    x[x == 0] = 0.0  # of either sign; log8 has one zero
    expected = decode_quantized(encode_quantized(x, QuantizeConfig(name))).tobytes()
    for options in (
        {"serializer": QuantizeCodec(name), "compressors": None},
        {"zarr_format": 2, "compressors": Quantize(name), "filters": None},
    ):
        store = {}
        zarr.create_array(store, data=x, chunks=x.shape, **options)
        assert zarr.open_array(store, mode="r")[...].tobytes() == expected


def test_zarr_v3_metadata_are_json_and_the_codec_is_a_value():
    codec = QuantizeCodec("mxfp8_e4m3", rounding="stochastic", seed=7, bound=ErrorBound(rel=0.1))
    metadata = json.loads(json.dumps(codec.to_dict()))
    assert QuantizeCodec.from_dict(metadata).config == codec.config
    assert pickle.loads(pickle.dumps(codec)) == codec
    assert hash(codec) == hash(pickle.loads(pickle.dumps(codec)))


def test_zarr_v3_refuses_what_it_cannot_hold():
    for options, error in (({"dtype": "int32"}, ValueError), ({"dtype": "complex64"}, ValueError)):
        with pytest.raises(error, match="floats"):
            zarr.create_array({}, shape=(8,), serializer=QuantizeCodec("int8"), **options)
    with pytest.raises(ValueError, match="axis 1"):
        zarr.create_array({}, shape=(8,), dtype="f4", serializer=QuantizeCodec("int8", axis=1))
    with pytest.raises(ValueError, match="format is one of"):
        QuantizeCodec("int5")


def test_zarr_v3_chunks_of_another_shape_are_refused():
    store = {}
    codec = QuantizeCodec("int8")
    created = zarr.create_array(
        store, shape=(8, 8), chunks=(4, 8), dtype="f4", serializer=codec, compressors=None
    )
    created[...] = 1
    other = zarr.create_array(
        {}, shape=(8, 4), chunks=(8, 4), dtype="f4", serializer=codec, compressors=None
    )
    other[...] = 1
    key = next(key for key in store if key.startswith("c"))
    source = other.store._store_dict if hasattr(other.store, "_store_dict") else None
    assert source is not None
    store[key] = source[next(k for k in source if k.startswith("c"))]
    with pytest.raises(GpucodecError, match="metadata say"):
        zarr.open_array(store)[...]


@pytest.mark.parametrize("role", ["compressors", "filters"])
def test_zarr_v2_takes_the_numcodecs_codec(role):
    x = sample()
    store = {}
    options = {"compressors": None, "filters": None, role: [Quantize("nf4", 64)]}
    if role == "compressors":
        options["compressors"] = Quantize("nf4", 64)
    created = zarr.create_array(
        store, shape=x.shape, chunks=(50, 90), dtype=x.dtype, zarr_format=2, **options
    )
    created[...] = x
    read = zarr.open_array(store, mode="r")[...]
    expected = dequantize(quantize(x[:50], QuantizeConfig("nf4")))
    assert np.array_equal(read[:50], expected, equal_nan=True)


def test_the_numcodecs_codec_is_a_value():
    codec = Quantize("log8", axis="auto", bound={"rel": 0.25})
    same = numcodecs.get_codec(json.loads(json.dumps(codec.get_config())))
    assert same == codec
    assert hash(same) == hash(codec)
    assert pickle.loads(pickle.dumps(codec)) == codec
    assert "log8" in repr(codec)
    assert codec != Quantize("log8")
    with pytest.raises(UnsupportedError):
        codec.encode(np.arange(5))


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_the_numcodecs_codec_decodes_into_buffers(dtype):
    x = sample(np.float32).astype(dtype)
    codec = Quantize("mxfp4")
    frame = codec.encode(x)
    out = np.empty_like(x)
    assert codec.decode(frame.tobytes(), out) is out
    decoded = codec.decode(frame)
    assert decoded.dtype == x.dtype
    assert (out.view(f"u{x.itemsize}") == decoded.view(f"u{x.itemsize}")).all()
    assert np.array_equal(
        codec.decode(codec.encode(np.asfortranarray(x))).astype(np.float32),
        dequantize(quantize(np.ascontiguousarray(x.T), QuantizeConfig("mxfp4"))).astype(np.float32),
        equal_nan=True,
    )
    with pytest.raises(GpucodecError):
        codec.decode(frame[:-1])
