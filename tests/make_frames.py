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
    if bits == 8:
        payload = symbols.astype(np.uint8).tobytes()
    else:
        rows = np.zeros((-(-len(symbols) // 64), 64), np.uint64)
        rows.reshape(-1)[: len(symbols)] = symbols
        lanes = np.arange(64, dtype=np.uint64)
        words = [(rows >> np.uint64(j) & np.uint64(1)) << lanes for j in range(bits)]
        payload = np.stack([w.sum(axis=1, dtype=np.uint64) for w in words], axis=1).tobytes()
    return spec.RAW, len(payload), payload


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
    return 0 if p == 8 else int(np.delete(freq, freq.argmax()).max()).bit_length()


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
    bit of the payload matters.
    """
    choice = rng.integers(0, 8)
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


def build(
    name: str,
    shape: tuple[int, ...],
    data: bytes,
    block_log: int,
    choose: Choose | None,
    choose_block: Callable[[bytes], bytes | None] | None = None,
) -> bytes:
    """A frame of ``data`` (little-endian, C order).

    ``choose(symbols, bits)`` codes each plane; None makes a stored frame. ``choose_block(words)`` may
    give an LZ payload for a block of several planes.
    """
    kind = spec.TYPES[CODES[name]]
    words = np.frombuffer(data, f"<u{kind.word_bytes}")
    assert len(words) == math.prod(shape) * kind.words
    size = 1 << block_log
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
        y, shift = transform(kind, block.astype(np.uint64)), 8 * kind.word_bytes
        for bits in kind.planes:
            shift -= bits
            symbols = y >> np.uint64(shift) & np.uint64((1 << bits) - 1)
            coder, argument, payload = choose(symbols.astype(np.uint8), bits)
            entries += struct.pack("<I", coder << 24 | argument)
            payloads += payload + bytes(-len(payload) % 16)
    if choose is None:
        payloads = data
    table = struct.pack(f"<{len(shape)}Q", *shape) + hashes + entries
    table += bytes(-(40 + len(table)) % 16)
    total = 40 + len(table) + len(payloads)
    head = struct.pack("<4s4B", b"gpcf", 1, CODES[name], len(shape), block_log)
    head += struct.pack("<3Q2I", len(data), total, 0, choose is None, 0)
    return reseal(head + table + payloads, 40 + len(table))


def reseal(frame: bytes, first_payload: int | None = None) -> bytes:
    """Write the right hash of header and table into a frame, whatever they say by now."""
    if first_payload is None:
        first_payload = payload_start(frame)
    head = frame[:24] + bytes(8) + frame[32:first_payload]
    return frame[:24] + struct.pack("<Q", padded_hash(head)) + frame[32:]


def payload_start(frame: bytes) -> int:
    """First payload according to the header as it stands, within the frame."""
    _, _, code, n_dims, block_log, decoded_bytes = struct.unpack("<4s4BQ", frame[:16])
    kind = spec.TYPES.get(code, spec.TYPES[1])
    n_planes = 0 if frame[32] & 1 else len(kind.planes)
    n_blocks = -(-(decoded_bytes // kind.word_bytes) // (1 << block_log))
    return min(spec.align16(40 + 8 * n_dims + n_blocks * (8 + 4 * n_planes)), len(frame))


# --- random content -----------------------------------------------------------------------------

CONTENTS = ("zero", "same", "two", "skewed", "normal", "noise", "mixed")


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
    data = random_data(rng, kind, math.prod(shape) * kind.words, content)
    stored = rng.random() < 0.1

    def choose(symbols: np.ndarray, bits: int) -> Coded:
        return any_coder(rng, symbols, bits, exact=exact)

    if lz:
        frame = build(kind.name, shape, data, block_log, *by_lz(rng, choose, exact=exact))
    else:
        frame = build(kind.name, shape, data, block_log, None if stored else choose)
    label = f"{kind.name}-{content}-{len(data)}B-log{block_log}" + (
        "-lz" if lz else "-stored" * stored
    )
    return Made(label, frame, kind.name, shape, data)


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
