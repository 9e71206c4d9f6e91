# SPDX-License-Identifier: Apache-2.0
"""Which saved tensors are weights: those stay in memory anyway, so that writing them frees nothing.

A saved parameter rarely is a `torch.nn.Parameter`: it is a transposed view, a bfloat16 copy that
autocast keeps, or a buffer, which nothing marks as one. So the modules that run are asked.
"""

from __future__ import annotations

import weakref
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef

CASTS = ("ToCopyBackward0", "TBackward0", "ViewBackward0", "TransposeBackward0")
PLAIN = (torch.Tensor, torch.nn.Parameter, torch.nn.Buffer)


class Weights:
    """Storages of the parameters and buffers of all modules that ran while this was watching."""

    def __init__(self) -> None:
        self._storages: dict[int, Any] = {}  # weak, and so no address can be reused
        self._seen: weakref.WeakSet[Any] = weakref.WeakSet()
        self._hook: Any = None
        self._depth = 0

    def watch(self) -> None:
        """Begin to note the weights of modules that are called."""
        self._depth += 1
        if self._depth == 1:
            self._storages = {a: one for a, one in self._storages.items() if not one.expired()}
            self._hook = torch.nn.modules.module.register_module_forward_pre_hook(self._note)

    def unwatch(self) -> None:
        """Stop."""
        self._depth -= 1
        if not self._depth:
            self._hook.remove()

    def _note(self, module: Any, _inputs: Any) -> None:
        if torch.compiler.is_compiling():
            return  # the module around the compiled one has been noted
        if module in self._seen:
            self._add(module)
            return
        for part in module.modules():
            self._seen.add(part)
            self._add(part)

    def _add(self, module: Any) -> None:
        for group in (module._parameters, module._buffers):
            for tensor in group.values():
                if type(tensor) in PLAIN and tensor.layout is torch.strided:
                    storage = tensor.untyped_storage()
                    if storage._cdata not in self._storages:
                        self._storages[storage._cdata] = StorageWeakRef(storage)

    def __contains__(self, tensor: Any) -> bool:
        """Whether the tensor is a weight, a view of one, or a copy of one in another type."""
        if isinstance(tensor, torch.nn.Parameter) or isinstance(tensor._base, torch.nn.Parameter):
            return True
        if tensor.untyped_storage()._cdata in self._storages:
            return True
        node = tensor.grad_fn
        while node is not None and node.name() in CASTS:
            node = node.next_functions[0][0]
        leaf = getattr(node, "variable", None)  # of AccumulateGrad, which stands at a leaf
        return isinstance(leaf, torch.nn.Parameter)
