// SPDX-License-Identifier: Apache-2.0
// Jobs, blocks and the block table's entries: the other half of entries.py.
//
// A launch works on all blocks of all arrays of a batch. Blocks are numbered through the batch, and so
// are entries, one for each block and plane.

constexpr u32 BATCH_PLANES = 16;  // room for MAX_PLANES in a job

struct Job {        // an array and its frame; kernels/cuda.py has the same fields
    u8* words;      // 16-byte aligned
    u8* frame;      // byte 0 of the frame, 16-byte aligned; it may not be there, its payloads are
    u64 n_words;
    u64 first_block;  // its number in the batch
    u64 first_entry;
    u64 capacity;     // bytes of `frame` that may be written
    const u64* shape;
    u32 n_dims;
    u32 dtype_code;
    u32 block_log;
    u32 word_bytes;
    u32 transform;
    u32 n_planes;
    u8 bits[BATCH_PLANES];
};

// Number of the job that block or entry `i` belongs to; every job has blocks and entries.
template <class First>
DEVICE u64 job_of(u64 n_jobs, u64 i, First first) {
    u64 low = 0, high = n_jobs;
    while (high - low > 1) {
        u64 middle = low + (high - low) / 2;
        if (first(middle) <= i) low = middle;
        else high = middle;
    }
    return low;
}

DEVICE u64 job_of_block(const Job* jobs, u64 n_jobs, u64 block) {
    return job_of(n_jobs, block, [=](u64 i) { return jobs[i].first_block; });
}

DEVICE u64 job_of_entry(const Job* jobs, u64 n_jobs, u64 entry) {
    return job_of(n_jobs, entry, [=](u64 i) { return jobs[i].first_entry; });
}

// Words of block number `index` of the array.
DEVICE u32 words_of_block(const Job& job, u64 index) {
    u64 left = job.n_words - (index << job.block_log);
    return left >> job.block_log ? 1u << job.block_log : left;
}

DEVICE u64 n_blocks_of(const Job& job) {
    return (job.n_words + (1ull << job.block_log) - 1) >> job.block_log;
}

// `size` rounded up to where the next payload may start.
DEVICE u64 aligned(u64 size) { return (size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT; }

// Bytes of the payload that an entry names, without padding.
DEVICE u32 payload_bytes(u32 entry) {
    return entry >> ENTRY_CODER_SHIFT == CONSTANT ? 0 : entry & ENTRY_ARGUMENT_MASK;
}

// Aligned bytes of the payloads of the first `n_planes` entries of a block.
DEVICE u64 payloads_bytes(const u32* entries, u32 n_planes) {
    u64 size = 0;
    for (u32 p = 0; p < n_planes; p++) size += aligned(payload_bytes(entries[p]));
    return size;
}
