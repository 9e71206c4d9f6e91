# SPDX-License-Identifier: Apache-2.0
"""A decoder written from docs/format.md alone, to be read beside it.

It needs only NumPy, shares no code with gpucodec and checks every "must" of the document. It is
slow. The tests use it as the oracle: what it accepts, gpucodec must decode to the same bytes, and
what it refuses, gpucodec must refuse.
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import numpy as np


class Refused(ValueError):
    """The frame breaks a "must" of the document."""


class Type(NamedTuple):
    name: str
    word_bytes: int
    words: int
    transform: str
    planes: tuple[int, ...]


FLOAT64_PLANES = (3, 8, 5, 8, 8, 8, 8, 8, 8)
TYPES = {
    1: Type("uint8", 1, 1, "plain", (8,)),
    2: Type("int8", 1, 1, "plain", (8,)),
    3: Type("uint16", 2, 1, "plain", (8,) * 2),
    4: Type("int16", 2, 1, "zigzag", (8,) * 2),
    5: Type("uint32", 4, 1, "plain", (8,) * 4),
    6: Type("int32", 4, 1, "zigzag", (8,) * 4),
    7: Type("uint64", 8, 1, "plain", (8,) * 8),
    8: Type("int64", 8, 1, "zigzag", (8,) * 8),
    9: Type("bool", 1, 1, "plain", (8,)),
    10: Type("float16", 2, 1, "rotate", (8,) * 2),
    11: Type("bfloat16", 2, 1, "rotate", (8,) * 2),
    12: Type("float32", 4, 1, "rotate", (8,) * 4),
    13: Type("float64", 8, 1, "rotate+bias", FLOAT64_PLANES),
    14: Type("float8_e4m3fn", 1, 1, "plain", (8,)),
    15: Type("float8_e5m2", 1, 1, "plain", (8,)),
    16: Type("complex64", 4, 2, "rotate", (8,) * 4),
    17: Type("complex128", 8, 2, "rotate+bias", FLOAT64_PLANES),
    18: Type("float8_e4m3fnuz", 1, 1, "plain", (8,)),
    19: Type("float8_e5m2fnuz", 1, 1, "plain", (8,)),
    20: Type("float8_e8m0fnu", 1, 1, "plain", (8,)),
}
RAW, CONSTANT, RANS8, RANS12 = range(4)
FLOAT64_BIAS = 128 << 53


class Decoded(NamedTuple):
    """What a frame holds; ``raw`` is uint8 [decoded bytes], little-endian words in C order."""

    name: str
    shape: tuple[int, ...]
    raw: np.ndarray


class Layout(NamedTuple):
    """Where things are in a frame whose header and table have been checked."""

    type: Type
    shape: tuple[int, ...]
    block_words: int
    n_words: int
    hashes: list[int]
    entries: list[list[tuple[int, int]]]  # [block][plane]: coder, argument
    payloads: list[list[tuple[int, int]]]  # [block][plane]: first byte, number of bytes
    start: int  # where the payloads start
    stored: bool


def must(condition: bool, what: str) -> None:
    if not condition:
        raise Refused(what)


def align16(x: int) -> int:
    return (x + 15) // 16 * 16


def decode(frame: bytes) -> Decoded:
    """Decode one frame, or a container of frames; raises `Refused`."""
    if frame[:4] == b"gpcq":
        import spec_quantized  # which decodes the frames inside with this module

        return spec_quantized.decode(frame)
    layout = read_layout(frame)
    blocks = []
    for block, stored_hash in enumerate(layout.hashes):
        raw = decode_block(frame, layout, block)
        must(xxh3(raw) == stored_hash, f"hash of block {block}")
        blocks.append(np.frombuffer(raw, np.uint8))
    return Decoded(layout.type.name, layout.shape, np.concatenate([np.zeros(0, np.uint8), *blocks]))


def decode_block(frame: bytes, layout: Layout, block: int) -> bytes:
    """The words of one block; its hash is not looked at."""
    kind = layout.type
    n = min(layout.block_words, layout.n_words - block * layout.block_words)
    if layout.stored:
        first = layout.start + block * layout.block_words * kind.word_bytes
        return frame[first : first + n * kind.word_bytes]
    planes = []
    for bits, (coder, argument), (first, size) in zip(
        kind.planes, layout.entries[block], layout.payloads[block], strict=True
    ):
        payload = frame[first : first + size]
        must(not any(frame[first + size : first + align16(size)]), "padding of a payload")
        planes.append(decode_plane(coder, argument, payload, n, bits))
    return merge_planes(kind, planes)


# --- header and table ---------------------------------------------------------------------------


def read_layout(frame: bytes) -> Layout:
    must(len(frame) >= 40, "shorter than a header")
    magic, version, code, n_dims, block_log = struct.unpack("<4s4B", frame[:8])
    decoded_bytes, encoded_bytes, stored_hash, flags, reserved = struct.unpack("<3Q2I", frame[8:40])
    must(magic == b"gpcf", "magic")
    must(version == 1, "version")
    must(encoded_bytes == len(frame), "encoded_bytes differs from the input")
    must(code in TYPES, "dtype code")
    must(n_dims <= 64, "n_dims")
    must(6 <= block_log <= 16, "block_log")
    must(flags <= 1, "flags")
    must(reserved == 0, "reserved field")
    kind = TYPES[code]

    at = 40 + 8 * n_dims
    must(at <= len(frame), "no room for the shape")
    shape = struct.unpack(f"<{n_dims}Q", frame[40:at])
    itemsize = kind.words * kind.word_bytes
    must(math.prod(d for d in shape if d) * itemsize < 1 << 63, "shape too large")
    n_words = math.prod(shape) * kind.words
    must(decoded_bytes == n_words * kind.word_bytes, "decoded_bytes disagrees with the shape")

    block_words = 1 << block_log
    n_blocks = -(-n_words // block_words)
    n_planes = 0 if flags else len(kind.planes)
    first_payload = align16(at + 8 * n_blocks + 4 * n_blocks * n_planes)
    must(first_payload <= len(frame), "no room for the table")
    head = frame[:24] + bytes(8) + frame[32:first_payload]
    must(xxh3(head) == stored_hash, "hash of header and table")

    hashes = list(struct.unpack_from(f"<{n_blocks}Q", frame, at))
    at += 8 * n_blocks
    flat = struct.unpack_from(f"<{n_blocks * n_planes}I", frame, at)
    at += 4 * n_blocks * n_planes
    must(not any(frame[at:first_payload]), "padding of the table")

    entries, payloads, at = [], [], first_payload
    for block in range(n_blocks):
        row = [(e >> 24, e & 0xFFFFFF) for e in flat[block * n_planes : (block + 1) * n_planes]]
        places = []
        for coder, argument in row:
            must(coder <= RANS12, "coder")
            size = 0 if coder == CONSTANT else argument
            places.append((at, size))
            at += align16(size)
        entries.append(row)
        payloads.append(places)
    if flags:
        at += decoded_bytes
    must(at == len(frame), "payload sizes disagree with encoded_bytes")
    return Layout(
        *(kind, shape, block_words, n_words, hashes, entries, payloads, first_payload, flags == 1)
    )


# --- planes -------------------------------------------------------------------------------------


def merge_planes(kind: Type, planes: list[np.ndarray]) -> bytes:
    """Bit fields, most significant first, back to little-endian words."""
    word = np.zeros(len(planes[0]), np.uint64)
    for bits, symbols in zip(kind.planes, planes, strict=True):
        word = word << np.uint64(bits) | symbols.astype(np.uint64)
    x = inverse_transform(kind.transform, word, 8 * kind.word_bytes)
    return x.astype(f"<u{kind.word_bytes}").tobytes()


def inverse_transform(transform: str, y: np.ndarray, width: int) -> np.ndarray:
    one, top = np.uint64(1), np.uint64(width - 1)
    if transform == "rotate+bias":
        y = y - np.uint64(FLOAT64_BIAS)
    if transform.startswith("rotate"):
        return y >> one | (y & one) << top
    if transform == "zigzag":
        return y >> one ^ (np.uint64(0) - (y & one))
    return y


def decode_plane(coder: int, argument: int, payload: bytes, n: int, bits: int) -> np.ndarray:
    """uint8 [n] symbols of one plane of one block."""
    if coder == CONSTANT:
        must(argument < 1 << bits, "constant does not fit its plane")
        return np.full(n, argument, np.uint8)
    if coder == RAW:
        return decode_raw(payload, n, bits)
    return decode_rans(payload, n, bits, 8 if coder == RANS8 else 12)


def decode_raw(payload: bytes, n: int, bits: int) -> np.ndarray:
    if bits == 8:
        must(len(payload) == n, "size of a raw payload")
        return np.frombuffer(payload, np.uint8)
    n_rows = -(-n // 64)
    must(len(payload) == 8 * bits * n_rows, "size of a raw payload")
    words = np.frombuffer(payload, "<u8").reshape(n_rows, bits)
    bit = words[:, :, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)  # [row, j, k]
    weight = np.uint64(1) << np.arange(bits, dtype=np.uint64)
    symbols = (bit * weight[None, :, None]).sum(axis=1).astype(np.uint8).reshape(-1)
    must(not symbols[n:].any(), "bits beyond the last symbol")
    return symbols[:n]


# --- rANS ---------------------------------------------------------------------------------------


def table_bytes(n_symbols: int, p: int, width: int) -> int:
    """Bytes of a table, with its padding to an even number."""
    size = 2 * n_symbols if p == 8 else 32 + (width * n_symbols + 7) // 8
    return size + size % 2


def read_table(
    table: bytes, n_symbols: int, p: int, width: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """Symbols and frequencies, int64 [n_symbols] each, and where among them the filler is."""
    if p == 8:
        both = np.frombuffer(table, np.uint8).astype(np.int64)
        freq = both[n_symbols:]
        must(freq.min() >= 1 and freq.sum() == 1 << p, "frequencies")
        return both[:n_symbols], freq, int(freq.argmax())  # the first of equals
    symbols = np.flatnonzero(np.unpackbits(np.frombuffer(table[:32], np.uint8), bitorder="little"))
    must(len(symbols) == n_symbols, "bits of the bitmap")
    bit = np.unpackbits(np.frombuffer(table[32:], np.uint8), bitorder="little").astype(np.int64)
    must(not bit[width * n_symbols :].any(), "unused bits of a table")
    freq = (bit[: width * n_symbols].reshape(n_symbols, width) << np.arange(width)).sum(axis=1)
    must((freq == 0).sum() == 1, "one field is zero, the filler's")
    must(int(freq.max()).bit_length() == width, "width of the frequencies")
    filler = int(freq.argmin())
    freq[filler] = (1 << p) - freq.sum()
    must(freq.argmax() == filler, "the filler is the most frequent, the first of equals")
    return symbols.astype(np.int64), freq, filler


def decode_rans(payload: bytes, n: int, bits: int, p: int) -> np.ndarray:
    must(len(payload) >= 8, "size of a rANS payload")
    n_stream, n_patches, n_symbols, width = struct.unpack("<IHBB", payload[:8])
    n_symbols += 1
    must(width == 0 if p == 8 else 1 <= width <= 12, "width")
    must(2 <= n_symbols <= (32 if p == 8 else 256), "number of table symbols")
    stream_at = 8 + table_bytes(n_symbols, p, width)
    total = stream_at + 2 * n_stream + 128 + 3 * n_patches
    must(len(payload) == total, "size of a rANS payload")

    symbols, freq, filler = read_table(payload[8:stream_at], n_symbols, p, width)
    stream = np.frombuffer(payload, "<u2", n_stream, stream_at).astype(np.uint64)
    at = stream_at + 2 * n_stream
    x = np.frombuffer(payload, "<u4", 32, at).astype(np.uint64)
    positions = np.frombuffer(payload, "<u2", n_patches, at + 128).astype(np.int64)
    patches = np.frombuffer(payload, np.uint8, n_patches, at + 128 + 2 * n_patches)

    n_rows = (n - 1) // 64
    tail = n - 64 * n_rows
    must(bool((np.diff(symbols) > 0).all()), "order of table symbols")
    must(symbols[-1] < 1 << bits, "table symbol does not fit its plane")
    must(bool((x >= 1 << 16).all()), "initial state")
    must(bool((np.diff(positions) > 0).all()), "order of patches")
    must(not n_patches or positions[-1] < 64 * n_rows, "patch position")
    must(bool((patches < 1 << bits).all()), "patch symbol does not fit its plane")

    owner = np.repeat(np.arange(n_symbols), freq)  # slot -> index in the table
    start = np.cumsum(freq) - freq
    used = 0

    def step() -> np.ndarray:
        nonlocal x
        slot = (x & np.uint64((1 << p) - 1)).astype(np.int64)
        i = owner[slot]
        offset = (slot - start[i]).astype(np.uint64)
        x = freq[i].astype(np.uint64) * (x >> np.uint64(p)) + offset
        return symbols[i]

    def renormalise() -> None:
        nonlocal x, used
        low = x < 1 << 16
        count = int(low.sum())
        must(used + count <= n_stream, "stream runs out")
        x[low] = x[low] << np.uint64(16) | stream[used : used + count]  # lanes in ascending order
        used += count

    rows = np.empty((n_rows, 32, 2), np.uint8)
    for row in rows:
        for k in range(2):
            row[:, k] = step()
            if p == 12 or k == 1:
                renormalise()
    must(used == n_stream, "stream left over")

    rest = x - np.uint64(1 << 16)
    must(bool((x < 1 << 17).all()), "final state")
    ends = np.stack([rest & np.uint64(255), rest >> np.uint64(8)], axis=1).reshape(64)
    must(bool((ends < 1 << bits).all()), "tail symbol does not fit its plane")
    must(not ends[tail:].any(), "symbols beyond the tail")

    out = np.concatenate([rows.reshape(-1), ends[:tail].astype(np.uint8)])
    must(bool((out[positions] == symbols[filler]).all()), "patch over a symbol not the filler")
    must(bool((patches != symbols[filler]).all()), "patch symbol is the filler")
    out[positions] = patches
    return out


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
