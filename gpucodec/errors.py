# SPDX-License-Identifier: Apache-2.0
"""What can be wrong with bytes that somebody else wrote."""

from __future__ import annotations

from typing import Final

# What taking JSON apart can raise that somebody else wrote: of wrong types, deep, or infinite.
MALFORMED: Final = (
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    RecursionError,
    OverflowError,
)


class GpucodecError(ValueError):
    """Base of every error that encoded bytes can cause."""


class CorruptionError(GpucodecError):
    """The bytes contradict themselves: a hash, a size or a structure does not hold."""


class TruncatedError(CorruptionError):
    """The bytes end before the frame does."""


class UnsupportedError(GpucodecError):
    """Not a frame, or a frame that needs a version, feature or package that is not here."""


class LimitError(GpucodecError):
    """The frame declares more output than the caller allows."""
