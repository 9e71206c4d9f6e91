# SPDX-License-Identifier: Apache-2.0
"""The example that is killed goes on as if nothing had happened."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = Path(__file__).parents[1] / "docs" / "examples" / "resume.py"


def run(*arguments):
    command = [sys.executable, str(EXAMPLE), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_a_run_that_is_killed_resumes_bit_exactly(tmp_path):
    whole = run(tmp_path / "whole", "--steps", 22)
    assert whole.returncode == 0, whole.stderr
    killed = run(tmp_path / "run", "--steps", 22, "--kill", 15)  # while step 15 is being written
    assert killed.returncode == -9
    resumed = run(tmp_path / "run", "--steps", 22)
    assert resumed.returncode == 0, resumed.stderr
    start, end = resumed.stdout.splitlines()
    assert start in {"resumed at step 10", "resumed at step 15"}
    assert end == whole.stdout.strip()
