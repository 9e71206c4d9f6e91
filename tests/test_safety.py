# SPDX-License-Identifier: Apache-2.0
"""Promise 17: threads, forks and repeated use are safe and leak nothing; salvage tells all."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import textwrap
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from helpers import NAMES, raw_bytes, sample

import gpucodec
from gpucodec import CorruptionError, TensorConfig, frame as container


def test_eight_threads_encode_and_decode_at_once():
    arrays = [sample(name, 50_000, "values", seed) for name in NAMES for seed in range(2)]
    expected = [gpucodec.encode(array).tobytes() for array in arrays]
    start = threading.Barrier(8)

    def work(worker: int) -> None:
        start.wait()
        for i in np.random.default_rng(worker).permutation(len(arrays)):
            threads = (None, 1, 2)[worker % 3]
            frame = gpucodec.encode(arrays[i], threads=threads)
            assert frame.tobytes() == expected[i]
            decoded = gpucodec.decode(frame, threads=threads)
            assert raw_bytes(decoded) == raw_bytes(arrays[i])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, range(8)))


def test_the_number_of_threads_may_change_meanwhile():
    array = sample("bfloat16", 2_000_000, "values")
    expected = gpucodec.encode(array).tobytes()
    before = os.environ.get("GPUCODEC_THREADS")
    stop = threading.Event()

    def change() -> None:
        n = 0
        while not stop.is_set():
            gpucodec.set_threads(1 + n % 4)
            n += 1

    changer = threading.Thread(target=change)
    changer.start()
    try:
        with ThreadPoolExecutor(3) as pool:
            frames = list(pool.map(lambda _: gpucodec.encode(array).tobytes(), range(60)))
    finally:
        stop.set()
        changer.join()
        gpucodec.set_threads(int(before or len(os.sched_getaffinity(0))))
    assert set(frames) == {expected}


def test_more_threads_than_blocks_and_nonsense_numbers():
    array = sample("float32", 100, "values")
    frame = gpucodec.encode(array, threads=1000)
    assert gpucodec.decode(frame, threads=1000).tobytes() == array.tobytes()
    with pytest.raises(ValueError, match="0"):
        gpucodec.set_threads(0)


FORK = textwrap.dedent(
    """
    import multiprocessing, os, sys, warnings
    import numpy as np
    import gpucodec

    warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of any fork with threads
    array = np.random.default_rng(0).normal(size=3_000_000).astype(np.float32)
    frame = gpucodec.encode(array, threads=4)  # the pool's threads exist from here on

    def work(seed):
        child = np.random.default_rng(seed).normal(size=1_500_000).astype(np.float32)
        again = gpucodec.decode(gpucodec.encode(child, threads=4), threads=4)
        assert (again == child).all()
        assert (gpucodec.decode(frame, threads=4) == array).all()
        return seed

    for _ in range(3):
        child = os.fork()
        if not child:
            work(1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    with multiprocessing.get_context("fork").Pool(2) as pool:
        assert pool.map(work, range(4)) == list(range(4))
    assert (gpucodec.decode(frame, threads=4) == array).all()
    """
)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_forked_processes_work():
    done = subprocess.run(
        [sys.executable, "-c", FORK], capture_output=True, text=True, check=False, timeout=120
    )
    assert done.returncode == 0, done.stderr


def resident() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE")


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ten_thousand_uses_leak_nothing():
    array = sample("bfloat16", 20_000, "values")
    frame = gpucodec.encode(array)
    damaged = frame.copy()
    damaged[-3] ^= 1
    out = np.empty_like(array)

    def use(count: int) -> None:
        for _ in range(count):
            gpucodec.encode(array)
            gpucodec.decode(frame)
            gpucodec.decode(frame, out, threads=2)
            with pytest.raises(CorruptionError):
                gpucodec.decode(damaged, out)

    use(1000)
    gc.collect()
    before = resident()
    use(10_000)
    gc.collect()
    assert resident() - before < 2 << 20


class TestSalvage:
    """Only `salvage=True` gets blocks out of a damaged frame, and it names the bad ones."""

    array = sample("bfloat16", 5000, "values")
    frame = gpucodec.encode(array, TensorConfig(512))

    def damaged(self, *blocks: int) -> np.ndarray:
        offsets = container.parse(self.frame).offsets
        frame = self.frame.copy()
        for block in blocks:
            frame[offsets[block + 1] - 40] ^= 1
        return frame

    @pytest.mark.parametrize("bad", [(), (0,), (9,), (3, 4), (0, 2, 9), tuple(range(10))])
    @pytest.mark.parametrize("threads", [1, None])
    def test_good_blocks_come_back_and_bad_ones_are_zero(self, bad, threads):
        frame = self.damaged(*bad)
        array, bad_blocks = gpucodec.decode(frame, salvage=True, threads=threads)
        assert [b.block for b in bad_blocks] == list(bad)
        expected = np.frombuffer(self.array.tobytes(), np.uint8).copy()
        for block in bad_blocks:
            assert (block.start, block.stop) == (
                1024 * block.block,
                min(10_000, block.start + 1024),
            )
            assert block.reason
            expected[block.start : block.stop] = 0
        assert array.shape == self.array.shape
        assert array.tobytes() == expected.tobytes()
        if bad:
            with pytest.raises(CorruptionError, match=f"block {bad[0]} "):
                gpucodec.decode(frame, threads=threads)
            with pytest.raises(CorruptionError):
                gpucodec.verify(frame)
            with pytest.raises(CorruptionError):
                gpucodec.decode_batch([self.frame, frame])

    def test_blocks_of_stored_frames_too(self):
        noise = sample("uint16", 1000, "noise")
        frame = gpucodec.encode(noise, TensorConfig(128))
        frame[-2000 + 2 * 300] ^= 1
        array, bad_blocks = gpucodec.decode(frame, salvage=True)
        assert [b.block for b in bad_blocks] == [2]
        assert not array[256:384].any()
        assert (np.delete(array, slice(256, 384)) == np.delete(noise, slice(256, 384))).all()

    def test_salvage_into_an_output(self):
        out = np.ones(5000, np.uint16)
        array, bad_blocks = gpucodec.decode(self.damaged(1), out, salvage=True)
        assert array is out
        assert len(bad_blocks) == 1
        assert not out[512:1024].any()

    def test_salvage_needs_a_sound_table(self):
        frame = self.frame.copy()
        frame[60] ^= 1
        with pytest.raises(CorruptionError):
            gpucodec.decode(frame, salvage=True)
