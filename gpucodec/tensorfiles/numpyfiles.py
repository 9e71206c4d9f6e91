# SPDX-License-Identifier: Apache-2.0
"""NumPy's .npy and .npz, without pickles."""

from __future__ import annotations

import zipfile
from typing import IO, TYPE_CHECKING, Any

import numpy as np

from ..dtypes import from_numpy
from ..errors import CorruptionError, GpucodecError, UnsupportedError
from .tensors import Array, Contents, Tensor, as_bytes

if TYPE_CHECKING:
    from pathlib import Path

ONLY_NAME = "arr_0"  # what NumPy itself calls an array without a name


def read_npy(path: Path) -> Contents:
    """The one array of a file, memory-mapped.

    Raises
    ------
    CorruptionError
        Not a .npy file, or shorter than its header says.
    UnsupportedError
        An object array, or a data type that the format does not have.

    """
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        raise _refusal(path, error) from error
    return Contents("npy", [_tensor(ONLY_NAME, array.dtype, array.shape, lambda: array)])


def read_npz(path: Path) -> Contents:
    """The arrays of an archive; each is read when its turn comes. Raises as `read_npy`."""
    tensors = []
    try:
        with zipfile.ZipFile(path) as archive:
            for member in archive.namelist():
                name = member.removesuffix(".npy")
                with archive.open(member) as file:
                    dtype, shape = _npy_header(file)
                tensors.append(_tensor(name, dtype, shape, _member(path, name)))
    except (ValueError, EOFError, zipfile.BadZipFile) as error:
        raise _refusal(path, error) from error
    return Contents("npz", tensors)


def write_npy(path: Path, contents: Contents) -> None:
    """Write the only tensor.

    Raises
    ------
    UnsupportedError
        More or fewer than one tensor, or a data type that .npy cannot hold.

    """
    if len(contents.tensors) != 1:
        raise UnsupportedError(
            f".npy holds one tensor, there are {len(contents.tensors)}: use .npz or .safetensors"
        )
    with path.open("wb") as file:
        _write(file, contents.tensors[0])


def write_npz(path: Path, contents: Contents) -> None:
    """Write all tensors, stored without compression as `numpy.savez` does. Raises UnsupportedError."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for tensor in contents.tensors:
            with archive.open(f"{tensor.name}.npy", "w", force_zip64=True) as file:
                _write(file, tensor)


def _tensor(name: str, dtype: np.dtype[Any], shape: tuple[int, ...], opener: Any) -> Tensor:
    if dtype.hasobject:
        raise UnsupportedError(
            f"{name} is an object array: it holds a pickle, which is never loaded"
        )
    try:
        native = from_numpy(dtype).numpy
    except UnsupportedError as error:
        raise UnsupportedError(f"{name}: {error}") from error
    return Tensor(name, native, shape, opener)


def _member(path: Path, name: str) -> Any:
    def load() -> Array:
        try:
            with np.load(path, allow_pickle=False) as archive:
                return np.asarray(archive[name])
        except (ValueError, EOFError, zipfile.BadZipFile) as error:
            raise _refusal(path, error) from error

    return load


def _npy_header(file: IO[bytes]) -> tuple[np.dtype[Any], tuple[int, ...]]:
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0
    if version != (1, 0):
        read = np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    return dtype, shape


def _write(file: Any, tensor: Tensor) -> None:
    if np.dtype(tensor.dtype.str) != tensor.dtype:  # such as bfloat16, which it would call "V2"
        raise UnsupportedError(
            f".npy cannot hold {tensor.dtype} of {tensor.name}: use .safetensors or .pt"
        )
    header = {
        "descr": np.lib.format.dtype_to_descr(tensor.dtype),
        "fortran_order": False,
        "shape": tensor.shape,
    }
    np.lib.format.write_array_header_1_0(file, header)
    for _, piece in tensor.pieces():
        file.write(as_bytes(piece).data)


def _refusal(path: Path, error: Exception) -> GpucodecError:
    if isinstance(error, GpucodecError):  # which is a ValueError too
        return error
    if "allow_pickle" in str(error) or "Python objects" in str(error):
        return UnsupportedError(f"{path} holds a pickle, which is never loaded")
    return CorruptionError(f"{path}: {error}")
