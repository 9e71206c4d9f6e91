# SPDX-License-Identifier: Apache-2.0
"""What the bytes of a file are, guessed from a sample: floats of which size, or something to match.

A wrong guess costs space or time, never a bit. Where in the file the words start is not asked:
misplaced, floats grow by 0 to 1.5 %, since rotation goes round. All of it is integer arithmetic on
the bytes alone, so every machine writes the same file.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from ..codec import encode
from ..config import LZConfig, TensorConfig

if TYPE_CHECKING:
    from ..buffers import Bytes
    from ..config import Config

UNIT_BYTES: Final = 1 << 20  # the guess is made anew for each MiB
_PIECES, _PIECE_BYTES = 8, 1 << 10  # of a unit, evenly spread: its sample
_TRIAL_BYTES = 64 << 10  # encoded both ways where the sample leaves both possible
_LOG2_STEPS = 256  # fixed point of the estimates: 1/256 bit
_SYMBOL_COST = (
    185  # what a symbol more adds to a sampled entropy: 0.72 bits (Miller and Madow, 1955)
)
_NOISE = 7 * _LOG2_STEPS + 51  # a lowest plane of over 7.2 bits a byte leaves LZ nothing to match
_DRIFT = 38  # bits a byte, in the same fixed point, by which a unit may differ from the one before
_TYPES: Final[dict[int, type[np.generic]]] = {
    1: np.uint8,
    2: np.float16,
    4: np.float32,
    8: np.float64,
}


class Choice(NamedTuple):
    """How a unit is encoded."""

    word_bytes: int
    """Of the floats whose planes are coded; 1 for plain bytes."""
    lz: bool
    """Bytes with repetitions."""
    bits: int
    """The estimate that this rests on: bits a byte of the planes, in 1/256."""

    @property
    def kind(self) -> tuple[type[np.generic], Config]:
        """The data type of the frame, and how it is encoded."""
        if self.lz:
            return np.uint8, LZConfig()
        return _TYPES[self.word_bytes], TensorConfig(lz=self.word_bytes > 1)


def choose(unit: Bytes, previous: Choice | None) -> Choice:
    """How to encode a unit of a file, given the choice for the one before it."""
    if previous is not None and unit.size >= previous.word_bytes:
        bits, _ = _bits(unit, previous.word_bytes)
        if abs(bits - previous.bits) < _DRIFT:
            return previous
    bits, lowest = _bits(unit, 1)
    best = Choice(1, lz=False, bits=bits)
    for word_bytes in (2, 4, 8):
        if unit.size >= word_bytes:
            bits, low = _bits(unit, word_bytes)
            if 128 * bits < 127 * best.bits:
                best, lowest = Choice(word_bytes, lz=False, bits=bits), low
    return best if lowest > _NOISE else best._replace(lz=_lz_is_smaller(unit, best))


def _lz_is_smaller(unit: Bytes, choice: Choice) -> bool:
    """Encode a stretch from the middle both ways; LZ is slower, so it must gain 1/64."""
    start = max(0, unit.size - _TRIAL_BYTES) // 16 * 8
    stretch = unit[start : start + _TRIAL_BYTES]
    stretch = stretch[: stretch.size // choice.word_bytes * choice.word_bytes]
    dtype, config = choice.kind
    planes = encode(stretch.view(dtype), config, threads=1)
    matched = encode(stretch, LZConfig(), threads=1)
    return 64 * matched.size < 63 * planes.size


def _bits(unit: Bytes, word_bytes: int) -> tuple[int, int]:
    """Estimated bits a byte of the planes of words, and of the lowest plane alone, in 1/256."""
    words = unit[: unit.size // word_bytes * word_bytes].view(f"<u{word_bytes}")
    length = _PIECE_BYTES // word_bytes
    if words.size > _PIECES * length:
        step = words.size // _PIECES
        words = np.concatenate([words[i * step : i * step + length] for i in range(_PIECES)])
    if word_bytes > 1:  # as the format does: the sign goes down, the exponent is alone at the top
        words = words << 1 | words >> (8 * word_bytes - 1)
    entropies = _entropies(words.view(np.uint8).reshape(-1, word_bytes))
    return int(entropies.sum()) // word_bytes, int(entropies[0])


def _entropies(
    planes: np.ndarray[tuple[int, int], np.dtype[np.uint8]],
) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Bits a symbol of each column, int64[n], in 1/256."""
    n, width = planes.shape
    offsets = 256 * np.arange(width)
    counts = np.bincount((planes + offsets).reshape(-1), minlength=256 * width).reshape(width, 256)
    table = _c_log2_c()
    bits = table[n] - table[counts].sum(axis=1) + _SYMBOL_COST * ((counts > 0).sum(axis=1) - 1)
    return bits // n  # type: ignore[no-any-return]


@cache
def _c_log2_c() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """c log2(c) for counts up to a whole sample, from the bit lengths of powers: exact everywhere."""
    most = _PIECES * _PIECE_BYTES
    logs = (c * ((c**_LOG2_STEPS).bit_length() - 1) for c in range(1, most + 1))
    return np.array([0, *logs], np.int64)
