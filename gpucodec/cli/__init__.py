# SPDX-License-Identifier: Apache-2.0
"""The command line. Commands are thin; each loads what it needs when it runs."""

from __future__ import annotations

import logging
import signal
import time
import warnings
from pathlib import Path
from typing import Any, NoReturn

import click

from .. import __version__
from ..errors import CorruptionError, GpucodecError
from ..threads import set_threads
from .checkpoints import checkpoint
from .errors import INTERRUPTED, CommandError, DamagedError
from .models import model
from .options import (
    CODEC_NAMES,
    PATH,
    bound_option,
    cluster_options,
    force,
    profile_option,
    quantize_option,
)

HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class Commands(click.Group):
    """A group whose commands end in one line on stderr, whatever goes wrong."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run, and turn what a person can do something about into exit codes."""
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # other packages' advice is for programmers
                return super().invoke(ctx)
        except CorruptionError as error:
            raise DamagedError(str(error)) from error
        except (GpucodecError, OSError) as error:
            raise CommandError(str(error)) from error
        except KeyboardInterrupt as error:
            raise CommandError("interrupted", INTERRUPTED) from error


@click.group(cls=Commands, context_settings=HELP)
@click.version_option(__version__, package_name="gpucodec")
@click.option("--threads", type=click.IntRange(1), help="Threads to use; all CPUs by default.")
def main(threads: int | None) -> None:
    """Store tensors smaller, without losing a bit.

    Files: .safetensors, .pt .pth .bin (torch.save), .npy, .npz. Stores: zarr.
    """
    if threads is not None:
        set_threads(threads)
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # tasks that an error left behind
    _terminate_cleanly()


def _terminate_cleanly() -> None:
    """Let SIGTERM unwind like Ctrl-C, so that no partial output stays behind."""

    def stop(_number: int, _frame: object) -> NoReturn:
        raise KeyboardInterrupt

    try:
        signal.signal(signal.SIGTERM, stop)
    except ValueError:  # not in the main thread: the host program decides
        return


@main.command()
@click.argument("src", type=PATH)
@click.argument("dst", type=PATH)
@click.option(
    "--check", is_flag=True, help="Read DST back and compare every bit before it appears."
)
@profile_option
@quantize_option
@bound_option
@force
def compress(
    src: Path,
    dst: Path,
    *,
    check: bool,
    profile: str,
    quantize: str | None,
    bound: str | None,
    force: bool,
) -> None:
    """Write the tensors of SRC as a zarr store DST.

    SRC is a file or a zarr store. Every bit is kept, unless you ask for --quantize.
    """
    from . import files, lossy, stores
    from .console import say

    config = _quantization(quantize, bound)
    if check and quantize:
        raise CommandError("--check compares bits, which --quantize changes; verify checks DST")
    started = time.perf_counter()
    contents = files.read(src)
    if contents.kind == "zarr":
        if config is not None:
            raise CommandError(f"--quantize takes a file; {src} is a zarr store")
        _copy(src, dst, "gpucodec", profile, force=force)
        return
    _write(src, dst, contents, profile, config, check=check, force=force)
    if config is not None:
        for sentence in lossy.summary(contents, config):
            say(sentence)
    n_bytes = contents.nbytes
    stored = stores.open_store(dst).stored_bytes
    _report(src, n_bytes, dst, stored, n_bytes / max(1, stored), n_bytes, started)


def _quantization(quantize: str | None, bound: str | None) -> Any:
    from . import lossy

    if bound and not quantize:
        raise CommandError("--bound is for --quantize FORMAT; without it nothing is lossy")
    return lossy.config_of(quantize, bound) if quantize else None


def _write(
    src: Path, dst: Path, contents: Any, profile: str, quantize: Any, *, check: bool, force: bool
) -> None:
    from . import check as checks, output, stores
    from .console import progress, ready

    ready()
    with output.replacing(dst, force=force) as partial:
        with progress(f"compress {src.name}", contents.nbytes) as done:
            stores.write(partial, contents.watched(done), "gpucodec", profile, quantize)
        if check:
            with progress(f"check {dst.name}", contents.nbytes) as done:
                written = stores.read(stores.open_store(partial))
                for difference in checks.same(contents.watched(done), written):
                    raise DamagedError(difference)


@main.command()
@click.argument("src", type=PATH)
@click.argument("dst", type=PATH)
@force
def decompress(src: Path, dst: Path, *, force: bool) -> None:
    """Write the tensors of a zarr store SRC as a file DST, bit for bit.

    Tensors that were stored with --quantize come back as they were rounded. The name of DST says which kind: .safetensors, .pt .pth .bin, .npy or .npz.
    """
    from .. import tensorfiles
    from . import output, stores
    from .console import progress, ready

    ready()
    started = time.perf_counter()
    write = tensorfiles.writer(dst.suffix)
    opened = stores.open_store(src)
    contents = stores.read(opened)
    with (
        output.replacing(dst, force=force) as partial,
        progress(f"decompress {src.name}", contents.nbytes) as done,
    ):
        write(partial, contents.watched(done))
    stored = opened.stored_bytes
    ratio = contents.nbytes / max(1, stored)
    _report(src, stored, dst, contents.nbytes, ratio, contents.nbytes, started)


@main.command()
@click.argument("src", type=PATH)
@click.argument("dst", type=PATH)
@click.option(
    "--codec", type=click.Choice(CODEC_NAMES), required=True, help="How DST is compressed."
)
@profile_option
@force
def copy(src: Path, dst: Path, *, codec: str, profile: str, force: bool) -> None:
    """Copy a zarr store, with another codec.

    With zstd, blosc, gzip or none, DST can be read without gpucodec. Groups, attributes, chunks,
    shards, data types and fill values stay as they are; DST has zarr format 3.
    """
    _copy(src, dst, codec, profile, force=force)


def _copy(src: Path, dst: Path, codec: str, profile: str, *, force: bool) -> None:
    from . import output, stores, transcode
    from .console import progress, ready

    ready()
    started = time.perf_counter()
    opened = stores.open_store(src)
    total, before = opened.decoded_bytes, opened.stored_bytes
    with output.replacing(dst, force=force) as partial, progress(f"copy {src.name}", total) as done:
        transcode.copy(opened, partial, codec, done, profile)
    after = stores.open_store(dst).stored_bytes
    _report(src, before, dst, after, total / max(1, after), total, started)


@main.command()
@click.argument("path")
def inspect(path: str) -> None:
    """Show what is in a store, a checkpoint, a frame or a file: types, shapes, coders, ratios.

    Stores and checkpoints may be URLs of fsspec.
    """
    from ..tensorfiles import is_readable
    from ..tensorfiles.tensors import is_url
    from . import check, files, stores, survey
    from .console import survey as show

    local = None if is_url(path) else Path(path)
    if check.is_checkpoint(path):
        _as_checkpoint("inspect", path)
    elif local and is_readable(local):
        show(survey.of_file(files.read(local)))
    elif local and local.is_file() and local.suffix != ".zip":
        show([survey.of_frame(local)])
    else:
        show(list(survey.of_store(stores.open_store(path))))


@main.command()
@click.argument("src")
@click.argument("dst")
@click.option(
    "--codec",
    type=click.Choice(CODEC_NAMES),
    default="gpucodec",
    show_default=True,
    help="How DST is compressed.",
)
@profile_option
@quantize_option
@bound_option
@cluster_options
@click.option("--force", is_flag=True, help="Remove what is at DST, and begin anew.")
def recompress(
    src: str,
    dst: str,
    *,
    codec: str,
    profile: str,
    quantize: str | None,
    bound: str | None,
    scheduler: str | None,
    workers: int | None,
    as_json: bool,
    force: bool,
) -> None:
    """Copy a zarr store SRC of any size to DST with another codec, on a Dask cluster.

    SRC and DST are paths or URLs of fsspec. Every chunk is read back and compared. What an earlier run
    did is not done again; DST becomes a store when all chunks are there. Needs
    pip install 'gpucodec[dask]'.
    """
    from . import lossy
    from .scale import run

    if quantize and codec != "gpucodec":
        raise CommandError(f"--quantize FORMAT goes with --codec gpucodec, not {codec}")
    config = _quantization(quantize, bound)
    if config is not None and not as_json:
        click.echo(f"LOSSY: {lossy.describe(config)}")
    report = run.recompress(
        src, dst, codec, profile, config, scheduler=scheduler, workers=workers, force=force
    )
    _tell(report, as_json)


@main.command()
@click.argument("path")
@cluster_options
def verify(path: str, *, scheduler: str | None, workers: int | None, as_json: bool) -> None:
    """Decode everything in a store, a checkpoint, a frame or a compressed file; keep nothing.

    Every hash is checked. PATH may be a URL of fsspec. A store is decoded here, or with --scheduler or
    --workers on a Dask cluster. The exit code is 1 if anything is damaged or missing.
    """
    from . import check
    from .console import ready, say
    from .scale import run

    if check.is_checkpoint(path):
        if scheduler or workers or as_json:
            raise CommandError(
                f"{path} is a checkpoint: --scheduler, --workers, --json are for zarr stores"
            )
        _as_checkpoint("verify", path)
        return
    if check.is_file(path):
        ready()
        check.frame(path)
        say(f"{path}: sound")
        return
    if scheduler is None and workers is None:
        ready()
    _tell(run.verify(path, scheduler, workers), as_json)


def _as_checkpoint(command: str, url: str) -> None:
    click.get_current_context().invoke(checkpoint.commands[command], url=url)


def _tell(report: Any, as_json: bool) -> None:
    if as_json:
        click.echo(report.to_json())
    else:
        report.show()
    if report.failed:
        where = report.target or report.source
        raise DamagedError(f"{where}: {report.failed} chunks are damaged or missing")


@main.command()
@click.argument("file", type=PATH)
@click.option(
    "--mib", type=click.IntRange(1), default=64, show_default=True, help="Sample of FILE to use."
)
def bench(file: Path, mib: int) -> None:
    """Measure gpucodec beside other compressors on your own FILE.

    One thread, the same bytes for all, in turns. What is not installed is named:
    pip install 'gpucodec[bench]' brings all of them.
    """
    from . import race

    race.run(file, mib << 20)


@main.command()
@click.argument("file", type=PATH, required=False)
@click.option(
    "--steps", type=click.IntRange(1), default=200, show_default=True, help="Training steps."
)
@click.option("--keep", type=PATH, help="Write checkpoint and store into this folder.")
def demo(file: Path | None, steps: int, keep: Path | None) -> None:
    """Compress a checkpoint, read it back with plain zarr, compare every bit.

    Without FILE, a small language model is trained first, on the sources of Python itself.
    """
    from .. import demo as demonstration

    demonstration.run(file, steps, keep)


@main.command()
@click.argument("url")
@click.argument("folder", type=click.Path(path_type=Path, exists=True, file_okay=False))
@click.option("--read-only", is_flag=True, help="Refuse changes.")
def mount(url: str, folder: Path, *, read_only: bool) -> None:
    """Show the files of URL in FOLDER, decoded; compress what is written there.

    URL is a path or any URL of fsspec, such as s3://bucket/models. Runs until FOLDER is unmounted
    or Ctrl-C. Needs FUSE and pip install 'gpucodec[mount]'.
    """
    from . import mounting

    mounting.run(url, folder, read_only=read_only)


main.add_command(checkpoint)
main.add_command(model)


def _report(
    src: Path, before: int, dst: Path, after: int, ratio: float, decoded: int, started: float
) -> None:
    from .console import rate, say, size

    seconds = time.perf_counter() - started
    say(f"{src} {size(before)} -> {dst} {size(after)}")
    say(f"ratio {ratio:.3f}, {seconds:.1f} s, {rate(decoded, seconds)}")
