# SPDX-License-Identifier: Apache-2.0
"""Which parts of a block are copies of earlier parts: the encoder's search and parse.

The rules
---------
They decide bytes, so every encoder follows them exactly. Positions, lengths and distances are in
words, unless bytes are said. The block is walked from its start to its end; behind it, words are 0.

1. The **candidates** of a word are the `WAYS` nearest words before it of the same hash, and word
   0 for those that are missing. The hash is that of the `least` words from the word on
   (`lz_search.py`); `least` follows from what the words cost as literals. Words of a `GROUP` whose
   hashes all equal that of the word before the group do not count; in a block with fill, instead,
   words that are the fill neither count nor have candidates other than word 0. So candidates
   depend on the data alone.
2. At `p`, `WINDOW` words `p`, `p + 1`, ... are looked at: of the candidates of each, the nearest
   `LOOKED_AT` of the level, and one more, the last distance used (at first 1). The longest match
   of them all is taken, lengths counted up to 32 bytes; of equals that of the first word, of
   these the last distance, then the nearest.
3. It must have `least` words, or, at the last distance, one less. Otherwise the words of the
   window are literals, and the walk goes on behind it.
4. The **depth** of a literal is 0, that of a copied word its source's plus 1; where a copy
   overlaps its own source, one more than the deepest word of the period. Words from `p` on count
   as 0. A match ends before the first word whose source is `MAX_DEPTH` deep. If it is too short
   then, its first word is a literal, and the walk goes on behind that.
5. A match of 32 bytes is extended, 32 bytes at a time, under the same conditions.
6. **Fill.** In a block with fill (`lz_choose.py`), runs of the fill need no source: at `p`,
   before rule 2, a run of `FILL_LEAST` bytes is taken; fewer words of fill are literals, and so
   is a word followed by fill. A window without a match then gives one literal.
7. The last words, fewer than `least` or a window, are literals.
"""

from __future__ import annotations

import numpy as np

from . import lz_ops
from .jit import kernel
from .lz_depth import deepen, usable32
from .lz_ops import (
    all_repeat,
    clear,
    copy32,
    get16,
    get64,
    lowest_bit,
    put16,
    put64,
    unlike32,
)
from .lz_search import best_in_window, hash_rows
from .lz_spec import (
    FILL_LEAST,
    GROUP,
    HASH_BITS,
    LEAST,
    LEAST_BITS,
    LEAST_OF_8,
    LOOKED_AT,
    MAX_DEPTH,
    MAX_WORDS,
    WINDOW,
)

CHUNK = 1024  # words whose candidates are looked up at a time
AHEAD = 8
WORD_STARTS = (0xFFFFFFFF, 0x55555555, 0x11111111, 0x01010101)
STRIDE = 2 * MAX_WORDS + 64  # bytes from a list of numbers of the sequences to the next
TABLE_BYTES = 8 << HASH_BITS
SLOTS_BYTES = 8 * (CHUNK + AHEAD)

hash_1 = hash_rows(1, LEAST[0], HASH_BITS)
hash_2x6, hash_2x3, hash_2x2 = (hash_rows(2, words, HASH_BITS) for words in LEAST)
hash_4x6, hash_4x3, hash_4x2 = (hash_rows(4, words, HASH_BITS) for words in LEAST)
hash_8x4, hash_8x3, hash_8x2 = (
    hash_rows(8, words, HASH_BITS) for words in (LEAST_OF_8, *LEAST[1:])
)
_best_fast, _best_ratio = (best_in_window(ways) for ways in LOOKED_AT)
U = np.uint64


@kernel
def least_words(word_log, bits):  # type: ignore[no-untyped-def]
    """How long a match must be, for words that cost `bits` as literals."""
    if word_log == U(0):
        return U(LEAST[0])
    if bits < U(LEAST_BITS[0]):
        return U(LEAST_OF_8) if word_log == U(3) else U(LEAST[0])
    return U(LEAST[1]) if bits < U(LEAST_BITS[1]) else U(LEAST[2])


@kernel
def hash_words(text, word_log, least, n, hashes):  # type: ignore[no-untyped-def]
    """The hashes (u16) of the `n` words at address `text`, rounded up to 32, and zeros for a chunk.

    The table is entered by whole chunks: what was left in memory there would be a place outside of it.
    """
    n_rows = (n + U(31)) >> U(5)
    clear(hashes + (n_rows << U(6)), U(2 * CHUNK))
    if word_log == U(0):
        hash_1(text, hashes, n_rows)
    elif word_log == U(1):
        if least == U(LEAST[0]):
            hash_2x6(text, hashes, n_rows)
        elif least == U(LEAST[1]):
            hash_2x3(text, hashes, n_rows)
        else:
            hash_2x2(text, hashes, n_rows)
    elif word_log == U(2):
        if least == U(LEAST[0]):
            hash_4x6(text, hashes, n_rows)
        elif least == U(LEAST[1]):
            hash_4x3(text, hashes, n_rows)
        else:
            hash_4x2(text, hashes, n_rows)
    elif least == U(LEAST_OF_8):
        hash_8x4(text, hashes, n_rows)
    elif least == U(LEAST[1]):
        hash_8x3(text, hashes, n_rows)
    else:
        hash_8x2(text, hashes, n_rows)


@kernel
def _by_log(values, word_log):  # type: ignore[no-untyped-def]
    """`values[word_log]` of a tuple of four."""
    low = values[0] if word_log == U(0) else values[1]
    high = values[2] if word_log == U(2) else values[3]
    return U(low if word_log < U(2) else high)


@kernel
def _enter(hashes, first, table, slots):  # type: ignore[no-untyped-def]
    """The candidates of CHUNK words from `first` on, to `slots`."""
    for group in range(U(0), U(CHUNK), U(GROUP)):
        here = hashes + ((first + group) << U(1))
        if first + group != U(0) and all_repeat(here):
            slot = get64(table + (get16(here) << U(3)))
            for i in range(group, group + U(GROUP)):
                put64(slots + (i << U(3)), slot)
            continue
        for i in range(group, group + U(GROUP)):
            entry = table + (get16(hashes + ((first + i) << U(1))) << U(3))
            slot = get64(entry)
            put64(slots + (i << U(3)), slot)
            put64(entry, slot << U(16) | (first + i))


@kernel
def _enter_others(hashes, first, table, slots, text, word_log, fill):  # type: ignore[no-untyped-def]
    """As `_enter`, for words other than the fill; the rest have no candidates but word 0."""
    clear(slots, U(8 * CHUNK))
    starts = _by_log(WORD_STARTS, word_log)
    begin = first << word_log
    for at in range(begin, begin + (U(CHUNK) << word_log), U(32)):
        other = unlike32(text + at, fill) & U(0xFFFFFFFF)
        for k in range(word_log):
            other |= other >> (U(1) << k)
        other &= starts
        while other != U(0):
            i = (at + lowest_bit(other)) >> word_log
            other &= other - U(1)
            entry = table + (get16(hashes + (i << U(1))) << U(3))
            slot = get64(entry)
            put64(slots + ((i - first) << U(3)), slot)
            put64(entry, slot << U(16) | i)


@kernel
def parse(  # type: ignore[no-untyped-def]
    text,
    n_bytes,
    word_log,
    least,
    level,
    fill,
    filling,
    hashes,
    table,
    slots,
    depths,
    sequences,
    literals,
):
    """Cut the block at address `text` into literals and matches; (sequences, literal bytes).

    A match has `least` words. `text` and `literals` have `SLACK` bytes of room behind `n_bytes`,
    those of `text` zeros;
    `fill` is the fill, repeated in 8 bytes. Work space: `hashes` for as many words and a chunk,
    `table`, `slots`, and `depths`, as long as `text`. Sequences go to `sequences`, three lists
    of u16, STRIDE bytes apart: literals, the length of the match behind them, and its step: 0 for
    fill, 1 for the distance of the match before, otherwise the distance plus 1.
    """
    word = U(1) << word_log
    whole = U(0) - word
    least <<= word_log
    fill_least = _by_log(FILL_LEAST, word_log)
    next_word = ((U(1) << word) - U(1)) << word
    longest = U(65535) << word_log
    limit = U(MAX_DEPTH)
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
                for i in range(U(0), U(8 * AHEAD), U(8)):
                    put64(slots + i, get64(slots + U(8 * CHUNK) + i))
                base = slots + U(8 * AHEAD)
                if filling:
                    _enter_others(hashes, entered, table, base, text, word_log, fill)
                else:
                    _enter(hashes, entered, table, base)
                base -= entered << U(3)
                entered += U(CHUNK)
            here = base + (index << U(3))
            if level:
                ahead, length, source = _best_ratio(text, p, here, repeat, word_log)
            else:
                ahead, length, source = _best_fast(text, p, here, repeat, word_log)
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
            deepen(depths, p, source, length)
        p += length
        start = p
    done = U(0)
    while done < n_bytes - start:
        copy32(literals + done, text + start + done)
        done += U(32)
    n_sequences = (sequences - first_sequence) >> U(1)
    return n_sequences, literals - first_literal + n_bytes - start
