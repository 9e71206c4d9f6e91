# SPDX-License-Identifier: Apache-2.0
"""All fuzz targets by name."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuzz.target import Target

NATIVE = ("cuda_decode",)
NAMES = (
    *("frame_parse", "block_table", "rans_decode", "rans_table", "lz_decode"),
    *("transform_inverse", "decode_any", "roundtrip_any", "quant_decode", "file_sections"),
    *("config_json", "manifest_json", "stream_resume", *NATIVE),
)


def find(name: str) -> Target:
    """The target of this name. Only its module is imported, since some need a compiler."""
    if name in NATIVE:
        from fuzz import cuda

        all_targets = cuda.TARGETS
    else:
        from fuzz import frames, records

        all_targets = frames.TARGETS + records.TARGETS
    [target] = [target for target in all_targets if target.name == name]
    return target
