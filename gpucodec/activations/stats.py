# SPDX-License-Identifier: Apache-2.0
"""What streaming did, and what it gained."""

from __future__ import annotations

from dataclasses import dataclass, field, fields


@dataclass
class DTypeStats:
    """Bytes of one data type."""

    raw_bytes: int = 0
    encoded_bytes: int = 0

    @property
    def ratio(self) -> float:
        """Raw over encoded bytes."""
        return self.raw_bytes / self.encoded_bytes if self.encoded_bytes else 1.0


@dataclass
class StreamStats:
    """Counts since the context was made, or of one step."""

    tensors: int = 0
    """Saved by autograd, all of them."""
    streamed: int = 0
    """Regions handed to the writers."""
    raw_bytes: int = 0
    """Written, before encoding."""
    encoded_bytes: int = 0
    """Written, as they lie on disk."""
    duplicates: int = 0
    """Tensors that shared the copy of another."""
    duplicate_bytes: int = 0
    weights: int = 0
    """Parameters, buffers and their casts, left where they are."""
    weight_bytes: int = 0
    kept: int = 0
    """Left in memory for another reason: small, filtered, of a kind that cannot be written."""
    kept_bytes: int = 0
    unwritten: int = 0
    """Regions whose graph was gone before they were written."""
    loads: int = 0
    """Read back from disk."""
    prefetched: int = 0
    """Of these, asked for before they were needed."""
    save_stall_s: float = 0.0
    """Seconds that forward waited for room."""
    load_stall_s: float = 0.0
    """Seconds that backward waited for a tensor."""
    peak_inflight_bytes: int = 0
    """Most raw bytes held for writers and readers at once."""
    by_dtype: dict[str, DTypeStats] = field(default_factory=dict)

    @property
    def ratio(self) -> float:
        """Raw over encoded bytes of what was written."""
        return self.raw_bytes / self.encoded_bytes if self.encoded_bytes else 1.0

    def since(self, before: StreamStats) -> StreamStats:
        """What happened after a snapshot; peak and types are those of the whole time."""
        values = {one.name: getattr(self, one.name) for one in fields(self)}
        for name, value in values.items():
            if name not in {"peak_inflight_bytes", "by_dtype"}:
                values[name] = value - getattr(before, name)
        return StreamStats(**values)

    def line(self) -> str:
        """One line for a log."""
        return (
            f"{self.raw_bytes / 1e6:.1f} MB of activations in {self.encoded_bytes / 1e6:.1f} MB "
            f"({self.ratio:.2f}x), {self.duplicate_bytes / 1e6:.1f} MB shared, "
            f"{self.weight_bytes / 1e6:.1f} MB weights, {self.kept_bytes / 1e6:.1f} MB kept; waited "
            f"{self.save_stall_s:.3f} s to save, {self.load_stall_s:.3f} s to load; "
            f"at most {self.peak_inflight_bytes / 1e6:.1f} MB in flight"
        )
