# SPDX-License-Identifier: Apache-2.0
"""Figures on their way from a benchmark to the report of `python -m bench`.

A benchmark run by itself prints; run for a report it also appends what it found to the file that
the environment names, one JSON object a line.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any, Final

VARIABLE: Final = "GPUCODEC_BENCH_RECORD"


def record(part: str, name: str, **figures: Any) -> None:
    """Keep the figures of one thing that `part` measured, if a report is being made."""
    path = os.environ.get(VARIABLE)
    if path:
        with Path(path).open("a") as file:
            file.write(json.dumps({"part": part, "name": name, **figures}, default=float) + "\n")


def read(path: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """All figures, by part and name."""
    found: dict[str, dict[str, dict[str, Any]]] = {}
    for line in path.read_text().splitlines() if path.exists() else ():
        figures = json.loads(line)
        found.setdefault(figures.pop("part"), {})[figures.pop("name")] = figures
    return found
