# SPDX-License-Identifier: Apache-2.0
"""zarr's own tests, from the source distribution of the installed version, run on our pipeline.

Twice: as they are (their codecs must not notice the pipeline), and with our serializer wherever a
test asks for no codec (``zarr_suite/gpucodec_default.py``). Needs a package index, for that
distribution and the plugins that its configuration wants.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import zarr

pytestmark = pytest.mark.peer

HERE = Path(__file__).parent
FILES = (
    "test_codecs",
    "test_codec_pipeline.py",
    "test_codec_pipeline_suite.py",
    "test_pipeline_parity.py",
    "test_v2.py",
    "test_indexing.py",
)
# These look at what zarr's default codec stores, or at how zarr's code goes about it.
ABOUT_THE_DEFAULT_CODEC = (
    "test_delete_empty_shards",  # the size of an uncompressed shard
    "test_integer_decode_rejects_non_exact_division",  # puts uncompressed chunks
    "test_decode_rejects_integer_overflow_on_offset_add",
    "test_decode_int_widened_path",
    "test_load_partial_shard",  # mocks of Store.get_ranges
    "test_bulk_decode_engagement_and_correctness",  # only of uncompressed shards
)


@pytest.fixture(scope="module")
def distribution(tmp_path_factory: Any) -> Path:
    """Folder with zarr's sources, plugins for its tests in ``plugins``."""
    folder: Path = tmp_path_factory.mktemp("zarr")
    pip = [sys.executable, "-m", "pip", "-q", "--disable-pip-version-check"]
    plugins = ["pytest-asyncio", "pytest-benchmark", "py-cpuinfo"]
    source = ["--no-binary", ":all:", "--no-deps", f"zarr=={zarr.__version__}"]
    for command in (
        ["download", *source, "-d", str(folder)],
        ["install", "--no-deps", "--target", str(folder / "plugins"), *plugins],
    ):
        done = subprocess.run([*pip, *command], capture_output=True, text=True, check=False)
        if done.returncode:
            pytest.skip(f"pip cannot fetch zarr's tests: {done.stderr[-500:]}")
    with tarfile.open(folder / f"zarr-{zarr.__version__}.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder


@pytest.mark.parametrize("with_our_codec", [False, True], ids=["as_is", "our_codec"])
@pytest.mark.parametrize("name", FILES)
def test_zarrs_own_tests_pass(distribution: Path, name: str, *, with_our_codec: bool) -> None:
    root = distribution / f"zarr-{zarr.__version__}"
    if not (root / "tests" / name).exists():
        pytest.skip(f"zarr {zarr.__version__} has no {name}")
    ours = ["-p", "gpucodec_default", "-k", f"not ({' or '.join(ABOUT_THE_DEFAULT_CODEC)})"]
    command = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "--tb=short", f"tests/{name}"]
    path = [str(distribution / "plugins"), str(HERE / "zarr_suite")]
    done = subprocess.run(
        [sys.executable, *command, *(ours if with_our_codec else ())],
        cwd=root,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join(path),
            "ZARR_CODEC_PIPELINE__PATH": "gpucodec.zarr.Pipeline",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    summary = done.stdout.strip().splitlines()[-1]
    print(f"{name}, {'our codec' if with_our_codec else 'as it is'}: {summary}")
    if with_our_codec and name == "test_indexing.py":
        assert "'read_chunks': 0" not in done.stdout
