// SPDX-License-Identifier: Apache-2.0
// What LZ asks of memory: words of any size, bytes at any place. The other half of lz_ops.py.

namespace lz {

constexpr u32 STEP = 32;         // bytes by which matches are compared
constexpr u32 SLACK = 16 * STEP;  // zeros behind a text
constexpr u32 N_STREAMS = MAX_WORD_BYTES + 3;

// Four bytes at any offset of a text, which is aligned.
DEVICE u32 load4(const u8* text, u32 at) {
    const u32* words = reinterpret_cast<const u32*>(text) + at / 4;
    return pick_bytes(words[0], words[1], 0x3210 + at % 4 * 0x1111);
}

// Word `i` of a text of words of 2^word_log bytes.
DEVICE u64 word_at(const u8* text, u32 i, u32 word_log) {
    if (word_log == 0) return text[i];
    if (word_log == 1) return reinterpret_cast<const u16*>(text)[i];
    if (word_log == 2) return reinterpret_cast<const u32*>(text)[i];
    return reinterpret_cast<const u64*>(text)[i];
}

DEVICE void put_word(u8* text, u32 i, u32 word_log, u64 word) {
    if (word_log == 0) text[i] = word;
    else if (word_log == 1) reinterpret_cast<u16*>(text)[i] = word;
    else if (word_log == 2) reinterpret_cast<u32*>(text)[i] = word;
    else reinterpret_cast<u64*>(text)[i] = word;
}

// A warp copies words `first` ... `last` - 1 to the words of `to` from `at` on.
DEVICE void copy_words(u8* to, u32 at, const u8* text, u32 first, u32 last, u32 word_log) {
    for (u32 i = first + lane_index(); i < last; i += WARP) {
        put_word(to, at + i - first, word_log, word_at(text, i, word_log));
    }
}

// A warp fills with zeros; both are multiples of 16.
DEVICE void clear(u8* to, u32 n_bytes) {
    for (u32 at = lane_index() * CHUNK; at < n_bytes; at += WARP * CHUNK) store_chunk(to + at, {0, 0});
}

// 16 bytes of those that the check of a payload is of: all behind it.
DEVICE Chunk checked_chunk(const u8* payload, u32 size, u32 at) {
    u32 n = size - FLAGS_AT;
    if (at >= n) return {0, 0};
    const u32* words = reinterpret_cast<const u32*>(payload);
    u32 first = (FLAGS_AT + at) / 4, n_words = aligned(size) / 4;
    Chunk chunk = {joined(words[first], words[first + 1]), 0};
    chunk.high = joined(words[first + 2], first + 3 < n_words ? words[first + 3] : 0);
    return keep_bytes(chunk, n - at);
}

// How many low lanes say yes before the first that does not.
DEVICE u32 lanes_in_front(bool yes) {
    u32 others = ~ballot(yes);
    return others == 0 ? WARP : first_one(others);
}

struct BitBuffer {  // shared memory: numbers of up to 39 bits of each lane, one after the other
    u32 words[2 * WARP];
    u32 frequencies[256];  // by symbol
};

// Put the `n_bits` of each lane behind the `bit` bits so far, of which those of a word that is not full
// are in the buffer; full words go to `store(number, word)`.
template <class Store>
DEVICE void append_bits(BitBuffer& buffer, u64 bits, u32 n_bits, u32& bit, Store store) {
    u32 lane = lane_index(), end = prefix_of_warp(n_bits), from = bit % 32 + end - n_bits, at = from / 32;
    u32 shift = from % 32;
    if (n_bits != 0) {  // no bit is added twice: sums are unions
        add_atomically(&buffer.words[at], u32(bits) << shift);
        u64 rest = bits >> (32 - shift);
        if (u32(rest) != 0) add_atomically(&buffer.words[at + 1], rest);
        if (rest >> 32 != 0) add_atomically(&buffer.words[at + 2], rest >> 32);
    }
    sync_warp();
    u32 n_words = (bit % 32 + shuffle(end, WARP - 1)) / 32;
    for (u32 k = lane; k < n_words; k += WARP) store(bit / 32 + k, buffer.words[k]);
    u32 left = buffer.words[n_words];
    sync_warp();
    for (u32 k = lane; k < 2 * WARP; k += WARP) buffer.words[k] = k == 0 ? left : 0;
    sync_warp();
    bit += shuffle(end, WARP - 1);
}

}  // namespace lz
