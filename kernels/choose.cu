// SPDX-License-Identifier: Apache-2.0
// The encoder's choices: which coder and which table a plane gets. The other half of choose.py.
//
// They decide bytes, so each number here is one that choose.py computes, whatever lane computes it.

constexpr u32 ENCODE_WARPS = 4;  // of a block that encodes planes

struct Choice {  // shared memory of a warp
    u32 counts[256];
    Symbols tables[2];  // of rans8 and rans12
    EncodeTable encoder;
};

// log2 of 1 <= x < 2^32 with LOG2_BITS bits of fraction.
DEVICE u32 log2_fixed(u32 x) {
    constexpr u32 BELOW = 32 - LOG2_STEPS_LOG;
    u32 k = bit_length(x) - 1;
    u32 scaled = k == 0 ? 0 : x << (32 - k);  // without the one before the point
    u32 step = scaled >> BELOW;
    u64 rest = scaled & ((1u << BELOW) - 1);
    u32 low = LOG2[step], high = LOG2[step + 1];
    return (k << LOG2_BITS) + low + u32((high - low) * rest >> BELOW);
}

DEVICE bool is_constant(const u8* symbols, u32 n) {
    u64 same = symbols[0] * 0x0101010101010101ull;
    for (u32 first = 0; first < n; first += WARP * CHUNK) {
        u32 at = first + lane_index() * CHUNK;
        Chunk chunk = {0, 0};
        if (at < n) {
            chunk = load_chunk(symbols + at);
            chunk = keep_bytes({chunk.low ^ same, chunk.high ^ same}, n - at);
        }
        if (ballot((chunk.low | chunk.high) != 0) != 0) return false;
    }
    return true;
}

// Count the rows 0, stride, 2 stride, ...; how many symbols these are.
DEVICE u32 histogram(const u8* symbols, u32 n_rows, u32 stride, u32* counts) {
    constexpr u32 CHUNKS = ROW / CHUNK;
    sync_warp();  // of what was read of the counts before
    for (u32 s = lane_index(); s < 256; s += WARP) counts[s] = 0;
    sync_warp();
    u32 n_counted = (n_rows + stride - 1) / stride;
    for (u32 i = lane_index(); i < n_counted * CHUNKS; i += WARP) {
        Chunk chunk = load_chunk(symbols + i / CHUNKS * stride * ROW + i % CHUNKS * CHUNK);
        for (u32 k = 0; k < 64; k += 8) {
            add_atomically(&counts[chunk.low >> k & 255], 1);
            add_atomically(&counts[chunk.high >> k & 255], 1);
        }
    }
    sync_warp();
    return n_counted * ROW;
}

// Whether the entropy of the probe is far enough below `bits`.
DEVICE bool promising(const u32* counts, u32 n_counted, u32 bits) {
    u64 below = 0;
    for (u32 s = lane_index(); s < 256; s += WARP) {
        u32 c = counts[s];
        if (c != 0) below += u64(c) * log2_fixed(c);
    }
    i64 total = i64(u64(n_counted) * log2_fixed(n_counted)) - i64(sum_of_warp(below));
    i64 raw = i64(u64(n_counted) * bits) << LOG2_BITS;
    return total <= raw - (raw >> PROBE_MIN_GAIN_LOG);
}

struct Candidate {  // for one more or one less of its frequency; of width 0: none
    u32 count, width, index;
};

// Whether `a` comes before `b`: the larger ratio if `up`, else the smaller; the lower of equals.
DEVICE bool precedes(Candidate a, Candidate b, bool up) {
    if (a.width == 0 || b.width == 0) return b.width == 0 && a.width != 0;
    u32 left = a.count * b.width, right = b.count * a.width;
    if (left == right) return a.index < b.index;
    return up ? left > right : left < right;
}

// Frequencies that sum to 2^bits, in proportion to the counts of the table's symbols.
// `n_kept` is the sum of these counts. Counts are below 2^16, so that products fit.
DEVICE void normalise(const u32* counts, u32 n_symbols, u32 n_kept, u32 bits, Symbols& table) {
    u32 whole = 1u << bits, lane = lane_index();
    u32 n_rare = 0, rare = 0;
    for (u32 i = lane; i < n_symbols; i += WARP) {
        u32 c = counts[table.symbols[i]];
        if (c * whole < n_kept) {
            n_rare++;
            rare += c;
        }
    }
    u32 target = whole - sum_of_warp(n_rare), share = n_kept - sum_of_warp(rare);
    u32 total = 0;
    for (u32 i = lane; i < n_symbols; i += WARP) {
        u32 c = counts[table.symbols[i]], f = 1;
        if (c * whole >= n_kept) f = (2 * c * target + share) / (2 * share);
        f = f == 0 ? 1 : f;
        table.frequencies[i] = f;
        total += f;
    }
    total = sum_of_warp(total);
    sync_warp();
    while (total != whole) {
        bool up = total < whole;
        Candidate best = {0, 0, 0};
        for (u32 i = lane; i < n_symbols; i += WARP) {
            u32 f = table.frequencies[i];
            if (!up && f == 1) continue;
            Candidate here = {counts[table.symbols[i]], up ? 2 * f + 1 : 2 * f - 1, i};
            if (precedes(here, best, up)) best = here;
        }
        for (u32 mask = WARP / 2; mask != 0; mask >>= 1) {
            Candidate other = {shuffle_xor(best.count, mask), shuffle_xor(best.width, mask),
                               shuffle_xor(best.index, mask)};
            if (precedes(other, best, up)) best = other;
        }
        sync_warp();  // all have read
        if (lane == 0) table.frequencies[best.index] += up ? 1 : -1;
        total += up ? 1 : -1;
        sync_warp();
    }
}

// The table of one coder and its estimate: symbols in the table; payload bytes go to `size`.
// `n_coded` is the number of symbols in all full rows.
DEVICE u32 plan(const u32* counts, u32 n_counted, u32 n_coded, u32 coder, Symbols& table, u64& size) {
    u32 bits = coder == RANS8 ? RANS8_BITS : RANS12_BITS, lane = lane_index();
    u32 rare_log = coder == RANS8 ? RARE_LOG : RARE_LOG_12;
    u32 least = (n_counted + (1u << rare_log) - 1) >> rare_log;
    if (coder == RANS12 && least < 2) least = 2;
    u32 n_symbols;
    for (;; least *= 2) {
        n_symbols = 0;
        for (u32 first = 0; first < 256; first += WARP) {
            n_symbols += count_ones(ballot(counts[first + lane] >= least));
        }
        if (coder == RANS12 || n_symbols <= RANS8_MAX_SYMBOLS) break;
    }
    u32 n_before = 0, n_kept = 0;
    sync_warp();  // of what was read of the table before
    for (u32 first = 0; first < 256; first += WARP) {
        u32 c = counts[first + lane];
        u32 lanes = ballot(c >= least);
        if (c >= least) {
            table.symbols[n_before + count_ones(lanes & lanes_below())] = first + lane;
            n_kept += c;
        }
        n_before += count_ones(lanes);
    }
    n_kept = sum_of_warp(n_kept);
    sync_warp();
    size = 1ull << 32;
    if (n_symbols == 1) {
        u32 other = 0, most = 0;
        for (u32 s = 0; s < 256; s++) {
            u32 c = counts[s];
            if (c < least && c > most) other = s, most = c;
        }
        if (most != 0) {
            u32 first = table.symbols[0];
            sync_warp();
            if (lane == 0) {
                table.symbols[0] = first < other ? first : other;
                table.symbols[1] = first < other ? other : first;
            }
            n_symbols = 2, n_kept += most;
            sync_warp();
        }
    }
    if (n_symbols < 2) return 0;
    normalise(counts, n_symbols, n_kept, bits, table);
    u32 filler, width;
    frequency_width(coder, table.frequencies, n_symbols, filler, width);
    u32 most = bits << LOG2_BITS;
    u32 patch = (8 * PATCH_BYTES << LOG2_BITS) + most - log2_fixed(table.frequencies[filler]);
    u64 total = 0;
    for (u32 i = lane; i < n_symbols; i += WARP) {
        total += u64(counts[table.symbols[i]]) * (most - log2_fixed(table.frequencies[i]));
    }
    total = sum_of_warp(total) + u64(n_counted - n_kept) * patch;
    size = (total * n_coded / n_counted) >> (LOG2_BITS + 3);
    size += RANS_HEADER_BYTES + RANS_STATES_BYTES + table_bytes(coder, n_symbols, width);
    return n_symbols;
}

// Code the plane if that makes it smaller than `raw_bytes`: its bytes and `coder`, else 0.
DEVICE u32 rans_plane(const u8* symbols, u32 n, u32 bits, u32 raw_bytes, u8* out, u32 room,
                      Choice& choice, u32& coder) {
    u32 n_rows = (n - 1) / ROW;
    if (n_rows == 0 || n > 1u << MAX_BLOCK_LOG) return 0;
    u32 stride = 1;
    if (n_rows >= SAMPLE_MIN_ROWS) {
        u32 n_counted = histogram(symbols, n_rows, PROBE_STRIDE, choice.counts);
        if (!promising(choice.counts, n_counted, bits)) return 0;
        stride = SAMPLE_STRIDE;
    }
    for (;; stride = 1) {
        u32 n_counted = histogram(symbols, n_rows, stride, choice.counts);
        u64 size, size_12;
        u32 n_symbols = plan(choice.counts, n_counted, n_rows * ROW, RANS8, choice.tables[0], size);
        u32 n_12 = plan(choice.counts, n_counted, n_rows * ROW, RANS12, choice.tables[1], size_12);
        coder = RANS8;
        if (size_12 + (size >> RANS12_MIN_GAIN_LOG) < size) {
            coder = RANS12;
            n_symbols = n_12;
            size = size_12;
        }
        if (stride > 1 && (n_symbols == 0 || coder == RANS12)) continue;
        if (n_symbols == 0 || size >= raw_bytes) return 0;
        const Symbols& table = choice.tables[coder - RANS8];
        u32 n_patches, n_bytes;
        if (coder == RANS8) {
            n_bytes = encode<RANS8>(symbols, n, table, n_symbols, raw_bytes, out, room,
                                    choice.encoder, n_patches);
        } else {
            n_bytes = encode<RANS12>(symbols, n, table, n_symbols, raw_bytes, out, room,
                                     choice.encoder, n_patches);
        }
        if (stride > 1 && n_patches > n >> PATCH_RETRY_LOG) continue;
        return n_bytes;
    }
}

// A warp chooses how `n` symbols are coded and codes them; the block table's entry. `symbols` and
// `out` are 16-byte aligned and have `room` for `n` rounded up to a multiple of 64. A raw plane of
// bytes stays where it is, a payload of rANS lies in `out` as `encode` leaves it.
DEVICE u32 encode_plane(const u8* symbols, u32 n, u32 bits, u8* out, u32 room, Choice& choice) {
    if (is_constant(symbols, n)) return CONSTANT << ENTRY_CODER_SHIFT | symbols[0];
    u32 raw_bytes = raw_plane_bytes(n, bits), coder = RAW;
    u32 size = rans_plane(symbols, n, bits, raw_bytes, out, room, choice, coder);
    if (size != 0) return coder << ENTRY_CODER_SHIFT | size;
    if (bits < 8) pack_bits(symbols, n, bits, out);
    return RAW << ENTRY_CODER_SHIFT | raw_bytes;
}
