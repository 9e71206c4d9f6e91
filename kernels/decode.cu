// SPDX-License-Identifier: Apache-2.0
// Decoding blocks: coded planes to words. The other half of decode.py.
//
// First the kernels of the coders decode planes into memory between the stages (`symbols`, where
// `slots` says); then a block of threads for each block of words puts the planes together, checks
// the hash and judges the block. Raw and constant planes are read where they are. A block that is
// not sound becomes zeros.

constexpr u32 MERGE_THREADS = 256;
constexpr u32 WARPS_8 = 8, WARPS_12 = 4;  // of a block that decodes rans8 or rans12

template <u32 CODER, class Table>
DEVICE void decode_task(const Task& task, u8* symbols, u8* plane_status, Table& table) {
    u32 status = BAD_SYMBOL;  // of a plane that has no symbols to be coded
    if (task.n != 0) {
        status = decode_plane<CODER>(task.payload, task.size, task.n, task.bits, symbols + task.slot, table);
    }
    if (lane_index() == 0) plane_status[task.entry] = status;
}

// Decodes entry `tasks[i]` into its slot.
KERNEL decode_rans8(const Job* jobs, u64 n_jobs, const u32* entries, const u64* offsets,
                    const u32* slots, const u32* kept, const u32* tasks, u64 n_tasks, u8* symbols,
                    u8* plane_status) {
    __shared__ Table8 tables[WARPS_8];
    u64 i = block_index() * WARPS_8 + warp_index();
    if (i >= n_tasks) return;
    Task task = find_task(jobs, n_jobs, entries, offsets, slots, kept, tasks[i]);
    decode_task<RANS8>(task, symbols, plane_status, tables[warp_index()]);
}

KERNEL decode_rans12(const Job* jobs, u64 n_jobs, const u32* entries, const u64* offsets,
                     const u32* slots, const u32* kept, const u32* tasks, u64 n_tasks, u8* symbols,
                     u8* plane_status) {
    __shared__ Table12 tables[WARPS_12];
    u64 i = block_index() * WARPS_12 + warp_index();
    if (i >= n_tasks) return;
    Task task = find_task(jobs, n_jobs, entries, offsets, slots, kept, tasks[i]);
    decode_task<RANS12>(task, symbols, plane_status, tables[warp_index()]);
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

// Block of threads `i` decodes block `blocks[i]`. Entry `e` was decoded to `slots[e]`, if it was.
KERNEL decode_blocks(const Job* jobs, u64 n_jobs, const u32* entries, const u64* offsets,
                     const u32* slots, const u64* hashes, const u32* blocks, const u8* symbols,
                     const u8* plane_status, u8* status) {
    __shared__ u64 sums[TILE_SUMS];
    __shared__ Plane planes[MAX_PLANES];
    __shared__ u32 found[MAX_PLANES];
    __shared__ bool padded[MAX_PLANES];
    __shared__ u32 verdict;
    u64 b = blocks[block_index()];
    const Job& job = jobs[job_of_block(jobs, n_jobs, b)];
    u64 index = b - job.first_block;
    u32 n = words_of_block(job, index);
    u32 n_bytes = n * job.word_bytes;
    u8* words = job.words + (index << job.block_log) * job.word_bytes;
    const u8* payloads = job.frame + offsets[b];

    u64 first_entry = job.first_entry + index * job.n_planes;
    const u32* mine = entries + first_entry;

    u32 p = thread_index();
    if (p < job.n_planes) {
        u64 e = first_entry + p;
        const u8* payload = payloads + payloads_bytes(mine, p);
        found[p] = find_plane(mine[p], payload, n, job.bits[p], symbols + slots[e], plane_status[e], planes[p]);
        padded[p] = is_padded(payload, payload_bytes(mine[p]));
    }
    sync_block();
    if (thread_index() == 0) {
        verdict = worst_of_lz(mine, found, padded, job.n_planes);
        if (verdict == OK) verdict = worst_of(found, padded, job.n_planes);
    }
    sync_block();
    if (verdict == OK) {
        u64 hash;
        bool is_stored = job.n_planes == 0, by_lz = !is_stored && *mine >> ENTRY_CODER_SHIFT == LZ_WORDS;
        if (is_stored || by_lz) hash = copy_block(by_lz ? words : payloads, words, n_bytes, sums);
        else if (job.word_bytes == 1) hash = merge_block<u8>(planes, job, words, n_bytes, sums);
        else if (job.word_bytes == 2) hash = merge_block<u16>(planes, job, words, n_bytes, sums);
        else if (job.word_bytes == 4) hash = merge_block<u32>(planes, job, words, n_bytes, sums);
        else hash = merge_block<u64>(planes, job, words, n_bytes, sums);
        if (thread_index() == 0 && hash != hashes[b]) verdict = BAD_HASH;
    }
    sync_block();
    if (thread_index() == 0) status[b] = verdict;
    if (verdict != OK) clear_block(words, n_bytes);
}
