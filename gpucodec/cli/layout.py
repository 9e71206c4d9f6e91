# SPDX-License-Identifier: Apache-2.0
"""How tensors of a file lie in a zarr store: names, chunks, and what the root remembers.

One array a tensor, at a path made from its name, in a root group whose attribute ``gpucodec``
is ``{"layout": 1, "kind": ..., "tensors": {name: path}, ...}``. The list makes a lost array an
error, and the layout promises that every chunk was written, so a lost chunk is one too.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from .errors import CommandError, DamagedError

if TYPE_CHECKING:
    from collections.abc import Mapping

ATTRIBUTE: Final = "gpucodec"
LAYOUT: Final = 1


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
