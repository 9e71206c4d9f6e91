# SPDX-License-Identifier: Apache-2.0
"""Small frames that between them use every feature: what the tests of damage start from.

Half are written by gpucodec, half by make_frames from the document.
"""

from __future__ import annotations

from functools import cache

import make_frames
import numpy as np
import spec_decoder
from helpers import repetitive, sample

import gpucodec
from gpucodec import LZConfig, TensorConfig

# name, elements, content, block size: chosen so that together they cover `FEATURES`.
ENCODED = (
    ("uint8", 400, "skewed", 256),
    ("uint8", 130, "constant", 64),
    ("uint8", 300, "noise", 128),
    ("int8", 200, "values", 128),
    ("bool", 300, "values", 256),
    ("uint16", 260, "skewed", 128),
    ("int16", 200, "values", 64),
    ("int32", 130, "values", 64),
    ("uint64", 90, "skewed", 64),
    ("int64", 100, "values", 128),
    ("float16", 300, "values", 256),
    ("float16", 127, "constant", 64),
    ("bfloat16", 500, "values", 256),
    ("bfloat16", 64, "noise", 64),
    ("float32", 257, "values", 256),
    ("float64", 100, "values", 64),
    ("float64", 200, "noise", 128),
    ("float64", 330, "skewed", 256),
    ("float8_e4m3fn", 400, "values", 256),
    ("float8_e5m2", 350, "rare", 128),
    ("float8_e8m0fnu", 300, "skewed", 128),
    ("complex64", 70, "values", 128),
    ("complex128", 40, "constant", 64),
    ("uint8", 0, "noise", 64),
    ("float32", 1, "noise", 64),
)
# The same with a profile; those of 4096 words and more may be sparse.
PROFILED = (
    ("uint8", 300, "skewed", 128, "fast"),
    ("float16", 300, "values", 128, "fast"),
    ("bfloat16", 500, "values", 128, "fast"),
    ("float32", 200, "rare", 64, "auto"),
    ("float64", 300, "values", 256, "fast"),
    ("bfloat16", 4096, "pruned", 2048, "ratio"),
    ("int32", 4101, "pruned", 4096, "fast"),
)
SHAPES = {0: (3, 0), 1: (), 500: (5, 4, 25)}  # by number of elements


def encoded() -> list[make_frames.Made]:
    """Written by gpucodec."""
    frames = []
    for name, n, content, block in ENCODED:
        array = sample(name, n, content).reshape(SHAPES.get(n, (n,)))
        frame = gpucodec.encode(array, gpucodec.TensorConfig(block_size=block)).tobytes()
        label = f"encoded-{name}-{n}-{content}"
        frames.append(make_frames.Made(label, frame, name, array.shape, array.tobytes()))
    for name, n, content, block, profile in PROFILED:
        array = sample(name, n, content, seed=1)
        frame = gpucodec.encode(array, gpucodec.TensorConfig(block, profile)).tobytes()
        label = f"{profile}-{name}-{n}-{content}"
        frames.append(make_frames.Made(label, frame, name, array.shape, array.tobytes()))
    rare = np.tile(np.arange(40, dtype=np.uint8) % 4, 250)
    rare[[5, 77, 4000]] = 200, 201, 202  # rare enough to be patched
    frame = gpucodec.encode(rare).tobytes()
    frames.append(make_frames.Made("encoded-patches", frame, "uint8", rare.shape, rare.tobytes()))
    return frames


REPEATED = (
    ("uint8", 700, "text", TensorConfig(256, lz=True)),
    ("int64", 300, "text", TensorConfig(256, lz=True)),
    ("int32", 700, "steps", TensorConfig(512, lz=True)),
    ("bool", 600, "runs", LZConfig()),
    ("float32", 300, "sparse", LZConfig("ratio")),
    ("uint8", 401, "text", LZConfig(typesize=2)),
)


def repeated() -> list[make_frames.Made]:
    """By LZ, written by gpucodec."""
    frames = []
    for name, n, content, config in REPEATED:
        array = repetitive(name, n, content)
        frame = gpucodec.encode(array, config).tobytes()
        label = f"repeated-{name}-{n}-{content}"
        frames.append(make_frames.Made(label, frame, name, array.shape, array.tobytes()))
    return frames


def made(count: int = 40, seed: int = 32, max_words: int = 200) -> list[make_frames.Made]:
    """Frames of the generator in which every table symbol occurs (see the document on encoders)."""
    frames = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        name = None
        if i % 6 == 5:
            name = "float64"  # the type with planes below 8 bits
        elif i % 4 == 1:
            name = ("float16", "bfloat16", "float32")[i // 4 % 3]  # they may be predicted
        frame = make_frames.random_frame(rng, max_words, name=name, exact=True)
        frames.append(frame._replace(label=f"made-{i:02}-{frame.label}"))
    return frames


def made_lz(count: int = 10, seed: int = 8, max_words: int = 100) -> list[make_frames.Made]:
    """The same with LZ."""
    frames = []
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        name = ("uint8", "bool", "int16", "bfloat16", "int32", "float32", "uint16", "float64")[
            i % 8
        ]
        frame = make_frames.random_frame(rng, max_words, name=name, exact=True, lz=True)
        frames.append(frame._replace(label=f"made-lz-{i:02}-{frame.label}"))
    return frames


@cache
def all_seeds() -> dict[str, make_frames.Made]:
    """By label; made on first use, since the first use compiles."""
    return {frame.label: frame for frame in encoded() + made() + repeated() + made_lz()}


# Known without encoding, for parametrization.
LABELS = (
    *(f"encoded-{name}-{n}-{content}" for name, n, content, _ in ENCODED),
    *(f"{profile}-{name}-{n}-{content}" for name, n, content, _, profile in PROFILED),
    "encoded-patches",
    *(frame.label for frame in made()),
    *(f"repeated-{name}-{n}-{content}" for name, n, content, _ in REPEATED),
    *(frame.label for frame in made_lz()),
)


PLANE_CODERS = ("raw", "constant", "rans8", "rans12", *(f"palette{c}" for c in range(5)))
CODERS = (*PLANE_CODERS, "lz", "lz_words")


def features(frame: bytes) -> set[str]:
    """Names of what a valid frame uses."""
    layout = spec_decoder.read_layout(frame)
    found = {
        layout.type.transform,
        f"{len(layout.shape)} dims" if len(layout.shape) < 2 else "dims",
    }
    found.add(("no block", "one block", "blocks")[min(2, len(layout.hashes))])
    if layout.stored:
        return found | {"stored"}
    if layout.sparse:
        found.add("sparse")
    if layout.model is not None:
        found |= {"predicted", "factors" if layout.model.row_factors.size else "no factors"}
    widths = (spec_decoder.MASK_BITS, 1) * layout.sparse + layout.planes
    for block, entries in enumerate(layout.entries):
        n = min(layout.block_words, layout.n_words - block * layout.block_words)
        planes = zip(entries, layout.payloads[block], widths, strict=True)
        if layout.sparse:
            found.add("dense block" if entries[0] == spec_decoder.NOT_PACKED else "packed block")
            found |= {"signs"} if entries[1] != spec_decoder.NOTHING else set()
        for (coder, _), (at, size), bits in planes:
            name = CODERS[coder]
            found |= {name, f"{name} {'narrow' if bits < 8 else 'wide'}"}
            if size % 16:
                found.add("padding")
            if coder in {spec_decoder.RANS8, spec_decoder.RANS12}:
                if frame[at + 4] or frame[at + 5]:
                    found.add("patches")
                found.add("rows" if n > 64 else "only a tail")
    return found


FEATURES = {
    *("sparse", "packed block", "dense block", "signs", "predicted", "factors", "no factors"),
    *("plain", "rotate", "zigzag", "rotate+bias", "0 dims", "1 dims", "dims"),
    *("no block", "one block", "blocks", "padding", "patches", "rows", "stored"),
    *(f"{c}{w}" for c in PLANE_CODERS for w in ("", " narrow", " wide")),
    *("lz", "lz_words"),
}
