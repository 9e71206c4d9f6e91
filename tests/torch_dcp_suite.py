# SPDX-License-Identifier: Apache-2.0
"""PyTorch's own tests of torch.distributed.checkpoint, with `ZarrWriter` and `ZarrReader` for its
file-system ones: ``torch_dcp_suite.py FOLDER [arguments of pytest]``.

FOLDER has files of ``test/distributed/checkpoint`` of a checkout of PyTorch, whose version should
be that of the installed one; the wheel has no tests. They run on CPUs: tests that want GPUs are
given processes of gloo instead, FSDP is FSDP2, and ``.cuda()`` is nothing. Needs pytest and expecttest.
"""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed.checkpoint as dcp
import torch.distributed.checkpoint.state_dict
from torch.distributed import fsdp
from torch.distributed.checkpoint import _storage_utils, filesystem
from torch.multiprocessing import get_context
from torch.testing._internal import common_distributed
from torch.testing._internal.distributed._tensor import common_dtensor

from gpucodec.checkpoint.dcp import ZarrReader, ZarrWriter

ABOUT_TORCH = {
    "test_no_cpu": "it is about NCCL",
    "zoc_True": "staging in pinned memory needs a GPU",
    "compile_False_model_type1": "FSDP2 wants names of a mesh's axes, FSDP did not",
    "compile_True": "torch.compile of the models, which takes minutes",
    "test_overwrite": "overwrite=False is torch's option",
    "test_auto_detect": "it asks which of torch's own writers a path gets",
    "Rot13": "extensions change torch's file format",
    "ZStandard": "extensions change torch's file format",
}


class Writer(ZarrWriter):  # type: ignore[misc] # torch has no types here
    """Takes what torch's takes: how to write its files."""

    def __init__(self, path: Any, **_: Any) -> None:
        super().__init__(path)


class Reader(ZarrReader):  # type: ignore[misc] # torch has no types here
    """Takes what torch's takes."""

    def __init__(self, path: Any, **_: Any) -> None:
        super().__init__(path)


def on_cpu(_n_devices: int, **_: Any) -> Any:
    """Instead of skipping a test where there are no GPUs."""
    return lambda function: function


class FullyShardedDataParallel(fsdp.FullyShardedDataParallel):  # type: ignore[misc] # as above
    """FSDP2 for FSDP, which wants a GPU."""

    def __new__(cls, module: Any, device_mesh: Any = None, **_: Any) -> Any:
        return fsdp.fully_shard(module, mesh=device_mesh)


def patch() -> None:
    """Put ours in the place of torch's, in all modules that tests import from."""
    for module in (dcp, filesystem, _storage_utils):
        module.FileSystemWriter, module.FileSystemReader = Writer, Reader
    for module in (common_distributed, common_dtensor):
        module.skip_if_lt_x_gpu = on_cpu
    fsdp.FullyShardedDataParallel = FullyShardedDataParallel
    for kind in (torch.Tensor, torch.nn.Module):
        kind.cuda = lambda self, *_: self
    init = common_dtensor.DTensorTestBase.init_pg
    common_dtensor.DTensorTestBase.init_pg = lambda self, eager, _backend=None: init(
        self, eager, "gloo"
    )
    base = common_distributed.MultiProcessTestCase
    base._spawn_processes = lambda self: self._start_processes(get_context("fork").Process)


class Plugin:
    """Leaves out what is about torch's own files, and says why."""

    @staticmethod
    def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
        """Mark such tests as skipped."""
        for item in items:
            for name, reason in ABOUT_TORCH.items():
                if name in item.nodeid:
                    item.add_marker(pytest.mark.skip(reason=reason))


def main() -> int:
    folder = Path(sys.argv[1]).resolve()
    patch()
    run = partial(pytest.main, plugins=[Plugin()])
    return run([str(folder), f"--rootdir={folder}", "-c/dev/null", "-rs", *sys.argv[2:]])


if __name__ == "__main__":
    sys.exit(main())
