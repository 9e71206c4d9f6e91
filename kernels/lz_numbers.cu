// SPDX-License-Identifier: Apache-2.0
// The numbers of sequences as codes and extra bits, 32 sequences at a time, and back: where their
// literals and matches are, by scans. The other half of lz_numbers.py.

namespace lz {

struct Stored {  // symbols of a stream
    u32 mode;
    u32 at;  // in the payload if raw, in the memory of the task if coded; the symbol if constant
};

// What the first kernel finds in a payload and leaves to the second, at the start of a task's memory.
struct alignas(8) Plan {
    u64 fill;
    u32 status;
    u32 n, n_literals, n_sequences;
    u32 word_log, full_log;  // log2 of the bytes of a coded and of a decoded word
    u32 rotated;
    u32 n_odd;
    u32 n_riders;             // bytes of the extra bits that are in `riders`,
    u32 extras_at, extras_end;  // and where in the payload the rest is
    u32 groups_at;            // where in the task's memory the `Carry` of each group is
    Stored streams[N_STREAMS];
    u16 riders[LANES];
};

struct alignas(16) Carry {  // what the sequences before a group take, and their last distance
    u32 bit, word, literal, distance;
};

struct Sequence {  // words `match` ... `end` - 1 are copied, those before it are literals
    u32 match, end;
    u32 literal_end;  // number of the literal that follows
    u32 distance;     // 0: fill
};

DEVICE u32 symbol(const Plan& plan, u32 s, const u8* payload, const u8* memory, u32 i) {
    Stored stream = plan.streams[s];
    if (stream.mode == CONSTANT_STREAM) return stream.at;
    return (stream.mode == RAW_STREAM ? payload : memory)[stream.at + i];
}

// 32 of the extra bits, zeros behind the last byte.
DEVICE u32 extra_word(const Plan& plan, const u8* payload, u32 i) {
    if (4 * i < plan.n_riders) return plan.riders[2 * i] | plan.riders[2 * i + 1] << 16;
    u32 at = plan.extras_at + 4 * i - plan.n_riders;
    if (at + 4 <= plan.extras_end) return read_u32(payload + at);
    u32 word = 0;
    for (u32 k = 0; at + k < plan.extras_end; k++) word |= payload[at + k] << (8 * k);
    return word;
}

DEVICE u32 width_of(u32 code) { return code < 8 ? 0 : code / 4 - 1; }

// The number of a code whose extra bits are the lowest of `bits`, which are taken off.
DEVICE u32 take_number(u32 code, u64& bits) {
    u32 width = width_of(code);
    u32 number = ((code - 4 * width) << width) + (u32(bits) & ((1u << width) - 1));
    bits >>= width;
    return number;
}

// Lane `i` reads sequence `first + i`. `carry` is of the sequences before `first`, and becomes that of those
// before `first + 32`. False if the lane's sequence reaches beyond what is there.
DEVICE bool read_group(const Plan& plan, const u8* payload, const u8* memory, u32 first, Carry& carry,
                       Sequence& sequence) {
    u32 i = first + lane_index(), streams = 1u << plan.word_log;
    bool is_there = i < plan.n_sequences;
    u32 run_code = 0, length_code = 0, step = FILL_CODE;
    if (is_there) {
        run_code = symbol(plan, streams, payload, memory, i);
        length_code = symbol(plan, streams + 1, payload, memory, i);
        step = symbol(plan, streams + 2, payload, memory, i);
    }
    bool is_new = step >= DISTANCE_CODE;
    u32 n_bits = width_of(run_code) + width_of(length_code);
    if (is_new) n_bits += width_of(step - DISTANCE_CODE);
    u32 bit_end = carry.bit + prefix_of_warp(n_bits), bit = bit_end - n_bits;
    u32 shift = bit & 31;
    u64 bits = extra_word(plan, payload, bit / 32) | u64(extra_word(plan, payload, bit / 32 + 1)) << 32;
    bits >>= shift;
    if (shift + n_bits > 64) bits |= u64(extra_word(plan, payload, bit / 32 + 2)) << (64 - shift);
    u32 run = take_number(run_code, bits);
    u32 length = take_number(length_code, bits) + is_there;
    u32 distance = is_new ? take_number(step - DISTANCE_CODE, bits) + 1 : 0;

    u32 lanes = ballot(is_new) & (lanes_below() << 1 | 1);  // up to this one
    u32 latest = shuffle(distance, lanes == 0 ? 0 : bit_length(lanes) - 1);
    latest = lanes == 0 ? carry.distance : latest;
    sequence.end = carry.word + prefix_of_warp(run + length);
    sequence.match = sequence.end - length;
    sequence.literal_end = carry.literal + prefix_of_warp(run);
    sequence.distance = step == FILL_CODE ? 0 : latest;
    carry.bit = shuffle(bit_end, WARP - 1);
    carry.word = shuffle(sequence.end, WARP - 1);
    carry.literal = shuffle(sequence.literal_end, WARP - 1);
    carry.distance = shuffle(latest, WARP - 1);
    u32 n_extras = plan.n_riders + plan.extras_end - plan.extras_at;
    return sequence.literal_end <= plan.n_literals && sequence.end <= plan.n && bit_end <= 8 * n_extras &&
           sequence.distance <= sequence.match;
}

// --- encode ---------------------------------------------------------------------------------------

// The code of a number, and how many extra bits follow it.
DEVICE u32 code_of(u32 number, u32& width) {
    width = bit_length(number | 4) - 3;
    return (number >> width) + 4 * width;
}

// The code of number `part` of a sequence, and its extra bits.
DEVICE u32 sequence_code(u32 value, u32 part, u32& width, u32& rest) {
    u32 base = 0;
    if (part == 2) {
        width = rest = 0;
        if (value < DISTANCE_CODE) return value;
        base = DISTANCE_CODE;
    }
    u32 number = part == 0 ? value : part == 1 ? value - 1 : value - DISTANCE_CODE;
    u32 code = code_of(number, width);
    rest = number & ((1u << width) - 1);
    return base + code;
}

// The extra bits of all sequences, as 32-bit words to `store(number, word)`, the last one padded with
// zeros; their number.
template <class Store>
DEVICE u32 write_extras(const u16* sequences, u32 stride, u32 n_sequences, BitBuffer& buffer, Store store) {
    sync_warp();
    for (u32 k = lane_index(); k < 2 * WARP; k += WARP) buffer.words[k] = 0;
    sync_warp();
    u32 bit = 0;
#pragma unroll 1
    for (u32 first = 0; first < n_sequences; first += WARP) {
        u32 i = first + lane_index(), n_bits = 0;
        u64 bits = 0;
        for (u32 part = 0; part < 3 && i < n_sequences; part++) {
            u32 width, rest;
            sequence_code(sequences[part * stride + i], part, width, rest);
            bits |= u64(rest) << n_bits;
            n_bits += width;
        }
        append_bits(buffer, bits, n_bits, bit, store);
    }
    if (lane_index() == 0 && bit % 32 != 0) store(bit / 32, buffer.words[0]);
    sync_warp();
    return bit;
}

}  // namespace lz
