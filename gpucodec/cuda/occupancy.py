# SPDX-License-Identifier: Apache-2.0
"""How much of each multiprocessor the kernels take, so that other work runs beside them."""

from __future__ import annotations

from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_share: ContextVar[float] = ContextVar("share", default=1.0)

_ALIGNMENT = 128  # to which the device rounds up a block's shared memory
_MAX_BLOCKS = 32  # that a multiprocessor runs at once, on the largest; kernels of one warp each


@contextmanager
def low_occupancy(share: float) -> Iterator[None]:
    """Encode and decode on GPUs with at most `share` of the threads of each multiprocessor.

    The rest is free for kernels of other streams, training for one, and the codec takes the longer.
    Bytes do not depend on it. It holds for calls of this thread (or task) within the block, those by
    way of `gpucodec.encode` and zarr too. Blocks of other kernels go first when there is room if their
    stream has a higher priority than that given here; by default streams have the lowest.

    Parameters
    ----------
    share
        Above 0, at most 1. Of a kernel at least one block runs on a multiprocessor at a time.

    Raises
    ------
    ValueError
        `share` is out of range.

    """
    if not 0 < share <= 1:
        message = f"share must be above 0 and at most 1, but is {share}"
        raise ValueError(message)
    token = _share.set(share)
    try:
        yield
    finally:
        _share.reset(token)


class Limits(NamedTuple):
    """Of a device, in bytes of shared memory and in threads."""

    shared: int  # of a multiprocessor
    shared_of_block: int  # at most
    reserved: int  # of each block, by the system
    threads: int  # of a multiprocessor

    @classmethod
    def of(cls, attributes: Mapping[str, int]) -> Limits:
        """From `cupy.cuda.Device.attributes`."""
        return cls(
            attributes["MaxSharedMemoryPerMultiprocessor"],
            attributes["MaxSharedMemoryPerBlockOptin"],
            attributes.get("ReservedSharedMemoryPerBlock", 0),  # none before sm_80
            attributes["MaxThreadsPerMultiProcessor"],
        )


def is_low() -> bool:
    """Whether kernels are to be held back here."""
    return _share.get() < 1


def padding(limits: Limits, n_threads: int, static: int) -> int:
    """Bytes of shared memory to ask for at a launch, for which alone no more blocks have room.

    A multiprocessor takes a block as soon as it has the threads, registers and shared memory for
    it, and shared memory is the one that can be asked for at a launch without being used.

    Parameters
    ----------
    limits
        Of the device.
    n_threads
        Of a block of the kernel.
    static
        Bytes of shared memory that the kernel uses itself.

    """
    most = min(limits.threads // n_threads, _MAX_BLOCKS)
    n_blocks = max(1, int(most * _share.get()))
    if n_blocks >= most:
        return 0
    whole = limits.shared // n_blocks // _ALIGNMENT * _ALIGNMENT - limits.reserved
    return max(0, min(whole, limits.shared_of_block) - static)
