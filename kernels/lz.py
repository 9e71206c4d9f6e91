# SPDX-License-Identifier: Apache-2.0
"""Parallel LZ: what a thread works in.

Words are copied whole, and no word is more than `MAX_DEPTH` copies away from a literal, so that a
GPU decodes by a scan over the sequences, six rounds of pointer jumping and one gather. The CPU's
decoder is the ordinary loop, which gives the same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import lz_match, lz_rows
from .jit import kernel
from .lz_ops import SLACK, get64, put64
from .lz_spec import EXTRA_BYTES, MAX_WORD_BYTES, MAX_WORDS, RIDERS
from .lz_streams import Counts
from .spec import LANES, ROW

if TYPE_CHECKING:
    from numpy.typing import NDArray

N_STREAMS = MAX_WORD_BYTES + 3
SYMBOLS_ROOM = MAX_WORDS + 4 * ROW
U = np.uint64


class Scratch(NamedTuple):
    """What `encode_block` and `decode_block` work in; `scratch` makes it, one for each thread."""

    memory: NDArray[np.uint8]  # the buffers below, one after the other
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


@kernel
def repeated(word, word_log):  # type: ignore[no-untyped-def]
    """A word repeated in 8 bytes."""
    for k in range(word_log, U(3)):
        word |= word << (U(8) << k)
    return word


@kernel
def word_at(address, word_log):  # type: ignore[no-untyped-def]
    """The word at `address`, behind which 8 bytes are readable."""
    return get64(address) & (U(0xFFFFFFFFFFFFFFFF) >> (U(64) - (U(8) << word_log)))


@kernel
def plane_table(memory, word_bytes):  # type: ignore[no-untyped-def]
    """What `planes` wants to know of the streams of literals; its address."""
    table = memory + PLANES
    for p in range(word_bytes):
        put64(table + U(24) * p, memory + SYMBOLS + p * U(SYMBOLS_ROOM))
        put64(table + U(24) * p + U(8), U(8) * (word_bytes - U(1) - p))
        put64(table + U(24) * p + U(16), U(255))
    return table
