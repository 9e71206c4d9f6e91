// SPDX-License-Identifier: Apache-2.0
// Interleaved rANS: a warp a plane, a lane a state. The other half of rans.py.
//
// Payloads may be hostile: positions in the stream are clamped to the payload, and loops run to
// the number of symbols, whatever a payload says. Statuses are those of rans.py, which looks at one
// thing after the other: here the first lane that finds fault decides.

struct Payload {  // of a plane under examination
    const u8* at;
    u32 size;
    u32 n_words, n_patches, n_symbols;
    u32 words_at, states_at, patches_at;
    u32 filler;
};

struct Table8 {
    u32 slots[1 << RANS8_BITS];  // bytes: frequency, symbol, 0, slot - start
};

struct Table12 {
    u32 symbols[RANS12_MAX_SYMBOLS];  // frequency, start, symbol from the lowest bits up
    u8 owners[1 << RANS12_BITS];      // index of the symbol that a slot belongs to
};

constexpr u32 MASK_12 = (1u << RANS12_BITS) - 1;
constexpr u32 BITMAP_BYTES = RANS12_BITMAP_BYTES;

// Bytes of a payload's table, padded to an even number; `width` is rans12's.
DEVICE u32 table_bytes(u32 coder, u32 n_symbols, u32 width) {
    return coder == RANS8 ? 2 * n_symbols : BITMAP_BYTES + (n_symbols * width + 15) / 16 * 2;
}

// Key by which the first of the largest frequencies is the maximum; `index_of_key` gives its index.
DEVICE u32 key_of(u32 frequency, u32 index) { return frequency << 8 | (255 - index); }
DEVICE u32 index_of_key(u32 key) { return 255 - (key & 255); }

DEVICE u32 read_table(Payload& payload, u32 width, u32 bits, Table8& table) {
    (void)width;
    u32 lane = lane_index(), n = payload.n_symbols;
    const u8* symbols = payload.at + RANS_HEADER_BYTES;
    u32 symbol = lane < n ? symbols[lane] : 0, f = lane < n ? symbols[n + lane] : 0;
    u32 previous = shuffle_up(symbol, 1);
    bool wrong = lane < n && (f == 0 || (lane > 0 && symbol <= previous));
    if (ballot(wrong) != 0 || sum_of_warp(f) != 1u << RANS8_BITS) return BAD_TABLE;
    if (shuffle(symbol, n - 1) >> bits != 0) return BAD_SYMBOL;
    payload.filler = shuffle(symbol, index_of_key(max_of_warp(key_of(f, lane))));
    u32 start = prefix_of_warp(f) - f;
    for (u32 i = 0; i < n; i++) {
        u32 count = shuffle(f, i), first = shuffle(start, i);
        u32 entry = count | shuffle(symbol, i) << 8;
        for (u32 j = lane; j < count; j += WARP) table.slots[first + j] = entry | j << 24;
    }
    sync_warp();
    return OK;
}

DEVICE u32 read_table(Payload& payload, u32 width, u32 bits, Table12& table) {
    u32 lane = lane_index(), n = payload.n_symbols;
    const u8* bitmap = payload.at + RANS_HEADER_BYTES;
    u32 byte = bitmap[lane];
    u32 end = prefix_of_warp(count_ones(byte));
    if (shuffle(end, WARP - 1) != n) return BAD_TABLE;
    u32 index = end - count_ones(byte);
    for (u32 k = 0; k < 8; k++) {
        if (byte >> k & 1) table.symbols[index++] = (8 * lane + k) << (2 * RANS12_BITS);
    }
    sync_warp();
    const u8* fields = bitmap + BITMAP_BYTES;
    u32 n_zero = 0, total = 0, zero = 0, largest = 0;
    for (u32 i = lane; i < n; i += WARP) {
        u32 bit = i * width;  // fields reach into three bytes at most; states follow the table
        const u8* at = fields + (bit >> 3);
        u32 f = (read_u16(at) | at[2] << 16) >> (bit & 7) & ((1u << width) - 1);
        table.symbols[i] |= f;
        total += f;
        largest = f > largest ? f : largest;
        if (f == 0) {
            n_zero++;
            zero = i;
        }
    }
    total = sum_of_warp(total);
    zero = max_of_warp(zero);
    if (sum_of_warp(n_zero) != 1 || total >= 1u << RANS12_BITS) return BAD_TABLE;
    if (bit_length(max_of_warp(largest)) != width) return BAD_TABLE;
    u32 spare = n * width + lane;  // bits behind the fields are zero
    u32 n_field_bits = 8 * (table_bytes(RANS12, n, width) - BITMAP_BYTES);
    bool wrong = spare < n_field_bits && (fields[spare >> 3] >> (spare & 7) & 1) != 0;
    u32 rest = (1u << RANS12_BITS) - total;
    for (u32 i = lane; i < n; i += WARP) {  // the filler is the first of the most frequent
        u32 f = table.symbols[i] & MASK_12;
        wrong |= i < zero ? f >= rest : f > rest;
    }
    if (ballot(wrong) != 0) return BAD_TABLE;
    sync_warp();
    if (lane == 0) table.symbols[zero] |= rest;
    sync_warp();
    payload.filler = table.symbols[zero] >> (2 * RANS12_BITS);
    u32 last = table.symbols[n - 1] >> (2 * RANS12_BITS);
    sync_warp();
    if (last >> bits != 0) return BAD_SYMBOL;
    u32 start = 0;
    for (u32 first = 0; first < n; first += WARP) {
        u32 i = first + lane;
        u32 f = i < n ? table.symbols[i] & MASK_12 : 0;
        u32 behind = start + prefix_of_warp(f);
        if (i < n) table.symbols[i] |= (behind - f) << RANS12_BITS;
        start = shuffle(behind, WARP - 1);
    }
    sync_warp();
    for (u32 i = 0; i < n; i++) {
        u32 f = table.symbols[i] & MASK_12, first = table.symbols[i] >> RANS12_BITS & MASK_12;
        for (u32 j = lane; j < f; j += WARP) table.owners[first + j] = i;
    }
    sync_warp();
    return OK;
}

// Check a payload's sizes, table, states and patches. The lane's state goes to `state`.
template <u32 CODER, class Table>
DEVICE u32 examine(Payload& payload, u32 n, u32 bits, Table& table, u32& state) {
    u32 lane = lane_index(), n_rows = (n - 1) / ROW;
    const u8* at = payload.at;
    if (payload.size < RANS_HEADER_BYTES + RANS_STATES_BYTES) return BAD_SIZE;
    payload.n_words = read_u32(at);
    payload.n_patches = read_u16(at + 4);
    payload.n_symbols = at[6] + 1u;
    u32 width = at[7];
    if (payload.n_symbols < 2) return BAD_TABLE;
    if (CODER == RANS8 && payload.n_symbols > RANS8_MAX_SYMBOLS) return BAD_TABLE;
    if (width > RANS12_BITS || (width == 0) != (CODER == RANS8)) return BAD_TABLE;
    payload.words_at = RANS_HEADER_BYTES + table_bytes(CODER, payload.n_symbols, width);
    u64 states_at = payload.words_at + 2 * u64(payload.n_words);
    u64 patches_at = states_at + RANS_STATES_BYTES;
    if (patches_at + PATCH_BYTES * payload.n_patches != payload.size) return BAD_SIZE;
    payload.states_at = states_at;
    payload.patches_at = patches_at;
    u32 status = read_table(payload, width, bits, table);
    if (status != OK) return status;

    state = read_u32(at + states_at + 4 * lane);
    if (ballot(state < RANS_STATE_LOW) != 0) return BAD_STATE;

    const u8* positions = at + patches_at;
    const u8* symbols = positions + 2 * payload.n_patches;
    for (u32 first = 0; first < payload.n_patches; first += WARP) {
        u32 i = first + lane, wrong = OK;
        if (i < payload.n_patches) {
            u32 position = read_u16(positions + 2 * i);
            bool ascends = i == 0 || position > read_u16(positions + 2 * i - 2);
            if (!ascends || position >= n_rows * ROW || symbols[i] == payload.filler) wrong = BAD_PATCH;
            else if (symbols[i] >> bits != 0) wrong = BAD_SYMBOL;
        }
        status = first_of_warp(wrong);
        if (status != OK) return status;
    }
    return OK;
}

// Units of a stream that starts at an even byte of an aligned payload, two at a time.
struct StreamWords {
    const u32* words;
    u32 n_words;  // readable, padding of the payload included

    DEVICE_METHOD u32 load(u32 i) const { return i < n_words ? words[i] : 0; }
};

// A stream through a window of two registers: lane `i` holds units 2i and 2i + 1 of the 64 where the
// window starts, and of the 64 behind, which were asked for long before they are needed.
template <class Words>
struct Window {
    Words words;
    u32 next_word;  // of `after`, this lane's
    u32 now, after;
    u32 offset;    // of the next unit in `now`
    u32 n_before;  // units of the stream before `now`; less those of `now` that are not of it

    DEVICE_METHOD void begin(Words source, u32 n_skipped) {
        words = source;
        offset = n_skipped;
        n_before = 0u - n_skipped;
        now = words.load(lane_index());
        next_word = WARP + lane_index();
        after = words.load(next_word);
    }

    // Renormalise: lanes that are short take the next units, in the order of lanes.
    DEVICE_METHOD u32 refill(u32 x) {
        bool is_short = x < RANS_STATE_LOW;
        u32 lanes = ballot(is_short);
        u32 unit = offset + count_ones(lanes & lanes_below());
        // At most 32 units are taken: no lane is asked both for its word of `now` and of `after`.
        u32 word = shuffle(lane_index() >= offset / 2 ? now : after, unit / 2 % WARP);
        // The high half of the new state is the low half of the old one, the low half is the unit.
        if (is_short) x = pick_bytes(word, x, 0x5410 + unit % 2 * 0x22);
        offset += count_ones(lanes);
        if (offset >= 2 * WARP) {
            offset -= 2 * WARP;
            n_before += 2 * WARP;
            now = after;
            next_word += WARP;
            after = words.load(next_word);
        }
        return x;
    }

    DEVICE_METHOD u32 n_used() const { return n_before + offset; }
};

DEVICE u32 decode_row(const Table8& table, Window<StreamWords>& stream, u32& x) {
    u32 first = table.slots[x & 255];
    x = (first & 255) * (x >> RANS8_BITS) + (first >> 24);
    u32 second = table.slots[x & 255];
    x = (second & 255) * (x >> RANS8_BITS) + (second >> 24);
    x = stream.refill(x);
    return pick_bytes(first, second, 0x2251);
}

// Take a symbol off a state, which may be short afterwards.
DEVICE u32 pop(const Table12& table, u32& x) {
    u32 slot = x & MASK_12;
    u32 entry = table.symbols[table.owners[slot]];
    x = (entry & MASK_12) * (x >> RANS12_BITS) + slot - (entry >> RANS12_BITS & MASK_12);
    return entry >> (2 * RANS12_BITS);
}

template <class Words>
DEVICE u32 decode_step(const Table12& table, Window<Words>& stream, u32& x) {
    u32 symbol = pop(table, x);
    x = stream.refill(x);
    return symbol;
}

template <class Words>
DEVICE u32 decode_row(const Table12& table, Window<Words>& stream, u32& x) {
    u32 first = decode_step(table, stream, x);
    return first | decode_step(table, stream, x) << 8;
}

// After the rows: check words and end states, write the tail and the patches.
DEVICE u32 finish(const Payload& payload, u32 n, u32 bits, u32 n_used, u32 state, u8* out) {
    if (n_used != payload.n_words) return BAD_WORDS;
    u32 first = (n - 1) / ROW * ROW, lane = lane_index();
    u32 wrong = state >> 16 == 1 ? OK : BAD_STATE;
    for (u32 j = 0; j < 2; j++) {
        u32 symbol = state >> (8 * j) & 255, i = first + 2 * lane + j;
        u32 found = i < n ? (symbol >> bits != 0 ? BAD_SYMBOL : OK) : (symbol != 0 ? BAD_STATE : OK);
        if (wrong == OK) wrong = found;
    }
    u32 status = first_of_warp(wrong);
    if (status != OK) return status;
    reinterpret_cast<u16*>(out + first)[lane] = state;
    sync_warp();
    const u8* positions = payload.at + payload.patches_at;
    const u8* symbols = positions + 2 * payload.n_patches;
    bool misplaced = false;
    for (u32 i = lane; i < payload.n_patches; i += WARP) {
        u8* at = out + read_u16(positions + 2 * i);
        misplaced |= *at != payload.filler;
        *at = symbols[i];
    }
    return ballot(misplaced) != 0 ? BAD_PATCH : OK;
}

// A warp decodes a payload (16-byte aligned) of `n` symbols to `out`, 16-byte aligned with room for `n`
// rounded up to a multiple of 64. A status.
template <u32 CODER, class Table>
DEVICE u32 decode_plane(const u8* payload, u32 size, u32 n, u32 bits, u8* out, Table& table) {
    Payload parts = {};
    parts.at = payload;
    parts.size = size;
    u32 x = 0;
    u32 status = examine<CODER>(parts, n, bits, table, x);
    if (status != OK) return status;
    u32 first_word = parts.words_at / 4;
    Window<StreamWords> stream;
    stream.begin({reinterpret_cast<const u32*>(payload) + first_word, u32(aligned(size) / 4) - first_word},
                 parts.words_at / 2 % 2);
    u16* pairs = reinterpret_cast<u16*>(out) + lane_index();
    for (u32 row = 0; row < (n - 1) / ROW; row++) pairs[row * LANES] = decode_row(table, stream, x);
    return finish(parts, n, bits, stream.n_used(), x, out);
}

// --- encode ---------------------------------------------------------------------------------------

struct Symbols {  // a table under construction, in shared memory
    u16 frequencies[256];
    u8 symbols[256];
};

struct EncodeTable {
    Pair entries[256];  // by symbol: 2^32 / frequency; frequency, start and PATCHED
    u32 row_flags[(1u << MAX_BLOCK_LOG) / ROW / 32];  // rows with a symbol that is patched
};

constexpr u32 PATCHED = 1u << 31;

DEVICE Pair encode_entry(u32 frequency, u32 start) {
    u32 reciprocal = frequency == 1 ? 0xFFFFFFFFu : (1ull << 32) / frequency;
    return {reciprocal, start << RANS12_BITS | frequency};
}

// (index of the filler, bits that each of the other frequencies needs); 0 bits for rans8.
DEVICE void frequency_width(u32 coder, const u16* frequencies, u32 n_symbols, u32& filler, u32& width) {
    u32 most = 0;
    for (u32 i = lane_index(); i < n_symbols; i += WARP) {
        u32 key = key_of(frequencies[i], i);
        most = key > most ? key : most;
    }
    filler = index_of_key(max_of_warp(most));
    u32 largest = 0;
    for (u32 i = lane_index(); i < n_symbols; i += WARP) {
        u32 f = frequencies[i];
        if (i != filler && f > largest) largest = f;
    }
    width = coder == RANS8 ? 0 : bit_length(max_of_warp(largest));
}

// Symbols that the table lacks get the filler's entry, and are patched.
DEVICE void build_encode_table(const Symbols& present, u32 n_symbols, u32 filler, EncodeTable& table) {
    u32 lane = lane_index();
    u32 start = 0, filler_start = 0;
    for (u32 i = lane; i < filler; i += WARP) filler_start += present.frequencies[i];
    sync_warp();  // of what was read of the table before
    Pair fallback = encode_entry(present.frequencies[filler], sum_of_warp(filler_start));
    fallback.second |= PATCHED;
    for (u32 s = lane; s < 256; s += WARP) table.entries[s] = fallback;
    sync_warp();
    for (u32 first = 0; first < n_symbols; first += WARP) {
        u32 i = first + lane;
        u32 f = i < n_symbols ? present.frequencies[i] : 0;
        u32 behind = start + prefix_of_warp(f);
        if (i < n_symbols) table.entries[present.symbols[i]] = encode_entry(f, behind - f);
        start = shuffle(behind, WARP - 1);
    }
    sync_warp();
}

// The inverse of a decode step. The product with the reciprocal rounded down is the quotient, or one
// less, for any state: x / f - x (2^32 mod f) / (f 2^32) > x / f - 1.
template <u32 BITS>
DEVICE u32 push(u32 x, Pair entry) {
    u32 f = entry.second & MASK_12, start = entry.second >> RANS12_BITS & MASK_12;
    u32 q = high_product(x, entry.first);
    u32 rest = x - q * f;
    u32 next = (q << BITS) + rest + start;
    return rest >= f ? next + (1u << BITS) - f : next;
}

// The stream, written from its end; what does not fit is counted only.
struct Sink {
    u16* begin;
    u32 n_room;
    u32 n_used;

    // Lanes whose state is too large put out its low word; in memory they stand in their order.
    DEVICE_METHOD u32 spill(u32 x, bool full) {
        u32 lanes = ballot(full);
        n_used += count_ones(lanes);
        if (full) {
            if (n_used <= n_room) begin[n_room - n_used + count_ones(lanes & lanes_below())] = x;
            x >>= RANS_WORD_BITS;
        }
        return x;
    }
};

template <u32 CODER>
DEVICE u32 encode_row(Pair first, Pair second, Sink& sink, u32 x) {
    if (CODER == RANS8) {
        u32 limit = (first.second & MASK_12) * (second.second & MASK_12);
        x = sink.spill(x, x >> RANS_WORD_BITS >= limit);
        return push<RANS8_BITS>(push<RANS8_BITS>(x, second), first);
    }
    x = sink.spill(x, x >> (32 - RANS12_BITS) >= (second.second & MASK_12));
    x = push<RANS12_BITS>(x, second);
    x = sink.spill(x, x >> (32 - RANS12_BITS) >= (first.second & MASK_12));
    return push<RANS12_BITS>(x, first);
}

// Encode the rows from the last to the first; returns how many symbols are patched.
template <u32 CODER>
DEVICE u32 encode_rows(const u8* symbols, u32 n_rows, EncodeTable& table, Sink& sink, u32& x) {
    const u16* pairs = reinterpret_cast<const u16*>(symbols) + lane_index();
    u32 n_patches = 0, flags = 0;
    u32 pair = pairs[(n_rows - 1) * LANES];
    for (u32 row = n_rows; row-- > 0;) {
        Pair first = table.entries[pair & 255], second = table.entries[pair >> 8];
        if (row > 0) pair = pairs[(row - 1) * LANES];  // long before it is needed
        x = encode_row<CODER>(first, second, sink, x);
        u32 n = (first.second >> 31) + (second.second >> 31);
        n_patches += n;
        if (ballot(n != 0) != 0) flags |= 1u << (row & 31);
        if ((row & 31) == 0) {
            if (lane_index() == 0) table.row_flags[row >> 5] = flags;
            flags = 0;
        }
    }
    sync_warp();
    return sum_of_warp(n_patches);
}

DEVICE void write_table(u32 coder, const Symbols& present, u32 n_symbols, u32 filler, u32 width, u8* out) {
    u32 lane = lane_index();
    if (coder == RANS8) {
        if (lane < n_symbols) {
            out[lane] = present.symbols[lane];
            out[n_symbols + lane] = present.frequencies[lane];
        }
        return;
    }
    u32 bits = 0;  // a lane writes the byte of its 8 symbols
    for (u32 i = 0; i < n_symbols; i++) {
        u32 symbol = present.symbols[i];
        if (symbol >> 3 == lane) bits |= 1u << (symbol & 7);
    }
    out[lane] = bits;
    u32 n_bytes = table_bytes(coder, n_symbols, width) - BITMAP_BYTES;
    for (u32 at = lane; at < n_bytes; at += WARP) {  // and the bytes of the fields in turn
        u32 byte = 0;
        for (u32 i = 8 * at / width; i < n_symbols && i * width < 8 * at + 8; i++) {
            u32 field = i == filler ? 0 : present.frequencies[i];
            i32 shift = i32(i * width) - i32(8 * at);
            byte |= shift < 0 ? field >> -shift : field << shift;
        }
        out[BITMAP_BYTES + at] = byte;
    }
}

// A warp writes the payload of `n` symbols (uint8, 16-byte aligned); its bytes, or 0 if they would not be
// fewer than `raw_bytes`. The payload lies in `out` in parts: header and table, states and
// patches, and at the end of its `room` bytes the stream: `payload_pair` reads it.
template <u32 CODER>
DEVICE u32 encode(const u8* symbols, u32 n, const Symbols& present, u32 n_symbols, u32 raw_bytes,
                  u8* out, u32 room, EncodeTable& table, u32& n_patches) {
    u32 lane = lane_index(), n_rows = (n - 1) / ROW, first = n_rows * ROW;
    u32 filler, width;
    frequency_width(CODER, present.frequencies, n_symbols, filler, width);
    build_encode_table(present, n_symbols, filler, table);
    u32 i = first + 2 * lane;
    u32 x = RANS_STATE_LOW | (i < n ? symbols[i] : 0) | (i + 1 < n ? symbols[i + 1] << 8 : 0);
    Sink sink = {reinterpret_cast<u16*>(out), room / 2, 0};
    n_patches = encode_rows<CODER>(symbols, n_rows, table, sink, x);
    u32 head = RANS_HEADER_BYTES + table_bytes(CODER, n_symbols, width);
    u32 size = head + 2 * sink.n_used + RANS_STATES_BYTES + PATCH_BYTES * n_patches;
    if (size >= raw_bytes) return 0;
    if (lane == 0) {
        write_u32(out, sink.n_used);
        write_u16(out + 4, n_patches);
        write_u16(out + 6, (n_symbols - 1) | width << 8);
    }
    write_table(CODER, present, n_symbols, filler, width, out + RANS_HEADER_BYTES);
    write_u32(out + head + 4 * lane, x);
    u8* positions = out + head + RANS_STATES_BYTES;
    u8* patches = positions + 2 * n_patches;
    u32 n_before = 0;
    for (u32 row = 0; n_before < n_patches && row < n_rows; row++) {
        if ((table.row_flags[row >> 5] >> (row & 31) & 1) == 0) continue;
        for (u32 half = 0; half < ROW; half += WARP) {
            u32 at = row * ROW + half + lane;
            bool patched = (table.entries[symbols[at]].second & PATCHED) != 0;
            u32 lanes = ballot(patched);
            if (patched) {
                u32 j = n_before + count_ones(lanes & lanes_below());
                write_u16(positions + 2 * j, at);
                patches[j] = symbols[at];
            }
            n_before += count_ones(lanes);
        }
    }
    return size;
}

// Bytes `at` and `at + 1` (`at` is even) of a payload that `encode` left in parts.
DEVICE u32 payload_pair(const u8* out, u32 room, u32 head, u32 n_words, u32 at) {
    if (at >= head + 2 * n_words) at -= 2 * n_words;
    else if (at >= head) at += room - 2 * n_words - head;
    return *reinterpret_cast<const u16*>(out + at);
}
