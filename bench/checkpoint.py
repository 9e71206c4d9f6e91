# SPDX-License-Identifier: Apache-2.0
"""Saving and loading a mixed-precision AdamW state: size and wall time beside the usual ways.

``python -m bench.checkpoint``. One state: bf16 weights, fp32 master weights, both moments, of the
small GPT of `bench.corpus`. Everybody writes to the same disk and waits until it is there (fsync).
Loads end with all tensors in memory of their own; cold ones begin with nothing in the page cache.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
import warnings
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint._extension import ZStandard

from gpucodec import checkpoint
from gpucodec.checkpoint.dcp import ZarrReader, ZarrWriter

from .record import record
from .slow_disk import evict, limited
from .state_ratios import delta_table, full_table, weights_table
from .states import flat_of, later_state_of, state_of
from .tables import Table, insert


def settle(path):
    """Wait until a file or folder is on the disk."""
    for file in [path] if path.is_file() else path.rglob("*"):
        descriptor = os.open(file, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def ways(state):
    """By name: how to save to a path, and how to load from it."""
    flat = {name: one.contiguous() for name, one in flat_of(state).items()}

    def torch_save(path):
        torch.save(state, path)
        settle(path)

    def safetensors_save(path):
        save_file(flat, path)
        settle(path)

    def into(path, reader):
        target = {name: torch.empty_like(one) for name, one in flat.items()}
        dcp.load(target, storage_reader=reader(path), no_dist=True)

    def dcp_save(writer):
        dcp.save(flat, storage_writer=writer, no_dist=True)

    yield "torch.save", torch_save, lambda path: torch.load(path, weights_only=True)
    yield (
        "safetensors",
        safetensors_save,
        lambda path: {name: one.clone() for name, one in load_file(path).items()},  # else mapped
    )
    yield (
        "DCP, FileSystemWriter",
        lambda path: dcp_save(dcp.FileSystemWriter(path)),
        lambda path: into(path, dcp.FileSystemReader),
    )
    yield (
        "DCP, FileSystemWriter, zstd",
        lambda path: dcp_save(dcp.FileSystemWriter(path, _extensions=[ZStandard()])),
        lambda path: into(path, dcp.FileSystemReader),
    )
    yield (
        "DCP, ZarrWriter",
        lambda path: dcp_save(ZarrWriter(path)),
        lambda path: into(path, ZarrReader),
    )
    for policy in ("lossless", "resume", "archive"):
        yield (
            f"gpucodec, {policy}",
            lambda path, policy=policy: checkpoint.save(state, path, policy),
            lambda path: checkpoint.load(None, path),
        )


def size_of(path):
    files = [path] if path.is_file() else [one for one in path.rglob("*") if one.is_file()]
    return sum(file.stat().st_size for file in files)


def clock(work):
    """Wall and CPU seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    work()
    return time.perf_counter() - wall, time.process_time() - cpu


def time_table(state, folder, rounds, megabytes):
    """Medians over rounds in which all take turns, on a disk of `megabytes` a second, or as it is."""
    total = sum(one.nbytes for one in flat_of(state).values())
    found: dict[str, list[tuple[float, ...]]] = {}
    sizes = {}
    limit = limited(folder, megabytes * 1e6) if megabytes else nullcontext()
    with limit:
        for number in range(rounds + 1):  # the first warms up
            for name, save, load in ways(state):
                path = folder / f"{number}-{name.replace(' ', '-')}"
                seconds = clock(lambda s=save, p=path: s(p))
                evict(path)
                cold = clock(lambda r=load, p=path: r(p))
                warm = clock(lambda r=load, p=path: r(p))
                sizes[name] = size_of(path)
                if number:
                    found.setdefault(name, []).append((*seconds, *cold, *warm))
            for path in folder.iterdir():  # not at once: ext4 is slow where files were just deleted
                (shutil.rmtree if path.is_dir() else os.unlink)(path)
    title = f"{megabytes} MB/s" if megabytes else "the disk as it is"
    table = Table(
        f"Saving and loading, {title}",
        ("way", "MB", "ratio", "save s", "CPU s", "cold load s", "CPU s", "warm load s", "CPU s"),
    )
    for name, rows in found.items():
        save, _, cold, _, warm, _ = np.median(rows, axis=0)
        record("checkpoint", f"{name}, {title}", save=save, cold=cold, warm=warm)
        medians = (f"{value:.3f}" for value in np.median(rows, axis=0))
        table.add(name, f"{sizes[name] / 1e6:.1f}", f"{total / sizes[name]:.3f}", *medians)
    return table


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.checkpoint", description=__doc__)
    parser.add_argument("--size", default="full", help="of the corpus")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    parser.add_argument("--only", choices=("ratios", "times"))
    parser.add_argument(
        "--megabytes", type=int, nargs="*", default=[500, 125], help="a second, of slower disks"
    )
    parser.add_argument("--markdown", type=Path, help="file to put the tables into")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    state = state_of(options.size)
    tables = []

    def show(table):
        print(table.markdown(), flush=True)
        tables.append(table.markdown())

    if options.only != "times":
        later = later_state_of(options.size)
        show(full_table(state))
        show(delta_table(state, later))
        show(weights_table(state, later))
    if options.only != "ratios":
        total = sum(one.nbytes for one in flat_of(state).values())
        print(f"{total / 1e6:.1f} MB in {len(flat_of(state))} tensors, {os.cpu_count()} CPUs\n")
        folder = Path(tempfile.mkdtemp(dir=options.folder))
        try:
            for megabytes in (0, *options.megabytes):
                try:
                    show(time_table(state, folder, options.rounds, megabytes))
                except OSError as error:
                    print(f"no disk of {megabytes} MB/s: {error}")
        finally:
            shutil.rmtree(folder)
    if options.markdown:
        insert(options.markdown, "checkpoint", "\n".join(tables))


if __name__ == "__main__":
    main()
