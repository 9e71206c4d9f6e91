# SPDX-License-Identifier: Apache-2.0
"""The container: write, parse and validate headers and block tables. Host only.

The layout is `docs/format.md`. Nothing here touches payloads.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from functools import cache, cached_property, lru_cache
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .dtypes import BY_CODE, DType
from .errors import CorruptionError, LimitError, TruncatedError, UnsupportedError
from .kernels import spec

if TYPE_CHECKING:
    from .buffers import Bytes

_HEADER = struct.Struct(spec.HEADER_FORMAT)
_ARRAY_BYTES_MAX = (1 << 63) - 1
_FLAGS = spec.STORED | spec.SPARSE | spec.PREDICTED
_LARGE_BLOCKS = spec.SPARSE | spec.STORED
_KNOWN_CODERS = sum(1 << coder for coder in spec.CODER_NAMES)
_LZ_CODERS = 1 << spec.LZ | 1 << spec.LZ_WORDS
_PALETTE_CODERS = (2 << spec.PALETTE_MAX_BITS) - 1 << spec.PALETTE


@cache
def _kernels() -> tuple[Any, Any]:
    """Numba is imported on first use."""
    from .kernels.checksum import hash_bytes
    from .kernels.entries import locate_payloads

    return hash_bytes, locate_payloads


def _align(size: int) -> int:
    return -(-size // spec.ALIGNMENT) * spec.ALIGNMENT


def _table_end(n_dims: int, n_blocks: int, n_entries: int) -> int:
    """Bytes of header, shape, hashes, entries (of which a block has `n_entries`) and padding."""
    return _align(spec.HEADER_BYTES + 8 * n_dims + n_blocks * (8 + 4 * n_entries))


def plane_bits(dtype: DType, flags: int) -> tuple[int, ...]:
    """Widths of the planes of a frame's words; none if they are stored."""
    if flags & spec.STORED:
        return ()
    if flags & spec.PREDICTED:
        return spec.PREDICTED_TYPES[dtype.name].planes
    return dtype.spec.planes


def entries_a_block(dtype: DType, flags: int) -> int:
    """Entries of a block: one for each plane, and two more in sparse frames."""
    return len(plane_bits(dtype, flags)) + (2 if flags & spec.SPARSE else 0)


def _raw_plane_bytes(n_symbols: int, bits: int) -> int:
    return n_symbols if bits == 8 else bits * -(-n_symbols // spec.ROW) * spec.ROW // 8  # noqa: PLR2004


def max_encoded_bytes(dtype: DType, shape: tuple[int, ...], block_log: int) -> int:
    """The most that a frame can take: all words stored as they are."""
    start = payloads_start(dtype, shape, block_log, spec.STORED)
    return start + prod(shape) * dtype.itemsize


@lru_cache
def max_payload_bytes(dtype: DType, n_words: int, block_log: int, flags: int = 0) -> int:
    """The most that the payloads of `n_words` words take: every plane stored raw."""
    zeros = (spec.MASK_BITS, 1) if flags & spec.SPARSE else ()  # of mask and signs
    n_full, rest = divmod(n_words, 1 << block_log)

    def block(n: int) -> int:
        widths = plane_bits(dtype, flags) + zeros
        return sum(_align(_raw_plane_bytes(n, bits)) for bits in widths)

    return n_full * block(1 << block_log) + (block(rest) if rest else 0)


def payloads_start(dtype: DType, shape: tuple[int, ...], block_log: int, flags: int = 0) -> int:
    """Bytes of header, shape and table of a frame with these flags, without a model."""
    n_blocks = -(-prod(shape) * dtype.spec.words >> block_log)
    return _table_end(len(shape), n_blocks, entries_a_block(dtype, flags))


@dataclass(frozen=True)
class Frame:
    """A validated header and block table."""

    dtype: DType
    shape: tuple[int, ...]
    block_log: int
    encoded_bytes: int
    flags: int
    hashes: np.ndarray[tuple[int], np.dtype[np.uint64]]
    entries: np.ndarray[tuple[int, int], np.dtype[np.uint32]]
    """The block table, uint32[n_blocks, entries_a_block]; none if the words are stored."""
    offsets: np.ndarray[tuple[int], np.dtype[np.int64]]
    """Where each block's payloads start in the frame; the last entry is the frame's end."""
    model: Bytes
    """The model as it stands in the frame, empty if there is none."""
    used: int
    """Bit `c` is set if an entry has coder `c`."""
    memo: dict[str, Any] = field(default_factory=dict, repr=False)
    """What was decoded of the model."""

    @cached_property
    def bits(self) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """Plane widths, uint8[n_planes], as the kernels take them."""
        if not self.flags:
            return self.dtype.bits
        return np.array(plane_bits(self.dtype, self.flags), np.uint8)

    @property
    def has_lz(self) -> bool:
        """Whether a block or plane is coded by LZ."""
        return self.used & _LZ_CODERS != 0

    @property
    def has_palettes(self) -> bool:
        """Whether a plane is coded by a palette."""
        return self.used & _PALETTE_CODERS != 0

    @property
    def payloads(self) -> int:
        """Where the first payload starts."""
        return int(self.offsets[0])

    @property
    def block_words(self) -> int:
        """Words of a full block."""
        return 1 << self.block_log

    @property
    def n_words(self) -> int:
        """Words of the whole array."""
        return prod(self.shape) * self.dtype.spec.words

    @property
    def decoded_bytes(self) -> int:
        """Bytes of the decoded array."""
        return self.n_words * self.dtype.spec.word_bytes

    @property
    def block_bytes(self) -> int:
        """Decoded bytes of a full block."""
        return self.block_words * self.dtype.spec.word_bytes

    @property
    def n_blocks(self) -> int:
        """Blocks of the frame."""
        return len(self.hashes)

    @cached_property
    def coders(self) -> np.ndarray[tuple[int, int], np.dtype[np.uint32]]:
        """The coder of each block and plane."""
        return self.entries >> np.uint32(spec.ENTRY_CODER_SHIFT)

    @cached_property
    def payload_bytes(self) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
        """The payload size of each block and plane, without padding."""
        sizes = (self.entries & np.uint32(spec.ENTRY_ARGUMENT_MASK)).astype(np.int64)
        sizes[self.coders == spec.CONSTANT] = 0
        return sizes

    def require_payload(self, first: int, last: int, n_bytes: int) -> None:
        """TruncatedError unless blocks `first` to `last` - 1 have so many bytes of payload."""
        expected = int(self.offsets[last] - self.offsets[first])
        if n_bytes != expected:
            message = f"blocks {first} to {last} have {expected} payload bytes, got {n_bytes}"
            raise TruncatedError(message)


def table_bytes(prefix: Any) -> int:
    """Bytes up to the first payload: what a partial reader must fetch, after these 40.

    Raises
    ------
    TruncatedError, UnsupportedError, CorruptionError
        As `parse`.

    """
    return _geometry(np.frombuffer(prefix, np.uint8)).end


class _Geometry(NamedTuple):
    """What the first 40 bytes say."""

    dtype: DType
    n_dims: int
    block_log: int
    decoded: int
    encoded: int
    flags: int
    n_blocks: int
    n_entries: int
    table_end: int
    end: int
    """Where the payloads start, behind the model."""


def _geometry(raw: Bytes) -> _Geometry:
    if raw.size < spec.HEADER_BYTES:
        if not spec.MAGIC.startswith(raw[: len(spec.MAGIC)].tobytes()):
            message = f"not a gpucodec frame: starts with {raw[:4].tobytes().hex(' ')}"
            raise UnsupportedError(message)
        message = f"frame ends after {raw.size} bytes, its header has {spec.HEADER_BYTES}"
        raise TruncatedError(message)
    magic, version, code, n_dims, block_log, decoded, encoded, _, flags, model_bytes = (
        _HEADER.unpack_from(raw)
    )
    if magic != spec.MAGIC:
        message = f"not a gpucodec frame: starts with {magic.hex(' ')}"
        raise UnsupportedError(message)
    if version != spec.VERSION:
        message = f"frame has format version {version}, this gpucodec reads {spec.VERSION}"
        raise UnsupportedError(message)
    if code not in BY_CODE:
        message = f"frame has data type code {code}, this gpucodec knows 1 to {max(BY_CODE)}"
        raise UnsupportedError(message)
    if flags & ~_FLAGS:
        message = f"header has flags {flags:#x}, known are {_FLAGS:#x}"
        raise UnsupportedError(message)
    if n_dims > spec.MAX_DIMS:
        message = f"frame has {n_dims} dimensions, the format allows {spec.MAX_DIMS}"
        raise CorruptionError(message)
    most = spec.MAX_SPARSE_BLOCK_LOG if flags & _LARGE_BLOCKS else spec.MAX_BLOCK_LOG
    if not spec.MIN_BLOCK_LOG <= block_log <= most:
        message = f"block_log is {block_log}, not {spec.MIN_BLOCK_LOG} to {most}"
        raise CorruptionError(message)
    dtype = BY_CODE[code]
    _check_flags(dtype, flags, model_bytes)
    n_words, rest = divmod(decoded, dtype.spec.word_bytes)
    if rest:
        message = f"{decoded} decoded bytes are no whole number of {dtype.name} words"
        raise CorruptionError(message)
    n_blocks = -(-n_words >> block_log)
    n_entries = entries_a_block(dtype, flags)
    end = _table_end(n_dims, n_blocks, n_entries)
    return _Geometry(
        *(dtype, n_dims, block_log, decoded, encoded, flags),
        *(n_blocks, n_entries, end, end + model_bytes),
    )


def _check_flags(dtype: DType, flags: int, model_bytes: int) -> None:
    """Raise CorruptionError if they contradict each other, the data type or the model's size."""
    if flags & spec.STORED and flags != spec.STORED:
        message = f"header has flags {flags:#x}, but the words of stored frames are as they are"
        raise CorruptionError(message)
    predicted = bool(flags & spec.PREDICTED)
    if predicted and dtype.name not in spec.PREDICTED_TYPES:
        message = f"frame of {dtype.name} is predicted, which only {[*spec.PREDICTED_TYPES]} may be"
        raise CorruptionError(message)
    if predicted != (model_bytes > 0) or model_bytes % spec.ALIGNMENT:
        message = f"header has flags {flags:#x} and a model of {model_bytes} bytes"
        raise CorruptionError(message)


def parse(
    buffer: Any, *, limit: int | None = None, whole: bool = True, n_bytes: int | None = None
) -> Frame:
    """Read and check a frame's header and block table.

    Parameters
    ----------
    buffer
        The frame's bytes; with ``whole=False`` at least the first `table_bytes` of them.
    limit
        The most decoded bytes to accept.
    n_bytes
        Of the frame, if it is elsewhere and the buffer has only its first `table_bytes`.

    Raises
    ------
    TruncatedError
        The buffer ends before the frame (or, if not `whole`, its table) does.
    UnsupportedError
        Not a frame, or of another version or data type.
    CorruptionError
        Sizes, hash or structure do not hold.
    LimitError
        The frame decodes to more than `limit` bytes.

    """
    raw = buffer if type(buffer) is np.ndarray else np.frombuffer(buffer, np.uint8)
    found = _geometry(raw)
    dtype, n_dims, block_log, decoded, encoded, flags, n_blocks, n_entries, table_end, end = found
    needed = max(encoded, end) if whole else end
    given = raw.size if n_bytes is None else n_bytes
    if given < needed:
        message = f"frame ends after {given} of {needed} bytes"
        raise TruncatedError(message)
    if whole and given != encoded:
        message = f"frame has {encoded} bytes, but {given} were given"
        raise CorruptionError(message)
    (stored,) = struct.unpack_from("<Q", raw, spec.HASH_OFFSET)
    computed = table_hash(raw[:end])
    if stored != computed:
        message = f"header and table have hash {computed:016x}, stored is {stored:016x}"
        raise CorruptionError(message)
    at = spec.HEADER_BYTES
    shape = struct.unpack_from(f"<{n_dims}Q", raw, at)
    if prod(shape) * dtype.itemsize != decoded:
        message = f"shape {shape} of {dtype.name} disagrees with {decoded} decoded bytes"
        raise CorruptionError(message)
    if prod(filter(None, shape)) * dtype.itemsize > _ARRAY_BYTES_MAX:
        message = f"no array can have the shape {shape} of the frame"  # though it may be empty
        raise CorruptionError(message)
    if limit is not None and decoded > limit:
        message = f"frame decodes to {decoded} bytes, the limit is {limit}"
        raise LimitError(message)
    at += 8 * n_dims
    hashes = raw[at : at + 8 * n_blocks].view("<u8")
    at += 8 * n_blocks
    entries = raw[at : at + 4 * n_blocks * n_entries].view("<u4").reshape(n_blocks, n_entries)
    at += 4 * n_blocks * n_entries
    if np.count_nonzero(raw[at:table_end]):
        message = f"padding of the table, bytes {at} to {table_end}, is not zero"
        raise CorruptionError(message)
    offsets = np.empty(n_blocks + 1, np.int64)
    if n_entries:
        used = _kernels()[1](entries, end, offsets)
    else:
        used = 0
        offsets[:-1] = end + np.arange(n_blocks) * (dtype.spec.word_bytes << block_log)
        offsets[-1] = end + decoded
    unknown = used & ~_KNOWN_CODERS
    if unknown:
        message = (
            f"frame uses coder {unknown.bit_length() - 1}, this gpucodec knows "
            f"{', '.join(map(str, spec.CODER_NAMES))}"
        )
        raise UnsupportedError(message)
    if offsets[-1] != encoded:
        message = f"payloads end at {offsets[-1]}, the header says {encoded}"
        raise CorruptionError(message)
    if used & _LZ_CODERS:
        _check_lz_entries(dtype, flags, entries)
    model = raw[table_end:end]
    return Frame(
        dtype, shape, block_log, encoded, flags, hashes, entries, offsets, model, int(used)
    )


def _check_lz_entries(
    dtype: DType, flags: int, entries: np.ndarray[Any, np.dtype[np.uint32]]
) -> None:
    """LZ codes planes of 8 bits, or as the first of several planes all of a block's words."""
    if flags:
        message = f"frame has flags {flags:#x} and blocks coded by LZ, which exclude each other"
        raise CorruptionError(message)
    coders = entries >> np.uint32(spec.ENTRY_CODER_SHIFT)
    whole = coders[:, 0] == spec.LZ_WORDS
    constant_0 = spec.CONSTANT << spec.ENTRY_CODER_SHIFT
    wrong = whole & ((entries[:, 1:] != constant_0).any(axis=1) | (len(dtype.spec.planes) == 1))
    wrong |= (coders[:, 1:] == spec.LZ_WORDS).any(axis=1)
    wrong |= (coders[:, dtype.bits != 8] == spec.LZ).any(axis=1)  # noqa: PLR2004
    if wrong.any():
        block = int(wrong.argmax())
        found = [f"{entry:#x}" for entry in entries[block]]
        message = (
            f"block {block} has entries {found}, which LZ in planes {dtype.spec.planes} forbids"
        )
        raise CorruptionError(message)


def table_hash(table: Bytes) -> int:
    """The hash of header, shape and table, taken with the hash field zero."""
    copy = table.copy()
    copy[spec.HASH_OFFSET : spec.HASH_OFFSET + 8] = 0
    return int(_kernels()[0](copy))


def write_table(
    raw: Bytes,
    dtype: DType,
    shape: tuple[int, ...],
    block_log: int,
    encoded_bytes: int,
    hashes: np.ndarray[tuple[int], np.dtype[np.uint64]],
    entries: np.ndarray[tuple[int, int], np.dtype[np.uint32]],
    flags: int,
    model: bytes,
) -> None:
    """Write header, shape, table and model to the start of `raw`: up to where the payloads start."""
    assert entries.shape[1] == entries_a_block(dtype, flags)
    table_end = _table_end(len(shape), *entries.shape)
    start = table_end + len(model)
    decoded_bytes = prod(shape) * dtype.itemsize
    raw[:start] = 0
    header = (spec.MAGIC, spec.VERSION, dtype.spec.code, len(shape), block_log)
    _HEADER.pack_into(raw, 0, *header, decoded_bytes, encoded_bytes, 0, flags, len(model))
    at = spec.HEADER_BYTES
    struct.pack_into(f"<{len(shape)}Q", raw, at, *shape)
    at += 8 * len(shape)
    raw[at : at + hashes.nbytes].view("<u8")[:] = hashes
    at += hashes.nbytes
    raw[at : at + entries.nbytes].view("<u4")[:] = entries.reshape(-1)
    raw[table_end:start] = np.frombuffer(model, np.uint8)
    digest = table_hash(raw[:start])
    struct.pack_into("<Q", raw, spec.HASH_OFFSET, digest)
