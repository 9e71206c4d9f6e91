# SPDX-License-Identifier: Apache-2.0
"""Mutants of containers of quantized tensors, with hashes that hold."""

from __future__ import annotations

import struct

import ml_dtypes
import mutate
import numpy as np

import gpucodec
from gpucodec.frame import table_hash
from gpucodec.kernels import quantspec as spec
from gpucodec.quant import QuantizeConfig, encode_quantized, frame as containers

FORMATS = tuple(spec.BY_NAME)


def rehashed(frame):
    n_dims, n_parts = int(frame[6]), int(frame[37])
    start = min(-(-(64 + 8 * n_dims + 16 * n_parts) // 16) * 16, frame.size)
    frame[24:32] = np.array([table_hash(frame[:start])], np.uint64).view(np.uint8)
    return frame


def seeds_of_mutants():
    rng = np.random.default_rng(11)
    for i, name in enumerate(FORMATS):
        dtype = (np.float32, ml_dtypes.bfloat16, np.float16, np.float64, ml_dtypes.float8_e5m2)[
            i % 5
        ]
        x = rng.normal(size=((5, 37), (3, 2, 32), (70,))[i % 3]).astype(dtype)
        x.reshape(-1)[[0, 7]] = np.nan, -0.0
        for axis in (-1, 0):
            yield encode_quantized(x, QuantizeConfig(name, 16, axis=axis))
    for dtype in (ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e4m3fnuz, ml_dtypes.float8_e5m2fnuz):
        yield encode_quantized(rng.normal(size=(4, 33)).astype(dtype), QuantizeConfig("int8"))


def parts_of(frame):
    header = containers.parse(frame)
    return header, [frame[part.start : part.stop].tobytes() for part in header.parts]


def joined(frame, parts):
    """The container with other parts: sizes, copied hashes and its own hash agree with them."""
    n_dims = int(frame[6])
    head = bytearray(frame[: 64 + 8 * n_dims].tobytes())
    for part in parts:
        head += struct.pack("<Q", len(part)) + part[24:32].ljust(8, b"\0")
    head += bytes(-len(head) % 16)
    head[37] = len(parts)
    whole = np.frombuffer(bytes(head) + b"".join(parts), np.uint8).copy()
    whole[16:24] = np.array([whole.size], np.uint64).view(np.uint8)
    return rehashed(whole)


def mutate_values(part, rng):
    """Another valid frame: some of the array's bytes are others."""
    array = gpucodec.decode(np.frombuffer(part, np.uint8)).copy()
    raw = array.reshape(-1).view(np.uint8)
    for _ in range(rng.randrange(1, 4)):
        raw[rng.randrange(raw.size)] = rng.choice((0, 1, 127, 128, 255, rng.randrange(256)))
    return gpucodec.encode(array).tobytes()


def mutant_of(frame, rng):
    kind = rng.randrange(6)
    if kind == 0:
        changed = frame.copy()
        at = rng.choice((*range(4, 16), *range(32, 64 + 8 * int(frame[6]))))
        changed[at] = rng.choice(
            (0, 1, 2, 3, 4, 8, 127, 128, 255, changed[at] ^ 1 << rng.randrange(8))
        )
        return rehashed(changed)
    _, parts = parts_of(frame)
    i = rng.randrange(len(parts))
    if kind == 1:
        others = [mutate.Parts(part) for part in parts]
        parts[i] = mutate.mutant(others[i], rng, others)
    elif kind == 2:
        parts[i], parts[-1] = parts[-1], parts[i]
    elif kind == 3 and len(parts) > 2:
        del parts[i]
    else:
        parts[i] = mutate_values(parts[i], rng)
    return joined(frame, parts)
