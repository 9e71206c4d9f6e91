# SPDX-License-Identifier: Apache-2.0
"""The fsspec filesystem: compressed files that look like plain ones, over any other filesystem."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, ClassVar, Final

import numpy as np
from fsspec.asyn import AsyncFileSystem, _run_coros_in_chunks, get_loop, sync_wrapper
from fsspec.callbacks import DEFAULT_CALLBACK
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.chained import ChainedFileSystem
from fsspec.implementations.local import LocalFileSystem
from fsspec.registry import filesystem, get_filesystem_class

from ..errors import GpucodecError
from .batch import cat_ranges
from .encoder import WINDOW_BYTES, encoded
from .files import BlockAhead, DecodedFile, EncodingFile
from .indexes import Indexes
from .multipart import MultipartSink, takes_parts
from .reading import Request, clip, fill
from .sink import AppendSink, LocalSink, RemoteSink, put
from .source import Source, logical

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable

    from ..buffers import Bytes
    from .section import Index

READ_BYTES: Final = 16 << 20  # of contents, fetched and decoded at a time; several are under way
WAYS: Final = 8  # the most of them


class GpucodecFileSystem(AsyncFileSystem, ChainedFileSystem):  # type: ignore[misc] # not typed
    """Compresses every file written through it, and decodes of a file only what is read.

    Sizes are those of the contents; ``info`` has the stored size beside, as ``physical_size``.
    Files that it did not write are passed through unchanged. Files appear when they are complete.

    Parameters
    ----------
    fs
        The filesystem that stores the files; or
    target_protocol, target_options
        its protocol and the arguments to make it. In a URL, all that follows ``gpucodec::``.
    threads
        The most threads to use; all that `gpucodec.set_threads` allows by default.

    Examples
    --------
    >>> with fsspec.open("gpucodec::s3://bucket/model.safetensors", "wb") as file: ...

    """

    protocol: ClassVar[str] = "gpucodec"
    _strip_tokenize_options = ("fo",)
    _pid: int

    def __init__(
        self,
        fo: Any = None,  # noqa: ARG002 - the path in a chained URL
        fs: Any = None,
        target_protocol: str | None = None,
        target_options: dict[str, Any] | None = None,
        *,
        threads: int | None = None,
        asynchronous: bool = False,
        loop: Any = None,
        **options: Any,
    ) -> None:
        super().__init__(asynchronous=asynchronous, loop=loop, **options)
        if (fs is None) == (target_protocol is None):
            raise ValueError("give either a filesystem (fs) or its target_protocol")
        if fs is None:
            kind = get_filesystem_class(target_protocol)
            inherited = {"asynchronous": asynchronous, "loop": loop} if kind.async_impl else {}
            fs = filesystem(target_protocol, **{**inherited, **(target_options or {})})
        if fs.async_impl and fs.asynchronous != asynchronous:
            message = f"asynchronous is {asynchronous} here, but {fs.asynchronous} below"
            raise ValueError(message)
        self.fs = fs
        self.threads = threads
        self._below = fs if fs.async_impl else AsyncFileSystemWrapper(fs, asynchronous=asynchronous)
        self._local = isinstance(fs, LocalFileSystem)
        self._takes_parts = takes_parts(fs)
        self._indexes = Indexes(fs, self._below)

        own_part = super()._strip_protocol

        def strip(path: Any) -> Any:
            """As each filesystem below has its own paths, this is no class method here."""
            if isinstance(path, list):
                return [strip(one) for one in path]
            return fs._strip_protocol(own_part(path))

        self._strip_protocol = strip
        self._parent = fs._parent
        self.root_marker = fs.root_marker

    @property
    def loop(self) -> Any:
        """The event loop; in a forked child a new one, if the filesystem below needs none."""
        if self._pid != os.getpid() and not self.fs.async_impl and not self.asynchronous:
            self._pid, self._loop = os.getpid(), get_loop()
        return super().loop

    @property
    def fsid(self) -> str:
        """Of the filesystem below, with our name before it."""
        return f"gpucodec_{self.fs.fsid}"

    def unstrip_protocol(self, name: str) -> str:
        """The URL of a path."""
        return f"gpucodec::{self.fs.unstrip_protocol(self._strip_protocol(name))}"

    def invalidate_cache(self, path: str | None = None) -> None:
        """Forget listings of the filesystem below; what is known of files is checked at each use."""
        self.fs.invalidate_cache(path)
        super().invalidate_cache(path)

    # --- names: all of it is known below ----------------------------------------------------------

    async def _exists(self, path: str, **kwargs: Any) -> bool:
        return bool(await self._below._exists(self._strip_protocol(path), **kwargs))

    async def _isfile(self, path: str) -> bool:
        return bool(await self._below._isfile(self._strip_protocol(path)))

    async def _isdir(self, path: str) -> bool:
        return bool(await self._below._isdir(self._strip_protocol(path)))

    async def _mkdir(self, path: str, create_parents: bool = True, **kwargs: Any) -> None:
        path = self._strip_protocol(path)
        await self._below._mkdir(path, create_parents=create_parents, **kwargs)

    async def _makedirs(self, path: str, exist_ok: bool = False) -> None:
        await self._below._makedirs(self._strip_protocol(path), exist_ok=exist_ok)

    async def _rmdir(self, path: str) -> None:
        await self._below._rmdir(self._strip_protocol(path))

    rmdir = sync_wrapper(_rmdir)  # fsspec makes most of these itself, but not this

    async def _rm_file(self, path: str, **kwargs: Any) -> None:
        await self._below._rm_file(self._strip_protocol(path), **kwargs)

    async def _rm(self, path: Any, recursive: bool = False, **kwargs: Any) -> None:
        await self._below._rm(self._strip_protocol(path), recursive=recursive, **kwargs)

    async def _cp_file(self, path1: str, path2: str, **kwargs: Any) -> None:
        strip = self._strip_protocol
        await self._below._cp_file(strip(path1), strip(path2), **kwargs)

    def mv(self, path1: Any, path2: Any, **kwargs: Any) -> None:
        """Move files, as the filesystem below does."""
        self.fs.mv(self._strip_protocol(path1), self._strip_protocol(path2), **kwargs)

    def created(self, path: str) -> Any:
        """When the file was created."""
        return self.fs.created(self._strip_protocol(path))

    def modified(self, path: str) -> Any:
        """When the file was last changed."""
        return self.fs.modified(self._strip_protocol(path))

    # --- sizes --------------------------------------------------------------------------------------

    async def _info(self, path: str, **kwargs: Any) -> dict[str, Any]:
        info, index = await self._indexes.load(self._strip_protocol(path), **kwargs)
        return logical(info, index)

    async def _with_sizes(self, infos: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
        """Listings with logical sizes; damaged files keep their physical ones."""

        async def one(info: dict[str, Any]) -> dict[str, Any]:
            try:
                try:
                    return logical(info, await self._indexes.of(info))
                except GpucodecError:  # or the listing is older than the file
                    return logical(*await self._indexes.load(info["name"]))
            except (GpucodecError, OSError):
                return info

        return list(await _run_coros_in_chunks([one(info) for info in infos], nofiles=True))

    async def _ls(self, path: str, detail: bool = True, **kwargs: Any) -> list[Any]:
        found = await self._below._ls(self._strip_protocol(path), detail=detail, **kwargs)
        return await self._with_sizes(found) if detail else list(found)

    async def _find(
        self, path: str, maxdepth: int | None = None, withdirs: bool = False, **kwargs: Any
    ) -> Any:
        detail = kwargs.pop("detail", False)
        path = self._strip_protocol(path)
        kwargs |= {"maxdepth": maxdepth, "withdirs": withdirs, "detail": True}
        found = await self._below._find(path, **kwargs)
        return await self._detailed(found) if detail else list(found)

    async def _glob(self, path: str, maxdepth: int | None = None, **kwargs: Any) -> Any:
        detail = kwargs.pop("detail", False)
        ending = "/" if path.endswith("/") else ""  # asks for directories
        path = self._strip_protocol(path) + ending
        found = await self._below._glob(path, maxdepth=maxdepth, detail=True, **kwargs)
        return await self._detailed(found) if detail else list(found)

    async def _walk(
        self, path: str, maxdepth: int | None = None, **kwargs: Any
    ) -> AsyncIterator[tuple[str, Any, Any]]:
        detail = kwargs.pop("detail", False)
        path = self._strip_protocol(path)
        async for folder, dirs, files in self._below._walk(
            path, maxdepth=maxdepth, detail=True, **kwargs
        ):
            if detail:
                yield folder, dirs, await self._detailed(files)
            else:
                yield folder, list(dirs), list(files)

    async def _detailed(self, found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
        return dict(zip(found, await self._with_sizes(found.values()), strict=True))

    # --- reading ------------------------------------------------------------------------------------

    async def _cat_file(
        self, path: str, start: int | None = None, end: int | None = None, **kwargs: Any
    ) -> bytes:
        path = self._strip_protocol(path)
        info, index = await self._indexes.load(path)
        if index is None:
            return bytes(await self._below._cat_file(path, start=start, end=end, **kwargs))
        first, last = clip(start, end, index.size)
        out = np.empty(last - first, np.uint8)
        try:
            await self._read_into(path, index, first, last, out)
        except GpucodecError:
            if await self._indexes.changed(path, info) is None:
                raise
            return await self._cat_file(path, start, end, **kwargs)
        return out.tobytes()

    async def _read_into(self, path: str, index: Index, start: int, stop: int, out: Bytes) -> None:
        """Decode a range of a file's contents, long ones in pieces side by side."""

        async def read(at: int) -> None:
            end = min(at + READ_BYTES, stop)
            request = Request(index, at, end, out[at - start : end - start])
            begin, behind = request.stored
            payload = b""  # constant blocks have none
            if begin < behind:
                payload = await self._below._cat_file(path, start=begin, end=behind)
            await asyncio.to_thread(fill, [(request, payload)], self.threads)

        pieces = range(start, stop, READ_BYTES)
        if len(pieces) == 1:
            await read(start)
        elif pieces:
            await _run_coros_in_chunks([read(at) for at in pieces], batch_size=WAYS)

    async def _cat_ranges(
        self,
        paths: list[str],
        starts: Any,
        ends: Any,
        max_gap: int | None = None,
        batch_size: int | None = None,  # noqa: ARG002 - part of the interface
        on_error: str = "return",
        **_: Any,
    ) -> list[Any]:
        n = len(paths)
        starts = list(starts) if np.iterable(starts) else [starts] * n
        ends = list(ends) if np.iterable(ends) else [ends] * n
        if not n == len(starts) == len(ends):
            message = f"{n} paths, {len(starts)} starts, {len(ends)} ends"
            raise ValueError(message)
        names = [self._strip_protocol(path) for path in paths]
        ranges = list(zip(names, starts, ends, strict=True))
        found = await cat_ranges(self._below, self._indexes, ranges, max_gap or 0, self.threads)
        for i, one in enumerate(found):
            if isinstance(one, GpucodecError):  # damage, or a listing older than its file
                try:
                    found[i] = await self._cat_file(*ranges[i])
                except GpucodecError as error:
                    found[i] = error
        if on_error != "return":
            for one in found:
                if isinstance(one, BaseException):
                    raise one
        return found

    async def _get_file(
        self, rpath: str, lpath: Any, callback: Any = DEFAULT_CALLBACK, **kwargs: Any
    ) -> None:
        rpath = self._strip_protocol(rpath)
        info, index = await self._indexes.load(rpath)
        if info["type"] == "directory":
            os.makedirs(lpath, exist_ok=True)  # noqa: PTH103
            return
        if index is None:
            await self._below._get_file(rpath, lpath, callback=callback, **kwargs)
            return
        callback.set_size(index.size)
        out = np.empty(min(index.size, WAYS * READ_BYTES), np.uint8)
        with open(lpath, "wb") as file:  # noqa: ASYNC230, PTH123 - as fsspec's own do
            for at in range(0, index.size, max(1, out.size)):
                piece = out[: index.size - at]
                await self._read_into(rpath, index, at, at + piece.size, piece)
                await asyncio.to_thread(file.write, piece)
                callback.relative_update(piece.size)

    # --- writing ------------------------------------------------------------------------------------

    async def _pipe_file(
        self, path: str, value: Any, mode: str = "overwrite", **kwargs: Any
    ) -> None:
        path = self._strip_protocol(path)
        how = "xb" if mode == "create" else "wb"
        if self._local or self._intrans:

            def write() -> None:
                with self.open(path, how) as file:
                    file.write(value)

            await asyncio.to_thread(write)
            return
        if memoryview(value).nbytes > WINDOW_BYTES and self._takes_parts and not kwargs:
            await self._encode_into(path, how, lambda file: file.write(value))
            return
        data = await asyncio.to_thread(encoded, value, self.threads)
        await put(self._below, path, data, mode, **kwargs)
        self.invalidate_cache(path)

    async def _put_file(
        self,
        lpath: Any,
        rpath: str,
        mode: str = "overwrite",
        callback: Any = DEFAULT_CALLBACK,
        **_: Any,
    ) -> None:
        rpath = self._strip_protocol(rpath)
        if os.path.isdir(lpath):  # noqa: ASYNC240, PTH112
            await self._makedirs(rpath, exist_ok=True)
            return
        callback.set_size(os.path.getsize(lpath))  # noqa: ASYNC240, PTH202
        if mode == "create" and await self._exists(rpath):
            raise FileExistsError(rpath)

        def feed(file: EncodingFile) -> None:
            with open(lpath, "rb") as source:  # noqa: PTH123
                while piece := source.read(WINDOW_BYTES):
                    file.write(piece)
                    callback.relative_update(len(piece))

        await self._encode_into(rpath, "xb" if mode == "create" else "wb", feed)

    async def _encode_into(
        self, path: str, mode: str, feed: Callable[[EncodingFile], object]
    ) -> None:
        """Write what `feed` feeds to a file, in a thread, and let it appear."""
        sink = self._sink(path, mode, asyncio.get_running_loop())
        file = EncodingFile(self, path, mode, sink, threads=self.threads, autocommit=False)

        def encode() -> None:
            feed(file)
            file.close()
            if not isinstance(sink, RemoteSink):
                file.commit()

        try:
            await asyncio.to_thread(encode)
            if isinstance(sink, RemoteSink):
                await sink.upload()
        finally:
            await asyncio.to_thread(file.discard)
        self.invalidate_cache(path)

    def _sink(
        self, path: str, mode: str, loop: asyncio.AbstractEventLoop | None = None
    ) -> LocalSink | AppendSink | MultipartSink | RemoteSink:
        """Where a file's bytes go. `loop` is that of the filesystem below; by default its own."""
        if self._takes_parts and "a" not in mode:
            return MultipartSink(self.fs, path, mode, loop or self.loop)
        if not self._local:
            return RemoteSink(self.fs, self._below, path, mode, loop or self.loop)
        if self.fs.auto_mkdir:
            self.fs.makedirs(self._parent(path), exist_ok=True)
        if "a" in mode:
            return AppendSink(path)
        return LocalSink(path, exclusive="x" in mode)

    def _open(
        self,
        path: str,
        mode: str = "rb",
        block_size: int | None = None,
        autocommit: bool = True,
        cache_options: dict[str, Any] | None = None,
        cache_type: str | None = None,
        **kwargs: Any,
    ) -> Any:
        path = self._strip_protocol(path)
        start, new = 0, mode != "rb" and not self.fs.exists(path)
        if mode == "rb" or (mode == "ab" and not new):
            source = Source(self, path)
            if source.index is None and (mode == "rb" or source.info["size"]):
                source.close()
                if cache_type not in {None, BlockAhead.name}:
                    kwargs["cache_type"] = cache_type
                kwargs |= {"autocommit": autocommit, "cache_options": cache_options}
                return self.fs._open(path, mode, block_size, **kwargs)
            if mode == "rb":
                options = {"block_size": block_size, "cache_options": cache_options}
                return DecodedFile(self, path, source, cache_type or BlockAhead.name, **options)
            source.close()
            start = source.index.size if source.index is not None else 0
        elif mode == "xb" and not new:
            raise FileExistsError(path)
        elif mode not in {"wb", "xb", "ab"}:
            message = f"mode {mode!r} is not rb, wb, xb or ab"
            raise NotImplementedError(message)
        appended_to_nothing = mode == "ab" and new and not self._local  # not all can do that
        sink = self._sink(path, "wb" if appended_to_nothing else mode)
        return EncodingFile(
            self, path, mode, sink, autocommit=autocommit, start=start, threads=self.threads
        )
