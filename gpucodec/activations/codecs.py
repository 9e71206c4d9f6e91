# SPDX-License-Identifier: Apache-2.0
"""Names of codecs, as users give them, turned into configurations, and those used."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import gpucodec

if TYPE_CHECKING:
    from gpucodec.buffers import Bytes

LOSSLESS = ("auto", "lossless")
LOSSY_TYPES = ("float32", "bfloat16", "float16")  # never indices, masks, or numbers meant exactly


def config_of(codec: Any) -> Any:
    """The configuration that a `codec` argument stands for.

    Parameters
    ----------
    codec
        "auto" or "lossless"; the name of a quantized format, such as "int8"; or a configuration
        object of gpucodec, which is taken as it is.

    Raises
    ------
    ValueError
        No format has this name.
    TypeError
        Neither a name nor a configuration.

    """
    if not isinstance(codec, str):
        if not hasattr(codec, "to_json"):
            message = f"codec is a name or a gpucodec configuration, not {type(codec).__name__}"
            raise TypeError(message)
        return codec
    return gpucodec.TensorConfig() if codec in LOSSLESS else gpucodec.QuantizeConfig(codec)


def encode(vector: Any, dtype: str, config: Any) -> Bytes:
    """One frame of a host tensor whose type has this name; lossless where loss is not meant."""
    if isinstance(config, gpucodec.QuantizeConfig):
        if dtype in LOSSY_TYPES:
            return gpucodec.encode_quantized(vector, config, threads=1)
        config = None
    return gpucodec.encode(vector, config, threads=1)
