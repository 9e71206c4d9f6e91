# SPDX-License-Identifier: Apache-2.0
"""What is to become small, and the ways of encoding that may make it so."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from ..config import DEFAULT_CONFIG, TensorConfig

if TYPE_CHECKING:
    from ..quant import ErrorBound

PLAIN: Final = TensorConfig(profile="plain")
FAST: Final = TensorConfig(profile="fast")
ALWAYS_LZ: Final = TensorConfig(lz=True)
NEVER_LZ: Final = TensorConfig(lz=False)
SMALL_BLOCKS: Final = TensorConfig(block_size=16384)
WAYS: Final = (
    DEFAULT_CONFIG,
    TensorConfig(profile="auto"),
    FAST,
    PLAIN,
    ALWAYS_LZ,
    NEVER_LZ,
    SMALL_BLOCKS,
)
"""Lossless ways to encode a tensor; the first is the default."""
GOALS: Final = {
    # the default writes what is smallest of more than "fast", "plain", "auto" and lz=False write
    "smallest": (DEFAULT_CONFIG, ALWAYS_LZ, SMALL_BLOCKS),
    # and small blocks and LZ wherever possible are more work than the default
    "fastest": (DEFAULT_CONFIG, FAST, PLAIN, NEVER_LZ),
    "durable": (DEFAULT_CONFIG, FAST, PLAIN, ALWAYS_LZ, NEVER_LZ, SMALL_BLOCKS),
}
"""Ways that can be the best, by goal."""
BOUNDED: Final = ("int8", "int4", "nf4", "mxfp8_e4m3", "log8")
"""Formats that are tried if a bound is given, which each of them keeps."""


@dataclass(frozen=True)
class Objective:
    """What is minimized: bytes, seconds of encoding, or seconds until the bytes are written.

    Parameters
    ----------
    goal
        "smallest", "fastest" or "durable".
    bandwidth
        Bytes a second of the storage, for "durable".
    bound
        Lossy ways are allowed that keep this bound for every value; for weights, moments and
        gradients. Without it, nothing is lossy.

    Raises
    ------
    ValueError
        No such goal, or "durable" without a bandwidth.

    """

    goal: str = "smallest"
    bandwidth: float | None = None
    bound: ErrorBound | None = None

    def __post_init__(self) -> None:
        if self.goal not in GOALS:
            raise ValueError(f"goal is one of {', '.join(GOALS)}, not {self.goal!r}")
        if self.goal == "durable" and not (self.bandwidth or 0) > 0:
            raise ValueError(f"durable needs a bandwidth in bytes a second, not {self.bandwidth}")

    def value(self, nbytes: float, seconds: float) -> float:
        """The figure to make small."""
        if self.goal == "smallest":
            return nbytes
        if self.goal == "fastest":
            return seconds
        assert self.bandwidth is not None
        return seconds + nbytes / self.bandwidth

    def ways(self, kind: str, dtype: str) -> list[Any]:
        """The configurations that a tensor may get, the default first."""
        found: list[Any] = list(GOALS[self.goal])
        if self.bound is None or kind in {"other", "buffer"}:
            return found
        from ..quant import QuantizeConfig, StateFormatError, check_state_format

        if dtype not in {"float32", "float64", "float16", "bfloat16"}:
            return found
        for name in BOUNDED:
            config = QuantizeConfig(name, bound=self.bound)
            try:
                check_state_format(kind, config)
            except StateFormatError:
                continue
            if name != "log8" or kind == "exp_avg_sq":
                found.append(config)
        return found


@cache
def key(config: Any) -> str:
    """A configuration as text."""
    return json.dumps(config.to_json(), sort_keys=True)


DEFAULT: Final = key(DEFAULT_CONFIG)
