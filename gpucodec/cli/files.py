# SPDX-License-Identifier: Apache-2.0
"""What a command is given to read: a file of tensors, or a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .. import tensorfiles
from ..tensorfiles import READERS, is_readable
from .errors import CommandError

if TYPE_CHECKING:
    from pathlib import Path

    from ..tensorfiles.tensors import Contents


def read(path: Path) -> Contents:
    """The tensors of a file or a zarr store, not yet read.

    Raises
    ------
    CommandError
        There is no such file, or no reader for its name.
    GpucodecError
        It is not what its name says.

    """
    if not path.exists():
        raise CommandError(f"{path} does not exist")
    if is_readable(path):
        return tensorfiles.read(path)
    if path.is_dir() or path.suffix == ".zip":
        from . import stores

        return stores.read(stores.open_store(path))
    raise CommandError(f"{path}: the name ends in none of {', '.join(READERS)}, and it is no store")
