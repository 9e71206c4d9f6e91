# SPDX-License-Identifier: Apache-2.0
"""Page-locked memory of the host, from which a GPU copies while the host goes on."""

from __future__ import annotations

from threading import Lock
from typing import Any

import numpy as np

MOST = 64 << 20  # bytes under way at a time; what is more goes by pageable memory


class PinnedMemory:
    """Memory of CuPy's pinned pool, held until the copies from it are done.

    The pool itself would hand out again what is freed while a copy still reads it.
    """

    def __init__(self, cupy: Any) -> None:
        self.cupy = cupy
        self.lock = Lock()
        self.busy: list[tuple[Any, Any, int]] = []
        """Memory, the event behind its copy, and bytes."""

    def allocate(self, n_bytes: int) -> tuple[Any, np.ndarray[Any, Any]]:
        """Memory to `hold` once its copy is queued, and its bytes; None and pageable ones if too much
        is under way, or the system grants none.
        """
        with self.lock:
            self.busy = [one for one in self.busy if not one[1].done]
            held = sum(n for _, _, n in self.busy)
        if held + n_bytes <= MOST:
            try:
                memory = self.cupy.cuda.alloc_pinned_memory(n_bytes)
            except self.cupy.cuda.runtime.CUDARuntimeError:
                pass
            else:
                return memory, np.frombuffer(memory, np.uint8, n_bytes)
        return None, np.empty(n_bytes, np.uint8)

    def hold(self, memory: Any, n_bytes: int, stream: Any) -> None:
        """Keep memory until what is queued on the stream, a copy from it, is done."""
        if memory is not None:
            event = self.cupy.cuda.Event(disable_timing=True)
            event.record(stream)
            with self.lock:
                self.busy.append((memory, event, n_bytes))
