# SPDX-License-Identifier: Apache-2.0
"""Codecs of other people for arrays on a GPU, as contestants of `bench.gpu`.

nvCOMP is told what it can be told: the type of the elements (two bytes of bfloat16 are its
half-precision floats, or integers), and sizes ahead, so that decoding does not wait. What is not
installed is left out, and named.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import quantize

Work = Callable[[], Any]


@dataclass(frozen=True)
class Contestant:
    """A codec that has encoded its array once, and can do it again."""

    name: str
    n_bytes: int
    """As encoded."""
    encode: Work
    decode: Work
    check: Callable[[], bool]
    """Whether the last decoding gave every bit back."""


def nvcomp_codecs(dtype: np.dtype[Any]) -> dict[str, dict[str, Any]]:
    """Options of nvCOMP's coders for elements of a type."""
    width = dtype.itemsize
    is_float = dtype.kind in "fV"  # bfloat16 is "V" to NumPy
    ans = {2: "<f2", 4: "<f4"}.get(width, "|u1") if is_float else "|u1"
    words = f"<u{width}" if width > 1 else "|u1"
    floats = dtype.str if dtype.kind == "f" else words
    return {
        "ANS": {"data_type": ans},
        "Bitcomp": {"data_type": floats},
        "Zstd": {},
        "LZ4": {"data_type": "|u1"},
        "GDeflate": {"algorithm_type": 1},
        "Cascaded": {"data_type": words},
    }


def nvcomp(cupy: Any, words: Any, dtype: np.dtype[Any], stream: Any) -> Iterator[Contestant]:
    """nvCOMP's coders on the bytes of an array; of those that refuse it, the reason is printed."""
    try:
        from nvidia import nvcomp as library
    except ImportError as error:
        print(f"| | left out: {error} | | | |")
        return
    source = library.as_array(words, cuda_stream=stream.ptr)
    for algorithm, options in nvcomp_codecs(dtype).items():
        try:
            yield _nvcomp(cupy, library, algorithm, options, source, words, stream)
        except (RuntimeError, ValueError, TypeError) as error:
            print(f"| | nvCOMP {algorithm}: {error} | | | |")


def _nvcomp(
    cupy: Any, library: Any, algorithm: str, options: Any, source: Any, words: Any, stream: Any
) -> Contestant:
    codec = library.Codec(algorithm=algorithm, cuda_stream=stream.ptr, **options)
    ahead = codec.compression_config(words.nbytes)
    back = codec.decompression_config(ahead)
    room = cupy.empty(codec.get_max_comp_buffer_size(source), np.uint8)
    out = cupy.empty_like(words)
    coded = codec.encode(source)
    return Contestant(
        f"nvCOMP {algorithm}",
        coded.buffer_size,
        lambda: codec.encode(source, out=room, compression_config=ahead),
        lambda: codec.decode(coded, out=out, decompression_config=back),
        lambda: bool((out == words).all()),
    )


def quantizers() -> Iterator[quantize.Coder]:
    """bitsandbytes and torchao, in the formats that we have, too."""
    for library in (quantize.bitsandbytes_coders, quantize.torchao_coders):
        try:
            yield from library()
        except ImportError as error:
            print(f"| | left out: {error} | | | |")
