# SPDX-License-Identifier: Apache-2.0
"""What gpucodec set out to reach beyond lossless coding of dense tensors (`goals.py`), by part.

A goal that the run could not judge is "not measured", never "yes". What is proved by tests and not by
a measurement stands in docs/testing.md.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from .goals import Goal
from .tables import percent

Figures = dict[str, dict[str, dict[str, Any]]]


def worst(rows: Iterable[tuple[str, float]], limit: float, *, most: bool = False) -> Any:
    """(measured, holds) of the row that is furthest from a limit; nothing without rows."""
    found = list(rows)
    if not found:
        return "-", None
    name, value = (max if most else min)(found, key=lambda row: row[1])
    return f"{value:.3g} ({name})", value <= limit if most else value >= limit


def goals(figures: Figures) -> Iterator[Goal]:
    """All of them, from the figures that the benchmarks recorded."""
    yield from of_zarr(figures.get("zarr_overhead", {}))
    yield from of_lz(figures.get("lz", {}))
    yield from of_transforms(figures.get("transforms", {}))
    yield from of_quantization(figures.get("quantize", {}))
    yield from of_checkpoints(figures.get("checkpoint", {}))
    yield from of_activations(figures.get("activations", {}))
    yield from of_files(figures.get("fs", {}))
    yield from of_models(figures.get("model", {}))
    yield from of_tuner(figures.get("tuner", {}))
    yield from of_gpu(figures.get("gpu", {}))


def of_zarr(found: dict[str, Any]) -> Iterator[Goal]:
    ours = found.get("tensor, gpucodec")
    value = None if ours is None else max(ours["write_us"], ours["read_us"])
    yield Goal(
        "zarr: host time of a chunk beyond the codec",
        "≤ 15 µs",
        "-" if value is None else f"{value:.1f} µs",
        None if value is None else value <= 15,
    )


def of_lz(found: dict[str, Any]) -> Iterator[Goal]:
    rows = {name: one for name, one in found.items() if not name.startswith("weights")}
    best = [(n, f["ratio"] / f["zstd"]) for n, f in rows.items() if n.endswith("ratio")]
    yield Goal("LZ: ratio beside zstd-3 on the same blocks", "≥ 1x", *worst(best, 1))
    ids = {n: f for n, f in rows.items() if "int64" in n and n.endswith("ratio")}
    for key, blocks in (("blosc", "same blocks"), ("blosc_own", "blocks of its own")):
        beside = [(n, f["ratio"] / f[key]) for n, f in ids.items()]
        yield Goal(
            f"LZ: int64 ids beside Blosc2 shuffle+zstd-5, {blocks}", "≥ 1x", *worst(beside, 1)
        )
    fast = {n: f for n, f in rows.items() if n.endswith("fast")}
    encode = [(n, f["encode_x"]) for n, f in fast.items()]
    decode = [(n, f["decode_x"]) for n, f in fast.items()]
    yield Goal("LZ: encode beside zstd-3", "≥ 1x", *worst(encode, 1))
    yield Goal("LZ: decode beside zstd-3", "≥ 0.8x", *worst(decode, 0.8))


def of_transforms(found: dict[str, Any]) -> Iterator[Goal]:
    for name, target, key, limit, most in (
        ("pruned weights bfloat16", "≤ 1.60 bits a value", "bits", 1.6, True),
        ("exp_avg_sq float32", "ratio ≥ 1.30", "ratio", 1.3, False),
        ("exp_avg_sq bfloat16", "ratio ≥ 1.9", "ratio", 1.9, False),
    ):
        rows = [(name, found[name][key])] if name in found else []
        yield Goal(name, target, *worst(rows, limit, most=most))
    one = found.get("weights bfloat16, fast")
    rows = [] if one is None else [("ratio", one["ratio"])]
    yield Goal("palettes (profile fast), bf16 weights", "ratio ≥ 1.33", *worst(rows, 1.33))
    rows = [] if one is None else [("decode", one["decode_x"])]
    yield Goal("palettes beside rANS, decode", "≥ 1.3x", *worst(rows, 1.3))


def of_quantization(found: dict[str, Any]) -> Iterator[Goal]:
    speeds = {n.removeprefix("speed "): f for n, f in found.items() if n.startswith("speed ")}
    quantize = [(n, f["quantize"]) for n, f in speeds.items()]
    dequantize = [(n, f["dequantize"]) for n, f in speeds.items()]
    yield Goal("quantize, GB/s of float32", "≥ 1.5", *worst(quantize, 1.5))
    yield Goal("dequantize, GB/s of float32", "≥ 2.5", *worst(dequantize, 2.5))
    beside = [
        (f"{n}, {peer}", min(ways))
        for n, f in speeds.items()
        for peer, ways in f["times"].items()
        if peer != "gguf"
    ]
    yield Goal("beside bitsandbytes and torchao, both ways", "≥ 3x", *worst(beside, 3))
    error = found.get("errors")
    rows = [] if error is None else [("largest difference", error["widest_db"])]
    yield Goal("error beside theirs", "within 0.1 dB", *worst(rows, 0.1, most=True))
    log8 = found.get("update log8 axis=auto")
    rows = [] if log8 is None else [("dB", log8["snr_db"])]
    yield Goal("log8 on v: SNR of Adam's step", "≥ 50 dB", *worst(rows, 50))
    rows = [] if log8 is None else [("bits", log8["coded"])]
    yield Goal("log8 on v: bits as stored", "≤ 8.25", *worst(rows, 8.25, most=True))


def of_checkpoints(found: dict[str, Any]) -> Iterator[Goal]:
    for key, title, limit in (
        ("state", "checkpoint: bf16 w, fp32 master, m, v", 1.43),
        ("difference", "the same as a difference ten steps on", 1.5),
    ):
        rows = [(key, found[key]["ratio"])] if key in found else []
        yield Goal(title, f"ratio ≥ {limit:.2f}", *worst(rows, limit))
        rows = [(key, found[key]["to_bound"])] if key in found else []
        yield Goal(f"{title}, bytes", "within 1.5 % of the bound", *worst(rows, 0.015, most=True))
    weights = {n: f for n, f in found.items() if n.startswith("weights")}
    few = [(n, f["ratio"]) for n, f in weights.items() if " 1 % " in n]
    yield Goal("bf16 weights, 1 % changed", "ratio ≥ 80", *worst(few, 80))
    dense = {n: f for n, f in weights.items() if " 1 % " not in n}
    rows = [(n, f["to_bound"]) for n, f in dense.items()]
    yield Goal("bf16 weights as a difference", "within 3 %", *worst(rows, 0.03, most=True))
    rows = [(n, f["ahead"]) for n, f in dense.items()]
    yield Goal("the same beside zstd-3 on XOR planes", "≥ 1.15x", *worst(rows, 1.15))
    yield from of_saving(found)


def of_saving(found: dict[str, Any]) -> Iterator[Goal]:
    """Beside the fastest way that does not compress, on each disk that was measured."""
    disks = {name.rpartition(", ")[2] for name in found if name.startswith("torch.save")}
    for way in ("save", "cold", "warm"):
        rows = []
        for disk in disks:
            plain = [
                f[way]
                for n, f in found.items()
                if n.endswith(disk) and n.startswith(("torch.save", "safetensors"))
            ]
            ours = found[f"gpucodec, lossless, {disk}"][way]
            rows.append((disk, ours / min(plain)))
        title = "checkpoint: save" if way == "save" else f"checkpoint: load, {way} cache"
        yield Goal(title, "≤ 1.05x the fastest uncompressed", *worst(rows, 1.05, most=True))


def of_activations(found: dict[str, Any]) -> Iterator[Goal]:
    for kind in ("float32", "bfloat16"):
        one = found.get(f"training {kind}")
        rows = [] if one is None else [("saved", one["held"] / one["plain"] - 1)]
        measured, holds = worst(rows, -0.9, most=True)
        yield Goal(
            f"activations held in memory, {kind}",
            "≤ -90 %",
            percent(rows[0][1]) if rows else measured,
            holds,
        )
        rows = [] if one is None else [("wall", one["wall_x"])]
        yield Goal(f"step beside plain training, {kind}", "≤ 1.15x", *worst(rows, 1.15, most=True))
    for name, limit in (("post-ReLU bfloat16", 5), ("pre-ReLU bfloat16", 1.45)):
        rows = [(name, found[name]["ratio"])] if name in found else []
        yield Goal(f"on disk: {name}", f"≥ {limit}x", *worst(rows, limit))
    for name, target, limit in (
        ("harvest", "≥ 0.8 of the disk's raw writes", 0.8),
        ("random rows", "≥ 10x one-row chunk reads", 10),
    ):
        rows = [(name, found[name]["x"])] if name in found else []
        yield Goal(name, target, *worst(rows, limit))


def of_files(found: dict[str, Any]) -> Iterator[Goal]:
    one = found.get("local", {})
    for name, target, key, limit, most in (
        ("random 64 KiB read: blocks fetched", "≤ 1.5", "blocks", 1.5, True),
        ("random read beside the whole file", "≥ 20x", "faster", 20, False),
        ("sequential read beside the codec", "≥ 0.9x", "decode", 0.9, False),
        ("sequential write beside the codec", "≥ 0.9x", "encode", 0.9, False),
    ):
        rows = [(key, one[key])] if key in one else []
        yield Goal(f"files: {name}", target, *worst(rows, limit, most=most))


def of_models(found: dict[str, Any]) -> Iterator[Goal]:
    models = {n: f for n, f in found.items() if "smaller" in f}
    rows = [(n, f["smaller"]) for n, f in models.items()]
    yield Goal("models: pruned, quantized, coded, of fp32", "≥ 8 times smaller", *worst(rows, 8))
    rows = [(n, f["worse"]) for n, f in models.items()]
    yield Goal("models: the task's metric", "≤ 1 % worse", *worst(rows, 0.01, most=True))
    for key, title, target in (
        ("adds_up", "models: reported bytes beside the files", "equal"),
        ("reloads", "models: metric of the reloaded store", "as reported"),
        ("page", "models: the page in a headless Chromium", "plots, no errors"),
    ):
        verdicts = {n: f[key] for n, f in models.items() if f[key] is not None}
        wrong = [n for n, verdict in verdicts.items() if not verdict]
        measured = f"{len(verdicts) - len(wrong)} of {len(verdicts)}" if verdicts else "-"
        yield Goal(title, target, measured, not wrong if verdicts else None)
    for name in ("50 %", "2:4", "90 %"):
        one = found.get(f"pruned {name}")
        off = None if one is None else one["off"]
        measured = "-" if off is None else f"{100 * off:+.2f} %"
        holds = None if off is None else off <= 0.02
        yield Goal(f"bf16 pruned, {name}, beside arithmetic", "within 2 %", measured, holds)


def of_tuner(found: dict[str, Any]) -> Iterator[Goal]:
    searched = {n: f for n, f in found.items() if "held" in f}
    for key, title, target, limit in (
        ("held", "tuner: tensors never seen, beside exhaustive search", "within 3 %", 0.03),
        ("seen", "tuner: beside the default after five checkpoints", "≤ +1 %", 0.01),
    ):
        rows = [(n, f[key] - 1) for n, f in searched.items()]
        yield Goal(title, target, *worst(rows, limit, most=True))
    plans = found.get("planning, as chosen", {})
    yield Goal("tuner: planning beside encoding", "< 5 %", *worst(plans.items(), 0.05, most=True))


def of_gpu(found: dict[str, Any]) -> Iterator[Goal]:
    """Those of an H200, where one was measured."""
    weights = "weights bfloat16"
    for name, way, limit in (
        ("ratio", "encode", 800),
        ("ratio", "decode", 1500),
        ("fast", "decode", 2000),
    ):
        one = found.get(f"{weights}, gpucodec {name}, {way}")
        rows = [] if one is None else [(f"ratio {one['ratio']:.3f}", one["gbs"])]
        measured, holds = worst(rows, limit)
        enough = one is None or name != "ratio" or one["ratio"] >= 1.49
        yield Goal(
            f"GPU: bf16 {way}, profile {name}", f"≥ {limit} GB/s", measured, holds and enough
        )
    for way, limit in (("encode", 50), ("decode", 200)):
        one = found.get(f"token ids int64, gpucodec LZ, {way}")
        rows = [] if one is None else [("int64 ids", one["gbs"])]
        yield Goal(f"GPU: LZ {way}", f"≥ {limit} GB/s", *worst(rows, limit))
    for way in ("quantize", "dequantize"):
        rows = [(n, f["share"]) for n, f in found.items() if n.endswith(f" {way}") and f["share"]]
        yield Goal(f"GPU: {way}", "≥ 0.85 of copy traffic", *worst(rows, 0.85))
    for way in ("encode", "decode"):
        rows = list(beside_nvcomp(found, way))
        yield Goal(f"GPU: {way} beside nvCOMP of at least our ratio", "≥ 2x", *worst(rows, 2))
    one = found.get("small tensors")
    rows = [] if one is None else [(f"{one['n']} tensors", one["x"])]
    yield Goal("GPU: many small tensors in a batch", "≥ 20x one by one", *worst(rows, 20))


def beside_nvcomp(found: dict[str, Any], way: str) -> Iterator[tuple[str, float]]:
    """How many times as fast as the fastest coder of nvCOMP that is as small; infinitely, if none is."""
    for name, one in found.items():
        kind, _, what = name.partition(", gpucodec ")
        if what in (f"ratio, {way}", f"LZ, {way}"):
            theirs = [
                f["gbs"]
                for n, f in found.items()
                if n.startswith(f"{kind}, nvCOMP")
                and n.endswith(way)
                and f["ratio"] >= one["ratio"]
            ]
            yield name, one["gbs"] / max(theirs) if theirs else float("inf")


def summary(all_goals: list[Goal]) -> str:
    """How many hold."""
    counts = {
        verdict: sum(g.holds is verdict for g in all_goals) for verdict in (True, False, None)
    }
    return (
        f"{counts[True]} hold, {counts[False]} do not, {counts[None]} were not measured in this run"
    )
