# SPDX-License-Identifier: Apache-2.0
"""Sharded state dicts come back exactly on any number of ranks and any mesh."""

from __future__ import annotations

import io
import itertools
import os
import pickle
import subprocess
import sys
import time
from functools import partial
from math import prod
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from checkpoint_cases import same, training_state
from hypothesis import given, settings, strategies as st
from torch.distributed.checkpoint.planner import SavePlanner

from gpucodec import QuantizeConfig, checkpoint
from gpucodec.checkpoint import Policy, Rule
from gpucodec.checkpoint.dcp import ZarrReader, ZarrWriter
from gpucodec.checkpoint.dcp.layout import Shard, check_shards, chunks_of, layout_of
from gpucodec.errors import GpucodecError, UnsupportedError

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning"),
]
TESTS = Path(__file__).parent
TIMEOUT = 280  # seconds
LONG_TIMEOUT = 3000


def run(folder, world, *cases, timeout=TIMEOUT):
    """Run cases on `world` ranks, processes of their own."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "GPUCODEC_THREADS": "1"}
    command = [sys.executable, str(TESTS / "dcp_worker.py")]
    logs = [(folder / f"rank-{rank}").open("w+") for rank in range(world)]
    ranks = [
        subprocess.Popen(
            [*command, str(rank), str(world), str(folder), *cases],
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        for rank, log in enumerate(logs)
    ]
    deadline = time.monotonic() + timeout
    while None in (codes := [rank.poll() for rank in ranks]):
        if any(codes) or time.monotonic() > deadline:  # the others would wait for it for ever
            break
        time.sleep(0.1)
    for rank in ranks:
        rank.kill()
        rank.wait()
    outputs = []
    for log in logs:
        log.seek(0)
        outputs.append(log.read())
        log.close()
    assert codes == [0] * world, "\n".join(outputs)
    assert [line for line in outputs[0].splitlines() if line.startswith("held: ")] == [
        f"held: {case}" for case in cases
    ]


def test_shards_come_back_on_other_ranks_and_meshes(tmp_path):
    run(
        tmp_path,
        4,
        "3:0->2:0",
        "2:0->4:0",
        "4:0->3:1",
        "2x2:01->3:0",
        "2x2:r0->1:r",
        "3:r->2x2:10",
        "2x2:00->4:1",
        "3:1->4:0",
    )


def test_little_more_is_read_than_needed(tmp_path):
    """Along the axis that was sharded a tenth at most, along others three tenths."""
    run(tmp_path, 8, "read 3:0->8:0", "read 4:0->3:1", "read 3:1->8:1")


def test_fsdp_and_asynchronous_saves(tmp_path):
    run(tmp_path, 2, "fsdp", "thread", "process")


@pytest.mark.long
def test_little_more_is_read_than_needed_whatever_the_ranks(tmp_path):
    pairs = [(3, 2), (3, 8), (8, 5), (5, 7), (4, 3), (2, 8), (7, 4)]
    axes = ["0->0", "1->1", "0->1", "1->0"]
    cases = [
        f"read {a}:{x}->{b}:{y}"
        for (a, b), (x, _, y) in itertools.product(pairs, [s.partition("->") for s in axes])
    ]
    meshes = [f"read 2x{n}:01->{ranks}:{axis}" for n in (2, 3) for ranks in (3, 8) for axis in "01"]
    run(tmp_path, 8, *cases, *meshes, timeout=LONG_TIMEOUT)


@pytest.mark.long
def test_any_number_of_ranks_to_any_other(tmp_path):
    pairs = [
        f"{a}:0->{b}:{axis}" for a, b in itertools.product(range(1, 9), repeat=2) for axis in "01"
    ]
    run(tmp_path, 8, *pairs, timeout=LONG_TIMEOUT)


def save(state, url, **options):
    dcp.save(state, storage_writer=ZarrWriter(url, **options), no_dist=True)


def load(state, url):
    dcp.load(state, storage_reader=ZarrReader(url), no_dist=True)


def test_checkpoints_of_dcp_and_of_save_are_the_same_thing(tmp_path):
    state = {"model": training_state()["model"], "step": 3, "names": ["a", ("b", 2.5)]}
    state["file"] = io.BytesIO(b"losses")  # as torchtitan does it
    state["file"].seek(3)
    save(state, tmp_path / "dcp")
    assert same(checkpoint.load(None, tmp_path / "dcp")["names"], state["names"])
    checkpoint.save(state, tmp_path / "plain")
    for place in ("dcp", "plain"):
        other = {"model": training_state(1, seed=4)["model"], "step": 0, "names": None}
        other["file"] = io.BytesIO()
        load(other, tmp_path / place)
        assert all(torch.equal(other["model"][name], one) for name, one in state["model"].items())
        assert (other["step"], other["names"]) == (3, state["names"])
        assert same(other["file"], state["file"])


def test_rounded_weights_are_references_to_their_masters(tmp_path):
    """Each of which is needed, sound, for what was rounded from it."""
    master = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    state = {"w": master.bfloat16(), "h": master.half(), "master": master, "v": master + 1}
    save(state, tmp_path)
    opened = checkpoint.open(tmp_path)
    assert [opened[name].rounded_from for name in state] == ["master", "master", None, None]
    assert same(opened.load(), state)
    assert torch.equal(opened["w"][5:9, 3:70], state["w"][5:9, 3:70])
    path, other = (tmp_path / opened[name].array.path / "c.0.0" for name in ("master", "v"))
    for damage in (path.unlink, lambda: path.write_bytes(other.read_bytes())):
        damage()
        with pytest.raises(BaseException, match=r"missing|not what was|bytes"):
            load({"w": torch.zeros(64, 64, dtype=torch.bfloat16)}, tmp_path)
        with pytest.raises(GpucodecError, match=opened["master"].array.path):
            opened["w"][:3]


def test_quantized_masters_have_no_references(tmp_path):
    master = torch.randn(64, 64, generator=torch.Generator().manual_seed(0))
    policy = Policy((Rule(QuantizeConfig("int8"), name="master"),))
    save({"w": master.bfloat16(), "master": master}, tmp_path, policy=policy)
    assert checkpoint.open(tmp_path)["w"].rounded_from is None
    assert torch.equal(checkpoint.open(tmp_path)["w"][:], master.bfloat16())


def test_planners_that_send_nothing_are_refused(tmp_path):
    """They would have the second save write over the first."""
    state = {"w": torch.ones(64, 64)}
    key = CachingPlanner.__name__
    assert key not in SavePlanner._cached_all_plans
    save_with = partial(dcp.save, storage_writer=ZarrWriter(tmp_path), no_dist=True)
    save_with(state, planner=CachingPlanner(enable_plan_caching=True))
    with pytest.raises(BaseException, match="must not cache plans"):
        save_with({"w": torch.zeros(64, 64)}, planner=CachingPlanner(enable_plan_caching=True))
    assert same(checkpoint.load(None, tmp_path), state)


class CachingPlanner(dcp.DefaultSavePlanner):
    """torch keeps plans by the names of planners."""


def test_overwriting_leaves_nothing_stale(tmp_path):
    save({"w": torch.ones(64, 64), "old": torch.ones(3)}, tmp_path)
    save({"w": torch.zeros(8, 8)}, tmp_path)
    files = {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*") if p.is_file()}
    assert files == checkpoint.open(tmp_path).manifest.keys() | {"manifest.json"}
    with pytest.raises(BaseException, match="Missing key"):
        load({"old": torch.ones(3)}, tmp_path)


@pytest.mark.parametrize("damage", ["missing", "stale", "foreign", "cut"])
def test_a_chunk_that_is_not_the_one_is_an_error(damage, tmp_path):
    """Never zeros, never another step's values."""
    save({"w": torch.ones(64, 64), "v": torch.rand(64, 64)}, tmp_path)
    opened = checkpoint.open(tmp_path)
    path, other = (tmp_path / opened.manifest.tensors[n].array / "c.0.0" for n in "wv")
    if damage == "missing":
        path.unlink()
    elif damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    elif damage == "foreign":
        path.write_bytes(other.read_bytes())
    else:
        checkpoint.save({"w": torch.full((64, 64), 2.0)}, tmp_path / "other")
        [stale] = (tmp_path / "other" / "arrays").rglob("c.0.0")
        path.write_bytes(stale.read_bytes())
    for rows in (64, 10):  # all of it; torch asks for a part when the tensor is a shard
        target = torch.zeros(64, 64)
        with pytest.raises(BaseException, match=r"missing|not what was written|bytes"):
            load({"w": target}, tmp_path)
        with pytest.raises(ValueError, match=r"missing|not what was written|bytes"):
            opened["w"][:rows]


def test_a_failed_save_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    from gpucodec.checkpoint.storage import local

    state = {"w": torch.ones(64, 64), "b": torch.ones(3)}
    save(state, tmp_path)
    put = local.Local.put
    for stop in range(4):
        calls = []

        def fail(self, key, data, calls=calls, stop=stop):
            calls.append(key)
            if len(calls) > stop:
                raise OSError(28, "No space left on device")
            put(self, key, data)

        monkeypatch.setattr(local.Local, "put", fail)
        with pytest.raises(BaseException, match="No space left"):
            save({"w": torch.zeros(64, 64), "b": torch.zeros(3)}, tmp_path)
        monkeypatch.setattr(local.Local, "put", put)
        assert same(checkpoint.load(None, tmp_path), state)


def test_what_is_no_plain_value_is_refused(tmp_path):
    with pytest.raises(BaseException, match="what is no plain value"):
        save({"what": Path("x")}, tmp_path)
    with pytest.raises(BaseException, match="pair has tensors"):
        save({"pair": {1: (torch.ones(1),)}["pair" and 1]}, tmp_path)
    assert not (tmp_path / "manifest.json").exists()


def test_writers_and_readers_can_be_pickled(tmp_path):
    writer, reader = ZarrWriter(tmp_path, policy="lossless"), ZarrReader(tmp_path)
    dcp.save({"w": torch.ones(3)}, storage_writer=pickle.loads(pickle.dumps(writer)), no_dist=True)
    assert pickle.loads(pickle.dumps(reader)).checkpoint["w"].shape == (3,)
    assert ZarrWriter.validate_checkpoint_id("s3://bucket/x")
    dcp.save(
        {"w": torch.zeros(3)}, checkpoint_id=tmp_path / "id", storage_writer=writer, no_dist=True
    )
    assert checkpoint.load(None, tmp_path / "id")["w"].sum() == 0


@settings(max_examples=200)
@given(
    shape=st.lists(st.integers(0, 40), min_size=1, max_size=3),
    ranks=st.lists(st.integers(1, 7), min_size=3, max_size=3),
    itemsize=st.sampled_from([1, 4, 8]),
    chunk=st.integers(1, 3000),
)
def test_no_chunk_belongs_to_two_shards(shape, ranks, itemsize, chunk):
    from unittest import mock

    from gpucodec.checkpoint import grid

    cuts = []
    for length, n in zip(shape, ranks, strict=False):
        step = max(1, -(-length // n))  # as torch cuts
        cuts.append(
            [(min(i * step, length), max(0, min(step, length - i * step))) for i in range(n)]
        )
    shards = [Shard(*zip(*parts, strict=True)) for parts in itertools.product(*cuts)]
    check_shards("w", shape, shards)
    with mock.patch.object(grid, "CHUNK_BYTES", chunk):
        chunks, order = layout_of("w", shape, itemsize, shards)
    assert order is None or sorted(order) == list(range(len(shape)))
    found = [number for shard in shards for number, _, _ in chunks_of(shape, chunks, shard)]
    assert sorted(found) == list(range(prod(grid.counts(shape, chunks))))


def test_shards_that_do_not_fit_are_refused():
    for shards, reason in (
        ([((0,), (6,)), ((5,), (5,))], "11 elements"),
        ([((0,), (5,)), ((4,), (5,))], "two ranks|elements"),
        ([((0,), (5,)), ((0,), (5,))], "two ranks"),
        ([((0,), (5,))], "5 elements"),
        ([((0,), (5,)), ((6,), (5,))], "not within"),
    ):
        with pytest.raises(ValueError, match=reason):
            check_shards("w", (10,), [Shard(*one) for one in shards])
    ragged = [Shard((0,), (99_991,)), Shard((99_991,), (1000,)), Shard((100_991,), (99_009,))]
    with pytest.raises(UnsupportedError, match="no common measure"):
        layout_of("w", (200_000,), 4, ragged)
