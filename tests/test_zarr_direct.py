# SPDX-License-Identifier: Apache-2.0
"""Stores that move values straight to and from a GPU: payloads never cross the host's memory.

CuPy and the device are those of `test_zarr_gpu`; kvikio's files are stand-ins that count, and its store, where
kvikio is installed, is its own.
"""

from __future__ import annotations

import sys

import cuda_shim
import cufile_shim
import cupy_shim
import numpy as np
import pytest
import zarr
import zarr.storage
from test_zarr_gpu import PLAIN, SERIALIZERS, ZARRS_OWN, both, create, matrix, on_gpu, stored
from zarr.storage import LocalStore, MemoryStore, WrapperStore

import gpucodec
import gpucodec.zarr
from gpucodec import CorruptionError, TruncatedError, UnsupportedError
from gpucodec.cuda import heads
from gpucodec.zarr import LZCodec, QuantizeCodec, TensorCodec
from gpucodec.zarr.direct import reads_to_device

pytestmark = pytest.mark.skipif(
    not cuda_shim.available(), reason="needs g++ on x86-64 Linux to run the kernels"
)


@pytest.fixture
def device(monkeypatch):
    return cupy_shim.install(monkeypatch, 1)


@pytest.fixture(params=["stand-in", "kvikio"])
def counts(request, monkeypatch, device):
    kvikio = None
    if request.param == "kvikio":
        pytest.importorskip("kvikio.zarr")
        kvikio = sys.modules["kvikio"]
    return cufile_shim.install(monkeypatch, device.module, kvikio)


@pytest.fixture(params=["itself", "wrapped"])
def store(request, counts, tmp_path, monkeypatch):
    """The store, whose synchronous methods, if zarr has them, would go past it."""
    for name in ("get_sync", "set_sync", "delete_sync"):
        if hasattr(LocalStore, name):
            monkeypatch.setattr(LocalStore, name, bypassed)
    made = gpucodec.zarr.gds_store(tmp_path)
    return WrapperStore(made) if request.param == "wrapped" else made


def bypassed(*_, **__):
    pytest.fail("a synchronous method went past kvikio's own")


def frames_of(folder) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != "zarr.json"
    }


@both
@pytest.mark.filterwarnings(ZARRS_OWN)
@pytest.mark.parametrize("kind", SERIALIZERS)
def test_what_is_stored_and_read_is_the_same(device, counts, store, tmp_path, kind, pipeline):
    serializer, options = SERIALIZERS[kind]
    array = matrix()
    host = MemoryStore()
    expected = create(host, array, serializer, **options)
    with on_gpu(pipeline):
        made = create(store, cupy_shim.Array(array), serializer, **options)
        values = {key: value for key, value in stored(host).items() if key != "zarr.json"}
        assert frames_of(tmp_path) == values
        for selection in (..., np.s_[3:150:7, 5], np.s_[40:42], np.s_[70]):
            found = made[selection]
            assert isinstance(found, cupy_shim.Array)
            assert found.get().tobytes() == expected[selection].tobytes()
        rows = made.oindex[[3, 7, 190], slice(None)]
        assert rows.get().tobytes() == expected.oindex[[3, 7, 190], slice(None)].tobytes()
        made[10:20, 3:5] = 1.0
    zarr.open_array(host, mode="r+")[10:20, 3:5] = 1.0
    values = {key: value for key, value in stored(host).items() if key != "zarr.json"}
    assert frames_of(tmp_path) == values


@pytest.mark.parametrize("options", [{}, {"shards": (512, 256)}], ids=["chunks", "a shard"])
def test_payloads_never_cross_the_host(device, counts, store, tmp_path, options):
    array = matrix((512, 256))
    with gpucodec.zarr.enable(device="cuda"):
        source = cupy_shim.Array(array)
        copied = device.module.copied
        copied.update(up=0, down=0)
        made = create(store, source, PLAIN, chunks=(128, 256), **options)
        size = sum(map(len, frames_of(tmp_path).values()))
        assert counts.moved["write device"] == size
        assert copied["up"] + copied["down"] < 0.05 * size  # what launches are told; sizes
        assert not counts.moved["write host"]
        copied.update(up=0, down=0)
        device.calls.clear()
        counts.clear()
        read = made[...]
    assert read.get().tobytes() == array.tobytes()
    index = 4 * 16 + 4 if options else 0
    assert counts.moved["read device"] == size - index
    assert counts.moved["read host"] == index
    assert copied["up"] < 0.01 * size  # what launches are told
    assert copied["down"] < 4 * heads.GUESS + 1_000  # tables, and what stands behind; statuses
    # one of all headers, one of all blocks
    assert [device.calls.count(k) for k in ("gather_runs", "decode_blocks")] == [1, 1]


@pytest.mark.parametrize("shape", [(2048, 256), (1024, 512)])
def test_a_part_of_a_chunk_reads_its_table_to_the_host_and_its_blocks_to_the_device(
    device, counts, store, tmp_path, shape
):
    array = matrix(shape)
    with gpucodec.zarr.enable(device="cuda"):
        serializer = TensorCodec(profile="plain", block_size=16_384)
        made = create(store, cupy_shim.Array(array), serializer, chunks=shape)
        [frame] = frames_of(tmp_path).values()
        parsed = gpucodec.frame.parse(np.frombuffer(frame, np.uint8))
        counts.clear()
        copied = device.module.copied
        copied.update(up=0, down=0)
        rows = made[100:110]
    assert rows.get().tobytes() == array[100:110].tobytes()
    assert counts.moved["read host"] == parsed.payloads
    first, last = 100 * shape[1] // 16_384, -(-110 * shape[1] // 16_384)
    assert counts.moved["read device"] == parsed.offsets[last] - parsed.offsets[first]
    assert copied["down"] < 100
    assert copied["up"] < 10_000


def test_parts_of_quantized_chunks_are_dequantized_on_the_host(counts, store):
    array = matrix((2048, 256))
    with gpucodec.zarr.enable(device="cuda"):
        made = create(store, cupy_shim.Array(array), QuantizeCodec("int8"), chunks=array.shape)
        counts.clear()
        rows, whole = made[100:110], made[...]
    assert rows.get().tobytes() == whole.get()[100:110].tobytes()
    assert 0 < counts.moved["read host"] < 0.3 * counts.moved["read device"]


def test_the_compressor_of_bytes_stays_on_the_device(device, counts, store):
    array = np.tile(np.arange(500, dtype=np.int32), 200).reshape(100, 1_000)
    with gpucodec.zarr.enable(device="cuda"):
        made = zarr.create_array(
            store, shape=array.shape, dtype="i4", chunks=(50, 1_000), compressors=LZCodec()
        )
        made[...] = cupy_shim.Array(array)
        device.module.copied.update(up=0, down=0)
        device.calls.clear()
        assert made[...].get().tobytes() == array.tobytes()
    assert "decode_lz_words" in device.calls
    assert sum(device.module.copied.values()) < 0.2 * array.nbytes


def chunk_file(tmp_path):
    return tmp_path / "c" / "1" / "0"


def cut(raw: bytes) -> bytes:
    return raw[:-16]


def changed(at: int):
    return lambda raw: raw[:at] + bytes([raw[at] ^ 1]) + raw[at + 1 :]


DAMAGES = {
    "payload": (changed(-1), CorruptionError, "hash"),
    "table": (changed(60), CorruptionError, "header and table have hash"),
    "no frame": (changed(0), UnsupportedError, "not a gpucodec frame"),
    "cut": (cut, TruncatedError, None),
    "nothing": (lambda _: b"", TruncatedError, None),
    "shape": (lambda _: gpucodec.encode(matrix((130, 64))).tobytes(), CorruptionError, "of shape"),
    "quantized": (
        lambda raw: gpucodec.encode_quantized(
            gpucodec.decode(raw), gpucodec.QuantizeConfig("int8")
        ).tobytes(),
        UnsupportedError,
        "not a gpucodec frame",
    ),
}


@both
@pytest.mark.parametrize("kind", DAMAGES)
def test_damage_is_an_error_that_names_the_chunk(counts, store, tmp_path, kind, pipeline):
    damage, error, message = DAMAGES[kind]
    with on_gpu(pipeline):
        made = create(store, cupy_shim.Array(matrix((192, 130))), PLAIN, chunks=(64, 130))
        path = chunk_file(tmp_path)
        raw = path.read_bytes()
        at_host = damage(raw) if kind != "payload" else changed(len(raw) - 1)(raw)
        path.write_bytes(at_host)
        with pytest.raises(error, match=message) as caught:
            made[...]
    if pipeline:
        assert any("c/1/0" in note for note in caught.value.__notes__)


def test_missing_chunks_are_the_fill_value(counts, store):
    with gpucodec.zarr.enable(device="cuda"):
        made = zarr.create_array(
            store, shape=(90, 40), chunks=(32, 40), dtype="f4", serializer=PLAIN, compressors=None
        )
        made[:32] = 1.0  # a scalar: encoded on the host, once, and stored from there
        assert not counts.moved["write device"]
        expected = np.zeros((90, 40), np.float32)
        expected[:32] = 1
        assert made[...].get().tobytes() == expected.tobytes()


def test_which_stores_are_direct(counts, tmp_path):
    assert reads_to_device(gpucodec.zarr.gds_store(tmp_path))
    assert reads_to_device(WrapperStore(gpucodec.zarr.gds_store(tmp_path, read_only=True)))
    assert not reads_to_device(LocalStore(tmp_path))
    assert not reads_to_device(WrapperStore(MemoryStore()))

    class Marked(MemoryStore):
        reads_to_device = True

    assert reads_to_device(Marked())


def test_a_missing_kvikio_is_said(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "kvikio", None)
    monkeypatch.setitem(sys.modules, "kvikio.zarr", None)
    with pytest.raises(UnsupportedError, match=r"needs kvikio.*pip install 'gpucodec\[gds12\]'"):
        gpucodec.zarr.gds_store(tmp_path)
    assert not reads_to_device(LocalStore(tmp_path))
