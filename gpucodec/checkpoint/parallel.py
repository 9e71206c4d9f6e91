# SPDX-License-Identifier: Apache-2.0
"""Many jobs that wait for storage, side by side.

Not `gpucodec.threads`: that pool has a thread for each CPU, and requests to an object store are
worth more of them than that.
"""

from __future__ import annotations

from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from types import TracebackType
    from typing import Self

T = TypeVar("T")
R = TypeVar("R")


class Workers:
    """Threads; as a context manager, they end with the block."""

    def __init__(self, n: int) -> None:
        self._pool = ThreadPoolExecutor(max(1, n), "gpucodec-checkpoint")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        self._pool.shutdown(cancel_futures=True)

    def map(self, work: Callable[[T], R], items: Iterable[T]) -> list[R]:
        """The results in order. The first error is raised once all that started has ended."""
        futures = [self._pool.submit(work, item) for item in items]
        pending = wait(futures, return_when=FIRST_EXCEPTION).not_done
        for future in pending:
            future.cancel()
        wait(pending)
        failed = next((f for f in futures if not f.cancelled() and f.exception()), None)
        if failed is not None:
            failed.result()
        return [future.result() for future in futures]
