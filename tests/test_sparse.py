# SPDX-License-Identifier: Apache-2.0
"""The sparse transform: packs and restores every bit pattern, signs of zeros included."""

from __future__ import annotations

import numpy as np
import pytest
from mutation_worker import Guarded
from transform_worker import Kernels

from gpucodec.kernels.spec import PLAIN, ROTATE, ROW, SPARSE_STRIDE

LENGTHS = (1, 2, 63, 64, 65, 255, 1000, 65_536)
KINDS = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


def magnitude(word_bytes: int, transform: int) -> np.uint64:
    return np.uint64(Kernels.magnitude_bits(word_bytes, transform))


def sample(n: int, word_bytes: int, density: float, *, negative: bool) -> np.ndarray:
    rng = np.random.default_rng([n, word_bytes, int(10 * density)])
    top = 1 << (8 * word_bytes - 1)
    words = rng.integers(1, top, n, np.uint64) * (rng.random(n) < density)
    if negative:
        words |= rng.integers(0, 2, n, np.uint64) * np.uint64(top)
    return words.astype(KINDS[word_bytes])


def pack(words: np.ndarray, transform: int):
    """Mask, packed words, signs of the zeros (None if there are none)."""
    n, word_bytes = words.size, words.itemsize
    raw = words.view(np.uint8)
    mask, signs = np.full((2, n + ROW), 0xA5, np.uint8)
    packed = np.full((n + ROW) * word_bytes, 0xA5, np.uint8)
    bits = magnitude(word_bytes, transform)
    count, has_signs = Kernels.pack(raw, word_bytes, bits, mask, packed)
    if not has_signs:
        return mask, packed, count, None
    n_signs = Kernels.read_signs(raw, word_bytes, mask, signs)
    assert n_signs == n - count
    return mask, packed, count, signs


def restore(mask, packed, signs, n: int, word_bytes: int) -> np.ndarray:
    out = np.full((n + 2 * ROW) * word_bytes, 0xA5, np.uint8)
    raw = out[ROW * word_bytes : (ROW + n) * word_bytes]
    Kernels.expand(mask, packed, word_bytes, raw)
    if signs is not None:
        Kernels.write_signs(mask, signs, word_bytes, raw)
    assert (out[: ROW * word_bytes] == 0xA5).all()
    assert (out[(ROW + n) * word_bytes :] == 0xA5).all()
    return raw.view(KINDS[word_bytes])


@pytest.mark.parametrize("word_bytes", KINDS)
@pytest.mark.parametrize("transform", [PLAIN, ROTATE])
@pytest.mark.parametrize("negative", [False, True])
def test_round_trip(word_bytes, transform, negative):
    for n in LENGTHS:
        for density in (0, 0.1, 0.5, 0.9, 1):
            words = sample(n, word_bytes, density, negative=negative)
            top = KINDS[word_bytes](1 << (8 * word_bytes - 1))
            kept = words & ~top != 0 if transform == ROTATE else words != 0
            mask, packed, count, signs = pack(words, transform)
            assert count == kept.sum()
            assert (packed.view(words.dtype)[:count] == words[kept]).all()
            assert (signs is not None) == (words[~kept] != 0).any()
            if signs is not None:
                assert (signs[: n - count] == (words[~kept] != 0)).all()
            n_symbols = Kernels.mask_symbols(n)
            bits = mask[:n_symbols, None] >> np.arange(4, dtype=np.uint8) & 1
            assert (bits.ravel()[:n] == kept).all()
            assert not bits.ravel()[n:].any()
            assert Kernels.n_nonzero(mask, n) == count
            assert (restore(mask, packed, signs, n, word_bytes) == words).all()


@pytest.mark.parametrize("word_bytes", [1, 2])
def test_every_bit_pattern(word_bytes):
    words = np.arange(1 << (8 * word_bytes)).astype(KINDS[word_bytes])
    words = np.concatenate([words, np.zeros_like(words), words[::-1]])
    for transform in (PLAIN, ROTATE):
        mask, packed, count, signs = pack(words, transform)
        assert Kernels.n_nonzero(mask, words.size) == count
        assert (restore(mask, packed, signs, words.size, word_bytes) == words).all()


def test_bits_beyond_the_last_word_are_refused():
    for n in (1, 2, 3, 5, 63, 101):
        mask = np.zeros(n + ROW, np.uint8)
        last = Kernels.mask_symbols(n) - 1
        for bit in range(4):
            mask[last] = 1 << bit
            assert Kernels.n_nonzero(mask, n) == (1 if 4 * last + bit < n else -1)


def test_symbols_beyond_the_plane_do_not_matter():
    mask = np.full(ROW, 15, np.uint8)
    assert Kernels.n_nonzero(mask, 20) == 20
    assert mask[5:16].tolist() == [0] * 11


def test_every_changed_mask_changes_the_number_of_words():
    # n is the sum of its bits: another mask of as many bits gives other words or none at all
    words = sample(100, 2, 0.5, negative=False)
    mask, _, count, _ = pack(words, PLAIN)
    for bit in range(100):
        changed = mask.copy()
        changed[bit // 4] ^= 1 << bit % 4
        assert Kernels.n_nonzero(changed, 100) != count


@pytest.mark.parametrize("word_bytes", KINDS)
def test_nothing_outside_is_touched(word_bytes):
    guarded = Guarded()
    for i, n in enumerate((1, 63, 64, 100, 130, 1000)):
        words = sample(n, word_bytes, 0.4, negative=True)
        mask, packed, _, signs = pack(words, ROTATE)
        raw, canary = guarded.place(words.nbytes, low=bool(i & 1))
        canary[:] = 0xA5
        Kernels.expand(mask, packed, word_bytes, raw)
        if signs is not None:
            Kernels.write_signs(mask, signs, word_bytes, raw)
        assert (canary == 0xA5).all()
        assert raw.tobytes() == words.tobytes()
        again = pack(raw.view(words.dtype) if raw.ctypes.data % word_bytes == 0 else words, ROTATE)
        assert again[2] == Kernels.n_nonzero(mask, n)


def test_the_sample_decides_at_one_in_32():
    n = 64 * 64
    bits = magnitude(2, ROTATE)
    mask, packed = np.zeros(n, np.uint8), np.zeros(2 * n + 2 * ROW, np.uint8)
    words = np.ones(n, np.uint16)
    for row in range(0, 64, SPARSE_STRIDE):
        words[64 * row : 64 * row + 2] = (0, 0x8000)
        assert Kernels.promising(words.view(np.uint8), 2, bits, mask, packed) == (row == 48)
    words[:] = 0
    for row in range(0, 64, SPARSE_STRIDE):
        words[64 * row : 64 * (row + 1)] = 1
    assert not Kernels.promising(words.view(np.uint8), 2, bits, mask, packed)
    assert not Kernels.promising(words[:63].view(np.uint8), 2, bits, mask, packed)
