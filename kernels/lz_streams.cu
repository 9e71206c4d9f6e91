// SPDX-License-Identifier: Apache-2.0
// The entropy stage of LZ, decoding: streams of symbols that share the states of one warp. The other
// half of lz_streams.py.

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

}  // namespace lz
