# SPDX-License-Identifier: Apache-2.0
"""What each tensor of a state dict is to training: decided by where it stands.

A policy may give up precision by kind, so a wrong guess could harm a run: what is not recognised
for sure is "other", and stays exact.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .leaves import Leaf
    from .structure import Flat

KINDS: Final = (*("param", "master_weight", "exp_avg", "exp_avg_sq", "grad", "buffer", "other"),)
# The names that optimizers of torch give their state; Adafactor's factors are those of
# torch.optim (row_var, ...) and of transformers (exp_avg_sq_row, ...).
_STATE: Final = {
    "exp_avg": "exp_avg",
    "momentum_buffer": "exp_avg",
    "exp_avg_sq": "exp_avg_sq",
    "max_exp_avg_sq": "exp_avg_sq",
    "exp_avg_sq_row": "exp_avg_sq",
    "exp_avg_sq_col": "exp_avg_sq",
    "row_var": "exp_avg_sq",
    "col_var": "exp_avg_sq",
    "variance": "exp_avg_sq",
    "master_param": "master_weight",
    "master_weight": "master_weight",
    "master_weights": "master_weight",
    "main_param": "master_weight",
    "fp32_param": "master_weight",
    "param": "master_weight",  # Megatron-LM's distributed optimizer
}
# Lists of fp32 weights beside the state: apex, Megatron-LM, DeepSpeed.
_MASTERS: Final = {
    *("fp32_from_fp16", "fp32_from_fp16_params", "fp32_from_float16_params"),
    *("shard_fp32_from_float16_groups", "fp32_groups_flat", "single_partition_of_fp32_groups"),
    *("fp32_flat_groups", "fp32_groups_flat_partition"),
    *("master", "masters", "master_params", "master_weights", "main_params", "fp32_params"),
}
_GRADIENTS: Final = {"grad", "grads", "gradients", "main_grad", "main_grads"}
_BUFFERS: Final = {"running_mean", "running_var", "num_batches_tracked", "inv_freq", "attn_bias"}
_FLOATS: Final = {"float64", "float32", "float16", "bfloat16"}
_WEIGHTS: Final = {*_FLOATS, "float8_e4m3fn", "float8_e5m2", "complex64", "complex128"}
_OPTIMIZER: Final = frozenset({"state", "param_groups"})


def kinds_of(flat: Flat) -> dict[str, str]:
    """The kind of each tensor, by its name.

    Optimizers are dicts with ``state`` and ``param_groups`` (``optimizer.state_dict()``, with
    numbers or, of FSDP, names of parameters), or flattened ones, whose keys start so.
    """
    nested = {path for path, keys in flat.containers.items() if keys >= _OPTIMIZER}
    dotted = {path for path, keys in flat.containers.items() if _is_flattened(keys)}
    return {leaf.name: _kind(leaf, nested, dotted) for leaf in flat.leaves}


def _is_flattened(keys: frozenset[Any]) -> bool:
    starts = {key.partition(".")[0] for key in keys if isinstance(key, str) and "." in key}
    return starts >= _OPTIMIZER


def _kind(leaf: Leaf, nested: set[Any], dotted: set[Any]) -> str:
    path, dtype = leaf.path, leaf.dtype.name
    for depth in range(len(path) + 1):
        if path[:depth] in nested:
            return _state(path[depth:], dtype, leaf.shape)
        if path[:depth] in dotted:
            rest = path[depth:]
            if len(rest) != 1:
                return "other"
            top, _, below = str(rest[0]).partition(".")
            owner, _, name = below.rpartition(".")
            return _state((top, owner, name) if owner else (top, name), dtype, leaf.shape)
    return _weight(path, dtype, leaf.shape)


def _state(path: tuple[Any, ...], dtype: str, shape: tuple[int, ...]) -> str:
    """A tensor of an optimizer, by its path from there."""
    if dtype not in _FLOATS or not shape:
        return "other"  # steps
    if any(part in _MASTERS for part in path):
        return "master_weight"
    match path:
        case ("state", _, str(name)):
            return "grad" if name in _GRADIENTS else _STATE.get(name, "other")
    return "other"


def _weight(path: tuple[Any, ...], dtype: str, shape: tuple[int, ...]) -> str:
    """A tensor outside of optimizers."""
    words = [word for part in path for word in str(part).split(".")]
    if not words or any("rng" in word or "random" in word for word in words):
        return "other"
    if not isinstance(path[-1], str) or any(word in _STATE for word in words):
        return "other"  # a list of numbers, or a part of an optimizer
    if dtype not in _WEIGHTS or words[-1] in _BUFFERS:
        return "buffer"
    if any(word in _GRADIENTS for word in words):
        return "grad"
    if any(word in _MASTERS for word in words):
        return "master_weight"
    return "param" if shape else "other"
