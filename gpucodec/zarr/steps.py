# SPDX-License-Identifier: Apache-2.0
"""Reading and writing stores without knowing of event loops.

Whatever reads from a store or writes to it is a generator: it yields the requests that it can make
at once, and is sent their answers in the same order, None for a missing key. `run` drives it over
any store: by synchronous methods in one thread where the store has them, else by concurrent
requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Generator
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import numpy as np
import zarr

from gpucodec.buffers import is_on_gpu

from ._compat import StorePath, is_sync

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

    from zarr.abc.store import ByteRequest
    from zarr.core.buffer import Buffer

    from gpucodec.buffers import Bytes

    from .gpu import Fetching

T = TypeVar("T")

_UINT8 = np.dtype(np.uint8)
INLINE_BYTES = 1 << 16  # below, starting a thread takes longer than coding


class Get(NamedTuple):
    """A value of the store to read, by its byte getter, or a range of one."""

    getter: Any
    byte_range: ByteRequest | None = None
    is_table: bool = False
    """Whether it is read on the host."""


class Puts(list[tuple[Any, "Buffer | None"]]):
    """Values to write, each with its byte setter; None deletes."""


# Yields list[Get] or Puts, is sent as many answers, returns a T.
Answers = list[Any]
Steps = Generator[list[Any], Answers, T]


def together(gets: list[Get], others: Sequence[Steps[T]]) -> Steps[tuple[Answers, list[T]]]:
    """Make requests and run generators in step, so that each round of reads goes out as one."""
    results: list[Any] = [None] * len(others)
    wanted: dict[int, list[Get]] = {}
    for i, steps in enumerate(others):
        try:
            wanted[i] = next(steps)
        except StopIteration as done:
            results[i] = done.value
    answers = yield gets + [one for many in wanted.values() for one in many]
    own, answers = answers[: len(gets)], answers[len(gets) :]
    while wanted:
        position = 0
        for i, asked in list(wanted.items()):
            position += len(asked)
            try:
                wanted[i] = others[i].send(answers[position - len(asked) : position])
            except StopIteration as done:
                results[i] = done.value
                del wanted[i]
        if wanted:
            answers = yield [one for many in wanted.values() for one in many]
    return own, results


async def run(steps: Steps[T], prototypes: Fetching, *, sync: bool) -> T:
    """Run to the end; what is done between the requests runs in a thread."""
    if sync:
        return await asyncio.to_thread(run_sync, steps, prototypes)

    def advance(answers: Any) -> tuple[bool, Any]:
        try:
            return False, steps.send(answers)
        except StopIteration as done:  # cannot travel through a future
            return True, done.value

    async def get(getter: Any, byte_range: ByteRequest | None, is_table: bool) -> Any:
        return await getter.get(prototypes.of(is_table), byte_range)

    async def put(setter: Any, value: Buffer | None) -> None:
        await (setter.delete() if value is None else setter.set(value))

    done, result = await asyncio.to_thread(advance, None)
    while not done:
        limit = zarr.config.get("async.concurrency") or len(result)
        answers = await each(put if isinstance(result, Puts) else get, result, limit)
        done, result = await asyncio.to_thread(advance, answers)
    return result  # type: ignore[no-any-return]


def run_sync(steps: Steps[T], prototypes: Fetching) -> T:
    """Run to the end over getters and setters with synchronous methods."""
    answers: Any = None
    while True:
        try:
            requests = steps.send(answers)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]
        if isinstance(requests, Puts):
            for setter, value in requests:
                if value is None:
                    setter.delete_sync()
                else:
                    setter.set_sync(value)
            answers = [None] * len(requests)
            continue
        answers = [
            # Past StorePath.get_sync, which asks on every call whether the store has the method.
            store.get_sync(getter.path, prototype=prototypes.of(is_table), byte_range=byte_range)
            if (store := getattr(getter, "store", None)) is not None
            else getter.get_sync(prototype=prototypes.of(is_table), byte_range=byte_range)
            for getter, byte_range, is_table in requests
        ]


def raw_bytes(answer: Buffer) -> Bytes:
    """The bytes of a value, on the host."""
    array = answer.as_numpy_array()
    return array if array.dtype is _UINT8 else array.view(_UINT8)  # zarr also allows int8


def payload(answer: Buffer) -> Any:
    """The bytes of a value where they are: uint8, of NumPy or on a GPU."""
    array = answer.as_array_like()
    return array if is_on_gpu(array) else raw_bytes(answer)


def is_sync_handle(handle: Any) -> bool:
    """Whether `run_sync` can use this byte getter or setter."""
    if isinstance(handle, StorePath):
        return is_sync(handle.store)
    return hasattr(handle, "get_sync") and not hasattr(handle, "store")


async def each(
    call: Callable[..., Awaitable[T]], arguments: Iterable[tuple[Any, ...]], limit: int
) -> list[T]:
    """Results in order, with at most `limit` calls under way.

    After an error no further call starts, and those under way end before it is raised: nobody
    writes to the caller's memory any more.
    """
    queue = list(arguments)
    results: list[Any] = [None] * len(queue)
    numbered = enumerate(queue)
    failed = False

    async def work() -> None:
        nonlocal failed
        for i, given in numbered:  # shared: each call is taken once
            if failed:
                return
            try:
                results[i] = await call(*given)
            except BaseException:
                failed = True
                raise

    workers = (work() for _ in range(min(limit, len(queue))))
    for outcome in await asyncio.gather(*workers, return_exceptions=True):
        if outcome is not None:
            raise outcome
    return results


async def off_loop(is_small: bool, function: Callable[..., T], *arguments: Any) -> T:
    """Run in a thread, so that the event loop stays free, unless that takes longer."""
    return function(*arguments) if is_small else await asyncio.to_thread(function, *arguments)
