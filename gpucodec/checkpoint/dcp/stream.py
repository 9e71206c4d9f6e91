# SPDX-License-Identifier: Apache-2.0
"""An extension of torch's own DCP writers: their files, compressed as streams.

`ZarrWriter` does better (shards of any shape, slices, hashes that name the tensor); this is for
those who must keep `FileSystemWriter` or `FsspecWriter`::

    writer = FileSystemWriter(path, _extensions=[GpucodecStream()])
    reader = register(FileSystemReader(path))

The interface is experimental in torch.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, Final, TypeVar

from torch.distributed.checkpoint._extension import StreamTransformExtension

from ...errors import UnsupportedError
from ...fs.compression import open_stream

if TYPE_CHECKING:
    from typing import IO, Self

    Reader = TypeVar("Reader")

VERSION: Final = "1"


class GpucodecStream(StreamTransformExtension):  # type: ignore[misc] # torch has no types here
    """Compresses each item as the filesystem compresses a file ("On disk" in docs/filesystem.md).

    torch hands over bytes without a type; words are recognised in them, so floats of any size cost
    what they cost as tensors.
    """

    @staticmethod
    def registry_name() -> str:
        """What stands in the metadata of a checkpoint, before the version."""
        return "stream.gpucodec"

    @classmethod
    def from_descriptor(cls, version: str) -> Self:
        """The extension that reads what one of this version wrote.

        Raises
        ------
        UnsupportedError
            A later version.

        """
        if version.partition(".")[0] != VERSION:
            message = f"{cls.registry_name()} has version {version}, this gpucodec reads {VERSION}"
            raise UnsupportedError(message)
        return cls()

    def get_descriptor(self) -> str:
        """What stands in the metadata of a checkpoint."""
        return f"{self.registry_name()}/{VERSION}"

    def transform_to(self, output: IO[bytes]) -> IO[bytes]:
        """A stream whose bytes go to `output`, compressed. Closing it completes them.

        ``close`` raises ValueError if nothing was ever written: torch passes extensions by with
        ``SerializationFormat.SAFETENSORS``, and would leave files that nobody can read.
        """
        return _Writer(open_stream(output, "wb"))  # type: ignore[return-value]

    def transform_from(self, input: IO[bytes]) -> IO[bytes]:  # noqa: A002 - torch's name
        """A stream of what was written, which can seek. Raises GpucodecError if it is damaged."""
        stored = io.BytesIO(
            input.read()
        )  # torch's view of a file confuses its places with the file's
        return open_stream(stored)  # type: ignore[return-value]


def register(reader: Reader) -> Reader:
    """Teach a `FileSystemReader` or `FsspecReader` to read it; returns the reader."""
    transforms: Any = reader.transforms  # type: ignore[attr-defined]
    transforms.extension_registry.register(GpucodecStream)
    return reader


class _Writer(io.RawIOBase):
    def __init__(self, encoding: io.BufferedIOBase) -> None:
        self._encoding, self._is_used = encoding, False

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._is_used = True
        return self._encoding.write(data)

    def close(self) -> None:
        if self.closed:
            return
        super().close()
        if not self._is_used:
            raise ValueError("nothing went through the stream: SAFETENSORS takes no extensions")
        self._encoding.close()
