# SPDX-License-Identifier: Apache-2.0
"""Loading a checkpoint: into new tensors, or into those of a state dict."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from ..dtypes import BY_NAME
from . import codecs, leaves
from .parallel import Workers
from .read import chunk_jobs, read_chunk, read_manifest
from .rounding import round_into
from .storage import connect
from .structure import flatten, unflatten

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    import numpy as np

    from .manifest import Array, Manifest
    from .storage import Storage

    Host = np.ndarray[Any, np.dtype[Any]]
    # An array, the tensors to fill with it, and what to do once they are.
    Task = tuple[Array, Callable[[], tuple[Host, Callable[[], None]]]]

WINDOW_BYTES = 256 << 20  # of tensors that are read side by side


def load(
    state_dict: Any | None,
    url: Any,
    *,
    device: Any = None,
    cast: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Any:
    """Load a checkpoint.

    Parameters
    ----------
    state_dict
        None for a new one, as it was saved. Otherwise its tensors are filled in place, and its
        other values replaced; it may be a part of what was saved.
    url
        As for `save`.
    device
        Where new tensors go; the CPU by default. Tensors of `state_dict` stay where they are.
    cast
        Convert to the data types of `state_dict`, where they differ; without, that is an error.
    progress
        Called with the bytes of tensors as they are finished, from several threads.

    Returns
    -------
    The state dict; its tensors hold what was saved, bit by bit (or, of tensors that the policy
    quantized, what that says). Should an error occur, tensors of `state_dict` hold anything.

    Raises
    ------
    FileNotFoundError
        There is no checkpoint.
    CorruptionError
        An object is missing, damaged or another's.
    ValueError
        `state_dict` has a tensor or key that the checkpoint has not, or of another shape or type.
    UnsupportedError
        The checkpoint needs PyTorch, or a later gpucodec.

    """
    storage = connect(url)
    return load_from(
        storage, read_manifest(storage), state_dict, device=device, cast=cast, progress=progress
    )


def load_from(
    storage: Storage,
    manifest: Manifest,
    state_dict: Any | None,
    *,
    device: Any = None,
    cast: bool = False,
    progress: Callable[[int], None] | None = None,
) -> Any:
    """As `load`, from a manifest that is read already."""
    done = progress or (lambda _: None)
    codecs.warm(array.codec for array in manifest.arrays.values())
    if state_dict is None:
        return _load_new(storage, manifest, device, done)
    return _load_into(storage, manifest, state_dict, cast, done)


def _load_new(
    storage: Storage, manifest: Manifest, device: Any, done: Callable[[int], None]
) -> Any:
    tensors: dict[str, Any] = {}

    def task(name: str) -> Task:
        one = manifest.tensors[name]
        array = manifest.arrays[one.array]

        def start() -> tuple[Host, Callable[[], None]]:
            made, memory = leaves.empty(BY_NAME[array.dtype], array.shape, one.library)

            def finish() -> None:
                moves = device is not None and one.library == "torch"
                tensors[name] = made.to(device) if moves else made

            return memory, finish

        return array, start

    owners = [name for name, one in manifest.tensors.items() if one.same_as is None]
    read_tensors(storage, [task(name) for name in owners], done)
    for name, one in manifest.tensors.items():
        if one.same_as is not None:
            tensors[name] = tensors[one.same_as]
    return unflatten(manifest.structure, tensors.__getitem__)


def _load_into(
    storage: Storage,
    manifest: Manifest,
    state_dict: Any,
    cast: bool,
    done: Callable[[int], None],
) -> Any:
    flat = flatten(state_dict)
    saved = unflatten(manifest.structure, _Named)
    targets: dict[str, list[leaves.Leaf]] = defaultdict(list)
    for leaf in flat.leaves:
        match _at(saved, leaf.path):
            case _Named(name=name):
                targets[name].append(leaf)
            case _:
                raise ValueError(f"the checkpoint at {storage.url} has no tensor {leaf.name}")
    tasks = []
    for name, found in targets.items():
        array = manifest.arrays[manifest.tensors[name].array]
        for leaf in {leaves.identity(leaf.source): leaf for leaf in found}.values():
            _check(leaf, array, cast)
            tasks.append(fill(leaf, array))
    result = _merge(state_dict, saved, ())  # before any tensor is touched: it may raise
    read_tensors(storage, tasks, done)
    return result()


class _Named:
    """A tensor of the checkpoint, in place of it."""

    def __init__(self, name: str) -> None:
        self.name = name


def _at(node: Any, path: tuple[Any, ...]) -> Any:
    for key in path:
        try:
            node = node[key]
        except (KeyError, IndexError, TypeError):
            return None
    return node


def _check(leaf: leaves.Leaf, array: Array, cast: bool) -> None:
    if leaf.shape != array.shape:
        raise ValueError(f"{leaf.name} has shape {leaf.shape}, the checkpoint {array.shape}")
    if leaf.dtype.name != array.dtype and not cast:
        raise ValueError(
            f"{leaf.name} is {leaf.dtype.name}, in the checkpoint {array.dtype}; cast=True converts"
        )


def fill(leaf: leaves.Leaf, array: Array) -> Task:
    """Read straight into a tensor, or by way of a copy where it is elsewhere or otherwise."""
    target = leaf.source
    dtype = BY_NAME[array.dtype]

    def start() -> tuple[Host, Callable[[], None]]:
        same = leaf.dtype.name == array.dtype
        if leaf.library == "numpy":
            if same and leaf.is_view and target.dtype == dtype.numpy:
                return target, _nothing
            _, memory = leaves.empty(dtype, array.shape, "numpy")
            return memory, lambda: target.__setitem__(..., memory)
        is_plain = not target.is_conj() and not target.is_neg()
        if same and leaf.is_view and is_plain:
            return leaves.memory_of(target, dtype), _nothing
        made, memory = leaves.empty(dtype, array.shape, "torch")
        return memory, lambda: target.detach().copy_(made)

    return array, start


def _nothing() -> None:
    """The target was written in place."""


def _merge(target: Any, saved: Any, path: tuple[Any, ...]) -> Callable[[], Any]:
    """What puts saved values into `target` when it is called."""
    if isinstance(saved, _Named):
        if not leaves.is_torch(target) and not hasattr(target, "__array__"):
            raise ValueError(f"{'/'.join(map(str, path))} is a tensor in the checkpoint")
        return lambda: target
    if isinstance(target, dict) and isinstance(saved, dict):
        lost = [key for key in target if key not in saved]
        if lost:
            where = "/".join(map(str, (*path, lost[0])))
            raise ValueError(f"the checkpoint has no {where}")
        parts = {key: _merge(one, saved[key], (*path, key)) for key, one in target.items()}

        def update() -> Any:
            for key, part in parts.items():
                target[key] = part()
            return target

        return update
    if type(target) in {list, tuple} and type(saved) is type(target):
        if len(target) != len(saved):
            where = "/".join(map(str, path))
            raise ValueError(f"{where} has {len(target)} items, the checkpoint {len(saved)}")
        items = [
            _merge(one, other, (*path, i))
            for i, (one, other) in enumerate(zip(target, saved, strict=True))
        ]

        def replace() -> Any:
            values = [item() for item in items]
            if isinstance(target, tuple):
                return tuple(values)
            target[:] = values
            return target

        return replace
    if _holds_tensors(saved):
        raise ValueError(f"{'/'.join(map(str, path))} holds tensors in the checkpoint")
    return lambda: saved


def _holds_tensors(node: Any) -> bool:
    if isinstance(node, dict):
        return any(map(_holds_tensors, node.values()))
    if isinstance(node, (list, tuple)):
        return any(map(_holds_tensors, node))
    return isinstance(node, _Named)


def read_tensors(storage: Storage, tasks: Iterable[Task], done: Callable[[int], None]) -> None:
    """Read whole arrays, many chunks at once, a bounded number of tensors at a time."""

    def work(job: tuple[Array, Any, Host, list[tuple[str, Host]]]) -> None:
        array, (number, box, keys), out, roundings = job
        read_chunk(storage, array, number, box, out, keys)
        done(out[box].nbytes)
        for dtype, rounded in roundings:  # while the chunk is in the cache
            round_into(out[box], rounded[box], dtype)
            done(rounded[box].nbytes)

    def flush(window: list[tuple[Array, Host, Callable[[], None]]]) -> None:
        roundings: dict[str, list[tuple[str, Host]]] = defaultdict(list)
        read = {array.path for array, _, _ in window}
        stored = []
        for array, out, _ in window:
            if array.rounding is not None and array.rounding.source.path in read:
                roundings[array.rounding.source.path].append((array.dtype, out))
            else:
                stored.append((array, out))
        jobs = [
            (array, chunk, out, beside)
            for array, out in stored
            for beside in [roundings.pop(array.path, [])]
            for chunk in chunk_jobs(array)
        ]
        workers.map(work, jobs)
        for _, _, finish in window:
            finish()

    with Workers(storage.workers) as workers:
        window: list[tuple[Array, Host, Callable[[], None]]] = []
        total = 0
        for array, start in sorted(tasks, key=lambda task: task[0].chain[-1].path):
            out, finish = start()
            window.append((array, out, finish))
            total += array.nbytes
            if total >= WINDOW_BYTES:
                flush(window)
                window, total = [], 0
        flush(window)
