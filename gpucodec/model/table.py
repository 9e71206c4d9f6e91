# SPDX-License-Identifier: Apache-2.0
"""The report as tables in a terminal."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from ..cli.console import console, size, table

if TYPE_CHECKING:
    from .report import CompressionReport


def stage_rows(report: CompressionReport) -> list[tuple[str, ...]]:
    """Stage, bytes, what part of the original that is, what it consists of, time, metric."""
    first = report.stages[0].nbytes
    return [
        (
            stage.name,
            f"{stage.nbytes:,}",
            f"{stage.nbytes / first:.4f}",
            ", ".join(f"{role} {size(n)}" for role, n in stage.parts.items()),
            f"{stage.seconds:.2f}",
            size(stage.peak_bytes),
            "" if stage.metric is None else f"{stage.metric:.6g}",
        )
        for stage in report.stages
    ]


STAGE_HEADINGS = ("stage", "bytes", "ratio", "consists of", "seconds", "peak memory", "metric")
TENSOR_HEADINGS = (
    *("tensor", "shape", "format", "kept", "bits", "max abs", "max rel", "SNR dB", "cosine"),
)


def tensor_rows(report: CompressionReport) -> list[tuple[str, ...]]:
    """A row for each weight."""
    return [
        (
            one.name,
            "×".join(map(str, one.shape)) or "scalar",
            one.format,
            f"{one.n_kept / max(1, one.n):.3f}",
            f"{one.bits:.3f}" if one.stored_bytes else "shared",
            f"{one.recovery.max_abs:.3g}",
            f"{one.recovery.max_rel:.3g}",
            f"{one.recovery.snr_db:.1f}",
            f"{one.recovery.cosine:.6f}",
        )
        for one in report.tensors
    ]


def facts(report: CompressionReport) -> list[tuple[str, str, str]]:
    """Figures of the whole: symbol, value, meaning."""
    rows = [
        ("N", f"{report.n:,}", "parameters and buffers"),
        ("M", f"{report.m:,}", f"of them not zero: {report.m / max(1, report.n):.4f}"),
        ("b", f"{report.original_bits:.3f}", "original bits a parameter"),
        ("beta", f"{report.beta:.4f}", "bits of a kept value over before, scales included"),
        ("gamma", f"{report.gamma:.4f}", "weights and graph, after over before the graph's passes"),
        ("delta", f"{report.delta:.4f}", "bytes on disk over bytes before coding"),
        ("alpha", f"{report.alpha:.4f}", f"V'/V as measured: {1 / report.alpha:.2f} times smaller"),
        (
            "naive",
            f"{report.naive:.4f}",
            "M/N · beta · gamma · delta as if stages were independent",
        ),
        ("mask", f"{report.mask_entropy_bits:.4f}", "bits a parameter that masks need at least"),
        ("scales", f"{report.scale_bits:.4f}", "bits of scales a parameter, before coding"),
        ("KL", f"{report.agreement.kl:.3g}", "nats a position, outputs before and after"),
        ("top-1", f"{report.agreement.top1:.4f}", "positions with the same largest output"),
        ("encode", f"{report.encode_seconds:.2f} s", f"peak {size(report.encode_peak_bytes)}"),
        ("decode", f"{report.decode_seconds:.2f} s", f"peak {size(report.decode_peak_bytes)}"),
    ]
    if report.metric is not None and report.relative_loss is not None:
        before, after = report.metric
        worse = f"{100 * report.relative_loss:+.3f} % worse"
        rows.append(("metric", f"{after:.6g}", f"before {before:.6g}: {worse}"))
    return rows


def export_rows(report: CompressionReport) -> list[tuple[str, ...]]:
    """A row for each file for another runtime."""
    return [
        (
            one.format,
            f"{one.nbytes:,}",
            f"{1000 * one.seconds:.2f} ms",
            f"{one.agreement.max_abs:.3g}",
            f"{one.agreement.kl:.3g}",
            f"{one.agreement.top1:.4f}",
        )
        for one in report.exports
    ]


def cost_rows(report: CompressionReport) -> list[tuple[str, ...]]:
    """A row for each way to store N checkpoints."""
    return [
        (
            one.what,
            f"{one.n:,}",
            size(one.nbytes),
            f"{one.write_seconds:,.1f}",
            f"{one.read_seconds:,.1f}",
            f"{one.storage:,.2f}",
            f"{one.transfer:,.2f}",
            f"{one.total:,.2f}",
        )
        for one in report.costs
    ]


EXPORT_HEADINGS = ("file", "bytes", "one call", "max abs", "KL", "top-1")
COST_HEADINGS = (
    *("stored as", "checkpoints", "bytes", "write s", "read s", "storage", "transfer", "total"),
)


def show(report: CompressionReport) -> None:
    """Print everything."""
    table(STAGE_HEADINGS, stage_rows(report))
    console().print()
    table(("", "value", "meaning"), facts(report))
    console().print()
    table(TENSOR_HEADINGS, tensor_rows(report))
    for headings, rows in (
        (EXPORT_HEADINGS, export_rows(report)),
        (COST_HEADINGS, cost_rows(report)),
    ):
        if rows:
            console().print()
            table(headings, rows)


def finite(value: float, otherwise: float) -> float:
    """A number to draw."""
    return value if math.isfinite(value) else otherwise
