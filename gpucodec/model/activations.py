# SPDX-License-Identifier: Apache-2.0
"""Activations rounded at run time: ranges from calibration, written into the graph.

The input of each linear layer and convolution goes through `aten.fake_quantize_per_tensor_affine`,
with the codes of the project's int8 and int4: symmetric around zero, -127 ... 127 and -7 ... 7.
The graph then computes what integer hardware would, and runs anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..kernels import quantspec

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

FORMATS: Final = ("int8", "int4")
LAYERS: Final = ("linear", "conv1d", "conv2d", "conv3d", "addmm", "convolution")
"""Operations of ATen whose first tensor is an activation and whose second is a weight."""


@dataclass(frozen=True)
class Range:
    """What calibration saw going into a layer."""

    layer: str
    """Name of the layer's weight."""
    largest: float
    """Magnitude that gets the largest code."""
    n_values: int
    clipped: float
    """Part of the calibration's values beyond it."""


def layers(program: Any) -> list[tuple[Any, int, str]]:
    """Nodes that are layers, the place of their activation among the arguments, their weight."""
    targets = {
        spec.arg.name: spec.target for spec in program.graph_signature.input_specs if spec.target
    }
    found = []
    for node in program.graph.nodes:
        if node.op != "call_function":
            continue
        name = getattr(getattr(node.target, "overloadpacket", None), "__name__", "")
        if name not in LAYERS:
            continue
        place = 1 if name == "addmm" else 0
        weight = targets.get(getattr(node.args[place + 1], "name", ""))
        if weight is not None:
            found.append((node, place, weight))
    return found


def calibrate(
    program: Any, inputs: Iterable[Sequence[Any]], percentile: float = 1.0
) -> dict[str, Range]:
    """Run the program and see the range of what goes into each layer.

    Parameters
    ----------
    program
        An exported program.
    inputs
        Positional arguments of each call: tens of typical batches.
    percentile
        Part of the magnitudes to cover; below 1, the mean over batches of that quantile.

    """
    import torch

    from .graph import quiet

    watched = {node.args[place]: weight for node, place, weight in layers(program)}
    names = {node.name: weight for node, weight in watched.items()}
    largest: dict[str, list[float]] = {weight: [] for weight in watched.values()}
    seen: dict[str, list[Any]] = {weight: [] for weight in watched.values()}

    class Watch(torch.fx.Interpreter):  # type: ignore[misc] # torch has no types here
        def run_node(self, node: Any) -> Any:
            result = super().run_node(node)
            weight = names.get(node.name)
            if weight is not None:
                magnitudes = result.detach().abs().flatten().float()
                rank = max(1, round(percentile * len(magnitudes)))
                largest[weight].append(float(torch.kthvalue(magnitudes, rank).values))
                seen[weight].append(magnitudes)
            return result

    with quiet():
        module = program.module(check_guards=False)
        with torch.no_grad():
            for one in inputs:
                Watch(module).run(*torch.utils._pytree.tree_leaves(tuple(one)))  # noqa: SLF001
    found = {}
    for weight, values in largest.items():
        if not values:
            continue
        limit = max(values) if percentile == 1 else sum(values) / len(values)
        beyond = sum(int((part > limit).sum()) for part in seen[weight])
        n_values = sum(map(len, seen[weight]))
        found[weight] = Range(weight, limit, n_values, beyond / max(1, n_values))
    return found


def insert(program: Any, ranges: dict[str, Range], format: str) -> int:  # noqa: A002
    """Round what goes into each layer, in place; returns the number of roundings.

    Raises
    ------
    ValueError
        The format has no codes of equal distance.

    """
    import torch

    if format not in FORMATS:
        raise ValueError(f"activations are {' or '.join(FORMATS)}, not {format!r}")
    top = int(quantspec.BY_NAME[format].largest)
    rounded: dict[tuple[Any, float], Any] = {}
    for node, place, weight in layers(program):
        source = node.args[place]
        if weight not in ranges or not source.meta["val"].is_floating_point():
            continue
        scale = max(ranges[weight].largest, torch.finfo(torch.float32).tiny) / top
        if (source, scale) not in rounded:
            with program.graph.inserting_before(node):
                made = program.graph.call_function(
                    torch.ops.aten.fake_quantize_per_tensor_affine.default,
                    (source, scale, 0, -top, top),
                )
            made.meta = {"val": source.meta["val"]}
            rounded[source, scale] = made
        node.update_arg(place, rounded[source, scale])
    program.graph_module.recompile()
    return len(rounded)
