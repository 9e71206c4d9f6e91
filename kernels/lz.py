# SPDX-License-Identifier: Apache-2.0
"""Parallel LZ: a block's payload, from the matches of `lz_match` and the streams of `lz_code`.

Words are copied whole, and no word is more than `MAX_DEPTH` copies away from a literal, so that a
GPU decodes by a scan over the sequences, five rounds of pointer jumping and one gather. Here the
decoder is the ordinary loop, which gives the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import lz_code, lz_match, planes, simd
from .checksum import xxh3
from .jit import kernel
from .lz_code import CODED, CONSTANT, RAW, RIDERS
from .lz_ops import SLACK, copy32, fill32, highest_bit, load64, store64
from .spec import (
    BAD_PADDING,
    BAD_SIZE,
    BAD_STATE,
    BAD_SYMBOL,
    BAD_TABLE,
    BAD_WORDS,
    LANES,
    OK,
    PLAIN,
    RANS_STATE_LOW,
    RANS_STATES_BYTES,
    ROTATE,
)

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_WORDS = 1 << 16
MAX_WORD_BYTES = 8
HEADER_BYTES = 16  # check u32, flags u8, modes u24, n_sequences u16, n_literals u16, n_words u32
FLAGS_AT, MODES_AT, SEQUENCES_AT, LITERALS_AT, WORDS_AT = 4, 5, 8, 10, 12
ROTATED, FILLED, ODD_SHIFT = 4, 8, 4  # flags; below them log2 of the word size
MAX_CODE = 59  # of 65,535
FILL_CODE, REPEAT_CODE, DISTANCE_CODE = 0, 1, 2
EXTRA_BYTES = 5  # at most 13 bits for each of a sequence's three numbers
N_STREAMS = MAX_WORD_BYTES + 3
SYMBOL_ROOM = 128
FILL_SHARE = 8  # look for runs of a fill that is an eighth of the sample
U = np.uint64


class Scratch(NamedTuple):
    """What `encode_block` and `decode_block` work in; `scratch` makes it, one for each thread."""

    text: NDArray[np.uint8]  # the block, with room behind it
    literals: NDArray[np.uint8]
    symbols: NDArray[np.uint8]  # [N_STREAMS, MAX_WORDS + SYMBOL_ROOM]
    extras: NDArray[np.uint8]
    states: NDArray[np.uint32]
    frequencies: NDArray[np.uint32]  # [N_STREAMS, 256]
    table: NDArray[np.uint8]
    present: NDArray[np.uint8]  # [N_STREAMS, 256]
    packed: NDArray[np.uint32]
    starts: NDArray[np.uint32]
    depths: NDArray[np.uint8]
    hashes: NDArray[np.uint16]
    heads: NDArray[np.uint64]
    slots: NDArray[np.uint64]
    sequences: NDArray[np.uint16]  # [3, MAX_WORDS]: runs, lengths, distances
    counts: NDArray[np.uint32]  # [4, 256]
    dense: NDArray[np.uint32]  # [N_STREAMS, 256]
    words: NDArray[np.uint16]
    row_flags: NDArray[np.uint8]


def scratch(block_bytes: int) -> Scratch:
    """Work space for blocks of up to `block_bytes` bytes. Untouched memory costs nothing."""
    room = block_bytes + SLACK
    return Scratch(
        np.empty(room, np.uint8),
        np.empty(room + SYMBOL_ROOM, np.uint8),
        np.empty((N_STREAMS, MAX_WORDS + SYMBOL_ROOM), np.uint8),
        np.empty(EXTRA_BYTES * MAX_WORDS + RIDERS + SLACK, np.uint8),
        np.empty(LANES, np.uint32),
        np.empty((N_STREAMS, 256), np.uint32),
        np.empty(max(simd.DECODE_TABLE_BYTES, simd.ENCODE_TABLE_BYTES), np.uint8),
        np.empty((N_STREAMS, 256), np.uint8),
        np.empty(256, np.uint32),
        np.empty(256, np.uint32),
        np.empty(room, np.uint8),
        np.empty(MAX_WORDS + lz_match.CHUNK + SLACK, np.uint16),
        np.empty(1 << lz_match.HASH_BITS, np.uint64),
        np.empty(lz_match.CHUNK + lz_match.AHEAD, np.uint64),
        np.empty((3, MAX_WORDS), np.uint16),
        np.empty((4, 256), np.uint32),
        np.empty((N_STREAMS, 256), np.uint32),
        np.empty(N_STREAMS * MAX_WORDS, np.uint16),
        np.empty(MAX_WORDS // 64 + 1, np.uint8),
    )


@kernel
def _read(payload, at, n_bytes):
    value = np.int64(0)
    for i in range(n_bytes):
        value |= np.int64(payload[at + i]) << (8 * i)
    return value


@kernel
def _write(value, n_bytes, out, at):
    for i in range(n_bytes):
        out[at + i] = np.uint8((value >> (8 * i)) & 255)


@kernel
def _repeated(word, word_log):
    """A word repeated in 8 bytes."""
    for k in range(word_log, 3):
        word |= word << (U(8) << U(k))
    return word


@kernel
def _word_at(address, word_log):
    """The word at `address`, behind which 8 bytes are readable."""
    return load64(address) & (U(0xFFFFFFFFFFFFFFFF) >> (U(64) - (U(8) << word_log)))


# --- encode ---------------------------------------------------------------------------------------


@kernel
def _fill_of(text, n, word_log):
    """(fill, whether it pays to look for it), from 64 words spread over the block.

    The fill is the word that more than half of them are, otherwise 0.
    """
    n_samples = min(U(64), n)
    step = n // n_samples
    candidate, votes = U(0), np.int64(0)
    for i in range(n_samples):
        word = _word_at(text + ((i * step) << word_log), word_log)
        if votes == 0:
            candidate = word
        votes += 1 if word == candidate else -1
    n_candidate, n_zeros = U(0), U(0)
    for i in range(n_samples):
        word = _word_at(text + ((i * step) << word_log), word_log)
        n_candidate += U(word == candidate)
        n_zeros += U(word == U(0))
    if n_candidate + n_candidate > n_samples:
        return candidate, True
    return U(0), n_zeros * U(FILL_SHARE) >= n_samples


@kernel
def _code(value):
    """(code, width of the bits that follow it) of a number below 2^16."""
    width = highest_bit(value | U(4)) - U(2)
    return (value >> width) + (width << U(2)), width


@kernel
def _write_sequences(sequences, n, runs, lengths, distances, extras):
    """The three code streams and the bits behind the codes; bytes of these."""
    held, n_held = U(0), U(0)
    at = extras
    last = U(1)
    for i in range(U(n)):
        run, length, distance = (
            U(sequences[U(0), i]),
            U(sequences[U(1), i]) - U(1),
            U(sequences[U(2), i]),
        )
        code, width = _code(run)
        runs[i] = code
        held |= (run & ((U(1) << width) - U(1))) << n_held
        n_held += width
        code, width = _code(length)
        lengths[i] = code
        held |= (length & ((U(1) << width) - U(1))) << n_held
        n_held += width
        if distance == U(0):
            distances[i] = FILL_CODE
        elif distance == last:
            distances[i] = REPEAT_CODE
        else:
            last = distance
            code, width = _code(distance - U(1))
            distances[i] = code + U(DISTANCE_CODE)
            held |= ((distance - U(1)) & ((U(1) << width) - U(1))) << n_held
            n_held += width
        store64(at, held)
        at += n_held >> U(3)
        held >>= n_held & U(56)
        n_held &= U(7)
    return np.int64(at - extras) + np.int64(n_held > U(0))


@kernel
def _split_literals(scratch, n_literals, word_bytes, rotated):
    bits = np.full(word_bytes, 8, np.uint8)
    planes.split(
        scratch.literals[: n_literals * word_bytes],
        word_bytes,
        ROTATE if rotated else PLAIN,
        bits,
        scratch.symbols,
    )


@kernel
def _plan(scratch, s, n):
    """`lz_code.plan` of the `n` symbols of stream `s`."""
    lz_code.count(U(scratch.symbols[s].ctypes.data), U(n), scratch.counts)
    return lz_code.plan(
        scratch.counts[0], n, scratch.present[s], scratch.frequencies[s], scratch.dense[s]
    )


@kernel
def encode_block(raw, word_bytes, level, out, limit, scratch):
    """Write the payload of the block `raw` (uint8); its bytes, or 0 if not below `limit`.

    `word_bytes` is 1, 2, 4 or 8, and `raw` holds at most MAX_WORDS words; up to `word_bytes - 1` bytes
    may follow the last. Level 0 is fast, 1 has the better ratio. `out` (uint8) has room for `limit`
    bytes; `scratch` is of `scratch(raw.size)` or more.
    """
    word_log = highest_bit(U(word_bytes))
    n = raw.size >> np.int64(word_log)
    n_bytes = n << np.int64(word_log)
    if n < 2:
        return 0
    text = U(scratch.text.ctypes.data)
    for i in range(U(n_bytes)):
        scratch.text[i] = raw[i]
    for i in range(U(n_bytes), U(n_bytes + SLACK)):
        scratch.text[i] = 0
    for i in range(U(n_bytes + SLACK)):
        scratch.depths[i] = 0
    fill, filling = _fill_of(text, U(n), word_log)
    lz_match.hash_words(text, word_log, U(n), U(scratch.hashes.ctypes.data))
    sequences, literals_end = lz_match.parse(
        text,
        U(n_bytes),
        word_log,
        level,
        _repeated(fill, word_log),
        filling,
        scratch.hashes,
        scratch.heads,
        scratch.slots,
        U(scratch.depths.ctypes.data),
        scratch.sequences[0],
        scratch.sequences[1],
        scratch.sequences[2],
        U(scratch.literals.ctypes.data),
    )
    n_sequences = np.int64(sequences)
    n_literals = np.int64(literals_end >> word_log)
    return _encode_payload(
        raw, word_bytes, n, n_sequences, n_literals, fill, out, limit, scratch
    )


@kernel
def _encode_payload(raw, word_bytes, n, n_sequences, n_literals, fill, out, limit, scratch):
    """Write the payload of a parsed block; its bytes, or 0 if not below `limit`."""
    codes = word_bytes
    n_extras = _write_sequences(
        scratch.sequences,
        n_sequences,
        scratch.symbols[codes],
        scratch.symbols[codes + 1],
        scratch.symbols[codes + 2],
        U(scratch.extras.ctypes.data),
    )
    modes = np.zeros(N_STREAMS, np.int64)
    n_present = np.zeros(N_STREAMS, np.int64)
    coded_bytes, raw_bytes = np.int64(0), np.int64(0)  # of the streams that coding makes smaller
    other_bytes = np.int64(0)

    rotated = False
    if word_bytes == 1:
        for i in range(U(n_literals)):
            scratch.symbols[U(0), i] = scratch.literals[i]
    else:
        if word_bytes < 8 and n_literals > 0:
            sample = min(n_literals, 4096)
            sizes = np.zeros(2, np.int64)
            for turn in range(2):
                _split_literals(scratch, sample, word_bytes, turn == 1)
                for s in range(word_bytes):
                    sizes[turn] += _plan(scratch, s, sample)[2]
            rotated = sizes[1] < sizes[0]
        _split_literals(scratch, n_literals, word_bytes, rotated)

    for s in range(codes + 3):
        n_symbols = n_literals if s < codes else n_sequences
        modes[s], n_present[s], size = _plan(scratch, s, n_symbols)
        if modes[s] == CODED:
            coded_bytes += size
            raw_bytes += n_symbols
        else:
            other_bytes += size
    if coded_bytes + RANS_STATES_BYTES - min(n_extras, RIDERS) >= raw_bytes:
        coded_bytes = raw_bytes
        for s in range(codes + 3):
            if modes[s] == CODED:
                modes[s] = RAW
    any_coded = False
    for s in range(codes + 3):
        any_coded = any_coded or modes[s] == CODED
    n_odd = raw.size - n * word_bytes
    size = HEADER_BYTES + coded_bytes + other_bytes + n_odd
    if fill != U(0):
        size += word_bytes
    n_rest = n_extras
    if any_coded:
        n_rest = max(0, n_extras - RIDERS)
        size += RANS_STATES_BYTES
    size += n_rest
    if size + 64 >= limit:  # an estimate, so that the exact size cannot pass `limit` unseen
        return 0

    at = HEADER_BYTES
    flags = np.int64(highest_bit(U(word_bytes))) | n_odd << ODD_SHIFT
    if rotated:
        flags |= ROTATED
    if fill != U(0):
        flags |= FILLED
        _write(np.int64(fill), word_bytes, out, at)
        at += word_bytes
    packed_modes = np.int64(0)
    for s in range(codes + 3):
        packed_modes |= modes[s] << (2 * s)
        n_symbols = n_literals if s < codes else n_sequences
        if modes[s] == CODED:
            k = n_present[s] - 1
            first, last = np.int64(scratch.present[s, 0]), np.int64(scratch.present[s, k])
            at = lz_code._write_table(scratch.dense[s], first, last, out, at)
        elif modes[s] == CONSTANT:
            out[at] = scratch.symbols[s, 0] if n_symbols > 0 else 0
            at += 1
        else:
            for i in range(n_symbols):
                out[at + i] = scratch.symbols[s, i]
            at += n_symbols

    n_words = np.int64(0)
    if any_coded:
        states, words = scratch.states, scratch.words
        for i in range(n_extras, RIDERS):
            scratch.extras[i] = 0
        for lane in range(LANES):
            rider = _read(scratch.extras, 2 * lane, 2)
            states[lane] = np.uint32(RANS_STATE_LOW | rider)
        for s in range(codes + 2, -1, -1):
            if modes[s] == CODED:
                n_words += lz_code.encode_stream(
                    scratch.symbols[s],
                    n_literals if s < codes else n_sequences,
                    scratch.present[s, : n_present[s]],
                    scratch.frequencies[s, : n_present[s]],
                    scratch.dense[s],
                    scratch.starts,
                    scratch.table,
                    states,
                    words[: words.size - n_words],
                    scratch.row_flags,
                )
        size = at + 2 * n_words + RANS_STATES_BYTES + n_rest + n_odd
        if size >= limit:
            return 0
        for i in range(n_words):
            word = words[words.size - n_words + i]
            out[at] = word & 255
            out[at + 1] = word >> 8
            at += 2
        for lane in range(LANES):
            _write(np.int64(states[lane]), 4, out, at)
            at += 4
    if at + n_rest + n_odd >= limit:
        return 0
    for i in range(n_rest):
        out[at + i] = scratch.extras[n_extras - n_rest + i]
    at += n_rest
    for i in range(n_odd):
        out[at + i] = raw[n * word_bytes + i]
    at += n_odd
    out[FLAGS_AT] = flags
    _write(packed_modes, 3, out, MODES_AT)
    _write(n_sequences, 2, out, SEQUENCES_AT)
    _write(n_literals & 65535, 2, out, LITERALS_AT)
    _write(n_words, 4, out, WORDS_AT)
    _write(np.int64(xxh3(np.uint64(out.ctypes.data) + np.uint64(FLAGS_AT), at - FLAGS_AT)), 4, out, 0)
    return at


# --- decode ---------------------------------------------------------------------------------------


@kernel
def _replay(scratch, n_bytes, n_sequences, n_literal_bytes, word_log, codes, fill, n_extras):
    """Carry out the sequences into `scratch.text`. A status."""
    runs, lengths, distances = (
        scratch.symbols[codes],
        scratch.symbols[codes + 1],
        scratch.symbols[codes + 2],
    )
    extras = U(scratch.extras.ctypes.data)
    start = U(scratch.text.ctypes.data)
    end = start + U(n_bytes)
    at = start
    literal = U(scratch.literals.ctypes.data)
    literal_end = literal + U(n_literal_bytes)
    n_bits = U(8 * n_extras)
    bit = U(0)
    last = U(1) << word_log
    one, two, three, four = U(1), U(2), U(3), U(4)
    for i in range(U(n_sequences)):
        bits = load64(extras + (bit >> three)) >> (bit & U(7))
        code = U(runs[i])
        width = (code >> two) - U(code >= four)
        run = ((code - (width << two)) << width) + (bits & ((one << width) - one))
        bits >>= width
        bit += width
        code = U(lengths[i])
        width = (code >> two) - U(code >= four)
        length = ((code - (width << two)) << width) + (bits & ((one << width) - one)) + one
        bits >>= width
        bit += width
        run <<= word_log
        length <<= word_log
        code = U(distances[i])
        if code >= U(DISTANCE_CODE):
            code -= U(DISTANCE_CODE)
            width = (code >> two) - U(code >= four)
            last = ((code - (width << two)) << width) + (bits & ((one << width) - one)) + one
            last <<= word_log
            bit += width
            code = U(DISTANCE_CODE)
        if (run > literal_end - literal) | (run + length > end - at) | (bit > n_bits):
            return BAD_SYMBOL
        copy32(at, literal)
        done = U(32)
        while done < run:
            copy32(at + done, literal + done)
            done += U(32)
        literal += run
        at += run
        after = at + length
        if code == U(FILL_CODE):
            while at < after:
                fill32(at, fill)
                at += U(32)
        else:
            distance = last
            if distance > at - start:
                return BAD_SYMBOL
            source = at - distance
            while distance < U(32):  # double the period until 32 bytes can be copied at once
                copy32(at, source)
                at += distance
                distance += distance
            while at < after:
                copy32(at, source)
                at += U(32)
                source += U(32)
        at = after
    rest = literal_end - literal
    if rest != end - at:
        return BAD_SYMBOL
    done = U(0)
    while done < rest:
        copy32(at + done, literal + done)
        done += U(32)
    if (bit + U(7)) >> three != U(n_extras):
        return BAD_SIZE
    return OK


@kernel
def decode_block(payload, raw, scratch):
    """Decode a payload (uint8) to the block `raw` (uint8). A status.

    The payload may be hostile: nothing outside it is read and nothing outside `raw` and the
    scratch written, whatever it says, and the work is bounded by `raw`'s size.
    """
    size = payload.size
    if size < HEADER_BYTES:
        return BAD_SIZE
    if _read(payload, 0, 4) != np.int64(xxh3(np.uint64(payload.ctypes.data) + np.uint64(FLAGS_AT), payload.size - FLAGS_AT)) & 0xFFFFFFFF:
        return BAD_PADDING
    flags = np.int64(payload[FLAGS_AT])
    word_log = U(flags & 3)
    word_bytes = np.int64(1) << (flags & 3)
    n_odd = flags >> ODD_SHIFT
    n = (raw.size - n_odd) >> np.int64(word_log)
    if n_odd >= word_bytes or n * word_bytes + n_odd != raw.size or n > MAX_WORDS:
        return BAD_SIZE
    modes = _read(payload, MODES_AT, 3)
    n_sequences = _read(payload, SEQUENCES_AT, 2)
    n_literals = _read(payload, LITERALS_AT, 2)
    n_words = _read(payload, WORDS_AT, 4)
    codes = word_bytes
    if n_sequences == 0 and n_literals == n & 65535:
        n_literals = n
    if n_sequences > n or n_literals > n or modes >> (2 * (codes + 3)) != 0:
        return BAD_SIZE
    at = HEADER_BYTES
    fill = U(0)
    if flags & FILLED != 0:
        if at + word_bytes > size:
            return BAD_SIZE
        fill = _repeated(U(_read(payload, at, word_bytes)), word_log)
        if fill == U(0):
            return BAD_TABLE
        at += word_bytes

    limits = np.empty((N_STREAMS, 2), np.int64)
    any_coded = False
    for s in range(codes + 3):
        n_symbols = n_literals if s < codes else n_sequences
        highest = 255
        if s >= codes:
            highest = MAX_CODE if s < codes + 2 else MAX_CODE + DISTANCE_CODE
        mode = (modes >> (2 * s)) & 3
        symbols = scratch.symbols[s]
        if mode == CODED:
            any_coded = True
            status, at, first, last = lz_code._read_table(payload, at, scratch.frequencies[s])
            if status != OK:
                return status
            if last > highest or n_symbols < 2:
                return BAD_TABLE
            limits[s, 0], limits[s, 1] = first, last
        elif mode == CONSTANT:
            if at >= size:
                return BAD_SIZE
            symbol = payload[at]
            if symbol > highest:
                return BAD_SYMBOL
            for i in range(n_symbols):
                symbols[i] = symbol
            at += 1
        elif mode == RAW:
            if at + n_symbols > size:
                return BAD_SIZE
            most = np.uint8(0)
            for i in range(n_symbols):
                symbol = payload[at + i]
                symbols[i] = symbol
                most = max(most, symbol)
            if most > highest:
                return BAD_SYMBOL
            at += n_symbols
        else:
            return BAD_TABLE

    n_extras = size - n_odd - at
    riders = 0
    if any_coded:
        n_extras -= 2 * n_words + RANS_STATES_BYTES
        riders = RIDERS
    elif n_words != 0:
        return BAD_WORDS
    if n_extras < 0 or n_extras > EXTRA_BYTES * n_sequences:
        return BAD_SIZE
    for i in range(n_extras):
        scratch.extras[riders + i] = payload[size - n_odd - n_extras + i]
    n_extras += riders
    if any_coded:
        states = scratch.states
        states_at = at + 2 * n_words
        for lane in range(LANES):
            states[lane] = np.uint32(_read(payload, states_at + 4 * lane, 4))
            if states[lane] < np.uint32(RANS_STATE_LOW):
                return BAD_STATE
        used = np.int64(0)
        for s in range(codes + 3):
            if (modes >> (2 * s)) & 3 == CODED:
                used += lz_code.decode_stream(
                    payload,
                    at + 2 * used,
                    n_words - used,
                    n_literals if s < codes else n_sequences,
                    scratch.frequencies[s],
                    limits[s, 0],
                    limits[s, 1],
                    (scratch.table, states, scratch.present[s], scratch.packed, scratch.starts),
                    scratch.symbols[s],
                )
                if used > n_words:
                    return BAD_WORDS
        if used != n_words:
            return BAD_WORDS
        for lane in range(LANES):
            if states[lane] >> np.uint32(16) != np.uint32(1):
                return BAD_STATE
            scratch.extras[2 * lane] = states[lane] & np.uint32(255)
            scratch.extras[2 * lane + 1] = (states[lane] >> np.uint32(8)) & np.uint32(255)
        if n_extras == RIDERS:  # the riders may be fewer
            while n_extras > 0 and scratch.extras[n_extras - 1] == 0:
                n_extras -= 1

    if word_bytes == 1:
        for i in range(n_literals):
            scratch.literals[i] = scratch.symbols[0, i]
    else:
        table = np.empty((word_bytes, 3), np.uint64)
        for p in range(word_bytes):
            table[p, 0] = scratch.symbols[p].ctypes.data
        planes.merge(
            table,
            word_bytes,
            ROTATE if flags & ROTATED != 0 else PLAIN,
            np.full(word_bytes, 8, np.uint8),
            scratch.literals[: n_literals * word_bytes],
        )
    n_bytes = n * word_bytes
    status = _replay(
        scratch, n_bytes, n_sequences, n_literals * word_bytes, word_log, codes, fill, n_extras
    )
    if status != OK:
        return status
    for i in range(n_bytes):
        raw[i] = scratch.text[i]
    for i in range(n_odd):
        raw[n_bytes + i] = payload[size - n_odd + i]
    return OK
