# SPDX-License-Identifier: Apache-2.0
"""The encoder of LZ blocks. How it chooses is in `lz_choose.py` and `lz_match.py`."""

from __future__ import annotations

import numpy as np

from . import lz_match, lz_streams
from .checksum import xxh3
from .jit import inlined, kernel
from .lz import (
    ARGUMENTS,
    CANDIDATES,
    DEPTHS,
    EXTRAS,
    FLAGS,
    FREQUENCIES,
    HASHES,
    LIMITS,
    LITERALS,
    SEQUENCES,
    SLOTS,
    STATES,
    SYMBOLS,
    SYMBOLS_ROOM,
    TABLE,
    TEXT,
    VALUES,
    WORDS_END,
    repeated,
)
from .lz_choose import load_block, look_at, sample_bits, split_literals
from .lz_numbers import CODE_ROW, code_rows
from .lz_ops import (
    clear,
    get16,
    get64,
    highest_bit,
    put8,
    put16,
    put32,
    put64,
)
from .lz_spec import (
    CODED_STREAM,
    CONSTANT_STREAM,
    FILLED,
    FLAGS_AT,
    HEADER_BYTES,
    LITERALS_AT,
    MAX_WORDS,
    NARROWED_SHIFT,
    ODD_SHIFT,
    RAW_STREAM,
    RIDERS,
    ROTATED,
    SAMPLE,
    SEQUENCES_AT,
    WORDS_AT,
)
from .lz_table import write_table
from .spec import LANES, RANS_STATE_LOW, RANS_STATES_BYTES
from .vector import copy_bytes

U = np.uint64


@kernel
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
def _plan_streams(memory, n_streams, n_literals, n_sequences, counts):  # type: ignore[no-untyped-def]
    """Plan all streams, into `LIMITS` as u64 mode, first, last symbol, number of symbols.

    (bytes of coded streams, of their tables, of the same streams raw, of the others)
    """
    coded, tables, uncoded, others = U(0), U(0), U(0), U(0)
    for s in range(n_streams):
        n = n_sequences if s + U(3) >= n_streams else n_literals
        mode, first, last, size, table = lz_streams.plan(
            memory + SYMBOLS + s * U(SYMBOLS_ROOM), n, memory + FREQUENCIES + s * U(2048), counts
        )
        at = memory + LIMITS + s * U(32)
        put64(at, U(mode))
        put64(at + U(8), first)
        put64(at + U(16), last)
        put64(at + U(24), n)
        if mode == CODED_STREAM:
            coded += size
            tables += table
            uncoded += n
        else:
            others += size
    return coded, tables, uncoded, others


@inlined
def _write_words(memory, n_streams):  # type: ignore[no-untyped-def]
    """Code the coded streams, the last first; where their words begin, which end at WORDS_END."""
    begin = memory + WORDS_END
    for i in range(n_streams):
        s = n_streams - U(1) - i
        limits = memory + LIMITS + s * U(32)
        if get64(limits) == U(CODED_STREAM):
            begin = lz_streams.encode_stream(
                memory + SYMBOLS + s * U(SYMBOLS_ROOM),
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
    return begin


@kernel
def _encode_payload(  # type: ignore[no-untyped-def]
    tail, n_odd, word_log, narrowed, n_sequences, n_literals, fill, out, limit, memory, counts
):
    """Write the payload of a parsed block; its bytes, or 0 if not below `limit`."""
    word_bytes = U(1) << word_log
    n_streams = word_bytes + U(3)
    extras = memory + EXTRAS
    n_extras = _write_sequences(
        memory, memory + SYMBOLS + word_bytes * U(SYMBOLS_ROOM), n_sequences
    )
    rotated = U(0)
    if (word_log == U(1) or word_log == U(2)) and n_literals != U(0):
        source = memory + LITERALS
        if n_literals > U(SAMPLE):  # the sample is taken where the literals are: keep them
            source = memory + DEPTHS
            copy_bytes(source, memory + LITERALS, n_literals << word_log)
        plain = sample_bits(memory, source, n_literals, word_log, U(0), counts)
        turned = sample_bits(memory, source, n_literals, word_log, U(1), counts)
        rotated = U(turned < plain)
        if n_literals > U(SAMPLE):
            copy_bytes(memory + LITERALS, source, n_literals << word_log)
    split_literals(memory, n_literals, word_log, rotated)
    coded, tables, uncoded, others = _plan_streams(
        memory, n_streams, n_literals, n_sequences, counts
    )
    size = U(HEADER_BYTES) + others + uncoded + n_extras + n_odd  # if no stream is coded
    if fill != U(0):
        size += word_bytes
    riders, begin = U(0), memory + WORDS_END
    promised = coded + U(RANS_STATES_BYTES)
    saved = uncoded + min(n_extras, U(RIDERS))
    is_coded = promised < saved and size - saved + promised < limit
    if is_coded:
        clear(extras + n_extras, U(RIDERS))
        for lane in range(U(LANES)):
            rider = get16(extras + lane + lane)
            put32(memory + STATES + (lane << U(2)), U(RANS_STATE_LOW) | rider)
        begin = _write_words(memory, n_streams)
        exact = memory + WORDS_END - begin + tables + U(RANS_STATES_BYTES)
        is_coded = exact < saved
        if is_coded:
            riders = min(n_extras, U(RIDERS))
            size = size - saved + exact
    if size >= limit:
        return U(0)

    at = out + U(HEADER_BYTES)
    flags = word_log | n_odd << U(ODD_SHIFT)
    if rotated != U(0):
        flags |= U(ROTATED)
    if fill != U(0):
        flags |= U(FILLED)
        put64(at, fill)
        at += word_bytes
    modes = U(0)
    for s in range(n_streams):
        limits = memory + LIMITS + s * U(32)
        mode, n = get64(limits), get64(limits + U(24))
        if mode == U(CODED_STREAM) and not is_coded:
            mode = U(RAW_STREAM)
            put64(limits, mode)
        modes |= mode << (s + s)
        if mode == U(CODED_STREAM):
            frequencies = memory + FREQUENCIES + s * U(2048)
            at = write_table(frequencies, get64(limits + U(8)), get64(limits + U(16)), at)
        elif mode == U(CONSTANT_STREAM):
            put8(at, get64(limits + U(16)))
            at += U(1)
        else:
            copy_bytes(at, memory + SYMBOLS + s * U(SYMBOLS_ROOM), n)
            at += n

    n_words = U(0)
    if is_coded:
        n_words = (memory + WORDS_END - begin) >> U(1)
        copy_bytes(at, begin, n_words << U(1))
        at += n_words << U(1)
        copy_bytes(at, memory + STATES, U(RANS_STATES_BYTES))
        at += U(RANS_STATES_BYTES)
    copy_bytes(at, extras + riders, n_extras - riders)
    at += n_extras - riders
    copy_bytes(at, tail, n_odd)
    assert at + n_odd == out + size
    put32(out + U(FLAGS_AT), flags | modes << U(8) | narrowed << U(NARROWED_SHIFT))
    put16(out + U(SEQUENCES_AT), n_sequences)
    put16(out + U(LITERALS_AT), n_literals)
    put32(out + U(WORDS_AT), n_words)
    put32(out, U(xxh3(out + U(FLAGS_AT), np.int64(size) - FLAGS_AT)))
    return size


@kernel
def encode_block(  # type: ignore[no-untyped-def]
    source, n_bytes, word_bytes, level, matches_only, out, limit, scratch
):
    """Write the payload of a block; its bytes, or 0 if not below `limit`.

    Also 0 if `matches_only` and a sample of the block says that matches do not pay.

    The block are `n_bytes` (uint64) bytes at the address `source`: at most MAX_WORDS words of `word_bytes`
    (1, 2, 4 or 8), and up to `word_bytes - 1` bytes behind the last. Level 0 is fast, 1 has the
    better ratio. At the address `out` there is room for `limit` and 8 bytes more; `scratch` is of
    `lz.scratch()`.
    """
    memory = U(scratch.memory.ctypes.data)
    full_log = highest_bit(word_bytes)
    if n_bytes >> full_log == U(0):  # not one word: bytes
        full_log = U(0)
    n = n_bytes >> full_log
    if n == U(0) or n > U(MAX_WORDS):
        return 0
    word_log = load_block(source, n, full_log, memory + TEXT)
    text_bytes = n << word_log
    fill, filling, least, literal_bytes, promising = look_at(n, word_log, memory, scratch.counts)
    size = U(0)
    tail = source + (n << full_log)
    for turn in range(2):  # with matches, then without
        n_sequences, n_literals = U(0), n
        if turn == 0:
            if not promising:
                if matches_only:
                    break
                continue
            n_sequences, n_literals = lz_match.parse(
                memory + TEXT,
                text_bytes,
                word_log,
                least,
                level,
                repeated(fill, word_log),
                filling,
                memory + HASHES,
                memory + CANDIDATES,
                memory + SLOTS,
                memory + DEPTHS,
                memory + SEQUENCES,
                memory + LITERALS,
            )
            n_literals >>= word_log
        else:
            if matches_only or (size != U(0) and size <= literal_bytes):
                break
            copy_bytes(memory + LITERALS, memory + TEXT, text_bytes)
            fill = U(0)
        found = _encode_payload(
            tail,
            n_bytes - (n << full_log),
            word_log,
            full_log - word_log,
            n_sequences,
            n_literals,
            fill,
            out,
            limit if size == U(0) else min(size, limit),
            memory,
            scratch.counts,
        )
        if found != U(0):
            size = found
    return np.int64(size)
