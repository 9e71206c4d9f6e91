# SPDX-License-Identifier: Apache-2.0
"""``gpucodec model``: exported models made small, looked at, and exported for other runtimes."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..config import TensorConfig
from ..kernels import quantspec
from ..missing import needs
from .errors import CommandError
from .options import profile_option

if TYPE_CHECKING:
    from collections.abc import Sequence

_SOURCE = click.Path(path_type=Path, exists=True, dir_okay=False)
_PATH = click.Path(path_type=Path)


@click.group()
def model() -> None:
    """Models: weights and graph, pruned, quantized and coded into one store.

    URL is a folder or anything that fsspec opens, such as s3://bucket/model.
    """


@model.command()
@click.argument("src", type=_SOURCE)
@click.argument("url")
@click.option(
    "--inputs",
    type=_SOURCE,
    required=True,
    help="Inputs of calls, a file of arrays (.npz, .safetensors) in the order of the arguments; "
    "their first axes are cut into batches of the size that SRC was exported with.",
)
@click.option("--prune", type=float, metavar="PART", help="LOSSY: set this part to zero.")
@click.option("--n-m", metavar="N:M", help="LOSSY: keep N of each M neighbours, such as 2:4.")
@click.option(
    "--quantize",
    type=click.Choice((*quantspec.BY_NAME, "auto")),
    help="LOSSY: quantize weights; auto chooses a format for each within --budget.",
)
@click.option("--budget", type=float, default=0.01, show_default=True, help="KL of auto, in nats.")
@click.option("--activations", type=click.Choice(("int8", "int4")), help="LOSSY: round them too.")
@profile_option
@click.option("--json", "json_path", type=_PATH, help="Write the report as JSON.")
@click.option("--html", "html_path", type=_PATH, help="Write the report as a page.")
@click.option("--onnx", type=_PATH, help="Also write the compressed model for onnxruntime.")
@click.option("--tflite", type=_PATH, help="Also write it for LiteRT.")
@click.option("--int8", is_flag=True, help="Of these files: integer weights. LOSSY.")
@click.option("--checkpoints", type=click.IntRange(1), help="Report what N of them cost.")
@click.option("--bandwidth", type=float, default=1.25e9, show_default=True, help="Bytes a second.")
def compress(
    src: Path,
    url: str,
    *,
    inputs: Path,
    prune: float | None,
    n_m: str | None,
    quantize: str | None,
    budget: float,
    activations: str | None,
    profile: str,
    json_path: Path | None,
    html_path: Path | None,
    onnx: Path | None,
    tflite: Path | None,
    int8: bool,
    checkpoints: int | None,
    bandwidth: float,
) -> None:
    """Compress SRC, a file of torch.export.save, into a store at URL, and report on every stage.

    Nothing is lossy unless an option says so.
    """
    from .. import model as models
    from ..model import exports
    from ..model.archive import read_pt2
    from ..model.cost import add_costs
    from .console import ready

    _need_torch()
    ready()
    program = read_pt2(src)
    calls = _calls(inputs, program)
    try:
        how = models.Prune(prune or 0.0, n_m=_pair(n_m)) if prune or n_m else None
        rounds = quantize or activations
        quant = models.Quantize(quantize, budget=budget, activations=activations)
    except ValueError as error:
        raise CommandError(str(error)) from error
    report = models.compress_model(
        program,
        calls[0],
        url,
        prune=how,
        quantize=quant if rounds else None,
        code=TensorConfig(profile=profile),
        calibration=calls,
    )
    restored = models.load_program(url) if onnx or tflite else None
    if onnx:
        report.exports.append(exports.export_onnx(restored, calls[0], onnx, int8=int8))
    if tflite:
        report.exports.append(exports.export_tflite(restored, calls[0], tflite, int8=int8))
    if checkpoints:
        add_costs(report, checkpoints, models.Prices(bandwidth=bandwidth))
    report.print()
    if json_path:
        json_path.write_text(report.to_json(), encoding="utf-8")
    if html_path:
        report.save_html(html_path)


@model.command()
@click.argument("url")
def inspect(url: str) -> None:
    """Show what a stored model consists of: operations of its graph, weights, formats, bytes."""
    from collections import Counter

    from ..checkpoint import inspect as look
    from ..model import load_program
    from ..model.files import groups
    from .console import say, size, table

    _need_torch()
    info = look(url)
    program = load_program(url)
    calls = [str(node.target) for node in program.graph.nodes if node.op == "call_function"]
    table(
        ("tensor", "dtype", "shape", "format", "bytes", "stored", "ratio"),
        (
            (
                row.name,
                row.dtype,
                "×".join(map(str, row.shape)) or "scalar",
                dict(row.codec.get("configuration") or {}).get("format", "exact"),
                size(row.decoded_bytes),
                size(row.encoded_bytes) if row.same_as is None else f"as {row.same_as}",
                f"{row.ratio:.3f}",
            )
            for row in info.tensors
        ),
    )
    say(", ".join(f"{name} {n}" for name, n in Counter(calls).most_common()))
    found = groups(url)
    parts = ", ".join(f"{name} {size(n)}" for name, n in found.items())
    say(f"{len(calls)} operations, {size(sum(found.values()))} on disk: {parts}")


def _need_torch() -> None:
    with needs("torch", "model"):
        import torch  # noqa: F401


def _pair(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    n, _, m = text.partition(":")
    if not (n.isdigit() and m.isdigit()):
        raise CommandError(f"--n-m is like 2:4, not {text}")
    return int(n), int(m)


def _calls(path: Path, program: Any) -> list[Sequence[Any]]:
    """Batches of the inputs, as tensors."""
    from ..checkpoint.view import to_torch
    from . import files

    arrays = [tensor.open() for tensor in files.read(path).tensors]
    user = set(program.graph_signature.user_inputs)
    wanted = [
        node for node in program.graph.nodes if node.op == "placeholder" and node.name in user
    ]
    if len(arrays) != len(wanted):
        raise CommandError(f"{path} has {len(arrays)} arrays, the model takes {len(wanted)} inputs")
    shape = wanted[0].meta["val"].shape
    batch = shape[0] if shape and isinstance(shape[0], int) else len(arrays[0])
    tensors = [to_torch(array[:]) for array in arrays]
    n_batches = max(1, len(tensors[0]) // max(1, batch)) if shape else 1
    if not shape:
        return [tensors]
    return [[t[i * batch : (i + 1) * batch] for t in tensors] for i in range(n_batches)]
