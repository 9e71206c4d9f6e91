# SPDX-License-Identifier: Apache-2.0
"""The CUDA halves of the kernels, joined to the source of one module for NVRTC.

A module is compiled whole: no include paths, no build on the user's machine. Line numbers in a
compiler's messages are those of the ``.cu`` files.
"""

from __future__ import annotations

import re
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from . import lz_prelude, lz_spec, predictor_spec, quantprelude
from .spec import (
    ALIGNMENT,
    LZ,
    LZ_WORDS,
    MASK_BITS,
    PALETTE,
    PALETTE_MAX_BITS,
    RANS8,
    RANS12,
    ROW,
    prelude,
)

if TYPE_CHECKING:
    from collections.abc import Callable

FOLDER: Final = Path(__file__).parent
OPTIONS: Final = ("-std=c++17", "-fmad=false")  # the same floats as on a CPU
_QUANTIZED: Final = ("entries", "quantprelude", "minifloat", "scales", "elements", "blockwise")
MODULES: Final = {
    "decode": ("entries", "checksum", "planes", "rans", "decode_plane", "decode"),
    "decode_full": (
        *("entries", "checksum", "planes", "decode_plane"),
        *("palette", "sparse", "predictor", "decode_full"),
    ),
    "lz_decode": (
        *("entries", "checksum", "planes", "rans", "choose", "decode_plane"),
        *("lz_prelude", "lz_ops", "lz_table", "lz_numbers", "lz_streams", "lz_decode"),
    ),
    "lz_encode": (
        *("entries", "checksum", "planes", "rans", "choose"),
        *("lz_prelude", "lz_ops", "lz_table", "lz_numbers", "lz_streams"),
        *("lz_choose", "lz_match", "lz_encode", "lz_encode_blocks", "lz_shrink_blocks"),
    ),
    "encode": ("entries", "checksum", "planes", "rans", "choose", "encode"),
    "predictor_fit": (
        *("entries", "planes", "rans", "choose"),
        *("predictor_prelude", "predictor_fit"),
    ),
    "gather": ("gather",),
    "tensors": (*_QUANTIZED, "extent", "exceptions", "transpose"),
    **{
        f"quantize_{name.lower()}": (*_QUANTIZED, "quantize", "dequantize", f"entry_points {name}")
        for name in quantprelude.ELEMENTS
    },
    "encode_full": (
        *("entries", "checksum", "planes", "rans", "choose"),
        *("palette", "profiles", "sparse", "predictor", "encode_full"),
    ),
}
"""Which ``.cu`` files each module is made of, in order."""
_GENERATED: Final[dict[str, Callable[[], str]]] = {
    "lz_prelude": lz_prelude.prelude,
    "predictor_prelude": predictor_spec.prelude,
    "quantprelude": quantprelude.prelude,
    **{
        f"entry_points {name}": partial(quantprelude.entry_points, name)
        for name in quantprelude.ELEMENTS
    },
}
"""Parts that are made of numbers elsewhere."""

LZ_PLAN_BYTES: Final = 2048  # and what rounding takes
LZ_FIXED_BYTES: Final = 11 << 10  # of a block: what is planned, the slack, what rounding takes
_KERNEL = re.compile(r"^KERNEL\s+(\w+)\(([^)]*)\)", re.MULTILINE)


def _part(name: str) -> str:
    made = _GENERATED.get(name)
    text = made() if made else (FOLDER / name).read_text(encoding="utf-8")
    return f'#line 1 "{name}"\n{text}'


def joined(stems: tuple[str, ...]) -> str:
    """C++ source of the files of these names, behind what all of them need."""
    parts = (_part(stem if stem in _GENERATED else f"{stem}.cu") for stem in stems)
    return "\n".join([_part("warp.cuh"), '#line 1 "prelude"', prelude(), *parts])


@cache
def source(module: str) -> str:
    """The C++ source of a module."""
    return joined(MODULES[module])


def entry_points(text: str) -> dict[str, tuple[str, ...]]:
    """The kernels of a source with the types of their parameters."""
    return {
        name: tuple(parameter.strip().rpartition(" ")[0] for parameter in parameters.split(","))
        for name, parameters in _KERNEL.findall(text)
    }


@cache
def kernels(module: str) -> dict[str, tuple[str, ...]]:
    """The entry points of a module with the types of their parameters."""
    return entry_points(source(module))


# --- what kernels read of the host: the fields of entries.cu's Job ------------------------------------

JOB: Final = np.dtype(
    [
        *((name, "<u8") for name in ("words", "frame", "n_words", "first_block", "first_entry")),
        *((name, "<u8") for name in ("first_slot", "shape", "section", "section_bytes")),
        *((name, "<u8") for name in ("model", "n_rows", "first_word")),
        *((name, "<u4") for name in ("n_dims", "dtype_code", "block_log", "word_bytes")),
        *((name, "<u4") for name in ("transform", "n_planes", "flags", "n_columns")),
        *((name, "<u4") for name in ("tile_rows", "rank")),
        ("base", "<i4"),
        ("shift", "<u4"),
        ("bits", "u1", 16),
    ]
)
FIT: Final = np.dtype(  # of predictor_fit.cu
    [
        *((name, "<u8") for name in ("words", "found", "rows", "columns", "row_factors")),
        *((name, "<u8") for name in ("column_factors", "means", "sums", "counts", "energies")),
        *((name, "<u8") for name in ("logs", "rest", "q", "factor")),
        *((name, "<u8") for name in ("n_rows", "first_row", "first_group")),
        *((name, "<u4") for name in ("n_columns", "word_bytes", "shift", "max_rank")),
    ]
)
FOUND: Final = np.dtype(
    [(name, "<i8") for name in ("base", "tile_rows", "rank", "is_worth", "energy", "n_words")]
)
FIT_WARPS: Final = 8
FIT_THREADS: Final = 512
RUN: Final = np.dtype([(name, "<u8") for name in ("from", "n_bytes", "to")])  # of gather.cu
GATHER_THREADS: Final = 128
MERGE_THREADS: Final = 256
MASK_WARPS: Final = 8
ENCODE_WARPS: Final = 4
WAYS_THREADS: Final = 128
SPLIT_THREADS: Final = 256
PLACE_THREADS: Final = 128
SCAN_WARPS: Final = 8
LZ_PLACE_THREADS: Final = 128


class Decoder(NamedTuple):
    """The kernel that decodes planes of a coder into slots, and how it is launched."""

    kernel: str
    planes: int
    """Of a block of threads."""
    n_threads: int
    then: Decoder | None = None
    """What the same planes need behind that."""


_LZ: Final = Decoder("decode_lz_streams", 4, 128, Decoder("decode_lz_words", 1, 256))
DECODERS: Final = {
    RANS8: Decoder("decode_rans8", 8, 256),
    RANS12: Decoder("decode_rans12", 4, 128),
    **{PALETTE + bits: Decoder("decode_palettes", 1, 128) for bits in range(PALETTE_MAX_BITS + 1)},
    LZ: _LZ,
    LZ_WORDS: _LZ,
}
"""By coder. All of these kernels have the same parameters."""


def mask_slot_bytes(n_words: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Bytes for the mask of so many words, whole rows: `mask_at` of sparse.cu, rounded up."""
    n_rows = n_words // ROW
    symbols = -(-n_words // (MASK_BITS * ROW)) * ROW
    slot: np.ndarray[Any, Any] = symbols + -(-12 * n_rows // 16) * 16
    return slot


def lz_task_bytes(n_bytes: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Bytes that decoding so many bytes by LZ takes: those of `lz::Plan`, carries and symbols.

    Of `n` words of `w` bytes these are no more than `max(w, 3) n`, and half a byte for a sequence.
    """
    symbols = np.maximum(n_bytes, 7 * np.minimum(n_bytes, lz_spec.MAX_WORDS) // 2)
    room: np.ndarray[Any, Any] = -(-(symbols + LZ_PLAN_BYTES) // 256) * 256
    return room


def lz_block_bytes(n_bytes: int) -> int:
    """Bytes that encoding a block of so many bytes by LZ takes: `lz::Memory`, rounded up."""
    room = -(-n_bytes // ALIGNMENT) * ALIGNMENT
    sequences = -(-min(room // 2, lz_spec.MAX_WORDS) // ALIGNMENT) * ALIGNMENT
    table = max(2 * room, 8 << lz_spec.HASH_BITS)
    fixed = LZ_FIXED_BYTES + 3 * room + 6 * sequences + min(room, lz_spec.MAX_WORDS) + table
    return -(-fixed // 256) * 256
