# SPDX-License-Identifier: Apache-2.0
"""The codebooks of nf4 and dynamic8, and how the nearest entry is found.

Both are the maps of bitsandbytes, bit for bit. dynamic8 is symmetric about code 127, which is
zero, except that 1 (code 255) has no negative twin.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

NF4 = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
NF4_BOUNDS = (NF4[:-1] + NF4[1:]) / np.float32(2)

# Codes 128 ... 254, float32. Each decade from 1e-6 up holds twice as many values as the one below.
_POSITIVE = np.frombuffer(
    bytes.fromhex(
        "b7a31335941a5a36ff0502370642b23734803738b3ef8a384b1fba380bd7233905e78c3983e2c739"
        "016f013ac1ec1e3a806a3c3a3ee8593aff65773a9defa73afca9f13a2db21d3b5c8f423b8a6c673b"
        "dd24863b7493983b0d02ab3ba470bd3b3bdfcf3bd34de23b6abcf43b8195033ccdcc0c3c1804163c"
        "643b1f3c48e13a3cc3f5683c1f858b3c5d8fa23c9a99b93cd7a3d03c15aee73c52b8fe3c48e10a3d"
        "6766163d85eb213da3702d3dc3f5383de17a443d0000503d1f855b3d3d0a673d5d8f723d7b147e3d"
        "cdcc843d5d8f8a3deb51903d7b14963d0ad79b3d9a99a13d2a5ca73db81ead3d48e1b23dd7a3b83d"
        "6766be3df728c43d85ebc93d3433db3d0000f83d66660a3ecdcc183e3333273e9a99353e0000443e"
        "6666523ecdcc603e33336f3e99997d3e0000863e34338d3e6666943e9a999b3ecccca23e0000aa3e"
        "3333b13e6666b83e9a99bf3eccccc63e0000ce3e3333d53e6666dc3e9a99e33eccccea3e0000f23e"
        "3233f93e3333003fcccc033f6666073f00000b3f9a990e3f3433123fcdcc153f6666193f00001d3f"
        "9a99203f3433243fcdcc273f66662b3f00002f3f9a99323f3433363fcdcc393f66663d3f0000413f"
        "9a99443f3333483fcdcc4b3f66664f3f0000533f9a99563f33335a3fcdcc5d3f6666613f0000653f"
        "9a99683f33336c3fcdcc6f3f6666733f0000773f9a997a3f33337e3f"
    ),
    np.float32,
)
ZERO_CODE = 127
DYNAMIC8 = np.concatenate(
    [-_POSITIVE[::-1], np.zeros(1, np.float32), _POSITIVE, np.ones(1, np.float32)]
)
# As `lookups.lookup256` takes it: all lowest bytes, all second ones, and so on.
DYNAMIC8_PLANES = np.ascontiguousarray(DYNAMIC8.view(np.uint8).reshape(-1, 4).T)
# For decoding: the entries, and their planes.
DECODING = np.concatenate([DYNAMIC8.view(np.uint8), DYNAMIC8_PLANES.reshape(-1)])

# A magnitude's top bits number a bucket so narrow that at most one boundary lies in it.
BUCKET_SHIFT = 17  # exponent and six bits of mantissa
BUCKET_FIRST = 0x34800000 >> BUCKET_SHIFT  # 2^-22, below every boundary
N_BUCKETS = (0x3F800000 >> BUCKET_SHIFT) - BUCKET_FIRST + 1  # up to 1


def _buckets(boundaries: NDArray[np.float32]) -> NDArray[np.uint64]:
    """uint64[N_BUCKETS]: the bucket's boundary (float32 bits; all ones without one) in the low
    half, the number of boundaries below the bucket in the high half.
    """
    patterns = boundaries.view(np.uint32).astype(np.int64)
    first = (BUCKET_FIRST + np.arange(N_BUCKETS)) << BUCKET_SHIFT
    below = np.searchsorted(patterns, first)
    inside = np.searchsorted(patterns, first + (1 << BUCKET_SHIFT)) - below
    assert (inside <= 1).all()
    padded = np.append(patterns, 0xFFFFFFFF)
    boundary = np.where(inside == 1, padded[below], 0xFFFFFFFF)
    return boundary.astype(np.uint64) | (below.astype(np.uint64) << np.uint64(32))


_MAGNITUDES = DYNAMIC8[ZERO_CODE:]
NEAREST = _buckets((_MAGNITUDES[:-1] + _MAGNITUDES[1:]) / np.float32(2))
# For stochastic rounding: the entry not above the value, and behind the buckets the entries.
BELOW = np.concatenate(
    [_buckets(_MAGNITUDES[1:]), np.append(_MAGNITUDES, np.ones(3, np.float32)).view(np.uint64)]
)
