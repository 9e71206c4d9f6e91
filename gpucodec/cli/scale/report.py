# SPDX-License-Identifier: Apache-2.0
"""What was done with a store, for a person and for a program."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from ..console import rate, say, size
from .units import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

MOST_ERRORS: Final = 1000  # named; all are counted


@dataclass
class Report:
    """Sums over all units."""

    source: str
    target: str | None
    arrays: int
    total: Outcome = field(default_factory=Outcome)
    failed: int = 0
    """Chunks that are damaged, missing, or could not be written."""
    seconds: float = 0.0

    def add(self, outcome: Outcome) -> Iterator[str]:
        """Count a unit; yields what is to be told of it."""
        self.failed += len(outcome.findings)
        room = MOST_ERRORS - len(self.total.findings)
        outcome.findings = outcome.findings[:room]
        self.total += outcome
        yield from outcome.findings

    @property
    def ratio(self) -> float:
        """Decoded bytes over those of the target, or of the store that was verified."""
        return self.total.decoded_bytes / max(1, self.total.target_bytes)

    def to_json(self) -> str:
        """One object, the keys of which are documented in docs/cli.md."""
        total = self.total
        chunks = {"done": total.done, "skipped": total.skipped, "failed": self.failed}
        return json.dumps(
            {
                "source": self.source,
                **({} if self.target is None else {"target": self.target}),
                "arrays": self.arrays,
                "chunks": chunks,
                "decoded_bytes": total.decoded_bytes,
                "source_bytes": total.source_bytes,
                **({} if self.target is None else {"target_bytes": total.target_bytes}),
                "ratio": round(self.ratio, 4),
                "seconds": round(self.seconds, 3),
                "errors": total.findings,
            }
        )

    def show(self) -> None:
        """Two lines."""
        total = self.total
        if self.target is not None:
            before, after = size(total.source_bytes), size(total.target_bytes)
            say(f"{self.source} {before} -> {self.target} {after}")
        skipped = f", {total.skipped} there already" if self.target is not None else ""
        state = f"{self.failed} chunks failed, " if self.failed else "sound, "
        say(
            f"{self.target or self.source}: {state}{self.arrays} arrays, {total.done} chunks"
            f"{skipped}; ratio {self.ratio:.3f}, {self.seconds:.1f} s, "
            f"{rate(total.decoded_bytes, self.seconds)}"
        )
