# SPDX-License-Identifier: Apache-2.0
"""Structure-aware mutants of valid frames, with header hashes that hold.

A flipped byte alone would stop at the hash. Here a frame is taken apart into fields and payloads,
some of them are changed, and it is put together again with sizes and hash recomputed, so
that the damage reaches the decoder that should refuse it.
"""

from __future__ import annotations

import math
import random
import struct

import make_frames
import make_lz
import spec_decoder as spec
from spec_base import Refused

EDGES = sorted(
    {(1 << k) + d for k in (0, 5, 6, 8, 12, 15, 16, 31, 32, 62, 63, 64) for d in (-1, 0, 1)}
)


class Parts:
    """A frame as fields: those that a mutation may change."""

    def __init__(self, frame: bytes) -> None:
        layout = spec.read_layout(frame)
        self.code, self.n_dims, self.block_log = frame[5:8]
        self.decoded_bytes = struct.unpack_from("<Q", frame, 8)[0]
        self.flags, model_bytes = struct.unpack_from("<2I", frame, 32)
        self.model = frame[layout.start - model_bytes : layout.start]
        self.model_bytes: int | None = None  # a lie
        self.shape = list(layout.shape)
        self.hashes = list(layout.hashes)
        flat = [entry for block in layout.entries for entry in block]
        places = [place for block in layout.payloads for place in block]
        self.coders = [coder for coder, _ in flat]
        self.arguments = [argument for _, argument in flat]
        self.payloads = [frame[at : at + size] for at, size in places]
        self.words = frame[layout.start :] if layout.stored else b""
        self.padding = 0

    def copy(self) -> Parts:
        other = object.__new__(Parts)
        other.__dict__.update(self.__dict__)
        for name in ("shape", "hashes", "coders", "arguments", "payloads"):
            setattr(other, name, list(getattr(self, name)))
        return other

    def frame(self, rng: random.Random) -> bytes:
        """Put together; sizes and hash agree with the parts, save for a rare lie."""
        payloads, entries = [], []
        for coder, argument, payload in zip(
            self.coders, self.arguments, self.payloads, strict=True
        ):
            entries.append((coder << 24 | argument & 0xFFFFFF) & 0xFFFFFFFF)
            room = 0 if coder == spec.CONSTANT else argument & 0xFFFFFF
            if rng.random() < 0.98:  # else the payload stays and its entry lies
                fitting = payload[:room] + bytes(max(0, min(room, 1 << 16) - len(payload)))
            else:
                fitting = payload
            payloads.append(fitting + bytes([self.padding]) * (-len(fitting) % 16))
        table = struct.pack(
            f"<{len(self.shape)}Q{len(self.hashes)}Q{len(entries)}I",
            *self.shape,
            *self.hashes,
            *entries,
        )
        table += bytes(-(40 + len(table)) % 16) + self.model
        body = b"".join(payloads) + self.words
        size = 40 + len(table) + len(body)
        if rng.random() < 0.02:
            size = rng.choice(EDGES) & (1 << 64) - 1
        fields = (1, self.code, self.n_dims & 255, self.block_log & 255)
        model_bytes = len(self.model) if self.model_bytes is None else self.model_bytes
        sizes = (self.decoded_bytes & (1 << 64) - 1, size, 0, self.flags, model_bytes)
        head = struct.pack("<4s4B3Q2I", b"gpcf", *fields, *sizes)
        return make_frames.reseal(head + table + body)


def number(rng: random.Random, old: int, bits: int) -> int:
    """Another value for a field: an edge, a neighbour, or anything."""
    kind = rng.randrange(4)
    if kind == 0:
        return rng.choice(EDGES) & (1 << bits) - 1
    if kind == 1:
        return (old + rng.choice((-64, -16, -2, -1, 1, 2, 16, 64))) & (1 << bits) - 1
    if kind == 2:
        return old ^ 1 << rng.randrange(bits)
    return rng.getrandbits(bits)


def mutate_header(parts: Parts, rng: random.Random) -> None:
    kind = rng.randrange(8)
    if kind == 0:
        parts.code = rng.randrange(24)
    elif kind == 1:
        parts.block_log = rng.choice((*range(5, 18), 0, 63, 64, 255))
    elif kind == 2:
        parts.n_dims = number(rng, parts.n_dims, 8)
    elif kind == 3:
        parts.decoded_bytes = number(rng, parts.decoded_bytes, 64)
    elif kind == 4:
        parts.flags = rng.choice((*range(8), 8, 1 << 31))
        if rng.random() < 0.5:
            parts.model_bytes = rng.choice(
                (0, 8, 16, len(parts.model) + 16, 1 << rng.randrange(32))
            )
    elif kind == 5 and parts.shape:
        i = rng.randrange(len(parts.shape))
        parts.shape[i] = number(rng, parts.shape[i], 64)
    elif kind == 6 and parts.shape:  # a consistent lie: the shape and the size grow together
        parts.shape[-1] = max(0, parts.shape[-1] + rng.choice((-64, -1, 1, 63, 64, 1 << 20)))
        parts.shape[-1] %= 1 << 64
        row = spec.TYPES.get(parts.code, spec.TYPES[1])
        parts.decoded_bytes = math.prod(parts.shape) * row.word_bytes * row.words
    else:
        parts.shape.append(rng.choice((0, 1, 1, 2)))
        parts.n_dims = len(parts.shape) & 255


def mutate_entry(parts: Parts, rng: random.Random, others: list[Parts]) -> None:
    i = rng.randrange(len(parts.coders))
    kind = rng.randrange(6)
    if kind == 0:
        parts.coders[i] = rng.choice((*range(11), 255))
    elif kind == 1:
        parts.arguments[i] = number(rng, parts.arguments[i], 24)
    elif kind == 2:
        j = rng.randrange(len(parts.coders))
        for column in (parts.coders, parts.arguments, parts.payloads):
            column[i], column[j] = column[j], column[i]
    elif kind == 3:
        parts.padding = rng.randrange(256)
    elif kind == 4:
        parts.hashes[rng.randrange(len(parts.hashes))] = rng.getrandbits(64)
    else:  # a payload of another frame
        other = rng.choice(others)
        if other.coders:
            j = rng.randrange(len(other.coders))
            parts.coders[i], parts.arguments[i] = other.coders[j], other.arguments[j]
            parts.payloads[i] = other.payloads[j]


def mutate_payload(parts: Parts, rng: random.Random) -> None:
    if parts.words:
        words = bytearray(parts.words)
        words[rng.randrange(len(words))] = rng.randrange(256)
        parts.words = bytes(words[: len(words) - rng.choice((0, 0, 0, 1, 16))])
    full = [i for i, payload in enumerate(parts.payloads) if payload]
    if not full:
        return
    i = rng.choice(full)
    payload = bytearray(parts.payloads[i])
    if parts.coders[i] in (spec.RANS8, spec.RANS12) and len(payload) > 136:
        payload = mutate_rans(payload, parts.coders[i], rng)
    elif spec.PALETTE0 <= parts.coders[i] <= spec.PALETTE4 and len(payload) > 4:
        payload = mutate_palette(payload, rng)
    elif parts.coders[i] in (spec.LZ, spec.LZ_WORDS) and len(payload) > 16:
        payload = mutate_lz(payload, rng)
    else:
        payload[rng.randrange(len(payload))] = rng.randrange(256)
    if rng.random() < 0.1:  # bytes come or go
        at = rng.randrange(len(payload) + 1)
        cut = rng.choice((0, 1, 2, 3, 16, 128))
        payload[at : at + cut] = rng.randbytes(rng.choice((0, 0, 1, 2, 3, 16)))
        if parts.coders[i] in (spec.LZ, spec.LZ_WORDS):
            payload = bytearray(make_lz.seal(bytes(payload)))
    parts.payloads[i] = bytes(payload)
    parts.arguments[i] = len(payload)


def mutate_palette(payload: bytearray, rng: random.Random) -> bytearray:
    """Another base, patch or code; positions that are out of order, or too large."""
    n_most = (len(payload) - 1) // 3
    kind = rng.randrange(5)
    if kind == 0:
        payload[-1] = rng.randrange(256)
    elif kind == 1:  # perhaps a patch symbol
        payload[-2 - rng.randrange(min(n_most, 8))] = rng.randrange(256)
    elif kind == 2:  # perhaps a position
        at = 2 * rng.randrange((len(payload) - 1) // 2)
        struct.pack_into("<H", payload, at, number(rng, 64, 16))
    elif kind == 3:  # a patch less, or one more
        payload[-4:-1] = rng.choice((b"", payload[-4:-1] * 2))
    else:
        payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
    return payload


def mutate_model(parts: Parts, rng: random.Random) -> None:
    """Other sizes, base or rank, another frame of offsets, or other padding."""
    if len(parts.model) < 56:
        return
    fixed, nested = bytearray(parts.model[:16]), parts.model[16:]
    [size] = struct.unpack_from("<Q", nested, 16)
    kind = rng.randrange(8)
    if kind < 2:
        struct.pack_into("<I", fixed, 4 * kind, number(rng, 32, 32) if rng.random() < 0.5 else 32)
    elif kind == 2:
        fixed[8 + rng.randrange(2)] = rng.randrange(256)
    elif kind == 3:
        fixed[10] = rng.choice((0, 1, 2, 15, 16, 17, 255))
    elif kind == 4:
        fixed[11 + rng.randrange(5)] = rng.choice((0, 1, 128))
    elif kind == 5:
        nested = nested[: rng.randrange(len(nested) + 1)] + rng.randbytes(rng.choice((0, 0, 16)))
    else:
        try:
            offsets = Parts(nested[:size])
        except Refused:  # changed before
            return
        if offsets.coders and rng.random() < 0.2:
            mutate_entry(offsets, rng, [offsets])
        elif rng.random() < 0.3:
            mutate_header(offsets, rng)
        else:
            mutate_payload(offsets, rng)
        nested = offsets.frame(rng)
        if rng.random() < 0.8:
            nested = rehashed(nested) or nested
    parts.model = bytes(fixed) + nested
    parts.model += bytes(-len(parts.model) % 16)


def mutate_rans(payload: bytearray, coder: int, rng: random.Random) -> bytearray:
    n_stream, n_patches = struct.unpack_from("<IH", payload)
    n = payload[6] + 1
    p = 8 if coder == spec.RANS8 else 12
    width = payload[7] % 13
    stream = 8 + spec.table_bytes(n, p, width)
    states = stream + 2 * n_stream
    patches = states + 128
    kind = rng.randrange(13)
    if patches + 3 * n_patches > len(payload):  # changed before: only bytes are left
        kind = 11
    if kind == 0:
        struct.pack_into("<I", payload, 0, number(rng, n_stream, 32))
    elif kind == 1:
        struct.pack_into("<H", payload, 4, number(rng, n_patches, 16))
    elif kind == 2:
        payload[6] = number(rng, n - 1, 8)
    elif kind == 3:
        payload[8 + rng.randrange(stream - 8)] ^= 1 << rng.randrange(8)
    elif kind in (4, 5):
        payload[7:stream] = mutate_table(bytes(payload[8:stream]), n, p, width, rng)
    elif kind == 6:
        lane = states + 4 * rng.randrange(32)
        struct.pack_into("<I", payload, lane, number(rng, 1 << 16, 32))
    elif kind == 7 and n_stream:
        run = rng.randrange(1, 2 * n_stream + 1)
        at = stream + rng.randrange(2 * n_stream - run + 1)
        payload[at : at + run] = rng.choice((bytes(run), b"\xff" * run, rng.randbytes(run)))
    elif kind == 8 and n_patches:
        at = patches + 2 * rng.randrange(n_patches)
        struct.pack_into("<H", payload, at, number(rng, 64, 16))
    elif kind == 9 and n_patches:
        payload[len(payload) - 1 - rng.randrange(n_patches)] = rng.randrange(256)
    elif kind == 10:  # the stream shrinks or grows, honestly declared
        change = rng.choice((-32, -2, -1, 1, 2, 32))
        if n_stream + change >= 0:
            struct.pack_into("<I", payload, 0, n_stream + change)
            if change < 0:
                del payload[states + 2 * change : states]
            else:
                payload[states:states] = rng.randbytes(2 * change)
    elif kind == 12:
        payload[7] = rng.choice((0, 1, width - 1 & 255, width + 1, 12, 13, 255))
    else:
        payload[rng.randrange(len(payload))] ^= 1 << rng.randrange(8)
    return payload


def mutate_lz(payload: bytearray, rng: random.Random) -> bytearray:
    """Another field of the header, or bytes behind it, under a check that mostly holds."""
    kind = rng.randrange(6)
    if kind == 0:
        struct.pack_into("<I", payload, 4, number(rng, struct.unpack_from("<I", payload, 4)[0], 32))
    elif kind == 1:
        at = rng.choice((8, 10))
        struct.pack_into(
            "<H", payload, at, number(rng, struct.unpack_from("<H", payload, at)[0], 16)
        )
    elif kind == 2:
        n_words = number(rng, struct.unpack_from("<I", payload, 12)[0], 32)
        struct.pack_into("<I", payload, 12, n_words)
    elif kind == 3:
        at, run = rng.randrange(16, len(payload)), rng.choice((1, 1, 2, 8, 40))
        payload[at : at + run] = rng.randbytes(len(payload[at : at + run]))
    else:
        payload[rng.randrange(4, min(len(payload), rng.choice((60, 1 << 16))))] ^= (
            1 << rng.randrange(8)
        )
    return bytearray(make_lz.seal(bytes(payload))) if rng.random() < 0.95 else payload


def mutate_table(table: bytes, n: int, p: int, width: int, rng: random.Random) -> bytes:
    """Width and table with moved frequencies, so that the sum stays or not, or another symbol."""
    try:
        symbols, freq, _ = spec.read_table(table, n, p, width)
    except (Refused, ValueError):
        return bytes([width]) + table
    symbols, freq = symbols.copy(), freq.copy()
    a, b = rng.randrange(n), rng.randrange(n)
    if rng.random() < 0.3:
        symbols[a] = rng.randrange(256)
    else:
        step = min(int(freq[a]), rng.choice((1, int(freq[a]) // 2, int(freq[a]))))
        freq[a] -= step
        if a != b and rng.random() < 0.7:
            freq[b] += step
    if rng.random() < 0.7:  # else it may be too narrow, or too wide
        width = make_frames.table_width(freq, p)
    return bytes([width]) + make_frames.table_bytes(symbols, freq, p, width)


def mutant(base: Parts, rng: random.Random, others: list[Parts]) -> bytes:
    parts = base.copy()
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        kind = rng.random()
        if parts.model and kind < 0.2:
            mutate_model(parts, rng)
        elif kind < 0.12:
            mutate_header(parts, rng)
        elif kind < 0.3 and parts.coders:
            mutate_entry(parts, rng, others)
        else:
            mutate_payload(parts, rng)
    frame = parts.frame(rng)
    if rng.random() < 0.03:  # shorter or longer than it says
        cut = rng.randrange(len(frame) + 1)
        frame = rng.choice((frame[:cut], frame + rng.randbytes(1 + cut % 40)))
    return frame


def rehashed(frame: bytes) -> bytes | None:
    """The frame with the hashes of what its blocks decode to; None where a "must" is broken."""
    try:
        layout = spec.read_layout(frame)
        hashes = b"".join(
            struct.pack("<Q", make_frames.padded_hash(spec.decode_block(frame, layout, block)))
            for block in range(len(layout.hashes))
        )
    except Refused:
        return None
    at = 40 + 8 * len(layout.shape)
    return make_frames.reseal(frame[:at] + hashes + frame[at + len(hashes) :])
