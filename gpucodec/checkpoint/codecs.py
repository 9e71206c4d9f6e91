# SPDX-License-Identifier: Apache-2.0
"""How chunks are encoded: losslessly, or quantized where a policy says so."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

import gpucodec

from .. import QuantizeConfig, TensorConfig
from ..codec import decode
from ..dtypes import BY_NAME
from ..errors import CorruptionError, UnsupportedError
from ..kernels import spec

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from ..buffers import Bytes

    Array = np.ndarray[Any, np.dtype[Any]]

LOSSLESS: Final = "gpucodec.tensor"
QUANTIZED: Final = "gpucodec.quantize"
HEAD_BYTES: Final = spec.HASH_OFFSET + 8


def to_json(config: Any) -> dict[str, Any]:
    """A configuration as zarr's metadata have it.

    Raises
    ------
    TypeError
        Neither a `TensorConfig` nor a ``QuantizeConfig``.

    """
    if isinstance(config, TensorConfig):
        configuration = config.to_json()
        return {"name": LOSSLESS, **({"configuration": configuration} if configuration else {})}
    if isinstance(config, QuantizeConfig):
        return {"name": QUANTIZED, "configuration": config.to_json()}
    raise TypeError(
        f"tensors are encoded by a TensorConfig or a QuantizeConfig, not {type(config).__name__}"
    )


def from_json(codec: Mapping[str, Any]) -> Any:
    """Inverse of `to_json`.

    Raises
    ------
    UnsupportedError
        A codec, or a parameter of one, that this gpucodec does not have.

    """
    name, configuration = codec.get("name"), dict(codec.get("configuration") or {})
    try:
        if name == LOSSLESS:
            return TensorConfig.from_json(configuration)
        if name == QUANTIZED:
            return QuantizeConfig.from_json(configuration)
    except (TypeError, ValueError, OverflowError) as error:
        raise UnsupportedError(f"codec {codec} has bad parameters: {error}") from error
    raise UnsupportedError(f"arrays are encoded by {name}, which this gpucodec does not have")


def warm(chosen: Iterable[Mapping[str, Any]]) -> None:
    """Load, or compile, what these codecs need, before many threads ask for it at once."""
    for text in {json.dumps(codec, sort_keys=True) for codec in chosen}:
        decode(encode(np.zeros(1, np.float32), from_json(json.loads(text))))


def encode(array: Array, config: Any) -> Bytes:
    """One chunk."""
    if isinstance(config, TensorConfig):
        return gpucodec.encode(array, config, threads=1)
    return gpucodec.encode_quantized(array, config, threads=1)


def digest_of(raw: Any, where: str) -> int:
    """The hash in an encoded chunk's header.

    Raises
    ------
    CorruptionError
        The object is too short to have one.

    """
    head = bytes(raw[:HEAD_BYTES])
    if len(head) < HEAD_BYTES:
        raise CorruptionError(f"{where} has {len(head)} bytes, which is no encoded chunk")
    return int.from_bytes(head[spec.HASH_OFFSET :], "little")


def decode_into(raw: Any, out: Array, dtype: str, where: str) -> None:
    """Decode one chunk into an array of its shape, which is C-contiguous and of any data type
    of that size.

    Raises
    ------
    CorruptionError, TruncatedError, UnsupportedError
        What is wrong with the chunk, and where it is.

    """
    try:
        info = gpucodec.inspect(raw)
        if (info.dtype, info.shape) != (dtype, out.shape):
            message = f"it holds {info.dtype} {info.shape}, not {dtype} {out.shape}"
            raise CorruptionError(message)
        decode(raw, out.reshape(-1).view(np.uint8), threads=1)
    except gpucodec.GpucodecError as error:
        raise type(error)(f"{where}: {error}") from error


def metadata(
    dtype: str,
    shape: Sequence[int],
    chunks: Sequence[int],
    codec: Mapping[str, Any],
    order: Sequence[int] | None = None,
) -> bytes:
    """The ``zarr.json`` of an array (zarr specification, version 3); `order` transposes chunks."""
    turn = {"name": "transpose", "configuration": {"order": list(order or ())}}
    return json.dumps(
        {
            "zarr_format": 3,
            "node_type": "array",
            "shape": list(shape),
            "data_type": dtype,
            "chunk_grid": {"name": "regular", "configuration": {"chunk_shape": list(chunks)}},
            "chunk_key_encoding": {"name": "default", "configuration": {"separator": "."}},
            "fill_value": _zero(dtype),
            "codecs": [dict(codec)] if order is None else [turn, dict(codec)],
            "attributes": {},
        },
        separators=(",", ":"),
    ).encode()


def _zero(dtype: str) -> Any:
    """All bits zero, as zarr writes it."""
    kind = np.dtype(BY_NAME[dtype].numpy).kind
    if dtype == "bool":
        return False
    if dtype == "float8_e8m0fnu":
        return 2.0**-127  # it has no zero
    if kind == "c":
        return [0.0, 0.0]
    return 0 if kind in "iu" else 0.0
