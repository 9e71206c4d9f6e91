# SPDX-License-Identifier: Apache-2.0
"""Promise 15: whoever reads while others write sees whole objects; of writers one wins."""

from __future__ import annotations

import multiprocessing
import os
import random
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from functools import partial
from pathlib import Path

import fsspec
import numpy as np
import pytest
import zarr

from gpucodec import CorruptionError, checkpoint
from gpucodec.zarr import TensorCodec

SHORT, LONG = 240, 10_000  # operations
RETRIES = 20
WORKERS, PROCESSES = 4, 2
VALUES = 3000

long = pytest.param(LONG, marks=pytest.mark.long)


def content(version: int) -> np.ndarray:
    """Noise with its version in every element, so that a mixture of two shows."""
    noise = np.random.default_rng(version).integers(0, 1 << 16, VALUES)
    return noise << 32 | version


def check(found: np.ndarray) -> None:
    versions = np.unique(found & 0xFFFFFFFF)
    assert len(versions) == 1, f"torn: versions {versions}"
    assert (found == content(int(versions[0]))).all()


def zarr_operation(url: str, version: int, *, write: bool) -> None:
    array = zarr.open_array(url, mode="r+")
    if write:
        array[:] = content(version)
    else:
        check(array[:])


def file_operation(url: str, version: int, *, write: bool) -> None:
    path = f"gpucodec::file://{url}"
    with fsspec.open(path, "wb" if write else "rb") as file:
        if write:
            file.write(content(version).tobytes())
        else:
            check(np.frombuffer(file.read(), np.int64))


def checkpoint_operation(url: str, version: int, *, write: bool) -> None:
    if write:
        checkpoint.save({"a": content(version), "b": content(version)}, url)
        return
    for attempt in range(RETRIES):
        try:
            state = checkpoint.load(None, url)
        except CorruptionError as error:  # overtaken: what it had begun to read was replaced
            assert "missing" in str(error), error
            assert attempt < RETRIES - 1, error
        else:
            break
    check(state["a"])
    assert (state["a"] == state["b"]).all(), "a mixture of two checkpoints"


OPERATIONS = {
    "zarr": zarr_operation,
    "file": file_operation,
    "checkpoint": checkpoint_operation,
}


def work(kind: str, url: str, count: int, worker: int) -> int:
    """So many operations on one object; how many of them wrote."""
    rng = random.Random(worker)
    written = 0
    for i in range(count):
        # One process at a time writes to a checkpoint (docs/checkpoints.md).
        write = worker == 0 if kind == "checkpoint" else rng.random() < 1 / 3
        OPERATIONS[kind](url, 1 + worker * LONG + i, write=write)
        written += write
    return written


def in_threads(kind: str, url: str, count: int, process: int) -> int:
    """The work of one process, by threads that share its pool and caches."""
    workers = range(process * WORKERS, (process + 1) * WORKERS)
    with ThreadPoolExecutor(WORKERS) as pool:
        return sum(pool.map(partial(work, kind, url, count), workers))


@pytest.mark.skipif(sys.platform != "linux", reason="renames over open files")
@pytest.mark.parametrize("operations", [SHORT, long])
@pytest.mark.parametrize("kind", OPERATIONS)
def test_readers_and_writers_see_whole_objects(kind, operations, tmp_path):
    url = str(tmp_path / "object")
    if kind == "zarr":  # one chunk: zarr promises no more
        options = {"shape": (VALUES,), "chunks": (VALUES,), "dtype": "int64", "compressors": None}
        zarr.create_array(url, serializer=TensorCodec(), **options)
    OPERATIONS[kind](url, 1, write=True)
    each = operations // (PROCESSES * WORKERS)
    context = multiprocessing.get_context("spawn")
    environment = os.environ.get("PYTHONPATH", "")
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), environment])
    try:
        with ProcessPoolExecutor(PROCESSES, mp_context=context) as pool:
            written = sum(pool.map(partial(in_threads, kind, url, each), range(PROCESSES)))
    finally:
        os.environ["PYTHONPATH"] = environment
    assert written >= each
    OPERATIONS[kind](url, 0, write=False)
