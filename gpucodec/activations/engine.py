# SPDX-License-Identifier: Apache-2.0
"""Threads that write saved tensors and read them back, within a bound of memory.

Why nothing can wait forever: writers wait for nobody; forward waits for writers, and takes the
readers' memory before it does; backward waits for a read that has begun, and for nothing else.
"""

from __future__ import annotations

import atexit
import queue
import threading
import time
import weakref
from collections import deque
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, NamedTuple

from .stats import DTypeStats, StreamStats

if TYPE_CHECKING:
    from collections.abc import Callable

    from .record import Record, Source
    from .storage import Slot, Storage

    Jobs = queue.SimpleQueue[Callable[[], None] | None]

N_WRITERS = 2  # one encodes while the other writes


class _Ahead(NamedTuple):
    """A load that nobody has asked for yet."""

    record: weakref.ref[Record]
    future: Future[Any]
    n_bytes: int


def _serve(jobs: Jobs) -> None:
    while (job := jobs.get()) is not None:
        job()
        del job  # or the tensors of the last job would live until the next


class Engine:
    """Queues, threads, and the account of bytes."""

    def __init__(self, storage: Storage, config: Any, limit: int, stats: StreamStats) -> None:
        self.storage = storage
        self.changed = threading.Condition()
        self.stats = stats
        self._config = config
        self._limit = limit
        self._inflight = 0  # raw bytes held for writers, and loaded ahead
        self._n_queued = 0
        self._unconfirmed: deque[tuple[weakref.ref[Record], Source]] = deque()
        self._ahead: dict[int, _Ahead] = {}
        self._saves: Jobs = queue.SimpleQueue()
        self._loads: Jobs = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._stopping = False

    def _start(self) -> None:
        for jobs in (*[self._saves] * N_WRITERS, self._loads):
            thread = threading.Thread(
                target=_serve, args=(jobs,), name="gpucodec-activations", daemon=True
            )
            self._threads.append(thread)
            thread.start()
        _running.add(self)

    def stop(self) -> None:
        """Have the threads end. Takes no lock: the garbage collector may call it anywhere."""
        self._stopping = True
        for _ in range(N_WRITERS):
            self._saves.put(None)
        self._loads.put(None)

    def join(self) -> None:
        """Wait for the threads to end, after `stop`."""
        for thread in self._threads:
            thread.join()

    # Forward

    def reserve(self, n_bytes: int) -> None:
        """Wait until `n_bytes` more may be held; a region above the limit goes alone."""
        begin = time.perf_counter()
        with self.changed:
            self.confirm()
            while self._inflight and self._inflight + n_bytes > self._limit:
                if not self._drop_ahead() and not self.confirm():
                    self.changed.wait()
            self._hold(n_bytes)
            self.stats.save_stall_s += time.perf_counter() - begin

    def _hold(self, n_bytes: int) -> None:
        self._inflight += n_bytes
        self.stats.peak_inflight_bytes = max(self.stats.peak_inflight_bytes, self._inflight)

    def save(self, record: Record, source: Source) -> None:
        """Queue a region whose bytes are reserved."""
        if not self._threads:
            self._start()
        reference = weakref.ref(record)
        held = record if self.storage.keeps else None  # written though nobody may ask for it
        with self.changed:
            self._n_queued += 1
        self._saves.put(lambda: self._save(reference, source, held))

    def _save(self, reference: weakref.ref[Record], source: Source, _held: Record | None) -> None:
        slot, error = None, None
        if reference() is not None and not self._stopping:  # else nobody will ask
            try:
                frame = source.encode(self._config)
                source.check()
                slot = self.storage.write(frame)
            except BaseException as caught:  # noqa: BLE001 backward raises it
                error = caught
        with self.changed:
            self._n_queued -= 1
            record = reference()
            if record is None:
                self.stats.unwritten += 1
            elif slot is not None:
                record.slot = slot
                self._count(record, slot)
                self._unconfirmed.append((reference, source))
            else:
                record.error, record.source = error, None
            if record is None or slot is None:
                self._inflight -= source.n_bytes
            self.changed.notify_all()

    def _count(self, record: Record, slot: Slot) -> None:
        name = str(record.dtype).removeprefix("torch.")
        for one in (self.stats, self.stats.by_dtype.setdefault(name, DTypeStats())):
            one.raw_bytes += record.n_bytes
            one.encoded_bytes += slot.n_bytes

    def flush(self) -> None:
        """Wait until nothing is left to write."""
        with self.changed:
            while self._n_queued:
                self.changed.wait()
            self.confirm()

    def confirm(self) -> bool:
        """Let go of written sources whose versions are still those that were saved.

        torch counts a version up *after* an in-place operation has run, so that a writer may look
        too early. Whoever calls this is the thread of the model between two operations, or waits
        in backward with that thread waiting for it.
        """
        some = False
        with self.changed:
            while self._unconfirmed:
                reference, source = self._unconfirmed.popleft()
                record = reference()
                if record is not None:
                    record.source = None
                    try:
                        source.check()
                    except RuntimeError as error:
                        record.error = error
                self._inflight -= source.n_bytes
                some = True
        return some

    # Backward

    def prefetch(self, record: Record) -> bool:
        """Begin to load a region that is on disk only, if there is room; whether there was."""
        with self.changed:
            if record.slot is None or record.source or record.loaded or record.loading:
                return True
            if self._inflight + record.n_bytes > self._limit:
                return False
            future: Future[Any] = Future()
            record.loading = future
            self._hold(record.n_bytes)
            reference, slot = weakref.ref(record), record.slot
            self._ahead[record.number] = _Ahead(reference, future, record.n_bytes)
        self._loads.put(lambda: self._prefetch(reference, future, slot))
        return True

    def _prefetch(self, reference: weakref.ref[Record], future: Future[Any], slot: Slot) -> None:
        record = reference()
        if record is None or not future.set_running_or_notify_cancel():
            return
        try:
            future.set_result(record.read(slot))
        except BaseException as error:  # noqa: BLE001 backward raises it
            future.set_exception(error)
        with self.changed:
            self.changed.notify_all()

    def load(self, record: Record) -> Any:
        """The region of a record that is on disk, as `Record.read` returns it."""
        begin = time.perf_counter()
        with self.changed:
            assert record.slot is not None
            ahead = self._ahead.pop(record.number, None)
            record.loading = None
            if ahead is not None:
                self._inflight -= ahead.n_bytes
        if ahead is None or ahead.future.cancel():
            result = record.read(record.slot)
        else:
            result = ahead.future.result()
        with self.changed:
            self.stats.loads += 1
            self.stats.prefetched += ahead is not None
            self.stats.load_stall_s += time.perf_counter() - begin
        return result

    def _drop_ahead(self) -> bool:
        """Drop what was loaded ahead and is needed last; it is still on disk."""
        for number, (reference, future, n_bytes) in reversed(self._ahead.items()):
            record = reference()
            if record is None or future.cancel() or future.done():
                del self._ahead[number]
                self._inflight -= n_bytes
                if record is not None:
                    record.loading = None
                return True
        return False

    def end_backward(self) -> None:
        """Forget what was loaded ahead for nothing."""
        with self.changed:
            while self._drop_ahead():
                pass


_running: weakref.WeakSet[Engine] = weakref.WeakSet()


@atexit.register
def _stop_all() -> None:
    """Threads inside compiled code must not outlive the interpreter."""
    engines = list(_running)
    for engine in engines:
        engine.stop()
    for engine in engines:
        engine.join()
