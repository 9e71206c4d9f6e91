# SPDX-License-Identifier: Apache-2.0
"""The figures of a report as SVG."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams.update(
    {
        "svg.hashsalt": "gpucodec",  # the same figures give the same file
        "svg.fonttype": "none",
        "font.size": 9,
        "axes.spines.top": False,
        "axes.spines.right": False,
    }
)

from matplotlib import pyplot as plt  # noqa: E402 the settings come first
from matplotlib.ticker import ScalarFormatter  # noqa: E402

from . import peers  # noqa: E402

OURS: Final = "#c8371b"
OTHERS: Final = "#5b6b7f"
COLOURS: Final = ("#3a6ea5", "#7a9a3f", "#8c6bb1", "#c28a1e", "#5b6b7f", "#2a9d8f")
Figures = dict[str, dict[str, Any]]


def save(figure: Any, path: Path) -> Path:
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    return path


CHART: Final = {
    peers.OURS: "gpucodec",
    peers.ZIPNN: "ZipNN",
    "OpenZL deconstruct": "OpenZL",
    "pcodec": "pcodec",
    "zstd-1 on byte planes": "byte planes, zstd-1",
    "Blosc2 bitshuffle+zstd": "Blosc2 bitshuffle, zstd",
    "Blosc2 bitshuffle+lz4": "Blosc2 bitshuffle, lz4",
    "zstd-3": "zstd-3",
}


def chart(results: Figures, kind: str, path: Path) -> Path:
    """Ratio and speeds of the codecs on one kind of tensor, as bars: the chart of the README."""
    names = [name for name in CHART if name in results]
    names.sort(key=lambda name: results[name]["ratio"])
    panels = (
        ("ratio", "times smaller"),
        ("encode_gbs", "encode, GB/s of a core"),
        ("decode_gbs", "decode, GB/s of a core"),
    )
    figure, axes = plt.subplots(1, 3, figsize=(7.4, 2.3), sharey=True)
    for axis, (key, title) in zip(axes, panels, strict=True):
        values = [results[name][key] for name in names]
        colours = [OURS if name == peers.OURS else "#b9c4d0" for name in names]
        start = 1 if key == "ratio" else 0  # 1.0 is not compressed
        digits = 3 if key == "ratio" else 2
        bars = axis.barh(
            [CHART[name] for name in names], [v - start for v in values], left=start, color=colours
        )
        axis.bar_label(bars, [f"{value:.{digits}f}" for value in values], padding=2, fontsize=7)
        axis.set_title(title, fontsize=8, loc="left")
        axis.margins(x=0.22)
        axis.set_xticks([])
        axis.tick_params(axis="y", length=0, labelsize=8)
        axis.spines["bottom"].set_visible(False)
    figure.suptitle(kind, fontsize=9, x=0.02, ha="left")
    figure.tight_layout()
    return save(figure, path)


def ratios(kinds: Figures, path: Path) -> Path:
    """How far from the order-0 bound ours, ZipNN and the best other peer are, by kind."""
    names = list(kinds)
    figure, axis = plt.subplots(figsize=(7.2, 0.9 + 0.3 * len(names)))
    for row, name in enumerate(names):
        results, bound = kinds[name]["results"], kinds[name]["bound"]
        skip = {peers.OURS, peers.OURS_INTO, peers.ZIPNN}
        other = max(r["ratio"] for key, r in results.items() if key not in skip)
        points = [("best other peer", other, OTHERS, "s")]
        if peers.ZIPNN in results:
            points.append(("ZipNN", results[peers.ZIPNN]["ratio"], COLOURS[0], "^"))
        points.append(("gpucodec", results[peers.OURS]["ratio"], OURS, "o"))
        for label, value, colour, mark in points:
            x = 100 * (value / bound - 1)
            axis.plot(x, row, mark, color=colour, label=label if row == 0 else None)
    axis.axvline(0, color="black", linewidth=0.8)
    axis.legend(fontsize=7, loc="upper center", bbox_to_anchor=(0.5, 1.18), ncols=3, frameon=False)
    labels = [f"{n} ({kinds[n]['results'][peers.OURS]['ratio']:.2f})" for n in names]
    axis.set_yticks(range(len(names)), labels, fontsize=7)
    axis.invert_yaxis()
    if max(map(abs, axis.get_xlim())) > 20:  # zeros, which order-0 coding of fields cannot see
        axis.set_xscale("symlog", linthresh=5)
        axis.xaxis.set_major_formatter(ScalarFormatter())
    axis.set_xlabel("ratio beside the order-0 bound, % (in brackets: gpucodec's ratio)", fontsize=8)
    axis.grid(alpha=0.25, axis="x")
    return save(figure, path)


def growth(figures: Figures, path: Path) -> Path:
    """GB/s by size, threads' gain, microseconds an array."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3))
    by_codec: dict[str, list[dict[str, Any]]] = {}
    for name, one in figures.items():
        if name.startswith("size"):
            by_codec.setdefault(one["codec"], []).append(one)
    for i, (codec, rows) in enumerate(by_codec.items()):
        colour = {peers.OURS: OURS, "copy": "#c9ced6"}.get(codec, COLOURS[i % len(COLOURS)])
        rows.sort(key=lambda row: row["bytes"])
        x = [row["bytes"] for row in rows]
        axes[0].plot(x, [row["encode_gbs"] for row in rows], color=colour, label=codec)
        axes[0].plot(x, [row["decode_gbs"] for row in rows], color=colour, linestyle="--")
    axes[0].set(xscale="log", yscale="log", xlabel="bytes of an array", ylabel="GB/s, one core")
    axes[0].set_title("encode —, decode - -", fontsize=8)
    axes[0].legend(fontsize=6)
    found = sorted((f for n, f in figures.items() if n.startswith("threads")), key=lambda f: f["n"])
    for way, mark in (("encode", "o-"), ("decode", "s--")):
        y = [1.0, *(one[f"{way}_x"] for one in found)]
        axes[1].plot([1, *(one["n"] for one in found)], y, mark, color=OURS, label=way)
    axes[1].plot([1, *(f["n"] for f in found)], [1, *(f["n"] for f in found)], ":", color=OTHERS)
    axes[1].set_xticks([1, *(one["n"] for one in found)])
    axes[1].set(xlabel="threads", ylabel="times the speed of one")
    axes[1].legend(fontsize=7)
    found = sorted(
        (f for n, f in figures.items() if n.startswith("arrays")), key=lambda f: f["count"]
    )
    for i, name in enumerate(("encode one", "encode batch", "decode one", "decode batch")):
        y = [one[name] for one in found]
        axes[2].plot([one["count"] for one in found], y, "o-", color=COLOURS[i], label=name)
    axes[2].set(xscale="log", xlabel="arrays of 4 KiB", ylabel="µs an array", ylim=(0, None))
    axes[2].legend(fontsize=7)
    figure.tight_layout()
    return save(figure, path)
