# SPDX-License-Identifier: Apache-2.0
"""Decodes mutants between pages that must not be touched; a process of its own, since it may crash.

    mutation_worker.py guard COUNT SEED     frames and outputs lie against forbidden pages
    mutation_worker.py oracle COUNT SEED    block hashes are right too, spec_decoder.py judges
    mutation_worker.py encode COUNT SEED    the encoder's inputs and outputs lie there as well
    mutation_worker.py touch                reads one byte too far: must crash
    mutation_worker.py overrun              writes one byte too far on the heap: must crash

Prints one JSON object. Anything but a GpucodecError or a sound result is a traceback.
"""

from __future__ import annotations

import collections
import ctypes
import json
import mmap
import random
import struct
import sys

import make_frames
import mutate
import numpy as np
import seeds
import spec_decoder
from helpers import CONTENTS, NAMES, repetitive, sample

import gpucodec
from gpucodec import LZConfig, TensorConfig, cpu, cpu_lz, dtypes, frame as container
from gpucodec.kernels import encode as kernel, encode_full, lz_encode_blocks, predictor, spec

POISON = 0xA5
CANARY = 64
PROFILES = ("ratio", "fast", "auto")
ROOM = 1 << 20
LIMIT = ROOM // 2


# rows, columns and type of frames of the largest block: plain, sparse, predicted, both
LARGEST = (
    *((256, 256, "float16"), (65_473, 1, "uint8"), (65_535, 1, "uint32")),
    *((512, 128, "float32"), (1000, 65, "bfloat16")),
)


class Guarded:
    """Memory with a forbidden page before and behind."""

    def __init__(self) -> None:
        self.libc = ctypes.CDLL(None, use_errno=True)
        page = mmap.PAGESIZE
        self.map = mmap.mmap(-1, ROOM + 2 * page)
        start = ctypes.addressof(ctypes.c_char.from_buffer(self.map))
        for forbidden in (start, start + page + ROOM):
            status = self.libc.mprotect(ctypes.c_void_p(forbidden), page, 0)
            assert status == 0, ctypes.get_errno()
        self.bytes = np.frombuffer(self.map, np.uint8)[page : page + ROOM]

    def place(self, size: int, *, low: bool) -> tuple[np.ndarray, np.ndarray]:
        """``size`` bytes at the low or high end, and the canary on their other side."""
        if low:
            return self.bytes[:size], self.bytes[size : size + CANARY]
        return self.bytes[ROOM - size :], self.bytes[ROOM - size - CANARY : ROOM - size]


def all_seeds() -> list[make_frames.Made]:
    """The small seeds, more small ones, and `LARGEST` of the largest block."""
    frames = seeds.encoded() + seeds.made() + list(make_frames.random_frames(11, 60, 200))
    frames += seeds.repeated() + seeds.made_lz()
    frames += make_frames.random_frames(12, 40, 200, lz=True)
    array = repetitive("int32", 65_536, "steps")
    frame = gpucodec.encode(array, gpucodec.TensorConfig(lz=True)).tobytes()
    frames.append(make_frames.Made("largest-lz", frame, "int32", array.shape, array.tobytes()))
    for rows, columns, name in LARGEST:
        rng = np.random.default_rng(rows)
        kind = spec_decoder.TYPES[make_frames.CODES[name]]
        content, keep, model = "skewed", None, None
        if name in {"bfloat16", "uint32"}:
            content, keep = "zeros", make_frames.random_keep(rng, kind, exact=False)
        if name in {"bfloat16", "float32"}:
            model = make_frames.random_model(rng, rows, columns)
        data = make_frames.random_data(rng, kind, rows * columns, content)

        def choose(s: np.ndarray, b: int, rng: np.random.Generator = rng) -> make_frames.Coded:
            return make_frames.any_coder(rng, s, b)

        shape = rows, columns
        frame = make_frames.build(name, shape, data, 16, choose, keep=keep, model=model)
        frames.append(make_frames.Made(f"largest-{name}", frame, name, shape, data))
    return [made for made in frames if len(made.frame) < LIMIT]


def guard(count: int, seed: int) -> dict[str, int]:
    made = all_seeds()
    parts = [mutate.Parts(m.frame) for m in made]
    small = [i for i, m in enumerate(made) if len(m.raw) < 10_000]
    source, target = Guarded(), Guarded()
    outcomes: collections.Counter[str] = collections.Counter()
    rng = random.Random(seed)
    for trial in range(count):
        i = rng.choice(small) if trial % 64 else len(made) - 1 - trial // 64 % (len(LARGEST) + 1)
        frame = mutate.mutant(parts[i], rng, parts)
        if len(frame) > ROOM - CANARY:
            continue
        low = bool(trial & 1)
        placed, _ = source.place(len(frame), low=low)
        placed[:] = np.frombuffer(frame, np.uint8)
        declared = struct.unpack_from("<Q", frame, 8)[0] if len(frame) >= 16 else 0
        size = declared if declared <= LIMIT else len(made[i].raw)
        out, canary = target.place(size, low=bool(trial & 2))
        out[:] = canary[:] = POISON
        try:
            if trial & 4:
                gpucodec.decode(placed, out, threads=1, salvage=True)
            elif trial & 8:
                gpucodec.decode(placed, limit=LIMIT, threads=1)
            else:
                gpucodec.decode(placed, out, threads=1)
            outcomes["accepted"] += 1
        except gpucodec.GpucodecError as error:
            outcomes[type(error).__name__] += 1
        except ValueError as error:  # out has another size than a sound header says
            assert "out has" in str(error), error
            outcomes["size"] += 1
        assert (canary == POISON).all(), (made[i].label, trial)
    good = made[0]
    assert gpucodec.decode(good.frame).tobytes() == good.raw
    return dict(outcomes)


def oracle(count: int, seed: int) -> dict[str, int]:
    parts = [mutate.Parts(m.frame) for m in all_seeds() if len(m.raw) < 10_000]
    outcomes: collections.Counter[str] = collections.Counter()
    rng = random.Random(seed)
    for trial in range(count):
        frame = mutate.mutant(rng.choice(parts), rng, parts)
        declared = struct.unpack_from("<Q", frame, 8)[0] if len(frame) >= 16 else 0
        if declared > LIMIT:  # the oracle has no limit
            continue
        sound = mutate.rehashed(frame)
        expected = None if sound is None else spec_decoder.decode(sound)
        try:
            found = gpucodec.decode(sound or frame, limit=LIMIT, threads=1)
        except gpucodec.GpucodecError as error:
            assert expected is None, (trial, seed, error)
            outcomes["refused"] += 1
        else:
            assert expected is not None, (trial, seed, "the document refuses it")
            assert found.tobytes() == expected.raw.tobytes(), (trial, seed)
            assert found.shape == expected.shape
            outcomes["accepted"] += 1
    return dict(outcomes)


def encode(count: int, seed: int) -> dict[str, int]:
    source, target = Guarded(), Guarded()
    rng = np.random.default_rng(seed)
    for trial in range(count):
        dtype = dtypes.BY_NAME[NAMES[rng.integers(0, len(NAMES))]]
        row = dtype.spec
        n = int(rng.integers(1, 1000) if trial % 32 else rng.integers(60_000, 66_000))
        n = min(n, LIMIT // dtype.itemsize)
        array = sample(dtype.name, n, CONTENTS[trial % len(CONTENTS)], trial)
        if dtype.name in spec.PREDICTED_TYPES and trial % 8 == 0:  # what may have a model
            array = scaled(rng, dtype)
            n = array.size
        placed, _ = source.place(array.nbytes, low=bool(trial & 1))
        placed[:] = array.reshape(-1).view(np.uint8)
        block_log = int(rng.integers(6, 10) if trial % 32 else 16)
        words = placed.view(dtype.numpy).reshape(array.shape)
        profile = PROFILES[trial // 3 % 3]
        frame = gpucodec.encode(words, gpucodec.TensorConfig(1 << block_log, profile))
        assert gpucodec.decode(frame).tobytes() == array.tobytes(), trial

        n_words = n * row.words
        n_blocks = -(-n_words >> block_log)
        room = container.max_payload_bytes(dtype, n_words, block_log) + cpu.WRITE_SLACK
        out, canary = target.place(room, low=bool(trial & 2))
        out[:] = canary[:] = POISON
        entries = np.empty((n_blocks, len(row.planes)), np.uint32)
        hashes = np.empty(n_blocks, np.uint64)
        kernel.encode_blocks(
            *(placed, 1 << block_log, row.word_bytes, row.transform, dtype.bits),
            *(out, entries, hashes, kernel.scratch(1 << block_log)),
        )
        assert (canary == POISON).all(), (trial, seed)

        flags = spec.SPARSE if trial & 4 else 0
        entries = np.empty((n_blocks, container.entries_a_block(dtype, flags)), np.uint32)
        room = container.max_payload_bytes(dtype, n_words, block_log, flags) + cpu.WRITE_SLACK
        out, canary = target.place(min(room, ROOM - CANARY), low=bool(trial & 2))
        out[:] = canary[:] = POISON
        encode_full.encode_blocks()(
            *(placed, 0, 1 << block_log, row.word_bytes, row.transform, dtype.bits),
            *(trial % 3, flags > 0, False, predictor.NO_MODEL),
            *(out, entries, hashes, encode_full.scratch(1 << block_log)),
        )
        assert (canary == POISON).all(), (trial, seed)
        encode_by_lz(source, target, trial)
    return {"encoded": count}


def scaled(rng: np.random.Generator, dtype: dtypes.DType) -> np.ndarray:
    """A matrix of rows and columns of different scale, some of it zero: what may have a model."""
    n_columns = int(rng.integers(64, 200))
    n_rows = -(-spec.MODEL_MIN_WORDS // n_columns)
    logs = rng.normal(0, 2, (n_rows, 1)) + rng.normal(0, 2, (1, n_columns)) - 3
    values = np.exp2(logs + rng.normal(0, 0.3, logs.shape))
    return (values * (rng.random(logs.shape) < rng.random())).astype(dtype.numpy)


def encode_by_lz(source: Guarded, target: Guarded, trial: int) -> None:
    """The same for LZ: all blocks by it, and only those that it makes smaller."""
    rng = np.random.default_rng([trial, 1])
    name = ("uint8", "int16", "int32", "int64", "float32", "bool")[trial % 6]
    content = ("text", "runs", "steps", "sparse")[trial // 6 % 4]
    n = int(rng.integers(1, 1000) if trial % 32 else rng.integers(60_000, 65_536))
    array = repetitive(name, n, content, trial)
    placed, _ = source.place(array.nbytes, low=bool(trial & 1))
    placed[:] = array.view(np.uint8)
    width = array.itemsize
    for config in (LZConfig("ratio", (None, 1, 2, 4, 8)[trial % 5]), TensorConfig(64, lz=True)):
        frame = gpucodec.encode(placed.view(array.dtype), config)
        assert gpucodec.decode(frame).tobytes() == array.tobytes(), trial

    n_blocks = -(-array.nbytes // 65_536)
    out, canary = target.place(cpu_lz.room(array.nbytes, n_blocks), low=bool(trial & 2))
    out[:] = canary[:] = POISON
    entries = np.empty((n_blocks, 1 + trial % 2), np.uint32)
    hashes = np.empty(n_blocks, np.uint64)
    lz_encode_blocks.encode_blocks(
        *(placed, 65_536, width, trial % 2, out, entries, hashes, lz_encode_blocks.scratch())
    )
    assert (canary == POISON).all(), trial


def overrun() -> None:
    array = np.empty(100_000, np.uint8)
    ctypes.memset(array.ctypes.data + array.size, 0, 1)
    del array
    print("not noticed")


def touch() -> None:
    placed, _ = Guarded().place(16, low=False)
    print(ctypes.c_uint8.from_address(placed.ctypes.data + 16).value)


def check_bounds_are_checked() -> None:
    import numba

    @numba.njit
    def read(array, i):
        return array[i]

    try:
        read(np.zeros(4), np.uint64(4))
    except IndexError:
        return
    raise AssertionError("NUMBA_BOUNDSCHECK has no effect")


if __name__ == "__main__":
    mode, *numbers = sys.argv[1:]
    if not numbers:
        {"touch": touch, "overrun": overrun}[mode]()
    else:
        if bounds := "bounds" in numbers:
            check_bounds_are_checked()
        run = {"guard": guard, "oracle": oracle, "encode": encode}[mode]
        outcomes = run(int(numbers[0]), int(numbers[1]))
        vars(cpu._scratch).clear()
        vars(cpu_lz._scratch).clear()  # a heap that is checked is checked when it is given back
        print(json.dumps(outcomes | {"bounds": bounds}))
