# SPDX-License-Identifier: Apache-2.0
"""The palette coder: lossless for any symbols, strict about any payload."""

from __future__ import annotations

import random

import numpy as np
import pytest
from helpers import LEVELS, run_python
from mutation_worker import Guarded
from transform_worker import Kernels

from gpucodec.kernels.spec import OK, PALETTE_MAX_BITS

LENGTHS = (1, 2, 63, 64, 65, 200, 1000)


def reference_decode(payload: bytes, n: int, bits: int, code_bits: int) -> list[int] | None:
    """Symbols as the format describes them, None if a rule is broken."""
    whole = 1 << bits
    n_rows = -(-n // 64)
    at = 8 * code_bits * n_rows
    n_patches, rest = divmod(len(payload) - at - 1, 3)
    if len(payload) <= at or rest or n_patches >= n or code_bits >= bits:
        return None
    base = payload[-1]
    if base >= whole:
        return None
    codes = [0] * (64 * n_rows)
    for row in range(n_rows):
        for j in range(code_bits):
            first = 8 * (code_bits * row + j)
            word = int.from_bytes(payload[first : first + 8], "little")
            for k in range(64):
                codes[64 * row + k] |= (word >> k & 1) << j
    if any(codes[n:]):
        return None
    symbols = [(base + code) % whole for code in codes[:n]]
    previous = -1
    for i in range(n_patches):
        position = int.from_bytes(payload[at + 2 * i : at + 2 * i + 2], "little")
        symbol = payload[at + 2 * n_patches + i]
        if not previous < position < n or codes[position] or symbol >= whole:
            return None
        if (symbol - base) % whole < 1 << code_bits:
            return None
        symbols[position] = symbol
        previous = position
    return symbols


def encode(symbols: np.ndarray, bits: int, code_bits: int, base: int) -> bytes:
    n = symbols.size
    padded = np.concatenate([symbols, np.full(64, 255, np.uint8)])
    out = np.full(8 * n + 600, 0xA5, np.uint8)
    flags = np.zeros(-(-n // 64), np.uint64)
    size = Kernels.palette_encode(padded, n, bits, code_bits, base, out, flags)
    assert (out[size:] == 0xA5).all()
    return out[:size].tobytes()


def decode(payload: bytes, n: int, bits: int, code_bits: int) -> list[int] | None:
    out = np.full(-(-n // 64) * 64 + 64, 0xA5, np.uint8)
    status = Kernels.palette_decode(np.frombuffer(payload, np.uint8), n, bits, code_bits, out)
    assert (out[-64:] == 0xA5).all()
    return out[:n].tolist() if status == OK else None


def sample(n: int, bits: int, base: int, spread: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng([n, bits, base, seed])
    symbols = base + rng.integers(0, spread, n)
    outside = rng.random(n) < 0.05
    symbols = np.where(outside, rng.integers(0, 256, n), symbols) & ((1 << bits) - 1)
    return symbols.astype(np.uint8)


def cases():
    for bits in range(1, 9):
        for code_bits in range(min(bits, PALETTE_MAX_BITS + 1)):
            for n in LENGTHS:
                for base in (0, (1 << bits) - 1, (1 << bits) // 2):
                    yield sample(n, bits, base, 1 << code_bits), bits, code_bits, base


def test_round_trip_at_every_width():
    for symbols, bits, code_bits, base in cases():
        payload = encode(symbols, bits, code_bits, base)
        if payload:  # empty: no symbol is in the window
            expected = symbols.tolist()
            assert reference_decode(payload, symbols.size, bits, code_bits) == expected
            assert decode(payload, symbols.size, bits, code_bits) == expected


def test_every_pair_of_symbol_and_base():
    symbols = np.arange(256, dtype=np.uint8)
    for base in range(256):
        for code_bits in range(PALETTE_MAX_BITS + 1):
            payload = encode(symbols, 8, code_bits, base)
            assert decode(payload, 256, 8, code_bits) == symbols.tolist()


def test_a_whole_block():
    symbols = sample(65_536, 8, 120, 8)
    payload = encode(symbols, 8, 3, 120)
    assert decode(payload, 65_536, 8, 3) == symbols.tolist()


def test_a_payload_that_would_not_be_smaller_is_refused():
    flags = np.zeros(16, np.uint64)

    def size(symbols: np.ndarray, n: int, room: int) -> int:
        return Kernels.palette_encode(symbols, n, 8, 3, 0, np.zeros(room, np.uint8), flags)

    symbols = np.concatenate([sample(1000, 8, 0, 8), np.zeros(64, np.uint8)])
    needed = size(symbols, 1000, 5000)
    assert size(symbols, 1000, needed) == 0
    assert size(symbols, 1000, needed + 1) == needed
    assert size(symbols, 1000, 100) == 0
    assert size(np.full(64, 9, np.uint8), 64, 999) == 0  # none of them is in the window


def test_the_plan_is_the_best_there_is():
    rng = np.random.default_rng(0)
    for trial in range(60):
        bits = int(rng.integers(2, 9))
        whole = 1 << bits
        counts = np.zeros(256, np.uint32)
        counts[:whole] = rng.integers(0, 50, whole) ** (trial % 4)
        counted = int(counts.sum())
        if counted == 0:
            continue
        n = counted * (1 + trial % 3)
        sizes = {}
        for code_bits in range(min(bits, PALETTE_MAX_BITS + 1)):
            for base in range(whole):
                window = [(base + i) % whole for i in range(1 << code_bits)]
                outside = counted - int(counts[window].sum())
                patches = -(-outside * n // counted)
                sizes[code_bits, base] = 8 * code_bits * -(-n // 64) + 3 * patches + 1, outside
        best = min(sizes, key=lambda key: (sizes[key][0], key[0], sizes[key][1], key[1]))
        assert Kernels.palette_plan(counts, counted, n, bits) == (*best, sizes[best][0])


@pytest.mark.parametrize(("bits", "code_bits"), [(8, 4), (8, 3), (8, 0), (5, 3), (2, 1), (2, 0)])
def test_every_flipped_bit_is_noticed(bits, code_bits):
    for n in (70, 128):
        symbols = sample(n, bits, 1, 1 << code_bits)
        payload = bytearray(encode(symbols, bits, code_bits, 1))
        for bit in range(8 * len(payload)):
            payload[bit >> 3] ^= 1 << (bit & 7)
            assert decode(bytes(payload), n, bits, code_bits) != symbols.tolist(), bit
            payload[bit >> 3] ^= 1 << (bit & 7)


def mutants(count: int):
    rng = random.Random(0)
    originals = [case for case in cases() if encode(*case)]
    for _ in range(count):
        symbols, bits, code_bits, base = rng.choice(originals)
        payload = bytearray(encode(symbols, bits, code_bits, base))
        n = symbols.size
        for _ in range(rng.randint(0, 3)):
            kind = rng.randrange(4)
            at = rng.randrange(len(payload) or 1)
            if kind == 0 and payload:
                payload[at] = rng.choice((0, 1, 254, 255, rng.randrange(256)))
            elif kind == 1:
                del payload[at : at + rng.randint(1, 9)]
            elif kind == 2:
                payload[at:at] = rng.randbytes(rng.randint(1, 9))
            else:
                n = max(1, n + rng.choice((-64, -1, 1, 64, 1000)))
        if rng.random() < 0.2:
            bits, code_bits = rng.randint(1, 8), rng.randint(0, 4)
        yield bytes(payload), n, bits, code_bits


def test_hostile_payloads_stay_inside_and_are_judged_as_the_document_says():
    inputs, outputs = Guarded(), Guarded()
    sound = 0
    for i, (payload, n, bits, code_bits) in enumerate(mutants(20_000)):
        low = bool(i & 1)
        place, _ = inputs.place(len(payload), low=low)
        place[:] = np.frombuffer(payload, np.uint8)
        out, canary = outputs.place(-(-n // 64) * 64, low=low)
        canary[:] = 0xA5
        status = Kernels.palette_decode(place, n, bits, code_bits, out)
        assert (canary == 0xA5).all()
        expected = reference_decode(payload, n, bits, code_bits)
        assert (status == OK) == (expected is not None), (payload, n, bits, code_bits)
        if expected is not None:
            sound += 1
            assert out[:n].tolist() == expected
    assert sound > 1000


def test_all_levels_write_the_same_bytes():
    digests = {level: run_python("transform_worker.py", level=level) for level in LEVELS}
    assert len(set(digests.values())) == 1, digests
