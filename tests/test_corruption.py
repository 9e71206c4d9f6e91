# SPDX-License-Identifier: Apache-2.0
"""Promise 6: a frame that was changed is an error, whichever bit it was."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import seeds
from helpers import raw_bytes, sample

import gpucodec
from gpucodec import (
    CorruptionError,
    GpucodecError,
    TensorConfig,
    TruncatedError,
    codec,
    frame as container,
)


def is_noticed(frame: bytes | bytearray) -> bool:
    try:
        gpucodec.decode(frame, threads=1)
    except GpucodecError:
        return True
    return False


def test_seeds_are_sound_and_cover_the_format():
    frames = seeds.all_seeds()
    assert tuple(frames) == seeds.LABELS
    assert len(frames) >= 30
    for made in frames.values():
        assert raw_bytes(gpucodec.decode(made.frame)) == made.raw
    assert set().union(*(seeds.features(m.frame) for m in frames.values())) >= seeds.FEATURES


@pytest.mark.parametrize("label", seeds.LABELS)
def test_every_single_bit_flip_is_noticed(label):
    frame = bytearray(seeds.all_seeds()[label].frame)
    silent = []
    for bit in range(8 * len(frame)):
        frame[bit >> 3] ^= 1 << (bit & 7)
        if not is_noticed(frame):
            silent.append(bit)
        frame[bit >> 3] ^= 1 << (bit & 7)
    assert not silent


def damages(rng: np.random.Generator, made: seeds.make_frames.Made) -> bytes:
    """The frame with two flipped bits, another byte, a run of zeros, or bytes copied or swapped."""
    frame = bytearray(made.frame)
    kind = rng.integers(0, 6)
    at = int(rng.integers(0, len(frame)))
    other = int(rng.integers(0, len(frame)))
    run = int(2 ** rng.integers(1, 10))
    if kind == 0:
        frame[at] ^= 1 << rng.integers(0, 8)
        frame[other] ^= 1 << rng.integers(0, 8)
    elif kind == 1:
        frame[at] ^= rng.integers(1, 256)
    elif kind == 2:
        frame[at : at + run] = bytes(len(frame[at : at + run]))
    elif kind == 3:  # a run of bytes stands where another belongs
        run = min(run, len(frame) - max(at, other))
        frame[at : at + run] = made.frame[other : other + run]
    elif kind == 4:  # two runs have changed places
        run = min(run, len(frame) - max(at, other), abs(at - other))
        frame[at : at + run] = made.frame[other : other + run]
        frame[other : other + run] = made.frame[at : at + run]
    else:  # bytes are missing here and others follow
        del frame[at : at + run]
        frame += rng.bytes(len(made.frame) - len(frame))
    return bytes(frame)


def trial(count: int, seed: int) -> None:
    frames = list(seeds.all_seeds().values())
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        made = frames[i % len(frames)]
        damaged = damages(rng, made)
        assert damaged == made.frame or is_noticed(damaged), (made.label, seed, i)


def test_larger_damage_is_noticed():
    trial(60_000, seed=0)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(1, 21))
def test_larger_damage_is_noticed_a_million_times(seed):
    trial(60_000, seed)


def test_blocks_that_changed_places_are_noticed():
    array = sample("bfloat16", 64 * 64, "noise")  # raw: all blocks have the same size
    frame = gpucodec.encode(array, TensorConfig(block_size=64)).tobytes()
    offsets = container.parse(frame).offsets
    parts = [frame[a:b] for a, b in itertools.pairwise(offsets)]
    head = frame[: offsets[0]]
    for i in range(len(parts) - 1):
        swapped = [*parts[:i], parts[i + 1], parts[i], *parts[i + 2 :]]
        repeated = [*parts[:i], parts[i], parts[i], *parts[i + 2 :]]
        for mixed in (swapped, repeated):
            with pytest.raises(CorruptionError, match=f"block {i}|block {i + 1}"):
                gpucodec.decode(head + b"".join(mixed))


def test_zeroed_sectors_of_a_large_frame_are_noticed():
    array = sample("float32", 300_000, "values")
    frame = bytearray(gpucodec.encode(array))
    for sector in (512, 4096):
        for at in range(0, len(frame), 37 * 512):
            saved = bytes(frame[at : at + sector])
            frame[at : at + sector] = bytes(len(saved))
            assert is_noticed(frame) or not any(saved), (sector, at)
            frame[at : at + sector] = saved


def test_bytes_before_and_behind_a_frame_are_noticed():
    first, second = (made.frame for made in list(seeds.all_seeds().values())[:2])
    for joined in (first + second, first + first, first + b"\0", first + bytes(16), b"\0" + first):
        assert is_noticed(joined)


def test_errors_name_block_and_place():
    array = sample("bfloat16", 1000, "values")
    frame = bytearray(gpucodec.encode(array, TensorConfig(block_size=256)))
    offsets = container.parse(frame).offsets
    frame[offsets[2] + 40] ^= 1
    with pytest.raises(CorruptionError, match=rf"block 2 of 4, at byte {offsets[2]} "):
        gpucodec.decode(frame)


def test_a_failed_decode_leaves_zeros_not_somebody_elses_bytes():
    array = sample("float32", 1000, "values")
    frame = bytearray(gpucodec.encode(array))
    frame[-20] ^= 1
    out = np.full(1000, 1.0, np.float32)
    with pytest.raises(CorruptionError):
        gpucodec.decode(frame, out)
    assert not out.any()


def test_a_batch_says_which_frame_is_damaged():
    good = gpucodec.encode(np.arange(5000, dtype=np.int32)).tobytes()
    for damaged, error in (
        (good[:-1], TruncatedError),
        (flipped(good, len(good) - 1), CorruptionError),
    ):
        with pytest.raises(error) as caught:
            gpucodec.decode_batch([good, good, damaged, good])
        assert caught.value.__notes__ == ["frame 2 of the batch"]


def test_a_damaged_frame_of_many_is_named():
    arrays = [np.arange(i % 9, dtype=np.int16) for i in range(2 * codec.WINDOW + 10)]
    found = gpucodec.encode_batch(arrays)
    for array, back in zip(arrays, gpucodec.decode_batch(found), strict=True):
        assert back.tobytes() == array.tobytes()
    number = codec.WINDOW + 5
    found[number] = found[number][:-1]
    with pytest.raises(TruncatedError) as caught:
        gpucodec.decode_batch(found)
    assert caught.value.__notes__ == [f"frame {number} of the batch"]


def flipped(frame: bytes, at: int) -> bytes:
    return frame[:at] + bytes([frame[at] ^ 1]) + frame[at + 1 :]
