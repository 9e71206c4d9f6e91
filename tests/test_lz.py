# SPDX-License-Identifier: Apache-2.0
"""LZ blocks: what goes in comes out, the same bytes everywhere, whatever a payload claims."""

from __future__ import annotations

import ctypes
import hashlib
import itertools
import json
import mmap

import make_lz
import numpy as np
import pytest
import spec_lz
from helpers import LEVELS, run_python
from make_lz import seal
from spec_base import Refused

from gpucodec.kernels import checksum, lz, lz_decode_blocks, lz_encode_blocks, lz_spec, spec

ENCODING, DECODING = lz_encode_blocks.scratch(), lz_encode_blocks.scratch()
WORDS = (1, 2, 4, 8)
CONTENTS = (
    "text",
    "json",
    "ids",
    "sparse",
    "mask",
    "runs",
    "period",
    "noise",
    "constant",
    "filled",
)
CASES = list(itertools.product(CONTENTS, WORDS))


def content(kind: str, n_bytes: int, w: int, seed: int = 0) -> np.ndarray:
    """``n_bytes`` of data made of words of ``w`` bytes."""
    rng = np.random.default_rng([seed, n_bytes, w])
    n = n_bytes // w + 1
    kinds = f"<u{w}"
    vocabulary = [rng.integers(97, 123, rng.integers(2, 9)).astype(np.uint8) for _ in range(300)]
    if kind in {"text", "ids"}:
        parts, total = [], 0
        while total < n:
            word = vocabulary[min(299, int(rng.zipf(1.3)) - 1)]
            parts += [word, np.full(1, 32, np.uint8)]
            total += word.size + 1
        letters = np.concatenate(parts)[:n]
        words = letters.astype(kinds)
    elif kind == "json":
        lines = "".join(
            json.dumps({"id": i, "name": vocabulary[int(rng.integers(300))].tobytes().decode()})
            for i in range(n_bytes // 20 + 1)
        )
        return np.frombuffer(lines.encode(), np.uint8)[:n_bytes].copy()
    elif kind == "sparse":
        words = np.where(rng.random(n) < 0.1, rng.integers(0, 1 << 8 * w, n, np.uint64), 0)
    elif kind == "mask":
        words = rng.random(n) < 0.9
    elif kind == "runs":
        words = np.repeat(rng.integers(0, 5, n), rng.integers(1, 400, n))[:n]
    elif kind == "period":
        words = np.resize(rng.integers(0, 1 << min(8 * w, 40), 77), n)
        words[rng.integers(0, n, n // 200 + 1)] = 1
    elif kind == "noise":
        words = rng.integers(0, 1 << 8 * w, n, np.uint64)
    elif kind == "constant":
        words = np.full(n, 0x0102030405060708 & ((1 << 8 * w) - 1))
    else:
        assert kind == "filled"
        words = np.where(rng.random(n) < 0.2, rng.integers(0, 9, n), 3)
    return np.asarray(words).astype(kinds).view(np.uint8)[:n_bytes].copy()


def encode(raw: np.ndarray, w: int, level: int = 1, out: np.ndarray | None = None) -> bytes:
    """One payload, without padding, also where it is longer than ``raw``."""
    out = np.empty(raw.size + 64, np.uint8) if out is None else out
    entries, hashes = np.empty((1, 2), np.uint32), np.empty(1, np.uint64)
    n = lz_encode_blocks.encode_blocks(raw, raw.size, w, level, out, entries, hashes, ENCODING)
    coder, size = divmod(int(entries[0, 0]), 1 << 24)
    assert coder == spec.LZ_WORDS and size <= raw.size + lz_spec.RAW_OVERHEAD
    assert n == -(-size // 16) * 16 and not out[size:n].any()
    assert entries[0, 1] == spec.CONSTANT << 24
    return out[:size].tobytes()


def decode_into(raw: np.ndarray, payload: bytes, place=lambda data: data) -> int:
    """The status; whatever it is, the block's hash is made that of ``raw`` afterwards."""
    padded = np.frombuffer(payload + bytes(-len(payload) % 16), np.uint8)
    entries = np.array([[spec.LZ << 24 | len(payload)]], np.uint32)
    status, hashes = np.zeros(1, np.uint8), np.zeros(1, np.uint64)
    for _ in range(2):  # the first time to learn the hash
        lz_decode_blocks.decode_blocks(
            place(padded), entries, hashes, raw.size, raw, status, DECODING
        )
        if status[0] != spec.BAD_HASH:
            break
        hashes[0] = checksum.hash_bytes(raw)
    return int(status[0])


def decode(payload: bytes, n_bytes: int) -> tuple[int, bytes]:
    raw = np.zeros(n_bytes, np.uint8)
    return decode_into(raw, payload), raw.tobytes()


@pytest.mark.parametrize(("kind", "w"), CASES)
def test_blocks_come_back(kind, w):
    for n_bytes in (1, 7, 64, 65, 777, 4096 + w - 1, 65536 - 1, 65536):
        raw = content(kind, n_bytes, w)
        for level in (0, 1):
            assert decode(encode(raw, w, level), n_bytes) == (0, raw.tobytes())


@pytest.mark.parametrize("w", WORDS)
def test_the_largest_block_comes_back(w):
    for kind in ("ids", "filled", "noise"):
        raw = content(kind, w << 16, w)
        assert decode(encode(raw, w), raw.size) == (0, raw.tobytes())


@pytest.mark.parametrize(("kind", "w"), CASES)
def test_the_format_is_as_described_and_depth_is_bounded(kind, w):
    for n_bytes in (200, 3000, 9001):
        raw = content(kind, n_bytes, w)
        payload = encode(raw, w)
        assert spec_lz.decode(payload, n_bytes, spec_lz.ROUNDS) == raw.tobytes()


def test_deep_chains_are_cut():
    """Each record repeats the last but for one byte: without the bound, depth is their number."""
    rng = np.random.default_rng(1)
    record = rng.integers(0, 256, 100, np.uint8)
    records = []
    for _ in range(400):
        record[rng.integers(0, 100)] ^= 1
        records.append(record.copy())
    raw = np.concatenate(records)
    payload = encode(raw, 1)
    assert len(payload) < raw.size // 4
    assert spec_lz.ROUNDS == np.log2(lz_spec.MAX_DEPTH)
    assert spec_lz.decode(payload, raw.size, spec_lz.ROUNDS) == raw.tobytes()


def digests() -> list[str]:
    """Of the payloads of all contents."""
    return [
        hashlib.sha256(encode(content(kind, 20000 + w, w), w, level)).hexdigest()
        for (kind, w), level in itertools.product(CASES, (0, 1))
    ]


def test_bytes_do_not_depend_on_what_was_in_the_scratch():
    expected = digests()
    for value in (0, 0xA5, 0xFF):
        for scratch in (ENCODING, DECODING):
            scratch.memory[:] = value
            for array in scratch.counts:
                array[...] = value
        assert digests() == expected


def test_hashes_of_earlier_blocks_are_not_used():
    """Those that are too large for the table would be places among the candidates behind it."""
    raw = content("ids", 4 * (48 * 1024 + 512), 4)
    expected = encode(raw, 4)
    first = int(lz.SLOTS - lz.CANDIDATES) // 8
    stale = first + np.arange(ENCODING.memory.size // 2) % 1024
    ENCODING.memory[: 2 * stale.size] = stale.astype("<u2").view(np.uint8)
    assert encode(raw, 4) == expected


@pytest.mark.parametrize("level", [level for level in LEVELS if level != "host"])
def test_every_instruction_set_writes_the_same_bytes(level):
    assert json.loads(run_python("lz_worker.py", level=level)) == digests()


def test_a_limit_is_kept():
    noise = content("noise", 4096, 1)
    out = np.full(2 * noise.size, 0x55, np.uint8)
    entries, hashes = np.empty((1, 1), np.uint32), np.empty(1, np.uint64)
    n = lz_encode_blocks.encode_blocks(noise, 4096, 1, 1, out, entries, hashes, ENCODING)
    assert (n, entries[0, 0]) == (4096, spec.RAW << 24 | 4096)
    assert (out[:n] == noise).all()
    assert (out[n:] == 0x55).all()
    assert len(encode(content("text", 20000, 1), 1)) < 10000


def test_word_sizes_are_detected():
    for w in WORDS:
        raw = content("ids", 65536, w)
        assert encode(raw, 0) == encode(raw, w)
    noise = content("noise", 65536, 1)
    assert encode(noise, 0) == encode(noise, 1)
    for n_bytes in range(1, 20):
        raw = np.zeros(n_bytes, np.uint8)
        assert decode(encode(raw, 0), n_bytes) == (0, raw.tobytes())


def test_payloads_that_the_encoder_would_not_write_are_read():
    for i, ((kind, w), n_bytes) in enumerate(itertools.product(CASES, (1, 2, 65, 700, 5003))):
        raw = content(kind, n_bytes, w)
        payload = make_lz.encode(np.random.default_rng(i), raw.tobytes())
        assert spec_lz.decode(payload, n_bytes, spec_lz.ROUNDS) == raw.tobytes()
        assert decode(payload, n_bytes) == (0, raw.tobytes())


SEEDS = [
    (kind, w, content(kind, n_bytes, w))
    for (kind, w), n_bytes in itertools.product(
        itertools.product(("text", "ids", "sparse", "period", "filled", "mask"), WORDS), (700, 2501)
    )
]


def test_every_single_bit_flip_is_noticed():
    for _kind, w, raw in SEEDS[::5]:
        payload = bytearray(encode(raw, w))
        for bit in range(8 * len(payload)):
            payload[bit >> 3] ^= 1 << (bit & 7)
            assert decode(bytes(payload), raw.size)[0] != 0
            payload[bit >> 3] ^= 1 << (bit & 7)


class Guarded:
    """A buffer that ends where memory ends, so that reading or writing behind it is a crash."""

    def __init__(self, n_bytes: int) -> None:
        page = mmap.PAGESIZE
        self.pages = -(-n_bytes // page) * page
        self.map = mmap.mmap(-1, self.pages + page)
        self.view = np.frombuffer(self.map, np.uint8)
        libc = ctypes.CDLL(None, use_errno=True)
        end = ctypes.c_void_p(self.view.ctypes.data + self.pages)
        assert libc.mprotect(end, ctypes.c_size_t(page), 0) == 0

    def last(self, n_bytes: int) -> np.ndarray:
        return self.view[self.pages - n_bytes : self.pages]

    def holding(self, data: np.ndarray) -> np.ndarray:
        place = self.last(data.size)
        place[:] = data
        return place


def mutate(rng: np.random.Generator, payload: bytearray, sealed: bool) -> bytearray:
    kind = rng.integers(0, 5)
    at = int(rng.integers(4, len(payload)))
    if rng.random() < 0.3:
        at = int(rng.integers(4, min(len(payload), 40)))
    if kind == 0:
        payload[at] ^= 1 << rng.integers(0, 8)
    elif kind == 1:
        payload[at] = rng.integers(0, 256)
    elif kind == 2:
        del payload[at : at + int(rng.integers(1, 200))]
    elif kind == 3:
        payload[at:at] = rng.bytes(int(rng.integers(1, 200)))
    else:
        run = int(rng.integers(1, 60))
        payload[at : at + run] = rng.bytes(len(payload[at : at + run]))
    if sealed and len(payload) > 4:
        payload[:] = seal(bytes(payload))
    return payload


def attack(count: int, seed: int) -> None:
    """Mutations whose check is made right again: no crash, and the status agrees with the format."""
    source, target = Guarded(1 << 17), Guarded(1 << 16)
    accepted = 0
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        _kind, w, raw = SEEDS[i % len(SEEDS)]
        payload = mutate(rng, bytearray(encode(raw, w)), sealed=i % 8 != 0)
        out = target.last(raw.size)
        status = decode_into(out, bytes(payload), source.holding)
        if i % 10 == 0:  # the description's decoder is slow
            try:
                expected = spec_lz.decode(bytes(payload), raw.size)
            except Refused:
                expected = None
            assert (status == 0) == (expected is not None), (seed, i, status)
            assert expected is None or out.tobytes() == expected
        accepted += status == 0
    assert accepted < count // 2


def test_hostile_payloads_stay_inside():
    attack(3000, 0)


@pytest.mark.long
def test_many_hostile_payloads_stay_inside():
    attack(300_000, 1)


def test_truncation_is_noticed():
    raw = content("text", 2500, 1)
    payload = encode(raw, 1)
    for n_bytes in range(len(payload)):
        assert decode(payload[:n_bytes], raw.size)[0] != 0
