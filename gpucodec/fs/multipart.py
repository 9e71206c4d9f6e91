# SPDX-License-Identifier: Apache-2.0
"""Uploads to S3 that go on while the next bytes are encoded, in parts that appear together or not at all."""

from __future__ import annotations

import asyncio
import errno
import secrets
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

from .sink import creation

if TYPE_CHECKING:
    from collections.abc import Coroutine
    from concurrent.futures import Future

    from ..buffers import Bytes

PART_BYTES: Final = 16 << 20
WAYS: Final = 4  # parts under way at once: 64 MiB
GROWTH: Final = 1000  # after so many parts they are twice as long: 10,000, S3's limit, are 5 TB
LABEL: Final = "gpucodec-upload"  # of an object's metadata: which upload made it


def takes_parts(fs: Any) -> bool:
    """Whether `fs` is s3fs, whose requests are used here."""
    protocol = fs.protocol
    names = (protocol,) if isinstance(protocol, str) else protocol
    return "s3" in names and hasattr(fs, "_call_s3")


class MultipartSink:
    """Sends parts as they fill up; what is smaller than one part is sent at the end.

    An upload that is not completed shows no object. s3fs tries failed requests again.

    Parameters
    ----------
    fs
        An `s3fs.S3FileSystem`.
    loop
        The event loop that it works on, which is never the caller's thread's.

    """

    def __init__(self, fs: Any, path: str, mode: str, loop: asyncio.AbstractEventLoop) -> None:
        self._fs, self._path, self._mode, self._loop = fs, path, mode, loop
        bucket, key, _ = fs.split_path(path)
        self._place = {"Bucket": bucket, "Key": key}
        self._condition = {"IfNoneMatch": "*"} if "x" in mode else {}
        self._label = secrets.token_hex(8)
        self._held = bytearray()
        self._upload: str | None = None
        self._parts: list[str] = []
        self._under_way: deque[Future[Any]] = deque()

    def write(self, piece: Bytes) -> None:
        """Take some more bytes; waits while too many parts are under way."""
        self._held += memoryview(piece)
        while len(self._held) >= (size := self._part_bytes()):
            with memoryview(self._held) as held:
                part = bytes(held[:size])
            del self._held[:size]
            self._send(part)

    def _part_bytes(self) -> int:
        n_parts = len(self._parts) + len(self._under_way)
        fixed = getattr(self._fs, "fixed_upload_size", False)  # asked for by some other stores
        return PART_BYTES if fixed else PART_BYTES << n_parts // GROWTH

    def _send(self, part: bytes) -> None:
        if self._upload is None:
            metadata = {**self._fs.s3_additional_kwargs.get("Metadata", {}), LABEL: self._label}
            begin = self._fs._call_s3("create_multipart_upload", **self._place, Metadata=metadata)
            self._upload = self._submit(begin).result()["UploadId"]
        while len(self._under_way) >= WAYS:
            self._parts.append(self._under_way.popleft().result()["ETag"])
        number = len(self._parts) + len(self._under_way) + 1
        request = self._fs._call_s3(
            "upload_part", **self._place, UploadId=self._upload, PartNumber=number, Body=part
        )
        self._under_way.append(self._submit(request))

    def _submit(self, request: Coroutine[Any, Any, Any]) -> Future[Any]:
        return asyncio.run_coroutine_threadsafe(request, self._loop)

    def commit(self) -> None:
        """Send the rest, and let the object appear."""
        try:
            if self._upload is None:
                mode = creation(self._mode)
                whole = bytes(self._held)
                self._submit(self._fs._pipe_file(self._path, whole, mode=mode)).result()
            else:
                self._complete()
        except OSError as error:
            self.discard()
            if self._condition and error.errno == errno.EINVAL and self._exists():
                raise FileExistsError(self._path) from error
            raise
        except BaseException:
            self.discard()
            raise
        self._held.clear()
        self._fs.invalidate_cache(self._path)

    def _complete(self) -> None:
        if self._held:
            self._send(bytes(self._held))
        while self._under_way:
            self._parts.append(self._under_way.popleft().result()["ETag"])
        parts = [{"PartNumber": i, "ETag": tag} for i, tag in enumerate(self._parts, 1)]
        request = self._fs._call_s3(
            "complete_multipart_upload",
            **self._place,
            UploadId=self._upload,
            MultipartUpload={"Parts": parts},
            **self._condition,
        )
        try:
            self._submit(request).result()
        except Exception:
            if not self._is_there():
                raise
        self._upload = None

    def _is_there(self) -> bool:
        """Whether the upload was completed, and only the answer got lost before another try."""
        try:
            found = self._submit(self._fs._call_s3("head_object", **self._place)).result()
        except Exception:  # noqa: BLE001 - then the first error is the one to tell
            return False
        return bool(found["Metadata"].get(LABEL) == self._label)

    def _exists(self) -> bool:
        """Whether the server's refusal means that the object is there."""
        return bool(self._submit(self._fs._exists(self._path)).result())

    def discard(self) -> None:
        """Stop what is under way, and have the server drop what it has."""
        self._held.clear()
        upload, self._upload = self._upload, None
        if upload is None:
            return
        stopped = self._submit(self._abort(upload, list(self._under_way)))
        self._under_way.clear()
        with suppress(RuntimeError):  # collected as garbage on the loop's own thread: goes on there
            if asyncio.get_running_loop() is self._loop:
                return
        with suppress(OSError):  # a rule of the bucket removes it one day
            stopped.result()

    async def _abort(self, upload: str, under_way: list[Future[Any]]) -> None:
        for future in under_way:
            future.cancel()
        waiting = [asyncio.wrap_future(future) for future in under_way]
        await asyncio.gather(*waiting, return_exceptions=True)  # a part must not arrive later
        await self._fs._call_s3("abort_multipart_upload", **self._place, UploadId=upload)
