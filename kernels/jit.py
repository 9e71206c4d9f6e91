# SPDX-License-Identifier: Apache-2.0
"""How kernels are compiled: by Numba, without the GIL, cached on disk.

Numba's cache looks at the file of the function that is called from Python, not at the files of
what that function calls, so a cache could outlive a change there. Therefore only entry points
are cached, and they are closures over `SOURCES`: the cells of a closure are part of the key.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from numba import njit, types

try:
    from .parts import PartCompiler
except ImportError:  # another Numba inside: kernels then compile as usual, only slower
    PartCompiler = None  # type: ignore[misc,assignment]

SOURCES = int.from_bytes(
    hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted(Path(__file__).parent.glob("*.py")))
    ).digest()[:7]
)
"""A digest of all kernels; a number, since Numba is slow to compile strings."""

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "_nrt": False}

kernel = njit(
    **_OPTIONS, no_cpython_wrapper=True, no_cfunc_wrapper=True, pipeline_class=PartCompiler
)
"""For functions called by other kernels. No `fastmath`, so that floats are the same anywhere.

Python cannot call them; a test may call ``njit(name.py_func)``. They own no memory: arrays come
from outside, or from `arrays`.
"""

inlined = njit(**_OPTIONS, inline="always")
"""A part of the one function that calls it: Numba would optimise it on its own, and then again."""

readonly_bytes = types.Array(types.uint8, 1, "C", readonly=True)
"""Input of entry points: takes writable arrays too, where a lazy signature would compile for each."""


def entry_point(signature: Any) -> Any:
    """For functions called from Python, defined inside a function that closes over `SOURCES`.

    They are compiled, or loaded from the cache, when their module is imported: import it late.
    """
    return njit(signature, **_OPTIONS, cache=True)
