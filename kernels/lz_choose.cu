// SPDX-License-Identifier: Apache-2.0
// What the LZ encoder chooses before and around the parse, by a warp: the other half of lz_choose.py,
// which has the rules.

namespace lz {

// Hash of the `least` words from word `i` on.
struct Hasher {
    const u8* text;
    u32 word_log, n_bytes;

    DEVICE_METHOD u32 operator()(u32 i) const {
        u32 at = i << word_log, total = 0, factor = HASH_MULTIPLIER;
        for (u32 k = 0; k < n_bytes; k += 4) {
            u32 units = load4(text, at + k);
            total += (units & 0xFFFF) * factor;
            factor = factor * HASH_MULTIPLIER & 0xFFFF;
            if (k + 2 < n_bytes) total += (units >> 16) * factor;
            factor = factor * HASH_MULTIPLIER & 0xFFFF;
        }
        return (total & 0xFFFF) >> (16 - HASH_BITS);
    }
};

// How long a match must be, for words that cost `bits` as literals.
DEVICE u32 least_words(u32 word_log, u64 bits) {
    if (word_log == 0) return LEAST[0];
    if (bits < LEAST_BITS[0]) return word_log == 3 ? LEAST_OF_8 : LEAST[0];
    return bits < LEAST_BITS[1] ? LEAST[1] : LEAST[2];
}

DEVICE u32 spread(u32 i, u32 span) { return (i * SPREAD & 0xFFFF) * span >> 16; }

// (fill, whether there is one).
DEVICE bool fill_of(const u8* text, u32 n, u32 word_log, u64& fill) {
    u32 n_samples = n < 64 ? n : 64, step = n / n_samples;
    u64 mine[2], candidate = 0;
    for (u32 k = 0; k < 2; k++) {
        u32 i = k * WARP + lane_index();
        mine[k] = i < n_samples ? word_at(text, i * step + spread(i, step), word_log) : 0;
    }
    i32 votes = 0;
#pragma unroll 1
    for (u32 i = 0; i < n_samples; i++) {
        u64 word = shuffle(i < WARP ? mine[0] : mine[1], i % WARP);
        if (votes == 0) candidate = word;
        votes += word == candidate ? 1 : -1;
    }
    u32 n_candidate = count_ones(ballot(lane_index() < n_samples && mine[0] == candidate));
    n_candidate += count_ones(ballot(WARP + lane_index() < n_samples && mine[1] == candidate));
    bool filling = n_candidate * 8 >= n_samples * 5;
    fill = filling ? candidate : 0;
    return filling;
}

// Bits of fixed point that `n` words would cost as literals, by a sample.
DEVICE u64 sample_bits(const u8* text, u32 n, u32 word_log, bool rotated, u32* counts) {
    u32 n_sample = n < SAMPLE ? n : SAMPLE, step = n / SAMPLE_ROWS;
    u64 bits = 0;
#pragma unroll 1
    for (u32 s = 0; s < 1u << word_log; s++) {
        clear_counts(counts);
#pragma unroll 1
        for (u32 first = 0; first < n_sample; first += WARP) {
            u32 j = first + lane_index(), i = j;
            if (n > SAMPLE) i = j / SAMPLE_ROW * step + spread(j / SAMPLE_ROW, step - SAMPLE_ROW) + j % SAMPLE_ROW;
            u64 word = j < n_sample ? word_at(text, i, word_log) : 0;
            count_symbol(counts, literal_symbol(word, s, word_log, rotated), j < n_sample);
        }
        sync_warp();
        bits += entropy_of(counts, n_sample);
    }
    return bits * n / n_sample;
}

// Whether `need` (at most 256) bytes at two offsets are the same.
DEVICE bool is_alike(const u8* text, u32 at, u32 source, u32 need) {
    bool differ = false;
    for (u32 k = 4 * lane_index(); k < need; k += 4 * WARP) {
        u32 unlike = load4(text, at + k) ^ load4(text, source + k);
        if (k + 4 > need) unlike &= (1u << (8 * (need - k))) - 1;
        differ |= unlike != 0;
    }
    return ballot(differ) == 0;
}

DEVICE u32 n_changes(const u8* text, u32 n_bytes) {
    u32 changes = 0;
    for (u32 i = 1 + lane_index(); i < n_bytes; i += WARP) changes += text[i] != text[i - 1];
    return sum_of_warp(changes);
}

// Rule 4 where too few different hashes are tried: are there repetitions close by?
DEVICE bool repeats_nearby(const Hasher& hash, u32 n, u32 need) {
    u32 n_found = 0, word_log = hash.word_log;
#pragma unroll 1
    for (u32 k = 1; k < 16; k++) {
        u32 i = u64(k) * n / 16, h = hash(i);
#pragma unroll 1
        for (u32 group = 1; group <= NEAR && WARP * group <= i; group++) {
            u32 first = i - WARP * group;
            u32 same = ballot(hash(first + lane_index()) == h);
            if (same == 0) continue;
            u32 at = i << word_log, source = (first + bit_length(same) - 1) << word_log;
            if (at + need <= n << word_log && is_alike(hash.text, at, source, need)) n_found++;
            break;
        }
    }
    return n_found >= 4;
}

// Rule 4, without a fill of wide words; `bits` is what the block costs as literals. `table` is
// memory for 2^HASH_BITS positions.
DEVICE bool promising(const Hasher& hash, u32 n, u64 bits, bool filling, u32* table) {
    const u8* text = hash.text;
    u32 word_log = hash.word_log, n_bytes = n << word_log;
    if (filling && u64(n_changes(text, n_bytes)) << (LOG2_BITS + 3) < bits) return true;
    u64 words = (u64(WORTH_BITS) << LOG2_BITS) * n / (bits > 1 ? bits : 1) + 1;
    u32 need = words << word_log < 256 ? words << word_log : 256;
    u32 below = (TRIED << HASH_BITS) / (n > TRIED ? n : TRIED);
    for (u32 h = lane_index(); h < below; h += WARP) table[h] = 0;
    sync_warp();
    u32 n_tried = 0, n_found = 0, before = hash(WARP - 1);
#pragma unroll 1
    for (u32 group = WARP; group < n; group += WARP) {
        u32 h = hash(group + lane_index()), previous = shuffle_up(h, 1);
        if (lane_index() == 0) previous = before;
        before = shuffle(h, WARP - 1);
        u32 tried = ballot(h != previous && h < below);
        while (tried != 0) {
            u32 lane = first_one(tried), i = group + lane, at = i << word_log;
            tried &= tried - 1;
            u32* entry = table + shuffle(h, lane);
            u32 source = *entry;
            sync_warp();
            if (lane_index() == 0) *entry = i;
            sync_warp();
            if (at + need > n_bytes) continue;
            n_tried++;
            if (is_alike(text, at, source << word_log, need)) n_found++;
        }
    }
    if (n_tried >= 16) return n_found * 16 >= n_tried;
    return repeats_nearby(hash, n, need);
}

// log2 of the bytes that hold all `n` words, if zeros above them are left out.
DEVICE u32 used_log(const u8* source, u32 n, u32 word_log) {
    u32 low = 0, high = 0, log = 0;
    for (u32 i = lane_index(); word_log != 0 && i < n; i += WARP) {
        u64 word = word_at(source, i, word_log);
        low |= word;
        high |= word >> 32;
    }
    bool top = ballot(high != 0) != 0, upper = ballot(low >> 16 != 0) != 0, byte = ballot(low >> 8 != 0) != 0;
    if (byte) log = 1;
    if (upper) log = 2;
    if (top) log = 3;
    return log;
}

// Bring the words to `text`, narrowed to the bytes they use, with zeros behind; log2 of these bytes.
DEVICE u32 load_block(const u8* source, u32 n, u32 word_log, u8* text) {
    u32 log = used_log(source, n, word_log), n_bytes = n << log;
    if (log == word_log) {
        for (u32 at = lane_index() * CHUNK; at < n_bytes; at += WARP * CHUNK) {
            store_chunk(text + at, load_padded(source, at, n_bytes));
        }
    } else {
        for (u32 i = lane_index(); i < n; i += WARP) put_word(text, i, log, word_at(source, i, word_log));
    }
    sync_warp();
    u32 behind = (n_bytes + CHUNK - 1) / CHUNK * CHUNK;
    for (u32 at = n_bytes + lane_index(); at < behind; at += WARP) text[at] = 0;
    clear(text + behind, SLACK);
    sync_warp();
    return log;
}

// The word size (1, 2, 4 or 8) whose byte planes are the most compressible; the smaller if close.
// `counts` is u32[8][256].
DEVICE u32 detect_word_bytes(const u8* raw, u32 n_bytes, u32* counts) {
    u32 n_runs = 8, run = 512, step = n_bytes / 8 / 8 * 8;
    if (n_bytes <= n_runs * run) {
        n_runs = 1;
        run = n_bytes / 8 * 8;
    }
    for (u32 i = lane_index(); i < 8 * 256; i += WARP) counts[i] = 0;
    sync_warp();
    for (u32 k = 0; k < n_runs; k++) {
        for (u32 i = lane_index(); i < run; i += WARP) add_atomically(&counts[i % 8 * 256 + raw[k * step + i]], 1);
    }
    sync_warp();
    u32 best = 1;
    i64 least = 0;
#pragma unroll 1
    for (u32 log = 4; log-- > 0;) {
        u32 width = 1u << log, n = n_runs * run >> log, n_present = 0;
        u64 cost = 0;
#pragma unroll 1
        for (u32 phase = 0; phase < width; phase++) {
            const u32* here = counts + phase * 256;
            cost += entropy_of(here, n);
            for (u32 s = lane_index(); s < 256; s += WARP) n_present += here[s] != 0;
        }
        i64 total = cost + (u64(sum_of_warp(n_present)) << (LOG2_BITS + 2));  // a table's entry
        if (log == 3 || total - (total >> 5) < least) {
            best = width;
            least = total;
        }
        sync_warp();
        for (u32 i = lane_index(); i < width / 2 * 256; i += WARP) counts[i] += counts[i + width / 2 * 256];
        sync_warp();
    }
    return best;
}

}  // namespace lz
