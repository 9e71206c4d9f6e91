# SPDX-License-Identifier: Apache-2.0
"""Checkpoints of PyTorch Lightning: a `CheckpointIO` for ``Trainer(plugins=...)``.

>>> from gpucodec.checkpoint.lightning import LightningCheckpointIO         # doctest: +SKIP
>>> trainer = Trainer(plugins=LightningCheckpointIO())                      # doctest: +SKIP
>>> trainer.fit(model, ckpt_path="s3://bucket/run/last.ckpt")               # doctest: +SKIP

Either package will do, ``lightning`` or ``pytorch-lightning``.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from ..errors import UnsupportedError
from .collect import remove
from .load import load
from .save import save
from .storage import connect

if TYPE_CHECKING:
    from .policy import Policy

_BASES: list[Any] = []  # of each package that is installed: each wants its own
try:
    from lightning.fabric.plugins import CheckpointIO as _Lightning

    _BASES.append(_Lightning)
except ImportError:
    pass
try:
    from lightning_fabric.plugins import CheckpointIO as _PytorchLightning

    _BASES.append(_PytorchLightning)
except ImportError:
    pass
if not _BASES:
    raise UnsupportedError("LightningCheckpointIO needs the package lightning, not installed")


class LightningCheckpointIO(*_BASES):  # type: ignore[misc] # which ones is known when it runs
    """Saves and loads what a Trainer keeps: compressed, crash-safe, at any URL.

    A checkpoint's path becomes a folder (or prefix) of its own. `AsyncCheckpointIO` of Lightning
    wraps it as any other.

    Parameters
    ----------
    policy
        As for `gpucodec.checkpoint.save`.

    """

    def __init__(self, policy: Policy | str = "lossless") -> None:
        self.policy = policy

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None
    ) -> None:
        """Save; raises as `gpucodec.checkpoint.save`, and TypeError for `storage_options`."""
        if storage_options is not None:
            raise TypeError(f"storage_options are not used, but given: {storage_options!r}")
        save(_plain(checkpoint), path, self.policy)

    def load_checkpoint(
        self, path: Any, map_location: Any = None, weights_only: bool | None = None
    ) -> dict[str, Any]:
        """Load, which never runs anything whatever `weights_only` is; raises as `load`.

        A `map_location` that is no device (a function or dict of `torch.load`) leaves tensors on the
        CPU.
        """
        del weights_only
        device = None if callable(map_location) or isinstance(map_location, dict) else map_location
        loaded: dict[str, Any] = load(None, path, device=device)
        return loaded

    def remove_checkpoint(self, path: Any) -> None:
        """Delete a checkpoint, and nothing else that is there."""
        remove(connect(path))


def _plain(node: Any) -> Any:
    """Dicts and lists as such: Lightning's hyperparameters have types of their own."""
    if isinstance(node, dict):
        kind = OrderedDict if isinstance(node, OrderedDict) else dict
        return kind((key, _plain(one)) for key, one in node.items())
    if isinstance(node, list):
        return list(map(_plain, node))
    return tuple(map(_plain, node)) if type(node) is tuple else node
