// SPDX-License-Identifier: Apache-2.0
// The search for models, of all matrices of a batch at once: the other half of predictor_fit.py.
//
// The steps are those of that file. All is in integers, and sums have no order: what a lane, a warp or a
// block of threads adds up is what the CPU does. Nothing is read back between the steps.

namespace fitting {

typedef signed char i8;

struct Found {  // about a matrix; what the host reads at the end comes first
    i64 base, tile_rows, rank, is_worth;
    i64 energy, n_words;
};

struct Fit {  // a matrix, and memory for what is found; kernels/cuda.py has the same fields
    const u8* words;
    Found* found;
    i8 *rows, *columns, *row_factors, *column_factors;  // the parts of the model
    i32* means;     // [n_rows]; -1 for a row without words
    i32* sums;      // [n_groups, n_columns]
    u32* counts;    // of the words in these
    u64* energies;  // [n_groups, 2], and again the number of words
    short* logs;    // [n_sampled, n_columns]
    short* rest;    // of the same rows, what is left
    i32* q;         // [n_columns]
    short* factor;  // [n_columns]
    u64 n_rows, first_row, first_group;
    u32 n_columns, word_bytes, shift, max_rank;
};

constexpr u32 ROW_WARPS = 8, THREADS = 512;
constexpr i32 STEP = 1 << OFFSET_STEP_LOG, MISSING = -32768;

DEVICE i64 floor_divide(i64 p, i64 q) {
    i64 result = p / q;
    return p % q < 0 ? result - 1 : result;
}

DEVICE i64 round_divide(i64 p, i64 q) { return floor_divide(2 * p + q, 2 * q); }
DEVICE i32 limit(i64 x) { return x > 127 ? 127 : x < -127 ? -127 : i32(x); }
DEVICE i32 clip(i32 x) { return x > i32(CLIP) ? i32(CLIP) : x < -i32(CLIP) ? -i32(CLIP) : x; }
DEVICE i64 magnitude_of(i64 x) { return x < 0 ? -x : x; }

// log2 of `max(1, x)` with LOG2_BITS bits of fraction.
DEVICE i64 log2_long(u64 x) {
    u32 doublings = 0;
    while (x >> 32 != 0) {
        x >>= 1;
        doublings++;
    }
    return (i64(doublings) << LOG2_BITS) + log2_fixed(x == 0 ? 1 : x);
}

// Sum over a block of threads, for all of them. `partial` is shared memory, one for each warp.
DEVICE i64 sum_of_block(i64 value, u64* partial) {
    u64 sum = sum_of_warp(u64(value));
    if (lane_index() == 0) partial[warp_index()] = sum;
    sync_block();
    sum = 0;
    for (u32 w = 0; w < n_threads() / WARP; w++) sum += partial[w];
    sync_block();
    return i64(sum);
}

DEVICE i64 max_of_block(i64 value, u64* partial) {
    u64 most = max_of_warp(u64(value));
    if (lane_index() == 0) partial[warp_index()] = most;
    sync_block();
    most = 0;
    for (u32 w = 0; w < n_threads() / WARP; w++) most = partial[w] > most ? partial[w] : most;
    sync_block();
    return i64(most);
}

DEVICE u32 n_groups_of(const Fit& fit) { return (fit.n_rows + GROUP - 1) / GROUP; }
DEVICE u32 n_sampled_of(const Fit& fit) { return fit.n_rows < SAMPLE_ROWS ? fit.n_rows : SAMPLE_ROWS; }

// The log of a word in 1/64 octaves, 0 if it is missing.
DEVICE i32 log_of(const Fit& fit, u64 i, u32 j) {
    u64 at = i * fit.n_columns + j;
    if (fit.word_bytes == 2) {
        return (reinterpret_cast<const u16*>(fit.words)[at] & 0x7FFFu) >> fit.shift;
    }
    return (reinterpret_cast<const u32*>(fit.words)[at] & 0x7FFFFFFFu) >> fit.shift;
}

DEVICE i32 take_off(i32 rest, i32 a, i32 b) { return clip(rest - (a * b >> FACTOR_LOG)); }

// The coefficient of a factor, from its square and its product with what is left of a row.
DEVICE i32 coefficient(i64 product, i64 square) {
    return square > 0 ? limit(round_divide(product * (1 << FACTOR_LOG), square)) : 0;
}

DEVICE const Fit& fit_of_row(const Fit* fits, u64 n_fits, u64 row) {
    return fits[job_of(n_fits, row, [=](u64 i) { return fits[i].first_row; })];
}

// Groups of a tile in choice `i`: all, or those of a smaller size.
DEVICE u32 groups_of_tile(u32 choice, u32 n_groups) {
    return choice == 0 ? n_groups : TILES[choice - 1] / GROUP;
}

// What the thread's columns take off, if tiles have so many groups; fills the columns if `columns` is
// not null.
DEVICE u64 fit_columns(const Fit& fit, u32 per_tile, i8* columns) {
    u32 n_groups = n_groups_of(fit), n = fit.n_columns;
    u64 taken = 0;
    for (u32 j = thread_index(); j < n; j += n_threads()) {
        i64 sum = 0, n_words = 0;
        for (u32 g = 0; g < n_groups; g++) {
            sum += fit.sums[u64(g) * n + j];
            n_words += fit.counts[u64(g) * n + j];
            if ((g + 1) % per_tile != 0 && g + 1 < n_groups) continue;
            if (columns != nullptr) {
                i32 column = n_words > 0 ? limit(round_divide(sum, STEP * n_words)) : 0;
                columns[u64(g / per_tile) * n + j] = column;
            }
            if (n_words > 0) taken += floor_divide(i64(u64(sum) * u64(sum)), n_words);
            sum = n_words = 0;
        }
    }
    return taken;
}

// `out = round(levels values / maximum)` for numbers of which the largest magnitude is known.
template <class Value, class Out>
DEVICE void scale(const Value* values, u32 n, i64 levels, i64 most, Out* out) {
    for (u32 j = thread_index(); j < n; j += n_threads()) {
        out[j] = round_divide(levels * i64(values[j]), most);
    }
}

template <class Value>
DEVICE i64 largest(const Value* values, u32 n, u64* partial) {
    i64 most = 0;
    for (u32 j = thread_index(); j < n; j += n_threads()) {
        i64 here = magnitude_of(values[j]);
        most = here > most ? here : most;
    }
    return max_of_block(most, partial);
}

// A warp's product of two rows.
DEVICE i64 dot(const short* a, const short* b, u32 n) {
    i64 sum = 0;
    for (u32 j = lane_index(); j < n; j += WARP) sum += i32(a[j]) * i32(b[j]);
    return i64(sum_of_warp(u64(sum)));
}

struct FactorShared {
    u64 partial[THREADS / WARP];
    i64 p[SAMPLE_ROWS];
    i32 a[SAMPLE_ROWS];
};

DEVICE i64 sum_of_rows(const i64* p, u32 n, u64* partial) {
    i64 sum = 0;
    for (u32 k = thread_index(); k < n; k += n_threads()) sum += p[k];
    return sum_of_block(sum, partial);
}

// The next factor of the sample, taken off it: whether there is one, and energies before and after.
DEVICE bool find_factor(const Fit& fit, FactorShared& shared, i64& before, i64& after) {
    u32 n = fit.n_columns, n_sampled = n_sampled_of(fit), n_warps = n_threads() / WARP;
    short *factor = fit.factor, *rest = fit.rest;
    for (u32 k = warp_index(); k < n_sampled; k += n_warps) {
        const short* row = rest + u64(k) * n;
        i64 energy = dot(row, row, n);
        if (lane_index() == 0) shared.p[k] = energy;
    }
    sync_block();
    before = sum_of_rows(shared.p, n_sampled, shared.partial);
    u32 strongest = 0;
    for (u32 k = 1; k < n_sampled; k++) strongest = shared.p[k] > shared.p[strongest] ? k : strongest;
    for (u32 j = thread_index(); j < n; j += n_threads()) factor[j] = rest[u64(strongest) * n + j];
    for (u32 turn = 0; turn < ITERATIONS; turn++) {
        sync_block();
        for (u32 k = warp_index(); k < n_sampled; k += n_warps) {
            i64 product = dot(rest + u64(k) * n, factor, n);
            if (lane_index() == 0) shared.p[k] = product;
        }
        sync_block();
        i64 most = largest(shared.p, n_sampled, shared.partial);
        if (most == 0) return false;
        scale(shared.p, n_sampled, LEVELS, most, shared.a);
        sync_block();
        for (u32 j = thread_index(); j < n; j += n_threads()) {
            i32 q = 0;
            for (u32 k = 0; k < n_sampled; k++) q += shared.a[k] * rest[u64(k) * n + j];
            fit.q[j] = q;
        }
        most = largest(fit.q, n, shared.partial);
        if (most == 0) return false;
        scale(fit.q, n, turn == ITERATIONS - 1 ? FACTOR_LEVELS : LEVELS, most, factor);
    }
    sync_block();
    for (u32 k = warp_index(); k < n_sampled; k += n_warps) {
        const short* logs = fit.logs + u64(k) * n;
        short* row = rest + u64(k) * n;
        i64 square = 0, energy = 0;
        for (u32 j = lane_index(); j < n; j += WARP) {
            if (logs[j] != 0) square += i32(factor[j]) * i32(factor[j]);
        }
        square = i64(sum_of_warp(u64(square)));
        i32 a = coefficient(dot(row, factor, n), square);
        for (u32 j = lane_index(); j < n; j += WARP) {
            if (logs[j] != 0) row[j] = take_off(row[j], a, factor[j]);
            energy += i32(row[j]) * i32(row[j]);
        }
        energy = i64(sum_of_warp(u64(energy)));
        if (lane_index() == 0) shared.p[k] = energy;
    }
    sync_block();
    after = sum_of_rows(shared.p, n_sampled, shared.partial);
    return true;
}

// A warp's order-0 bits of all symbols that are counted.
DEVICE i64 entropy(const u32* counts, u64 n_counted) {
    u64 below = 0;
    for (u32 s = lane_index(); s < 256; s += WARP) below += counts[s] * u64(log2_long(counts[s]));
    return i64(n_counted) * log2_long(n_counted) - i64(sum_of_warp(below));
}

}  // namespace fitting

// Step 1: a warp for each of the `n_rows` rows of all matrices finds its mean.
KERNEL fit_row_means(const fitting::Fit* fits, u64 n_fits, u64 n_rows) {
    u64 row = block_index() * fitting::ROW_WARPS + warp_index();
    if (row >= n_rows) return;
    const fitting::Fit& fit = fitting::fit_of_row(fits, n_fits, row);
    u64 i = row - fit.first_row, sum = 0, count = 0;
    for (u32 j = lane_index(); j < fit.n_columns; j += WARP) {
        u32 log = fitting::log_of(fit, i, j);
        sum += log;
        count += log != 0;
    }
    sum = sum_of_warp(sum);
    count = sum_of_warp(count);
    if (lane_index() == 0) fit.means[i] = count != 0 ? i32(fitting::round_divide(sum, count)) : -1;
}

// Step 1: a block of threads for each matrix finds its base, and the offsets of its rows.
KERNEL fit_base(const fitting::Fit* fits) {
    __shared__ u64 partial[fitting::THREADS / WARP];
    const fitting::Fit& fit = fits[block_index()];
    i64 sum = 0, count = 0;
    for (u64 i = thread_index(); i < fit.n_rows; i += n_threads()) {
        if (fit.means[i] < 0) continue;
        sum += fit.means[i];
        count++;
    }
    sum = fitting::sum_of_block(sum, partial);
    count = fitting::sum_of_block(count, partial);
    i64 base = fitting::round_divide(sum, count > 0 ? count : 1);
    if (thread_index() == 0) fit.found->base = base;
    for (u64 i = thread_index(); i < fit.n_rows; i += n_threads()) {
        i64 mean = fit.means[i];
        fit.rows[i] = mean < 0 ? 0 : fitting::limit(fitting::round_divide(mean - base, fitting::STEP));
    }
}

// Step 2: a block of threads for each group of rows of all matrices adds up its columns.
KERNEL fit_groups(const fitting::Fit* fits, u64 n_fits) {
    __shared__ u64 partial[fitting::THREADS / WARP];
    u64 f = job_of(n_fits, block_index(), [=](u64 i) { return fits[i].first_group; });
    const fitting::Fit& fit = fits[f];
    u64 group = block_index() - fit.first_group, first = group * fitting::GROUP;
    u32 n = fit.n_columns, n_here = fit.n_rows - first < fitting::GROUP ? fit.n_rows - first : fitting::GROUP;
    i32 base = fit.found->base;
    i64 energy = 0, n_words = 0;
    for (u32 j = thread_index(); j < n; j += n_threads()) {
        i32 sum = 0;
        u32 count = 0;
        for (u32 k = 0; k < n_here; k++) {
            i32 log = fitting::log_of(fit, first + k, j);
            if (log == 0) continue;
            i32 rest = fitting::clip(log - base - fitting::STEP * fit.rows[first + k]);
            sum += rest;
            energy += rest * rest;
            count++;
        }
        fit.sums[group * n + j] = sum;
        fit.counts[group * n + j] = count;
        n_words += count;
    }
    energy = fitting::sum_of_block(energy, partial);
    n_words = fitting::sum_of_block(n_words, partial);
    if (thread_index() == 0) {
        fit.energies[2 * group] = energy;
        fit.energies[2 * group + 1] = n_words;
    }
}

// Steps 2 and 4: a block of threads for each matrix chooses its tiles and finds their columns.
KERNEL fit_tiles(const fitting::Fit* fits) {
    __shared__ u64 partial[fitting::THREADS / WARP];
    const fitting::Fit& fit = fits[block_index()];
    u32 n_groups = fitting::n_groups_of(fit);
    i64 energy = 0, n_words = 0;
    for (u32 g = thread_index(); g < n_groups; g += n_threads()) {
        energy += fit.energies[2 * u64(g)];
        n_words += fit.energies[2 * u64(g) + 1];
    }
    energy = fitting::sum_of_block(energy, partial);
    n_words = fitting::sum_of_block(n_words, partial);
    u32 best = n_groups;
    i64 lowest = i64(1) << 62;
    for (u32 choice = 0; choice <= sizeof fitting::TILES / sizeof fitting::TILES[0]; choice++) {
        u32 per_tile = fitting::groups_of_tile(choice, n_groups);
        if (choice > 0 && per_tile >= n_groups) continue;
        i64 taken = fitting::sum_of_block(fitting::fit_columns(fit, per_tile, nullptr), partial);
        i64 cost = n_words * fitting::log2_long(energy - taken) / 2;
        cost += i64(fitting::COLUMN_COST) * fit.n_columns * ((n_groups + per_tile - 1) / per_tile);
        if (cost < lowest) {
            best = per_tile;
            lowest = cost;
        }
    }
    fitting::fit_columns(fit, best, fit.columns);
    if (thread_index() == 0) {
        fit.found->tile_rows = best == n_groups ? fit.n_rows : u64(best) * fitting::GROUP;
        fit.found->energy = energy;
        fit.found->n_words = n_words;
    }
}

// Step 5: a block of threads for each matrix finds factors.
KERNEL fit_factors(const fitting::Fit* fits) {
    __shared__ fitting::FactorShared shared;
    const fitting::Fit& fit = fits[block_index()];
    u32 n = fit.n_columns, n_sampled = fitting::n_sampled_of(fit);
    i32 base = fit.found->base;
    for (u32 k = warp_index(); k < n_sampled; k += n_threads() / WARP) {
        u64 i = k * fit.n_rows / n_sampled;
        const fitting::i8* columns = fit.columns + i / fit.found->tile_rows * n;
        for (u32 j = lane_index(); j < n; j += WARP) {
            i32 log = fitting::log_of(fit, i, j);
            i32 rest = fitting::clip(log - base - fitting::STEP * (fit.rows[i] + columns[j]));
            fit.logs[u64(k) * n + j] = log;
            fit.rest[u64(k) * n + j] = log != 0 ? rest : 0;
        }
    }
    sync_block();
    u32 rank = 0;
    for (; rank < fit.max_rank; rank++) {
        i64 before, after;
        if (!fitting::find_factor(fit, shared, before, after)) break;
        i64 gain = fit.found->n_words * (fitting::log2_long(before) - fitting::log2_long(after)) >> 1;
        if (gain <= i64(fitting::FACTOR_COST) * i64(fit.n_rows + n)) break;
        for (u32 j = thread_index(); j < n; j += n_threads()) {
            fit.column_factors[u64(rank) * n + j] = fit.factor[j];
        }
        sync_block();  // before the next factor takes its place
    }
    if (thread_index() == 0) fit.found->rank = rank;
}

// Step 6: blocks of threads go through the `n_rows` rows of all matrices. `rests` has `stride` numbers for
// each of them.
KERNEL fit_rows_again(const fitting::Fit* fits, u64 n_fits, u64 n_rows, short* rests, u64 stride) {
    __shared__ u64 partial[fitting::THREADS / WARP];
    short* rest = rests + block_index() * stride;  // a thread sees only what it wrote
    for (u64 row = block_index(); row < n_rows; row += n_blocks_launched()) {
        const fitting::Fit& fit = fitting::fit_of_row(fits, n_fits, row);
        u64 i = row - fit.first_row;
        u32 n = fit.n_columns, rank = fit.found->rank;
        i32 base = fit.found->base, offset = fit.rows[i];
        const fitting::i8* columns = fit.columns + i / fit.found->tile_rows * n;
        i64 sum = 0, count = 0;
        for (u32 j = thread_index(); j < n; j += n_threads()) {
            i32 log = fitting::log_of(fit, i, j);
            if (log == 0) continue;
            sum += fitting::clip(log - base - fitting::STEP * (offset + columns[j]));
            count++;
        }
        sum = fitting::sum_of_block(sum, partial);
        count = fitting::sum_of_block(count, partial);
        i64 more = fitting::round_divide(sum, count > 0 ? count : 1);
        offset = fitting::limit(offset + fitting::round_divide(more, fitting::STEP));
        if (thread_index() == 0) fit.rows[i] = offset;
        for (u32 j = thread_index(); j < n; j += n_threads()) {
            i32 log = fitting::log_of(fit, i, j);
            i32 left = fitting::clip(log - base - fitting::STEP * (offset + columns[j]));
            rest[j] = log != 0 ? left : fitting::MISSING;
        }
        for (u32 k = 0; k < rank; k++) {
            const fitting::i8* factor = fit.column_factors + u64(k) * n;
            i64 product = 0, square = 0;
            for (u32 j = thread_index(); j < n; j += n_threads()) {
                if (rest[j] == fitting::MISSING) continue;
                product += i32(rest[j]) * factor[j];
                square += factor[j] * factor[j];
            }
            product = fitting::sum_of_block(product, partial);
            square = fitting::sum_of_block(square, partial);
            i32 a = fitting::coefficient(product, square);
            if (thread_index() == 0) fit.row_factors[i * rank + k] = a;
            for (u32 j = thread_index(); j < n; j += n_threads()) {
                if (rest[j] != fitting::MISSING) rest[j] = fitting::take_off(rest[j], a, factor[j]);
            }
        }
    }
}

// Step 7: a block of threads for each matrix says whether its model is worth it.
KERNEL fit_verdict(const fitting::Fit* fits) {
    __shared__ u32 counts[2][256];
    __shared__ u64 partial[fitting::THREADS / WARP];
    const fitting::Fit& fit = fits[block_index()];
    const fitting::Found& found = *fit.found;
    u32 n = fit.n_columns, rank = found.rank;
    i32 base = found.base;
    for (u32 s = thread_index(); s < 512; s += n_threads()) counts[s / 256][s % 256] = 0;
    sync_block();
    i64 n_checked = 0;
    for (u64 i = 0; i < fit.n_rows; i += (fit.n_rows + fitting::CHECK_ROWS - 1) / fitting::CHECK_ROWS) {
        const fitting::i8* columns = fit.columns + i / found.tile_rows * n;
        for (u32 j = thread_index(); j < n; j += n_threads()) {
            i32 log = fitting::log_of(fit, i, j);
            if (log == 0) continue;
            i32 rest = fitting::clip(log - base - fitting::STEP * (fit.rows[i] + columns[j]));
            for (u32 k = 0; k < rank; k++) {
                rest = fitting::take_off(rest, fit.row_factors[i * rank + k],
                                         fit.column_factors[u64(k) * n + j]);
            }
            add_atomically(&counts[0][log >> OFFSET_LOG], 1);
            add_atomically(&counts[1][(rest + fitting::CLIP) >> fitting::QUARTER_LOG], 1);
            n_checked++;
        }
    }
    n_checked = fitting::sum_of_block(n_checked, partial);
    if (warp_index() != 0) return;
    i64 saved = fitting::entropy(counts[0], n_checked) - fitting::entropy(counts[1], n_checked);
    saved = fitting::floor_divide(saved, n_checked > 0 ? n_checked : 1) + (2 << LOG2_BITS);
    i64 n_tiles = (fit.n_rows + found.tile_rows - 1) / found.tile_rows;
    i64 cost = i64(fitting::COLUMN_COST) * (i64(fit.n_rows) + n_tiles * n);
    cost += i64(fitting::FACTOR_COST) * rank * i64(fit.n_rows + n);
    if (lane_index() == 0) {
        fit.found->is_worth = found.n_words * (saved - i64(fitting::MIN_GAIN)) > cost;
    }
}
