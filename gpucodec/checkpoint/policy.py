# SPDX-License-Identifier: Apache-2.0
"""How each tensor of a checkpoint is encoded: rules by name, kind and data type."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from math import prod
from typing import Any, Final

from .. import QuantizeConfig, TensorConfig, check_state_format
from ..config import DEFAULT_CONFIG
from . import codecs
from .kinds import KINDS

QUANTIZABLE: Final = ("float64", "float32", "float16", "bfloat16")
MIN_NUMEL: Final = 4096  # smaller state is not worth a loss; bitsandbytes has the same limit


@dataclass(frozen=True)
class Rule:
    """One rule of a `Policy`.

    Parameters
    ----------
    config
        A `gpucodec.TensorConfig` (lossless) or a `gpucodec.QuantizeConfig`.
    name
        A pattern for the tensor's name, such as ``model/*.weight`` (`fnmatch`, with case).
    kinds
        Kinds it is for; empty for all but "other".
    dtypes
        Data types it is for; empty for all. Quantization is for floats in any case.
    min_numel
        The fewest elements it is for.

    """

    config: Any
    name: str = "*"
    kinds: tuple[str, ...] = ()
    dtypes: tuple[str, ...] = ()
    min_numel: int = 0

    def __post_init__(self) -> None:
        codecs.to_json(self.config)
        unknown = sorted(set(self.kinds) - set(KINDS))
        if isinstance(self.kinds, str) or unknown:
            raise ValueError(f"kinds are a tuple of {', '.join(KINDS)}, not {self.kinds!r}")
        if not isinstance(self.config, TensorConfig):
            for kind in self.kinds:
                check_state_format(kind, self.config)

    def matches(self, name: str, kind: str, dtype: str, shape: tuple[int, ...]) -> bool:
        """Whether it is for this tensor."""
        is_lossy = not isinstance(self.config, TensorConfig)
        if is_lossy and (dtype not in QUANTIZABLE or not shape or kind == "other"):
            return False  # steps and random states are exact, whatever a rule says
        return (
            (kind in self.kinds if self.kinds else True)
            and (dtype in self.dtypes if self.dtypes else True)
            and prod(shape) >= self.min_numel
            and fnmatchcase(name, self.name)
        )


@dataclass(frozen=True)
class Policy:
    """Rules, of which the first that matches a tensor counts; without any, it is lossless.

    >>> from gpucodec import TensorConfig
    >>> Policy((Rule(TensorConfig(block_size=4096), name="*embed*"),)).name
    'custom'
    """

    rules: tuple[Rule, ...] = ()
    name: str = "custom"

    def config(self, name: str, kind: str, dtype: str, shape: tuple[int, ...]) -> Any:
        """How to encode a tensor.

        Raises
        ------
        StateFormatError
            A rule without kinds would quantize a tensor whose kind does not survive the format.

        """
        for rule in self.rules:
            if rule.matches(name, kind, dtype, shape):
                if not isinstance(rule.config, TensorConfig):
                    check_state_format(kind, rule.config)
                return rule.config
        return DEFAULT_CONFIG


def _resume() -> Policy:
    """Weights exact; Adam's moments in 8 bits, the second with relative precision."""
    return Policy(
        (
            Rule(QuantizeConfig("int8"), kinds=("exp_avg",), min_numel=MIN_NUMEL),
            Rule(QuantizeConfig("log8", axis="auto"), kinds=("exp_avg_sq",), min_numel=MIN_NUMEL),
        ),
        "resume",
    )


def _archive() -> Policy:
    """Weights exact; the first moment, which tolerates it, in 4 bits."""
    return Policy(
        (
            Rule(QuantizeConfig("nf4"), kinds=("exp_avg",), min_numel=MIN_NUMEL),
            Rule(QuantizeConfig("log8", axis="auto"), kinds=("exp_avg_sq",), min_numel=MIN_NUMEL),
            Rule(QuantizeConfig("int8"), kinds=("grad",), min_numel=MIN_NUMEL),
        ),
        "archive",
    )


PRESETS: Final = {
    "lossless": lambda: Policy(name="lossless"),
    "resume": _resume,
    "archive": _archive,
}


def policy_of(policy: Policy | str) -> Policy:
    """A policy, or the preset of that name.

    Raises
    ------
    ValueError
        There is no such preset.

    """
    if isinstance(policy, Policy):
        return policy
    if policy not in PRESETS:
        raise ValueError(f"policy is a Policy or one of {', '.join(PRESETS)}, not {policy!r}")
    return PRESETS[policy]()
