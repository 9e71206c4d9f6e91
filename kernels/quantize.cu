// SPDX-License-Identifier: Apache-2.0
// Quantization of rows: one pass over each block. The other half of quantize.py.
//
// The entry points, one for each format, are written by quantprelude.py. What cannot be coded becomes a flag of its unit and a count of its chunk; `gather_exceptions`
// then makes a list of it.

constexpr u32 QUAD = 4;

// The codes of a unit as they lie in memory; of four bits only the low half counts.
template <u32 ELEMENT>
struct Codes {
    static constexpr u32 BITS = is_nibble(ELEMENT) ? 4 : 8;
    u64 low, high;

    // Where the code of element `k` stands in the bits of its quad.
    DEVICE_METHOD static u32 shift(u32 k) { return BITS * (ELEMENT == OF_NF4 ? k ^ 1 : k); }

    DEVICE_METHOD void put(u32 quad, u32 codes) {
        u64 moved = u64(codes) << (QUAD * BITS * quad & 63);
        if (QUAD * BITS * quad < 64) low |= moved;
        else high |= moved;
    }

    // Of a unit of which `n` elements are there.
    DEVICE_METHOD void store(u8* to, u32 n) {
        if (n == UNIT && is_aligned(to, 2 * BITS)) {
            if (BITS == 4) *reinterpret_cast<u64*>(to) = low;
            else store_chunk(to, {low, high});
            return;
        }
        u32 n_whole = n * BITS / 8;
#pragma unroll 1
        for (u32 i = 0; i < n_whole; i++) to[i] = (i < 8 ? low : high) >> (8 * (i & 7));
        if (n * BITS % 8 != 0) to[n_whole] = low >> (8 * n_whole) & (ELEMENT == OF_NF4 ? 0xF0 : 0x0F);
    }
};

template <u32 ELEMENT>
DEVICE Factors factors_of(const QuantJob& job, const Extremes& found) {
    constexpr Scan KIND = scan_of(ELEMENT);
    Scaling how = {job.scale_type, job.mode, job.power, job.mantissa, job.largest, job.tensor_scale};
    if (KIND == EXTENT) return extent_scale(found.least, found.most, how);
    if (KIND == POSITIVE) return log8_scale(found.least, found.most);
    float peak = float_of(found.most), divisor = how.largest;
    if (ELEMENT == OF_INT4 && how.scale_type < SCALE_E8M0) {
        divisor = INT4_DIVISOR;
        if ((found.least & 1) != 0) peak = -peak;
    }
    return choose_scale(peak, how, divisor);
}

// Whether values are so large that what is decoded may be infinite.
template <u32 ELEMENT>
DEVICE bool is_large(const Extremes& found, const Factors& block, u32 dtype) {
    constexpr Scan KIND = scan_of(ELEMENT);
    u32 magnitude = found.most & MAGNITUDE;
    if (KIND == EXTENT) magnitude = at_least(magnitude, found.least & MAGNITUDE);
    if (KIND == POSITIVE) magnitude = block.stored;
    return magnitude >= (dtype == FLOAT16 ? BIAS + 14 : 2 * BIAS - 1) << MANTISSA;
}

template <u32 ELEMENT>
DEVICE void quantize_rows(const QuantJob* jobs, u64 n_jobs, u64 n_chunks, float* table) {
    constexpr Scan KIND = scan_of(ELEMENT);
    load_table<ELEMENT>(table);
    u64 chunk = block_index() * QUANT_WARPS + warp_index();
    if (chunk >= n_chunks) return;
    const QuantJob& job = jobs[job_of(n_jobs, chunk, [=](u64 i) { return jobs[i].first_chunk; })];
    chunk -= job.first_chunk;
    const u8* values = job.values;
    u8* codes = job.codes;
    u32 dtype = job.dtype, normal = smallest_normal(dtype), n_turns = turns_of_block(job.block_log);
    QuantPlace place = place_of<is_nibble(ELEMENT)>(job, chunk);

    float x[UNIT];
    Extremes found;
    found.begin<KIND>();
    for (u32 turn = 0; turn < n_turns; turn++) {
        u32 at = place.at(turn);
        load_values<UNIT>(values, dtype, place.first + at, place.n_at(turn), place.first, x);
#pragma unroll
        for (u32 k = 0; k < UNIT; k++) found.add<KIND, is_minifloat(ELEMENT)>(x[k], normal, at + k);
    }
    found.join<KIND>(lanes_of_block(job.block_log));
    found.end<KIND>();

    Factors block = factors_of<ELEMENT>(job, found);
    if (place.lane == 0 && place.n != 0) {
        store_scale(job.scales, place.block, job.scale_type, block.stored);
        if (KIND > SIGNED) store_scale(job.offsets, place.block, job.scale_type, block.low);
    }
    bool careful = found.odd || block.keep || job.bounded || is_large<ELEMENT>(found, block, dtype);
    constexpr bool BY_QUADS = ELEMENT == OF_DYNAMIC8;  // whose lookups, all at once, fill the registers
    bool stochastic = job.stochastic, again = BY_QUADS || n_turns > 1 || stochastic;
    Factors back = decoding_of<ELEMENT>(block.stored, block.low, job.scale_type, job.tensor_scale);
    Limits limits = {block.keep ? 0xFFFFFFFFu : 0, job.absolute, job.relative};
    u32 index = u32(job.first_index + place.first), key = job.key, other_key = job.other_key;
    u16* flags = job.flags + chunk * n_turns * WARP + lane_index();
    u32 own = 0, count = 0;  // flags of a turn, and how many are set in all
    for (u32 turn = 0; turn < n_turns; turn++) {
        u32 at = place.at(turn), n = place.n_at(turn);
        Codes<ELEMENT> code = {0, 0};
        if (!again) {  // the usual case: values are in registers
#pragma unroll
            for (u32 k = 0; k < UNIT; k++) {
                u32 one = encode_element<ELEMENT>(x[k], block, table, false, 0);
                code.put(k / QUAD, one << code.shift(k % QUAD));
            }
        }
        own = 0;
        if (again || careful) {  // less code is better than fewer loads
#pragma unroll 1
            for (u32 quad = 0; quad < UNIT / QUAD; quad++) {
                u32 from = QUAD * quad, there = from < n ? at_most(n - from, QUAD) : 0;
                float z[QUAD];
                load_values<QUAD>(values, dtype, place.first + at + from, there, place.first, z);
                u32 put = 0;
#pragma unroll
                for (u32 k = 0; k < QUAD; k++) {
                    u32 noise = stochastic ? noise_of(index + at + from + k, key, other_key) : 0;
                    u32 one = encode_element<ELEMENT>(z[k], block, table, stochastic, noise);
                    put |= one << code.shift(k);
                    float y = decode_element<ELEMENT>(one, back, table);
                    y = widened(narrowed(y, dtype), dtype);
                    if (is_exception<ELEMENT>(z[k], y, normal, limits)) own |= 1u << (from + k);
                }
                if (again) code.put(quad, put);
            }
            own = careful ? own & ((1u << n) - 1) : 0;
        }
        code.store(codes + place.codes + at * code.BITS / 8, n);
        count += count_ones(own);
        if (n_turns > 1) flags[turn * WARP] = own;
    }
    count = sum_of_warp(count);
    if (n_turns == 1 && count != 0) flags[0] = own;
    if (lane_index() == 0) job.counts[chunk] = count;
}
