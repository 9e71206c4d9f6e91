# SPDX-License-Identifier: Apache-2.0
"""zarr data types for bfloat16 and float8: usable with every codec, and by other zarr readers.

Names, fill values and byte order follow the zarr-extensions registry (``float8_e4m3fn``, which it
lacks, the tensorstore library). Where zarr brings a class of its own for such a name, it is used
instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import isnan
from typing import TYPE_CHECKING, Any, ClassVar

import ml_dtypes
import numpy as np
from zarr.dtype import ZDType, data_type_registry

from ._compat import DataTypeValidationError, HasEndianness, HasItemSize

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Self

_SPECIAL = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}


@dataclass(frozen=True, kw_only=True)
class _Float(ZDType[np.dtype[Any], np.generic], HasItemSize):
    """A floating-point data type of ml_dtypes."""

    native: ClassVar[np.dtype[Any]]

    @classmethod
    def from_native_dtype(cls, dtype: np.dtype[Any]) -> Self:
        """From a NumPy data type."""
        if not cls._check_native_dtype(dtype):
            message = f"{dtype} is not {cls._zarr_v3_name}"
            raise DataTypeValidationError(message)
        return cls._of_order(">" if dtype.byteorder == ">" else "<")

    @classmethod
    def _of_order(cls, order: str) -> Self:
        del order  # of one byte
        return cls()

    def to_native_dtype(self) -> np.dtype[Any]:
        """The NumPy data type."""
        return self.native

    @classmethod
    def _from_json_v2(cls, data: Any) -> Self:
        if data != {"name": cls._zarr_v3_name, "object_codec_id": None}:
            message = f"{data} is not {cls._zarr_v3_name}"
            raise DataTypeValidationError(message)
        return cls()

    @classmethod
    def _from_json_v3(cls, data: Any) -> Self:
        if data != cls._zarr_v3_name:
            message = f"{data} is not {cls._zarr_v3_name}"
            raise DataTypeValidationError(message)
        return cls()

    def to_json(self, zarr_format: int) -> Any:
        """The name; in zarr v2, as zarr wants it."""
        if zarr_format == 2:  # noqa: PLR2004
            return {"name": self._zarr_v3_name, "object_codec_id": None}
        return self._zarr_v3_name

    @property
    def item_size(self) -> int:
        """Bytes of an element."""
        return self.native.itemsize

    def default_scalar(self) -> Any:
        """All bits zero: the number zero, but for float8_e8m0fnu, which has none."""
        return np.zeros((), self.native)[()]

    def _check_scalar(self, data: object) -> bool:
        return isinstance(data, (int, float, np.number, self.native.type)) or (
            isinstance(data, str) and _parse(data) is not None
        )

    def cast_scalar(self, data: Any) -> Any:
        """The nearest number of this type.

        Raises
        ------
        TypeError
            Not a number.
        ValueError
            The type has no such number: an infinity, or one beyond its range.

        """
        if not self._check_scalar(data):
            message = f"{data!r} is not a number for {self._zarr_v3_name}"
            raise TypeError(message)
        if isinstance(data, self.native.type):
            return data
        parsed = _parse(data) if isinstance(data, str) else None
        number = float(data) if parsed is None else parsed
        scalar = np.array(number, np.float64).astype(self.native)[()]
        if not isnan(number) and isnan(float(scalar)):
            if number == 0:  # float8_e8m0fnu
                return self.default_scalar()
            message = f"{self._zarr_v3_name} has no {data!r}"
            raise ValueError(message)
        return scalar

    def from_json_scalar(self, data: Any, *, zarr_format: int) -> Any:
        """A number, "NaN", "Infinity", "-Infinity", or the bits in hexadecimal (v3)."""
        if isinstance(data, str) and data.startswith("0x") and zarr_format == 3:  # noqa: PLR2004
            raw = int(data, 16).to_bytes(self.item_size, "little")
            return np.frombuffer(raw, self.native)[0]
        return self.cast_scalar(data)

    def to_json_scalar(self, data: Any, *, zarr_format: int) -> Any:
        """As `from_json_scalar` reads it; NaNs other than the usual one keep their bits in v3."""
        scalar = self.cast_scalar(data)
        number = float(scalar)
        if isnan(number):
            raw = scalar.tobytes()
            usual = np.array(np.nan).astype(self.native).tobytes()
            if raw == usual or zarr_format == 2:  # noqa: PLR2004
                return "NaN"
            return f"0x{int.from_bytes(raw, 'little'):0{2 * self.item_size}x}"
        return next((name for name, value in _SPECIAL.items() if value == number), number)


def _parse(text: str) -> float | None:
    """A number spelt as in zarr's metadata, or as Python does; None if it is none."""
    if text in _SPECIAL:
        return _SPECIAL[text]
    try:
        return float(text)
    except ValueError:
        return None


@dataclass(frozen=True, kw_only=True)
class BFloat16(_Float, HasEndianness):
    """bfloat16."""

    native = np.dtype(ml_dtypes.bfloat16)
    dtype_cls = type(native)
    _zarr_v3_name = "bfloat16"

    @classmethod
    def _of_order(cls, order: str) -> Self:
        return cls(endianness="big" if order == ">" else "little")

    def to_native_dtype(self) -> np.dtype[Any]:
        """The NumPy data type; ml_dtypes gives it either byte order."""
        big: np.dtype[Any] = self.native.newbyteorder(">")
        return big if self.endianness == "big" else self.native


@dataclass(frozen=True, kw_only=True)
class Float8E4M3FN(_Float):
    """float8_e4m3fn: no infinities."""

    native = np.dtype(ml_dtypes.float8_e4m3fn)
    dtype_cls = type(native)
    _zarr_v3_name = "float8_e4m3fn"


@dataclass(frozen=True, kw_only=True)
class Float8E5M2(_Float):
    """float8_e5m2."""

    native = np.dtype(ml_dtypes.float8_e5m2)
    dtype_cls = type(native)
    _zarr_v3_name = "float8_e5m2"


@dataclass(frozen=True, kw_only=True)
class Float8E4M3FNUZ(_Float):
    """float8_e4m3fnuz: no infinities, one zero."""

    native = np.dtype(ml_dtypes.float8_e4m3fnuz)
    dtype_cls = type(native)
    _zarr_v3_name = "float8_e4m3fnuz"


@dataclass(frozen=True, kw_only=True)
class Float8E5M2FNUZ(_Float):
    """float8_e5m2fnuz: no infinities, one zero."""

    native = np.dtype(ml_dtypes.float8_e5m2fnuz)
    dtype_cls = type(native)
    _zarr_v3_name = "float8_e5m2fnuz"


@dataclass(frozen=True, kw_only=True)
class Float8E8M0FNU(_Float):
    """float8_e8m0fnu: powers of two, for scales; no zero."""

    native = np.dtype(ml_dtypes.float8_e8m0fnu)
    dtype_cls = type(native)
    _zarr_v3_name = "float8_e8m0fnu"


def _register() -> Mapping[str, type[ZDType[Any, Any]]]:
    """The class to use for each name: zarr's own, if it has one, else ours, then registered.

    zarr registers what the entry points name over a class of its own, so they must name that one.
    zarr 3.1.6 reads no entry points of data types: there, importing this module registers them.
    """
    chosen = {}
    for cls in (BFloat16, Float8E4M3FN, Float8E5M2, Float8E4M3FNUZ, Float8E5M2FNUZ, Float8E8M0FNU):
        name = cls._zarr_v3_name
        chosen[cls.__name__] = data_type_registry.contents.get(name, cls)
        data_type_registry.register(name, chosen[cls.__name__])
    return chosen


globals().update(_register())
