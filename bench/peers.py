# SPDX-License-Identifier: Apache-2.0
"""The codecs that are measured, behind one small interface. A peer not installed is left out.

Each encodes one contiguous vector to bytes and back on one thread, with the settings its own
documentation gives for this kind of data.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from gpucodec.cli.peers import BLOSC_LEVEL

Array = NDArray[Any]

OURS: Final = "gpucodec"
OURS_INTO: Final = "gpucodec, out="
ZIPNN: Final = "ZipNN"


@dataclass(frozen=True)
class Codec:
    """``prepare`` turns the array into what ``encode`` takes and is not timed."""

    name: str
    version: str
    prepare: Callable[[Array], Any]
    encode: Callable[[Any], Any]
    decode: Callable[[Any], Any]


def raw(array: Array) -> memoryview:
    """The array's bytes without a copy."""
    return memoryview(array.view(np.uint8))


def same(array: Array, decoded: Any) -> bool:
    """Whether ``decoded`` holds the bytes of ``array``."""
    got = decoded if isinstance(decoded, np.ndarray) else np.frombuffer(decoded, np.uint8)
    return np.array_equal(got.reshape(-1).view(np.uint8), array.view(np.uint8))


def codecs(array: Array) -> Iterator[Codec]:
    """The contestants for this array: ours, then those peers that are installed and take it."""
    for make in (gpucodec, gpucodec_into, zipnn, openzl, pcodec, blosc2, zstd, copy):
        try:
            yield from make(array)
        except ImportError:
            continue


def gpucodec(_array: Array) -> Iterator[Codec]:
    import gpucodec

    yield Codec(
        OURS,
        gpucodec.__version__,
        lambda array: array,
        lambda array: gpucodec.encode(array, threads=1),
        lambda frame: gpucodec.decode(frame, threads=1),
    )


def gpucodec_into(array: Array) -> Iterator[Codec]:
    import gpucodec

    out = np.empty_like(array)  # for which NumPy asks for huge pages, as for any large result
    out.view(np.uint8).fill(0)  # and here they are
    yield Codec(
        OURS_INTO,
        gpucodec.__version__,
        lambda array: array,
        lambda array: gpucodec.encode(array, threads=1),
        lambda frame: gpucodec.decode(frame, out, threads=1),
    )


def as_in_cli(package: str, array: Array) -> Iterator[Codec]:
    """As `gpucodec bench` runs it."""
    from gpucodec.cli import peers

    peer = peers.PEERS[package](array.dtype)
    if peer is not None:
        yield Codec(peer.name, version(package), peer.prepare, peer.encode, peer.decode)


def zipnn(array: Array) -> Iterator[Codec]:
    # It overwrites its input, so it gets a fresh copy each time, which costs it nothing here.
    yield from as_in_cli("zipnn", array)


def openzl(array: Array) -> Iterator[Codec]:
    import openzl.ext as zl

    deconstruct = {
        "bfloat16": zl.nodes.BFloat16Deconstruct,
        "float16": zl.nodes.Float16Deconstruct,
        "float32": zl.nodes.Float32Deconstruct,
    }.get(array.dtype.name)
    if deconstruct is None:
        return
    compressor = zl.Compressor()
    compressor.set_parameter(zl.CParam.FormatVersion, zl.MAX_FORMAT_VERSION)
    entropy = zl.graphs.Entropy()
    compressor.select_starting_graph(
        deconstruct()(compressor, sign_frac=zl.graphs.Store(), exponent=entropy)
    )

    def encode(words: Array) -> bytes:
        context = zl.CCtx()
        context.ref_compressor(compressor)
        return bytes(context.compress([zl.Input(zl.Type.Numeric, words)]))

    yield Codec(
        "OpenZL deconstruct",
        version("openzl"),
        unsigned,
        encode,
        lambda frame: zl.DCtx().decompress(frame)[0].content.as_nparray(),
    )


def pcodec(array: Array) -> Iterator[Codec]:
    yield from as_in_cli("pcodec", array)


def blosc2(array: Array) -> Iterator[Codec]:
    import blosc2

    def variant(name: str, codec: Any, shuffle: Any) -> Codec:
        parameters = {
            "codec": codec,
            "clevel": BLOSC_LEVEL,
            "typesize": array.itemsize,
            "filters": [shuffle],
            "filters_meta": [0],
            "nthreads": 1,
        }
        return Codec(
            f"Blosc2 {name}",
            version("blosc2"),
            raw,
            lambda data: blosc2.compress2(data, **parameters),
            lambda frame: blosc2.decompress2(frame, nthreads=1),
        )

    yield variant("shuffle+zstd", blosc2.Codec.ZSTD, blosc2.Filter.SHUFFLE)
    yield variant("bitshuffle+zstd", blosc2.Codec.ZSTD, blosc2.Filter.BITSHUFFLE)
    yield variant("bitshuffle+lz4", blosc2.Codec.LZ4, blosc2.Filter.BITSHUFFLE)


def zstd(array: Array) -> Iterator[Codec]:
    import zstandard

    itemsize = array.itemsize

    def variant(level: int) -> Iterator[Codec]:
        compressor = zstandard.ZstdCompressor(level=level)
        decompressor = zstandard.ZstdDecompressor()

        def encode_planes(words: Array) -> list[bytes]:
            planes = np.ascontiguousarray(words.view(np.uint8).reshape(-1, itemsize).T)
            return [compressor.compress(plane) for plane in planes]

        def decode_planes(frames: list[bytes]) -> Array:
            planes = [np.frombuffer(decompressor.decompress(f), np.uint8) for f in frames]
            return np.stack(planes, axis=1)

        yield Codec(
            f"zstd-{level}", version("zstandard"), raw, compressor.compress, decompressor.decompress
        )
        if itemsize > 1:
            yield Codec(
                f"zstd-{level} on byte planes",
                version("zstandard"),
                lambda array: array,
                encode_planes,
                decode_planes,
            )

    yield from variant(1)
    yield from variant(3)


def copy(_array: Array) -> Iterator[Codec]:
    """The floor of time: reading the array once and writing it once to fresh memory."""
    yield Codec("copy", np.__version__, lambda array: array.view(np.uint8), np.copy, np.copy)


def unsigned(array: Array) -> Array:
    """The array's words as unsigned integers."""
    return array.view(f"u{array.itemsize}")


def size_of(encoded: Any) -> int:
    """Bytes of what an ``encode`` returned."""
    if isinstance(encoded, list):
        return sum(map(len, encoded))
    return int(encoded.nbytes) if isinstance(encoded, np.ndarray) else len(encoded)


def version(package: str) -> str:
    return importlib.metadata.version(package)
