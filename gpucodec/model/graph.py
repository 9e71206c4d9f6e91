# SPDX-License-Identifier: Apache-2.0
"""The computation graph: exported by torch, made smaller by torch's own passes.

torch.export traces a model into a graph of ATen operations that runs without the model's class.
Then: constant folding, no-ops, common subexpressions, dead code, parameters nobody uses, equal
tensors. What only a debugger needs (stack traces, names of modules) is not stored.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from ..errors import UnsupportedError
from .fold import fold_constants

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

KEPT_META: Final = ("val", "tensor_meta")
"""Of what is known about a node: what its outputs are, not where it came from."""
FOLD_BYTES: Final = 1024


@dataclass(frozen=True)
class Graph:
    """What is done to the graph.

    Parameters
    ----------
    optimize
        Run the passes; without, the graph is stored as exported.
    fold_bytes
        Constants are folded where the result has at most so many bytes: folding a mask of
        1,024 x 1,024 away would store it instead of the three operations that make it.
    dynamic_shapes
        As for `torch.export.export`, such as ``({0: torch.export.Dim.AUTO},)`` for any batch size.

    """

    optimize: bool = True
    fold_bytes: int = FOLD_BYTES
    dynamic_shapes: Any = None


@dataclass(frozen=True)
class Passes:
    """What the passes did: numbers of nodes and tensors."""

    nodes_before: int
    nodes_after: int
    folded: int
    no_ops: int
    common: int
    unused: tuple[str, ...]
    """Parameters and buffers that nothing reads."""
    duplicates: tuple[tuple[str, str], ...]
    """Tensors, and the equal ones that they are stored as."""


@contextmanager
def quiet() -> Iterator[None]:
    """torch warns about its own parts, which is for its developers."""
    level = logging.getLogger("torch").level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.getLogger("torch").setLevel(logging.ERROR)
        try:
            yield
        finally:
            logging.getLogger("torch").setLevel(level)


def export(model: Any, example_inputs: Sequence[Any], dynamic_shapes: Any = None) -> Any:
    """Trace a model in evaluation mode into a `torch.export.ExportedProgram`, functional ATen."""
    import torch

    if isinstance(model, torch.export.ExportedProgram):
        program = model
    else:
        with quiet(), torch.no_grad():
            program = torch.export.export(
                model, tuple(example_inputs), dynamic_shapes=dynamic_shapes
            )
    program._example_inputs = None  # noqa: SLF001 - without them, torch makes no guards
    with quiet():
        program = program.run_decompositions({})
    _own_memory(program)
    return program


def _own_memory(program: Any) -> None:
    """Give each tensor plain memory of its own; the same ones stay the same."""
    import torch

    made: dict[Any, Any] = {}
    for tensors in (program.state_dict, program.constants):
        for name, tensor in list(tensors.items()):
            if not isinstance(tensor, torch.Tensor):
                raise UnsupportedError(f"{name} is a {type(tensor).__name__}, not a tensor")
            place = (tensor.data_ptr(), tensor.dtype, tensor.shape, tensor.stride(), type(tensor))
            if place not in made or not tensor.numel():
                copy = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
                is_parameter = isinstance(tensor, torch.nn.Parameter)
                made[place] = (
                    torch.nn.Parameter(copy, requires_grad=False) if is_parameter else copy
                )
            tensors[name] = made[place]


def optimize(program: Any, fold_bytes: int = FOLD_BYTES) -> Passes:
    """Make the graph smaller, in place; its outputs stay the same, bit for bit."""
    before = len(program.graph.nodes)
    with quiet():
        folded = fold_constants(program, fold_bytes)
        no_ops = _remove_no_ops(program.graph)
        common = _merge_common(program)
        program.graph.eliminate_dead_code()
        unused = _drop_unused(program)
        _forget(program.graph)
        program.graph_module.recompile()
        program.validate()
    return Passes(
        before,
        len(program.graph.nodes),
        folded,
        no_ops,
        common,
        tuple(unused),
        tuple(share_equal(program)),
    )


def _remove_no_ops(graph: Any) -> int:
    """Clones, views and slices of the whole, casts to the same type."""
    from torch._inductor.fx_passes.post_grad import remove_noop_ops

    before = len(graph.nodes)
    remove_noop_ops(graph)
    graph.eliminate_dead_code()
    return before - len(graph.nodes)


def _merge_common(program: Any) -> int:
    """Equal operations on equal arguments, once; random ones are left alone."""
    from torch.fx.passes.dialect.common.cse_pass import CSEPass, get_CSE_banned_ops

    before = len(program.graph.nodes)
    result = CSEPass(get_CSE_banned_ops())(program.graph_module)
    if result.modified:
        program._graph_module = result.graph_module  # noqa: SLF001 - there is no public setter
    return before - len(program.graph.nodes)


def _drop_unused(program: Any) -> list[str]:
    """Remove the parameters, buffers and constants that no operation reads."""
    specs = program.graph_signature.input_specs
    dropped = []
    inputs = [node for node in program.graph.nodes if node.op == "placeholder"]
    for node, spec in list(zip(inputs, specs, strict=True)):
        if spec.target is None or node.users:
            continue
        program.graph.erase_node(node)
        specs.remove(spec)
        program.state_dict.pop(spec.target, None)
        program.constants.pop(spec.target, None)
        dropped.append(spec.target)
    return dropped


def _forget(graph: Any) -> None:
    for node in graph.nodes:
        node.meta = {key: value for key, value in node.meta.items() if key in KEPT_META}


def share_equal(program: Any) -> Iterator[tuple[str, str]]:
    """Tie tensors of equal type, shape and bits; what the graph writes to is left alone."""
    import torch

    written = set(program.graph_signature.buffers_to_mutate.values())
    first: dict[Any, tuple[str, Any]] = {}
    for tensors in (program.state_dict, program.constants):
        for name, tensor in list(tensors.items()):
            if name in written or not isinstance(tensor, torch.Tensor) or not tensor.numel():
                continue
            raw = tensor.detach().contiguous().flatten().view(torch.uint8).numpy()
            key = (tensor.dtype, tuple(tensor.shape), type(tensor), raw.tobytes())
            same = first.setdefault(key, (name, tensor))
            if same[0] != name:
                tensors[name] = same[1]
                yield name, same[0]
