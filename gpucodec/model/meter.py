# SPDX-License-Identifier: Apache-2.0
"""Seconds and peak memory of a piece of work."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final, Self

if TYPE_CHECKING:
    from types import TracebackType

_CLEAR: Final = Path("/proc/self/clear_refs")
_STATUS: Final = Path("/proc/self/status")
_RESET_PEAK: Final = "5"  # man 5 proc: resets the peak resident set size


@dataclass
class Meter:
    """A context that measures; `seconds` and `peak_bytes` are there when it ends.

    The peak is of the whole process, above what was resident at the beginning. Where the system
    cannot reset its mark (not Linux), it is how much the mark of the process's life rose.
    """

    seconds: float = 0.0
    peak_bytes: int = 0

    def __enter__(self) -> Self:
        try:
            _CLEAR.write_text(_RESET_PEAK)
        except OSError:
            self._before = _life_peak()
        else:
            self._before = _resident("VmRSS")
        self._started = time.perf_counter()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.seconds = time.perf_counter() - self._started
        now = _resident("VmHWM") if _STATUS.exists() else _life_peak()
        self.peak_bytes = max(0, now - self._before)


def _resident(field: str) -> int:
    for line in _STATUS.read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) << 10
    return 0


def _life_peak() -> int:
    if sys.platform == "win32":
        return 0
    import resource

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
