# SPDX-License-Identifier: Apache-2.0
"""How tensors are quantized: frozen, hashable, picklable values, equal to their JSON form."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, fields
from numbers import Real
from typing import TYPE_CHECKING, Any, Literal

from ..kernels import quantspec as spec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..kernels.quantspec import QuantSpec

Rounding = Literal["nearest", "stochastic"]
MIN_BLOCK = 1 << spec.MIN_BLOCK_LOG
MAX_BLOCK = 1 << spec.MAX_BLOCK_LOG


@dataclass(frozen=True, slots=True)
class ErrorBound:
    """A promise about every finite value; exactly one of the three is given.

    It is checked for each value while encoding, in the array's own data type; a value that would
    break it is stored as it is.

    Parameters
    ----------
    abs
        ``|decoded - value| <= abs``.
    rel
        ``|decoded - value| <= rel * |value|``.
    range
        ``|decoded - value| <= range * (largest - smallest finite value of the array)``.

    Raises
    ------
    ValueError
        Not exactly one is given, or it is negative or not finite.

    """

    abs: float | None = None
    rel: float | None = None
    range: float | None = None

    def __post_init__(self) -> None:
        given = {name: value for name, value in asdict(self).items() if value is not None}
        if len(given) != 1:
            message = f"an ErrorBound has one of abs, rel and range, not {len(given)} of them"
            raise ValueError(message)
        [(name, value)] = given.items()
        if isinstance(value, bool) or not isinstance(value, Real):
            message = f"an ErrorBound is a number, not {type(value).__name__}"
            raise TypeError(message)
        number = float(value)
        if not (math.isfinite(number) and number >= 0):
            message = f"an ErrorBound is finite and not negative, not {number}"
            raise ValueError(message)
        object.__setattr__(self, name, number)

    @property
    def kind(self) -> int:
        """Its number in the format."""
        return next(i for i, n in enumerate(spec.BOUND_KINDS) if n and getattr(self, n) is not None)

    @property
    def value(self) -> float:
        """The one that is given."""
        return float(getattr(self, spec.BOUND_KINDS[self.kind] or ""))

    def to_json(self) -> dict[str, float]:
        """The one that is given, by its name."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True)
class QuantizeConfig:
    """Lossy coding of a tensor: a code for each value, a scale for each block.

    What is None takes the format's default and is filled in.

    Parameters
    ----------
    format
        "int8", "int4", "int4_asym", "nf4", "dynamic8", "mxfp8_e4m3", "mxfp8_e5m2", "mxfp6_e2m3",
        "mxfp6_e3m2", "mxfp4", "nvfp4" or "log8" (values from 0 up, with the same relative
        precision everywhere).
    block_size
        Elements that share a scale, a power of two from 16 to 4,096.
    scale_type
        "f32", "bf16", "f16", "e8m0" (powers of two) or "e4m3" (times a float32 for the tensor).
    scaling_mode
        How a power of two is chosen for a scale of type "e8m0": "floor" (OCP MX, may saturate),
        "even", "rceil" (NVIDIA, does not saturate) or "ceil".
    rounding
        "nearest", or "stochastic": up or down at random, so that the mean error is zero.
    seed
        For stochastic rounding. The result depends on it and on each element's number, not on
        threads or machines.
    axis
        Blocks run along this axis. Others than the last are copied first. "auto", for "log8"
        alone, takes the last or the first axis, along which values are closer to each other.
    bound
        A promise about every value.

    Raises
    ------
    ValueError
        A value is unknown, or does not go with the format.

    """

    format: str
    block_size: int | None = None
    scale_type: str | None = None
    scaling_mode: str | None = None
    rounding: Rounding = "nearest"
    seed: int = 0
    axis: int | Literal["auto"] = -1
    bound: ErrorBound | None = None

    def __post_init__(self) -> None:
        _one_of("format", self.format, spec.BY_NAME)
        row = self.spec
        if self.block_size is None:
            object.__setattr__(self, "block_size", row.block_size)
        size = self.block_size
        if isinstance(size, bool) or not isinstance(size, int):
            message = f"block_size is an integer or None, not {type(size).__name__}"
            raise TypeError(message)
        if not MIN_BLOCK <= size <= MAX_BLOCK or size & (size - 1):
            message = f"block_size {size} is not a power of two from {MIN_BLOCK} to {MAX_BLOCK}"
            raise ValueError(message)
        if self.scale_type is None:
            object.__setattr__(self, "scale_type", spec.SCALE_TYPES[row.scale_type])
        _one_of("scale_type", self.scale_type, [spec.SCALE_TYPES[i] for i in row.scale_types])
        if self.scale_type == "e8m0":
            if self.scaling_mode is None:
                object.__setattr__(self, "scaling_mode", "rceil")
            _one_of("scaling_mode", self.scaling_mode, spec.SCALING_MODES)
        elif self.scaling_mode is not None:
            message = f"scaling_mode is for scale_type e8m0, not {self.scale_type}"
            raise ValueError(message)
        _one_of("rounding", self.rounding, spec.ROUNDINGS)
        if not isinstance(self.seed, int) or not 0 <= self.seed < 1 << 64:
            message = f"seed {self.seed} is not an integer from 0 to 2^64 - 1"
            raise ValueError(message)
        if self.axis == "auto" and self.format != "log8":
            message = f"axis auto is for log8, not {self.format}"
            raise ValueError(message)
        if self.axis != "auto" and (isinstance(self.axis, bool) or not isinstance(self.axis, int)):
            message = f'axis is an integer or "auto", not {self.axis!r}'
            raise ValueError(message)

    @property
    def spec(self) -> QuantSpec:
        """The format's row in the table."""
        return spec.BY_NAME[self.format]

    @property
    def block(self) -> int:
        """Elements of a full block."""
        assert self.block_size is not None
        return self.block_size

    @property
    def scale_code(self) -> int:
        """The scale type's number in the format."""
        assert self.scale_type is not None
        return spec.SCALE_TYPES.index(self.scale_type)

    @property
    def mode_code(self) -> int:
        """The scaling mode's number in the format; 0 where there is none."""
        return 0 if self.scaling_mode is None else spec.SCALING_MODES.index(self.scaling_mode)

    def to_json(self) -> dict[str, Any]:
        """The format and the parameters that differ from their defaults."""
        default = QuantizeConfig(self.format)
        changed = {
            field.name: getattr(self, field.name)
            for field in fields(self)
            if getattr(self, field.name) != getattr(default, field.name)
        }
        if self.scaling_mode == default.scaling_mode or (
            default.scaling_mode is None and self.scaling_mode == "rceil"
        ):
            changed.pop("scaling_mode", None)
        if self.bound is not None:
            changed["bound"] = self.bound.to_json()
        return {"format": self.format, **changed}

    @classmethod
    def from_json(cls, configuration: Mapping[str, Any]) -> QuantizeConfig:
        """Inverse of `to_json`; unknown parameters raise TypeError."""
        values = dict(configuration)
        bound = values.pop("bound", None)
        if bound is not None and not isinstance(bound, ErrorBound):
            bound = ErrorBound(**bound)
        return cls(**values, bound=bound)


def _one_of(name: str, value: Any, allowed: Any) -> None:
    if value not in allowed:
        message = f"{name} is one of {', '.join(allowed)}, not {value!r}"
        raise ValueError(message)
