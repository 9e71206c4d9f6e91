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

from typing import TYPE_CHECKING, Any

from .. import buffers, codec
from ..codec import DEFAULT_LIMIT
from ..config import DEFAULT_CONFIG, Config, LZConfig
from ..dtypes import BY_NAME
from ..errors import UnsupportedError
from ..quant.codec import max_encoded_bytes
from . import arrays, containers, decoding, device as devices, encoding, lz, pending, planning
from .batch import place
from .occupancy import low_occupancy
from .pending import Pending

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..frame import Frame
    from ..quant import QuantizeConfig
    from ..quant.frame import Header
    from .arrays import DeviceArray
    from .device import Device

__all__ = [
    "Pending",
    "decode",
    "decode_async",
    "decode_batch",
    "encode",
    "encode_batch",
    "encode_quantized",
    "is_available",
    "low_occupancy",
    "parse_headers",
]

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
    """Let the stream wait for whatever made the arrays; and for the device's current stream, whose
    memory a new array may be: the pool knows that it is free there only.
    """
    for other in sorted({view.stream for view in views} | {device.current_stream()}, key=str):
        if other is not None and other != stream:
            device.follow(stream, other)


def _ready(views: Sequence[DeviceArray], stream: Any) -> tuple[Device, int]:
    """The device of the arrays, and the stream, which waits for whatever made them."""
    device = _one_device(views)
    handle = _handle(stream, device, views)
    _follow(device, handle, views)
    return device, handle


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
        How to encode them; the bytes depend on nothing else.
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
        `out` is too small, read-only or not contiguous.

    """
    config = config or DEFAULT_CONFIG
    items = list(array_list)
    if not items:
        return []
    for i, item in enumerate(items):
        if not buffers.is_on_gpu(item):
            message = f"array {i} of {len(items)}, {type(item).__name__}, is not on a GPU"
            raise UnsupportedError(message)
    views = [arrays.view(item) for item in items]
    device, handle = _ready(views, stream)
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
    profile = planning.plan_batch(device, sources, config, handle)
    made = [
        arrays.new(device, found.owner, _UINT8, (source.max_bytes,))
        if buffers_given is None
        else buffers_given[i]
        for i, (found, source) in enumerate(zip(views, sources, strict=True))
    ]
    for source, buffer in zip(sources, made, strict=True):
        source.out = _room(buffer, source.max_bytes)
    if isinstance(config, LZConfig):
        sizes = lz.encode(device, sources, config, handle)
    else:
        sizes = encoding.encode(device, sources, handle, profile)
    return [buffer[:size] for buffer, size in zip(made, sizes, strict=True)]


def encode_quantized(
    array: Any, config: QuantizeConfig, *, out: Any = None, stream: Any = None
) -> Any:
    """Quantize an array on a GPU and encode the result as one frame there.

    Parameters
    ----------
    array
        As of `encode_batch`; float32, bfloat16 or float16. float64 and float8 are quantized on the
        host, and `config.axis` "auto" is decided there.
    config
        How to quantize it; the bytes are those of `gpucodec.encode_quantized` on a CPU.
    out, stream
        As of `encode`. `gpucodec.max_encoded_size` takes the configuration.

    Returns
    -------
    The frame, uint8[encoded_bytes] on the GPU. Waits for the stream once for the number of exceptions,
    once for the hashes of the parts, and as `encode_batch` does for these.

    Raises
    ------
    UnsupportedError
        Not an array of floats, or no usable GPU.
    ValueError
        The axis is not one of the array, or `out` is too small.

    """
    found = arrays.view(array)
    device, handle = _ready([found], stream)
    if out is not None:
        most = max_encoded_bytes(found.require_dtype(), found.shape, config)
        _room(out, most)
    return containers.encode(
        *(device, found, config, out, handle),
        encode_frames=lambda parts: encode_batch(parts, stream=handle),
    )


def _room(buffer: Any, n_bytes: int) -> int:
    """The address of a buffer for a frame of at most this size."""
    found = arrays.writable(buffer)
    if found.n_bytes < n_bytes:
        message = f"out has {found.n_bytes} bytes, the frame may take {n_bytes}"
        raise ValueError(message)
    return found.address


def parse_headers(
    encoded: Iterable[Any], *, limit: int | None = None, stream: Any = None
) -> list[Frame | Header]:
    """Read headers and tables of frames on one GPU, all by one copy, and check them.

    Parameters
    ----------
    encoded
        Frames: uint8 arrays on the GPU.
    limit
        Refuse frames that decode to more bytes.
    stream
        As of `decode_async`. Waits for it; twice if tables are long.

    Returns
    -------
    Shapes, data types and tables, for `decode_async(headers=...)`.

    Raises
    ------
    TruncatedError, CorruptionError, UnsupportedError, LimitError
        What is wrong with a frame.

    """
    views = [arrays.view(item) for item in encoded]
    return pending.parse(*_ready(views, stream), views, limit) if views else []


def decode_async(
    encoded: Iterable[Any],
    out: Sequence[Any] | None = None,
    *,
    headers: Sequence[Frame | Header | None] | None = None,
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
        Of frames that are on the device and were parsed before, by `parse_headers` or, from a copy on
        the host, by `gpucodec.frame.parse`; of quantized tensors `gpucodec.quant.frame.parse`. None
        for those that were not.
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
    known = [None] * len(items) if headers is None else list(headers)
    if len(known) != len(items):
        message = f"{len(known)} headers are given for {len(items)} frames"
        raise ValueError(message)
    views = [arrays.view(item) if buffers.is_on_gpu(item) else None for item in items]
    outs = [arrays.describe(target) for target in wanted if target is not None]
    there = [*outs, *(view for view in views if view is not None)]
    device, handle = _ready(there, stream)
    return pending.queue(device, handle, items, views, wanted, known, limit)


def decode(frame: Any, out: Any = None, *, salvage: bool = False, **options: Any) -> Any:
    """Decode one frame and check it; options as of `decode_async`, `salvage` as of `decode`."""
    queued = decode_async([frame], None if out is None else [out], **options)
    return queued.salvage()[0] if salvage else queued.check()[0]


def decode_batch(
    encoded: Iterable[Any], out: Sequence[Any] | None = None, **options: Any
) -> list[Any]:
    """Decode frames and check them; options as of `decode_async`. Waits for the stream."""
    return decode_async(encoded, out, **options).check()


def decode_runs(runs: Sequence[tuple[Frame, Any, int, int, Any]], *, stream: Any = None) -> None:
    """`gpucodec.codec.decode_runs` for payloads and outputs on one GPU. Waits for the stream."""
    views, pieces = [], []
    for frame, payload, first, last, out in runs:
        source = arrays.view(payload)
        frame.require_payload(first, last, source.n_bytes)
        piece = decoding.Piece(frame, source.address, 0, first, last)
        target = arrays.target(out, piece.out_bytes)
        piece.out = target.address
        views += [source, target]
        pieces.append(piece)
    device, handle = _ready(views, stream)
    queued = decoding.decode(device, pieces, handle)
    statuses, models = queued.statuses(), queued.model_errors()
    for i, (piece, status) in enumerate(zip(pieces, statuses, strict=True)):
        if i in models:
            raise models[i]
        codec.raise_if_damaged(piece.frame, status, piece.first)
