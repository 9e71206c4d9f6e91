# SPDX-License-Identifier: Apache-2.0
"""What a chunk costs, from which a large store is planned: ``python -m bench.scale``.

CPU time of one thread for chunks of bf16 weights (normal values) in memory: encoding, decoding, and a
unit of ``gpucodec recompress`` (read, write, read back, compare), from chunks that are not compressed.
Then Dask's own time for a task that does nothing, in a cluster of one process.
"""

from __future__ import annotations

import argparse
import resource
import time
from typing import Any

import ml_dtypes
import numpy as np
import zarr
from zarr.storage import MemoryStore

import gpucodec
from gpucodec.cli.scale import counted, units
from gpucodec.zarr import TensorCodec, enable

TASKS = 2000


def best(work: Any, rounds: int) -> float:
    """CPU seconds, all threads."""
    times = []
    for _ in range(rounds):
        start = time.process_time()
        work()
        times.append(time.process_time() - start)
    return min(times)


def arrays(chunk_mib: float, total_mib: int) -> tuple[Any, Any]:
    """Weights in chunks that are not compressed, and the array they go to; rows are 1 MiB / 64."""
    columns = 8192
    rows = total_mib << 20 >> 14
    values = np.random.default_rng(0).normal(0, 0.02, (rows, columns)).astype(ml_dtypes.bfloat16)
    chunks = (int(chunk_mib * 64), columns)
    with enable():
        source = zarr.create_array(MemoryStore(), data=values, chunks=chunks, compressors=None)
        target = zarr.create_array(
            MemoryStore(),
            shape=values.shape,
            dtype=values.dtype,
            chunks=chunks,
            serializer=TensorCodec(),
            compressors=None,
        )
    return counted.counting(source), counted.counting(target)


def of_chunks(chunk_mib: float, rounds: int) -> str:
    total = max(64, int(chunk_mib))
    source, target = arrays(chunk_mib, total)
    work = list(units.units_of(source, target, complete=False))
    found = units.Outcome()

    def all_units() -> None:
        nonlocal found
        found = units.Outcome()
        for unit in work:
            found += units.recompress(unit)

    whole = best(all_units, rounds)
    chunk = np.asarray(source[: source.chunks[0]])
    frame = gpucodec.encode(chunk)
    encode = best(lambda: gpucodec.encode(chunk), 3 * rounds)
    decode = best(lambda: gpucodec.decode(frame, out=chunk), 3 * rounds)
    n_bytes = total << 20
    return (
        f"{chunk_mib:7.2f} MiB: stored {frame.nbytes / 2**20:6.3f} MiB; "
        f"encode {chunk.nbytes / encode / 1e9:.2f} GB/s, decode {chunk.nbytes / decode / 1e9:.2f}; "
        f"recompress {n_bytes / whole / 1e9:.2f} GB/s, {1e3 * whole / found.done:.2f} ms a chunk"
    )


def tasks() -> str:
    from distributed import Client, LocalCluster

    with (
        LocalCluster(n_workers=1, threads_per_worker=1, dashboard_address=":0") as cluster,
        Client(cluster) as client,
    ):
        client.gather([client.submit(len, (), pure=False) for _ in range(100)])
        start = time.perf_counter()
        client.gather([client.submit(len, (), pure=False) for _ in range(TASKS)])
        each = (time.perf_counter() - start) / TASKS
    return f"Dask: {1e3 * each:.2f} ms a task, client, scheduler and worker on this machine"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=float, nargs="+", default=[0.25, 1, 4, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    gpucodec.set_threads(1)
    for chunk_mib in options.mib:
        print(of_chunks(chunk_mib, options.rounds))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss >> 10
    print(f"peak memory {peak} MiB, of which twice the largest array is the benchmark's own")
    print(tasks())


if __name__ == "__main__":
    main()
