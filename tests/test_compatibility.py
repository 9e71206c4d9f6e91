# SPDX-License-Identifier: Apache-2.0
"""Promise 4: frames and files of every released format version stay readable, golden ones forever.

`make_golden.py` adds files and never changes one.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import seeds
import spec_decoder
import spec_files
from fsspec.implementations.memory import MemoryFileSystem
from helpers import raw_bytes, sha256

import gpucodec
from gpucodec import TensorConfig, TruncatedError
from gpucodec.fs import GpucodecFileSystem
from gpucodec.fs.encoder import encoded
from gpucodec.kernels import spec

GOLDEN = Path(__file__).parent / "golden"
FILES = sorted(GOLDEN.glob("v*/*.gpcf"))


def entry(file: Path) -> dict:
    return json.loads((file.parent / "index.json").read_text())[file.stem]


def test_this_version_has_golden_files():
    assert sum(file.parent.name == f"v{spec.VERSION}" for file in FILES) >= 50


@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("v*")), ids=lambda folder: folder.name)
def test_no_golden_file_was_lost(folder):
    index = json.loads((folder / "index.json").read_text())
    assert {file.stem for file in folder.glob("*.gpcf")} == set(index)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_golden_frames_decode_to_what_they_always_did(file):
    frame, expected = file.read_bytes(), entry(file)
    assert sha256(frame) == expected["frame_sha256"], "golden files must never change"
    array = gpucodec.decode(frame)
    assert array.dtype.name == expected["dtype"]
    assert list(array.shape) == expected["shape"]
    assert sha256(raw_bytes(array)) == expected["decoded_sha256"]
    if frame[4] == spec.VERSION:
        assert spec_decoder.decode(frame).raw.tobytes() == raw_bytes(array)


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_every_prefix_of_a_golden_frame_is_truncated(file):
    frame = memoryview(file.read_bytes())
    for length in range(len(frame)):
        with pytest.raises(TruncatedError) as caught:
            gpucodec.decode(frame[:length])
        assert caught.type is TruncatedError


@pytest.mark.parametrize(
    "file", [f for f in FILES if f.stem.startswith("encoded-")], ids=lambda file: file.stem
)
def test_the_encoder_still_writes_its_golden_frames(file):
    """A change of the encoder's choices is allowed, but never by accident: it needs a new version
    of this list and a line in the changelog."""
    frame = file.read_bytes()
    config = TensorConfig(block_size=gpucodec.inspect(frame).block_size)
    assert gpucodec.encode(gpucodec.decode(frame), config).tobytes() == frame


@pytest.mark.parametrize(("name", "n", "content", "config"), seeds.REPEATED)
def test_the_encoder_still_writes_its_golden_frames_by_lz(name, n, content, config):
    frame = (GOLDEN / "v1" / f"repeated-{name}-{n}-{content}.gpcf").read_bytes()
    assert gpucodec.encode(gpucodec.decode(frame), config).tobytes() == frame


STORED = sorted(GOLDEN.glob("v*/*.gpc"))


@pytest.mark.parametrize("folder", sorted(GOLDEN.glob("v*")), ids=lambda folder: folder.name)
def test_no_golden_stored_file_was_lost(folder):
    index = json.loads((folder / "files.json").read_text())
    assert {file.stem for file in folder.glob("*.gpc")} == set(index)


@pytest.mark.parametrize("file", STORED, ids=lambda file: f"{file.parent.name}/{file.stem}")
def test_golden_files_of_the_filesystem_hold_what_they_always_did(file):
    stored = file.read_bytes()
    expected = json.loads((file.parent / "files.json").read_text())[file.stem]
    assert sha256(stored) == expected["file_sha256"], "golden files must never change"
    below = MemoryFileSystem()
    below.pipe_file("/golden", stored)
    contents = GpucodecFileSystem(fs=below).cat_file("/golden")
    below.rm("/golden")
    assert sha256(contents) == expected["decoded_sha256"]
    assert spec_files.decode(stored) == contents
    if file.stem != "sections":  # the encoder's choices, as above
        assert encoded(contents) == stored
