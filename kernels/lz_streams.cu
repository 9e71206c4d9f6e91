// SPDX-License-Identifier: Apache-2.0
// The entropy stage of LZ: streams of symbols that share the states of one warp. The other half of
// lz_streams.py.

namespace lz {

// Units of a stream that starts at any byte of an aligned payload, two at a time.
struct LooseWords {
    const u32* words;
    u32 n_words;  // readable, padding of the payload included
    u32 digits;   // picks four bytes of two words

    DEVICE_METHOD u32 word(u32 i) const { return i < n_words ? words[i] : 0; }
    DEVICE_METHOD u32 load(u32 i) const { return pick_bytes(word(i), word(i + 1), digits); }
};

DEVICE LooseWords words_from(const u8* payload, u32 size, u32 at) {
    u32 n_words = aligned(size) / 4;
    return {reinterpret_cast<const u32*>(payload) + at / 4, n_words - at / 4, 0x3210 + at % 4 * 0x1111};
}

// What `pop` needs, of frequencies that sum to SCALE, by symbol.
DEVICE void build_decode_table(u32 first, u32 last, Table12& table) {
    u32 lane = lane_index(), start = 0;
    for (u32 base = first; base <= last; base += WARP) {
        u32 s = base + lane;
        u32 f = s <= last ? table.symbols[s] : 0;
        u32 behind = start + prefix_of_warp(f);
        if (f != 0) table.symbols[s] = f | (behind - f) << RANS12_BITS | s << (2 * RANS12_BITS);
        start = shuffle(behind, WARP - 1);
    }
    sync_warp();
    for (u32 s = first; s <= last; s++) {
        u32 f = table.symbols[s] & MASK_12, begin = table.symbols[s] >> RANS12_BITS & MASK_12;
        for (u32 j = lane; j < f; j += WARP) table.owners[begin + j] = s;
    }
    sync_warp();
}

// Pop `n` symbols off the states to `out`, which is even and has room for `n` rounded up to a row.
DEVICE void decode_stream(Window<LooseWords>& stream, u32 n, const Table12& table, u32& x, u8* out) {
    u16* pairs = reinterpret_cast<u16*>(out) + lane_index();
    for (u32 row = 0; row < n / ROW; row++) pairs[row * LANES] = decode_row(table, stream, x);
    u32 base = n / ROW * ROW;
    for (u32 turn = 0; turn < 2 && base < n; turn++) {
        u32 i = base + 2 * lane_index() + turn, y = x;
        u32 symbol = pop(table, y);
        if (i < n) {  // a state that takes no part is not short
            x = y;
            out[i] = symbol;
        }
        x = stream.refill(x);
    }
}

// --- encode ---------------------------------------------------------------------------------------

// Order-0 entropy of `n` symbols with these counts, in bits of LOG2_BITS fixed point.
DEVICE u64 entropy_of(const u32* counts, u32 n) {
    u64 below = 0;
    for (u32 s = lane_index(); s < 256; s += WARP) {
        u32 c = counts[s];
        if (c > 1) below += u64(c) * log2_fixed(c);
    }
    return n == 0 ? 0 : u64(n) * log2_fixed(n) - sum_of_warp(below);
}

// The symbol of plane `s`, the most significant first, of a word that is a literal.
DEVICE u32 literal_symbol(u64 word, u32 s, u32 word_log, bool rotated) {
    u32 bits = 8u << word_log;
    if (rotated) word = word << 1 | (word >> (bits - 1) & 1);
    return word >> (bits - 8 - 8 * s) & 255;
}

// Count 32 symbols, or those of the lanes that have one.
DEVICE void count_symbol(u32* counts, u32 symbol, bool has_one) {
    u32 same = shuffle(symbol, 0);
    if (ballot(!has_one || symbol != same) == 0) {  // one addition instead of 32 to the same place
        if (lane_index() == 0) add_atomically(&counts[same], WARP);
    } else if (has_one) {
        add_atomically(&counts[symbol], 1);
    }
}

DEVICE void clear_counts(u32* counts) {
    sync_warp();  // of what was read of them before
    for (u32 s = lane_index(); s < 256; s += WARP) counts[s] = 0;
    sync_warp();
}

// Symbols of a plane of literals, or codes of the numbers of sequences, computed where they are needed.
struct Stream {
    const u8* literals;
    const u16* numbers;  // null for literals
    u32 n;
    u32 part;  // plane, or which number: literals, length, step
    u32 word_log;
    bool rotated;

    DEVICE_METHOD u32 operator()(u32 i) const {
        if (numbers == nullptr) return literal_symbol(word_at(literals, i, word_log), part, word_log, rotated);
        u32 width, rest;
        return sequence_code(numbers[i], part, width, rest);
    }
};

struct alignas(16) Coding {  // how a stream is stored
    Symbols table;  // of a coded stream; rans.cu's
    u32 mode;
    u32 n_symbols;  // of the table
    u32 first, last;  // symbols; of a constant stream `last` is the symbol
    u32 size;         // an estimate if it is coded
    u32 table_bytes;
    u32 unused[2];
};

// Plan one stream; rule 7 of lz_choose.py.
DEVICE void plan_stream(const Stream& stream, u32* counts, Symbols& table, Coding& coding) {
    u32 lane = lane_index(), n = stream.n;
    clear_counts(counts);
#pragma unroll 1
    for (u32 first = 0; first < n; first += WARP) {
        u32 i = first + lane;
        count_symbol(counts, i < n ? stream(i) : 0, i < n);
    }
    sync_warp();
    u32 n_symbols = 0;
    u64 pairs = 0;
    for (u32 first = 0; first < 256; first += WARP) {
        u32 c = counts[first + lane], lanes = ballot(c != 0);
        if (c != 0) table.symbols[n_symbols + count_ones(lanes & lanes_below())] = first + lane;
        n_symbols += count_ones(lanes);
        pairs += u64(c) * (c - 1);
    }
    pairs = sum_of_warp(pairs);
    sync_warp();
    u32 mode = CODED_STREAM, first = 0, last = 0, size = n, table_bytes = 0;
    if (n_symbols < 2) {
        mode = CONSTANT_STREAM;
        last = n_symbols == 1 ? table.symbols[0] : 0;
        size = 1;
    } else if (pairs * UNIFORM <= u64(n) * (n - 1)) {
        mode = RAW_STREAM;
    } else {
        first = table.symbols[0];
        last = table.symbols[n_symbols - 1];
        normalise(counts, n_symbols, n, RANS12_BITS, table);
        u32 bits = 0;
        u64 cost = 0;
        for (u32 i = lane; i < n_symbols; i += WARP) {
            u32 f = table.frequencies[i];
            bits += bit_length(f) - 1;
            cost += u64(counts[table.symbols[i]]) * ((RANS12_BITS << LOG2_BITS) - log2_fixed(f));
        }
        bits = sum_of_warp(bits) + 4 * ((last - first + 2) & ~1u);
        table_bytes = 2 + (bits + 7) / 8;
        size = u32(sum_of_warp(cost) >> (LOG2_BITS + 3)) + 1 + table_bytes;
        if (size >= n) {
            mode = RAW_STREAM;
            size = n;
            table_bytes = 0;
        }
    }
    const u32* from = reinterpret_cast<const u32*>(&table);
    u32* to = reinterpret_cast<u32*>(&coding.table);
    for (u32 k = lane; mode == CODED_STREAM && k < sizeof(Symbols) / 4; k += WARP) to[k] = from[k];
    if (lane == 0) {
        coding.mode = mode;
        coding.n_symbols = n_symbols;
        coding.first = first;
        coding.last = last;
        coding.size = size;
        coding.table_bytes = table_bytes;
    }
    sync_warp();
}

// Push a stream on the states, its last row first.
DEVICE void encode_stream(const Stream& stream, const Coding& coding, EncodeTable& table, Sink& sink, u32& x) {
    build_encode_table(coding.table, coding.n_symbols, 0, table);
    u32 n_rows = stream.n / ROW, base = n_rows * ROW, lane = lane_index();
    for (u32 turn = 0; turn < 2 && base < stream.n; turn++) {
        u32 i = base + 2 * lane + 1 - turn;
        bool has_one = i < stream.n;
        Pair entry = table.entries[has_one ? stream(i) : coding.first];
        u32 y = sink.spill(x, has_one && x >> (32 - RANS12_BITS) >= (entry.second & MASK_12));
        x = has_one ? push<RANS12_BITS>(y, entry) : x;
    }
#pragma unroll 1
    for (u32 row = n_rows; row-- > 0;) {
        u32 i = row * ROW + 2 * lane;
        x = encode_row<RANS12>(table.entries[stream(i)], table.entries[stream(i + 1)], sink, x);
    }
    sync_warp();
}

}  // namespace lz
