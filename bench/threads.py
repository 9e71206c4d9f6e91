# SPDX-License-Identifier: Apache-2.0
"""How encoding and decoding scale with the threads of our own pool."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

import gpucodec

from . import measure
from .corpus import open_corpus


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.threads", description=__doc__)
    parser.add_argument("--size", default="full", help="of the corpus")
    parser.add_argument("--kind", default="weights bfloat16")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--elements", type=int)
    parser.add_argument("--megabytes", type=int, default=64, help="repeat the tensors up to this")
    parser.add_argument("--json", type=Path, required=True)
    options = parser.parse_args()
    measure.keep_freed_memory()
    array = open_corpus(options.size).flat(options.kind)[: options.elements]
    array = np.tile(array, -(-options.megabytes * 1_000_000 // array.nbytes))
    frame = gpucodec.encode(array)
    out = np.empty_like(array)
    out.view(np.uint8).fill(0)

    ways = {
        "encode": lambda n: gpucodec.encode(array, threads=n),
        "decode": lambda n: gpucodec.decode(frame, threads=n),
        "decode into out": lambda n: gpucodec.decode(frame, out, threads=n),
    }
    figures = {"kind": options.kind, "threads": options.threads}
    for name, way in ways.items():
        figures[name] = measure.scaling(way, options.threads, rounds=options.rounds)
    options.json.write_text(json.dumps(figures))


if __name__ == "__main__":
    main()
