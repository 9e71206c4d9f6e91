# SPDX-License-Identifier: Apache-2.0
"""`gpucodec.cuda` and the ways into it, with the shim as the GPU.

The engine, the arrays and the dispatch are the real ones; only the device is not.
"""

from __future__ import annotations

import sys
import types

import cuda_shim
import make_frames
import numpy as np
import pytest
import seeds
from cuda_shim import ShimArray
from golden_inputs import golden_inputs
from helpers import NAMES, numpy_dtype, raw_bytes, sample

import gpucodec
import gpucodec.cuda
from gpucodec import (
    CorruptionError,
    LimitError,
    TruncatedError,
    UnsupportedError,
    frame as container,
    predicted,
)
from gpucodec.cuda import arrays, batch, device as devices, heads
from gpucodec.kernels import spec

PLAIN = gpucodec.TensorConfig(profile="plain")
pytestmark = pytest.mark.skipif(
    not cuda_shim.available(), reason="needs g++ on x86-64 Linux to run the kernels"
)


@pytest.fixture
def device(monkeypatch):
    return cuda_shim.install(monkeypatch)


@pytest.mark.parametrize("name", NAMES)
def test_arrays_on_a_gpu_have_the_same_frames(device, name):
    array = sample(name, 3_000, "values").reshape(3, -1)
    frame = gpucodec.encode(device.put(array), PLAIN)
    assert isinstance(frame, ShimArray)
    assert (frame.dtype, frame.shape) == (np.uint8, (gpucodec.encode(array, PLAIN).size,))
    assert frame.numpy().tobytes() == gpucodec.encode(array, PLAIN).tobytes()
    decoded = gpucodec.decode(frame)
    assert (decoded.dtype, decoded.shape) == (numpy_dtype(name), (3, 1_000))
    assert raw_bytes(decoded.numpy()) == raw_bytes(array)


def test_batches_go_in_the_same_launches(device):
    items = [sample(name, 100 * i, "skewed", i) for i, name in enumerate(NAMES)]
    frames = gpucodec.encode_batch([device.put(item) for item in items], PLAIN)
    assert [device.calls.count(kernel) for kernel in ("split_blocks", "write_tables")] == [1, 1]
    assert device.calls.count("download") == 1
    for frame, item in zip(frames, items, strict=True):
        assert frame.numpy().tobytes() == gpucodec.encode(item, PLAIN).tobytes()
    device.calls.clear()
    decoded = gpucodec.decode_batch(frames)
    assert device.calls.count("decode_blocks") == 1
    for got, item in zip(decoded, items, strict=True):
        assert raw_bytes(got.numpy()) == raw_bytes(item)
    assert gpucodec.cuda.encode_batch([]) == gpucodec.cuda.decode_batch([]) == []


def test_host_frames_decode_without_waiting(device):
    items = [sample("bfloat16", 70_000, "values", i) for i in range(3)]
    frames = [gpucodec.encode(item, PLAIN) for item in items]
    pending = gpucodec.cuda.decode_async(frames)
    assert "download" not in device.calls
    assert [a.numpy().tobytes() for a in pending.arrays] == [item.tobytes() for item in items]
    pending.check()
    assert device.calls[-1] == "download"


@pytest.mark.parametrize("most", [batch.UPLOAD_BYTES, 100_000])
def test_small_host_frames_go_to_the_device_together(device, monkeypatch, most):
    monkeypatch.setattr(batch, "UPLOAD_BYTES", most)
    items = [sample("float32", 256 + i % 7, "values", i) for i in range(500)]
    frames = [gpucodec.encode(item, PLAIN) for item in items]
    pending = gpucodec.cuda.decode_async(frames)
    size = sum(map(len, frames))
    n_copies = -(-size // most)
    assert 1 + n_copies <= device.uploads <= 2 + n_copies  # one that tells the kernels
    for got, item in zip(pending.check(), items, strict=True):
        assert got.numpy().tobytes() == item.tobytes()


def test_large_host_frames_go_from_where_they_are(device, monkeypatch):
    monkeypatch.setattr(batch, "JOINED_BYTES", 1_000)
    items = [sample("float32", n, "noise", n) for n in (100, 1_000, 200, 2_000, 0)]
    frames = [gpucodec.encode(item, PLAIN) for item in items]
    for got, item in zip(gpucodec.cuda.decode_batch(frames), items, strict=True):
        assert got.numpy().tobytes() == item.tobytes()
    assert device.uploads == 4  # two alone, two together, and what the kernels are told


def test_device_frames_with_parsed_headers_decode_without_waiting(device):
    from gpucodec.frame import parse

    item = sample("float32", 70_000, "values")
    frame = gpucodec.encode(item, PLAIN)
    pending = gpucodec.cuda.decode_async([device.put(frame)], headers=[parse(frame)])
    assert "download" not in device.calls
    assert pending.check()[0].numpy().tobytes() == item.tobytes()


def test_headers_of_frames_on_the_device_are_read_at_once(device):
    items = [sample("float32", 10_000 + i, "values", i) for i in range(5)]
    frames = [device.put(gpucodec.encode(item, PLAIN), i) for i, item in enumerate(items)]
    frames.append(device.put(gpucodec.encode_quantized(items[0], gpucodec.QuantizeConfig("int8"))))
    headers = gpucodec.cuda.parse_headers(frames)
    assert device.calls == ["gather_runs", "download"]
    assert [header.shape for header in headers] == [*(item.shape for item in items), items[0].shape]
    device.calls.clear()
    headers[1:3] = None, None
    mixed = [*frames[:4], gpucodec.encode(items[4], PLAIN)]  # what is on the host needs none
    decoded = gpucodec.cuda.decode_batch(mixed, headers=[*headers[:4], None])
    assert device.calls[:2] == ["gather_runs", "download"]  # of those without
    assert [a.numpy().tobytes() for a in decoded] == [item.tobytes() for item in items]
    with pytest.raises(ValueError, match="4 headers are given for 5 frames"):
        gpucodec.cuda.decode_batch(mixed, headers=headers[:4])
    with pytest.raises(TruncatedError) as caught:
        gpucodec.cuda.parse_headers([frames[0], frames[1][:-16]])
    assert caught.value.__notes__ == ["frame 1 of the batch"]
    assert gpucodec.cuda.parse_headers([]) == []


@pytest.mark.parametrize("config", [PLAIN, gpucodec.TensorConfig(256, lz=False)])
def test_runs_of_blocks_are_decoded_on_the_device(device, config):
    from gpucodec.codec import decode_runs

    item = second_moment()
    frame = gpucodec.encode(item, config)
    parsed = container.parse(frame)
    runs, outs = [], []
    for first, last in ((0, 1), (parsed.n_blocks // 2, parsed.n_blocks)):
        start, stop = (min(b * parsed.block_bytes, item.nbytes) for b in (first, last))
        payload = device.put(frame[parsed.offsets[first] : parsed.offsets[last]], 3)
        outs.append((device.put(np.zeros(stop - start, np.uint8)), item.tobytes()[start:stop]))
        runs.append((parsed, payload, first, last, outs[-1][0]))
    decode_runs(runs)
    for out, expected in outs:
        assert out.numpy().tobytes() == expected
    with pytest.raises(TruncatedError, match="payload bytes, got"):
        decode_runs([(parsed, device.put(frame[:8]), 0, 1, outs[0][0])])
    bad = damaged(frame[parsed.offsets[0] : parsed.offsets[1]])
    with pytest.raises(CorruptionError, match="block 0 of"):
        decode_runs([(parsed, device.put(bad), 0, 1, outs[0][0])])


def test_tables_longer_than_the_first_read_are_read_again(device, monkeypatch):
    monkeypatch.setattr(heads, "GUESS", 64)
    item = sample("float32", 5_000, "values")
    frame = device.put(gpucodec.encode(item, gpucodec.TensorConfig(64, profile="plain")))
    assert gpucodec.decode(frame).numpy().tobytes() == item.tobytes()


@pytest.mark.parametrize("offset", [0, 1, 2, 8, 15])
def test_arrays_and_frames_may_lie_anywhere(device, offset):
    item = sample("uint8", 3_001, "skewed")
    frame = gpucodec.encode(item, PLAIN)
    room = gpucodec.max_encoded_size(item.shape, item.dtype)
    out = device.put(np.zeros(room, np.uint8), offset)
    made = gpucodec.cuda.encode(device.put(item, offset), PLAIN, out=out)
    assert made.numpy().tobytes() == frame.tobytes()
    target = device.put(np.zeros_like(item), offset)
    assert gpucodec.decode(device.put(frame, offset), target) is target
    assert target.numpy().tobytes() == item.tobytes()


def test_out_is_written_in_place_and_nothing_else_is(device):
    item = sample("float32", 1_000, "values")
    around = np.full(item.nbytes + 512, 0xA5, np.uint8)
    memory = device.put(around)
    target = ShimArray(memory.memory, item.dtype, item.shape, 256)
    gpucodec.decode(gpucodec.encode(item, PLAIN), target)
    after = memory.numpy()
    assert after[256:-256].tobytes() == item.tobytes()
    assert (np.delete(after, np.s_[256:-256]) == 0xA5).all()


def test_streams_are_given_or_those_of_the_arrays(device):
    item = sample("float32", 1_000, "values")
    array = device.put(item)
    gpucodec.cuda.encode(array, PLAIN, stream=types.SimpleNamespace(ptr=40))
    gpucodec.cuda.encode(array, PLAIN, stream=types.SimpleNamespace(cuda_stream=40))
    gpucodec.cuda.encode(array, PLAIN, stream=40)
    assert device.streams == {40}
    array.stream = 41  # whoever made the array says where
    frame = gpucodec.cuda.encode(array, PLAIN)
    assert device.streams == {40, 41}
    assert "40 follows 41" not in device.calls
    gpucodec.cuda.encode(array, PLAIN, stream=40)
    assert "40 follows 41" in device.calls
    device.streams.clear()
    gpucodec.cuda.decode(frame, stream=42)
    assert device.streams == {42}


def damaged(frame: np.ndarray) -> np.ndarray:
    frame = frame.copy()
    frame[-1] ^= 1
    return frame


def test_damage_is_an_error_and_leaves_zeros(device):
    item = sample("float32", 70_000, "noise")
    frame = damaged(gpucodec.encode(item, PLAIN))
    out = device.put(np.ones_like(item))
    with pytest.raises(CorruptionError, match="block 1 of 2, at byte"):
        gpucodec.decode(frame, out)
    assert not out.numpy().any()
    pending = gpucodec.cuda.decode_async([frame, gpucodec.encode(item, PLAIN)])
    with pytest.raises(CorruptionError, match="hash of the decoded block") as caught:
        pending.check()
    assert caught.value.__notes__ == ["frame 0 of the batch"]
    assert pending.arrays[1].numpy().tobytes() == item.tobytes()


def test_salvage_names_the_bad_blocks(device):
    item = sample("float32", 70_000, "noise")
    expected = gpucodec.decode(damaged(gpucodec.encode(item, PLAIN)), salvage=True)
    found = gpucodec.decode(device.put(damaged(gpucodec.encode(item, PLAIN))), salvage=True)
    assert found.bad_blocks == expected.bad_blocks
    assert found.array.numpy().tobytes() == expected.array.tobytes()


def test_frames_on_the_device_are_checked_as_on_the_host(device):
    frame = gpucodec.encode(sample("float32", 1_000, "values"), PLAIN)
    with pytest.raises(TruncatedError):
        gpucodec.decode(device.put(frame[:-16]))
    with pytest.raises(TruncatedError):
        gpucodec.decode(device.put(frame[:30]))
    with pytest.raises(CorruptionError, match="were given"):
        gpucodec.decode(device.put(np.append(frame, np.uint8(0))))
    with pytest.raises(LimitError):
        gpucodec.decode(device.put(frame), limit=100)
    with pytest.raises(UnsupportedError, match="not a gpucodec frame"):
        gpucodec.decode(device.put(np.zeros(100, np.uint8)))


def test_arguments_that_do_not_fit_are_refused(device):
    item = sample("float32", 1_000, "values")
    array, frame = device.put(item), gpucodec.encode(item)
    with pytest.raises(ValueError, match="out has 1 buffers for 2"):
        gpucodec.cuda.encode_batch([array, array], out=[device.put(frame)])
    with pytest.raises(ValueError, match="the frame may take"):
        gpucodec.cuda.encode(array, PLAIN, out=device.put(frame[:100]))
    with pytest.raises(ValueError, match="out has 8 bytes, the frame decodes to 4000"):
        gpucodec.decode(frame, device.put(np.zeros(8, np.uint8)))
    readonly = device.put(item)
    readonly.readonly = True
    with pytest.raises(ValueError, match="read-only"):
        gpucodec.decode(frame, readonly)
    with pytest.raises(UnsupportedError, match="array 1 of 2, ndarray, is not on a GPU"):
        gpucodec.encode_batch([array, item])
    with pytest.raises(UnsupportedError, match="no type"):
        gpucodec.encode(device.put(np.zeros(4, "datetime64[s]")))
    with pytest.raises(UnsupportedError, match="little-endian"):
        gpucodec.encode(device.put(np.zeros(4, ">f4")))


# --- all configurations -----------------------------------------------------------------------------


def test_the_plain_profile_still_compresses():
    weights = sample("bfloat16", 200_000, "values")
    assert gpucodec.encode(weights, PLAIN).size < 0.7 * weights.nbytes


def test_other_configurations_have_the_same_frames(device):
    inputs = [(a, c) for _, a, c in golden_inputs() if a.dtype.byteorder != ">"][::11]
    assert len(inputs) > 20
    for array, config in inputs:
        frame = gpucodec.encode(device.put(array), config)
        assert frame.numpy().tobytes() == gpucodec.encode(array, config).tobytes()
        assert raw_bytes(gpucodec.decode(frame).numpy()) == raw_bytes(array)
    with pytest.raises(ValueError, match="the frame may take"):
        gpucodec.cuda.encode(device.put(array), config, out=device.put(np.zeros(8, np.uint8)))


def second_moment(n_rows: int = 700, n_columns: int = 130) -> np.ndarray:
    """A matrix that is worth a model."""
    rng = np.random.default_rng(5)
    scale = np.exp(rng.normal(0, 3, (n_rows, 1)) + rng.normal(0, 2, n_columns))
    return (scale * np.exp(rng.normal(0, 0.1, (n_rows, n_columns)))).astype(np.float32)


def transformed_arrays() -> list[np.ndarray]:
    """Of which the frames are sparse, predicted or both."""
    pruned = sample("bfloat16", 70_001, "values")
    pruned[np.random.default_rng(1).random(pruned.size) < 0.7] = 0
    both = second_moment()
    both[np.random.default_rng(2).random(both.shape) < 0.3] = 0
    return [pruned, second_moment(), both]


def test_sparse_and_predicted_frames_decode_on_the_device_without_waiting(device):
    items = transformed_arrays()
    frames = [gpucodec.encode(item, gpucodec.TensorConfig(lz=False)) for item in items]
    flags = [container.parse(frame).flags for frame in frames]
    assert flags == [spec.SPARSE, spec.PREDICTED, spec.SPARSE | spec.PREDICTED]
    pending = gpucodec.cuda.decode_async(frames)
    assert "download" not in device.calls
    pending = gpucodec.cuda.decode_async(
        [device.put(frame) for frame in frames], headers=[container.parse(f) for f in frames]
    )
    assert "download" not in device.calls
    assert device.calls.count("decode_full_blocks") == 2
    for got, item in zip(pending.check(), items, strict=True):
        assert got.numpy().tobytes() == item.tobytes()


def test_a_damaged_model_is_an_error_and_leaves_zeros(device):
    item = second_moment()
    frame = gpucodec.encode(item)
    parsed = container.parse(frame)
    nested = predicted.parse(parsed).encoded
    at = nested.ctypes.data + container.parse(nested).payloads - frame.ctypes.data
    frame[at + 20] ^= 1  # of the offsets; the hash over header, table and model notices
    with pytest.raises(CorruptionError, match="header and table have hash"):
        gpucodec.decode(device.put(frame))
    digest = container.table_hash(frame[: parsed.payloads])
    frame[24:32] = np.frombuffer(digest.to_bytes(8, "little"), np.uint8)
    sound = gpucodec.encode(sample("float32", 1_000, "values"), PLAIN)
    pending = gpucodec.cuda.decode_async([sound, frame])
    with pytest.raises(CorruptionError, match="offsets of the model: hash") as caught:
        pending.check()
    assert caught.value.__notes__ == ["frame 1 of the batch"]
    assert pending.arrays[0].numpy().any()
    assert not pending.arrays[1].numpy().any()
    with pytest.raises(CorruptionError, match="offsets of the model: hash"):
        gpucodec.decode(device.put(frame), salvage=True)


def test_lz_is_encoded_on_the_device(device):
    tokens = np.tile(np.arange(500, dtype=np.int32), 200)
    for config in (gpucodec.LZConfig(), gpucodec.LZConfig("ratio", typesize=2)):
        items = [tokens, tokens[:3].astype(np.uint8), tokens.reshape(100, -1)]
        device.calls.clear()
        frames = gpucodec.encode_batch([device.put(item, 3) for item in items], config)
        assert [device.calls.count(k) for k in ("code_lz_blocks", "download")] == [1, 1]
        for frame, item in zip(frames, items, strict=True):
            assert frame.numpy().tobytes() == gpucodec.encode(item, config).tobytes()


def test_all_frames_are_decoded_on_the_device(device):
    made = [*seeds.all_seeds().values(), *make_frames.random_frames(21, 100)]
    frames = [device.put(np.frombuffer(m.frame, np.uint8)) for m in made]
    frames[1::2] = [m.frame for m in made[1::2]]  # half of them are on the host
    for m, decoded in zip(made, gpucodec.decode_batch(frames), strict=True):
        assert raw_bytes(decoded.numpy()) == m.raw, m.label


def test_damage_of_lz_is_an_error_too(device):
    tokens = np.tile(np.arange(500, dtype=np.int32), 200)
    frame = gpucodec.encode(tokens, gpucodec.LZConfig())
    sound = gpucodec.encode(sample("float32", 70_000, "values"), PLAIN)
    pending = gpucodec.cuda.decode_async([damaged(frame), sound])
    with pytest.raises(CorruptionError):
        pending.check()
    assert not pending.arrays[0].numpy().any()
    found = gpucodec.decode(device.put(damaged(frame)), salvage=True)
    assert found.bad_blocks == gpucodec.decode(damaged(frame), salvage=True).bad_blocks


# --- whether there is a GPU -----------------------------------------------------------------------


class FakeCupy(types.ModuleType):
    """As much of CuPy as `find` looks at."""

    int32 = np.int32

    def __init__(self, count=1, failure=None, result=42) -> None:
        super().__init__("cupy")
        self.count, self.failure, self.result = count, failure, result
        runtime = types.SimpleNamespace(getDeviceCount=self.get_count)
        self.cuda = types.SimpleNamespace(runtime=runtime, Device=self.use)

    def get_count(self):
        if isinstance(self.count, Exception):
            raise self.count
        return self.count

    def use(self, index):
        import contextlib

        return contextlib.nullcontext()

    def zeros(self, n, dtype):
        return np.zeros(n, dtype)

    def RawKernel(self, code, name, backend):  # noqa: N802 - as CuPy calls it
        def run(grid, block, arguments):
            if self.failure is not None:
                raise self.failure
            arguments[0][0] = self.result

        return run


@pytest.mark.parametrize(
    ("cupy", "message"),
    [
        (None, r"need CuPy.*pip install 'gpucodec\[cuda12\]'"),
        (FakeCupy(count=RuntimeError("insufficient driver")), "driver does not work: insufficient"),
        (FakeCupy(count=0), "there is no CUDA device 0, only 0"),
        (FakeCupy(failure=RuntimeError("libnvrtc.so.13 not found")), "compile and run.*libnvrtc"),
        (FakeCupy(result=7), "with the result 7 instead of 42"),
    ],
)
def test_what_is_missing_is_said(monkeypatch, cupy, message):
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    devices.find.cache_clear()
    with pytest.raises(UnsupportedError, match=message):
        devices.find(0)
    assert not gpucodec.cuda.is_available()
    devices.find.cache_clear()


def test_a_device_must_prove_itself_once(monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy", FakeCupy())
    devices.find.cache_clear()
    assert devices.find(0) is devices.find(0)
    devices.find.cache_clear()


def test_the_view_of_a_tensor_of_torch_takes_its_type_and_stream(monkeypatch):
    """Torch without a GPU cannot show this; a stand-in that claims to be on one can."""
    torch = pytest.importorskip("torch")
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    tensor = torch.from_numpy(array).to(torch.bfloat16)
    stream = types.SimpleNamespace(cuda_stream=77)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: stream)
    found = arrays._of_torch(tensor.T)  # made contiguous
    assert (found.shape, found.stream, found.n_bytes) == ((3, 2), 77, 12)
    assert found.require_dtype().name == "bfloat16"
    assert found.owner.is_contiguous()
