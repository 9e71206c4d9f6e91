# SPDX-License-Identifier: Apache-2.0
"""The fuzz targets of promise 8: their seeds, what they once found, and, `long`, the campaign."""

from __future__ import annotations

import os
import random
from importlib.util import find_spec
from pathlib import Path

import cuda_shim
import pytest
from fuzz import campaign, targets

MUTANTS = 200
SECONDS = int(os.environ.get("GPUCODEC_FUZZ_SECONDS", "600"))

FINDINGS = {
    # 2026-11-25, an IndexError: a list where an object belongs; an OverflowError: infinite sizes
    "manifest_json": [
        b'{"structure": 1, "tensors": {}, "arrays": [{}], "extra": {}}',
        b'{"arrays": {"a": {"dtype": "int64", "shape": [Infinity], "chunks": [4]}}}',
        b'{"arrays": {"a": {"dtype": "int64", "shape": [1e999], "chunks": [4]}}}',
    ],
    # 2026-11-25: TypeError, KeyError, AttributeError, ValueError
    "stream_resume": [
        b'{"version": 1, "rows": {"": 0}, "modules": {}}',
        b'{"version": 1, "axis": "tokens", "rows": 8}',
        b'{"version": 1, "axis": "tokens", "rows": 8, "modules": 3}',
        b'{"version": 1, "axis": "x", "rows": 8, "modules": [".."]}',
        b'{"version": 1, "axis": "x", "rows": -1, "modules": ["point"]}',
    ],
}


def target(name):
    if name in targets.NATIVE and not cuda_shim.available():
        pytest.skip("needs g++ on x86-64 Linux")
    return targets.find(name)


@pytest.mark.parametrize("name", targets.NAMES)
def test_targets_find_nothing_near_their_seeds(name):
    found = target(name)
    rng = random.Random(1)
    inputs = list(found.seeds())
    assert inputs
    for data in inputs[:: 1 + len(inputs) // 100]:
        found.run(data)
    for _ in range(MUTANTS):
        data = rng.choice(inputs)
        mutant = None if found.mutator is None else found.mutator(data, rng)
        found.run(data[: rng.randrange(len(data) + 1)] if mutant is None else mutant)


@pytest.mark.parametrize("name", FINDINGS)
def test_what_was_found_once_stays_mended(name):
    for data in FINDINGS[name]:
        target(name).run(data)


@pytest.mark.long
@pytest.mark.skipif(find_spec("atheris") is None, reason="needs atheris")
@pytest.mark.parametrize("name", targets.NAMES)
def test_fuzzers_find_nothing(name):
    target(name)
    if name in targets.NATIVE and not cuda_shim.can_fuzz():
        pytest.skip("needs clang")
    folder = Path(os.environ.get("GPUCODEC_FUZZ_FOLDER", ".fuzz"))
    folder.mkdir(exist_ok=True)
    assert not campaign.fuzz(name, folder, SECONDS, "host")["failed"], folder / f"{name}.log"
