# SPDX-License-Identifier: Apache-2.0
"""``gpucodec mount``: from a URL and a folder to FUSE."""

from __future__ import annotations

import signal
from typing import TYPE_CHECKING

import fsspec

from .console import say
from .errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path


def run(url: str, folder: Path, *, read_only: bool) -> None:
    """Mount and wait. Raises CommandError if that cannot be."""
    try:
        from ..fs import mount
    except (ImportError, OSError) as error:  # mfusepy raises OSError where libfuse is missing
        raise CommandError(f"no FUSE here: {error}; pip install 'gpucodec[mount]'") from error
    chained = url if url.startswith("gpucodec::") else f"gpucodec::{url}"
    if "://" not in url:
        chained = f"gpucodec::file://{url}"
    try:
        fs, root = fsspec.url_to_fs(chained)
    except (ImportError, ValueError) as error:
        raise CommandError(f"{url}: {error}") from error
    if not fs.isdir(root):
        raise CommandError(f"{url} is no folder")
    say(f"{url} in {folder}; fusermount -u {folder} ends it")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # FUSE has its own way to end
    try:
        mount.mount(fs, root, str(folder), read_only=read_only)
    except RuntimeError as error:
        raise CommandError(f"FUSE cannot mount {folder}: error {error}") from error
