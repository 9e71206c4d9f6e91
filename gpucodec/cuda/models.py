# SPDX-License-Identifier: Apache-2.0
"""The models of predicted frames, as the kernels are told of them."""

from __future__ import annotations

from dataclasses import dataclass, field
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


@dataclass
class Model:
    """A model on the device, of a matrix of words."""

    n_rows: int
    n_columns: int
    tile_rows: int
    base: int
    rank: int
    shift: int
    offsets: int
    """Device address of what `kernels.predictor.join` makes of the model."""
    section: int = 0
    """Device address of the section of the frame, if it is encoded."""
    section_bytes: int = 0
    kept: list[Any] = field(default_factory=list)
    """The memory of these."""

    @property
    def n_offsets(self) -> int:
        """Bytes of the offsets."""
        return spec.n_offsets(self.n_rows, self.n_columns, self.tile_rows, self.rank)

    @property
    def fixed(self) -> tuple[int, int, int, int]:
        """What the section says in front of the offsets."""
        return self.n_columns, self.tile_rows, self.base, self.rank

    def describe(self, job: Any, first_word: int) -> None:
        """Say in a job, the words of which begin with `first_word` of the matrix, what it is."""
        job["model"], job["section"] = self.offsets, self.section
        job["section_bytes"], job["first_word"] = self.section_bytes, first_word
        for name in ("n_rows", "n_columns", "tile_rows", "base", "rank", "shift"):
            job[name] = getattr(self, name)


def of_frame(frame: Frame, offsets: int) -> Model:
    """The model of a predicted frame, decoded at a device address."""
    found = section(frame)
    shift = spec.PREDICTED_TYPES[frame.dtype.name].mantissa_bits - spec.OFFSET_LOG
    n_rows = frame.n_words // found.n_columns
    sizes = n_rows, found.n_columns, found.tile_rows
    return Model(*sizes, found.base, found.rank, shift, offsets)
