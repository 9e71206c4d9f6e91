# SPDX-License-Identifier: Apache-2.0
"""Runs the kernels under the address and undefined-behaviour sanitizers: a process of its own.

    python tests/cuda_sanitized.py COUNT ORDER             COUNT mutants decoded, some arrays encoded
    python tests/cuda_sanitized.py quantize COUNT ORDER    COUNT arrays in every format, containers
    python tests/cuda_sanitized.py touch                   reads one byte too far: must fail

All need the sanitizer loaded first: `environment()`.
"""

from __future__ import annotations

import os
import subprocess
import sys

import cuda_shim


def environment() -> dict[str, str]:
    """What the process needs, since Python itself is not built with the sanitizer."""
    command = [str(cuda_shim.COMPILER), "-print-file-name=libasan.so"]
    library = subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    options = "detect_leaks=0:detect_stack_use_after_return=0:allocator_may_return_null=1"
    return {**os.environ, "LD_PRELOAD": library, "ASAN_OPTIONS": options}


def quantize(device: cuda_shim.ShimDevice, count: int, order: int) -> None:
    """Quantize and dequantize `count` arrays in every format, and decode damaged containers."""
    import test_cuda_quantize as tests

    from gpucodec.kernels import quantspec

    n_arrays = n_exceptions = 0
    for name in quantspec.BY_NAME:
        for pair in tests.variants(name, 300 * order + quantspec.BY_NAME[name].code, count):
            n_exceptions += tests.check(device, *pair)
            n_arrays += 1
    verdicts = tests.damaged_alike(device, order, 2 * count)
    print(cuda_shim.ORDERS[order], n_arrays, "arrays", n_exceptions, "exceptions", len(verdicts))


def main() -> None:
    import test_cuda_kernels as tests
    import test_cuda_lz as of_lz
    import test_cuda_transforms as transforms
    from golden_inputs import golden_inputs

    from gpucodec import TensorConfig
    from gpucodec.cuda import device as devices

    shim = cuda_shim.build(sanitize=True)
    if sys.argv[1] == "touch":
        device = cuda_shim.ShimDevice(0, 0, shim)
        source, target = device.allocate(4_999), device.allocate(8)
        device.launch("hash_bytes", 1, 64, [source.address, 5_000, target.address])
        return
    count, order = map(int, sys.argv[-2:])
    device = cuda_shim.ShimDevice(order, order, shim)
    if sys.argv[1] == "quantize":
        devices.find = lambda _index: device
        quantize(device, count, order)
        return
    seen = tests.judge_mutants(count, order, device)
    inputs = [(a, tests.plain(c)) for _, a, c in golden_inputs()][order::9]
    inputs += tests.random_inputs(order, 20)
    for (array, config), frame in zip(inputs, tests.encode_on_shim(inputs, device), strict=True):
        assert frame.tobytes() == tests.gpucodec.encode(array, config).tobytes()
    devices.find = lambda _index: device
    for profile in transforms.PROFILES:
        for array, block_size in transforms.with_zeros(order, 8):
            config = TensorConfig(block_size, profile=profile, lz=False)
            transforms.judge(device, [array], config)
        matrices = [*transforms.matrices(order)][order::3]
        transforms.judge(device, matrices, TensorConfig(profile=profile, lz=False))
    for config in (TensorConfig(4_096, lz=True), TensorConfig(profile="auto")):
        transforms.judge(device, [*of_lz.mixed(order)], config)
    seen[:9] += of_lz.judge(count // 4, order, device)
    arrays = [*of_lz.arrays_of_words()][order::5]
    for config in of_lz.CONFIGS:
        frames = of_lz.encode_on_shim(arrays, config, device)
        for array, frame in zip(arrays, frames, strict=True):
            assert frame.tobytes() == tests.gpucodec.encode(array, config).tobytes()
    n_arrays = len(inputs) + len(of_lz.CONFIGS) * len(arrays) + 36
    print(cuda_shim.ORDERS[order], seen.tolist(), n_arrays, "arrays")


if __name__ == "__main__":
    main()
