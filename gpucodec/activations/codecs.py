# SPDX-License-Identifier: Apache-2.0
"""Names of codecs, as users give them, turned into configurations of `gpucodec.encode`."""

from __future__ import annotations

from typing import Any

import gpucodec
from gpucodec.errors import UnsupportedError

LOSSLESS = ("auto", "lossless")


def config_of(codec: Any) -> Any:
    """The configuration that a `codec` argument stands for; None is the lossless default.

    Parameters
    ----------
    codec
        "auto" or "lossless"; the name of a quantized format, such as "int8"; or a configuration
        object of gpucodec, which is taken as it is.

    Raises
    ------
    UnsupportedError
        The name of a lossy format, and this gpucodec has none.
    TypeError
        Neither a name nor a configuration.

    """
    if not isinstance(codec, str):
        if not hasattr(codec, "to_json"):
            message = f"codec is a name or a gpucodec configuration, not {type(codec).__name__}"
            raise TypeError(message)
        return codec
    if codec in LOSSLESS:
        return None
    quantize = getattr(gpucodec, "QuantizeConfig", None)
    if quantize is None:
        message = f"codec {codec!r}: this gpucodec has no lossy formats, only {LOSSLESS}"
        raise UnsupportedError(message)
    return quantize(format=codec)
