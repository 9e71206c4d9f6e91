// SPDX-License-Identifier: Apache-2.0
// Jobs, blocks and the block table's entries: the other half of entries.py.
//
// A launch works on all blocks of all arrays of a batch. Blocks are numbered through the batch, and so
// are entries, one for each block and plane.

constexpr u32 BATCH_PLANES = 16;  // room for MAX_PLANES in a job

struct Job {          // an array and its frame; kernels/cuda.py has the same fields
    u8* words;        // 16-byte aligned
    u8* frame;        // of byte 0, 16-byte aligned; a decoder may have only its payloads there
    u64 n_words;
    u64 first_block;  // its number in the batch
    u64 first_entry;
    u64 first_slot;    // this, the next three, `n_dims` and `dtype_code` are for encoders
    const u64* shape;
    const u8* section;  // of the model, as it stands in the frame
    u64 section_bytes;
    const u8* model;   // the offsets of a predicted frame, one part after the other; and of
    u64 n_rows;        // the whole matrix, of which
    u64 first_word;    // the words of this job are those from this number on
    u32 n_dims;
    u32 dtype_code;
    u32 block_log;
    u32 word_bytes;
    u32 transform;
    u32 n_planes;  // entries of a block: in sparse frames with mask and signs, which come first
    u32 flags;
    u32 n_columns;
    u32 tile_rows;
    u32 rank;
    u32 base;  // signed
    u32 shift;
    u8 bits[BATCH_PLANES];
};

constexpr u32 MASK = 0, SIGNS = 1, MASK_AND_SIGNS = 2;  // planes of a sparse frame
constexpr u32 ZERO = CONSTANT << ENTRY_CODER_SHIFT;     // the entry of a plane without symbols

DEVICE bool is_sparse(const Job& job) { return (job.flags & SPARSE) != 0; }
DEVICE bool is_float(const Job& job) { return job.transform == ROTATE || job.transform == ROTATE_BIAS; }

// Number of the job that block or entry `i` belongs to: the last that begins there or before. (Jobs
// without any begin where the next one does, and are found for none.)
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

DEVICE u32 mask_symbols(u32 n) { return (n + MASK_BITS - 1) / MASK_BITS; }

// Symbols of a plane of a block of `n` words, of which `n_kept` are not left out as zeros.
DEVICE u32 n_symbols_of(const Job& job, u32 n, u32 n_kept, u32 plane) {
    if (!is_sparse(job)) return n;
    if (plane == MASK) return mask_symbols(n);
    if (plane == SIGNS) return is_float(job) ? n - n_kept : 0;
    return n_kept;
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

// Bytes of header, shape, hashes, entries and padding of a frame with these planes, without a model.
DEVICE u64 table_end(const Job& job, u32 n_planes) {
    return aligned(HEADER_BYTES + 8 * u64(job.n_dims) + n_blocks_of(job) * (8 + 4 * n_planes));
}

// Where the payloads of a frame with its planes coded start.
DEVICE u64 payloads_start(const Job& job) { return table_end(job, job.n_planes) + job.section_bytes; }

// The most that a frame can take: all words stored as they are.
DEVICE u64 max_encoded_bytes(const Job& job) {
    return table_end(job, 0) + job.n_words * job.word_bytes;
}

// Bytes of the frame with its planes coded; `offsets` as `locate_payloads` fills them.
DEVICE u64 coded_bytes(const Job& job, const u64* offsets) {
    u64 last = job.first_block + n_blocks_of(job);
    return payloads_start(job) + offsets[last] - offsets[job.first_block];
}

// Whether nothing was gained, and the frame stores its words.
DEVICE bool is_stored(const Job& job, const u64* offsets) {
    return coded_bytes(job, offsets) >= max_encoded_bytes(job);
}

constexpr u32 SCAN_WARPS = 8;

// One block of threads: `offsets[b]` becomes the bytes of all payloads of the batch before block `b`,
// for the `n_blocks` behind `first_block`, whose own offset is known unless it is 0.
KERNEL locate_payloads(const Job* jobs, u64 n_jobs, const u32* entries, u64 first_block, u64 n_blocks,
                       u64* offsets) {
    __shared__ u64 ends[SCAN_WARPS];
    u64 start = first_block == 0 ? 0 : offsets[first_block];
    if (first_block == 0 && thread_index() == 0) offsets[0] = 0;
    for (u64 tile = 0; tile < n_blocks; tile += SCAN_WARPS * WARP) {
        u64 i = tile + thread_index(), size = 0;
        if (i < n_blocks) {
            u64 b = first_block + i;
            const Job& job = jobs[job_of_block(jobs, n_jobs, b)];
            u64 e = job.first_entry + (b - job.first_block) * job.n_planes;
            size = payloads_bytes(entries + e, job.n_planes);
        }
        u64 behind = prefix_of_warp(size);
        if (lane_index() == WARP - 1) ends[warp_index()] = behind;
        sync_block();
        u64 all = 0;
        for (u32 w = 0; w < SCAN_WARPS; w++) {
            if (w < warp_index()) behind += ends[w];
            all += ends[w];
        }
        if (i < n_blocks) offsets[first_block + i + 1] = start + behind;
        start += all;
        sync_block();
    }
}
