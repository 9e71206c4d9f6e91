# SPDX-License-Identifier: Apache-2.0
"""Host tensors as arrays and back, over the same memory, for the types that NumPy lacks too."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from gpucodec.dtypes import BY_NAME

Array = np.ndarray[Any, np.dtype[Any]]


def to_numpy(tensor: Any) -> Array:
    """A contiguous tensor of a type of the format as an array."""
    dtype = BY_NAME[str(tensor.dtype).removeprefix("torch.")].numpy
    raw: Array = tensor.reshape(-1).view(torch.uint8).numpy()
    return raw.view(dtype).reshape(tuple(tensor.shape))


def to_torch(array: Array) -> Any:
    """An array as a tensor."""
    raw = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
    tensor = torch.from_numpy(raw) if raw.flags.writeable else torch.tensor(raw)
    return tensor.view(getattr(torch, array.dtype.name)).reshape(array.shape)
