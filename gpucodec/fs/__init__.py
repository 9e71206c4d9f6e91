# SPDX-License-Identifier: Apache-2.0
"""Compressed files that look like plain ones: ``gpucodec::`` before any fsspec URL.

Importing this package also registers ``compression="gpucodec"`` and the ending ``.gpc`` with fsspec.
"""

from __future__ import annotations

from . import compression as _registered  # noqa: F401
from .filesystem import GpucodecFileSystem

__all__ = ["GpucodecFileSystem"]
