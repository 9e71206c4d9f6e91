# SPDX-License-Identifier: Apache-2.0
"""How everything here is timed.

All contestants take turns, round after round, on one pinned core. A figure is the median over
the rounds, a comparison the median of the ratios within the rounds, so that a machine that
speeds up or slows down for a while does not decide a race. Single-thread times are CPU times of
the process, whatever threads a peer starts: a busy neighbour costs wall time, not CPU time.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import mmap
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from . import peers

if TYPE_CHECKING:
    from numpy.typing import NDArray

Clock = Callable[[], float]
M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # of malloc.h
MIN_ROUNDS: Final = 3  # a contestant that is out of patience has had this many


@dataclass(frozen=True)
class Result:
    """One codec on one array. Speeds in GB of decoded data per second."""

    codec: str
    version: str
    ratio: float
    encode_gbs: float
    decode_gbs: float
    encode_spread: float
    """Half the distance between the quartiles, as a fraction of the median."""
    decode_spread: float
    encode_x: float | None
    """Speed relative to the reference, within the same rounds; None without a reference."""
    decode_x: float | None
    rounds: int

    def json(self) -> dict[str, Any]:
        return asdict(self)


def pin(core: int | None = None) -> None:
    """Keep this thread, and those it starts, on one core (the last one by default)."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[-1] if core is None else core})


def keep_freed_memory() -> None:
    """Have malloc reuse what was freed instead of returning it to the system (glibc only).

    Otherwise it depends on the history of the heap whether a result of some 20 MB lies in pages
    that are there already or in new ones, which the system has to clear: a lottery that costs up
    to half of a fast decoder's time, and whoever wins it looks faster.
    """
    with contextlib.suppress(AttributeError, OSError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(M_MMAP_MAX, 0)
        mallopt(M_TRIM_THRESHOLD, (1 << 31) - 1)


def fresh_memory_gbs(n_bytes: int = 64_000_000) -> float:
    """GB/s at which this system hands out new memory: what a first result costs on top."""
    seconds = []
    for _ in range(5):
        with mmap.mmap(-1, n_bytes) as memory:
            pages = np.frombuffer(memory, np.uint8)[:: mmap.PAGESIZE]
            begin = time.process_time()
            pages[:] = 1
            seconds.append(time.process_time() - begin)
            del pages
    return n_bytes / 1e9 / statistics.median(seconds)


@contextlib.contextmanager
def no_collection() -> Iterator[None]:
    """Keep the garbage collector out of the timings."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def timed(function: Callable[[Any], Any], value: Any, clock: Clock) -> tuple[float, Any]:
    """Seconds and result of one call."""
    begin = clock()
    result = function(value)
    return clock() - begin, result


def race(
    array: NDArray[Any],
    codecs: Iterable[peers.Codec],
    *,
    reference: str = peers.ZIPNN,
    rounds: int = 9,
    patience: float = 3.0,
) -> list[Result]:
    """Time the codecs on a contiguous vector and check that each returns every bit.

    The first round is for warming up and for the check. A codec that has used more than
    ``patience`` seconds leaves after ``MIN_ROUNDS`` rounds. Raises ``RuntimeError`` when a codec
    returns other bytes than it was given.
    """
    lanes = [(codec, Times()) for codec in codecs]
    sizes = {}
    with no_collection():
        for codec, _ in lanes:
            encoded = codec.encode(codec.prepare(array))
            sizes[codec.name] = peers.size_of(encoded)
            if not peers.same(array, codec.decode(encoded)):
                raise RuntimeError(f"{codec.name} does not return {array.dtype} as it was")
        for _ in range(rounds):
            for codec, times in lanes:
                if len(times.encode) >= MIN_ROUNDS and times.total > patience:
                    continue
                value = codec.prepare(array)
                seconds, encoded = timed(codec.encode, value, time.process_time)
                times.encode.append(seconds)
                seconds, decoded = timed(codec.decode, encoded, time.process_time)
                times.decode.append(seconds)
                del value, encoded, decoded
            lanes.append(lanes.pop(0))  # nobody always runs in the wake of the same neighbour
    by_name = {codec.name: times for codec, times in lanes}
    base = by_name.get(reference)
    return [
        Result(
            codec.name,
            codec.version,
            array.nbytes / sizes[codec.name],
            array.nbytes / 1e9 / statistics.median(times.encode),
            array.nbytes / 1e9 / statistics.median(times.decode),
            spread(times.encode),
            spread(times.decode),
            relative(base.encode, times.encode) if base else None,
            relative(base.decode, times.decode) if base else None,
            len(times.encode),
        )
        for codec, times in lanes
    ]


class Times:
    """Seconds of each round of one contestant."""

    def __init__(self) -> None:
        self.encode: list[float] = []
        self.decode: list[float] = []

    @property
    def total(self) -> float:
        return sum(self.encode) + sum(self.decode)


def relative(base: list[float], times: list[float]) -> float:
    """Median over the common rounds of how much faster ``times`` are than ``base``."""
    return statistics.median(b / t for b, t in zip(base, times, strict=False))


def spread(times: list[float]) -> float:
    """Half the distance between the quartiles as a fraction of the median."""
    if len(times) < 2:  # noqa: PLR2004
        return 0.0
    low, middle, high = statistics.quantiles(times, n=4)
    return (high - low) / 2 / middle


def scaling(
    function: Callable[[int], Any], n_threads: int, *, rounds: int = 15
) -> tuple[float, float]:
    """Speed-up of ``function(n_threads)`` over ``function(1)`` in wall time.

    Returns (by the best times, by the medians); the best times are less of a lottery when
    something else runs on the machine.
    """
    single, many = [], []
    with no_collection():
        function(1), function(n_threads)
        for _ in range(rounds):
            single.append(timed(function, 1, time.perf_counter)[0])
            many.append(timed(function, n_threads, time.perf_counter)[0])
    return min(single) / min(many), statistics.median(single) / statistics.median(many)


def machine() -> dict[str, Any]:
    """Hardware, system and date: what a figure is worth nothing without."""
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        lines = (line.partition(":") for line in info.read_text().splitlines())
        fields = {key.strip(): value.strip() for key, _, value in lines}
        model = (
            f"{fields.get('model name', model)} (family {fields.get('cpu family')}, "
            f"model {fields.get('model')}, cache {fields.get('cache size')})"
        )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "fresh_memory_gbs": round(fresh_memory_gbs(), 1),
        "date": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }
