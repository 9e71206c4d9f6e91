# SPDX-License-Identifier: Apache-2.0
"""The hash that frames have, of any bytes."""

from __future__ import annotations

from typing import Any

import numpy as np


def hash_bytes(raw: Any) -> int:
    """XXH3-64 as the format has it: padded with zeros."""
    from ..kernels.checksum import hash_bytes as kernel  # compiles, or loads what was compiled

    return int(kernel(np.frombuffer(raw, np.uint8)))
