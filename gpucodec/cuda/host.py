# SPDX-License-Identifier: Apache-2.0
"""What the CUDA kernels do not know is done on the host, on copies: encoders' models and choices.

So that an array on a GPU has the frame that it has on the CPU, whatever the configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..config import PLAIN, Config, TensorConfig

if TYPE_CHECKING:
    from ..buffers import Bytes
    from .arrays import DeviceArray
    from .device import Device


def is_needed_to_encode(config: Config) -> bool:
    """Whether this configuration allows what only the CPU can write."""
    return isinstance(config, TensorConfig) and config.profile != PLAIN


def encode(device: Device, array: DeviceArray, config: Config, stream: int) -> Bytes:
    """Wait for the array; its frame, on the host."""
    from .. import cpu

    words = np.empty(array.n_bytes, np.uint8)
    device.download(words, array.address, stream)
    frame: Bytes = cpu.encode(words, array.require_dtype(), array.shape, config, None)
    return frame
