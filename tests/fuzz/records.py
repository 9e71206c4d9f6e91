# SPDX-License-Identifier: Apache-2.0
"""Targets that are containers, files, and JSON: what surrounds frames on disk."""

from __future__ import annotations

import copy
import json
import random
import struct
from collections.abc import Iterator
from functools import cache
from hashlib import sha256
from typing import Any

import judge
import mutate
import mutate_quantized
import numpy as np
import spec_files
import zarr
from fuzz.target import Target
from numcodecs.registry import get_codec
from spec_base import Refused, xxh3
from zarr.storage import MemoryStore

import gpucodec
from gpucodec import checkpoint, quant
from gpucodec.activations import rows
from gpucodec.checkpoint import manifest
from gpucodec.fs import indexes, reading
from gpucodec.fs.encoder import encoded
from gpucodec.zarr import LZCodec, TensorCodec
from gpucodec.zarr.quantize import QuantizeCodec

# --- containers of quantized tensors ------------------------------------------------------------


def quantized(data: bytes) -> None:
    judge.agree(data)


def container_mutator(data: bytes, rng: random.Random) -> bytes | None:
    if len(data) < 64 or data[:4] != judge.CONTAINER:
        return None
    frame = np.frombuffer(data, np.uint8).copy()
    try:
        changed: bytes = mutate_quantized.mutant_of(frame, rng).tobytes()
    except (gpucodec.GpucodecError, Refused, IndexError, ValueError):
        return mutate_quantized.rehashed(frame).tobytes()  # changed too much to be taken apart
    return changed


# --- files of the filesystem ---------------------------------------------------------------------

FILES = (b"", b"a line of a log\n" * 30, bytes(700), np.arange(300, dtype="<f4").tobytes())


def file_sections(data: bytes) -> None:
    """Index and contents: what the document refuses may only be read where nothing depends on it."""
    try:
        expected = spec_files.decode(data)
    except Refused:
        expected = None
    try:
        index = indexes.load_now(len(data), lambda a, b: data[a:b])
        if index is None or index.size > 1 << 20:
            assert expected is None or not data
            return
        request = reading.Request(index, 0, index.size)
        reading.fill([(request, data[slice(*request.stored)])])
    except gpucodec.GpucodecError:
        assert expected is None, "refused what the document reads"
        return
    if expected is not None:
        assert request.out.tobytes() == expected


def file_mutator(data: bytes, rng: random.Random) -> bytes | None:
    """Bytes of footer, index or frames change, then the footer's hashes are made right again."""
    if len(data) < 72:
        return None
    file = bytearray(data)
    kind = rng.randrange(4)
    if kind == 0:
        at = len(file) - 64 + 8 * rng.randrange(7)
        struct.pack_into(
            "<Q", file, at, mutate.number(rng, int.from_bytes(file[at : at + 8], "little"), 64)
        )
    elif kind == 1:
        file[rng.randrange(len(file))] = rng.randrange(256)
    elif kind == 2:
        at = rng.randrange(8, len(file))
        file[at : at + rng.choice((0, 1, 16))] = rng.randbytes(rng.choice((0, 1, 16)))
    else:
        file += encoded(rng.choice(FILES))
    if len(file) < 72 or rng.random() < 0.1:
        return bytes(file)
    end = len(file) - 64
    n_index = int.from_bytes(file[end : end + 8], "little")
    if n_index <= end:
        struct.pack_into("<Q", file, end + 32, xxh3(bytes(file[end - n_index : end])))
    footer = bytes(file[end:])
    struct.pack_into("<Q", file, end + 40, xxh3(footer[:40] + bytes(8) + footer[48:]))
    return bytes(file)


# --- JSON ------------------------------------------------------------------------------------------

VALUES = (
    *(None, True, False, 0, 1, -1, 2, 1 << 31, -(1 << 63), 1 << 64, 1 << 200, 0.5, 1e308),
    *("", "x", "0", "ffffffffffffffff", "..", "/", "a/b", "é", "\0", [], {}, [0], [[]], {"": 0}),
)


def nodes(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) in a JSON value."""
    items = value.items() if isinstance(value, dict) else enumerate(value)
    for key, one in list(items):
        yield value, key
        if isinstance(one, (dict, list)):
            yield from nodes(one)


def json_mutator(data: bytes, rng: random.Random) -> bytes | None:
    """Some values become others, of other types too, are lost, or change places."""
    try:
        value = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, (dict, list)):
        return None
    for _ in range(rng.choice((1, 1, 2, 3))):
        places = list(nodes(value))
        if not places:
            break
        holder, key = rng.choice(places)
        kind = rng.randrange(5)
        if kind == 0:
            del holder[key]
        elif kind == 1:
            other, at = rng.choice(places)
            holder[key] = copy.deepcopy(other[at])
        elif kind == 2 and type(holder[key]) in {int, float}:
            holder[key] += rng.choice((-1, 1, 63, 1 << 32))
        else:
            holder[key] = copy.deepcopy(rng.choice(VALUES))
    return json.dumps(value).encode()


def parsed(data: bytes) -> Any:
    """The JSON value, or None."""
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None


CODECS = (TensorCodec, LZCodec, QuantizeCodec)
ARRAY = np.arange(100, dtype=np.float32)


def config_json(data: bytes) -> None:
    """A codec's configuration: refused with ValueError or TypeError, or one that works."""
    value = parsed(data)
    if not isinstance(value, dict):
        return
    for codec in CODECS:
        try:
            made = codec.from_dict({"name": codec.name, "configuration": value})
        except (TypeError, ValueError):
            pass
        else:
            assert codec.from_dict(made.to_dict()) == made
        try:
            old = get_codec({**value, "id": codec.name})
        except (TypeError, ValueError):
            continue
        assert get_codec(old.get_config()) == old
        try:
            frame = old.encode(ARRAY)
        except ValueError:  # of quantization: the scale type has no room for these values
            assert codec is QuantizeCodec
            continue
        assert old.decode(frame).nbytes == ARRAY.nbytes


def config_seeds() -> Iterator[bytes]:
    for value in (
        {},
        {"block_size": 64, "profile": "fast", "lz": True},
        {"level": "fast", "typesize": 4},
        *(quant.QuantizeConfig(name, 32, seed=3).to_json() for name in mutate_quantized.FORMATS),
        quant.QuantizeConfig("int8", bound=gpucodec.ErrorBound(rel=0.1)).to_json(),
    ):
        yield json.dumps(value).encode()


def manifest_json(data: bytes) -> None:
    """The body of a manifest, under a first line that is right."""
    head = json.dumps(
        {
            "format": manifest.FORMAT,
            "version": manifest.VERSION,
            "bytes": len(data),
            "sha256": sha256(data).hexdigest(),
        },
        separators=(",", ":"),
    )
    try:
        found = manifest.parse(head.encode() + b"\n" + data, "here")
    except gpucodec.GpucodecError:
        return
    assert manifest.parse(found.to_bytes(), "again").to_bytes() == found.to_bytes()
    assert all(".." not in key.split("/") for key in found.keys())  # noqa: SIM118 no dict


@cache
def saved() -> bytes:
    """The body of the manifest of a small checkpoint."""
    import fsspec

    state = {"w": np.ones((4, 3), np.float32), "list": [1, None, "x", np.arange(5)], "flag": True}
    url = "memory://fuzz"
    checkpoint.save(state, url)
    body: bytes = fsspec.filesystem("memory").cat(f"/fuzz/{manifest.NAME}").partition(b"\n")[2]
    return body


def manifest_seeds() -> Iterator[bytes]:
    yield saved()
    value = json.loads(saved())
    path, array = next(iter(value["arrays"].items()))
    delta = {"base": path, "op": "sub", "content": "other"}
    value["arrays"]["difference"] = {**array, "delta": delta}
    yield json.dumps(value).encode()


@cache
def harvested() -> MemoryStore:
    """A small harvest, which the target gives other attributes."""
    store = MemoryStore()
    made = rows.RowStore.create(store, "tokens", {"point": ((3,), "float32")}, None)
    made.grow(8)
    made.put("point", 0, np.ones((8, 3), np.float32))
    made.put(rows.TOKENS, 0, np.arange(8))
    made.commit(8)
    return store


def stream_resume(data: bytes) -> None:
    """The attribute that says how far a harvest got, opened for going on."""
    value = parsed(data)
    zarr.open_group(harvested()).attrs[rows.ATTRIBUTE] = value
    try:
        found = rows.RowStore.open(harvested())
    except gpucodec.GpucodecError:
        return
    assert 0 <= found.rows <= found.arrays[rows.TOKENS].shape[0]
    found.verify()


def resume_seeds() -> Iterator[bytes]:
    yield json.dumps(dict(zarr.open_group(harvested()).attrs)[rows.ATTRIBUTE]).encode()
    entry = {"version": 1, "axis": "tokens", "rows": 8, "modules": ["point"]}
    yield json.dumps(entry).encode()


TARGETS = (
    Target(
        "quant_decode",
        quantized,
        lambda: (frame.tobytes() for frame in mutate_quantized.seeds_of_mutants()),
        container_mutator,
    ),
    Target("file_sections", file_sections, lambda: map(encoded, FILES), file_mutator),
    Target("config_json", config_json, config_seeds, json_mutator),
    Target("manifest_json", manifest_json, manifest_seeds, json_mutator),
    Target("stream_resume", stream_resume, resume_seeds, json_mutator),
)
