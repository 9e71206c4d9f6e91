// SPDX-License-Identifier: Apache-2.0
// The values that are kept as they are: from flags to a list of positions and values, and back.
//
// Each half takes three launches. First every block of threads adds up a group of 1024 numbers, then
// one block turns these sums into starts, then every block goes through its group again.

constexpr u32 LIST_WARPS = 8;
constexpr u32 EACH = 4;  // numbers of a thread
constexpr u32 GROUP = EACH * LIST_WARPS * WARP;

// Of all threads of the block: the sum of the numbers of those before this one, and of all.
DEVICE u64 sum_before(u64 own, u64* ends, u64& all) {
    u64 behind = prefix_of_warp(own);
    if (lane_index() == WARP - 1) ends[warp_index()] = behind;
    sync_block();
    u64 before = behind - own;
    all = 0;
    for (u32 w = 0; w < LIST_WARPS; w++) {
        if (w < warp_index()) before += ends[w];
        all += ends[w];
    }
    sync_block();
    return before;
}

template <class Number>
DEVICE void sum_group(u64 n, u64* sums, Number number) {
    __shared__ u64 ends[LIST_WARPS];
    u64 first = block_index() * GROUP + thread_index() * EACH, own = 0, all;
    for (u32 k = 0; k < EACH; k++) own += first + k < n ? number(first + k) : 0;
    sum_before(own, ends, all);
    if (thread_index() == 0) sums[block_index()] = all;
}

// Block of threads `i` adds up the counts of group `i`.
KERNEL sum_counts(const u32* counts, u64 n, u64* sums) {
    sum_group(n, sums, [=](u64 i) -> u64 { return counts[i]; });
}

DEVICE u64 step_at(const u8* steps, u64 wide, u64 i) {
    return wide ? reinterpret_cast<const u64*>(steps)[i] : reinterpret_cast<const u32*>(steps)[i];
}

// Block of threads `i` adds up how far the steps of group `i` lead.
KERNEL sum_steps(const u8* steps, u64 n, u64 wide, u64* sums) {
    sum_group(n, sums, [=](u64 i) { return step_at(steps, wide, i) + 1; });
}

// One block of threads: `sums[i]` becomes the sum of those before it, `job` learns that of all.
KERNEL scan_sums(QuantJob* job, u64* sums, u64 n) {
    __shared__ u64 ends[LIST_WARPS];
    u64 start = 0;
    for (u64 tile = 0; tile < n; tile += GROUP) {
        u64 first = tile + thread_index() * EACH, own = 0, all;
        for (u32 k = 0; k < EACH; k++) own += first + k < n ? sums[first + k] : 0;
        u64 at = start + sum_before(own, ends, all);
        for (u32 k = 0; k < EACH && first + k < n; k++) {
            u64 sum = sums[first + k];
            sums[first + k] = at;
            at += sum;
        }
        start += all;
    }
    if (thread_index() == 0) job->n_exceptions = start;
}

// Block of threads `i` lists the exceptions of the chunks of group `i`, `starts` as of `scan_sums`.
KERNEL gather_exceptions(const QuantJob* job, const u64* starts, u64 n_chunks, u64* positions,
                         u8* values) {
    __shared__ u64 ends[LIST_WARPS];
    __shared__ u32 begin[GROUP];
    __shared__ bool any[GROUP];
    u32 slot = thread_index() * EACH, n_turns = turns_of_block(job->block_log), dtype = job->dtype;
    u64 group = block_index() * GROUP, own = 0, all;
    for (u32 k = 0; k < EACH; k++) own += group + slot + k < n_chunks ? job->counts[group + slot + k] : 0;
    u32 at = sum_before(own, ends, all);
    for (u32 k = 0; k < EACH; k++) {
        u32 count = group + slot + k < n_chunks ? job->counts[group + slot + k] : 0;
        begin[slot + k] = at;
        any[slot + k] = count != 0;
        at += count;
    }
    sync_block();
    for (u32 i = warp_index(); i < GROUP; i += LIST_WARPS) {
        if (!any[i]) continue;
        QuantPlace place = place_of<false>(*job, group + i);
        const u16* flags = job->flags + (group + i) * n_turns * WARP + lane_index();
        u64 next = starts[block_index()] + begin[i];
        for (u32 turn = 0; turn < n_turns; turn++) {
            u32 bits = flags[turn * WARP], n = count_ones(bits);
            u32 behind = prefix_of_warp(n);
            u64 to = next + behind - n;
            for (; bits != 0; bits &= bits - 1) {
                u64 position = place.first + place.at(turn) + first_one(bits);
                positions[to] = position;
                u32 pattern = load_pattern(job->values, dtype, position);
                if (dtype == FLOAT32) reinterpret_cast<u32*>(values)[to] = pattern;
                else reinterpret_cast<u16*>(values)[to] = pattern;
                to++;
            }
            next += shuffle(behind, WARP - 1);
        }
    }
}

// Thread `i` stores position `i` as the step that leads there.
KERNEL store_steps(const u64* positions, u64 n, u64 wide, u8* steps) {
    u64 i = block_index() * n_threads() + thread_index();
    if (i >= n) return;
    u64 step = i == 0 ? positions[0] : positions[i] - positions[i - 1] - 1;
    if (wide) reinterpret_cast<u64*>(steps)[i] = step;
    else reinterpret_cast<u32*>(steps)[i] = step;
}

// Block of threads `i` puts the exceptions of group `i` to their positions. Those that would leave the
// tensor, or go back, are not written, and the job is marked as wrong.
KERNEL scatter_exceptions(QuantJob* job, const u8* steps, u64 n, u64 wide, const u64* starts,
                          const u8* values) {
    __shared__ u64 ends[LIST_WARPS];
    u64 first = block_index() * GROUP + thread_index() * EACH, own = 0, all;
    for (u32 k = 0; k < EACH; k++) own += first + k < n ? step_at(steps, wide, first + k) + 1 : 0;
    u64 end = starts[block_index()] + sum_before(own, ends, all), size = job->n_rows * job->row;
    u8* to = job->values;
    bool narrow = job->dtype != FLOAT32;
    for (u32 k = 0; k < EACH && first + k < n; k++) {
        u64 before = end;
        end += step_at(steps, wide, first + k) + 1;
        if (end <= before || end > size) {
            job->wrong = 1;
        } else if (narrow) {
            reinterpret_cast<u16*>(to)[end - 1] = reinterpret_cast<const u16*>(values)[first + k];
        } else {
            reinterpret_cast<u32*>(to)[end - 1] = reinterpret_cast<const u32*>(values)[first + k];
        }
    }
}
