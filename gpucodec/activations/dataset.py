# SPDX-License-Identifier: Apache-2.0
"""`ActivationDataset`: harvested rows in random order, as fast as whole chunks can be read."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from .arrays import to_torch
from .rows import TOKENS, RowStore

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


class ActivationDataset(torch.utils.data.IterableDataset):  # type: ignore[misc]
    """Batches of random rows of a harvest, each row once an epoch.

    >>> dataset = ActivationDataset("acts.zarr", batch_size=4096)            # doctest: +SKIP
    >>> for batch in DataLoader(dataset, batch_size=None, num_workers=4):    # doctest: +SKIP
    ...     batch["blocks.3.mlp"], batch["token_ids"]

    Chunks are drawn in random order, some at a time, and the rows of those are shuffled: a batch
    mixes `mix_chunks` places of the store, and no byte is read twice. Workers, forked or spawned,
    and ranks share the chunks out among themselves. The order depends on seed, epoch, and the
    numbers of workers and ranks alone.

    Parameters
    ----------
    store
        Of `record_activations`.
    modules
        Names of arrays; None for all. Token ids always come along.
    batch_size
        Rows of a batch. The last one of each worker may be smaller.
    shuffle
        False gives the order of harvesting (of each worker's chunks).
    seed
        Of the order, with the epoch (see `set_epoch`).
    mix_chunks
        Chunks that are in memory, and mixed, at a time.
    rank, world_size
        Of the process, for distributed training.

    """

    def __init__(
        self,
        store: Any,
        modules: Sequence[str] | None = None,
        batch_size: int = 1024,
        *,
        shuffle: bool = True,
        seed: int = 0,
        mix_chunks: int = 4,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        super().__init__()
        if batch_size < 1 or mix_chunks < 1 or not 0 <= rank < world_size:
            message = f"{batch_size=}, {mix_chunks=} or {rank=} of {world_size=} is out of range"
            raise ValueError(message)
        self._where = store
        self._batch_size = batch_size
        self._shuffle, self._seed, self._mix = shuffle, seed, mix_chunks
        self._rank, self._world_size = rank, world_size
        self._epoch = 0
        self._pid, self._store = os.getpid(), RowStore.open(store)
        self.names = [*(self._store.names if modules is None else modules), TOKENS]
        unknown = [name for name in self.names if name not in self._store.arrays]
        if unknown:
            message = f"{store} has no {unknown}, only {self._store.names}"
            raise ValueError(message)
        self.rows = self._store.rows
        """Rows of the store when it was opened."""

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_store": None}

    def _opened(self) -> RowStore:
        """The store, opened anew in each process: what zarr holds does not survive a fork."""
        if self._store is None or self._pid != os.getpid():
            self._pid, self._store = os.getpid(), RowStore.open(self._where)
        return self._store

    def set_epoch(self, epoch: int) -> None:
        """Choose another order, as with torch's DistributedSampler."""
        self._epoch = epoch

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = torch.utils.data.get_worker_info()
        number, n_workers = (0, 1) if worker is None else (worker.id, worker.num_workers)
        store = self._opened()
        chunks = np.arange(-(-self.rows // store.chunk_rows))
        random = np.random.default_rng([self._seed, self._epoch])
        if self._shuffle:
            random.shuffle(chunks)
        share = chunks[self._rank * n_workers + number :: self._world_size * n_workers]
        random = np.random.default_rng([self._seed, self._epoch, self._rank, number])
        rest: dict[str, Any] = {}
        for first in range(0, len(share), self._mix):
            group = self._load(store, share[first : first + self._mix], rest)
            order = np.arange(len(group[TOKENS]))
            if self._shuffle:
                random.shuffle(order)
            last = first + self._mix >= len(share)
            stop = len(order) if last else len(order) - len(order) % self._batch_size
            for at in range(0, stop, self._batch_size):
                rows = torch.from_numpy(order[at : min(at + self._batch_size, stop)])
                yield {name: values[rows] for name, values in group.items()}
            rest = {name: values[torch.from_numpy(order[stop:])] for name, values in group.items()}

    def _load(self, store: RowStore, chunks: Any, rest: dict[str, Any]) -> dict[str, Any]:
        n = store.chunk_rows
        group = {}
        for name in self.names:
            parts = [rest[name]] if rest else []
            parts += [
                to_torch(store.read(name, c * n, min((c + 1) * n, self.rows)))
                for c in map(int, chunks)
            ]
            group[name] = torch.cat(parts)
        return group
