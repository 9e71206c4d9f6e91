# SPDX-License-Identifier: Apache-2.0
"""Activations on disk: streamed there and back within a training step, or harvested to stay."""

from __future__ import annotations

from .errors import MutationError, StreamError
from .stats import DTypeStats, StreamStats
from .stream import stream_activations

__all__ = [
    "DTypeStats",
    "MutationError",
    "StreamError",
    "StreamStats",
    "stream_activations",
]
