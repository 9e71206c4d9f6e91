// SPDX-License-Identifier: Apache-2.0
// The row/column predictor, 16 bytes of words at a time: the other half of predictor.py.

struct Model {
    const signed char *rows, *columns, *row_factors, *column_factors;
    u64 n_rows;  // of the whole matrix
    u32 n_columns, tile_rows, rank, base, shift;

    DEVICE_METHOD void begin(const Job& job) {
        n_rows = job.n_rows;
        n_columns = job.n_columns;
        tile_rows = job.tile_rows;
        rank = job.rank;
        base = job.base;
        shift = job.shift;
        rows = reinterpret_cast<const signed char*>(job.model);
        columns = rows + n_rows;
        row_factors = columns + (n_rows + tile_rows - 1) / tile_rows * n_columns;
        column_factors = row_factors + n_rows * rank;
    }

    // The offset of the word in row `i` and column `j`, modulo 2^16.
    DEVICE_METHOD u32 offset(u64 i, u32 j) const {
        u32 sum = u32(i32(rows[i])) + u32(i32(columns[i / tile_rows * n_columns + j]));
        u32 products = 0;
#pragma unroll 1
        for (u32 k = 0; k < rank; k++) {
            products += u32(row_factors[i * rank + k] * column_factors[u64(k) * n_columns + j]);
        }
        return base + (sum << OFFSET_STEP_LOG) + u32(i32(short(products)) >> FACTOR_LOG);
    }
};

struct Place {  // the first word of a block, in its matrix
    u64 row;
    u32 column;
};

DEVICE Place place_of(const Job& job, u64 block) {
    u64 first = job.first_word + (block << job.block_log);
    return {first / job.n_columns, u32(first % job.n_columns)};
}

// Adds an offset to a magnitude, in logs; 0 stays 0, and what would become 0 takes its place.
template <class Word>
DEVICE Word shift_word(Word x, u32 offset, u32 shift) {
    constexpr Word LARGEST = Word(~Word(0)) >> 1;
    Word by = Word(u32(i32(short(offset))) << shift), low = x & LARGEST;
    Word moved = (low + by) & LARGEST;
    if (moved == 0) moved = by & LARGEST;
    if (low == 0) moved = 0;
    return moved | (x ^ low);
}

// The `n` words of a chunk, the first of them number `first` of a block, with their offsets added, or
// subtracted.
template <class Word, bool ADD>
DEVICE Chunk shift_words(Chunk words, u32 first, const Model& model, Place place, u32 n) {
    constexpr u32 N = CHUNK / sizeof(Word), WIDTH = 8 * sizeof(Word), HALF = 8 / sizeof(Word);
    u32 at = place.column + first;
    u64 row = place.row + at / model.n_columns;
    u32 column = at % model.n_columns;
    Chunk result = {0, 0};
#pragma unroll 1
    for (u32 i = 0; i < N && i < n; i++) {
        Word x = Word((i < HALF ? words.low : words.high) >> (WIDTH * (i % HALF)));
        u32 offset = model.offset(row, column);
        Word y = shift_word(x, ADD ? offset : 0u - offset, model.shift);
        (i < HALF ? result.low : result.high) |= u64(y) << (WIDTH * (i % HALF));
        if (++column == model.n_columns) {
            column = 0;
            row++;
        }
    }
    return result;
}
