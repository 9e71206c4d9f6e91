// SPDX-License-Identifier: Apache-2.0
// From codes back to values: the other half of dequantize.py.

// 16 codes from an address on, of which `n` are there; the others become 0.
template <bool NIBBLES, bool HIGH_FIRST>
DEVICE void load_codes(const u8* from, u32 n, u32* code) {
    u32 words[4] = {0, 0, 0, 0};
    if (n == UNIT && is_aligned(from, NIBBLES ? 8 : CHUNK)) {
        Chunk chunk = {0, 0};
        if (NIBBLES) chunk.low = *reinterpret_cast<const u64*>(from);
        else chunk = load_chunk(from);
        words[0] = u32(chunk.low);
        words[1] = u32(chunk.low >> 32);
        words[2] = u32(chunk.high);
        words[3] = u32(chunk.high >> 32);
    } else {
#pragma unroll
        for (u32 k = 0; k < (NIBBLES ? UNIT / 2 : UNIT); k++) {
            if (k < (NIBBLES ? (n + 1) / 2 : n)) words[k / 4] |= u32(from[k]) << (8 * (k & 3));
        }
    }
#pragma unroll
    for (u32 k = 0; k < UNIT; k++) {
        if (NIBBLES) code[k] = words[k / 8] >> (4 * ((HIGH_FIRST ? k ^ 1 : k) & 7)) & 15;
        else code[k] = words[k / 4] >> (8 * (k & 3)) & 255;
    }
}

// Put 16 patterns of an array type at element `first`, of which `n` are there.
DEVICE void store_values(const u32* pattern, u32 dtype, u8* values, u64 first, u32 n) {
    u8* to = values + first * n_bytes(dtype);
    if (n == UNIT && is_aligned(to, CHUNK)) {
        if (dtype == FLOAT32) {
#pragma unroll
            for (u32 i = 0; i < UNIT; i += 4) {
                u64 low = joined(pattern[i], pattern[i + 1]);
                store_chunk(to + 4 * i, {low, joined(pattern[i + 2], pattern[i + 3])});
            }
            return;
        }
#pragma unroll
        for (u32 i = 0; i < UNIT; i += 8) {
            u32 pairs[4];
#pragma unroll
            for (u32 k = 0; k < 4; k++) pairs[k] = pattern[i + 2 * k] | pattern[i + 2 * k + 1] << 16;
            u64 low = joined(pairs[0], pairs[1]);
            store_chunk(to + 2 * i, {low, joined(pairs[2], pairs[3])});
        }
        return;
    }
#pragma unroll
    for (u32 k = 0; k < UNIT; k++) {
        if (k >= n) continue;
        if (dtype == FLOAT32) reinterpret_cast<u32*>(to)[k] = pattern[k];
        else reinterpret_cast<u16*>(to)[k] = pattern[k];
    }
}

template <u32 ELEMENT>
DEVICE void dequantize_rows(const QuantJob* jobs, u64 n_jobs, u64 n_chunks, float* table) {
    constexpr bool NIBBLES = is_nibble(ELEMENT), HIGH_FIRST = ELEMENT == OF_NF4;
    load_table<ELEMENT>(table);
    u64 chunk = block_index() * QUANT_WARPS + warp_index();
    if (chunk >= n_chunks) return;
    const QuantJob& job = jobs[job_of(n_jobs, chunk, [=](u64 i) { return jobs[i].first_chunk; })];
    QuantPlace place = place_of<NIBBLES>(job, chunk - job.first_chunk);
    if (place.n == 0) return;
    u32 dtype = job.dtype, n_turns = turns_of_block(job.block_log), low = 0;
    const u8* codes = job.codes + place.codes;
    u8* values = job.values;
    u32 stored = load_scale(job.scales, place.block, job.scale_type);
    if (scan_of(ELEMENT) > SIGNED) low = load_scale(job.offsets, place.block, job.scale_type);
    Factors block = decoding_of<ELEMENT>(stored, low, job.scale_type, job.tensor_scale);
    for (u32 turn = 0; turn < n_turns; turn++) {
        u32 at = place.at(turn), n = place.n_at(turn), code[UNIT];
        if (n == 0) break;
        load_codes<NIBBLES, HIGH_FIRST>(codes + (NIBBLES ? at / 2 : at), n, code);
#pragma unroll
        for (u32 k = 0; k < UNIT; k++) {
            code[k] = narrowed(decode_element<ELEMENT>(code[k], block, table), dtype);
        }
        store_values(code, dtype, values, place.first + at, n);
    }
}
