# SPDX-License-Identifier: Apache-2.0
"""The models of predicted frames, as the kernels are told of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .. import predicted
from ..kernels import spec

if TYPE_CHECKING:
    from ..frame import Frame
    from ..predicted import Section


def section(frame: Frame) -> Section:
    """The model section of a predicted frame, parsed once; errors as of `predicted.parse`."""
    if "section" not in frame.memo:
        frame.memo["section"] = predicted.parse(frame)
    found: Section = frame.memo["section"]
    return found


def describe(job: Any, frame: Frame, first_word: int, offsets: int) -> None:
    """Say in a job, the words of which begin with `first_word` of the array, where its model is.

    `offsets` is the device address of the decoded model.
    """
    found = section(frame)
    job["model"], job["first_word"] = offsets, first_word
    job["n_rows"], job["n_columns"] = frame.n_words // found.n_columns, found.n_columns
    job["tile_rows"], job["rank"], job["base"] = found.tile_rows, found.rank, found.base
    mantissa_bits = spec.PREDICTED_TYPES[frame.dtype.name].mantissa_bits
    job["shift"] = mantissa_bits - spec.OFFSET_LOG
