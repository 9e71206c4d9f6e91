# SPDX-License-Identifier: Apache-2.0
"""Which tensors of a file are quantized. Nothing is, unless a format is named."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..dtypes import from_numpy
from ..errors import UnsupportedError
from ..quant import ErrorBound, QuantizeConfig, StateFormatError, check_state_format
from ..quant.state import SECOND_MOMENTS
from ..quant.tensor import is_float
from .errors import CommandError

if TYPE_CHECKING:
    from ..tensorfiles.tensors import Contents, Tensor

_OPTIMIZER_STATE = {*SECOND_MOMENTS, "exp_avg"}


def config_of(format: str, bound: str | None) -> QuantizeConfig:  # noqa: A002
    """The configuration that options ask for; `bound` is like "rel=0.01".

    Raises
    ------
    CommandError
        `bound` is not one of abs, rel and range with a number.

    """
    if bound is None:
        return QuantizeConfig(format)
    kind, _, number = bound.partition("=")
    try:
        return QuantizeConfig(format, bound=ErrorBound(**{kind: float(number)}))
    except (TypeError, ValueError) as error:
        message = f"--bound is like rel=0.01, abs=1e-3 or range=1e-4, not {bound!r}"
        raise CommandError(message) from error


def describe(config: QuantizeConfig) -> str:
    """The format and what it promises, in a few words."""
    promise = "no bound"
    if config.bound is not None:
        [(kind, value)] = config.bound.to_json().items()
        promise = f"every finite value within {kind} {value:g}"
    return f"{config.format}, blocks of {config.block}, {promise}"


def reason_to_keep(tensor: Tensor, config: QuantizeConfig) -> str:
    """Why a tensor stays lossless; empty if it is to be quantized.

    Vectors and scalars are small, and norms and biases are sensitive. Optimizer state is known by
    the last part of its name.
    """
    try:
        quantizable = is_float(from_numpy(tensor.dtype))
    except (UnsupportedError, TypeError):  # complex numbers, strings
        quantizable = False
    if not quantizable:
        return "not of floats"
    if len(tensor.shape) < 2:  # noqa: PLR2004
        return "not a matrix"
    kind = tensor.name.replace("/", ".").rpartition(".")[2]
    if kind in _OPTIMIZER_STATE:
        try:
            check_state_format(kind, config)
        except StateFormatError as error:
            return str(error)
    return ""


def summary(contents: Contents, config: QuantizeConfig) -> list[str]:
    """Sentences: what is lossy, within which bound, and what is not, and why."""
    counts: dict[str, int] = {}
    for tensor in contents.tensors:
        reason = reason_to_keep(tensor, config)
        counts[reason] = counts.get(reason, 0) + 1
    n = counts.pop("", 0)
    kept = [f"lossless: {count} tensors, {reason}" for reason, count in counts.items()]
    return [f"LOSSY: {n} tensors as {describe(config)}", *kept]
