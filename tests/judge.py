# SPDX-License-Identifier: Apache-2.0
"""gpucodec and the document's decoder must be of one mind: the same array, or both refuse."""

from __future__ import annotations

import struct

import numpy as np
import spec_decoder
from spec_base import Refused

import gpucodec

CONTAINER = b"gpcq"


def declared_bytes(frame: bytes) -> int:
    """What the header says that the frame decodes to."""
    return struct.unpack_from("<Q", frame, 8)[0] if len(frame) >= 16 else 0


def agree(frame: bytes, limit: int = 1 << 20) -> bool:
    """Whether both take a frame or container; AssertionError where they differ.

    What declares more than `limit` bytes is not put to the document's decoder, which knows no
    limit: gpucodec must refuse it.
    """
    raw = np.frombuffer(frame, np.uint8)
    try:
        found = gpucodec.decode(raw, limit=limit, threads=1)
    except gpucodec.GpucodecError:
        found = None
    if declared_bytes(frame) > limit:
        assert found is None, "decoded beyond the limit"
        return False
    try:
        expected = spec_decoder.decode(bytes(frame))
    except Refused as refusal:
        assert found is None, f"decoded what the document refuses: {refusal}"
        return False
    assert found is not None, "refused what the document decodes"
    gpucodec.verify(raw)
    assert (found.dtype.name, found.shape) == (expected.name, expected.shape)
    if frame[:4] == CONTAINER:  # which NaN arithmetic makes of a NaN is the processor's affair
        theirs = expected.raw.view(found.dtype).reshape(found.shape)
        with np.errstate(all="ignore"):
            numbers = ~(np.isnan(found.astype(float)) & np.isnan(theirs.astype(float)))
        unsigned = f"u{found.itemsize}"
        assert (found.view(unsigned)[numbers] == theirs.view(unsigned)[numbers]).all()
    else:
        assert found.tobytes() == expected.raw.tobytes()
    return True
