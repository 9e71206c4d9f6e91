# SPDX-License-Identifier: Apache-2.0
"""What zarr costs per chunk, beside the codec: ours in our pipeline and in zarr's own.

Run ``python -m bench.zarr_overhead``. 4,096 chunks of 1,024 bytes in memory, so that next to
nothing but the host's work is left. CPU time of all threads, best of several interleaved rounds.
"codec" is the same frames through `gpucodec.encode_batch` and `decode_batch` without zarr; "host
only" is all but these two calls, which are replaced by ones that return what is already there. What
was imported is kept out of Python's garbage collection, whose full passes over a hundred thousand
old objects cost more than all else here (on 3.11, some 15 us per chunk in every row).
"""

from __future__ import annotations

import gc
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.core import codec_pipeline
from zarr.storage import MemoryStore

import gpucodec
from gpucodec.zarr import TensorCodec

from .record import record

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 15
N_CHUNKS = 4096
CHUNK = 256  # float32: 1,024 bytes
STOCK = "zarr.core.codec_pipeline."
OURS = "gpucodec.zarr.Pipeline"


@dataclass(frozen=True)
class NoOp(BytesBytesCodec):
    """A compressor that does nothing, called as zarr calls its own."""

    is_fixed_size = True

    def to_dict(self) -> dict[str, Any]:
        """As metadata."""
        return {"name": "noop"}

    def compute_encoded_size(self, input_byte_length: int, _chunk_spec: Any) -> int:
        """Unchanged."""
        return input_byte_length

    def _decode_sync(self, chunk_bytes: Any, _spec: Any) -> Any:
        return chunk_bytes

    _encode_sync = _decode_sync

    async def _decode_single(self, chunk_bytes: Any, _spec: Any) -> Any:
        return chunk_bytes

    _encode_single = _decode_single


def cpu_time(work: Callable[[], object]) -> float:
    """CPU seconds of all threads."""
    start = time.process_time()
    work()
    return time.process_time() - start


def arrays(values: np.ndarray[Any, Any]) -> dict[str, zarr.Array[Any]]:
    """An array for each row of the table; each keeps the pipeline that it is made with."""
    rows: dict[str, tuple[str, dict[str, Any]]] = {
        "no-op, zarr batched": (STOCK + "BatchedCodecPipeline", {"compressors": NoOp()}),
        "no-op, zarr fused": (STOCK + "FusedCodecPipeline", {"compressors": NoOp()}),
    }
    tensor = {"serializer": TensorCodec(), "compressors": None}
    for name, pipeline in (
        ("zarr batched", STOCK + "BatchedCodecPipeline"),
        ("zarr fused", STOCK + "FusedCodecPipeline"),
        ("gpucodec", OURS),
    ):
        rows[f"tensor, {name}"] = (pipeline, tensor)
        rows[f"tensor, {name}, 1 shard"] = (pipeline, {**tensor, "shards": values.shape})
    made = {}
    for name, (pipeline, options) in rows.items():
        if "fused" in name and not hasattr(codec_pipeline, "FusedCodecPipeline"):
            continue  # zarr before 3.3
        with zarr.config.set({"codec_pipeline.path": pipeline, "codec_pipeline.max_workers": 1}):
            made[name] = zarr.create_array(
                MemoryStore(),
                shape=values.shape,
                chunks=(CHUNK,),
                dtype=values.dtype,
                config={"write_empty_chunks": True},
                **options,
            )
    return made


def main() -> None:
    """Print the table."""
    rng = np.random.default_rng(0)
    values = rng.standard_normal(N_CHUNKS * CHUNK).astype(np.float32)
    chunks = list(values.reshape(N_CHUNKS, CHUNK))
    frames = gpucodec.encode_batch(chunks)
    outputs = list(np.empty_like(values).reshape(N_CHUNKS, CHUNK))
    rows: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "codec": (
            lambda: gpucodec.encode_batch(chunks),
            lambda: gpucodec.decode_batch(frames, outputs),
        )
    }
    for name, array in arrays(values).items():
        rows[name] = (
            lambda array=array: array.__setitem__(slice(None), values),  # type: ignore[misc]
            lambda array=array: array[:],  # type: ignore[misc]
        )
        rows[name][0]()
    gc.freeze()
    best = {name: [np.inf] * 4 for name in rows}
    codec = gpucodec.encode_batch, gpucodec.decode_batch
    idle = (lambda words, _config: frames[: len(words)]), (lambda _frames, outs: outs)
    for _ in range(ROUNDS):
        for name, work in rows.items():
            gpucodec.encode_batch, gpucodec.decode_batch = codec
            best[name][:2] = map(min, best[name][:2], map(cpu_time, work))
            if name.startswith("tensor"):
                gpucodec.encode_batch, gpucodec.decode_batch = idle  # type: ignore[assignment]
                best[name][2:] = map(min, best[name][2:], map(cpu_time, work))
    print(f"zarr {zarr.__version__}, {N_CHUNKS} chunks of {4 * CHUNK} B, us per chunk")
    print(f"{'':32}{'write':>8}{'read':>8}   host only:{'write':>8}{'read':>8}")
    for name, seconds in best.items():
        write, read, *host = (1e6 * one / N_CHUNKS for one in seconds)
        if name.startswith("tensor"):
            record("zarr_overhead", name, write_us=host[0], read_us=host[1])
        alone = f"{host[0]:20.1f}{host[1]:8.1f}" if name.startswith("tensor") else ""
        print(f"{name:32}{write:8.1f}{read:8.1f}{alone}")


if __name__ == "__main__":
    main()
