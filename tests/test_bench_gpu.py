# SPDX-License-Identifier: Apache-2.0
"""The benchmark of a GPU runs to its end, on the simulated device and with a stand-in for nvCOMP."""

from __future__ import annotations

import sys
import time
import types
import zlib

import cuda_shim
import cupy_shim
import numpy as np
import pytest

from bench import gpu, gpu_peers, must_show, record

pytestmark = pytest.mark.skipif(not cuda_shim.available(), reason="needs g++ on x86-64 Linux")


class Stream:
    """cupy.cuda.Stream."""

    ptr = 0

    def __init__(self, **_: object) -> None:
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_: object) -> None:
        pass


class Event:
    """cupy.cuda.Event."""

    def record(self) -> None:
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        pass


class Codec:
    """nvcomp.Codec: deflate of the host; refuses what Bitcomp does not know."""

    def __init__(self, algorithm: str, cuda_stream: int, **options: object) -> None:
        if options.get("data_type") == "<u8":
            message = f"{algorithm} has no type <u8"
            raise ValueError(message)

    def compression_config(self, n_bytes: int) -> int:
        return n_bytes

    def decompression_config(self, config: int) -> int:
        return config

    def get_max_comp_buffer_size(self, source) -> int:
        return 2 * source.nbytes

    def encode(self, source, **_: object):
        coded = zlib.compress(source.tobytes(), 1)
        return types.SimpleNamespace(buffer_size=len(coded), coded=coded)

    def decode(self, source, *, out, decompression_config):
        out.memory[:] = np.frombuffer(zlib.decompress(source.coded), np.uint8)


@pytest.fixture
def cupy(monkeypatch):
    cupy_shim.install(monkeypatch)
    module = sys.modules["cupy"]
    module.__version__ = "stand-in"
    module.empty_like = lambda array: module.empty(array.shape, array.dtype)
    module.cuda = types.SimpleNamespace(
        Stream=Stream,
        Event=Event,
        get_elapsed_time=lambda begin, end: 1e3 * (end.at - begin.at),
        runtime=types.SimpleNamespace(getDeviceProperties=lambda _: {"name": b"simulated"}),
    )
    nvcomp = types.ModuleType("nvidia.nvcomp")
    nvcomp.Codec, nvcomp.as_array = Codec, lambda array, cuda_stream: array
    nvidia = types.ModuleType("nvidia")
    nvidia.nvcomp = nvcomp
    monkeypatch.setitem(sys.modules, "nvidia", nvidia)
    monkeypatch.setitem(sys.modules, "nvidia.nvcomp", nvcomp)
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    monkeypatch.setattr(gpu, "WARM_UP", 0)
    return module


class Corpus:
    """Tensors of the kinds that are measured."""

    def tensors(self, kind: str) -> dict[str, np.ndarray]:
        import ml_dtypes

        rng = np.random.default_rng(0)
        dtype = {"bfloat16": ml_dtypes.bfloat16}.get(
            kind.rsplit(maxsplit=1)[-1], kind.rsplit(maxsplit=1)[-1]
        )
        values = rng.normal(0, 0.02, (48, 64)) if "ids" not in kind else rng.integers(0, 99, 3000)
        return {"small": values[:1].astype(dtype), "large": values.astype(dtype)}


def test_all_of_it_is_measured(cupy, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(gpu, "open_corpus", lambda _: Corpus())
    monkeypatch.setattr(gpu, "QUANTIZED", ("int8", "nf4"))
    monkeypatch.setattr(gpu_peers.quantize, "bitsandbytes_coders", lambda: iter(()))
    monkeypatch.setattr(gpu_peers.quantize, "torchao_coders", lambda: iter(()))
    monkeypatch.setenv(record.VARIABLE, str(tmp_path / "figures"))
    gpu.main(["--megabytes", "0.01", "--small", "3"])
    printed = capsys.readouterr().out
    assert "nvCOMP Bitcomp: Bitcomp has no type <u8" in printed
    found = record.read(tmp_path / "figures")["gpu"]
    for kind in gpu.KINDS:
        for contestant in ("gpucodec ratio", "gpucodec fast", "nvCOMP ANS", "nvCOMP Zstd"):
            for way in ("encode", "decode"):
                assert found[f"{kind}, {contestant}, {way}"]["gbs"] > 0
    assert {goal.holds for goal in must_show.of_gpu(found)} <= {True, False}
    assert len(list(must_show.of_gpu(found))) == len(list(must_show.of_gpu({})))
    assert {goal.holds for goal in must_show.of_gpu({})} == {None}


def test_a_codec_that_loses_a_bit_is_noticed(cupy, monkeypatch):
    array = np.arange(5000, dtype=np.float32)
    monkeypatch.setattr(Codec, "decode", lambda *_, **__: None)
    with pytest.raises(RuntimeError, match="does not return"):
        gpu.race(cupy, "numbers", array, Stream())
