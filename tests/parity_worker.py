# SPDX-License-Identifier: Apache-2.0
"""Encodes and decodes what another process encoded, and compares every byte.

parity_worker.py write FOLDER     encode the golden inputs into FOLDER
parity_worker.py check FOLDER     encode them here too; decode those of FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import make_frames
from golden_inputs import golden_inputs
from helpers import raw_bytes

import gpucodec
from gpucodec.kernels import simd


def write(folder: Path) -> int:
    count = 0
    for label, array, config in golden_inputs():
        (folder / label).write_bytes(gpucodec.encode(array, config))
        count += 1
    return count


def check(folder: Path) -> int:
    count = 0
    for label, array, config in golden_inputs():
        written = (folder / label).read_bytes()
        assert gpucodec.encode(array, config).tobytes() == written, f"{label}: bytes differ"
        assert raw_bytes(gpucodec.decode(written)) == raw_bytes(array), f"{label}: decoded differ"
        count += 1
    for made in make_frames.random_frames(21, 300):  # what the encoder would not write
        assert raw_bytes(gpucodec.decode(made.frame)) == made.raw, made.label
    for made in make_frames.random_frames(22, 100, lz=True):
        assert raw_bytes(gpucodec.decode(made.frame)) == made.raw, made.label
    return count


if __name__ == "__main__":
    print({"write": write, "check": check}[sys.argv[1]](Path(sys.argv[2])), simd.LEVEL)
