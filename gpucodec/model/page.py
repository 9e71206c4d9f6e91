# SPDX-License-Identifier: Apache-2.0
"""The report as one page of HTML: tables, and plots as SVG; it loads nothing and runs nothing."""

from __future__ import annotations

import io
from html import escape
from typing import TYPE_CHECKING, Any, Final

from ..missing import needs
from . import table

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from .report import CompressionReport

STYLE: Final = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 75rem; margin: 2rem auto; padding: 0 1rem;
       color: #1b1f24; background: #fff }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.5rem }
.headline { display: flex; gap: 2.5rem; flex-wrap: wrap; margin: 1.5rem 0 }
.headline b { display: block; font-size: 1.9rem; line-height: 1.2 }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-variant-numeric: tabular-nums }
th, td { padding: .25rem .75rem .25rem 0; text-align: left; border-bottom: 1px solid #e3e6ea;
         white-space: nowrap }
th { font-weight: 600 } figure { margin: 1rem 0 } figure svg { max-width: 100%; height: auto }
"""
COLOURS: Final = {
    "values": "#4c78a8", "weights": "#2f4b7c", "codes": "#72b7b2", "mask": "#eeca3b",
    "scales": "#f58518", "exceptions": "#e45756", "graph": "#54a24b", "constants": "#b279a2",
    "metadata": "#9d755d", "manifest": "#bab0ac",
}  # fmt: skip
MAX_BARS: Final = 60


def html(report: CompressionReport) -> str:
    """The page.

    Raises
    ------
    UnsupportedError
        matplotlib, which draws the plots, is not installed.

    """
    with needs("matplotlib", "report"):
        import matplotlib as mpl
    settings: Any = {"svg.fonttype": "path", "svg.hashsalt": "gpucodec", "font.size": 9}
    with mpl.rc_context(settings):
        plots = [_stages(report), _bits(report), _errors(report)]
        plots += [_costs(report)] if report.costs else []
    sections = [
        ("Stages", _table(table.STAGE_HEADINGS, table.stage_rows(report))),
        ("Accounting", _table(("", "value", "meaning"), table.facts(report))),
        ("Plots", "".join(f"<figure>{plot}</figure>" for plot in plots)),
        ("Weights", _table(table.TENSOR_HEADINGS, table.tensor_rows(report))),
    ]
    if report.ranges:
        ranges = [
            (one.layer, f"{one.largest:.5g}", f"{one.n_values:,}", f"{one.clipped:.2e}")
            for one in report.ranges
        ]
        headings = ("into", "range", "values seen", "clipped")
        sections.append(("Activations", _table(headings, ranges)))
    if report.exports:
        rows = table.export_rows(report)
        sections.append(("Other runtimes", _table(table.EXPORT_HEADINGS, rows)))
    if report.costs:
        sections.append(("Cost", _table(table.COST_HEADINGS, table.cost_rows(report))))
    body = "".join(f"<section><h2>{escape(title)}</h2>{text}</section>" for title, text in sections)
    title = f"gpucodec: {report.url}"
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f'<link rel="icon" href="data:,"><style>{STYLE}</style></head><body>'
        f"<h1>{escape(title)}</h1>{_headline(report)}{body}</body></html>\n"
    )


def _headline(report: CompressionReport) -> str:
    loss = report.relative_loss
    figures = [
        (f"{1 / report.alpha:.2f}×", "smaller"),
        (f"{report.stages[0].nbytes:,}", "bytes before"),
        (f"{report.stages[-1].nbytes:,}", "bytes on disk"),
        *([] if loss is None else [(f"{100 * loss:+.2f} %", "loss of the metric")]),
        (f"{100 * report.agreement.top1:.1f} %", "same top output"),
    ]
    cells = "".join(f"<div><b>{escape(a)}</b>{escape(b)}</div>" for a, b in figures)
    return f'<div class="headline">{cells}</div>'


def _table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(one)}</th>" for one in headings)
    lines = ("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><tr>{head}</tr>{"".join(lines)}</table></div>'


def _figure(height: float) -> tuple[Any, Any]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, height), layout="constrained")
    axes = figure.subplots()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure: Any) -> str:
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None})
    return "<svg" + text.getvalue().partition("<svg")[2]


def _stages(report: CompressionReport) -> str:
    figure, axes = _figure(3.2)
    names = [stage.name for stage in report.stages]
    left = [0.0] * len(names)
    roles = dict.fromkeys(role for stage in report.stages for role in stage.parts)
    for role in roles:
        sizes = [stage.parts.get(role, 0) / 1e6 for stage in report.stages]
        axes.barh(names, sizes, left=left, label=role, color=COLOURS.get(role, "#888"))
        left = [a + b for a, b in zip(left, sizes, strict=True)]
    axes.bar_label(axes.containers[-1], [f" {total:,.3f}" for total in left], padding=2)
    axes.invert_yaxis()
    axes.set_xlabel("MB after each stage")
    axes.legend(frameon=False, ncols=2, loc="lower right")
    return _svg(figure)


def _largest(report: CompressionReport) -> list[Any]:
    least = sum(one.original_bytes for one in report.tensors) // 1000  # of others all is metadata
    stored = [one for one in report.tensors if one.stored_bytes and one.original_bytes >= least]
    chosen = sorted(stored, key=lambda one: -one.original_bytes)[:MAX_BARS]
    return [one for one in stored if one in chosen]


def _bits(report: CompressionReport) -> str:
    chosen = _largest(report)
    figure, axes = _figure(1 + 0.18 * len(chosen))
    axes.barh([one.name for one in chosen], [one.bits for one in chosen], color="#4c78a8")
    axes.invert_yaxis()
    axes.set_xlabel("stored bits a value (largest weights)")
    return _svg(figure)


def _errors(report: CompressionReport) -> str:
    chosen = [one for one in _largest(report) if table.finite(one.recovery.snr_db, 0)]
    figure, axes = _figure(1 + 0.18 * max(1, len(chosen)))
    axes.barh(
        [one.name for one in chosen], [one.recovery.snr_db for one in chosen], color="#f58518"
    )
    axes.invert_yaxis()
    axes.set_xlabel("signal to noise, dB, against the original (weights that lost bits)")
    return _svg(figure)


def _costs(report: CompressionReport) -> str:
    figure, axes = _figure(0.8 + 0.35 * len(report.costs))
    names = [one.what for one in report.costs]
    storage = [one.storage for one in report.costs]
    axes.barh(names, storage, label="storage", color="#4c78a8")
    transfer = [one.transfer for one in report.costs]
    axes.barh(names, transfer, left=storage, label="transfer", color="#f58518")
    axes.invert_yaxis()
    axes.set_xlabel("cost of all checkpoints")
    axes.legend(frameon=False)
    return _svg(figure)
