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
import spec_lz
from spec_base import must, xxh3


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
RAW, CONSTANT, RANS8, RANS12, PALETTE0 = range(5)
PALETTE4, LZ, LZ_WORDS = 8, 9, 10
STORED, SPARSE, PREDICTED = 1, 2, 4  # flags
MASK_BITS = 4
NOT_PACKED = (CONSTANT, 15)  # mask of a block that is not packed
NOTHING = (CONSTANT, 0)  # entry of a plane without symbols
# mantissa bits and planes of predicted types
PREDICTED_TYPES = {
    "float16": (10, (7, 8, 1)),
    "bfloat16": (7, (2, 8, 5, 1)),
    "float32": (23, (2, 8, 6, 8, 7, 1)),
}
FLOAT64_BIAS = 128 << 53


class Decoded(NamedTuple):
    """What a frame holds; ``raw`` is uint8 [decoded bytes], little-endian words in C order."""

    name: str
    shape: tuple[int, ...]
    raw: np.ndarray


class Model(NamedTuple):
    """Of a predicted frame; the offsets are int64 arrays."""

    n_columns: int
    tile_rows: int
    base: int
    rows: np.ndarray  # [n_rows]
    columns: np.ndarray  # [n_tiles, n_columns]
    row_factors: np.ndarray  # [n_rows, rank]
    column_factors: np.ndarray  # [rank, n_columns]
    sign: int = 1  # -1 takes the offsets off


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
    flags: int
    planes: tuple[int, ...]  # of the words, without mask and signs
    model: Model | None

    @property
    def stored(self) -> bool:
        return self.flags == STORED

    @property
    def sparse(self) -> bool:
        return bool(self.flags & SPARSE)


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
    if layout.entries[block][0][0] == LZ_WORDS:
        first, size = layout.payloads[block][0]
        must(not any(frame[first + size : first + align16(size)]), "padding of a payload")
        return spec_lz.decode(frame[first : first + size], n * kind.word_bytes)
    parts = zip(layout.entries[block], layout.payloads[block], strict=True)

    def next_plane(n_symbols: int, bits: int) -> np.ndarray:
        (coder, argument), (first, size) = next(parts)
        if n_symbols == 0:
            must((coder, argument) == NOTHING, "a plane without symbols is constant 0")
            return np.zeros(0, np.uint8)
        payload = frame[first : first + size]
        must(not any(frame[first + size : first + align16(size)]), "padding of a payload")
        return decode_plane(coder, argument, payload, n_symbols, bits)

    kept = np.ones(n, bool)
    if layout.sparse:
        packed = layout.entries[block][0] != NOT_PACKED
        mask = next_plane(-(-n // 4), MASK_BITS)
        if packed:
            bit = (mask[:, None] >> np.arange(MASK_BITS) & 1).reshape(-1)
            must(not bit[n:].any(), "bits of the mask beyond the block")
            kept = bit[:n] == 1
        is_float = kind.transform.startswith("rotate")
        signs = next_plane(int((~kept).sum()) if is_float else 0, 1)
    words = np.zeros(n, np.uint64)
    planes = [next_plane(int(kept.sum()), bits) for bits in layout.planes]
    words[kept] = merge_planes(kind, layout.planes, planes)
    if layout.sparse and is_float:
        words[~kept] = signs.astype(np.uint64) << np.uint64(8 * kind.word_bytes - 1)
    if layout.model is not None:
        words = add_offsets(layout.model, kind, words, block * layout.block_words)
    return words.astype(f"<u{kind.word_bytes}").tobytes()


# --- header and table ---------------------------------------------------------------------------


def read_layout(frame: bytes) -> Layout:
    must(len(frame) >= 40, "shorter than a header")
    magic, version, code, n_dims, block_log = struct.unpack("<4s4B", frame[:8])
    decoded_bytes, encoded_bytes, stored_hash, flags, model_bytes = struct.unpack(
        "<3Q2I", frame[8:40]
    )
    must(magic == b"gpcf", "magic")
    must(version == 1, "version")
    must(encoded_bytes == len(frame), "encoded_bytes differs from the input")
    must(code in TYPES, "dtype code")
    must(n_dims <= 64, "n_dims")
    must(6 <= block_log <= (17 if flags & (STORED | SPARSE) else 16), "block_log")
    must(flags <= 1 or not flags & ~(SPARSE | PREDICTED), "flags")
    must((model_bytes > 0) == bool(flags & PREDICTED), "size of the model")
    must(model_bytes % 16 == 0, "size of the model")
    kind = TYPES[code]
    planes = kind.planes
    if flags & PREDICTED:
        must(kind.name in PREDICTED_TYPES, "type of a predicted frame")
        planes = PREDICTED_TYPES[kind.name][1]

    at = 40 + 8 * n_dims
    must(at <= len(frame), "no room for the shape")
    shape = struct.unpack(f"<{n_dims}Q", frame[40:at])
    itemsize = kind.words * kind.word_bytes
    must(math.prod(d for d in shape if d) * itemsize < 1 << 63, "shape too large")
    n_words = math.prod(shape) * kind.words
    must(decoded_bytes == n_words * kind.word_bytes, "decoded_bytes disagrees with the shape")

    block_words = 1 << block_log
    n_blocks = -(-n_words // block_words)
    planes = () if flags == STORED else planes
    n_planes = len(planes) + (2 if flags & SPARSE else 0)
    table_end = align16(at + 8 * n_blocks + 4 * n_blocks * n_planes)
    first_payload = table_end + model_bytes
    must(first_payload <= len(frame), "no room for the table")
    head = frame[:24] + bytes(8) + frame[32:first_payload]
    must(xxh3(head) == stored_hash, "hash of header and table")

    hashes = list(struct.unpack_from(f"<{n_blocks}Q", frame, at))
    at += 8 * n_blocks
    flat = struct.unpack_from(f"<{n_blocks * n_planes}I", frame, at)
    at += 4 * n_blocks * n_planes
    must(not any(frame[at:table_end]), "padding of the table")
    model = None
    if flags & PREDICTED:
        model = read_model(frame[table_end:first_payload], n_words)

    entries, payloads, at = [], [], first_payload
    for block in range(n_blocks):
        row = [(e >> 24, e & 0xFFFFFF) for e in flat[block * n_planes : (block + 1) * n_planes]]
        places = []
        for p, (coder, argument) in enumerate(row):
            must(coder <= LZ_WORDS, "coder")
            must(coder < LZ or not flags, "LZ in a sparse or predicted frame")
            must(coder != LZ or kind.planes[p] == 8, "LZ of a narrow plane")
            if coder == LZ_WORDS:
                must(n_planes > 1 and p == 0, "LZ of words as a plane")
                must(row[1:] == [(CONSTANT, 0)] * (n_planes - 1), "planes beside LZ of words")
            size = 0 if coder == CONSTANT else argument
            places.append((at, size))
            at += align16(size)
        entries.append(row)
        payloads.append(places)
    if flags == STORED:
        at += decoded_bytes
    must(at == len(frame), "payload sizes disagree with encoded_bytes")
    return Layout(
        *(kind, shape, block_words, n_words, hashes, entries, payloads, first_payload, flags),
        *(planes, model),
    )


def read_model(section: bytes, n_words: int) -> Model:
    must(len(section) >= 16 + 40, "no room for the model")
    n_columns, tile_rows, base, rank = struct.unpack("<IIhB", section[:11])
    must(not any(section[11:16]), "reserved bytes of the model")
    must(32 <= n_columns <= 1 << 15, "columns of the model")
    must(n_words > 0 and n_words % n_columns == 0, "columns of the model")
    n_rows = n_words // n_columns
    must(1 <= tile_rows <= n_rows, "rows of a tile")
    must(rank <= 16, "rank")
    n_tiles = -(-n_rows // tile_rows)
    sizes = [n_rows, n_tiles * n_columns, n_rows * rank, rank * n_columns]
    must(sum(sizes) <= n_words, "more offsets than words")
    [size] = struct.unpack("<Q", section[32:40])  # encoded_bytes of the offsets' frame
    must(0 <= len(section) - 16 - size < 16, "size of the offsets' frame")
    must(not any(section[16 + size :]), "padding of the model")
    offsets = decode(section[16 : 16 + size])
    must((offsets.name, offsets.shape) == ("uint8", (sum(sizes),)), "the offsets' frame")
    parts = np.split(offsets.raw.view(np.int8).astype(np.int64), np.cumsum(sizes)[:-1])
    rows, columns, row_factors, column_factors = parts
    return Model(
        *(n_columns, tile_rows, base, rows, columns.reshape(n_tiles, n_columns)),
        *(row_factors.reshape(n_rows, rank), column_factors.reshape(rank, n_columns)),
    )


def add_offsets(model: Model, kind: Type, words: np.ndarray, first: int) -> np.ndarray:
    """Words number `first` ... of a predicted frame, with their offsets added back."""
    i, j = np.divmod(first + np.arange(len(words)), model.n_columns)
    p = (model.row_factors[i] * model.column_factors[:, j].T).sum(axis=1)
    p = (p + (1 << 15)) % (1 << 16) - (1 << 15)
    columns = model.columns[i // model.tile_rows, j]
    offset = model.sign * (model.base + 8 * (model.rows[i] + columns) + (p >> 1))
    whole = 1 << (8 * kind.word_bytes - 1)
    d = (offset << (PREDICTED_TYPES[kind.name][0] - 6)) % whole
    x = words.astype(np.int64)
    m = x % whole
    moved = np.where((m + d) % whole == 0, d, (m + d) % whole)
    return (np.where(m == 0, 0, moved) + x - m).astype(np.uint64)


# --- planes -------------------------------------------------------------------------------------


def merge_planes(kind: Type, widths: tuple[int, ...], planes: list[np.ndarray]) -> np.ndarray:
    """Bit fields, most significant first, back to words (uint64)."""
    word = np.zeros(len(planes[0]), np.uint64)
    for bits, symbols in zip(widths, planes, strict=True):
        word = word << np.uint64(bits) | symbols.astype(np.uint64)
    x = inverse_transform(kind.transform, word, 8 * kind.word_bytes)
    return x & np.uint64((1 << 8 * kind.word_bytes) - 1)


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
    if coder == LZ:
        return np.frombuffer(spec_lz.decode(payload, n), np.uint8)
    if coder >= PALETTE0:
        return decode_palette(payload, n, bits, coder - PALETTE0)
    return decode_rans(payload, n, bits, 8 if coder == RANS8 else 12)


def decode_raw(payload: bytes, n: int, bits: int) -> np.ndarray:
    if bits == 8:
        must(len(payload) == n, "size of a raw payload")
        return np.frombuffer(payload, np.uint8)
    must(len(payload) == 8 * bits * -(-n // 64), "size of a raw payload")
    return decode_bit_rows(payload, n, bits)


def decode_bit_rows(payload: bytes, n: int, bits: int) -> np.ndarray:
    n_rows = -(-n // 64)
    words = np.frombuffer(payload, "<u8").reshape(n_rows, bits)
    bit = words[:, :, None] >> np.arange(64, dtype=np.uint64) & np.uint64(1)  # [row, j, k]
    weight = np.uint64(1) << np.arange(bits, dtype=np.uint64)
    symbols = (bit * weight[None, :, None]).sum(axis=1).astype(np.uint8).reshape(-1)
    must(not symbols[n:].any(), "bits beyond the last symbol")
    return symbols[:n]


def decode_palette(payload: bytes, n: int, bits: int, code_bits: int) -> np.ndarray:
    must(code_bits < bits, "a code as wide as its plane")
    whole, at = 1 << bits, 8 * code_bits * -(-n // 64)
    n_patches, rest = divmod(len(payload) - at - 1, 3)
    must(n_patches >= 0 and rest == 0, "size of a palette payload")
    must(n_patches < n, "number of patches")
    base = payload[-1]
    must(base < whole, "base does not fit its plane")
    codes = np.zeros(n, np.int64)
    if code_bits:
        codes = decode_bit_rows(payload[:at], n, code_bits).astype(np.int64)
    positions = np.frombuffer(payload, "<u2", n_patches, at).astype(np.int64)
    patches = np.frombuffer(payload, np.uint8, n_patches, at + 2 * n_patches).astype(int)
    must(bool((np.diff(positions) > 0).all()), "order of patches")
    must(not n_patches or positions[-1] < n, "patch position")
    must(bool((patches < whole).all()), "patch symbol does not fit its plane")
    must(bool(((patches - base) % whole >= 1 << code_bits).all()), "patch symbol in the window")
    must(not codes[positions].any(), "code at a patch position")
    symbols = ((base + codes) % whole).astype(np.uint8)
    symbols[positions] = patches
    return symbols


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
