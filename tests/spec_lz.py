# SPDX-License-Identifier: Apache-2.0
"""A decoder of LZ payloads written from the format's description alone, the way a GPU decodes.

No copying in order, but a scan over the sequences, a source for every word, rounds of pointer
jumping, and one gather.
"""

from __future__ import annotations

import numpy as np
from spec_base import must, xxh3

LANES, ROW, SCALE = 32, 64, 4096
ROUNDS = 6  # of pointer jumping: words are at most 2^6 copies away from a literal
MAX_DEPTH = 1 << ROUNDS
HEADER = 16


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        must(0 <= n <= len(self.data) - self.at, "size of a payload")
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, n: int) -> int:
        return int.from_bytes(self.take(n), "little")


def read_table(reader: Reader) -> list[tuple[int, int, int]]:
    """(symbol, start, frequency) of each symbol."""
    first, last = reader.take(2)
    must(first < last, "order of table symbols")
    n = last - first + 1
    packed = reader.take((n + 1) // 2)
    widths = [packed[i // 2] >> 4 * (i % 2) & 15 for i in range(len(packed) * 2)]
    must(widths[0] and widths[n - 1] and not any(widths[n:]), "ends of a table")
    n_bits = sum(w - 1 for w in widths if w)
    bits = reader.number((n_bits + 7) // 8)
    table, start = [], 0
    for i, width in enumerate(widths[:n]):
        if width:
            f = 1 << (width - 1) | bits & ((1 << (width - 1)) - 1)
            bits >>= width - 1
            table.append((first + i, start, f))
            start += f
    must(start == SCALE and bits == 0, "frequencies")
    return table


def decode_streams(
    tables: list[list[tuple[int, int, int]]], counts: list[int], words: np.ndarray, x: np.ndarray
) -> list[np.ndarray]:
    """All coded streams in turn, from one set of states `x` (uint64), which end up changed."""
    used = 0
    found = []
    for table, n in zip(tables, counts, strict=True):
        symbols, starts, freqs = (np.array(column) for column in zip(*table, strict=True))
        owner = np.repeat(np.arange(len(table)), freqs)
        out = np.zeros(n, np.uint8)
        for first in range(0, n, ROW):
            for half in range(2):
                lanes = slice(len(out[first + half : first + ROW : 2]))
                slot = (x[lanes] % SCALE).astype(np.int64)
                i = owner[slot]
                out[first + half : first + ROW : 2] = symbols[i]
                offset = (slot - starts[i]).astype(np.uint64)
                y = freqs[i].astype(np.uint64) * (x[lanes] >> np.uint64(12)) + offset
                low = np.flatnonzero(y < 1 << 16)
                must(used + len(low) <= len(words), "words run out")
                y[low] = y[low] << np.uint64(16) | words[used : used + len(low)]
                used += len(low)
                x[lanes] = y
        found.append(out)
    must(used == len(words), "words left over")
    must((x >> np.uint64(16) == 1).all(), "final state")
    return found


def value_of(code: int, take) -> int:
    if code < 8:
        return code
    width = code // 4 - 1
    return (4 + code % 4 << width) + take(width)


def decode(payload: bytes, n_bytes: int, rounds: int = 16) -> bytes:
    """The block; `rounds` of pointer jumping must do."""
    reader = Reader(payload)
    check = reader.number(4)
    must(check == xxh3(payload[4:]) & 0xFFFFFFFF, "check of an LZ payload")
    flags, modes = reader.number(1), reader.number(3)
    w = 1 << (flags & 3)
    full = w << (modes >> 22)
    modes &= (1 << 22) - 1
    n_odd = flags >> 4
    must(
        full <= 8 and n_odd < full and n_odd <= n_bytes and (n_bytes - n_odd) % full == 0,
        "word size",
    )
    n = (n_bytes - n_odd) // full
    must(n <= 65536, "number of words")
    n_sequences, n_literals, n_words = reader.number(2), reader.number(2), reader.number(4)
    if n_sequences == 0 and n_literals == n % 65536:
        n_literals = n
    must(n_sequences + n_literals <= n, "number of sequences and literals")
    fill = bytes(w)
    if flags & 8:
        fill = reader.take(w)
        must(any(fill), "fill is zero")
    must(modes >> 2 * (w + 3) == 0, "modes of no stream")
    counts = [n_literals] * w + [n_sequences] * 3
    most = [255] * w + [59, 59, 61]
    streams: list = []
    coded = []
    for s, count in enumerate(counts):
        mode = modes >> 2 * s & 3
        must(mode < 3, "mode")
        if mode == 0:
            streams.append(list(reader.take(count)))
        elif mode == 1:
            streams.append(reader.take(1) * max(1, count))
        else:
            must(count >= 2, "a coded stream has two symbols")
            table = read_table(reader)
            must(table[-1][0] <= most[s], "table symbol")
            coded.append((s, table))
            streams.append([])
        must(max(streams[s], default=0) <= most[s], "symbol")
    extras = b""
    if coded:
        words = np.frombuffer(reader.take(2 * n_words), "<u2").astype(np.uint64)
        states = np.frombuffer(reader.take(4 * LANES), "<u4").astype(np.uint64)
        must((states >= 1 << 16).all(), "initial state")
        tables = [table for _, table in coded]
        sizes = [counts[s] for s, _ in coded]
        for (s, _), out in zip(coded, decode_streams(tables, sizes, words, states), strict=True):
            streams[s] = out.tolist()
        extras = (states & np.uint64(65535)).astype("<u2").tobytes()
    else:
        must(n_words == 0, "words without a coded stream")
    n_riders = len(extras)
    rest = len(payload) - reader.at - n_odd
    must(rest >= 0, "size of a payload")
    extras += reader.take(rest)
    odd = reader.take(n_odd)
    bits, used = int.from_bytes(extras, "little"), 0

    def take(width: int) -> int:
        nonlocal used
        value = bits >> used & ((1 << width) - 1)
        used += width
        return value

    # where each sequence's literals and match start: in parallel, a scan
    source = np.arange(n, dtype=np.int64)
    literal = np.full(n, -1, np.int64)
    filled = np.zeros(n, bool)
    at = n_used = 0
    distance = 1
    runs, lengths, steps = streams[w:]
    for run_code, length_code, step in zip(
        runs[:n_sequences], lengths[:n_sequences], steps[:n_sequences], strict=True
    ):
        run, length = value_of(run_code, take), value_of(length_code, take) + 1
        if step >= 2:
            distance = value_of(step - 2, take) + 1
        must(run <= n_literals - n_used and run + length <= n - at, "lengths")
        literal[at : at + run] = np.arange(n_used, n_used + run)
        at, n_used = at + run, n_used + run
        if step == 0:
            filled[at : at + length] = True
        else:
            must(distance <= at, "distance")
            source[at : at + length] = at - distance + np.arange(length) % distance
        at += length
    must(n_literals - n_used == n - at, "literals left over")
    literal[at:] = np.arange(n_used, n_literals)
    n_needed = (used + 7) // 8
    must(n_needed == len(extras) or n_needed < n_riders == len(extras), "extra bytes")
    must(bits >> used == 0, "unused bits")

    for _ in range(rounds):
        source = source[source]
    must((source[source] == source).all(), "depth")

    planes = np.array([np.resize(np.array(list(s), np.uint8), n_literals) for s in streams[:w]])
    words_of = np.zeros(n_literals, np.uint64)
    for plane in planes.reshape(w, n_literals):
        words_of = words_of << np.uint64(8) | plane
    words_of = words_of.astype(f"<u{w}")
    if flags & 4:
        words_of = words_of >> 1 | words_of << 8 * w - 1
    values = np.full(n, np.frombuffer(fill, f"<u{w}")[0])
    is_literal = literal >= 0
    values[is_literal] = words_of[literal[is_literal]]
    assert (is_literal | filled)[source].all()
    return values[source].astype(f"<u{full}").tobytes() + odd
