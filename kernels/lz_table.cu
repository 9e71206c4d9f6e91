// SPDX-License-Identifier: Apache-2.0
// The frequencies of a stream of LZ as bytes: the other half of lz_table.py, by a warp.

namespace lz {

constexpr u32 SCALE = 1u << RANS12_BITS;
constexpr u32 SYMBOLS_OF_A_LANE = 256 / WARP;

// Read a table from offset `at` of a payload on, nothing from `end` on. A status; `at` becomes where the
// table ends, and `frequencies[first ... last]` the frequencies.
DEVICE u32 read_table(const u8* payload, u32& at, u32 end, u32* frequencies, u32& first, u32& last) {
    if (end - at < 2) return BAD_SIZE;
    first = payload[at];
    last = payload[at + 1];
    if (last <= first) return BAD_TABLE;
    u32 n = last - first + 1, n_widths = (n + 1) / 2;
    if (end - at - 2 < n_widths) return BAD_SIZE;
    const u8* widths = payload + at + 2;
    u32 last_pair = widths[n_widths - 1];
    if ((widths[0] & 15) == 0) return BAD_TABLE;
    if (n % 2 == 0 ? last_pair < 16 : last_pair == 0 || last_pair > 15) return BAD_TABLE;
    const u8* fields = widths + n_widths;
    u32 lane = lane_index(), n_bits = 0;
    for (u32 k = 0; k < SYMBOLS_OF_A_LANE; k++) {
        u32 i = lane * SYMBOLS_OF_A_LANE + k;
        u32 width = i < n ? widths[i / 2] >> (4 * (i & 1)) & 15 : 0;
        n_bits += width == 0 ? 0 : width - 1;
    }
    u32 behind = prefix_of_warp(n_bits), bit = behind - n_bits;
    n_bits = shuffle(behind, WARP - 1);
    u32 n_fields = (n_bits + 7) / 8, total = 0;
    at += 2 + n_widths;
    if (end - at < n_fields) return BAD_SIZE;
    at += n_fields;
    sync_warp();  // of what was read of the frequencies before
    for (u32 k = 0; k < SYMBOLS_OF_A_LANE; k++) {
        u32 i = lane * SYMBOLS_OF_A_LANE + k;
        if (i >= n) break;
        u32 width = widths[i / 2] >> (4 * (i & 1)) & 15, f = 0;
        if (width != 0) {
            width--;
            u32 held = 0, byte = bit / 8;  // a field reaches into three bytes at most
            for (u32 j = 0; j < 3 && byte + j < n_fields; j++) held |= fields[byte + j] << (8 * j);
            f = 1u << width | (held >> (bit & 7) & ((1u << width) - 1));
            bit += width;
        }
        total += f;
        frequencies[first + i] = f;
    }
    bool unused = n_bits % 8 != 0 && fields[n_fields - 1] >> (n_bits % 8) != 0;
    total = sum_of_warp(total);
    sync_warp();
    return total != SCALE || unused ? BAD_TABLE : OK;
}

// A warp writes the table of a coded stream to `out`.
DEVICE void write_table(const Symbols& table, u32 n_symbols, u32 first, u32 last, u8* out, BitBuffer& buffer) {
    u32 lane = lane_index(), n = last - first + 1;
    sync_warp();
    for (u32 s = lane; s < 256; s += WARP) buffer.frequencies[s] = 0;
    for (u32 k = lane; k < 2 * WARP; k += WARP) buffer.words[k] = 0;
    sync_warp();
    for (u32 i = lane; i < n_symbols; i += WARP) {
        buffer.frequencies[table.symbols[i]] = table.frequencies[i];
    }
    sync_warp();
    if (lane < 2) out[lane] = lane == 0 ? first : last;
    u8* widths = out + 2;
    u32 n_widths = (n + 1) / 2, bit = 0;
    u8* fields = widths + n_widths;
    auto store = [=](u32 i, u32 word) { write_u32(fields + 4 * i, word); };
    for (u32 base = 0; base < n_widths; base += WARP) {
        u32 pair = base + lane, s = first + 2 * pair;
        if (pair < n_widths) {
            u32 high = s + 1 <= last ? bit_length(buffer.frequencies[s + 1]) : 0;
            widths[pair] = bit_length(buffer.frequencies[s]) | high << 4;
        }
    }
    for (u32 base = first; base <= last; base += WARP) {
        u32 s = base + lane, f = s <= last ? buffer.frequencies[s] : 0;
        u32 width = f == 0 ? 0 : bit_length(f) - 1;
        append_bits(buffer, f ^ (f == 0 ? 0 : 1u << width), width, bit, store);
    }
    u32 n_left = (bit % 32 + 7) / 8;
    if (lane < n_left) fields[bit / 32 * 4 + lane] = buffer.words[0] >> (8 * lane);
    sync_warp();
}

}  // namespace lz
