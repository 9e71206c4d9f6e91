# SPDX-License-Identifier: Apache-2.0
"""What the CUDA kernels do not know is done on the host, on copies: LZ, and encoders' models.

So that an array on a GPU has the frame that it has on the CPU, whatever the configuration.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from .. import threads as pool
from ..kernels import cuda as kernels, spec
from . import models

if TYPE_CHECKING:
    from ..buffers import Bytes
    from ..config import Config
    from ..frame import Frame
    from .arrays import DeviceArray
    from .device import Device

_CODERS = sum(1 << coder for coder in kernels.CODERS)


def is_needed_to_decode(frame: Frame) -> bool:
    """Whether the frame has what only the CPU can read; errors as of `predicted.parse`."""
    used = frame.used
    if frame.flags & spec.PREDICTED:
        used |= models.section(frame).offsets.used
    return used & ~_CODERS != 0


def encode(device: Device, array: DeviceArray, config: Config, stream: int) -> Bytes:
    """Wait for the array; its frame, on the host."""
    from .. import cpu

    words = np.empty(array.n_bytes, np.uint8)
    device.download(words, array.address, stream)
    frame: Bytes = cpu.encode(words, array.require_dtype(), array.shape, config, None)
    return frame


def decode(
    device: Device, frame: Frame, payload: int | Bytes, out: int, stream: int
) -> np.ndarray[Any, Any]:
    """Decode to device address `out`; uint8[n_blocks], the statuses. Bad blocks become zeros.

    `payload` is the frame's from its first payload on, or the device address of that.
    """
    from .. import cpu

    if isinstance(payload, int):
        fetched = np.empty(frame.encoded_bytes - frame.payloads, np.uint8)
        device.download(fetched, payload, stream)
        payload = fetched
    words = np.empty(frame.decoded_bytes, np.uint8)
    status = np.zeros(frame.n_blocks, np.uint8)
    jobs = cpu.decode_jobs(frame, payload, 0, frame.n_blocks, words, status)
    pool.run((work for _, work in jobs), None)
    for block in np.flatnonzero(status):
        words[block * frame.block_bytes : (block + 1) * frame.block_bytes] = 0
    device.upload(out, words, stream)
    return status
