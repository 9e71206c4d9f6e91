# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of a training run: compressed, crash-safe, readable in parts.

>>> import gpucodec.checkpoint as checkpoint
>>> import numpy as np, tempfile
>>> folder = tempfile.mkdtemp()
>>> info = checkpoint.save({"w": np.zeros((4, 3), np.float32), "step": 7}, folder)
>>> checkpoint.load(None, folder)["step"]
7
>>> checkpoint.open(folder)["w"][1:3].shape
(2, 3)

What lies on disk is described in ``docs/checkpoints.md``.
"""

from __future__ import annotations

from .check import CheckpointInfo, TensorInfo, inspect, verify
from .load import load
from .policy import Policy, Rule
from .save import SaveInfo, save
from .series import CheckpointSeries, Resumed, SeriesStats
from .updates import UpdateInfo, apply_delta, compact, publish_delta
from .view import Checkpoint, LazyTensor, open_checkpoint

open = open_checkpoint  # noqa: A001 - gpucodec.checkpoint.open(url), as zarr.open and fsspec.open

__all__ = [
    "Checkpoint",
    "CheckpointInfo",
    "CheckpointSeries",
    "LazyTensor",
    "Policy",
    "Resumed",
    "Rule",
    "SaveInfo",
    "SeriesStats",
    "TensorInfo",
    "UpdateInfo",
    "apply_delta",
    "compact",
    "inspect",
    "load",
    "open",
    "publish_delta",
    "save",
    "verify",
]
