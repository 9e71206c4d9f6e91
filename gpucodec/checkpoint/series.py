# SPDX-License-Identifier: Apache-2.0
"""The checkpoints of a run: one for each saved step, in one place that shares what is equal."""

from __future__ import annotations

import threading
import time
import warnings
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from ..errors import GpucodecError
from ..tune import Tuner
from . import tuning
from .collect import STEPS, collect, step_keys
from .load import load_from
from .parallel import Workers
from .read import read_manifest
from .save import Job, SaveInfo, previous
from .staging import stage
from .storage import connect
from .view import Checkpoint
from .write import FOLDER

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

    from .policy import Policy

_MAX_STEP = 10**12


@dataclass(frozen=True)
class SeriesStats:
    """What a series did so far in this process."""

    n_saves: int = 0
    decoded_bytes: int = 0
    """Of all state dicts."""
    written_bytes: int = 0
    """Stored for them; what was equal to an earlier step's was not stored again."""
    stall_seconds: float = 0.0
    """Time that `save` and `save_async` took from the training."""
    write_seconds: float = 0.0
    """Time in which checkpoints were written."""


class Resumed(NamedTuple):
    """What `CheckpointSeries.resume` found."""

    step: int
    state_dict: Any


class CheckpointSeries:
    """The checkpoints of a training run.

    Tensors that did not change since an earlier step are stored once. A step is there when its
    manifest is, which is written last; a crash leaves at most objects that the next save removes.
    One process at a time writes; within it, one save runs after the other.

    Parameters
    ----------
    url
        As for `save`.
    keep
        How many of the last steps to keep; None keeps all.
    keep_every
        Keep steps that are multiples of this for good.
    policy
        As for `save`.
    staging_bytes
        The most host memory for copies in `save_async`; tensors beyond it are written before that
        returns. None sets no limit.
    delta
        As for `save`: the most differences in a chain; a step whose tensors are at its end is
        stored in full (an anchor). Earlier steps may be retired, their arrays stay as long as a
        later step is a difference to them.

    Examples
    --------
    >>> import numpy as np, tempfile
    >>> with CheckpointSeries(tempfile.mkdtemp(), keep=2) as series:
    ...     for step in (100, 200, 300):
    ...         _ = series.save_async({"w": np.full(3, step)}, step)
    ...     series.wait()
    ...     series.steps(), series.resume().step
    ([200, 300], 300)

    """

    def __init__(
        self,
        url: Any,
        *,
        keep: int | None = 3,
        keep_every: int | None = None,
        policy: Policy | Tuner | str = "lossless",
        staging_bytes: int | None = None,
        delta: int = 0,
    ) -> None:
        if keep is not None and keep < 1:
            raise ValueError(f"keep is at least 1, or None, not {keep}")
        if keep_every is not None and keep_every < 1:
            raise ValueError(f"keep_every is at least 1, or None, not {keep_every}")
        self.storage = connect(url)
        self.keep = keep
        self.keep_every = keep_every
        self.policy = policy
        self.staging_bytes = staging_bytes
        self.delta = delta
        self.stats = SeriesStats()
        self._lock = threading.Lock()
        self._thread = ThreadPoolExecutor(1, "gpucodec-series")
        self._running: Future[SaveInfo] | None = None
        self._done_bytes = 0
        self._total_bytes = 0
        if isinstance(policy, Tuner) and (found := self.steps()):
            tuning.recall(policy, self.storage, _key(found[-1]))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        try:
            self.close()
        except Exception:
            if kind is None:
                raise

    def close(self) -> None:
        """Wait for what is being written. Raises its error, if it failed."""
        try:
            self.wait()
        finally:
            self._thread.shutdown()

    @property
    def progress(self) -> tuple[int, int]:
        """Bytes finished, and bytes in all, of the checkpoint that is being written, or was last."""
        with self._lock:
            return self._done_bytes, self._total_bytes

    def save(
        self, state_dict: Any, step: int, *, metadata: Mapping[str, Any] | None = None
    ) -> SaveInfo:
        """Save a step and return when it is durable. Raises as `gpucodec.checkpoint.save`."""
        started = time.perf_counter()
        self.wait()
        job = self._job(state_dict, step, metadata)
        job.write(job.own)
        info = self._commit(job, step)
        self._count(info, time.perf_counter() - started)
        return info

    def save_async(
        self, state_dict: Any, step: int, *, metadata: Mapping[str, Any] | None = None
    ) -> Future[SaveInfo]:
        """Copy the state dict and return; a thread compresses and writes it.

        The state dict may be changed as soon as this returns. It waits for the save before, so
        that there is one copy at a time, and raises its error, if it failed.

        Returns
        -------
        A future, whose result is there when the step is durable.

        """
        started = time.perf_counter()
        self.wait()
        job = self._job(state_dict, step, metadata)
        copies, rest = stage(job.own, self.staging_bytes)
        job.own.clear()  # holds tensors that may change from now on
        if rest:
            with Workers(self.storage.workers) as workers:
                job.find_roundings([*copies, *rest], workers)
            job.write(rest)
        stalled = time.perf_counter() - started

        def work() -> SaveInfo:
            job.write(copies)
            copies.clear()
            info = self._commit(job, step)
            self._count(info, stalled)
            return info

        self._running = self._thread.submit(work)
        return self._running

    def wait(self) -> None:
        """Wait until the last `save_async` is durable. Raises its error, if it failed."""
        running, self._running = self._running, None
        if running is not None:
            running.result()

    def _job(self, state_dict: Any, step: int, metadata: Mapping[str, Any] | None) -> Job:
        _key(step)

        def done(n_bytes: int) -> None:
            with self._lock:
                self._done_bytes += n_bytes

        job = Job(self.storage, state_dict, self.policy, metadata=metadata, progress=done)
        earlier = [one for one in self.steps() if one < step] if self.delta else []
        if earlier:
            job.use_base(_key(earlier[-1]), self.delta)
        with self._lock:
            self._done_bytes, self._total_bytes = 0, job.nbytes
        return job

    def _commit(self, job: Job, step: int) -> SaveInfo:
        manifest, info = job.finish()
        self.storage.flush()
        key = _key(step)
        self.storage.commit(key, manifest.to_bytes(), previous(self.storage, key))
        self._retire(step)
        return info

    def _retire(self, newest: int) -> None:
        """Delete steps that need not be kept, manifests first."""
        if self.keep is not None:
            for step in self.steps()[: -self.keep]:
                forever = self.keep_every is not None and step % self.keep_every == 0
                if not forever and step != newest:
                    self.storage.delete(_key(step))
            self.storage.flush()  # before what they name is deleted
        collect(self.storage)

    def _count(self, info: SaveInfo, stalled: float) -> None:
        old = self.stats
        self.stats = SeriesStats(
            old.n_saves + 1,
            old.decoded_bytes + info.decoded_bytes,
            old.written_bytes + info.written_bytes,
            old.stall_seconds + stalled,
            old.write_seconds + info.seconds,
        )

    def steps(self) -> list[int]:
        """The steps that are there, in order; whether they are sound is not looked at."""
        return [int(key[len(STEPS) + 1 : -len(".json")]) for key in step_keys(self.storage)]

    def open(self, step: int | None = None) -> Checkpoint:
        """Open a step, by default the latest that is complete.

        Raises
        ------
        FileNotFoundError
            There is no such step, or none at all.
        CorruptionError, UnsupportedError
            Its manifest is damaged, or of a later gpucodec.

        """
        if step is None:
            step = self.latest()
            if step is None:
                raise FileNotFoundError(f"no complete checkpoint at {self.storage.url}")
        return Checkpoint(self.storage, read_manifest(self.storage, _key(step)))

    def latest(self) -> int | None:
        """The last step whose manifest is sound and whose objects are all there, or None.

        Their contents are checked when they are loaded.
        """
        steps = self.steps()
        if not steps:
            return None
        there = set(self.storage.list(f"{FOLDER}/"))
        for step in reversed(steps):
            try:
                manifest = read_manifest(self.storage, _key(step))
            except (GpucodecError, FileNotFoundError):
                continue
            if manifest.keys() <= there:
                return step
        return None

    def load(self, state_dict: Any = None, step: int | None = None, **options: Any) -> Any:
        """Load a step, by default the latest that is complete, as `gpucodec.checkpoint.load`."""
        return self.open(step).load(state_dict, **options)

    def resume(self, state_dict: Any = None, **options: Any) -> Resumed | None:
        """Load the last step that is sound, or return None if there is no step at all.

        Damaged steps are passed over with a RuntimeWarning that says what is wrong. If
        `state_dict` does not fit, that is an error at once.

        Raises
        ------
        CorruptionError
            There are steps, but none is sound.

        """
        failure: GpucodecError | None = None
        for step in reversed(self.steps()):
            try:
                manifest = read_manifest(self.storage, _key(step))
                return Resumed(step, load_from(self.storage, manifest, state_dict, **options))
            except GpucodecError as error:
                failure = error
                message = f"step {step} is damaged, going back to the one before: {error}"
                warnings.warn(message, RuntimeWarning, stacklevel=2)
        if failure is not None:
            raise failure
        return None


def _key(step: int) -> str:
    if isinstance(step, bool) or not isinstance(step, int) or not 0 <= step < _MAX_STEP:
        raise ValueError(f"step is an integer from 0 to {_MAX_STEP - 1}, not {step!r}")
    return f"{STEPS}/{step:012}.json"
