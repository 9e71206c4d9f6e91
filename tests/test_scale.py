# SPDX-License-Identifier: Apache-2.0
"""Whole stores on a cluster: every bit arrives, whatever dies meanwhile, and nothing is done twice."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
import threading
import time
from pathlib import Path

import fsspec
import ml_dtypes
import numpy as np
import pytest
import zarr
from cli_cases import fails, run
from gpucodec_s3 import BUCKET
from helpers import sample

from gpucodec.cli.scale import journal, units

dask = pytest.importorskip("dask", reason="needs Dask: pip install 'gpucodec[dask]'")
distributed = pytest.importorskip("distributed", reason="needs Dask: pip install 'gpucodec[dask]'")

# Of zarr: that consolidated metadata is not in the specification, and that strings are not yet.
pytestmark = [
    pytest.mark.filterwarnings("ignore::zarr.errors.ZarrUserWarning"),
    pytest.mark.filterwarnings("ignore::zarr.errors.UnstableSpecificationWarning"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of Dask, about event loops
    pytest.mark.filterwarnings("ignore::ResourceWarning"),  # sockets of a killed worker
]


@pytest.fixture(scope="module")
def scheduler():
    """Two workers, in this process."""
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, processes=False, dashboard_address=":0"
    ) as cluster:
        yield cluster.scheduler_address


@pytest.fixture
def on(scheduler):
    return "--scheduler", scheduler


def make_store(path, zarr_format=3):
    """Arrays of many kinds in groups, some chunks of which were never written."""
    root = zarr.create_group(path, zarr_format=zarr_format, attributes={"made": "by hand"})
    layer = root.create_group("layer", attributes={"n": 1})
    options = {"dimension_names": ["row", "column"]} if zarr_format == 3 else {}
    weights = sample("float32", 40_000, "values").reshape(200, 200)
    layer.create_array(
        "weight",
        data=weights,
        chunks=(64, 128),
        attributes={"unit": "m"},
        compressors=None,
        **options,
    )
    half = weights.astype(ml_dtypes.bfloat16 if zarr_format == 3 else np.float16)
    layer.create_array("half", data=half, chunks=(50, 200))
    if zarr_format == 3:
        sharded = root.create_array(
            "shards", shape=(100, 100), dtype="int32", chunks=(10, 10), shards=(50, 50)
        )
        sharded[:50, :60] = np.arange(3000).reshape(50, 60)
        words = root.create_array("words", shape=(4,), chunks=(2,), dtype=str)
        words[:3] = np.array(["a", "", "größer"], dtype=object)
    big = root.create_array("big", shape=(7, 9), chunks=(4, 4), dtype=">f8", fill_value=2.5)
    big[:4] = -0.0
    root.create_array("scalar", data=np.array(3.5))
    root.create_array("nothing", shape=(0, 3), chunks=(1, 3), dtype="int8")
    zarr.consolidate_metadata(root.store)
    return path


@pytest.fixture(params=[2, 3])
def store(request, tmp_path):
    return make_store(tmp_path / "source.zarr", request.param)


def members(path):
    return dict(zarr.open_group(path, mode="r").members(max_depth=None))


def values(array):
    return np.asarray(array[...])


def assert_equal(path, other):
    ours, theirs = members(path), members(other)
    assert list(ours) == list(theirs)
    for name, node in ours.items():
        twin = theirs[name]
        assert node.attrs.asdict() == twin.attrs.asdict()
        if isinstance(node, zarr.Array):
            a, b = values(node), values(twin)
            assert a.shape == b.shape
            b = b.astype(a.dtype)  # format 3 leaves the byte order to the codec
            same = (a == b).all() if a.dtype.kind in "OT" else a.tobytes() == b.tobytes()
            assert same, name


def report(*arguments, code=0):
    return json.loads(run(*arguments, "--json", code=code).stdout)


def test_a_store_comes_out_whole_and_a_second_run_does_nothing(store, tmp_path, on):
    target = tmp_path / "target.zarr"
    found = report("recompress", store, target, *on)
    assert_equal(store, target)
    chunks = found["chunks"]
    assert chunks["failed"] == chunks["skipped"] == 0
    # weight 8, half 4, big 6, scalar 1; shards 4, words 2
    assert chunks["done"] == {2: 19, 3: 25}[zarr.open_group(store).metadata.zarr_format]
    stored = sum(
        f.stat().st_size for f in target.rglob("*") if f.name != "zarr.json" and f.is_file()
    )
    assert found["target_bytes"] == stored
    assert found["ratio"] == pytest.approx(found["decoded_bytes"] / stored, abs=1e-3)
    root = zarr.open_group(target, mode="r")
    assert root.metadata.consolidated_metadata is not None
    assert root.attrs["made"] == "by hand"
    serializer = root["layer/weight"].serializer
    assert serializer.to_dict()["name"] == "gpucodec.tensor"
    assert not (target / "big/c/1/0").exists()  # nothing but the fill value

    before = {f: f.stat().st_mtime_ns for f in target.rglob("c/**/*")}
    again = report("recompress", store, target, *on)
    assert again["chunks"] == {"done": 0, "skipped": chunks["done"], "failed": 0}
    assert (again["ratio"], again["source_bytes"]) == (found["ratio"], found["source_bytes"])
    assert {f: f.stat().st_mtime_ns for f in target.rglob("c/**/*")} == before


def test_another_run_does_what_is_missing_and_no_more(tmp_path, on):
    store, target = make_store(tmp_path / "source.zarr"), tmp_path / "target.zarr"
    total = report("recompress", store, target, *on)["chunks"]["done"]
    chunk = target / "layer/weight/c/1/0"
    good = chunk.read_bytes()
    (target / "scalar/c").unlink()
    chunk.unlink()
    found = report("recompress", store, target, *on)
    assert chunk.read_bytes() == good
    # of the unit of the lost chunk, the other chunks are compared and not counted as there
    assert found["chunks"] == {"done": 8 + 1, "skipped": total - 9, "failed": 0}
    assert_equal(store, target)


def test_without_the_journal_what_is_there_is_compared(tmp_path, on):
    store, target = make_store(tmp_path / "source.zarr"), tmp_path / "target.zarr"
    total = report("recompress", store, target, *on)["chunks"]["done"]
    chunk = target / "layer/weight/c/1/0"
    chunk.write_bytes(chunk.read_bytes()[:-9])
    (target / "shards/c/0/0").write_bytes(b"x")
    shutil.rmtree(journal.beside(str(target)))
    found = report("recompress", store, target, *on)["chunks"]
    assert found == {"done": 8 + 4, "skipped": total - 12, "failed": 0}
    assert_equal(store, target)
    for name in list((Path(journal.beside(str(target))) / "done").iterdir()):
        name.write_bytes(name.read_bytes()[:20])  # cut by a loss of power
    assert report("recompress", store, target, *on)["chunks"]["skipped"] == total


def test_a_damaged_chunk_holds_back_the_store_and_nothing_else(tmp_path, on):
    store, target = make_store(tmp_path / "source.zarr"), tmp_path / "target.zarr"
    bad = store / "layer/half/c/2/0"
    good = bad.read_bytes()
    bad.write_bytes(good[:-5])
    result = run("recompress", store, target, *on, "--json", code=1)
    found = json.loads(result.stdout)
    assert found["chunks"]["failed"] == 1
    assert "layer/half/c/2/0, [100:150, 0:200]" in found["errors"][0]
    assert len(result.stderr.splitlines()) == 2
    with pytest.raises(FileNotFoundError):  # half a store is none
        zarr.open(target, mode="r")
    assert (target / "layer/half/c/3/0").exists()
    bad.write_bytes(good)
    again = report("recompress", store, target, *on)["chunks"]
    assert again["failed"] == 0
    assert again["skipped"] == found["chunks"]["done"] - 3  # the sound ones of that unit, again
    assert_equal(store, target)


def test_lost_chunks_of_a_compressed_file_are_errors(tmp_path, on):
    np.save(tmp_path / "a.npy", sample("float32", 60_000, "values").reshape(300, 200))
    run("compress", tmp_path / "a.npy", tmp_path / "a.zarr")
    [chunk] = [f for f in (tmp_path / "a.zarr").rglob("c/**/*") if f.is_file()]
    assert report("verify", tmp_path / "a.zarr", *on)["chunks"]["done"] == 1
    chunk.unlink()
    for line in (["verify"], ["verify", *on], ["recompress", *on]):
        target = [tmp_path / "b.zarr"] if line[0] == "recompress" else []
        assert "missing" in fails(line[0], tmp_path / "a.zarr", *target, *line[1:], code=1)
    assert not (tmp_path / "b.zarr").exists() or not (tmp_path / "b.zarr/zarr.json").exists()


def test_verify_has_the_same_report_here_and_on_a_cluster(store, on):
    here, there = report("verify", store), report("verify", store, *on)
    del here["seconds"], there["seconds"]
    assert here == there
    assert here["chunks"]["failed"] == 0
    bad = next(
        f for f in sorted(store.rglob("*")) if f.is_file() and "half" in str(f) and "0" in f.name
    )
    bad.write_bytes(b"damaged")
    here, there = report("verify", store, code=1), report("verify", store, *on, code=1)
    assert here["chunks"]["failed"] == there["chunks"]["failed"] == 1
    assert here["errors"] == there["errors"]


def test_codecs_are_chosen_as_elsewhere(tmp_path, on):
    store = make_store(tmp_path / "source.zarr")
    run("recompress", store, tmp_path / "zstd.zarr", "--codec", "zstd", *on)
    assert_equal(store, tmp_path / "zstd.zarr")
    assert "Zstd" in str(members(tmp_path / "zstd.zarr")["layer/weight"].compressors)
    done = run(
        *("recompress", store, tmp_path / "int8.zarr", "--quantize", "int8"),
        *("--bound", "rel=0.01", *on),
    )
    assert "LOSSY" in done.output
    rounded = members(tmp_path / "int8.zarr")["layer/weight"]
    exact = values(members(store)["layer/weight"])
    assert (abs(values(rounded) - exact) <= 0.01 * abs(exact)).all()
    assert (values(rounded) != exact).any()
    fails("recompress", store, tmp_path / "x.zarr", "--quantize", "int8", "--codec", "zstd", *on)


def test_at_urls(tmp_path, on, s3_options, monkeypatch):
    monkeypatch.setitem(fsspec.config.conf, "s3", s3_options)
    store = make_store(tmp_path / "source.zarr")
    fs = fsspec.filesystem("s3", **s3_options)
    fs.put(str(store), f"{BUCKET}/scale/source.zarr", recursive=True)
    source, target = (f"s3://{BUCKET}/scale/{name}.zarr" for name in ("source", "target"))
    total = report("recompress", source, target, *on)["chunks"]["done"]
    assert report("verify", target, *on)["chunks"]["done"] == total
    assert report("verify", target)["chunks"]["done"] == total
    fs.rm(f"{BUCKET}/scale/target.zarr/scalar/c")
    found = report("recompress", source, target, *on)["chunks"]
    assert found == {"done": 1, "skipped": total - 1, "failed": 0}
    fs.get(f"{BUCKET}/scale/target.zarr", str(tmp_path / "back.zarr"), recursive=True)
    assert_equal(store, tmp_path / "back.zarr")
    fs.rm(f"{BUCKET}/scale", recursive=True)
    run("recompress", f"file://{store}", f"gpucodec::file://{tmp_path}/through.zarr", *on)
    assert report("verify", f"gpucodec::file://{tmp_path}/through.zarr")["chunks"]["done"] == total


def test_files_at_urls_are_verified(tmp_path):
    with fsspec.open(f"gpucodec::file://{tmp_path}/a.bin", "wb") as file:
        file.write(bytes(3_000_000))
    assert "sound" in run("verify", f"file://{tmp_path}/a.bin").output
    data = (tmp_path / "a.bin").read_bytes()
    (tmp_path / "a.bin").write_bytes(data[:30] + b"?" + data[31:])
    fails("verify", f"file://{tmp_path}/a.bin", code=1)


def test_a_target_of_something_else_stays(tmp_path, on):
    store, target = make_store(tmp_path / "source.zarr"), tmp_path / "target.zarr"
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/file").write_text("kept")
    assert "exists" in fails("recompress", store, tmp_path / "plain", *on)
    assert "no zarr store" in fails("recompress", store, tmp_path / "plain", "--force", *on)
    assert (tmp_path / "plain/file").read_text() == "kept"
    assert "itself" in fails("recompress", store, store, *on)
    run("recompress", store, target, *on)
    assert "metadata" in fails("recompress", store, target, "--profile", "fast", *on)
    other = make_store(tmp_path / "other.zarr")
    assert "source" in fails("recompress", other, target, *on)
    run("recompress", other, target, "--force", *on)
    assert_equal(other, target)
    assert "does not exist" in fails("recompress", tmp_path / "none", target, *on)


def test_no_cluster_is_a_clear_error(tmp_path, monkeypatch):
    store = make_store(tmp_path / "source.zarr")
    from gpucodec.cli.scale import cluster

    monkeypatch.setattr(cluster, "PATIENCE", 0.3)
    assert "tcp://127.0.0.1:9" in fails("verify", store, "--scheduler", "tcp://127.0.0.1:9")
    monkeypatch.delitem(sys.modules, "gpucodec.cli.scale.cluster")
    monkeypatch.delattr("gpucodec.cli.scale.cluster")
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "gpucodec[dask]" in fails("recompress", store, tmp_path / "x.zarr")
    assert "gpucodec[dask]" in fails("verify", store, "--workers", "2")
    run("verify", store)  # needs none


def test_a_local_cluster_is_made_if_none_is_named(tmp_path):
    store, target = make_store(tmp_path / "source.zarr"), tmp_path / "target.zarr"
    assert "sound" in run("recompress", store, target, "--workers", "1").output
    assert_equal(store, target)


def test_a_killed_worker_loses_nothing_and_repeats_only_what_was_in_flight(tmp_path, monkeypatch):
    monkeypatch.setattr(units, "UNIT_BYTES", 1)  # a unit for each chunk
    source, target, log = tmp_path / "source.zarr", tmp_path / "target.zarr", tmp_path / "log"
    data = sample("float32", 32 * 2000, "values").reshape(32, 2000)
    root = zarr.create_group(source)
    root.create_array("a", data=data, chunks=(1, 2000))
    log.touch()

    class Logs(distributed.WorkerPlugin):
        """Writes down which process writes which chunk, and takes its time."""

        name = "logs"

        def setup(self, worker):
            from zarr.storage import LocalStore

            put = LocalStore.set

            async def logged(self, key, value):
                await put(self, key, value)
                with log.open("a") as file:
                    file.write(f"{os.getpid()} {key}\n")
                await asyncio.sleep(0.05)

            LocalStore.set = logged

    def written():
        return [line.split() for line in log.read_text().splitlines()]

    killed = []

    def kill():
        while len(written()) < 8:
            time.sleep(0.02)
        killed.append(int(written()[-1][0]))
        os.kill(killed[0], signal.SIGKILL)

    with (
        dask.config.set({"distributed.comm.timeouts.connect": "3s"}),  # to ask the dead one
        distributed.LocalCluster(
            n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50
        ) as cluster,
        distributed.Client(cluster) as client,
    ):
        client.register_plugin(Logs())
        killer = threading.Thread(target=kill)
        killer.start()
        found = report("recompress", source, target, "--scheduler", cluster.scheduler_address)
        killer.join()
    assert found["chunks"] == {"done": 32, "skipped": 0, "failed": 0}
    assert killed
    assert (values(members(target)["a"]) == data).all()
    keys = [key for _, key in written()]
    assert set(keys) == {f"a/c/{i}/0" for i in range(32)}
    assert len(keys) - 32 <= 4  # what the cluster had at hand: two tasks for each worker
    assert {int(pid) for pid, _ in written()} - set(killed)  # others went on
