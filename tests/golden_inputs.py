# SPDX-License-Identifier: Apache-2.0
"""The inputs on which all engines must write the same bytes (test_parity, test_determinism)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from helpers import CONTENTS, NAMES, numpy_dtype, repetitive, sample

from gpucodec import LZConfig, TensorConfig

SAMPLED = 300 * 64 + 17  # enough rows for a sampled histogram, and a tail
SMALL = 1000


def matrices() -> Iterator[tuple[str, np.ndarray]]:
    """Products of rows and columns, and patterns: what is predicted; also with zeros."""
    rng = np.random.default_rng(4)
    logs = rng.normal(0, 2, (700, 1)) + rng.normal(0, 2, (1, 100)) + rng.normal(0, 0.3, (700, 100))
    logs += rng.normal(size=(700, 2)) @ rng.normal(size=(2, 100))
    values = np.exp2(logs - 3)
    for name in ("float16", "bfloat16", "float32"):
        yield name, values.astype(numpy_dtype(name))
        pruned = np.where(rng.random(values.shape) < 0.4, 0, values * rng.choice([-1, 1]))
        yield f"{name}-pruned", pruned.astype(numpy_dtype(name))


def golden_inputs() -> Iterator[tuple[str, np.ndarray, TensorConfig | LZConfig]]:
    for name in NAMES:
        for content in CONTENTS:
            yield f"{name}-{content}-small", sample(name, SMALL, content), TensorConfig(128)
            yield f"{name}-{content}-sampled", sample(name, SAMPLED, content), TensorConfig()
    for name in ("uint8", "float16", "bfloat16", "float32", "float64"):
        for n in (1, 64, 65, 65_536, 65_537, 200_000):  # edges of rows, blocks and runs
            yield f"{name}-edge-{n}", sample(name, n, "values"), TensorConfig()
    rng = np.random.default_rng(3)
    for levels in (2, 3, 31, 32, 33, 34, 64, 200, 256):  # tables about their limits
        symbols = (rng.integers(0, levels, 70_000)).astype(np.uint8)
        yield f"levels-{levels}", symbols, TensorConfig()
        steep = np.minimum(rng.geometric(1.5 / levels, 70_000), 255).astype(np.uint8)
        yield f"steep-{levels}", steep, TensorConfig()
    for profile in ("fast", "auto"):
        for name in ("uint8", "int64", "float16", "bfloat16", "float32", "float64"):
            for content in CONTENTS:
                array = sample(name, SAMPLED, content)
                yield f"{profile}-{name}-{content}", array, TensorConfig(4096, profile)
    for profile in ("ratio", "fast", "auto"):
        for name, array in matrices():
            yield f"{profile}-matrix-{name}", array, TensorConfig(8192, profile)
    for gap in (100, 1000, 3000):  # patches, from many to few
        rare = np.zeros(65_536, np.uint8)
        rare[::2] = 1
        rare[::gap] = np.arange(len(rare[::gap])) % 250 + 2
        yield f"patches-{gap}", rare, TensorConfig()
    for name in ("uint8", "bool", "int16", "int32", "int64", "float32", "bfloat16"):
        for content in ("text", "runs", "steps", "sparse"):
            array = repetitive(name, 70_000, content)
            for config in (LZConfig(), LZConfig("ratio"), TensorConfig(lz=True)):
                label = "-".join(map(str, config.to_json().values())) or "fast"
                yield f"lz-{name}-{content}-{type(config).__name__}-{label}", array, config
