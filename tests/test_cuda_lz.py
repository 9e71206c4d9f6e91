# SPDX-License-Identifier: Apache-2.0
"""LZ by the CUDA kernels, which the shim runs on the host: the CPU's bytes, and its verdicts."""

from __future__ import annotations

import itertools
import struct

import cuda_shim
import make_lz
import numpy as np
import pytest
import test_cuda_kernels as kernels
import test_cuda_transforms as transforms
import test_lz
from cuda_shim import ShimDevice
from helpers import sample
from test_cuda_kernels import needs_shim, orders

import gpucodec
from gpucodec import LZConfig, TensorConfig, buffers, frame as container
from gpucodec.cuda import batch, encoding, lz
from gpucodec.dtypes import BY_NAME
from gpucodec.kernels import checksum, cuda, spec

BLOCK_LOG = 16


def frame_of(payload: bytes, raw: bytes) -> np.ndarray:
    """A frame of bytes whose only block has this payload, and the hash of ``raw``."""
    dtype, shape = BY_NAME["uint8"], (len(raw),)
    start = container.payloads_start(dtype, shape, BLOCK_LOG, 0)
    frame = np.zeros(start + -(-len(payload) // 16) * 16, np.uint8)
    frame[start : start + len(payload)] = np.frombuffer(payload, np.uint8)
    entries = np.array([[spec.LZ << spec.ENTRY_CODER_SHIFT | len(payload)]], np.uint32)
    hashes = np.array([checksum.hash_bytes(np.frombuffer(raw, np.uint8))], np.uint64)
    container.write_table(frame, dtype, shape, BLOCK_LOG, frame.size, hashes, entries, 0, b"")
    return frame


def deep_block() -> np.ndarray:
    """Each record repeats the last but for one byte: as deep as the format allows."""
    rng = np.random.default_rng(1)
    record = rng.integers(0, 256, 100, np.uint8)
    records = []
    for _ in range(650):
        record[rng.integers(0, 100)] ^= 1
        records.append(record.copy())
    return np.concatenate(records)


def payloads():
    """(payload, raw): of both levels, of an encoder that draws its choices, of all word sizes."""
    for i, (kind, w) in enumerate(test_lz.CASES):
        for n_bytes in (1, 7, 65, 777 + w, 20_000 + i):
            raw = test_lz.content(kind, n_bytes, w, i)
            yield test_lz.encode(raw, w, i % 2), raw.tobytes()
        raw = test_lz.content(kind, 2_000 + i, w, i)
        yield make_lz.encode(np.random.default_rng(i), raw.tobytes()), raw.tobytes()
    for kind, w in itertools.product(("text", "runs", "filled"), test_lz.WORDS):
        raw = test_lz.content(kind, 65_536, w)  # in several segments
        yield test_lz.encode(raw, w), raw.tobytes()
    raw = deep_block()
    yield test_lz.encode(raw, 1), raw.tobytes()


@needs_shim
@orders
def test_lz_decodes_on_the_shim(order):
    made = list(payloads())
    frames = [frame_of(payload, raw) for payload, raw in made]
    decoded, statuses, _ = kernels.decode_on_shim(frames, ShimDevice(order, 5))
    for (_, raw), got, status in zip(made, decoded, statuses, strict=True):
        assert not status.any()
        assert got.tobytes() == raw


def chain(n: int) -> bytes:
    """A payload of `n` bytes of which each is copied from the one before it, by a match of its own."""
    raw, constant = 0, 1
    modes = sum(mode << 8 + 2 * s for s, mode in enumerate((constant, raw, constant, constant)))
    runs = bytes([1]) + bytes(n - 2)  # the literal stands before the first match
    head = struct.pack("<IIHHI", 0, modes, n - 1, 1, 0)
    return make_lz.seal(head + bytes([7]) + runs + bytes([0]) + bytes([1]))


@needs_shim
def test_chains_deeper_than_an_encoder_may_make_decode():
    n = 20_000
    payload, raw = chain(n), bytes([7]) * n
    assert test_lz.decode(payload, n) == (0, raw)
    [got], [status], _ = kernels.decode_on_shim([frame_of(payload, raw)], ShimDevice(1, 1))
    assert not status.any()
    assert got.tobytes() == raw


@needs_shim
@orders
def test_literals_may_go_on_for_segments_behind_the_last_match(order):
    rng = np.random.default_rng(1)
    raw = np.concatenate([np.tile(rng.integers(0, 256, 200), 99), rng.integers(0, 256, 30_000)])
    raw = raw.astype(np.uint8)
    made = [(test_lz.encode(raw, w), raw) for w in (1, 2)]
    decoded, statuses, _ = kernels.decode_on_shim(
        [frame_of(*parts) for parts in made], ShimDevice(order, order)
    )
    for got, status in zip(decoded, statuses, strict=True):
        assert not status.any()
        assert got.tobytes() == raw.tobytes()


def attacked(count: int, seed: int):
    """(payload, bytes of the block): mutations whose check mostly is made right again."""
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        _kind, w, raw = test_lz.SEEDS[i % len(test_lz.SEEDS)]
        payload = bytearray(test_lz.encode(raw, w))
        yield bytes(test_lz.mutate(rng, payload, sealed=i % 8 != 0)), raw.size


def judge(count: int, seed: int, device: ShimDevice) -> np.ndarray:
    """Decode hostile payloads on the shim and by the CPU; how often each status."""
    frames, expected = [], []
    for payload, n_bytes in attacked(count, seed):
        status, raw = test_lz.decode(payload, n_bytes)
        frames.append(frame_of(payload, raw))
        expected.append((status, raw if status == 0 else bytes(n_bytes)))
    decoded, statuses, _ = kernels.decode_on_shim(frames, device)
    for (wanted, raw), got, status in zip(expected, decoded, statuses, strict=True):
        assert status.tolist() == [wanted]
        assert got.tobytes() == raw
    return np.bincount([status for status, _ in expected], minlength=9)


@needs_shim
@orders
def test_hostile_lz_is_judged_as_by_the_cpu(order):
    seen = judge(1_500, order, ShimDevice(order, order))
    occurring = [spec.OK, spec.BAD_SIZE, spec.BAD_TABLE, spec.BAD_STATE, spec.BAD_WORDS]
    assert (seen[[*occurring, spec.BAD_SYMBOL, spec.BAD_PADDING, spec.BAD_HASH]] > 0).all(), seen


@needs_shim
@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 110))
def test_much_hostile_lz_is_judged_as_by_the_cpu(seed):
    judge(20_000, seed, ShimDevice(seed % 3, seed))


@needs_shim
def test_lz_batches_larger_than_the_scratch_memory_decode_in_waves(monkeypatch):
    monkeypatch.setattr(batch, "SCRATCH_BYTES", 1 << 19)
    made = [*payloads()][-12:]
    device = ShimDevice(1, 3)
    decoded, statuses, _ = kernels.decode_on_shim([frame_of(*parts) for parts in made], device)
    assert device.calls.count("decode_lz_words") >= 3
    for (_, raw), got, status in zip(made, decoded, statuses, strict=True):
        assert not status.any()
        assert got.tobytes() == raw


# --- encoding -----------------------------------------------------------------------------------


def encode_on_shim(arrays, config, device):
    """Encode arrays in one batch; the frames."""
    sources, memory = [], []
    for array in arrays:
        words, dtype, shape = buffers.elements(array)
        raw = device.put(words)
        source = encoding.Source(
            raw.memory.address, dtype, shape, config.block_log(dtype.spec.word_bytes), 0
        )
        out = device.allocate(source.max_bytes)
        source.out = out.address
        sources.append(source)
        memory.append((raw, out))
    sizes = lz.encode(device, sources, config, 0)
    return [out.array[:size].copy() for (_, out), size in zip(memory, sizes, strict=True)]


def arrays_of_words():
    """Arrays of all word sizes and contents, and of sizes about those of a block."""
    for i, (kind, w) in enumerate(test_lz.CASES):
        for n_bytes in (8, 200 + 8 * i, 30_000 + 8 * i):
            yield test_lz.content(kind, n_bytes, w, i).view(f"u{w}")
    for w, n_bytes in itertools.product(test_lz.WORDS, (65_528, 65_536, 140_000)):
        yield test_lz.content("ids", n_bytes, w).view(f"u{w}")
    yield deep_block()
    yield np.zeros((0, 3), np.int16)
    yield sample("complex64", 3_000, "values")


CONFIGS = [LZConfig(), LZConfig("ratio"), *(LZConfig(typesize=w) for w in test_lz.WORDS)]


@needs_shim
@orders
def test_lz_writes_the_same_bytes_on_the_shim(order):
    arrays = list(arrays_of_words())
    for config in CONFIGS[:2]:
        frames = encode_on_shim(arrays, config, ShimDevice(order, 5))
        for array, frame in zip(arrays, frames, strict=True):
            assert frame.tobytes() == gpucodec.encode(array, config).tobytes(), array.dtype


@needs_shim
@pytest.mark.parametrize("config", CONFIGS[2:], ids=str)
def test_element_sizes_that_are_given_write_the_same_bytes(config):
    arrays = list(arrays_of_words())[::3]
    frames = encode_on_shim(arrays, config, ShimDevice(1, 6))
    for array, frame in zip(arrays, frames, strict=True):
        assert frame.tobytes() == gpucodec.encode(array, config).tobytes(), array.dtype


@needs_shim
def test_lz_batches_larger_than_the_scratch_memory_encode_in_waves(monkeypatch):
    monkeypatch.setattr(batch, "LZ_SCRATCH_BYTES", 1 << 21)
    arrays = list(arrays_of_words())[-10:]
    device = ShimDevice(2, 3)
    frames = encode_on_shim(arrays, LZConfig(), device)
    assert device.calls.count("code_lz_blocks") >= 4
    for array, frame in zip(arrays, frames, strict=True):
        assert frame.tobytes() == gpucodec.encode(array, LZConfig()).tobytes()


# --- beside other coders --------------------------------------------------------------------------


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(cuda, "FIT_THREADS", 64)  # of which the shim makes fibers; any number does
    return cuda_shim.install(monkeypatch)


def letters(n: int, seed: int = 0) -> np.ndarray:
    """Text of which every plane but one of wide words may be made, as uint64."""
    return test_lz.content("text", n, 1, seed).astype(np.uint64)


def mixed(seed: int):
    """Arrays of which LZ takes blocks, planes, some of either, or nothing."""
    rng = np.random.default_rng(seed)
    for i, (kind, w) in enumerate(test_lz.CASES[seed % 2 :: 2]):
        yield test_lz.content(kind, (200, 9_000, 20_000)[i % 3] + 8 * i, w, i).view(f"u{w}")
    for w in (2, 4, 8):
        n = 9_000 + w
        noise = rng.integers(0, 256, n, np.uint64)
        by_plane = letters(n) << np.uint64(8) | noise  # no word occurs again, the text does
        yield by_plane.astype(f"u{w}")
        by_plane[4_500:4_700] = by_plane[4_200:4_400]  # some words do, which saves less
        yield by_plane.astype(f"i{w}")
        by_plane[4_500:7_000] = by_plane[1_000:3_500]  # enough do, so that planes are not tried
        yield by_plane.astype(f"u{w}")
    halves = np.concatenate([letters(8_192), rng.integers(0, 1 << 32, 8_192, np.uint64)])
    yield halves.astype(np.uint32)  # blocks of both kinds
    yield np.where(rng.random(12_000) < 0.97, 1.0, rng.normal(size=12_000)).astype(np.float32)
    yield np.where(rng.random(12_000) < 0.5, 1.0, rng.normal(size=12_000)).astype(np.float64)
    yield np.repeat(rng.normal(size=40), 300).astype(np.complex64)
    yield sample("bfloat16", 9_000, "values")
    yield np.where(rng.random(9_000) < 0.6, 0, rng.integers(0, 1 << 20, 9_000)).astype(np.int32)
    yield np.tile(np.where(rng.random(900) < 0.3, 0, rng.integers(0, 99, 900)), 9).astype(np.int64)
    yield transforms.replace_zeros(sample("float32", 9_000, "values"))
    yield np.repeat(np.exp(rng.normal(0, 2, (64, 1))), 300, axis=1).astype(np.float32)
    yield [*transforms.matrices(seed)][4]
    yield np.zeros((0, 3), np.int16)


def kinds_of_blocks(frame: np.ndarray) -> set[str]:
    """What LZ codes of the blocks of a frame."""
    coders = container.parse(frame).coders
    kinds = {"words" if (row == spec.LZ_WORDS).any() else "neither" for row in coders}
    if coders.shape[1] > 1:
        kinds |= {"planes" for row in coders if (row == spec.LZ).any()}
    return kinds


@needs_shim
@pytest.mark.parametrize(
    ("profile", "tried", "order"),
    [
        *(("ratio", True, 0), ("ratio", True, 1), ("ratio", True, 2), ("auto", True, 1)),
        *(("ratio", None, 0), ("auto", None, 2), ("fast", True, 0)),
    ],
)
def test_lz_beside_other_coders_writes_the_same_bytes(device, profile, tried, order):
    device.order, device.seed = order, order
    config, items = TensorConfig((4_096, None)[order % 2], profile, lz=tried), [*mixed(order)]
    flags = transforms.judge(device, items, config)
    frames = [gpucodec.encode(item, config) for item in items]
    assert set.union(*map(kinds_of_blocks, frames)) == {"words", "planes", "neither"}
    assert flags >= {0, spec.SPARSE, spec.PREDICTED}
    assert "shrink_lz_blocks" in device.calls


@needs_shim
@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 34))
def test_lz_beside_other_coders_writes_the_same_bytes_for_much_input(device, seed):
    device.order, device.seed = seed % 3, seed
    for block_size in (None, 64, 1_024, 1 << 16):
        for profile, tried in (("ratio", True), ("ratio", None), ("auto", True), ("fast", True)):
            config = TensorConfig(block_size, profile, lz=tried)
            transforms.judge(device, [*mixed(seed)], config)


@needs_shim
def test_a_warp_may_have_several_blocks_and_a_batch_several_rounds(device, monkeypatch):
    monkeypatch.setattr(batch, "SCRATCH_BYTES", 1 << 19)
    monkeypatch.setattr(batch, "LZ_SCRATCH_BYTES", 1 << 19)
    transforms.judge(device, [*mixed(0)], TensorConfig(4_096, lz=True))
    assert device.calls.count("shrink_lz_blocks") > 4


@needs_shim
def test_lz_is_not_tried_where_samples_do_not_repeat(device):
    rng = np.random.default_rng(0)
    items = [rng.integers(0, 100, 20_000).astype(np.int32), np.arange(300, dtype=np.int16)]
    transforms.judge(device, items, TensorConfig())
    assert "shrink_lz_blocks" not in device.calls
    transforms.judge(device, [*items, np.tile(items[0][:900], 20)], TensorConfig())
    assert device.calls.count("shrink_lz_blocks") == 1
