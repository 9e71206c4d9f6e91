# SPDX-License-Identifier: Apache-2.0
"""Partial reads fetch the table and the blocks that are needed, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from zarr.codecs import TransposeCodec
from zarr.storage import MemoryStore
from zarr_stores import (
    FUSED,
    PIPELINES,
    QUIET,
    CountingStore,
    SyncCountingStore,
    bits,
    make,
    random_array,
    using,
)

import gpucodec.frame
from gpucodec.config import TensorConfig
from gpucodec.zarr import partial, read
from gpucodec.zarr.chunk import Chunk

pytestmark = QUIET

# zarr's fused pipeline reads by the synchronous methods that CountingStore inherits uncounted.
COMBINATIONS = [
    (store, pipeline)
    for store in (CountingStore, SyncCountingStore)
    for pipeline in PIPELINES
    if store is SyncCountingStore or pipeline != FUSED
]


def weights(shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Values that compress, so that blocks have odd sizes."""
    return np.random.default_rng(0).normal(0, 0.02, shape).astype(np.float32)


@pytest.mark.parametrize(("store_class", "pipeline"), COMBINATIONS)
def test_ten_rows_of_a_thousand_fetch_one_block(store_class: Any, pipeline: str) -> None:
    data, store = weights((1024, 1024)), store_class()
    with using(pipeline):
        array = make(store, data, chunks=data.shape)
        frame = gpucodec.frame.parse(store._store_dict["c/0/0"].as_numpy_array())
        assert frame.n_blocks == 16  # of 64 rows
        store.reads.clear()
        assert bits(array[100:110]) == bits(data[100:110])
    first = int(frame.offsets[1])
    assert [(one.start, one.end) for _, one, _ in store.reads] == [
        (0, frame.payloads),
        (first, int(frame.offsets[2])),
    ]
    assert store.n_bytes < frame.encoded_bytes / 15


def test_ten_columns_of_transposed_chunks_fetch_one_block() -> None:
    data, store = weights((1024, 1024)), CountingStore()
    with using(PIPELINES[0]):
        array = make(store, data, chunks=data.shape, filters=TransposeCodec(order=(1, 0)))
        frame = gpucodec.frame.parse(store._store_dict["c/0/0"].as_numpy_array())
        store.reads.clear()
        assert bits(array[:, 100:110]) == bits(data[:, 100:110])
    assert [one.start for _, one, _ in store.reads] == [0, int(frame.offsets[1])]
    assert store.n_bytes < frame.encoded_bytes / 15


@pytest.mark.parametrize(("store_class", "pipeline"), COMBINATIONS)
def test_a_part_of_an_inner_chunk_of_a_shard_fetches_its_blocks(
    store_class: Any, pipeline: str
) -> None:
    data, store = weights((2048, 1024)), store_class()
    with using(pipeline):
        array = make(store, data, chunks=(1024, 1024), shards=data.shape)
        size = len(store._store_dict["c/0/0"])
        store.reads.clear()
        assert bits(array[1100:1110]) == bits(data[1100:1110])
    assert store.n_bytes < (size / 30 if pipeline == PIPELINES[0] else 0.6 * size)


def test_small_chunks_take_one_request() -> None:
    data, store = weights((64, 256)), SyncCountingStore()
    with using(PIPELINES[0]):
        array = make(store, data, chunks=data.shape)
        store.reads.clear()
        assert bits(array[:1]) == bits(data[:1])
    assert [one for _, one, _ in store.reads] == [None]


def test_neighbouring_inner_chunks_are_fetched_as_one() -> None:
    data, store = weights((64, 256)), CountingStore()
    with using(PIPELINES[0]):
        array = make(store, data, chunks=(8, 256), shards=data.shape)
        store.reads.clear()
        assert bits(array[8:40]) == bits(data[8:40])
    assert len(store.reads) == 2  # the index, and four frames


def test_frames_of_other_block_sizes_than_the_metadata_say_are_read() -> None:
    data, store = weights((1024, 1024)), MemoryStore()
    with using(PIPELINES[0]):
        array = make(store, data, chunks=data.shape, block_size=65536)
        for block_size in (64, 1024, 32768):
            frame = gpucodec.encode(data, TensorConfig(block_size=block_size))
            store._store_dict["c/0/0"] = type(store._store_dict["c/0/0"]).from_array_like(frame)
            assert bits(array[500:510, 7:900]) == bits(data[500:510, 7:900])


def index_strategy(n: int) -> Any:
    """An integer, or a slice of any extent and step."""
    edge = st.integers(0, n)
    slices = st.tuples(edge, edge, st.integers(1, 4)).map(
        lambda t: slice(min(t[:2]), max(t[:2]), t[2])
    )
    return st.one_of(st.integers(0, n - 1), slices) if n else st.just(slice(0, 0, 1))


@given(st.data())
@settings(max_examples=150)
def test_touched_blocks_are_those_that_hold_the_selection(data: Any) -> None:
    shape = tuple(data.draw(st.lists(st.integers(0, 9), min_size=0, max_size=4)))
    dtype = np.dtype(data.draw(st.sampled_from(["u1", "f4", "c8", "S3"])))
    block_words = 1 << data.draw(st.integers(0, 7))
    selection = tuple(data.draw(index_strategy(n)) for n in shape)
    chunk = Chunk(shape, dtype)
    words = dtype.itemsize // chunk.frame_type.spec.word_bytes
    elements = np.arange(int(np.prod(shape))).reshape(shape)[selection].reshape(-1)
    expected = np.unique((elements[:, None] * words + np.arange(words)) // block_words)
    found = np.flatnonzero(partial.touched_blocks(chunk, selection, block_words))
    if all(isinstance(one, int) or one.step == 1 for one in selection):
        np.testing.assert_array_equal(found, expected)
    else:
        assert set(expected) <= set(found)


@given(st.data())
@settings(max_examples=60)
def test_any_selection_through_blocks_is_what_numpy_selects(data: Any) -> None:
    shape = data.draw(st.sampled_from([(40, 30), (7, 300), (5, 6, 50), (1500,)]))
    dtype = data.draw(st.sampled_from(["f4", "S3", ">i2", "c16", "bfloat16"]))
    shards = data.draw(st.booleans())
    array = random_array(dtype, shape)
    with using(data.draw(st.sampled_from(PIPELINES))), pytest.MonkeyPatch.context() as patch:
        patch.setattr(partial, "MIN_SAVING", 1)
        patch.setattr(read, "MAX_GAP", 0)
        patch.setattr(partial, "MAX_GAP", data.draw(st.sampled_from([0, 1 << 20])))
        order = data.draw(st.permutations(range(len(shape))))
        options = {"shards": shape} if shards else {"filters": TransposeCodec(order=order)}
        chunks = tuple(-(-n // 2) if not shards or n % 2 == 0 else n for n in shape)
        made = make(MemoryStore(), array, chunks=chunks, block_size=64, **options)
        for _ in range(4):
            selection = tuple(data.draw(index_strategy(n)) for n in shape)
            expected = array[(*selection, ...)]  # no scalar: NumPy cuts zeros off those of bytes
            assert bits(made[selection]) == bits(expected)
