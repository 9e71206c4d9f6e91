// SPDX-License-Identifier: Apache-2.0
// The palette coder, by a block of threads a plane: the other half of palette.py.

constexpr u32 PALETTE_THREADS = 128;

// Whether the patch list is sound; symbol `i` of the list replaces what `out` has at its position.
// Each thread looks at its own: strictly ascending positions are all different.
DEVICE bool patch(const u8* positions, const u8* symbols, u32 n_patches, u32 n, u32 base, u32 mask,
                  u32 span, u8* out) {
    bool sound = true;
    for (u32 i = thread_index(); i < n_patches; i += n_threads()) {
        u32 position = read_u16(positions + 2 * i), symbol = symbols[i];
        bool ascends = i == 0 || position > read_u16(positions + 2 * i - 2);
        bool fits = ascends && position < n && symbol <= mask && ((symbol - base) & mask) >= span;
        if (fits && out[position] == base) out[position] = symbol;
        else sound = false;
    }
    return sound;
}

// The rows of codes of `n` symbols to `out`; whether all beyond `n` are `base`, which they must be.
DEVICE bool unpack_codes(const u8* codes, u32 n, u32 code_bits, u32 base, u32 mask, u8* out) {
    Plane plane = {codes, BIT_ROWS, code_bits, 0};
    u64 bases = base * 0x0101010101010101ull, masks = mask * 0x0101010101010101ull;
    constexpr u64 TOP = 0x8080808080808080ull;
    bool padded = true;
    for (u32 at = thread_index() * CHUNK; at < (n + ROW - 1) / ROW * ROW; at += n_threads() * CHUNK) {
        Chunk x = bit_symbols<CHUNK>(plane, at);
        if (at + CHUNK > n) {
            Chunk beyond = keep_bytes(x, at < n ? n - at : 0);
            padded &= beyond.low == x.low && beyond.high == x.high;
        }
        // Byte by byte: codes have four bits, so that only the top bit of `base` may overflow.
        x.low = (((x.low + (bases & ~TOP)) ^ (bases & TOP))) & masks;
        x.high = (((x.high + (bases & ~TOP)) ^ (bases & TOP))) & masks;
        store_chunk(out + at, x);
    }
    return padded;
}

// A block of threads decodes a payload to `out`, which has room for whole rows. All of them get the
// status. `wrong` is shared memory.
DEVICE u32 decode_palette(const u8* payload, u32 size, u32 n, u32 bits, u32 code_bits, u8* out, u32* wrong) {
    u32 positions = 8 * code_bits * ((n + ROW - 1) / ROW);
    if (size <= positions || (size - positions - 1) % PATCH_BYTES != 0) return BAD_SIZE;
    u32 n_patches = (size - positions - 1) / PATCH_BYTES, base = payload[size - 1];
    u32 mask = (1u << bits) - 1;
    if (n_patches >= n) return BAD_PATCH;
    if (base > mask || code_bits >= bits) return BAD_SYMBOL;
    if (thread_index() == 0) wrong[0] = wrong[1] = 0;
    sync_block();
    if (!unpack_codes(payload, n, code_bits, base, mask, out)) wrong[0] = 1;
    sync_block();
    if (wrong[0]) return BAD_PADDING;
    const u8* symbols = payload + positions + 2 * n_patches;
    if (!patch(payload + positions, symbols, n_patches, n, base, mask, 1u << code_bits, out)) wrong[1] = 1;
    sync_block();
    return wrong[1] ? BAD_PATCH : OK;
}

// --- encode ---------------------------------------------------------------------------------------

struct Palette {
    u32 code_bits, base;
    u64 size;  // estimated
};

// A warp finds the best palette for `n` symbols, judged by the counts of `n_counted` of them.
DEVICE Palette plan(const u32* counts, u32 n_counted, u32 n, u32 bits) {
    u32 whole = 1u << bits, n_rows = (n + ROW - 1) / ROW;
    Palette best = {0, 0, ~0ull};
    for (u32 k = 0; k <= PALETTE_MAX_BITS && k < bits; k++) {
        u32 key = 0;  // the first of the fullest windows has the largest
        for (u32 base = lane_index(); base < whole; base += WARP) {
            u32 inside = 0;
            for (u32 s = 0; s < 1u << k; s++) inside += counts[(base + s) & (whole - 1)];
            u32 here = inside << 8 | (255 - base);
            key = here > key ? here : key;
        }
        key = max_of_warp(key);
        u64 n_patches = (u64(n_counted - (key >> 8)) * n + n_counted - 1) / n_counted;
        u64 size = 8 * k * n_rows + PATCH_BYTES * n_patches + 1;
        if (size < best.size) best = {k, 255 - (key & 255), size};
    }
    return best;
}

// A warp writes the payload of `n` symbols; its bytes, or 0 if they would not be fewer than `limit`.
DEVICE u32 encode_palette(const u8* symbols, u32 n, u32 bits, u32 code_bits, u32 base, u8* out, u32 limit) {
    u32 lane = lane_index(), mask = (1u << bits) - 1, span = 1u << code_bits, n_patches = 0;
    u32 n_rows = (n + ROW - 1) / ROW, positions = 8 * code_bits * n_rows;
    if (positions >= limit) return 0;
    for (u32 i = lane; i < n; i += WARP) n_patches += ((symbols[i] - base) & mask) >= span;
    n_patches = sum_of_warp(n_patches);
    u32 size = positions + PATCH_BYTES * n_patches + 1;
    if (size >= limit || n_patches == n) return 0;
    u64* words = reinterpret_cast<u64*>(out);
    u32 n_before = 0;
    for (u32 row = 0; row < n_rows; row++) {
        u32 codes[2];
        for (u32 half = 0; half < 2; half++) {
            u32 i = row * ROW + half * WARP + lane;
            u32 code = i < n ? (symbols[i] - base) & mask : 0;
            u32 lanes = ballot(code >= span);
            if (code >= span) {
                u32 j = n_before + count_ones(lanes & lanes_below());
                write_u16(out + positions + 2 * j, i);
                out[positions + 2 * n_patches + j] = symbols[i];
                code = 0;
            }
            n_before += count_ones(lanes);
            codes[half] = code;
        }
        for (u32 j = 0; j < code_bits; j++) {
            u64 word = joined(ballot(codes[0] >> j & 1), ballot(codes[1] >> j & 1));
            if (lane == j) words[row * code_bits + j] = word;
        }
    }
    if (lane == 0) out[size - 1] = base;
    return size;
}
