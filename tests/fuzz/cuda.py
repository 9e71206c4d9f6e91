# SPDX-License-Identifier: Apache-2.0
"""Targets that run the CUDA kernels on the host, under sanitizers, beside the CPU's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import cache

import cuda_shim
import numpy as np
import test_cuda_kernels as kernels
from fuzz import frames
from fuzz.target import Target

import gpucodec
from gpucodec import frame as container
from gpucodec.cuda import models
from gpucodec.kernels import spec

# Loaded before the first input, so that libFuzzer counts its branches from the beginning.
SHIM = cuda_shim.build(fuzz="fuzzer" in os.environ.get("LD_PRELOAD", ""))


@cache
def device(order: int) -> cuda_shim.ShimDevice:
    return cuda_shim.ShimDevice(order, 1, SHIM)


def known(data: bytes) -> container.Frame | None:
    """The frame's header, if it is sound; of a predicted frame the model's, too."""
    try:
        found = container.parse(np.frombuffer(data, np.uint8), limit=frames.LIMIT)
        if found.flags & spec.PREDICTED:
            models.section(found)
    except gpucodec.GpucodecError:  # refused before anything is launched
        return None
    return found


def decode(data: bytes) -> None:
    """The kernels decode to the CPU's bytes and statuses, in any order of threads."""
    found = known(data)
    if found is None:
        return
    order = len(data) % len(cuda_shim.ORDERS)
    [got], [status], errors = kernels.decode_on_shim([data], device(order))
    kernels.assert_as_by_the_cpu(data, found, got, status, errors.get(0))


def seeds() -> Iterator[bytes]:
    return (made.frame for made in frames.made() if known(made.frame) is not None)


TARGETS = (Target("cuda_decode", decode, seeds, frames.whole, native=True),)
