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
    from collections.abc import Iterator

    from ..buffers import Bytes
    from ..config import Config

UNIT_BYTES: Final = 1 << 20  # the guess is made anew for each MiB
_PIECES, _PIECE_BYTES = 8, 512  # of a unit, evenly spread: its sample
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


def choices(window: Bytes, previous: Choice | None) -> Iterator[Choice]:
    """How to encode each unit of a window of a file, given the choice for the one before it."""
    n_whole, rest = divmod(window.size, UNIT_BYTES)
    units = window[: n_whole * UNIT_BYTES].reshape(n_whole, UNIT_BYTES)
    at = 0
    while at < n_whole:
        if previous is not None:
            bits = _bits(units[at:], previous.word_bytes).sum(axis=1) // previous.word_bytes
            other = abs(bits - previous.bits) >= _DRIFT
            n_same = int(other.argmax()) if other.any() else len(other)
            yield from [previous] * n_same
            at += n_same
        if at < n_whole:
            previous = _choose(units[at])
            yield previous
            at += 1
    if rest:
        yield _choose(window[n_whole * UNIT_BYTES :])


def _choose(unit: Bytes) -> Choice:
    """How to encode a unit of any size."""
    best, lowest = Choice(1, lz=False, bits=0), 0
    for word_bytes in _TYPES:
        if unit.size >= word_bytes:
            [planes] = _bits(unit[None, : unit.size // word_bytes * word_bytes], word_bytes)
            bits = int(planes.sum()) // word_bytes
            if word_bytes == 1 or 32 * bits < 31 * best.bits:  # samples flatter wide words a little
                best, lowest = Choice(word_bytes, lz=False, bits=bits), int(planes[0])
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


def _bits(
    units: np.ndarray[tuple[int, int], np.dtype[np.uint8]], word_bytes: int
) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Estimated bits a symbol, in 1/256, of the planes of words, lowest first.

    Parameters
    ----------
    units
        uint8[n, m], `m` a whole number of words.

    Returns
    -------
    int64[n, word_bytes]

    """
    words = units.view(f"<u{word_bytes}")
    length = _PIECE_BYTES // word_bytes
    if words.shape[1] > _PIECES * length:
        step = words.shape[1] // _PIECES
        words = np.concatenate(
            [words[:, i * step : i * step + length] for i in range(_PIECES)], axis=1
        )
    if word_bytes > 1:  # as the format does: the sign goes down, the exponent is alone at the top
        words = words << 1 | words >> (8 * word_bytes - 1)
    n_units, n = words.shape
    planes = np.ascontiguousarray(words).view(np.uint8).reshape(n_units, n, word_bytes)
    n_planes = n_units * word_bytes
    offsets = 256 * np.arange(n_planes).reshape(n_units, 1, word_bytes)
    counts = np.bincount((planes + offsets).reshape(-1), minlength=256 * n_planes)
    counts = counts.reshape(n_units, word_bytes, 256)
    table = _c_log2_c()
    bits = table[n] - table[counts].sum(axis=2) + _SYMBOL_COST * ((counts > 0).sum(axis=2) - 1)
    return bits // n  # type: ignore[no-any-return]


@cache
def _c_log2_c() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """c log2(c) for counts up to a whole sample, from the bit lengths of powers: exact everywhere."""
    most = _PIECES * _PIECE_BYTES
    logs = (c * ((c**_LOG2_STEPS).bit_length() - 1) for c in range(1, most + 1))
    return np.array([0, *logs], np.int64)
