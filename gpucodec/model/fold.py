# SPDX-License-Identifier: Apache-2.0
"""Constant folding by torch's `ConstantFolder`, bounded by the size of what it makes."""

from __future__ import annotations

from typing import Any


def fold_constants(program: Any, most_bytes: int) -> int:
    """Replace operations on constants by their results, where these have at most `most_bytes`.

    Constants are what the graph makes itself (`arange`, `full`) and lifted tensors. Weights are
    not: what is computed from a quantized weight is not quantized. Returns the operations saved.
    """
    from torch._export.passes.constant_folding import ConstantFolder
    from torch.export.graph_signature import InputKind, InputSpec, TensorArgument

    graph, specs = program.graph, program.graph_signature.input_specs
    inputs = [node for node in graph.nodes if node.op == "placeholder"]
    known = {
        node: program.constants[spec.target]
        for node, spec in zip(inputs, specs, strict=True)
        if spec.kind == InputKind.CONSTANT_TENSOR
    }

    class Folder(ConstantFolder):  # type: ignore[misc] # torch has no types here
        def run(self) -> Any:
            unknown = dict.fromkeys(inputs, self.unknown_value)
            return super(ConstantFolder, self).run(initial_env={**unknown, **known})

        def is_impure(self, _node: Any) -> bool:
            return False  # theirs names operations of a library that need not be loaded

    folder = Folder(program.graph_module)
    folder.run()
    before = len(graph.nodes)
    place = next(i for i, spec in enumerate(specs) if spec.kind == InputKind.USER_INPUT)
    made = 0
    for node, tensor in folder.node_replacements.items():
        if tensor.nbytes > most_bytes or node.op == "placeholder":
            continue
        name = f"folded_{made}"
        with graph.inserting_before(inputs[place]):
            constant = graph.placeholder(f"c_{name}")
        constant.meta = {key: node.meta[key] for key in ("val", "tensor_meta") if key in node.meta}
        node.replace_all_uses_with(constant)
        specs.insert(
            place + made,
            InputSpec(
                InputKind.CONSTANT_TENSOR, TensorArgument(name=constant.name), name, persistent=None
            ),
        )
        program.constants[name] = tensor.detach().clone()
        made += 1
    graph.eliminate_dead_code()
    return before + made - len(graph.nodes)
