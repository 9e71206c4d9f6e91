# SPDX-License-Identifier: Apache-2.0
"""``gpucodec checkpoint``: files to checkpoints and back, and a look at them, at any URL."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from .errors import CommandError, DamagedError

if TYPE_CHECKING:
    from ..checkpoint import TensorInfo

SHARD_BYTES: Final = 5_000_000_000  # `convert.SHARD_BYTES`, which is slow to import
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
    from .. import tensorfiles
    from ..checkpoint import convert
    from .console import progress, ready, say, size

    ready()
    source = convert.index_of(src)
    n_bytes = tensorfiles.read(source).nbytes
    with progress(f"import {src.name}", n_bytes) as done:
        info = convert.import_file(source, url, policy, progress=done)
    say(f"{src} {size(n_bytes)} -> {url} {size(info.encoded_bytes)}, ratio {info.ratio:.3f}")


@checkpoint.command()
@click.argument("url")
@click.argument("dst", type=click.Path(path_type=Path))
@click.option("--force", is_flag=True, help="Replace DST, once the new one is complete.")
@click.option(
    "--shard-bytes", type=click.IntRange(1), default=SHARD_BYTES, help="Of a directory's files."
)
def export(url: str, dst: Path, *, force: bool, shard_bytes: int) -> None:
    """Write the checkpoint at URL as DST.

    DST ends in .safetensors, .npz or .npy (tensors alone), in .gguf (weights alone), in .pt, .pth, .bin
    or .ckpt (all of it, nested as it was), or in nothing: then it becomes a Hugging Face directory.
    """
    from ..checkpoint import convert, open as open_checkpoint
    from . import output
    from .console import progress, ready, say, size

    ready()
    started = time.perf_counter()
    opened = open_checkpoint(url)
    contents = convert.contents_of(opened)
    with (
        output.replacing(dst, force=force) as partial,
        progress(f"export {dst.name}", contents.nbytes) as done,
    ):
        convert.write_file(opened, partial, dst.suffix, shard_bytes, done)
    seconds = time.perf_counter() - started
    say(f"{url} -> {dst} {size(contents.nbytes)}, {seconds:.1f} s")


@checkpoint.command()
@click.argument("url")
def inspect(url: str) -> None:
    """Show each tensor of a checkpoint: type, shape, kind, ratio, and how it is stored."""
    from ..checkpoint import inspect as look
    from .console import say, size, table

    info = look(url)
    table(
        ("tensor", "dtype", "shape", "kind", "bytes", "stored", "ratio", "how"),
        (
            (
                row.name,
                row.dtype,
                "×".join(map(str, row.shape)) or "scalar",
                row.kind,
                size(row.decoded_bytes),
                size(row.encoded_bytes) if row.encoded_bytes else "-",
                f"{row.ratio:.3f}" if row.encoded_bytes else "-",
                _how(row),
            )
            for row in info.tensors
        ),
        (
            "total",
            *("", "", ""),
            size(info.decoded_bytes),
            size(info.encoded_bytes),
            f"{info.ratio:.3f}",
            "",
        ),
    )
    say(
        f"{len(info.tensors)} tensors, {info.n_objects} objects, policy {info.policy}, id {info.id[:12]}"
    )


def _how(row: TensorInfo) -> str:
    """By what a tensor is stored, in words."""
    if row.same_as:
        return f"the same as {row.same_as}"
    if row.rounded_from:
        return f"rounded from {row.rounded_from}"
    codec = str(row.codec["name"]).removeprefix("gpucodec.")
    return f"{codec}, {row.delta} of an earlier one" if row.delta else codec


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
