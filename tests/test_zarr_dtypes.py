# SPDX-License-Identifier: Apache-2.0
"""bfloat16 and float8 in zarr: spelt as the registry says, read by other implementations."""

from __future__ import annotations

import json
from typing import Any

import ml_dtypes
import numpy as np
import pytest
import zarr
from zarr.dtype import data_type_registry
from zarr.storage import LocalStore, MemoryStore
from zarr_stores import bits, dtype_of, random_array

import gpucodec.zarr
from gpucodec.zarr import dtypes
from gpucodec.zarr._compat import DataTypeValidationError

CLASSES = (
    gpucodec.zarr.BFloat16,
    gpucodec.zarr.Float8E4M3FN,
    gpucodec.zarr.Float8E5M2,
    gpucodec.zarr.Float8E4M3FNUZ,
    gpucodec.zarr.Float8E5M2FNUZ,
    gpucodec.zarr.Float8E8M0FNU,
)
NAMES = [cls._zarr_v3_name for cls in CLASSES]

pytestmark = pytest.mark.filterwarnings("ignore:invalid value encountered")  # zarr compares NaNs


@pytest.mark.parametrize("cls", CLASSES)
def test_bit_patterns_survive_metadata_as_fill_values(cls: Any) -> None:
    native = cls().to_native_dtype()
    kind, step = (np.uint8, 1) if native.itemsize == 1 else (np.uint16, 23)
    for scalar in np.arange(0, np.iinfo(kind).max + 1, step).astype(kind).view(native):
        text = json.dumps(cls().to_json_scalar(scalar, zarr_format=3), allow_nan=False)
        found = cls().from_json_scalar(json.loads(text), zarr_format=3)
        assert found.tobytes() == scalar.tobytes(), text
        text = json.dumps(cls().to_json_scalar(scalar, zarr_format=2), allow_nan=False)
        found = cls().from_json_scalar(json.loads(text), zarr_format=2)
        assert found.tobytes() == scalar.tobytes() or np.isnan(float(scalar)), text


def test_fill_values_are_spelt_as_zarr_specifies() -> None:
    bf16, fp8 = gpucodec.zarr.BFloat16(), gpucodec.zarr.Float8E4M3FN()
    for value, spelling in [
        (0, 0.0),
        (1.5, 1.5),
        (np.nan, "NaN"),
        (np.inf, "Infinity"),
        (-np.inf, "-Infinity"),
        (np.uint16(0x7FC1).view(ml_dtypes.bfloat16), "0x7fc1"),
    ]:
        assert bf16.to_json_scalar(value, zarr_format=3) == spelling
    assert fp8.from_json_scalar("0x7f", zarr_format=3).tobytes() == b"\x7f"
    assert fp8.to_json_scalar(np.nan, zarr_format=3) == "NaN"
    assert gpucodec.zarr.Float8E8M0FNU().cast_scalar(0).tobytes() == b"\0"  # as tensorstore does


def test_what_is_no_value_of_the_type_is_refused() -> None:
    fp8 = gpucodec.zarr.Float8E4M3FN()
    for value in ("abc", [1], None, "0x7f", 1j, b"1"):
        with pytest.raises(TypeError, match="float8_e4m3fn"):
            fp8.cast_scalar(value)
    for value in (np.inf, 1e6):
        with pytest.raises(ValueError, match="float8_e4m3fn has no"):
            fp8.cast_scalar(value)
    for cls in CLASSES:
        with pytest.raises(DataTypeValidationError):
            cls.from_native_dtype(np.dtype("f4"))
        with pytest.raises(DataTypeValidationError):
            cls.from_json("float32", zarr_format=3)
        with pytest.raises(DataTypeValidationError):
            cls.from_json({"name": "<f4", "object_codec_id": None}, zarr_format=2)


@pytest.mark.parametrize("zarr_format", [2, 3])
@pytest.mark.parametrize("name", NAMES)
def test_arrays_work_with_any_codec(name: str, zarr_format: Any) -> None:
    data = random_array(name, (30, 20))
    for options in ({"compressors": None}, {} if zarr_format == 3 else {"compressors": None}):
        store = MemoryStore()
        made = zarr.create_array(
            store, shape=(30, 20), chunks=(10, 10), dtype=name, zarr_format=zarr_format, **options
        )
        made[:] = data
        found = zarr.open_array(store)
        assert found.dtype == dtype_of(name)
        assert bits(found[:]) == bits(data)
        assert found.dtype.itemsize * 600 == found.nbytes


@pytest.mark.parametrize("endian", ["little", "big"])
def test_bfloat16_of_either_byte_order_is_read_and_written(endian: Any) -> None:
    store, data = MemoryStore(), random_array("bfloat16", (64,))
    serializer = zarr.codecs.BytesCodec(endian=endian)
    options = {"serializer": serializer, "compressors": None, "chunks": (64,)}
    made = zarr.create_array(store, shape=(64,), dtype="bfloat16", **options)
    made[:] = data
    assert bits(zarr.open_array(store)[:]) == bits(data)
    raw = store._store_dict["c/0"].as_numpy_array().view("<u2" if endian == "little" else ">u2")
    np.testing.assert_array_equal(raw, data.view(np.uint16))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("driver", ["zarr3", "zarr"])
def test_tensorstore_reads_what_we_write_and_the_reverse(
    name: str, driver: str, tmp_path: Any
) -> None:
    tensorstore = pytest.importorskip("tensorstore")
    data = random_array(name, (30, 20))
    spec = {"driver": driver, "kvstore": {"driver": "file", "path": str(tmp_path / "ours")}}
    many = [{}, {"shards": (20, 20)}] if driver == "zarr3" else [{"compressors": None}]
    for options in many:
        made = zarr.create_array(
            LocalStore(tmp_path / "ours"),
            shape=data.shape,
            chunks=(10, 10),
            dtype=name,
            zarr_format=3 if driver == "zarr3" else 2,
            overwrite=True,
            **options,
        )
        made[:] = data
        read = tensorstore.open(spec).result()
        assert read.dtype.name == name
        assert bits(read[...].read().result()) == bits(data)
    spec["kvstore"] = {"driver": "file", "path": str(tmp_path / "theirs")}
    dtype = {"data_type": name} if driver == "zarr3" else {"dtype": name, "compressor": None}
    spec["metadata"] = {"shape": list(data.shape), **dtype}
    theirs = tensorstore.open(spec, create=True).result()
    theirs[...].write(data).result()
    assert bits(zarr.open_array(tmp_path / "theirs", mode="r")[:]) == bits(data)


def test_a_class_of_zarrs_own_is_preferred() -> None:
    ours = gpucodec.zarr.BFloat16
    theirs = type("BFloat16", (ours,), {})
    data_type_registry.contents["bfloat16"] = theirs
    try:
        assert dtypes._register()["BFloat16"] is theirs
        assert data_type_registry.contents["bfloat16"] is theirs
    finally:
        data_type_registry.contents["bfloat16"] = ours
