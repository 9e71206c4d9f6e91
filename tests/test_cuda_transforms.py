# SPDX-License-Identifier: Apache-2.0
"""Palettes, zeros and models on a GPU, with the shim as the GPU: the same bytes as on the CPU."""

from __future__ import annotations

import ctypes

import cuda_shim
import ml_dtypes
import numpy as np
import pytest
from cuda_shim import ORDERS, ShimDevice
from golden_inputs import golden_inputs
from helpers import NAMES, numpy_dtype, sample
from test_predictor import values
from test_transforms import hidden, pruned

import gpucodec
from gpucodec import TensorConfig, cpu, frame as container
from gpucodec.cuda import batch, encoding, fitting
from gpucodec.dtypes import BY_NAME
from gpucodec.kernels import cuda, predictor, predictor_fit, spec

pytestmark = pytest.mark.skipif(
    not cuda_shim.available(), reason="needs g++ on x86-64 Linux to run the kernels"
)
orders = pytest.mark.parametrize("order", range(len(ORDERS)), ids=ORDERS)
PROFILES = ("ratio", "fast", "auto")


def with_zeros(seed: int, count: int):
    """Arrays of all types with any share of zeros, some of them negative, and any block size."""
    rng = np.random.default_rng(seed)
    names = [name for name in NAMES if numpy_dtype(name).itemsize > 1]
    for i in range(count):
        array = sample(names[i % len(names)], int(rng.integers(4_100, 20_000)), "values", seed + i)
        share = rng.choice([0.03, 0.1, 0.5, 0.95, 1])
        array[rng.random(array.size) < share] = 0
        if i % 3 == 0:  # the sign bit of floats
            array.view(np.uint8)[array.itemsize - 1 :: array.itemsize * 2] |= 0x80
        yield array, None if i % 2 else 1 << int(rng.integers(6, 17))


def matrices(seed: int):
    """Products of rows and columns and of a pattern that is neither, with and without zeros."""
    rng = np.random.default_rng(seed)
    for name in ("float16", "float32", "bfloat16"):
        for shape in ((700, 130), (300, 40, 9), (2_000, 33), (64, 1_100)):
            n_rows, n_columns = shape[0], int(np.prod(shape[1:]))
            log = rng.normal(0, 1, (n_rows, 1)) + rng.normal(0, 1, n_columns)
            log += rng.normal(0, 0.4, (n_rows, 1)) * rng.normal(0, 1, n_columns)
            log += rng.normal(0, 0.1, (n_rows, n_columns))
            words = np.exp(log) * rng.choice([-1, 1], log.shape)
            if n_rows == 300:
                words[rng.random(words.shape) < 0.3] = 0
            yield words.astype(getattr(ml_dtypes, name, name)).reshape(shape)


def judge(device: ShimDevice, items, config) -> set[int]:
    """Encode arrays of a configuration in one batch, there and back; the flags of the frames."""
    flags = set()
    encoded = gpucodec.encode_batch([device.put(array) for array in items], config)
    for array, frame in zip(items, encoded, strict=True):
        expected = gpucodec.encode(array, config)
        assert frame.numpy().tobytes() == expected.tobytes(), (array.dtype, array.shape)
        flags.add(container.parse(expected).flags)
    for array, back in zip(items, gpucodec.decode_batch(encoded), strict=True):
        assert back.numpy().tobytes() == array.tobytes()
    return flags


@pytest.fixture
def device(monkeypatch):
    monkeypatch.setattr(cuda, "FIT_THREADS", 64)  # of which the shim makes fibers; any number does
    return cuda_shim.install(monkeypatch)


@pytest.mark.parametrize(
    ("profile", "order"), [("ratio", 0), ("ratio", 1), ("ratio", 2), ("fast", 1), ("auto", 2)]
)
def test_every_profile_writes_the_same_bytes(device, profile, order):
    """Part of the golden inputs, words with zeros, and matrices."""
    device.order, device.seed = order, PROFILES.index(profile)
    inputs = [
        (array, config.block_size)
        for _, array, config in golden_inputs()
        if isinstance(config, TensorConfig) and array.dtype.byteorder != ">"
    ]
    inputs = [*inputs[order::15], *with_zeros(order, 10)]
    by_size: dict[int | None, list[np.ndarray]] = {None: [*matrices(order)][order::3]}
    for array, block_size in inputs:
        by_size.setdefault(block_size, []).append(array)
    flags = set()
    for block_size, items in by_size.items():
        flags |= judge(device, items, TensorConfig(block_size, profile=profile, lz=False))
    assert flags >= {0, spec.STORED, spec.SPARSE, spec.PREDICTED}
    kernels = {"split_full_blocks", "encode_full_planes", "choose_ways", "gather_runs"}
    assert kernels <= {*device.calls}


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 22))
def test_every_profile_writes_the_same_bytes_for_much_random_input(device, seed):
    device.order, device.seed = seed % 3, seed
    profile = PROFILES[seed % 3]
    for array, block_size in with_zeros(seed, 300):
        judge(device, [array], TensorConfig(block_size, profile=profile, lz=False))
    judge(device, [*matrices(seed)], TensorConfig(profile=profile, lz=False))


def test_an_array_whose_zeros_do_not_pay_is_not_sparse_after_all(device):
    """Zeros in the rows that are sampled for the array, and not in those sampled in its blocks."""
    words = sample("float32", 64 * 640, "noise").reshape(640, 64)
    words[::20] = 0
    words[::16] = words[1]
    assert judge(device, [words, words.ravel()], TensorConfig(lz=False)) == {0}
    assert device.calls.count("split_full_blocks") == 1
    assert device.calls.count("split_blocks") == 1


def test_blocks_of_arrays_that_are_mostly_zero_are_as_large(device):
    """Twice as large as others, with planes in them that are too long for coders, too."""
    mostly = pruned("bfloat16", 140_000)
    items = [mostly, hidden(), mostly.astype("float32"), hidden(in_blocks=False)]
    assert judge(device, items, None) >= {0, spec.SPARSE}


def test_batches_larger_than_the_scratch_memory_go_in_waves(device, monkeypatch):
    monkeypatch.setattr(batch, "SCRATCH_BYTES", 1 << 19)
    items = [array for array, _ in with_zeros(3, 8)] + [*matrices(1)][:2]
    judge(device, items, TensorConfig(4_096, lz=False))
    assert device.calls.count("split_full_blocks") > 3
    assert device.calls.count("read_masks") > 1


def test_lz_is_not_tried_for_floats_with_zeros_nor_in_profile_fast(device):
    pruned = sample("bfloat16", 50_000, "values")
    pruned[::2] = 0
    judge(device, [pruned], TensorConfig())
    judge(device, [pruned, sample("float32", 50_000, "values")], TensorConfig(profile="fast"))
    assert "shrink_lz_blocks" not in device.calls


def test_memory_that_is_not_aligned_is_encoded_all_the_same(device):
    array = replace_zeros(sample("float32", 30_000, "values"))
    frame = gpucodec.encode(device.put(array, 4), TensorConfig(lz=False))
    assert frame.numpy().tobytes() == gpucodec.encode(array, TensorConfig(lz=False)).tobytes()


def replace_zeros(array: np.ndarray) -> np.ndarray:
    array[::3] = 0
    return array


# --- models ---------------------------------------------------------------------------------------


def promising_sources(device: ShimDevice, seed: int):
    """Matrices of all kinds and shapes on the device, with their words and memory."""
    for kind in ("plain", "signed", "holes", "special", "noise", "zero"):
        for i, shape in enumerate(((100, 130), (300, 64), (40, 600), (1, 50), (64, 32), (270, 70))):
            array = values(kind, *shape)
            name = ("float32", "bfloat16", "float16")[(i + seed) % 3]
            with np.errstate(over="ignore"):
                halves = np.clip(array * 2**18, -6e4, 6e4).astype(np.float16)
            words = {
                "float32": array.view(np.uint32),
                "bfloat16": np.ascontiguousarray(array.view(np.uint32) >> 16).astype(np.uint16),
                "float16": halves.view(np.uint16),
            }[name]
            memory = device.put(words).memory
            source = encoding.Source(memory.address, BY_NAME[name], shape, 16, 0)
            yield words, source, memory


def read(address: int, n_bytes: int) -> bytes:
    return ctypes.string_at(address, n_bytes)


@orders
def test_models_are_those_of_the_cpu(device, monkeypatch, order):
    """All the steps, whatever the look at some rows says; and the sections that hold them."""
    device.order, device.seed = order, order
    monkeypatch.setattr(predictor_fit, "is_promising", lambda sample, name: True)
    monkeypatch.setattr(cuda, "FIT_THREADS", (512, 128, 64)[order])
    made = [*promising_sources(device, order)][order % 2 :: 2]
    sources = [source for _, source, _ in made]
    rank = (16, 5, 0)[order]
    found = fitting.fit(device, sources, [source.shape[1] for source in sources], rank, 0)
    assert len(found) > (6 if rank else 3)
    for words, source, _ in made:
        model, expected = source.model, predictor_fit.fit(words, source.dtype.name, rank)
        assert (model is None) == (expected is None)
        if expected is None:
            continue
        assert source in found
        for name in ("n_columns", "tile_rows", "rank", "base", "shift"):
            assert getattr(model, name) == getattr(expected, name)
        assert read(model.offsets, model.n_offsets) == predictor.join(expected).tobytes()
        assert read(model.section, model.section_bytes) == cpu._pack_model(expected)
    ranks = {source.model.rank for source in found}
    assert max(ranks) > 2 or rank == 0
    assert {source.model.tile_rows < source.shape[0] for source in found} == {False, True}


def test_many_models_are_found_in_waves(device, monkeypatch):
    monkeypatch.setattr(batch, "SCRATCH_BYTES", 1 << 18)
    made = [*promising_sources(device, 0)][:8]  # and their memory, which lives as long
    sources = [source for _, source, _ in made]
    found = fitting.fit(device, sources, [source.shape[1] for source in sources], 4, 0)
    assert device.calls.count("fit_base") > 1
    assert len(found) > 2
