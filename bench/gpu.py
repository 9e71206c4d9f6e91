# SPDX-License-Identifier: Apache-2.0
"""Speed on a GPU: GB of decoded data per second, beside a copy on the same device.

    python -m bench.gpu [MEGABYTES]     prints a table; needs a CUDA device and CuPy

Times are of the device, by events, medians of rounds in which all contestants take turns; the copy
says what this memory can do at all. nvCOMP's ANS takes part if `nvidia-nvcomp` is installed.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np

import gpucodec
import gpucodec.cuda
from gpucodec.cuda import device as devices
from gpucodec.frame import parse

from .record import record

ROUNDS = 15
WARM_UP = 2  # rounds in which kernels are compiled and pools filled
Work = Callable[[], Any]


def arrays(n_bytes: int) -> dict[str, np.ndarray]:
    """Weights as they are trained, normal and of one scale for each row; and the extremes."""
    rng = np.random.default_rng(0)
    n = n_bytes // 4
    scale = np.repeat(rng.uniform(0.01, 0.05, -(-n // 4096)), 4096)[:n].astype(np.float32)
    values = rng.standard_normal(n, np.float32) * scale
    upper = (values.view(np.uint32) >> 16).astype(np.uint16)
    return {
        "float32 weights": values,
        "bfloat16 weights": np.tile(upper, 2).view(ml_dtypes.bfloat16),
        "float32 noise": rng.integers(0, 1 << 32, n, np.uint32).view(np.float32),
        "float32 zeros": np.zeros(n, np.float32),
    }


def milliseconds(cupy: Any, contestants: dict[str, Work]) -> dict[str, float]:
    """Median device time of each, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(ROUNDS + WARM_UP):
        for name, work in contestants.items():
            begin, end = cupy.cuda.Event(), cupy.cuda.Event()
            begin.record()
            work()
            end.record()
            end.synchronize()
            if turn >= WARM_UP:
                times[name].append(cupy.cuda.get_elapsed_time(begin, end))
    return {name: statistics.median(found) for name, found in times.items()}


def nvcomp_contestants(cupy: Any, words: Any, sizes: dict[str, int]) -> dict[str, Work]:
    """NVIDIA's entropy coder on the same bytes, if it is here."""
    try:
        from nvidia import nvcomp
    except ImportError:
        return {}
    codec = nvcomp.Codec(algorithm="ANS", data_type="|u1")
    source = nvcomp.as_array(words)
    coded = codec.encode(source)
    sizes["nvcomp ANS"] = coded.buffer_size
    if not bool((cupy.asarray(codec.decode(coded)).view(cupy.uint8) == words).all()):
        raise RuntimeError("nvCOMP does not return what it was given")
    return {
        "nvcomp ANS encode": lambda: codec.encode(source),
        "nvcomp ANS decode": lambda: codec.decode(coded),
    }


def race(cupy: Any, name: str, array: np.ndarray) -> None:
    """One table row for each contestant, after a check of every bit."""
    config = gpucodec.TensorConfig(profile="plain")
    words = cupy.asarray(array.view(np.uint8))
    typed = words.view(array.dtype)
    frame = gpucodec.cuda.encode(typed, config)
    if cupy.asnumpy(frame).tobytes() != gpucodec.encode(array, config).tobytes():
        raise RuntimeError(f"the GPU's frame of {name} differs from the CPU's")
    room = cupy.empty(gpucodec.max_encoded_size(array.shape, array.dtype, config), cupy.uint8)
    out = cupy.empty_like(typed)
    header = parse(cupy.asnumpy(frame))
    copy = cupy.empty_like(words)

    def copied() -> None:
        copy[...] = words

    sizes = {"gpucodec": int(frame.size)}
    contestants: dict[str, Work] = {
        "copy": copied,
        "gpucodec encode": lambda: gpucodec.cuda.encode(typed, config, out=room),
        "gpucodec decode": lambda: gpucodec.cuda.decode_async([frame], [out], headers=[header]),
        **nvcomp_contestants(cupy, words, sizes),
    }
    for contestant, time in milliseconds(cupy, contestants).items():
        coder = contestant.rpartition(" ")[0]
        ratio = f"{array.nbytes / sizes[coder]:.3f}" if coder in sizes else ""
        record("gpu", f"{name}, {contestant}", gbs=array.nbytes / time / 1e6)
        print(f"| {name} | {contestant} | {ratio} | {array.nbytes / time / 1e6:.0f} |")
    if not bool((out.view(cupy.uint8) == words).all()):
        raise RuntimeError(f"{name} did not decode to what it was")


def main() -> None:
    try:
        devices.find(0)
    except gpucodec.UnsupportedError as error:
        sys.exit(f"not measured: {error}")
    import cupy

    properties = cupy.cuda.runtime.getDeviceProperties(0)
    print(f"{properties['name'].decode()}, CuPy {cupy.__version__}, median of {ROUNDS}\n")
    print("| data | what | ratio | GB/s |\n|---|---|---|---|")
    n_bytes = int(sys.argv[1] if len(sys.argv) > 1 else 512) << 20
    for name, array in arrays(n_bytes).items():
        race(cupy, name, array)


if __name__ == "__main__":
    main()
