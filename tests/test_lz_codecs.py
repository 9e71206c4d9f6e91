# SPDX-License-Identifier: Apache-2.0
"""``gpucodec.lz`` as a compressor of numcodecs, of zarr v2 and of zarr v3."""

from __future__ import annotations

import asyncio
import json
import pickle
from typing import Any

import numcodecs
import numpy as np
import pytest
import zarr
import zarr.codecs
from helpers import repetitive
from test_numcodecs import ARRAYS
from zarr.core.array_spec import ArrayConfig, ArraySpec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore
from zarr_stores import ML_DTYPES, OTHERS, PIPELINES, PLAIN, QUIET, bits, flip, random_array, using

import gpucodec
from gpucodec.numcodecs import LZ
from gpucodec.zarr import LZCodec, TensorCodec

pytestmark = QUIET
CODECS = (LZ(), LZ("ratio", 4))


@pytest.fixture(scope="module")
def common() -> Any:
    """numcodecs' own checks, which its wheels lost in 0.17."""
    module = pytest.importorskip("numcodecs.tests.common", reason="not in this numcodecs wheel")
    module.LZ = LZ  # for check_repr, which evaluates
    return module


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_conforms_for_every_kind_of_buffer(common: Any, array: Any, codec: LZ) -> None:
    common.check_encode_decode(array, codec)


def test_conforms_otherwise(common: Any) -> None:
    for codec in CODECS:
        common.check_config(codec)
    common.check_repr("LZ(level='ratio', typesize=8)")
    common.check_err_encode_object_buffer(LZ())
    common.check_err_decode_object_buffer(LZ())


def test_bytes_of_any_kind_come_back() -> None:
    text = b"never odd or even, " * 999
    for given in (text, bytearray(text), memoryview(text), np.frombuffer(text, np.uint8), b""):
        frame = LZ().encode(given)
        assert bytes(LZ().decode(frame)) == bytes(given)
        assert bytes(LZ().decode(frame.tobytes())) == bytes(given)
    assert LZ().encode(text).size < len(text) // 50
    out = bytearray(len(text))
    assert LZ().decode(LZ().encode(text), out=out) is out
    assert out == text


def test_the_element_size_changes_the_size_but_not_what_comes_back() -> None:
    ids = repetitive("int64", 40_000, "text")
    frames = [LZ(typesize=n).encode(ids) for n in (None, 1, 2, 4, 8)]
    assert all(LZ().decode(frame).tobytes() == ids.tobytes() for frame in frames)
    assert frames[0].tobytes() == frames[4].tobytes() == LZ().encode(ids.tobytes()).tobytes()
    assert frames[0].size == min(frame.size for frame in frames)


def test_configuration_is_json_and_codecs_are_values() -> None:
    assert LZ().get_config() == {"id": "gpucodec.lz"}
    codec = numcodecs.get_codec({"id": "gpucodec.lz", "level": "ratio", "typesize": 2})
    assert codec == LZ("ratio", 2) == pickle.loads(pickle.dumps(codec))
    assert len({LZ(), LZ(), LZ("ratio")}) == 2
    for wrong in ({"level": "best"}, {"typesize": 3}):
        for make in (LZ, LZCodec, gpucodec.LZConfig):
            with pytest.raises(ValueError, match=f"is {next(iter(wrong.values()))!r}, not"):
                make(**wrong)


def check_zarr(pipeline: str, dtypes: Any, **options: Any) -> None:
    """Arrays of all these types keep every bit."""
    with using(pipeline):
        for dtype in dtypes:
            data = random_array(dtype, (13, 9))
            store = MemoryStore()
            made = zarr.create_array(store, shape=(13, 9), dtype=data.dtype, **options)
            made[:] = data
            found = zarr.open_array(store)
            assert bits(found[:]) == bits(data), dtype
            assert bits(found[2:11, 3]) == bits(data[2:11, 3]), dtype


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("role", ["compressors", "filters"])
def test_zarr_v2_arrays_keep_every_bit(pipeline: str, role: str) -> None:
    roles = {"compressors": None, "filters": None, role: LZ()}
    dtypes = (*PLAIN, ">f4", "M8[ns]", "S5", ">U3", "V7", *ML_DTYPES)
    check_zarr(pipeline, dtypes, chunks=(5, 4), zarr_format=2, **roles)


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("shards", [None, (10, 8)])
def test_zarr_v3_arrays_keep_every_bit(pipeline: str, shards: Any) -> None:
    dtypes = (*PLAIN, *(name for name in OTHERS if name != "V7"), *ML_DTYPES)
    check_zarr(pipeline, dtypes, chunks=(5, 4), shards=shards, compressors=LZCodec())


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_large_chunks_other_codecs_and_strings(pipeline: str) -> None:
    ids = repetitive("int64", 300_000, "text").reshape(300, 1000)
    words = np.array(["one", "two", "three"] * 500, np.dtypes.StringDType())
    with using(pipeline):
        for options in (
            {"compressors": LZCodec(level="ratio")},
            {"compressors": [LZCodec(), zarr.codecs.GzipCodec(level=1)]},
            {"compressors": LZCodec(), "serializer": TensorCodec()},
        ):
            store = MemoryStore()
            made = zarr.create_array(store, data=ids, chunks=(100, 1000), **options)
            assert bits(zarr.open_array(store)[:]) == bits(ids)
            assert made.nbytes_stored() < ids.nbytes / 10
        text = zarr.create_array(MemoryStore(), data=words, chunks=500, compressors=LZCodec())
        assert (text[:] == words).all()


def test_metadata_are_short_and_stores_open_by_the_entry_point() -> None:
    store = MemoryStore()
    zarr.create_array(store, shape=8, dtype="i4", compressors=LZCodec())
    metadata = json.loads(store._store_dict["zarr.json"].to_bytes())
    assert metadata["codecs"][1] == {"name": "gpucodec.lz"}
    codec = LZCodec(level="ratio", typesize=8)
    assert codec.to_dict()["configuration"] == {"level": "ratio", "typesize": 8}
    assert LZCodec.from_dict(codec.to_dict()) == codec == pickle.loads(pickle.dumps(codec))
    with pytest.raises(ValueError, match="zstd"):
        LZCodec.from_dict({"name": "zstd"})


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_damage_is_an_error(pipeline: str) -> None:
    ids = repetitive("int32", 20_000, "text")
    with using(pipeline):
        for at in (9, 60, 500, -1):
            store = MemoryStore()
            zarr.create_array(store, data=ids, chunks=ids.shape, compressors=LZCodec())
            flip(store, "c/0", at)
            with pytest.raises(gpucodec.GpucodecError):
                zarr.open_array(store)[:]


def test_single_calls_of_either_kind_agree() -> None:
    ids = repetitive("int32", 20_000, "text")
    made = zarr.create_array(MemoryStore(), data=ids, chunks=ids.shape, compressors=LZCodec())
    prototype = default_buffer_prototype()
    spec = ArraySpec(ids.shape, made.metadata.data_type, 0, ArrayConfig.from_dict({}), prototype)
    raw = spec.prototype.buffer.from_bytes(ids.tobytes())
    codec = LZCodec()
    frame = codec._encode_sync(raw, spec)
    assert asyncio.run(codec._encode_single(raw, spec)).to_bytes() == frame.to_bytes()
    assert codec._decode_sync(frame, spec).to_bytes() == ids.tobytes()
    assert asyncio.run(codec._decode_single(frame, spec)).to_bytes() == ids.tobytes()
