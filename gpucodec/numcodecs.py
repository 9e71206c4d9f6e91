# SPDX-License-Identifier: Apache-2.0
"""The numcodecs codecs: for zarr v2, as compressor or filter, and for everything else that
takes numcodecs codecs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numcodecs.abc import Codec
from numcodecs.compat import (
    ensure_contiguous_ndarray,
    ensure_contiguous_ndarray_like,
    ensure_ndarray_like,
)

import gpucodec

from .buffers import is_on_gpu
from .config import LZConfig, TensorConfig
from .views import carrier

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt


class Frames(Codec):  # type: ignore[misc] # numcodecs is not typed
    """A codec whose encoded form is a frame."""

    _config: Any
    _decode: ClassVar[Any] = staticmethod(gpucodec.decode)

    def get_config(self) -> dict[str, Any]:
        """The id and the parameters that differ from their defaults, as JSON."""
        return {"id": self.codec_id, **self._config.to_json()}

    def __hash__(self) -> int:
        return hash((self.codec_id, self._config))

    def decode(self, buf: Any, out: Any = None) -> Any:
        """Decode a frame.

        Parameters
        ----------
        buf
            The frame: any buffer, or a CuPy array; what is on a GPU decodes to an array there.
        out
            Contiguous writable buffer or array with exactly the decoded number of bytes.

        Returns
        -------
        `out`, or else an array of the frame's data type and shape.

        Raises
        ------
        GpucodecError
            The frame is damaged, truncated, or not one.
        TypeError
            `out` holds objects.
        ValueError
            `out` has another size, or is not contiguous.

        """
        if out is None:
            return self._decode(_bytes(buf))
        self._decode(_bytes(buf), out=flat(out))
        return out


class Tensor(Frames):
    """Lossless coding of tensors; see `gpucodec.TensorConfig`.

    Encoding keeps the data type, so hand over the typed array, not its bytes. As everywhere in
    numcodecs, memory is encoded in the order in which it lies; an array in Fortran order decodes
    flat. Types that the format does not have are encoded through a view
    (`gpucodec.views.carrier`) and decode to that view.

    Parameters
    ----------
    block_size, profile, lz
        As in `gpucodec.TensorConfig`.

    Examples
    --------
    >>> zarr.create_array(store, shape=..., dtype="f4", zarr_format=2, compressors=Tensor())

    """

    codec_id: ClassVar[str] = "gpucodec.tensor"

    def __init__(
        self, block_size: int | None = None, profile: str = "ratio", lz: bool | None = None
    ) -> None:
        self._config = TensorConfig(block_size, profile, lz)
        self.block_size, self.profile, self.lz = block_size, profile, lz

    def encode(self, buf: Any) -> npt.NDArray[np.uint8]:
        """Encode an array or buffer.

        Parameters
        ----------
        buf
            Array of any shape and of any data type but object, or any buffer.

        Returns
        -------
        The frame, uint8[n].

        Raises
        ------
        TypeError
            The array holds objects.

        """
        return gpucodec.encode(_words(buf), self._config)

    def encode_batch(self, bufs: Iterable[Any]) -> list[npt.NDArray[np.uint8]]:
        """Encode several arrays at once: the same frames as `encode`, with less overhead."""
        return gpucodec.encode_batch([_words(buf) for buf in bufs], self._config)

    def decode_batch(self, bufs: Iterable[Any], out: Sequence[Any] | None = None) -> list[Any]:
        """Decode several frames at once, into the buffers `out` if given; as `decode`."""
        frames = [_bytes(buf) for buf in bufs]
        if out is None:
            return list(gpucodec.decode_batch(frames))
        gpucodec.decode_batch(frames, out=[flat(one) for one in out])
        return list(out)

    def max_encoded_size(self, shape: Sequence[int], dtype: npt.DTypeLike) -> int:
        """The most bytes that `encode` returns for an array of this shape and data type."""
        given = np.dtype(dtype)
        words = carrier(given)
        if words.itemsize == given.itemsize:
            return gpucodec.max_encoded_size(tuple(shape), words, self._config)
        n_words = int(np.prod(shape, dtype=object)) * (given.itemsize // words.itemsize)
        return gpucodec.max_encoded_size((n_words,), words, self._config)


class LZ(Frames):
    """Lossless coding of anything with repetitions, as bytes; see `gpucodec.LZConfig`.

    As with numcodecs' other compressors, what comes back are bytes, in the order in which the memory
    lay. Typed arrays tell their element size; that of bytes is detected.

    Parameters
    ----------
    level, typesize
        As in `gpucodec.LZConfig`.

    Examples
    --------
    >>> zarr.create_array(store, shape=..., dtype="i8", zarr_format=2, compressors=LZ())

    """

    codec_id: ClassVar[str] = "gpucodec.lz"
    _config: LZConfig

    def __init__(
        self, level: Literal["fast", "ratio"] = "fast", typesize: int | None = None
    ) -> None:
        self._config = LZConfig(level, typesize)
        self.level = level
        self.typesize = typesize

    def encode(self, buf: Any) -> npt.NDArray[np.uint8]:
        """Encode an array or buffer, of any data type but object; the frame, uint8[n]."""
        array = flat(buf)
        return gpucodec.encode(_bytes(array), self._config.for_elements(array.dtype.itemsize))


def _words(buf: Any) -> npt.NDArray[Any]:
    """The memory of `buf` as an array of a data type that the format has, in its order."""
    array = buf if is_on_gpu(buf) else np.asarray(ensure_ndarray_like(buf))
    words = carrier(array.dtype)
    if array.flags.f_contiguous and not array.flags.c_contiguous:
        array = array.reshape(-1, order="F")
    if array.dtype == words:
        return array
    if array.dtype.itemsize == 0:  # "U0", "V0"
        return np.empty(0, words)
    one = array.reshape(-1)
    one = (one if one.flags.c_contiguous else one.copy()).view(words)
    return one.reshape(array.shape) if words.itemsize == array.dtype.itemsize else one


def flat(buf: Any) -> Any:
    """Contiguous memory as an array of one dimension, where it is."""
    return ensure_contiguous_ndarray_like(buf) if is_on_gpu(buf) else ensure_contiguous_ndarray(buf)


def _bytes(buf: Any) -> npt.NDArray[np.uint8]:
    return flat(buf).view(np.uint8)  # type: ignore[no-any-return]
