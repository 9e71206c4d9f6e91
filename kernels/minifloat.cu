// SPDX-License-Identifier: Apache-2.0
// Small floats of any split into exponent and mantissa, and the narrow types of arrays: the other
// half of minifloat.py.
//
// Every operation is one of IEEE float32 or of 32-bit integers, and none is fused, so that the bits
// are those of the CPU. A comparison is false for NaN, which `at_least` and `at_most` rely on.

constexpr u32 MAGNITUDE = SIGN - 1;
constexpr u32 INFINITY_BITS = 255u << MANTISSA;
constexpr u32 SMALLEST_NORMAL = 1u << MANTISSA;

template <class T>
DEVICE T at_least(T x, T low) { return x > low ? x : low; }
template <class T>
DEVICE T at_most(T x, T high) { return x < high ? x : high; }

DEVICE float magnitude_of(float x) { return float_of(bits_of(x) & MAGNITUDE); }

// The code of `y` >= 0 without a sign; beyond the largest value it runs on. Nearest, ties to even; or if
// `stochastic` with `noise`, 16 random bits, up or down in proportion.
template <class Form>
DEVICE u32 encode_magnitude(float y, bool stochastic, u32 noise) {
    constexpr u32 lowest = BIAS + 1 - Form::bias;
    u32 exponent = at_least(bits_of(y) >> MANTISSA, lowest);
    float scaled = y * float_of((2 * BIAS + Form::mantissa - exponent) << MANTISSA);
    u32 steps = stochastic ? (u32(i32(scaled * NOISE)) + noise) >> 16
                           : bits_of(scaled + ROUND_TO_INTEGER) - ((BIAS + MANTISSA) << MANTISSA);
    return ((exponent - lowest) << Form::mantissa) + steps;
}

// Float32 of a code without a sign.
template <class Form>
DEVICE float decode_magnitude(u32 code) {
    u32 normal = (code << (MANTISSA - Form::mantissa)) + ((BIAS - Form::bias) << MANTISSA);
    float least = float_of((BIAS + 1 - Form::bias) << MANTISSA);
    float subnormal = float_of(normal + (1u << MANTISSA)) - least;
    return code < 1u << Form::mantissa ? subnormal : float_of(normal);
}

// The code of `y` with the sign of `x`; what is too large, or NaN, becomes the largest.
template <class Form>
DEVICE u32 encode_signed(float y, float x, bool stochastic, u32 noise) {
    float magnitude = at_most(magnitude_of(y), Form::largest);
    u32 sign = bits_of(x) >> 31 << (Form::exponent + Form::mantissa);
    return encode_magnitude<Form>(magnitude, stochastic, noise) | sign;
}

// Float32 of a code with a sign. Every code is a number, also what others read as NaN.
template <class Form>
DEVICE float decode_signed(u32 code) {
    constexpr u32 shift = Form::exponent + Form::mantissa;
    float magnitude = decode_magnitude<Form>(code & ((1u << shift) - 1));
    return float_of(bits_of(magnitude) | code >> shift << 31);
}

DEVICE u32 n_bytes(u32 dtype) { return dtype == FLOAT32 ? 4 : 2; }

// An element of an array type, 32 or 16 bits wide, as float32.
DEVICE float widened(u32 pattern, u32 dtype) {
    if (dtype == FLOAT32) return float_of(pattern);
    if (dtype == BFLOAT16) return float_of(pattern << 16);
    u32 magnitude = pattern & 0x7FFF;
    u32 infinite = (magnitude << (MANTISSA - HALF::mantissa)) | INFINITY_BITS;
    u32 finite = bits_of(decode_magnitude<HALF>(magnitude));
    return float_of((magnitude >= HALF_INFINITY ? infinite : finite) | pattern >> 15 << 31);
}

// Float32 as the pattern of an array type: nearest, ties to even, too large is infinite.
DEVICE u32 narrowed(float y, u32 dtype) {
    u32 pattern = bits_of(y);
    if (dtype == FLOAT32) return pattern;
    bool broken = y != y;
    if (dtype == BFLOAT16) return broken ? 0x7FC0 : (pattern + 0x7FFF + (pattern >> 16 & 1)) >> 16;
    u32 magnitude = encode_magnitude<HALF>(magnitude_of(y), false, 0);
    return broken ? 0x7E00 : at_most(magnitude, HALF_INFINITY) | pattern >> 31 << 15;
}

// The smallest normal number of an array type as a float32 pattern.
DEVICE u32 smallest_normal(u32 dtype) {
    return dtype == FLOAT16 ? (BIAS + 1 - HALF::bias) << MANTISSA : SMALLEST_NORMAL;
}
