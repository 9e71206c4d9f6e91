# SPDX-License-Identifier: Apache-2.0
"""One pool of threads for the process. The kernels release the GIL, so threads are enough.

Not Numba's `prange`: its default threading layer aborts the process when two threads enter it,
and zarr calls codecs from many.
"""

from __future__ import annotations

import os
import threading
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable


def available() -> int:
    """CPUs that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Pool:
    """The executor, made on first use and again in a forked child, where threads are gone."""

    def __init__(self) -> None:
        self.limit = int(os.environ.get("GPUCODEC_THREADS", "0")) or available()
        self.reset()

    def reset(self) -> None:
        self.lock = threading.Lock()
        self.executor: ThreadPoolExecutor | None = None

    def submit(self, work: Callable[[], None]) -> Future[None]:
        with self.lock:
            if self.executor is None:
                self.executor = ThreadPoolExecutor(max(1, self.limit - 1), "gpucodec")
            return self.executor.submit(work)


_pool = _Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_pool.reset)


def set_threads(n: int) -> None:
    """Use at most `n` threads a call from now on; the default is the CPUs of this process.

    The environment variable ``GPUCODEC_THREADS`` sets the default.
    """
    if n < 1:
        message = f"threads must be at least 1, not {n}"
        raise ValueError(message)
    with _pool.lock:  # nobody is just about to submit to the executor that is shut down
        previous, _pool.executor = _pool.executor, None
        _pool.limit = n
    if previous is not None:
        previous.shutdown(wait=False)


def run(jobs: Iterable[Callable[[], None]], threads: int | None = None) -> None:
    """Run the jobs, started in order, on the calling thread and up to `threads` - 1 others.

    The first exception is raised once all threads have stopped; jobs not yet started are dropped.
    """
    work = list(jobs)
    workers = min(threads or _pool.limit, len(work))
    if workers < 2:
        for job in work:
            job()
        return
    queue = iter(work)
    failed = threading.Event()

    def drain() -> None:
        for job in queue:  # a list iterator hands out each job once, whoever asks
            if failed.is_set():
                return
            try:
                job()
            except BaseException:
                failed.set()
                raise

    others = [_pool.submit(drain) for _ in range(workers - 1)]
    try:
        drain()
    finally:
        for other in others:
            if not other.cancel():
                other.exception()  # wait
    for other in others:
        if not other.cancelled():
            other.result()
