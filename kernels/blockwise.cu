// SPDX-License-Identifier: Apache-2.0
// Rows cut into blocks, and what is asked of a block's values: the other half of blockwise.py.
//
// A thread has a unit of 16 elements at a time. A block of up to 512 elements is the work of as many
// lanes as it has units, so that a warp has several blocks; of a longer one a warp takes 512
// elements in turn. What a warp has is a chunk.

constexpr u32 QUANT_WARPS = 8;  // of a block of threads

struct QuantJob {  // a tensor; kernels/quantcuda.py has the same fields
    u8* values;    // of the tensor's type, 16-byte aligned
    u8* codes;
    u8* scales;
    u8* offsets;
    u32* counts;  // of each chunk: its exceptions
    u16* flags;   // of each unit: a bit for each exception, if its chunk has any
    u64 n_rows;
    u64 row;  // elements
    u64 first_chunk;
    u64 first_index;  // number of the first element, for stochastic rounding
    double bound;
    u32 bound_kind, bounded;
    u32 dtype, block_log;
    u32 scale_type, mode, power, mantissa;
    u32 stochastic, key, other_key;
    float largest, absolute, relative;
    u64 n_exceptions;  // this and the next are written on the device where they are not known
    float tensor_scale;
    u32 wrong;  // positions of exceptions that leave the tensor
};

DEVICE u64 blocks_of_row(const QuantJob& job) {
    return (job.row + (1ull << job.block_log) - 1) >> job.block_log;
}

// Lanes that share a block, and turns that they take at it.
DEVICE u32 lanes_of_block(u32 block_log) { return at_most((1u << block_log) / UNIT, WARP); }
DEVICE u32 turns_of_block(u32 block_log) { return (1u << block_log) / UNIT / lanes_of_block(block_log); }

struct QuantPlace {   // of a lane in a tensor
    u64 block;   // its number in the tensor
    u64 first;   // the number of the block's first element
    u64 codes;   // where the block's codes start, in bytes
    u32 n;       // elements of the block; 0 if there is none
    u32 lane;    // of those that share the block
    u32 stride;  // elements between the turns

    // Elements of the lane's unit in a turn, and the first of them in the block.
    DEVICE_METHOD u32 at(u32 turn) const { return lane * UNIT + turn * stride; }
    DEVICE_METHOD u32 n_at(u32 turn) const { return at(turn) < n ? at_most(n - at(turn), UNIT) : 0; }
};

template <bool NIBBLES>
DEVICE QuantPlace place_of(const QuantJob& job, u64 chunk) {
    u32 n_lanes = lanes_of_block(job.block_log), size = 1u << job.block_log;
    u64 n_blocks = blocks_of_row(job), row = job.row, r = 0;
    QuantPlace place;
    place.lane = lane_index() % n_lanes;
    place.stride = WARP * UNIT;
    place.block = chunk * (WARP / n_lanes) + lane_index() / n_lanes;
    bool exists = place.block < n_blocks * job.n_rows;
    u64 b = exists ? place.block : 0;
    if (job.n_rows != 1) {
        r = b / n_blocks;
        b -= r * n_blocks;
    }
    place.first = r * row + b * size;
    place.codes = NIBBLES ? r * ((row + 1) / 2) + b * size / 2 : place.first;
    u64 left = row - b * size;
    place.n = !exists ? 0 : left < size ? left : size;
    return place;
}

DEVICE bool is_aligned(const u8* address, u32 size) {
    return (reinterpret_cast<unsigned long long>(address) & (size - 1)) == 0;
}

DEVICE u32 load_pattern(const u8* values, u32 dtype, u64 i) {
    if (dtype == FLOAT32) return reinterpret_cast<const u32*>(values)[i];
    return reinterpret_cast<const u16*>(values)[i];
}

template <u32 VALUE>
struct Constant {
    static constexpr u32 value = VALUE;
};

// Call with the type of an array as a constant, so that its case is not one of every element.
template <class Body>
DEVICE void for_type(u32 dtype, Body body) {
    if (dtype == FLOAT32) body(Constant<FLOAT32>());
    else if (dtype == BFLOAT16) body(Constant<BFLOAT16>());
    else body(Constant<FLOAT16>());
}

// `N` elements of a unit, of which `n` are there, as float32; the others become the element `spare`.
template <u32 N>
DEVICE void load_values(const u8* values, u32 dtype, u64 first, u32 n, u64 spare, float* x) {
    const u8* from = values + first * n_bytes(dtype);
    u32 pattern[N];
    if (n != N || !is_aligned(from, at_most(N * n_bytes(dtype), CHUNK))) {
#pragma unroll
        for (u32 k = 0; k < N; k++) pattern[k] = load_pattern(values, dtype, k < n ? first + k : spare);
    } else if (dtype == FLOAT32) {
#pragma unroll
        for (u32 k = 0; k < N; k += 4) {
            Chunk chunk = load_chunk(from + 4 * k);
            pattern[k] = u32(chunk.low);
            pattern[k + 1] = u32(chunk.low >> 32);
            pattern[k + 2] = u32(chunk.high);
            pattern[k + 3] = u32(chunk.high >> 32);
        }
    } else {
#pragma unroll
        for (u32 k = 0; k < N; k += 8) {
            Chunk chunk = {0, 0};
            if (N >= 8) chunk = load_chunk(from + 2 * k);
            else chunk.low = *reinterpret_cast<const u64*>(from);
#pragma unroll
            for (u32 j = 0; j < (N < 8 ? N : 8); j++) {
                pattern[k + j] = u32((j < 4 ? chunk.low : chunk.high) >> (16 * (j & 3))) & 0xFFFF;
            }
        }
    }
    for_type(dtype, [&](auto type) {
#pragma unroll
        for (u32 k = 0; k < N; k++) x[k] = widened(pattern[k], type.value);
    });
}

enum Scan { ABSOLUTE, SIGNED, EXTENT, POSITIVE };  // as in blockwise.py

DEVICE constexpr Scan scan_of(u32 element) {
    return element == OF_INT4_ASYM ? EXTENT
         : element == OF_INT4      ? SIGNED
         : element == OF_LOG8      ? POSITIVE
                                   : ABSOLUTE;
}

// A float's order as an unsigned integer, and back to its bits.
DEVICE u32 ordered(u32 pattern) { return pattern ^ (u32(i32(pattern) >> 31) | SIGN); }
DEVICE u32 unordered(u32 order) { return order ^ (u32(i32(~order) >> 31) | SIGN); }

// Finite values in the type whose smallest normal number is `normal`: zero or normal.
DEVICE bool is_ordinary(u32 magnitude, u32 normal) {
    return magnitude - normal < INFINITY_BITS - normal || magnitude == 0;
}

struct Extremes {  // of the finite values
    u32 least;     // the smallest, in their order; SIGNED: number and sign of the first of `most`
    u32 most;      // the largest, in their order; ABSOLUTE and SIGNED: the largest magnitude
    bool odd;      // a value needs a closer look: see `scan` of blockwise.py

    template <Scan KIND>
    DEVICE_METHOD void begin() {
        least = KIND == ABSOLUTE ? 0 : 0xFFFFFFFFu;
        most = 0;
        odd = false;
    }

    template <Scan KIND, bool SIGNED_ZERO>
    DEVICE_METHOD void add(float x, u32 normal, u32 number) {
        u32 pattern = bits_of(x), magnitude = pattern & MAGNITUDE;
        bool finite = magnitude < INFINITY_BITS, plain = is_ordinary(magnitude, normal);
        if (KIND <= SIGNED) {
            u32 value = finite ? magnitude : 0;
            if (KIND == SIGNED && value > most) least = 2 * number | pattern >> 31;
            most = at_least(most, value);
            if (!SIGNED_ZERO) plain = plain && pattern != SIGN;
        } else {
            if (KIND == POSITIVE) {
                finite = pattern - SMALLEST_NORMAL < INFINITY_BITS - SMALLEST_NORMAL;
                plain = plain && pattern < SIGN;
            } else {
                plain = plain && magnitude != 0;
            }
            least = at_most(least, finite ? ordered(pattern) : 0xFFFFFFFFu);
            most = at_least(most, finite ? ordered(pattern) : 0);
        }
        odd |= !plain;
    }

    // Over groups of `n_lanes` neighbouring lanes.
    template <Scan KIND>
    DEVICE_METHOD void join(u32 n_lanes) {
        u32 odds = odd;
        for (u32 mask = 1; mask < n_lanes; mask <<= 1) {
            u32 larger = shuffle_xor(most, mask);
            if (KIND != ABSOLUTE) {
                u32 other = shuffle_xor(least, mask);
                if (KIND != SIGNED) least = at_most(least, other);
                else if (larger > most || (larger == most && other < least)) least = other;
            }
            most = at_least(most, larger);
            odds |= shuffle_xor(odds, mask);
        }
        odd = odds != 0;
    }

    // From the order of floats to their bits, where they are that.
    template <Scan KIND>
    DEVICE_METHOD void end() {
        if (KIND <= SIGNED) return;
        least = unordered(least);
        most = unordered(most);
    }
};

// 16 random bits for an element number: a hash that is the same wherever it is computed.
DEVICE u32 noise_of(u32 index, u32 key, u32 other_key) {
    u32 x = index + key;
    x = (x ^ x >> 16) * NOISE_0;
    x = (x ^ x >> 15 ^ other_key) * NOISE_1;
    return (x ^ x >> 16) >> 16;
}

struct Limits {  // of what may become of a value
    u32 kept;    // all ones if what is not zero must be kept
    float absolute, relative;
};

// Whether `x`, which became `y`, must be kept as it is; see `flag_units` of blockwise.py.
template <u32 ELEMENT>
DEVICE bool is_exception(float x, float y, u32 normal, const Limits& limits) {
    u32 pattern = bits_of(x), decoded = bits_of(y), magnitude = pattern & MAGNITUDE;
    bool bad = !is_ordinary(magnitude, normal) || (magnitude == 0 && pattern != decoded);
    bad |= (decoded & MAGNITUDE) >= INFINITY_BITS || (magnitude & limits.kept) != 0;
    if (ELEMENT == OF_LOG8) bad |= pattern >= SIGN;
    float error = magnitude_of(x - y);
    float scaled = limits.relative * float_of(magnitude);  // exact enough only if it is normal
    float bound = at_least(scaled >= float_of(SMALLEST_NORMAL) ? scaled : 0.0f, limits.absolute);
    return bad || !(error < bound || error == 0);
}
