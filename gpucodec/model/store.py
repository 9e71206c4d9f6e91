# SPDX-License-Identifier: Apache-2.0
"""A model in one checkpoint: its weights, and its graph as JSON beside them.

It is an ordinary checkpoint (`gpucodec.checkpoint`): every hash is checked, `verify` and `inspect`
work, there is no pickle. What is in it is described in `docs/model.md`.
"""

from __future__ import annotations

import json
from glob import escape
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from .. import checkpoint
from ..checkpoint import Policy, Rule
from ..config import DEFAULT_CONFIG
from ..errors import CorruptionError, UnsupportedError
from . import archive
from .quantize import matrix

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .. import QuantizeConfig, TensorConfig

LAYOUT: Final = 1
WEIGHTS: Final = "weights"
CONSTANTS: Final = "constants"
GRAPH: Final = "graph"
KEY: Final = "gpucodec.model"


def save(
    program: Any,
    url: Any,
    configs: Mapping[str, QuantizeConfig] | None = None,
    exact: Mapping[str, Any] | None = None,
    code: TensorConfig = DEFAULT_CONFIG,
) -> checkpoint.SaveInfo:
    """Write an exported program.

    Parameters
    ----------
    program
        A `torch.export.ExportedProgram`.
    url
        As for `gpucodec.checkpoint.save`.
    configs
        How weights are quantized, by name; others are lossless.
    exact
        What is quantized, by name, where the program holds rounded values already (rounding twice
        is not rounding once).
    code
        How all that is not quantized is coded.

    """
    configs = configs or {}
    kept = archive.members(program)
    text = json.dumps({name: raw.decode() for name, raw in kept.items()}, separators=(",", ":"))
    seen: dict[int, Any] = {}
    weights = {}
    for name, tensor in program.state_dict.items():
        if id(tensor) not in seen:
            source = (exact or {}).get(name, tensor) if name in configs else tensor
            seen[id(tensor)] = matrix(source.detach()) if name in configs else tensor.detach()
        weights[name] = seen[id(tensor)]
    state = {
        GRAPH: np.frombuffer(text.encode(), np.uint8),
        WEIGHTS: weights,
        CONSTANTS: dict(program.constants),
    }
    rules = tuple(
        Rule(config, name=escape(f"{WEIGHTS}/{name}"), min_numel=0)
        for name, config in configs.items()
    )
    rules = (*rules, Rule(code))
    return checkpoint.save(state, url, Policy(rules, "model"), metadata={KEY: LAYOUT})


def load_program(url: Any) -> Any:
    """The stored model as a `torch.export.ExportedProgram`, weights in their original types.

    Raises
    ------
    FileNotFoundError
        There is no checkpoint.
    CorruptionError, UnsupportedError
        It is damaged, is no model, or its graph is more than arithmetic (see `trust`).

    """
    opened = checkpoint.open(url)
    if opened.metadata.get(KEY) != LAYOUT:
        raise UnsupportedError(
            f"{url} is no model of layout {LAYOUT}: its metadata have {opened.metadata}"
        )
    state = opened.load()
    try:
        text = json.loads(bytes(state[GRAPH]))
        kept = {str(name): str(one).encode() for name, one in text.items()}
        tensors = {group: dict(state[group]) for group in (WEIGHTS, CONSTANTS)}
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise CorruptionError(f"{url} is not as models are stored: {error!r}") from error
    for name, one in archive.config(kept, WEIGHTS).items():
        if name in tensors[WEIGHTS]:
            tensors[WEIGHTS][name] = _shaped(tensors[WEIGHTS][name], name, one)
    return archive.program_of(kept, tensors)


def load_model(url: Any) -> Any:
    """The stored model as a module that is called as the original; its class is not needed.

    It is in evaluation mode for good: ``eval()`` and ``train()`` do nothing. Raises as
    `load_program`.
    """
    return runnable(load_program(url))


def runnable(program: Any) -> Any:
    """A module that runs a program."""
    from .graph import quiet

    with quiet():
        module = program.module(check_guards=False)
    module.eval = module.train = lambda *_: module  # torch's raise: the graph has one mode
    return module


def _shaped(tensor: Any, name: str, described: Mapping[str, Any]) -> Any:
    """A quantized weight, stored as a matrix, in the shape that the graph has."""
    try:
        return tensor.reshape([int(size["as_int"]) for size in described["tensor_meta"]["sizes"]])
    except (KeyError, TypeError, RuntimeError) as error:
        raise CorruptionError(f"{name} of shape {list(tensor.shape)} does not fit") from error
