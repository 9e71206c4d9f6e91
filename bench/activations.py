# SPDX-License-Identifier: Apache-2.0
"""Activations on disk: training with little memory, and harvesting.

``python -m bench.activations [--folder FOLDER] [--quick]``: FOLDER is on the disk to measure.

*Saved* is what autograd holds for backward at most, weights not counted: bytes of the storages
that are alive, looked at with every tensor that is saved. The last column is what a process of its
own grows by in a step, with all that a step needs beside. Steps take turns, and a ratio is the median of those within the rounds. Bandwidths count
uncompressed bytes, and end with an fsync of what was written.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import zarr
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.nn import functional

import gpucodec
from gpucodec.activations import ActivationDataset, record_activations, stream_activations
from gpucodec.activations.weights import Weights

from . import corpus
from .record import record

WIDTH, LAYERS, HEADS, LENGTH, BATCH = 512, 12, 8, 256, 2
BUDGET = 8 << 20
FEATURES = 1024  # of a harvested row


class Layer(nn.Module):
    def __init__(self, activation: type[nn.Module]) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.mlp = nn.Sequential(
            nn.Linear(WIDTH, 4 * WIDTH), activation(), nn.Linear(4 * WIDTH, WIDTH), nn.Dropout(0.1)
        )

    def forward(self, x: Any) -> Any:
        parts = self.qkv(self.norm1(x)).split(WIDTH, -1)
        q, k, v = (p.unflatten(-1, (HEADS, -1)).transpose(1, 2) for p in parts)
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.out(y.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class Model(nn.Module):
    def __init__(self, activation: type[nn.Module] = nn.GELU) -> None:
        super().__init__()
        self.embed = nn.Embedding(256, WIDTH)
        self.layers = nn.Sequential(*(Layer(activation) for _ in range(LAYERS)))
        self.head = nn.Linear(WIDTH, 256)

    def forward(self, tokens: Any) -> Any:
        return self.head(self.layers(self.embed(tokens)))


def batches() -> Any:
    text = b"".join(p.read_bytes() for p in sorted(Path(os.__file__).parent.glob("*.py"))[:60])
    data = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
    random = np.random.default_rng(0)
    while True:
        starts = random.integers(0, len(data) - LENGTH - 1, BATCH)
        yield torch.stack([data[s : s + LENGTH + 1] for s in starts])


def step(model: nn.Module, batch: Any, context: Any, bf16: bool) -> None:
    model.zero_grad(set_to_none=False)
    with context, torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = model(batch[:, :-1])
        loss = functional.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
    del logits
    loss.backward()


class Alive:
    """Bytes of saved storages that are alive; the most there ever were."""

    def __init__(self) -> None:
        self.peak = 0
        self._seen: dict[int, tuple[Any, int]] = {}

    def __call__(self, tensor: Any) -> bool:
        storage = tensor.untyped_storage()
        reference = StorageWeakRef(storage)
        self._seen[reference.cdata] = reference, storage.nbytes()
        self._seen = {k: one for k, one in self._seen.items() if not one[0].expired()}
        self.peak = max(self.peak, sum(n for _, n in self._seen.values()))
        return True


def plain_hooks(weights: Weights, alive: Alive) -> Any:
    """What plain training holds, seen through hooks that keep everything."""

    def pack(tensor: Any) -> Any:
        if tensor not in weights:
            alive(tensor)
        return tensor.detach()

    return torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor)


def torch_save(folder: str) -> Any:
    """One file a tensor, as is common: synchronous, uncompressed."""

    def pack(tensor: Any) -> str:
        file, name = tempfile.mkstemp(dir=folder)
        with os.fdopen(file, "wb") as opened:
            torch.save(tensor.detach().clone(), opened)
        return name

    def unpack(name: str) -> Any:
        tensor = torch.load(name, weights_only=True)
        Path(name).unlink()
        return tensor

    return torch.autograd.graph.saved_tensors_hooks(pack, unpack)


@contextlib.contextmanager
def peak_rss() -> Any:
    """Most bytes that the process grew by, sampled."""
    process, done, found = psutil.Process(), threading.Event(), [0]
    before = process.memory_info().rss

    def watch() -> None:
        while not done.wait(0.005):
            found[0] = max(found[0], process.memory_info().rss - before)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield found
    finally:
        done.set()
        thread.join()


def ways(folder: str) -> dict[str, Any]:
    """Contexts for the forward pass."""
    options = {"max_inflight_bytes": BUDGET, "min_bytes": 1 << 16}
    stream = stream_activations(folder, **options)
    fast = stream_activations(folder, gpucodec.TensorConfig(profile="fast"), **options)
    return {
        "plain": contextlib.nullcontext,
        "save_on_cpu (a no-op without a GPU)": torch.autograd.graph.save_on_cpu,
        "torch.save, one file a tensor": lambda: torch_save(folder),
        "stream_activations": lambda: stream,
        "stream_activations, profile fast": lambda: fast,
    }


def process_memory(folder: str, name: str) -> int:
    """Bytes that a process of its own grows by in a float32 step, gradients being there already."""
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "bench.activations", "--memory", name, "--folder", folder],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # what is freed is gone at once
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    return int(run.stdout)


def memory(folder: str, name: str) -> None:
    """The other side of `process_memory`."""
    torch.manual_seed(0)
    model, batch, context = Model(), next(batches()), ways(folder)[name]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for _ in range(2):
        with peak_rss() as grown:
            step(model, batch, context(), False)
    print(grown[0])


def training(folder: str, rounds: int, bf16: bool) -> None:
    torch.manual_seed(0)
    model, source = Model(), batches()
    contexts = ways(folder)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in contexts}
    for number in range(rounds + 1):
        batch = next(source)
        for name, context in contexts.items():
            begin = time.perf_counter(), time.process_time()
            step(model, batch, context(), bf16)
            taken = time.perf_counter() - begin[0], time.process_time() - begin[1]
            if number:  # the first is for warming up
                seconds[name].append(taken)
    plain, weights, alive = Alive(), Weights(), Alive()
    weights.watch()
    step(model, batch, plain_hooks(weights, plain), bf16)
    weights.unwatch()
    measured = stream_activations(
        folder, max_inflight_bytes=BUDGET, min_bytes=1 << 16, filter=alive
    )
    step(model, batch, measured, bf16)
    stats = measured.stats()
    held = alive.peak + stats.kept_bytes
    print(f"\nTraining, {'bfloat16 autocast' if bf16 else 'float32'}, budget {BUDGET >> 20} MiB")
    print(f"saved: plain {plain.peak / 1e6:.1f} MB, streamed {held / 1e6:.1f} MB", end=" ")
    print(f"({held / plain.peak - 1:+.1%}); {stats.line()}")
    ours = zip(seconds["stream_activations"], seconds["plain"], strict=True)
    record(
        "activations",
        f"training {'bfloat16' if bf16 else 'float32'}",
        held=held,
        plain=plain.peak,
        wall_x=statistics.median(a[0] / b[0] for a, b in ours),
    )
    for name, pairs in seconds.items():
        wall = statistics.median(a[0] / b[0] for a, b in zip(pairs, seconds["plain"], strict=True))
        cpu = statistics.median(a[1] / b[1] for a, b in zip(pairs, seconds["plain"], strict=True))
        middle = statistics.median(one[0] for one in pairs)
        grown = "" if bf16 else f"{process_memory(folder, name) / 1e6:8.0f} MB"
        print(f"{name:38}{middle:7.2f} s a step {wall:6.2f}x wall {cpu:6.2f}x CPU {grown}")


def kinds(n_steps: int) -> None:
    """Ratio by the operation that made a saved tensor, in a ReLU model trained for a moment."""
    torch.manual_seed(0)
    model, source = Model(nn.ReLU), batches()
    optimizer = torch.optim.AdamW(model.parameters(), 2e-3)
    for _ in range(n_steps):
        step(model, next(source), contextlib.nullcontext(), True)
        optimizer.step()
    sizes: dict[tuple[str, str], list[float]] = {}
    weights = Weights()

    def pack(tensor: Any) -> Any:
        if tensor not in weights and tensor.nbytes >= 1 << 16:
            node = tensor.grad_fn.name() if tensor.grad_fn is not None else "no gradient"
            key = node.removesuffix("0").removesuffix("Backward"), str(tensor.dtype)[6:]
            total = sizes.setdefault(key, [0, 0, 0])
            total[0] += tensor.nbytes
            total[1] += gpucodec.encode(tensor).size
            total[2] += tensor.element_size() * int((tensor == 0).sum())
        return tensor.detach()

    weights.watch()
    step(model, next(source), torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t), True)
    weights.unwatch()
    with contextlib.suppress(FileNotFoundError, KeyError):  # bench.corpus, trained for longer
        opened = corpus.Corpus(corpus.cache_folder("full"))
        for kind in ("post-ReLU bfloat16", "pre-ReLU bfloat16", "attention bfloat16"):
            array = opened.flat(kind)
            ratio = array.nbytes / gpucodec.encode(array).size
            record("activations", kind, ratio=ratio)
            zeros = float((array.astype(np.float32) == 0).mean())
            print(
                f"bench.corpus: {kind:28}{array.nbytes / 1e6:8.1f} MB {ratio:7.2f}x {zeros:5.0%} zeros"
            )
    print(f"\nBy kind, bfloat16 autocast, ReLU, {n_steps} steps of training, duplicates included")
    for (node, dtype), (raw, encoded, zeros) in sorted(sizes.items(), key=lambda one: -one[1][0]):
        print(
            f"{node:28}{dtype:10}{raw / 1e6:8.1f} MB {raw / encoded:7.2f}x {zeros / raw:5.0%} zeros"
        )


class Emitter(nn.Module):
    """Returns given activations, so that only the harvest takes time."""

    def __init__(self, outputs: list[Any]) -> None:
        super().__init__()
        self.outputs = outputs
        self.point = nn.Identity()

    def forward(self, number: Any) -> Any:
        return self.point(self.outputs[int(number[0]) % len(self.outputs)])


def harvest(folder: str, n_bytes: int) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs = [
        torch.randn(4096, FEATURES, generator=generator).mul_(0.7).bfloat16() for _ in range(4)
    ]
    n_batches = n_bytes // outputs[0].nbytes
    total = n_batches * outputs[0].nbytes
    raw, ours, cpu = [], [], []
    for number in range(3):
        begin = time.perf_counter()
        with Path(folder, "raw").open("wb", buffering=0) as file:
            file.writelines(outputs[i % 4].view(torch.uint8).numpy() for i in range(n_batches))
            os.fsync(file.fileno())
        raw.append(total / (time.perf_counter() - begin))
        Path(folder, "raw").unlink()
        model = Emitter(outputs)
        begin = time.perf_counter()
        before = time.process_time()
        store = Path(folder, f"harvest{number}")
        with record_activations(model, ["point"], store):
            for i in range(n_batches):
                model(torch.tensor([i]))
        cpu.append(total / (time.process_time() - before))
        for path in filter(Path.is_file, store.rglob("*")):
            with path.open("rb") as file:
                os.fsync(file.fileno())
        ours.append(total / (time.perf_counter() - begin))
    ratio = statistics.median(a / b for a, b in zip(ours, raw, strict=True))
    record("activations", "harvest", x=ratio)
    print(
        f"\nHarvest of {total / 1e6:.0f} MB bfloat16: {statistics.median(ours) / 1e6:.0f} MB/s, "
        f"{statistics.median(cpu) / 1e6:.0f} MB per second of CPU; raw sequential write "
        f"{statistics.median(raw) / 1e6:.0f} MB/s: {ratio:.0%}"
    )


def reading(folder: str) -> None:
    store = Path(folder, "harvest0")
    dataset = ActivationDataset(store, batch_size=1024)
    values = zarr.open_group(store, mode="r")["point"][: 8 * 4096].view(np.uint16)
    plain = zarr.create_array(Path(folder, "plain"), data=values, compressors=None)
    random = np.random.default_rng(0)
    ours, theirs = [], []
    for _ in range(3):
        begin, n = time.perf_counter(), 0
        for batch in dataset:
            n += len(batch["point"])
        ours.append(n / (time.perf_counter() - begin))
        begin = time.perf_counter()
        np.stack([plain[i] for i in random.integers(0, len(values), 128)])
        theirs.append(128 / (time.perf_counter() - begin))
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    record("activations", "random rows", x=ratio)
    print(
        f"Random rows of {FEATURES} bfloat16 in batches of 1024: {statistics.median(ours):.0f} "
        f"rows/s; one by one of an uncompressed zarr, chunks {plain.chunks}: "
        f"{statistics.median(theirs):.0f} rows/s: {ratio:.0f}x"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", default=tempfile.gettempdir())
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        memory(options.folder, options.memory)
        return
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for bf16 in (False,) if options.quick else (False, True):
            training(folder, 1 if options.quick else 4, bf16)
        kinds(1 if options.quick else 40)
        harvest(folder, 64 << 20 if options.quick else 512 << 20)
        reading(folder)
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


if __name__ == "__main__":
    main()
