# SPDX-License-Identifier: Apache-2.0
"""A decoder of LZ payloads written from the format's description alone, the way a GPU decodes.

Entropy coding symbol by symbol; then no copying in order, but a scan over the sequences, a source
for every word, `ROUNDS` rounds of pointer jumping, and one gather.
"""

from __future__ import annotations

import numpy as np
import xxhash

LANES, ROW, SCALE = 32, 64, 4096
ROUNDS = 6  # of pointer jumping: words are at most 2^6 copies away from a literal
HEADER = 16


class BadPayload(Exception):
    pass


def must(condition: object) -> None:
    if not condition:
        raise BadPayload


def check_of(payload: bytes) -> int:
    rest = payload[4:]
    size = max(256, -(-len(rest) // 64) * 64)
    return xxhash.xxh3_64_intdigest(rest.ljust(size, b"\0")) & 0xFFFFFFFF


class Reader:
    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def take(self, n: int) -> bytes:
        must(0 <= n <= len(self.data) - self.at)
        self.at += n
        return self.data[self.at - n : self.at]

    def number(self, n: int) -> int:
        return int.from_bytes(self.take(n), "little")


def read_table(reader: Reader) -> list[tuple[int, int, int]]:
    """(symbol, start, frequency) of each symbol."""
    first, last = reader.take(2)
    must(first < last)
    n = last - first + 1
    packed = reader.take((n + 1) // 2)
    widths = [packed[i // 2] >> 4 * (i % 2) & 15 for i in range(len(packed) * 2)]
    must(widths[0] and widths[n - 1] and not any(widths[n:]))
    n_bits = sum(w - 1 for w in widths if w)
    bits = reader.number((n_bits + 7) // 8)
    table, start = [], 0
    for i, width in enumerate(widths[:n]):
        if width:
            f = 1 << (width - 1) | bits & ((1 << (width - 1)) - 1)
            bits >>= width - 1
            table.append((first + i, start, f))
            start += f
    must(start == SCALE and bits == 0)
    return table


def decode_streams(tables, counts, words, states):
    """All coded streams in turn, from one set of states."""
    words = iter(words)
    found = []
    for table, n in zip(tables, counts, strict=True):
        owner = [entry for entry in table for _ in range(entry[2])]
        out = [0] * n
        for row in range(0, n, ROW):
            for j in range(2):
                for lane in range(LANES):
                    i = row + 2 * lane + j
                    if i >= n:
                        continue
                    x = states[lane]
                    symbol, start, f = owner[x % SCALE]
                    out[i] = symbol
                    x = f * (x >> 12) + x % SCALE - start
                    if x < 1 << 16:
                        word = next(words, None)
                        must(word is not None)
                        x = x << 16 | word
                    states[lane] = x
        found.append(out)
    must(next(words, None) is None)
    must(all(x >> 16 == 1 for x in states))
    return found


def value_of(code: int, take) -> int:
    if code < 8:
        return code
    width = code // 4 - 1
    return (4 + code % 4 << width) + take(width)


def decode(payload: bytes, n_bytes: int) -> bytes:
    reader = Reader(payload)
    check = reader.number(4)
    must(check == check_of(payload))
    flags, modes = reader.number(1), reader.number(3)
    w = 1 << (flags & 3)
    full = w << (modes >> 22)
    modes &= (1 << 22) - 1
    n_odd = flags >> 4
    must(full <= 8 and n_odd < full and n_odd <= n_bytes and (n_bytes - n_odd) % full == 0)
    n = (n_bytes - n_odd) // full
    must(n <= 65536)
    n_sequences, n_literals, n_words = reader.number(2), reader.number(2), reader.number(4)
    if n_sequences == 0 and n_literals == n % 65536:
        n_literals = n
    must(n_sequences <= n and n_literals <= n)
    fill = bytes(w)
    if flags & 8:
        fill = reader.take(w)
        must(any(fill))
    must(modes >> 2 * (w + 3) == 0)
    counts = [n_literals] * w + [n_sequences] * 3
    most = [255] * w + [59, 59, 61]
    streams: list = []
    coded = []
    for s, count in enumerate(counts):
        mode = modes >> 2 * s & 3
        must(mode < 3)
        if mode == 0:
            streams.append(list(reader.take(count)))
        elif mode == 1:
            streams.append(reader.take(1) * max(1, count))
        else:
            must(count >= 2)
            table = read_table(reader)
            must(table[-1][0] <= most[s])
            coded.append((s, table))
            streams.append([])
        must(max(streams[s], default=0) <= most[s])
    extras = b""
    if coded:
        words = [reader.number(2) for _ in range(n_words)]
        states = [reader.number(4) for _ in range(LANES)]
        must(all(x >= 1 << 16 for x in states))
        tables = [table for _, table in coded]
        sizes = [counts[s] for s, _ in coded]
        for (s, _), out in zip(coded, decode_streams(tables, sizes, words, states), strict=True):
            streams[s] = out
        extras = b"".join((x & 65535).to_bytes(2, "little") for x in states)
    else:
        must(n_words == 0)
    n_riders = len(extras)
    rest = len(payload) - reader.at - n_odd
    must(rest >= 0)
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
        must(run <= n_literals - n_used and run + length <= n - at)
        literal[at : at + run] = np.arange(n_used, n_used + run)
        at, n_used = at + run, n_used + run
        if step == 0:
            filled[at : at + length] = True
        else:
            must(distance <= at)
            source[at : at + length] = at - distance + np.arange(length) % distance
        at += length
    must(n_literals - n_used == n - at)
    literal[at:] = np.arange(n_used, n_literals)
    n_needed = (used + 7) // 8
    must(n_needed == len(extras) or n_needed < n_riders == len(extras))
    must(bits >> used == 0)

    for _ in range(ROUNDS):
        source = source[source]
    must((source[source] == source).all())

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
    must((is_literal | filled)[source].all())
    return values[source].astype(f"<u{full}").tobytes() + odd
