# SPDX-License-Identifier: Apache-2.0
"""Harvested activations are those of the model, whole rows of them, whatever happens meanwhile."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import zarr

torch = pytest.importorskip("torch")

import harvest_worker  # noqa: E402
from models import GPT, bits  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402

import gpucodec  # noqa: E402
from gpucodec.activations import (  # noqa: E402
    ActivationDataset,
    RowStore,
    estimate_space,
    record_activations,
    rows,
)

pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning",  # torch's and, about forks, Python's own
    "ignore:This DataLoader will create",
    "ignore::zarr.errors.UnstableSpecificationWarning",
)


@pytest.fixture
def small_chunks(monkeypatch):
    monkeypatch.setattr(rows, "CHUNK_BYTES", 32 * 4 * 64)  # 64 rows of float32[32]


def model_and_tokens(n=5):
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    return GPT().eval(), [torch.randint(64, (3, 17), generator=generator) for _ in range(n)]


def outputs(model, batches, names):
    """What the modules return, by plain hooks."""
    found = {name: [] for name in names}
    parts = dict(model.named_modules())
    hooks = [
        parts[name].register_forward_hook(lambda m, i, o, name=name: found[name].append(o.clone()))
        for name in names
    ]
    with torch.no_grad():
        for batch in batches:
            model(batch)
    for hook in hooks:
        hook.remove()
    return {name: torch.cat([o.flatten(0, -2) for o in all_]) for name, all_ in found.items()}


NAMES = ["blocks.0", "blocks.0.mlp.0", "blocks.1"]


@pytest.mark.usefixtures("small_chunks")
def test_rows_are_those_of_the_model(tmp_path):
    model, batches = model_and_tokens()
    with torch.no_grad(), record_activations(model, NAMES, tmp_path / "s") as recorder:
        for batch in batches:
            model(batch)
    assert recorder.rows == 5 * 51
    group = zarr.open_group(tmp_path / "s", mode="r")
    for name, expected in outputs(model, batches, NAMES).items():
        array = group[name]
        assert array.shape == expected.shape
        assert isinstance(array.metadata.codecs[0], gpucodec.zarr.TensorCodec)
        np.testing.assert_array_equal(array[:], expected.numpy())
    np.testing.assert_array_equal(group["token_ids"][:], torch.cat(batches).flatten())
    RowStore.open(tmp_path / "s").verify()


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("codec", ["auto", None, gpucodec.TensorConfig(block_size=4096)], ids=str)
def test_types_patterns_and_codecs(tmp_path, codec):
    model, batches = model_and_tokens()
    store = tmp_path / "s"
    with torch.no_grad(), record_activations(model, "blocks.?", store, "bfloat16", codec):
        for batch in batches:
            model(batch)
    dataset = ActivationDataset(store, shuffle=False, batch_size=1000)
    [found] = dataset
    assert list(found) == ["blocks.0", "blocks.1", "token_ids"]
    for name, expected in outputs(model, batches, ["blocks.0", "blocks.1"]).items():
        assert found[name].dtype == torch.bfloat16
        assert torch.equal(bits(found[name]), bits(expected.bfloat16()))


@pytest.mark.usefixtures("small_chunks")
@pytest.mark.parametrize("codec", ["int8", gpucodec.QuantizeConfig("mxfp8_e4m3")], ids=str)
def test_lossy_codecs(tmp_path, codec):
    model, batches = model_and_tokens()
    with torch.no_grad(), record_activations(model, "blocks.1", tmp_path, codec=codec):
        for batch in batches:
            model(batch)
    [found] = ActivationDataset(tmp_path, shuffle=False)
    [expected] = outputs(model, batches, ["blocks.1"]).values()
    assert 0 < (found["blocks.1"] - expected).abs().max() < 0.07 * expected.abs().max()
    assert torch.equal(found["token_ids"], torch.cat(batches).flatten())


@pytest.mark.usefixtures("small_chunks")
def test_examples_as_rows(tmp_path):
    convolution = torch.nn.Sequential(torch.nn.Conv2d(1, 2, 3), torch.nn.ReLU(inplace=True))
    images = torch.randn(5, 1, 6, 6)
    with torch.no_grad(), record_activations(convolution, ["0"], tmp_path, axis="examples"):
        convolution(images)
    [found] = ActivationDataset(tmp_path, shuffle=False)
    assert torch.equal(found["0"], convolution[0](images))  # before ReLU wrote over it
    assert found["token_ids"].tolist() == [-1] * 5


@pytest.mark.usefixtures("small_chunks")
def test_a_call_that_fails_adds_no_rows(tmp_path):
    model, batches = model_and_tokens(3)
    with torch.no_grad(), record_activations(model, NAMES, tmp_path) as recorder:
        model(batches[0])
        with pytest.raises(IndexError):
            model(torch.full((3, 17), 1000))
        hook = model.head.register_forward_hook(lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            model(batches[1])
        hook.remove()
        assert recorder.rows == 51
        model(batches[2])
    expected = outputs(model, [batches[0], batches[2]], NAMES)
    [found] = ActivationDataset(tmp_path, shuffle=False)
    assert all(torch.equal(found[name], expected[name]) for name in NAMES)


@pytest.mark.usefixtures("small_chunks")
def test_appending_and_repeating(tmp_path):
    """A store that exists is appended to; `skip` says what a repeated harvest need not run."""
    model, batches = model_and_tokens(6)
    with torch.no_grad():
        with record_activations(model, NAMES, tmp_path):
            for batch in batches[:2]:
                model(batch)
        with record_activations(model, NAMES, tmp_path) as recorder:
            assert recorder.rows == 102
            model(batches[2])
        with record_activations(model, NAMES, tmp_path) as recorder:
            ran = 0
            for batch in batches:
                if not recorder.skip(batch.numel()):
                    model(batch)
                    ran += 1
    assert ran == 3
    [found] = ActivationDataset(tmp_path, shuffle=False)
    assert all(torch.equal(found[n], e) for n, e in outputs(model, batches, NAMES).items())


@pytest.mark.usefixtures("small_chunks")
def test_repeating_from_within_a_batch(tmp_path):
    model, batches = model_and_tokens(4)
    with torch.no_grad():
        with record_activations(model, NAMES, tmp_path):
            for batch in batches[:3]:
                model(batch)
        RowStore.open(tmp_path, append=True).commit(70)  # as if it had been killed there
        with record_activations(model, NAMES, tmp_path) as recorder:
            assert recorder.rows == 70
            assert [recorder.skip(51), recorder.skip(51)] == [True, False]
            for batch in batches[1:]:
                model(batch)
    [found] = ActivationDataset(tmp_path, shuffle=False)
    assert all(torch.equal(found[n], e) for n, e in outputs(model, batches, NAMES).items())


def test_refusals(tmp_path):
    model, batches = model_and_tokens(1)
    with pytest.raises(ValueError, match="no module is named 'nothing'"):
        record_activations(model, ["nothing"], tmp_path)
    with pytest.raises(ValueError, match="axis is 'rows'"):
        record_activations(model, NAMES, tmp_path, axis="rows")
    with torch.no_grad(), record_activations(model, NAMES, tmp_path):
        model(batches[0])
    other = record_activations(model, NAMES[:1], tmp_path)
    with pytest.raises(ValueError, match="was made for axis 'tokens'"), other:
        pass
    twice = torch.nn.Sequential(part := torch.nn.Linear(4, 4), part)
    with record_activations(twice, ["0"], tmp_path / "t"), pytest.raises(ValueError, match="twice"):
        twice(torch.zeros(2, 4))
    zarr.create_group(tmp_path / "v", attributes={rows.ATTRIBUTE: {"version": 9}})
    with pytest.raises(gpucodec.UnsupportedError, match="version 9 of a harvest, not 1"):
        RowStore.open(tmp_path / "v")


@pytest.mark.usefixtures("small_chunks")
def test_lost_and_damaged_chunks_are_errors(tmp_path):
    model, batches = model_and_tokens()
    with torch.no_grad(), record_activations(model, NAMES, tmp_path):
        for batch in batches:
            model(batch)
    chunk = tmp_path / "blocks.1" / "c" / "1" / "0"
    content = bytearray(chunk.read_bytes())
    content[-1] ^= 1
    chunk.write_bytes(content)
    with pytest.raises(gpucodec.CorruptionError):
        RowStore.open(tmp_path).verify()
    chunk.unlink()
    with pytest.raises(
        gpucodec.CorruptionError, match=r"'blocks.1' has 15 chunks, 255 rows take 16"
    ):
        RowStore.open(tmp_path).verify()


@pytest.mark.usefixtures("small_chunks")
def test_errors_of_the_store_reach_the_model(tmp_path, monkeypatch):
    model, batches = model_and_tokens(30)

    def fail(*_):
        raise OSError(28, "No space left on device")

    recorder = record_activations(model, NAMES, tmp_path)
    with pytest.raises(OSError, match="No space left"), torch.no_grad(), recorder:  # noqa: PT012
        model(batches[0])
        monkeypatch.setattr(RowStore, "put", fail)
        for batch in batches[1:]:
            model(batch)
    monkeypatch.undo()
    assert RowStore.open(tmp_path, append=True).rows == 48  # three chunks of the first call


def test_space_is_estimated_beforehand(tmp_path):
    model, batches = model_and_tokens(1)
    estimate = estimate_space(model, NAMES, batches[0], 51_000, tmp_path / "not yet")
    assert estimate.raw_bytes == 51_000 * (4 * (32 + 128 + 32) + 8)
    assert 0.5 * estimate.raw_bytes < estimate.encoded_bytes < estimate.raw_bytes
    assert estimate.free_bytes > 0
    assert "disk space required" in str(estimate)


# Reading.


@pytest.fixture
def harvested(tmp_path, small_chunks):
    harvest_worker.harvest(tmp_path / "s", 10)
    return tmp_path / "s", 10 * harvest_worker.TOKENS_A_BATCH


@pytest.mark.parametrize("workers", [0, 1, 3])
@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_each_row_comes_once_an_epoch_in_another_order(harvested, workers, method):
    """Forked workers too, from a process whose pools and event loop have threads already."""
    if method == "spawn" and workers != 1:
        pytest.skip("starting a process takes seconds; one shows it")
    store, n = harvested
    dataset = ActivationDataset(store, batch_size=100, mix_chunks=3)
    options = {"multiprocessing_context": method} if workers else {}
    orders = []
    for epoch in (0, 0, 1) if method == "fork" else (0,):
        dataset.set_epoch(epoch)
        ids = []
        for batch in DataLoader(dataset, batch_size=None, num_workers=workers, **options):
            assert torch.equal(batch["first"][:, 0], batch["token_ids"].float())
            assert torch.equal(batch["second"][:, 0], batch["token_ids"].bfloat16() + 1)
            ids.append(batch["token_ids"])
        sizes = [len(part) for part in ids]
        assert sum(size < 100 for size in sizes) <= max(workers, 1)
        orders.append(torch.cat(ids))
        assert torch.equal(orders[-1].sort().values, torch.arange(n))
    if method == "fork":
        assert torch.equal(orders[0], orders[1])
        assert not torch.equal(orders[0], orders[2])
        first = orders[0][:100]
        assert first.max() - first.min() > 300  # a batch mixes chunks


def test_ranks_share_the_rows(harvested):
    store, n = harvested
    parts = [
        torch.cat([b["token_ids"] for b in ActivationDataset(store, rank=rank, world_size=3)])
        for rank in range(3)
    ]
    assert torch.equal(torch.cat(parts).sort().values, torch.arange(n))
    with pytest.raises(ValueError, match="rank=3 of world_size=3"):
        ActivationDataset(store, rank=3, world_size=3)
    with pytest.raises(ValueError, match=r"no \['third'\]"):
        ActivationDataset(store, ["third"])


# Killing.


def killed_harvest(store, n_kills, seed):
    """Kill a harvest at random moments until it is done; after each, the store holds whole rows."""
    worker = Path(__file__).with_name("harvest_worker.py")
    draw = random.Random(seed)
    before, n_killed = 0, 0
    for _ in range(n_kills):
        process = subprocess.Popen(
            [sys.executable, str(worker), str(store)], stdout=subprocess.PIPE, text=True
        )
        for _ in range(draw.randrange(1, 8)):  # some calls, each of which says so
            process.stdout.readline()
        try:
            process.wait(draw.random() * 0.02)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            n_killed += process.wait() == -signal.SIGKILL
        process.stdout.close()
        before = check(store, before)
    return n_killed


def check(store, at_least):
    try:
        found = RowStore.open(store)
    except (FileNotFoundError, gpucodec.UnsupportedError):
        assert at_least == 0  # before the first commit
        return 0
    found.verify()
    assert found.rows >= at_least
    ids = torch.arange(found.rows)
    np.testing.assert_array_equal(found.read("token_ids", 0, found.rows), ids)
    first = torch.from_numpy(found.read("first", 0, found.rows))
    assert torch.equal(first, ids.unsqueeze(-1).float() + torch.arange(24) / 32)
    second = found.read("second", 0, found.rows).astype(np.float32)
    assert torch.equal(torch.from_numpy(second), (first.bfloat16() + 1).float())
    return found.rows


@pytest.mark.parametrize(
    ("n_kills", "seed"),
    [(3, 3), *(pytest.param(25, seed, marks=pytest.mark.long) for seed in range(8))],
)
def test_a_killed_harvest_resumes_at_the_last_complete_row(tmp_path, n_kills, seed):
    n_killed = killed_harvest(tmp_path / "s", n_kills, seed)
    assert n_killed
    harvest_worker.harvest(tmp_path / "s")
    assert check(tmp_path / "s", 0) == harvest_worker.N_BATCHES * harvest_worker.TOKENS_A_BATCH
