# SPDX-License-Identifier: Apache-2.0
"""`stream_activations`: what backward needs, on disk until it does."""

from __future__ import annotations

import copy
import logging
import os
import weakref
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import torch
from torch.multiprocessing.reductions import StorageWeakRef

from . import device as devices
from .codecs import config_of
from .engine import Engine
from .errors import MutationError
from .record import Loaded, Record, Source, describe
from .region import Region, View, empty_like, flat, locate, rebuild
from .stats import StreamStats
from .storage import open_storage
from .weights import Weights

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

MIN_BYTES = 1 << 18  # below, a frame and a job cost more than they free
MAX_INFLIGHT_BYTES = 1 << 30
PREFETCH = 4
LOOK_BACK = 8  # numbers tried for each tensor to read ahead, since many are gone already
PURGE = 1024  # entries of the table of duplicates before it is swept

log = logging.getLogger("gpucodec.activations")


class _Kept(NamedTuple):
    """A tensor left in memory: as a detached alias, since the tensor itself would be a cycle."""

    tensor: Any
    version: int


class _Packed(NamedTuple):
    """A tensor in a region, with what unpacking has to restore."""

    record: Record
    view: View


class stream_activations:  # noqa: N801 named like torch's own contexts
    """Keep what backward needs on disk, compressed, instead of in memory.

    >>> with stream_activations("/scratch"):                       # doctest: +SKIP
    ...     loss = model(batch).sum()
    >>> loss.backward()                                            # doctest: +SKIP

    A context manager for the forward pass; it may be entered again for each step, and backward may
    run inside or after it. Gradients are those of training without it, bit for bit, unless a lossy
    codec is named.

    Parameters
    ----------
    url_or_path
        A folder, for files without names, or a URL of fsspec, for one object a tensor. Files whose
        graph is gone are written to again by the next step, and vanish when the context is left,
        with this object, or however the process ends.
    codec
        "auto" or "lossless"; a configuration object of gpucodec; or the name of a lossy format,
        such as "int8". Loss is for float32, bfloat16 and float16 alone, never for indices, masks.
    min_bytes
        Smaller tensors stay in memory.
    prefetch
        How many tensors backward reads ahead.
    max_inflight_bytes
        Bound of the memory for tensors that wait to be written, or were read ahead. Forward waits
        when it is reached. On top come the frames that the two writers make at the moment.
    filter
        Takes a saved tensor, returns whether to stream it. None streams all.
    on_mutation
        "error": a tensor that is changed in place before it is on disk raises `MutationError`
        in backward. "copy": tensors are copied before they are queued, so that backward uses the
        values that were saved.
    keep
        Leave the files, one frame a tensor, for looking at.

    Raises
    ------
    OSError
        The folder cannot be written.
    ValueError, TypeError
        An argument is out of range, or no codec.

    """

    def __init__(
        self,
        url_or_path: str | os.PathLike[str],
        codec: Any = "auto",
        min_bytes: int = MIN_BYTES,
        prefetch: int = PREFETCH,
        max_inflight_bytes: int = MAX_INFLIGHT_BYTES,
        filter: Callable[[Any], bool] | None = None,  # noqa: A002 the field's name for it
        on_mutation: Literal["error", "copy"] = "error",
        keep: bool = False,
    ) -> None:
        if on_mutation not in {"error", "copy"}:
            message = f"on_mutation is {on_mutation!r}, not 'error' or 'copy'"
            raise ValueError(message)
        if max_inflight_bytes < 1 or prefetch < 0 or min_bytes < 0:
            message = f"{max_inflight_bytes=}, {prefetch=} or {min_bytes=} is too small"
            raise ValueError(message)
        self._where, self._keep_files = url_or_path, keep
        self._config = config_of(codec)
        self._limit = max_inflight_bytes
        self._min_bytes = max(min_bytes, 1)
        self._prefetch = prefetch
        self._filter = filter
        self._copy = on_mutation == "copy"
        self._stats = StreamStats()
        self._entered: list[Any] = []
        self._begin()

    def _begin(self) -> None:
        """Threads and files; anew in a forked child, which has neither."""
        self._pid = os.getpid()
        storage = open_storage(self._where, keep=self._keep_files)
        self._engine = Engine(storage, self._config, self._limit, self._stats)
        weakref.finalize(self, self._engine.stop).atexit = False
        self._weights = Weights()
        self._shared: dict[tuple[Any, ...], tuple[Any, weakref.ref[Record]]] = {}
        self._order: dict[int, weakref.ref[Record]] = {}
        self._next = 0
        self._tasks: set[int] = set()  # backward passes under way
        self._loaded: list[weakref.ref[Record]] = []
        self._before = copy.copy(self._stats)

    def __enter__(self) -> Self:
        if self._pid != os.getpid():
            self._begin()
        hooks = torch.autograd.graph.saved_tensors_hooks(self._pack, self._unpack)
        hooks.__enter__()
        self._entered.append(hooks)
        self._weights.watch()
        self._tasks.clear()  # of backward passes that failed
        self._purge()
        return self

    def __exit__(self, *exception: object) -> None:
        self._weights.unwatch()
        self._entered.pop().__exit__(*exception)
        self._engine.confirm()
        self._engine.storage.trim()

    def stats(self) -> StreamStats:
        """Counts since this was made; a copy."""
        with self._engine.changed:
            return copy.deepcopy(self._stats)

    def flush(self) -> None:
        """Wait until all that was saved is on disk, which no training loop needs."""
        self._engine.flush()

    # Forward

    def _pack(self, tensor: Any) -> _Kept | _Packed:
        stats = self._stats
        stats.tensors += 1
        plain = type(tensor) is torch.Tensor or type(tensor) is torch.nn.Parameter
        if not plain or tensor.layout is not torch.strided:
            stats.kept += 1  # subclasses and sparse tensors: what they hold is theirs to know
            return self._keep(tensor)
        if tensor in self._weights:
            stats.weights += 1
            stats.weight_bytes += tensor.nbytes
            return _Kept(tensor.detach(), tensor._version)
        if not self._wanted(tensor):
            stats.kept += 1
            stats.kept_bytes += tensor.nbytes
            return self._keep(tensor)
        return self._stream(tensor.detach())

    def _keep(self, tensor: Any) -> _Kept:
        alias = tensor.detach().clone() if self._copy else tensor.detach()
        return _Kept(alias, alias._version)

    def _wanted(self, tensor: Any) -> bool:
        return (
            tensor.nbytes >= self._min_bytes
            and tensor.device.type in devices.SUPPORTED
            and not tensor.is_neg()
            and not tensor.is_quantized
            and self._pid == os.getpid()  # a child forked inside the context has no threads
            and (self._filter is None or self._filter(tensor))
        )

    def _stream(self, tensor: Any) -> _Packed:
        source, region, view = locate(tensor)
        storage = source.untyped_storage()
        key = (storage._cdata, source._version, region, source.dtype)
        known = self._shared.get(key)
        record = None if known is None else known[1]()
        if record is None:
            record = self._new_record(source, region)
            # The weak reference keeps the address from being given to another storage.
            self._shared[key] = StorageWeakRef(storage), weakref.ref(record)
            if len(self._shared) % PURGE == 0:
                self._purge()
        else:
            self._stats.duplicates += 1
            self._stats.duplicate_bytes += tensor.nbytes
        record.n_views += 1
        return _Packed(record, view)

    def _new_record(self, tensor: Any, region: Region) -> Record:
        self._engine.reserve(region.n * tensor.element_size())
        start = region.start
        if self._copy:
            original, (tensor, start) = tensor, empty_like(region, tensor.dtype, tensor.device)
            flat(tensor, start, region.n).copy_(flat(original, region.start, region.n))
        source = Source(tensor, start, region.n)
        record = Record(self._engine, source, region, self._next)
        self._order[self._next] = weakref.ref(record)
        self._next += 1
        self._stats.streamed += 1
        self._engine.save(record, source)
        return record

    def _purge(self) -> None:
        self._shared = {key: one for key, one in self._shared.items() if one[1]() is not None}
        self._order = {number: one for number, one in self._order.items() if one() is not None}

    # Backward

    def _unpack(self, packed: _Kept | _Packed) -> Any:
        if isinstance(packed, _Kept):
            tensor, version = packed
            if tensor._version != version:
                message = (
                    f"a saved tensor, {describe(tensor)}, was modified by an in-place operation: "
                    f"it is at version {tensor._version}, saved at {version}"
                )
                raise MutationError(message)
            return tensor
        record, view = packed
        self._follow_backward()
        self._engine.confirm()
        self._read_ahead(record.number)
        root, start = self._region(record)
        tensor = rebuild(root, start, view)
        # autograd accepts any shape and type here, and computes with them.
        assert (tensor.shape, tensor.dtype) == (view.shape, record.dtype)
        assert tensor.device == record.device, (tensor.device, record.device)
        return tensor

    def _region(self, record: Record) -> tuple[Any, int]:
        """Where the region is: in memory still, or again, or from disk now."""
        record.check()
        source = record.source
        if source is not None:
            return source.tensor, source.start
        found = record.loaded
        if found is None or found.vector._version != found.version:
            vector, start = self._engine.load(record)
            if record.device.type != "cpu":
                vector = devices.copy_back(vector, record.device)
            found = Loaded(vector, start, vector._version)
        record.n_unpacked += 1
        more = record.n_unpacked % record.n_views
        record.loaded = found if more else None
        if more:
            self._loaded.append(weakref.ref(record))
        return found.vector, found.start

    def _read_ahead(self, number: int) -> None:
        """Load the regions that were saved before this one: backward comes to them next."""
        n_found = 0
        for before in range(number - 1, max(number - LOOK_BACK * self._prefetch, 0) - 1, -1):
            reference = self._order.get(before)
            record = None if reference is None else reference()
            if record is None:
                continue
            if n_found == self._prefetch or not self._engine.prefetch(record):
                return
            n_found += 1

    def _follow_backward(self) -> None:
        """Have `_end_backward` called when the running backward pass ends."""
        task = torch._C._current_graph_task_id()
        if task != -1 and task not in self._tasks:
            self._tasks.add(task)
            torch.autograd.Variable._execution_engine.queue_callback(
                lambda: self._end_backward(task)
            )

    def _end_backward(self, task: int) -> None:
        self._tasks.discard(task)
        if self._tasks:
            return  # recomputation inside another backward pass
        self._engine.end_backward()
        for reference in self._loaded:
            record = reference()
            if record is not None:
                record.loaded = None
        self._loaded.clear()
        if log.isEnabledFor(logging.INFO):
            now = self.stats()
            log.info("%s", now.since(self._before).line())
            self._before = now
