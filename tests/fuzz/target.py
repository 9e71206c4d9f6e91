# SPDX-License-Identifier: Apache-2.0
"""What a fuzz target is."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Target:
    """A function that takes any bytes; what it raises is a finding."""

    name: str
    run: Callable[[bytes], None]
    seeds: Callable[[], Iterable[bytes]]
    """Inputs to begin with, which use all that the target looks at."""
    mutator: Callable[[bytes, random.Random], bytes | None] | None = None
    """Changes an input and makes hashes and sizes right again, or gives None: not its kind."""
    native: bool = False
    """Runs CUDA kernels on the host, compiled for a fuzzer and its sanitizers."""
