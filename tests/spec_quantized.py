# SPDX-License-Identifier: Apache-2.0
"""A decoder of quantized containers written from docs/format.md alone, to be read beside it.

Like spec_decoder.py, which decodes the frames inside, it needs only NumPy and checks every "must".
"""

from __future__ import annotations

import math
import struct
from typing import NamedTuple

import numpy as np
import spec_decoder
from spec_decoder import TYPES, Decoded, align16, must

F = np.float32


class Format(NamedTuple):
    name: str
    bits: int
    largest: float
    power: int
    mantissa: int
    scales: str  # the codes of the scale types it allows


FORMATS = {
    1: Format("int8", 8, 127, 6, 6, "01234"),
    2: Format("int4", 4, 7, 2, 2, "01234"),
    3: Format("int4_asym", 4, 15, 0, 0, "012"),
    4: Format("nf4", 4, 1, 0, 0, "01234"),
    5: Format("dynamic8", 8, 1, 0, 0, "01234"),
    6: Format("mxfp8_e4m3", 8, 448, 8, 3, "01234"),
    7: Format("mxfp8_e5m2", 8, 57344, 15, 2, "01234"),
    8: Format("mxfp6_e2m3", 8, 7.5, 2, 3, "01234"),
    9: Format("mxfp6_e3m2", 8, 28, 4, 2, "01234"),
    10: Format("mxfp4", 4, 6, 2, 1, "01234"),
    11: Format("nvfp4", 4, 6, 2, 1, "4"),
    12: Format("log8", 8, 0, 0, 0, "0"),
}
FLOATS = {  # bits of exponent and mantissa, bias
    "mxfp8_e4m3": (4, 3, 7),
    "mxfp8_e5m2": (5, 2, 15),
    "mxfp6_e2m3": (2, 3, 1),
    "mxfp6_e3m2": (3, 2, 3),
    "mxfp4": (2, 1, 1),
    "nvfp4": (2, 1, 1),
}
SCALES = ("float32", "bfloat16", "float16", "float8_e8m0fnu", "float8_e4m3fn")
E8M0, E4M3 = 3, 4
OFFSETS = {"int4_asym", "log8"}

NF4 = np.frombuffer(
    bytes.fromhex(
        "000080bfb13932bf306b06bfa032cabe4da291be3f353dbe7178babd00000000"
        "fffaa23de3ca243edd047c3e3a03ad3eb8a4e13eab07103fb313393f0000803f"
    ),
    F,
)


def dynamic_map() -> np.ndarray:
    positive = np.frombuffer(
        bytes.fromhex(
            "b7a31335941a5a36ff0502370642b23734803738b3ef8a384b1fba380bd7233905e78c3983e2c739"
            "016f013ac1ec1e3a806a3c3a3ee8593aff65773a9defa73afca9f13a2db21d3b5c8f423b8a6c673b"
            "dd24863b7493983b0d02ab3ba470bd3b3bdfcf3bd34de23b6abcf43b8195033ccdcc0c3c1804163c"
            "643b1f3c48e13a3cc3f5683c1f858b3c5d8fa23c9a99b93cd7a3d03c15aee73c52b8fe3c48e10a3d"
            "6766163d85eb213da3702d3dc3f5383de17a443d0000503d1f855b3d3d0a673d5d8f723d7b147e3d"
            "cdcc843d5d8f8a3deb51903d7b14963d0ad79b3d9a99a13d2a5ca73db81ead3d48e1b23dd7a3b83d"
            "6766be3df728c43d85ebc93d3433db3d0000f83d66660a3ecdcc183e3333273e9a99353e0000443e"
            "6666523ecdcc603e33336f3e99997d3e0000863e34338d3e6666943e9a999b3ecccca23e0000aa3e"
            "3333b13e6666b83e9a99bf3eccccc63e0000ce3e3333d53e6666dc3e9a99e33eccccea3e0000f23e"
            "3233f93e3333003fcccc033f6666073f00000b3f9a990e3f3433123fcdcc153f6666193f00001d3f"
            "9a99203f3433243fcdcc273f66662b3f00002f3f9a99323f3433363fcdcc393f66663d3f0000413f"
            "9a99443f3333483fcdcc4b3f66664f3f0000533f9a99563f33335a3fcdcc5d3f6666613f0000653f"
            "9a99683f33336c3fcdcc6f3f6666733f0000773f9a997a3f33337e3f"
        ),
        F,
    )
    return np.concatenate([-positive[::-1], np.zeros(1, F), positive, np.ones(1, F)])


DYNAMIC8 = dynamic_map()


def small_float(exponent: int, mantissa: int, bias: int) -> np.ndarray:
    """The number that each code means, float64 (exact)."""
    code = np.arange(1 << (1 + exponent + mantissa))
    e = code >> mantissa & ((1 << exponent) - 1)
    fraction = code & ((1 << mantissa) - 1)
    magnitude = np.where(
        e == 0,
        fraction * 2.0 ** (1 - bias - mantissa),
        (1 + fraction / 2.0**mantissa) * 2.0 ** (e - bias),
    )
    return np.where(code >> (exponent + mantissa), -magnitude, magnitude)


MEANINGS = {name: small_float(*split) for name, split in FLOATS.items()}


def factors(scales: np.ndarray, kind: int, tensor_scale: float) -> np.ndarray:
    """float32 factors of blocks, from stored patterns."""
    if kind == E8M0:
        powers = np.ldexp(1.0, scales.astype(np.int64) - 127).astype(F)
        return np.where(scales == 255, F(np.nan), powers)
    if kind == E4M3:
        return F(tensor_scale) * MEANINGS["mxfp8_e4m3"][scales & 127].astype(F)
    return widened(scales, SCALES[kind])


def widened(pattern: np.ndarray, name: str) -> np.ndarray:
    """float32 of float32, bfloat16 or float16 patterns."""
    if name == "bfloat16":
        return (pattern.astype(np.uint32) << np.uint32(16)).view(F)
    return pattern.view(F if name == "float32" else np.float16).astype(F)


def values(
    name: str, code: np.ndarray, s: np.ndarray, scale: np.ndarray, offset: np.ndarray
) -> np.ndarray:
    """float32 of codes; all arguments have the same shape, scale and offset are float32."""
    code = code.astype(np.int64)
    if name == "int8":
        return (code - 256 * (code > 127)).astype(F) * s
    if name == "int4":
        return (code - 8).astype(F) * s + F(0)
    if name == "int4_asym":
        return code.astype(F) * s + offset
    if name == "nf4":
        return NF4[code] * s
    if name == "dynamic8":
        return DYNAMIC8[code] * s
    if name == "log8":
        low, high = (x.view(np.uint32).astype(np.int64) for x in (offset, scale))
        d = np.clip(high - low, 0, 0x7F800000).astype(F) / F(254)
        above = np.trunc((code - 1).astype(F) * d).astype(np.int64)
        pattern = np.where(code == 0, 0, above + low) & 0xFFFFFFFF
        return pattern.astype(np.uint32).view(F)
    table = MEANINGS[name].astype(F)
    return table[code & (len(table) - 1)] * s


def narrowed(x: np.ndarray, name: str) -> np.ndarray:
    """Patterns of the tensor's type, nearest, ties to even."""
    if name == "float32":
        return x.view(np.uint32)
    if name == "float64":
        return x.astype(np.float64).view(np.uint64)
    if name == "float16":
        return x.astype(np.float16).view(np.uint16)
    if name == "bfloat16":
        b = x.view(np.uint32).astype(np.uint64)
        b = (b + np.uint64(0x7FFF) + (b >> np.uint64(16) & np.uint64(1))) >> np.uint64(16)
        return np.where(np.isnan(x), np.uint64(0x7FC0), b).astype(np.uint16)
    return narrowed8(x, name)


def narrowed8(x: np.ndarray, name: str) -> np.ndarray:
    """As `narrowed`, for the types of 8 bits."""
    exponent, mantissa = (4, 3) if "e4m3" in name else (5, 2)
    unsigned_zero = name.endswith("fnuz")
    bias = (1 << (exponent - 1)) - 1 + unsigned_zero
    table = small_float(exponent, mantissa, bias)[:128]
    # Codes that mean a number; behind them, the one that a too large value would need.
    n = 128 if unsigned_zero else 127 if name == "float8_e4m3fn" else 124
    steps = np.append(table[:n], 2 * table[n - 1] - table[n - 2])
    size = np.abs(x.astype(np.float64))
    up = np.clip(np.searchsorted(steps, size), 1, n)
    below, above = size - steps[up - 1], steps[up] - size
    code = np.where((below < above) | ((below == above) & (up % 2 == 1)), up - 1, up)
    sign = np.signbit(x) * 128
    if unsigned_zero:
        return np.where(np.isnan(x) | (code >= n), 128, code + sign * (code > 0)).astype(np.uint8)
    code = np.where(np.isnan(x), 127 if exponent == 4 else 126, code)
    return (np.where(size > steps[n], n, code) + sign).astype(np.uint8)


class Header(NamedTuple):
    kind: spec_decoder.Type
    shape: tuple[int, ...]
    block: int
    format: Format
    scale_type: int
    axis: int
    tensor_scale: float
    parts: list[bytes]


TENSORS = (10, 11, 12, 13, 14, 15, 18, 19)


def read_header(raw: bytes) -> Header:
    must(len(raw) >= 64, "shorter than a header")
    magic, version, dtype, n_dims, block_log = struct.unpack("<4s4B", raw[:8])
    decoded, encoded, stored_hash = struct.unpack("<3Q", raw[8:32])
    code, scale, mode, rounding, bound_kind, n_parts, axis, zero = raw[32:40]
    _seed, bound, tensor_scale, zeros = struct.unpack("<QdfI", raw[40:64])
    must(magic == b"gpcq", "magic")
    must(version == 1, "version")
    must(encoded == len(raw), "encoded_bytes differs from the input")
    must(dtype in TENSORS, "dtype code")
    must(n_dims <= 64, "n_dims")
    must(4 <= block_log <= 12, "block_log")
    table = 64 + 8 * n_dims
    start = align16(table + 16 * n_parts)
    must(start <= len(raw), "no room for the header")
    must(spec_decoder.xxh3(raw[:24] + bytes(8) + raw[32:start]) == stored_hash, "hash")
    must(not any(raw[table + 16 * n_parts : start]), "padding of the header")
    must(code in FORMATS, "format")
    form = FORMATS[code]
    must(str(scale) in form.scales, "scale type")
    must(mode <= 3 if scale == E8M0 else mode == 0, "scaling mode")
    must(rounding <= 1, "rounding")
    must(bound_kind <= 3, "error bound")
    must(math.isfinite(bound) and bound >= 0 and (bound_kind or bound == 0), "bound")
    must(axis <= n_dims, "axis")
    must(zero == zeros == 0, "reserved field")
    must(math.isfinite(tensor_scale) and tensor_scale >= 0, "tensor scale")
    must(scale == E4M3 or tensor_scale == 1, "tensor scale")
    kind = TYPES[dtype]
    shape = struct.unpack(f"<{n_dims}Q", raw[64:table])
    must(math.prod(d for d in shape if d) * kind.word_bytes < 1 << 63, "shape too large")
    must(decoded == math.prod(shape) * kind.word_bytes, "decoded_bytes disagrees with the shape")
    parts, at = [], start
    for i in range(n_parts):
        size, copied = struct.unpack("<QQ", raw[table + 16 * i : table + 16 * i + 16])
        must(40 <= size <= len(raw) - at, "size of a part")
        must(struct.unpack("<Q", raw[at + 24 : at + 32])[0] == copied, "copied hash")
        parts.append(raw[at : at + size])
        at += size
    must(at == len(raw), "something follows the parts")
    return Header(kind, shape, 1 << block_log, form, scale, axis, tensor_scale, parts)


@np.errstate(all="ignore")
def decode(raw: bytes) -> Decoded:
    """Decode one container; raises `Refused`."""
    header = read_header(raw)
    kind, shape, form = header.kind, header.shape, header.format
    order = list(range(len(shape)))
    if header.axis:
        order.append(order.pop(header.axis - 1))
    moved = tuple(shape[i] for i in order) or (1,)
    *lead, row = moved
    n = math.prod(moved)
    n_blocks = -(-row // header.block)
    scale_name = SCALES[header.scale_type]
    expected = [("uint8", (*lead, -(-row * form.bits // 8)))]
    expected += [(scale_name, (*lead, n_blocks))] * (1 + (form.name in OFFSETS))
    must(len(header.parts) in {len(expected), len(expected) + 2}, "number of parts")
    layouts = [spec_decoder.read_layout(part) for part in header.parts]
    for layout, (name, part_shape) in zip(layouts, expected, strict=False):
        must((layout.type.name, layout.shape) == (name, part_shape), "type or shape of a part")
    exceptions = layouts[len(expected) :]
    if exceptions:
        wide = "uint64" if n > 1 << 32 else "uint32"
        for layout, name in zip(exceptions, (wide, kind.name), strict=True):
            must(layout.type.name == name and len(layout.shape) == 1, "type of exceptions")
            must(layout.shape == exceptions[0].shape, "number of exceptions")
            must(0 < layout.shape[0] <= n, "number of exceptions")
    planes = [spec_decoder.decode(part).raw for part in header.parts]

    codes = planes[0].reshape(math.prod(lead), expected[0][1][-1])
    if form.bits == 4:
        halves = [codes & 15, codes >> 4]
        codes = np.stack(halves[::-1] if form.name == "nf4" else halves, axis=-1)
        codes = codes.reshape(len(codes), 2 * codes.shape[1])[:, :row]
    item = {"float32": np.uint32, "bfloat16": np.uint16, "float16": np.uint16}
    pattern = [plane.view(item.get(scale_name, np.uint8)) for plane in planes[1 : len(expected)]]
    scale = factors(pattern[0], header.scale_type, header.tensor_scale)
    offset = widened(pattern[-1], scale_name) if form.name in OFFSETS else np.zeros_like(scale)

    def spread(x: np.ndarray) -> np.ndarray:
        """A number for each element from one for each block."""
        return np.repeat(x.reshape(len(codes), n_blocks), header.block, axis=1)[:, :row]

    s = spread(scale)
    found = narrowed(values(form.name, codes, s, s, spread(offset)), kind.name).reshape(-1)
    if exceptions:
        steps, kept = planes[len(expected) :]
        position = -1
        for step, value in zip(
            steps.view(np.uint32 if n <= 1 << 32 else np.uint64).tolist(),
            kept.view(found.dtype),
            strict=True,
        ):
            position += step + 1
            must(position < n, "position of an exception")
            found[position] = value
    result = found.reshape(moved if shape else ())
    if header.axis:
        result = np.moveaxis(result, -1, header.axis - 1)
    return Decoded(kind.name, shape, np.ascontiguousarray(result).reshape(-1).view(np.uint8))
