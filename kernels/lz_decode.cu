// SPDX-License-Identifier: Apache-2.0
// Decoding LZ payloads: the other half of lz_decode.py.
//
// First a warp examines each payload, decodes its streams and adds up its sequences; then a block of
// threads writes the words: literals and fills to their places, for the others where they are
// copied from, which some rounds of `source[i] = source[source[i]]` trace to words that are there.
// Neither trusts a payload: what is wrong becomes a status, before it is used.

constexpr u32 LZ_WARPS = 4;         // of a block that reads streams
constexpr u32 LZ_THREADS = 256;     // of a block that writes words
constexpr u32 LZ_SEGMENT = 1 << 13;  // words that are traced at a time
constexpr u32 LZ_TILE = LZ_SEGMENT / (LZ_THREADS / WARP);

namespace lz {

struct Work {  // an LZ payload, what it becomes, and memory between the two kernels
    const u8* payload;
    u32 size;
    u8* raw;
    u32 raw_size;
    u8* memory;
};

// A plane becomes symbols in its slot, a block the words; what is left of the slot is memory.
DEVICE Work work_of(const Job* jobs, u64 n_jobs, const Task& task, u8* symbols) {
    u8* slot = symbols + task.slot;
    if (task.coder == LZ) return {task.payload, task.size, slot, task.n, slot + (task.n + ROW - 1) / ROW * ROW};
    const Job& job = jobs[job_of_entry(jobs, n_jobs, task.entry)];
    u64 block = (task.entry - job.first_entry) / job.n_planes;
    u8* words = job.words + (block << job.block_log) * job.word_bytes;
    return {task.payload, task.size, words, task.n * job.word_bytes, slot};
}

struct Header {
    u32 modes, n_words;
    u32 at;  // where the streams' symbols and tables start
};

// All fields in front of the streams. Lanes do the same; the first one writes the plan.
DEVICE u32 read_header(const Work& work, Plan& plan, Header& header) {
    const u8* payload = work.payload;
    if (work.size < HEADER_BYTES) return BAD_SIZE;
    u32 flags = read_u32(payload + FLAGS_AT), word_log = flags & 3, full_log = word_log + (flags >> NARROWED_SHIFT);
    u32 n_odd = flags >> ODD_SHIFT & 15;
    if (full_log > 3 || n_odd >> full_log != 0 || n_odd > work.raw_size) return BAD_SIZE;
    u32 n = (work.raw_size - n_odd) >> full_log;
    if ((n << full_log) + n_odd != work.raw_size || n > MAX_WORDS) return BAD_SIZE;
    u32 n_sequences = read_u16(payload + SEQUENCES_AT), n_literals = read_u16(payload + LITERALS_AT);
    if (n_sequences == 0 && n_literals == (n & 0xFFFF)) n_literals = n;
    header.modes = (flags & ((1u << NARROWED_SHIFT) - 1)) >> 8;
    if (n_sequences + n_literals > n || header.modes >> 2 * ((1u << word_log) + 3) != 0) return BAD_SIZE;
    header.n_words = read_u32(payload + WORDS_AT);
    header.at = HEADER_BYTES;
    u64 fill = 0;
    if (flags & FILLED) {
        u32 word_bytes = 1u << word_log;
        if (work.size < HEADER_BYTES + word_bytes) return BAD_SIZE;
        for (u32 i = 0; i < word_bytes; i++) fill |= u64(payload[HEADER_BYTES + i]) << (8 * i);
        if (fill == 0) return BAD_TABLE;
        header.at += word_bytes;
    }
    if (lane_index() == 0) {
        plan.fill = fill;
        plan.n = n;
        plan.n_literals = n_literals;
        plan.n_sequences = n_sequences;
        plan.word_log = word_log;
        plan.full_log = full_log;
        plan.rotated = flags & ROTATED;
        plan.n_odd = n_odd;
    }
    sync_warp();
    return OK;
}

DEVICE u32 highest_symbol(u32 s, u32 word_bytes) {
    if (s < word_bytes) return 255;
    return s < word_bytes + 2 ? MAX_CODE : MAX_CODE + DISTANCE_CODE;
}

DEVICE u32 n_symbols(const Plan& plan, u32 s) { return s >> plan.word_log ? plan.n_sequences : plan.n_literals; }

// Check raw and constant streams and the tables of the others; `at` becomes their end. A coded stream is at
// its table for now.
DEVICE u32 read_streams(const Work& work, Plan& plan, const Header& header, u32& at, bool& any_coded,
                        Table12& table) {
    const u8* payload = work.payload;
    u32 word_bytes = 1u << plan.word_log;
    any_coded = false;
    at = header.at;
    for (u32 s = 0; s < word_bytes + 3; s++) {
        u32 n = n_symbols(plan, s), highest = highest_symbol(s, word_bytes), begin = at;
        u32 mode = header.modes >> (2 * s) & 3;
        if (mode == CODED_STREAM) {
            u32 first, last;
            u32 status = read_table(payload, at, work.size, table.symbols, first, last);
            if (status != OK) return status;
            if (last > highest || n < 2) return BAD_TABLE;
            any_coded = true;
        } else if (mode == CONSTANT_STREAM) {
            if (at >= work.size) return BAD_SIZE;
            begin = payload[at++];
            if (begin > highest) return BAD_SYMBOL;
        } else if (mode == RAW_STREAM) {
            if (work.size - at < n) return BAD_SIZE;
            u32 most = 0;
            for (u32 i = lane_index(); highest < 255 && i < n; i += WARP) {
                most = payload[at + i] > most ? payload[at + i] : most;
            }
            if (max_of_warp(most) > highest) return BAD_SYMBOL;
            at += n;
        } else {
            return BAD_TABLE;
        }
        if (lane_index() == 0) plan.streams[s] = {mode, begin};
    }
    sync_warp();
    return OK;
}

// Decode the coded streams to `memory`, from `to` on; `at` is where their words start.
DEVICE u32 decode_streams(const Work& work, Plan& plan, u32 n_words, u32 at, u8* memory, u32 to,
                          Table12& table) {
    u32 x = read_u32(work.payload + at + 2 * n_words + 4 * lane_index());
    if (ballot(x < RANS_STATE_LOW) != 0) return BAD_STATE;
    Window<LooseWords> stream;
    stream.begin(words_from(work.payload, work.size, at), 0);
    for (u32 s = 0; s < (1u << plan.word_log) + 3; s++) {
        Stored symbols = plan.streams[s];
        if (symbols.mode != CODED_STREAM) continue;
        u32 n = n_symbols(plan, s), first, last;
        read_table(work.payload, symbols.at, work.size, table.symbols, first, last);
        build_decode_table(first, last, table);
        decode_stream(stream, n, table, x, memory + to);
        if (lane_index() == 0) plan.streams[s].at = to;
        to += (n + ROW - 1) / ROW * ROW;
    }
    if (stream.n_used() != n_words) return BAD_WORDS;
    if (ballot(x >> 16 != 1) != 0) return BAD_STATE;
    plan.riders[lane_index()] = x;
    sync_warp();
    return OK;
}

// Follow the sequences; the state before each group goes to `carries`.
DEVICE u32 check_sequences(const Work& work, const Plan& plan, const u8* memory, Carry* carries) {
    Carry carry = {0, 0, 0, 1};
    for (u32 first = 0; first < plan.n_sequences; first += WARP) {
        if (lane_index() == 0) carries[first / WARP] = carry;
        Sequence sequence;
        bool sound = read_group(plan, work.payload, memory, first, carry, sequence);
        if (ballot(!sound) != 0) return BAD_SYMBOL;
    }
    if (plan.n_literals - carry.literal != plan.n - carry.word) return BAD_SYMBOL;
    u32 n_extras = plan.n_riders + plan.extras_end - plan.extras_at, n_used = (carry.bit + 7) / 8;
    if (n_used < n_extras && n_extras != plan.n_riders) return BAD_SIZE;
    u32 unused = 0;  // in no more than the bytes of the riders, or in the last byte
    for (u32 i = carry.bit / 32 + lane_index(); 4 * i < n_extras; i += WARP) {
        u32 word = extra_word(plan, work.payload, i);
        unused |= i == carry.bit / 32 ? word >> (carry.bit & 31) : word;
    }
    return ballot(unused != 0) != 0 ? BAD_PADDING : OK;
}

// A status; `memory` is the task's.
DEVICE u32 read_payload(const Work& work, Plan& plan, u8* memory, Table12& table) {
    Header header;
    u32 status = read_header(work, plan, header);
    if (status != OK) return status;
    u32 at;
    bool any_coded;
    status = read_streams(work, plan, header, at, any_coded, table);
    if (status != OK) return status;
    if (!any_coded && header.n_words != 0) return BAD_WORDS;
    u64 n_behind = any_coded ? 2 * u64(header.n_words) + RANS_STATES_BYTES : 0;
    if (work.size - at < plan.n_odd + n_behind) return BAD_SIZE;
    u32 n_extras = work.size - at - plan.n_odd - n_behind;
    if (n_extras > EXTRA_BYTES * plan.n_sequences) return BAD_SIZE;
    if (lane_index() == 0) {
        plan.n_riders = any_coded ? RIDERS : 0;
        plan.extras_end = work.size - plan.n_odd;
        plan.extras_at = plan.extras_end - n_extras;
        plan.groups_at = sizeof(Plan);
    }
    sync_warp();
    u32 to = (sizeof(Plan) + (plan.n_sequences / WARP + 1) * sizeof(Carry) + ROW - 1) / ROW * ROW;
    if (any_coded) {
        status = decode_streams(work, plan, header.n_words, at, memory, to, table);
        if (status != OK) return status;
    }
    return check_sequences(work, plan, memory, reinterpret_cast<Carry*>(memory + plan.groups_at));
}

struct Planes {  // of literals: byte `i` of a plane is at[i & mask]
    const u8* at[MAX_WORD_BYTES];
    u32 masks[MAX_WORD_BYTES];
};

template <class Word>
DEVICE Word literal(const Plan& plan, const Planes& planes, u32 i) {
    u32 bits = 8u << plan.word_log;
    u64 word = 0;
    for (u32 p = 0; p < 1u << plan.word_log; p++) word = word << 8 | planes.at[p][i & planes.masks[p]];
    if (plan.rotated) {
        u64 low = word & 1;
        word = word >> 1 | low << (bits - 1);
    }
    return word;
}

// Put word `i` where it belongs, if it is known by now, else its source. Both of those in `sources` count
// from `start`, words before which are there.
template <class Word>
DEVICE void write_word(const Plan& plan, const Planes& planes, Word* words, u32 i, u32 start, Sequence sequence,
                       u16* sources) {
    u32 source = i;
    if (i < sequence.match) {
        words[i] = literal<Word>(plan, planes, sequence.literal_end - (sequence.match - i));
    } else if (sequence.distance == 0) {
        words[i] = plan.fill;
    } else {
        u32 ahead = i - sequence.match;
        if (ahead >= sequence.distance) ahead %= sequence.distance;
        source = sequence.match - sequence.distance + ahead;
        if (source < start) {
            words[i] = words[source];
            source = i;
        }
    }
    sources[i - start] = source - start;
}

// A warp does words `begin` to `end` - 1 of the segment from `start` on.
template <class Word>
DEVICE void write_tile(const Work& work, const Plan& plan, const Planes& planes, const u8* memory, u32 begin,
                       u32 end, u32 start, u16* sources) {
    Word* words = reinterpret_cast<Word*>(work.raw);
    const Carry* carries = reinterpret_cast<const Carry*>(memory + plan.groups_at);
    u32 n_groups = (plan.n_sequences + WARP - 1) / WARP, group = 0;
    for (u32 high = n_groups; high - group > 1;) {  // the last that starts here or before
        u32 middle = (group + high) / 2;
        if (carries[middle].word <= begin) group = middle;
        else high = middle;
    }
    while (begin < end) {
        Sequence mine = {plan.n, plan.n, plan.n_literals, 0};  // behind the last
        u32 stop = end;
        if (group < n_groups) {
            Carry carry = carries[group];
            read_group(plan, work.payload, memory, group * WARP, carry, mine);
            stop = carry.word < end ? carry.word : end;
        }
        if (stop < begin) stop = begin;  // the last group may end before the tile
        for (; begin < stop; begin += WARP) {
            u32 i = begin + lane_index(), ahead = mine.end - begin;
            u32 ends = or_of_warp(mine.end > begin && ahead < WARP ? 1u << ahead : 0);
            u32 k = count_ones(ballot(mine.end <= begin)) + count_ones(ends & (lanes_below() << 1 | 1));
            Sequence found = {shuffle(mine.match, k), 0, shuffle(mine.literal_end, k), shuffle(mine.distance, k)};
            if (i < stop) write_word<Word>(plan, planes, words, i, start, found, sources);
        }
        begin = stop;
        group++;
    }
}

// Trace the sources of `n` words until each is a word that is there. What other threads write meanwhile
// is a source, too: whether it is read before or after makes no difference in the end.
DEVICE void trace(u16* sources, u32 n, u32* again) {
    u32* pairs = reinterpret_cast<u32*>(sources);
    for (u32 round = 0;; round++) {  // of three flags, one is set, one read, one cleared
        bool changed = false;
        for (u32 i = thread_index(); i < (n + 1) / 2; i += n_threads()) {
            u32 pair = pairs[i], next = sources[pair & 0xFFFF] | sources[pair >> 16] << 16;
            if (next == pair) continue;
            pairs[i] = next;
            changed = true;
        }
        if (changed) again[round % 3] = 1;
        if (thread_index() == 0) again[(round + 1) % 3] = 0;
        sync_block();
        if (again[round % 3] == 0) return;
    }
}

// Copy what has a source, four bytes at a time or a word.
template <class Word>
DEVICE void gather(Word* words, const u16* sources, u32 n) {
    constexpr u32 N = sizeof(Word) < 4 ? 4 / sizeof(Word) : 1;
    for (u32 i = thread_index() * N; i < n; i += n_threads() * N) {
        u32 n_traced = 0, joined = 0;
        for (u32 k = 0; k < N && i + k < n; k++) {
            u32 source = sources[i + k];
            n_traced += source != i + k;
            if (N > 1) joined |= u32(words[source]) << (8 * sizeof(Word) * k % 32);
            else if (n_traced != 0) words[i] = words[source];
        }
        if (N == 1 || n_traced == 0) continue;
        if (i + N <= n) *reinterpret_cast<u32*>(words + i) = joined;
        else for (u32 k = 0; i + k < n; k++) words[i + k] = Word(joined >> (8 * sizeof(Word) * k % 32));
    }
}

template <class Word>
DEVICE void write_words(const Work& work, const Plan& plan, const Planes& planes, const u8* memory, u16* sources,
                        u32* again) {
    Word* words = reinterpret_cast<Word*>(work.raw);
    for (u32 start = 0; start < plan.n; start += LZ_SEGMENT) {
        u32 n = plan.n - start < LZ_SEGMENT ? plan.n - start : LZ_SEGMENT;
        u32 begin = warp_index() * LZ_TILE, end = begin + LZ_TILE < n ? begin + LZ_TILE : n;
        if (begin < end) {
            write_tile<Word>(work, plan, planes, memory, start + begin, start + end, start, sources);
        }
        if (thread_index() == 0) {
            again[0] = 0;
            if (n % 2 != 0) sources[n] = n;  // the other half of a pair
        }
        sync_block();
        trace(sources, n, again);
        gather(words + start, sources, n);
        sync_block();
    }
}

}  // namespace lz

// A warp for each of the entries `tasks`.
KERNEL decode_lz_streams(const Job* jobs, u64 n_jobs, const u32* entries, const u64* offsets,
                         const u32* slots, const u32* kept, const u32* tasks, u64 n_tasks, u8* symbols,
                         u8* plane_status) {
    (void)plane_status;
    __shared__ Table12 tables[LZ_WARPS];
    __shared__ lz::Plan plans[LZ_WARPS];
    u64 i = block_index() * LZ_WARPS + warp_index();
    if (i >= n_tasks) return;
    Task task = find_task(jobs, n_jobs, entries, offsets, slots, kept, tasks[i]);
    lz::Work work = lz::work_of(jobs, n_jobs, task, symbols);
    lz::Plan& plan = plans[warp_index()];
    u32 status = lz::read_payload(work, plan, work.memory, tables[warp_index()]);
    if (lane_index() == 0) plan.status = status;
    sync_warp();
    const u32* from = reinterpret_cast<const u32*>(&plan);
    u32* to = reinterpret_cast<u32*>(work.memory);
    for (u32 k = lane_index(); k < sizeof(lz::Plan) / 4; k += WARP) to[k] = from[k];
}

// Block of threads `i` writes what entry `tasks[i]` becomes, and how it went.
KERNEL decode_lz_words(const Job* jobs, u64 n_jobs, const u32* entries, const u64* offsets,
                       const u32* slots, const u32* kept, const u32* tasks, u64 n_tasks, u8* symbols,
                       u8* plane_status) {
    (void)n_tasks;
    __shared__ u64 sums[TILE_SUMS];
    __shared__ u32 pairs[LZ_SEGMENT / 2];
    __shared__ lz::Plan plan;
    __shared__ lz::Planes planes;
    __shared__ u32 again[3];
    __shared__ u32 verdict;
    Task task = find_task(jobs, n_jobs, entries, offsets, slots, kept, tasks[block_index()]);
    lz::Work work = lz::work_of(jobs, n_jobs, task, symbols);
    const u8* memory = work.memory;
    u16* sources = reinterpret_cast<u16*>(pairs);
    u32* to = reinterpret_cast<u32*>(&plan);
    const u32* from = reinterpret_cast<const u32*>(memory);
    for (u32 k = thread_index(); k < sizeof(lz::Plan) / 4; k += n_threads()) to[k] = from[k];
    u64 check = 0;
    if (work.size >= lz::HEADER_BYTES) {
        auto checked = [=](u64 at) { return lz::checked_chunk(work.payload, work.size, at); };
        check = xxh3_of(checked, work.size - lz::FLAGS_AT, sums);
    }
    sync_block();
    u32 p = thread_index();
    if (p < lz::MAX_WORD_BYTES && plan.status == OK && p >> plan.word_log == 0) {
        lz::Stored stream = plan.streams[p];
        bool same = stream.mode == lz::CONSTANT_STREAM;
        const u8* base = stream.mode == lz::CODED_STREAM ? memory : work.payload;
        const u32& constant = reinterpret_cast<const lz::Plan*>(memory)->streams[p].at;
        planes.at[p] = same ? reinterpret_cast<const u8*>(&constant) : base + stream.at;
        planes.masks[p] = same ? 0 : ~0u;
    }
    if (thread_index() == 0) {
        bool holds = work.size < lz::HEADER_BYTES || read_u32(work.payload) == u32(check);
        verdict = holds ? plan.status : BAD_HASH;
        plane_status[task.entry] = verdict;
    }
    sync_block();
    if (verdict != OK) return;
    if (plan.full_log == 0) lz::write_words<u8>(work, plan, planes, memory, sources, again);
    else if (plan.full_log == 1) lz::write_words<u16>(work, plan, planes, memory, sources, again);
    else if (plan.full_log == 2) lz::write_words<u32>(work, plan, planes, memory, sources, again);
    else lz::write_words<u64>(work, plan, planes, memory, sources, again);
    u32 k = thread_index();
    if (k < plan.n_odd) work.raw[work.raw_size - plan.n_odd + k] = work.payload[plan.extras_end + k];
}
