# SPDX-License-Identifier: Apache-2.0
"""The numcodecs codec of quantization: for zarr v2, as compressor or filter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numcodecs.compat import ensure_ndarray_like

from ..buffers import is_on_gpu
from ..numcodecs import Frames
from .codec import decode_quantized, encode_quantized
from .config import QuantizeConfig

if TYPE_CHECKING:
    import numpy.typing as npt


class Quantize(Frames):
    """Blockwise quantization, entropy-coded; see `gpucodec.QuantizeConfig`.

    As everywhere in numcodecs, memory is encoded in the order in which it lies: an array in
    Fortran order decodes to its transpose, and blocks run along its first axis.

    Parameters
    ----------
    format, block_size, parameters
        As in `gpucodec.QuantizeConfig`; `bound` may be a mapping such as ``{"rel": 0.01}``.

    Examples
    --------
    >>> zarr.create_array(..., dtype="f4", zarr_format=2, compressors=Quantize("int8"))

    """

    codec_id: ClassVar[str] = "gpucodec.quantize"
    _config: QuantizeConfig
    _decode: ClassVar[Any] = staticmethod(decode_quantized)

    def __init__(self, format: str, block_size: int | None = None, **parameters: Any) -> None:  # noqa: A002 - the parameter's name in every binding
        given = {"format": format, "block_size": block_size, **parameters}
        self._config = QuantizeConfig.from_json(given)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Quantize) and self._config == other._config

    __hash__ = Frames.__hash__  # which a class loses that says what is equal

    def __repr__(self) -> str:
        return f"Quantize({', '.join(f'{k}={v!r}' for k, v in self._config.to_json().items())})"

    def encode(self, buf: Any) -> npt.NDArray[np.uint8]:
        """Quantize and encode an array of floats.

        Returns
        -------
        The frame, uint8[n].

        Raises
        ------
        UnsupportedError
            Not an array of floats.

        """
        array = buf if is_on_gpu(buf) else np.asarray(ensure_ndarray_like(buf))
        if array.flags.f_contiguous and not array.flags.c_contiguous:
            array = array.T
        return encode_quantized(array, self._config)
