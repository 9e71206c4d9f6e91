# SPDX-License-Identifier: Apache-2.0
"""The decoder of LZ blocks. It trusts nothing that a payload says."""

from __future__ import annotations

import numpy as np

from . import lz_streams, planes
from .checksum import xxh3
from .entries import aligned
from .jit import inlined, kernel
from .lz import (
    ARGUMENTS,
    EXTRAS,
    FREQUENCIES,
    LIMITS,
    LITERALS,
    STATES,
    SYMBOLS,
    SYMBOLS_ROOM,
    TABLE,
    TEXT,
    plane_table,
    repeated,
    word_at,
)
from .lz_ops import copy32, fill32, get8, get16, get32, get64, put16, put32, put64
from .lz_spec import (
    CODED_STREAM,
    CONSTANT_STREAM,
    DISTANCE_CODE,
    EXTRA_BYTES,
    FILL_CODE,
    FILLED,
    FLAGS_AT,
    HEADER_BYTES,
    LITERALS_AT,
    MAX_CODE,
    MAX_WORDS,
    NARROWED_SHIFT,
    ODD_SHIFT,
    RAW_STREAM,
    RIDERS,
    ROTATED,
    SEQUENCES_AT,
    WORDS_AT,
)
from .lz_table import read_table
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

U = np.uint64


@kernel
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
        if mode == U(CODED_STREAM):
            any_coded = True
            status, at, first, last = read_table(at, end, memory + FREQUENCIES + s * U(2048))
            put64(memory + LIMITS + s * U(32), first)
            put64(memory + LIMITS + s * U(32) + U(8), last)
            if status == OK and (last > highest or n < U(2)):
                status = BAD_TABLE
        elif mode == U(CONSTANT_STREAM):
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
        elif mode == U(RAW_STREAM):
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


@kernel
def _widen(text, n, word_log, raw, full_log):  # type: ignore[no-untyped-def]
    """Write the `n` words of the text to `raw`, with zeros on top if they were narrowed."""
    if word_log == full_log:
        copy_bytes(raw, text, n << word_log)
        return
    for i in range(n):
        word = word_at(text + (i << word_log), word_log)
        at = raw + (i << full_log)
        if full_log == U(3):
            put64(at, word)
        elif full_log == U(2):
            put32(at, word)
        else:
            put16(at, word)


@kernel
def _decode(payload, size, raw, raw_size, memory):  # type: ignore[no-untyped-def]
    """`decode_block`, by address."""
    if size < U(HEADER_BYTES):
        return BAD_SIZE
    check = U(xxh3(payload + U(FLAGS_AT), np.int64(size) - FLAGS_AT)) & U(0xFFFFFFFF)
    if get32(payload) != check:
        return BAD_HASH
    flags = get8(payload + U(FLAGS_AT))
    all_flags = get32(payload + U(FLAGS_AT))
    modes = (all_flags & ((U(1) << U(NARROWED_SHIFT)) - U(1))) >> U(8)
    word_log = flags & U(3)
    word_bytes = U(1) << word_log
    full_log = word_log + (all_flags >> U(NARROWED_SHIFT))
    n_odd = flags >> U(ODD_SHIFT)
    if full_log > U(3) or n_odd >> full_log != U(0) or n_odd > raw_size:
        return BAD_SIZE
    n = (raw_size - n_odd) >> full_log
    if (n << full_log) + n_odd != raw_size or n > U(MAX_WORDS):
        return BAD_SIZE
    n_sequences, n_literals = get16(payload + U(SEQUENCES_AT)), get16(payload + U(LITERALS_AT))
    n_words = get32(payload + U(WORDS_AT))
    if n_sequences == U(0) and n_literals == n & U(65535):
        n_literals = n
    if n_sequences + n_literals > n or modes >> (U(6) + word_bytes + word_bytes) != U(0):
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
        fill = repeated(fill, word_log)
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
            if (modes >> (s + s)) & U(3) == U(CODED_STREAM):
                limits = memory + LIMITS + s * U(32)
                used += lz_streams.decode_stream(
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

    table = plane_table(memory, word_bytes)
    transform = ROTATE if flags & U(ROTATED) != U(0) else PLAIN
    n_rows = (n_literals + U(ROW - 1)) // U(ROW)
    width = np.int64(word_bytes)
    planes.merge_rows(memory + LITERALS, n_rows, width, transform, width, table)
    put64(extras + n_extras, U(0))
    status, n_bits = _replay(
        memory, n << word_log, n_sequences, n_literals << word_log, word_log, fill, n_extras
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
        _widen(memory + TEXT, n, word_log, raw, full_log)
        copy_bytes(raw + (n << full_log), end - n_odd, n_odd)
    return status


@kernel
def decode_block(payload, raw, scratch):  # type: ignore[no-untyped-def]
    """Decode a payload (uint8) to the block `raw` (uint8). A status.

    The payload may be hostile: nothing outside it is read and nothing outside `raw` and the
    scratch written, whatever it says, and the work is bounded by `raw`'s size.
    """
    memory = U(scratch.memory.ctypes.data)
    source, target = U(payload.ctypes.data), U(raw.ctypes.data)
    return _decode(source, U(payload.size), target, U(raw.size), memory)


@inlined
def decode_payload(payload, at, end, raw, scratch):  # type: ignore[no-untyped-def]
    """Decode the payload from `at` to `end`, and look at the padding behind it. A status."""
    status = decode_block(payload[at:end], raw, scratch)
    for i in range(end, aligned(end)):
        if payload[i] != 0 and status == OK:
            status = BAD_PADDING
    return status
