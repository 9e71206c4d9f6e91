# SPDX-License-Identifier: Apache-2.0
"""Promise 5: the document is the format. spec_decoder.py, written from it, is the judge."""

from __future__ import annotations

import re
from pathlib import Path

import make_frames
import numpy as np
import pytest
import seeds
import spec_decoder
import xxhash
from helpers import CONTENTS, NAMES, raw_bytes, repetitive, sample

import gpucodec
from gpucodec import LZConfig, TensorConfig
from gpucodec.kernels import checksum, spec

LENGTHS = (0, 1, 63, 64, 255, 256, 257, 1000, 1024, 1025, 1088, 1089, 4096, 65_536, 65_600)


@pytest.mark.parametrize("length", LENGTHS)
def test_all_implementations_of_the_hash_agree(length):
    data = np.random.default_rng(length).integers(0, 256, length, np.uint8)
    size = max(256, -(-length // 64) * 64)
    expected = xxhash.xxh3_64_intdigest(data.tobytes() + bytes(size - length))
    assert spec_decoder.xxh3(data.tobytes()) == expected
    assert make_frames.padded_hash(data.tobytes()) == expected
    assert checksum.hash_bytes(data) == expected


def test_hash_values_are_pinned():
    ramp = np.arange(1000, dtype=np.uint32).astype(np.uint8)
    assert checksum.hash_bytes(ramp[:0]) == 0xA68DFBB1D75C6E8D
    assert checksum.hash_bytes(ramp) == 0x3FFBD7AF319DE017


def test_the_type_table_of_the_document_is_the_one_in_the_code():
    text = (Path(__file__).parents[1] / "docs" / "format.md").read_text()
    row = re.compile(
        r"^\| (\d+) \| (\w+)[^|]* \| (\d) \| (\d) \| ([\w+]+) \| ([\d ]+) \|$", re.MULTILINE
    )
    documented = {
        int(code): (name, int(size), int(words), transform, tuple(map(int, planes.split())))
        for code, name, size, words, transform, planes in row.findall(text)
    }
    transforms = {0: "plain", 1: "rotate", 2: "zigzag", 3: "rotate+bias"}
    coded = {d.code: (d.name, *d[2:4], transforms[d.transform], d.planes) for d in spec.DTYPES}
    assert documented == coded == {code: tuple(t) for code, t in spec_decoder.TYPES.items()}


def check(frame: bytes, expected: bytes, name: str, shape: tuple[int, ...]) -> None:
    """Both decoders give the expected array."""
    told = spec_decoder.decode(frame)
    assert (told.name, told.shape, told.raw.tobytes()) == (name, shape, expected)
    array = gpucodec.decode(frame)
    assert (array.dtype.name, array.shape, raw_bytes(array)) == (name, shape, expected)


@pytest.mark.parametrize("content", CONTENTS)
@pytest.mark.parametrize("name", NAMES)
def test_what_the_encoder_writes_follows_the_document(name, content):
    array = sample(name, 300, content)
    config = gpucodec.TensorConfig(block_size=128)
    check(gpucodec.encode(array, config).tobytes(), raw_bytes(array), name, array.shape)


@pytest.mark.parametrize("content", ["text", "runs", "steps", "sparse"])
@pytest.mark.parametrize("name", ["uint8", "bool", "int16", "uint32", "int64", "float32"])
def test_lz_follows_the_document(name, content):
    array = repetitive(name, 1500, content)
    for config in (LZConfig(), LZConfig("ratio", 2), TensorConfig(512, lz=True)):
        check(gpucodec.encode(array, config).tobytes(), raw_bytes(array), name, array.shape)


def test_a_sampled_histogram_follows_the_document():
    array = sample("bfloat16", 300 * 64 + 5, "values")  # from 256 rows on, a sample decides
    check(gpucodec.encode(array).tobytes(), raw_bytes(array), "bfloat16", array.shape)


def test_frames_that_the_encoder_would_not_write_are_read():
    features: set[str] = set()
    for made in make_frames.random_frames(seed=0, count=1000):
        check(made.frame, made.raw, made.name, made.shape)
        features |= seeds.features(made.frame)
    for made in make_frames.random_frames(seed=1, count=200, lz=True):
        check(made.frame, made.raw, made.name, made.shape)
        features |= seeds.features(made.frame)
    assert features >= seeds.FEATURES | {"only a tail"}


@pytest.mark.parametrize("log", range(6, 17))
def test_every_block_size_is_read(log):
    rng = np.random.default_rng(log)
    kind = spec_decoder.TYPES[10]
    n = (1 << log) + (1 << log) // 2 + 1
    data = make_frames.random_data(rng, kind, n, "skewed")
    frame = make_frames.build(
        kind.name, (n,), data, log, lambda s, b: make_frames.any_coder(rng, s, b)
    )
    assert raw_bytes(gpucodec.decode(frame)) == data
