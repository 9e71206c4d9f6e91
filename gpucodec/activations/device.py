# SPDX-License-Identifier: Apache-2.0
"""Copies between a CUDA device and pinned memory. Written from torch's rules, not run on a GPU yet.

The copy to the host runs on a side stream, ordered behind the stream of the moment: one that is
remembered is the wrong one under FSDP2 and recomputation. The copy back runs on the stream of the
backward pass, so that nothing has to be ordered.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch

SUPPORTED = ("cpu", "cuda")


@cache
def _side_stream(device: Any) -> Any:
    return torch.cuda.Stream(device)


def start_copy(flat: Any) -> tuple[Any, Any]:
    """Begin to copy a vector to pinned memory; the copy, and an event for its end."""
    side = _side_stream(flat.device)
    side.wait_stream(torch.cuda.current_stream(flat.device))
    host = torch.empty(flat.shape, dtype=flat.dtype, pin_memory=True)
    with torch.cuda.stream(side):
        host.copy_(flat, non_blocking=True)
        flat.record_stream(side)  # its memory may not be handed out before the copy is done
    return host, side.record_event()


def copy_back(host: Any, device: Any) -> Any:
    """A loaded vector on the device, in the order of the current stream."""
    return host.pin_memory().to(device, non_blocking=True)
