// SPDX-License-Identifier: Apache-2.0
// The sparse transform: the other half of sparse.py.
//
// Between the stages a mask is a bit for each word, 64 a row, and the number of bits set before each row:
// so that any thread finds its words among those that are not zero.

struct Mask {
    u64* rows;
    u32* before;  // of each row

    // Whether word `i` is not zero; and if so, its number among those that are not.
    DEVICE_METHOD bool find(u32 i, u32& index) const {
        u64 row = rows[i / ROW];
        u64 below = row & ((1ull << (i % ROW)) - 1);
        index = before[i / ROW] + count_ones(u32(below)) + count_ones(u32(below >> 32));
        return row >> (i % ROW) & 1;
    }
};

// Where the mask of a block of `n` words lies, behind its symbols.
DEVICE Mask mask_at(u8* slot, u32 n) {
    u32 n_rows = (n + ROW - 1) / ROW;
    u8* rows = slot + (mask_symbols(n) + ROW - 1) / ROW * ROW;
    return {reinterpret_cast<u64*>(rows), reinterpret_cast<u32*>(rows + 8 * n_rows)};
}

// 16 symbols of the mask, as the bits of a row.
DEVICE u32 join_nibbles(u64 x) {
    x = (x | x >> 4) & 0x00FF00FF00FF00FFull;
    x = (x | x >> 8) & 0x0000FFFF0000FFFFull;
    return x | x >> 16;
}

DEVICE u64 row_of_symbols(Chunk symbols) {
    return joined(join_nibbles(symbols.low), join_nibbles(symbols.high));
}

// A warp turns the symbols of the mask of `n` words into `mask`; the words that it names, or
// ALL_LANES if it has bits beyond them.
DEVICE u32 read_mask(const Plane& plane, u32 n, Mask mask) {
    u32 n_rows = (n + ROW - 1) / ROW, n_before = 0;
    bool wrong = false;
    for (u32 first = 0; first < n_rows; first += WARP) {
        u32 row = first + lane_index(), count = 0;
        if (row < n_rows) {
            u32 at = row * (ROW / MASK_BITS);
            Chunk symbols = plane.kind == BIT_ROWS ? bit_symbols<CHUNK>(plane, at)
                                                   : byte_symbols<CHUNK>(plane, at);
            u64 bits = row_of_symbols(symbols);
            u32 n_here = n - row * ROW;
            if (n_here < ROW) {  // what stands beyond the last symbol does not count
                wrong = bits >> n_here & ((1ull << (mask_symbols(n_here) * MASK_BITS - n_here)) - 1);
                bits &= (1ull << n_here) - 1;
            }
            mask.rows[row] = bits;
            count = count_ones(u32(bits)) + count_ones(u32(bits >> 32));
        }
        u32 behind = n_before + prefix_of_warp(count);
        if (row < n_rows) mask.before[row] = behind - count;
        n_before = shuffle(behind, WARP - 1);
    }
    return ballot(wrong) != 0 ? ALL_LANES : n_before;
}

DEVICE u32 symbol_at(const Plane& plane, u32 i) {
    if (plane.kind == SAME) return plane.constant;
    if (plane.kind == BYTES) return plane.symbols[i];
    const u64* row = reinterpret_cast<const u64*>(plane.symbols) + i / ROW * plane.bits;
    u32 symbol = 0;
#pragma unroll 1
    for (u32 j = 0; j < plane.bits; j++) symbol |= u32(row[j] >> (i % ROW) & 1) << j;
    return symbol;
}

// 16 bytes of words from number `first` on: those that the mask names, put together from `planes`,
// between zeros. `signs` are those of the zeros, if they have any.
template <class Word>
DEVICE Chunk expand(Mask mask, const Plane* planes, u32 n_planes, u32 transform, const Plane* signs, u32 n,
                    u32 first) {
    constexpr u32 N = CHUNK / sizeof(Word), WIDTH = 8 * sizeof(Word), HALF = 8 / sizeof(Word);
    Chunk words = {0, 0};
    u32 index;
    mask.find(first, index);
    u32 bits = mask.rows[first / ROW] >> (first % ROW);  // a chunk is of one row
#pragma unroll 1
    for (u32 i = 0; i < N && first + i < n; i++, bits >>= 1) {
        Word word = 0;
        if (bits & 1) {
            u32 below = WIDTH;
#pragma unroll 1
            for (u32 p = 0; p < n_planes; p++) {
                below -= planes[p].bits;
                word |= Word(Word(symbol_at(planes[p], index)) << below);
            }
            word = restored(word, transform);
            index++;
        } else if (signs != nullptr) {
            word = Word(Word(symbol_at(*signs, first + i - index)) << (WIDTH - 1));
        }
        (i < HALF ? words.low : words.high) |= u64(word) << (WIDTH * (i % HALF));
    }
    return words;
}
