# SPDX-License-Identifier: Apache-2.0
"""One rank of the tests of torch.distributed.checkpoint: ``dcp_worker.py RANK WORLD FOLDER CASE...``.

Cases of fewer ranks run in a part of the group. Prints a line for each case that held.
"""

from __future__ import annotations

import sys
import warnings
from math import prod
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
import zarr
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Replicate, Shard, distribute_tensor

from gpucodec import checkpoint
from gpucodec.checkpoint import grid
from gpucodec.checkpoint.dcp import ZarrReader, ZarrWriter
from gpucodec.checkpoint.storage import local

warnings.simplefilter("ignore")
CHUNK_BYTES = grid.CHUNK_BYTES
grid.CHUNK_BYTES = 2048  # several chunks a shard
PUTS: list[str] = []
GOT: list[int] = []
"""Bytes of chunks that were read."""
put, get = local.Local.put, local.Local.get


def note_put(self, key, data):
    PUTS.append(key)
    put(self, key, data)


def note_get(self, key, *span):
    data = get(self, key, *span)
    if "/c" in key:
        GOT.append(len(data))
    return data


local.Local.put, local.Local.get = note_put, note_get


def full(scale=1):
    """The state without shards, the same on every rank."""
    generator = torch.Generator().manual_seed(scale)
    return {
        "even": torch.randn(24, 36, generator=generator),
        "uneven": torch.randn(37, 29, generator=generator),
        "prime": torch.randn(13, 7, 5, generator=generator),
        "half": (exact := torch.randn(50, 40, generator=generator)).bfloat16(),
        "exact": exact,
        "mixed": torch.cat([exact[:-1], exact[-1:] + 9]).bfloat16(),  # not everywhere a rounding
        "few": torch.randn(2, 3, generator=generator),  # fewer rows than ranks
        "ints": torch.randint(-9, 9, (31,), generator=generator),
        "none": torch.empty(0, 4),
    }


def placements_of(text):
    known = {"r": Replicate(), "0": Shard(0), "1": Shard(1)}
    return [known[letter] for letter in text]


def n_ranks(spec):
    return prod(map(int, spec.partition(":")[0].split("x")))


def mesh_of(spec):
    """A mesh of the first ranks; all ranks must make it, since it makes groups."""
    dims = map(int, spec.partition(":")[0].split("x"))
    return DeviceMesh("cpu", torch.arange(n_ranks(spec)).reshape(*dims))


def state_of(spec, mesh, tensors):
    """A state dict whose tensors are placed as `spec` says: ``2x2:r0`` is a mesh and placements."""
    letters = spec.partition(":")[2]

    def place(tensor):
        wanted = [
            Shard(min(p.dim, tensor.ndim - 1)) if isinstance(p, Shard) else p
            for p in placements_of(letters)
        ]
        return distribute_tensor(tensor, mesh, wanted, src_data_rank=None)

    return {name: place(tensor) for name, tensor in tensors.items()}


def extras(step):
    return {
        "optim": {
            "state": {
                "w": {"exp_avg": torch.arange(30.0) * step, "step": torch.tensor(float(step))}
            },
            "param_groups": [
                {"lr": 0.1 * step, "betas": (0.9, 0.95), "name": "ä", "params": ["w"]}
            ],
        },
        "step": step,
        "path": None,
    }


def reshard(folder, save, load, groups):
    """Save placed one way, load placed another way: every local shard is exact."""
    rank = dist.get_rank()
    tensors, want = full(), extras(3)
    n_save, n_load = n_ranks(save), n_ranks(load)
    meshes = [mesh_of(save), mesh_of(load)]
    PUTS.clear()
    if rank < n_save:
        state = {"model": state_of(save, meshes[0], tensors), **extras(3)}
        writer = ZarrWriter(folder, chunk_bytes=700)
        dcp.save(state, storage_writer=writer, process_group=groups[n_save])
    counts = [None] * dist.get_world_size()
    dist.all_gather_object(counts, list(PUTS))
    written = [key for keys in counts for key in keys]
    assert len(written) == len(set(written)), "an object was written twice"
    if rank < n_load:
        target = state_of(load, meshes[1], {k: torch.zeros_like(v) for k, v in tensors.items()})
        expected = state_of(load, meshes[1], tensors)
        state = {"model": target, **extras(1)}
        dcp.load(state, storage_reader=ZarrReader(folder), process_group=groups[n_load])
        for name, one in expected.items():
            assert isinstance(target[name], DTensor)
            assert torch.equal(target[name].to_local(), one.to_local()), (name, rank)
        assert torch.equal(
            state["optim"]["state"]["w"]["exp_avg"], want["optim"]["state"]["w"]["exp_avg"]
        )
        assert state["optim"]["state"]["w"]["step"] == 3
        assert state["optim"]["param_groups"] == want["optim"]["param_groups"]
        assert (state["step"], state["path"]) == (3, None)
    dist.barrier()
    if rank == 0:
        keys = checkpoint.open(folder).manifest.keys()
        assert set(written) == keys, "replicated tensors are written once, and nothing else"
        plain = checkpoint.load(None, folder)  # without torch.distributed
        assert all(torch.equal(plain["model"][name], one) for name, one in tensors.items())
        assert plain["optim"]["param_groups"] == want["optim"]["param_groups"]
        assert checkpoint.verify(folder) == len(keys)
        kinds = {
            n.rpartition("/")[2]: t.kind
            for n, t in checkpoint.open(folder).manifest.tensors.items()
        }
        assert (kinds["even"], kinds["exp_avg"], kinds["step"]) == ("param", "exp_avg", "other")
        opened = checkpoint.open(folder)
        assert opened["model/half"].rounded_from == "model/exact"
        assert opened["model/mixed"].rounded_from is None
        is_turned = opened["model/even"].array.order == (1, 0)
        assert is_turned == (save.endswith("1") and n_save > 1 and "x" not in save)
        assert torch.equal(opened["model/even"][2:9, 3::4], tensors["even"][2:9, 3::4])
        path = Path(folder) / opened["model/even"].array.path
        assert (zarr.open_array(path, mode="r")[:] == tensors["even"].numpy()).all()
    dist.barrier()


def amplification(folder, save, load, groups):
    """What all ranks read together, in sizes of the checkpoint: no rank needs what another needs."""
    grid.CHUNK_BYTES = CHUNK_BYTES
    rank = dist.get_rank()
    generator = torch.Generator().manual_seed(0)
    tensors = {"w": torch.randn(4096, 4096, generator=generator)}
    meshes = [mesh_of(save), mesh_of(load)]
    if rank < n_ranks(save):
        state = state_of(save, meshes[0], tensors)
        writer = ZarrWriter(folder)
        dcp.save(state, storage_writer=writer, process_group=groups[n_ranks(save)])
    dist.barrier()
    GOT.clear()
    if rank < n_ranks(load):
        target = state_of(load, meshes[1], {k: torch.zeros_like(v) for k, v in tensors.items()})
        reader = ZarrReader(folder)
        dcp.load(target, storage_reader=reader, process_group=groups[n_ranks(load)])
        for name, one in state_of(load, meshes[1], tensors).items():
            assert torch.equal(target[name].to_local(), one.to_local()), (name, rank)
    sums = [None] * dist.get_world_size()
    dist.all_gather_object(sums, sum(GOT))
    manifest = checkpoint.open(folder).manifest
    stored = sum(one.size for array in manifest.arrays.values() for one in array.objects)
    grid.CHUNK_BYTES = 2048
    axis = int(load.partition(":")[2])
    [array] = manifest.arrays.values()
    cuts = array.shape[axis] / array.chunks[axis]
    of_blocks = axis == (array.order or (0, 1))[0]  # chunks can be read in part
    return sum(sums) / stored, 1.1 if of_blocks else 1 + (n_ranks(load) - 1) / cuts


def fsdp(folder, world):
    """FSDP2: a model and its AdamW, resumed on the same ranks, bit by bit."""
    from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict
    from torch.distributed.fsdp import fully_shard

    def make(seed):
        torch.manual_seed(seed)
        model = torch.nn.Sequential(
            torch.nn.Linear(33, 50), torch.nn.ReLU(), torch.nn.Linear(50, 7)
        )
        fully_shard(model[0], mesh=mesh)
        fully_shard(model, mesh=mesh)
        return model, torch.optim.AdamW(model.parameters(), lr=1e-2)

    def step(model, optimizer, number):
        torch.manual_seed(number)
        model(torch.randn(8, 33)).square().mean().backward()
        optimizer.step()
        optimizer.zero_grad()

    mesh = DeviceMesh("cpu", list(range(world)))
    model, optimizer = make(0)
    step(model, optimizer, 1)
    weights, moments = get_state_dict(model, optimizer)
    dcp.save({"model": weights, "optim": moments}, storage_writer=ZarrWriter(folder))
    step(model, optimizer, 2)
    other, stepper = make(5)
    step(other, stepper, 9)
    weights, moments = get_state_dict(other, stepper)
    state = {"model": weights, "optim": moments}
    dcp.load(state, storage_reader=ZarrReader(folder))
    set_state_dict(other, stepper, model_state_dict=state["model"], optim_state_dict=state["optim"])
    step(other, stepper, 2)
    for left, right in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(left.to_local(), right.to_local())


def asynchronous(folder, kind):
    """`dcp.async_save` in a thread or in a process; what is saved is the state at the call."""
    from torch.distributed.checkpoint.state_dict_saver import AsyncCheckpointerType

    spec = f"{dist.get_world_size()}:0"
    state = state_of(spec, mesh_of(spec), full())
    expected = {name: one.to_local().clone() for name, one in state.items()}
    future = dcp.async_save(
        {"model": state, "step": 5},
        storage_writer=ZarrWriter(folder),
        async_checkpointer_type=AsyncCheckpointerType(kind),
    )
    for one in state.values():
        one.to_local().zero_()
    future.result()
    dcp.load({"model": state}, storage_reader=ZarrReader(folder))
    for name, one in expected.items():
        assert torch.equal(state[name].to_local(), one), name


def main():
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3]
    store = dist.FileStore(f"{folder}/rendezvous", world)
    dist.init_process_group("gloo", store=store, rank=rank, world_size=world)
    torch.set_num_threads(1)
    groups = {n: dist.new_group(list(range(n))) for n in range(1, world + 1)}
    for number, case in enumerate(sys.argv[4:]):
        where = str(Path(folder) / f"case-{number}")
        if case.startswith("read "):
            save, load = case.removeprefix("read ").split("->")
            found, limit = amplification(where, save, load, groups)
            assert found <= limit + 0.01, found
            if rank == 0:
                print(f"{case}: {found:.3f} of what is needed, at most {limit:.3f}")
            assert found <= (1.1 if save[-2:] == load[-2:] else 1.3), (case, found)
        elif "->" in case:
            reshard(where, *case.split("->"), groups)
        elif case == "fsdp":
            fsdp(where, world)
        else:
            asynchronous(where, case)
        if rank == 0:
            print("held:", case, flush=True)
    dist.barrier()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
