// SPDX-License-Identifier: Apache-2.0
// Encoding blocks with profiles, the sparse transform and the predictor: the other half of
// encode_full.py.
//
// A block of a sparse frame is coded packed, or not, or both ways. So it has slots for the symbols of mask
// and signs, of its planes without zeros, and of its planes with zeros; blocks of other frames have
// slots for their planes. `choose_ways` then says which of them become its entries.

constexpr u32 NOT_TRIED = ALL_LANES;  // instead of a number of symbols, or of an entry
constexpr u32 WAYS_THREADS = 128;
constexpr u32 MAX_ROWS = (1u << MAX_SPARSE_BLOCK_LOG) / ROW;

DEVICE u32 n_slots_of(const Job& job) {
    return is_sparse(job) ? 2 * job.n_planes - MASK_AND_SIGNS : job.n_planes;
}

struct Block {  // of words, with the model that is taken off them
    const u8* words;
    u32 n;
    bool predicted;
    Model model;
    Place place;
};

template <class Word>
DEVICE Word word_at(const Block& block, u32 i) {
    Word x = reinterpret_cast<const Word*>(block.words)[i];
    if (!block.predicted) return x;
    u32 at = block.place.column + i, n_columns = block.model.n_columns;
    u32 offset = block.model.offset(block.place.row + at / n_columns, at % n_columns);
    return shift_word(x, 0u - offset, block.model.shift);
}

// Hash the words, and cut them into planes that lie `room` bytes apart.
template <class Word>
DEVICE u64 split_all(const Block& block, const Job& job, u8* planes, u64 room, u64* sums) {
    u32 n_planes = job.n_planes, transform = job.transform, n_bytes = block.n * sizeof(Word);
    const u8* bits = job.bits;
    auto split_chunk = [=](u32 at) {
        Chunk chunk = load_padded(block.words, at, n_bytes);
        if (at < n_bytes) {
            u32 first = at / sizeof(Word);
            Chunk moved = chunk;
            if (block.predicted) {
                moved = shift_words<Word, false>(chunk, first, block.model, block.place, block.n - first);
            }
            split<Word>(moved, transform, bits, n_planes, planes, room, first);
        }
        return chunk;
    };
    return xxh3_of(split_chunk, n_bytes, sums);
}

// The mask of the words, and its symbols.
template <class Word>
DEVICE void find_zeros(const Block& block, Word magnitude, Mask mask, u8* symbols) {
    constexpr u32 SYMBOLS = ROW / MASK_BITS;
    for (u32 row = warp_index(); row < (block.n + ROW - 1) / ROW; row += n_threads() / WARP) {
        u32 halves[2];
        for (u32 half = 0; half < 2; half++) {
            u32 i = row * ROW + half * WARP + lane_index();
            halves[half] = ballot(i < block.n && (word_at<Word>(block, i) & magnitude) != 0);
        }
        u64 bits = joined(halves[0], halves[1]);
        if (lane_index() == 0) mask.rows[row] = bits;
        u32 shift = MASK_BITS * lane_index() & 63;
        if (lane_index() < SYMBOLS) symbols[row * SYMBOLS + lane_index()] = bits >> shift & 15;
    }
}

struct Zeros {
    u32 n_kept;
    bool promising;  // the sample of rows
};

// A warp counts what is set before each row, and zeros in the sample.
DEVICE Zeros count_zeros(Mask mask, u32 n) {
    u32 n_before = 0, n_counted = 0, n_set = 0;
    for (u32 first = 0; first < (n + ROW - 1) / ROW; first += WARP) {
        u32 row = first + lane_index(), count = 0;
        bool there = row < (n + ROW - 1) / ROW;
        if (there) {
            u64 bits = mask.rows[row];
            count = count_ones(u32(bits)) + count_ones(u32(bits >> 32));
            if (row < n / ROW && row % SPARSE_STRIDE == 0) {
                n_counted += ROW;
                n_set += count;
            }
        }
        u32 behind = n_before + prefix_of_warp(count);
        if (there) mask.before[row] = behind - count;
        n_before = shuffle(behind, WARP - 1);
    }
    n_counted = sum_of_warp(n_counted);
    n_set = sum_of_warp(n_set);
    return {n_before, n_counted != 0 && (n_counted - n_set) << SPARSE_LOG >= n_counted};
}

// Cut words into planes: those that the mask names into `packed`, all into `plain`; either may be null.
template <class Word>
DEVICE void split_both(const Block& block, const Job& job, Mask mask, u8* packed, u8* signs, u8* plain,
                       u64 room) {
    constexpr u32 WIDTH = 8 * sizeof(Word);
    u32 n_planes = job.n_planes, transform = job.transform;
    const u8* bits = job.bits;
    for (u32 i = thread_index(); i < block.n; i += n_threads()) {
        Word x = word_at<Word>(block, i), y = transformed(x, transform);
        u32 index, below = WIDTH;
        bool kept = mask.find(i, index);
        if (packed != nullptr && !kept) signs[i - index] = x >> (WIDTH - 1);
#pragma unroll 1
        for (u32 p = MASK_AND_SIGNS; p < n_planes; p++) {
            below -= bits[p];
            u8 symbol = u64(y) >> below & ((1u << bits[p]) - 1);
            u64 at = (p - MASK_AND_SIGNS) * room;
            if (packed != nullptr && kept) packed[at + index] = symbol;
            if (plain != nullptr) plain[at + i] = symbol;
        }
    }
}

struct SplitShared {
    u64 sums[TILE_SUMS];
    u64 rows[MAX_ROWS];
    u32 before[MAX_ROWS];
    Zeros zeros;
    Place place;
};

// All that `split_full_blocks` does for a block of a sparse frame; the hash.
template <class Word>
DEVICE u64 split_sparse(const Block& block, const Job& job, u8* slots, u64 room, u32* counts,
                        SplitShared& shared) {
    Mask mask = {shared.rows, shared.before};
    u64 hash = xxh3(block.words, block.n * sizeof(Word), shared.sums);
    find_zeros<Word>(block, Word(~Word(0)) >> is_float(job), mask, slots + MASK * room);
    sync_block();
    if (warp_index() == 0) {
        Zeros zeros = count_zeros(mask, block.n);
        if (lane_index() == 0) shared.zeros = zeros;
    }
    sync_block();
    u32 n = block.n, n_kept = shared.zeros.n_kept, n_planes = job.n_planes;
    bool packed = shared.zeros.promising;
    bool sure = is_float(job) && (n - n_kept) << SPARSE_SURE_LOG >= n, plain = !packed || !sure;
    split_both<Word>(block, job, mask, packed ? slots + MASK_AND_SIGNS * room : nullptr,
                     slots + SIGNS * room, plain ? slots + n_planes * room : nullptr, room);
    u32 s = thread_index();
    if (s < n_planes) counts[s] = packed ? n_symbols_of(job, n, n_kept, s) : NOT_TRIED;
    else if (s < n_slots_of(job)) counts[s] = plain ? n : NOT_TRIED;
    return hash;
}

template <class Word>
DEVICE u64 split_full(const Block& block, const Job& job, u8* slots, u64 room, u32* counts,
                      SplitShared& shared) {
    if (is_sparse(job)) return split_sparse<Word>(block, job, slots, room, counts, shared);
    if (thread_index() < job.n_planes) counts[thread_index()] = block.n;
    return split_all<Word>(block, job, slots, room, shared.sums);
}

// Block of threads `i` reads block `first_block + i`; its slots lie in `symbols` from slot number
// `first_slot` on, `room` bytes each, and `counts` says how many symbols they have.
KERNEL split_full_blocks(const Job* jobs, u64 n_jobs, u64 first_block, u64 first_slot, u8* symbols, u64 room,
                         u32* counts, u64* hashes) {
    __shared__ SplitShared shared;
    u64 b = first_block + block_index();
    const Job& job = jobs[job_of_block(jobs, n_jobs, b)];
    u64 index = b - job.first_block;
    Block block = {};
    block.words = job.words + (index << job.block_log) * job.word_bytes;
    block.n = words_of_block(job, index);
    block.predicted = (job.flags & PREDICTED) != 0;
    if (block.predicted) {
        if (thread_index() == 0) shared.place = place_of(job, index);
        sync_block();
        block.model.begin(job);
        block.place = shared.place;
    }
    u64 slot = job.first_slot + index * n_slots_of(job) - first_slot;
    u8* slots = symbols + slot * room;
    counts += slot;
    u64 hash;
    if (job.word_bytes == 1) hash = split_full<u8>(block, job, slots, room, counts, shared);
    else if (job.word_bytes == 2) hash = split_full<u16>(block, job, slots, room, counts, shared);
    else if (job.word_bytes == 4) hash = split_full<u32>(block, job, slots, room, counts, shared);
    else hash = split_full<u64>(block, job, slots, room, counts, shared);
    if (thread_index() == 0) hashes[b] = hash;
}

// A warp for each of the `n_slots` slots from `first_slot` on: `coded_entries` get what they would be
// as entries.
KERNEL encode_full_planes(const Job* jobs, u64 n_jobs, u64 profile, u64 first_slot, u64 n_slots,
                          const u8* symbols, u8* coded, u64 room, const u32* counts, u32* coded_entries) {
    __shared__ Choice choices[ENCODE_WARPS];
    u64 i = block_index() * ENCODE_WARPS + warp_index();
    if (i >= n_slots) return;
    const Job& job = jobs[job_of(n_jobs, first_slot + i, [=](u64 j) { return jobs[j].first_slot; })];
    u32 slot = (first_slot + i - job.first_slot) % n_slots_of(job), n = counts[i];
    u32 plane = slot < job.n_planes ? slot : slot - job.n_planes + MASK_AND_SIGNS;
    u32 entry = ZERO;
    if (n == NOT_TRIED) entry = NOT_TRIED;
    else if (n != 0) {
        entry = encode_plane(symbols + i * room, n, job.bits[plane], profile, coded + i * room, room,
                             choices[warp_index()]);
    }
    if (lane_index() == 0) coded_entries[i] = entry;
}

// A thread for each of `n_blocks` blocks takes the smaller way: its entries, and `sources`, the slots of
// these in this launch. `packed[j]` becomes 1 if a block of job `j` is packed.
KERNEL choose_ways(const Job* jobs, u64 n_jobs, u64 first_block, u64 n_blocks, u64 first_slot,
                   const u32* coded_entries, u32* entries, u32* sources, u32* packed) {
    u64 i = block_index() * n_threads() + thread_index();
    if (i >= n_blocks) return;
    u64 b = first_block + i, j = job_of_block(jobs, n_jobs, b);
    const Job& job = jobs[j];
    u64 index = b - job.first_block, e = job.first_entry + index * job.n_planes;
    u32 n = job.n_planes, slot = job.first_slot + index * n_slots_of(job) - first_slot, p = 0;
    const u32* ways = coded_entries + slot;
    if (is_sparse(job)) {
        const u32* plain = ways + n;
        bool pack = ways[0] != NOT_TRIED;
        if (pack && plain[0] != NOT_TRIED) {
            pack = payloads_bytes(ways, n) < payloads_bytes(plain, n - MASK_AND_SIGNS);
        }
        if (pack) {
            packed[j] = 1;
        } else {
            entries[e + MASK] = NOT_PACKED_MASK;
            entries[e + SIGNS] = NOT_PACKED_SIGNS;
            p = MASK_AND_SIGNS;
            slot += n - MASK_AND_SIGNS;  // so that plane 2 has the first of the plain slots
        }
    }
    for (; p < n; p++) {
        entries[e + p] = coded_entries[slot + p];
        sources[e + p] = slot + p;
    }
}
