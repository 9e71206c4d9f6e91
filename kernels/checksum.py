# SPDX-License-Identifier: Apache-2.0
"""XXH3-64 of a decoded block (xxHash specification, long inputs, seed 0, default secret).

Inputs are padded with zeros to a multiple of 64 and at least 256 bytes, so that one path serves
every length; `xxhash.xxh3_64(raw + padding)` gives the same value.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from .arrays import stack_array
from .jit import SOURCES, entry_point, kernel, readonly_bytes
from .spec import (
    AVALANCHE,
    HASH_LAST_STRIPE,
    HASH_MERGE,
    HASH_MIN_BYTES,
    HASH_SECRET,
    HASH_START,
    HASH_STRIPE,
    HASH_STRIPES,
    PRIME32_1,
    PRIME64_1,
)
from .vector import I64, constant, copy_bytes, load, loop, store, vector

if TYPE_CHECKING:
    from numpy.typing import NDArray

SECRET = np.frombuffer(HASH_SECRET, np.uint8)
START = np.array(HASH_START, np.uint64)
BLOCK = HASH_STRIPES * HASH_STRIPE
MERGE = np.frombuffer(HASH_SECRET[HASH_MERGE : HASH_MERGE + HASH_STRIPE], np.uint64)
SECRET_WORDS = SECRET.view(np.uint64)

_state = stack_array(types.uint64, 8 + BLOCK // 8)


@intrinsic  # type: ignore[untyped-decorator]
def _accumulate(
    typing_context: Any,  # noqa: ARG001 - Numba passes it
    raw: Any,
    n_stripes: Any,
    secret: Any,
    acc: Any,
) -> Any:
    """Add `n_stripes` (at most 16) stripes at address `raw` to the accumulators at `acc`.

    Numba's own loop reaches a third of the speed: LLVM does not see the eight accumulators as
    one vector.
    """
    signature = types.void(raw, n_stripes, secret, acc)

    def generate(_context: Any, builder: Any, _signature: Any, arguments: Any) -> None:
        source, count, key, state = arguments
        wide = vector(8, 64)
        half = constant(wide, 32)
        swap = ir.Constant(vector(8, 32), [1, 0, 3, 2, 5, 4, 7, 6])

        def stripe(i: Any, total: Any) -> Any:
            offset = builder.mul(i, constant(I64, HASH_STRIPE))
            data = load(builder, builder.add(source, offset), wide)
            step = builder.mul(i, constant(I64, 8))
            mixed = builder.xor(data, load(builder, builder.add(key, step), wide))
            low = builder.and_(mixed, constant(wide, 0xFFFFFFFF))
            product = builder.mul(low, builder.lshr(mixed, half))
            swapped = builder.shuffle_vector(data, data, swap)
            return [builder.add(total[0], builder.add(product, swapped))]

        [total] = loop(builder, count, [load(builder, state, wide)], stripe)
        store(builder, total, state)

    return signature, generate


@kernel
def _high_product(a: int, b: int) -> int:
    """High 64 bits of the 128-bit product."""
    mask = np.uint64(0xFFFFFFFF)
    half = np.uint64(32)
    a_low, a_high, b_low, b_high = a & mask, a >> half, b & mask, b >> half
    low = a_low * b_low
    middle = a_high * b_low + (low >> half)
    cross = (middle & mask) + a_low * b_high
    return a_high * b_high + (middle >> half) + (cross >> half)


@kernel
def xxh3(source: int, n_raw: int) -> int:
    """XXH3-64 of `n_raw` bytes at address `source`, padded with zeros as the format says."""
    n = max(HASH_MIN_BYTES, (n_raw + HASH_STRIPE - 1) // HASH_STRIPE * HASH_STRIPE)
    state = _state()  # accumulators; the last block, padded
    for i in range(8):
        state[i] = START[i]
    acc = np.uint64(state.ctypes.data)
    secret = np.uint64(SECRET.ctypes.data)
    n_blocks = (n - 1) // BLOCK
    for block in range(n_blocks + 1):
        at = block * BLOCK
        where = source + np.uint64(at)
        if at + BLOCK > n_raw:
            for i in range(8, state.size):
                state[i] = 0
            tail = acc + np.uint64(64)
            copy_bytes(tail, where, np.uint64(max(0, n_raw - at)))
            where = tail
        if block < n_blocks:
            _accumulate(where, np.uint64(HASH_STRIPES), secret, acc)
            for i in range(8):
                mixed = state[i] ^ (state[i] >> np.uint64(47)) ^ SECRET_WORDS[16 + i]
                state[i] = mixed * np.uint64(PRIME32_1)
        else:
            n_stripes = np.uint64((n - at) // HASH_STRIPE - 1)
            _accumulate(where, n_stripes, secret, acc)
            last = where + n_stripes * np.uint64(HASH_STRIPE)
            _accumulate(last, np.uint64(1), secret + np.uint64(HASH_LAST_STRIPE), acc)
    digest = np.uint64(n) * np.uint64(PRIME64_1)
    for i in range(0, 8, 2):
        a, b = state[i] ^ MERGE[i], state[i + 1] ^ MERGE[i + 1]
        digest += (a * b) ^ _high_product(a, b)
    digest = (digest ^ (digest >> np.uint64(37))) * np.uint64(AVALANCHE)
    return digest ^ (digest >> np.uint64(32))


def _entry_point(sources: int) -> Any:
    @entry_point(types.uint64(readonly_bytes))
    def hash_bytes(raw: NDArray[np.uint8]) -> int:
        """`xxh3` for callers in Python."""
        assert sources
        return xxh3(np.uint64(raw.ctypes.data), raw.size)

    return hash_bytes


hash_bytes = _entry_point(SOURCES)
