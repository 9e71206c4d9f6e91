// SPDX-License-Identifier: Apache-2.0
// One plane of one block, whichever coder wrote it: the other half of decode_plane.py.

struct Task {  // a plane that a coder's kernel decodes
    u64 entry;
    const u8* payload;  // 16-byte aligned; readable up to the next such address
    u32 size;
    u32 n;  // symbols
    u32 bits;
    u32 coder;
    u32 slot;  // where in `symbols` they go; with room for whole rows
};

// What entry `e` asks for. `kept[b]` are the words of block `b` that are not zero, in sparse frames.
DEVICE Task find_task(const Job* jobs, u64 n_jobs, const u32* entries, const u64* offsets,
                      const u32* slots, const u32* kept, u64 e) {
    const Job& job = jobs[job_of_entry(jobs, n_jobs, e)];
    u64 block = (e - job.first_entry) / job.n_planes, b = job.first_block + block;
    u32 plane = (e - job.first_entry) % job.n_planes;
    u64 at = offsets[b] + payloads_bytes(entries + e - plane, plane);
    u32 n_kept = is_sparse(job) && plane != MASK ? kept[b] : 0;
    u32 n = n_symbols_of(job, words_of_block(job, block), n_kept, plane);
    u32 coder = entries[e] >> ENTRY_CODER_SHIFT;
    return {e, job.frame + at, payload_bytes(entries[e]), n, job.bits[plane], coder, slots[e]};
}

// What stands behind the payload up to the next must be zero.
DEVICE bool is_padded(const u8* payload, u32 size) {
    for (u32 i = size; i < aligned(size); i++) {
        if (payload[i] != 0) return false;
    }
    return true;
}

// Where a plane's symbols are, and what is wrong with it. `decoded` and `status` are what the kernel
// of its coder left, if it has one.
DEVICE u32 find_plane(u32 entry, const u8* payload, u32 n, u32 bits, const u8* decoded, u32 status,
                      Plane& plane) {
    u32 coder = entry >> ENTRY_CODER_SHIFT, argument = entry & ENTRY_ARGUMENT_MASK;
    plane = {payload, bits < 8 ? BIT_ROWS : BYTES, bits, 0};
    if (n == 0) return entry == ZERO ? OK : BAD_SYMBOL;
    if (coder > CONSTANT) {
        plane.symbols = decoded;
        plane.kind = BYTES;
        return status;
    }
    if (coder == CONSTANT) {
        plane.kind = SAME;
        plane.constant = argument;
        return argument >> bits != 0 ? BAD_SYMBOL : OK;
    }
    if (argument != raw_plane_bytes(n, bits)) return BAD_SIZE;
    if (bits < 8 && n % ROW != 0) {
        const u64* last = reinterpret_cast<const u64*>(payload) + n / ROW * bits;
        for (u32 j = 0; j < bits; j++) {
            if (last[j] >> (n % ROW) != 0) return BAD_PADDING;
        }
    }
    return OK;
}

// As decode.py: padding counts only as long as all is well.
DEVICE u32 worst_of(const u32* found, const bool* padded, u32 n_planes) {
    u32 worst = OK;
    for (u32 i = 0; i < n_planes; i++) {
        worst = found[i] > worst ? found[i] : worst;
        if (worst == OK && !padded[i]) worst = BAD_PADDING;
    }
    return worst;
}

// Planes of LZ are decoded and judged before all others.
DEVICE u32 worst_of_lz(const u32* entries, const u32* found, const bool* padded, u32 n_planes) {
    u32 worst = OK;
    for (u32 i = 0; i < n_planes; i++) {
        if (entries[i] >> ENTRY_CODER_SHIFT < LZ) continue;
        u32 status = found[i] == OK && !padded[i] ? BAD_PADDING : found[i];
        worst = status > worst ? status : worst;
    }
    return worst;
}

DEVICE void clear_block(u8* words, u32 n_bytes) {
    for (u32 at = thread_index() * CHUNK; at < n_bytes; at += n_threads() * CHUNK) {
        store_padded(words, at, n_bytes, {0, 0});
    }
}
