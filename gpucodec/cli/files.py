# SPDX-License-Identifier: Apache-2.0
"""Which module reads or writes a path: decided by its name, once."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from . import numpyfiles, safetensors, torchfiles
from .errors import CommandError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .tensors import Contents

INDEX: Final = ".safetensors.index.json"
READERS: Final[dict[str, Callable[[Path], Contents]]] = {
    ".safetensors": safetensors.read,
    ".npy": numpyfiles.read_npy,
    ".npz": numpyfiles.read_npz,
    ".pt": torchfiles.read,
    ".pth": torchfiles.read,
    ".bin": torchfiles.read,
    ".ckpt": torchfiles.read,
}
WRITERS: Final[dict[str, Callable[[Path, Contents], None]]] = {
    ".safetensors": safetensors.write,
    ".npy": numpyfiles.write_npy,
    ".npz": numpyfiles.write_npz,
    ".pt": torchfiles.write,
    ".pth": torchfiles.write,
    ".bin": torchfiles.write,
    ".ckpt": torchfiles.write,
}


def is_readable(path: Path) -> bool:
    """Whether this is a file that `read` knows by its name."""
    return path.is_file() and (path.suffix in READERS or path.name.endswith(INDEX))


def read(path: Path) -> Contents:
    """The tensors of a file or a zarr store, not yet read.

    Raises
    ------
    CommandError
        There is no such file, or no reader for its name.
    DamagedError
        It is not what its name says.

    """
    if not path.exists():
        raise CommandError(f"{path} does not exist")
    if is_readable(path):
        return (safetensors.read_index if path.suffix == ".json" else READERS[path.suffix])(path)
    if path.is_dir() or path.suffix == ".zip":
        from . import stores

        return stores.read(stores.open_store(path))
    raise CommandError(f"{path}: the name ends in none of {', '.join(READERS)}, and it is no store")


def writer(path: Path) -> Callable[[Path, Contents], None]:
    """What writes a file of this name; raises CommandError if nothing does."""
    if path.suffix not in WRITERS:
        raise CommandError(f"{path}: the name ends in none of {', '.join(WRITERS)}")
    return WRITERS[path.suffix]
