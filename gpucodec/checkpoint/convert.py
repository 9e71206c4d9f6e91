# SPDX-License-Identifier: Apache-2.0
"""Files of tensors to checkpoints and back.

Read are safetensors, a Hugging Face directory (or its index), files of torch.save, .npz and .npy;
written are these and GGUF. Nothing is held in memory but a piece at a time, save by torch.save.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from .. import tensorfiles
from ..errors import UnsupportedError
from ..tensorfiles import safetensors, torchfiles
from ..tensorfiles.tensors import Contents, Tensor
from . import manifest as manifests
from .leaves import torch_module
from .save import Job, commit, previous
from .storage import connect
from .view import open_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable

    from .policy import Policy
    from .save import SaveInfo
    from .view import Checkpoint

SHARD_BYTES: Final = 5_000_000_000  # of a Hugging Face directory, as transformers writes it


def import_file(
    src: Any,
    url: Any,
    policy: Policy | str = "lossless",
    *,
    progress: Callable[[int], None] | None = None,
) -> SaveInfo:
    """Save the tensors of a file, or of a Hugging Face directory, as a checkpoint.

    Parameters
    ----------
    src
        A path. What torch.save wrote keeps its nesting; of it only tensors and plain values are
        loaded, nothing of it runs.
    url, policy, progress
        As for `gpucodec.checkpoint.save`.

    Raises
    ------
    UnsupportedError, CorruptionError
        No such kind of file, or it is not what its name says.
    OSError, FileExistsError
        As `gpucodec.checkpoint.save`.

    """
    source = index_of(Path(src))
    contents = tensorfiles.read(source)
    metadata: dict[str, Any] = {}
    if contents.kind == "torch":
        state = torchfiles.load(source)
    else:
        state = {tensor.name: tensor.open() for tensor in contents.tensors}
        metadata = {contents.kind: contents.extra.get("metadata")} if contents.extra else {}
    storage = connect(url)
    before = previous(storage, manifests.NAME)
    job = Job(storage, state, policy, metadata=metadata, progress=progress)
    if contents.kind == "safetensors":  # are read without torch, and belong to it
        job.libraries = dict.fromkeys(job.libraries, "torch")
    return commit(job, manifests.NAME, before)


def export_file(
    url: Any,
    dst: Any,
    *,
    shard_bytes: int = SHARD_BYTES,
    progress: Callable[[int], None] | None = None,
) -> None:
    """Write a checkpoint as a file, or as a Hugging Face directory.

    Parameters
    ----------
    url
        As for `gpucodec.checkpoint.load`.
    dst
        A path that ends in .safetensors, .npz or .npy (tensors alone), .pt, .pth, .bin or .ckpt (all
        of it, nested as it was), .gguf (see `gpucodec.checkpoint.gguf`), or in nothing: that becomes a
        directory of safetensors. It is overwritten.
    shard_bytes
        Most bytes of a directory's files, if a tensor alone has no more.
    progress
        Called with the bytes of tensors as they are written.

    Raises
    ------
    UnsupportedError
        There is no such kind of file, or it has no place for a tensor.
    FileNotFoundError, CorruptionError
        As `gpucodec.checkpoint.load`.

    """
    path = Path(dst)
    write_file(open_checkpoint(url), path, path.suffix, shard_bytes, progress or (lambda _: None))


def write_file(
    opened: Checkpoint, path: Path, suffix: str, shard_bytes: int, done: Callable[[int], None]
) -> None:
    """As `export_file`, of the kind that `suffix` says, whatever `path` is called."""
    contents = contents_of(opened)
    if not suffix:
        _write_directory(path, contents.watched(done), shard_bytes)
    elif suffix in tensorfiles.TORCH:
        torch_module().save(opened.load(progress=done), path)
    elif suffix == ".gguf":
        from .gguf import write

        write(opened, path, done)
    else:
        tensorfiles.writer(suffix)(path, contents.watched(done))


def contents_of(opened: Checkpoint) -> Contents:
    """The tensors of a checkpoint, to be read piece by piece, with the metadata of safetensors."""
    metadata = opened.metadata.get("safetensors")
    extra = {} if metadata is None else {"metadata": metadata}
    return Contents("safetensors", [_tensor(opened, name) for name in opened], extra)


def index_of(src: Path) -> Path:
    """The file to read of a Hugging Face directory. Raises UnsupportedError if that is not clear."""
    if not src.is_dir():
        return src
    for pattern in ("*.safetensors.index.json", "*.safetensors"):
        found = sorted(src.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise UnsupportedError(f"{src} has {len(found)} files {pattern}: name one of them")
    raise UnsupportedError(f"{src} has no .safetensors files")


class _Lazy:
    """What of a tensor is indexed is read."""

    def __init__(self, opened: Checkpoint, name: str) -> None:
        self.lazy = opened[name]

    def __getitem__(self, rows: Any) -> Any:
        return self.lazy.numpy(rows if self.lazy.shape else ...)


def _tensor(opened: Checkpoint, name: str) -> Tensor:
    from ..dtypes import BY_NAME

    lazy = opened[name]
    chunks = opened.manifest.arrays[opened.manifest.tensors[name].array].chunks
    step = chunks[0] if chunks else 1
    dtype = BY_NAME[lazy.dtype].numpy
    return Tensor(name, dtype, lazy.shape, lambda: _Lazy(opened, name), step)


def _write_directory(folder: Path, contents: Contents, shard_bytes: int) -> None:
    """Files of at most `shard_bytes` (but one tensor at least), and their index."""
    shards: list[list[Tensor]] = [[]]
    for tensor in contents.tensors:
        if shards[-1] and sum(t.nbytes for t in shards[-1]) + tensor.nbytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    folder.mkdir(exist_ok=True)
    places: dict[str, str] = {}
    for number, tensors in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        if len(shards) == 1:
            name = "model.safetensors"
        safetensors.write(folder / name, replace(contents, tensors=tensors))
        places |= {tensor.name: name for tensor in tensors}
    if len(shards) > 1:
        index = {"metadata": {"total_size": contents.nbytes}, "weight_map": places}
        text = json.dumps(index, indent=2)
        (folder / "model.safetensors.index.json").write_text(text, encoding="utf-8")
