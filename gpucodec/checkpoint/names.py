# SPDX-License-Identifier: Apache-2.0
"""Names of tensors as paths of a zarr hierarchy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final
from urllib.parse import quote

if TYPE_CHECKING:
    from collections.abc import Iterable

_PLAIN: Final = "/ !#$&'()+,;=@[]^_`{}~"  # beside letters, digits, "-" and "."; legal in file names


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
