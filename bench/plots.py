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

from . import peers  # noqa: E402

OURS: Final = "#c8371b"
OTHERS: Final = "#5b6b7f"
COLOURS: Final = ("#3a6ea5", "#7a9a3f", "#8c6bb1", "#c28a1e", "#5b6b7f", "#2a9d8f")
Figures = dict[str, dict[str, Any]]


def save(figure: Any, path: Path) -> Path:
    figure.savefig(path, metadata={"Date": None}, bbox_inches="tight")
    plt.close(figure)
    return path


def chart(results: Figures, kind: str, path: Path) -> Path:
    """Ratio beside speed of each codec on one kind of tensor: the chart of the README."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 2.7), sharey=True)
    for axis, way in ((left, "encode"), (right, "decode")):
        for name, one in results.items():
            if name in {"copy", peers.OURS_INTO}:
                continue
            ours = name == peers.OURS
            x, y = one[f"{way}_gbs"], one["ratio"]
            axis.plot(x, y, "o", color=OURS if ours else OTHERS, markersize=7 if ours else 5)
            axis.annotate(
                name,
                (x, y),
                xytext=(0, 6),
                textcoords="offset points",
                ha="center",
                fontsize=7,
                color=OURS if ours else OTHERS,
            )
        axis.set_xscale("log")
        axis.set_xlabel(f"{way}, GB/s of one core")
        axis.margins(0.16, 0.16)
        axis.grid(alpha=0.25)
    left.set_ylabel("times smaller")
    figure.suptitle(f"{kind}: up and to the right is better", fontsize=9)
    return save(figure, path)


def ratios(kinds: Figures, path: Path) -> Path:
    """Ratio of ours, ZipNN and the best other peer, and the order-0 bound, by kind."""
    names = list(kinds)
    figure, axis = plt.subplots(figsize=(7.2, 0.5 + 0.34 * len(names)))
    for row, name in enumerate(names):
        results = kinds[name]["results"]
        skip = {peers.OURS, peers.OURS_INTO, peers.ZIPNN}
        other = max(r["ratio"] for key, r in results.items() if key not in skip)
        points = [
            ("gpucodec", results[peers.OURS]["ratio"], OURS, "o"),
            ("best other peer", other, OTHERS, "s"),
            ("order-0 bound", kinds[name]["bound"], "black", "|"),
        ]
        if peers.ZIPNN in results:
            points.append(("ZipNN", results[peers.ZIPNN]["ratio"], COLOURS[0], "^"))
        for label, value, colour, mark in points:
            axis.plot(value, row, mark, color=colour, label=label if row == 0 else None)
    seen = {}
    for handle, label in zip(*axis.get_legend_handles_labels(), strict=True):
        seen.setdefault(label, handle)
    axis.legend(seen.values(), seen.keys(), fontsize=7, loc="best")
    axis.set_yticks(range(len(names)), names, fontsize=7)
    axis.invert_yaxis()
    axis.set_xscale("log")
    axis.set_xlabel("times smaller")
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
        colour = OURS if codec == peers.OURS else COLOURS[i % len(COLOURS)]
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
    axes[1].set(xlabel="threads", ylabel="times the speed of one")
    axes[1].legend(fontsize=7)
    found = sorted(
        (f for n, f in figures.items() if n.startswith("arrays")), key=lambda f: f["count"]
    )
    for i, name in enumerate(("encode one", "encode batch", "decode one", "decode batch")):
        y = [one[name] for one in found]
        axes[2].plot([one["count"] for one in found], y, "o-", color=COLOURS[i], label=name)
    axes[2].set(xscale="log", yscale="log", xlabel="arrays of 4 KiB", ylabel="µs an array")
    axes[2].legend(fontsize=7)
    figure.tight_layout()
    return save(figure, path)
