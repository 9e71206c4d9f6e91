// SPDX-License-Identifier: Apache-2.0
// Decoding blocks of sparse and predicted frames, and planes coded by palettes: the other half of
// decode_full.py. Only frames that need them are told to these kernels.

constexpr u32 MASK_WARPS = 8;
constexpr u32 MOST_PLANES = MASK_AND_SIGNS + MAX_PLANES;

// Block of threads `i` decodes entry `tasks[i]` into its slot.
KERNEL decode_palettes(const Job* jobs, u64 n_jobs, const u32* entries, const u64* offsets,
                       const u32* slots, const u32* kept, const u32* tasks, u64 n_tasks, u8* symbols,
                       u8* plane_status) {
    __shared__ u32 wrong[2];
    if (block_index() >= n_tasks) return;
    Task task = find_task(jobs, n_jobs, entries, offsets, slots, kept, tasks[block_index()]);
    u32 status = BAD_SYMBOL;  // of a plane that has no symbols to be coded
    if (task.n != 0) {
        status = decode_palette(task.payload, task.size, task.n, task.bits, task.coder - PALETTE,
                                symbols + task.slot, wrong);
    }
    if (thread_index() == 0) plane_status[task.entry] = status;
}

// A warp reads the mask of block `blocks[i]`, which tells how many symbols its other planes have. If
// it is not sound, they are looked at as if the block had no zeros.
KERNEL read_masks(const Job* jobs, u64 n_jobs, const u32* entries, const u64* offsets, const u32* slots,
                  const u32* blocks, u64 n_blocks, u8* symbols, u8* plane_status, u32* kept) {
    u64 i = block_index() * MASK_WARPS + warp_index();
    if (i >= n_blocks) return;
    u64 b = blocks[i];
    const Job& job = jobs[job_of_block(jobs, n_jobs, b)];
    u32 n = words_of_block(job, b - job.first_block), n_kept = n;
    u64 e = job.first_entry + (b - job.first_block) * job.n_planes;
    const u8* payload = job.frame + offsets[b];
    u8* slot = symbols + slots[e];
    Plane plane;
    u32 status = find_plane(entries[e], payload, mask_symbols(n), MASK_BITS, slot, plane_status[e], plane);
    if (status == OK && !is_padded(payload, payload_bytes(entries[e]))) status = BAD_PADDING;
    if (status == OK && entries[e] != NOT_PACKED_MASK) {
        u32 found = read_mask(plane, n, mask_at(slot, n));
        if (found == ALL_LANES) status = BAD_MASK;
        else n_kept = found;
    }
    sync_warp();  // all have read the status
    if (lane_index() == 0) {
        kept[b] = n_kept;
        plane_status[e] = status;
    }
}

struct Words {  // how those of a block come about
    Mask mask;
    Model model;
    Place place;
    const Plane* planes;
    const Plane* signs;
    u32 n_planes, transform, n;
    bool packed, predicted;
};

template <class Word>
DEVICE u64 restore_block(const Words& from, u8* words, u32 n_bytes, u64* sums) {
    auto restored_at = [=](u32 at) -> Chunk {
        if (at >= n_bytes) return {0, 0};
        u32 first = at / sizeof(Word);
        Chunk chunk = from.packed ? expand<Word>(from.mask, from.planes, from.n_planes, from.transform,
                                                 from.signs, from.n, first)
                                  : merge<Word>(from.planes, from.n_planes, from.transform, first);
        if (from.predicted) {
            chunk = shift_words<Word, true>(chunk, first, from.model, from.place, from.n - first);
        }
        store_padded(words, at, n_bytes, chunk);
        return keep_bytes(chunk, n_bytes - at);
    };
    return xxh3_of(restored_at, n_bytes, sums);
}

// `decode_blocks` for the blocks of sparse and predicted frames.
KERNEL decode_full_blocks(const Job* jobs, u64 n_jobs, const u32* entries, const u64* offsets,
                          const u32* slots, const u64* hashes, const u32* blocks, u8* symbols,
                          const u8* plane_status, const u32* kept, u8* status) {
    __shared__ u64 sums[TILE_SUMS];
    __shared__ Plane planes[MOST_PLANES];
    __shared__ u32 found[MOST_PLANES];
    __shared__ bool padded[MOST_PLANES];
    __shared__ u32 verdict;
    __shared__ Place place;
    u64 b = blocks[block_index()];
    const Job& job = jobs[job_of_block(jobs, n_jobs, b)];
    u64 index = b - job.first_block;
    u32 n = words_of_block(job, index);
    u32 n_bytes = n * job.word_bytes;
    u8* words = job.words + (index << job.block_log) * job.word_bytes;
    u64 first_entry = job.first_entry + index * job.n_planes;
    bool sparse = is_sparse(job), predicted = (job.flags & PREDICTED) != 0;

    u32 p = thread_index();
    if (p < job.n_planes) {
        u64 e = first_entry + p;
        if (sparse && p == MASK) {  // `read_masks` was here
            found[p] = plane_status[e];
            padded[p] = true;
        } else {
            const u8* payload = job.frame + offsets[b] + payloads_bytes(entries + e - p, p);
            u32 n_symbols = n_symbols_of(job, n, sparse ? kept[b] : n, p);
            found[p] = find_plane(entries[e], payload, n_symbols, job.bits[p], symbols + slots[e],
                                  plane_status[e], planes[p]);
            padded[p] = is_padded(payload, payload_bytes(entries[e]));
        }
    }
    sync_block();
    if (thread_index() == 0) {
        verdict = worst_of(found, padded, job.n_planes);
        if (predicted) place = place_of(job, index);
    }
    sync_block();
    if (verdict == OK) {
        Words from = {};
        u32 before = sparse ? MASK_AND_SIGNS : 0;
        from.planes = planes + before;
        from.n_planes = job.n_planes - before;
        from.transform = job.transform;
        from.n = n;
        from.packed = sparse && entries[first_entry] != NOT_PACKED_MASK;
        if (from.packed) {
            from.mask = mask_at(symbols + slots[first_entry], n);
            from.signs = entries[first_entry + SIGNS] == ZERO ? nullptr : planes + SIGNS;
        }
        from.predicted = predicted;
        if (predicted) {
            from.model.begin(job);
            from.place = place;
        }
        u64 hash;
        if (job.word_bytes == 1) hash = restore_block<u8>(from, words, n_bytes, sums);
        else if (job.word_bytes == 2) hash = restore_block<u16>(from, words, n_bytes, sums);
        else if (job.word_bytes == 4) hash = restore_block<u32>(from, words, n_bytes, sums);
        else hash = restore_block<u64>(from, words, n_bytes, sums);
        if (thread_index() == 0 && hash != hashes[b]) verdict = BAD_HASH;
    }
    sync_block();
    if (thread_index() == 0) status[b] = verdict;
    if (verdict != OK) clear_block(words, n_bytes);
}
