# SPDX-License-Identifier: Apache-2.0
"""Decoding of a batch of frames and containers: what is queued, and the verdict on it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from .. import buffers, frame as frames
from ..codec import Salvaged, bad_blocks, is_quantized, noting, raise_if_damaged
from ..errors import CorruptionError, GpucodecError, TruncatedError
from ..quant import frame as quantframe
from ..quant.frame import Header
from . import arrays, containers, decoding, heads
from .containers import Container

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

    from ..buffers import Bytes
    from ..frame import Frame
    from .arrays import DeviceArray
    from .containers import Parts
    from .device import Device
    from .quantize import Dequantizing

Source: TypeAlias = "int | Bytes"
"""A frame: device address of its first byte, or bytes on the host."""


@dataclass
class _Frames:
    """Frames whose decoding is queued."""

    parsed: list[Frame]
    targets: list[int]
    queued: decoding.Decoding

    def statuses(self) -> tuple[list[np.ndarray[Any, Any]], dict[int, CorruptionError]]:
        """Wait for the stream; of every frame those of its blocks, and what is wrong with models."""
        return self.queued.statuses(), self.queued.model_errors()


def _queue_frames(
    device: Device,
    stream: int,
    sources: Sequence[Source],
    parsed: Sequence[Frame],
    targets: Sequence[int],
) -> _Frames:
    pieces = []
    for source, frame, target in zip(sources, parsed, targets, strict=True):
        payload = source + frame.payloads if isinstance(source, int) else source[frame.payloads :]
        pieces.append(decoding.Piece(frame, payload, target, 0, frame.n_blocks))
    return _Frames(list(parsed), list(targets), decoding.decode(device, pieces, stream))


@dataclass
class Pending:
    """Arrays whose decoding is queued. Use them on the stream at once; `check` when it suits."""

    arrays: list[Any]
    frames: list[Frame | Header]
    _device: Device
    _stream: int
    _targets: list[DeviceArray]
    _queued: _Frames
    """Plain frames, then the parts of containers."""
    _owners: list[int]
    """Number of the array that each of these belongs to."""
    _containers: list[Container]
    """Those that are dequantized on the device."""
    _dequantizing: Dequantizing
    _on_host: list[Container]

    def _errors(self) -> dict[int, GpucodecError]:
        """Wait for the stream; what is wrong with each array, first things first."""
        statuses, models = self._queued.statuses()
        errors: dict[int, GpucodecError] = {}
        for i, (frame, status) in enumerate(zip(self._queued.parsed, statuses, strict=True)):
            owner = self._owners[i]
            if i in models:
                errors.setdefault(owner, models[i])
            try:
                raise_if_damaged(frame, status)
            except CorruptionError as error:
                errors.setdefault(owner, error)
        for i in self._dequantizing.wrong():
            one = self._containers[i]
            errors.setdefault(one.number, containers.bad_positions(one))
        return errors

    def salvage(self) -> list[Salvaged]:
        """Wait for the stream; the arrays, with zeros for bad blocks, and a list of these.

        Quantized tensors are decoded once more, on the host.

        Raises
        ------
        CorruptionError
            A model is damaged, without which no block can be decoded; or the table of a part.

        """
        statuses, models = self._queued.statuses()
        salvaged = [Salvaged(array, []) for array in self.arrays]
        for i, (frame, status) in enumerate(zip(self._queued.parsed, statuses, strict=True)):
            owner = self._owners[i]
            if isinstance(self.frames[owner], Header):
                continue
            with noting(owner if len(self.arrays) > 1 else None):
                if i in models:
                    raise models[i]
            salvaged[owner] = Salvaged(self.arrays[owner], bad_blocks(frame, status))
        for one in (*self._containers, *self._on_host):
            with noting(one.number if len(self.arrays) > 1 else None):
                bad = containers.salvage(self._device, one, self._stream)
            salvaged[one.number] = Salvaged(self.arrays[one.number], bad)
        return salvaged

    def check(self) -> list[Any]:
        """Wait for the stream; the arrays.

        Raises
        ------
        CorruptionError
            A block or a model is damaged. All of its array is zero then.

        """
        errors = self._errors()
        for i in errors:
            self._device.clear(self._targets[i].address, self._targets[i].n_bytes, self._stream)
        for i in sorted(errors):
            with noting(i if len(self.arrays) > 1 else None):
                raise errors[i]
        return self.arrays


def _require_size(parsed: Frame | Header, n_bytes: int) -> None:
    if n_bytes != parsed.encoded_bytes:
        message = f"frame has {parsed.encoded_bytes} bytes, but {n_bytes} are on the device"
        raise (TruncatedError if n_bytes < parsed.encoded_bytes else CorruptionError)(message)


def _parse(head: Bytes, n_bytes: int, limit: int | None) -> Frame | Header:
    """Check header and table of a frame of `n_bytes` on a device, of which `head` was read."""
    if is_quantized(head):
        return quantframe.parse(head, limit=limit, n_bytes=n_bytes)
    return frames.parse(head, limit=limit, n_bytes=n_bytes)


def parse(
    device: Device, stream: int, views: Sequence[DeviceArray], limit: int | None
) -> list[Frame | Header]:
    """What the headers and tables of frames say; see `gpucodec.cuda.parse_headers`."""
    found = heads.read(device, [(view.address, view.n_bytes) for view in views], stream)
    parsed = []
    for i, (head, view) in enumerate(zip(found, views, strict=True)):
        with noting(i if len(views) > 1 else None):
            parsed.append(_parse(head, view.n_bytes, limit))
    return parsed


def queue(
    device: Device,
    stream: int,
    items: Sequence[Any],
    views: Sequence[DeviceArray | None],
    wanted: Sequence[Any],
    headers: Sequence[Frame | Header | None],
    limit: int | None,
) -> Pending:
    """Queue the decoding of `items`, to `wanted` or to new arrays; see `gpucodec.cuda.decode_async`.

    `views` are of the items on the device; `headers` of some of these, and None of all others.
    """
    there = [
        (view.address, view.n_bytes)
        for view, header in zip(views, headers, strict=True)
        if view is not None and header is None
    ]
    found = iter(heads.read(device, there, stream))
    results, targets, parsed_frames = [], [], []
    sources: list[Source] = []
    for i, (item, view, given, target) in enumerate(
        zip(items, views, headers, wanted, strict=True)
    ):
        most = limit if target is None else None
        with noting(i if len(items) > 1 else None):
            parsed: Frame | Header
            if view is None:
                raw = buffers.encoded(item)
                sources.append(raw)
                parse = quantframe.parse if is_quantized(raw) else frames.parse
                parsed = parse(raw, limit=most)
            else:
                sources.append(view.address)
                parsed = given or _parse(next(found), view.n_bytes, most)
                _require_size(parsed, view.n_bytes)
        result = target
        if target is None:
            result = arrays.new(device, item, parsed.dtype, parsed.shape)
        results.append(result)
        targets.append(arrays.target(result, parsed.decoded_bytes))
        parsed_frames.append(parsed)

    quantized = [
        Container(i, parsed, source, target)
        for i, (parsed, source, target) in enumerate(
            zip(parsed_frames, sources, targets, strict=True)
        )
        if isinstance(parsed, Header)
    ]
    on_host = [one for one in quantized if containers.is_for_host(one.header)]
    on_device = [one for one in quantized if not containers.is_for_host(one.header)]
    parts: Parts = containers.parts_of(device, on_device, stream, len(items))
    plain = [i for i, parsed in enumerate(parsed_frames) if not isinstance(parsed, Header)]
    queued = _queue_frames(
        device,
        stream,
        [*(sources[i] for i in plain), *parts.sources],
        [*(one for one in parsed_frames if not isinstance(one, Header)), *parts.parsed],
        [*(targets[i].address for i in plain), *(plane.memory.address for plane in parts.outs)],
    )
    queued.queued.kept += [items, views]
    dequantizing = containers.dequantize(device, on_device, parts, stream)
    for one in on_host:
        with noting(one.number if len(items) > 1 else None):
            containers.decode_on_host(device, one, stream)
    owners = [*plain, *(on_device[owner].number for owner in parts.owners)]
    return Pending(
        *(results, parsed_frames, device, stream, targets),
        *(queued, owners, on_device, dequantizing, on_host),
    )
