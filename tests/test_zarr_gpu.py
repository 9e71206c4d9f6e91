# SPDX-License-Identifier: Apache-2.0
"""zarr with arrays on a GPU: CuPy's part by `cupy_shim`, the device by the shim, the rest as it is.

What is written is what a CPU writes, what is read what it reads; and no more crosses over to the
device and back than compressed bytes.
"""

from __future__ import annotations

import cuda_shim
import cupy_shim
import numpy as np
import pytest
import zarr
import zarr.storage
from zarr.codecs import ShardingCodec

import gpucodec
import gpucodec.cuda
import gpucodec.numcodecs
import gpucodec.zarr
from gpucodec import CorruptionError
from gpucodec.cuda import occupancy
from gpucodec.numcodecs import LZ, Tensor
from gpucodec.quant.numcodecs import Quantize
from gpucodec.zarr import LZCodec, QuantizeCodec, TensorCodec

pytestmark = pytest.mark.skipif(
    not cuda_shim.available(), reason="needs g++ on x86-64 Linux to run the kernels"
)
PLAIN = TensorCodec(profile="plain", block_size=4096)


@pytest.fixture
def device(monkeypatch):
    return cupy_shim.install(monkeypatch, 1)


def matrix(shape=(200, 130), dtype=np.float32) -> np.ndarray:
    rng = np.random.default_rng(len(shape))
    return rng.normal(0, 0.02, shape).astype(dtype)


def on_gpu(pipeline: bool):
    """The two ways to enable it."""
    return gpucodec.zarr.enable(device="cuda") if pipeline else zarr.config.enable_gpu()


def stored(store) -> dict[str, bytes]:
    return {key: value.to_bytes() for key, value in store._store_dict.items()}


def create(store, array, serializer, **options):
    made = zarr.create_array(
        store,
        shape=array.shape,
        dtype=array.dtype,
        serializer=serializer,
        compressors=None,
        **options,
    )
    made[...] = array
    return made


both = pytest.mark.parametrize("pipeline", [True, False], ids=["pipeline", "default"])
SERIALIZERS = {
    "plain": (PLAIN, {"chunks": (64, 130)}),
    "ratio": (TensorCodec(), {"chunks": (70, 50)}),
    "shards": (PLAIN, {"chunks": (32, 65), "shards": (96, 130)}),
    "quantize": (QuantizeCodec("int8", bound={"rel": 0.01}), {"chunks": (64, 130)}),
}


ZARRS_OWN = "ignore:Creating a zarr.buffer.gpu"  # its shards hand arrays of the host to GPU buffers


@both
@pytest.mark.filterwarnings(ZARRS_OWN)
@pytest.mark.parametrize("kind", ["shards"])
def test_shards_of_cupy_are_stored_as_those_of_numpy(device, kind, pipeline):
    check_stored(kind, pipeline)


@both
@pytest.mark.parametrize("kind", [kind for kind in SERIALIZERS if kind != "shards"])
def test_arrays_of_cupy_are_stored_as_those_of_numpy(device, kind, pipeline):
    check_stored(kind, pipeline)


def check_stored(kind, pipeline):
    serializer, options = SERIALIZERS[kind]
    array = matrix()
    expected = zarr.storage.MemoryStore()
    create(expected, array, serializer, **options)
    store = zarr.storage.MemoryStore()
    with on_gpu(pipeline):
        made = create(store, cupy_shim.Array(array), serializer, **options)
        assert stored(store) == stored(expected)
        whole = zarr.open_array(expected)[...]
        assert isinstance(whole, cupy_shim.Array)
        part = zarr.open_array(expected)[3:150:7, 5]
        fancy = zarr.open_array(expected).oindex[[3, 7, 190], slice(None)]
        made[10:20, 3:5] = 1.0
    assert whole.get().tobytes() == zarr.open_array(expected)[...].tobytes()
    assert part.get().tobytes() == zarr.open_array(expected)[3:150:7, 5].tobytes()
    assert fancy.get().tobytes() == zarr.open_array(expected)[...][[3, 7, 190]].tobytes()
    changed = zarr.open_array(expected, mode="r+")
    changed[10:20, 3:5] = 1.0
    assert stored(store) == stored(expected)


def test_compressed_bytes_cross_over_once(device):
    array = matrix((512, 256))
    store = zarr.storage.MemoryStore()
    with gpucodec.zarr.enable(device="cuda"):
        source = cupy_shim.Array(array)
        device.module.copied.update(up=0, down=0)
        made = create(store, source, PLAIN, chunks=(128, 256))
        size = sum(len(value) for key, value in stored(store).items() if key.startswith("c/"))
        assert device.module.copied["down"] <= 1.02 * size
        assert device.module.copied["up"] < 0.05 * size  # tables
        device.module.copied.update(up=0, down=0)
        device.calls.clear()
        read = made[...]
    assert read.get().tobytes() == array.tobytes()
    assert device.module.copied["down"] < 0.02 * size  # statuses
    assert size <= device.module.copied["up"] <= 1.1 * size
    assert device.calls.count("decode_blocks") == 1  # all chunks in one launch


def test_chunks_are_decoded_into_the_output(device, monkeypatch):
    array = matrix((256, 64))
    store = zarr.storage.MemoryStore()
    create(store, array, PLAIN, chunks=(64, 64))
    outputs = []
    decode = gpucodec.decode_batch

    def noted(frames, out=None, **options):
        outputs.extend(out)
        return decode(frames, out, **options)

    monkeypatch.setattr(gpucodec, "decode_batch", noted)
    with gpucodec.zarr.enable(device="cuda"):
        read = zarr.open_array(store)[...]
    assert len(outputs) == 4
    assert all(np.shares_memory(one.memory, read.memory) for one in outputs)


@both
def test_scalars_missing_chunks_and_types(device, pipeline):
    with on_gpu(pipeline):
        for dtype in ("uint8", "int64", "float16", "complex64", "bool"):
            store = zarr.storage.MemoryStore()
            made = zarr.create_array(
                store,
                shape=(90, 40),
                chunks=(32, 40),
                dtype=dtype,
                serializer=PLAIN,
                compressors=None,
            )
            expected = np.zeros((90, 40), dtype)
            made[64:] = np.ones((), dtype)[()]
            expected[64:] = 1
            assert made[...].get().tobytes() == expected.tobytes()
            assert not any(key == "c/0/0" for key in stored(store))
            made[...] = np.ones((), dtype)[()]
            assert made[...].get().tobytes() == np.ones((90, 40), dtype).tobytes()


@both
def test_damage_is_an_error_that_names_the_chunk(device, pipeline):
    store = zarr.storage.MemoryStore()
    create(store, matrix(), PLAIN, chunks=(64, 130))
    raw = bytearray(store._store_dict["c/1/0"].to_bytes())
    raw[-1] ^= 1
    store._store_dict["c/1/0"] = zarr.buffer.cpu.Buffer.from_bytes(bytes(raw))
    with on_gpu(pipeline), pytest.raises(CorruptionError) as caught:
        zarr.open_array(store)[...]
    assert any("c/1/0" in note for note in caught.value.__notes__)


def test_the_compressor_of_bytes(device):
    array = np.tile(np.arange(50, dtype=np.int32), 200).reshape(100, 100)
    store = zarr.storage.MemoryStore()
    options = {"shape": array.shape, "dtype": "i4", "chunks": (50, 100), "compressors": LZCodec()}
    expected = zarr.storage.MemoryStore()
    zarr.create_array(expected, **options)[...] = array
    with zarr.config.enable_gpu():
        made = zarr.create_array(store, **options)
        made[...] = cupy_shim.Array(array)
        assert stored(store) == stored(expected)
        assert made[...].get().tobytes() == array.tobytes()


@pytest.mark.parametrize("codec", [Tensor(profile="plain"), LZ(), Quantize("int8")], ids=repr)
def test_codecs_of_numcodecs_take_and_return_arrays_of_cupy(device, codec):
    array = matrix((40, 30))
    for given in (array, np.asfortranarray(array)):
        frame = codec.encode(cupy_shim.Array(given))
        assert isinstance(frame, cupy_shim.Array)
        assert frame.get().tobytes() == codec.encode(given).tobytes()
        decoded = codec.decode(frame)
        assert isinstance(decoded, cupy_shim.Array)
        assert decoded.get().tobytes() == codec.decode(frame.get()).tobytes()
        out = device.module.empty((40, 30), np.float32)
        assert codec.decode(frame, out) is out
        assert out.get().tobytes() == decoded.get().tobytes()


@pytest.mark.filterwarnings(ZARRS_OWN)
def test_zarr_v2_on_a_gpu(device):
    array = matrix((64, 48))
    options = {"shape": array.shape, "dtype": "f4", "chunks": (32, 48), "zarr_format": 2}
    for codec in (Tensor(profile="plain"), Quantize("int8")):
        store, expected = zarr.storage.MemoryStore(), zarr.storage.MemoryStore()
        zarr.create_array(expected, compressors=codec, **options)[...] = array
        with zarr.config.enable_gpu():
            made = zarr.create_array(store, compressors=codec, **options)
            made[...] = cupy_shim.Array(array)
            assert stored(store) == stored(expected)
            assert made[...].get().tobytes() == zarr.open_array(expected)[...].get().tobytes()


def test_a_device_that_is_not_there_is_said():
    with pytest.raises(gpucodec.UnsupportedError, match=r"CuPy|CUDA"):
        gpucodec.zarr.enable(device="cuda")
    with gpucodec.zarr.enable(device="cpu"):
        assert zarr.config.get("ndbuffer") == "zarr.buffer.cpu.NDBuffer"


def test_shards_are_changed_in_part(device):
    codec = ShardingCodec(chunk_shape=(16, 20), codecs=[PLAIN])
    array = matrix((64, 40))
    store, expected = zarr.storage.MemoryStore(), zarr.storage.MemoryStore()
    create(expected, array, codec, chunks=(32, 40))
    with gpucodec.zarr.enable(device="cuda"):
        made = create(store, cupy_shim.Array(array), codec, chunks=(32, 40))
        made[5:9, 3:7] = 2.0
        read = made[...]
    zarr.open_array(expected, mode="r+")[5:9, 3:7] = 2.0
    assert read.get().tobytes() == zarr.open_array(expected)[...].tobytes()


@pytest.mark.parametrize("pipeline", [True, False])
def test_low_occupancy_reaches_the_kernels(device, monkeypatch, pipeline):
    """zarr calls codecs in another thread."""
    seen = []
    launch = device.launch

    def noted(*arguments):
        seen.append(occupancy.is_low())
        launch(*arguments)

    monkeypatch.setattr(device, "launch", noted)
    with on_gpu(pipeline), gpucodec.cuda.low_occupancy(0.5):
        array = cupy_shim.Array(matrix())
        made = create(zarr.storage.MemoryStore(), array, PLAIN, chunks=(100, 65))
        assert made[...].tobytes() == array.tobytes()
    assert len(seen) > 2
    assert all(seen)
