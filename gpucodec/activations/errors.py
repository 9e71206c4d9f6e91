# SPDX-License-Identifier: Apache-2.0
"""What can go wrong between a forward pass and its backward pass."""

from __future__ import annotations


class StreamError(RuntimeError):
    """A saved tensor cannot be given back: it could not be written, or not be read."""


class MutationError(StreamError):
    """A saved tensor was changed in place before it was safe: its gradient would be wrong."""
