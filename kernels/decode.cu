// SPDX-License-Identifier: Apache-2.0
// Decoding blocks: coded planes to words. The other half of decode.py.
//
// First a warp decodes each rANS plane into memory between the stages (`symbols`, a slot of `room` bytes
// each); then a block of threads for each block of words puts the planes together, checks the hash
// and judges the block. Raw and constant planes are read where they are. A block that is not
// sound becomes zeros.

constexpr u32 MERGE_THREADS = 256;
constexpr u32 WARPS_8 = 8, WARPS_12 = 4;  // of a block that decodes rans8 or rans12

template <u32 CODER, class Table>
DEVICE void decode_task(const Job* jobs, u64 n_jobs, const u32* entries, const u64* offsets,
                        const u32* tasks, u64 n_tasks, u8* symbols, u64 room, u8* plane_status,
                        Table& table, u64 task) {
    if (task >= n_tasks) return;
    u64 e = tasks[task];
    const Job& job = jobs[job_of_entry(jobs, n_jobs, e)];
    u64 block = (e - job.first_entry) / job.n_planes;
    u32 plane = (e - job.first_entry) % job.n_planes;
    u64 at = offsets[job.first_block + block] + payloads_bytes(entries + e - plane, plane);
    u32 status = decode_plane<CODER>(job.frame + at, payload_bytes(entries[e]),
                                     words_of_block(job, block), job.bits[plane],
                                     symbols + task * room, table);
    if (lane_index() == 0) plane_status[e] = status;
}

// Task `i` decodes entry `tasks[i]` into slot `i` of `symbols`.
KERNEL decode_rans8(const Job* jobs, u64 n_jobs, const u32* entries, const u64* offsets,
                    const u32* tasks, u64 n_tasks, u8* symbols, u64 room, u8* plane_status) {
    __shared__ Table8 tables[WARPS_8];
    u64 task = block_index() * WARPS_8 + warp_index();
    decode_task<RANS8>(jobs, n_jobs, entries, offsets, tasks, n_tasks, symbols, room, plane_status,
                       tables[warp_index()], task);
}

KERNEL decode_rans12(const Job* jobs, u64 n_jobs, const u32* entries, const u64* offsets,
                     const u32* tasks, u64 n_tasks, u8* symbols, u64 room, u8* plane_status) {
    __shared__ Table12 tables[WARPS_12];
    u64 task = block_index() * WARPS_12 + warp_index();
    decode_task<RANS12>(jobs, n_jobs, entries, offsets, tasks, n_tasks, symbols, room, plane_status,
                        tables[warp_index()], task);
}

// What stands behind the payload up to the next must be zero.
DEVICE bool is_padded(const u8* payload, u32 size) {
    for (u32 i = size; i < aligned(size); i++) {
        if (payload[i] != 0) return false;
    }
    return true;
}

// Where a plane's symbols are, and what is wrong with it. `decoded` and `status` are rANS's.
DEVICE u32 find_plane(u32 entry, const u8* payload, u32 n, u32 bits, const u8* decoded, u32 status,
                      Plane& plane) {
    u32 coder = entry >> ENTRY_CODER_SHIFT, argument = entry & ENTRY_ARGUMENT_MASK;
    plane = {payload, bits < 8 ? BIT_ROWS : BYTES, bits, 0};
    if (coder == RANS8 || coder == RANS12) {
        plane.symbols = decoded;
        plane.kind = BYTES;
        return status;
    }
    if (coder == CONSTANT) {
        plane.kind = SAME;
        plane.constant = argument;
        return argument >> bits != 0 ? BAD_SYMBOL : OK;
    }
    if (coder != RAW || argument != raw_plane_bytes(n, bits)) return BAD_SIZE;
    if (bits < 8 && n % ROW != 0) {
        const u64* last = reinterpret_cast<const u64*>(payload) + n / ROW * bits;
        for (u32 j = 0; j < bits; j++) {
            if (last[j] >> (n % ROW) != 0) return BAD_PADDING;
        }
    }
    return OK;
}

template <class Word>
DEVICE u64 merge_block(const Plane* planes, const Job& job, u8* words, u32 n_bytes, u64* sums) {
    u32 n_planes = job.n_planes, transform = job.transform;  // stores might change the job, for all
    auto merged = [=](u32 at) -> Chunk {                      // that the compiler knows
        if (at >= n_bytes) return {0, 0};
        Chunk chunk = merge<Word>(planes, n_planes, transform, at / sizeof(Word));
        store_padded(words, at, n_bytes, chunk);
        return keep_bytes(chunk, n_bytes - at);
    };
    return xxh3_of(merged, n_bytes, sums);
}

DEVICE u64 copy_block(const u8* from, u8* words, u32 n_bytes, u64* sums) {
    auto copied = [=](u32 at) {
        Chunk chunk = load_padded(from, at, n_bytes);
        store_padded(words, at, n_bytes, chunk);
        return chunk;
    };
    return xxh3_of(copied, n_bytes, sums);
}

// Block of threads `i` decodes block `first_block + i`. `slots[e]` is where entry `e` was decoded to.
KERNEL decode_blocks(const Job* jobs, u64 n_jobs, const u32* entries, const u64* offsets,
                     const u64* hashes, const u32* slots, const u8* symbols, u64 room,
                     const u8* plane_status, u64 first_block, u8* status) {
    __shared__ u64 sums[TILE_SUMS];
    __shared__ Plane planes[MAX_PLANES];
    __shared__ u32 found[MAX_PLANES];
    __shared__ bool padded[MAX_PLANES];
    __shared__ u32 verdict;
    u64 b = first_block + block_index();
    const Job& job = jobs[job_of_block(jobs, n_jobs, b)];
    u64 index = b - job.first_block;
    u32 n = words_of_block(job, index);
    u32 n_bytes = n * job.word_bytes;
    u8* words = job.words + (index << job.block_log) * job.word_bytes;
    const u8* payloads = job.frame + offsets[b];

    u32 p = thread_index();
    if (p < job.n_planes) {
        u64 e = job.first_entry + index * job.n_planes + p;
        const u8* payload = payloads + payloads_bytes(entries + e - p, p);
        found[p] = find_plane(entries[e], payload, n, job.bits[p], symbols + slots[e] * room,
                              plane_status[e], planes[p]);
        padded[p] = is_padded(payload, payload_bytes(entries[e]));
    }
    sync_block();
    if (thread_index() == 0) {  // as decode.py: padding counts only as long as all is well
        u32 worst = OK;
        for (u32 i = 0; i < job.n_planes; i++) {
            worst = found[i] > worst ? found[i] : worst;
            if (worst == OK && !padded[i]) worst = BAD_PADDING;
        }
        verdict = worst;
    }
    sync_block();
    if (verdict == OK) {
        u64 hash;
        if (job.n_planes == 0) hash = copy_block(payloads, words, n_bytes, sums);
        else if (job.word_bytes == 1) hash = merge_block<u8>(planes, job, words, n_bytes, sums);
        else if (job.word_bytes == 2) hash = merge_block<u16>(planes, job, words, n_bytes, sums);
        else if (job.word_bytes == 4) hash = merge_block<u32>(planes, job, words, n_bytes, sums);
        else hash = merge_block<u64>(planes, job, words, n_bytes, sums);
        if (thread_index() == 0 && hash != hashes[b]) verdict = BAD_HASH;
    }
    sync_block();
    if (thread_index() == 0) status[b] = verdict;
    if (verdict == OK) return;
    for (u32 at = thread_index() * CHUNK; at < n_bytes; at += n_threads() * CHUNK) {
        store_padded(words, at, n_bytes, {0, 0});
    }
}
