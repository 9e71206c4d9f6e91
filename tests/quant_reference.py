# SPDX-License-Identifier: Apache-2.0
"""The quantizer that docs/format.md describes, in plain NumPy, a block at a time."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from spec_quantized import DYNAMIC8, FLOATS, FORMATS, MEANINGS, NF4, values

F = np.float32
ROWS = {row.name: row for row in FORMATS.values()}
SCALE_DTYPES = {"f32": F, "bf16": ml_dtypes.bfloat16, "f16": np.float16}


def bits(x):
    return int(F(x).view(np.uint32))


E4M3 = MEANINGS["mxfp8_e4m3"][:127]


def scale_factor(stored, kind, tensor_scale):
    if kind == "e8m0":
        return F(np.nan) if stored == 255 else F(2.0 ** (int(stored) - 127))
    if kind == "e4m3":
        return F(tensor_scale) * F(MEANINGS["mxfp8_e4m3"][int(stored) & 127])
    return F(stored)


def real(x, kind):
    """A float32 in a real scale type, as a number of that type."""
    return np.asarray(x, F).astype(SCALE_DTYPES[kind])[()]


def choose(name, kind, mode, peak, tensor_scale, divisor):
    """(stored, factor of encoding, whether there is none)."""
    row = ROWS[name]
    largest, power, mantissa = F(row.largest), row.power, row.mantissa
    if kind == "e8m0":
        b = bits(peak)
        if mode == "floor":
            e = (b >> 23) - power
        elif mode == "even":
            e = ((b + (1 << (22 - mantissa))) >> 23) - power
        elif mode == "ceil":
            e = ((b + (1 << 23) - 1) >> 23) - power
        else:
            q = bits(peak / largest)
            e = 0 if q <= 1 << 22 else (q + (1 << 23) - 1) >> 23
        e = min(max(e, 0), 254)
        return e, F(2.0 ** (127 - e)), False
    if kind == "e4m3":
        target = F(2.0**-6)
        if tensor_scale > 0:
            target = max(target, (peak / largest) / F(tensor_scale))
        target = min(target, F(448))
        stored = nearest_even(np.float64(target), E4M3)
        factor = (F(1) / F(tensor_scale)) / F(E4M3[stored])
        return (stored, factor, False) if np.isfinite(factor) else (stored, F(0), peak != 0)
    stored = real(peak / divisor, kind)
    s = F(stored)
    if not F(2.0**-126) <= abs(s) < F(np.inf):
        return real(0, kind), F(0), peak != 0
    return stored, F(1) / s, False


def nearest_even(magnitude, table):
    """Number of the nearest entry of an ascending table, ties to an even number."""
    i = int(np.searchsorted(table, magnitude))
    if i == 0:
        return 0
    if i == len(table):
        return len(table) - 1
    low, high = magnitude - table[i - 1], table[i] - magnitude
    return i - 1 if low < high or (low == high and (i - 1) % 2 == 0) else i


def noise(index, seed):
    m64, m32 = (1 << 64) - 1, np.uint64(0xFFFFFFFF)
    z = (seed + 0x9E3779B97F4A7C15) & m64
    z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 & m64
    z = (z ^ z >> 27) * 0x94D049BB133111EB & m64
    z ^= z >> 31
    k0, k1 = np.uint64(z & 0xFFFFFFFF), np.uint64(z >> 32)
    h = (np.asarray(index, np.uint64) + k0) & m32
    h = (h ^ h >> np.uint64(16)) * np.uint64(0x7FEB352D) & m32
    h = (h ^ h >> np.uint64(15) ^ k1) * np.uint64(0x846CA68B) & m32
    return ((h ^ h >> np.uint64(16)) >> np.uint64(16)).astype(np.int64)


def towards(z, n):
    """`T` of the document."""
    return (np.trunc(z * F(65536)).astype(np.int64) + n) >> 16


def clamp(y, low, high):
    y = np.where(y > F(low), y, F(low))
    return np.where(y < F(high), y, F(high))


def encode_codes(name, x, k, offset, n):
    """Codes of float32 values without NaN; `n` are random bits or None."""
    y = x * k
    if name == "int8":
        y = clamp(y, -127, 127)
        if n is not None:
            return towards(y, n) & 255
        return (np.sign(y) * np.floor(np.abs(y).astype(np.float64) + 0.5)).astype(np.int64) & 255
    if name == "int4":
        if n is not None:
            return towards(clamp(y, -8, 7), n) + 8
        return np.trunc(clamp(y + F(8.5), 0, 15)).astype(np.int64)
    if name == "int4_asym":
        y = (x - offset) * k
        if n is not None:
            return towards(clamp(y, 0, 15), n)
        return np.trunc(clamp(y + F(0.5), 0, 15)).astype(np.int64)
    if name in {"nf4", "dynamic8"}:
        table = NF4 if name == "nf4" else DYNAMIC8
        y = clamp(y, -1, 1)
        if n is None:
            return np.searchsorted((table[:-1] + table[1:]) / F(2), y, side="left")
        return stochastic_entry(name, table, y, n)
    if name == "log8":
        pattern = x.view(np.int32).astype(np.int64)
        positive = (pattern >= 1 << 23) & (pattern <= 0x7F800000)
        above = np.where(positive, pattern - bits(offset), 0).astype(F)
        y = clamp(above * k, 0, 254)
        step = np.trunc(y + F(0.5)).astype(np.int64) if n is None else towards(y, n)
        return np.where(positive, step + 1, 0)
    return encode_minifloat(name, x, y, n)


def stochastic_entry(name, table, y, n):
    if name == "nf4":
        i = np.searchsorted(table, y, side="right") - 1
        low, high = table[i], table[np.minimum(i + 1, 15)]
        return i + ((y - low) * F(65536) > n.astype(F) * (high - low))
    magnitudes, size = table[127:], np.abs(y)
    i = np.searchsorted(magnitudes, size, side="right") - 1
    low, high = magnitudes[i], magnitudes[np.minimum(i + 1, 128)]
    step = i + ((size - low) * F(65536) > n.astype(F) * (high - low))
    negative = np.signbit(y)
    step = np.minimum(step, 128 - negative)
    return np.where(negative, 127 - step, 127 + step)


def encode_minifloat(name, x, y, n):
    exponent, mantissa, bias = FLOATS[name]
    table = MEANINGS[name][: 1 << (exponent + mantissa)]
    largest = F(ROWS[name].largest)
    size = np.abs(y)
    size = np.where(size < largest, size, largest)
    if n is None:
        code = np.array([nearest_even(np.float64(one), table) for one in size], np.int64)
    else:
        e = np.maximum(size.view(np.uint32).astype(np.int64) >> 23, 128 - bias) - 127
        scaled = (size.astype(np.float64) * 2.0 ** (mantissa - e)).astype(F)
        code = ((e - (1 - bias)) << mantissa) + towards(scaled, n)
    return code | np.signbit(x).astype(np.int64) << (exponent + mantissa)


def smallest_normal(dtype):
    return float(ml_dtypes.finfo(dtype).smallest_normal)


@np.errstate(all="ignore")
def quantize(x, name, kind, mode, block, seed=None, bound=(np.inf, 0.0)):
    """(codes, scales, offsets, tensor scale, flags) of rows of float32, bfloat16 or float16.

    Codes are one an element, uint8; `seed` asks for stochastic rounding; `bound` is `f` of the
    document for abs and range, and for rel.
    """
    wide = x.astype(F)
    finite = np.isfinite(wide)
    tensor_scale = F(1)
    if kind == "e4m3":
        tensor_scale = F(np.abs(wide[finite]).max(initial=0)) / F(448 * ROWS[name].largest)
    codes, flags = np.zeros(x.shape, np.uint8), np.zeros(x.shape, bool)
    n_blocks = -(-x.shape[1] // block)
    scales = np.zeros((x.shape[0], n_blocks), object)
    offsets = np.zeros((x.shape[0], n_blocks), object)
    for r in range(x.shape[0]):
        for b in range(n_blocks):
            here = slice(b * block, min((b + 1) * block, x.shape[1]))
            v, sound = wide[r, here], finite[r, here]
            offset, nothing = F(0), False
            finite_values = v[sound]
            if name == "int4_asym":
                low = finite_values.min() + F(0) if finite_values.size else F(0)
                high = finite_values.max() if finite_values.size else F(0)
                stored, k, nothing = choose(name, kind, mode, high - low, tensor_scale, F(15))
                offset = real(low, kind)
                if not np.isfinite(F(offset)):
                    stored, offset, k, nothing = real(0, kind), real(0, kind), F(0), True
            elif name == "log8":
                positive = finite_values[finite_values >= F(2.0**-126)]
                stored = positive.max() if positive.size else F(0)
                offset = positive.min() if positive.size else F(0)
                span = bits(stored) - bits(offset)
                k = F(254) / F(span) if span else F(0)
            else:
                peak = np.abs(finite_values).max() if finite_values.size else F(0)
                divisor = F(ROWS[name].largest)
                signed = peak
                if name == "int4" and kind not in {"e8m0", "e4m3"}:
                    divisor = F(-8)
                    if finite_values.size:
                        signed = finite_values[np.argmax(np.abs(finite_values) == peak)]
                stored, k, nothing = choose(name, kind, mode, signed, tensor_scale, divisor)
            n = None
            if seed is not None:
                n = noise(r * x.shape[1] + np.arange(here.start, here.stop), seed)
            clean = np.where(np.isnan(v), F(0), v)
            code = encode_codes(name, clean, k, F(offset), n)
            s = F(0) if name == "log8" else scale_factor(stored, kind, tensor_scale)
            full = (np.full(code.shape, one, F) for one in (s, stored, offset))
            back = values(name, code, *full).astype(x.dtype)
            codes[r, here], scales[r, b], offsets[r, b] = code, stored, offset
            flags[r, here] = listed(name, x[r, here], back, nothing, bound)
    return codes, scales, offsets, tensor_scale, flags


def listed(name, x, back, nothing, bound):
    """Which values an encoder must list as exceptions."""
    wide, decoded = x.astype(F), back.astype(F)
    bad = ~np.isfinite(wide) | ~np.isfinite(decoded)
    bad |= (wide != 0) & (np.abs(wide) < smallest_normal(x.dtype))
    bad |= (wide == 0) & ((decoded != 0) | (np.signbit(wide) != np.signbit(decoded)))
    if name == "log8":
        bad |= np.signbit(wide)
    if nothing:
        bad |= wide != 0
    absolute, relative = F(bound[0]), F(bound[1])
    allowed = relative * np.abs(wide)
    allowed = np.maximum(np.where(allowed >= F(2.0**-126), allowed, F(0)), absolute)
    d = np.abs(wide - decoded)
    return bad | ~((d < allowed) | (d == 0))
