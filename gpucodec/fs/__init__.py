# SPDX-License-Identifier: Apache-2.0
"""Compressed files that look like plain ones: ``gpucodec::`` before any fsspec URL."""

from __future__ import annotations

from .filesystem import GpucodecFileSystem

__all__ = ["GpucodecFileSystem"]
