// SPDX-License-Identifier: Apache-2.0
// XXH3-64 by a block of threads: the other half of checksum.py.
//
// Within 16 stripes (a group of 1 KiB) the hash is a sum, so that lanes may add in any order. Only
// the scrambling between groups is serial: a few operations a group, on sums in shared memory, by
// eight lanes. Data is read once, by whoever has it in registers anyway.

constexpr u32 GROUP_BYTES = HASH_STRIPES * HASH_STRIPE;
constexpr u32 ACCUMULATORS = HASH_STRIPE / 8;
constexpr u32 TILE_GROUPS = 64;  // whose sums wait in shared memory
constexpr u32 TILE_SUMS = TILE_GROUPS * ACCUMULATORS;

// The length that is hashed: zeros follow.
DEVICE u64 hashed_bytes(u64 n_raw) {
    u64 n = (n_raw + HASH_STRIPE - 1) / HASH_STRIPE * HASH_STRIPE;
    return n < HASH_MIN_BYTES ? HASH_MIN_BYTES : n;
}

// What 16 bytes add to accumulators 0 and 1 of their four pairs.
DEVICE void accumulate(Chunk data, u64 key_low, u64 key_high, u64& low, u64& high) {
    u64 a = data.low ^ key_low, b = data.high ^ key_high;
    low += u64(u32(a)) * (a >> 32) + data.high;
    high += u64(u32(b)) * (b >> 32) + data.low;
}

struct GroupKeys {  // of the two chunks that a lane has of each group
    u64 first[2], second[2];

    DEVICE_METHOD void begin() {
        const u64* keys = HASH_KEYS + lane_index() / 4 + 2 * (lane_index() & 3);
        for (u32 i = 0; i < 2; i++) {
            first[i] = keys[i];
            second[i] = keys[i + HASH_STRIPES / 2];
        }
    }
};

// A warp adds up a group. Lane `i` holds its 16 bytes number `i` and `i + 32`.
DEVICE void sum_group(Chunk first, Chunk second, const GroupKeys& keys, u64 group, u64 n_raw, u64* sums) {
    u32 pair = 2 * (lane_index() & 3);
    u64 low = 0, high = 0;
    u64 n_stripes = hashed_bytes(n_raw) / HASH_STRIPE;
    if ((group + 1) * HASH_STRIPES < n_stripes) {
        accumulate(first, keys.first[0], keys.first[1], low, high);
        accumulate(second, keys.second[0], keys.second[1], low, high);
    } else {  // the last group: the last stripe has keys of its own, and none follows
        const u64* last = HASH_LAST_KEYS + pair;
        u64 stripe = group * HASH_STRIPES + lane_index() / 4, after = stripe + HASH_STRIPES / 2;
        if (stripe + 1 < n_stripes) accumulate(first, keys.first[0], keys.first[1], low, high);
        else if (stripe + 1 == n_stripes) accumulate(first, last[0], last[1], low, high);
        if (after + 1 < n_stripes) accumulate(second, keys.second[0], keys.second[1], low, high);
        else if (after + 1 == n_stripes) accumulate(second, last[0], last[1], low, high);
    }
    for (u32 mask = 4; mask < WARP; mask <<= 1) {
        low += shuffle_xor(low, mask);
        high += shuffle_xor(high, mask);
    }
    if (lane_index() < 4) {
        sums[pair] = low;
        sums[pair + 1] = high;
    }
}

DEVICE u64 hash_begin() { return HASH_FIRST[lane_index() % ACCUMULATORS]; }

// Lane `i` adds the sums of `n_groups` groups to accumulator `i` (mod 8); `last` has no successor.
DEVICE u64 hash_groups(u64 state, const u64* sums, u32 n_groups, bool last) {
    u32 i = lane_index() % ACCUMULATORS;
    u64 key = HASH_KEYS[16 + i];
    for (u32 group = 0; group < n_groups; group++) {
        state += sums[group * ACCUMULATORS + i];
        if (!last || group + 1 < n_groups) state = (state ^ state >> 47 ^ key) * PRIME32_1;
    }
    return state;
}

DEVICE u64 hash_end(u64 state, u64 n_raw) {
    u64 mixed = state ^ HASH_MERGE_KEYS[lane_index() % ACCUMULATORS];
    u64 other = shuffle_xor(mixed, 1);
    u64 digest = (mixed * other) ^ high_product(mixed, other);
    digest += shuffle_xor(digest, 2);
    digest += shuffle_xor(digest, 4);
    digest += hashed_bytes(n_raw) * PRIME64_1;
    digest = (digest ^ digest >> 37) * AVALANCHE;
    return digest ^ digest >> 32;
}

// XXH3-64 of the `n_raw` bytes that `chunk_at(at)` returns, 16 at a time: `at` is a multiple of 16, and
// bytes from `n_raw` on are zero. All threads of the block call it, each `at` is asked for once,
// and the threads of the first warp get the hash. `sums` is shared memory, TILE_SUMS long.
template <class Source>
DEVICE u64 xxh3_of(Source chunk_at, u64 n_raw, u64* sums) {
    u64 n_groups = (hashed_bytes(n_raw) + GROUP_BYTES - 1) / GROUP_BYTES;
    u64 state = hash_begin();
    GroupKeys keys;
    keys.begin();
    for (u64 tile = 0; tile < n_groups; tile += TILE_GROUPS) {
        u32 count = n_groups - tile < TILE_GROUPS ? n_groups - tile : TILE_GROUPS;
        for (u32 i = warp_index(); i < count; i += n_threads() / WARP) {
            u64 at = (tile + i) * GROUP_BYTES + lane_index() * CHUNK;
            Chunk first = chunk_at(at);
            Chunk second = chunk_at(at + WARP * CHUNK);
            sum_group(first, second, keys, tile + i, n_raw, sums + i * ACCUMULATORS);
        }
        sync_block();
        if (warp_index() == 0) state = hash_groups(state, sums, count, tile + count == n_groups);
        sync_block();
    }
    return hash_end(state, n_raw);
}

// XXH3-64 of `n_raw` bytes at `source` (16-byte aligned), padded with zeros as the format says.
DEVICE u64 xxh3(const u8* source, u64 n_raw, u64* sums) {
    return xxh3_of([=](u64 at) { return load_padded(source, at, n_raw); }, n_raw, sums);
}

// One block of threads hashes `n_raw` bytes into `hash`.
KERNEL hash_bytes(const u8* raw, u64 n_raw, u64* hash) {
    __shared__ u64 sums[TILE_SUMS];
    u64 value = xxh3(raw, n_raw, sums);
    if (thread_index() == 0) *hash = value;
}
