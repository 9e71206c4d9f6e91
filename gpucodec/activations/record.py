# SPDX-License-Identifier: Apache-2.0
"""One saved region: in memory, then on disk, then back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import torch

import gpucodec
from gpucodec.dtypes import BY_NAME

from . import device as devices
from .codecs import encode
from .errors import MutationError, StreamError
from .region import Region, empty_like, flat

if TYPE_CHECKING:
    from concurrent.futures import Future

    from gpucodec.buffers import Bytes

    from .engine import Engine
    from .storage import Slot


class Source:
    """The tensor that a region is copied from, by reference, and the version that was saved.

    torch's own check of versions is off for saved tensors that have hooks.
    """

    def __init__(self, tensor: Any, start: int, n: int) -> None:
        self.tensor = tensor
        self.start = start
        self.version = tensor._version
        self._flat = flat(tensor, start, n)
        self._event: Any = None
        if tensor.device.type != "cpu":
            self._flat, self._event = devices.start_copy(self._flat)

    @property
    def n_bytes(self) -> int:
        """Of the region."""
        return self._flat.nbytes  # type: ignore[no-any-return]

    def check(self) -> None:
        """Raise MutationError if the tensor was changed in place since."""
        now = self.tensor._version
        if now != self.version:
            message = (
                f"a saved tensor, {describe(self.tensor)}, was modified by an in-place operation "
                f"before it was on disk: it is at version {now}, saved at {self.version}. "
                "Use the operation that is not in place, or on_mutation='copy'"
            )
            raise MutationError(message)

    def encode(self, config: Any) -> Bytes:
        """The region as a frame."""
        if self._event is not None:
            self._event.synchronize()
        vector = self._flat
        name = str(vector.dtype).removeprefix("torch.")
        if name not in BY_NAME:
            vector = vector.view(torch.uint8)
        return encode(vector, name, config)


class Loaded(NamedTuple):
    """A region that is back in memory."""

    vector: Any
    start: int
    version: int
    """Of the vector when it was loaded: a backward function may write into what it is given."""


class Record:
    """What packed tensors refer to. The frame dies with it, and it with the graph.

    Changes of state are made under `Engine.changed`.
    """

    def __init__(self, engine: Engine, source: Source, region: Region, number: int) -> None:
        self.engine = engine
        self.region = region
        self.number = number
        """Position in the order of saving."""
        self.dtype = source.tensor.dtype
        self.device = source.tensor.device
        self.what = describe(source.tensor)
        self.n_bytes = source.n_bytes
        self.source: Source | None = source
        """Until the frame is written and the version has been checked."""
        self.slot: Slot | None = None
        self.error: BaseException | None = None
        self.loading: Future[Any] | None = None
        """A load under way, or done and not yet asked for."""
        self.loaded: Loaded | None = None
        """While other views of the region may be asked for."""
        self.n_views = 0
        self.n_unpacked = 0

    def read(self, slot: Slot) -> tuple[Any, int]:
        """The region back from disk, on the host: the vector, and where in it the region begins."""
        try:
            frame = self.engine.storage.read(slot)
            vector, start = empty_like(self.region, self.dtype, "cpu")
            gpucodec.decode(frame, vector[start:].view(torch.uint8))
        except (OSError, gpucodec.GpucodecError) as error:
            raise self._failure("be read back from", error) from error
        return vector, start

    def check(self) -> None:
        """Raise what went wrong, if anything did."""
        if self.error is not None:
            if isinstance(self.error, MutationError):
                raise MutationError(*self.error.args) from self.error
            raise self._failure("be written to", self.error) from self.error
        source = self.source
        if source is not None:
            source.check()

    def _failure(self, verb: str, error: BaseException) -> StreamError:
        where = self.engine.storage.where
        return StreamError(f"a saved tensor, {self.what}, could not {verb} {where}: {error}")


def describe(tensor: Any) -> str:
    """For messages: ``float32[8, 128] on cpu``."""
    name = str(tensor.dtype).removeprefix("torch.")
    return f"{name}{list(tensor.shape)} on {tensor.device}"
