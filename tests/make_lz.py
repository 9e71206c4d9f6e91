# SPDX-License-Identifier: Apache-2.0
"""LZ payloads from an encoder of the document's text, which draws its choices at random.

It shares no code with gpucodec: matches, tables and modes are legal, and otherwise anything.
"""

from __future__ import annotations

import struct

import numpy as np
import spec_lz as spec
from spec_base import xxh3

Table = dict[int, int]  # symbol -> frequency


def encode(rng: np.random.Generator, data: bytes, *, exact: bool = False) -> bytes:
    """A payload of ``data``; ``exact`` lists only symbols that occur in tables."""
    width = int(rng.choice([w for w in (1, 2, 4, 8) if w <= len(data) <= (w << 16) + w - 1]))
    n = min(len(data) // width, 1 << 16)
    words = np.frombuffer(data, f"<u{width}", n).astype(np.uint64)
    odd = data[n * width :]
    enough = [w for w in (1, 2, 4, 8) if w <= width and int(words.max()) < 1 << 8 * w]
    coded = int(enough[0] if rng.random() < 0.7 else rng.choice(enough))
    fill = int(rng.choice(words)) if rng.random() < 0.5 else 0
    sequences, literals = parse(rng, words, fill)
    rotated = bool(rng.random() < 0.5)
    streams = cut(literals, 8 * coded, rotated)
    codes, extra, n_extra = code(sequences)
    body, modes, rans = store(rng, streams + codes, coded, exact)

    held = (n_extra + 7) // 8
    n_words, behind = 0, extra.to_bytes(held, "little")
    if rans:
        extras = extra.to_bytes(max(held, 64), "little")
        stream, states = push(rans, np.frombuffer(extras, "<u2", 32).astype(np.uint64))
        n_words, behind = len(stream), stream.tobytes() + states.tobytes() + extras[64:]
    flags = (coded.bit_length() - 1) | rotated << 2 | (fill != 0) << 3 | len(odd) << 4
    narrowed = (width // coded).bit_length() - 1
    head = struct.pack("<I", flags | modes << 8 | narrowed << 30)
    head += struct.pack("<HHI", len(sequences), len(literals) & 0xFFFF, n_words)
    if fill:
        head += fill.to_bytes(coded, "little")
    return seal(bytes(4) + head + body + behind + odd)


def seal(payload: bytes) -> bytes:
    """Write the right check into a payload, whatever it says by now."""
    return struct.pack("<I", xxh3(payload[4:]) & 0xFFFFFFFF) + payload[4:]


def parse(
    rng: np.random.Generator, words: np.ndarray, fill: int
) -> tuple[list[tuple[int, int, int]], np.ndarray]:
    """(literals, match, step) of each sequence, and all literals. Step 0: fill, 1: as before."""
    n = len(words)
    values = words.tolist()
    places: dict[int, list[int]] = {}
    depth = np.zeros(n, np.int64)
    is_literal = np.ones(n, bool)
    sequences: list[tuple[int, int, int]] = []
    eager = rng.random()
    i = start = entered = 0
    last = 1
    while i < n:
        while entered < i:
            places.setdefault(values[entered], []).append(entered)
            entered += 1
        distance = length = 0
        if rng.random() < eager:
            near = places.get(values[i], [])
            choice = rng.integers(0, 3)
            if values[i] == fill and choice == 0:
                length = run_of(lambda j: values[j] == fill, i, n)
            elif near or (choice == 1 and last <= i):
                distance = last if choice == 1 else i - near[-int(rng.integers(1, 9)) % len(near)]
                if distance <= i:
                    d = distance
                    length = run_of(
                        lambda j, i=i, d=d: (
                            values[j] == values[j - d]
                            and depth[i - d + (j - i) % d] < spec.MAX_DEPTH
                        ),
                        *(i, n),
                    )
        if length and rng.random() < 0.3:
            length = int(rng.integers(1, length + 1))
        if not length:
            i += 1
            continue
        if distance:
            j = np.arange(length)
            deep = depth[i - distance + j % distance].max() if distance < length else None
            source = depth[i - distance : i - distance + length] if deep is None else deep
            depth[i : i + length] = source + 1
        step = 0 if not distance else 1 if distance == last else distance + 1
        sequences.append((i - start, length, step))
        is_literal[i : i + length] = False
        last = distance or last
        i += length
        start = i
    return sequences, words[is_literal]


def run_of(holds, first: int, last: int) -> int:
    end = first
    while end < last and holds(end):
        end += 1
    return end - first


def cut(literals: np.ndarray, bits: int, rotated: bool) -> list[np.ndarray]:
    """The byte planes, from the most significant down."""
    if rotated:
        mask = np.uint64((1 << bits) - 1)
        literals = (literals << np.uint64(1) | literals >> np.uint64(bits - 1)) & mask
    return [(literals >> np.uint64(b)).astype(np.uint8) for b in range(bits - 8, -1, -8)]


def code(sequences: list[tuple[int, int, int]]) -> tuple[list[np.ndarray], int, int]:
    """Three streams of codes, and the extra bits as one number with how many they are."""
    streams: tuple[list[int], ...] = ([], [], [])
    extra = n_extra = 0
    for run, length, step in sequences:
        for stream, number, base in zip(
            streams, (run, length - 1, step - 2), (0, 0, 2), strict=True
        ):
            if number < 0:  # a step that is no distance
                stream.append(step)
                continue
            width = max(0, number.bit_length() - 3)
            stream.append(base + (number >> width) + 4 * width)
            extra |= (number & ((1 << width) - 1)) << n_extra
            n_extra += width
    return [np.array(stream, np.uint8) for stream in streams], extra, n_extra


def store(
    rng: np.random.Generator, streams: list[np.ndarray], n_planes: int, exact: bool
) -> tuple[bytes, int, list[tuple[np.ndarray, Table]]]:
    """What stands before the words, the modes, and the coded streams with their tables."""
    body, modes, rans = b"", 0, []
    for s, stream in enumerate(streams):
        present = np.unique(stream)
        if len(present) <= 1 and rng.random() < 0.8:
            mode = 1
            body += bytes([present[0] if len(present) else 0])
        elif len(stream) >= 2 and (len(present) > 1 or not exact) and rng.random() < 0.8:
            mode = 2
            most = 255 if s < n_planes else 61 if s == n_planes + 2 else 59
            table = random_table(rng, stream, most, exact)
            body += table_bytes(table)
            rans.append((stream, table))
        else:
            mode = 0
            body += stream.tobytes()
        modes |= mode << 2 * s
    return body, modes, rans


def random_table(rng: np.random.Generator, stream: np.ndarray, most: int, exact: bool) -> Table:
    names = np.unique(stream)
    absent = rng.permutation(np.setdiff1d(np.arange(most + 1), names))
    n_absent = max(2 - len(names), 0 if exact else int(rng.integers(0, 4)))
    names = np.sort(np.append(names, absent[:n_absent])).astype(int)
    weight = rng.random(len(names)) + 1e-3
    if rng.random() < 0.5:
        weight = np.array([1 + (stream == s).sum() for s in names], float)
    frequency = 1 + (weight / weight.sum() * (4096 - len(names))).astype(int)
    frequency[frequency.argmax()] += 4096 - frequency.sum()
    return dict(zip(names.tolist(), frequency.tolist(), strict=True))


def table_bytes(table: Table) -> bytes:
    first, last = min(table), max(table)
    widths = [table.get(s, 0).bit_length() for s in range(first, last + 1)]
    widths += [0] * (len(widths) % 2)
    packed = bytes(low | high << 4 for low, high in zip(widths[::2], widths[1::2], strict=True))
    bits = n_bits = 0
    for _, f in sorted(table.items()):
        width = f.bit_length() - 1
        bits |= (f ^ 1 << width) << n_bits
        n_bits += width
    return bytes([first, last]) + packed + bits.to_bytes((n_bits + 7) // 8, "little")


def push(rans: list[tuple[np.ndarray, Table]], riders: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Words and initial states that decode to these streams, one after the other."""
    x = riders + np.uint64(1 << 16)
    words: list[np.ndarray] = []  # last first
    for stream, table in rans[::-1]:
        freq, start = np.zeros(256, np.uint64), np.zeros(256, np.uint64)
        total = 0
        for s, f in sorted(table.items()):
            freq[s], start[s] = f, total
            total += f
        for first in range((len(stream) - 1) // 64 * 64, -1, -64):
            for half in (1, 0):
                symbols = stream[first + half : first + 64 : 2]
                f, lanes = freq[symbols], slice(len(symbols))
                y = x[lanes]
                full = y >= f << np.uint64(20)
                words.append(y[full].astype("<u2"))
                y = np.where(full, y >> np.uint64(16), y)
                q = y // f
                x[lanes] = (q << np.uint64(12)) + (y - q * f) + start[symbols]
    return np.concatenate(words[::-1]), x.astype("<u4")
