// SPDX-License-Identifier: Apache-2.0
// Blocks whose planes are coded already, and may get smaller by LZ: the other half of lz_shrink_blocks.py.

union ShrinkShared {  // one after the other
    struct {
        u32 counts[8 * 256];
        u64 slots[lz::RING];
    } match;
    lz::Workshop shop;
    u64 sums[TILE_SUMS];
};

// Whether LZ may gain anything on a block; lane `p` has the entry of plane `p`.
DEVICE bool may_shrink(const Job& job, u32 n_words, u32 entry) {
    u32 n_bytes = payload_bytes(entry);
    if (sum_of_warp(n_bytes) <= ALIGNMENT) return false;
    return !is_float(job) || ballot(n_bytes > n_words / 2) == 0;
}

// A warp for every `n_blocks_launched()`-th of the `n_blocks` blocks from `first_block` on, whose planes are in
// `symbols` and, coded, in `coded`, from slot `first_slot` on. What LZ makes smaller replaces the coded ones:
// of a plane in its slot, of whole words in the slots of the block. A new payload of a plane may overwrite the
// old one, as it is smaller: only whole words can still win then, and they need neither.
KERNEL shrink_lz_blocks(const Job* jobs, u64 n_jobs, u64 first_block, u64 n_blocks, u64 first_slot, u8* memory,
                        u64 task_room, u64 block_bytes, u64 level, const u8* symbols, u8* coded, u64 room,
                        u32* entries) {
    __shared__ ShrinkShared shared;
    lz::Memory mine(memory + block_index() * task_room, block_bytes);
    u8* words_out = mine.out;
    u32 lane = lane_index();
#pragma unroll 1
    for (u64 i = block_index(); i < n_blocks; i += n_blocks_launched()) {
        u64 b = first_block + i;
        const Job& job = jobs[job_of_block(jobs, n_jobs, b)];
        LzBlock block = lz_block(jobs, n_jobs, b);
        u32 n_planes = block.n_planes, n_words = block.n_bytes / block.word_bytes;
        u32 entry = lane < n_planes ? entries[block.first_entry + lane] : ZERO;
        if (!may_shrink(job, n_words, entry)) continue;
        u64 slot = (job.first_slot + (b - job.first_block) * n_planes - first_slot) * room;
        u32 size = sum_of_warp(u32(aligned(payload_bytes(entry)))), by_words = 0, best = size;
        u32 n_turns = is_float(job) || n_planes == 1 ? 1 : n_planes + 1;
#pragma unroll 1
        for (u32 turn = 0; turn < n_turns; turn++) {  // the words, then each plane
            u32 plane = turn - 1, limit = size - ALIGNMENT + 1, n_bytes = block.n_bytes, width = block.word_bytes;
            const u8* source = block.words;
            if (turn == 0) {
                mine.out = words_out;
                if (n_planes == 1) width = lz::detect_word_bytes(source, n_bytes, shared.match.counts);
            } else {
                if (best <= size - (size >> lz::PLANES_GAIN_LOG)) break;
                u32 old = aligned(payload_bytes(shuffle(entry, plane)));
                if (job.bits[plane] != 8 || old <= ALIGNMENT) continue;
                limit = old - ALIGNMENT + 1;
                source = symbols + slot + plane * room;
                n_bytes = n_words;
                width = 1;
                mine.out = coded + slot + plane * room;
            }
            lz::match_block(mine, source, n_bytes, width, level, shared.match.counts, shared.match.slots);
            sync_warp();
            u32 found = lz::code_block(mine, source, n_bytes, true, limit, shared.shop);
            sync_warp();
            if (found == 0) continue;
            const u8* out = mine.out;
            u32 check = xxh3_of([=](u64 from) { return lz::checked_chunk(out, found, from); },
                                found - lz::FLAGS_AT, shared.sums);
            if (lane == 0) write_u32(mine.out, check);
            sync_warp();
            if (turn == 0) {
                by_words = found;
                best = aligned(found);
            } else if (lane == plane) {
                entry = LZ << ENTRY_CODER_SHIFT | found;
            }
        }
        u32 by_planes = sum_of_warp(u32(aligned(payload_bytes(entry))));
        if (by_words != 0 && by_planes >= best) {
            for (u32 at = lane * CHUNK; at < by_words; at += WARP * CHUNK) {
                store_chunk(coded + slot + at, load_padded(words_out, at, by_words));
            }
            entry = lane == 0 ? (n_planes == 1 ? LZ : LZ_WORDS) << ENTRY_CODER_SHIFT | by_words : ZERO;
        }
        if (lane < n_planes) entries[block.first_entry + lane] = entry;
        sync_warp();
    }
}
