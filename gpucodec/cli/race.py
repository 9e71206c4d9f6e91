# SPDX-License-Identifier: Apache-2.0
"""``gpucodec bench``: which compressor is best on this file, measured and not believed.

All contestants work on the same bytes on one thread and take turns, piece by piece and round by
round, so that a machine that changes its speed favours nobody. Times are CPU times: a busy
neighbour costs wall time, not CPU time.
"""

from __future__ import annotations

import statistics
import time
from collections import defaultdict
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from ..tensorfiles.tensors import as_bytes
from . import files, peers
from .console import rate, ready, say, size, table
from .errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path

    from ..tensorfiles.tensors import Array, Contents

PIECE_BYTES: Final = 4 << 20
ROUNDS: Final = 3


def run(path: Path, sample_bytes: int) -> None:
    """Print one table per data type of the file.

    Raises
    ------
    CommandError
        The file cannot be read or has nothing in it, or a contestant returns other bytes.

    """
    ready()
    samples = sample(files.read(path), sample_bytes)
    if not samples:
        raise CommandError(f"{path} has no tensor with elements")
    absent: set[str] = set()
    for dtype, pieces in samples.items():
        contestants, missing = peers.available(dtype)
        absent.update(missing)
        n_bytes = sum(piece.nbytes for piece in pieces)
        say(f"\n{path.name}: {dtype}, {size(n_bytes)} in {len(pieces)} pieces, one thread")
        rows = [
            (
                name,
                f"{n_bytes / encoded:.3f}",
                rate(n_bytes, encode).removesuffix(" GB/s"),
                rate(n_bytes, decode).removesuffix(" GB/s"),
            )
            for name, encoded, encode, decode in race(contestants, pieces)
        ]
        table(("codec", "ratio", "encode GB/s", "decode GB/s"), rows)
    if absent:
        say(f"\nNot installed: {', '.join(sorted(absent))}. pip install 'gpucodec[bench]'")


def sample(contents: Contents, most_bytes: int) -> dict[np.dtype[Any], list[Array]]:
    """Pieces of all tensors in proportion, by data type, together about `most_bytes`."""
    share = min(1.0, most_bytes / max(1, contents.nbytes))
    pieces: dict[np.dtype[Any], list[Array]] = defaultdict(list)
    for tensor in contents.tensors:
        source = tensor.open() if tensor.nbytes else None
        if source is None:
            continue
        if not tensor.shape:
            pieces[tensor.dtype].append(np.asarray(source[()], tensor.dtype).reshape(1))
            continue
        row_bytes = tensor.nbytes // tensor.shape[0]
        rows = max(1, round(tensor.shape[0] * share))
        step = max(1, PIECE_BYTES // row_bytes)
        for first in range(0, rows, step):
            part = source[first : min(first + step, rows)]
            pieces[tensor.dtype].append(np.ascontiguousarray(part, tensor.dtype).reshape(-1))
    return {dtype: _joined(found) for dtype, found in pieces.items()}


def _joined(pieces: list[Array]) -> list[Array]:
    """Few pieces of about the same size: norms and biases of a few bytes measure nothing."""
    whole = np.concatenate(pieces)
    return np.array_split(whole, max(1, -(-whole.nbytes // PIECE_BYTES)))


def race(contestants: list[peers.Peer], pieces: list[Array]) -> list[tuple[str, int, float, float]]:
    """(name, encoded bytes, seconds to encode, to decode) of each. Raises CommandError."""
    lanes = list(contestants)
    encoded_bytes = dict.fromkeys((peer.name for peer in lanes), 0)
    times: dict[tuple[str, int], list[tuple[float, float]]] = defaultdict(list)
    for turn in range(ROUNDS + 1):  # the first one warms up, checks and counts
        for number, piece in enumerate(pieces):
            for peer in lanes:
                ready = peer.prepare(piece)
                begin = time.process_time()
                encoded = peer.encode(ready)
                middle = time.process_time()
                decoded = peer.decode(encoded)
                end = time.process_time()
                if turn:
                    times[peer.name, number].append((middle - begin, end - middle))
                    continue
                encoded_bytes[peer.name] += memoryview(encoded).nbytes
                if not _same(piece, decoded):
                    raise CommandError(f"{peer.name} does not return {piece.dtype} as it was")
            lanes.append(lanes.pop(0))  # nobody always runs in the wake of the same neighbour

    def seconds(peer: peers.Peer, side: int) -> float:
        numbers = range(len(pieces))
        return sum(statistics.median(t[side] for t in times[peer.name, n]) for n in numbers)

    return [
        (peer.name, encoded_bytes[peer.name], seconds(peer, 0), seconds(peer, 1))
        for peer in contestants
    ]


def _same(piece: Array, decoded: Any) -> bool:
    got = decoded if isinstance(decoded, np.ndarray) else np.frombuffer(decoded, np.uint8)
    return bool(np.array_equal(as_bytes(got), as_bytes(piece)))
