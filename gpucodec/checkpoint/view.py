# SPDX-License-Identifier: Apache-2.0
"""An opened checkpoint: a mapping of tensors that are read when they are sliced."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from ..dtypes import BY_NAME
from . import leaves
from .load import load_from, read_tensors
from .names import array_paths
from .read import apply, read_manifest
from .rounding import round_into
from .storage import connect
from .structure import unflatten

if TYPE_CHECKING:
    from collections.abc import Iterator

    import zarr

    from .manifest import Array, Manifest
    from .storage import Storage

    Host = np.ndarray[Any, np.dtype[Any]]


class LazyTensor:
    """A tensor of a checkpoint that has not been read.

    Indexing reads what it needs, and only that: ``lazy[10:20]`` decodes the blocks that hold
    these rows. ``lazy[:]`` is all of it.
    """

    def __init__(self, checkpoint: Checkpoint, name: str) -> None:
        self._checkpoint = checkpoint
        self._entry = checkpoint.manifest.tensors[name]
        self.name = name

    @property
    def array(self) -> Array:
        """What the manifest says of it."""
        return self._checkpoint.manifest.arrays[self._entry.array]

    @property
    def shape(self) -> tuple[int, ...]:
        """Lengths of the axes."""
        return self.array.shape

    @property
    def dtype(self) -> str:
        """The data type's name, which NumPy (with ml_dtypes), torch and zarr share."""
        return self.array.dtype

    @property
    def kind(self) -> str:
        """What it is to training: "param", "exp_avg", ..."""
        return self._entry.kind

    @property
    def nbytes(self) -> int:
        """Decoded bytes."""
        return self.array.nbytes

    @property
    def encoded_bytes(self) -> int:
        """Stored bytes."""
        return self.array.encoded_bytes

    @property
    def delta(self) -> str | None:
        """The kind of difference to an earlier tensor that it is stored as: sub, xor, or None."""
        return None if self.array.delta is None else self.array.delta.op

    @property
    def rounded_from(self) -> str | None:
        """The tensor that it is the rounding of, if it is stored as that."""
        if self.array.rounding is None:
            return None
        source = self.array.rounding.source.path
        tensors = self._checkpoint.manifest.tensors
        return next((name for name, one in tensors.items() if one.array == source), source)

    @property
    def codec(self) -> dict[str, Any]:
        """How it is encoded, as zarr's metadata have it."""
        return dict(self.array.codec)

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError(f"{self.name} has no axes")
        return self.shape[0]

    def __repr__(self) -> str:
        return f"<LazyTensor {self.name} {self.dtype} {self.shape}>"

    def __getitem__(self, selection: Any) -> Any:
        """Read a part: a torch tensor on the CPU, or an array if it was saved as one."""
        array = self.numpy(selection)
        if self._entry.library == "numpy":
            return array
        return to_torch(array)

    def numpy(self, selection: Any = ...) -> Host:
        """Read a part as an array (bfloat16 and float8 are types of ml_dtypes)."""
        if _is_everything(selection):
            out = np.empty(self.shape, BY_NAME[self.dtype].numpy)
            task = (self.array, lambda: (out, lambda: None))
            read_tensors(self._checkpoint.storage, [task], lambda _: None)
            return out
        return self._checkpoint.read_part(self.array, selection)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Host:
        if copy is False:
            raise ValueError(f"{self.name} has to be read, which makes a copy")
        array = self.numpy()
        return array if dtype is None else np.asarray(array, dtype)


def _is_everything(selection: Any) -> bool:
    parts = selection if isinstance(selection, tuple) else (selection,)
    return all(part is ... or (isinstance(part, slice) and part == slice(None)) for part in parts)


def to_torch(array: Host) -> Any:
    """An array as a tensor that shares its memory, if that is writable and contiguous."""
    torch = leaves.torch_module()
    array = np.require(array, requirements=["C", "W"])
    flat = torch.from_numpy(array.reshape(-1).view(np.uint8))
    return flat.view(leaves.torch_type(BY_NAME[array.dtype.name])).reshape(array.shape)


class Checkpoint(Mapping[str, LazyTensor]):
    """A checkpoint whose tensors are read when they are sliced; made by `open`.

    It is a mapping from names (keys of nested dicts joined by "/") to `LazyTensor`.
    """

    def __init__(self, storage: Storage, manifest: Manifest) -> None:
        self.storage = storage
        self.manifest = manifest

    def __getitem__(self, name: str) -> LazyTensor:
        if name not in self.manifest.tensors:
            raise KeyError(name)
        return LazyTensor(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.manifest.tensors)

    def __len__(self) -> int:
        return len(self.manifest.tensors)

    def __repr__(self) -> str:
        return f"<Checkpoint {self.storage.url}, {len(self)} tensors, id {self.id[:12]}>"

    @property
    def id(self) -> str:
        """SHA-256 of its contents and of the hashes of all objects."""
        return self.manifest.id

    @property
    def metadata(self) -> dict[str, Any]:
        """What was given to `save` as metadata."""
        return dict(self.manifest.extra.get("metadata", {}))

    @property
    def structure(self) -> Any:
        """The state dict, with a `LazyTensor` for each tensor."""
        return unflatten(self.manifest.structure, self.__getitem__)

    def load(self, state_dict: Any = None, **options: Any) -> Any:
        """As `gpucodec.checkpoint.load`."""
        return load_from(self.storage, self.manifest, state_dict, **options)

    @cached_property
    def _paths(self) -> dict[str, str]:
        return array_paths(self.manifest.tensors)

    @cached_property
    def zarr_group(self) -> zarr.Group:
        """The tensors as a read-only zarr group, under their names; every read is checked.

        What is stored as a difference or rounding is made from what it refers to, a chunk at a time;
        the `LazyTensor` of it reads single blocks.
        """
        import zarr

        from ..zarr import enable
        from .zarrstore import CheckedStore

        arrays = self.manifest.arrays
        places = {
            self._paths[name]: arrays[one.array] for name, one in self.manifest.tensors.items()
        }
        with enable():
            return zarr.open_group(CheckedStore(self.storage, places), mode="r", zarr_format=3)

    def read_part(self, array: Array, selection: Any) -> Host:
        """A part of an array, as zarr reads it; of a reference, made from the same part of that."""
        if array.rounding is not None:
            exact = self.read_part(array.rounding.source, selection)
            part = np.empty(exact.shape, BY_NAME[array.dtype].numpy)
            round_into(exact, part, array.dtype)
            return part
        stored = np.asarray(self._stored(array)[selection])
        if array.delta is None:
            return stored
        part = np.ascontiguousarray(self.read_part(array.delta.base, selection))
        part = part.reshape(stored.shape)  # which makes 0-d arrays 1-d, else
        apply(array.delta.op, stored, part)
        return part

    def _stored(self, array: Array) -> zarr.Array[Any]:
        """An array as it is stored."""
        import zarr

        from ..zarr import enable
        from .zarrstore import CheckedStore

        with enable():
            store = CheckedStore(self.storage, {array.path: replace(array, delta=None)})
            return zarr.open_array(store, path=array.path, mode="r", zarr_format=3)


def open_checkpoint(url: Any) -> Checkpoint:
    """Open a checkpoint: its manifest is read, and nothing else until a tensor is sliced.

    Raises
    ------
    FileNotFoundError
        There is no checkpoint.
    CorruptionError, UnsupportedError
        Its manifest is damaged, or of a later gpucodec.

    """
    storage = connect(url)
    return Checkpoint(storage, read_manifest(storage))
