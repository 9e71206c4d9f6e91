# SPDX-License-Identifier: Apache-2.0
"""Promise 2: every engine writes the same bytes and reads the others'."""

from __future__ import annotations

import pytest
from helpers import LEVELS, run_python


@pytest.fixture(scope="module")
def frames_of_this_machine(tmp_path_factory):
    folder = tmp_path_factory.mktemp("frames")
    count, level = run_python("parity_worker.py", "write", str(folder)).split()
    assert int(count) >= 200
    return folder, level


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "host"])
def test_levels_write_the_same_bytes_and_read_each_other(level, frames_of_this_machine):
    folder, _ = frames_of_this_machine
    count, used = run_python("parity_worker.py", "check", str(folder), level=level).split()
    assert int(count) >= 200
    assert used == level


@pytest.fixture(scope="module")
def quantized_by_this_machine():
    return run_python("quant_worker.py", "hash").split()[0]


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "host"])
def test_levels_quantize_to_the_same_bytes(level, quantized_by_this_machine):
    digest, used = run_python("quant_worker.py", "hash", level=level).split()
    assert used == level
    assert digest == quantized_by_this_machine
