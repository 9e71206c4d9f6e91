# SPDX-License-Identifier: Apache-2.0
"""`record_activations`: the outputs of modules, row by row, into one zarr group."""

from __future__ import annotations

import fnmatch
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Literal

import torch
import zarr

from .arrays import to_numpy, to_torch
from .rows import TOKENS, RowStore

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from typing import Self

N_WRITERS = 2
MAX_PENDING = 2  # chunks of each array that wait to be written, before the model waits


class record_activations:  # noqa: N801 a context, named like torch's
    """Harvest what modules return, while the model runs as usual.

    >>> with record_activations(model, ["blocks.*.mlp"], "acts.zarr") as recorder:  # doctest: +SKIP
    ...     for batch in batches:
    ...         if not recorder.skip(batch.numel()):  # after a kill: what is there already
    ...             model(batch)

    Every call of `model` adds its rows to all arrays, or, if it fails, none. The first integer
    tensor among the arguments (or ``input_ids``) gives the token ids, if it has one for each row;
    else they are -1. A store that exists is appended to.

    Parameters
    ----------
    model
        torch.nn.Module; rows are complete when its forward returns.
    modules
        Names, as in `model.named_modules`, or patterns of `fnmatch`. The output is a tensor, or a
        tuple that begins with one; it must be returned once in each call of the model.
    store
        A path, URL or store of zarr.
    dtype
        torch.dtype or its name, to convert to; None keeps each module's own.
    codec
        "auto" or "lossless"; the name of a lossy format, such as "int8"; a `gpucodec.TensorConfig`
        or `gpucodec.QuantizeConfig`; a serializer of zarr; None for none.
    axis
        "tokens": all dimensions but the last are rows. "examples": the first one is.

    Raises
    ------
    ValueError
        No such module; or the store was made for other modules, shapes or types.
    UnsupportedError
        The store is not a harvest of this version; or the codec is not known.

    """

    def __init__(
        self,
        model: Any,
        modules: Iterable[str],
        store: Any,
        dtype: Any = None,
        codec: Any = "auto",
        axis: Literal["tokens", "examples"] = "tokens",
    ) -> None:
        if axis not in {"tokens", "examples"}:
            message = f"axis is {axis!r}, not 'tokens' or 'examples'"
            raise ValueError(message)
        self._model = model
        self.names = _matching(model, modules)
        self._where, self._codec, self._axis = store, codec, axis
        self._dtype = getattr(torch, dtype) if isinstance(dtype, str) else dtype
        self._store: RowStore | None = None
        self._open: dict[str, list[Any]] = {}  # chunks being filled, from the first open one on
        self._begin = 0  # row with which they begin
        self._filled = 0  # complete rows in them
        self._ahead = 0  # rows that the store had, less those passed over by `skip`
        self._drop = 0  # rows of the next call that are there already
        self._pending: deque[tuple[int, list[Future[None]]]] = deque()
        self._found: dict[str, int] = {}  # rows that each array got in the running call
        self._hooks: list[Any] = []
        self._pool: ThreadPoolExecutor | None = None

    @property
    def rows(self) -> int:
        """Complete rows, on disk or on their way."""
        return self._begin + self._filled

    def __enter__(self) -> Self:
        self._pool = ThreadPoolExecutor(N_WRITERS, "gpucodec-harvest")
        if _exists(self._where):
            self._resume(RowStore.open(self._where, append=True))
            self._ahead = self.rows
        parts = dict(self._model.named_modules())
        for name in self.names:
            hook = parts[name].register_forward_hook(self._hook(name))
            self._hooks.append(hook)
        self._hooks.append(
            self._model.register_forward_pre_hook(self._start_call, with_kwargs=True, prepend=True)
        )
        self._hooks.append(self._model.register_forward_hook(self._end_call))
        return self

    def __exit__(self, *exception: object) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks.clear()
        assert self._pool is not None
        with self._pool:
            if self._store is not None:
                self._submit(last=True)
                self._settle(0)
                self._store.trim()

    def skip(self, n_rows: int) -> bool:
        """Whether the store holds the next `n_rows` of a harvest that is being repeated.

        Call it for every batch, in the order of the first run. Where it says False, run the
        model; rows of that batch that are there already are not stored again.
        """
        if n_rows <= self._ahead:
            self._ahead -= n_rows
            return True
        self._drop, self._ahead = self._drop + self._ahead, 0
        return False

    def _resume(self, store: RowStore) -> None:
        if (sorted(store.names), store.axis) != (sorted(self.names), self._axis):
            message = (
                f"{store.group.store_path} was made for axis {store.axis!r} and {store.names}, "
                f"not for {self._axis!r} and {self.names}"
            )
            raise ValueError(message)
        self._store = store
        self._filled = store.rows % store.chunk_rows
        self._begin = store.rows - self._filled
        for name in (TOKENS, *self.names):
            tail = to_torch(store.read(name, self._begin, store.rows))
            self._open[name] = [self._chunk(store, tail)]
            self._open[name][0][: self._filled] = tail

    @staticmethod
    def _chunk(store: RowStore, like: Any) -> Any:
        return torch.empty((store.chunk_rows, *like.shape[1:]), dtype=like.dtype)

    # One call of the model

    def _start_call(self, _model: Any, arguments: Any, options: Mapping[str, Any]) -> None:
        self._found = {}
        self._outputs: dict[str, Any] = {}
        candidates = [options.get("input_ids"), *arguments, *options.values()]
        self._ids = next(
            (
                one
                for one in candidates
                if isinstance(one, torch.Tensor)
                and not (one.dtype.is_floating_point or one.dtype.is_complex)
            ),
            None,
        )

    def _hook(self, name: str) -> Any:
        def hook(_module: Any, _inputs: Any, output: Any) -> None:
            tensor = output[0] if isinstance(output, (tuple, list)) else output
            if name in self._found:
                message = f"module {name!r} ran twice in one call of the model"
                raise ValueError(message)
            rows = tensor.detach()
            rows = rows.flatten(0, -2) if self._axis == "tokens" else rows
            self._found[name] = len(rows)
            if self._store is None:  # the first call: shapes and types are not known yet
                self._outputs[name] = rows.to("cpu", self._dtype or rows.dtype, copy=True)
            else:
                self._fill(name, rows)

        return hook

    def _fill(self, name: str, rows: Any) -> None:
        """Copy rows behind the complete ones, where they count once the call has ended.

        Now and not later, since the modules that follow may change the tensor in place.
        """
        assert self._store is not None
        chunks, n = self._open[name], self._store.chunk_rows
        if rows.shape[1:] != chunks[0].shape[1:]:
            message = f"module {name!r} returns {list(rows.shape[1:])} for a row, the store has "
            message += f"{list(chunks[0].shape[1:])}"
            raise ValueError(message)
        rows, at = rows[self._drop :], self._filled
        while len(rows):
            if at // n == len(chunks):
                chunks.append(self._chunk(self._store, chunks[0]))
            room = chunks[at // n][at % n :][: len(rows)]
            room.copy_(rows[: len(room)])
            rows, at = rows[len(room) :], at + len(room)

    def _end_call(self, _model: Any, _inputs: Any, _output: Any) -> None:
        counts = set(self._found.values())
        if set(self._found) != set(self.names) or len(counts) != 1:
            message = f"not every module ran with equally many rows: {self._found} of {self.names}"
            raise ValueError(message)
        [n] = counts
        if self._store is None:
            self._create()
        ids = self._ids
        if ids is None or ids.numel() != n:
            ids = torch.full((n,), -1)
        self._fill(TOKENS, ids.detach().reshape(-1))
        self._filled += n - min(self._drop, n)
        self._drop = 0
        self._submit()
        self._settle(MAX_PENDING)

    def _create(self) -> None:
        kinds = {
            name: (tuple(rows.shape[1:]), str(rows.dtype).removeprefix("torch."))
            for name, rows in self._outputs.items()
        }
        self._resume(RowStore.create(self._where, self._axis, kinds, self._codec))
        for name, rows in self._outputs.items():
            self._fill(name, rows)
        self._outputs = {}

    # Writing

    def _submit(self, *, last: bool = False) -> None:
        """Hand full chunks to the writers; with `last` the one that is not full, too."""
        assert self._store is not None
        assert self._pool is not None
        n = self._store.chunk_rows
        while self._filled >= n or (last and self._filled):
            count = min(n, self._filled)
            stop = self._begin + count
            self._store.grow(stop)
            jobs = []
            for name, chunks in self._open.items():
                full = to_numpy(chunks.pop(0)[:count])
                jobs.append(self._pool.submit(self._store.put, name, self._begin, full))
                if not chunks:
                    chunks.append(self._chunk(self._store, to_torch(full)))
            self._pending.append((stop, jobs))
            self._begin, self._filled = stop, self._filled - count

    def _settle(self, n_pending: int) -> None:
        """Commit what is written, in order; wait until at most `n_pending` chunks are not."""
        assert self._store is not None
        while self._pending:
            stop, jobs = self._pending[0]
            if len(self._pending) <= n_pending and not all(job.done() for job in jobs):
                return
            for job in jobs:
                job.result()
            self._pending.popleft()
            self._store.commit(stop)


def _matching(model: Any, patterns: Iterable[str]) -> list[str]:
    names = [name for name, _ in model.named_modules() if name]
    patterns = [patterns] if isinstance(patterns, str) else list(patterns)
    found: dict[str, None] = {}
    for pattern in patterns:
        matches = fnmatch.filter(names, pattern)
        if not matches:
            message = f"no module is named {pattern!r}"
            raise ValueError(message)
        found |= dict.fromkeys(matches)
    if not found or TOKENS in found:
        message = f"modules must name some modules, and none of them {TOKENS!r}: {patterns}"
        raise ValueError(message)
    return list(found)


def _exists(store: Any) -> bool:
    try:
        return bool(dict(zarr.open_group(store, mode="r").attrs))
    except FileNotFoundError:
        return False
