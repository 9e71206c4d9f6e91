# SPDX-License-Identifier: Apache-2.0
"""Damaged and missing chunks of zarr stores are errors, and say where."""

from __future__ import annotations

import asyncio
import struct
import time
import tracemalloc
from typing import Any

import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore
from zarr_stores import (
    OURS,
    PIPELINES,
    ZARR_3_2,
    CountingStore,
    bits,
    flip,
    make,
    replace,
    using,
)

import gpucodec
from gpucodec import frame as frames
from gpucodec.errors import CorruptionError, GpucodecError, TruncatedError
from gpucodec.kernels import spec
from gpucodec.zarr.steps import each

DATA = np.random.default_rng(0).normal(0, 0.02, (1024, 1024)).astype(np.float32)


def stored(store: MemoryStore, key: str = "c/0/0") -> np.ndarray[Any, Any]:
    """The bytes under a key."""
    return store._store_dict[key].as_numpy_array()


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("store_class", [MemoryStore, CountingStore])
def test_a_damaged_block_reaches_whoever_reads_it_and_nobody_else(
    pipeline: str, store_class: Any
) -> None:
    store = store_class()
    with using(pipeline):
        array = make(store, DATA, chunks=DATA.shape)
        frame = frames.parse(stored(store))
        flip(store, "c/0/0", int(frame.offsets[3]) + 1000)  # rows 192 to 255
        with pytest.raises(CorruptionError, match="block 3"):
            array[:]
        with pytest.raises(CorruptionError, match="block 3") as caught:
            array[200:210]
        assert any("c/0/0" in note for note in caught.value.__notes__)
        assert bits(array[100:110]) == bits(DATA[100:110])


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("shards", [None, (64, 64)])
def test_every_stored_byte_is_guarded(shards: Any, pipeline: str) -> None:
    data = DATA[:64, :64].copy()
    with using(pipeline):
        store = MemoryStore()
        array = make(store, data, chunks=(32, 32), shards=shards)
        sound = {key: np.array(one.as_numpy_array()) for key, one in store._store_dict.items()}
        keys = [key for key in sound if key != "zarr.json"]
        for key in keys:
            for at in range(0, sound[key].size, 97):
                flip(store, key, at)
                with pytest.raises(ValueError):
                    array[:]
                replace(store, key, sound[key])
        assert bits(array[:]) == bits(data)


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_truncated_chunk_is_an_error_at_any_length(pipeline: str) -> None:
    sharded = [{"shards": (64, 64)}] if ZARR_3_2 or pipeline == OURS else []  # 3.1.6 misses some
    for options in ({}, *sharded):
        store = MemoryStore()
        with using(pipeline):
            array = make(store, DATA[:64, :64], chunks=(32, 32), **options)
            key = next(key for key in store._store_dict if key != "zarr.json")
            sound = np.array(stored(store, key))
            for n in (0, 1, 39, 40, 60, sound.size // 2, sound.size - 1):
                replace(store, key, sound[:n])
                with pytest.raises(ValueError):
                    array[:]


def test_truncation_within_a_partial_read_is_an_error() -> None:
    store = MemoryStore()
    with using(OURS):
        array = make(store, DATA, chunks=DATA.shape)
        frame = frames.parse(np.array(stored(store)))
        replace(store, "c/0/0", np.array(stored(store)[: frame.offsets[3] + 5]))
        assert bits(array[100:110]) == bits(DATA[100:110])
        with pytest.raises(TruncatedError, match="blocks 3 to 4"):
            array[200:210]


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize(
    "other",
    [DATA[:32, :64].copy(), DATA[:64, :32].view(np.uint32), DATA[:64, :32].view(np.int8)],
    ids=["shape", "dtype", "bytes"],
)
def test_a_chunk_of_another_array_is_an_error(other: Any, pipeline: str) -> None:
    store = MemoryStore()
    with using(pipeline):
        array = make(store, DATA[:64, :32], chunks=(64, 32))
        replace(store, "c/0/0", gpucodec.encode(other))
        with pytest.raises(CorruptionError, match=r"metadata say float32 of shape \(64, 32\)"):
            array[:]


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_a_frame_that_claims_terabytes_is_refused_before_allocation(pipeline: str) -> None:
    n = 1 << 40
    raw = np.zeros(spec.HEADER_BYTES + 8 + 4096, np.uint8)
    header = (spec.MAGIC, spec.VERSION, 12, 1, 16, 4 * n, raw.size, 0, 0, 0)
    struct.pack_into(spec.HEADER_FORMAT, raw, 0, *header)
    raw[spec.HEADER_BYTES : spec.HEADER_BYTES + 8].view("<u8")[0] = n
    store = MemoryStore()
    with using(pipeline):
        array = make(store, DATA[:64, :32], chunks=(64, 32))
        replace(store, "c/0/0", raw)
        tracemalloc.start()
        with pytest.raises(GpucodecError):
            array[:]
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
        tracemalloc.stop()


@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("shards", [None, (32, 32)])
def test_missing_chunks_are_fill_values_unless_they_must_not_be(shards: Any, pipeline: str) -> None:
    data, store = DATA[:64, :64].copy(), MemoryStore()
    with using(pipeline):
        array = make(store, data, chunks=(16, 16), shards=shards, fill_value=9)
        key = "c/0/1" if shards else "c/0/2"
        del store._store_dict[key]
        size = 32 if shards else 16
        expected = data.copy()
        expected[:size, 32 : 32 + size] = 9
        np.testing.assert_array_equal(array[:], expected)
        np.testing.assert_array_equal(array[5:9, 30:40], expected[5:9, 30:40])
        if ZARR_3_2:
            strict = array.with_config({"read_missing_chunks": False})
            with pytest.raises(zarr.errors.ChunkNotFoundError, match=key):
                strict[:]
            with pytest.raises(zarr.errors.ChunkNotFoundError, match=key):
                strict[5:9, 30:40]
            np.testing.assert_array_equal(strict[:, :32], data[:, :32])


def test_after_an_error_nothing_is_under_way_any_more() -> None:
    running: list[int] = []

    def work(i: int) -> None:
        running.append(i)
        time.sleep(0.02 * (i + 1))
        running.remove(i)
        if i == 0:
            raise CorruptionError

    async def main() -> None:
        calls = ((work, i) for i in range(10))
        with pytest.raises(CorruptionError):
            await each(asyncio.to_thread, calls, 3)
        assert running == []

    asyncio.run(main())


def test_a_shard_index_that_points_outside_is_an_error() -> None:
    import google_crc32c

    store = MemoryStore()
    with using(OURS):
        array = make(store, DATA[:64, :64], chunks=(32, 32), shards=(64, 64))
        sound = np.array(stored(store))
        for offset, length in ((1 << 63, 1 << 62), ((1 << 64) - 2, 5), (sound.size, 100), (0, 0)):
            raw = sound.copy()
            index = raw[-68:-4]
            index.view("<u8")[2:4] = offset, length
            crc = google_crc32c.value(index.tobytes())
            raw[-4:] = np.frombuffer(crc.to_bytes(4, "little"), np.uint8)
            replace(store, "c/0/0", raw)
            for selection in (np.s_[:], np.s_[:32]):
                with pytest.raises(CorruptionError):
                    array[selection]
