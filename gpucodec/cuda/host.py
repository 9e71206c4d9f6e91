# SPDX-License-Identifier: Apache-2.0
"""What the CUDA kernels do not know is done on the host, on copies: encoders' models and choices.

So that an array on a GPU has the frame that it has on the CPU, whatever the configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from ..buffers import Bytes
    from ..config import Config
    from .arrays import DeviceArray
    from .device import Device


def encode(device: Device, array: DeviceArray, config: Config, stream: int) -> Bytes:
    """Wait for the array; its frame, on the host."""
    from .. import cpu

    words = np.empty(array.n_bytes, np.uint8)
    device.download(words, array.address, stream)
    frame: Bytes = cpu.encode(words, array.require_dtype(), array.shape, config, None)
    return frame
