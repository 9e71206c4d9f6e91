// SPDX-License-Identifier: Apache-2.0
// The extent of a whole tensor, from which a scale for all blocks or a bound follows: `measure` of
// quantize.py and what cpu.py makes of it.

constexpr u32 EXTENT_WARPS = 8;

// Blocks of threads go through the units of the tensor; `found` gets two orders of each.
KERNEL measure_values(const QuantJob* job, u32* found) {
    __shared__ u32 least[EXTENT_WARPS];
    __shared__ u32 most[EXTENT_WARPS];
    u64 n = job->n_rows * job->row, n_units = (n + UNIT - 1) / UNIT;
    u32 dtype = job->dtype;
    const u8* values = job->values;
    Extremes own;
    own.begin<EXTENT>();
    for (u64 u = block_index() * n_threads() + thread_index(); u < n_units;
         u += n_blocks_launched() * n_threads()) {
        float x[UNIT];
        u64 left = n - u * UNIT;
        load_values<UNIT>(values, dtype, u * UNIT, left < UNIT ? left : UNIT, u * UNIT, x);
#pragma unroll
        for (u32 k = 0; k < UNIT; k++) own.add<EXTENT, true>(x[k], 0, k);
    }
    own.join<EXTENT>(WARP);
    if (lane_index() == 0) {
        least[warp_index()] = own.least;
        most[warp_index()] = own.most;
    }
    sync_block();
    if (thread_index() != 0) return;
    for (u32 w = 1; w < EXTENT_WARPS; w++) {
        own.least = at_most(own.least, least[w]);
        own.most = at_least(own.most, most[w]);
    }
    found[2 * block_index()] = own.least;
    found[2 * block_index() + 1] = own.most;
}

// The largest float32 that is not above `x`, which is not negative.
DEVICE float rounded_down(double x) {
    double limit = float_of(INFINITY_BITS - 1);
    float nearest = x < limit ? x : limit;
    return double(nearest) <= x ? nearest : float_of(bits_of(nearest) - 1);
}

// One warp joins the `n` pairs, and fills in the tensor's scale and its bound.
KERNEL settle_extent(QuantJob* job, const u32* found, u64 n) {
    Extremes all;
    all.begin<EXTENT>();
    for (u64 i = lane_index(); i < n; i += WARP) {
        all.least = at_most(all.least, found[2 * i]);
        all.most = at_least(all.most, found[2 * i + 1]);
    }
    all.join<EXTENT>(WARP);
    all.end<EXTENT>();
    float low = float_of(all.least), high = float_of(all.most);
    if (!(low <= high)) low = high = 0;  // no value is finite
    float peak = at_least(magnitude_of(low), magnitude_of(high));
    if (lane_index() != 0) return;
    if (job->scale_type == SCALE_E4M3_SCALE) {
        job->tensor_scale = peak / (E4M3_LARGEST * job->largest);
    }
    if (job->bound_kind == RANGE) {
        constexpr double MARGIN = 1.0 - 1.0 / (1ull << 50);
        job->absolute = rounded_down(job->bound * (double(high) - double(low)) * MARGIN);
    }
}
