# SPDX-License-Identifier: Apache-2.0
"""Tensors of more than 4 GiB on a GPU: their last blocks, of memory that is not there for the others.

The addresses that the kernels are told are so far before real memory that only the last blocks of 7 GiB lie in
it: a kernel that computes a place in 32 bits misses it.
"""

from __future__ import annotations

from dataclasses import replace

import cuda_shim
import numpy as np
import pytest
from cuda_shim import ShimDevice

import gpucodec
import gpucodec.cuda
from gpucodec import codec, frame as container
from gpucodec.cuda import device as devices, encoding
from gpucodec.cuda.batch import Batch
from gpucodec.dtypes import BY_NAME
from gpucodec.kernels import cuda as kernels

pytestmark = pytest.mark.skipif(
    not cuda_shim.available(), reason="needs g++ on x86-64 Linux to run the kernels"
)
N_BYTES = 7 << 30
BLOCK = 1 << 16
N_BLOCKS = N_BYTES // BLOCK
FIRST = N_BLOCKS - 2
"""The first block that is there."""


def last_blocks() -> tuple[np.ndarray, np.ndarray, container.Frame]:
    """One that is coded and one that is raw; a frame of these alone."""
    rng = np.random.default_rng(0)
    coded = rng.normal(0, 9, BLOCK).astype(np.int8).view(np.uint8)
    words = np.concatenate([coded, rng.integers(0, 256, BLOCK, np.uint8)])
    frame = gpucodec.encode(words, gpucodec.TensorConfig(BLOCK, profile="plain"))
    return words, frame, container.parse(frame)


def whole(small: container.Frame) -> container.Frame:
    """A frame whose blocks are as large as the first of these, but for the last two, which are these."""
    entries = np.full((N_BLOCKS, 1), small.entries[0, 0], np.uint32)
    entries[FIRST:] = small.entries
    hashes = np.zeros(N_BLOCKS, np.uint64)
    hashes[FIRST:] = small.hashes
    start = container.payloads_start(small.dtype, (N_BYTES,), small.block_log)
    sizes = np.full(N_BLOCKS, small.offsets[1] - small.offsets[0])
    sizes[FIRST:] = np.diff(small.offsets)
    offsets = start + np.concatenate([[0], np.cumsum(sizes)])
    made = replace(small, shape=(N_BYTES,), entries=entries, hashes=hashes, offsets=offsets)
    assert made.offsets[FIRST] > 1 << 32
    return made


def test_blocks_beyond_4_gib_are_encoded():
    words, frame, small = last_blocks()
    expected = whole(small)
    device = ShimDevice(1, 1)
    real, room = device.put(words), device.allocate(words.nbytes)
    source = encoding.Source(
        real.memory.address - FIRST * BLOCK,
        BY_NAME["uint8"],
        (N_BYTES,),
        small.block_log,
        room.address - int(expected.offsets[FIRST]),
    )
    work = encoding.Work(device, 0, None, Batch(1))
    work.tell([source])
    assert not work.moved
    batch = work.batch
    assert (batch.n_blocks, batch.n_entries) == (N_BLOCKS, N_BLOCKS)
    device.upload(work.entries, expected.entries[:FIRST])
    slot, plane = int(batch.slots_before_blocks()[FIRST]), int(batch.rooms().max())
    symbols, coded = work.memory(2 * plane), work.memory(2 * plane)
    first, threads = (FIRST, slot), 32 * kernels.ENCODE_WARPS
    work.launch("split_blocks", 2, kernels.SPLIT_THREADS, *first, symbols, plane, work.hashes)
    work.launch("encode_planes", 1, threads, slot, 2, symbols, coded, plane, work.entries)
    work.locate(0, N_BLOCKS)
    places = symbols, coded, plane, work.entries, work.offsets, 0
    work.launch("place_payloads", 2, kernels.PLACE_THREADS, slot, *places)

    offsets = np.zeros(N_BLOCKS + 1, np.int64)
    entries, hashes = np.zeros(N_BLOCKS, np.uint32), np.zeros(N_BLOCKS, np.uint64)
    device.download(offsets, work.offsets)
    device.download(entries, work.entries)
    device.download(hashes, work.hashes)
    assert (offsets == expected.offsets - expected.payloads).all()
    assert (entries == expected.entries[:, 0]).all()
    assert (hashes[FIRST:] == small.hashes).all()
    payload = frame[small.payloads :]
    assert room.array[: payload.size].tobytes() == payload.tobytes()


def test_blocks_beyond_4_gib_are_decoded(monkeypatch):
    words, frame, small = last_blocks()
    device = ShimDevice(1, 1)
    monkeypatch.setattr(devices, "find", lambda index: device)
    out = device.put(np.zeros_like(words))
    payload = device.put(frame[small.payloads :])
    codec.decode_runs([(whole(small), payload, FIRST, N_BLOCKS, out)])
    assert out.numpy().tobytes() == words.tobytes()
