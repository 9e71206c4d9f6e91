# SPDX-License-Identifier: Apache-2.0
"""A stream of bytes in, a section out, in the order in which it is written."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..codec import encode
from ..kernels import spec
from .choose import UNIT_BYTES, Choice, choices
from .section import end_of_section, head_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ..buffers import Bytes

WINDOW_BYTES: Final = 16 << 20  # encoded at a time: work for many threads, and the longest frame


class Encoder:
    """Encodes what it is fed; the bytes depend on nothing but the contents.

    Parameters
    ----------
    threads
        The most threads to use; all that `gpucodec.set_threads` allows by default.

    """

    def __init__(self, threads: int | None = None) -> None:
        self.threads = threads
        self.n_bytes = 0
        """Bytes fed so far."""
        self._held = bytearray()
        self._heads: list[bytes] = []
        self._choice: Choice | None = None
        self._begun = False

    def feed(self, data: Any) -> Iterator[Bytes]:
        """Take any contiguous buffer; yield what can be written already."""
        view = memoryview(data).cast("B")
        self.n_bytes += len(view)
        while len(self._held) + len(view) >= WINDOW_BYTES:
            room = WINDOW_BYTES - len(self._held)
            window: Any = view[:room]
            if self._held:
                self._held += window
                window, self._held = self._held, bytearray()
            view = view[room:]
            yield from self._encode(np.frombuffer(window, np.uint8))
        self._held += view

    def finish(self) -> Iterator[Bytes]:
        """Yield the rest of the section."""
        yield from self._encode(np.frombuffer(self._held, np.uint8))
        yield np.frombuffer(end_of_section(self._heads), np.uint8)

    def _encode(self, window: Bytes) -> Iterator[Bytes]:
        if not self._begun:
            self._begun = True
            yield np.frombuffer(spec.FILE_MAGIC, np.uint8)
        start, run = 0, self._choice
        for i, choice in enumerate(choices(window, self._choice)):
            at = i * UNIT_BYTES
            if run is not None and at > start and choice.kind != run.kind:
                yield from self._frames(window[start:at], run)
                start = at
            run = self._choice = choice
        if run is not None and start < window.size:
            yield from self._frames(window[start:], run)

    def _frames(self, raw: Bytes, choice: Choice) -> Iterator[Bytes]:
        """A run of units as one frame; what is left at the end of a file is bytes in another."""
        dtype, config = choice.kind
        whole = raw.size // dtype().itemsize * dtype().itemsize
        for piece in (raw[:whole].view(dtype), raw[whole:]):
            if piece.size:
                frame = encode(piece, config, threads=self.threads)
                self._heads.append(head_of(frame))
                yield frame


def encoded(data: Any, threads: int | None = None) -> bytes:
    """A whole file from its contents, any contiguous buffer."""
    encoder = Encoder(threads)
    return b"".join([*encoder.feed(data), *encoder.finish()])
