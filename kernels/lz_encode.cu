// SPDX-License-Identifier: Apache-2.0
// Encoding a block by LZ: the other half of lz_encode.py. A warp parses it, for the steps of a parse depend
// on one another, and a warp codes what was found. Many blocks at once make the speed.

namespace lz {

// What the parse leaves to the coding, at the start of a task's memory.
struct alignas(16) Parsed {
    u64 fill;
    u32 n, word_log, full_log;
    u32 promising;  // whether there was a look for matches
    u32 n_sequences, n_literals;
    u32 literal_bytes;  // what all words cost as literals, by a sample
    u32 size;           // of the payload; 0: it does not pay
};

struct Memory {  // of a task; `lz_block_bytes` of kernels/cuda.py are there
    Parsed* parsed;
    Coding* codings;
    u8* text;
    u8* literals;
    u16* sequences;
    u32 stride;
    u8* depths;
    u8* table;  // of candidates; then the stream, whose end is at `table + table_bytes`
    u32 table_bytes;
    u8* out;

    DEVICE_METHOD Memory(u8* base, u32 block_bytes) {
        u32 room = aligned(block_bytes), most_words = room < MAX_WORDS ? room : MAX_WORDS;
        parsed = reinterpret_cast<Parsed*>(base);
        codings = reinterpret_cast<Coding*>(base + sizeof(Parsed));
        text = base + sizeof(Parsed) + N_STREAMS * sizeof(Coding);
        literals = text + room + SLACK;
        sequences = reinterpret_cast<u16*>(literals + room);
        stride = aligned(room / 2 < MAX_WORDS ? room / 2 : MAX_WORDS);  // of bytes, four or more match
        depths = literals + room + 6 * stride;
        table = depths + most_words;
        table_bytes = 2 * room > TABLE_BYTES ? 2 * room : TABLE_BYTES;
        out = table + table_bytes;
    }
};

// What coding a block works in, in shared memory.
struct Workshop {
    u32 counts[256];
    Symbols table;
    EncodeTable encoder;
    BitBuffer bits;
    u32 riders[RIDERS / 4];
};

DEVICE Stream stream_of(const Memory& memory, const u8* literals, u32 word_log, u32 n_literals, u32 n_sequences,
                        bool rotated, u32 s) {
    u32 planes = 1u << word_log;
    if (s < planes) return {literals, nullptr, n_literals, s, word_log, rotated};
    return {nullptr, memory.sequences + (s - planes) * memory.stride, n_sequences, s - planes, word_log, rotated};
}

// Write the payload of a parsed block, but for its check; its bytes, or 0 if not below `limit`. `tail` are the
// `n_odd` bytes behind the last word.
DEVICE u32 encode_payload(const Memory& memory, const u8* literals, const u8* tail, u32 n_odd, u32 n_sequences,
                          u32 n_literals, u64 fill, u32 limit, Workshop& shop) {
    u32 lane = lane_index(), word_log = memory.parsed->word_log, word_bytes = 1u << word_log;
    u32 narrowed = memory.parsed->full_log - word_log, n_streams = word_bytes + 3;
    if (lane < RIDERS / 4) shop.riders[lane] = 0;
    u32* riders = shop.riders;
    u32 n_bits = write_extras(memory.sequences, memory.stride, n_sequences, shop.bits, [=](u32 i, u32 word) {
        if (i < RIDERS / 4) riders[i] = word;
    });
    u32 n_extras = (n_bits + 7) / 8;
    bool rotated = false;
    if ((word_log == 1 || word_log == 2) && n_literals != 0) {
        u64 plain = sample_bits(literals, n_literals, word_log, false, shop.counts);
        rotated = sample_bits(literals, n_literals, word_log, true, shop.counts) < plain;
    }
    u32 coded = 0, tables = 0, uncoded = 0, others = 0;
#pragma unroll 1
    for (u32 s = 0; s < n_streams; s++) {
        Stream stream = stream_of(memory, literals, word_log, n_literals, n_sequences, rotated, s);
        Coding& coding = memory.codings[s];
        plan_stream(stream, shop.counts, shop.table, coding);
        if (coding.mode == CODED_STREAM) {
            coded += coding.size;
            tables += coding.table_bytes;
            uncoded += stream.n;
        } else {
            others += coding.size;
        }
    }
    u32 size = HEADER_BYTES + others + uncoded + n_extras + n_odd;  // if no stream is coded
    if (fill != 0) size += word_bytes;
    u32 most_riders = n_extras < RIDERS ? n_extras : RIDERS;
    u32 promised = coded + RANS_STATES_BYTES, saved = uncoded + most_riders;
    bool is_coded = promised < saved && size - saved + promised < limit;
    u32 x = RANS_STATE_LOW | (riders[lane / 2] >> (16 * (lane & 1)) & 0xFFFF);
    Sink sink = {reinterpret_cast<u16*>(memory.table), memory.table_bytes / 2, 0};
    if (is_coded) {
#pragma unroll 1
        for (u32 s = n_streams; s-- > 0;) {
            if (memory.codings[s].mode != CODED_STREAM) continue;
            Stream stream = stream_of(memory, literals, word_log, n_literals, n_sequences, rotated, s);
            encode_stream(stream, memory.codings[s], shop.encoder, sink, x);
        }
        u32 exact = 2 * sink.n_used + tables + RANS_STATES_BYTES;
        is_coded = exact < saved;
        if (is_coded) size = size - saved + exact;
    }
    if (size >= limit) return 0;

    u8* out = memory.out;
    u32 at = HEADER_BYTES, modes = 0, n_words = is_coded ? sink.n_used : 0;
    if (fill != 0) {
        if (lane < word_bytes) out[at + lane] = fill >> (8 * lane);
        at += word_bytes;
    }
#pragma unroll 1
    for (u32 s = 0; s < n_streams; s++) {
        const Coding& coding = memory.codings[s];
        u32 mode = coding.mode == CODED_STREAM && !is_coded ? RAW_STREAM : coding.mode;
        modes |= mode << (2 * s);
        if (mode == CODED_STREAM) {
            write_table(coding.table, coding.n_symbols, coding.first, coding.last, out + at, shop.bits);
            at += coding.table_bytes;
        } else if (mode == CONSTANT_STREAM) {
            if (lane == 0) out[at] = coding.last;
            at++;
        } else {
            Stream stream = stream_of(memory, literals, word_log, n_literals, n_sequences, rotated, s);
            for (u32 i = lane; i < stream.n; i += WARP) out[at + i] = stream(i);
            at += stream.n;
        }
    }
    u32 n_ridden = 0;
    if (is_coded) {
        sync_warp();  // of the stream, whose words come from all lanes
        const u8* words = reinterpret_cast<const u8*>(sink.begin + sink.n_room - n_words);
        for (u32 i = lane; i < 2 * n_words; i += WARP) out[at + i] = words[i];
        at += 2 * n_words;
        write_u32(out + at + 4 * lane, x);
        at += RANS_STATES_BYTES;
        n_ridden = most_riders;
    }
    if (n_extras > n_ridden) {
        u8* rest = out + at - n_ridden;
        write_extras(memory.sequences, memory.stride, n_sequences, shop.bits, [=](u32 i, u32 word) {
            for (u32 k = 4 * i; k < 4 * i + 4; k++) {
                if (k >= n_ridden && k < n_extras) rest[k] = word >> (8 * (k & 3));
            }
        });
        at += n_extras - n_ridden;
    }
    if (lane < n_odd) out[at + lane] = tail[lane];
    if (lane == 0) {
        u32 flags = word_log | n_odd << ODD_SHIFT | (rotated ? ROTATED : 0) | (fill != 0 ? FILLED : 0);
        write_u32(out + FLAGS_AT, flags | modes << 8 | narrowed << NARROWED_SHIFT);
        write_u16(out + SEQUENCES_AT, n_sequences);
        write_u16(out + LITERALS_AT, n_literals);
        write_u32(out + WORDS_AT, n_words);
    }
    return size;
}

// Load a block of `n_bytes` bytes and find its matches.
DEVICE void match_block(const Memory& memory, const u8* source, u32 n_bytes, u32 word_bytes, u32 level, u32* counts,
                        u64* slots) {
    u32 full_log = bit_length(word_bytes) - 1;
    if (n_bytes >> full_log == 0) full_log = 0;  // not one word: bytes
    u32 n = n_bytes >> full_log;
    u32 word_log = load_block(source, n, full_log, memory.text);
    u64 fill;
    bool filling = fill_of(memory.text, n, word_log, fill);
    u64 bits = sample_bits(memory.text, n, word_log, false, counts);
    u32 least = least_words(word_log, bits / n >> LOG2_BITS);
    bool is_promising = filling && word_log != 0;
    if (!is_promising) {
        Hasher hash = {memory.text, word_log, least << word_log};
        is_promising = promising(hash, n, bits, filling, reinterpret_cast<u32*>(memory.table));
        sync_warp();
    }
    Found found = {0, n};
    if (is_promising) {
        u64* table = reinterpret_cast<u64*>(memory.table);
        Parse parse = {memory.text,   n,     word_log,      least,            level,         fill,           filling,
                       table,         slots, memory.depths, memory.sequences, memory.stride, memory.literals};
        found = parse_block(parse);
    }
    if (lane_index() == 0) {
        *memory.parsed = {fill,        n, word_log, full_log, is_promising, found.n_sequences, found.n_literals,
                          u32(bits >> (LOG2_BITS + 3)), 0};
    }
}

// The payload of a parsed block; its bytes, or 0 if not below `limit`, or, with `matches_only`, if there are
// no matches that pay.
DEVICE u32 code_block(const Memory& memory, const u8* source, u32 n_bytes, bool matches_only, u32 limit,
                      Workshop& shop) {
    const Parsed& parsed = *memory.parsed;
    u32 n_whole = parsed.n << parsed.full_log, n_odd = n_bytes - n_whole, size = 0;
#pragma unroll 1
    for (u32 turn = 0; turn < 2; turn++) {  // with matches, then without
        bool matches = turn == 0;
        if (matches && !parsed.promising) continue;
        if (!matches && (matches_only || (size != 0 && size <= parsed.literal_bytes))) break;
        u32 most = size == 0 || limit < size ? limit : size;
        u32 found = encode_payload(memory, matches ? memory.literals : memory.text, source + n_whole, n_odd,
                                   matches ? parsed.n_sequences : 0, matches ? parsed.n_literals : parsed.n,
                                   matches ? parsed.fill : 0, most, shop);
        if (found != 0) size = found;
        sync_warp();
    }
    return size;
}

}  // namespace lz
