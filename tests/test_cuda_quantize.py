# SPDX-License-Identifier: Apache-2.0
"""The CUDA halves of quantization, with the shim as the GPU: codes, scales and exceptions of every
format are the Numba kernels', and so are containers and what is said of damaged ones.
"""

from __future__ import annotations

import random
from dataclasses import replace

import cuda_nvrtc
import cuda_shim
import ml_dtypes
import numpy as np
import pytest
from cuda_shim import ORDERS, ShimDevice

import gpucodec
import gpucodec.cuda
from gpucodec import CorruptionError, ErrorBound, QuantizeConfig, TruncatedError
from gpucodec.cuda import quantize as launches
from gpucodec.dtypes import from_numpy
from gpucodec.kernels import cuda, quantcuda, quantspec
from gpucodec.quant import frame as quantframe

needs_shim = pytest.mark.skipif(not cuda_shim.available(), reason="needs g++ on x86-64 Linux")
needs_nvrtc = pytest.mark.skipif(
    cuda_nvrtc.library() is None, reason="needs the wheel nvidia-cuda-nvrtc"
)
orders = pytest.mark.parametrize("order", range(len(ORDERS)), ids=ORDERS)
formats = pytest.mark.parametrize("name", quantspec.BY_NAME)
DTYPES = (np.float32, ml_dtypes.bfloat16, np.float16)
SPECIALS = (np.nan, np.inf, -np.inf, 0, -0.0, 1e-39, -1e-42, 6e-8, 3e38, -3e38, 65504, 1e-6)


@pytest.fixture
def device(monkeypatch):
    return cuda_shim.install(monkeypatch, 2, 9)


def values(rng, n: int, dtype, special: float = 0.03) -> np.ndarray:
    """Values of many magnitudes, and among them whatever is not one."""
    x = rng.standard_normal(n) * np.exp(rng.normal(0, rng.choice([0, 1, 8]), n))
    if rng.random() < 0.4:
        x = np.abs(x)
    odd = rng.random(n) < special
    x[odd] = rng.choice(SPECIALS, odd.sum())
    with np.errstate(all="ignore"):
        return x.astype(np.float32).astype(dtype)


def variants(name: str, seed: int, count: int):
    """(array, configuration) pairs that use all of a format."""
    rng = np.random.default_rng(seed)
    row = quantspec.BY_NAME[name]
    for i in range(count):
        shape = tuple(rng.integers(1, 90, int(rng.integers(1, 4))))
        block = int(16 << rng.integers(0, 6))
        if i % 5 == 4:  # long blocks, which take several turns
            shape, block = (int(rng.integers(1, 3)), int(rng.integers(900, 5_000))), 1024 << i % 3
        elif i % 5 == 3:  # rows of whole blocks
            shape = (*shape[:-1], block * int(rng.integers(1, 4)))
        scale = quantspec.SCALE_TYPES[row.scale_types[i % len(row.scale_types)]]
        mode = quantspec.SCALING_MODES[int(rng.integers(4))] if scale == "e8m0" else None
        bounds = (None, ErrorBound(rel=0.02), ErrorBound(abs=1e-3), ErrorBound(range=1e-3), None)
        config = QuantizeConfig(
            *(name, block, scale, mode),
            rounding="stochastic" if rng.random() < 0.4 else "nearest",
            seed=int(rng.integers(1 << 60)),
            axis=int(rng.integers(-len(shape), len(shape))),
            bound=bounds[int(rng.integers(len(bounds)))],
        )
        special = float(rng.choice([0, 0, 0.03, 1]))
        yield values(rng, int(np.prod(shape)), DTYPES[i % 3], special).reshape(shape), config


def check(device: ShimDevice, array: np.ndarray, config: QuantizeConfig) -> int:
    """Quantize and dequantize on both sides; how many exceptions there were."""
    expected = gpucodec.quantize(array, config)
    source = device.put(array)
    found = launches.quantize(
        *(device, source.memory.address, from_numpy(array.dtype), array.shape, expected.config, 0)
    )
    for name in ("codes", "scales", "offsets"):
        wanted = getattr(expected, name)
        assert (wanted is None) == (name not in found.planes)
        if wanted is not None:
            got = found.planes[name].memory.array[: wanted.nbytes]
            assert got.tobytes() == wanted.tobytes(), (name, config, array.dtype, array.shape)
    assert found.tensor_scale == expected.tensor_scale
    assert found.n_exceptions == expected.positions.size, config
    if found.n_exceptions:
        gaps = np.diff(expected.positions, prepend=-1) - 1
        steps = found.planes["positions"].memory.array.view(found.planes["positions"].dtype)
        assert (steps == gaps).all()
        assert found.planes["values"].memory.array.tobytes() == expected.values.tobytes()
    out = device.allocate(array.nbytes)
    assert not launches.dequantize(device, [found], [out.address], 0).wrong()
    with np.errstate(all="ignore"):
        assert out.array[: array.nbytes].tobytes() == expected.dequantize().tobytes(), config
    return found.n_exceptions


@needs_shim
@orders
@formats
def test_every_format_has_the_codes_of_the_cpu(name, order):
    device = ShimDevice(order, order + 3)
    seed = 100 * order + quantspec.BY_NAME[name].code
    assert sum(check(device, *pair) for pair in variants(name, seed, 15)) > 0  # exceptions


@needs_shim
@pytest.mark.long
@pytest.mark.parametrize("seed", range(12))
@formats
def test_every_format_has_the_codes_of_the_cpu_in_many_variants(name, seed):
    device = ShimDevice(seed % 3, seed)
    for pair in variants(name, 10_000 + 100 * seed + quantspec.BY_NAME[name].code, 150):
        check(device, *pair)


@needs_shim
@pytest.mark.parametrize("dtype", DTYPES[1:], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("rounding", quantspec.ROUNDINGS)
@formats
def test_every_16_bit_value_has_the_code_of_the_cpu(name, dtype, rounding):
    """In blocks of neighbours, and in blocks of everything."""
    device = ShimDevice(0, 1)
    every = np.arange(1 << 16, dtype=np.uint16)
    config = QuantizeConfig(name, 64, rounding=rounding, seed=5)
    check(device, every.view(dtype), config)
    check(device, np.random.default_rng(1).permutation(every).view(dtype), config)


@needs_shim
def test_more_exceptions_than_a_block_of_threads_lists():
    """Groups of 1024 chunks, and of 1024 steps."""
    device = ShimDevice(1, 2)
    array = values(np.random.default_rng(3), 600_000, np.float32, 0.02)
    assert check(device, array, QuantizeConfig("int8", 16)) > 4 * quantcuda.GROUP
    assert -(-array.size // quantcuda.CHUNK) > quantcuda.GROUP


@needs_shim
def test_every_value_an_exception():
    array = np.full((3, 700), np.nan, np.float32)
    assert check(ShimDevice(2, 2), array, QuantizeConfig("log8")) == array.size


@needs_shim
@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 2), (1,)])
def test_arrays_without_rows(shape, device):
    array = np.ones(shape, np.float32)
    for name in ("int8", "nvfp4"):
        frame = gpucodec.encode_quantized(device.put(array), QuantizeConfig(name))
        assert (
            frame.numpy().tobytes()
            == gpucodec.encode_quantized(array, QuantizeConfig(name)).tobytes()
        )
        assert gpucodec.decode(frame).numpy().tobytes() == gpucodec.decode(frame.numpy()).tobytes()


# --- containers ---------------------------------------------------------------------------------


@needs_shim
@formats
def test_containers_are_those_of_the_cpu(name, device):
    for array, config in variants(name, 7, 6):
        expected = gpucodec.encode_quantized(array, config)
        frame = gpucodec.encode_quantized(device.put(array), config)
        assert frame.numpy().tobytes() == expected.tobytes()
        with np.errstate(all="ignore"):
            decoded = gpucodec.decode(expected)
        for encoded in (frame, expected):  # on the device, and on the host
            out = device.put(np.ones_like(array))
            assert gpucodec.decode(encoded, out) is out
            assert out.numpy().tobytes() == decoded.tobytes()
        assert gpucodec.decode(frame).numpy().tobytes() == decoded.tobytes()


@needs_shim
@pytest.mark.parametrize("dtype", [np.float64, ml_dtypes.float8_e4m3fn])
def test_other_floats_go_by_way_of_the_host(device, dtype):
    array = np.random.default_rng(0).normal(0, 1, (30, 50)).astype(dtype)
    config = QuantizeConfig("int8", bound=ErrorBound(rel=0.1))
    frame = gpucodec.encode_quantized(device.put(array), config)
    expected = gpucodec.encode_quantized(array, config)
    assert frame.numpy().tobytes() == expected.tobytes()
    assert gpucodec.decode(frame).numpy().tobytes() == gpucodec.decode(expected).tobytes()
    assert gpucodec.decode(frame, salvage=True).array.numpy().tobytes()


@needs_shim
def test_log8_decides_its_axis_on_the_host(device):
    array = np.exp(np.random.default_rng(0).normal(0, 3, (1, 64)) + np.zeros((70, 1))).astype("f4")
    config = QuantizeConfig("log8", 64, axis="auto")
    frame = gpucodec.encode_quantized(device.put(array), config)
    assert frame.numpy().tobytes() == gpucodec.encode_quantized(array, config).tobytes()
    assert gpucodec.inspect(frame.numpy()).config.axis == 0


@needs_shim
def test_batches_of_containers_and_frames_share_launches(device):
    rng = np.random.default_rng(5)
    arrays = [values(rng, 3_000 + i, DTYPES[i % 3]) for i in range(9)]
    configs = [QuantizeConfig(("int8", "nf4", "int4")[i // 3]) for i in range(9)]
    encoded = [gpucodec.encode_quantized(a, c) for a, c in zip(arrays, configs, strict=True)]
    plain = gpucodec.TensorConfig(profile="plain")
    encoded[4:4] = [gpucodec.encode(arrays[0], plain)]
    given = [device.put(one) if i % 2 else one for i, one in enumerate(encoded)]
    device.calls.clear()
    decoded = gpucodec.decode_batch(given)
    for one, frame in zip(decoded, encoded, strict=True):
        assert one.numpy().tobytes() == gpucodec.decode(frame).tobytes()
    assert device.calls.count("decode_blocks") <= 2  # plain blocks and those of transforms
    assert [device.calls.count(f"dequantize_{name}") for name in ("int8", "nf4", "int4")] == [1] * 3
    assert device.calls.count("gather_runs") == 2  # heads of what is on the device, then of parts


@needs_shim
def test_host_containers_decode_without_waiting(device):
    array = values(np.random.default_rng(6), 5_000, np.float32)
    frame = gpucodec.encode_quantized(array, QuantizeConfig("mxfp8_e4m3"))
    pending = gpucodec.cuda.decode_async([frame])
    assert "download" not in device.calls
    assert pending.arrays[0].numpy().tobytes() == gpucodec.decode(frame).tobytes()
    assert pending.check() == pending.arrays


@needs_shim
def test_output_buffers_and_streams(device):
    array = values(np.random.default_rng(8), 2_000, np.float32)
    config = QuantizeConfig("int4")
    room = gpucodec.max_encoded_size(array.shape, array.dtype, config)
    for offset in (0, 1, 8):
        out = device.put(np.zeros(room, np.uint8), offset)
        frame = gpucodec.cuda.encode_quantized(device.put(array, 4), config, out=out, stream=33)
        assert frame.memory is out.memory
        assert frame.numpy().tobytes() == gpucodec.encode_quantized(array, config).tobytes()
        target = device.put(np.zeros_like(array), 4)
        gpucodec.cuda.decode(frame, target, stream=33)
        assert target.numpy().tobytes() == gpucodec.decode(frame.numpy()).tobytes()
    assert device.streams == {33}
    with pytest.raises(ValueError, match="the frame may take"):
        gpucodec.cuda.encode_quantized(
            device.put(array), config, out=device.put(np.zeros(99, "u1"))
        )
    with pytest.raises(gpucodec.UnsupportedError, match="not a float"):
        gpucodec.encode_quantized(device.put(np.zeros(9, np.int32)), config)
    with pytest.raises(ValueError, match="axis 1 is out of range"):
        gpucodec.encode_quantized(device.put(array), replace(config, axis=1))


def containers() -> list[np.ndarray]:
    rng = np.random.default_rng(4)
    return [
        gpucodec.encode_quantized(values(rng, 700, DTYPES[i % 3]), QuantizeConfig(name, 32))
        for i, name in enumerate(quantspec.BY_NAME)
    ]


def verdict(frame: np.ndarray, size: int, put, numpy):
    """What a decoder says."""
    out = put(np.full(size, 0xA5, np.uint8))
    try:
        gpucodec.decode(frame if put is np.asarray else put(frame), out)
    except gpucodec.GpucodecError as error:
        return type(error).__name__
    except ValueError:
        return "size"
    return numpy(out).tobytes()


def damaged_alike(device, seed: int, count: int) -> list:
    rng = random.Random(seed)
    sound = containers()
    seen = []
    for _ in range(count):
        frame = rng.choice(sound).copy()
        size = gpucodec.inspect(frame).decoded_bytes
        if rng.random() < 0.2:
            frame = frame[: rng.randrange(frame.size)]
        else:
            frame[rng.randrange(frame.size)] ^= 1 << rng.randrange(8)
        expected = verdict(frame, size, np.asarray, np.asarray)
        assert verdict(frame, size, device.put, lambda a: a.numpy()) == expected, frame.size
        seen.append(expected)
    return seen


@needs_shim
def test_damage_is_judged_as_on_the_cpu(device):
    seen = damaged_alike(device, 1, 150)
    assert {"CorruptionError", "TruncatedError"} <= set(seen)


@needs_shim
@pytest.mark.long
@pytest.mark.parametrize("seed", range(20, 26))
def test_much_damage_is_judged_as_on_the_cpu(device, seed):
    damaged_alike(device, seed, 2_000)


@needs_shim
def test_damage_clears_the_array_and_salvage_keeps_the_rest(device):
    array = values(np.random.default_rng(2), 200_000, np.float32)
    frame = gpucodec.encode_quantized(array, QuantizeConfig("int8"))
    part = quantframe.parse(frame).parts[0]
    frame[part.stop - 1] ^= 1
    out = device.put(np.ones_like(array))
    with pytest.raises(CorruptionError, match="block"):
        gpucodec.decode(frame, out)
    assert not out.numpy().any()
    expected = gpucodec.decode(frame, salvage=True)
    for given, target in ((frame, device.put(array)), (device.put(frame), None)):
        found = gpucodec.decode(given, target, salvage=True)
        assert found.bad_blocks == expected.bad_blocks
        assert found.array.numpy().tobytes() == expected.array.tobytes()
    with pytest.raises(CorruptionError) as caught:
        gpucodec.decode_batch([gpucodec.encode(array), device.put(frame)])
    assert caught.value.__notes__ == ["frame 1 of the batch"]
    with pytest.raises(TruncatedError):
        gpucodec.decode(device.put(frame[:-16]))
    with pytest.raises(CorruptionError, match="were given"):
        gpucodec.decode(device.put(np.append(frame, np.uint8(0))))


@needs_shim
@pytest.mark.parametrize("steps", [[0, 99, 0], [0xFFFFFFFF, 0xFFFFFFFF, 5], [95, 1, 3]])
def test_positions_that_leave_the_tensor_are_refused(device, steps):
    array = np.zeros(100, np.float32)
    array[[1, 2, 3]] = np.nan
    config = QuantizeConfig("int8", 32)
    header = quantframe.parse(gpucodec.encode_quantized(array, config))
    parts = gpucodec.quantize(array, config)
    arrays = [parts.codes, parts.scales, np.array(steps, np.uint32), parts.values]
    frame = quantframe.join(
        *(header.config, header.dtype, header.shape, 1.0),
        [gpucodec.encode(one) for one in arrays],
    )
    around = np.full(array.nbytes + 512, 0xA5, np.uint8)
    memory = device.put(around)
    out = cuda_shim.ShimArray(memory.memory, array.dtype, array.shape, 256)
    with pytest.raises(CorruptionError, match="not ascending and below 100"):
        gpucodec.decode(frame, out)
    assert (np.delete(memory.numpy(), np.s_[256:-256]) == 0xA5).all()
    assert not out.numpy().any()


# --- compiled -----------------------------------------------------------------------------------

QUANTIZED = [name for name in cuda.MODULES if name.startswith("quantize_")]


@needs_nvrtc
@pytest.mark.parametrize(
    "architecture",
    [
        one if one in {"sm_75", "sm_90", "sm_120"} else pytest.param(one, marks=pytest.mark.long)
        for one in cuda_nvrtc.ARCHITECTURES
    ],
)
@pytest.mark.parametrize("module", QUANTIZED)
def test_kernels_of_formats_keep_their_variables_in_registers(module, architecture):
    log, _ = cuda_nvrtc.compile_module(cuda.source(module), architecture)
    found = cuda_nvrtc.functions(log)
    assert found.keys() == cuda.kernels(module).keys()
    assert "warning" not in log, log
    for name, compiled in found.items():
        assert compiled.spilled == compiled.stack == 0, name
        assert compiled.registers <= 96, name  # two blocks of threads a multiprocessor, at least


def test_constants_are_those_of_the_cpu():
    """What blockwise.cu and exceptions.cu say, and what the launches count with."""
    text = "".join((cuda.FOLDER / f"{stem}.cu").read_text() for stem in ("elements", "blockwise"))
    text += (cuda.FOLDER / "exceptions.cu").read_text()
    for line in ("UNIT = 16;", "QUANT_WARPS = 8;", "LIST_WARPS = 8;", "EACH = 4;"):
        assert f"constexpr u32 {line}" in text
    assert (quantcuda.UNIT, quantcuda.WARPS, quantcuda.GROUP) == (16, 8, 4 * 8 * 32)
