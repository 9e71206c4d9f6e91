# SPDX-License-Identifier: Apache-2.0
"""fsspec's own tests of a filesystem, all of them, on ours: over memory, local files and S3."""

from __future__ import annotations

import functools

import fsspec
import pytest
from fsspec.implementations.local import LocalFileSystem, make_path_posix
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.tests import abstract
from gpucodec_s3 import BUCKET

from gpucodec.fs import GpucodecFileSystem

# fsspec's fixtures are written for an older pytest.
pytestmark = pytest.mark.filterwarnings("ignore:Class-scoped fixtures defined as instance methods")


class Memory(abstract.AbstractFixtures):
    @pytest.fixture(scope="class")
    def fs(self):
        yield GpucodecFileSystem(fs=MemoryFileSystem())
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]

    @pytest.fixture
    def fs_path(self):
        return "/abstract"

    @pytest.fixture
    def fs_join(self):
        return lambda *parts: "/".join(parts)


class Local(abstract.AbstractFixtures):
    @pytest.fixture(scope="class")
    def fs(self):
        return GpucodecFileSystem(fs=LocalFileSystem(auto_mkdir=True))

    @pytest.fixture
    def fs_path(self, tmp_path):
        return make_path_posix(str(tmp_path))


class S3(abstract.AbstractFixtures):
    @pytest.fixture(scope="class")
    def fs(self, s3_options):
        return fsspec.filesystem("gpucodec", target_protocol="s3", target_options=s3_options)

    @pytest.fixture
    def fs_path(self):
        return f"{BUCKET}/abstract"

    @pytest.fixture
    def supports_empty_directories(self):
        return False


class TestMemoryCopy(abstract.AbstractCopyTests, Memory): ...


class TestMemoryGet(abstract.AbstractGetTests, Memory): ...


class TestMemoryPut(abstract.AbstractPutTests, Memory): ...


class TestMemoryOpen(abstract.AbstractOpenTests, Memory): ...


class TestMemoryPipe(abstract.AbstractPipeTests, Memory): ...


class TestLocalCopy(abstract.AbstractCopyTests, Local): ...


class TestLocalGet(abstract.AbstractGetTests, Local): ...


class TestLocalPut(abstract.AbstractPutTests, Local): ...


class TestLocalOpen(abstract.AbstractOpenTests, Local): ...


class TestLocalPipe(abstract.AbstractPipeTests, Local): ...


def long(test):
    """The same test, marked; moto takes its time for these hundred."""

    @functools.wraps(test)
    def run(*args, **kwargs):
        test(*args, **kwargs)

    return pytest.mark.long(run)


class TestS3Copy(abstract.AbstractCopyTests, S3):
    test_copy_glob_edge_cases = long(abstract.AbstractCopyTests.test_copy_glob_edge_cases)


class TestS3Get(abstract.AbstractGetTests, S3):
    test_get_glob_edge_cases = long(abstract.AbstractGetTests.test_get_glob_edge_cases)


class TestS3Put(abstract.AbstractPutTests, S3):
    test_put_glob_edge_cases = long(abstract.AbstractPutTests.test_put_glob_edge_cases)


class TestS3Open(abstract.AbstractOpenTests, S3): ...


class TestS3Pipe(abstract.AbstractPipeTests, S3): ...
