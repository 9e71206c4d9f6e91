// SPDX-License-Identifier: Apache-2.0
// Encoding blocks: words to coded planes to frames. The other half of encode.py and of the container.
//
// For as many blocks as the memory between the stages holds: split_blocks reads the words, hashes them
// and writes planes; encode_planes codes each plane; locate_payloads adds up; place_payloads
// moves payloads to where they belong. At last store_words and write_tables finish the frames.

template <class Word>
DEVICE u64 split_block(const Job& job, const u8* words, u32 n_bytes, u8* planes, u64 room, u64* sums) {
    u32 n_planes = job.n_planes, transform = job.transform;
    const u8* bits = job.bits;
    auto split_chunk = [=](u32 at) {
        Chunk chunk = load_padded(words, at, n_bytes);
        if (at < n_bytes) {
            split<Word>(chunk, transform, bits, n_planes, planes, room, at / sizeof(Word));
        }
        return chunk;
    };
    return xxh3_of(split_chunk, n_bytes, sums);
}

// Block of threads `i` reads block `first_block + i`; its planes lie in `symbols` from that of entry
// `first_entry` on, `room` bytes each.
KERNEL split_blocks(const Job* jobs, u64 n_jobs, u64 first_block, u64 first_entry, u8* symbols, u64 room,
                    u64* hashes) {
    __shared__ u64 sums[TILE_SUMS];
    u64 b = first_block + block_index();
    const Job& job = jobs[job_of_block(jobs, n_jobs, b)];
    u64 index = b - job.first_block;
    u32 n_bytes = words_of_block(job, index) * job.word_bytes;
    const u8* words = job.words + (index << job.block_log) * job.word_bytes;
    u8* planes = symbols + (job.first_entry + index * job.n_planes - first_entry) * room;
    u64 hash;
    if (job.word_bytes == 1) hash = split_block<u8>(job, words, n_bytes, planes, room, sums);
    else if (job.word_bytes == 2) hash = split_block<u16>(job, words, n_bytes, planes, room, sums);
    else if (job.word_bytes == 4) hash = split_block<u32>(job, words, n_bytes, planes, room, sums);
    else hash = split_block<u64>(job, words, n_bytes, planes, room, sums);
    if (thread_index() == 0) hashes[b] = hash;
}

// A warp for each of the `n_entries` planes from `first_entry` on.
KERNEL encode_planes(const Job* jobs, u64 n_jobs, u64 first_entry, u64 n_entries, const u8* symbols,
                     u8* coded, u64 room, u32* entries) {
    __shared__ Choice choices[ENCODE_WARPS];
    u64 i = block_index() * ENCODE_WARPS + warp_index();
    if (i >= n_entries) return;
    u64 e = first_entry + i;
    const Job& job = jobs[job_of_entry(jobs, n_jobs, e)];
    u64 block = (e - job.first_entry) / job.n_planes;
    u32 bits = job.bits[(e - job.first_entry) % job.n_planes];
    u32 entry = encode_plane(symbols + i * room, words_of_block(job, block), bits, coded + i * room,
                             room, choices[warp_index()]);
    if (lane_index() == 0) entries[e] = entry;
}

// Block of threads `i` moves the payload of entry `first_entry + i` into its frame, if it still fits.
// It comes from slot `i`, or from `sources[e]` if that is not null.
KERNEL place_payloads(const Job* jobs, u64 n_jobs, u64 first_entry, const u8* symbols, const u8* coded,
                      u64 room, const u32* entries, const u64* offsets, const u32* sources) {
    u64 e = first_entry + block_index();
    const Job& job = jobs[job_of_entry(jobs, n_jobs, e)];
    u64 block = (e - job.first_entry) / job.n_planes;
    u32 plane = (e - job.first_entry) % job.n_planes;
    u32 size = payload_bytes(entries[e]), coder = entries[e] >> ENTRY_CODER_SHIFT;
    if (size == 0) return;
    u64 at = payloads_start(job) + offsets[job.first_block + block] - offsets[job.first_block] +
             payloads_bytes(entries + e - plane, plane);
    if (at + aligned(size) > max_encoded_bytes(job)) return;  // the frame will be stored
    u64 slot = sources == nullptr ? block_index() : sources[e];
    const u8* whole = symbols + slot * room;
    const u8* parts = coded + slot * room;
    if (coder != RAW || job.bits[plane] < 8) whole = parts;
    bool in_parts = coder == RANS8 || coder == RANS12;
    u32 head = 0, n_words = 0;
    if (in_parts) {
        n_words = read_u32(parts);
        head = RANS_HEADER_BYTES + table_bytes(coder, parts[6] + 1u, parts[7]);
    }
    for (u32 from = thread_index() * CHUNK; from < size; from += n_threads() * CHUNK) {
        Chunk chunk = {0, 0};
        if (!in_parts) {
            chunk = load_chunk(whole + from);
        } else {
            for (u32 k = 0; k < CHUNK && from + k < size; k += 2) {
                u64 pair = payload_pair(parts, room, head, n_words, from + k);
                (k < 8 ? chunk.low : chunk.high) |= pair << (8 * (k & 7));
            }
        }
        store_chunk(job.frame + at + from, keep_bytes(chunk, size - from));
    }
}

// Block of threads `b` copies the words of block `b`, if its frame stores them.
KERNEL store_words(const Job* jobs, u64 n_jobs, const u64* offsets) {
    u64 b = block_index();
    const Job& job = jobs[job_of_block(jobs, n_jobs, b)];
    if (!is_stored(job, offsets)) return;
    u64 index = b - job.first_block;
    u64 start = (index << job.block_log) * job.word_bytes;
    u64 n_bytes = u64(words_of_block(job, index)) * job.word_bytes;
    u8* to = job.frame + table_end(job, 0) + start;
    for (u64 at = thread_index() * CHUNK; at < n_bytes; at += n_threads() * CHUNK) {
        store_padded(to, at, n_bytes, load_padded(job.words + start, at, n_bytes));
    }
}

// Block of threads `i` writes header and table of frame `i`, and its bytes to `sizes[i]`.
KERNEL write_tables(const Job* jobs, const u64* hashes, const u32* entries, const u64* offsets,
                    u64* sizes) {
    __shared__ u64 sums[TILE_SUMS];
    const Job& job = jobs[block_index()];
    bool stored = is_stored(job, offsets);
    u32 n_planes = stored ? 0 : job.n_planes;
    u64 size = stored ? max_encoded_bytes(job) : coded_bytes(job, offsets);
    u64 n_blocks = n_blocks_of(job), n_entries = n_blocks * n_planes, end = table_end(job, n_planes);
    u64 section_bytes = stored ? 0 : job.section_bytes;
    u64* header = reinterpret_cast<u64*>(job.frame);
    if (thread_index() == 0) {
        header[0] = MAGIC_WORD | u64(VERSION) << 32 | u64(job.dtype_code) << 40 |
                    u64(job.n_dims) << 48 | u64(job.block_log) << 56;
        header[DECODED_BYTES_OFFSET / 8] = job.n_words * job.word_bytes;
        header[DECODED_BYTES_OFFSET / 8 + 1] = size;
        header[HASH_OFFSET / 8] = 0;
        header[HASH_OFFSET / 8 + 1] = stored ? STORED : job.flags | section_bytes << 32;
        sizes[block_index()] = size;
    }
    u64* shape = header + HEADER_BYTES / 8;
    for (u64 i = thread_index(); i < job.n_dims; i += n_threads()) shape[i] = job.shape[i];
    u64* block_hashes = shape + job.n_dims;
    const u64* found = hashes + job.first_block;
    for (u64 i = thread_index(); i < n_blocks; i += n_threads()) block_hashes[i] = found[i];
    u32* table = reinterpret_cast<u32*>(block_hashes + n_blocks);
    u64 n_padded = reinterpret_cast<u32*>(job.frame + end) - table;
    for (u64 i = thread_index(); i < n_padded; i += n_threads()) {
        table[i] = i < n_entries ? entries[job.first_entry + i] : 0;
    }
    for (u64 at = thread_index() * CHUNK; at < section_bytes; at += n_threads() * CHUNK) {
        store_chunk(job.frame + end + at, load_chunk(job.section + at));
    }
    sync_block();
    u64 hash = xxh3(job.frame, end + section_bytes, sums);
    if (thread_index() == 0) header[HASH_OFFSET / 8] = hash;
}
