# SPDX-License-Identifier: Apache-2.0
"""What a CUDA launch is told: all blocks of all arrays of a batch, as arrays for one upload."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..kernels import cuda as kernels, spec

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..dtypes import DType
    from .device import Device

    Host = np.ndarray[Any, Any]
    Ints = np.ndarray[tuple[int], np.dtype[np.int64]]

SCRATCH_BYTES = 256 << 20  # between the stages; what needs more goes in several launches
LZ_SCRATCH_BYTES = (
    1 << 30
)  # for a block takes some 600 KiB of it, and the more blocks at once, the faster
ALIGNED = 16  # bytes that kernels move at a time
JOINED_BYTES = (
    1 << 20
)  # host arrays below this are copied together, as a copy takes longer to start
UPLOAD_BYTES = 32 << 20  # at most, of a copy of arrays that are joined


def place(device: Device, data: int | Host, n_bytes: int, stream: int, kept: list[Any]) -> int:
    """The 16-byte aligned address of the data: where it is, or of a copy."""
    if isinstance(data, int) and data % ALIGNED == 0:
        return data
    memory = device.allocate(n_bytes, stream)
    kept.append(memory)
    if isinstance(data, int):
        device.copy(memory.address, data, n_bytes, stream)
    else:
        device.upload(memory.address, data, stream)
    return memory.address


def place_all(
    device: Device, arrays: Sequence[int | Host], sizes: Ints, stream: int, kept: list[Any]
) -> list[int]:
    """`place` for many arrays, of so many bytes each: small ones of the host go there by one copy."""
    places = [0] * len(arrays)
    small = []
    for i, data in enumerate(arrays):
        if isinstance(data, int) or sizes[i] >= JOINED_BYTES:
            places[i] = place(device, data, int(sizes[i]), stream, kept)
        else:
            small.append((i, data))
    rooms = -(-sizes[[i for i, _ in small]] // ALIGNED) * ALIGNED
    for first, last in waves(np.concatenate([[0], np.cumsum(rooms)]), UPLOAD_BYTES):
        upload = Upload(ALIGNED)
        chosen = small[first:last]
        starts = [upload.add(data) for _, data in chosen]
        memory = device.allocate(upload.n_bytes, stream)
        kept.append(memory)
        upload.send(device, memory.address, stream)
        for (i, _), start in zip(chosen, starts, strict=True):
            places[i] = memory.address + start
    return places


class Upload:
    """Host arrays that go to the device by one copy, each at a multiple of so many bytes."""

    ALIGNMENT = 256

    def __init__(self, alignment: int = ALIGNMENT) -> None:
        self.alignment = alignment
        self.parts: list[tuple[int, np.ndarray[Any, Any]]] = []
        self.n_bytes = 0

    def add(self, array: np.ndarray[Any, Any]) -> int:
        """Where it will stand, relative to the start."""
        at = self.n_bytes
        self.parts.append((at, array))
        self.n_bytes += -(-array.nbytes // self.alignment) * self.alignment
        return at

    def send(self, device: Device, to: int, stream: int) -> None:
        """Queue the copy to `n_bytes` of memory at an address; between the arrays stands anything."""
        parts = [(at, array.reshape(-1).view(np.uint8)) for at, array in self.parts]
        if self.n_bytes:
            device.upload_parts(to, parts, self.n_bytes, stream)


class Batch:
    """Numbers the blocks and the entries of the arrays of a batch."""

    def __init__(self, n_jobs: int) -> None:
        self.jobs = np.zeros(n_jobs, kernels.JOB)
        self.first_block = np.zeros(n_jobs + 1, np.int64)
        self.first_entry = np.zeros(n_jobs + 1, np.int64)
        self.first_slot = np.zeros(n_jobs + 1, np.int64)

    def describe(
        self,
        i: int,
        dtype: DType,
        *,
        n_words: int,
        block_log: int,
        bits: Sequence[int],
        flags: int = 0,
        words: int,
        frame: int,
    ) -> None:
        """Fill in job `i`; jobs come in order. `words` and `frame` are addresses.

        `bits` are the widths of the planes, without mask and signs.
        """
        if flags & spec.SPARSE:
            bits = (spec.MASK_BITS, 1, *bits)
        n_blocks = -(-n_words >> block_log)
        job = self.jobs[i]
        job["words"], job["frame"] = words, np.int64(frame).view(np.uint64)
        job["n_words"], job["block_log"] = n_words, block_log
        job["first_block"], job["first_entry"] = self.first_block[i], self.first_entry[i]
        job["dtype_code"], job["word_bytes"] = dtype.spec.code, dtype.spec.word_bytes
        job["transform"], job["n_planes"], job["flags"] = dtype.spec.transform, len(bits), flags
        job["bits"][: len(bits)] = bits
        job["first_slot"] = self.first_slot[i]
        self.first_block[i + 1] = self.first_block[i] + n_blocks
        self.first_entry[i + 1] = self.first_entry[i] + n_blocks * len(bits)
        self.first_slot[i + 1] = self.first_slot[i] + n_blocks * self._slots(job)

    @property
    def n_blocks(self) -> int:
        """Blocks of all jobs."""
        return int(self.first_block[-1])

    @property
    def n_entries(self) -> int:
        """Entries of all jobs."""
        return int(self.first_entry[-1])

    @staticmethod
    def _slots(jobs: Any) -> Any:
        """Planes that an encoder tries for a block: in sparse frames with zeros, and without."""
        n_planes = jobs["n_planes"].astype(np.int64)
        return np.where(jobs["flags"] & spec.SPARSE, 2 * n_planes - 2, n_planes)

    def _before_blocks(self, per_block: Ints) -> Ints:
        all_blocks = np.repeat(per_block, np.diff(self.first_block))
        return np.concatenate([[0], np.cumsum(all_blocks)])

    def entries_before_blocks(self) -> Ints:
        """int64[n_blocks + 1]: the number of each block's first entry, and of all."""
        return self._before_blocks(self.jobs["n_planes"].astype(np.int64))

    def slots_before_blocks(self) -> Ints:
        """int64[n_blocks + 1]: the number of each block's first slot of an encoder, and of all."""
        return self._before_blocks(self._slots(self.jobs))

    def rooms(self) -> Ints:
        """int64[n_jobs]: symbols that a plane of a block of each job has, rounded up to rows."""
        words = np.minimum(self.jobs["n_words"], np.uint64(1) << self.jobs["block_log"])
        rooms: Ints = -(-words.astype(np.int64) // spec.ROW) * spec.ROW
        return rooms

    def lz_rooms(self, most_bytes: int) -> tuple[int, int, int]:
        """For LZ: bytes of a block at most, memory for one, and how many fit in so much memory."""
        block_bytes = int((self.rooms() * self.jobs["word_bytes"]).max(initial=0))
        room = kernels.lz_block_bytes(block_bytes)
        return block_bytes, room, max(1, most_bytes // room)


def waves(before: Ints, most: int) -> Iterator[tuple[int, int]]:
    """Runs of blocks (first, last) of which each has at most `most` units, or is one block.

    `before` int64[n_blocks + 1] is the number of units before each block: planes that need memory
    between the stages.
    """
    first, n_blocks = 0, len(before) - 1
    while first < n_blocks:
        last = int(np.searchsorted(before, before[first] + most, side="right")) - 1
        last = min(max(last, first + 1), n_blocks)
        yield first, last
        first = last
