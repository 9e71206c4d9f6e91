# SPDX-License-Identifier: Apache-2.0
"""Run a part of a benchmark in a process whose Numba compiles for an older processor."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

LEVELS: Final[dict[str, dict[str, str]]] = {
    "native": {},
    "avx2": {
        "NUMBA_CPU_NAME": "haswell",
        "NUMBA_CPU_FEATURES": "+sse2,+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+bmi,+bmi2,"
        "+fma,+f16c,+lzcnt,+movbe,+cmov,+cx8,+cx16,+fxsr,+mmx,+sse,+xsave",
    },
    "plain": {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": ""},
}
TIMEOUT: Final = 3600


def run(module: str, arguments: Sequence[str], level: str = "native", **environment: str) -> Any:
    """The JSON that ``python -m module arguments --json FILE`` writes, run at ``level``.

    Its other output passes through. Raises ``subprocess.CalledProcessError`` if it fails.
    """
    clean = {k: v for k, v in os.environ.items() if not k.startswith("NUMBA_CPU_")}
    with tempfile.TemporaryDirectory() as folder:
        result = Path(folder) / "result.json"
        subprocess.run(
            [sys.executable, "-m", module, *arguments, "--json", str(result)],
            env=clean | LEVELS[level] | environment,
            check=True,
            timeout=TIMEOUT,
        )
        return json.loads(result.read_text())
