# SPDX-License-Identifier: Apache-2.0
"""What the LZ encoder chooses before and around the parse.

The encoder's choices
---------------------
They decide bytes, so that every encoder makes them alike. Divisions round down. How a block
is parsed is in `lz_match.py`.

1. **Narrowing**: if all words are below 2^8, 2^16 or 2^32, words of 1, 2 or 4 bytes are coded.
2. **Fill**: `k = min(64, n)` words are looked at, the i-th at `i s + spread(i, s)`, where
   `s = n / k` and `spread(i, m) = (SPREAD i mod 2^16) m / 2^16`. If five eighths of them are the word
   that wins the Boyer-Moore majority vote in this order, that is the fill.
3. **Sample**: 64 rows of 16 words, the i-th at `i s + spread(i, s - 16)`, `s = n / 64` (all
   words, of up to 1,024), cut into byte planes. The sum of these planes' order-0 entropies is
   what the words cost as literals; `lz_match.least_words` takes from it how long a match must be.
4. **Whether to look for matches.** If there is a fill: yes, if words have more than one byte, or
   if eight times the number of bytes that differ from the one before is less than the bits of all
   words as literals. Otherwise, or if not: a match is worth its cost if it covers `WORTH_BITS`
   bits of literals (up to 256 bytes are asked for). Words from the 32nd on whose hash is below
   `TRIED 2^HASH_BITS / max(n, TRIED)` and not that of the word before are tried: yes, if a
   sixteenth of them start a worthwhile match with the nearest earlier tried word of the same hash
   (word 0 if there is none). If fewer than 16 are tried, the words `k n / 16`, k = 1 ... 15, are
   instead, with the nearest of the same hash in the `NEAR` groups of 32 words before: yes, if 4
   start a worthwhile match.
5. **Literals only**, if rule 4 says no; also if the block coded with matches is larger than the
   sample promises for literals alone, and literals alone are smaller indeed.
6. **Transform** of the literals: words of 2 and 4 bytes are rotated if that makes their sample
   smaller.
7. **Streams**: constant if all symbols are the same. Raw if `250 sum c (c - 1) <= n (n - 1)`,
   where c are the counts: near enough to uniform. Otherwise frequencies by rule 5 of `choose.py`
   from the counts of all symbols; coded if smaller than raw by the estimate of rule 6 there. If
   all coded streams with the 128 bytes of states, less what rides in these, are not smaller than
   raw, all are raw.
"""

from __future__ import annotations

import numpy as np

from . import lz_match, lz_streams, planes
from .jit import inlined, kernel
from .lz import CANDIDATES, HASHES, LITERALS, SYMBOLS, SYMBOLS_ROOM, TEXT, plane_table, word_at
from .lz_ops import (
    SLACK,
    alike32,
    clear,
    count_ones,
    equal_to32,
    fresh_below32,
    get8,
    get16,
    get32,
    get64,
    highest_bit,
    lowest_bit,
    put32,
    put64,
    unlike_each32,
)
from .lz_spec import HASH_BITS, NEAR, SAMPLE, SAMPLE_ROW, SAMPLE_ROWS, SPREAD, TRIED, WORTH_BITS
from .spec import LOG2_BITS, PLAIN, ROTATE, ROW
from .vector import copy_bytes

U = np.uint64


@kernel
def _spread(i, span):  # type: ignore[no-untyped-def]
    """Where in its `span` words the `i`-th sample is taken: anywhere, as data have periods."""
    return ((i * U(SPREAD)) & U(65535)) * span >> U(16)


@kernel
def _fill_of(text, n, word_log):  # type: ignore[no-untyped-def]
    """(fill, whether there is one)."""
    n_samples = min(U(64), n)
    step = n // n_samples
    candidate, votes = U(0), np.int64(0)
    for i in range(n_samples):
        word = word_at(text + ((i * step + _spread(i, step)) << word_log), word_log)
        if votes == 0:
            candidate = word
        votes += 1 if word == candidate else -1
    n_candidate = U(0)
    for i in range(n_samples):
        at = (i * step + _spread(i, step)) << word_log
        n_candidate += U(word_at(text + at, word_log) == candidate)
    filling = n_candidate << U(3) >= n_samples * U(5)
    return candidate if filling else U(0), filling


@kernel
def split_literals(memory, n, word_log, rotated):  # type: ignore[no-untyped-def]
    """Cut `n` literals into the planes of the streams."""
    word_bytes = U(1) << word_log
    n_rows = (n + U(ROW - 1)) // U(ROW)
    transform = ROTATE if rotated != U(0) else PLAIN
    width = np.int64(word_bytes)
    table = plane_table(memory, word_bytes)
    planes.split_rows(memory + LITERALS, n_rows, width, transform, width, table)


@kernel
def sample_bits(memory, source, n, word_log, rotated, counts):  # type: ignore[no-untyped-def]
    """Bits of fixed point that `n` words at `source` would cost as literals, by a sample."""
    n_sample = min(n, U(SAMPLE))
    step = n // U(SAMPLE_ROWS)
    if n > U(SAMPLE):
        for i in range(U(SAMPLE_ROWS)):
            to = memory + LITERALS + (i * U(SAMPLE_ROW) << word_log)
            at = (i * step + _spread(i, step - U(SAMPLE_ROW))) << word_log
            copy_bytes(to, source + at, U(SAMPLE_ROW) << word_log)
    else:
        copy_bytes(memory + LITERALS, source, n << word_log)
    split_literals(memory, n_sample, word_log, rotated)
    bits = U(0)
    for s in range(U(1) << word_log):
        bits += lz_streams.entropy(memory + SYMBOLS + s * U(SYMBOLS_ROOM), n_sample, counts)
    return bits * n // n_sample


@kernel
def _n_changes(text, n_bytes):  # type: ignore[no-untyped-def]
    """How many bytes differ from the one before."""
    changes = U(0)
    for i in range(U(1), n_bytes, U(32)):
        few = ~(~U(0) << min(n_bytes - i, U(32)))
        changes += count_ones(unlike_each32(text + i, text + i - U(1)) & few)
    return changes


@kernel
def _alike(text, at, source, need):  # type: ignore[no-untyped-def]
    """Whether `need` bytes at two offsets are the same."""
    done, alike = U(0), U(32)
    while alike == U(32) and done < need:
        alike = alike32(text + at + done, text + source + done)
        done += alike
    return done >= need


@kernel
def _promising(memory, n, word_log, bits, filling):  # type: ignore[no-untyped-def]
    """Rule 4, without a fill of wide words; `bits` is what the block costs as literals."""
    text, hashes, table = memory + TEXT, memory + HASHES, memory + CANDIDATES
    n_bytes = n << word_log
    if filling and _n_changes(text, n_bytes) << U(LOG2_BITS + 3) < bits:
        return True
    words = (U(WORTH_BITS) << U(LOG2_BITS)) * n // max(bits, U(1)) + U(1)
    need = min(words << word_log, U(256))
    below = (U(TRIED) << U(HASH_BITS)) // max(n, U(TRIED))
    clear(table, below << U(2))
    n_tried, n_found = U(0), U(0)
    for group in range(U(32), n, U(32)):
        tried = fresh_below32(hashes + (group << U(1)), below)
        while tried != U(0):
            i = group + lowest_bit(tried)
            tried &= tried - U(1)
            at = i << word_log
            entry = table + (get16(hashes + (i << U(1))) << U(2))
            source = get32(entry)
            put32(entry, i)
            if at + need <= n_bytes:
                n_tried += U(1)
                n_found += U(_alike(text, at, source << word_log, need))
    if n_tried >= U(16):
        return n_found << U(4) >= n_tried
    n_found = U(0)  # too few different hashes: are there repetitions close by?
    for k in range(U(1), U(16)):
        i = k * n // U(16)
        h = get16(hashes + (i << U(1)))
        for group in range(U(NEAR)):
            first = i - U(32) * (group + U(1))
            if U(32) * (group + U(1)) > i:
                break
            same = equal_to32(hashes + (first << U(1)), h)
            if same != U(0):
                source = (first + highest_bit(same)) << word_log
                at = i << word_log
                n_found += U(at + need <= n_bytes and _alike(text, at, source, need))
                break
    return n_found >= U(4)


@kernel
def _used_log(source, n, word_log):  # type: ignore[no-untyped-def]
    """log2 of the bytes that hold all `n` words at `source`, if zeros above them are left out."""
    n_bytes = n << word_log
    whole = U(0xFFFFFFFFFFFFFFFF) >> (U(64) - (U(8) << word_log))
    used = U(0)
    at, log = U(0), U(0)
    while log < word_log and at < n_bytes:
        end = min(at + U(512), n_bytes)
        while at + U(8) <= end:
            used |= get64(source + at)
            at += U(8)
        while at < end:
            used |= get8(source + at) << (U(8) * (at & U(7)))
            at += U(1)
        folded = used | used >> U(32) if word_log < U(3) else used
        folded = folded | folded >> U(16) if word_log < U(2) else folded
        while (folded & whole) >> (U(8) << log) != U(0) and log < word_log:
            log += U(1)
    return log


@kernel
def load_block(source, n, word_log, text):  # type: ignore[no-untyped-def]
    """Bring the words to `text`, narrowed to the bytes they use; log2 of these."""
    log = _used_log(source, n, word_log)
    if log == word_log:
        copy_bytes(text, source, n << word_log)
    else:
        for i in range(n):
            at = source + (i << word_log)
            if word_log == U(3):
                word = get64(at)
            else:
                word = get32(at) if word_log == U(2) else get16(at)
            put64(text + (i << log), word)
    clear(text + (n << log), U(SLACK))
    return log


@inlined
def look_at(n, word_log, memory, counts):  # type: ignore[no-untyped-def]
    """At a loaded block: (fill, whether there is one, least words, literal bytes, whether to parse)."""
    text = memory + TEXT
    fill, filling = _fill_of(text, n, word_log)
    bits = sample_bits(memory, text, n, word_log, U(0), counts)
    least = lz_match.least_words(word_log, bits // n >> U(LOG2_BITS))
    lz_match.hash_words(text, word_log, least, n, memory + HASHES)
    promising = filling and word_log != U(0)
    if not promising:
        promising = _promising(memory, n, word_log, bits, filling)
    return fill, filling, least, bits >> U(LOG2_BITS + 3), promising


@kernel
def detect_word_bytes(raw, counts):  # type: ignore[no-untyped-def]
    """The word size (1, 2, 4 or 8) whose byte planes are the most compressible; the smaller if close.

    `raw` is uint8; of long ones 8 runs of 512 bytes are looked at. `counts` is uint32[8, 256].
    """
    n_runs, run = 8, 512
    step = raw.size // n_runs // 8 * 8
    if raw.size <= n_runs * run:
        n_runs, run, step = 1, raw.size // 8 * 8, 0
    for phase in range(8):
        for s in range(256):
            counts[phase, s] = 0
    for k in range(n_runs):
        for i in range(U(run)):
            counts[i & U(7), raw[U(k * step) + i]] += np.uint32(1)
    best, least = 1, np.int64(0)
    for k in range(3, -1, -1):
        width = 1 << k
        cost = np.int64(0)
        n = np.int64(n_runs * run >> k)
        for phase in range(width):
            cost += np.int64(lz_streams.entropy_of(counts[phase], n))
            for s in range(256):
                cost += np.int64(counts[phase, s] != 0) << (LOG2_BITS + 2)  # a table's entry
        if k == 3 or cost - (cost >> 5) < least:
            best, least = width, cost
        for phase in range(width // 2):  # the planes of words half as wide
            for s in range(256):
                counts[phase, s] += counts[phase + width // 2, s]
    return best
