# SPDX-License-Identifier: Apache-2.0
"""numcodecs: the codec does what numcodecs asks of one, and zarr v2 stores keep every bit."""

from __future__ import annotations

import pickle
from itertools import chain
from pathlib import Path
from typing import Any

import ml_dtypes
import numcodecs
import numpy as np
import pytest
import zarr
from zarr.storage import MemoryStore
from zarr_stores import ML_DTYPES, OTHERS, PIPELINES, PLAIN, STRUCTURE, bits, random_array, using

import gpucodec
from gpucodec.numcodecs import Tensor

CODECS = (Tensor(), Tensor(block_size=64), Tensor(profile="fast"))
NUMPY = (*PLAIN, *OTHERS, ">u8", "V16", "g", STRUCTURE)

ARRAYS = [
    np.arange(300, dtype="i4"),
    np.linspace(1000, 1001, 300, dtype="f8"),
    np.random.default_rng(1).normal(1000, 1, (10, 30)),
    np.random.default_rng(2).integers(0, 200, 300).astype("u1").reshape(10, 30, order="F"),
    np.random.default_rng(3).integers(-100, 100, 300).astype("i8").reshape(5, 6, 10, order="F"),
    np.random.default_rng(4).integers(0, 2, 300).astype(bool).reshape(5, 3, 20, order="F"),
    np.random.default_rng(5).choice([b"a", b"bb", b"ccc"], 300).reshape(10, 30),
    np.random.default_rng(6).integers(0, 2**60, 300).view("M8[ns]"),
    np.random.default_rng(7).integers(0, 2**60, 300).view("m8[us]").reshape(10, 30, order="F"),
    np.arange(300, dtype=">f4").reshape(10, 30),
    np.array("é", "U4"),
    np.zeros((3, 0, 2), "f4"),
]


@pytest.fixture(scope="module")
def common() -> Any:
    """numcodecs' own checks, which its wheels lost in 0.17."""
    module = pytest.importorskip("numcodecs.tests.common", reason="not in this numcodecs wheel")
    module.Tensor = Tensor  # for check_repr, which evaluates
    return module


@pytest.mark.parametrize("codec", CODECS, ids=repr)
@pytest.mark.parametrize("array", ARRAYS, ids=lambda array: f"{array.dtype}{array.shape}")
def test_conforms_for_every_kind_of_buffer(common: Any, array: Any, codec: Tensor) -> None:
    common.check_encode_decode(array, codec)


@pytest.mark.parametrize("dtype", ["f4", "f8", "i2", "u8"])
def test_keeps_the_data_type_as_a_filter_must(common: Any, dtype: str) -> None:
    common.check_encode_decode_array(np.arange(1000, dtype=dtype), Tensor())


def test_conforms_otherwise(common: Any) -> None:
    for codec in CODECS:
        common.check_config(codec)
    common.check_repr("Tensor(block_size=None, lz=None, profile='ratio')")
    common.check_repr("Tensor(block_size=1024, lz=None, profile='fast')")
    common.check_err_encode_object_buffer(Tensor())
    common.check_err_decode_object_buffer(Tensor())


def test_conforms_for_stored_frames(
    common: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)  # frames of earlier versions: tests/test_compatibility.py
    for _ in ("write", "read"):
        common.check_backwards_compatibility(Tensor.codec_id, ARRAYS, CODECS)


@pytest.mark.parametrize("dtype", [*NUMPY, *ML_DTYPES], ids=str)
@pytest.mark.parametrize("order", "CF")
def test_memory_comes_back_as_it_lay(dtype: Any, order: str) -> None:
    array = random_array(dtype, (7, 11)).copy(order=order)
    decoded = Tensor(block_size=64).decode(Tensor(block_size=64).encode(array))
    assert np.asarray(decoded).tobytes(order="A") == array.tobytes(order="A")
    out = np.empty_like(array)
    assert Tensor().decode(Tensor().encode(array), out=out) is out
    assert out.tobytes(order="A") == array.tobytes(order="A")


def test_strided_memory_is_taken_in_c_order() -> None:
    array = np.arange(100, dtype="i4").reshape(10, 10)[::2, ::3]
    assert Tensor().decode(Tensor().encode(array)).tobytes() == array.tobytes()


def test_typed_arrays_compress_as_their_type() -> None:
    weights = np.random.default_rng(0).normal(0, 0.02, 100_000).astype(ml_dtypes.bfloat16)
    assert Tensor().encode(weights).size < Tensor().encode(weights.tobytes()).size
    assert gpucodec.inspect(Tensor().encode(weights)).dtype == "bfloat16"


def test_objects_are_refused() -> None:
    for array in (np.array(["a"], object), np.array([1], np.dtypes.StringDType())):
        with pytest.raises(TypeError, match="pointers"):
            Tensor().encode(array)


def test_batches_are_what_single_calls_are() -> None:
    frames = [Tensor().encode(array) for array in ARRAYS]
    assert [bits(one) for one in Tensor().encode_batch(ARRAYS)] == [bits(one) for one in frames]
    outs = [np.empty_like(array) for array in ARRAYS]
    assert Tensor().decode_batch(frames, out=outs)[0] is outs[0]
    for array, out, decoded in zip(ARRAYS, outs, Tensor().decode_batch(frames), strict=True):
        assert out.tobytes("A") == array.tobytes("A") == decoded.tobytes("A")


def test_no_frame_is_larger_than_promised() -> None:
    for dtype in chain(NUMPY, ML_DTYPES):
        noise = random_array(dtype, (999,))
        assert Tensor().encode(noise).size <= Tensor().max_encoded_size(noise.shape, noise.dtype)


def test_configuration_is_json_and_codecs_are_values() -> None:
    assert Tensor().get_config() == {"id": "gpucodec.tensor"}
    codec = numcodecs.get_codec({"id": "gpucodec.tensor", "block_size": 256})
    assert codec == Tensor(256) == pickle.loads(pickle.dumps(codec))
    assert len({Tensor(), Tensor(), Tensor(64)}) == 2
    with pytest.raises(ValueError, match="power of two"):
        Tensor(block_size=100)


@pytest.mark.filterwarnings("ignore:invalid value encountered")  # zarr compares with signalling NaN
@pytest.mark.parametrize("pipeline", PIPELINES)
@pytest.mark.parametrize("order", "CF")
@pytest.mark.parametrize("role", ["compressor", "filter", "both"])
def test_zarr_v2_arrays_keep_every_bit(pipeline: str, order: str, role: str) -> None:
    filters, compressor = {
        "compressor": (None, Tensor()),
        "filter": ([Tensor()], None),
        "both": ([Tensor(block_size=64)], numcodecs.Zlib(1)),
    }[role]
    with using(pipeline):
        for dtype in (*PLAIN, ">f4", "M8[ns]", "S5", ">U3", "V7", *ML_DTYPES):
            data = random_array(dtype, (13, 9))
            store = MemoryStore()
            options = {"filters": filters, "compressors": compressor, "order": order}
            made = zarr.create_array(
                store, shape=(13, 9), chunks=(5, 4), dtype=data.dtype, zarr_format=2, **options
            )
            made[:] = data
            found = zarr.open_array(store)
            assert bits(found[:]) == bits(data), dtype
            assert bits(found[2:11, 3]) == bits(data[2:11, 3]), dtype
