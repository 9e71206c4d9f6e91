# SPDX-License-Identifier: Apache-2.0
"""Runs the GPU tests under the four tools of compute-sanitizer; needs a GPU and the CUDA toolkit.

python tests/cuda_compute_sanitizer.py [TOOL...]    memcheck racecheck initcheck synccheck

A tool makes kernels 10 to 100 times slower, so that only small tests are run. Fails with the first
tool that finds something.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

TOOLS = ("memcheck", "racecheck", "initcheck", "synccheck")
TESTS = "batch or unusual or anywhere or quantized_tensors or damage"


def main() -> None:
    tool = shutil.which("compute-sanitizer")
    if tool is None:
        sys.exit("not run: compute-sanitizer of the CUDA toolkit is not on the path")
    tests = [
        "-m",
        "pytest",
        "-q",
        "-m",
        "gpu",
        "-k",
        TESTS,
        str(Path(__file__).with_name("test_gpu.py")),
    ]
    for name in sys.argv[1:] or TOOLS:
        print(f"--- {name}", flush=True)
        command = [tool, "--tool", name, "--error-exitcode", "9", sys.executable, *tests]
        if subprocess.run(command, check=False).returncode:
            sys.exit(f"{name} or a test failed")


if __name__ == "__main__":
    main()
