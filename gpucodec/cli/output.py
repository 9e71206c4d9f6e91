# SPDX-License-Identifier: Apache-2.0
"""Outputs that appear when they are complete, and not before."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from ..durable import sync
from .errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def replacing(destination: Path, *, force: bool) -> Iterator[Path]:
    """Yield a sibling path to write a file or folder to; on success it becomes `destination`.

    Whatever was there stays until then, and on any failure, Ctrl-C included, the sibling is
    removed. Contents are flushed to the disk before the name is given away.

    Raises
    ------
    CommandError
        `destination` exists and `force` is not set, or its folder does not exist.

    """
    destination = Path(os.path.abspath(destination))  # noqa: PTH100 - keep links as they are
    if destination.exists() and not force:
        raise CommandError(f"{destination} exists; --force replaces it")
    if not destination.parent.is_dir():
        raise CommandError(f"folder {destination.parent} does not exist")
    with tempfile.TemporaryDirectory(
        prefix=f".{destination.name}.", dir=destination.parent, ignore_cleanup_errors=True
    ) as folder:
        partial = Path(folder) / destination.name
        yield partial
        _flush(partial)
        if destination.is_dir() and not destination.is_symlink():
            destination.rename(Path(folder) / "replaced")  # a folder cannot be renamed over
        partial.replace(destination)
        sync(destination.parent)


def _flush(path: Path) -> None:
    if path.is_dir():
        for folder, _, names in os.walk(path):
            for name in names:
                sync(Path(folder) / name)
            sync(Path(folder))
    else:
        sync(path)


@contextmanager
def interrupts_held() -> Iterator[None]:
    """Put off Ctrl-C and SIGTERM until the end of the block."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    arrived: list[int] = []
    numbers = (signal.SIGINT, signal.SIGTERM)
    previous = {n: signal.signal(n, lambda number, _: arrived.append(number)) for n in numbers}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        if arrived:
            signal.raise_signal(arrived[0])
