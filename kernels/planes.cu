// SPDX-License-Identifier: Apache-2.0
// Words to symbol planes and back, 16 bytes of words at a time: the other half of planes.py.

struct Plane {  // where the symbols of a plane come from
    const u8* symbols;
    u32 kind;  // BYTES, BIT_ROWS or the constant's
    u32 bits;
    u32 constant;
};

constexpr u32 BYTES = 0, BIT_ROWS = 1, SAME = 2;

// Bytes of `n` symbols of `bits` bits stored raw.
DEVICE u32 raw_plane_bytes(u32 n, u32 bits) { return bits == 8 ? n : (n + ROW - 1) / ROW * bits * 8; }

template <class Word>
DEVICE Word transformed(Word x, u32 transform) {
    if (transform == PLAIN) return x;
    constexpr u32 TOP = 8 * sizeof(Word) - 1;
    Word y = x << 1 | x >> TOP;
    if (transform == ZIGZAG && x >> TOP) y ^= Word(~Word(1));
    if (sizeof(Word) == 8 && transform == ROTATE_BIAS) y += Word(FLOAT64_BIAS);
    return y;
}

template <class Word>
DEVICE Word restored(Word y, u32 transform) {
    if (transform == PLAIN) return y;
    constexpr u32 TOP = 8 * sizeof(Word) - 1;
    if (sizeof(Word) == 8 && transform == ROTATE_BIAS) y -= Word(FLOAT64_BIAS);
    if (transform == ZIGZAG) return y >> 1 ^ Word(Word(0) - (y & 1));
    return y >> 1 | y << TOP;
}

template <u32 N>
DEVICE void store_symbols(u8* to, Chunk symbols) {
    if (N == 16) store_chunk(to, symbols);
    else if (N == 8) *reinterpret_cast<u64*>(to) = symbols.low;
    else if (N == 4) *reinterpret_cast<u32*>(to) = symbols.low;
    else *reinterpret_cast<u16*>(to) = symbols.low;
}

template <u32 N>
DEVICE Chunk load_symbols(const u8* from) {
    if (N == 16) return load_chunk(from);
    if (N == 8) return {*reinterpret_cast<const u64*>(from), 0};
    if (N == 4) return {*reinterpret_cast<const u32*>(from), 0};
    return {*reinterpret_cast<const u16*>(from), 0};
}

// The `N` symbols from number `first` on of a plane stored as bit rows; `N` divides both.
template <u32 N>
DEVICE Chunk bit_symbols(const Plane& plane, u32 first) {
    const u64* row = reinterpret_cast<const u64*>(plane.symbols) + first / ROW * plane.bits;
    Chunk symbols = {0, 0};
    for (u32 j = 0; j < plane.bits; j++) {
        u64 field = row[j] >> (first % ROW);
        for (u32 i = 0; i < N; i++) {
            u64 bit = (field >> i & 1) << (8 * (i & 7) + j);
            (i < 8 ? symbols.low : symbols.high) |= bit;
        }
    }
    return symbols;
}

// Cut 16 bytes of words, the first of them number `first`, into planes that lie `room` bytes apart.
template <class Word>
DEVICE void split(Chunk words, u32 transform, const u8* bits, u32 n_planes, u8* planes, u64 room,
                  u32 first) {
    constexpr u32 N = CHUNK / sizeof(Word), WIDTH = 8 * sizeof(Word), HALF = 8 / sizeof(Word);
    Word y[N];
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        u64 half = i < HALF ? words.low : words.high;
        y[i] = transformed(Word(half >> (WIDTH * (i % HALF))), transform);
    }
    u32 below = WIDTH;
    for (u32 p = 0; p < n_planes; p++) {
        below -= bits[p];
        u64 mask = (1ull << bits[p]) - 1;
        Chunk symbols = {0, 0};
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            u64 symbol = (y[i] >> below & mask) << (8 * (i & 7));
            if (i < 8) symbols.low |= symbol;
            else symbols.high |= symbol;
        }
        store_symbols<N>(planes + p * room + first, symbols);
    }
}

// Put the symbols from number `first` on together to 16 bytes of words.
template <class Word>
DEVICE Chunk merge(const Plane* planes, u32 n_planes, u32 transform, u32 first) {
    constexpr u32 N = CHUNK / sizeof(Word), WIDTH = 8 * sizeof(Word), HALF = 8 / sizeof(Word);
    Word y[N];
#pragma unroll
    for (u32 i = 0; i < N; i++) y[i] = 0;
    u32 below = WIDTH;
    for (u32 p = 0; p < n_planes; p++) {
        Plane plane = planes[p];
        below -= plane.bits;
        Chunk symbols;
        if (plane.kind == BYTES) symbols = load_symbols<N>(plane.symbols + first);
        else if (plane.kind == BIT_ROWS) symbols = bit_symbols<N>(plane, first);
        else symbols.low = symbols.high = plane.constant * 0x0101010101010101ull;
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            u64 symbol = (i < 8 ? symbols.low : symbols.high) >> (8 * (i & 7)) & 255;
            y[i] |= Word(Word(symbol) << below);
        }
    }
    Chunk words = {0, 0};
#pragma unroll
    for (u32 i = 0; i < N; i++) {
        u64 word = u64(restored(y[i], transform)) << (WIDTH * (i % HALF));
        if (i < HALF) words.low |= word;
        else words.high |= word;
    }
    return words;
}

// A warp writes `n` symbols of `bits` < 8 bits as bit rows to `out`.
DEVICE void pack_bits(const u8* symbols, u32 n, u32 bits, u8* out) {
    u64* words = reinterpret_cast<u64*>(out);
    u32 lane = lane_index();
    for (u32 row = 0; row < (n + ROW - 1) / ROW; row++) {
        u32 i = row * ROW + lane;
        u32 first = i < n ? symbols[i] : 0, second = i + WARP < n ? symbols[i + WARP] : 0;
        for (u32 j = 0; j < bits; j++) {
            u64 word = ballot(first >> j & 1);
            word |= u64(ballot(second >> j & 1)) << 32;
            if (lane == j) words[row * bits + j] = word;
        }
    }
}
