# SPDX-License-Identifier: Apache-2.0
"""One of two processes that train with and without streamed activations: DDP, FSDP2, TP."""

from __future__ import annotations

import sys

import torch
import torch.distributed as dist
from models import GPT, equal, gpt_batch, gpt_loss, gradients
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    RowwiseParallel,
    parallelize_module,
)
from torch.nn.parallel import DistributedDataParallel

from gpucodec.activations import stream_activations


def build(kind, mesh):
    torch.manual_seed(0)
    model = GPT()
    if kind == "ddp":
        return DistributedDataParallel(model)
    if kind == "fsdp":
        for block in model.blocks:
            fully_shard(block, mesh=mesh)
        return fully_shard(model, mesh=mesh)
    plan = {"mlp.0": ColwiseParallel(), "mlp.2": RowwiseParallel()}
    for block in model.blocks:
        parallelize_module(block, mesh, plan)
    return model


def local(tensors):
    return [t.to_local() if hasattr(t, "to_local") else t for t in tensors]


def main():
    kind, rank, folder = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2
    )
    mesh = init_device_mesh("cpu", (2,))
    generator = torch.Generator().manual_seed(0 if kind == "tensor" else rank)
    batches = [gpt_batch(generator) for _ in range(3)]
    expected = local(gradients(build(kind, mesh), gpt_loss, batches, steps=5))
    stream = stream_activations(f"{folder}/spill", min_bytes=1, max_inflight_bytes=50_000)
    found = local(gradients(build(kind, mesh), gpt_loss, batches, lambda: stream, steps=5))
    stats = stream.stats()
    assert stats.streamed, stats
    assert stats.loads, stats
    print("equal" if equal(found, expected) else "different", stats.line())
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
