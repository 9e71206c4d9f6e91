# SPDX-License-Identifier: Apache-2.0
"""The CUDA engine on a real GPU: `pytest -m gpu`. What the shim cannot show.

Same bytes, same verdicts on damaged frames, order on the caller's stream, and a device that still
works after everything hostile that it was given.
"""

from __future__ import annotations

import random
import sys

import make_frames
import mutate
import numpy as np
import pytest
import seeds
from golden_inputs import golden_inputs
from helpers import NAMES, raw_bytes, sample, sha256
from test_cuda_kernels import plain
from test_cuda_quantize import variants

import gpucodec
import gpucodec.cuda
from gpucodec import CorruptionError, UnsupportedError
from gpucodec.cuda import device as devices
from gpucodec.kernels import quantspec


def why_not() -> str:
    """What is missing for a GPU, or nothing."""
    try:
        devices.find(0)
    except UnsupportedError as error:
        return str(error)
    return ""


PLAIN = gpucodec.TensorConfig(profile="plain")
pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def cupy():
    reason = why_not()
    if reason:
        pytest.skip(reason)
    return sys.modules["cupy"]


class Typed:
    """Bytes on a GPU under another type: what CuPy itself may not know, such as float8."""

    def __init__(self, cupy, array: np.ndarray) -> None:
        self.bytes = cupy.asarray(np.ascontiguousarray(array).reshape(-1).view(np.uint8))
        self.dtype, self.shape, self.device = array.dtype, array.shape, self.bytes.device

    @property
    def __cuda_array_interface__(self) -> dict:
        return {
            **self.bytes.__cuda_array_interface__,
            "shape": self.shape,
            "typestr": self.dtype.str,
            "strides": None,
        }


def test_golden_inputs_have_the_same_frames(cupy):
    inputs = [(label, a, plain(c)) for label, a, c in golden_inputs() if a.dtype.byteorder != ">"]
    assert len(inputs) >= 200
    for label, array, config in inputs:
        expected = gpucodec.encode(array, config)
        frame = gpucodec.encode(Typed(cupy, array), config)
        assert cupy.asnumpy(frame).tobytes() == expected.tobytes(), label
        out = Typed(cupy, np.zeros_like(array))
        gpucodec.decode(frame, out)
        assert cupy.asnumpy(out.bytes).tobytes() == raw_bytes(array), label


def test_a_batch_has_the_same_frames(cupy):
    items = [sample(name, 5_000 * i, "values", i) for i, name in enumerate(NAMES)]
    frames = gpucodec.encode_batch([Typed(cupy, item) for item in items], PLAIN)
    outs = [Typed(cupy, np.ones_like(item)) for item in items]
    gpucodec.decode_batch(frames, outs)
    for frame, out, item in zip(frames, outs, items, strict=True):
        assert cupy.asnumpy(frame).tobytes() == gpucodec.encode(item, PLAIN).tobytes()
        assert cupy.asnumpy(out.bytes).tobytes() == raw_bytes(item)


def test_unusual_frames_decode(cupy):
    for made in [*seeds.all_seeds().values(), *make_frames.random_frames(21, 300)]:
        out = cupy.full(len(made.raw), 0xA5, cupy.uint8)
        gpucodec.decode(made.frame, out)
        assert cupy.asnumpy(out).tobytes() == made.raw, made.label


def verdict(cupy, frame: bytes):
    """What a decoder says: on the CPU without `cupy`, else on the GPU."""
    try:
        size = min(gpucodec.inspect(frame).decoded_bytes, 1 << 20)
        out = np.full(size, 0xA5, np.uint8)
        found = gpucodec.decode(frame, out if cupy is None else cupy.asarray(out), salvage=True)
    except ValueError as error:
        return type(error).__name__, str(error)
    decoded = found.array if cupy is None else cupy.asnumpy(found.array)
    return decoded.tobytes(), found.bad_blocks


def test_mutants_are_judged_alike_and_the_device_survives(cupy):
    parts = [mutate.Parts(m.frame) for m in seeds.all_seeds().values()]
    rng = random.Random(1)
    n_bad = 0
    for _ in range(3_000):
        frame = mutate.mutant(rng.choice(parts), rng, parts)
        expected = verdict(None, frame)
        assert verdict(cupy, frame) == expected
        n_bad += bool(expected[1])
    assert n_bad > 1_000
    array = sample("float32", 100_000, "values")
    frame = gpucodec.encode(cupy.asarray(array), PLAIN)
    assert cupy.asnumpy(frame).tobytes() == gpucodec.encode(array, PLAIN).tobytes()


def test_damage_is_an_error(cupy):
    frame = gpucodec.encode(sample("float32", 70_000, "noise"), PLAIN)
    frame[-1] ^= 1
    out = cupy.ones(70_000, cupy.float32)
    with pytest.raises(CorruptionError, match="block 1 of 2"):
        gpucodec.decode(frame, out)
    assert not out.any()


def test_the_same_bytes_twenty_times_and_in_any_company(cupy):
    array = cupy.asarray(sample("float32", 1_000_000, "values"))
    others = [cupy.asarray(sample("int16", 300_000, "skewed", i)) for i in range(8)]
    found = set()
    for i in range(20):
        frames = gpucodec.encode_batch([*others[: i % 8], array], PLAIN)
        found.add(sha256(cupy.asnumpy(frames[-1])))
    assert len(found) == 1


def test_work_is_ordered_on_the_callers_stream(cupy):
    """The words arrive late, on the stream: an encoder elsewhere would read the old ones."""
    stream = cupy.cuda.Stream(non_blocking=True)
    array = sample("float32", 4_000_000, "values")
    busy = cupy.ones((4_000, 4_000), cupy.float32)
    late = cupy.zeros(array.size, cupy.float32)
    source = cupy.asarray(array)
    cupy.cuda.Device().synchronize()
    with stream:
        for _ in range(20):
            busy = busy @ busy * 1e-4
        late[...] = source
        frame = gpucodec.encode(late, PLAIN)
        pending = gpucodec.cuda.decode_async([frame])
        doubled = pending.arrays[0] * 2
        pending.check()
    stream.synchronize()
    assert (cupy.asnumpy(doubled) == 2 * array).all()
    assert cupy.asnumpy(frame).tobytes() == gpucodec.encode(array, PLAIN).tobytes()


def test_arrays_and_frames_may_lie_anywhere(cupy):
    item = sample("uint8", 100_001, "skewed")
    frame = gpucodec.encode(item, PLAIN)
    for offset in (1, 2, 4, 8):
        room = cupy.zeros(item.size + 16, cupy.uint8)
        room[offset : offset + item.size] = cupy.asarray(item)
        made = gpucodec.encode(room[offset : offset + item.size], PLAIN)
        assert cupy.asnumpy(made).tobytes() == frame.tobytes()
        placed = cupy.zeros(frame.size + 16, cupy.uint8)
        placed[offset : offset + frame.size] = made
        out = cupy.zeros(item.size + 16, cupy.uint8)[offset : offset + item.size]
        gpucodec.decode(placed[offset : offset + frame.size], out)
        assert cupy.asnumpy(out).tobytes() == item.tobytes()


def test_strided_arrays_are_encoded_in_c_order(cupy):
    array = sample("float32", 60_000, "values").reshape(200, 300)
    frame = gpucodec.encode(cupy.asarray(array).T, PLAIN)
    assert cupy.asnumpy(frame).tobytes() == gpucodec.encode(array.T, PLAIN).tobytes()


@pytest.mark.parametrize("name", quantspec.BY_NAME)
def test_quantized_tensors_are_those_of_the_cpu(cupy, name):
    for i, (array, config) in enumerate(variants(name, 5, 20)):
        expected = gpucodec.encode_quantized(array, config)
        frame = gpucodec.encode_quantized(Typed(cupy, array), config)
        assert cupy.asnumpy(frame).tobytes() == expected.tobytes(), i
        out = Typed(cupy, np.zeros_like(array))
        gpucodec.decode(frame, out)
        with np.errstate(all="ignore"):
            assert cupy.asnumpy(out.bytes).tobytes() == raw_bytes(gpucodec.decode(expected)), i


@pytest.mark.parametrize("name", ["int8", "nvfp4"])
def test_large_tensors_are_quantized_as_by_the_cpu(cupy, name):
    array = sample("float32", 1 << 26, "values")
    config = gpucodec.QuantizeConfig(name, bound=gpucodec.ErrorBound(range=0.05))
    frame = gpucodec.encode_quantized(cupy.asarray(array), config)
    assert cupy.asnumpy(frame).tobytes() == gpucodec.encode_quantized(array, config).tobytes()


@pytest.mark.parametrize("config", [PLAIN, gpucodec.TensorConfig(profile="fast")], ids=repr)
def test_a_gibibyte_has_the_frame_of_the_cpu(cupy, config):
    part = sample("bfloat16", 1 << 25, "values")
    array = np.concatenate([np.roll(part, 1_000_003 * i) for i in range(16)])
    assert array.nbytes == 1 << 30
    frame = gpucodec.encode(Typed(cupy, array), config)
    assert cupy.asnumpy(frame).tobytes() == gpucodec.encode(array, config).tobytes()
    out = cupy.full(array.nbytes, 0xA5, cupy.uint8)
    gpucodec.decode(frame, out)
    assert cupy.asnumpy(out).tobytes() == raw_bytes(array)


def test_more_than_4_gib_come_back(cupy):
    free, _ = cupy.cuda.runtime.memGetInfo()
    n = 5 << 30
    if free < 4 * n:
        pytest.skip(f"needs {4 * n >> 30} GiB of memory, {free >> 30} are free")
    part = cupy.asarray(sample("uint8", 1 << 26, "skewed"))
    array = cupy.concatenate([cupy.roll(part, 1_000_003 * i) for i in range(n >> 26)])
    out = cupy.empty_like(array)
    gpucodec.decode(gpucodec.encode(array, PLAIN), out, limit=None)
    assert bool((out == array).all())


def test_nothing_leaks(cupy):
    """In many calls, damaged frames among them: neither CuPy's pools nor the driver hold more."""
    array = cupy.asarray(sample("float32", 300_000, "values"))
    host = gpucodec.encode(sample("float32", 300_000, "noise"), PLAIN)
    bad = host.copy()
    bad[-1] ^= 1
    out = cupy.empty_like(array)

    def use(count: int) -> tuple[int, int]:
        for _ in range(count):
            gpucodec.decode(gpucodec.encode(array, PLAIN), out)
            gpucodec.decode(host, out)
            with pytest.raises(CorruptionError):
                gpucodec.decode(bad, out)
        cupy.cuda.Device().synchronize()
        pool = cupy.get_default_memory_pool()
        return pool.used_bytes(), pool.total_bytes()

    before = use(50)
    assert use(500) == before


def test_zarr_decodes_into_arrays_of_cupy(cupy):
    zarr = pytest.importorskip("zarr")
    import gpucodec.zarr

    array = sample("float32", 1 << 20, "values").reshape(1024, 1024)
    options = {"shape": array.shape, "chunks": (256, 1024), "dtype": "f4", "compressors": None}
    codec = gpucodec.zarr.TensorCodec()
    expected, store = zarr.storage.MemoryStore(), zarr.storage.MemoryStore()
    zarr.create_array(expected, serializer=codec, **options)[...] = array
    with gpucodec.zarr.enable(device="cuda"):
        made = zarr.create_array(store, serializer=codec, **options)
        made[...] = cupy.asarray(array)
        read, part = made[...], made[100:110, 5]
    for key, value in expected._store_dict.items():
        assert store._store_dict[key].to_bytes() == value.to_bytes(), key
    assert cupy.asnumpy(read).tobytes() == array.tobytes()
    assert cupy.asnumpy(part).tobytes() == array[100:110, 5].tobytes()


@pytest.mark.parametrize("name", ["bfloat16", "float32", "int64", "float8_e4m3fn"])
def test_tensors_of_torch(cupy, name):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    array = sample(name, 100_000, "values")
    flat = torch.from_numpy(array.view(np.uint8).copy()).cuda()
    tensor = flat.view(getattr(torch, name))
    frame = gpucodec.encode(tensor, PLAIN)
    assert isinstance(frame, torch.Tensor)
    assert frame.cpu().numpy().tobytes() == gpucodec.encode(array, PLAIN).tobytes()
    decoded = gpucodec.decode(frame)
    assert (decoded.dtype, decoded.device) == (tensor.dtype, tensor.device)
    assert decoded.view(torch.uint8).cpu().numpy().tobytes() == array.tobytes()
