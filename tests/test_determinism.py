# SPDX-License-Identifier: Apache-2.0
"""Promise 3: the same input gives the same bytes, whatever runs it and how often."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
import pytest
from golden_inputs import golden_inputs
from helpers import repetitive, run_python, sample, sha256

import gpucodec
from gpucodec import LZConfig, QuantizeConfig, TensorConfig, cpu, cpu_lz
from gpucodec.kernels.quantspec import BY_NAME
from gpucodec.quant import cpu as quant_cpu

CASES = {
    "bfloat16 values": (sample("bfloat16", 2_000_003, "values"), None),
    "float32 rare, small blocks": (sample("float32", 500_001, "rare"), TensorConfig(4096)),
    "float64 values": (sample("float64", 400_000, "values"), None),
    "uint8 skewed": (sample("uint8", 3_000_000, "skewed"), None),
    "text by LZ": (repetitive("uint8", 3_000_000, "text"), LZConfig()),
    "ids, some by LZ": (
        np.concatenate([repetitive("int32", 400_000, "text"), sample("int32", 400_000, "values")]),
        TensorConfig(lz=True),
    ),
    "zeros and dense floats": (
        np.concatenate(
            [repetitive("float32", 400_000, "sparse"), sample("float32", 400_000, "values")]
        ),
        TensorConfig(lz=True),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_threads_do_not_matter(case):
    array, config = CASES[case]
    hashes = {sha256(gpucodec.encode(array, config, threads=n)) for n in (None, *range(1, 17))}
    assert len(hashes) == 1
    frame = gpucodec.encode(array, config)
    decoded = {sha256(gpucodec.decode(frame, threads=n)) for n in (None, *range(1, 17))}
    assert decoded == {sha256(array)}


@pytest.mark.parametrize("case", CASES)
def test_runs_do_not_matter(case):
    array, config = CASES[case]
    assert len({sha256(gpucodec.encode(array, config)) for _ in range(20)}) == 1


def test_company_does_not_matter():
    array, config = CASES["float32 rare, small blocks"]
    with ThreadPoolExecutor(8) as pool:
        hashes = set(pool.map(lambda _: sha256(gpucodec.encode(array, config)), range(24)))
    frames = gpucodec.encode_batch([array] * 4, config)
    assert hashes == {sha256(frame) for frame in frames}


def test_earlier_calls_do_not_matter():
    """Scratch memory is used again; what it held must not show."""
    alone = {label: gpucodec.encode(a, config).tobytes() for label, a, config in golden_inputs()}
    backwards = list(golden_inputs())[::-1]
    for label, array, config in backwards:
        assert gpucodec.encode(array, config).tobytes() == alone[label], label


def arrays_of(scratch: object) -> Iterator[np.ndarray]:
    """Every array in the scratch of one thread, which is tuples of tuples."""
    if isinstance(scratch, np.ndarray):
        yield scratch
    elif isinstance(scratch, tuple):
        for part in scratch:
            yield from arrays_of(part)


def test_what_scratch_held_does_not_matter():
    """Nor may what it never held: noise, and numbers that could be places in tables."""
    kinds = [(array, config) for _, array, config in golden_inputs() if array.nbytes < 1 << 18]
    kinds += [
        (array[: 50_000 + 64 * n], config) for array, config in CASES.values() for n in (0, 3)
    ]
    cases = [partial(gpucodec.encode, array, config) for array, config in kinds]
    rare = CASES["float32 rare, small blocks"][0][:5_000]
    cases += [partial(gpucodec.encode_quantized, rare, QuantizeConfig(name)) for name in BY_NAME]
    alone = [encode() for encode in cases]
    encoded = [sha256(frame) for frame in alone]
    decoded = [sha256(gpucodec.decode(frame)) for frame in alone]
    kept = (*vars(cpu._scratch).values(), *vars(cpu_lz._scratch).values())
    rooms = [array.reshape(-1).view(np.uint8) for array in arrays_of(kept)]
    rooms += [quant_cpu._scratch.blocks.reshape(-1)]
    rng = np.random.default_rng(5)
    for bits in (1, 10, 14, 15, 16):
        noise = rng.integers(0, 1 << bits, 1 << 22, np.uint16).view(np.uint8)
        for encode, frame, *expected in zip(cases, alone, encoded, decoded, strict=True):
            for room in rooms:
                room[:] = noise[: room.size]
            assert [sha256(encode()), sha256(gpucodec.decode(frame))] == expected


def digest_of_everything() -> str:
    whole = hashlib.sha256()
    for _, array, config in golden_inputs():
        whole.update(gpucodec.encode(array, config))
    return whole.hexdigest()


def test_a_fresh_process_does_not_matter():
    assert run_python("test_determinism.py").strip() == digest_of_everything()


if __name__ == "__main__":
    print(digest_of_everything())
