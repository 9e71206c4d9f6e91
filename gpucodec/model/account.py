# SPDX-License-Identifier: Apache-2.0
"""What each stage's result consists of, as arrays whose bytes are counted, and the arithmetic.

A stage is measured by what it would take to store its result as it is, without entropy coding:
values as they are; of pruned tensors the values that are kept and a mask of one bit each, where
that is smaller; of quantized ones codes, scales and exceptions. The last stage is measured by the
files on disk.
"""

from __future__ import annotations

from math import log2
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..quant import quantize

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from .. import QuantizeConfig

    Array = np.ndarray[Any, np.dtype[Any]]
    Parts = Iterator[tuple[str, str, Array]]

ROLES: Final = ("values", "mask", "codes", "scales", "exceptions", "graph")


def entropy(part: float) -> float:
    """Bits of a mask's value, of which `part` are ones: H(p) = -p log2 p - (1-p) log2 (1-p)."""
    if not 0 < part < 1:
        return 0.0
    return -part * log2(part) - (1 - part) * log2(1 - part)


def n_m_bits(n: int, m: int) -> float:
    """Bits a value of a mask that keeps n of each m: log2 of the choices, over m."""
    from math import comb

    return log2(comb(m, n)) / m


def effective_bits(bits: float, kept: float, mask_bits: float | None = None) -> float:
    """Bits a weight if `kept` of the weights of `bits` stay: kept * bits + H(kept).

    >>> round(effective_bits(16, 0.5), 3), round(effective_bits(16, 0.1), 2)
    (9.0, 2.07)
    >>> round(effective_bits(16, 0.5, n_m_bits(2, 4)), 2)
    8.65
    """
    return kept * bits + (entropy(kept) if mask_bits is None else mask_bits)


def as_values(name: str, array: Array) -> Parts:
    """A tensor as it is."""
    yield name, "values", array


def as_kept(name: str, array: Array) -> Parts:
    """A tensor with zeros: what is kept, and a mask, or all of it where that is no larger."""
    flat = np.ravel(array)
    keep = flat != 0
    kept, mask = flat[keep], np.packbits(keep)
    if kept.nbytes + mask.nbytes < flat.nbytes:
        yield name, "values", kept
        yield name, "mask", mask
    else:
        yield name, "values", flat


def as_codes(name: str, array: Array, config: QuantizeConfig) -> Parts:
    """A quantized matrix: codes (of what is kept, with a mask, where smaller), scales, exceptions."""
    made = quantize(array, config)
    codes, keep = made.codes, np.ravel(array) != 0
    mask = np.packbits(keep)
    kept_bytes = -(-int(keep.sum()) * config.spec.bits // 8)
    if kept_bytes + mask.nbytes < codes.nbytes:
        yield name, "codes", _kept_codes(codes, array.shape[-1], keep, config)
        yield name, "mask", mask
    else:
        yield name, "codes", codes
    yield name, "scales", made.scales
    if made.offsets is not None:
        yield name, "scales", made.offsets
    if made.config.scale_type == "e4m3":
        yield name, "scales", np.float32(made.tensor_scale).reshape(1)
    if made.positions.size:
        yield name, "exceptions", made.positions
        yield name, "exceptions", made.values


def _kept_codes(codes: Array, columns: int, keep: Array, config: QuantizeConfig) -> Array:
    """The codes of what is kept, packed again, the low nibble first."""
    if config.spec.bits == 8:  # noqa: PLR2004
        return np.ravel(codes)[keep]
    nibbles = [codes & 15, codes >> 4]
    if config.format == "nf4":  # bitsandbytes has the first one in the high nibble
        nibbles.reverse()
    pairs = np.stack(nibbles, -1).reshape(*codes.shape[:-1], -1)[..., :columns]
    kept = np.ravel(pairs)[keep]
    kept = np.append(kept, np.zeros(kept.size % 2, np.uint8))
    packed: Array = kept[0::2] | kept[1::2] << 4
    return packed


def as_graph(members: Mapping[str, bytes]) -> Parts:
    """The graph's JSON."""
    for name, raw in members.items():
        yield name, "graph", np.frombuffer(raw, np.uint8)
