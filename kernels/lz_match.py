# SPDX-License-Identifier: Apache-2.0
"""Which parts of a block are copies of earlier parts: the encoder's search and parse.

The rules
---------
They decide bytes, so every encoder follows them exactly. Positions, lengths and distances are in words,
unless bytes are said. The block is walked from its start to its end; behind the end, words are 0.

1. The **candidates** of a word are the `WAYS` nearest words before it of the same hash, and word 0 for
   those that are missing. The hash is that of the `HASH_BYTES` bytes from the word on (`lz_ops`). So
   candidates depend on the data alone.
2. At `p`, `WINDOW` words `p`, `p + 1`, ... are looked at. Each has one more candidate, the last distance
   used (at first 1). The longest match of them all is taken, lengths counted up to 32 bytes; of equals
   that of the first word, of these the last distance, then the nearest.
3. It must have `HASH_BYTES` bytes, or, at the last distance, a word less. Otherwise the words of the
   window are literals, and the walk goes on behind it.
4. The **depth** of a literal is 0, that of a copied word its source's plus 1; where a copy
   overlaps its own source, one more than the deepest word of the period. Words from `p` on count as 0. A
   match ends before the first word whose source is `MAX_DEPTH` deep. If it is too short then, its first
   word is a literal, and the walk goes on behind that.
5. A match of 32 bytes is extended, 32 bytes at a time, under the same conditions.
6. **Fill.** In a block of which a sample shows that it is worth it (`lz.py`), runs of the fill need no
   source: at `p`, before rule 2, a run of `FILL_LEAST` bytes is taken; fewer words of fill are
   literals, and so is a word followed by fill. A window without a match then gives one literal.
7. The last words, fewer than `HASH_BYTES` bytes or a window, are literals.
"""

from __future__ import annotations

import numpy as np

from . import lz_ops
from .jit import subkernel
from .lz_ops import (
    WINDOW,
    best_in_window,
    clear,
    copy32,
    deepen32,
    deepest32,
    get16,
    get64,
    lowest_bit,
    mark32,
    put16,
    put64,
    unlike32,
    usable32,
)

HASH_BITS = 14
HASH_BYTES = (6, 6, 8, 16)  # by log2 of the word size
FILL_LEAST = (4, 4, 4, 8)
MAX_DEPTH = 32
MULTIPLIERS = (0x9E37, 0x85EB, 0xC2B3, 0x27D5, 0x1657, 0x6CBD, 0xB491, 0x58F3)
CHUNK = 1024  # words whose candidates are looked up at a time
AHEAD = 8
STRIDE = 2 * (1 << 16) + 64  # bytes from a list of numbers of the sequences to the next
TABLE_BYTES = 8 << HASH_BITS
SLOTS_BYTES = 8 * (CHUNK + AHEAD)

hash_rows_1, hash_rows_2, hash_rows_4, hash_rows_8 = (
    lz_ops.hash_rows(1 << k, HASH_BYTES[k], MULTIPLIERS, HASH_BITS) for k in range(4)
)
U = np.uint64


@subkernel
def _hash(text, word_log, n, hashes):  # type: ignore[no-untyped-def]
    """The hashes (u16) of the `n` words at address `text`, rounded up to 32."""
    n_rows = (n + U(31)) >> U(5)
    if word_log == U(0):
        hash_rows_1(text, hashes, n_rows)
    elif word_log == U(1):
        hash_rows_2(text, hashes, n_rows)
    elif word_log == U(2):
        hash_rows_4(text, hashes, n_rows)
    else:
        hash_rows_8(text, hashes, n_rows)


@subkernel
def _enter(hashes, first, table, slots):  # type: ignore[no-untyped-def]
    """The candidates of CHUNK words from `first` on, into `slots[AHEAD:]`.

    The last AHEAD of before come first, so that a window may reach over the chunk's begin.
    """
    for i in range(U(0), U(8 * AHEAD), U(8)):
        put64(slots + i, get64(slots + U(8 * CHUNK) + i))
    for i in range(U(CHUNK)):
        entry = table + (get16(hashes + ((first + i) << U(1))) << U(3))
        slot = get64(entry)
        put64(slots + U(8 * AHEAD) + (i << U(3)), slot)
        put64(entry, slot << U(16) | (first + i))


@subkernel
def _deepen(depths, at, source, length):  # type: ignore[no-untyped-def]
    """Set the depths of a copy of `length` bytes; what lies behind it, up to 32 bytes, is zeroed."""
    distance = at - source
    if distance >= length:
        deepen32(depths + at, depths + source, length)
        done = U(32)
        while done < length:
            deepen32(depths + at + done, depths + source + done, length - done)
            done += U(32)
        return
    done = U(0)
    deepest = U(0)
    while done < distance:
        deepest = max(deepest, deepest32(depths + source + done, distance - done))
        done += U(32)
    done = U(0)
    while done < length:
        mark32(depths + at + done, deepest + U(1), length - done)
        done += U(32)


@subkernel
def _by_log(values, word_log):  # type: ignore[no-untyped-def]
    """`values[word_log]` of a tuple of four."""
    low = values[0] if word_log == U(0) else values[1]
    high = values[2] if word_log == U(2) else values[3]
    return U(low if word_log < U(2) else high)


@subkernel
def parse(  # type: ignore[no-untyped-def]
    text, n_bytes, word_log, fill, filling, hashes, table, slots, depths, sequences, literals
):
    """Cut the block at address `text` into literals and matches; (sequences, literal bytes).

    `text` and `literals` have `SLACK` bytes of room behind `n_bytes`, those of `text` zeros;
    `fill` is the fill, repeated in 8 bytes. Work space: `hashes` for as many words and a chunk,
    `table`, `slots`, and `depths`, as long as `text`. Sequences go to `sequences`, three lists
    of u16, STRIDE bytes apart: literals, the length of the match behind them, and its step: 0 for
    fill, 1 for the distance of the match before, otherwise the distance plus 1.
    """
    word_log = U(0)
    word = U(1) << word_log
    whole = U(0) - word
    least = _by_log(HASH_BYTES, word_log)
    fill_least = _by_log(FILL_LEAST, word_log)
    next_word = ((U(1) << word) - U(1)) << word
    longest = U(65535) << word_log
    limit = U(MAX_DEPTH)
    _hash(text, word_log, n_bytes >> word_log, hashes)
    clear(table, U(TABLE_BYTES))
    clear(slots, U(SLOTS_BYTES))
    clear(depths, n_bytes + U(lz_ops.SLACK))
    stride = word if filling else word * U(WINDOW)
    margin = max(least, word * U(WINDOW))
    first_sequence, first_literal = sequences, literals
    start = U(0)  # of the literals not yet copied
    repeat = word
    entered = U(0)  # the table holds the words before this one
    base = U(0)  # address of word 0's slot, were it there
    p = U(0)
    while p + margin <= n_bytes:
        length = U(0)
        source = p
        if filling:
            unlike = unlike32(text + p, fill)
            length = lowest_bit(unlike) & whole
            if length < fill_least and (length > U(0) or (unlike & next_word) == U(0)):
                p += max(length, word)
                continue
        if length == U(0):
            if p == U(0):
                p = word
                continue
            index = p >> word_log
            while entered < index + U(AHEAD):
                _enter(hashes, entered, table, slots)
                base = slots + U(8 * AHEAD) - (entered << U(3))
                entered += U(CHUNK)
            here = base + (index << U(3))
            ahead, length, source = best_in_window(text, p, here, repeat, word_log)
            at = p + (ahead << word_log)
            if length < least and (length < least - word or at - source != repeat):
                p += stride
                continue
            p = at
            length &= whole
            if usable32(text + p, text + source, depths + source, limit) < length:
                length = usable32(text + p, text + source, depths + source, limit) & whole
                if length < least and (length < least - word or p - source != repeat):
                    p += word
                    continue

        room = min(n_bytes - p, longest)
        if length >= U(32):
            more = U(32)
            while more == U(32) and length < room:
                if source == p:
                    more = lowest_bit(unlike32(text + p + length, fill))
                else:
                    at = source + length
                    more = usable32(text + p + length, text + at, depths + at, limit)
                length += more
            length &= whole
        length = min(length, room)
        copy32(literals, text + start)
        done = U(32)
        while done < p - start:
            copy32(literals + done, text + start + done)
            done += U(32)
        distance = p - source
        step = (distance >> word_log) + U(1)
        if distance == repeat:
            step = U(1)
        if distance == U(0):
            step = U(0)
        put16(sequences, (p - start) >> word_log)
        put16(sequences + U(STRIDE), length >> word_log)
        put16(sequences + U(2 * STRIDE), step)
        sequences += U(2)
        literals += p - start
        if distance != U(0):
            repeat = distance
            _deepen(depths, p, source, length)
        p += length
        start = p
    done = U(0)
    while done < n_bytes - start:
        copy32(literals + done, text + start + done)
        done += U(32)
    n_sequences = (sequences - first_sequence) >> U(1)
    return n_sequences, literals - first_literal + n_bytes - start
