# SPDX-License-Identifier: Apache-2.0
"""How small a training state becomes, beside its bounds and other ways: part of `bench.checkpoint`.

The same tensors for all, lossless, everything counted that is stored. Bounds are sums over tensors
of order-0 entropies (`bench.bounds`): of what is left once copies are derived, the smaller of the
tensor's fields and of what the row/column predictor leaves; of a difference, the fields of the
integer difference too. Tables and headers are free in a bound, so it can be passed only by LZ.
"""

from __future__ import annotations

import os

import ml_dtypes
import numpy as np
import torch

import gpucodec
from gpucodec import checkpoint

from . import bounds, peers
from .record import record
from .states import flat_of
from .tables import Table, percent

KINDS = ("model", "master_param", "exp_avg", "exp_avg_sq")
TITLES = ("bf16 weights", "fp32 masters", "first moment", "second moment", "all")
PIECE = 1 << 16  # bytes that nvCOMP compresses at once, unless told otherwise
SPARSE = 0.01  # of the weights change in the update of reinforcement learning


def parts_of(state):
    """By kind, the tensors of a state by name, as arrays."""
    parts = {kind: {} for kind in KINDS}
    for name, one in flat_of(state).items():
        kind = "model" if name.startswith("/model") else name.rpartition("/")[2]
        if kind in parts:
            parts[kind][name] = array_of(one)
    return parts


def array_of(tensor):
    if tensor.dtype == torch.bfloat16:
        return tensor.view(torch.int16).numpy().view(ml_dtypes.bfloat16)
    return tensor.numpy()


def words(array):
    return array.reshape(-1).view(f"u{array.itemsize}")


def stored_bytes(url):
    """Of a checkpoint, by kind."""
    kinds = dict(
        zip(("param", "master_weight", "exp_avg", "exp_avg_sq"), KINDS, strict=True), other=None
    )
    sums = dict.fromkeys(KINDS, 0)
    for row in checkpoint.inspect(url).tensors:
        if kinds[row.kind] is not None:
            sums[kinds[row.kind]] += row.encoded_bytes
    return sums


def subtracted(new, old):
    """The integer difference, signed, so that it is folded as the codec folds it."""
    return np.subtract(words(new), words(old)).view(f"i{new.itemsize}").reshape(new.shape)


def bound_bytes(parts, before=None):
    """By kind; bf16 weights are derived from their masters."""
    sums = dict.fromkeys(KINDS, 0.0)
    for kind in KINDS[1:]:
        for name, array in parts[kind].items():
            smallest = bounds.best_bits(array)
            if before is not None:
                change = subtracted(array, before[kind][name])
                smallest = min(smallest, bounds.bits(change))
            sums[kind] += smallest / 8
    return sums


def zstd_planes(array, level=3):
    import zstandard

    compressor = zstandard.ZstdCompressor(level=level)
    planes = np.ascontiguousarray(words(array).view(np.uint8).reshape(-1, array.itemsize).T)
    return sum(len(compressor.compress(plane)) for plane in planes)


def zstd_pieces(array):
    """zstd as nvCOMP applies it: each 64 KiB on its own."""
    import zstandard

    compressor = zstandard.ZstdCompressor(level=3)
    raw = words(array).view(np.uint8)
    return sum(len(compressor.compress(raw[i : i + PIECE])) for i in range(0, raw.size, PIECE))


def ans_of_bytes(array):
    """What ANS of bytes could reach at best: their order-0 entropy in each 64 KiB."""
    return bounds.bits(words(array).view(np.uint8), PIECE) / 8


def ans_of_floats(array):
    """The same of exponents, with all else raw: what nvCOMP 6 has modes for."""
    width, top = bounds.fields(array)[0]
    n = PIECE // array.itemsize
    exponents = sum(
        bounds.entropy(np.bincount(top[i : i + n], minlength=256)) for i in range(0, top.size, n)
    )
    return array.nbytes - width * top.size / 8 + exponents / 8


def zipnn(array):
    [codec] = peers.zipnn(np.ascontiguousarray(array).reshape(-1))
    return len(codec.encode(codec.prepare(array.reshape(-1))))


FULL = {
    "ZipNN": zipnn,
    "zstd-3 on byte planes": zstd_planes,
    "nvCOMP's recipe, stand-in: zstd-3, pieces of 64 KiB": zstd_pieces,
    "nvCOMP's recipe, stand-in: ANS of bytes, at best": ans_of_bytes,
    "nvCOMP's recipe, stand-in: ANS of exponents, at best": ans_of_floats,
}


def row(table, name, parts, sizes):
    raw = {kind: sum(one.nbytes for one in parts[kind].values()) for kind in KINDS}
    cells = [f"{raw[k] / sizes[k]:.3f}" if sizes[k] else "derived" for k in KINDS]
    table.add(name, *cells, f"{sum(raw.values()) / sum(sizes.values()):.4f}")
    return sum(sizes.values())


def raw_bytes(parts):
    return sum(one.nbytes for kind in KINDS for one in parts[kind].values())


def full_table(state):
    """A checkpoint alone."""
    parts = parts_of(state)
    table = Table("AdamW state, no base: ratios", ("way", *TITLES))
    url = f"memory://bench-{os.getpid()}-full"
    checkpoint.save(state, url)
    bound = row(table, "bound", parts, bound_bytes(parts))
    ours = row(table, "gpucodec", parts, stored_bytes(url))
    record("checkpoint", "state", ratio=raw_bytes(parts) / ours, to_bound=ours / bound - 1)
    weights = sum(gpucodec.encode(one).nbytes for one in parts["model"].values())
    row(table, "gpucodec, weights stored too", parts, stored_bytes(url) | {"model": weights})
    for name, size in FULL.items():
        sizes = {kind: sum(map(size, parts[kind].values())) for kind in KINDS}
        row(table, name, parts, sizes)
    table.note = f"gpucodec needs {percent(ours / bound - 1)} of the bound."
    return table


def delta_table(state, later):
    """A checkpoint as difference to that of ten steps before."""
    before, parts = parts_of(state), parts_of(later)
    table = Table("AdamW state as a difference over ten steps: ratios", ("way", *TITLES))
    url = f"memory://bench-{os.getpid()}-delta"
    checkpoint.save(state, url)
    checkpoint.save(later, url, delta=1)
    bound = row(table, "bound", parts, bound_bytes(parts, before))
    ours = row(table, "gpucodec", parts, stored_bytes(url))
    record("checkpoint", "difference", ratio=raw_bytes(parts) / ours, to_bound=ours / bound - 1)

    def smaller(kind, name):
        array = parts[kind][name]
        return min(zstd_planes(array), zstd_planes(words(array) ^ words(before[kind][name])))

    sizes = {kind: sum(smaller(kind, name) for name in parts[kind]) for kind in KINDS}
    row(table, "zstd-3 on byte planes, of XOR where smaller", parts, sizes)
    table.note = f"gpucodec needs {percent(ours / bound - 1)} of the bound."
    return table


def weights_table(state, later):
    """bf16 weights alone, without masters, as differences."""
    old = {name: one.bfloat16() for name, one in masters(state).items()}
    table = Table(
        "bf16 weights alone as a difference: ratios",
        ("update", "changed", "gpucodec", "bound", "zstd-3 on XOR planes", "ahead"),
    )
    for label, new in (("ten steps", between(state, later, 1.0)), few(state, later, old)):
        arrays = [(array_of(new[name]), array_of(old[name])) for name in old]
        n_bytes = sum(array.nbytes for array, _ in arrays)
        changed = sum(int((words(a) != words(b)).sum()) for a, b in arrays) / (n_bytes // 2)
        url = f"memory://bench-{os.getpid()}-weights-{changed}"
        checkpoint.publish_delta(old, url, 1)
        ours = checkpoint.publish_delta(new, url, 2).written_bytes
        bound = sum(bounds.bits(subtracted(a, b)) for a, b in arrays) / 8
        xor = sum(zstd_planes(words(a) ^ words(b)) for a, b in arrays)
        figures = {"ratio": n_bytes / ours, "to_bound": ours / bound - 1, "ahead": xor / ours}
        record("checkpoint", f"weights, {100 * changed:.0f} % changed", **figures)
        cells = [f"{100 * changed:.2f} %", *(f"{n_bytes / n:.2f}" for n in (ours, bound, xor))]
        table.add(label, *cells, f"{xor / ours:.2f}x")
    table.note = "Bound: the entropies of the integer difference's fields."
    return table


def masters(state):
    return {k: one for k, one in flat_of(state).items() if k.endswith("master_param")}


def between(state, later, t):
    """bf16 weights at a part `t` of the way from one state's masters to the other's."""
    after = masters(later)
    return {k: torch.lerp(w, after[k], t).bfloat16() for k, w in masters(state).items()}


def few(state, later, old):
    """An update so small that `SPARSE` of the bf16 weights change, as steps of RL are."""
    n = sum(one.numel() for one in old.values())
    low, high = 0.0, 1.0
    for _ in range(16):
        t = (low + high) / 2
        new = between(state, later, t)
        changed = sum(int((new[k] != old[k]).sum()) for k in old) / n
        low, high = (t, high) if changed < SPARSE else (low, t)
    return f"{t:.4f} of these", new
