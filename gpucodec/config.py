# SPDX-License-Identifier: Apache-2.0
"""How tensors are encoded: frozen, hashable, picklable values, equal to their JSON form."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from .kernels import spec

if TYPE_CHECKING:
    from collections.abc import Mapping

MIN_BLOCK = 1 << spec.MIN_BLOCK_LOG
MAX_BLOCK = 1 << spec.MAX_BLOCK_LOG

PLAIN = "plain"
PROFILES = (*spec.PROFILES, PLAIN)


@dataclass(frozen=True, slots=True)
class TensorConfig:
    """Lossless coding of a tensor.

    Parameters
    ----------
    block_size
        Words of a block, a power of two from 64 to 65,536: the unit of random access, of
        parallel work and of the checksum. None takes 65,536, or 32,768 for 8-byte words; twice that
        for floats of which three quarters are zero.
    profile
        What to prefer where coders differ, "ratio", "fast" or "auto". "ratio" takes what is
        smallest. "fast" does without entropy coding: floats lose a tenth of the ratio, and are
        decoded faster. "auto" gives up to 1/64 of a plane's size for the faster coder. "plain" is
        "ratio" with planes and rANS alone: what a GPU writes fastest. Bytes that one profile writes are
        read with any other.
    lz
        Whether blocks and planes of integers, bool and bytes, and floats that are mostly one value,
        may be coded by LZ, where that is smaller. None tries it where a sample has repetitions,
        but not in profile "fast".

    Raises
    ------
    TypeError
        The block size is not an integer.
    ValueError
        The block size is not such a power of two, or there is no such profile.

    """

    block_size: int | None = None
    profile: str = "ratio"
    lz: bool | None = None

    def __post_init__(self) -> None:
        if self.profile not in PROFILES:
            message = f"profile is {self.profile!r}, not one of {', '.join(PROFILES)}"
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
        return _given(self)

    @classmethod
    def from_json(cls, configuration: Mapping[str, Any]) -> TensorConfig:
        """Inverse of `to_json`; unknown parameters raise TypeError."""
        return cls(**configuration)


@dataclass(frozen=True, slots=True)
class LZConfig:
    """Lossless coding of data with repetitions: text, token ids, masks, mostly zeros, raw bytes.

    Each 64 KiB are a block of their own, coded by LZ, or as they are where that is smaller.

    Parameters
    ----------
    level
        "fast", or "ratio" for slightly smaller frames.
    typesize
        Bytes of an element: 1, 2, 4 or 8. None takes the word size of the array's type; for
        bytes, and types of one byte, it is detected block by block. Frames with a wrong size decode
        to the same bytes, but are larger.

    Raises
    ------
    ValueError
        No such level or size.

    """

    level: Literal["fast", "ratio"] = "fast"
    typesize: int | None = None

    def __post_init__(self) -> None:
        if self.level not in LEVELS:
            message = f"level is {self.level!r}, not one of {', '.join(LEVELS)}"
            raise ValueError(message)
        if self.typesize not in {None, *TYPESIZES}:
            message = f"typesize is {self.typesize}, not 1, 2, 4 or 8"
            raise ValueError(message)

    def block_log(self, word_bytes: int) -> int:
        """log2 of the words of a block, for words of this size."""
        return spec.MAX_BLOCK_LOG + 1 - word_bytes.bit_length()

    def for_elements(self, n_bytes: int) -> LZConfig:
        """For bytes that hold elements of this size, if they can be told so and no size is given."""
        known = self.typesize is None and n_bytes in TYPESIZES[1:]
        return replace(self, typesize=n_bytes) if known else self

    def to_json(self) -> dict[str, Any]:
        """The parameters that differ from their defaults."""
        return _given(self)

    @classmethod
    def from_json(cls, configuration: Mapping[str, Any]) -> LZConfig:
        """Inverse of `to_json`; unknown parameters raise TypeError."""
        return cls(**configuration)


def _given(config: Config) -> dict[str, Any]:
    """The fields that differ from their defaults."""
    defaults = {field.name: field.default for field in fields(config)}
    return {name: value for name, value in asdict(config).items() if value != defaults[name]}


Config: TypeAlias = TensorConfig | LZConfig
TYPESIZES = (1, 2, 4, 8)
LEVELS = ("fast", "ratio")  # of LZ, as the kernels number them
DEFAULT_CONFIG = TensorConfig()
