# SPDX-License-Identifier: Apache-2.0
"""Where the tests of the filesystem put their files: memory, a local folder, a local S3 server."""

from __future__ import annotations

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem
from gpucodec_s3 import BUCKET
from helpers import repetitive, sample

from gpucodec.fs import GpucodecFileSystem

DATA = (
    repetitive("uint8", 700_000, "text").tobytes() + sample("float32", 900_000, "values").tobytes()
)


@pytest.fixture(params=["memory", "file", "s3"])
def place(request, tmp_path):
    """A filesystem, the one below it, and a folder in both."""
    if request.param == "memory":
        yield GpucodecFileSystem(fs=MemoryFileSystem()), MemoryFileSystem(), "/here"
        MemoryFileSystem.store.clear()
    elif request.param == "file":
        yield GpucodecFileSystem(fs=LocalFileSystem()), LocalFileSystem(), str(tmp_path)
    else:
        options = request.getfixturevalue("s3_options")
        below = fsspec.filesystem("s3", **options)
        folder = f"{BUCKET}/{tmp_path.name}"
        yield GpucodecFileSystem(fs=below), below, folder
        if below.exists(folder):
            below.rm(folder, recursive=True)


@pytest.fixture
def local(tmp_path):
    return GpucodecFileSystem(fs=LocalFileSystem()), tmp_path
