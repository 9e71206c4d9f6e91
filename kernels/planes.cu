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
#pragma unroll 1
    for (u32 j = 0; j < plane.bits; j++) {
        u64 field = row[j] >> (first % ROW);
        for (u32 i = 0; i < N; i++) {
            u64 bit = (field >> i & 1) << (8 * (i & 7) + j);
            (i < 8 ? symbols.low : symbols.high) |= bit;
        }
    }
    return symbols;
}

template <u32 N>
DEVICE Chunk byte_symbols(const Plane& plane, u32 first) {
    if (plane.kind == BYTES) return load_symbols<N>(plane.symbols + first);
    u64 same = plane.constant * 0x0101010101010101ull;
    return {same, same};
}

// Four bytes of each of four registers, transposed: byte `i` of `to[j]` is byte `j` of `from[i]`.
DEVICE void transpose_bytes(const u32* from, u32* to) {
    u32 a = pick_bytes(from[0], from[1], 0x5140), b = pick_bytes(from[2], from[3], 0x5140);
    u32 c = pick_bytes(from[0], from[1], 0x7362), d = pick_bytes(from[2], from[3], 0x7362);
    to[0] = pick_bytes(a, b, 0x5410);
    to[1] = pick_bytes(a, b, 0x7632);
    to[2] = pick_bytes(c, d, 0x5410);
    to[3] = pick_bytes(c, d, 0x7632);
}

// The transform of each word of a chunk, or its inverse.
template <class Word, bool RESTORE>
DEVICE Chunk transform_words(Chunk words, u32 transform) {
    constexpr u32 WIDTH = 8 * sizeof(Word);
    if (transform == PLAIN) return words;
    if (sizeof(Word) == 2 && transform == ROTATE) {  // four at once
        constexpr u64 LOW = 0x0001000100010001ull, TOP = LOW << 15;
        u64 low = words.low, high = words.high;
        if (RESTORE) {
            return {(low >> 1 & ~TOP) | (low & LOW) << 15, (high >> 1 & ~TOP) | (high & LOW) << 15};
        }
        return {(low & ~TOP) << 1 | (low >> 15 & LOW), (high & ~TOP) << 1 | (high >> 15 & LOW)};
    }
    Chunk result = {0, 0};
#pragma unroll
    for (u32 at = 0; at < 64; at += WIDTH) {
        Word low = Word(words.low >> at), high = Word(words.high >> at);
        low = RESTORE ? restored(low, transform) : transformed(low, transform);
        high = RESTORE ? restored(high, transform) : transformed(high, transform);
        result.low |= u64(low) << at;
        result.high |= u64(high) << at;
    }
    return result;
}

// Words whose planes are their bytes, from the top down: 16 bytes of words to and from the symbols of
// each plane. Of these only the bytes of the words that are there count.
template <class Word>
DEVICE void split_bytes(Chunk words, Chunk* symbols) {
    u32 x[4] = {u32(words.low), u32(words.low >> 32), u32(words.high), u32(words.high >> 32)};
    if (sizeof(Word) == 1) {
        symbols[0] = words;
    } else if (sizeof(Word) == 2) {
        symbols[0].low = joined(pick_bytes(x[0], x[1], 0x7531), pick_bytes(x[2], x[3], 0x7531));
        symbols[1].low = joined(pick_bytes(x[0], x[1], 0x6420), pick_bytes(x[2], x[3], 0x6420));
    } else if (sizeof(Word) == 4) {
        u32 y[4];
        transpose_bytes(x, y);
        for (u32 i = 0; i < 4; i++) symbols[3 - i].low = y[i];
    } else {
        for (u32 i = 0; i < 2; i++) {
            u32 a = pick_bytes(x[i], x[i + 2], 0x5140), b = pick_bytes(x[i], x[i + 2], 0x7362);
            symbols[7 - 4 * i].low = a;
            symbols[6 - 4 * i].low = a >> 16;
            symbols[5 - 4 * i].low = b;
            symbols[4 - 4 * i].low = b >> 16;
        }
    }
}

template <class Word>
DEVICE Chunk merge_bytes(const Chunk* symbols) {
    if (sizeof(Word) == 1) return symbols[0];
    u32 x[4];
    if (sizeof(Word) == 2) {
        for (u32 i = 0; i < 2; i++) {
            u32 top = symbols[0].low >> (32 * i), low = symbols[1].low >> (32 * i);
            x[2 * i] = pick_bytes(low, top, 0x5140);
            x[2 * i + 1] = pick_bytes(low, top, 0x7362);
        }
    } else if (sizeof(Word) == 4) {
        u32 y[4];
        for (u32 i = 0; i < 4; i++) y[i] = symbols[3 - i].low;
        transpose_bytes(y, x);
    } else {
        for (u32 i = 0; i < 2; i++) {
            u32 a = pick_bytes(symbols[7 - 4 * i].low, symbols[6 - 4 * i].low, 0x5410);
            u32 b = pick_bytes(symbols[5 - 4 * i].low, symbols[4 - 4 * i].low, 0x5410);
            x[i] = pick_bytes(a, b, 0x6420);
            x[i + 2] = pick_bytes(a, b, 0x7531);
        }
    }
    return {joined(x[0], x[1]), joined(x[2], x[3])};
}

// Cut 16 bytes of words, the first of them number `first`, into planes that lie `room` bytes apart.
template <class Word>
DEVICE void split(Chunk words, u32 transform, const u8* bits, u32 n_planes, u8* planes, u64 room,
                  u32 first) {
    constexpr u32 N = CHUNK / sizeof(Word), WIDTH = 8 * sizeof(Word), HALF = 8 / sizeof(Word);
    Chunk y = transform_words<Word, false>(words, transform);
    if (n_planes == sizeof(Word)) {  // all of 8 bits
        Chunk symbols[sizeof(Word)];
        split_bytes<Word>(y, symbols);
#pragma unroll
        for (u32 p = 0; p < sizeof(Word); p++) store_symbols<N>(planes + p * room + first, symbols[p]);
        return;
    }
    u32 below = WIDTH;
#pragma unroll 1
    for (u32 p = 0; p < n_planes; p++) {
        below -= bits[p];
        u64 mask = (1ull << bits[p]) - 1;
        Chunk symbols = {0, 0};
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            u64 word = (i < HALF ? y.low : y.high) >> (WIDTH * (i % HALF));
            u64 symbol = (word >> below & mask) << (8 * (i & 7));
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
    if (n_planes == sizeof(Word)) {  // all of 8 bits
        Chunk symbols[sizeof(Word)];
#pragma unroll
        for (u32 p = 0; p < sizeof(Word); p++) symbols[p] = byte_symbols<N>(planes[p], first);
        return transform_words<Word, true>(merge_bytes<Word>(symbols), transform);
    }
    Chunk y = {0, 0};
    u32 below = WIDTH;
#pragma unroll 1
    for (u32 p = 0; p < n_planes; p++) {
        below -= planes[p].bits;
        Chunk symbols = planes[p].kind == BIT_ROWS ? bit_symbols<N>(planes[p], first)
                                                   : byte_symbols<N>(planes[p], first);
#pragma unroll
        for (u32 i = 0; i < N; i++) {
            u64 symbol = (i < 8 ? symbols.low : symbols.high) >> (8 * (i & 7)) & 255;
            (i < HALF ? y.low : y.high) |= symbol << (WIDTH * (i % HALF) + below);
        }
    }
    return transform_words<Word, true>(y, transform);
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
