# SPDX-License-Identifier: Apache-2.0
"""Activations on disk: streamed there and back within a training step, or harvested to stay."""

from __future__ import annotations

from ..missing import needs

with needs("torch", "torch"):
    from .dataset import ActivationDataset
    from .errors import MutationError, StreamError
    from .estimate import SpaceEstimate, estimate_space
    from .harvest import record_activations
    from .rows import RowStore
    from .stats import DTypeStats, StreamStats
    from .stream import stream_activations

__all__ = [
    "ActivationDataset",
    "DTypeStats",
    "MutationError",
    "RowStore",
    "SpaceEstimate",
    "StreamError",
    "StreamStats",
    "estimate_space",
    "record_activations",
    "stream_activations",
]
