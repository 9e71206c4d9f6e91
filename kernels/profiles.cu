// SPDX-License-Identifier: Apache-2.0
// Palettes beside the coders of choose.cu, as a profile wants them: the other half of profiles.py.

// What rANS needs at least for `n` symbols like those counted.
DEVICE u64 rans_bytes(const u32* counts, u32 n_counted, u32 n) {
    u64 below = 0;
    for (u32 s = lane_index(); s < 256; s += WARP) {
        if (counts[s] != 0) below += u64(counts[s]) * log2_fixed(counts[s]);
    }
    u64 bits = u64(n_counted) * log2_fixed(n_counted) - sum_of_warp(below);
    return (bits / n_counted * n >> (LOG2_BITS + 3)) + RANS_HEADER_BYTES + RANS_STATES_BYTES;
}

// Code the plane with the best palette if the profile likes it: its bytes and `coder`, else 0.
DEVICE u32 palette_plane(const u8* symbols, u32 n, u32 bits, u32 profile, u32 raw_bytes, u8* out,
                         Choice& choice, u32& coder) {
    u32 n_rows = n / ROW;
    if (n_rows == 0 || n > 1u << MAX_BLOCK_LOG) return 0;
    u32 stride = n_rows >= SAMPLE_MIN_ROWS ? PROBE_STRIDE : 1;
    u32 n_counted = histogram(symbols, n_rows, stride, choice.counts);
    Palette palette = plan(choice.counts, n_counted, n, bits);
    u64 limit = raw_bytes - (raw_bytes >> PROBE_MIN_GAIN_LOG);
    if (profile != PROFILE_FAST) {
        u64 least = rans_bytes(choice.counts, n_counted, n);
        if (profile == PROFILE_AUTO) least += least >> AUTO_LOSS_LOG;
        limit = least < limit ? least : limit;
    }
    if (palette.size >= limit) return 0;
    coder = PALETTE + palette.code_bits;
    return encode_palette(symbols, n, bits, palette.code_bits, palette.base, out, limit);
}

// As `encode_plane` of choose.cu, in a profile. A palette's payload lies in `out` as it is.
DEVICE u32 encode_plane(const u8* symbols, u32 n, u32 bits, u32 profile, u8* out, u32 room, Choice& choice) {
    if (is_constant(symbols, n)) return CONSTANT << ENTRY_CODER_SHIFT | symbols[0];
    u32 raw_bytes = raw_plane_bytes(n, bits), coder = RAW;
    u32 size = palette_plane(symbols, n, bits, profile, raw_bytes, out, choice, coder);
    if (size != 0) return coder << ENTRY_CODER_SHIFT | size;
    sync_warp();  // before `out` is written again
    if (profile != PROFILE_FAST) {
        size = rans_plane(symbols, n, bits, raw_bytes, out, room, choice, coder);
        if (size != 0) return coder << ENTRY_CODER_SHIFT | size;
    }
    if (bits < 8) pack_bits(symbols, n, bits, out);
    return RAW << ENTRY_CODER_SHIFT | raw_bytes;
}
