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
    mark32,
    unlike32,
    usable32,
)

HASH_BITS = 14
HASH_BYTES = (5, 6, 8, 16)  # by log2 of the word size
FILL_LEAST = (4, 4, 4, 8)
MAX_DEPTH = 32
TILE = 16
STRIDE = 256  # words looked up at a time
RING = 1024
WORD_STARTS = (0xFFFFFFFF, 0x55555555, 0x11111111, 0x01010101)
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
def _enter(hashes, table, slots, entered):
    """Look up and enter the next STRIDE words."""
    for group in range(entered, entered + U(STRIDE), U(32)):
        for i in range(group, group + U(32)):
            h = U(hashes[i])
            slot = table[h]
            slots[i & U(RING - 1)] = slot
            table[h] = slot << U(16) | i


@kernel
def parse(
    text, n_bytes, word_log, level, fill, hashes, table, slots, depths, runs, lengths, distances, literals
):
    """Cut the block at address `text` into literals and matches; (sequences, literal bytes)."""
    word = U(1) << word_log
    whole = U(0) - word
    least = U(HASH_BYTES[word_log])
    fill_least = U(FILL_LEAST[word_log])
    word_starts = U(WORD_STARTS[word_log])
    longest = U(65535) << word_log
    limit = U(MAX_DEPTH)
    ring = U(slots.ctypes.data)
    for i in range(U(table.size)):
        table[i] = U(0)
    has_fill = level > 1
    n_sequences = U(0)
    n_literals = U(0)
    start = U(0)  # of the literals not yet copied
    repeat = word
    entered = U(0)  # the table holds the words before this one
    p = word
    last = n_bytes - least if n_bytes >= least else U(0)
    while p <= last:
        source = p
        index = p >> word_log
        while entered < index + U(8):
            _enter(hashes, table, slots, entered)
            entered += U(STRIDE)
        here = index & U(RING - 1)
        ahead, length, source = best_in_window(text, p, ring + (here << U(3)), repeat, word_log, least)
        none = length == U(0)
        p += ahead << word_log
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
        n_sequences += U(1) - U(none)
        n_literals += U(0) if none else p - start
        repeat = repeat if none else p - source
        _deepen(depths, p, source, length)
        p += (word * U(3)) if none else length
        start = start if none else p
    done = U(0)
    while done < n_bytes - start:
        copy32(literals + n_literals + done, text + start + done)
        done += U(32)
    return n_sequences, n_literals + n_bytes - start
