# SPDX-License-Identifier: Apache-2.0
"""What is left of a damaged container: which elements depend on the damaged blocks of its parts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeAlias

import numpy as np

from .. import buffers
from ..codec import BadBlock, Salvaged
from .axis import is_moved, shape_of
from .cpu import layout_of
from .tensor import Quantized, dequantize

if TYPE_CHECKING:
    from .cpu import Array, Layout

Damage: TypeAlias = dict[str, list[BadBlock]]
"""The damaged blocks of each part."""


def known_steps(steps: Array, damage: Damage) -> Array:
    """Those of the steps between exceptions that lead to a position: none behind a damaged one."""
    bad = damage.get("positions")
    return steps[: bad[0].start // steps.itemsize] if bad else steps


def salvaged(
    quantized: Quantized, damage: Damage, out: Any = None, *, threads: int | None = None
) -> Salvaged:
    """The dequantized tensor with zeros where a damaged block had a say.

    A block of codes, scales, offsets or values spoils the elements that it belongs to. A block of
    positions spoils all elements behind the last exception that is known.
    """
    array = dequantize(quantized, threads=threads)
    filled, _ = buffers.output(array, array.nbytes)
    bad_blocks = list(_bad_ranges(quantized, damage, array.itemsize))
    for bad in bad_blocks:
        filled[bad.start : bad.stop] = 0
    if out is None:
        return Salvaged(array, bad_blocks)
    target, finish = buffers.output(out, array.nbytes)
    target[:] = filled
    finish()
    return Salvaged(out, bad_blocks)


def _bad_ranges(quantized: Quantized, damage: Damage, itemsize: int) -> list[BadBlock]:
    found = []
    for name, blocks in damage.items():
        for block in blocks[:1] if name == "positions" else blocks:
            reason = f"{name}: {block.reason}"
            for first, last in _runs(quantized, _elements(quantized, name, block)):
                found.append(BadBlock(block.block, first * itemsize, last * itemsize, reason))
    return found


def _elements(quantized: Quantized, name: str, bad: BadBlock) -> range | Array:
    """Ascending numbers of the elements that a damaged block of a part spoils."""
    config, positions = quantized.config, quantized.positions
    assert isinstance(config.axis, int)
    layout = layout_of(shape_of(quantized.shape, config.axis), config)
    if name == "codes":
        return range(_of_code(layout, bad.start), _of_code(layout, bad.stop))
    if name == "positions":
        return range(int(positions[-1]) + 1 if positions.size else 0, layout.size)
    size = quantized.values.itemsize if name == "values" else quantized.scales.itemsize
    first, last = bad.start // size, bad.stop // size
    if name == "values":
        return positions[first:last]
    return range(_of_block(layout, first), _of_block(layout, last))


def _of_code(layout: Layout, byte: int) -> int:
    """The first element of a byte of the codes."""
    r, column = divmod(byte, layout.row_bytes)
    return r * layout.row + min(column * 8 // layout.bits, layout.row)


def _of_block(layout: Layout, block: int) -> int:
    """The first element of a block."""
    r, column = divmod(block, layout.n_blocks)
    return r * layout.row + column * layout.block


def _runs(quantized: Quantized, elements: range | Array) -> list[tuple[int, int]]:
    """First and last + 1 of each run of elements in the tensor's own order."""
    shape, axis = quantized.shape, quantized.config.axis
    assert isinstance(axis, int)
    moved = is_moved(axis, len(shape))
    if not len(elements):
        return []
    if isinstance(elements, range) and not moved:
        return [(elements.start, elements.stop)]
    numbers = np.asarray(elements)
    if moved:
        *lead, last = np.unravel_index(numbers, shape_of(shape, axis))
        lead.insert(axis, last)
        numbers = np.sort(np.ravel_multi_index(lead, shape))
    starts = np.diff(numbers, prepend=-2) != 1
    stops = np.append(starts[1:], True)
    return list(zip(numbers[starts].tolist(), (numbers[stops] + 1).tolist(), strict=True))
