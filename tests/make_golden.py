# SPDX-License-Identifier: Apache-2.0
"""Adds golden frames for the current format version; never changes one that exists.

    python tests/make_golden.py

Run it once for a release, after the format is settled. `tests/golden/v1/index.json` names for
each frame the data type, shape, SHA-256 of the decoded bytes and of the frame itself.
"""

from __future__ import annotations

import json
from pathlib import Path

import make_frames
import seeds
from helpers import sha256

from gpucodec.kernels import spec

GOLDEN = Path(__file__).parent / "golden"


def candidates() -> list[make_frames.Made]:
    frames = seeds.encoded() + seeds.repeated()
    for i, made in enumerate(make_frames.random_frames(seed=1, count=40, max_words=200)):
        frames.append(made._replace(label=f"made-{i:02}-{made.label}"))
    for i, made in enumerate(make_frames.random_frames(seed=2, count=20, max_words=200, lz=True)):
        frames.append(made._replace(label=f"made-lz-{i:02}-{made.label}"))
    return [made for made in frames if len(made.frame) <= 8192]


def main() -> None:
    folder = GOLDEN / f"v{spec.VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    index_path = folder / "index.json"
    index = json.loads(index_path.read_text()) if index_path.exists() else {}
    for made in candidates():
        file = folder / f"{made.label}.gpcf"
        if file.exists() or made.label in index:
            continue
        file.write_bytes(made.frame)
        index[made.label] = {
            "dtype": made.name,
            "shape": list(made.shape),
            "decoded_sha256": sha256(made.raw),
            "frame_sha256": sha256(made.frame),
        }
        print("added", file.name)
    index_path.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
