# SPDX-License-Identifier: Apache-2.0
"""Pruning by magnitude: masks over weights, for the whole model, each tensor, or N of M values.

Magnitude pruning is LeCun et al. 1989 without the Hessian, as Han et al. 2015 have it; 2 of 4 is
Mishra et al. 2021 (arXiv 2104.08378). Models that are pruned already are taken as they are.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SCOPES: Final = ("global", "tensor")


@dataclass(frozen=True)
class Prune:
    """What to set to zero.

    Parameters
    ----------
    amount
        The part of the weights that becomes zero, from 0 to 1.
    scope
        "global": the smallest of all weights, "tensor": the same part of each tensor.
    n_m
        ``(n, m)`` keeps the n largest of each m neighbours along the last axis (of a convolution:
        along all but the first); `amount` and `scope` are not used then. A tail shorter than m
        keeps its n largest.
    structured
        Remove whole channels by Torch-Pruning, so that the model becomes a smaller dense one;
        `amount` is then the part of channels. Needs ``gpucodec[prune]``.
    min_numel
        Smaller tensors, and vectors, are not pruned.

    Raises
    ------
    ValueError
        A value is out of range.

    """

    amount: float = 0.5
    scope: str = "global"
    n_m: tuple[int, int] | None = None
    structured: bool = False
    min_numel: int = 4096

    def __post_init__(self) -> None:
        if not 0 <= self.amount < 1:
            raise ValueError(f"amount is from 0 to below 1, not {self.amount}")
        if self.scope not in SCOPES:
            raise ValueError(f"scope is one of {', '.join(SCOPES)}, not {self.scope!r}")
        if self.n_m is not None and not 0 < self.n_m[0] <= self.n_m[1]:
            raise ValueError(f"n_m is (n, m) with 0 < n <= m, not {self.n_m}")
        if self.structured and self.n_m is not None:
            raise ValueError("channels are removed whole: structured and n_m do not go together")


def prunable(weights: Mapping[str, Any], min_numel: int) -> dict[str, Any]:
    """Those of the tensors that are matrices of floats, each memory once, by their first names."""
    found: dict[str, Any] = {}
    seen: set[int] = set()
    for name, tensor in weights.items():
        is_matrix = tensor.ndim > 1 and tensor.is_floating_point()
        if is_matrix and tensor.numel() >= min_numel and tensor.data_ptr() not in seen:
            seen.add(tensor.data_ptr())
            found[name] = tensor
    return found


def masks(weights: Mapping[str, Any], config: Prune) -> dict[str, Any]:
    """Which values stay: a bool tensor for each weight that is pruned.

    Ties are broken by position, so the masks are a function of the weights alone, and keep exactly
    as many values as they should.
    """
    chosen = prunable(weights, config.min_numel)
    if config.n_m is not None:
        return {name: _n_of_m(tensor, *config.n_m) for name, tensor in chosen.items()}
    if config.scope == "tensor":
        return {name: _largest([tensor], config.amount)[0] for name, tensor in chosen.items()}
    kept = _largest(list(chosen.values()), config.amount)
    return dict(zip(chosen, kept, strict=True))


def _largest(tensors: list[Any], amount: float) -> list[Any]:
    """Masks of all but the smallest `amount` of the values of some tensors together."""
    import torch

    if not tensors:
        return []
    flat = torch.cat([tensor.detach().abs().flatten().float() for tensor in tensors])
    keep = torch.ones(len(flat), dtype=torch.bool)
    keep[torch.sort(flat, stable=True).indices[: round(amount * len(flat))]] = False
    parts = keep.split([tensor.numel() for tensor in tensors])
    return [part.reshape(tensor.shape) for part, tensor in zip(parts, tensors, strict=True)]


def _n_of_m(tensor: Any, n: int, m: int) -> Any:
    """The n largest of each m neighbours."""
    import torch
    from torch.nn.functional import pad

    rows = tensor.detach().abs().float().flatten(1)
    groups = pad(rows, (0, -rows.shape[1] % m), value=-1.0).unflatten(1, (-1, m))
    best = torch.sort(groups, dim=-1, descending=True, stable=True).indices[..., :n]
    keep = torch.zeros(groups.shape, dtype=torch.bool).scatter_(-1, best, value=True)
    return keep.flatten(1)[:, : rows.shape[1]].reshape(tensor.shape)


def apply(weights: Mapping[str, Any], keep: Mapping[str, Any]) -> None:
    """Set to +0 what is not kept (a product with a mask would leave -0, which costs a bit each)."""
    import torch

    with torch.no_grad():
        for name, mask in keep.items():
            weights[name].masked_fill_(~mask, 0)


@contextmanager
def frozen(weights: Mapping[str, Any], keep: Mapping[str, Any]) -> Iterator[None]:
    """While training goes on inside, what is pruned gets no gradient; afterwards it is zero."""
    handles = [
        weights[name].register_hook(lambda gradient, mask=mask: gradient * mask)
        for name, mask in keep.items()
        if weights[name].requires_grad
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
        apply(weights, keep)
