# SPDX-License-Identifier: Apache-2.0
"""Many ranges of many files at once: one round of requests, one batch of decoding."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Final

from ..errors import GpucodecError
from .reading import Request, clip, fill

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .indexes import Indexes

MERGED_BYTES: Final = 16 << 20  # of a file, fetched by one request for several ranges


async def cat_ranges(
    below: Any,
    indexes: Indexes,
    ranges: Sequence[tuple[str, int | None, int | None]],
    max_gap: int,
    threads: int | None,
) -> list[Any]:
    """The bytes of each (path, start, stop), or the exception that it met instead.

    Blocks that several ranges want are fetched once, and so is what lies up to `max_gap` bytes
    apart.
    """
    names = list(dict.fromkeys(path for path, _, _ in ranges))
    loaded = await asyncio.gather(*map(indexes.load, names), return_exceptions=True)
    known = dict(zip(names, loaded, strict=True))
    results: list[Any] = [None] * len(ranges)
    requests: dict[int, Request] = {}
    fetches: list[tuple[str, int | None, int | None, list[int]]] = []
    for i, (path, start, stop) in enumerate(ranges):
        found = known[path]
        if isinstance(found, BaseException):
            results[i] = found
        elif found[1] is None:
            fetches.append((path, start, stop, [i]))
        else:
            try:
                requests[i] = Request(found[1], *clip(start, stop, found[1].size))
            except GpucodecError as error:
                results[i] = error
    stored = [(ranges[i][0], r, i) for i, r in requests.items() if r.stored[0] < r.stored[1]]
    fetches += _merged(stored, max_gap)
    columns = [[fetch[k] for fetch in fetches] for k in range(3)]
    pieces = await below._cat_ranges(*columns, on_error="return")
    ready: list[tuple[int, Request, Any]] = [
        (i, r, b"") for i, r in requests.items() if r.stored[0] == r.stored[1]
    ]
    for (_, begin, _, numbers), piece in zip(fetches, pieces, strict=True):
        for i in numbers:
            if isinstance(piece, BaseException) or i not in requests:
                results[i] = piece
            else:
                lo, hi = requests[i].stored
                assert begin is not None, i
                ready.append((i, requests[i], memoryview(piece)[lo - begin : hi - begin]))
    for i, result in await asyncio.to_thread(_decode, ready, threads):
        results[i] = result
    return results


def _merged(
    requests: list[tuple[str, Request, int]], max_gap: int
) -> list[tuple[str, int | None, int | None, list[int]]]:
    """Ranges to fetch (path, start, stop, numbers of the requests that they serve)."""
    found: list[tuple[str, Any, Any, list[int]]] = []
    for path, request, i in sorted(requests, key=lambda r: (r[0], r[1].stored)):
        start, stop = request.stored
        if found:
            last_path, first, last, numbers = found[-1]
            longest = max(last, stop) - first
            if last_path == path and start <= last + max_gap and longest <= MERGED_BYTES:
                found[-1] = path, first, max(last, stop), [*numbers, i]
                continue
        found.append((path, start, stop, [i]))
    return found


def _decode(ready: list[tuple[int, Request, Any]], threads: int | None) -> list[tuple[int, Any]]:
    """The decoded bytes of each request, or its own error."""
    try:
        fill([(request, piece) for _, request, piece in ready], threads)
    except GpucodecError:  # of one of them: which?
        found: list[tuple[int, Any]] = []
        for i, request, piece in ready:
            try:
                fill([(request, piece)], threads)
            except GpucodecError as error:
                found.append((i, error))
            else:
                found.append((i, request.out.tobytes()))
        return found
    return [(i, request.out.tobytes()) for i, request, _ in ready]
