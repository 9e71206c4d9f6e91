# SPDX-License-Identifier: Apache-2.0
"""Adds golden frames and files for the current format version; never changes one that exists.

    python tests/make_golden.py

Run it once for a release, after the format is settled. `tests/golden/v1/index.json` names for
each frame the data type, shape, SHA-256 of the decoded bytes and of the frame itself;
`files.json` the two hashes of each file of the filesystem.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import helpers
import make_frames
import ml_dtypes
import numpy as np
import seeds
from helpers import raw_bytes, sha256

import gpucodec
from gpucodec.fs.encoder import encoded
from gpucodec.kernels import quantspec, spec

GOLDEN = Path(__file__).parent / "golden"


def candidates() -> list[make_frames.Made]:
    frames = seeds.encoded() + seeds.repeated()
    for i, made in enumerate(make_frames.random_frames(seed=1, count=40, max_words=200)):
        frames.append(made._replace(label=f"made-{i:02}-{made.label}"))
    for i, made in enumerate(make_frames.random_frames(seed=2, count=20, max_words=200, lz=True)):
        frames.append(made._replace(label=f"made-lz-{i:02}-{made.label}"))
    return [made for made in [*frames, *containers()] if len(made.frame) <= 8192]


def containers() -> Iterator[make_frames.Made]:
    """Quantized tensors in every format, with exceptions."""
    rng = np.random.default_rng(2)
    for i, name in enumerate(quantspec.BY_NAME):
        dtype = np.dtype((np.float32, ml_dtypes.bfloat16, np.float16)[i % 3])
        array = rng.normal(size=(3, 37)).astype(dtype)
        array[1, 5], array[2, 3] = np.nan, -0.0
        bound = gpucodec.ErrorBound(rel=0.2) if i % 2 else None
        config = gpucodec.QuantizeConfig(name, 16, axis=0 if i % 4 == 3 else -1, bound=bound)
        frame = gpucodec.encode_quantized(array, config).tobytes()
        raw = raw_bytes(gpucodec.decode(frame))
        yield make_frames.Made(f"quantized-{name}-{dtype.name}", frame, dtype.name, (3, 37), raw)


def files() -> Iterator[tuple[str, bytes, bytes]]:
    """Name, contents and bytes of files: one frame, several, none, and several sections."""
    text = b"a line of a log, and another\n" * 40
    floats = helpers.sample("float32", 300, "values").tobytes()
    noise = np.random.default_rng(3).bytes(300)
    for name, contents in (
        ("empty", b""),
        ("text", text),
        ("noise", noise),
        ("floats", floats + b"end"),  # bytes that are no whole word are a frame of their own
        ("doubles", helpers.sample("float64", 200, "values").tobytes()),
    ):
        yield name, contents, encoded(contents)
    yield "sections", text + floats + noise, encoded(text) + encoded(floats) + encoded(noise)


def add_files(folder: Path) -> None:
    """Files that are not there yet."""
    index_path = folder / "files.json"
    index = json.loads(index_path.read_text()) if index_path.exists() else {}
    for name, contents, file in files():
        path = folder / f"{name}.gpc"
        if not path.exists() and name not in index:
            path.write_bytes(file)
            index[name] = {"decoded_sha256": sha256(contents), "file_sha256": sha256(file)}
            print("added", path.name)
    index_path.write_text(json.dumps(index, indent=1, sort_keys=True) + "\n")


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
    add_files(folder)


if __name__ == "__main__":
    main()
