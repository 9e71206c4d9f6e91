# SPDX-License-Identifier: Apache-2.0
"""Quantized tensors on a GPU: containers around the frames that the engine encodes and decodes.

What the kernels do not know is done on the host, on copies: float64 and float8, and which axis suits
log8 if that is asked.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import frame as frames
from ..codec import noting
from ..dtypes import BY_NAME
from ..kernels.spec import HASH_OFFSET
from ..quant import codec as quantcodec, frame as quantframe
from ..quant.axis import decided, require_axis
from ..quant.tensor import NATIVE, require_float
from . import arrays, batch, heads, quantize as launches

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from ..buffers import Bytes
    from ..codec import BadBlock
    from ..errors import CorruptionError
    from ..frame import Frame
    from ..quant import QuantizeConfig
    from ..quant.frame import Header
    from .arrays import DeviceArray
    from .device import Device
    from .quantize import Dequantizing, Plane


def encode(
    device: Device,
    found: DeviceArray,
    config: QuantizeConfig,
    room: Any,
    stream: int,
    encode_frames: Callable[[Sequence[Any]], list[Any]],
) -> Any:
    """The container of an array on a device, in `room` there if that is given.

    `encode_frames` makes frames on the device of arrays there.
    """
    dtype, shape = found.require_dtype(), found.shape
    require_float(dtype)
    config = _decided(device, found, config, stream)
    if dtype.name not in NATIVE:
        frame = quantcodec.encode_quantized(_on_host(device, found, stream), config)
        out = _room(device, found, room, frame.size)
        device.upload(arrays.view(out).address, frame, stream)
        return out
    kept: list[Any] = []
    source = batch.place(device, found.address, found.n_bytes, stream, kept)
    tensor = launches.quantize(device, source, dtype, shape, config, stream)
    for plane in tensor.planes.values():
        plane.device.id = found.index
    made = [arrays.view(frame) for frame in encode_frames(list(tensor.planes.values()))]
    digests = heads.fetch(device, [(one.address + HASH_OFFSET, 8) for one in made], stream)
    table = [
        (one.n_bytes, int.from_bytes(digest.tobytes(), "little"))
        for one, digest in zip(made, digests, strict=True)
    ]
    start = quantframe.header(config, dtype, shape, tensor.tensor_scale, table)
    out = _room(device, found, room, start.size + sum(one.n_bytes for one in made))
    at = arrays.view(out).address
    device.upload(at, start, stream)
    at += start.size
    for one in made:
        device.copy(at, one.address, one.n_bytes, stream)
        at += one.n_bytes
    return out


def _room(device: Device, like: DeviceArray, room: Any, n_bytes: int) -> Any:
    if room is None:
        return arrays.new(device, like.owner, BY_NAME["uint8"], (n_bytes,))
    return room[:n_bytes]


def _on_host(device: Device, found: DeviceArray, stream: int) -> np.ndarray[Any, Any]:
    words = np.empty(found.n_bytes, np.uint8)
    device.download(words, found.address, stream)
    return words.view(found.require_dtype().numpy).reshape(found.shape)


def _decided(
    device: Device, found: DeviceArray, config: QuantizeConfig, stream: int
) -> QuantizeConfig:
    dtype = found.require_dtype()
    if config.axis == "auto":
        patterns = _on_host(device, found, stream).view(f"u{dtype.itemsize}")
        return decided(config, patterns.reshape(found.shape), dtype)
    require_axis(config.axis, len(found.shape))
    return decided(config, np.broadcast_to(np.uint8(0), found.shape), dtype)


@dataclass
class Container:
    """A container to decode: its parsed header, and where it is and its values go."""

    number: int
    """In the batch."""
    header: Header
    source: int | Bytes
    """Device address, or bytes on the host."""
    target: DeviceArray

    def on_host(self, device: Device, stream: int) -> Bytes:
        """The bytes."""
        if not isinstance(self.source, int):
            return self.source
        raw = np.empty(self.header.encoded_bytes, np.uint8)
        device.download(raw, self.source, stream)
        return raw


@dataclass
class Parts:
    """The frames of containers, in a row: what to decode, what it is, and where it goes."""

    sources: list[int | Bytes]
    parsed: list[Frame]
    outs: list[Plane]
    owners: list[int]
    """Number of the container in the list of them."""


def parts_of(device: Device, found: Sequence[Container], stream: int, n: int) -> Parts:
    """The frames of containers, checked as far as headers and tables tell; `n` is the batch's size."""
    on_device = [one for one in found if isinstance(one.source, int)]
    places = [
        (one.source + part.start, part.stop - part.start)
        for one in on_device
        for part in one.header.parts
        if isinstance(one.source, int)
    ]
    tables = iter(heads.read(device, places, stream))
    parts = Parts([], [], [], [])
    for owner, one in enumerate(found):
        with noting(one.number if n > 1 else None):
            for piece, parsed in _checked(one, tables):
                size = parsed.decoded_bytes
                memory = device.allocate(size, stream)
                plane = launches.Plane(memory, parsed.dtype.numpy, parsed.shape)
                parts.sources.append(piece)
                parts.parsed.append(parsed)
                parts.outs.append(plane)
                parts.owners.append(owner)
    return parts


def _checked(one: Container, tables: Iterator[Bytes]) -> Iterator[tuple[int | Bytes, Frame]]:
    if not isinstance(one.source, int):
        for _, piece, parsed in quantcodec.checked_parts(one.source, one.header):
            yield piece, parsed
        return
    n_exceptions: dict[str, int] = {}
    for part in one.header.parts:
        table = next(tables)
        part.check(table)
        parsed = frames.parse(table, n_bytes=part.stop - part.start)
        quantcodec.check_part(part, parsed, prod(one.header.shape), n_exceptions)
        yield one.source + part.start, parsed


def dequantize(
    device: Device, found: Sequence[Container], parts: Parts, stream: int
) -> Dequantizing:
    """Queue it, for parts whose decoding is queued."""
    tensors = []
    for owner, one in enumerate(found):
        planes = [plane for plane, o in zip(parts.outs, parts.owners, strict=True) if o == owner]
        names = [part.name for part in one.header.parts]
        header = one.header
        named = dict(zip(names, planes, strict=True))
        tensors.append(
            launches.Tensor(header.config, header.dtype, header.shape, named, header.tensor_scale)
        )
    return launches.dequantize(device, tensors, [one.target.address for one in found], stream)


def is_for_host(header: Header) -> bool:
    """Whether only the CPU can dequantize to the type of the tensor."""
    return header.dtype.name not in NATIVE


def decode_on_host(device: Device, one: Container, stream: int) -> None:
    """Decode a container on the host, and copy what comes of it."""
    raw = one.on_host(device, stream)
    decoded = quantcodec.decode_quantized(raw, limit=None)
    device.upload(one.target.address, decoded.reshape(-1).view(np.uint8), stream)


def salvage(device: Device, one: Container, stream: int) -> list[BadBlock]:
    """Decode what is sound of a container, on the host, and copy it; what is not."""
    decoded, bad = quantcodec.decode_quantized(
        one.on_host(device, stream), limit=None, salvage=True
    )
    device.upload(one.target.address, decoded.reshape(-1).view(np.uint8), stream)
    return list(bad)


def bad_positions(one: Container) -> CorruptionError:
    """The error for positions that leave the tensor, as on the CPU."""
    return quantcodec.bad_positions(prod(one.header.shape))
