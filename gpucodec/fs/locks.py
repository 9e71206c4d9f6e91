# SPDX-License-Identifier: Apache-2.0
"""Locks between those who append to a local file and those who look for its end.

A write shows page by page, so a reader may see half a section. It takes that for a cut file, waits
here until no append is under way, and looks again. Locks are advisory, and are done without where
the system or the disk has none; appends are then still single writes.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

if TYPE_CHECKING:
    from collections.abc import Iterator


def lock_to_append(descriptor: int) -> None:
    """Be alone with an open file, as far as others ask, until it is closed."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)


@contextlib.contextmanager
def between_appends(path: str) -> Iterator[None]:
    """While nobody appends to the file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)
