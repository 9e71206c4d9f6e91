// SPDX-License-Identifier: Apache-2.0
// Many short pieces of memory, such as the heads of frames, side by side for one copy to the host.

struct Run {  // of bytes; kernels/cuda.py has the same fields
    const u8* from;
    u64 n_bytes;
    u64 to;  // where it goes, in bytes
};

// Block of threads `i` copies run `i`.
KERNEL gather_runs(const Run* runs, u8* out) {
    Run run = runs[block_index()];
    for (u64 i = thread_index(); i < run.n_bytes; i += n_threads()) out[run.to + i] = run.from[i];
}
