# SPDX-License-Identifier: Apache-2.0
"""What the lossless codec set out to reach, and whether the figures say that it did."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from . import peers
from .tables import Table, percent, times

PRETRAINED: Final = "pretrained bfloat16"
TRAINED: Final = "weights bfloat16"
FLOAT32_KINDS: Final = ("pretrained float32", "weights float32", "gradients float32")
SMALL_FLOAT_KINDS: Final = ("weights float16", "weights float8_e4m3fn", "gradients float8_e5m2")
SPEED_GOALS: Final = {"avx512": (2.0, 1.5), "avx2": (1.0, 1.0), "plain": (0.8, 0.8)}


@dataclass(frozen=True)
class Goal:
    """``holds`` is None where this run could not tell."""

    name: str
    target: str
    measured: str
    holds: bool | None


def goals(figures: dict[str, Any]) -> Iterator[Goal]:
    """All goals, in the order in which they matter, from the figures of ``bench.lossless``."""
    contests = figures["contests"]
    kinds = contests["native"]["kinds"]
    yield from ratio_goals(kinds)
    at_level = {contest["level"]: contest["kinds"] for contest in contests.values()}
    for level, (encode, decode) in SPEED_GOALS.items():
        yield from speed_goals(level, at_level.get(level, {}), encode, decode)
    for kind in FLOAT32_KINDS:
        yield from versus_zipnn(kind, kinds)
        yield from versus_bound(kind, kinds, 0.01)
    for kind in SMALL_FLOAT_KINDS:
        yield from versus_bound(kind, kinds, 0.015)
    yield from thread_goals(figures.get("threads"))
    yield from startup_goals(figures.get("startup"))


def ratio_goals(kinds: dict[str, Any]) -> Iterator[Goal]:
    for kind in (PRETRAINED, TRAINED):
        if kind not in kinds:
            continue
        results = kinds[kind]["results"]
        ours = results[peers.OURS]["ratio"]
        theirs = results[peers.ZIPNN]["ratio"] if peers.ZIPNN in results else None
        gain = "" if theirs is None else f" (ZipNN {theirs:.4f}, {percent(ours / theirs - 1)})"
        if kind == PRETRAINED:
            yield Goal(f"ratio, {kind}", "≥ 1.50 (ZipNN 1.4985)", f"{ours:.4f}{gain}", ours >= 1.5)
        elif theirs is not None:
            yield Goal(f"ratio, {kind}", "≥ ZipNN", f"{ours:.4f}{gain}", ours >= theirs)


def speed_goals(level: str, kinds: dict[str, Any], encode: float, decode: float) -> Iterator[Goal]:
    for way, target in (("encode", encode), ("decode", decode)):
        figures = {
            kind: kinds[kind]["results"][peers.OURS][f"{way}_x"]
            for kind in (PRETRAINED, TRAINED)
            if kind in kinds and peers.ZIPNN in kinds[kind]["results"]
        }
        measured = ", ".join(f"{times(x)} ({kind.split()[0]})" for kind, x in figures.items())
        yield Goal(
            f"{way}, {level}, one core",
            f"≥ {target:.1f}x ZipNN",
            measured or "-",
            all(x >= target for x in figures.values()) if figures else None,
        )


def versus_zipnn(kind: str, kinds: dict[str, Any]) -> Iterator[Goal]:
    if kind in kinds and peers.ZIPNN in kinds[kind]["results"]:
        results = kinds[kind]["results"]
        ours, theirs = (results[name]["ratio"] for name in (peers.OURS, peers.ZIPNN))
        yield Goal(f"ratio, {kind}", f"≥ ZipNN's {theirs:.4f}", f"{ours:.4f}", ours >= theirs)


def versus_bound(kind: str, kinds: dict[str, Any], slack: float) -> Iterator[Goal]:
    if kind in kinds:
        loss = kinds[kind]["results"][peers.OURS]["ratio"] / kinds[kind]["bound"] - 1
        yield Goal(
            f"ratio, {kind}", f"within {100 * slack:g} % of order-0", percent(loss), loss >= -slack
        )


def thread_goals(threads: dict[str, Any] | None) -> Iterator[Goal]:
    for way in ("encode", "decode", "decode into out"):
        if threads is not None:
            best, middle = threads[way]
            yield Goal(
                f"{way}, {threads['threads']} threads",
                "≥ 1.8x one thread",
                f"{times(best)} (medians {times(middle)})",
                best >= 1.8,
            )


def startup_goals(startup: dict[str, Any] | None) -> Iterator[Goal]:
    if startup is None:
        return
    imported = startup["import"]
    heavy = imported["heavy"]
    yield Goal(
        "import",
        "< 0.15 s and light",
        f"{imported['cpu']:.3f} s CPU, {imported['wall']:.3f} s wall, of it "
        f"{imported['cpu_without_numpy']:.3f} s not NumPy; {', '.join(heavy) or 'light'}",
        imported["cpu"] < 0.15 and not heavy,
    )
    numba = startup["numba"][1]
    limits = (("cold compile, all types", "cold_all", 10.0), ("warm first call", "warm_first", 0.3))
    for name, key, limit in limits:
        wall, cpu = startup[key]
        measured = f"{cpu:.2f} s CPU, {wall:.2f} s wall, after import numba ({numba:.2f} s)"
        yield Goal(name, f"< {limit:g} s", measured, cpu < limit)


def table(figures: dict[str, Any]) -> Table:
    return table_of(goals(figures))


def table_of(found: Iterable[Goal]) -> Table:
    """Goal by goal, as the figures have them."""
    verdict: Callable[[bool | None], str] = {True: "yes", False: "NO", None: "not measured"}.get  # type: ignore[assignment]
    result = Table("Goals", ("goal", "target", "measured", "holds"), n_left=4)
    for goal in found:
        result.add(goal.name, goal.target, goal.measured, verdict(goal.holds))
    return result
