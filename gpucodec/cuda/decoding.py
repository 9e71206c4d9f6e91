# SPDX-License-Identifier: Apache-2.0
"""Decoding: launches over all blocks of all frames of a batch.

Everything runs on one stream, in order, and nothing waits for the device but `Decoding.statuses`.

First the kernels of the coders (`kernels.cuda.DECODERS`) decode planes into slots of memory between the
stages, masks of sparse frames before all others, since they say how many symbols these have. Then
a block of threads for each block of words puts its planes together.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import CorruptionError
from ..frame import plane_bits
from ..kernels import cuda as kernels, spec
from . import batch as batches, models
from .batch import ALIGNED, Batch, Upload, place_all, waves

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from ..frame import Frame
    from ..kernels.cuda import Decoder
    from .batch import Ints
    from .device import Device, Memory

    Host = np.ndarray[Any, Any]
    Tasks = list[tuple[Decoder, int, int]]
    """Which kernel decodes how many entries, listed where."""


@dataclass
class Piece:
    """Blocks `first` to `last` - 1 of a parsed frame, and where they and their words are."""

    frame: Frame
    payload: int | Host
    """The payloads of these blocks: a device address, or host bytes that are uploaded."""
    out: int
    """Device address for the decoded words of these blocks."""
    first: int
    last: int

    @property
    def n_words(self) -> int:
        """Words of these blocks."""
        frame = self.frame
        return min(self.last * frame.block_words, frame.n_words) - self.first * frame.block_words

    @property
    def payload_bytes(self) -> int:
        """Encoded bytes of these blocks."""
        return int(self.frame.offsets[self.last] - self.frame.offsets[self.first])

    @property
    def out_bytes(self) -> int:
        """Decoded bytes of these blocks."""
        return self.n_words * self.frame.dtype.spec.word_bytes


@dataclass
class Decoding:
    """Work that was queued on a stream."""

    device: Device
    stream: int
    memory: Memory | None = None
    first_block: Host = field(default_factory=lambda: np.zeros(1, np.int64))
    kept: list[Any] = field(default_factory=list)
    """What the queued work still reads."""
    of_models: dict[int, Piece] = field(default_factory=dict)
    """The offsets of the models of pieces, by the numbers of these."""
    models: Decoding | None = None
    """Their decoding."""

    def statuses(self) -> list[Host]:
        """Wait for the stream; uint8[n_blocks] for each piece, in the codes of the format."""
        found = np.zeros(int(self.first_block[-1]), np.uint8)
        if self.memory is not None:
            self.device.download(found, self.memory.address, self.stream)
        return [found[first:last] for first, last in pairwise(self.first_block)]

    def model_errors(self) -> dict[int, CorruptionError]:
        """Wait for the stream; what is wrong with the models of pieces, by the numbers of these."""
        if self.models is None:
            return {}
        return {
            i: CorruptionError(f"offsets of the model: {spec.STATUS_TEXT[status.max()]}")
            for i, status in zip(self.of_models, self.models.statuses(), strict=True)
            if status.any()
        }


def _piece_of_model(device: Device, frame: Frame, stream: int, kept: list[Any]) -> Piece:
    """The offsets of a predicted frame's model, and memory for them."""
    section = models.section(frame)
    table = section.offsets
    memory = device.allocate(table.decoded_bytes, stream)
    kept.append(memory)
    return Piece(table, section.encoded[table.payloads :], memory.address, 0, table.n_blocks)


def decode(device: Device, pieces: Sequence[Piece], stream: int) -> Decoding:
    """Queue the decoding of blocks; returns without waiting for the device.

    What is not sound becomes zeros, and has a status other than OK.

    Raises
    ------
    CorruptionError
        The model of a frame is none. That its offsets are damaged is known later.

    """
    kept: list[Any] = []
    batch = Batch(len(pieces))
    of_models = {
        i: _piece_of_model(device, piece.frame, stream, kept)
        for i, piece in enumerate(pieces)
        if piece.frame.flags & spec.PREDICTED
    }
    decoded_models = decode(device, [*of_models.values()], stream) if of_models else None
    moved = []
    sizes = np.array([piece.payload_bytes for piece in pieces], np.int64)
    payloads = place_all(device, [piece.payload for piece in pieces], sizes, stream, kept)
    for i, (piece, payload) in enumerate(zip(pieces, payloads, strict=True)):
        frame = piece.frame
        out = piece.out
        if out % ALIGNED:
            memory = device.allocate(piece.out_bytes, stream)
            kept.append(memory)
            out = memory.address
            moved.append((piece.out, out, piece.out_bytes))
        batch.describe(
            i,
            frame.dtype,
            n_words=piece.n_words,
            block_log=frame.block_log,
            bits=plane_bits(frame.dtype, frame.flags),
            flags=frame.flags,
            words=out,
            frame=payload - int(frame.offsets[piece.first]),
        )
        if i in of_models:
            model = models.of_frame(frame, of_models[i].out)
            model.describe(batch.jobs[i], piece.first << frame.block_log)
    decoding = Decoding(device, stream, None, batch.first_block, kept, of_models, decoded_models)
    if batch.n_blocks:
        _decode_blocks(device, pieces, batch, decoding)
    for to, at, n_bytes in moved:
        device.copy(to, at, n_bytes, stream)
    return decoding


@dataclass
class _Wave:
    """What is decoded between two uses of the same memory; lists are named by where they start."""

    masks: Tasks
    sparse: tuple[int, int]
    planes: Tasks
    plain: tuple[int, int]
    full: tuple[int, int]


@dataclass
class _Plan:
    """Which kernels decode which entries of a batch, and to which slots."""

    batch: Batch
    coders: Host
    upload: Upload
    slots: Host = field(init=False)
    waves: list[_Wave] = field(init=False)
    scratch_bytes: int = 0

    def __post_init__(self) -> None:
        jobs, batch = self.batch.jobs, self.batch
        before = batch.entries_before_blocks()
        n_blocks, n_entries = np.diff(batch.first_block), np.diff(batch.first_entry)
        is_sparse = np.repeat(jobs["flags"] & spec.SPARSE != 0, n_blocks)
        is_full = np.repeat(jobs["flags"] & (spec.SPARSE | spec.PREDICTED) != 0, n_blocks)
        is_mask = np.zeros(len(self.coders), np.bool_)
        is_mask[before[:-1][is_sparse]] = True
        rooms = np.repeat(batch.rooms(), n_entries)
        sizes = np.where(np.isin(self.coders, list(kernels.DECODERS)), rooms, 0)
        sizes[is_mask] = kernels.mask_slot_bytes(rooms[is_mask])
        by_lz, words_by_lz = self.coders == spec.LZ, self.coders == spec.LZ_WORDS
        sizes[by_lz] += kernels.lz_task_bytes(rooms[by_lz])
        word_bytes = np.repeat(jobs["word_bytes"].astype(np.int64), n_entries)
        sizes[words_by_lz] = kernels.lz_task_bytes((rooms * word_bytes)[words_by_lz])
        starts = np.concatenate([[0], np.cumsum(sizes)])
        self.slots = np.zeros(len(self.coders), np.uint32)
        self.waves = []
        for first, last in waves(starts[before], batches.SCRATCH_BYTES):
            run = slice(before[first], before[last])
            self.scratch_bytes = max(self.scratch_bytes, int(starts[run.stop] - starts[run.start]))
            self.slots[run] = starts[run] - starts[run.start]
            blocks = np.arange(first, last)
            wave = _Wave(
                list(self._tasks(run, is_mask[run])),
                self._list(blocks[is_sparse[first:last]]),
                list(self._tasks(run, ~is_mask[run])),
                self._list(blocks[~is_full[first:last]]),
                self._list(blocks[is_full[first:last]]),
            )
            self.waves.append(wave)

    def _list(self, numbers: Ints) -> tuple[int, int]:
        return self.upload.add(numbers.astype(np.uint32)), len(numbers)

    def _tasks(
        self, run: slice, chosen: np.ndarray[Any, Any]
    ) -> Iterator[tuple[Decoder, int, int]]:
        """The kernels that have something to do for the chosen entries of a run."""
        coders = np.where(chosen, self.coders[run], spec.RAW)
        for decoder in dict.fromkeys(kernels.DECODERS.values()):
            known = [coder for coder, found in kernels.DECODERS.items() if found == decoder]
            numbers = np.flatnonzero(np.isin(coders, known)) + run.start
            if len(numbers):
                yield decoder, *self._list(numbers)


def _decode_blocks(
    device: Device, pieces: Sequence[Piece], batch: Batch, decoding: Decoding
) -> None:
    stream = decoding.stream
    parts = [(piece.frame, slice(piece.first, piece.last)) for piece in pieces]
    entries = np.concatenate([frame.entries[run].reshape(-1) for frame, run in parts])
    assert entries.size < 1 << 32, entries.size  # of the lists below
    upload = Upload()
    plan = _Plan(batch, entries >> np.uint32(spec.ENTRY_CODER_SHIFT), upload)
    jobs_at = upload.add(batch.jobs)
    entries_at = upload.add(entries)
    offsets_at = upload.add(np.concatenate([frame.offsets[:-1][run] for frame, run in parts]))
    hashes_at = upload.add(np.concatenate([frame.hashes[run] for frame, run in parts]))
    slots_at = upload.add(plan.slots)
    told, symbols, plane_status, kept, status = (
        device.allocate(n_bytes, stream)
        for n_bytes in (
            *(upload.n_bytes, plan.scratch_bytes, entries.size),
            *(4 * batch.n_blocks, batch.n_blocks),
        )
    )
    decoding.memory = status
    decoding.kept += [told, symbols, plane_status, kept]
    upload.send(device, told.address, stream)

    table = (
        *(told.address + jobs_at, len(batch.jobs), told.address + entries_at),
        *(told.address + offsets_at, told.address + slots_at),
    )
    decoded = symbols.address, plane_status.address
    hashes = told.address + hashes_at

    def launch(kernel: str, count: int, n_threads: int, *arguments: int) -> None:
        if count:
            device.launch(kernel, count, n_threads, (*table, *arguments), stream)

    def decode_planes(tasks: Tasks) -> None:
        for first, at, n in tasks:
            decoder: Decoder | None = first
            while decoder is not None:
                count = -(-n // decoder.planes)
                listed = kept.address, told.address + at, n
                launch(decoder.kernel, count, decoder.n_threads, *listed, *decoded)
                decoder = decoder.then

    for wave in plan.waves:
        decode_planes(wave.masks)
        at, n = wave.sparse
        warps = kernels.MASK_WARPS
        masks = told.address + at, n, *decoded, kept.address
        launch("read_masks", -(-n // warps), 32 * warps, *masks)
        decode_planes(wave.planes)
        at, n = wave.plain
        blocks = hashes, told.address + at, *decoded
        launch("decode_blocks", n, kernels.MERGE_THREADS, *blocks, status.address)
        at, n = wave.full
        blocks = hashes, told.address + at, *decoded
        launch(
            "decode_full_blocks", n, kernels.MERGE_THREADS, *blocks, kept.address, status.address
        )
