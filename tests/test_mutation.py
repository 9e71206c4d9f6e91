# SPDX-License-Identifier: Apache-2.0
"""Promises 8 and 9: arbitrary bytes never crash, hang, read or write out of bounds, nor cost time.

Mutants have header hashes that hold, so that they reach the decoders. They are decoded in other
processes, between forbidden pages, where one byte too far is a crash.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import random
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import make_frames
import mutate
import numpy as np
import pytest
import spec_decoder
from helpers import LEVELS, TESTS, run_python

import gpucodec

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs mprotect of libc")


def run_worker(mode: str, count: int, seed: int, *more: str, level: str = "host", **env: str):
    output = run_python(
        "mutation_worker.py", mode, str(count), str(seed), *more, level=level, **env
    )
    return json.loads(output)


# glibc then marks the end of each piece of the heap, and looks at the mark when it is freed.
CHECKED_HEAP = {
    "LD_PRELOAD": "libc_malloc_debug.so.0",
    "MALLOC_CHECK_": "3",
    "MALLOC_MMAP_MAX_": "0",  # large pieces too
}


def crashes(mode: str, **environment: str) -> bool:
    done = subprocess.run(
        [sys.executable, str(TESTS / "mutation_worker.py"), mode],
        env={**os.environ, **environment},
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.returncode < 0


def test_the_forbidden_page_is_forbidden():
    assert crashes("touch")


def has_checked_heap() -> bool:
    try:
        ctypes.CDLL(CHECKED_HEAP["LD_PRELOAD"])
    except OSError:
        return False
    return True


@pytest.mark.skipif(not has_checked_heap(), reason="needs glibc 2.34 or newer")
def test_a_checked_heap_notices_one_byte():
    assert crashes("overrun", **CHECKED_HEAP)
    assert not crashes("overrun")


@pytest.mark.parametrize("level", LEVELS)
def test_mutants_do_no_harm(level):
    outcomes = run_worker("guard", 200_000 if level == "host" else 50_000, 1, level=level)
    assert outcomes["CorruptionError"] > 10_000


@pytest.mark.parametrize("level", LEVELS)
def test_scratch_memory_is_not_overrun(level):
    run_worker("encode", 2_000, 4, level=level, **CHECKED_HEAP)
    run_worker("guard", 5_000, 5, level=level, **CHECKED_HEAP)


def test_mutants_do_no_harm_with_checked_bounds(request):
    # Numba's cache does not know about bounds checks, so this process has a cache of its own.
    cache = request.config.cache.mkdir("numba-boundscheck")
    outcomes = run_worker(
        "guard",
        20_000,
        2,
        "bounds",
        level="plain",
        NUMBA_BOUNDSCHECK="1",
        NUMBA_CACHE_DIR=str(cache),
    )
    assert outcomes["bounds"] is True
    assert outcomes["CorruptionError"] > 1_000


def test_the_document_judges_mutants_alike():
    outcomes = run_worker("oracle", 20_000, 3)
    assert outcomes["accepted"] > 2_000
    assert outcomes["refused"] > 2_000


@pytest.mark.long
@pytest.mark.parametrize("seed", range(10, 60))
def test_ten_million_mutants_do_no_harm(seed):
    run_worker("guard", 200_000, seed, level=sorted(LEVELS)[seed % len(LEVELS)])


@pytest.mark.long
@pytest.mark.parametrize("seed", range(100, 110))
def test_the_document_judges_many_mutants_alike(seed):
    run_worker("oracle", 100_000, seed)


def cpu_time(frame: bytes, repeats: int) -> float:
    """Median seconds of CPU to decode, or refuse, a frame on this thread."""
    out = np.empty(WORDS * 2, np.uint8)
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        with contextlib.suppress(ValueError):
            gpucodec.decode(frame, out, threads=1)
        times.append(time.thread_time() - start)
    return statistics.median(times)


WORDS = 1 << 17


def timed_seed(style: str) -> bytes:
    """A frame of two full blocks, each plane coded in the given way."""
    rng = np.random.default_rng(5)
    kind = spec_decoder.TYPES[10]
    data = make_frames.random_data(rng, kind, WORDS, "skewed")

    def choose(symbols, bits):
        if style == "raw":
            return make_frames.raw(symbols, bits)
        p = int(style[4:].split("-", maxsplit=1)[0])
        table = make_frames.random_table(rng, symbols, bits, p, style.split("-")[1])
        return make_frames.rans(symbols, p, table)

    return make_frames.build("float16", (WORDS,), data, 16, choose)


def test_no_mutant_takes_longer_than_a_valid_frame_may():
    styles = ("raw", "rans8-fair", "rans8-few", "rans8-random", "rans12-fair", "rans12-few")
    valid = [timed_seed(style) for style in styles]
    slowest_valid = max(cpu_time(frame, 9) for frame in valid)
    parts = [mutate.Parts(frame) for frame in valid]
    rng = random.Random(9)
    mutants = [mutate.mutant(rng.choice(parts), rng, parts) for _ in range(1_000)]
    mutants = [frame for frame in mutants if len(frame) < 1 << 20]
    first_look = sorted(mutants, key=lambda frame: -cpu_time(frame, 1))
    slowest = max(cpu_time(frame, 9) for frame in first_look[:20])
    assert slowest <= 3 * slowest_valid, (slowest, slowest_valid)


def test_a_good_frame_decodes_beside_bad_ones():
    rng = random.Random(4)
    made = list(make_frames.random_frames(3, 20, 200))
    parts = [mutate.Parts(m.frame) for m in made]
    bad = [mutate.mutant(rng.choice(parts), rng, parts) for _ in range(400)]

    def work(i: int) -> None:
        with contextlib.suppress(gpucodec.GpucodecError):
            gpucodec.decode(bad[i], limit=1 << 20)
        good = made[i % len(made)]
        assert gpucodec.decode(good.frame).tobytes() == good.raw

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(len(bad))))
