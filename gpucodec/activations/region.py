# SPDX-License-Identifier: Apache-2.0
"""Which bytes of a storage a saved tensor needs, and how it is rebuilt over their copy.

Strides are part of what is saved: kernels choose their algorithm by them, and another algorithm
rounds otherwise. So a tensor is not saved as such but as the stretch of its storage that it
covers, and comes back as a view of the same shape, strides and alignment. Views of one storage
(query, key and value of one projection) share a single copy that way.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch

ALIGNMENT = 64  # of torch's allocations; a region keeps its remainder, and so its vector loads
SPARSE = 8  # a view of fewer than one in 8 elements of its stretch is compacted


class Region(NamedTuple):
    """A stretch of a storage, in elements."""

    start: int
    n: int


class View(NamedTuple):
    """How a saved tensor lies in its region."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    offset: int
    """Elements from the start of the region."""
    conj: bool
    sparse_stride: tuple[int, ...] | None
    """Strides to restore, if the region holds the elements alone."""


def locate(tensor: Any) -> tuple[Any, Region, View]:
    """The tensor to copy from, its stretch, and the view.

    Parameters
    ----------
    tensor
        Detached and strided, of at least one element. A view whose elements lie far apart
        is replaced by a compact copy.

    """
    conj = tensor.is_conj()
    if conj:
        tensor = tensor.conj()  # the same storage without the mark
    shape, stride = tuple(tensor.shape), tuple(tensor.stride())
    span = 1 + sum((n - 1) * step for n, step in zip(shape, stride, strict=True))
    if tensor.numel() * SPARSE < span:
        dense = tensor.contiguous()
        view = View(shape, tuple(dense.stride()), 0, conj, stride)
        return dense, Region(0, dense.numel()), view
    whole = tensor.untyped_storage().nbytes() // tensor.element_size()
    first = tensor.storage_offset()
    region = Region(0, whole) if 2 * span >= whole else Region(first, span)
    return tensor, region, View(shape, stride, first - region.start, conj, None)


def flat(source: Any, start: int, n: int) -> Any:
    """A stretch of the source's storage as a vector over the same memory."""
    return source.as_strided((n,), (1,), start)


def empty_like(region: Region, dtype: Any, device: Any) -> tuple[Any, int]:
    """A new vector with room for the stretch, and the element where it begins."""
    itemsize = dtype.itemsize
    pad = region.start * itemsize % ALIGNMENT // itemsize
    return torch.empty(pad + region.n, dtype=dtype, device=device), pad


def rebuild(root: Any, start: int, view: View) -> Any:
    """The saved tensor, as a view of `root`, in which its region begins at element `start`."""
    tensor = root.as_strided(view.shape, view.stride, start + view.offset)
    if view.sparse_stride is not None:
        spread = torch.empty_strided(
            view.shape, view.sparse_stride, dtype=root.dtype, device=root.device
        )
        tensor = spread.copy_(tensor)
    return tensor.conj() if view.conj else tensor
