# SPDX-License-Identifier: Apache-2.0
"""Which parts of a block are copies of earlier parts: the encoder's search and parse.

The rules
---------
They decide bytes, so that every encoder follows them exactly. Positions, lengths and distances are in
words; a word's hash is that of the `HASH_BYTES[word size]` bytes from its first on, zeros behind the
end (`lz_ops`). The block is walked from its start to its end.

1. The **fill** is a word, run lengths of which need no source. Where the word at `p` is
   the fill, the candidate is the run of fill from `p` on, if it is `FILL_LEAST` bytes long or more.
2. Otherwise, unless the next word is the fill, the candidates are: the last distance
   used (at first 1), and the `ways` nearest positions before `p` of the same hash among those that
   entered the table; free places in the table stand for position 0.
3. A candidate's length is the number of words that are equal and whose source is less than `MAX_DEPTH`
   deep, counted up to 32 bytes. It must have `HASH_BYTES` bytes, the last distance one word less. The
   longest wins; of equals the last distance, then the nearest. Without a winner `p` is a literal.
4. A winner of less than 32 bytes waits for `p + 1`: if that has a longer one, `p` becomes a
   literal and the rule repeats from there, else the first winner is taken. (Level `fast` takes the
   first at once.) One of 32 bytes is taken and extended under the same conditions.
5. The **depth** of literals and fill is 0, that of a copied word its source's plus 1; where a copy
   overlaps its own source, one more than the deepest word of the period.
6. Each position looked up in rule 2 enters the table after its own look-up. So do, of a match
   that is taken, its positions up to `ENTER` behind the last one looked up, and its last two.
"""

from __future__ import annotations

import numpy as np

from . import lz_ops
from .jit import kernel
from .lz_ops import (
    best_in_window,
    copy32,
    deepen32,
    deepest32,
    lowest_bit,
    WINDOW,
    mark32,
    unlike32,
    usable32,
)

HASH_BITS = 14
HASH_BYTES = (5, 6, 8, 16)  # by log2 of the word size
FILL_LEAST = (4, 4, 4, 8)
MAX_DEPTH = 32
CHUNK = 1024  # words looked up at a time
AHEAD = 8
MULTIPLIERS = (0x9E37 | 1, 0x85EB, 0xC2B3, 0x27D5, 0x1657, 0x6CBD, 0xB491, 0x58F3)

hash_rows_1, hash_rows_2, hash_rows_4, hash_rows_8 = (
    lz_ops.hash_rows(1 << k, HASH_BYTES[k], MULTIPLIERS, HASH_BITS) for k in range(4)
)
U = np.uint64


@kernel
def hash_words(text, word_log, n, hashes):
    """Fill `hashes` (address of u16) for the `n` words at address `text`, rounded up to 32."""
    n_rows = (n + U(31)) >> U(5)
    if word_log == 0:
        hash_rows_1(text, hashes, n_rows)
    elif word_log == 1:
        hash_rows_2(text, hashes, n_rows)
    elif word_log == 2:
        hash_rows_4(text, hashes, n_rows)
    else:
        hash_rows_8(text, hashes, n_rows)


@kernel
def _deepen(depths, at, source, length):
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


@kernel
def _enter(hashes, first, table, slots):
    """Look up and enter the words from `first` on, for `slots[AHEAD:]`.

    The last AHEAD of before are the first now, so that a window may reach behind the chunk.
    """
    for i in range(U(AHEAD)):
        slots[i] = slots[U(CHUNK) + i]
    for i in range(U(CHUNK)):
        h = U(hashes[first + i])
        slot = table[h]
        slots[U(AHEAD) + i] = slot
        table[h] = slot << U(16) | (first + i)


@kernel
def parse(
    text, n_bytes, word_log, level, fill, filling, hashes, table, slots, depths, runs, lengths, distances, literals
):
    """Cut the block at address `text` into literals and matches; (sequences, literal bytes)."""
    word = U(1) << word_log
    whole = U(0) - word
    least = U(HASH_BYTES[word_log])
    fill_least = U(FILL_LEAST[word_log])
    next_word = ((U(1) << word) - U(1)) << word
    longest = U(65535) << word_log
    limit = U(MAX_DEPTH)
    for i in range(U(table.size)):
        table[i] = U(0)
    step = word if filling else word * U(WINDOW)
    n_sequences = U(0)
    n_literals = U(0)
    start = U(0)  # of the literals not yet copied
    repeat = word
    entered = U(0)  # the table holds the words before this one
    base = U(0)  # address of word 0's slot, were it there
    p = U(0)
    margin = max(least, word * U(WINDOW))
    while p + margin <= n_bytes:
        length = U(0)
        source = p
        if filling:
            unlike = unlike32(text + p, fill) | U(1 << 32)
            length = lowest_bit(unlike) & whole
            if length < fill_least and (length > U(0) or (unlike & next_word) == U(0)):
                p += max(length, word)
                continue
        if length == U(0):
            if p == U(0):
                p += word
                continue
            index = p >> word_log
            while entered < index + U(AHEAD):
                _enter(hashes, entered, table, slots)
                base = U(slots.ctypes.data) + (U(AHEAD) << U(3)) - (entered << U(3))
                entered += U(CHUNK)
            here = base + (index << U(3))
            ahead, length, source = best_in_window(text, p, here, repeat, word_log)
            at = p + (ahead << word_log)
            if length < least and (length < least - word or at - source != repeat):
                p += step
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
                    more = lowest_bit(unlike32(text + p + length, fill) | U(1 << 32))
                else:
                    at = source + length
                    more = usable32(text + p + length, text + at, depths + at, limit)
                length += more
            length &= whole
        length = min(length, room)
        copy32(literals + n_literals, text + start)
        done = U(32)
        while done < p - start:
            copy32(literals + n_literals + done, text + start + done)
            done += U(32)
        runs[n_sequences] = (p - start) >> word_log
        lengths[n_sequences] = length >> word_log
        distances[n_sequences] = (p - source) >> word_log
        n_sequences += U(1)
        n_literals += p - start
        if source != p:
            repeat = p - source
            _deepen(depths, p, source, length)
        p += length
        start = p
    done = U(0)
    while done < n_bytes - start:
        copy32(literals + n_literals + done, text + start + done)
        done += U(32)
    return n_sequences, n_literals + n_bytes - start
