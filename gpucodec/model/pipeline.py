# SPDX-License-Identifier: Apache-2.0
"""Prune, quantize, shrink the graph, code; and measure after each stage.

The order is fixed. Pruning needs the weights as they were trained; scales of quantization are
chosen for what pruning leaves; the graph's passes compare tensors as they will be stored, and would
fold weights that are not rounded yet; the coder comes last, since it takes out what the others
leave redundant.
"""

from __future__ import annotations

import copy
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .. import checkpoint
from ..checkpoint.leaves import leaf
from ..config import DEFAULT_CONFIG
from . import (
    account,
    activations as act,
    archive,
    files,
    prune as pruning,
    quantize as quant,
    store,
)
from .graph import Graph, export, optimize, quiet
from .meter import Meter
from .quality import Recovery, agreement, outputs, recovery
from .report import CompressionReport, Stage, TensorReport
from .sensitivity import mixed_precision

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from .. import QuantizeConfig, TensorConfig
    from .prune import Prune
    from .quantize import Quantize

    Evaluate = Callable[[Any], float]


@dataclass
class Job:
    """A model on its way through the stages."""

    model: Any
    inputs: Sequence[Any]
    calibration: Sequence[Sequence[Any]]
    evaluate: Evaluate | None
    higher_is_better: bool
    keep_stages: Path | None
    stages: list[Stage] = field(default_factory=list)
    masks: dict[str, Any] = field(default_factory=dict)
    configs: dict[str, QuantizeConfig] = field(default_factory=dict)
    exact: dict[str, Any] = field(default_factory=dict)
    ranges: list[act.Range] = field(default_factory=list)
    aliases: dict[str, list[str]] = field(default_factory=dict)
    """Names of the same tensor, by the first."""

    def add(self, name: str, parts: account.Parts, meter: Meter, model: Any = None) -> None:
        """Measure a stage: its parts' bytes, and what the model is worth now."""
        found: dict[str, int] = {}
        for tensor, role, array in parts:
            found[role] = found.get(role, 0) + array.nbytes
            if self.keep_stages is not None:
                files.keep(self.keep_stages / name, tensor, role, array)
        metric = None if self.evaluate is None or model is None else float(self.evaluate(model))
        self.stages.append(Stage(name, found, meter.seconds, meter.peak_bytes, metric))


def weights_of(model: Any) -> dict[str, Any]:
    """Parameters and persistent buffers by name, of a module or an exported program."""
    found = model.state_dict
    return dict(found() if callable(found) else found)


def unique(tensors: dict[str, Any]) -> Iterator[tuple[str, np.ndarray[Any, Any]]]:
    """Tensors as arrays; those that are the same memory, once."""
    seen: set[Any] = set()
    for name, tensor in tensors.items():
        place = (tensor.data_ptr() or id(tensor), tuple(tensor.shape), tensor.dtype)
        if place not in seen:
            seen.add(place)
            yield name, leaf(name, (), tensor.detach()).chunk(...)  # type: ignore[arg-type]


def compress_model(
    model: Any,
    example_inputs: Sequence[Any],
    url: Any,
    *,
    prune: Prune | None = None,
    quantize: Quantize | None = None,
    graph: Graph | None = None,
    code: TensorConfig = DEFAULT_CONFIG,
    evaluate: Evaluate | None = None,
    higher_is_better: bool = False,
    finetune: Callable[[Any], None] | None = None,
    calibration: Sequence[Sequence[Any]] = (),
    keep_stages: Path | None = None,
) -> CompressionReport:
    """Compress a model into a store, and say what each stage did.

    Parameters
    ----------
    model
        A module in evaluation mode, which is not changed, or a `torch.export.ExportedProgram`.
    example_inputs
        Positional arguments of one call.
    url
        Where the store goes: as for `gpucodec.checkpoint.save`.
    prune, quantize, graph
        What each stage does; None leaves it out. The graph is stored in any case.
    code
        How all that is not quantized is coded: `TensorConfig(profile="fast")` for quick loading.
    evaluate
        Called with a model after each stage; returns the task's metric.
    higher_is_better
        Of the metric: True for an accuracy, False for a loss.
    finetune
        Called with the pruned module, to train it further; what is pruned stays zero.
    calibration
        Inputs of typical calls: for ranges of activations, sensitivity, and to compare outputs.
        The example inputs are taken where there are none.
    keep_stages
        A folder in which each stage's parts are left as files, whose sizes are those reported.

    Raises
    ------
    UnsupportedError
        Types that are not encoded, graphs that are more than arithmetic, a missing optional
        package.

    """
    import torch

    graph = graph or Graph()
    calls = list(calibration) or [tuple(example_inputs)]
    is_module = isinstance(model, torch.nn.Module)
    runs = model if is_module else store.runnable(model)
    with quiet():
        own = copy.deepcopy(model)
    job = Job(own, example_inputs, calls, evaluate, higher_is_better, keep_stages)
    originals = dict(unique(weights_of(model)))
    reference = outputs(runs, calls)

    with Meter() as meter:
        pass
    job.add("original", _all(account.as_values, originals), meter, runs)
    _prune(job, prune, finetune)
    program, kept = _quantize(job, quantize, graph)
    passes = _shrink(job, program, graph)
    with Meter() as encoding:
        store.save(program, url, job.configs, job.exact, code)
    with Meter() as decoding:
        restored = store.load_program(url)
    loaded = store.runnable(restored)
    job.add("code", iter(()), encoding, loaded)
    coded = files.groups(url)
    last = job.stages[-1]
    job.stages[-1] = Stage("code", coded, last.seconds, last.peak_bytes, last.metric)
    return CompressionReport(
        url=str(url),
        n=sum(array.size for array in originals.values()),
        stages=job.stages,
        tensors=_tensors(job, url, originals, kept, restored),
        passes=passes,
        ranges=job.ranges,
        higher_is_better=higher_is_better,
        agreement=agreement(reference, outputs(loaded, calls)),
        coded_original=files.coded_bytes(originals.values(), code),
        encode_seconds=encoding.seconds,
        encode_peak_bytes=encoding.peak_bytes,
        decode_seconds=decoding.seconds,
        decode_peak_bytes=decoding.peak_bytes,
        mask_entropy_bits=_mask_bits(kept),
    )


def _all(as_parts: Any, arrays: dict[str, Any]) -> account.Parts:
    for name, array in arrays.items():
        yield from as_parts(name, array)


def _prune(job: Job, config: Prune | None, finetune: Callable[[Any], None] | None) -> None:
    with Meter() as meter:
        if config is not None and config.structured:
            from .structured import remove_channels

            remove_channels(job.model, job.inputs, config.amount)
        live = _live(job.model)
        if config is not None and not config.structured:
            job.masks = pruning.masks(live, config)
            pruning.apply(live, job.masks)
        if finetune is not None:
            with pruning.frozen(live, job.masks):
                finetune(job.model)
            if hasattr(job.model, "eval"):
                job.model.eval()
    arrays = dict(unique(weights_of(job.model)))
    model = job.model if hasattr(job.model, "forward") else store.runnable(job.model)
    job.add("prune", _all(account.as_kept, arrays), meter, model)


def _live(model: Any) -> dict[str, Any]:
    """The tensors themselves, so that they can be trained and changed."""
    if hasattr(model, "named_parameters") and not hasattr(model, "graph_signature"):
        return dict(model.named_parameters())
    return weights_of(model)


def _quantize(job: Job, config: Quantize | None, graph: Graph) -> tuple[Any, dict[str, Any]]:
    """The exported program with rounded weights, and the exact arrays by name."""
    with Meter() as meter:
        program = export(job.model, job.inputs, graph.dynamic_shapes)
        if config is not None:
            live = dict(program.state_dict)
            mixed = None
            if config.weights == "auto":
                mixed = mixed_precision(job, program, config)
            job.configs = quant.plan(live, config, mixed)
        arrays = dict(unique(dict(program.state_dict)))
        for name, tensor in program.state_dict.items():
            owner = next(one for one in arrays if program.state_dict[one] is tensor)
            job.aliases.setdefault(owner, []).append(name)
        _round(job, program)
        if config is not None and config.activations:
            ranges = act.calibrate(program, job.calibration, config.percentile)
            act.insert(program, ranges, config.activations)
            job.ranges = list(ranges.values())
    parts = _quantized(job, arrays)
    job.add("quantize", parts, meter, store.runnable(program))
    return program, arrays


def _round(job: Job, program: Any) -> None:
    """Put what decoding will give in place of the weights; the exact ones are kept for storing."""
    from .sensitivity import rounded

    seen: dict[int, Any] = {}
    for name, config in job.configs.items():
        tensor = program.state_dict[name]
        job.exact[name] = tensor
        if id(tensor) not in seen:
            seen[id(tensor)] = rounded(tensor, config)
        program.state_dict[name] = seen[id(tensor)]


def _quantized(job: Job, arrays: dict[str, Any]) -> account.Parts:
    for name, array in arrays.items():
        if name in job.configs:
            yield from account.as_codes(name, quant.matrix(array), job.configs[name])
        else:
            yield from account.as_kept(name, array)


def _shrink(job: Job, program: Any, config: Graph) -> Any:
    """The graph's passes; adds the stages before (the graph is there now) and after them."""
    with Meter() as meter:
        before = archive.members(program)
    arrays = dict(unique(_exact(job, program)))
    job.add("export", _joined(job, arrays, before), meter)
    passes = None
    with Meter() as meter:
        if config.optimize:
            passes = optimize(program, config.fold_bytes)
        after = archive.members(program)
    job.configs = {name: c for name, c in job.configs.items() if name in program.state_dict}
    arrays = dict(unique(_exact(job, program)))
    job.add("graph", _joined(job, arrays, after), meter, store.runnable(program))
    return passes


def _joined(job: Job, arrays: dict[str, Any], members: dict[str, bytes]) -> account.Parts:
    yield from _quantized(job, arrays)
    yield from account.as_graph(members)


def _exact(job: Job, program: Any) -> dict[str, Any]:
    """Weights and constants as they are stored: exact, where the program holds rounded ones."""
    first: dict[int, str] = {}
    found = {}
    for name, tensor in program.state_dict.items():
        owner = first.setdefault(id(tensor), name)
        found[name] = job.exact.get(owner, tensor)
    return {**found, **{f"constants/{name}": one for name, one in program.constants.items()}}


def _tensors(
    job: Job, url: Any, originals: dict[str, Any], kept: dict[str, Any], restored: Any
) -> list[TensorReport]:
    info = {row.name: row for row in checkpoint.inspect(url).tensors}
    back = weights_of(restored)
    rows = []
    for name, array in kept.items():
        # Of tied weights, the graph may use any name.
        there = next((one for one in job.aliases[name] if one in back), None)
        row = info.get(f"{store.WEIGHTS}/{there}")
        original = originals.get(name)
        stored = row.encoded_bytes if row is not None and row.same_as is None else 0
        found = Recovery(math.nan, math.nan, math.nan, math.nan)  # not comparable, or not stored
        if original is not None and original.shape == array.shape and there is not None:
            again = leaf(name, (), back[there]).chunk(...)  # type: ignore[arg-type]
            found = recovery(original, again)
        config = job.configs.get(there or name)
        rows.append(
            TensorReport(
                name,
                str(array.dtype),
                array.shape,
                int(np.count_nonzero(array)),
                "exact" if config is None else config.format,
                array.nbytes if original is None else original.nbytes,
                stored,
                found,
            )
        )
    return rows


def _mask_bits(arrays: dict[str, Any]) -> float:
    """Bits a value of the masks of all tensors that have zeros, by their own densities."""
    bits = sum(
        array.size * account.entropy(float(np.count_nonzero(array)) / max(1, array.size))
        for array in arrays.values()
    )
    return float(bits / max(1, sum(array.size for array in arrays.values())))
