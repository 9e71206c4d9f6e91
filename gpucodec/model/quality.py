# SPDX-License-Identifier: Apache-2.0
"""What compression did to tensors and to outputs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Recovery:
    """How far a tensor that came back is from the original."""

    max_abs: float
    max_rel: float
    """Of values that are not zero."""
    snr_db: float
    """10 log10 of the signal's over the error's energy; infinite if nothing was lost."""
    cosine: float


def recovery(original: Array, restored: Array) -> Recovery:
    """Compare two tensors of one shape, in float64."""
    a, b = (np.asarray(x, np.float64).ravel() for x in (original, restored))
    error = np.abs(a - b)
    size = np.abs(a)
    held = size > 0
    noise, signal = float((error**2).sum()), float((a**2).sum())
    norms = math.sqrt(signal * float((b**2).sum()))
    return Recovery(
        float(error.max(initial=0)),
        float((error[held] / size[held]).max(initial=0)),
        math.inf if noise == 0 else 10 * math.log10(max(signal, 1e-300) / noise),
        1.0 if noise == 0 else float(a @ b) / max(norms, 1e-300),
    )


@dataclass(frozen=True)
class Agreement:
    """Outputs of two models on the same inputs."""

    kl: float
    """Mean Kullback-Leibler divergence of the softmax over the last axis, nats a position."""
    top1: float
    """Part of positions with the same largest output."""
    max_abs: float
    """Largest difference of any output."""


def first_output(result: Any) -> Any:
    """The tensor that counts as the output: the first one."""
    import torch

    if isinstance(result, torch.Tensor):
        return result
    values = result.values() if isinstance(result, dict) else result
    return first_output(next(iter(values)))


def outputs(model: Any, inputs: Iterable[Sequence[Any]]) -> list[Any]:
    """The first output of each call, as float32."""
    import torch

    with torch.no_grad():
        return [first_output(model(*one)).float() for one in inputs]


def agreement(reference: Sequence[Any], found: Sequence[Any]) -> Agreement:
    """Compare outputs of the same inputs, [..., classes] each."""
    import torch
    from torch.nn.functional import log_softmax

    kl = same = n = 0.0
    furthest = 0.0
    for a, b in zip(reference, found, strict=True):
        p, q = (log_softmax(x.double().reshape(-1, x.shape[-1]), -1) for x in (a, b))
        kl += float((p.exp() * (p - q)).sum())
        same += float((p.argmax(-1) == q.argmax(-1)).sum())
        n += len(p)
        furthest = max(furthest, float(torch.max(torch.abs(a - b))))
    return Agreement(max(0.0, kl / max(1, n)), same / max(1, n), furthest)
