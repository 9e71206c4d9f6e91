// SPDX-License-Identifier: Apache-2.0
// The entropy stage of LZ, encoding: streams of symbols that share the states of one warp, which are
// computed where they are needed. The other half of lz_streams.py and lz_table.py.

namespace lz {

struct Stream {  // symbols of a plane of literals, or codes of the numbers of sequences
    const u8* literals;
    const u16* numbers;  // null for literals
    u32 n;
    u32 part;  // plane, or which number: literals, length, step
    u32 word_log;
    bool rotated;

    DEVICE_METHOD u32 operator()(u32 i) const;
};

// The code of a number, and how many extra bits follow it.
DEVICE u32 code_of(u32 number, u32& width) {
    width = bit_length(number | 4) - 3;
    return (number >> width) + 4 * width;
}

// The code of number `part` of a sequence, and its extra bits.
DEVICE u32 sequence_code(u32 value, u32 part, u32& width, u32& rest) {
    u32 base = 0;
    if (part == 2) {
        width = rest = 0;
        if (value < DISTANCE_CODE) return value;
        base = DISTANCE_CODE;
    }
    u32 number = part == 0 ? value : part == 1 ? value - 1 : value - DISTANCE_CODE;
    u32 code = code_of(number, width);
    rest = number & ((1u << width) - 1);
    return base + code;
}

DEVICE_METHOD u32 Stream::operator()(u32 i) const {
    if (numbers == nullptr) return literal_symbol(word_at(literals, i, word_log), part, word_log, rotated);
    u32 width, rest;
    return sequence_code(numbers[i], part, width, rest);
}

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

struct BitBuffer {  // shared memory: numbers of up to 39 bits of each lane, one after the other
    u32 words[2 * WARP];
    u32 frequencies[256];  // by symbol
};

// Put the `n_bits` of each lane behind the `bit` bits so far, of which those of a word that is not full
// are in the buffer; full words go to `store(number, word)`.
template <class Store>
DEVICE void append_bits(BitBuffer& buffer, u64 bits, u32 n_bits, u32& bit, Store store) {
    u32 lane = lane_index(), end = prefix_of_warp(n_bits), from = bit % 32 + end - n_bits, at = from / 32;
    u32 shift = from % 32;
    if (n_bits != 0) {  // no bit is added twice: sums are unions
        add_atomically(&buffer.words[at], u32(bits) << shift);
        u64 rest = bits >> (32 - shift);
        if (u32(rest) != 0) add_atomically(&buffer.words[at + 1], rest);
        if (rest >> 32 != 0) add_atomically(&buffer.words[at + 2], rest >> 32);
    }
    sync_warp();
    u32 n_words = (bit % 32 + shuffle(end, WARP - 1)) / 32;
    for (u32 k = lane; k < n_words; k += WARP) store(bit / 32 + k, buffer.words[k]);
    u32 left = buffer.words[n_words];
    sync_warp();
    for (u32 k = lane; k < 2 * WARP; k += WARP) buffer.words[k] = k == 0 ? left : 0;
    sync_warp();
    bit += shuffle(end, WARP - 1);
}

// A warp writes the table of a coded stream to `out`.
DEVICE void write_table(const Coding& coding, u8* out, BitBuffer& buffer) {
    u32 lane = lane_index(), n = coding.last - coding.first + 1;
    sync_warp();
    for (u32 s = lane; s < 256; s += WARP) buffer.frequencies[s] = 0;
    for (u32 k = lane; k < 2 * WARP; k += WARP) buffer.words[k] = 0;
    sync_warp();
    for (u32 i = lane; i < coding.n_symbols; i += WARP) {
        buffer.frequencies[coding.table.symbols[i]] = coding.table.frequencies[i];
    }
    sync_warp();
    if (lane < 2) out[lane] = lane == 0 ? coding.first : coding.last;
    u8* widths = out + 2;
    u32 n_widths = (n + 1) / 2, bit = 0;
    u8* fields = widths + n_widths;
    auto store = [=](u32 i, u32 word) { write_u32(fields + 4 * i, word); };
    for (u32 first = 0; first < n_widths; first += WARP) {
        u32 pair = first + lane, s = coding.first + 2 * pair;
        if (pair < n_widths) {
            u32 high = s + 1 <= coding.last ? bit_length(buffer.frequencies[s + 1]) : 0;
            widths[pair] = bit_length(buffer.frequencies[s]) | high << 4;
        }
    }
    for (u32 first = coding.first; first <= coding.last; first += WARP) {
        u32 s = first + lane, f = s <= coding.last ? buffer.frequencies[s] : 0;
        u32 width = f == 0 ? 0 : bit_length(f) - 1;
        append_bits(buffer, f ^ (f == 0 ? 0 : 1u << width), width, bit, store);
    }
    u32 n_left = (bit % 32 + 7) / 8;
    if (lane < n_left) fields[bit / 32 * 4 + lane] = buffer.words[0] >> (8 * lane);
    sync_warp();
}

// The extra bits of all sequences, as 32-bit words to `store(number, word)`, the last one padded with
// zeros; their number.
template <class Store>
DEVICE u32 write_extras(const u16* sequences, u32 stride, u32 n_sequences, BitBuffer& buffer, Store store) {
    sync_warp();
    for (u32 k = lane_index(); k < 2 * WARP; k += WARP) buffer.words[k] = 0;
    sync_warp();
    u32 bit = 0;
#pragma unroll 1
    for (u32 first = 0; first < n_sequences; first += WARP) {
        u32 i = first + lane_index(), n_bits = 0;
        u64 bits = 0;
        for (u32 part = 0; part < 3 && i < n_sequences; part++) {
            u32 width, rest;
            sequence_code(sequences[part * stride + i], part, width, rest);
            bits |= u64(rest) << n_bits;
            n_bits += width;
        }
        append_bits(buffer, bits, n_bits, bit, store);
    }
    if (lane_index() == 0 && bit % 32 != 0) store(bit / 32, buffer.words[0]);
    sync_warp();
    return bit;
}

}  // namespace lz
