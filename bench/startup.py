# SPDX-License-Identifier: Apache-2.0
"""What a newcomer waits for: import, first compile, first call.

Every figure comes from fresh processes. *Import* is ``import gpucodec`` in a started interpreter
and includes NumPy. *Cold* is the first encode and decode of every data type with an empty
compile cache (dense arrays: the kernels of LZ, of sparse and of predicted frames are compiled
when they are first needed), *warm* the first encode and decode of one bfloat16 array with a filled one. The
first call also imports Numba, which is timed apart: it is there already wherever anything else
uses it. Where SciPy is installed Numba imports that too, some 0.13 s that count as ours.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Final

from . import levels

IMPORTS: Final = 9
WARM_STARTS: Final = 5
REPEATED: Final = ("float8_e8m0fnu",)  # a dozen values, so that LZ is tried
HEAVY: Final = ("numba", "torch", "cupy", "zarr")
IMPORT_PROBE: Final = """
import sys, time
clocks = time.process_time, time.perf_counter
begin = [clock() for clock in clocks]
import numpy
middle = [clock() for clock in clocks]
import gpucodec
end = [clock() for clock in clocks]
print(end[1] - begin[1], end[0] - begin[0], end[0] - middle[0])
print(*[name for name in {heavy!r} if name in sys.modules])
"""


def first_calls(names: list[str]) -> dict[str, Any]:
    """Seconds (wall, CPU) of importing Numba and of the first encode and decode of each type."""
    import time

    import ml_dtypes
    import numpy as np

    import gpucodec

    wall, cpu = time.perf_counter(), time.process_time()
    import numba  # noqa: F401

    seconds = {"import numba": (time.perf_counter() - wall, time.process_time() - cpu)}
    values = np.random.default_rng(0).normal(size=3 * (1 << 16) + 5)
    for name in names:
        array = (100 * values).astype(getattr(ml_dtypes, name, name))
        if array.dtype.kind == "c":
            array *= 1 + 1j  # or half of the words are zero, which takes further kernels
        wall, cpu = time.perf_counter(), time.process_time()
        decoded = gpucodec.decode(gpucodec.encode(array, threads=1), threads=1)
        seconds[name] = (time.perf_counter() - wall, time.process_time() - cpu)
        assert decoded.tobytes() == array.tobytes(), name
    return seconds


def imports() -> dict[str, Any]:
    """Median seconds of the import, and heavy modules that it pulled in."""
    command = [sys.executable, "-c", IMPORT_PROBE.format(heavy=HEAVY)]
    runs = [
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        for _ in range(IMPORTS)
    ]
    seconds = zip(*([float(word) for word in times.split()] for times, _ in runs), strict=True)
    names = ("wall", "cpu", "cpu_without_numpy")
    figures = dict(zip(names, map(statistics.median, seconds), strict=True))
    return figures | {"heavy": sorted({name for _, heavy in runs for name in heavy.split()})}


def measure_startup() -> dict[str, Any]:
    from gpucodec.kernels import spec

    names = [d.name for d in spec.DTYPES if d.name not in REPEATED]
    names.sort(key=lambda name: name != "bfloat16")  # the first call is timed apart
    with tempfile.TemporaryDirectory() as cache:

        def child(which: list[str]) -> Any:
            return levels.run("bench.startup", ["--first", *which], NUMBA_CACHE_DIR=cache)

        cold = child(names)
        warm = [child(names[:1]) for _ in range(WARM_STARTS)]
    numba = [run.pop("import numba") for run in (cold, *warm)]
    return {
        "import": imports(),
        "numba": medians(numba),
        "cold_first": cold["bfloat16"],
        "cold_all": [sum(column) for column in zip(*cold.values(), strict=True)],
        "warm_first": medians([run["bfloat16"] for run in warm]),
        "scipy": importlib.util.find_spec("scipy") is not None,
    }


def medians(rows: list[list[float]]) -> list[float]:
    return [statistics.median(column) for column in zip(*rows, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--first", nargs="*", help="time first calls of these types here")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    figures = first_calls(options.first) if options.first else measure_startup()
    options.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
