# SPDX-License-Identifier: Apache-2.0
"""Reads DLPack capsules, for arrays on a GPU that speak nothing else.

Structures are those of dlpack.h 1.1. The capsule is not consumed: it is held, and with it the array's memory;
it calls its producer's deleter when it goes.
"""

from __future__ import annotations

import ctypes
from typing import Any, NamedTuple

from ..dtypes import BY_NAME, DType
from ..errors import UnsupportedError

LEGACY_STREAM = 1  # as producers are told: CUDA's default stream, with which others are in order
READ_ONLY = 1  # of the flags
FLOATS = {
    (8, 10): "float8_e4m3fn",
    (8, 11): "float8_e4m3fnuz",
    (8, 12): "float8_e5m2",
    (8, 13): "float8_e5m2fnuz",
    (8, 14): "float8_e8m0fnu",
    (16, 4): "bfloat16",
}
KINDS = {0: "int", 1: "uint", 2: "float", 5: "complex"}


class _Device(ctypes.Structure):
    _fields_ = (("kind", ctypes.c_int32), ("index", ctypes.c_int32))


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device", _Device),
        ("n_dims", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("offset", ctypes.c_uint64),
    )


class _Versioned(ctypes.Structure):
    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", ctypes.c_void_p),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_IS = ctypes.pythonapi.PyCapsule_IsValid
_IS.argtypes = (ctypes.py_object, ctypes.c_char_p)
_POINTER = ctypes.pythonapi.PyCapsule_GetPointer
_POINTER.argtypes = (ctypes.py_object, ctypes.c_char_p)
_POINTER.restype = ctypes.c_void_p


class Found(NamedTuple):
    """What a capsule says."""

    capsule: Any
    address: int
    shape: tuple[int, ...]
    strides: tuple[int, ...] | None
    """In bytes; None if the array is contiguous in C order by its producer's word."""
    dtype: DType | None
    """None if the format has no such type."""
    type_name: str
    itemsize: int
    readonly: bool


def read(source: Any) -> Found:
    """What the capsule of an array says, whose elements are complete for `LEGACY_STREAM`.

    Raises
    ------
    UnsupportedError
        The elements are no whole bytes, or the capsule is of a later major version.

    """
    try:
        capsule = source.__dlpack__(stream=LEGACY_STREAM, max_version=(1, 1))
    except TypeError:  # from before there were versions
        capsule = source.__dlpack__(stream=LEGACY_STREAM)
    flags = 0
    if _IS(capsule, b"dltensor_versioned"):
        versioned = _Versioned.from_address(_POINTER(capsule, b"dltensor_versioned"))
        if versioned.major != 1:
            message = f"{type(source).__name__} exports DLPack {versioned.major}, known is 1"
            raise UnsupportedError(message)
        tensor, flags = versioned.tensor, versioned.flags
    else:
        tensor = _Tensor.from_address(_POINTER(capsule, b"dltensor"))
    type_name = _name(tensor)
    if tensor.bits % 8 or tensor.lanes != 1:
        message = f"array of DLPack type {type_name} x {tensor.lanes}: no whole bytes an element"
        raise UnsupportedError(message)
    itemsize, n_dims = tensor.bits // 8, tensor.n_dims
    strides = tuple(tensor.strides[i] * itemsize for i in range(n_dims)) if tensor.strides else None
    return Found(
        *(capsule, (tensor.data or 0) + tensor.offset, tuple(tensor.shape[:n_dims]), strides),
        *(BY_NAME.get(type_name), type_name, itemsize, bool(flags & READ_ONLY)),
    )


def _name(tensor: _Tensor) -> str:
    bits, code = tensor.bits, tensor.code
    if code == 6:  # noqa: PLR2004 - kDLBool
        return "bool"
    if code in KINDS:
        return f"{KINDS[code]}{bits}"
    return FLOATS.get((bits, code), f"code {code} of {bits} bits")
