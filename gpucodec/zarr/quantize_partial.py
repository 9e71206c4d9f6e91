# SPDX-License-Identifier: Apache-2.0
"""Reading a part of a quantized chunk: only the blocks of codes that a selection touches.

The header and the table of the codes come first, by one request; then these blocks, and, whole,
the scales and exceptions, which are small. Nothing but the selection's rows is dequantized.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from gpucodec import codec, frame as frames
from gpucodec.config import DEFAULT_CONFIG
from gpucodec.errors import CorruptionError, GpucodecError
from gpucodec.quant.axis import shape_of
from gpucodec.quant.codec import assemble, check_part
from gpucodec.quant.cpu import layout_of
from gpucodec.quant.frame import parse, prefix_bytes
from gpucodec.quant.tensor import dequantize, piece

from .chunk import Chunk, note_chunk
from .partial import Source, bounds, decode_touched, is_partial as is_partial_frame, present
from .steps import together

if TYPE_CHECKING:
    import numpy.typing as npt

    from gpucodec.frame import Frame
    from gpucodec.quant import QuantizeConfig, Quantized
    from gpucodec.quant.cpu import Layout
    from gpucodec.quant.frame import Header

    from .steps import Steps

    Box = list[tuple[int, int]]


def is_partial(chunk: Chunk, selection: tuple[Any, ...], config: QuantizeConfig) -> bool:
    """Whether to read the header and the codes' table first."""
    box = bounds(chunk.shape, selection)
    if not box or not chunk.nbytes:
        return False
    layout, box = _moved(chunk, box, config)
    return is_partial_frame(_plane(layout), _in_plane(layout, box), DEFAULT_CONFIG)


def read_selected(
    getter: Any, chunk: Chunk, selection: tuple[Any, ...], config: QuantizeConfig
) -> Steps[npt.NDArray[Any] | None]:
    """Elements of the chunk, of which those selected are set; None if there is no such value.

    `config` is what the array's chunks are written with, and only a guess of the table's size.

    Raises
    ------
    CorruptionError, TruncatedError, UnsupportedError
        What is wrong with the frame.

    """
    box = bounds(chunk.shape, selection)
    assert box, "selections that are not boxes are not partial"
    try:
        source = Source(getter, on_host=True)
        start = yield from _read_start(source, chunk, config)
        if start is None:
            return None
        header, table = start
        layout, box = _moved(chunk, box, header.config)
        quantized = yield from _read_parts(source, header, table, layout, box)
    except GpucodecError as error:
        note_chunk(error, getter)
        raise
    flat = np.empty(layout.size, header.dtype.numpy)  # pages that nothing is put to are not touched
    corners = np.array(box)
    if (corners[:, 0] < corners[:, 1]).all():
        ends = np.ravel_multi_index(tuple(corners - [0, 1]), layout.shape)
        part, first = piece(quantized, int(ends[0]), int(ends[1]) + 1)
        dequantize(part, flat[first : first + prod(part.shape)])
    axis = quantized.config.axis
    assert isinstance(axis, int)
    return np.moveaxis(flat.reshape(layout.shape), -1, axis)


def check_chunk(header: Header, chunk: Chunk) -> None:
    """Make sure that a frame has the chunk's data type and shape.

    Raises
    ------
    CorruptionError
        It has others.

    """
    found, expected = (header.dtype.name, header.shape), (chunk.native.name, chunk.shape)
    if found != expected:
        message = f"the chunk's frame holds {found}, the array's metadata say {expected}"
        raise CorruptionError(message)


def _read_start(
    source: Source, chunk: Chunk, config: QuantizeConfig
) -> Steps[tuple[Header, Frame] | None]:
    """The header, and that of the codes with their table."""
    layout = _moved(chunk, [], config)[0]
    expected = prefix_bytes(len(chunk.shape)) + _plane(layout).table_bytes(DEFAULT_CONFIG)
    [answer] = yield [source.request(0, expected)]
    if answer is None:
        return None
    prefix = present(answer)
    header = parse(prefix, whole=False)
    check_chunk(header, chunk)
    codes = header.parts[0]
    table = prefix[codes.start :]
    codes.check(table)
    needed = frames.table_bytes(table)
    if needed > table.size:
        [answer] = yield [source.request(codes.start, codes.start + needed)]
        table = present(answer)
    parsed = frames.parse(table[:needed], whole=False)
    check_part(codes, parsed, prod(chunk.shape), {})
    return header, parsed


def _read_parts(
    source: Source, header: Header, table: Frame, layout: Layout, box: Box
) -> Steps[Quantized]:
    """The quantized chunk, of whose codes those in the box are set."""
    codes, *others = header.parts
    begin, end = others[0].start, others[-1].stop
    plane = replace(source, start=codes.start, stop=codes.stop)
    [answer], [raw] = yield from together(
        [source.request(begin, end)],
        [decode_touched(plane, table, _plane(layout), _in_plane(layout, box))],
    )
    rest = present(answer)
    arrays: dict[str, Any] = {"codes": raw.reshape(layout.codes_shape)}
    n_exceptions: dict[str, int] = {}
    for part in others:
        frame = rest[part.start - begin : part.stop - begin]
        part.check(frame)
        check_part(part, frames.parse(frame), layout.size, n_exceptions)
        arrays[part.name] = codec.decode(frame, limit=None)
    return assemble(header, arrays)


def _moved(chunk: Chunk, box: Box, config: QuantizeConfig) -> tuple[Layout, Box]:
    """How the chunk lies with the blocks' axis moved to the end, and so the box."""
    axis = -1 if config.axis == "auto" else config.axis
    layout = layout_of(shape_of(chunk.shape, axis), config)
    if box:
        axis %= len(box)
        box = [*box[:axis], *box[axis + 1 :], box[axis]]
    return layout, box


def _plane(layout: Layout) -> Chunk:
    """The codes as a chunk of their own."""
    return Chunk(layout.codes_shape, np.dtype(np.uint8))


def _in_plane(layout: Layout, box: Box) -> tuple[slice, ...]:
    """The bytes of the codes that hold a box of elements."""
    *lead, (low, high) = box
    low, high = low * layout.bits // 8, -(-high * layout.bits // 8)
    return tuple(slice(*one) for one in (*lead, (low, high)))
