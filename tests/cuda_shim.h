// SPDX-License-Identifier: Apache-2.0
// Runs the CUDA kernels on the host: every CUDA thread is a fiber, switched at collectives.
//
// Threads of a block run one at a time, in an order drawn from a seed, and only wait where CUDA lets
// them: in warp collectives and at the barrier of the block. Shared memory holds garbage when a
// block starts. What a kernel reads too early for want of a barrier is then wrong in some order.
// Anything CUDA leaves undefined is an error here: lanes in different collectives, threads that
// end while others wait for them, partial masks.
#pragma once
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/asan_interface.h>
#include <sanitizer/common_interface_defs.h>
#endif

#define __global__
#define __device__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __shared__ static __attribute__((section("gpu_shared"), used))
extern "C" char __start_gpu_shared[], __stop_gpu_shared[];

namespace shim {

constexpr size_t STACK = 128 << 10;
constexpr int POISON = 0xA5;

enum Order { ROUND_ROBIN, RANDOM_THREAD, RANDOM_WARP };

struct Fiber {
    void* sp;
    char* stack;
    void* fake;  // of the address sanitizer
};

struct Warp {
    uint32_t arrived;
    const char* what;
    uint64_t in[32], out[32];
    uint32_t argument[32];
};

inline std::vector<Fiber> fibers;
inline std::vector<Warp> warps;
inline std::vector<unsigned> ready, at_barrier, priority;
inline unsigned current, n_alive, block_index, block_size, n_blocks;
inline void* launcher;
inline void (*kernel)(const uint64_t*);
inline const uint64_t* arguments;
inline uint64_t random_state;
inline Order order;
inline uint64_t n_switches;
inline char message[256];

inline uint32_t random_below(uint32_t n) {
    random_state = random_state * 6364136223846793005u + 1442695040888963407u;
    return uint32_t((random_state >> 33) * n >> 31);
}

#if defined(__x86_64__)
extern "C" void shim_switch(void** save, void* load);
__asm__(R"(
.text
.type shim_switch,@function
shim_switch:
  pushq %rbp; pushq %rbx; pushq %r12; pushq %r13; pushq %r14; pushq %r15
  movq %rsp,(%rdi)
  movq %rsi,%rsp
  popq %r15; popq %r14; popq %r13; popq %r12; popq %rbx; popq %rbp
  ret
.size shim_switch,.-shim_switch
)");
#else
#error "the shim switches stacks on x86-64 only"
#endif

inline void leave_for(void** save, void* sp, void** fake, const char* stack) {
    n_switches++;
#if defined(__SANITIZE_ADDRESS__)
    static const void* launcher_stack;
    static size_t launcher_size;
    __sanitizer_start_switch_fiber(fake, stack ? stack : launcher_stack,
                                   stack ? STACK : launcher_size);
    shim_switch(save, sp);
    const void* from;
    size_t size;
    __sanitizer_finish_switch_fiber(fake ? *fake : nullptr, &from, &size);
#else
    (void)fake, (void)stack;
    shim_switch(save, sp);
#endif
}

[[noreturn]] inline void fail(const char* text) {
    snprintf(message, sizeof message, "block %u, thread %u: %s", block_index, current, text);
    void* abandoned;
    leave_for(&abandoned, launcher, nullptr, nullptr);
    abort();
}

inline unsigned take_next() {
    if (ready.empty()) {
        const char* what = "for the barrier";
        for (Warp& w : warps)
            if (w.arrived) what = w.what;
        char text[128];
        snprintf(text, sizeof text, "deadlock: %u threads wait, some %s", n_alive, what);
        fail(text);
    }
    size_t i = 0;
    if (order == RANDOM_THREAD) i = random_below(ready.size());
    if (order == RANDOM_WARP)
        for (size_t k = 1; k < ready.size(); k++)
            if (priority[ready[k] / 32] > priority[ready[i] / 32]) i = k;
    unsigned next = ready[i];
    ready.erase(ready.begin() + i);
    return next;
}

inline void switch_away() {
    Fiber& me = fibers[current];
    unsigned next = take_next();
    if (next == current) return;
    current = next;
    leave_for(&me.sp, fibers[next].sp, &me.fake, fibers[next].stack);
}

// A point where CUDA may run any other thread first.
inline void pause() {
    if (order == ROUND_ROBIN || random_below(4)) return;
    ready.push_back(current);
    switch_away();
}

template <class F>
uint64_t collective(const char* what, uint32_t mask, uint64_t value, uint32_t argument, F finish) {
    unsigned lane = current % 32;
    Warp& w = warps[current / 32];
    if (mask != 0xFFFFFFFFu) fail("a collective with a partial mask");
    if (w.arrived && w.what != what) fail("lanes of a warp are in different collectives");
    w.what = what;
    w.in[lane] = value;
    w.argument[lane] = argument;
    w.arrived |= 1u << lane;
    if (w.arrived != mask) {
        switch_away();
    } else {
        finish(w);
        w.arrived = 0;
        for (unsigned i = 0; i < 32; i++)
            if (i != lane) ready.push_back(current / 32 * 32 + i);
        pause();
    }
    return w.out[lane];
}

inline void barrier() {
    at_barrier.push_back(current);
    if (at_barrier.size() < block_size) return switch_away();
    at_barrier.pop_back();
    ready.insert(ready.end(), at_barrier.begin(), at_barrier.end());
    at_barrier.clear();
    pause();
}

inline void thread_main() {
#if defined(__SANITIZE_ADDRESS__)
    __sanitizer_finish_switch_fiber(nullptr, nullptr, nullptr);
#endif
    kernel(arguments);
    void* ended;
    if (--n_alive == 0) leave_for(&ended, launcher, nullptr, nullptr);
    current = take_next();
    leave_for(&ended, fibers[current].sp, nullptr, fibers[current].stack);
    abort();
}

inline void run_block(unsigned index) {
    block_index = index;
    n_alive = block_size;
    memset(__start_gpu_shared, POISON, __stop_gpu_shared - __start_gpu_shared);
    warps.assign(block_size / 32, {});
    priority.clear();
    for (unsigned i = 0; i < block_size / 32; i++) priority.push_back(random_below(1 << 16));
    ready.clear();
    at_barrier.clear();
    while (fibers.size() < block_size)
        fibers.push_back({nullptr, (char*)aligned_alloc(64, STACK), nullptr});
    for (unsigned t = 0; t < block_size; t++) {
        Fiber& f = fibers[t];
#if defined(__SANITIZE_ADDRESS__)
        __asan_unpoison_memory_region(f.stack, STACK);
#endif
        void** sp = (void**)(f.stack + STACK - 64);
        *--sp = nullptr;
        *--sp = (void*)thread_main;
        for (int i = 0; i < 6; i++) *--sp = nullptr;
        f.sp = sp;
        f.fake = nullptr;
        ready.push_back(t);
    }
    current = take_next();
    void* fake = nullptr;
    leave_for(&launcher, fibers[current].sp, &fake, fibers[current].stack);
}

}  // namespace shim

struct ThreadIndex {
    struct {
        operator unsigned() const { return shim::current; }
    } x;
};
struct BlockIndex {
    struct {
        operator unsigned() const { return shim::block_index; }
    } x;
};
struct BlockSize {
    struct {
        operator unsigned() const { return shim::block_size; }
    } x;
};
struct GridSize {
    struct {
        operator unsigned() const { return shim::n_blocks; }
    } x;
};
inline ThreadIndex threadIdx;
inline BlockIndex blockIdx;
inline BlockSize blockDim;
inline GridSize gridDim;

struct alignas(16) ulonglong2 {
    unsigned long long x, y;
};
inline ulonglong2 make_ulonglong2(unsigned long long x, unsigned long long y) { return {x, y}; }
struct alignas(8) uint2 {
    unsigned x, y;
};
inline uint2 make_uint2(unsigned x, unsigned y) { return {x, y}; }

inline void __syncthreads() { shim::barrier(); }

inline void __syncwarp(uint32_t mask) {
    shim::collective("in __syncwarp", mask, 0, 0, [](shim::Warp&) {});
}

inline uint32_t __ballot_sync(uint32_t mask, bool yes) {
    return shim::collective("in __ballot_sync", mask, yes, 0, [](shim::Warp& w) {
        uint64_t votes = 0;
        for (int i = 0; i < 32; i++) votes |= w.in[i] << i;
        for (uint64_t& out : w.out) out = votes;
    });
}

inline uint32_t __match_any_sync(uint32_t mask, uint32_t value) {
    return shim::collective("in __match_any_sync", mask, value, 0, [](shim::Warp& w) {
        for (int i = 0; i < 32; i++) {
            w.out[i] = 0;
            for (int j = 0; j < 32; j++) w.out[i] |= uint64_t(w.in[i] == w.in[j]) << j;
        }
    });
}

template <class T>
T __shfl_sync(uint32_t mask, T value, uint32_t lane) {
    return shim::collective("in __shfl_sync", mask, value, lane, [](shim::Warp& w) {
        for (int i = 0; i < 32; i++) w.out[i] = w.in[w.argument[i] & 31];
    });
}

template <class T>
T __shfl_xor_sync(uint32_t mask, T value, uint32_t bits) {
    return shim::collective("in __shfl_xor_sync", mask, value, bits, [](shim::Warp& w) {
        for (int i = 0; i < 32; i++) w.out[i] = w.in[(i ^ w.argument[i]) & 31];
    });
}

template <class T>
T __shfl_up_sync(uint32_t mask, T value, uint32_t distance) {
    return shim::collective("in __shfl_up_sync", mask, value, distance, [](shim::Warp& w) {
        for (int i = 0; i < 32; i++)
            w.out[i] = w.in[uint32_t(i) < w.argument[i] ? i : i - w.argument[i]];
    });
}

inline int __popc(uint32_t x) { return __builtin_popcount(x); }
inline int __clz(uint32_t x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(uint32_t x) { return __builtin_ffs(x); }
inline uint32_t __umulhi(uint32_t a, uint32_t b) { return uint64_t(a) * b >> 32; }
inline uint64_t __umul64hi(uint64_t a, uint64_t b) { return (unsigned __int128)(a)*b >> 64; }

inline uint32_t __float_as_uint(float x) {
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}
inline float __uint_as_float(uint32_t bits) {
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

inline uint32_t __byte_perm(uint32_t low, uint32_t high, uint32_t digits) {
    uint64_t bytes = uint64_t(high) << 32 | low;
    uint32_t picked = 0;
    for (int i = 0; i < 4; i++)
        picked |= uint32_t(bytes >> (digits >> (4 * i) & 7) * 8 & 255) << (8 * i);
    return picked;
}

inline void atomicAdd(uint32_t* sum, uint32_t value) {
    shim::pause();
    *sum += value;
}

// --- what Python calls ----------------------------------------------------------------------------

struct Entry {
    const char* name;
    void (*call)(const uint64_t*);
};
extern const Entry ENTRIES[];

extern "C" {
// Heap memory, so that sanitizers know its bounds. It holds garbage.
inline __attribute__((used)) void* shim_allocate(size_t n_bytes) {
    void* memory = aligned_alloc(256, (n_bytes + 255) / 256 * 256);
    if (memory) memset(memory, shim::POISON, (n_bytes + 255) / 256 * 256);
#if defined(__SANITIZE_ADDRESS__)
    __asan_poison_memory_region((char*)memory + n_bytes, -n_bytes & 255);
#endif
    return memory;
}

inline __attribute__((used)) void shim_free(void* memory, size_t n_bytes) {
#if defined(__SANITIZE_ADDRESS__)
    __asan_unpoison_memory_region(memory, (n_bytes + 255) / 256 * 256);
#endif
    (void)n_bytes;
    free(memory);
}

inline __attribute__((used)) uint64_t shim_switches() { return shim::n_switches; }

// null if all went well, else what the kernel did wrong
inline __attribute__((used)) const char* shim_launch(const char* name, unsigned n_blocks,
                                                     unsigned n_threads, const uint64_t* arguments,
                                                     int order, uint64_t seed) {
    using namespace shim;
    const Entry* entry = ENTRIES;
    while (entry->name && strcmp(entry->name, name)) entry++;
    if (!entry->name) return "no such kernel";
    if (n_threads == 0 || n_threads % 32 || n_threads > 1024) return "no such block size";
    kernel = entry->call;
    shim::arguments = arguments;
    shim::n_blocks = n_blocks;
    block_size = n_threads;
    shim::order = Order(order);
    random_state = seed * 2 + 1;
    message[0] = 0;
    std::vector<unsigned> blocks;
    for (unsigned b = 0; b < n_blocks; b++) blocks.push_back(b);
    if (shim::order != ROUND_ROBIN)
        for (unsigned b = n_blocks; b > 1; b--) std::swap(blocks[b - 1], blocks[random_below(b)]);
    for (unsigned b : blocks) {
        run_block(b);
        if (message[0]) return message;
    }
    return nullptr;
}
}
