# SPDX-License-Identifier: Apache-2.0
"""Whole channels removed by Torch-Pruning (Fang et al. 2023, DepGraph): an optional extra."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..missing import needs

if TYPE_CHECKING:
    from collections.abc import Sequence


def remove_channels(
    model: Any, example_inputs: Sequence[Any], amount: float, keep: Sequence[Any] = ()
) -> None:
    """Remove the part `amount` of the channels with the smallest norms, in place.

    Parameters
    ----------
    model
        A module; the layers that produce its outputs keep their channels.
    example_inputs
        Positional arguments of one call.
    amount
        Part of the channels of each layer.
    keep
        Modules that are left as they are; of linear layers, the last one is among them anyway.

    Raises
    ------
    UnsupportedError
        Torch-Pruning is not installed.

    """
    with needs("torch_pruning", "prune"):
        import torch_pruning
    from torch import nn

    ends = [module for module in model.modules() if isinstance(module, nn.Linear)][-1:]
    pruner = torch_pruning.pruner.BasePruner(
        model,
        tuple(example_inputs),
        importance=torch_pruning.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=amount,
        ignored_layers=[*keep, *ends],
    )
    pruner.step()
