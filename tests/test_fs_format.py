# SPDX-License-Identifier: Apache-2.0
"""Files of frames: whole, cut, damaged, joined, of others, and as the document says."""

from __future__ import annotations

import itertools
import struct

import numpy as np
import pytest
import spec_files
from helpers import repetitive, sample
from hypothesis import given, settings, strategies as st
from spec_base import Refused, xxh3

from gpucodec import CorruptionError, GpucodecError, TruncatedError, UnsupportedError
from gpucodec.fs.choose import UNIT_BYTES
from gpucodec.fs.encoder import WINDOW_BYTES, Encoder, encoded
from gpucodec.fs.indexes import load_now
from gpucodec.fs.reading import Request, fill, stored
from gpucodec.kernels import spec

rng = np.random.default_rng(7)


def small(kind: str) -> bytes:
    if kind == "empty":
        return b""
    if kind == "text":
        return b"a line of a log, and another\n" * 40
    if kind == "noise":
        return np.random.default_rng(3).bytes(300)
    return sample("float32", 200, "values").tobytes() + b"end"


KINDS = ("empty", "text", "noise", "floats")


def read(file: bytes, start: int | None = None, stop: int | None = None) -> bytes:
    """The contents of a file, through its index."""
    index = load_now(len(file), lambda a, b: file[a:b])
    assert index is not None
    request = Request(index, *slice(start, stop).indices(index.size)[:2])
    fill([(request, file[slice(*request.stored)])])
    return request.out.tobytes()


@pytest.mark.parametrize("kind", KINDS)
def test_small_files_come_back(kind):
    assert read(encoded(small(kind))) == small(kind)


def mixture() -> bytes:
    """Several windows: text, floats of three sizes at odd places, noise, and a ragged end."""
    parts = [
        repetitive("uint8", 1_300_001, "text").tobytes(),
        sample("bfloat16", 1_200_000, "values").tobytes(),
        b"odd",
        sample("float32", 2_000_000, "values").tobytes(),
        sample("float64", 500_000, "values").tobytes(),
        rng.bytes(1_500_000),
        bytes(3_000_000),
        repetitive("int64", 300_000, "steps").tobytes(),
        b"tail",
    ]
    return b"".join(parts)


@pytest.fixture(scope="module")
def large() -> tuple[bytes, bytes]:
    contents = mixture()
    return contents, encoded(contents)


def test_any_range_reads_its_own_blocks(large):
    contents, file = large
    assert len(contents) > WINDOW_BYTES
    index = load_now(len(file), lambda a, b: file[a:b])
    assert index is not None
    assert {frame.dtype.name for frame in map(index.frame, range(len(index.heads)))} >= {
        "uint8",
        "float32",
        "float64",
    }
    seams = [*index.logical.tolist(), *range(0, len(contents), UNIT_BYTES)]
    for i in range(400):
        start = int(rng.integers(len(contents))) if i % 2 else max(0, int(rng.choice(seams)) - 5)
        length = int(1 << rng.integers(0, 23))
        stop = min(start + length, len(contents))
        begin, end = stored(index, start, stop)
        request = Request(index, start, stop)
        fill([(request, file[begin:end])])
        assert request.out.tobytes() == contents[start:stop]
        largest = 2 * (1 << 18) + length  # no more than the range and its end blocks
        assert end - begin <= largest * 1.1 + 64 * 1024


def test_bytes_do_not_depend_on_writes_or_threads(large):
    contents, file = large
    for threads, step in ((1, 999_983), (3, 1 << 24), (2, 40 << 20)):
        encoder = Encoder(threads)
        pieces = []
        for at in range(0, len(contents), step):
            pieces += encoder.feed(memoryview(contents)[at : at + step])
        assert b"".join([*pieces, *encoder.finish()]) == file


def test_floats_are_stored_as_floats_and_text_as_text():
    floats = sample("bfloat16", 1 << 20, "values")
    assert len(encoded(floats.view(np.uint8))) < 0.7 * floats.nbytes
    text = repetitive("uint8", 1 << 20, "text")
    assert len(encoded(text)) < 0.4 * text.nbytes
    noise = rng.bytes(1 << 20)
    assert len(encoded(noise)) < len(noise) + 1000


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(KINDS), st.integers(0, 3000), st.integers(1, 40)), max_size=5
    )
)
def test_the_document_decodes_what_we_write(parts):
    contents = b"".join(small(kind)[: n or None] * times for kind, n, times in parts)
    file = encoded(contents)
    assert spec_files.decode(file) == contents
    assert read(file) == contents


def test_the_document_decodes_a_large_file():
    contents = mixture()[900_000:2_100_000]
    assert spec_files.decode(encoded(contents)) == contents


def test_files_joined_are_one_file():
    parts = [small(kind) for kind in (*KINDS, "text")]
    file = b"".join(map(encoded, parts))
    contents = b"".join(parts)
    assert read(file) == contents
    assert spec_files.decode(file) == contents
    for start, stop in itertools.combinations(range(0, len(contents), 97), 2):
        assert read(file, start, stop) == contents[start:stop]


@pytest.mark.parametrize("kind", KINDS)
def test_every_prefix_is_truncated(kind):
    file = encoded(small(kind))
    for length in range(len(spec.FILE_MAGIC), len(file)):
        with pytest.raises(TruncatedError):
            read(file[:length])
    for length in range(len(spec.FILE_MAGIC)):  # too short to tell from a file of others
        assert load_now(length, lambda a, b: file[a:b]) is None


@pytest.mark.parametrize("kind", KINDS)
def test_every_changed_bit_is_an_error_or_changes_nothing(kind):
    """What a read does not need it does not check: the first magic, heads that the index has."""
    contents = small(kind)
    file = encoded(contents)
    raised = 0
    for bit in range(8 * len(file)):
        damaged = bytearray(file)
        damaged[bit // 8] ^= 1 << bit % 8
        try:
            assert read(bytes(damaged)) == contents, bit
        except GpucodecError:
            raised += 1
        if bit % 5 == 0:
            with pytest.raises(Refused):
                spec_files.decode(bytes(damaged))
    assert raised >= 8 * (len(file) - 8 - 200)


def test_damage_is_not_read_around(large):
    contents, file = large
    index = load_now(len(file), lambda a, b: file[a:b])
    assert index is not None
    frame = index.frame(1)
    at = int(index.starts[1] + frame.offsets[1]) + 100
    damaged = bytearray(file)
    damaged[at] ^= 4
    begin = int(index.logical[1])
    good = read(bytes(damaged), begin, begin + frame.block_bytes)
    assert good == contents[begin : begin + frame.block_bytes]
    with pytest.raises(CorruptionError, match="block 1"):
        read(bytes(damaged), begin, begin + frame.block_bytes + 1)
    out = np.full(10, 7, np.uint8)
    start = begin + frame.block_bytes
    request = Request(index, start, start + 10, out)
    with pytest.raises(CorruptionError):
        fill([(request, bytes(damaged)[slice(*request.stored)])])
    assert not out.any()


def test_files_of_others_are_not_ours():
    for other in (b"", b"plain", b"gpcf" + bytes(100), b"\x89PNG\r\n\x1a\n" + bytes(100)):
        assert load_now(len(other), lambda a, b, other=other: other[a:b]) is None
    file = encoded(b"ours")
    for joined in (b"theirs" + file, file[:-1] + b"x", file + b"theirs"):
        with pytest.raises(CorruptionError):
            load_now(len(joined), lambda a, b, joined=joined: joined[a:b])


def test_verify_looks_at_every_bit(tmp_path):
    from gpucodec.cli.check import frame
    from gpucodec.cli.errors import CommandError

    path = tmp_path / "file"
    file = encoded(small("text")) + encoded(small("floats"))
    path.write_bytes(file)
    frame(path)
    for bit in range(0, 8 * len(file), 7):
        damaged = bytearray(file)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises((GpucodecError, CommandError)):
            frame(path)


def footer(file: bytes, **changes: int) -> bytes:
    """The file with other values in its footer, and a hash that holds."""
    names = ("index_bytes", "n_frames", "decoded", "encoded", "index_hash", "hash", "version")
    fields = list(struct.unpack(spec.FOOTER_FORMAT, file[-spec.FOOTER_BYTES :]))
    for name, value in changes.items():
        fields[names.index(name)] = value
    fields[5] = 0
    fields[5] = xxh3(struct.pack(spec.FOOTER_FORMAT, *fields))
    return file[: -spec.FOOTER_BYTES] + struct.pack(spec.FOOTER_FORMAT, *fields)


EDGES = (0, 1, 7, 63, 64, 1 << 31, (1 << 32) - 1, 1 << 63, (1 << 64) - 1)


@pytest.mark.parametrize("name", ["index_bytes", "n_frames", "decoded", "encoded"])
@pytest.mark.parametrize("value", EDGES)
def test_lying_footers_are_refused(name, value):
    file = encoded(small("floats"))
    lying = footer(file, **{name: value})
    assert lying != file
    with pytest.raises(CorruptionError):
        read(lying)
    with pytest.raises(Refused):
        spec_files.decode(lying)


def test_other_versions_are_unsupported():
    with pytest.raises(UnsupportedError, match="version 2"):
        read(footer(encoded(b"x"), version=2))


def test_indexes_of_hostile_heads_are_refused():
    """An index with a right hash whose heads do not add up, or are none."""
    file = encoded(small("text"))
    body, index_bytes = file[: -spec.FOOTER_BYTES], int.from_bytes(file[-64:-56], "little")
    heads = body[-index_bytes:]
    for hostile in (
        heads[:-8],
        heads + bytes(24),
        b"gpcf" + heads[4:8] + b"\xff" * 16 + heads[24:],
        rng.bytes(index_bytes),
        heads + heads,
    ):
        lying = body[:-index_bytes] + hostile
        lying += file[-spec.FOOTER_BYTES :]
        size = len(lying)
        lying = footer(lying, index_bytes=len(hostile), encoded=size, index_hash=xxh3(hostile))
        with pytest.raises(GpucodecError):
            read(lying)
        with pytest.raises(Refused):
            spec_files.decode(lying)
