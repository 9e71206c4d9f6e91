# SPDX-License-Identifier: Apache-2.0
"""Files of tensors: read lazily, written piece by piece. Which module does it, the name decides."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from ..errors import UnsupportedError
from . import numpyfiles, safetensors, torchfiles

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from .tensors import Contents

INDEX: Final = ".safetensors.index.json"
TORCH: Final = (".pt", ".pth", ".bin", ".ckpt")
READERS: Final[dict[str, Callable[[Path], Contents]]] = {
    ".safetensors": safetensors.read,
    ".npy": numpyfiles.read_npy,
    ".npz": numpyfiles.read_npz,
    **dict.fromkeys(TORCH, torchfiles.read),
}
WRITERS: Final[dict[str, Callable[[Path, Contents], None]]] = {
    ".safetensors": safetensors.write,
    ".npy": numpyfiles.write_npy,
    ".npz": numpyfiles.write_npz,
    **dict.fromkeys(TORCH, torchfiles.write),
}


def is_readable(path: Path) -> bool:
    """Whether this is a file that `read` knows by its name."""
    return path.is_file() and (path.suffix in READERS or path.name.endswith(INDEX))


def read(path: Path) -> Contents:
    """The tensors of a file, not yet read.

    Raises
    ------
    FileNotFoundError
        There is no such file.
    UnsupportedError
        No reader for its name.
    CorruptionError
        It is not what its name says.

    """
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist")
    if not is_readable(path):
        raise UnsupportedError(f"{path}: the name ends in none of {', '.join(READERS)}")
    return (safetensors.read_index if path.suffix == ".json" else READERS[path.suffix])(path)


def writer(suffix: str) -> Callable[[Path, Contents], None]:
    """What writes a file of this ending. Raises UnsupportedError if nothing does."""
    if suffix not in WRITERS:
        raise UnsupportedError(f"the name ends in none of {', '.join(WRITERS)}, but in {suffix!r}")
    return WRITERS[suffix]
