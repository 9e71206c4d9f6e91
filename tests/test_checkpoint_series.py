# SPDX-License-Identifier: Apache-2.0
"""A run keeps the steps it should, resumes from the last sound one, and trains while it saves."""

from __future__ import annotations

import threading

import pytest
import torch
from checkpoint_cases import STORAGES, Model, place_of, s3_server, same, train
from crash_disk import Journal, Kill, local

from gpucodec import checkpoint
from gpucodec.checkpoint import CheckpointSeries
from gpucodec.checkpoint.storage import connect
from gpucodec.checkpoint.storage.local import Local
from gpucodec.errors import CorruptionError


@pytest.fixture(scope="module")
def endpoint():
    with s3_server() as url:
        yield url


def state_of(step):
    generator = torch.Generator().manual_seed(step)
    return {"frozen": torch.arange(5000.0), "w": torch.randn(40, generator=generator), "step": step}


@pytest.mark.parametrize("kind", STORAGES)
def test_steps_are_kept_and_retired_everywhere(kind, tmp_path, monkeypatch, request):
    place = place_of(kind, tmp_path, monkeypatch, lambda: request.getfixturevalue("endpoint"))
    with CheckpointSeries(place, keep=2, keep_every=40) as series:
        assert series.resume() is None
        for step in range(10, 70, 10):
            series.save(state_of(step), step, metadata={"at": step})
        assert series.steps() == [40, 50, 60]
        assert series.latest() == 60
        for step in series.steps():
            assert same(series.load(step=step), state_of(step))
            assert series.open(step).metadata == {"at": step}
        resumed = series.resume()
        assert (resumed.step, resumed.state_dict["step"]) == (60, 60)
        assert series.stats.n_saves == 6
        # What did not change is stored once; what no step needs is gone.
        assert series.stats.written_bytes < series.stats.decoded_bytes / 3
        named = set().union(*(series.open(step).manifest.keys() for step in series.steps()))
        assert set(connect(place).list("arrays/")) == named
        with pytest.raises(FileNotFoundError):
            series.open(10)


def test_resume_passes_over_damaged_steps(tmp_path):
    with CheckpointSeries(tmp_path, keep=None) as series:
        for step in (1, 2, 3, 4):
            series.save(state_of(step), step)
        own = [
            series.open(step).manifest.keys() - series.open(1).manifest.keys() for step in (2, 3, 4)
        ]
        chunk = next(key for key in own[1] if "zarr.json" not in key)
        raw = bytearray((tmp_path / chunk).read_bytes())
        raw[40] ^= 1
        (tmp_path / chunk).write_bytes(raw)  # step 3: a flipped bit
        manifest = tmp_path / "steps" / "000000000004.json"
        manifest.write_bytes(manifest.read_bytes()[:-9])  # step 4: cut
        assert series.latest() == 3  # contents are checked when loaded
        target = state_of(0)
        with pytest.warns(RuntimeWarning, match="step 4 is damaged"), pytest.warns(match="step 3"):
            resumed = series.resume(target)
        assert resumed.step == 2
        assert resumed.state_dict is target
        assert same(target, state_of(2))
        for key in own[0]:
            (tmp_path / key).unlink()
        for path in (tmp_path / "arrays").rglob("c.*"):
            path.write_bytes(b"")
        assert series.latest() == 3
        with pytest.warns(RuntimeWarning), pytest.raises(CorruptionError):
            series.resume()


def test_a_crash_anywhere_leaves_the_last_step_or_the_new(tmp_path):
    """Also while old steps are retired."""

    def run(disk, root, steps):
        with CheckpointSeries(local(root, disk), keep=2) as series:
            for step in steps:
                series.save(state_of(step), step)

    count = Journal()
    run(Journal(), tmp_path / "count", (1, 2))
    run(count, tmp_path / "count", (3,))
    seen = set()
    for stop in range(len(count.calls)):
        root = tmp_path / str(stop)
        run(Journal(), root, (1, 2))
        disk = Journal(stop, "torn")
        with pytest.raises(Kill):
            run(disk, root, (3,))
        disk.lose_power()
        with CheckpointSeries(root, keep=2) as series:
            resumed = series.resume()
            assert same(resumed.state_dict, state_of(resumed.step))
            seen.add(resumed.step)
            series.save(state_of(4), 4)
            assert series.steps() == [resumed.step, 4]
            named = set().union(*(series.open(s).manifest.keys() for s in series.steps()))
            assert set(series.storage.list("arrays/")) == named
    assert seen == {2, 3}


class Slow(Local):
    """Writes when it is told to."""

    def __init__(self, root):
        super().__init__(str(root))
        self.go = threading.Event()
        self.arrived = threading.Event()

    def put(self, key, data):
        self.arrived.set()
        assert self.go.wait(30)
        super().put(key, data)


def test_training_goes_on_while_a_step_is_written(tmp_path):
    """What is saved is the state at the call, whatever happens to the tensors afterwards."""
    storage = Slow(tmp_path)
    torch.manual_seed(0)
    model = Model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    train(model, optimizer, 2)
    with CheckpointSeries(storage) as series:
        live = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "list": [1]}
        series.save_async(live, 2)
        assert storage.arrived.wait(30)
        reference = {name: one.clone() for name, one in model.state_dict().items()}
        train(model, optimizer, 2, first=2)
        live["list"].append(2)
        assert series.steps() == []
        done, total = series.progress
        assert done < total
        storage.go.set()
        series.wait()
        assert series.progress[0] == total
        saved = series.load()
        assert saved["list"] == [1]
        assert all(torch.equal(saved["model"][name], one) for name, one in reference.items())
        assert saved["model"]["head.weight"] is saved["model"]["embed.weight"]
        assert not torch.equal(model.mix.weight, reference["mix.weight"])


def test_staging_is_bounded(tmp_path):
    """Tensors for which there is no room are written before the call returns."""
    state = {f"w{i}": torch.full((1000,), float(i)) for i in range(10)}
    with CheckpointSeries(tmp_path, staging_bytes=15_000) as series:
        writers = set()
        put = series.storage.put

        def note(key, data):
            writers.add(threading.current_thread().name.rpartition("_")[0])
            put(key, data)

        series.storage.put = note
        future = series.save_async(state, 1)
        assert series.progress[0] >= 7 * 4000
        for tensor in state.values():
            tensor.zero_()
        assert future.result().n_tensors == 10
        assert all(series.load()[f"w{i}"][0] == i for i in range(10))


def test_errors_of_the_background_reach_the_caller(tmp_path):
    disk = Journal(stop_at=6)
    series = CheckpointSeries(local(tmp_path / "a", disk))
    series.save_async(state_of(1), 1)
    with pytest.raises(OSError, match="No space left"):
        series.save_async(state_of(2), 2)
    series.save_async(state_of(3), 3)
    series.close()
    assert series.steps() == [3]

    def leave_with_an_error():
        with CheckpointSeries(local(tmp_path / "b", Journal(stop_at=2))) as other:
            other.save_async(state_of(1), 1)

    with pytest.raises(OSError, match="No space left"):
        leave_with_an_error()


def test_a_series_and_a_checkpoint_may_share_a_place(tmp_path):
    with CheckpointSeries(tmp_path, keep=1) as series:
        series.save(state_of(1), 1)
        checkpoint.save(state_of(5), tmp_path)
        series.save(state_of(2), 2)
        assert same(checkpoint.load(None, tmp_path), state_of(5))
        assert same(series.load(), state_of(2))


def test_bad_arguments_are_refused(tmp_path):
    for wrong in ({"keep": 0}, {"keep_every": 0}):
        with pytest.raises(ValueError, match="at least 1"):
            CheckpointSeries(tmp_path, **wrong)
    with CheckpointSeries(tmp_path) as series:
        for step in (-1, 1.0, True, 10**12):
            with pytest.raises(ValueError, match="step is an integer"):
                series.save({}, step)
