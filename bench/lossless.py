# SPDX-License-Identifier: Apache-2.0
"""Lossless coding of real tensors beside the peers: ``python -m bench.lossless``.

Prints ratio and speed for each kind of tensor and each codec, then our speed at each SIMD level,
then which goals hold. ``bench/README.md`` says how to read the tables.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import rich.console

from . import goals, levels, measure, peers
from .corpus import open_corpus
from .tables import Table, insert, percent, times

QUICK_KINDS: Final = (
    "weights bfloat16",
    "weights float32",
    "weights float16",
    "weights float8_e4m3fn",
    "gradients float32",
)
QUICK_ELEMENTS: Final = 4_000_000
WIDTH: Final = 140  # of tables written to a file
LEVEL_KINDS: Final = (
    "pretrained bfloat16",
    "weights bfloat16",
    "weights float32",
    "weights float16",
    "weights float8_e4m3fn",
    "exp_avg_sq float32",
)


def collect(options: argparse.Namespace) -> dict[str, Any]:
    """Run all parts, each in a process of its own."""
    corpus = open_corpus(options.size)
    here = list(corpus.kinds())
    quick = [kind for kind in QUICK_KINDS if kind in here]
    common = ["--size", options.size, "--rounds", str(options.rounds)]
    if options.quick:
        common += ["--elements", str(QUICK_ELEMENTS)]
    contests = {}
    for level in ("native",) if options.quick else levels.LEVELS:
        everyone = ["--everyone"] if level == "native" else []
        chosen = here if level == "native" else [kind for kind in LEVEL_KINDS if kind in here]
        print(f"{level}:", flush=True)
        contests[level] = levels.run(
            "bench.contest",
            [*common, *everyone, "--kinds", *(quick if options.quick else chosen)],
            level,
        )
    figures = {"machine": measure.machine(), "training": corpus.facts, "contests": contests}
    if options.threads:
        figures["threads"] = levels.run(
            "bench.threads", [*common, "--threads", str(options.threads)]
        )
    if not options.quick:
        figures["startup"] = levels.run("bench.startup", [])
    return figures


def tables(figures: dict[str, Any]) -> Iterator[Table]:
    """The figures as tables."""
    kinds = figures["contests"]["native"]["kinds"]
    yield ratio_table(kinds)
    for kind, contest in kinds.items():
        yield speed_table(kind, contest)
    yield level_table(figures["contests"])
    yield goals.table(figures)


def ratio_table(kinds: dict[str, Any]) -> Table:
    table = Table(
        "Ratio",
        (
            "tensors",
            "MB",
            "order-0, top field",
            "order-0, all fields",
            "gpucodec",
            "to order-0",
            "ZipNN",
            "best other peer",
        ),
        note="Decoded over encoded bytes, headers, hashes and tables included.",
    )
    ours = (peers.OURS, peers.OURS_INTO, peers.ZIPNN)
    for kind, contest in kinds.items():
        results = contest["results"]
        ratio = results[peers.OURS]["ratio"]
        other = max(
            (r for name, r in results.items() if name not in ours), key=lambda r: float(r["ratio"])
        )
        table.add(
            kind,
            f"{contest['bytes'] / 1e6:.1f}",
            f"{contest['bound_top_field']:.4f}",
            f"{contest['bound']:.4f}",
            f"{ratio:.4f}",
            percent(ratio / contest["bound"] - 1),
            f"{results[peers.ZIPNN]['ratio']:.4f}" if peers.ZIPNN in results else "-",
            f"{other['ratio']:.4f} {other['codec']}",
        )
    return table


def speed_table(kind: str, contest: dict[str, Any]) -> Table:
    table = Table(
        f"{kind}, {contest['bytes'] / 1e6:.1f} MB, order-0 bound {contest['bound']:.4f}",
        ("codec", "ratio", "encode GB/s", "±", "x ZipNN", "decode GB/s", "±", "x ZipNN"),
    )
    for name, r in sorted(contest["results"].items(), key=lambda item: -item[1]["ratio"]):
        table.add(
            f"{name} {r['version']}",
            f"{r['ratio']:.4f}",
            f"{r['encode_gbs']:.2f}",
            f"{100 * r['encode_spread']:.0f} %",
            times(r["encode_x"]),
            f"{r['decode_gbs']:.2f}",
            f"{100 * r['decode_spread']:.0f} %",
            times(r["decode_x"]),
        )
    return table


def level_table(contests: dict[str, Any]) -> Table:
    table = Table(
        "SIMD levels, one core",
        (
            "tensors",
            "level",
            "encode GB/s",
            "x ZipNN",
            "decode GB/s",
            "x ZipNN",
            "decode into out GB/s",
            "x ZipNN",
        ),
        n_left=2,
        note="ZipNN is the same library at every level: it chooses by itself.",
    )
    for contest in contests.values():
        for kind, figures in contest["kinds"].items():
            results = figures["results"]
            if kind in LEVEL_KINDS:
                plain, into = results[peers.OURS], results[peers.OURS_INTO]
                table.add(
                    kind,
                    contest["level"],
                    f"{plain['encode_gbs']:.2f}",
                    times(plain["encode_x"]),
                    f"{plain['decode_gbs']:.2f}",
                    times(plain["decode_x"]),
                    f"{into['decode_gbs']:.2f}",
                    times(into["decode_x"]),
                )
    table.rows.sort()
    return table


def machine_line(figures: dict[str, Any]) -> str:
    """Where and when: what a figure is worth nothing without."""
    m = figures["machine"]
    losses = figures["training"]["losses"]
    return (
        f"{m['date']}, {m['cpu']}, {m['cores']} cores, {m['system']}, Python {m['python']}, "
        f"load {m['load']}, new memory {m['fresh_memory_gbs']} GB/s. The small GPT's loss fell from {losses[0]:.2f} to {losses[-1]:.2f}.\n"
    )


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.lossless", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="a few kinds, cut short, one level")
    parser.add_argument("--size", default="full", help="of the corpus: full or tiny")
    parser.add_argument("--rounds", type=int, help="of each race (default 9, quick 3)")
    parser.add_argument("--threads", type=int, default=2, help="of the scaling test, 0 for none")
    parser.add_argument("--json", type=Path, help="write all figures here")
    parser.add_argument("--markdown", type=Path, help="write the tables here, between their marks")
    parser.add_argument("--show", type=Path, metavar="JSON", help="show figures, measure nothing")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (3 if options.quick else 9)
    figures = json.loads(options.show.read_text()) if options.show else collect(options)
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))
    shown = list(tables(figures))
    console = rich.console.Console()
    if not console.is_terminal:
        console.width = WIDTH
    console.print(figures["machine"])
    for table in shown:
        table.show(console)
    if options.markdown:
        text = "\n".join([machine_line(figures), *(table.markdown() for table in shown)])
        insert(options.markdown, "lossless", text)


if __name__ == "__main__":
    main()
