# SPDX-License-Identifier: Apache-2.0
"""zarr v3: every bit survives, in every pipeline, sharded or not, however it is read."""

from __future__ import annotations

import json
import pickle
import warnings
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import LocalStore, MemoryStore, ZipStore
from zarr_stores import (
    BATCHED,
    ML_DTYPES,
    OTHERS,
    OURS,
    PIPELINES,
    PLAIN,
    QUIET,
    STRUCTURE,
    ZARR_3_2,
    CountingStore,
    bits,
    make,
    random_array,
    using,
)

import gpucodec
from gpucodec.zarr import TensorCodec

pytestmark = QUIET

SELECTIONS: list[Any] = [
    np.s_[...],
    np.s_[3:17, 5:33],
    np.s_[5],
    np.s_[5, 7],
    np.s_[:, -1],
    np.s_[::3, 1::7],
    np.s_[36:, 40:],
    np.s_[4:4],
]


def check_selections(array: zarr.Array[Any], data: np.ndarray[Any, Any]) -> None:
    """Compare selections of all kinds."""
    for selection in SELECTIONS:
        assert bits(array[selection]) == bits(data[selection]), selection
    rows, columns = np.array([1, 5, 30, 5]), np.array([2, 3, 38, 3])
    mask = np.arange(37) % 3 == 0
    assert bits(array.oindex[rows, columns]) == bits(data[np.ix_(rows, columns)])
    assert bits(array.oindex[rows, 4]) == bits(data[rows, 4])
    assert bits(array.oindex[mask, 2:9]) == bits(data[mask, 2:9])
    assert bits(array.vindex[rows, columns]) == bits(data[rows, columns])
    n = (array.shards or array.chunks)[0]
    assert bits(array.blocks[1, 1:3]) == bits(data[n : 2 * n, n : 3 * n])


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("shards", [None, (20, 20)])
@pytest.mark.parametrize(
    "dtype", [*PLAIN, *OTHERS, STRUCTURE, *ML_DTYPES, "float8_e8m0fnu"], ids=str
)
def test_every_data_type_keeps_every_bit(dtype: Any, shards: Any, pipeline: str) -> None:
    data = random_array(dtype, (37, 41))
    if shards and data.dtype.kind == "V" and "float" not in data.dtype.name and not ZARR_3_2:
        pytest.skip("zarr 3.1.6 cannot shard structures: their fill values have no hash")
    store = MemoryStore()
    with using(pipeline):
        made = make(store, data, chunks=(10, 10), shards=shards, block_size=64)
        check_selections(made, data)
        check_selections(zarr.open_array(store), data)
        data[4:9, :30] = random_array(dtype, (5, 30), seed=1)
        made[4:9, :30] = data[4:9, :30]
        check_selections(zarr.open_array(store), data)


@pytest.mark.parametrize("shards", [None, (20, 20)])
@pytest.mark.parametrize("options", [{}, {"write_empty_chunks": True}, {"order": "F"}], ids=str)
def test_pipelines_write_the_same_store_and_read_each_others(shards: Any, options: Any) -> None:
    data = random_array("f4", (37, 41))
    data[10:20, 10:30] = 0  # two chunks that need not be stored
    stores = {}
    for pipeline in PIPELINES:
        with using(pipeline):
            stores[pipeline] = MemoryStore()
            make(stores[pipeline], data, chunks=(10, 10), shards=shards, config=options)
    expected = {key: bits(one.as_numpy_array()) for key, one in stores[BATCHED]._store_dict.items()}
    for store in stores.values():
        assert {
            key: bits(one.as_numpy_array()) for key, one in store._store_dict.items()
        } == expected
        for pipeline in PIPELINES:
            with using(pipeline):
                check_selections(zarr.open_array(store), data)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_every_store_works(pipeline: str, tmp_path: Any) -> None:
    data = random_array("f4", (37, 41))
    with using(pipeline):
        for shards in (None, (20, 20)):
            for store in (
                LocalStore(tmp_path / f"local{shards}"),
                CountingStore(),
                ZipStore(tmp_path / f"{shards}.zip", mode="w"),
            ):
                made = make(store, data, chunks=(10, 10), shards=shards)
                check_selections(made, data)
                store.close()


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("shape", [(), (0,), (1,), (5, 0, 2), (2, 3, 4, 5)])
def test_every_shape_works(shape: Any, pipeline: str) -> None:
    data = random_array("f8", shape)
    with using(pipeline):
        made = make(MemoryStore(), data, chunks=tuple(min(n, 2) or 1 for n in shape))
        assert bits(made[...]) == bits(data)
        made[...] = 3.0
        assert (made[...] == 3).all()


@pytest.mark.parametrize("shards", [None, (20, 20)])
def test_scalars_fill_and_partial_writes_merge(shards: Any) -> None:
    with using(OURS):
        made = make(MemoryStore(), np.zeros((37, 41), "i4"), chunks=(10, 10), shards=shards)
        expected = np.zeros((37, 41), "i4")
        for selection, value in [
            (np.s_[...], 7),
            (np.s_[5:25], np.arange(41)),
            (np.s_[3], -1),
            (np.s_[:, 7:9], np.arange(37)[:, None] * np.ones(2, int)),
            (np.s_[20:40, 20:40], 0),
        ]:
            made[selection] = np.broadcast_to(value, expected[selection].shape)
            expected[selection] = value
            np.testing.assert_array_equal(made[...], expected)
        made[...] = 5
        if shards is None or ZARR_3_2:  # zarr 3.1.6 cannot write such a selection to shards
            made.oindex[[1, 5], [2, 3]] = [[1, 2], [3, 4]]
            assert made[1, 3] == 2
        made.vindex[[30, 31], [2, 3]] = [8, 9]
        assert made[31, 3] == 9
        assert made[0, 0] == 5


def test_zero_signs_and_nan_payloads_survive_empty_chunk_removal() -> None:
    import ml_dtypes

    quiet = np.array([0x7FC1, 0xFFC0], np.uint16).view(ml_dtypes.bfloat16)
    for value, fill in ((-0.0, 0), (quiet[0], np.nan), (quiet[1], np.nan)):
        data = np.full(64, value, ml_dtypes.bfloat16)
        with using(OURS):
            for options in ({}, {"shards": (64,)}):
                made = make(MemoryStore(), data, chunks=(16,), fill_value=fill, **options)
                assert bits(made[:]) == bits(data)


@pytest.mark.parametrize("shards", [None, (64,)])
def test_chunks_of_the_fill_value_are_not_stored(shards: Any) -> None:
    store = MemoryStore()
    with using(OURS):
        made = make(store, np.full(64, 7.5, "f4"), chunks=(16,), shards=shards, fill_value=7.5)
        assert list(store._store_dict) == ["zarr.json"]
        made[:] = 1
        assert len(store._store_dict) > 1
        made[:] = 7.5
        assert list(store._store_dict) == ["zarr.json"]
        assert (made[:] == 7.5).all()


def test_threads_share_arrays() -> None:
    data = random_array("f4", (64, 1000))
    with using(OURS):
        made = make(MemoryStore(), data, chunks=(4, 100), shards=(8, 500))
        other = make(MemoryStore(), np.zeros_like(data), chunks=(8, 100))

        def work(row: int) -> bool:
            other[row * 8 : row * 8 + 8] = made[row * 8 : row * 8 + 8]
            return bits(other[row * 8 : row * 8 + 8]) == bits(data[row * 8 : row * 8 + 8])

        with ThreadPoolExecutor(8) as pool:
            assert all(pool.map(work, list(range(8)) * 4))


def test_metadata_name_the_codec_and_what_differs_from_its_defaults() -> None:
    for codec, expected in (
        (TensorCodec(), {"name": "gpucodec.tensor"}),
        (
            TensorCodec(block_size=64),
            {"name": "gpucodec.tensor", "configuration": {"block_size": 64}},
        ),
    ):
        store = MemoryStore()
        zarr.create_array(store, shape=(4,), dtype="f4", serializer=codec, compressors=None)
        assert json.loads(bits(store._store_dict["zarr.json"].as_numpy_array()))["codecs"] == [
            expected
        ]
        assert TensorCodec.from_dict(expected) == codec == pickle.loads(pickle.dumps(codec))
    assert TensorCodec.from_dict("gpucodec.tensor") == TensorCodec()
    assert TensorCodec.from_dict({"name": "gpucodec.tensor", "configuration": {}}) == TensorCodec()
    with pytest.raises(ValueError, match=r"not .gpucodec\.tensor"):
        TensorCodec.from_dict({"name": "bytes"})
    with pytest.raises(ValueError, match="power of two"):
        TensorCodec(block_size=65)


def test_data_types_that_hold_pointers_are_refused_at_creation() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for dtype in ("string", "variable_length_bytes"):
            with pytest.raises((TypeError, ValueError), match=r"pointers|VLen"):
                zarr.create_array(
                    MemoryStore(),
                    shape=(4,),
                    dtype=dtype,
                    serializer=TensorCodec(),
                    compressors=None,
                )


def test_other_codecs_around_ours_still_work() -> None:
    data = random_array("f4", (37, 41))
    for options in (
        {"filters": zarr.codecs.TransposeCodec(order=(1, 0))},
        {"compressors": zarr.codecs.ZstdCodec()},
    ):
        store = MemoryStore()
        with using(OURS):
            made = zarr.create_array(
                store,
                shape=data.shape,
                chunks=(10, 10),
                dtype=data.dtype,
                serializer=TensorCodec(),
                **{"compressors": None, **options},
            )
            made[:] = data
            check_selections(zarr.open_array(store), data)


def test_pipeline_is_what_the_configuration_names() -> None:
    with gpucodec.zarr.enable():
        array = make(MemoryStore(), np.zeros(4))
        assert type(array._async_array.codec_pipeline) is gpucodec.zarr.Pipeline
        pipeline = pickle.loads(pickle.dumps(array._async_array.codec_pipeline))
        assert pipeline == array._async_array.codec_pipeline
    assert zarr.config.get("codec_pipeline.path") == BATCHED
