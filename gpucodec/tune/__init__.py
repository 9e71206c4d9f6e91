# SPDX-License-Identifier: Apache-2.0
"""Choosing how each tensor is encoded: from samples first, then from what earlier checkpoints cost.

A `Tuner` is a policy of `gpucodec.checkpoint.save`. It decides for families of tensors that are
alike (kind, type, shape, zeros): of new ones it encodes samples, a few tensors of each checkpoint
try ways that may be better, and what every tensor cost is stored with the checkpoint. That is a
contextual bandit, in each family Bayesian regression on the ways. Given the same history and seed,
it chooses the same.
"""

from __future__ import annotations

from .objective import Objective
from .subject import Subject
from .tuner import Tuner

__all__ = ["Objective", "Subject", "Tuner"]
