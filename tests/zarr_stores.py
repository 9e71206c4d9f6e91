# SPDX-License-Identifier: Apache-2.0
"""Stores and arrays that the zarr tests share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np
import pytest
import zarr
from zarr.core import codec_pipeline
from zarr.storage import MemoryStore

from gpucodec.zarr import TensorCodec

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

QUIET = [
    pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning"),
    pytest.mark.filterwarnings("ignore:invalid value encountered"),  # zarr compares NaNs
]
OURS = "gpucodec.zarr.Pipeline"
BATCHED = "zarr.core.codec_pipeline.BatchedCodecPipeline"
FUSED = "zarr.core.codec_pipeline.FusedCodecPipeline"
PIPELINES = (OURS, BATCHED, *([FUSED] if hasattr(codec_pipeline, "FusedCodecPipeline") else []))
ZARR_3_2 = tuple(map(int, zarr.__version__.split(".")[:2])) >= (3, 2)

PLAIN = ("bool", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "c8", "c16")
OTHERS = (">i2", ">f4", ">f8", ">c8", "M8[ns]", ">M8[s]", "m8[us]", "S5", "U3", ">U3", "V7")
ML_DTYPES = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e4m3fnuz", "float8_e5m2fnuz")
STRUCTURE = np.dtype([("a", "<f4"), ("b", ">i2"), ("c", "S3")])


def dtype_of(name: Any) -> np.dtype[Any]:
    """A NumPy data type by its name there or in ml_dtypes."""
    return np.dtype(getattr(ml_dtypes, name) if isinstance(name, str) and "float" in name else name)


def random_array(dtype: Any, shape: tuple[int, ...], seed: int = 0) -> np.ndarray[Any, Any]:
    """Random bits of any data type (text: of characters that exist)."""
    dtype = dtype_of(dtype)
    rng = np.random.default_rng(seed)
    n = int(np.prod(shape))
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind == "U":
        raw = rng.integers(1, 0xD000, n * dtype.itemsize // 4, np.uint32)
        return raw.astype(f"{dtype.byteorder}u4").view(dtype).reshape(shape)
    return rng.integers(0, 256, n * dtype.itemsize, np.uint8).view(dtype).reshape(shape)


def bits(array: Any) -> bytes:
    """The elements in C order, little-endian: what arrays of the same bits share."""
    array = np.asarray(array)
    if array.dtype.byteorder == ">" or array.dtype.names is not None:
        array = array.astype(array.dtype.newbyteorder("<"))
    return np.ascontiguousarray(array).tobytes()


def using(pipeline: str) -> AbstractContextManager[object]:
    """Arrays that are made or opened within have this pipeline."""
    return zarr.config.set({"codec_pipeline.path": pipeline})


def make(store: Any, data: np.ndarray[Any, Any], **options: Any) -> zarr.Array[Any]:
    """An array with our serializer alone, holding `data`; `block_size` goes to the codec."""
    codec = TensorCodec(block_size=options.pop("block_size", None))
    array = zarr.create_array(
        store,
        shape=data.shape,
        dtype=data.dtype,
        serializer=codec,
        compressors=None,
        **options,
    )
    array[...] = data
    return array


class CountingStore(MemoryStore):
    """Notes what is read, as (key, byte range, bytes); only its asynchronous side does."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.reads: list[tuple[str, Any, int]] = []

    async def get(self, key: str, prototype: Any = None, byte_range: Any = None) -> Any:
        """Read and note."""
        found = await super().get(key, prototype, byte_range)
        if "zarr.json" not in key:
            self.reads.append((key, byte_range, -1 if found is None else len(found)))
        return found

    @property
    def n_bytes(self) -> int:
        """Bytes read since the last `clear_reads`."""
        return sum(size for _, _, size in self.reads)


class SyncCountingStore(CountingStore):
    """As `CountingStore`, for zarr pipelines that read synchronously."""

    def get_sync(self, key: str, *, prototype: Any = None, byte_range: Any = None) -> Any:
        """Read and note."""
        found = super().get_sync(key, prototype=prototype, byte_range=byte_range)
        if "zarr.json" not in key:
            self.reads.append((key, byte_range, -1 if found is None else len(found)))
        return found

    def set_sync(self, key: str, value: Any) -> None:
        """Write."""
        super().set_sync(key, value)

    def delete_sync(self, key: str) -> None:
        """Delete."""
        super().delete_sync(key)


def flip(store: MemoryStore, key: str, at: int) -> None:
    """Flip a bit of a stored value."""
    raw = np.array(store._store_dict[key].as_numpy_array()).view(np.uint8)
    raw[at] ^= 1
    replace(store, key, raw)


def replace(store: MemoryStore, key: str, raw: np.ndarray[Any, Any]) -> None:
    """Store other bytes under a key."""
    store._store_dict[key] = type(store._store_dict[key]).from_array_like(raw)
