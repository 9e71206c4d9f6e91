# SPDX-License-Identifier: Apache-2.0
"""Promises of the entropy coder: lossless, near the entropy, the same on all processors."""

from __future__ import annotations

import math

import numpy as np
import pytest
import rans_planes
from helpers import LEVELS, numpy_dtype, raw_bytes, run_python

import gpucodec
from gpucodec import CorruptionError
from gpucodec.frame import parse
from gpucodec.kernels import choose, division, spec

PLANES = {label: (symbols, config) for label, symbols, config in rans_planes.planes()}
HEADER, STATES = spec.RANS_HEADER_BYTES, spec.RANS_STATES_BYTES


@pytest.mark.parametrize("label", PLANES)
def test_planes_come_back_and_cost_little_more_than_their_entropy(label):
    symbols, config = PLANES[label]
    encoded = gpucodec.encode(symbols, config)
    assert (gpucodec.decode(encoded) == symbols).all()
    frame = parse(encoded)
    sizes = (frame.entries & spec.ENTRY_ARGUMENT_MASK).ravel()
    for i, size in enumerate(sizes):
        block = symbols[i * frame.block_words :][: frame.block_words]
        table = min(3 * len(np.unique(block)), 32 + 1.5 * len(np.unique(block)))
        ideal = rans_planes.entropy_bytes(block) + HEADER + table + STATES
        # A table must not name what no row has, and the sample of sorted rows is a coarse one.
        rough = {"only the tail differs": 9999, "sorted": 1.06}.get(label, 1.025)
        assert size <= rough * ideal + 60


@pytest.mark.parametrize("n", [*range(1, 200), 4095, 4096, 4097, 65_535, 65_536, 65_537])
def test_every_length_comes_back(n):
    symbols = np.minimum(np.random.default_rng(n).geometric(0.4, n), 9).astype(np.uint8)
    assert (gpucodec.decode(gpucodec.encode(symbols)) == symbols).all()


@pytest.mark.parametrize("name", ["float16", "float64", "float8_e4m3fn", "float8_e5m2"])
def test_planes_of_few_bits_come_back_compressed(name):
    rng = np.random.default_rng(1)
    array = (rng.standard_normal(100_000) * 0.02).astype(numpy_dtype(name))
    encoded = gpucodec.encode(array)
    assert raw_bytes(gpucodec.decode(encoded)) == raw_bytes(array)
    assert encoded.size < 0.9 * array.nbytes


@pytest.mark.parametrize(("n_symbols", "coder"), [(32, spec.RANS8), (33, spec.RANS12)])
def test_rans12_serves_what_the_table_of_rans8_cannot_hold(n_symbols, coder):
    symbols = np.random.default_rng(2).integers(0, n_symbols, 65_536).astype(np.uint8)
    entry = parse(gpucodec.encode(symbols)).entries[0, 0]
    assert entry >> spec.ENTRY_CODER_SHIFT == coder


@pytest.mark.parametrize("up", [False, True])
@pytest.mark.parametrize("bits", [spec.RANS8_BITS, spec.RANS12_BITS])
def test_reciprocals_divide_exactly(up, bits):
    """By each frequency that a table may combine with the rounding; at the worst dividends."""
    rng = np.random.default_rng(3)
    end = 1 << (32 - bits)  # of the quotients that a state can have
    quotients = np.concatenate([np.arange(1, 500), rng.integers(1, end, 4000), [end - 1, end]])
    quotients = quotients.astype(np.uint64)
    largest = [f for f in range(1, 1 << bits) if division.rounds_up.py_func(f, bits) == up]
    assert max(largest) > (1 << (bits - 1)) + 1
    above_half = min(f for f in largest if f > 1 << (bits - 1))
    for f in {*largest, *range(1, (1 << bits) + 1 - above_half)}:
        reciprocal, shift, lacks = (int(v) for v in division.reciprocal.py_func(f, up))
        assert reciprocal < 1 << 32
        x = np.concatenate([quotients * f - 1, quotients[quotients < end] * f])
        x = x[(x > 0) & (x < np.uint64(1 << 32))]  # what a state is when it is divided
        assert (((x + (not up)) * reciprocal >> (32 + shift)) + lacks == x // f).all(), f


@pytest.mark.parametrize("bits", [spec.RANS8_BITS, spec.RANS12_BITS])
def test_frequencies_sum_to_a_power_of_two_and_follow_the_counts(bits):
    rng = np.random.default_rng(4)
    for _ in range(60):
        n = int(rng.integers(2, 33 if bits == spec.RANS8_BITS else 257))
        steepness = rng.choice([0.1, 1, 4])
        counts = (rng.gamma(1 / steepness, 1000, 256) + 1).astype(np.uint32)
        symbols = np.sort(rng.choice(256, n, replace=False)).astype(np.uint8)
        total = int(counts[symbols].sum())
        frequencies = np.zeros(256, np.uint32)
        choose.normalise.py_func(counts, symbols, n, total, bits, frequencies)
        chosen, ideal = frequencies[:n].astype(int), counts[symbols] / total * 2**bits
        assert chosen.sum() == 2**bits
        assert (chosen >= 1).all()
        cost = (ideal * np.log2(ideal / chosen)).sum() / 2**bits  # bits lost for each symbol
        assert cost < n / 2**bits


def test_logarithms_are_right_to_a_thousandth():
    for x in [*range(1, 600), *(2**k + d for k in range(9, 31) for d in (-1, 1, 2 ** (k - 1) + 5))]:
        assert abs(choose.log2_fixed.py_func(x) / 2**spec.LOG2_BITS - math.log2(x)) < 1e-3


def damaged(at: int, value: int) -> tuple[bytes, np.ndarray]:
    """A frame of one plane with patches, in whose payload one byte is another."""
    symbols, config = PLANES["40 outliers"]
    encoded = bytearray(gpucodec.encode(symbols, config))
    frame = parse(bytes(encoded))
    begin, size = int(frame.offsets[0]), int(frame.entries[0, 0] & spec.ENTRY_ARGUMENT_MASK)
    assert frame.entries[0, 0] >> spec.ENTRY_CODER_SHIFT == spec.RANS8
    where = begin + (at if at >= 0 else size + at)
    assert encoded[where] != value
    encoded[where] = value
    return bytes(encoded), symbols


@pytest.mark.parametrize(
    ("at", "value", "status"),
    [
        (0, 0xFF, spec.BAD_SIZE),  # words
        (4, 0xFF, spec.BAD_SIZE),  # patches
        (6, 0, spec.BAD_TABLE),  # symbols: too few
        (6, 32, spec.BAD_TABLE),  # too many
        (7, 1, spec.BAD_TABLE),  # reserved
        (HEADER, 200, spec.BAD_TABLE),  # symbols do not ascend
        (HEADER + 12, 0, spec.BAD_TABLE),  # a frequency of 0
        (HEADER + 12, 255, spec.BAD_TABLE),  # another sum
        (-1, 1, spec.BAD_PATCH),  # a patch that changes nothing
    ],
)
def test_payloads_that_break_a_rule_are_refused_and_say_which(at, value, status):
    encoded, _ = damaged(at, value)
    with pytest.raises(CorruptionError, match=spec.STATUS_TEXT[status]):
        gpucodec.decode(encoded)


@pytest.mark.parametrize("level", LEVELS)
def test_all_processors_write_the_same_planes(level, planes_of_this_machine):
    digest, used = run_python("rans_planes.py", level=level).split()
    assert digest == planes_of_this_machine
    assert level in {"host", used}


@pytest.fixture(scope="module")
def planes_of_this_machine():
    return run_python("rans_planes.py").split()[0]
