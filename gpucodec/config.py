# SPDX-License-Identifier: Apache-2.0
"""How tensors are encoded: frozen, hashable, picklable values, equal to their JSON form."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from .kernels import spec

if TYPE_CHECKING:
    from collections.abc import Mapping

MIN_BLOCK = 1 << spec.MIN_BLOCK_LOG
MAX_BLOCK = 1 << spec.MAX_BLOCK_LOG


@dataclass(frozen=True, slots=True)
class TensorConfig:
    """Lossless coding of a tensor.

    Parameters
    ----------
    block_size
        Words of a block, a power of two from 64 to 65,536: the unit of random access, of
        parallel work and of the checksum. None takes 65,536, or 32,768 for 8-byte words.
    profile
        What to prefer where coders differ, "ratio", "fast" or "auto". "ratio" takes what is
        smallest. "fast" does without entropy coding: floats lose a tenth of the ratio, and are
        decoded faster. "auto" gives up to 1/64 of a plane's size for the faster coder. Bytes that
        one profile writes are read with any other.

    Raises
    ------
    TypeError
        The block size is not an integer.
    ValueError
        The block size is not such a power of two, or there is no such profile.

    """

    block_size: int | None = None
    profile: str = "ratio"

    def __post_init__(self) -> None:
        if self.profile not in spec.PROFILES:
            message = f"profile is {self.profile!r}, not one of {', '.join(spec.PROFILES)}"
            raise ValueError(message)
        size = self.block_size
        if size is None:
            return
        if isinstance(size, bool) or not isinstance(size, int):
            message = f"block_size is an integer or None, not {type(size).__name__}"
            raise TypeError(message)
        if not MIN_BLOCK <= size <= MAX_BLOCK or size & (size - 1):
            message = f"block_size {size} is not a power of two from {MIN_BLOCK} to {MAX_BLOCK}"
            raise ValueError(message)

    def block_log(self, word_bytes: int) -> int:
        """log2 of the words of a block, for words of this size."""
        if self.block_size is None:
            return spec.DEFAULT_BLOCK_LOG[word_bytes.bit_length() - 1]
        return self.block_size.bit_length() - 1

    def to_json(self) -> dict[str, Any]:
        """The parameters that differ from their defaults."""
        defaults = asdict(TensorConfig())
        return {name: value for name, value in asdict(self).items() if value != defaults[name]}

    @classmethod
    def from_json(cls, configuration: Mapping[str, Any]) -> TensorConfig:
        """Inverse of `to_json`; unknown parameters raise TypeError."""
        return cls(**configuration)


DEFAULT_CONFIG = TensorConfig()
