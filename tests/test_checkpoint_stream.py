# SPDX-License-Identifier: Apache-2.0
"""torch's own DCP files, compressed as streams, come back exactly or not at all."""

from __future__ import annotations

import io
import os
import warnings

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from checkpoint_cases import same, training_state
from torch.distributed.checkpoint.filesystem import SerializationFormat

from gpucodec.errors import GpucodecError

stream = pytest.importorskip("gpucodec.checkpoint.dcp.stream")

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]


def save(state, writer):
    dcp.save(state, storage_writer=writer, no_dist=True)


def load(state, reader):
    dcp.load(state, storage_reader=stream.register(reader), no_dist=True)
    return state


def test_what_torch_writes_comes_back(tmp_path):
    state = training_state()
    extensions = [stream.GpucodecStream()]
    save(state, dcp.FileSystemWriter(tmp_path, _extensions=extensions))
    other = training_state(1, seed=7)
    load(other, dcp.FileSystemReader(tmp_path))
    assert same(other["model"], state["model"])
    assert same(other["optimizer"]["state"], state["optimizer"]["state"])


def test_through_fsspec(tmp_path):
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader, FsspecWriter

    url = f"memory://stream-{os.getpid()}"
    state = {"w": torch.randn(300, 200), "n": torch.arange(5)}
    save(state, FsspecWriter(url, _extensions=[stream.GpucodecStream()]))
    other = {"w": torch.zeros(300, 200), "n": torch.zeros(5, dtype=torch.int64)}
    assert same(load(other, FsspecReader(url)), state)
    with pytest.raises(BaseException, match="Unknown extension"):
        dcp.load(other, storage_reader=FsspecReader(url), no_dist=True)


@pytest.mark.parametrize(("dtype", "ratio"), [("bfloat16", 1.45), ("float32", 1.17)])
def test_floats_are_recognised(dtype, ratio, tmp_path):
    state = {"w": (0.02 * torch.randn(1 << 21)).to(getattr(torch, dtype))}
    save(state, dcp.FileSystemWriter(tmp_path, _extensions=[stream.GpucodecStream()]))
    stored = sum(path.stat().st_size for path in tmp_path.glob("*.distcp"))
    assert state["w"].nbytes / stored > ratio


def test_writes_of_any_size():
    data = np.random.default_rng(0).normal(size=2000).astype(np.float32).tobytes()
    for step in (1, 7, 4000, 8000):
        out = io.BytesIO()
        out.close = lambda: None  # torch's wrapper does not close either
        into = stream.GpucodecStream().transform_to(out)
        for at in range(0, len(data), step):
            assert into.write(data[at : at + step]) == len(data[at : at + step])
        into.close()
        read = stream.GpucodecStream().transform_from(io.BytesIO(out.getvalue()))
        assert (read.read(-1), read.seek(5), read.read(9)) == (data, 5, data[5:14])


def test_a_format_that_passes_extensions_by_is_refused(tmp_path):
    """Not written and then found to be unreadable."""
    writer = dcp.FileSystemWriter(
        tmp_path,
        _extensions=[stream.GpucodecStream()],
        serialization_format=SerializationFormat.SAFETENSORS,
    )
    with pytest.raises(BaseException, match="takes no extensions"), warnings.catch_warnings():
        save({"w": torch.randn(30, 20)}, writer)


def test_damage_and_later_versions_are_errors(tmp_path):
    state = {"w": torch.randn(300, 200)}
    save(state, dcp.FileSystemWriter(tmp_path, _extensions=[stream.GpucodecStream()]))
    [path] = tmp_path.glob("*.distcp")
    content = path.read_bytes()
    for at in np.random.default_rng(0).integers(0, len(content), 20):
        raw = bytearray(content)
        raw[at] ^= 1 << at % 8
        path.write_bytes(raw)
        with pytest.raises(BaseException, match=r"(?i)hash|damag|differs|not|section|footer"):
            load({"w": torch.zeros(300, 200)}, dcp.FileSystemReader(tmp_path))
    with pytest.raises(GpucodecError, match="has version 2"):
        stream.GpucodecStream.from_descriptor("2")
