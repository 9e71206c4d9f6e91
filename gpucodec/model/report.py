# SPDX-License-Identifier: Apache-2.0
"""What a compression did, stage by stage: the figures, and JSON of them."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .activations import Range
    from .cost import Cost
    from .graph import Passes
    from .quality import Agreement, Recovery


@dataclass(frozen=True)
class Stage:
    """The result of a stage, measured."""

    name: str
    parts: Mapping[str, int]
    """Bytes by what they are: values, mask, codes, scales, exceptions, graph; of files, their
    groups."""
    seconds: float
    peak_bytes: int
    metric: float | None = None

    @property
    def nbytes(self) -> int:
        """All of it."""
        return sum(self.parts.values())


@dataclass(frozen=True)
class TensorReport:
    """A weight."""

    name: str
    dtype: str
    shape: tuple[int, ...]
    n_kept: int
    """Values that are not zero after pruning."""
    format: str
    original_bytes: int
    stored_bytes: int
    recovery: Recovery

    @property
    def n(self) -> int:
        """Number of values."""
        return math.prod(self.shape)

    @property
    def bits(self) -> float:
        """Stored bits a value."""
        return 8 * self.stored_bytes / max(1, self.n)


@dataclass(frozen=True)
class ExportReport:
    """A file for another runtime."""

    format: str
    path: str
    nbytes: int
    seconds: float
    """Median of one call on the example inputs."""
    agreement: Agreement
    """Its outputs against those of the compressed model."""


@dataclass
class CompressionReport:
    """Everything `compress_model` measured.

    Stages come in the order original, prune, quantize, export (the graph is added), graph, code.
    Bytes of the last are those of the files on disk.
    """

    url: str
    n: int
    """N: parameters and buffers of the original; those that share memory count once."""
    stages: list[Stage]
    tensors: list[TensorReport]
    passes: Passes | None
    ranges: list[Range]
    higher_is_better: bool
    agreement: Agreement
    coded_original: int
    """Bytes of the original weights, coded without any other stage."""
    encode_seconds: float
    encode_peak_bytes: int
    decode_seconds: float
    decode_peak_bytes: int
    mask_entropy_bits: float
    """Order-0 entropy of all masks together, bits a weight: what a perfect coder would need."""
    exports: list[ExportReport] = field(default_factory=list)
    costs: list[Cost] = field(default_factory=list)

    def stage(self, name: str) -> Stage:
        """The stage of this name. Raises KeyError."""
        for one in self.stages:
            if one.name == name:
                return one
        raise KeyError(name)

    @property
    def m(self) -> int:
        """M: parameters that are not zero after pruning."""
        return sum(one.n_kept for one in self.tensors)

    @property
    def original_bits(self) -> float:
        """Bits of an original parameter."""
        return 8 * self.stage("original").nbytes / max(1, self.n)

    @property
    def beta(self) -> float:
        """Bits of a kept value after quantization (scales, exceptions and all) over before."""
        before, after = self.stage("prune"), self.stage("quantize")
        return _without(after, "mask") / max(1, _without(before, "mask"))

    @property
    def gamma(self) -> float:
        """Bytes of weights and graph, after the graph's passes over before: may be above 1."""
        return self.stage("graph").nbytes / self.stage("export").nbytes

    @property
    def delta(self) -> float:
        """Bytes on disk over bytes before coding."""
        return self.stage("code").nbytes / self.stage("graph").nbytes

    @property
    def alpha(self) -> float:
        """V'/V: bytes on disk over bytes of the original weights."""
        return self.stage("code").nbytes / self.stage("original").nbytes

    @property
    def naive(self) -> float:
        """The product as textbooks have it: M/N, code bits over bits, gamma, and the coder's ratio
        on the *original* weights. It leaves out masks and scales, and takes stages for independent.
        """
        codes = self.stage("quantize").parts
        kept = max(1, self.m) * self.original_bits / 8
        nominal = (codes.get("codes", 0) + codes.get("values", 0)) / kept
        coder = self.coded_original / self.stage("original").nbytes
        return self.m / max(1, self.n) * min(1.0, nominal) * self.gamma * coder

    @property
    def scale_bits(self) -> float:
        """Bits of scales for each parameter, before coding."""
        return 8 * self.stage("quantize").parts.get("scales", 0) / max(1, self.n)

    @property
    def metric(self) -> tuple[float, float] | None:
        """The task's metric before and after, if it was evaluated."""
        before, after = self.stage("original").metric, self.stage("code").metric
        return None if before is None or after is None else (before, after)

    @property
    def relative_loss(self) -> float | None:
        """How much worse the metric became, relative to before: 0.01 is one percent worse."""
        if self.metric is None:
            return None
        before, after = self.metric
        worse = before - after if self.higher_is_better else after - before
        return worse / max(abs(before), 1e-300)

    def to_json(self) -> str:
        """All figures, raw and derived; infinities are strings."""
        derived = (
            *("m", "original_bits", "beta", "gamma", "delta", "alpha", "naive"),
            *("scale_bits", "relative_loss"),
        )
        content = asdict(self)
        content["derived"] = {name: getattr(self, name) for name in derived}
        for made, stage in zip(content["stages"], self.stages, strict=True):
            made["nbytes"] = stage.nbytes
        return json.dumps(_plain(content), indent=1, allow_nan=False)

    def print(self) -> None:
        """Print the figures as tables."""
        from .table import show

        show(self)

    def save_html(self, path: Any) -> None:
        """Write one page with plots that needs nothing else. Raises as `page.html`."""
        from pathlib import Path

        from .page import html

        Path(path).write_text(html(self), encoding="utf-8")


def _without(stage: Stage, role: str) -> int:
    return stage.nbytes - stage.parts.get(role, 0)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(one) for one in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value
