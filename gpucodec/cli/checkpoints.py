# SPDX-License-Identifier: Apache-2.0
"""``gpucodec checkpoint``: files to checkpoints and back, and a look at them, at any URL."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from .errors import CommandError, DamagedError

if TYPE_CHECKING:
    from ..checkpoint import Checkpoint
    from .tensors import Contents, Tensor

SHARD_BYTES: Final = 5_000_000_000  # of a Hugging Face directory, as transformers writes it
POLICIES: Final = ("lossless", "resume", "archive")


@click.group()
def checkpoint() -> None:
    """Checkpoints of a training run: import, export, inspect, verify, compact.

    URL is a folder or anything that fsspec opens, such as s3://bucket/run.
    """


@checkpoint.command("import")
@click.argument("src", type=click.Path(path_type=Path))
@click.argument("url")
@click.option("--policy", type=click.Choice(POLICIES), default="lossless", show_default=True)
def import_(src: Path, url: str, policy: str) -> None:
    """Save the tensors of SRC as the checkpoint at URL.

    SRC is a .safetensors or torch file, a Hugging Face directory or its index, .npz or .npy.
    """
    from ..checkpoint import manifest as manifests
    from ..checkpoint.save import Job, commit, previous
    from ..checkpoint.storage import connect
    from . import files, torchfiles
    from .console import progress, ready, say, size

    ready()
    source = _index_of(src)
    contents = files.read(source)
    metadata: dict[str, Any] = {}
    if contents.kind == "torch":
        state = torchfiles.load(source)
    elif contents.kind == "zarr":
        raise CommandError(f"{src} is a store, not a file: gpucodec copy copies stores")
    else:
        state = {tensor.name: tensor.open() for tensor in contents.tensors}
        metadata = {contents.kind: contents.extra.get("metadata")} if contents.extra else {}
    with progress(f"import {src.name}", contents.nbytes) as done:
        storage = connect(url)
        before = previous(storage, manifests.NAME)
        job = Job(storage, state, policy, metadata=metadata, progress=done)
        if contents.kind == "safetensors":  # are read without torch, and belong to it
            job.libraries = dict.fromkeys(job.libraries, "torch")
        info = commit(job, manifests.NAME, before)
    say(
        f"{src} {size(contents.nbytes)} -> {url} {size(info.encoded_bytes)}, ratio {info.ratio:.3f}"
    )


@checkpoint.command()
@click.argument("url")
@click.argument("dst", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace DST, once the new one is complete.")
@click.option(
    "--shard-bytes", type=click.IntRange(1), default=SHARD_BYTES, help="Of a directory's files."
)
def export(url: str, dst: Path, *, force: bool, shard_bytes: int) -> None:
    """Write the checkpoint at URL as DST.

    DST ends in .safetensors, .npz or .npy (tensors alone), in .pt, .pth, .bin or .ckpt (all of it,
    nested as it was), or has no ending: then it becomes a Hugging Face directory.
    """
    from ..checkpoint.view import open_checkpoint
    from . import files, output, safetensors
    from .console import progress, ready, say, size
    from .tensors import Contents

    ready()
    started = time.perf_counter()
    opened = open_checkpoint(url)
    tensors = [_tensor(opened, name) for name in opened]
    metadata = opened.metadata.get("safetensors")
    extra = {} if metadata is None else {"metadata": metadata}
    contents = Contents("safetensors", tensors, extra)
    with (
        output.replacing(dst, force=force) as partial,
        progress(f"export {dst.name}", contents.nbytes) as done,
    ):
        if not dst.suffix:
            _write_directory(partial, contents.watched(done), shard_bytes)
        elif dst.suffix in {".pt", ".pth", ".bin", ".ckpt"}:
            from ..checkpoint.leaves import torch_module

            torch_module().save(opened.load(progress=done), partial)
        elif dst.suffix == ".safetensors":
            safetensors.write(partial, contents.watched(done))
        else:
            files.writer(dst)(partial, contents.watched(done))
    seconds = time.perf_counter() - started
    say(f"{url} -> {dst} {size(contents.nbytes)}, {seconds:.1f} s")


@checkpoint.command()
@click.argument("url")
def inspect(url: str) -> None:
    """Show each tensor of a checkpoint: type, shape, kind, codec, ratio."""
    from ..checkpoint import inspect as look

    info = look(url)
    for row in info.tensors:
        shape = "x".join(map(str, row.shape)) or "scalar"
        how = f"{row.codec['name']}{f', {row.delta} of an earlier one' if row.delta else ''}"
        if row.rounded_from:
            how = f"rounded from {row.rounded_from}"
        same = f" = {row.same_as}" if row.same_as else ""
        click.echo(f"{row.name}{same}  {row.dtype} {shape}  {row.kind}  {how}  {row.ratio:.3f}")
    click.echo(
        f"{len(info.tensors)} tensors, {info.decoded_bytes} -> {info.encoded_bytes} bytes, ratio "
        f"{info.ratio:.3f}, {info.n_objects} objects, policy {info.policy}, id {info.id}"
    )


@checkpoint.command()
@click.argument("url")
@click.option("--subset", default="1/1", show_default=True, help="n/t: the n-th of t parts.")
def verify(url: str, subset: str) -> None:
    """Read and decode every object of a checkpoint; the exit code is 1 if any is not sound."""
    from ..checkpoint import verify as check
    from ..errors import CorruptionError
    from .console import say

    number, _, total = subset.partition("/")
    if not (number.isdigit() and total.isdigit()):
        raise CommandError(f"--subset is n/t, such as 1/7, not {subset}")
    try:
        n_objects = check(url, subset=(int(number), int(total)))
    except CorruptionError as error:
        for note in getattr(error, "__notes__", ()):
            click.echo(f"error: {note}", err=True)
        raise DamagedError(str(error)) from error
    except ValueError as error:
        raise CommandError(str(error)) from error
    say(f"{url}: sound, {n_objects} objects")


@checkpoint.command()
@click.argument("url")
def compact(url: str) -> None:
    """Store in full what is stored as a difference to earlier checkpoints."""
    from ..checkpoint import compact as rewrite
    from .console import say, size

    info = rewrite(url)
    say(f"{url}: {info.n_tensors} tensors in full, {size(info.encoded_bytes)}")


def _index_of(src: Path) -> Path:
    """The file to read of a Hugging Face directory."""
    if not src.is_dir():
        return src
    for pattern in ("*.safetensors.index.json", "*.safetensors"):
        found = sorted(src.glob(pattern))
        if len(found) == 1:
            return found[0]
        if found:
            raise CommandError(f"{src} has {len(found)} files {pattern}: name one of them")
    raise CommandError(f"{src} has no .safetensors files")


class _Lazy:
    """What of a tensor is indexed is read."""

    def __init__(self, opened: Checkpoint, name: str) -> None:
        self.lazy = opened[name]

    def __getitem__(self, rows: Any) -> Any:
        return self.lazy.numpy(rows if self.lazy.shape else ...)


def _tensor(opened: Checkpoint, name: str) -> Tensor:
    from ..dtypes import BY_NAME
    from .tensors import Tensor

    lazy = opened[name]
    chunks = opened.manifest.arrays[opened.manifest.tensors[name].array].chunks
    step = chunks[0] if chunks else 1
    dtype = BY_NAME[lazy.dtype].numpy
    return Tensor(name, dtype, lazy.shape, lambda: _Lazy(opened, name), step)


def _write_directory(folder: Path, contents: Contents, shard_bytes: int) -> None:
    """Files of at most `shard_bytes` (but one tensor at least), and their index."""
    import json
    from dataclasses import replace

    from . import safetensors

    shards: list[list[Tensor]] = [[]]
    for tensor in contents.tensors:
        if shards[-1] and sum(t.nbytes for t in shards[-1]) + tensor.nbytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    folder.mkdir()
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
