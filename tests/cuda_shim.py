# SPDX-License-Identifier: Apache-2.0
"""A device of `gpucodec.cuda` that runs the kernels on the host; see cuda_shim.h."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gpucodec.kernels import cuda

if TYPE_CHECKING:
    import pytest

    from gpucodec.dtypes import DType

HERE = Path(__file__).parent
COMPILER = shutil.which(os.environ.get("CXX", "g++"))
FLAGS = (
    "-std=c++17",
    "-O2",
    "-fPIC",
    "-shared",
    "-ffp-contract=off",
    "-Wall",
    "-Wextra",
    "-Wno-unknown-pragmas",
)
SANITIZERS = ("-g", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=undefined")
FUZZER = "clang++"  # the only compiler that instruments for libFuzzer
FUZZED = (
    *("-g", "-O1", "-fsanitize=address,undefined,fuzzer-no-link", "-D__SANITIZE_ADDRESS__"),
    "-fno-sanitize=function",  # which runtimes of other versions of clang do not have
    *("-fno-sanitize-recover=undefined", "-Wno-unused-const-variable", "-Wno-unused-function"),
)
ORDERS = ("round robin", "random thread", "random warp")


def available() -> bool:
    """Whether this machine can build the shim."""
    return COMPILER is not None and platform.machine() == "x86_64" and sys.platform == "linux"


def can_fuzz() -> bool:
    """Whether it can be built for a fuzzer."""
    return available() and shutil.which(FUZZER) is not None


def launchers(text: str) -> str:
    """C++ that calls each kernel of a source with arguments of 64 bits."""
    lines, names = [], []
    for name, kinds in cuda.entry_points(text).items():
        names.append(name)
        values = ", ".join(f"({kind})a[{i}]" for i, kind in enumerate(kinds))
        lines.append(f"static void call_{name}(const uint64_t* a) {{ {name}({values}); }}")
    table = "".join(f'{{"{name}", call_{name}}}, ' for name in names)
    return "\n".join([*lines, f"const Entry ENTRIES[] = {{{table}{{nullptr, nullptr}}}};\n"])


ALL = tuple(dict.fromkeys(stem for stems in cuda.MODULES.values() for stem in stems))


@cache
def build(
    stems: tuple[str, ...] = ALL,
    *,
    sanitize: bool = False,
    fuzz: bool = False,
    change: Callable[[str], str] | None = None,
    extra: str = "",
) -> ctypes.CDLL:
    """Compile the kernels of these files for the host, and load them.

    `sanitize` and `fuzz` need the sanitizers, and libFuzzer, in the process already. `change(text)` may plant a mistake, `extra` may add kernels.
    """
    text = cuda.joined(stems) + extra
    if change is not None:
        changed = change(text)
        assert changed != text, "nothing was changed"
        text = changed
    text = f'#include "cuda_shim.h"\n{text}\n{launchers(text)}'
    more = FUZZED if fuzz else SANITIZERS if sanitize else ()
    library = compile_library(text, FUZZER if fuzz else COMPILER, (*FLAGS, *more))
    shim = ctypes.CDLL(str(library))
    shim.shim_allocate.restype = ctypes.c_void_p
    shim.shim_allocate.argtypes = [ctypes.c_size_t]
    shim.shim_free.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    shim.shim_launch.restype = ctypes.c_char_p
    shim.shim_launch.argtypes = [
        *(ctypes.c_char_p, ctypes.c_uint, ctypes.c_uint),
        *(ctypes.c_void_p, ctypes.c_int, ctypes.c_uint64),
    ]
    return shim


def compile_library(text: str, compiler: str | None, flags: tuple[str, ...]) -> Path:
    """The shared library of a source, compiled once."""
    header = (HERE / "cuda_shim.h").read_bytes()
    key = hashlib.sha256(repr((compiler, flags, text)).encode() + header).hexdigest()[:24]
    folder = Path(tempfile.gettempdir()) / f"gpucodec-shim-{os.getuid()}"
    folder.mkdir(exist_ok=True, mode=0o700)
    library = folder / f"{key}.so"
    if not library.exists():
        with tempfile.TemporaryDirectory(dir=folder) as work:
            made = Path(work) / "shim.so"
            command = [str(compiler), *flags, "-x", "c++", "-", "-I", str(HERE), "-o", str(made)]
            clean = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"}  # sanitizers, for us
            done = subprocess.run(
                command, input=text, env=clean, text=True, capture_output=True, check=False
            )
            assert done.returncode == 0, done.stderr
            assert not done.stderr, done.stderr  # warnings
            made.rename(library)
    return library


class ShimError(RuntimeError):
    """A kernel did what CUDA leaves undefined."""


class Memory:
    """Memory of the "device": a piece of the heap, full of garbage."""

    def __init__(self, shim: ctypes.CDLL, n_bytes: int) -> None:
        self.shim, self.n_bytes = shim, n_bytes
        self.address = shim.shim_allocate(n_bytes)

    def __del__(self) -> None:
        self.shim.shim_free(self.address, self.n_bytes)

    @property
    def array(self) -> np.ndarray:
        """Its bytes, for tests."""
        kind = ctypes.c_uint8 * self.n_bytes
        return np.frombuffer(kind.from_address(self.address), np.uint8)


class ShimArray:
    """An array of the "device": contiguous, and known to the world by its interface only."""

    def __init__(
        self, memory: Memory, dtype: np.dtype, shape: tuple[int, ...], at: int = 0
    ) -> None:
        self.memory, self.dtype, self.shape, self.at = memory, dtype, shape, at
        self.readonly = False
        self.stream: int | None = None

    @property
    def __cuda_array_interface__(self) -> dict:
        return {
            "data": (self.memory.address + self.at, self.readonly),
            "shape": self.shape,
            "typestr": self.dtype.str,
            "version": 3,
            "stream": self.stream,
        }

    def __getitem__(self, index: slice) -> ShimArray:
        start, stop, _ = index.indices(self.shape[0])
        at = self.at + start * self.dtype.itemsize
        return ShimArray(self.memory, self.dtype, (stop - start, *self.shape[1:]), at)

    def numpy(self) -> np.ndarray:
        """A copy on the host."""
        size = int(np.prod(self.shape)) * self.dtype.itemsize
        data = self.memory.array[self.at : self.at + size]
        return data.copy().view(self.dtype).reshape(self.shape)


class ShimDevice:
    """A device of `gpucodec.cuda` on the host."""

    def __init__(self, order: int = 0, seed: int = 0, shim: ctypes.CDLL | None = None) -> None:
        self.shim = build() if shim is None else shim
        self.order, self.seed = order, seed
        self.calls: list[str] = []
        """Launches by kernel, and what waits for the device."""
        self.streams: set[int] = set()
        self.uploads = 0

    def put(self, array: np.ndarray, offset: int = 0) -> ShimArray:
        """A copy on the "device", `offset` bytes into its memory."""
        memory = self.allocate(array.nbytes + offset)
        flat = np.ascontiguousarray(array).reshape(-1).view(np.uint8)
        memory.array[offset : offset + array.nbytes] = flat
        return ShimArray(memory, array.dtype, array.shape, offset)

    def allocate(self, n_bytes: int, stream: int = 0) -> Memory:
        return Memory(self.shim, max(1, n_bytes))

    def upload(self, to: int, array: np.ndarray, stream: int = 0) -> None:
        self.streams.add(stream)
        self.uploads += 1
        ctypes.memmove(to, array.ctypes.data, array.nbytes)

    def upload_parts(self, to: int, parts, n_bytes: int, stream: int = 0) -> None:
        whole = np.full(n_bytes, 0xA5, np.uint8)
        for at, part in parts:
            whole[at : at + part.size] = part
        self.upload(to, whole, stream)

    def download(self, array: np.ndarray, at: int, stream: int = 0) -> None:
        self.streams.add(stream)
        self.calls.append("download")
        ctypes.memmove(array.ctypes.data, at, array.nbytes)

    def copy(self, to: int, at: int, n_bytes: int, stream: int = 0) -> None:
        self.streams.add(stream)
        ctypes.memmove(to, at, n_bytes)

    def clear(self, at: int, n_bytes: int, stream: int = 0) -> None:
        self.streams.add(stream)
        ctypes.memset(at, 0, n_bytes)

    def current_stream(self) -> int:
        return 0

    def follow(self, stream: int, other: int) -> None:
        self.calls.append(f"{stream} follows {other}")

    def array(self, dtype: DType, shape: tuple[int, ...]) -> ShimArray:
        size = int(np.prod(shape)) * dtype.itemsize
        return ShimArray(self.allocate(size), dtype.numpy, shape)

    def launch(
        self, kernel: str, n_blocks: int, n_threads: int, arguments, stream: int = 0
    ) -> None:
        self.streams.add(stream)
        self.calls.append(kernel)
        values = np.array([int(a) for a in arguments], np.uint64)
        wrong = self.shim.shim_launch(
            kernel.encode(), n_blocks, n_threads, values.ctypes.data, self.order, self.seed
        )
        if wrong is not None:
            raise ShimError(f"{kernel}: {wrong.decode()}")


def install(monkeypatch: pytest.MonkeyPatch, order: int = 1, seed: int = 7) -> ShimDevice:
    """Make the shim the device of `gpucodec.cuda`."""
    from gpucodec.cuda import device as devices

    shim = ShimDevice(order, seed)
    monkeypatch.setattr(devices, "find", lambda index: shim)
    return shim
