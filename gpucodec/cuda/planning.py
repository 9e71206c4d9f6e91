# SPDX-License-Identifier: Apache-2.0
"""What is tried for arrays on the device as a whole: as cpu.py and plan.py, from samples read back.

Waits for the device a few times, but once for all arrays of a batch each time.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import plan
from ..config import PLAIN, LZConfig
from ..kernels import cuda as kernels, spec
from . import encoding, fitting
from .batch import Upload

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..config import Config
    from .device import Device
    from .encoding import Source


def plan_batch(
    device: Device, sources: Sequence[Source], config: Config, stream: int
) -> tuple[int, set[int]]:
    """Decide what each array is tried as; the profile, and the numbers of those left to the CPU.

    Which are those that LZ may code beside other coders.
    """
    if isinstance(config, LZConfig) or config.profile == PLAIN:
        return spec.PROFILE_RATIO, set()
    if config.lz:
        return spec.PROFILE_RATIO, set(range(len(sources)))
    profile = spec.PROFILES.index(config.profile)
    find_zeros(device, sources, stream)
    on_host = set()
    if config.lz is None and profile != spec.PROFILE_FAST:
        on_host = {
            i
            for i, source in enumerate(sources)
            if not (source.flags & spec.SPARSE and plan.is_float(source.dtype))
        }
    here = [source for i, source in enumerate(sources) if i not in on_host]
    find_models(device, here, profile, stream)
    return profile, on_host


class _Rows(NamedTuple):
    """Every `step`-th of `n_rows` rows of an array, of its words from the row's first on."""

    source: Source
    n_rows: int
    step: int
    row_words: int
    n_words: int


def _read(device: Device, wanted: Sequence[_Rows], stream: int) -> list[np.ndarray[Any, Any]]:
    """The words of these rows, uint[rows, n_words]; waits for the device."""
    places, results, end = [], [], 0
    for rows in wanted:
        word_bytes = rows.source.dtype.spec.word_bytes
        n, n_bytes = -(-rows.n_rows // rows.step), rows.n_words * word_bytes
        numbers = np.arange(n, dtype=np.uint64)
        place = np.empty((n, 3), np.uint64)
        row_bytes = np.uint64(rows.step * rows.row_words * word_bytes)
        place[:, 0] = np.uint64(rows.source.words) + numbers * row_bytes
        place[:, 1] = np.uint64(end) + numbers * np.uint64(n_bytes)
        place[:, 2] = n_bytes
        places.append(place)
        results.append((end, n, n_bytes))
        end += -(-n * n_bytes // 8) * 8
    if not places:
        return []
    upload = Upload()
    upload.add(np.concatenate(places))
    told, found = device.allocate(upload.n_bytes, stream), device.allocate(end, stream)
    device.upload(told.address, upload.joined(), stream)
    n_samples = sum(map(len, places))
    arguments = told.address, found.address
    device.launch("copy_samples", n_samples, kernels.SAMPLE_THREADS, arguments, stream)
    read = np.empty(end, np.uint8)
    device.download(read, found.address, stream)
    return [
        read[at : at + n * n_bytes].view(plan.unsigned(rows.source.dtype)).reshape(n, -1)
        for rows, (at, n, n_bytes) in zip(wanted, results, strict=True)
    ]


def find_zeros(device: Device, sources: Sequence[Source], stream: int) -> None:
    """Give the flag SPARSE to those arrays that are worth looking for zeros in each block."""
    wanted = []
    for source in sources:
        found = plan.zero_rows(source.n_words, source.dtype)
        if found is not None:
            wanted.append(_Rows(source, *found, spec.ROW, spec.ROW))
    for rows, sample in zip(wanted, _read(device, wanted, stream), strict=True):
        if plan.has_zeros(sample, rows.source.dtype):
            rows.source.flags |= spec.SPARSE


def find_models(device: Device, sources: Sequence[Source], profile: int, stream: int) -> None:
    """Give a model, and the flag PREDICTED, to those arrays that become smaller by it."""
    from ..kernels.predictor_fit import PROBE_COLUMNS, is_promising, probe_step

    wanted = []
    for source in sources:
        n_columns = plan.matrix_columns(source.n_words, source.dtype, source.shape)
        if n_columns is not None:
            n_rows = source.n_words // n_columns
            n_words = min(n_columns, PROBE_COLUMNS)
            wanted.append(_Rows(source, n_rows, probe_step(n_rows), n_columns, n_words))
    samples = _read(device, wanted, stream)
    promising = [
        rows
        for rows, sample in zip(wanted, samples, strict=True)
        if is_promising(sample, rows.source.dtype.name)
    ]
    found = fitting.fit(
        device,
        [rows.source for rows in promising],
        [rows.row_words for rows in promising],
        plan.model_rank(profile),
        stream,
    )
    if found:
        _keep_smaller(device, found, profile, stream)


def _keep_smaller(device: Device, fitted: Sequence[Source], profile: int, stream: int) -> None:
    """Drop the models of those arrays whose measured blocks do not become smaller enough by it."""
    parts = []
    for source in fitted:
        n_blocks = -(-source.n_words >> source.block_log)
        for block in plan.measured_blocks(n_blocks):
            first = block << source.block_log
            n_words = min(source.n_words - first, 1 << source.block_log)
            words = source.words + block * source.block_bytes
            parts.append(replace(source, words=words, shape=(n_words,), first_word=first))
    without = [replace(part, flags=part.flags & ~spec.PREDICTED, model=None) for part in parts]
    sizes = encoding.coded_bytes(device, [*parts, *without], stream, profile)
    gains = sizes[len(parts) :] - sizes[: len(parts)]
    at = 0
    for source in fitted:
        n_blocks = -(-source.n_words >> source.block_log)
        n_measured = len(plan.measured_blocks(n_blocks))
        assert source.model is not None
        gain = int(gains[at : at + n_measured].sum())
        if not plan.saves_enough(gain, n_blocks, source.model.section_bytes):
            source.flags, source.model = source.flags & ~spec.PREDICTED, None
        at += n_measured
