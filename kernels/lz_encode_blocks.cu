// SPDX-License-Identifier: Apache-2.0
// Encoding a run of blocks, each by LZ or as it is: the other half of lz_encode_blocks.py.

struct LzBlock {  // a block of an array all of whose blocks are coded by LZ, or left as they are
    const u8* words;
    u32 n_bytes;
    u32 word_bytes;
    u32 n_planes;
    u64 first_entry;
};

DEVICE LzBlock lz_block(const Job* jobs, u64 n_jobs, u64 b) {
    const Job& job = jobs[job_of_block(jobs, n_jobs, b)];
    u64 index = b - job.first_block;
    return {job.words + (index << job.block_log) * job.word_bytes, words_of_block(job, index) * job.word_bytes,
            job.word_bytes, job.n_planes, job.first_entry + index * job.n_planes};
}

// Warp and block of threads `i` finds the matches of block `first_block + i`. `typesize` is that of LZConfig, 0
// for none.
KERNEL match_lz_blocks(const Job* jobs, u64 n_jobs, u64 first_block, u8* memory, u64 task_room, u64 block_bytes,
                       u64 typesize, u64 level) {
    __shared__ u32 counts[8 * 256];
    __shared__ u64 slots[lz::RING];
    LzBlock block = lz_block(jobs, n_jobs, first_block + block_index());
    u32 width = typesize != 0 ? typesize : block.word_bytes;
    if (typesize == 0 && width == 1) width = lz::detect_word_bytes(block.words, block.n_bytes, counts);
    lz::Memory mine(memory + block_index() * task_room, block_bytes);
    lz::match_block(mine, block.words, block.n_bytes, width, level, counts, slots);
}

// Warp and block of threads `i` codes that block, and fills in its entries.
KERNEL code_lz_blocks(const Job* jobs, u64 n_jobs, u64 first_block, u8* memory, u64 task_room, u64 block_bytes,
                      u32* entries) {
    __shared__ lz::Workshop shop;
    LzBlock block = lz_block(jobs, n_jobs, first_block + block_index());
    lz::Memory mine(memory + block_index() * task_room, block_bytes);
    bool whole = block.n_planes == 1;
    u32 limit = whole ? block.n_bytes : block.n_bytes + lz::RAW_OVERHEAD + 1;
    u32 size = lz::code_block(mine, block.words, block.n_bytes, false, limit, shop);
    u32 coder = !whole ? LZ_WORDS : size == 0 ? RAW : LZ;
    if (lane_index() == 0) mine.parsed->size = size;
    for (u32 p = lane_index(); p < block.n_planes; p += WARP) {
        u32 first = coder << ENTRY_CODER_SHIFT | (coder == RAW ? block.n_bytes : size);
        entries[block.first_entry + p] = p == 0 ? first : CONSTANT << ENTRY_CODER_SHIFT;
    }
}

// Block of threads `i` hashes block `first_block + i` and moves its payload into the frame, if it still fits.
KERNEL place_lz_blocks(const Job* jobs, u64 n_jobs, u64 first_block, u8* memory, u64 task_room, u64 block_bytes,
                       const u64* offsets, u64* hashes) {
    __shared__ u64 sums[TILE_SUMS];
    u64 b = first_block + block_index();
    const Job& job = jobs[job_of_block(jobs, n_jobs, b)];
    LzBlock block = lz_block(jobs, n_jobs, b);
    u64 hash = xxh3(block.words, block.n_bytes, sums);
    if (thread_index() == 0) hashes[b] = hash;
    lz::Memory mine(memory + block_index() * task_room, block_bytes);
    u32 size = mine.parsed->size, n_bytes = size == 0 ? block.n_bytes : size;
    const u8* payload = size == 0 ? block.words : mine.out;
    u64 at = payloads_start(job) + offsets[b] - offsets[job.first_block];
    if (at + aligned(n_bytes) > max_encoded_bytes(job)) return;  // the frame will be stored
    u8* to = job.frame + at;
    for (u32 from = thread_index() * CHUNK; from < n_bytes; from += n_threads() * CHUNK) {
        store_chunk(to + from, load_padded(payload, from, n_bytes));
    }
    if (size == 0) return;
    sync_block();
    u64 check = xxh3_of([=](u64 from) { return lz::checked_chunk(to, n_bytes, from); }, n_bytes - lz::FLAGS_AT, sums);
    if (thread_index() == 0) write_u32(to, u32(check));
}
