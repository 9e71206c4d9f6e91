# SPDX-License-Identifier: Apache-2.0
"""Mixed precision: how much each weight's rounding costs, measured, and what to spend where."""

from __future__ import annotations

from math import sqrt
from typing import TYPE_CHECKING, Any, Final

import gpucodec

from ..checkpoint.leaves import leaf
from ..quant import QuantizeConfig
from . import quantize as quant, store
from .allocate import Option, allocate
from .quality import agreement, outputs

if TYPE_CHECKING:
    from .pipeline import Job
    from .quantize import Quantize

LADDER: Final = (
    QuantizeConfig("int8", block_size=128, scale_type="bf16"),
    QuantizeConfig("mxfp6_e2m3", block_size=32),
    QuantizeConfig("int4", block_size=32, scale_type="bf16"),
    QuantizeConfig("nf4", block_size=64, scale_type="bf16"),
    QuantizeConfig("nf4", block_size=256, scale_type="bf16"),
)
"""Formats that a weight may get, precise ones first; exact is always one more."""
TRIES: Final = 9


def rounded(tensor: Any, config: QuantizeConfig) -> Any:
    """A weight as decoding will give it, as a parameter if it was one."""
    import torch

    array = quant.matrix(leaf("weight", (), tensor.detach()).chunk(...))  # type: ignore[arg-type]
    made = torch.empty_like(tensor, requires_grad=False)
    again = leaf("weight", (), made).chunk(...)  # type: ignore[arg-type]
    again[...] = gpucodec.dequantize(gpucodec.quantize(array, config)).reshape(again.shape)
    is_parameter = isinstance(tensor, torch.nn.Parameter)
    return torch.nn.Parameter(made, requires_grad=False) if is_parameter else made


def mixed_precision(job: Job, program: Any, config: Quantize) -> dict[str, QuantizeConfig]:
    """A format for each weight: fewest bytes within the budget.

    Each format of each weight is tried alone: the KL divergence of the outputs that it causes, and
    its encoded bytes, are measured. The sum of the divergences is what `allocate` bounds. Errors
    of several weights do not quite add up, so the choice is measured as a whole, and the bound
    narrowed until what was asked for holds: the metric's relative loss if there is `evaluate`,
    else the divergence.
    """
    live = dict(program.state_dict)
    everything = quant.Quantize(weights="int8", rules=config.rules, min_numel=config.min_numel)
    names = list(quant.plan(live, everything, None))
    reference = outputs(store.runnable(program), job.calibration)
    table = {name: _options(job, program, name, reference) for name in names}
    total = sum(max(option.harm for option in options) for options in table.values())
    start = float(job.evaluate(store.runnable(program))) if job.evaluate else 0.0
    low = min(
        (one.harm for options in table.values() for one in options if one.harm > 0), default=0
    )
    high = total
    best: dict[str, QuantizeConfig] = {}
    for attempt in range(TRIES):
        bound = high if attempt == 0 else sqrt(low * high)
        chosen = {
            name: LADDER[option.key]
            for name, option in allocate(table, bound).items()
            if option.key is not None
        }
        if _harm(job, program, chosen, reference, start) <= config.budget:
            best, low = chosen, bound
            if attempt == 0:
                break
        else:
            high = bound
    return best


def _options(job: Job, program: Any, name: str, reference: Any) -> list[Option]:
    tensor = program.state_dict[name]
    array = quant.matrix(leaf(name, (), tensor.detach()).chunk(...))  # type: ignore[arg-type]
    found = [Option(None, gpucodec.encode(array).nbytes, 0.0)]
    for key, config in enumerate(LADDER):
        nbytes = gpucodec.encode_quantized(array, config).nbytes
        harm = _divergence(job, program, {name: config}, reference)
        found.append(Option(key, nbytes, harm))
    return found


def _divergence(
    job: Job, program: Any, configs: dict[str, QuantizeConfig], reference: Any
) -> float:
    found, _ = _measured(job, program, configs, reference)
    return found


def _measured(
    job: Job, program: Any, configs: dict[str, QuantizeConfig], reference: Any
) -> tuple[float, Any]:
    """The divergence with some weights rounded, and the model that has them so."""
    kept = {name: program.state_dict[name] for name in configs}
    try:
        for name, config in configs.items():
            program.state_dict[name] = rounded(kept[name], config)
        model = store.runnable(program)
    finally:
        program.state_dict.update(kept)
    return agreement(reference, outputs(model, job.calibration)).kl, model


def _harm(
    job: Job, program: Any, chosen: dict[str, QuantizeConfig], reference: Any, start: float
) -> float:
    """What the budget bounds."""
    divergence, model = _measured(job, program, chosen, reference)
    if job.evaluate is None:
        return divergence
    change = float(job.evaluate(model)) - start
    return (-change if job.higher_is_better else change) / max(abs(start), 1e-300)
