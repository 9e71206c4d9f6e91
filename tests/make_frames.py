# SPDX-License-Identifier: Apache-2.0
"""Valid frames that gpucodec's encoder would never write, from an encoder of the document's text.

It shares no code with gpucodec. Coders, tables, patches and block sizes are drawn at random, so
that a decoder meets every feature of docs/format.md and not only the useful ones. The tests use
the frames as they are (test_spec) and as seeds of mutation.

    python tests/make_frames.py FOLDER [COUNT]     writes COUNT frames, a seed corpus for a fuzzer
"""

from __future__ import annotations

import math
import struct
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import make_lz
import numpy as np
import spec_decoder as spec
import xxhash

Coded = tuple[int, int, bytes]  # coder, argument, payload
Choose = Callable[[np.ndarray, int], Coded]  # of symbols and their bits
CODES = {kind.name: code for code, kind in spec.TYPES.items()}


class Made(NamedTuple):
    """A frame and what it must decode to."""

    label: str
    frame: bytes
    name: str
    shape: tuple[int, ...]
    raw: bytes

    def __repr__(self) -> str:
        return self.label


def padded_hash(data: bytes | memoryview) -> int:
    """`H` of the document, by the xxhash package: fast enough for 10^5 mutants."""
    size = max(256, len(data) + 63 & ~63)
    return xxhash.xxh3_64_intdigest(bytes(data) + bytes(size - len(data)))


# --- coders -------------------------------------------------------------------------------------


def raw(symbols: np.ndarray, bits: int) -> Coded:
    payload = symbols.astype(np.uint8).tobytes() if bits == 8 else bit_rows(symbols, bits)
    return spec.RAW, len(payload), payload


def bit_rows(symbols: np.ndarray, bits: int) -> bytes:
    """Rows of ``bits`` words, bit ``j`` of 64 symbols each."""
    rows = np.zeros((-(-len(symbols) // 64), 64), np.uint64)
    rows.reshape(-1)[: len(symbols)] = symbols
    lanes = np.arange(64, dtype=np.uint64)
    words = [(rows >> np.uint64(j) & np.uint64(1)) << lanes for j in range(bits)]
    return np.stack([w.sum(axis=1, dtype=np.uint64) for w in words], axis=1).tobytes()


def palette(symbols: np.ndarray, bits: int, code_bits: int, base: int) -> Coded:
    """Code with a window that holds at least one of the symbols; others become patches."""
    codes = (symbols.astype(np.int64) - base) % (1 << bits)
    positions = np.flatnonzero(codes >= 1 << code_bits)
    assert len(positions) < len(symbols)
    codes[positions] = 0
    payload = bit_rows(codes.astype(np.uint64), code_bits) if code_bits else b""
    payload += positions.astype("<u2").tobytes() + symbols[positions].astype(np.uint8).tobytes()
    payload += bytes([base])
    return spec.PALETTE0 + code_bits, len(payload), payload


def constant(symbols: np.ndarray, bits: int) -> Coded:
    assert (symbols == symbols[0]).all() and symbols[0] < 1 << bits
    return spec.CONSTANT, int(symbols[0]), b""


def rans(symbols: np.ndarray, p: int, table: dict[int, int]) -> Coded:
    """Code with ``table`` (symbol -> frequency); symbols that are not in it become patches."""
    names = np.array(sorted(table), np.int64)
    freq = np.array([table[int(s)] for s in names], np.uint64)
    assert freq.sum() == 1 << p and freq.min() >= 1, table
    start = np.cumsum(freq) - freq
    n_rows = (len(symbols) - 1) // 64
    body = symbols[: 64 * n_rows].astype(np.int64)
    tail = np.zeros(64, np.uint64)
    tail[: len(symbols) - 64 * n_rows] = symbols[64 * n_rows :]

    index = np.full(256, -1)
    index[names] = np.arange(len(names))
    coded = index[body]
    positions = np.flatnonzero(coded < 0)
    coded[positions] = freq.argmax()  # the filler

    x = np.uint64(1 << 16) + tail[0::2] + (tail[1::2] << np.uint64(8))
    words: list[np.ndarray] = []  # last first

    def put_out(limit: np.ndarray) -> None:
        nonlocal x
        high = x >= limit
        words.append((x[high] & np.uint64(0xFFFF)).astype("<u2"))
        x = np.where(high, x >> np.uint64(16), x)

    for row in coded.reshape(n_rows, 32, 2)[::-1]:
        pair = freq[row]
        if p == 8:
            put_out((pair[:, 0] * pair[:, 1]) << np.uint64(16))
        for k in (1, 0):
            f = pair[:, k]
            if p == 12:
                put_out(f << np.uint64(20))
            q = x // f
            x = (q << np.uint64(p)) + (x - q * f) + start[row[:, k]]

    stream = np.concatenate([np.zeros(0, "<u2"), *words[::-1]])
    width = table_width(freq, p)
    payload = struct.pack("<IHBB", len(stream), len(positions), len(names) - 1, width)
    payload += table_bytes(names, freq, p, width)
    payload += stream.tobytes() + x.astype("<u4").tobytes()
    payload += positions.astype("<u2").tobytes() + body[positions].astype(np.uint8).tobytes()
    return (spec.RANS8 if p == 8 else spec.RANS12), len(payload), payload


def table_width(freq: np.ndarray, p: int) -> int:
    """The bits of a frequency: what the largest needs, save for the filler's."""
    return 0 if p == 8 else int(np.delete(freq, freq.argmax()).max(initial=0)).bit_length()


def table_bytes(symbols: np.ndarray, freq: np.ndarray, p: int, width: int) -> bytes:
    """The table as it stands in a payload; values that do not fit lose their high bits."""
    if p == 8:
        return symbols.astype(np.uint8).tobytes() + freq.astype(np.uint8).tobytes()
    bitmap = np.zeros(256, np.uint8)
    bitmap[symbols.astype(np.uint8)] = 1
    fields = freq.astype(np.int64)
    fields[fields.argmax()] = 0  # the filler's
    bit = fields[:, None] >> np.arange(width) & 1
    table = np.packbits(bitmap, bitorder="little").tobytes()
    table += np.packbits(bit.astype(np.uint8).reshape(-1), bitorder="little").tobytes()
    return table + bytes(len(table) % 2)


# --- tables -------------------------------------------------------------------------------------


def random_table(
    rng: np.random.Generator, symbols: np.ndarray, bits: int, p: int, style: str
) -> dict[int, int]:
    """symbol -> frequency, of symbols that occur; frequencies sum to 2^p.

    ``fair`` follows the counts, ``random`` ignores them, ``few`` leaves most symbols to patches,
    ``unused`` lists symbols that never occur.
    """
    most = min(32 if p == 8 else 256, 1 << bits)
    present, counts = np.unique(symbols[: (len(symbols) - 1) // 64 * 64], return_counts=True)
    keep = present[np.argsort(-counts, kind="stable")][:most]
    if style == "few":
        keep = keep[: rng.integers(2, 5)]
    absent = rng.permutation(np.setdiff1d(np.arange(1 << bits), present))
    n_absent = max(2 - len(keep), int(rng.integers(1, 9)) if style == "unused" else 0)
    keep = np.append(keep, absent[:n_absent])[-most:]
    weight = rng.random(len(keep)) ** 3 + 1e-3
    if style == "fair":
        weight = np.array([1 + (symbols == s).sum() for s in keep], float)
    spare = (1 << p) - len(keep)
    freq = 1 + (weight / weight.sum() * spare).astype(np.int64)
    freq[freq.argmax()] += (1 << p) - freq.sum()
    return dict(zip(keep.tolist(), freq.tolist(), strict=True))


STYLES = ("fair", "random", "few", "unused")


def any_coder(
    rng: np.random.Generator, symbols: np.ndarray, bits: int, *, exact: bool = False
) -> Coded:
    """One of rANS, raw and constant that can hold these symbols, at random and however wasteful.

    ``exact`` asks for tables of symbols that occur, as the document does of encoders: then every
    bit of the payload matters. (A palette of equal symbols is exact too, but a run of zeros over
    codes and base can make another of the same symbols.)
    """
    choice = rng.integers(0, 12)
    if choice >= 8 and not (exact and (symbols == symbols[0]).all()):
        code_bits = int(rng.integers(0, min(5, bits)))
        inside = int(symbols[rng.integers(0, len(symbols))])
        base = (inside - int(rng.integers(0, 1 << code_bits))) % (1 << bits)
        return palette(symbols, bits, code_bits, base)
    if exact:
        coded = symbols[: (len(symbols) - 1) // 64 * 64]
        if len(np.unique(coded)) < 2:
            same = (symbols == symbols[0]).all() and choice % 2
            return constant(symbols, bits) if same else raw(symbols, bits)
    if choice == 0:
        return raw(symbols, bits)
    if choice <= 2 and (symbols == symbols[0]).all():
        return constant(symbols, bits)
    p = 8 if choice % 2 else 12
    style = STYLES[rng.integers(0, len(STYLES) - exact)]
    return rans(symbols, p, random_table(rng, symbols, bits, p, style))


def by_lz(
    rng: np.random.Generator, choose: Choose, *, exact: bool = False
) -> tuple[Choose, Callable[[bytes], bytes | None]]:
    """`choose` with LZ for some planes, and for some blocks as a whole."""

    def plane(symbols: np.ndarray, bits: int) -> Coded:
        if bits < 8 or rng.random() < 0.5:
            return choose(symbols, bits)
        payload = make_lz.encode(rng, symbols.tobytes(), exact=exact)
        return spec.LZ, len(payload), payload

    def block(words: bytes) -> bytes | None:
        return make_lz.encode(rng, words, exact=exact) if rng.random() < 0.4 else None

    return plane, block


# --- frames -------------------------------------------------------------------------------------


def transform(kind: spec.Type, words: np.ndarray) -> np.ndarray:
    """uint64 [n] words -> uint64 [n] transformed words."""
    width = np.uint64(8 * kind.word_bytes)
    one, top = np.uint64(1), width - np.uint64(1)
    mask = np.uint64((1 << int(width)) - 1)
    if kind.transform == "zigzag":
        return (words << one ^ (np.uint64(0) - (words >> top))) & mask
    if kind.transform.startswith("rotate"):
        words = (words << one | words >> top) & mask
    if kind.transform == "rotate+bias":
        words = words + np.uint64(spec.FLOAT64_BIAS)
    return words


Choose = Callable[[np.ndarray, int], Coded]  # codes symbols of so many bits
Keep = Callable[[np.ndarray], np.ndarray | None]  # of a block: which words; None: not packed


def build(
    name: str,
    shape: tuple[int, ...],
    data: bytes,
    block_log: int,
    choose: Choose | None,
    choose_block: Callable[[bytes], bytes | None] | None = None,
    *,
    keep: Keep | None = None,
    model: spec.Model | None = None,
) -> bytes:
    """A frame of ``data`` (little-endian, C order).

    ``choose`` codes each plane; None makes a stored frame. ``keep`` makes a sparse frame: it says
    which words of a block (uint64 [n]) are not left out, all of those that are not zero among them.
    ``model`` makes a predicted one. ``choose_block(words)`` may give an LZ payload for a block of
    several planes.
    """
    kind = spec.TYPES[CODES[name]]
    words = np.frombuffer(data, f"<u{kind.word_bytes}")
    assert len(words) == math.prod(shape) * kind.words
    size = 1 << block_log
    flags = spec.STORED if choose is None else 0
    section, widths = b"", kind.planes
    if choose is not None and model is not None:
        flags |= spec.PREDICTED
        section, widths = model_section(model, choose), spec.PREDICTED_TYPES[name][1]
    if choose is not None and keep is not None:
        flags |= spec.SPARSE
    hashes, entries, payloads = b"", b"", b""
    for first in range(0, len(words), size):
        block = words[first : first + size]
        hashes += struct.pack("<Q", padded_hash(block.tobytes()))
        if choose is None:
            continue
        whole = choose_block(block.tobytes()) if choose_block and len(kind.planes) > 1 else None
        if whole is not None:
            entries += struct.pack("<I", spec.LZ_WORDS << 24 | len(whole))
            entries += struct.pack("<I", spec.CONSTANT << 24) * (len(kind.planes) - 1)
            payloads += whole + bytes(-len(whole) % 16)
            continue
        moved = block.astype(np.uint64)
        if model is not None:
            moved = spec.add_offsets(negative(model), kind, moved, first)
        for symbols, bits in block_planes(kind, widths, moved, keep):
            coder, argument, payload = (*spec.NOTHING, b"")
            if symbols is None:
                coder, argument = spec.NOT_PACKED
            elif len(symbols):
                coder, argument, payload = choose(symbols.astype(np.uint8), bits)
            entries += struct.pack("<I", coder << 24 | argument)
            payloads += payload + bytes(-len(payload) % 16)
    if choose is None:
        payloads = data
    table = struct.pack(f"<{len(shape)}Q", *shape) + hashes + entries
    table += bytes(-(40 + len(table)) % 16) + section
    total = 40 + len(table) + len(payloads)
    head = struct.pack("<4s4B", b"gpcf", 1, CODES[name], len(shape), block_log)
    head += struct.pack("<3Q2I", len(data), total, 0, flags, len(section))
    return reseal(head + table + payloads, 40 + len(table))


def block_planes(
    kind: spec.Type, widths: tuple[int, ...], words: np.ndarray, keep: Keep | None
) -> Iterator[tuple[np.ndarray | None, int]]:
    """Symbols and width of each plane of a block's words (uint64), mask and signs first.

    The mask of a block that is not packed is None.
    """
    kept = None if keep is None else keep(words)
    if keep is not None and kept is None:
        yield None, spec.MASK_BITS
        yield words[:0], 1
    if kept is not None:
        bit = np.zeros(-(-len(words) // 4) * 4, np.uint8)
        bit[: len(words)] = kept
        yield (bit.reshape(-1, 4) << np.arange(4, dtype=np.uint8)).sum(axis=1), spec.MASK_BITS
        is_float = kind.transform.startswith("rotate")
        signs = words[~kept] >> np.uint64(8 * kind.word_bytes - 1)
        yield signs[: len(signs) if is_float else 0], 1
        words = words[kept]
    y, shift = transform(kind, words), 8 * kind.word_bytes
    for bits in widths:
        shift -= bits
        yield y >> np.uint64(shift) & np.uint64((1 << bits) - 1), bits


def is_zero(kind: spec.Type, words: np.ndarray) -> np.ndarray:
    """Which words (uint64) the document calls zero."""
    sign = 1 << (8 * kind.word_bytes - 1) if kind.transform.startswith("rotate") else 0
    return words & np.uint64((1 << 64) - 1 - sign) == 0


def negative(model: spec.Model) -> spec.Model:
    """A model whose offsets are those of `model`, negated: what is added when encoding."""
    return model._replace(sign=-1)


def model_section(model: spec.Model, choose: Choose) -> bytes:
    """The model as it stands in a frame; ``choose`` codes the offsets."""
    parts = model.rows, model.columns, model.row_factors, model.column_factors
    offsets = np.concatenate([part.reshape(-1) for part in parts]).astype(np.int8).tobytes()
    fields = model.n_columns, model.tile_rows, model.base, model.row_factors.shape[1]
    section = struct.pack("<IIhB5x", *fields)
    section += build("uint8", (len(offsets),), offsets, 8, choose)
    return section + bytes(-len(section) % 16)


def random_model(rng: np.random.Generator, n_rows: int, n_columns: int) -> spec.Model:
    """Any bytes are a valid model, if they are not more than the words."""
    tile_rows = int(rng.integers(min(2, n_rows), n_rows + 1))
    n_tiles = -(-n_rows // tile_rows)
    spare = n_rows * n_columns - n_rows - n_tiles * n_columns
    rank = int(rng.integers(0, min(16, spare // (n_rows + n_columns)) + 1))
    sizes = (n_rows,), (n_tiles, n_columns), (n_rows, rank), (rank, n_columns)
    spread = int(rng.integers(1, 129))
    arrays = [rng.integers(-spread, spread, size) for size in sizes]
    return spec.Model(n_columns, tile_rows, int(rng.integers(-(1 << 15), 1 << 15)), *arrays)


def reseal(frame: bytes, first_payload: int | None = None) -> bytes:
    """Write the right hash of header and table into a frame, whatever they say by now."""
    if first_payload is None:
        first_payload = payload_start(frame)
    head = frame[:24] + bytes(8) + frame[32:first_payload]
    return frame[:24] + struct.pack("<Q", padded_hash(head)) + frame[32:]


def payload_start(frame: bytes) -> int:
    """First payload according to the header as it stands, within the frame."""
    _, _, code, n_dims, block_log, decoded_bytes = struct.unpack("<4s4BQ", frame[:16])
    flags, model_bytes = struct.unpack("<2I", frame[32:40])
    kind = spec.TYPES.get(code, spec.TYPES[1])
    n_entries = len(kind.planes)
    if flags & spec.PREDICTED and kind.name in spec.PREDICTED_TYPES:
        n_entries = len(spec.PREDICTED_TYPES[kind.name][1])
    n_entries = 0 if flags & spec.STORED else n_entries + (2 if flags & spec.SPARSE else 0)
    n_blocks = -(-(decoded_bytes // kind.word_bytes) // (1 << block_log))
    table = spec.align16(40 + 8 * n_dims + n_blocks * (8 + 4 * n_entries))
    return min(table + model_bytes, len(frame))


# --- random content -----------------------------------------------------------------------------

CONTENTS = ("zero", "same", "two", "skewed", "normal", "noise", "mixed", "zeros")


def random_data(rng: np.random.Generator, kind: spec.Type, n_words: int, content: str) -> bytes:
    """``n_words`` little-endian words; every bit pattern is legal for every type."""
    width = kind.word_bytes
    noise = rng.integers(0, 256, (n_words, width), np.uint8)
    if content == "zero" or n_words == 0:
        return bytes(n_words * width)
    if content == "same":
        return noise[0].tobytes() * n_words
    if content == "two":
        return noise[rng.integers(0, min(2, n_words), n_words)].tobytes()
    if content == "skewed":
        steps = rng.geometric(rng.uniform(0.05, 0.9), (n_words, width))
        return np.minimum(steps, 255).astype(np.uint8).tobytes()
    if content == "normal":
        values = rng.normal(0, 0.02, n_words)
        if width == 1:
            return (values * 800).astype(np.int8).tobytes()
        if width == 2:  # bfloat16
            return (values.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
        return values.astype(f"<f{width}").tobytes()
    if content == "zeros":  # of either sign
        noise *= rng.random((n_words, 1)) < rng.random()
        noise[:, -1] |= 128 * (rng.random(n_words) < rng.integers(0, 2) * 0.5).astype(np.uint8)
    if content == "mixed":
        noise[: n_words // 2] = 7
        noise[n_words // 2 :, 0] %= 3
    return noise.tobytes()


def random_shape(rng: np.random.Generator, n: int) -> tuple[int, ...]:
    """A shape of about ``n`` elements, sometimes 0-d, empty or of very many dimensions."""
    style = rng.integers(0, 8)
    if style == 0:
        return (1,) * int(rng.integers(1, 65) * rng.integers(0, 2))
    if style == 1:
        shape = [int(rng.integers(0, 5)) for _ in range(rng.integers(1, 6))]
        return (*shape, 0)
    if style == 2:
        side = max(1, math.isqrt(n))
        return (side, 1, max(1, n // side))
    return (n,)


def random_keep(rng: np.random.Generator, kind: spec.Type, *, exact: bool) -> Keep:
    """Packs some blocks; unless ``exact``, some words that are zero are kept."""

    def keep(words: np.ndarray) -> np.ndarray | None:
        if rng.random() < 0.2:
            return None
        kept = ~is_zero(kind, words)
        return kept if exact or rng.random() < 0.7 else kept | (rng.random(len(kept)) < 0.2)

    return keep


def random_frame(
    rng: np.random.Generator,
    max_words: int = 1000,
    *,
    name: str | None = None,
    exact: bool = False,
    lz: bool = False,
) -> Made:
    kind = spec.TYPES[CODES[name] if name else int(rng.integers(1, 21))]
    block_log = int(rng.integers(6, 17)) if rng.random() < 0.3 else int(rng.integers(6, 9))
    n = int(rng.integers(1, max_words + 1)) if rng.random() < 0.7 else 64 * int(rng.integers(1, 6))
    shape = random_shape(rng, n + int(rng.integers(-1, 2)))
    content = CONTENTS[rng.integers(0, len(CONTENTS))]
    model, keep = None, None
    if kind.name in spec.PREDICTED_TYPES and rng.random() < 0.6:
        shape = (int(rng.integers(2, max(3, max_words // 32))), 32 + int(rng.integers(0, 9)))
        model = random_model(rng, *shape)
    if rng.random() < 0.3:
        keep = random_keep(rng, kind, exact=exact)
        content = "zeros" if rng.random() < 0.5 else content
    data = random_data(rng, kind, math.prod(shape) * kind.words, content)
    stored = rng.random() < 0.1

    def choose(symbols: np.ndarray, bits: int) -> Coded:
        return any_coder(rng, symbols, bits, exact=exact)

    if lz:
        frame = build(kind.name, shape, data, block_log, *by_lz(rng, choose, exact=exact))
        return Made(
            f"{kind.name}-{content}-{len(data)}B-log{block_log}-lz", frame, kind.name, shape, data
        )
    way = None if stored else choose
    frame = build(kind.name, shape, data, block_log, way, keep=keep, model=model)
    label = f"{kind.name}-{content}-{len(data)}B-log{block_log}"
    marks = ("stored",) if stored else ("sparse",) * bool(keep) + ("predicted",) * bool(model)
    return Made("-".join((label, *marks)), frame, kind.name, shape, data)


def random_frames(
    seed: int, count: int, max_words: int = 1000, *, lz: bool = False
) -> Iterator[Made]:
    for i in range(count):
        yield random_frame(np.random.default_rng([seed, i]), max_words, lz=lz)


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    for i, made in enumerate(random_frames(0, int(sys.argv[2]) if len(sys.argv) > 2 else 200)):
        (folder / f"{i:04}-{made.label}.gpcf").write_bytes(made.frame)
