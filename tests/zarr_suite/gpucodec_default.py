# SPDX-License-Identifier: Apache-2.0
"""A pytest plugin for zarr's own tests: arrays that ask for no codecs get ours.

Then what zarr tests of indexing, arrays and groups tests the codec and the pipeline. Also
counts, so that nobody takes silence for success.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import zarr.core.array

import gpucodec.zarr
from gpucodec.zarr import pipeline

if TYPE_CHECKING:
    import pytest

CALLS = {"read_chunks": 0, "read_shards": 0, "write_chunks": 0, "write_shards": 0}


def _counted(name: str) -> None:
    plain = getattr(pipeline, name)

    def call(*arguments: Any, **named: Any) -> Any:
        CALLS[name] += 1
        return plain(*arguments, **named)

    setattr(pipeline, name, call)


def _prefer_ours() -> None:
    stock_serializer = zarr.core.array.default_serializer_v3
    stock_compressors = zarr.core.array.default_compressors_v3

    def is_ours(dtype: Any) -> bool:
        try:
            gpucodec.zarr.TensorCodec().validate(shape=(), dtype=dtype, chunk_grid=None)
        except TypeError:
            return False
        return True

    zarr.core.array.default_serializer_v3 = lambda dtype: (
        gpucodec.zarr.TensorCodec() if is_ours(dtype) else stock_serializer(dtype)
    )
    zarr.core.array.default_compressors_v3 = lambda dtype: (
        () if is_ours(dtype) else stock_compressors(dtype)
    )


for _name in CALLS:
    _counted(_name)
_prefer_ours()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how much went through us."""
    terminalreporter.write_line(f"gpucodec: {CALLS}")
