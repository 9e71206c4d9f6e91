# SPDX-License-Identifier: Apache-2.0
"""What the parts of the document's decoder share: refusals and the hash."""

from __future__ import annotations

import numpy as np


class Refused(ValueError):
    """The frame breaks a "must" of the document."""


def must(condition: object, what: str) -> None:
    if not condition:
        raise Refused(what)


# --- XXH3-64, seed 0, default secret, long inputs ----------------------------------------------------

SECRET = bytes.fromhex(
    "b8fe6c3923a44bbe7c01812cf721ad1cded46de9839097db7240a4a4b7b3671f"
    "cb79e64eccc0e578825ad07dccff7221b8084674f743248ee03590e6813a264c"
    "3c2852bb91c300cb88d0658b1b532ea371644897a20df94e3819ef46a9deacd8"
    "a8fa763fe39c343ff9dcbbc7c70b4f1d8a51e04bcdb45931c89f7ec9d9787364"
    "eac5ac8334d3ebc3c581a0fffa1363eb170ddd51b7f0da49d316552629d4689e"
    "2b16be587d47a1fc8ff8b8d17ad031ce45cb3a8f95160428afd7fbcabb4b407e"
)
PRIME32 = (0x9E3779B1, 0x85EBCA77, 0xC2B2AE3D)
PRIME64 = (
    0x9E3779B185EBCA87,
    0xC2B2AE3D27D4EB4F,
    0x165667B19E3779F9,
    0x85EBCA77C2B2AE63,
    0x27D4EB2F165667C5,
)
AVALANCHE = 0x165667919E3779F9
MASK64 = (1 << 64) - 1
STRIPE = 64
STRIPES_A_BLOCK = (len(SECRET) - STRIPE) // 8  # the secret moves on by 8 bytes each stripe: 16


def xxh3(data: bytes) -> int:
    """The document's `H`: XXH3-64 of the zero-padded bytes."""
    size = max(256, -(-len(data) // 64) * 64)
    words = np.frombuffer(data + bytes(size - len(data)), "<u8").reshape(-1, 8)  # [stripe, lane]
    low32, shift32 = np.uint64(0xFFFFFFFF), np.uint64(32)
    acc = np.array([PRIME32[2], *PRIME64[0:4], PRIME32[1], PRIME64[4], PRIME32[0]], np.uint64)
    keys = np.stack([np.frombuffer(SECRET, "<u8", 8, 8 * i) for i in range(STRIPES_A_BLOCK)])
    swap = np.arange(8) ^ 1

    def accumulate(stripes: np.ndarray, key: np.ndarray) -> np.ndarray:
        mixed = stripes ^ key
        products = (mixed & low32) * (mixed >> shift32)
        return (products + stripes[:, swap]).sum(axis=0, dtype=np.uint64)

    # The last stripe is always done apart, with its own place in the secret.
    for first in range(0, len(words) - 1, STRIPES_A_BLOCK):
        stripes = words[first : min(first + STRIPES_A_BLOCK, len(words) - 1)]
        acc = acc + accumulate(stripes, keys[: len(stripes)])
        if len(stripes) == STRIPES_A_BLOCK:  # scramble
            key = np.frombuffer(SECRET, "<u8", 8, len(SECRET) - STRIPE)
            acc = (acc ^ acc >> np.uint64(47) ^ key) * np.uint64(PRIME32[0])
    key = np.frombuffer(SECRET, "<u8", 8, len(SECRET) - STRIPE - 7)
    acc = acc + accumulate(words[-1:], key[None])

    result = size * PRIME64[0] & MASK64
    merge_key = np.frombuffer(SECRET, "<u8", 8, 11)
    for a, b in (acc ^ merge_key).reshape(4, 2).tolist():
        product = a * b
        result += (product & MASK64) ^ (product >> 64)
    result &= MASK64
    result ^= result >> 37
    result = result * AVALANCHE & MASK64
    return result ^ result >> 32
