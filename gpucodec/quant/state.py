# SPDX-License-Identifier: Apache-2.0
"""Which quantized formats an optimizer's state survives.

Adam divides by the square root of its second moment, so a value that is rounded to zero makes
the next step as large as the momentum over epsilon: thousands of times too large. That state
needs relative precision for every value. Everything else in training tolerates absolute errors,
and what is no float tensor of these kinds tolerates none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import UnsupportedError

if TYPE_CHECKING:
    from .config import QuantizeConfig

SIGNED_KINDS: Final = ("param", "master_weight", "grad", "exp_avg")
SECOND_MOMENTS: Final = ("exp_avg_sq", "max_exp_avg_sq")
RELATIVE_FORMATS: Final = ("log8", "mxfp8_e4m3", "mxfp8_e5m2")
MAX_RELATIVE_ERROR: Final = 0.25  # of a second moment: the step is then within an eighth


class StateFormatError(UnsupportedError):
    """A format that would damage the training state it is meant for."""


def check_state_format(kind: str, config: QuantizeConfig) -> None:
    """Refuse to quantize a kind of training state in a format that it does not survive.

    Parameters
    ----------
    kind
        "param", "master_weight", "grad", "exp_avg", "exp_avg_sq" or "max_exp_avg_sq". All others
        (steps, random states, buffers, unknown names) stay lossless.
    config
        The format in question.

    Raises
    ------
    StateFormatError
        With the reason.

    """
    if kind in SECOND_MOMENTS:
        reason = _second_moment(config)
    elif kind in SIGNED_KINDS:
        reason = _signed(kind, config)
    else:
        known = ", ".join((*SIGNED_KINDS, *SECOND_MOMENTS))
        reason = f"only {known} may be quantized; other state is exact or it is wrong"
    if reason:
        message = f"{config.format} with scales {config.scale_type} is not for {kind}: {reason}"
        raise StateFormatError(message)


def _second_moment(config: QuantizeConfig) -> str:
    if config.bound is not None and config.bound.rel is not None:
        if config.bound.rel <= MAX_RELATIVE_ERROR:
            return ""
        return f"a relative error of {config.bound.rel} is above {MAX_RELATIVE_ERROR}"
    if config.scale_type in {"f16", "e4m3"}:
        return (
            f"blocks of the second moment lie many orders of magnitude apart and a scale of type "
            f"{config.scale_type} rounds the small ones to zero; the optimizer divides by their "
            "square root, and training diverges. Use log8, or mxfp8_e4m3 with scales e8m0"
        )
    if config.format not in RELATIVE_FORMATS:
        return (
            "it rounds values far below their block's largest one to zero; the optimizer divides "
            f"by their square root. Use {' or '.join(RELATIVE_FORMATS)}, or an ErrorBound(rel=...)"
        )
    return ""


def _signed(kind: str, config: QuantizeConfig) -> str:
    if config.format == "log8":
        return "it is for values from 0 up; every negative one would be an exception"
    if kind in {"exp_avg", "grad"} and config.scale_type == "f16":
        return "its blocks' scales go below 6e-8, which float16 cannot hold. Use f32, bf16 or e8m0"
    return ""
