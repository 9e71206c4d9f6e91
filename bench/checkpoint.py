# SPDX-License-Identifier: Apache-2.0
"""Saving and loading a mixed-precision AdamW state: wall time and size beside the usual ways.

``python -m bench.checkpoint``. Everybody writes to the same disk and waits until it is there
(fsync); loads read from the page cache. One state: bf16 weights, fp32 master weights, both
moments, of the small GPT of `bench.corpus`.
"""

from __future__ import annotations

import argparse
import os
import shutil
import tempfile
import time
import warnings
from pathlib import Path

import numpy as np
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import load_file, save_file

from gpucodec import checkpoint
from gpucodec.checkpoint.dcp import ZarrReader, ZarrWriter

from .corpus import open_corpus


def state_of(size):
    """Weights in bf16, and an optimizer state as a trainer with master weights has it."""
    corpus = open_corpus(size)
    parts = {name: corpus.snapshot(name) for name in ("weights", "exp_avg", "exp_avg_sq")}
    state = {}
    for i, name in enumerate(parts["weights"]):
        state[i] = {
            "step": torch.tensor(500.0),
            "exp_avg": torch.from_numpy(parts["exp_avg"][name].copy()),
            "exp_avg_sq": torch.from_numpy(parts["exp_avg_sq"][name].copy()),
            "master_param": torch.from_numpy(parts["weights"][name].copy()),
        }
    model = {name: state[i]["master_param"].bfloat16() for i, name in enumerate(parts["weights"])}
    groups = [{"lr": 1e-3, "betas": (0.9, 0.95), "params": list(state)}]
    return {"model": model, "optimizer": {"state": state, "param_groups": groups}}


def flat_of(node, name=""):
    """Tensors by their paths, for formats without nesting."""
    if isinstance(node, torch.Tensor):
        return {name: node}
    items = node.items() if isinstance(node, dict) else ()
    return {k: v for key, one in items for k, v in flat_of(one, f"{name}/{key}").items()}


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

    yield "torch.save", torch_save, lambda path: torch.load(path, weights_only=True)
    yield "safetensors", safetensors_save, load_file
    yield (
        "DCP, FileSystemWriter",
        lambda path: dcp.save(flat, storage_writer=dcp.FileSystemWriter(path), no_dist=True),
        lambda path: into(path, dcp.FileSystemReader),
    )
    yield (
        "DCP, ZarrWriter",
        lambda path: dcp.save(flat, storage_writer=ZarrWriter(path), no_dist=True),
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


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.checkpoint", description=__doc__)
    parser.add_argument("--size", default="full", help="of the corpus")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--folder", type=Path, help="on the disk to measure")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    state = state_of(options.size)
    total = sum(one.nbytes for one in flat_of(state).values())
    print(f"{total / 1e6:.1f} MB in {len(flat_of(state))} tensors, {os.cpu_count()} CPUs")
    folder = Path(tempfile.mkdtemp(dir=options.folder))
    found: dict[str, list[tuple[float, ...]]] = {}
    sizes = {}
    try:
        for number in range(options.rounds + 1):  # the first warms up
            for name, save, load in ways(state):
                path = folder / "checkpoint"
                seconds = (*clock(lambda s=save, p=path: s(p)), *clock(lambda r=load, p=path: r(p)))
                sizes[name] = size_of(path)
                (shutil.rmtree if path.is_dir() else os.unlink)(path)
                if number:
                    found.setdefault(name, []).append(seconds)
    finally:
        shutil.rmtree(folder)
    print("| way | MB | ratio | save s | CPU s | load s | CPU s |\n|---|---|---|---|---|---|---|")
    for name, rows in found.items():
        medians = " | ".join(f"{value:.3f}" for value in np.median(rows, axis=0))
        print(f"| {name} | {sizes[name] / 1e6:.1f} | {total / sizes[name]:.3f} | {medians} |")
    per_kind(state)


def per_kind(state):
    """Ratios by kind, lossless."""
    url = f"memory://bench-{os.getpid()}"
    checkpoint.save(state, url)
    kinds: dict[str, list[int]] = {}
    for row in checkpoint.inspect(url).tensors:
        sums = kinds.setdefault(row.kind, [0, 0])
        sums[0] += row.decoded_bytes
        sums[1] += row.encoded_bytes
    for kind, (decoded, encoded) in kinds.items():
        print(f"{kind}: {decoded / 1e6:.1f} MB, ratio {decoded / encoded:.3f}")


if __name__ == "__main__":
    main()
