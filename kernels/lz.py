# SPDX-License-Identifier: Apache-2.0
"""Parallel LZ: the payload of a block, and its decoder.

Words are copied whole, and no word is more than `MAX_DEPTH` copies away from a literal, so that a
GPU decodes by a scan over the sequences, five rounds of pointer jumping and one gather. Here the
decoder is the ordinary loop, which gives the same bytes.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from . import lz_code, lz_match, lz_rows, planes
from .checksum import xxh3
from .jit import inlined, subkernel
from .lz_code import CODED, CONSTANT, RAW, Counts
from .lz_ops import (
    CODE_ROW,
    SLACK,
    clear,
    code_rows,
    copy32,
    fill32,
    get8,
    get16,
    get32,
    get64,
    highest_bit,
    put8,
    put16,
    put32,
    put64,
)
from .spec import (
    BAD_HASH,
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
    ROW,
)
from .vector import copy_bytes

# --- constants of the format (for spec.py) --------------------------------------------------------

MAX_WORDS = 1 << 16
MAX_WORD_BYTES = 8
# check u32, flags u8, modes u24, n_sequences u16, n_literals u16, n_words u32
HEADER_BYTES, FLAGS_AT, MODES_AT, SEQUENCES_AT, LITERALS_AT, WORDS_AT = 16, 4, 5, 8, 10, 12
ROTATED, FILLED, ODD_SHIFT = 4, 8, 4  # flags; below them log2 of the word size
MAX_CODE = 59  # of 65,535
FILL_CODE, REPEAT_CODE, DISTANCE_CODE = 0, 1, 2
RIDERS = 2 * LANES  # bytes of the extras that ride in the states' spare bits
EXTRA_BYTES = 5  # at most 13 bits for each of a sequence's three numbers
FILL_SHARE = 8  # look for runs of a fill that is an eighth of the sample

N_STREAMS = MAX_WORD_BYTES + 3
SYMBOLS_ROOM = MAX_WORDS + 4 * ROW
U = np.uint64


class Scratch(NamedTuple):
    """What `encode_block` and `decode_block` work in; `scratch` makes it, one for each thread."""

    memory: np.ndarray  # uint8: the buffers below, one after the other
    counts: Counts


def _places() -> dict[str, int]:
    """Offsets of the buffers in a scratch's memory, not all at the same place in their page."""
    block = MAX_WORDS * MAX_WORD_BYTES + SLACK
    sizes = {
        "text": block,
        "literals": block,
        "depths": block,
        "symbols": N_STREAMS * SYMBOLS_ROOM,
        "extras": EXTRA_BYTES * MAX_WORDS + RIDERS + SLACK,
        "sequences": 3 * lz_match.STRIDE,
        "values": 8 * MAX_WORDS + SLACK,
        "hashes": 2 * (MAX_WORDS + lz_match.CHUNK) + SLACK,
        "candidates": lz_match.TABLE_BYTES,
        "slots": lz_match.SLOTS_BYTES,
        "frequencies": N_STREAMS * 2048,
        "table": max(lz_rows.DECODE_TABLE_BYTES, lz_rows.ENCODE_TABLE_BYTES),
        "limits": N_STREAMS * 32,
        "states": 4 * LANES,
        "arguments": lz_rows.ARGUMENT_BYTES,
        "planes": 24 * MAX_WORD_BYTES,
        "flags": SYMBOLS_ROOM // ROW,
        "words": 2 * N_STREAMS * MAX_WORDS + SLACK,
        "end": 0,
    }
    places, at = {}, 64
    for name, size in sizes.items():
        places[name] = at
        at += (size + 63) // 64 * 64 + 1088
    return places


_PLACES = _places()
TEXT, LITERALS, DEPTHS, SYMBOLS, EXTRAS, SEQUENCES = (
    U(_PLACES[name]) for name in ("text", "literals", "depths", "symbols", "extras", "sequences")
)
HASHES, CANDIDATES, SLOTS, FREQUENCIES, TABLE, LIMITS = (
    U(_PLACES[name]) for name in ("hashes", "candidates", "slots", "frequencies", "table", "limits")
)
STATES, ARGUMENTS, PLANES, FLAGS, VALUES, WORDS_END = (
    U(_PLACES[name]) for name in ("states", "arguments", "planes", "flags", "values", "end")
)


def scratch() -> Scratch:
    """Work space for blocks of any size. Memory that is not touched costs nothing."""
    return Scratch(
        np.empty(_PLACES["end"], np.uint8),
        Counts(np.empty((4, 256), np.uint32), np.empty(256, np.uint8), np.empty(256, np.uint32)),
    )


@subkernel
def _repeated(word, word_log):  # type: ignore[no-untyped-def]
    """A word repeated in 8 bytes."""
    for k in range(word_log, U(3)):
        word |= word << (U(8) << k)
    return word


@subkernel
def _word_at(address, word_log):  # type: ignore[no-untyped-def]
    """The word at `address`, behind which 8 bytes are readable."""
    return get64(address) & (U(0xFFFFFFFFFFFFFFFF) >> (U(64) - (U(8) << word_log)))


@subkernel
def _plane_table(memory, first, word_bytes):  # type: ignore[no-untyped-def]
    """What `planes` wants to know of the symbols of `word_bytes` streams; its address."""
    table = memory + PLANES
    for p in range(word_bytes):
        put64(table + U(24) * p, memory + SYMBOLS + (first + p) * U(SYMBOLS_ROOM))
        put64(table + U(24) * p + U(8), U(8) * (word_bytes - U(1) - p))
        put64(table + U(24) * p + U(16), U(255))
    return table


# --- encode ---------------------------------------------------------------------------------------


@subkernel
def _fill_of(text, n, word_log):  # type: ignore[no-untyped-def]
    """(fill, whether it pays to look for it), from 64 words spread over the block.

    The fill is the word that more than half of them are, otherwise 0.
    """
    n_samples = min(U(64), n)
    step = (n // n_samples) << word_log
    candidate, votes = U(0), np.int64(0)
    for i in range(n_samples):
        word = _word_at(text + i * step, word_log)
        if votes == 0:
            candidate = word
        votes += 1 if word == candidate else -1
    n_candidate, n_zeros = U(0), U(0)
    for i in range(n_samples):
        word = _word_at(text + i * step, word_log)
        n_candidate += U(word == candidate)
        n_zeros += U(word == U(0))
    if n_candidate + n_candidate > n_samples:
        return candidate, True
    return U(0), n_zeros * U(FILL_SHARE) >= n_samples


@subkernel
def _write_sequences(memory, codes, n):  # type: ignore[no-untyped-def]
    """The three streams of codes, and the bits behind the codes; bytes of these."""
    values = memory + VALUES
    n_rows = (n + U(CODE_ROW - 1)) // U(CODE_ROW)
    code_rows(memory + SEQUENCES, U(lz_match.STRIDE), codes, U(SYMBOLS_ROOM), values, n_rows)
    held, n_held = U(0), U(0)
    at = memory + EXTRAS
    for i in range(n):
        value = get64(values + (i << U(3)))
        held |= (value & U(0xFFFFFFFFFFFFFF)) << n_held
        n_held += value >> U(56)
        put64(at, held)
        at += n_held >> U(3)
        held >>= n_held & U(56)
        n_held &= U(7)
    return at - memory - EXTRAS + U(n_held != U(0))


@inlined
def _split_literals(memory, n, word_log, transform):  # type: ignore[no-untyped-def]
    word_bytes = U(1) << word_log
    table = _plane_table(memory, U(0), word_bytes)
    n_rows = (n + U(ROW - 1)) // U(ROW)
    width = np.int64(word_bytes)
    planes._split_rows(memory + LITERALS, n_rows, width, transform, width, table)


@inlined
def _transform_of(memory, n, word_log, counts):  # type: ignore[no-untyped-def]
    """The transform that makes a sample of the literals smaller."""
    sizes = np.zeros(2, np.uint64)
    sample = min(n, U(4096))
    for rotate in range(2):
        _split_literals(memory, sample, word_log, ROTATE if rotate == 1 else PLAIN)
        for s in range(U(1) << word_log):
            symbols = memory + SYMBOLS + s * U(SYMBOLS_ROOM)
            frequencies = memory + FREQUENCIES + s * U(2048)
            sizes[rotate] += lz_code.plan(symbols, sample, frequencies, counts)[3]
    return ROTATE if sizes[1] < sizes[0] else PLAIN


@subkernel
def _encode_payload(  # type: ignore[no-untyped-def]
    tail, n_odd, word_log, n_sequences, n_literals, fill, out, limit, memory, counts
):
    """Write the payload of a parsed block; its bytes, or 0 if not below `limit`."""
    word_bytes = U(1) << word_log
    n_streams = word_bytes + U(3)
    symbols_at = memory + SYMBOLS
    extras = memory + EXTRAS
    codes = symbols_at + word_bytes * U(SYMBOLS_ROOM)
    n_extras = _write_sequences(memory, codes, n_sequences)
    transform = PLAIN
    if word_log == U(1) or word_log == U(2):
        transform = _transform_of(memory, n_literals, word_log, counts)
    _split_literals(memory, n_literals, word_log, transform)

    # limits: u64 mode, first, last symbol, number of symbols of each stream
    coded, uncoded, others = (
        U(0),
        U(0),
        U(0),
    )  # bytes: of coded streams, had they been raw; the rest
    for s in range(n_streams):
        n = n_literals if s < word_bytes else n_sequences
        symbols = symbols_at + s * U(SYMBOLS_ROOM)
        mode, first, last, size = lz_code.plan(
            symbols, n, memory + FREQUENCIES + s * U(2048), counts
        )
        at = memory + LIMITS + s * U(32)
        put64(at, U(mode))
        put64(at + U(8), first)
        put64(at + U(16), last)
        put64(at + U(24), n)
        if mode == CODED:
            coded += size
            uncoded += n
        else:
            others += size
    riders = min(n_extras, U(RIDERS))
    if coded + U(RANS_STATES_BYTES) >= uncoded + riders:
        coded = U(0)
        others += uncoded
        riders = U(0)
    size = U(HEADER_BYTES) + others + n_extras - riders + n_odd
    if fill != U(0):
        size += word_bytes
    if coded != U(0):
        size += coded + U(RANS_STATES_BYTES)
    if size + U(64) >= limit:  # the exact size is not much larger than the estimate
        return U(0)

    at = out + U(HEADER_BYTES)
    flags = word_log | n_odd << U(ODD_SHIFT)
    if transform == ROTATE:
        flags |= U(ROTATED)
    if fill != U(0):
        flags |= U(FILLED)
        put64(at, fill)
        at += word_bytes
    modes = U(0)
    for s in range(n_streams):
        limits = memory + LIMITS + s * U(32)
        mode, n = get64(limits), get64(limits + U(24))
        if mode == U(CODED) and coded == U(0):
            mode = U(RAW)
            put64(limits, mode)
        modes |= mode << (s + s)
        if mode == U(CODED):
            frequencies = memory + FREQUENCIES + s * U(2048)
            at = lz_code.write_table(frequencies, get64(limits + U(8)), get64(limits + U(16)), at)
        elif mode == U(CONSTANT):
            put8(at, get64(limits + U(16)))
            at += U(1)
        else:
            copy_bytes(at, symbols_at + s * U(SYMBOLS_ROOM), n)
            at += n

    n_words = U(0)
    if coded != U(0):
        put64(extras + n_extras, U(0))
        for i in range(n_extras, U(RIDERS)):
            put8(extras + i, U(0))
        for lane in range(U(LANES)):
            rider = get16(extras + lane + lane)
            put32(memory + STATES + (lane << U(2)), U(RANS_STATE_LOW) | rider)
        begin = memory + WORDS_END
        for i in range(n_streams):
            s = n_streams - U(1) - i
            limits = memory + LIMITS + s * U(32)
            if get64(limits) == U(CODED):
                begin = lz_code.encode_stream(
                    symbols_at + s * U(SYMBOLS_ROOM),
                    get64(limits + U(24)),
                    memory + FREQUENCIES + s * U(2048),
                    get64(limits + U(8)),
                    get64(limits + U(16)),
                    memory + TABLE,
                    memory + STATES,
                    memory + ARGUMENTS,
                    begin,
                    memory + FLAGS,
                )
        n_words = (memory + WORDS_END - begin) >> U(1)
        size = at - out + (n_words << U(1)) + U(RANS_STATES_BYTES) + n_extras - riders + n_odd
        if size >= limit:
            return U(0)
        copy_bytes(at, begin, n_words << U(1))
        at += n_words << U(1)
        copy_bytes(at, memory + STATES, U(RANS_STATES_BYTES))
        at += U(RANS_STATES_BYTES)
    copy_bytes(at, extras + riders, n_extras - riders)
    at += n_extras - riders
    copy_bytes(at, tail, n_odd)
    at += n_odd
    put32(out + U(FLAGS_AT), flags | modes << U(8))
    put16(out + U(SEQUENCES_AT), n_sequences)
    put16(out + U(LITERALS_AT), n_literals)
    put32(out + U(WORDS_AT), n_words)
    size = at - out
    put32(out, U(xxh3(out + U(FLAGS_AT), np.int64(size) - FLAGS_AT)))
    return size


@subkernel
def encode_block(raw, word_bytes, level, out, limit, scratch):  # type: ignore[no-untyped-def]
    """Write the payload of the block `raw` (uint8); its bytes, or 0 if not below `limit`.

    `word_bytes` is 1, 2, 4 or 8, and `raw` holds at most MAX_WORDS words; up to `word_bytes - 1` bytes
    may follow the last. Level 0 is fast, 1 has the better ratio. `out` (uint8) has room for `limit`
    bytes; `scratch` is of `scratch()`.
    """
    memory = U(scratch.memory.ctypes.data)
    source = U(raw.ctypes.data)
    word_log = highest_bit(U(word_bytes))
    n = U(raw.size) >> word_log
    n_bytes = n << word_log
    if n < U(2):
        return 0
    text = memory + TEXT
    copy_bytes(text, source, n_bytes)
    clear(text + n_bytes, U(SLACK))
    fill, filling = _fill_of(text, n, word_log)
    n_sequences, n_literals = lz_match.parse(
        text,
        n_bytes,
        word_log,
        _repeated(fill, word_log),
        filling,
        memory + HASHES,
        memory + CANDIDATES,
        memory + SLOTS,
        memory + DEPTHS,
        memory + SEQUENCES,
        memory + LITERALS,
    )
    size = _encode_payload(
        source + n_bytes,
        U(raw.size) - n_bytes,
        word_log,
        n_sequences,
        n_literals >> word_log,
        fill,
        U(out.ctypes.data),
        U(limit),
        memory,
        scratch.counts,
    )
    return np.int64(size)


# --- decode ---------------------------------------------------------------------------------------


@subkernel
def _replay(memory, n_bytes, n_sequences, literal_bytes, word_log, fill, n_extras):  # type: ignore[no-untyped-def]
    """Carry out the sequences into the text: (status, bits of the extras used)."""
    one, three, four = U(1), U(3), U(4)
    runs = memory + SYMBOLS + (one << word_log) * U(SYMBOLS_ROOM)
    lengths = runs + U(SYMBOLS_ROOM)
    distances = lengths + U(SYMBOLS_ROOM)
    extras = memory + EXTRAS
    start = memory + TEXT
    end = start + n_bytes
    at = start
    literal = memory + LITERALS
    literal_end = literal + literal_bytes
    n_bits = n_extras << three
    bit = U(0)
    last = one << word_log
    for i in range(n_sequences):
        bits = get64(extras + (bit >> three)) >> (bit & U(7))
        code = get8(runs + i)
        width = (code >> U(2)) - U(code >= four)
        run = ((code - (width << U(2))) << width) + (bits & ((one << width) - one))
        bits >>= width
        bit += width
        code = get8(lengths + i)
        width = (code >> U(2)) - U(code >= four)
        length = ((code - (width << U(2))) << width) + (bits & ((one << width) - one)) + one
        bits >>= width
        bit += width
        run <<= word_log
        length <<= word_log
        code = get8(distances + i)
        if code >= U(DISTANCE_CODE):
            code -= U(DISTANCE_CODE)
            width = (code >> U(2)) - U(code >= four)
            last = ((code - (width << U(2))) << width) + (bits & ((one << width) - one)) + one
            last <<= word_log
            bit += width
            code = U(DISTANCE_CODE)
        if (run > literal_end - literal) | (run + length > end - at) | (bit > n_bits):
            return BAD_SYMBOL, bit
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
                return BAD_SYMBOL, bit
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
    if rest != end - at or bit > n_bits:
        return BAD_SYMBOL, bit
    done = U(0)
    while done < rest:
        copy32(at + done, literal + done)
        done += U(32)
    return OK, bit


@inlined
def _read_streams(memory, at, end, modes, word_bytes, n_literals, n_sequences):  # type: ignore[no-untyped-def]
    """Raw and constant streams, and the tables of the others: (status, their end, any coded)."""
    any_coded = False
    status = OK
    for s in range(word_bytes + U(3)):
        n = n_literals if s < word_bytes else n_sequences
        highest = U(255)
        if s >= word_bytes:
            highest = U(MAX_CODE) if s < word_bytes + U(2) else U(MAX_CODE + DISTANCE_CODE)
        mode = (modes >> (s + s)) & U(3)
        symbols = memory + SYMBOLS + s * U(SYMBOLS_ROOM)
        if status != OK:
            continue
        if mode == U(CODED):
            any_coded = True
            status, at, first, last = lz_code.read_table(
                at, end, memory + FREQUENCIES + s * U(2048)
            )
            put64(memory + LIMITS + s * U(32), first)
            put64(memory + LIMITS + s * U(32) + U(8), last)
            if status == OK and (last > highest or n < U(2)):
                status = BAD_TABLE
        elif mode == U(CONSTANT):
            if at >= end:
                status = BAD_SIZE
                continue
            symbol = get8(at)
            at += U(1)
            pattern = symbol * U(0x0101010101010101)
            for i in range(U(0), n, U(32)):
                fill32(symbols + i, pattern)
            if symbol > highest:
                status = BAD_SYMBOL
        elif mode == U(RAW):
            if end - at < n:
                status = BAD_SIZE
                continue
            copy_bytes(symbols, at, n)
            at += n
            most = U(0)
            if highest < U(255):
                for i in range(n):
                    most = max(most, get8(symbols + i))
            if most > highest:
                status = BAD_SYMBOL
        else:
            status = BAD_TABLE
    return status, at, any_coded


@subkernel
def _decode(payload, size, raw, raw_size, memory):  # type: ignore[no-untyped-def]
    """`decode_block`, by address."""
    if size < U(HEADER_BYTES):
        return BAD_SIZE
    check = U(xxh3(payload + U(FLAGS_AT), np.int64(size) - FLAGS_AT)) & U(0xFFFFFFFF)
    if get32(payload) != check:
        return BAD_HASH
    flags = get8(payload + U(FLAGS_AT))
    modes = get32(payload + U(FLAGS_AT)) >> U(8)
    word_log = flags & U(3)
    word_bytes = U(1) << word_log
    n_odd = flags >> U(ODD_SHIFT)
    n = (raw_size - n_odd) >> word_log
    n_bytes = n << word_log
    if n_odd >= word_bytes or n_bytes + n_odd != raw_size or n > U(MAX_WORDS):
        return BAD_SIZE
    n_sequences, n_literals = get16(payload + U(SEQUENCES_AT)), get16(payload + U(LITERALS_AT))
    n_words = get32(payload + U(WORDS_AT))
    if n_sequences == U(0) and n_literals == n & U(65535):
        n_literals = n
    if n_sequences > n or n_literals > n or modes >> (U(6) + word_bytes + word_bytes) != U(0):
        return BAD_SIZE
    at, end = payload + U(HEADER_BYTES), payload + size
    fill = U(0)
    if flags & U(FILLED) != U(0):
        if size < U(HEADER_BYTES) + word_bytes:
            return BAD_SIZE
        for i in range(word_bytes):
            fill |= get8(at + i) << (U(8) * i)
        if fill == U(0):
            return BAD_TABLE
        fill = _repeated(fill, word_log)
        at += word_bytes
    status, at, any_coded = _read_streams(
        memory, at, end, modes, word_bytes, n_literals, n_sequences
    )
    if status != OK:
        return status

    extras = memory + EXTRAS
    n_extras = end - at - n_odd
    riders, n_behind = U(0), U(0)
    if any_coded:
        riders = U(RIDERS)
        n_behind = (n_words << U(1)) + U(RANS_STATES_BYTES)
    elif n_words != U(0):
        return BAD_WORDS
    if end - at < n_odd + n_behind or n_extras - n_behind > U(EXTRA_BYTES) * n_sequences:
        return BAD_SIZE
    n_extras -= n_behind
    copy_bytes(extras + riders, end - n_odd - n_extras, n_extras)
    n_extras += riders
    if any_coded:
        states = memory + STATES
        copy_bytes(states, at + (n_words << U(1)), U(RANS_STATES_BYTES))
        for lane in range(U(LANES)):
            if get32(states + (lane << U(2))) < U(RANS_STATE_LOW):
                return BAD_STATE
        used = U(0)
        for s in range(word_bytes + U(3)):
            if (modes >> (s + s)) & U(3) == U(CODED):
                limits = memory + LIMITS + s * U(32)
                used += lz_code.decode_stream(
                    at + (used << U(1)),
                    n_words - used,
                    n_literals if s < word_bytes else n_sequences,
                    memory + FREQUENCIES + s * U(2048),
                    get64(limits),
                    get64(limits + U(8)),
                    memory + TABLE,
                    states,
                    memory + ARGUMENTS,
                    memory + SYMBOLS + s * U(SYMBOLS_ROOM),
                )
                if used > n_words:
                    return BAD_WORDS
        if used != n_words:
            return BAD_WORDS
        for lane in range(U(LANES)):
            state = get32(states + (lane << U(2)))
            if state >> U(16) != U(1):
                return BAD_STATE
            put16(extras + lane + lane, state)

    table = _plane_table(memory, U(0), word_bytes)
    transform = ROTATE if flags & U(ROTATED) != U(0) else PLAIN
    n_rows = (n_literals + U(ROW - 1)) // U(ROW)
    width = np.int64(word_bytes)
    planes._merge_rows(memory + LITERALS, n_rows, width, transform, width, table)
    put64(extras + n_extras, U(0))
    status, n_bits = _replay(
        memory, n_bytes, n_sequences, n_literals << word_log, word_log, fill, n_extras
    )
    if status == OK:
        n_used = (n_bits + U(7)) >> U(3)
        if n_used < n_extras and n_extras != riders:
            return BAD_SIZE
        unused = get8(extras + (n_bits >> U(3))) >> (n_bits & U(7))  # of the last byte in use
        for i in range((n_bits >> U(3)) + U(1), n_extras):
            unused |= get8(extras + i)
        if unused != U(0):
            return BAD_PADDING
        copy_bytes(raw, memory + TEXT, n_bytes)
        copy_bytes(raw + n_bytes, end - n_odd, n_odd)
    return status


@subkernel
def decode_block(payload, raw, scratch):  # type: ignore[no-untyped-def]
    """Decode a payload (uint8) to the block `raw` (uint8). A status.

    The payload may be hostile: nothing outside it is read and nothing outside `raw` and the
    scratch written, whatever it says, and the work is bounded by `raw`'s size.
    """
    memory = U(scratch.memory.ctypes.data)
    source, target = U(payload.ctypes.data), U(raw.ctypes.data)
    return _decode(source, U(payload.size), target, U(raw.size), memory)
