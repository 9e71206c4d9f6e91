# SPDX-License-Identifier: Apache-2.0
"""How tensors of a file lie in a zarr store: names, chunks, and what the root remembers.

One array a tensor, at a path made from its name, in a root group whose attribute ``gpucodec``
is ``{"layout": 1, "kind": ..., "tensors": {name: path}, ...}``. The list makes a lost array an
error, and the layout promises that every chunk was written, so a lost chunk is one too.
"""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from .errors import CommandError, DamagedError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

ATTRIBUTE: Final = "gpucodec"
LAYOUT: Final = 1
CHUNK_BYTES: Final = 16 << 20  # most decoded bytes of a chunk: enough blocks for every thread
_PLAIN: Final = "/ !#$&'()+,;=@[]^_`{}~"  # beside letters, digits, "-" and "."; legal in file names


def chunk_shape(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Whole tensors up to 16 MiB; larger ones cut along their first axes into even parts.

    Memory order stays C order across chunks, so a chunk is one stretch of the file it came from.
    """
    chunks = [max(1, n) for n in shape]
    for axis, length in enumerate(chunks):
        rest = prod(chunks[axis + 1 :]) * itemsize
        if rest >= CHUNK_BYTES:
            chunks[axis] = 1
            continue
        n_parts = -(-length // (CHUNK_BYTES // rest))
        chunks[axis] = -(-length // n_parts)
        break
    return tuple(chunks)


def array_paths(names: Iterable[str]) -> dict[str, str]:
    """Where each tensor goes: its name, with what zarr or a file system would not take escaped.

    A "/" in a name makes groups. Escapes are those of URLs.
    """
    paths = {name: "/".join(map(_escape, name.split("/"))) for name in names}
    folders = {path[:i] for path in paths.values() for i, c in enumerate(path) if c == "/"}
    return {name: path + "%" if path in folders else path for name, path in paths.items()}


def _escape(part: str) -> str:
    if part.startswith(("__", ".")) or part == "zarr.json" or not part:  # zarr keeps these
        return f"%{ord(part[0]):02X}{_quote(part[1:])}" if part else "%"
    return "".join(c if c.isalnum() else _quote(c) for c in part)


def _quote(text: str) -> str:
    return quote(text, safe=_PLAIN, errors="surrogatepass")  # JSON may hold half a character


def remember(kind: str, paths: Mapping[str, str], extra: Mapping[str, Any]) -> dict[str, Any]:
    """The attributes of the root group."""
    note = {"layout": LAYOUT, "kind": kind, "tensors": dict(paths), **extra}
    return {ATTRIBUTE: note}


def recall(attributes: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `remember` noted, or None in a store of somebody else.

    Raises
    ------
    DamagedError
        The note is there, but not as it is written.
    CommandError
        A layout of a later gpucodec.

    """
    note = attributes.get(ATTRIBUTE)
    match note:
        case None:
            return None
        case {"layout": int(layout)} if layout != LAYOUT:
            raise CommandError(f"the store has layout {layout}, this gpucodec reads {LAYOUT}")
        case {"layout": int(), "kind": str(), "tensors": dict(tensors)} if all(
            isinstance(path, str) for path in tensors.values()
        ):
            return dict(note)
    raise DamagedError(f"the root's attribute {ATTRIBUTE!r} is not valid")
