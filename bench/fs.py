# SPDX-License-Identifier: Apache-2.0
"""The filesystem on a local disk: ``python -m bench.fs``.

A safetensors file of bf16 and fp32 weights, written and read through ``gpucodec::file://``. In turns
with the filesystem, the codec does the same by hand: reads the file and decodes its frames, encodes the
same frames and writes, flushes and renames a file. What flushing (fsync) takes is the disk's, and told apart; so is
what writing the encoded frames takes alone. Random reads say what they fetch.

``--folder /dev/shm`` measures without a disk, ``--clock wall`` what a user waits for.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

import ml_dtypes
import numpy as np

import gpucodec
from gpucodec.fs import GpucodecFileSystem, source
from gpucodec.fs.encoder import WINDOW_BYTES

from .measure import keep_freed_memory
from .record import record

RANDOM_BYTES = 64 << 10
RANDOM_READS = 300
GOALS = {"blocks": 1.5, "faster": 20, "sequential": 0.9}


def checkpoint(mib: int) -> bytes:
    """A safetensors file of `mib` MiB: three quarters bf16, one quarter fp32, normal values."""
    from safetensors.numpy import save

    rng = np.random.default_rng(0)
    n = (mib << 20) // 4
    values = rng.normal(0, 0.02, 1 << 22).astype(np.float32)
    tensors = {}
    for i, (dtype, share) in enumerate(((ml_dtypes.bfloat16, 0.75), (np.float32, 0.25))):
        count = int(n * share * 4 / np.dtype(dtype).itemsize)
        scaled = np.resize(np.roll(values, 7 * i), count)  # repeats only after 4 Mi values
        tensors[f"t{i}"] = scaled.astype(dtype)
    return save(tensors)


def timed(work: Any, clock: Any = time.process_time) -> float:
    """CPU seconds of all threads, system calls included: other programs do not count."""
    start = clock()
    work()
    return float(clock() - start)


class Flushes:
    """How long os.fsync takes, while this is entered."""

    def __init__(self, clock: Any) -> None:
        self.clock, self.seconds, self._fsync = clock, 0.0, os.fsync

    def __enter__(self) -> Self:
        os.fsync = self._timed
        return self

    def _timed(self, descriptor: int) -> None:
        start = self.clock()
        self._fsync(descriptor)
        self.seconds += self.clock() - start

    def __exit__(self, *_: object) -> None:
        os.fsync = self._fsync


def sequential(
    fs: Any, path: str, data: bytes, rounds: int, clock: Any = time.process_time
) -> dict[str, float]:
    """MB/s of the filesystem and of the codec alone, best of `rounds` in turns, without fsync.

    And the seconds of the shortest fsync of what the filesystem wrote, by `fsync`.
    """
    windows = [data[at : at + WINDOW_BYTES] for at in range(0, len(data), WINDOW_BYTES)]
    with fs.open(path) as file:
        index = file._source.index
        stored = Path(path).read_bytes()
    frames = [index.frame(number) for number in range(len(index.heads))]
    pieces_of_stored = range(0, len(stored), 1 << 24)
    room, encoded = np.empty(WINDOW_BYTES, np.uint8), np.empty(WINDOW_BYTES, np.uint8)

    def decode_in_memory() -> None:
        for at, frame in zip(index.starts, frames, strict=True):
            raw = np.frombuffer(stored, np.uint8, frame.encoded_bytes, int(at))
            gpucodec.decode(raw, out=room[: frame.decoded_bytes])

    def decode_alone() -> None:
        with Path(path).open("rb", buffering=0) as file:
            for at, frame in zip(index.starts, frames, strict=True):
                file.seek(int(at))
                raw = encoded[: frame.encoded_bytes]
                file.readinto(raw)
                gpucodec.decode(raw, out=room[: frame.decoded_bytes])

    def decode_through() -> None:
        with fs.open(path) as file:
            while file.readinto(room):
                pass

    def pieces() -> Iterator[Any]:
        at = 0
        for frame in frames:
            piece = np.frombuffer(data, np.uint8, frame.decoded_bytes, at)
            lz = gpucodec.LZConfig() if frame.dtype.name == "uint8" else None
            yield gpucodec.encode(piece.view(frame.dtype.numpy), lz)
            at += frame.decoded_bytes

    def encode_in_memory() -> None:
        for _ in pieces():
            pass

    def write(pieces: Any) -> None:
        """As whoever wants no torn file does: anew, flushed, and renamed over the old one."""
        new = Path(path + ".new")
        with new.open("wb", buffering=0) as file:
            file.writelines(pieces)
            os.fsync(file.fileno())
        new.replace(path + ".alone")

    def write_alone() -> None:
        write(memoryview(stored)[at : at + (1 << 24)] for at in pieces_of_stored)

    def encode_alone() -> None:
        write(pieces())

    def encode_through() -> None:
        with fs.open(path + ".again", "wb") as file:
            for window in windows:
                file.write(window)

    works = (
        *(decode_in_memory, decode_alone, decode_through),
        *(encode_in_memory, write_alone, encode_alone, encode_through),
    )
    best = dict.fromkeys(works, float("inf"))
    flush = float("inf")
    for _ in range(rounds):
        for work in works:
            with Flushes(clock) as flushes:
                seconds = timed(work, clock) - flushes.seconds
            best[work] = min(best[work], seconds)
            if work is encode_through:
                flush = min(flush, flushes.seconds)
    Path(path + ".again").unlink()
    Path(path + ".alone").unlink()
    found = {work.__name__: len(data) / best[work] / 1e6 for work in works}
    return {**found, "fsync": flush}


def random(fs: Any, path: str, data: bytes) -> dict[str, float]:
    """Blocks fetched by a random read, and how long it takes beside the whole file."""
    rng = np.random.default_rng(1)
    fetched, pread = [], os.pread

    def counted(descriptor: int, size: int, offset: int) -> bytes:
        fetched.append(size)
        return pread(descriptor, size, offset)

    source.os.pread = counted
    seconds, blocks = [], []
    try:
        with fs.open(path) as file:
            index = file._source.index
            file.read(1)
            for start in rng.integers(0, len(data) - RANDOM_BYTES, RANDOM_READS).tolist():
                fetched.clear()
                begin = time.process_time()
                file.seek(start)
                piece = file.read(RANDOM_BYTES)
                seconds.append(time.process_time() - begin)
                assert piece == data[start : start + RANDOM_BYTES]
                frame = index.frame(int(np.searchsorted(index.logical, start, side="right")) - 1)
                stored = (frame.encoded_bytes - frame.payloads) / frame.n_blocks
                blocks.append(sum(fetched) / stored)
    finally:
        source.os.pread = pread
    room = np.empty(WINDOW_BYTES, np.uint8)

    def read_whole() -> None:
        with fs.open(path) as file:
            while file.readinto(room):
                pass

    whole = min(timed(read_whole) for _ in range(3))
    median = statistics.median(seconds)
    return {"blocks": statistics.mean(blocks), "ms": 1e3 * median, "faster": whole / median}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--mib", type=int, default=1024, help="of the file")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="where the file is written")
    parser.add_argument("--clock", choices=("cpu", "wall"), default="cpu")
    parser.add_argument("--threads", type=int, help="of the codec; all CPUs by default")
    options = parser.parse_args()
    clock = time.process_time if options.clock == "cpu" else time.perf_counter
    if options.threads:
        gpucodec.set_threads(options.threads)
    keep_freed_memory()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        from fsspec.implementations.local import LocalFileSystem

        fs, path = GpucodecFileSystem(fs=LocalFileSystem()), f"{folder}/model.safetensors"
        data = checkpoint(options.mib)
        fs.pipe_file(path, data)
        info = fs.info(path)
        ratio = info["size"] / info["physical_size"]
        print(f"{len(data) >> 20} MiB of safetensors, ratio {ratio:.3f}")
        found = random(fs, path, data)
        print(
            f"random reads of 64 KiB: {found['blocks']:.2f} blocks fetched, {found['ms']:.2f} ms, "
            f"{found['faster']:.0f} times as fast as the whole file"
        )
        speeds = sequential(fs, path, data, options.rounds, clock)
        print(
            f"writing what is encoded: {speeds['write_alone']:.0f} MB/s of contents; "
            f"fsync of a file: {speeds['fsync']:.2f} s, not counted below"
        )
        for way in ("decode", "encode"):
            alone, through = speeds[f"{way}_alone"], speeds[f"{way}_through"]
            memory = speeds[f"{way}_in_memory"]
            print(
                f"{way}: codec in memory {memory:.0f} MB/s, codec and file {alone:.0f} MB/s, "
                f"filesystem {through:.0f} MB/s: {through / alone:.2f} of the latter"
            )
            found[way] = through / alone
            found["sequential"] = min(found.get("sequential", 9), through / alone)
        record("fs", "local", ratio=ratio, **found)
        held = (
            found["blocks"] <= GOALS["blocks"]
            and found["faster"] >= GOALS["faster"]
            and found["sequential"] >= GOALS["sequential"]
        )
        print(f"goals: {'hold' if held else 'MISSED'}")


if __name__ == "__main__":
    main()
