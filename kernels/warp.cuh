// SPDX-License-Identifier: Apache-2.0
// The only CUDA built-ins: what a thread asks of its warp, of its block and of the processor.
//
// Everything else is plain C++ on the types and functions of this file, so that a host compiler can
// run the kernels too. Collectives are called by all 32 lanes of a warp, always.

typedef unsigned char u8;
typedef unsigned short u16;
typedef unsigned int u32;
typedef unsigned long long u64;
typedef int i32;
typedef long long i64;

struct alignas(16) Chunk {  // what one vector load or store moves
    u64 low, high;
};

struct alignas(8) Pair {
    u32 first, second;
};

constexpr u32 ALL_LANES = 0xFFFFFFFFu;
constexpr u32 WARP = 32;
constexpr u32 CHUNK = sizeof(Chunk);

#define DEVICE static __device__ __forceinline__
#define DEVICE_METHOD __device__ __forceinline__
#define KERNEL extern "C" __global__ void

DEVICE u32 thread_index() { return threadIdx.x; }
DEVICE u32 n_threads() { return blockDim.x; }
DEVICE u64 block_index() { return blockIdx.x; }
DEVICE u64 n_blocks_launched() { return gridDim.x; }
DEVICE u32 lane_index() { return threadIdx.x & 31u; }
DEVICE u32 warp_index() { return threadIdx.x >> 5; }

DEVICE void sync_block() { __syncthreads(); }
// Orders the memory accesses of the lanes of a warp.
DEVICE void sync_warp() { __syncwarp(ALL_LANES); }

DEVICE u32 ballot(bool yes) { return __ballot_sync(ALL_LANES, yes); }
DEVICE u32 shuffle(u32 value, u32 lane) { return __shfl_sync(ALL_LANES, value, lane); }
DEVICE u64 shuffle(u64 value, u32 lane) { return __shfl_sync(ALL_LANES, value, lane); }
DEVICE u32 shuffle_xor(u32 value, u32 mask) { return __shfl_xor_sync(ALL_LANES, value, mask); }
DEVICE u64 shuffle_xor(u64 value, u32 mask) { return __shfl_xor_sync(ALL_LANES, value, mask); }
DEVICE u32 shuffle_up(u32 value, u32 lanes) { return __shfl_up_sync(ALL_LANES, value, lanes); }
DEVICE u64 shuffle_up(u64 value, u32 lanes) { return __shfl_up_sync(ALL_LANES, value, lanes); }

// The lanes whose value is that of this one.
DEVICE u32 lanes_with(u32 value) { return __match_any_sync(ALL_LANES, value); }

DEVICE u32 count_ones(u32 x) { return __popc(x); }
DEVICE u32 first_one(u32 x) { return __ffs(x) - 1; }     // of a mask that is not 0
DEVICE u32 bit_length(u32 x) { return 32 - __clz(x); }
DEVICE u32 high_product(u32 a, u32 b) { return __umulhi(a, b); }
DEVICE u64 high_product(u64 a, u64 b) { return __umul64hi(a, b); }

DEVICE u32 bits_of(float x) { return __float_as_uint(x); }
DEVICE float float_of(u32 bits) { return __uint_as_float(bits); }

// Byte `i` of the result is byte number (digit `i` of `digits`) of the eight of `low` and `high`.
DEVICE u32 pick_bytes(u32 low, u32 high, u32 digits) { return __byte_perm(low, high, digits); }

// Shared memory only, and only for sums: their order does not matter.
DEVICE void add_atomically(u32* sum, u32 value) { atomicAdd(sum, value); }

DEVICE Chunk load_chunk(const u8* from) {
    ulonglong2 v = *reinterpret_cast<const ulonglong2*>(from);
    return {v.x, v.y};
}

DEVICE void store_chunk(u8* to, Chunk chunk) {
    *reinterpret_cast<ulonglong2*>(to) = make_ulonglong2(chunk.low, chunk.high);
}

// --- built on these -------------------------------------------------------------------------------

DEVICE u32 lanes_below() { return (1u << lane_index()) - 1; }

template <class T>
DEVICE T sum_of_warp(T value) {
    for (u32 mask = WARP / 2; mask != 0; mask >>= 1) value += shuffle_xor(value, mask);
    return value;
}

template <class T>
DEVICE T max_of_warp(T value) {
    for (u32 mask = WARP / 2; mask != 0; mask >>= 1) {
        T other = shuffle_xor(value, mask);
        value = other > value ? other : value;
    }
    return value;
}

// The bits that any lane has.
DEVICE u32 or_of_warp(u32 bits) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ >= 800
    return __reduce_or_sync(ALL_LANES, bits);
#else
    for (u32 mask = WARP / 2; mask != 0; mask >>= 1) bits |= shuffle_xor(bits, mask);
    return bits;
#endif
}

// Sum of the values of the lanes up to this one.
template <class T>
DEVICE T prefix_of_warp(T value) {
    for (u32 distance = 1; distance < WARP; distance <<= 1) {
        T other = shuffle_up(value, distance);
        if (lane_index() >= distance) value += other;
    }
    return value;
}

// The value of the first lane whose value is not 0, else 0.
DEVICE u32 first_of_warp(u32 value) {
    u32 lanes = ballot(value != 0);
    return lanes == 0 ? 0 : shuffle(value, first_one(lanes));
}

// --- memory that is not aligned, or ends early --------------------------------------------------------

DEVICE u64 joined(u32 low, u32 high) { return low | u64(high) << 32; }

DEVICE u32 read_u16(const u8* at) { return at[0] | at[1] << 8; }
DEVICE u32 read_u32(const u8* at) { return read_u16(at) | read_u16(at + 2) << 16; }

DEVICE void write_u16(u8* at, u32 value) {
    at[0] = value;
    at[1] = value >> 8;
}

DEVICE void write_u32(u8* at, u32 value) {
    write_u16(at, value);
    write_u16(at + 2, value >> 16);
}

// 16 bytes at `from + at`, zeros from `n` on. `from` is aligned, `at` a multiple of 16.
template <class Size>
DEVICE Chunk load_padded(const u8* from, Size at, Size n) {
    if (at + CHUNK <= n) return load_chunk(from + at);
    Chunk chunk = {0, 0};
#pragma unroll 1
    for (u32 i = 0; i < CHUNK && at + i < n; i++) {
        (i < 8 ? chunk.low : chunk.high) |= u64(from[at + i]) << (8 * (i & 7));
    }
    return chunk;
}

template <class Size>
DEVICE void store_padded(u8* to, Size at, Size n, Chunk chunk) {
    if (at + CHUNK <= n) return store_chunk(to + at, chunk);
#pragma unroll 1
    for (u32 i = 0; i < CHUNK && at + i < n; i++) {
        to[at + i] = (i < 8 ? chunk.low : chunk.high) >> (8 * (i & 7));
    }
}

// The first `n` bytes, then zeros.
DEVICE Chunk keep_bytes(Chunk chunk, u32 n) {
    if (n >= CHUNK) return chunk;
    u64 mask = (1ull << (8 * (n & 7))) - 1;
    return n < 8 ? Chunk{chunk.low & mask, 0} : Chunk{chunk.low, chunk.high & mask};
}
