# SPDX-License-Identifier: Apache-2.0
"""Other compressors behind one small interface, each as its documentation advises for tensors.

All run on one thread. A missing package is an ImportError when its peer is made.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..tensorfiles.tensors import Array

ZIPNN_TYPES: Final = ("bfloat16", "float16", "float32", "float8_e4m3fn", "float8_e5m2")
BLOSC_LEVEL: Final = 5  # its own default


@dataclass(frozen=True)
class Peer:
    """``prepare`` makes what ``encode`` takes (and may overwrite); it is not timed."""

    name: str
    prepare: Callable[[Array], Any]
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def ours(_dtype: np.dtype[Any]) -> Peer:
    """gpucodec."""
    from .. import decode, encode

    return Peer(
        "gpucodec",
        lambda array: array,
        lambda array: encode(array, threads=1),
        lambda frame: decode(frame, threads=1),
    )


def zipnn(dtype: np.dtype[Any]) -> Peer | None:
    """ZipNN, for the types that it knows."""
    from zipnn import ZipNN

    if dtype.name not in ZIPNN_TYPES:
        return None
    codec = ZipNN(input_format="byte", bytearray_dtype=dtype.name, threads=1)
    return Peer("ZipNN", lambda array: bytearray(_raw(array)), codec.compress, codec.decompress)


def pcodec(dtype: np.dtype[Any]) -> Peer | None:
    """pcodec, which calls 8-bit input a mistake and has no bfloat16."""
    from pcodec import ChunkConfig, standalone

    if dtype.itemsize not in {2, 4, 8} or dtype.kind == "c":
        return None
    native = np.dtype(dtype.str) == dtype  # not bfloat16
    config = ChunkConfig()
    return Peer(
        "pcodec",
        lambda array: array if native else array.view(f"u{dtype.itemsize}"),
        lambda words: standalone.simple_compress(words, config),
        standalone.simple_decompress,
    )


def blosc2(dtype: np.dtype[Any]) -> Peer:
    """Blosc2: bit shuffle, then zstd."""
    import blosc2 as library

    parameters = {
        "codec": library.Codec.ZSTD,
        "clevel": BLOSC_LEVEL,
        "typesize": dtype.itemsize,
        "filters": [library.Filter.BITSHUFFLE],
        "filters_meta": [0],
        "nthreads": 1,
    }
    return Peer(
        "Blosc2 bitshuffle+zstd",
        _raw,
        lambda raw: library.compress2(raw, **parameters),
        lambda encoded: library.decompress2(encoded, nthreads=1),
    )


def zstd(_dtype: np.dtype[Any]) -> Peer:
    """zstd at its default level."""
    import zstandard

    compressor, decompressor = zstandard.ZstdCompressor(level=3), zstandard.ZstdDecompressor()
    return Peer("zstd-3", _raw, compressor.compress, decompressor.decompress)


def lz4(_dtype: np.dtype[Any]) -> Peer:
    """LZ4, frames."""
    from lz4 import frame

    return Peer("lz4", _raw, frame.compress, frame.decompress)


PEERS: Final[dict[str, Callable[[np.dtype[Any]], Peer | None]]] = {
    "gpucodec": ours,
    "zipnn": zipnn,
    "pcodec": pcodec,
    "blosc2": blosc2,
    "zstandard": zstd,
    "lz4": lz4,
}


def available(dtype: np.dtype[Any]) -> tuple[list[Peer], list[str]]:
    """Those that take this type, and the packages that are not installed."""
    found, absent = [], []
    for package, make in PEERS.items():
        try:
            peer = make(dtype)
        except ImportError:
            absent.append(package)
            continue
        if peer is not None:
            found.append(peer)
    return found, absent


def _raw(array: Array) -> memoryview:
    return memoryview(array.reshape(-1).view(np.uint8))
