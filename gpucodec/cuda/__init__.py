# SPDX-License-Identifier: Apache-2.0
"""Encode and decode arrays that are on a GPU: the same frames as on a CPU.

`gpucodec.encode` and the rest come here by themselves for arrays on a GPU. These functions take a
stream, and decode without waiting. Frames may be on the host or on the device.

>>> import cupy, gpucodec  # doctest: +SKIP
>>> frame = gpucodec.encode(cupy.arange(100_000))  # doctest: +SKIP
>>> bool((gpucodec.decode(frame) == cupy.arange(100_000)).all())  # doctest: +SKIP
True
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import buffers, frame as frames
from ..codec import DEFAULT_LIMIT, Salvaged, bad_blocks, noting, raise_if_damaged
from ..config import DEFAULT_CONFIG, Config, LZConfig
from ..dtypes import BY_NAME
from ..errors import CorruptionError, TruncatedError, UnsupportedError
from . import arrays, decoding, device as devices, encoding, host, lz, planning
from .batch import place

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..frame import Frame
    from .arrays import DeviceArray
    from .device import Device

HEADER_GUESS = 1 << 14  # bytes of a frame on the device that are read back at first: most tables
_UINT8 = BY_NAME["uint8"]


def is_available(index: int = 0) -> bool:
    """Whether CUDA device `index` is there, with all that it needs. Compiles a tiny kernel."""
    try:
        devices.find(index)
    except UnsupportedError:
        return False
    return True


def _handle(stream: Any, device: Device, views: Sequence[DeviceArray]) -> int:
    """The handle of a stream: given, or that of a tensor's library, or the device's current one."""
    if stream is None:
        given = [view.stream for view in views if view.stream is not None]
        return given[0] if given else device.current_stream()
    if isinstance(stream, int):
        return stream
    return int(stream.cuda_stream if hasattr(stream, "cuda_stream") else stream.ptr)


def _one_device(views: Sequence[DeviceArray]) -> Device:
    found = {view.index for view in views}
    if len(found) > 1:
        message = f"arrays of a batch are on several devices: {sorted(found)}"
        raise UnsupportedError(message)
    return devices.find(found.pop() if found else 0)


def _follow(device: Device, stream: int, views: Sequence[DeviceArray]) -> None:
    for other in {view.stream for view in views} - {None, stream}:
        assert other is not None
        device.follow(stream, other)


def encode(array: Any, config: Config | None = None, *, out: Any = None, stream: Any = None) -> Any:
    """Encode one array; see `encode_batch`."""
    return encode_batch([array], config, out=None if out is None else [out], stream=stream)[0]


def encode_batch(
    array_list: Iterable[Any],
    config: Config | None = None,
    *,
    out: Sequence[Any] | None = None,
    stream: Any = None,
) -> list[Any]:
    """Encode arrays on one GPU as frames there, all blocks of all arrays in the same launches.

    Parameters
    ----------
    array_list
        CuPy arrays, torch CUDA tensors, or whatever has `__cuda_array_interface__` or DLPack.
    config
        How to encode them; the bytes depend on nothing else. Arrays that LZ may code beside other coders
        are copied to the host and encoded there: those of `TensorConfig(lz=True)`, and unless `lz` is
        False or the profile "fast" or "plain", all but floats with zeros.
    out
        uint8 arrays on that GPU of at least `gpucodec.max_encoded_size` bytes, one for each frame.
    stream
        A handle, or a stream of CuPy or torch. By default that of the first array's library.

    Returns
    -------
    The frames, uint8[encoded_bytes] on the GPU: torch tensors for tensors, else CuPy arrays. They
    are views of `out`, or of memory of the most bytes that a frame may have. Waits for the
    stream once in profile "plain", in order to know the sizes, and a few times in others.

    Raises
    ------
    UnsupportedError
        A data type that cannot be encoded, or no usable GPU.
    ValueError
        `out` is too small.

    """
    config = config or DEFAULT_CONFIG
    items = list(array_list)
    if not items:
        return []
    for i, item in enumerate(items):
        if not buffers.is_on_gpu(item):
            message = f"array {i} of the batch is on the host, others are on a GPU"
            raise UnsupportedError(message)
    views = [arrays.view(item) for item in items]
    device = _one_device(views)
    handle = _handle(stream, device, views)
    _follow(device, handle, views)
    buffers_given = None if out is None else list(out)
    if buffers_given is not None and len(buffers_given) != len(views):
        message = f"out has {len(buffers_given)} buffers for {len(views)} arrays"
        raise ValueError(message)
    kept: list[Any] = []
    sources = []
    for found in views:
        dtype = found.require_dtype()
        words = place(device, found.address, found.n_bytes, handle, kept)
        block_log = config.block_log(dtype.spec.word_bytes)
        sources.append(encoding.Source(words, dtype, found.shape, block_log, 0))
    profile, on_host = planning.plan_batch(device, sources, config, handle)
    frames_made: list[Any] = [None] * len(views)
    for i in on_host:
        frame = host.encode(device, views[i], config, handle)
        buffer = _buffer(device, views[i], buffers_given, i, frame.size)
        device.upload(_room(buffer, frame.size), frame, handle)
        frames_made[i] = buffer[: frame.size]
    here = [i for i in range(len(views)) if i not in on_host]
    made = []
    for i in here:
        made.append(_buffer(device, views[i], buffers_given, i, sources[i].max_bytes))
        sources[i].out = _room(made[-1], sources[i].max_bytes)
    left = [sources[i] for i in here]
    if isinstance(config, LZConfig):
        sizes = lz.encode(device, left, config, handle)
    else:
        sizes = encoding.encode(device, left, handle, profile)
    for i, buffer, size in zip(here, made, sizes, strict=True):
        frames_made[i] = buffer[:size]
    return frames_made


def _buffer(
    device: Device, view: DeviceArray, given: list[Any] | None, i: int, n_bytes: int
) -> Any:
    """Where frame `i` goes: what was given, or new memory."""
    return given[i] if given else arrays.new(device, view.owner, _UINT8, (n_bytes,))


def _room(buffer: Any, n_bytes: int) -> int:
    """The address of a buffer for a frame of at most this size."""
    found = arrays.view(buffer)
    if found.n_bytes < n_bytes:
        message = f"out has {found.n_bytes} bytes, the frame may take {n_bytes}"
        raise ValueError(message)
    return found.address


@dataclass
class Pending:
    """Arrays whose decoding is queued. Use them on the stream at once; `check` when it suits."""

    arrays: list[Any]
    frames: list[Frame]
    _targets: list[DeviceArray]
    _queued: decoding.Decoding

    def _raise_first(self, errors: dict[int, CorruptionError]) -> None:
        for i, error in errors.items():
            with noting(i if len(self.arrays) > 1 else None):
                raise error

    def salvage(self) -> list[Salvaged]:
        """Wait for the stream; the arrays, with zeros for bad blocks, and a list of these.

        Raises
        ------
        CorruptionError
            A model is damaged, without which no block can be decoded.

        """
        found, errors = self._queued.statuses(), self._queued.model_errors()
        self._raise_first(errors)
        return [
            Salvaged(array, bad_blocks(frame, status))
            for array, frame, status in zip(self.arrays, self.frames, found, strict=True)
        ]

    def check(self) -> list[Any]:
        """Wait for the stream; the arrays.

        Raises
        ------
        CorruptionError
            A block or a model is damaged. All of its array is zero then.

        """
        found, errors = self._queued.statuses(), self._queued.model_errors()
        device, stream = self._queued.device, self._queued.stream
        for i, (status, target) in enumerate(zip(found, self._targets, strict=True)):
            if status.any() or i in errors:
                device.clear(target.address, target.n_bytes, stream)
        for i, (frame, status) in enumerate(zip(self.frames, found, strict=True)):
            with noting(i if len(found) > 1 else None):
                if i in errors:
                    raise errors[i]
                raise_if_damaged(frame, status)
        return self.arrays


def _require_size(frame: Frame, n_bytes: int) -> None:
    if n_bytes != frame.encoded_bytes:
        message = f"frame has {frame.encoded_bytes} bytes, but {n_bytes} are on the device"
        raise (TruncatedError if n_bytes < frame.encoded_bytes else CorruptionError)(message)


def _parse(device: Device, found: DeviceArray, stream: int, limit: int | None) -> Frame:
    """Read header and table of a frame on the device back, and check them."""
    head = np.empty(min(HEADER_GUESS, found.n_bytes), np.uint8)
    device.download(head, found.address, stream)
    n_bytes = frames.table_bytes(head)
    if n_bytes > head.size:
        head = np.empty(min(n_bytes, found.n_bytes), np.uint8)
        device.download(head, found.address, stream)
    parsed = frames.parse(head[:n_bytes], limit=limit, whole=False)
    _require_size(parsed, found.n_bytes)
    return parsed


def decode_async(
    encoded: Iterable[Any],
    out: Sequence[Any] | None = None,
    *,
    headers: Sequence[Frame] | None = None,
    limit: int | None = DEFAULT_LIMIT,
    stream: Any = None,
) -> Pending:
    """Queue the decoding of frames to one GPU, all blocks in the same launches.

    Does not wait for the device if the frames are on the host, or `headers` are given.

    Parameters
    ----------
    encoded
        Frames: buffers on the host, or uint8 arrays on the GPU. They must not change until the
        work is done.
    out
        Contiguous arrays on that GPU of exactly the decoded sizes.
    headers
        `gpucodec.frame.parse` of the frames, if they are on the device and were parsed before.
    limit
        Refuse frames that decode to more bytes; ignored with `out`.
    stream
        A handle, or a stream of CuPy or torch. By default that of the first array's library.

    Returns
    -------
    The arrays, with `Pending.check` still to be called: until then damage is not known. Blocks
    that are not sound are zero.

    """
    items = list(encoded)
    wanted = [None] * len(items) if out is None else list(out)
    if len(wanted) != len(items):
        message = f"out has {len(wanted)} targets for {len(items)} frames"
        raise ValueError(message)
    views = [arrays.view(item) if buffers.is_on_gpu(item) else None for item in items]
    outs = [arrays.view(target) for target in wanted if target is not None]
    there = [*outs, *(view for view in views if view is not None)]
    device = _one_device(there)
    handle = _handle(stream, device, there)
    _follow(device, handle, there)

    parsed_frames, results, targets, pieces = [], [], [], []
    for i, (item, found, target) in enumerate(zip(items, views, wanted, strict=True)):
        most = limit if target is None else None
        payload: Any
        with noting(i if len(items) > 1 else None):
            if found is None:
                raw = buffers.encoded(item)
                parsed = frames.parse(raw, limit=most)
                payload = raw[parsed.payloads :]
            else:
                parsed = _parse(device, found, handle, most) if headers is None else headers[i]
                _require_size(parsed, found.n_bytes)
                payload = found.address + parsed.payloads
        result = target
        if target is None:
            result = arrays.new(device, item, parsed.dtype, parsed.shape)
        placed = arrays.target(result, parsed.decoded_bytes)
        pieces.append(decoding.Piece(parsed, payload, placed.address, 0, parsed.n_blocks))
        parsed_frames.append(parsed)
        results.append(result)
        targets.append(placed)
    queued = decoding.decode(device, pieces, handle)
    queued.kept += [items, views]
    return Pending(results, parsed_frames, targets, queued)


def decode(frame: Any, out: Any = None, *, salvage: bool = False, **options: Any) -> Any:
    """Decode one frame and check it; options as of `decode_async`, `salvage` as of `decode`."""
    pending = decode_async([frame], None if out is None else [out], **options)
    return pending.salvage()[0] if salvage else pending.check()[0]


def decode_batch(
    encoded: Iterable[Any], out: Sequence[Any] | None = None, **options: Any
) -> list[Any]:
    """Decode frames and check them; options as of `decode_async`. Waits for the stream."""
    return decode_async(encoded, out, **options).check()
