# SPDX-License-Identifier: Apache-2.0
"""Which weights of a model are quantized, and as what.

Weights are quantized as matrices of one row for each output: blocks run along the last axis, and
those of a 3×3 convolution would have three values.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

from .. import QuantizeConfig

if TYPE_CHECKING:
    from collections.abc import Mapping

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]

WEIGHT: Final = QuantizeConfig("nf4", block_size=64, scale_type="bf16")


@dataclass(frozen=True)
class Quantize:
    """How weights and activations are quantized.

    Parameters
    ----------
    weights
        A format's name, a `QuantizeConfig`, "auto" (mixed precision: fewest bytes within `budget`),
        or None for exact weights. A name takes blocks of 64 with bf16 scales where the format
        allows.
    rules
        Exceptions by name: ``{"*embed*": "int8", "head.*": None}``, the first that matches counts.
    activations
        "int8", "int4" or None: inputs of linear layers and convolutions are rounded at run time,
        with one scale each, from the ranges seen in calibration.
    percentile
        Part of the magnitudes that a calibrated range covers; 1 takes the largest. Where less,
        what lies beyond is clipped.
    min_numel
        Smaller tensors, and vectors, stay exact.
    budget
        Of "auto": how much KL divergence of the outputs all weights together may add, in nats for
        each position; or, with `evaluate`, the relative loss of the metric (0.01: one percent).

    """

    weights: Any = WEIGHT
    rules: Mapping[str, Any] = field(default_factory=dict)
    activations: str | None = None
    percentile: float = 1.0
    min_numel: int = 4096
    budget: float = 0.01

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 1:
            raise ValueError(f"percentile is above 0 and at most 1, not {self.percentile}")
        if self.weights != "auto":
            config_of(self.weights)
        for chosen in self.rules.values():
            config_of(chosen)


def config_of(chosen: Any) -> QuantizeConfig | None:
    """A configuration, as given or by its format's name.

    Raises
    ------
    ValueError
        There is no such format.

    """
    if chosen is None or isinstance(chosen, QuantizeConfig):
        return chosen
    plain = QuantizeConfig(chosen)
    if plain.scale_type != "f32" or plain.format == "log8":
        return plain
    return QuantizeConfig(chosen, block_size=plain.block_size or 64, scale_type="bf16")


def plan(weights: Mapping[str, Any], config: Quantize, kept: Any) -> dict[str, QuantizeConfig]:
    """The configuration of each tensor that is quantized, by name.

    `kept` is what stands for "auto": a mapping of names, or None.
    """
    chosen: dict[str, QuantizeConfig] = {}
    for name, tensor in weights.items():
        if tensor.ndim < 2 or not tensor.is_floating_point():  # noqa: PLR2004
            continue
        if tensor.numel() < config.min_numel:
            continue
        rule = next((c for p, c in config.rules.items() if fnmatchcase(name, p)), Ellipsis)
        if rule is not Ellipsis:
            found = config_of(rule)
        elif config.weights == "auto":
            found = (kept or {}).get(name)
        else:
            found = config_of(config.weights)
        if found is not None:
            chosen[name] = found
    return chosen


def matrix(array: Array) -> Array:
    """A weight as the rows that are quantized and stored: [outputs, all else]."""
    return array.reshape(len(array), -1)
