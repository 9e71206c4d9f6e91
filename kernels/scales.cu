// SPDX-License-Identifier: Apache-2.0
// The scale of a block: from its largest value to what is stored, and the factors that follow. The
// other half of scales.py.

struct Factors {      // of a block
    u32 stored, low;  // scale and offset, as they are stored
    float scale, offset;
    bool keep;  // what is not zero must be kept as it is, as no factor will do
};

DEVICE void store_scale(u8* scales, u64 index, u32 scale_type, u32 stored) {
    if (scale_type == SCALE_F32) reinterpret_cast<u32*>(scales)[index] = stored;
    else if (scale_type >= SCALE_E8M0) scales[index] = stored;
    else reinterpret_cast<u16*>(scales)[index] = stored;
}

DEVICE u32 load_scale(const u8* scales, u64 index, u32 scale_type) {
    if (scale_type == SCALE_F32) return reinterpret_cast<const u32*>(scales)[index];
    if (scale_type >= SCALE_E8M0) return scales[index];
    return reinterpret_cast<const u16*>(scales)[index];
}

// 2^(exponent - 127); the smallest one is subnormal, 255 is NaN.
DEVICE float power_of(u32 exponent) {
    if (exponent == 0) return float_of(1u << 22);
    return float_of(exponent == 255 ? 0x7FC00000u : exponent << MANTISSA);
}

// The factor of decoding that a stored scale means.
DEVICE float scale_value(u32 stored, u32 scale_type, float tensor_scale) {
    if (scale_type == SCALE_F32) return float_of(stored);
    if (scale_type == SCALE_BF16) return widened(stored, BFLOAT16);
    if (scale_type == SCALE_F16) return widened(stored, FLOAT16);
    if (scale_type == SCALE_E8M0) return power_of(stored);
    return tensor_scale * decode_magnitude<E4M3>(stored & 127);
}

// A float32 in the type that scales are stored in.
DEVICE u32 stored_real(float x, u32 scale_type) {
    if (scale_type == SCALE_BF16) return narrowed(x, BFLOAT16);
    return narrowed(x, scale_type == SCALE_F16 ? FLOAT16 : FLOAT32);
}

// What the blocks of a tensor share; see quantspec.py.
struct Scaling {
    u32 scale_type, mode, power, mantissa;
    float largest, tensor_scale;
};

// The shared exponent for a largest magnitude `peak`, in the modes of OCP MX and NVIDIA.
DEVICE u32 shared_exponent(float peak, const Scaling& how) {
    i32 pattern = bits_of(peak), power = how.power, exponent;
    if (how.mode == SCALE_FLOOR) {
        exponent = (pattern >> MANTISSA) - power;
    } else if (how.mode == SCALE_EVEN) {  // floor, after `peak` is rounded to the format's mantissa
        exponent = ((pattern + (1 << (22 - how.mantissa))) >> MANTISSA) - power;
    } else if (how.mode == SCALE_CEIL) {
        exponent = ((pattern + 0x7FFFFF) >> MANTISSA) - power;
    } else {  // the smallest power of two that takes `peak` without saturation
        i32 quotient = bits_of(peak / how.largest);
        exponent = quotient <= 1 << 22 ? 0 : (quotient + 0x7FFFFF) >> MANTISSA;
    }
    return at_most(at_least(exponent, 0), 254);
}

// For a block's largest value; for scales of real types it may be negative.
DEVICE Factors choose_scale(float peak, const Scaling& how, float divisor) {
    float limit = float_of(INFINITY_BITS);
    if (how.scale_type == SCALE_E8M0) {
        u32 stored = shared_exponent(peak, how);
        return {stored, 0, power_of(254 - stored), 0, false};
    }
    if (how.scale_type == SCALE_E4M3_SCALE) {
        float target = E4M3_SMALLEST;
        if (how.tensor_scale > 0) target = at_least(peak / how.largest / how.tensor_scale, target);
        u32 stored = encode_magnitude<E4M3>(at_most(target, E4M3_LARGEST), false, 0);
        float factor = 1.0f / how.tensor_scale / decode_magnitude<E4M3>(stored);
        if (factor < limit) return {stored, 0, factor, 0, false};
        return {stored, 0, 0, 0, peak != 0};
    }
    u32 stored = stored_real(peak / divisor, how.scale_type);
    float value = scale_value(stored, how.scale_type, 1), size = magnitude_of(value);
    if (float_of(SMALLEST_NORMAL) <= size && size < limit) return {stored, 0, 1.0f / value, 0, false};
    return {0, 0, 0, 0, peak != 0};
}

// For the bits of a block's smallest and largest value.
DEVICE Factors extent_scale(u32 least, u32 most, const Scaling& how) {
    float smallest = float_of(least) + 0.0f, biggest = float_of(most);
    if (smallest != smallest) smallest = biggest = 0;  // there are no finite values
    Factors found = choose_scale(biggest - smallest, how, how.largest);
    found.low = stored_real(smallest, how.scale_type);
    found.offset = scale_value(found.low, how.scale_type, 1);
    if (!(magnitude_of(found.offset) < float_of(INFINITY_BITS))) return {0, 0, 0, 0, true};
    return found;
}

// For the bits of a block's smallest and largest value above 0: both are stored as they are.
DEVICE Factors log8_scale(u32 least, u32 most) {
    if (!(float_of(least) <= float_of(most))) least = most = 0;  // there are no values above 0
    float factor = most > least ? float(LOG8_STEPS) / float(most - least) : 0.0f;
    return {most, least, factor, float_of(least), false};
}

// Factor and offset of decoding, for the stored scale and offset of a block.
template <u32 ELEMENT>
DEVICE Factors decoding_of(u32 stored, u32 low, u32 scale_type, float tensor_scale) {
    if (ELEMENT == OF_LOG8) {  // distance of neighbouring codes, in units of the last place
        u32 span = low < stored ? at_most(stored - low, INFINITY_BITS) : 0;
        return {stored, low, float(span) / float(LOG8_STEPS), float_of(low), false};
    }
    float offset = ELEMENT == OF_INT4_ASYM ? scale_value(low, scale_type, tensor_scale) : 0.0f;
    return {stored, low, scale_value(stored, scale_type, tensor_scale), offset, false};
}
