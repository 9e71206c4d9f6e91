// SPDX-License-Identifier: Apache-2.0
// What the codes of each format mean: a float32 to a code, and back. The other half of elements.py.
//
// Values may be infinite: they saturate. They must not be NaN, but in log8.

constexpr u32 UNIT = 16;  // elements that a thread has at a time

DEVICE constexpr bool is_nibble(u32 element) {
    return element == OF_INT4 || element == OF_INT4_ASYM || element == OF_NF4 || element == OF_E2M1;
}
DEVICE constexpr bool is_minifloat(u32 element) { return element >= OF_E4M3 && element <= OF_E2M1; }
DEVICE constexpr u32 table_entries(u32 element) {
    return element == OF_NF4 ? 31 : element == OF_DYNAMIC8 ? 256 : 1;
}

template <u32 ELEMENT>
struct FormOf { typedef E4M3 Type; };
template <>
struct FormOf<OF_E5M2> { typedef E5M2 Type; };
template <>
struct FormOf<OF_E2M3> { typedef E2M3 Type; };
template <>
struct FormOf<OF_E3M2> { typedef E3M2 Type; };
template <>
struct FormOf<OF_E2M1> { typedef E2M1 Type; };

// The codebook in shared memory, by all threads: entries of nf4, then its bounds; entries of dynamic8.
template <u32 ELEMENT>
DEVICE void load_table(float* table) {
    for (u32 i = thread_index(); i < table_entries(ELEMENT); i += n_threads()) {
        if (ELEMENT == OF_DYNAMIC8) table[i] = float_of(DYNAMIC8_VALUES[i]);
        if (ELEMENT == OF_NF4) table[i] = float_of(i < 16 ? NF4_VALUES[i] : NF4_BOUNDS[i - 16]);
    }
    if (table_entries(ELEMENT) > 1) sync_block();
}

// Signed integers from |y| < 2^15: up or down in proportion to the fraction.
DEVICE i32 fixed(float y, u32 noise) { return (i32(y * NOISE) + i32(noise)) >> 16; }

// 1 with probability part / whole, which may be 0 / 0.
DEVICE u32 passes(float part, float whole, u32 noise) {
    return part * NOISE > float(i32(noise)) * whole ? 1 : 0;
}

// How many of 15 ascending numbers are below `y`, or if `inclusive` not above.
DEVICE u32 count_below(const float* numbers, float y, bool inclusive) {
    u32 n = 0;
    for (u32 step = 8; step != 0; step >>= 1) {
        float x = numbers[n + step - 1];
        if (y > x || (inclusive && y == x)) n += step;
    }
    return n;
}

DEVICE u32 encode_nf4(float y, const float* table, bool stochastic, u32 noise) {
    if (!stochastic) return count_below(table + 16, y, false);
    u32 code = count_below(table + 1, y, true);
    float low = table[code], high = table[at_most(code + 1, 15u)];
    return code + passes(y - low, high - low, noise);
}

DEVICE u32 encode_dynamic8(float y, bool stochastic, u32 noise) {
    u32 magnitude = bits_of(y) & MAGNITUDE, negative = bits_of(y) >> 31;
    u32 bucket = at_least(magnitude >> BUCKET_SHIFT, BUCKET_FIRST) - BUCKET_FIRST;
    u64 entry = stochastic ? DYNAMIC8_BELOW[bucket] : DYNAMIC8_NEAREST[bucket];
    u32 boundary = u32(entry), step = u32(entry >> 32);
    if (!stochastic) {  // a tie goes to the lower value
        step += magnitude + negative > boundary ? 1 : 0;
    } else {
        step += magnitude + 1 > boundary ? 1 : 0;
        float low = float_of(DYNAMIC8_MAGNITUDES[step]);
        float high = float_of(DYNAMIC8_MAGNITUDES[step + 1]);
        step += passes(float_of(magnitude) - low, high - low, noise);
    }
    step = at_most(step, 128 - negative);  // -1 is no entry
    return negative ? ZERO_CODE - step : ZERO_CODE + step;
}

DEVICE u32 encode_log8(float x, const Factors& block, bool stochastic, u32 noise) {
    u32 pattern = bits_of(x);
    bool positive = pattern - SMALLEST_NORMAL <= INFINITY_BITS - SMALLEST_NORMAL;
    float above = positive ? float(i32(pattern - bits_of(block.offset))) : 0.0f;
    float y = at_most(at_least(above * block.scale, 0.0f), float(LOG8_STEPS));
    u32 step = stochastic ? fixed(y, noise) : i32(y + 0.5f);
    return positive ? step + 1 : 0;
}

// `noise` counts only if `stochastic`. `table` is that of `load_table`.
template <u32 ELEMENT>
DEVICE u32 encode_element(float x, const Factors& block, const float* table, bool stochastic,
                          u32 noise) {
    if (ELEMENT == OF_LOG8) return encode_log8(x, block, stochastic, noise);
    if (x != x) x = 0;
    if (ELEMENT == OF_INT4_ASYM) {
        float y = (x - block.offset) * block.scale;
        if (stochastic) return fixed(at_most(at_least(y, 0.0f), 15.0f), noise);
        return i32(at_most(at_least(y + 0.5f, 0.0f), 15.0f));
    }
    float y = x * block.scale;
    if (is_minifloat(ELEMENT)) {
        return encode_signed<typename FormOf<ELEMENT>::Type>(y, x, stochastic, noise);
    }
    if (ELEMENT == OF_INT8) {
        y = at_most(at_least(y, -127.0f), 127.0f);
        if (stochastic) return fixed(y, noise) & 255;
        i32 halves = i32(y * 2.0f);  // half away from zero, as in GGUF
        return (halves + 1 + (halves >> 31)) >> 1 & 255;
    }
    if (ELEMENT == OF_INT4) {
        if (stochastic) return fixed(at_most(at_least(y, -8.0f), 7.0f), noise) + 8;
        return i32(at_most(at_least(y + 8.5f, 0.0f), 15.0f));
    }
    y = at_most(at_least(y, -1.0f), 1.0f);
    if (ELEMENT == OF_NF4) return encode_nf4(y, table, stochastic, noise);
    return encode_dynamic8(y, stochastic, noise);
}

template <u32 ELEMENT>
DEVICE float decode_element(u32 code, const Factors& block, const float* table) {
    if (ELEMENT == OF_LOG8) {
        u32 above = i32(float(i32(code - 1)) * block.scale);
        return float_of(code != 0 ? above + bits_of(block.offset) : 0);
    }
    if (ELEMENT == OF_INT8) return float(i32(code << 24) >> 24) * block.scale;
    if (ELEMENT == OF_INT4) {  // zero times a negative scale is -0
        return float(i32(code - 8)) * block.scale + 0.0f;
    }
    if (ELEMENT == OF_INT4_ASYM) return float(i32(code)) * block.scale + block.offset;
    if (is_minifloat(ELEMENT)) {
        return decode_signed<typename FormOf<ELEMENT>::Type>(code) * block.scale;
    }
    return table[code] * block.scale;
}
