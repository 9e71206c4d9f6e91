# SPDX-License-Identifier: Apache-2.0
"""Targets that are frames: each stage of decoding, whole frames, and encoding."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from functools import cache

import judge
import make_frames
import mutate
import numpy as np
import seeds
import spec_decoder as spec
from fuzz.target import Target
from helpers import NAMES, numpy_dtype, raw_bytes
from mutate import Parts
from spec_base import Refused

import gpucodec
from gpucodec import TensorConfig, frame as container

Change = Callable[[Parts, random.Random], None]
Made = make_frames.Made

LIMIT = 1 << 18
MOST_BYTES = 20_000  # of a seed: small ones are tried more often


@cache
def made() -> tuple[Made, ...]:
    """Frames of every feature, written by gpucodec and from the document."""
    frames = [*seeds.all_seeds().values(), *make_frames.random_frames(31, 200, 300)]
    frames += make_frames.random_frames(32, 80, 300, lz=True)
    return tuple(m for m in frames if len(m.frame) < MOST_BYTES)


@cache
def others() -> list[Parts]:
    return [Parts(m.frame) for m in made()]


def seeds_with(uses: Callable[[Parts], bool]) -> Callable[[], Iterator[bytes]]:
    """The frames whose parts satisfy `uses`."""
    return lambda: (m.frame for m, p in zip(made(), others(), strict=True) if uses(p))


def coded_by(*coders: int) -> Callable[[Parts], bool]:
    return lambda parts: not set(coders).isdisjoint(parts.coders)


def changed_by(*changes: Change) -> Callable[[bytes, random.Random], bytes | None]:
    """A mutator: some of these changes, with sizes and hash made right again."""

    def mutator(data: bytes, rng: random.Random) -> bytes | None:
        try:
            parts = Parts(data)
        except Refused:
            return make_frames.reseal(data) if len(data) >= 40 else None
        for _ in range(rng.choice((1, 1, 2, 4))):
            rng.choice(changes)(parts, rng)
        return parts.frame(rng)

    return mutator


def entries(parts: Parts, rng: random.Random) -> None:
    if parts.coders:
        mutate.mutate_entry(parts, rng, others())


def tables(parts: Parts, rng: random.Random) -> None:
    """Only the frequencies of rANS payloads."""
    found = [
        i
        for i, coder in enumerate(parts.coders)
        if coder in {spec.RANS8, spec.RANS12} and len(parts.payloads[i]) > 136
    ]
    if not found:
        return
    i = rng.choice(found)
    payload = bytearray(parts.payloads[i])
    p, width, n = 8 if parts.coders[i] == spec.RANS8 else 12, payload[7] % 13, payload[6] + 1
    end = 8 + spec.table_bytes(n, p, width)
    payload[7:end] = mutate.mutate_table(bytes(payload[8:end]), n, p, width, rng)
    parts.payloads[i], parts.arguments[i] = bytes(payload), len(payload)


def whole(data: bytes, rng: random.Random) -> bytes | None:
    try:
        return mutate.mutant(Parts(data), rng, others())
    except Refused:
        return make_frames.reseal(data) if len(data) >= 40 else None


def parse(data: bytes) -> None:
    """Header and table: gpucodec and the document say the same of them."""
    try:
        found = container.parse(np.frombuffer(data, np.uint8), limit=LIMIT)
    except gpucodec.GpucodecError:
        found = None
    if judge.declared_bytes(data) > LIMIT:
        assert found is None
        return
    try:
        layout = spec.read_layout(data)
    except Refused:  # a model is decoded with the words, not parsed with the header
        assert found is None or found.flags & spec.PREDICTED, "parsed what the document refuses"
        return
    assert found is not None, "refused what the document parses"
    assert (found.dtype.name, found.shape) == (layout.type.name, layout.shape)
    assert [int(h) for h in found.hashes] == list(layout.hashes)
    assert found.payloads == layout.start


def decode(data: bytes) -> None:
    """As it is, and with the hashes of what its blocks decode to, so that it may be accepted."""
    judge.agree(data, LIMIT)
    if judge.declared_bytes(data) <= LIMIT:
        sound = mutate.rehashed(data)
        if sound is not None:
            assert judge.agree(sound, LIMIT), "a sound frame is refused"


SIZES = (None, 64, 128, 1024)
PROFILES = ("ratio", "fast", "auto", "plain")


def roundtrip(data: bytes) -> None:
    """The first bytes choose type, configuration and shape, the others are the array."""
    if len(data) < 3:
        return
    name = NAMES[data[0] % len(NAMES)]
    dtype = np.dtype(np.uint8) if name == "bool" else numpy_dtype(name)
    n = len(data[3:]) // dtype.itemsize
    array = np.frombuffer(data[3:], dtype, n)
    if name == "bool":
        array = (array & 1).view(bool)
    columns = data[2] or 1
    if n % columns == 0:
        array = array.reshape(-1, columns)
    lz = (None, True, False)[data[1] // 16 % 3]
    config = TensorConfig(SIZES[data[1] % 4], PROFILES[data[1] // 4 % 4], lz)
    frame = gpucodec.encode(array, config, threads=1)
    assert frame.size <= gpucodec.max_encoded_size(array.shape, array.dtype, config)
    assert raw_bytes(gpucodec.decode(frame, threads=1)) == raw_bytes(array)
    expected = spec.decode(frame.tobytes())
    assert (expected.name, expected.shape) == (name, array.shape)
    assert expected.raw.tobytes() == raw_bytes(array)


def roundtrip_seeds() -> Iterator[bytes]:
    for i, m in enumerate(made()[::3]):
        yield bytes([NAMES.index(m.name), i % 256, 1 + i % 9]) + m.raw[:6000]


TARGETS = (
    Target("frame_parse", parse, seeds_with(lambda _: True), changed_by(mutate.mutate_header)),
    Target("block_table", decode, seeds_with(lambda p: bool(p.coders)), changed_by(entries)),
    Target(
        "rans_decode",
        decode,
        seeds_with(coded_by(spec.RANS8, spec.RANS12)),
        changed_by(mutate.mutate_payload),
    ),
    Target("rans_table", decode, seeds_with(coded_by(spec.RANS8, spec.RANS12)), changed_by(tables)),
    Target(
        "lz_decode",
        decode,
        seeds_with(coded_by(spec.LZ, spec.LZ_WORDS)),
        changed_by(mutate.mutate_payload),
    ),
    Target(
        "transform_inverse",
        decode,
        seeds_with(lambda p: bool(p.flags & (spec.SPARSE | spec.PREDICTED))),
        changed_by(mutate.mutate_model, mutate.mutate_payload),
    ),
    Target("decode_any", decode, seeds_with(lambda _: True), whole),
    Target("roundtrip_any", roundtrip, roundtrip_seeds),
)
