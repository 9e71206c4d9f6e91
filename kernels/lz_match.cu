// SPDX-License-Identifier: Apache-2.0
// Which parts of a block are copies of earlier parts: the other half of lz_match.py, which has the rules.
//
// A warp walks over a block, as the CPU does: the lanes share the work of a step. They enter 32 words at
// a time into the table of candidates, and compare those of a window all at once.

namespace lz {

constexpr u32 TABLE_BYTES = 8u << HASH_BITS;
constexpr u32 AHEAD = 8;   // words whose candidates are there before a window is looked at
constexpr u32 RING = 128;  // words whose candidates are kept

struct Found {  // of a block that is parsed
    u32 n_sequences, n_literals;
};

// What the parse works in.
struct Parse {
    const u8* text;  // with SLACK zeros behind
    u32 n, word_log, least, level;
    u64 fill;
    bool filling;
    u64* table;  // by hash: WAYS positions of 16 bits, the nearest in the low bits
    u64* slots;  // shared memory: the same of the last RING words
    u8* depths;  // of each word
    u16* sequences;  // three lists, `stride` apart: literals, length, step
    u32 stride;
    u8* literals;
};

// The candidates of words `first` ... `first + 31`, to the ring. `before` is the hash of the last word of the
// group before.
DEVICE void enter(const Parse& parse, const Hasher& hash, u32 first, u32& before) {
    u32 i = first + lane_index(), h = hash(i), previous = shuffle_up(h, 1);
    if (lane_index() == 0) previous = before;
    before = shuffle(h, WARP - 1);
    u64* entry = parse.table + h;
    u64 slot = *entry;
    bool counts = true;
    if (parse.filling) counts = word_at(parse.text, i, parse.word_log) != parse.fill;
    else if (first != 0) counts = ballot(h != previous) != 0;  // else all repeat, and none is entered
    u32 lanes = ballot(counts);
    u32 peers = lanes_with(h) & lanes, nearer = peers & lanes_below();
    while (count_ones(nearer) > WAYS) nearer &= nearer - 1;
    if (counts) {
        for (; nearer != 0; nearer &= nearer - 1) slot = slot << 16 | (first + first_one(nearer));
    }
    parse.slots[i % RING] = counts || !parse.filling ? slot : 0;
    sync_warp();  // all have read the table
    if (counts && peers >> lane_index() == 1) *entry = slot << 16 | i;
    sync_warp();
}

// How many bytes of the 32 at two offsets are the same before the first that are not.
DEVICE u32 alike(const u8* text, u32 at, u32 source) {
    const u32* here = reinterpret_cast<const u32*>(text) + at / 4;
    const u32* there = reinterpret_cast<const u32*>(text) + source / 4;
    u32 here_digits = 0x3210 + at % 4 * 0x1111, there_digits = 0x3210 + source % 4 * 0x1111;
    u32 a = here[0], b = there[0];
#pragma unroll 1
    for (u32 k = 1; k <= STEP / 4; k++) {
        u32 next_a = here[k], next_b = there[k];
        u32 unlike = pick_bytes(a, next_a, here_digits) ^ pick_bytes(b, next_b, there_digits);
        if (unlike != 0) return 4 * (k - 1) + first_one(unlike) / 8;
        a = next_a;
        b = next_b;
    }
    return STEP;
}

// How many words from `i` on are the fill, of those that STEP bytes are of.
DEVICE u32 run_of_fill(const Parse& parse, u32 i) {
    u32 n_words = STEP >> parse.word_log;
    bool same = lane_index() < n_words && word_at(parse.text, i + lane_index(), parse.word_log) == parse.fill;
    return lanes_in_front(same);
}

struct Match {
    u32 at, source;  // words
    u32 bytes;
};

// The longest match in the window from word `p` on, counted up to STEP bytes.
DEVICE Match best_in_window(const Parse& parse, u32 p, u32 repeat) {
    u32 lane = lane_index(), ahead, way;
    bool tried;
    if (parse.level == 0) {  // of words p, p + 1, p + 2: the last distance, and the nearest 3, 2 and 2
        ahead = lane < 4 ? 0 : lane < 7 ? 1 : 2;
        way = lane < 4 ? lane : lane < 7 ? lane - 4 : lane - 7;
        tried = lane < 10;
    } else {
        ahead = lane / (WAYS + 1);
        way = lane % (WAYS + 1);
        tried = lane < WINDOW * (WAYS + 1);
    }
    Match found = {p + ahead, 0, 0};
    if (tried) {
        u64 slot = parse.slots[found.at % RING];
        found.source = way == 0 ? found.at - repeat : slot >> (16 * (way - 1)) & 0xFFFF;
        found.bytes = alike(parse.text, found.at << parse.word_log, found.source << parse.word_log);
    }
    u32 best = max_of_warp(found.bytes << 5 | (WARP - 1 - lane));  // of equals the lowest lane
    u32 winner = WARP - 1 - best % WARP;
    return {shuffle(found.at, winner), shuffle(found.source, winner), best >> 5};
}

// How many of up to 32 words from `at` on can be copied from `source` on.
DEVICE u32 usable(const Parse& parse, u32 at, u32 source, u32 n) {
    u32 lane = lane_index();
    bool fits = lane < n && parse.depths[source + lane] < MAX_DEPTH &&
                word_at(parse.text, at + lane, parse.word_log) == word_at(parse.text, source + lane, parse.word_log);
    return lanes_in_front(fits);
}

// Words that a match, or a run of fill where `source` is `p`, has beyond those that are known.
DEVICE u32 extended(const Parse& parse, u32 p, u32 source, u32 length, u32 room) {
    for (u32 more = WARP; more == WARP && length < room; length += more) {
        u32 at = p + length, n = room - length < WARP ? room - length : WARP;
        if (source == p) {
            more = lanes_in_front(lane_index() < n && word_at(parse.text, at + lane_index(), parse.word_log) == parse.fill);
        } else {
            more = usable(parse, at, source + length, n);
        }
    }
    return length;
}

// Set the depths of a copy.
DEVICE void deepen(u8* depths, u32 at, u32 source, u32 length) {
    u32 distance = at - source, deepest = 0;
    if (distance < length) {
        for (u32 j = lane_index(); j < distance; j += WARP) {
            deepest = depths[source + j] > deepest ? depths[source + j] : deepest;
        }
        deepest = max_of_warp(deepest);
    }
    for (u32 j = lane_index(); j < length; j += WARP) {
        depths[at + j] = (distance < length ? deepest : depths[source + j]) + 1;
    }
    sync_warp();
}

// Cut the block into literals and matches.
DEVICE Found parse_block(const Parse& parse) {
    const u8* text = parse.text;
    u32 n = parse.n, word_log = parse.word_log, word = 1u << word_log, least = parse.least << word_log;
    u32 margin = parse.least > WINDOW ? parse.least : WINDOW, stride = parse.filling ? 1 : WINDOW;
    Hasher hash = {text, word_log, least};
    clear(reinterpret_cast<u8*>(parse.table), TABLE_BYTES);
    clear(parse.depths, aligned(n));
    sync_warp();
    Found found = {0, 0};
    u32 start = 0, repeat = 1, entered = 0, before = 0, p = 0;
    while (p + margin <= n) {
        u32 length = 0, source = p;
        if (parse.filling) {
            length = run_of_fill(parse, p);
            bool next_is_fill = word_at(text, p + 1, word_log) == parse.fill;
            if (length << word_log < FILL_LEAST[word_log] && (length > 0 || next_is_fill)) {
                p += length > 1 ? length : 1;
                continue;
            }
        }
        if (length == 0) {
            if (p == 0) {
                p = 1;
                continue;
            }
            for (; entered < p + AHEAD && entered < n; entered += WARP) enter(parse, hash, entered, before);
            Match best = best_in_window(parse, p, repeat);
            u32 shortest = best.at - best.source == repeat ? least - word : least;  // in bytes
            if (best.bytes < shortest) {
                p += stride;
                continue;
            }
            p = best.at;
            source = best.source;
            length = best.bytes >> word_log;
            u32 deep = lanes_in_front(lane_index() >= length || parse.depths[source + lane_index()] < MAX_DEPTH);
            if (deep < length) {
                length = deep;
                if (length << word_log < shortest) {
                    p++;
                    continue;
                }
            }
        }
        u32 room = n - p < 65535 ? n - p : 65535;
        if (length << word_log >= STEP) length = extended(parse, p, source, length, room);
        length = length < room ? length : room;

        u32 distance = p - source;
        if (lane_index() == 0) {
            u16* sequence = parse.sequences + found.n_sequences;
            sequence[0] = p - start;
            sequence[parse.stride] = length;
            sequence[2 * parse.stride] = distance == 0 ? FILL_CODE : distance == repeat ? REPEAT_CODE : distance + 1;
        }
        copy_words(parse.literals, found.n_literals, text, start, p, word_log);
        found.n_sequences++;
        found.n_literals += p - start;
        if (distance != 0) {
            repeat = distance;
            deepen(parse.depths, p, source, length);
        }
        p += length;
        start = p;
    }
    copy_words(parse.literals, found.n_literals, text, start, n, word_log);
    found.n_literals += n - start;
    return found;
}

}  // namespace lz
