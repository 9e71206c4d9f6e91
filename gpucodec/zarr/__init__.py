# SPDX-License-Identifier: Apache-2.0
"""zarr v3: serializers, the compressor `LZCodec`, the batching `Pipeline`, bfloat16 and float8.

Stores that use them open without an import of this module: zarr finds them by entry points.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import zarr

from .codec import TensorCodec
from .direct import gds_store
from .dtypes import (
    BFloat16,
    Float8E4M3FN,
    Float8E4M3FNUZ,
    Float8E5M2,
    Float8E5M2FNUZ,
    Float8E8M0FNU,
)
from .lz import LZCodec
from .pipeline import Pipeline
from .quantize import QuantizeCodec

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = [
    "BFloat16",
    "Float8E4M3FN",
    "Float8E4M3FNUZ",
    "Float8E5M2",
    "Float8E5M2FNUZ",
    "Float8E8M0FNU",
    "LZCodec",
    "Pipeline",
    "QuantizeCodec",
    "TensorCodec",
    "enable",
    "gds_store",
]


def enable(*, device: Literal["cpu", "cuda"] | None = None) -> AbstractContextManager[object]:
    """Make arrays that are opened from now on use `Pipeline`.

    Parameters
    ----------
    device
        "cuda" makes zarr's arrays CuPy's, too, as `zarr.config.enable_gpu` does: chunks are decoded
        on the current device and encoded there. "cpu" makes them NumPy's again. None leaves that.

    Raises
    ------
    UnsupportedError
        "cuda" without a GPU that can be used; the message says what is missing.

    Notes
    -----
    Arrays keep the pipeline that they were opened with. As a context manager, the setting ends
    with the block. The environment variable ``ZARR_CODEC_PIPELINE__PATH=gpucodec.zarr.Pipeline``
    does the same.

    """
    settings = {"codec_pipeline.path": "gpucodec.zarr.Pipeline"}
    if device is not None:
        kind = {"cpu": "cpu", "cuda": "gpu"}[device]
        settings |= {
            "buffer": f"zarr.buffer.{kind}.Buffer",
            "ndbuffer": f"zarr.buffer.{kind}.NDBuffer",
        }
    if device == "cuda":
        from gpucodec.cuda.device import find

        find(0)
    return zarr.config.set(settings)  # type: ignore[no-any-return]
