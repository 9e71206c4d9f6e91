# SPDX-License-Identifier: Apache-2.0
"""What is tried for arrays on the device as a whole: as cpu.py and plan.py, from samples read back.

Waits for the device a few times, but once for all arrays of a batch each time.
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .. import plan
from ..config import PLAIN, LZConfig
from ..kernels import predictor_spec, spec
from . import encoding, fitting, heads

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..config import Config, TensorConfig
    from .device import Device
    from .encoding import Source


def plan_batch(device: Device, sources: Sequence[Source], config: Config, stream: int) -> int:
    """Decide what each array is tried as; the profile."""
    if isinstance(config, LZConfig) or config.profile == PLAIN:
        return spec.PROFILE_RATIO
    profile = spec.PROFILES.index(config.profile)
    find_zeros(device, sources, config, stream)
    if config.lz:
        tried = list(sources)
    elif config.lz is None and profile != spec.PROFILE_FAST:
        tried = _repeating(device, sources, stream)
    else:
        tried = []
    _try_lz(device, tried, profile, stream)
    find_models(device, sources, profile, stream)
    return profile


def _repeating(device: Device, sources: Sequence[Source], stream: int) -> list[Source]:
    """Those for which LZ is tried unasked: `plan.may_repeat`, and not floats with zeros."""
    floats = [source for source in sources if plan.is_float(source.dtype)]
    others = [source for source in sources if not plan.is_float(source.dtype)]
    runs, ends = [], [0]
    for source in others:
        width = source.dtype.spec.word_bytes
        starts = plan.repeat_windows(source.n_words, source.dtype)
        runs += [(source.words + i * width, spec.LZ_PROBE_WORDS * width) for i in starts]
        ends.append(len(runs))
    found = heads.fetch(device, runs, stream)
    tried = [source for source in floats if not source.flags & spec.SPARSE]
    for source, (first, last) in zip(others, pairwise(ends), strict=True):
        windows = [window.view(plan.unsigned(source.dtype)) for window in found[first:last]]
        if plan.repeats(windows, source.dtype):
            tried.append(source)
    return tried


def _try_lz(device: Device, tried: Sequence[Source], profile: int, stream: int) -> None:
    """Let LZ code these; those with zeros only if measured blocks become smaller than by a mask."""
    sparse = [source for source in tried if source.flags & spec.SPARSE]
    by_lz = [replace(source, flags=source.flags & ~spec.SPARSE, lz=True) for source in sparse]
    gains = _gains(device, by_lz, sparse, profile, stream)
    smaller = [
        source
        for source, gain in zip(sparse, gains, strict=True)
        if plan.saves_enough(gain, source.n_blocks, 0)
    ]
    for source in [*smaller, *(source for source in tried if not source.flags & spec.SPARSE)]:
        source.flags, source.lz = source.flags & ~spec.SPARSE, True


class _Rows(NamedTuple):
    """Every `step`-th of `n_rows` rows of an array, of its words from the row's first on."""

    source: Source
    n_rows: int
    step: int
    row_words: int
    n_words: int


def _read(device: Device, wanted: Sequence[_Rows], stream: int) -> list[np.ndarray[Any, Any]]:
    """The words of these rows, uint[rows, n_words]; waits for the device."""
    runs, ends = [], [0]
    for rows in wanted:
        word_bytes = rows.source.dtype.spec.word_bytes
        numbers = range(0, rows.n_rows, rows.step)
        first, row_bytes = rows.source.words, rows.row_words * word_bytes
        runs += [(first + i * row_bytes, rows.n_words * word_bytes) for i in numbers]
        ends.append(len(runs))
    found = heads.fetch(device, runs, stream)
    return [
        np.stack(found[first:last]).view(plan.unsigned(rows.source.dtype))
        for rows, (first, last) in zip(wanted, pairwise(ends), strict=True)
    ]


def find_zeros(
    device: Device, sources: Sequence[Source], config: TensorConfig, stream: int
) -> None:
    """Give the flag SPARSE, and blocks that suit it, to arrays that are worth looking for zeros."""
    wanted = []
    for source in sources:
        found = plan.zero_rows(source.n_words, source.dtype)
        if found is not None:
            wanted.append(_Rows(source, *found, spec.ROW, spec.ROW))
    for rows, sample in zip(wanted, _read(device, wanted, stream), strict=True):
        source = rows.source
        if plan.has_zeros(sample, source.dtype):
            source.flags |= spec.SPARSE
            source.block_log = plan.sparse_block_log(sample, source.dtype, source.n_words, config)


def find_models(device: Device, sources: Sequence[Source], profile: int, stream: int) -> None:
    """Give a model, and the flag PREDICTED, to those arrays that become smaller by it."""
    from ..kernels.predictor_fit import is_promising, probe_step  # brings Numba

    wanted = []
    for source in sources:
        n_columns = plan.matrix_columns(source.n_words, source.dtype, source.shape)
        if n_columns is not None:
            n_rows = source.n_words // n_columns
            n_words = min(n_columns, predictor_spec.PROBE_COLUMNS)
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
    without = [
        replace(source, flags=source.flags & ~spec.PREDICTED, model=None) for source in fitted
    ]
    for source in fitted:
        source.lz = False
    gains = _gains(device, fitted, without, profile, stream)
    for source, other, gain in zip(fitted, without, gains, strict=True):
        assert source.model is not None
        if not plan.saves_enough(gain, source.n_blocks, source.model.section_bytes):
            source.flags, source.model, source.lz = other.flags, None, other.lz


def _gains(
    device: Device, ones: Sequence[Source], others: Sequence[Source], profile: int, stream: int
) -> list[int]:
    """By how many bytes the measured blocks of each one are smaller than those of the other."""
    if not ones:
        return []
    parts = [_measured(source) for source in (*ones, *others)]
    flat = [part for some in parts for part in some]
    sizes = encoding.coded_bytes(device, flat, stream, profile)
    ends = np.cumsum([0, *(len(some) for some in parts)])
    sums = [int(sizes[first:last].sum()) for first, last in pairwise(ends)]
    return [b - a for a, b in zip(sums[: len(ones)], sums[len(ones) :], strict=True)]


def _measured(source: Source) -> list[Source]:
    """The blocks of an array that are measured, as arrays."""
    parts = []
    for block in plan.measured_blocks(source.n_blocks):
        first = block << source.block_log
        n_words = min(source.n_words - first, 1 << source.block_log)
        words = source.words + block * source.block_bytes
        shape = (n_words // source.dtype.spec.words,)
        parts.append(replace(source, words=words, shape=shape, first_word=first))
    return parts
