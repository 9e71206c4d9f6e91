# SPDX-License-Identifier: Apache-2.0
"""What storing and moving checkpoints costs, at prices and bandwidths that are given."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from .report import CompressionReport

GB: Final = 1e9  # as storage is sold


@dataclass(frozen=True)
class Prices:
    """Prices in one currency, and speeds. The defaults are round numbers, not an offer."""

    storage_gb_month: float = 0.023
    egress_gb: float = 0.09
    bandwidth: float = 1.25e9
    """Bytes a second: 10 Gbit/s."""
    months: float = 12.0
    """How long each checkpoint is kept."""
    reads: int = 1
    """How often each is read back across the network."""

    def __post_init__(self) -> None:
        if self.bandwidth <= 0:
            raise ValueError(f"bandwidth is above 0 bytes a second, not {self.bandwidth}")


@dataclass(frozen=True)
class Cost:
    """What N checkpoints of one size cost."""

    what: str
    n: int
    nbytes: int
    """Of all of them."""
    write_seconds: float
    """Encoding and transfer, one after the other."""
    read_seconds: float
    storage: float
    transfer: float

    @property
    def total(self) -> float:
        """Storage and transfer."""
        return self.storage + self.transfer


def cost(
    what: str,
    nbytes: int,
    n: int,
    prices: Prices | None = None,
    *,
    encode_seconds: float = 0.0,
    decode_seconds: float = 0.0,
) -> Cost:
    """Storage, time and money of `n` checkpoints of `nbytes` each.

    >>> made = cost("fp32", 10**9, 1000, Prices(storage_gb_month=0.02, egress_gb=0.1))
    >>> made.storage, made.transfer, made.write_seconds
    (240.0, 100.0, 800.0)
    """
    prices = prices or Prices()
    total = n * nbytes
    one = nbytes / prices.bandwidth
    return Cost(
        what,
        n,
        total,
        n * (encode_seconds + one),
        n * prices.reads * (decode_seconds + one),
        total / GB * prices.storage_gb_month * prices.months,
        total / GB * prices.egress_gb * prices.reads,
    )


def add_costs(report: CompressionReport, n: int, prices: Prices | None = None) -> None:
    """Add what `n` checkpoints of this model cost, as it was, coded without loss, and compressed."""
    before, after = report.stages[0].nbytes, report.stages[-1].nbytes
    spent = {
        "encode_seconds": report.encode_seconds,
        "decode_seconds": report.decode_seconds,
    }
    report.costs = [
        cost("as it was", before, n, prices),
        cost("coded, lossless", report.coded_original, n, prices, **spent),
        cost("compressed", after, n, prices, **spent),
    ]
