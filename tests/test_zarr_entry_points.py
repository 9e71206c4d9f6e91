# SPDX-License-Identifier: Apache-2.0
"""A store opens wherever gpucodec is installed, without an import of it."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr
from zarr_stores import ZARR_3_2

from gpucodec.numcodecs import Tensor
from gpucodec.zarr import TensorCodec

READ_GROUPS = """
import zarr
for version in ("v2", "v3"):
    group = zarr.open_group(f"{}/{{version}}", mode="r")
    print(*(float(group[name][:].astype("f4").sum()) for name in sorted(group)))
"""
READ_ARRAYS = """
import zarr
for name in {}:
    print(float(zarr.open_array(f"{}/{{name}}", mode="r")[:].astype("f4").sum()))
"""


def run(code: str, **environment: str) -> str:
    """Output of a fresh interpreter."""
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=False,
        env=environment or None,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def group(tmp_path_factory: Any) -> Any:
    """Path of a group with arrays of several data types, and the sums of these."""
    path = tmp_path_factory.mktemp("store")
    for zarr_format, options in (
        (3, {"serializer": TensorCodec(), "compressors": None}),
        (2, {"compressors": Tensor()}),
    ):
        made = zarr.open_group(path / f"v{zarr_format}", mode="w", zarr_format=zarr_format)
        for dtype in (np.dtype("f4"), *map(np.dtype, (ml_dtypes.bfloat16, ml_dtypes.float8_e5m2))):
            made.create_array(dtype.name, data=np.arange(8).astype(dtype), **options)
    return path


def test_groups_open_with_nothing_but_the_package_installed(group: Any) -> None:
    assert run(READ_GROUPS.format(group)).split() == ["28.0"] * 6


def test_arrays_open_with_nothing_but_the_package_installed(group: Any) -> None:
    names = ["v2/float32", "v3/float32"]
    if ZARR_3_2:
        names += ["v2/bfloat16", "v3/bfloat16"]
    assert run(READ_ARRAYS.format(names, group)).split() == ["28.0"] * len(names)


@pytest.mark.skipif(ZARR_3_2, reason="newer zarr needs no import")
def test_arrays_of_our_data_types_need_an_import_before_zarr_3_2(group: Any) -> None:
    # zarr 3.1.6 ignores the entry points of data types. It loads those of buffers, by which we
    # come in, for groups, but not before it has parsed the metadata of a single array.
    code = "import gpucodec.zarr" + READ_ARRAYS.format(["v2/bfloat16", "v3/bfloat16"], group)
    assert run(code).split() == ["28.0"] * 2


def test_the_environment_chooses_the_pipeline(group: Any) -> None:
    import os

    path = str(group / "v3" / "float32")
    code = f"import zarr; print(type(zarr.open_array({path!r})._async_array.codec_pipeline))"
    environment = {**os.environ, "ZARR_CODEC_PIPELINE__PATH": "gpucodec.zarr.Pipeline"}
    assert "gpucodec.zarr.Pipeline" in run(code, **environment)


def test_nothing_else_of_the_package_imports_zarr() -> None:
    modules = "gpucodec, gpucodec.codec, gpucodec.numcodecs, gpucodec.views, gpucodec.frame"
    code = f"import {modules}, sys; assert 'zarr' not in sys.modules"
    assert run(code) == ""
