# SPDX-License-Identifier: Apache-2.0
"""Whatever happens while a checkpoint is saved: the old one is there, or the new one."""

from __future__ import annotations

import contextlib
import os
import shutil

import numpy as np
import pytest
import torch
from checkpoint_cases import STORAGES, place_of, s3_server, same
from crash_disk import Journal, Kill, local

from gpucodec import checkpoint
from gpucodec.checkpoint import storage as storages
from gpucodec.checkpoint.storage.fsspecfiles import Fsspec
from gpucodec.errors import CorruptionError, GpucodecError


@pytest.fixture(scope="module")
def states():
    def state(seed, step):
        kept = torch.arange(6.0)  # is in both, so that its array is reused
        changed = torch.randn(5, 3, generator=torch.Generator().manual_seed(seed))
        return {"kept": kept, "w": changed, "tied": changed, "step": step}

    return [state(1, "old"), state(2, 2)]


@pytest.mark.parametrize("how", ["fail", "before", "torn", "after", "power"])
@pytest.mark.parametrize("first", [True, False], ids=["first", "replace"])
def test_every_crash_leaves_the_old_or_the_new(how, first, states, tmp_path):
    old, new = states
    base = tmp_path / "base"
    base.mkdir()
    if not first:
        checkpoint.save(old, base / "run")
    count = Journal()
    shutil.copytree(base, tmp_path / "count")
    checkpoint.save(new, local(tmp_path / "count" / "run", count))
    kinds = {call for call, _ in count.calls}
    assert kinds >= {"mkdir", "write", "sync", "unlink", "link" if first else "replace"}
    outcomes = set()
    for stop in range(len(count.calls)):
        root = tmp_path / f"{how}-{stop}"
        shutil.copytree(base, root)
        disk = Journal(stop, {"power": "after"}.get(how, how))
        returned = False
        with contextlib.suppress(OSError, Kill):
            checkpoint.save(new, local(root / "run", disk))
            returned = True
        if how == "power":
            disk.lose_power()
        outcome = found(root / "run", old, new)
        outcomes.add(outcome)
        assert outcome == "new" or not returned
        if outcome == "new":
            committed = next(
                i for i, (call, _) in enumerate(count.calls) if call in {"link", "replace"}
            )
            assert stop >= committed
        # And the next save works, and clears away what was left.
        checkpoint.save(new, root / "run")
        assert found(root / "run", old, new) == "new"
        left = {
            p.relative_to(root / "run").as_posix() for p in (root / "run").rglob("*") if p.is_file()
        }
        assert left == checkpoint.open(root / "run").manifest.keys() | {"manifest.json"}
        shutil.rmtree(root)
    assert outcomes == ({"none", "new"} if first else {"old", "new"})


def found(url, old, new):
    try:
        loaded = checkpoint.load(None, url)
    except FileNotFoundError:
        return "none"
    checkpoint.verify(url)
    for name, state in (("old", old), ("new", new)):
        if same(loaded, state):
            return name
    raise AssertionError("a mixture")


def test_a_save_that_returned_survives_a_loss_of_power(states, tmp_path):
    old, new = states
    for state in (old, new):
        disk = Journal()
        checkpoint.save(state, local(tmp_path / "run", disk))
        assert not disk.volatile
        disk.lose_power()
        assert same(checkpoint.load(None, tmp_path / "run"), state)


class Failing(Fsspec):
    """Fails at the n-th request that changes something, before or after its effect."""

    stop = -1
    after = False
    count = 0

    def _step(self, effect):
        number, self.count = self.count, self.count + 1
        if number != self.stop:
            return effect()
        if self.after:
            effect()  # the request was served, its answer lost
        raise ConnectionError("lost")

    def put(self, key, data):
        return self._step(lambda: super(Failing, self).put(key, data))

    def commit(self, key, data, version=None):
        return self._step(lambda: super(Failing, self).commit(key, data, version))

    def delete(self, key):
        return self._step(lambda: super(Failing, self).delete(key))


@pytest.mark.parametrize("after", [False, True], ids=["lost", "unanswered"])
def test_every_failed_request_leaves_the_old_or_the_new(after, states):
    old, new = states
    outcomes = []
    stop = 0
    while True:
        url = f"memory://failing-{os.urandom(6).hex()}"
        checkpoint.save(old, url)
        storage = Failing(url)
        storage.workers, storage.stop, storage.after = 1, stop, after
        try:
            checkpoint.save(new, storage)
        except ConnectionError:
            outcomes.append(found(url, old, new))
        else:
            break
        checkpoint.save(new, url)
        assert found(url, old, new) == "new"
        stop += 1
    assert set(outcomes) == {"old", "new"}
    assert outcomes == sorted(outcomes, reverse=True)


@pytest.fixture(scope="module")
def endpoint():
    with s3_server() as url:
        yield url


CHANGES = {
    *("put_object", "create_multipart_upload", "upload_part", "complete_multipart_upload"),
    "delete_object",
}
PART_BYTES = 5 << 20  # the least that S3 takes


class Requests:
    """Requests to S3 that change something, one of which fails: unserved, or served and unanswered."""

    def __init__(self, monkeypatch):
        from s3fs import S3FileSystem

        self.stop, self.after, self.seen = -1, False, []
        call, pipe = S3FileSystem._call_s3, S3FileSystem._pipe_file

        async def call_s3(fs, method, *args, **kwargs):
            if method not in CHANGES:
                return await call(fs, method, *args, **kwargs)
            number = len(self.seen)
            self.seen.append(method)
            if number == self.stop and not self.after:
                raise ConnectionError("lost")
            answer = await call(fs, method, *args, **kwargs)
            if number == self.stop:
                raise ConnectionError("lost")
            return answer

        async def pipe_file(fs, path, data, **kwargs):
            return await pipe(fs, path, data, **{"chunksize": PART_BYTES} | kwargs)

        monkeypatch.setattr(S3FileSystem, "_call_s3", call_s3)
        monkeypatch.setattr(S3FileSystem, "_pipe_file", pipe_file)

    def at(self, stop, *, after=False):
        self.stop, self.after, self.seen = stop, after, []


@pytest.mark.parametrize("after", [False, True], ids=["lost", "unanswered"])
@pytest.mark.parametrize(
    "in_parts", [False, pytest.param(True, marks=pytest.mark.long)], ids=["whole", "in parts"]
)
def test_every_request_to_s3_that_fails_leaves_the_old_or_the_new(
    in_parts, after, states, tmp_path, monkeypatch, endpoint
):
    """Writes and deletions of objects and of the manifest; also of what is sent in parts."""
    requests = Requests(monkeypatch)
    old, new = states
    if in_parts:
        large = np.random.default_rng(0).integers(0, 256, 2 * PART_BYTES + 9, np.uint8)
        new = {**new, "large": large}
    outcomes = []
    for stop in range(99):
        url = place_of("s3", tmp_path, monkeypatch, lambda: endpoint)
        requests.at(-1)
        checkpoint.save(old, url)
        storage = Fsspec(url)
        storage.workers = 1  # the same order of requests every time
        requests.at(stop, after=after)
        try:
            checkpoint.save(new, storage)
        except OSError:
            requests.at(-1)
        else:
            break
        outcomes.append(found(url, old, new))
    assert set(requests.seen) == (CHANGES if in_parts else {"put_object", "delete_object"})
    assert set(outcomes) == {"old", "new"}
    assert outcomes == sorted(outcomes, reverse=True)  # old ones, until the commit
    left = {key for key in storage.list("") if key != "manifest.json"}
    assert left == checkpoint.open(url).manifest.keys()


def test_every_lost_or_exchanged_object_on_s3_is_noticed(tmp_path, monkeypatch, endpoint):
    url = place_of("s3", tmp_path, monkeypatch, lambda: endpoint)
    generator = torch.Generator().manual_seed(0)
    checkpoint.save([torch.randn(n, 4, generator=generator) for n in (7, 8, 9)], url)
    storage = Fsspec(url)
    keys = sorted(storage.list(""))
    contents = {key: storage.get(key) for key in keys}
    chunks = [key for key in keys if "/c." in key]
    assert len(chunks) == 3
    assert len(keys) == 7
    for key, other in zip(keys, [*keys[2:], *keys[:2]], strict=True):
        storage.delete(key)
        with pytest.raises((CorruptionError, FileNotFoundError), match="missing"):
            checkpoint.verify(url)
        storage.put(key, contents[other])
        with pytest.raises(GpucodecError):
            checkpoint.verify(url)
        if key in chunks:
            with pytest.raises(GpucodecError):
                checkpoint.load(None, url)
        storage.put(key, contents[key])
    assert checkpoint.verify(url) == 6


@pytest.mark.parametrize("kind", STORAGES)
def test_of_two_writers_the_slower_one_is_told(kind, tmp_path, monkeypatch, request):
    place = place_of(kind, tmp_path, monkeypatch, lambda: request.getfixturevalue("endpoint"))
    storage = storages.connect(place)
    version = None  # of a manifest that is new, then of one that is replaced
    for content in (b"first", b"second"):
        storage.commit("manifest.json", content, version)
        with pytest.raises(FileExistsError, match="somebody else"):
            storage.commit("manifest.json", b"slower", version)
        stored, version = storage.read("manifest.json")
        assert stored == content


@pytest.fixture(scope="module")
def saved(states, tmp_path_factory):
    root = tmp_path_factory.mktemp("damage") / "run"
    state = {
        "half": torch.randn(64).bfloat16(),
        "step": torch.tensor(3.0),
        "big": torch.randn(600, 64),
        "more": [torch.randn(600, 64) for _ in range(2)],
    }
    from unittest import mock

    from gpucodec.checkpoint import grid

    with mock.patch.object(grid, "CHUNK_BYTES", 40_000):
        checkpoint.save(state, root)
    return root


def objects(root):
    return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


def test_every_lost_object_is_noticed(saved):
    keys = objects(saved)
    assert len(keys) > 15
    for key in keys:
        path, aside = saved / key, saved.parent / "aside"
        path.rename(aside)
        try:
            if not key.endswith("zarr.json"):  # for which only zarr asks
                with pytest.raises((CorruptionError, FileNotFoundError), match="missing"):
                    checkpoint.load(None, saved)
            with pytest.raises((CorruptionError, FileNotFoundError), match="missing"):
                checkpoint.verify(saved)
        finally:
            aside.rename(path)
    checkpoint.verify(saved)


def test_every_exchanged_object_is_noticed(saved):
    """Also two chunks of one array, or of arrays of one shape, which decode without complaint."""
    keys = [key for key in objects(saved) if key != "manifest.json"]
    contents = {key: (saved / key).read_bytes() for key in keys}
    pairs = [
        (a, b) for i, a in enumerate(keys) for b in keys[i + 1 :] if contents[a] != contents[b]
    ]
    frames = [pair for pair in pairs if "zarr.json" not in pair[0] + pair[1]]
    rng = np.random.default_rng(0)
    for i in rng.permutation(len(frames))[:40]:
        a, b = frames[i]
        (saved / a).write_bytes(contents[b])
        (saved / b).write_bytes(contents[a])
        try:
            with pytest.raises(GpucodecError):
                checkpoint.load(None, saved)
            with pytest.raises(CorruptionError) as caught:
                checkpoint.verify(saved)
            assert len(caught.value.__notes__) == 2
        finally:
            (saved / a).write_bytes(contents[a])
            (saved / b).write_bytes(contents[b])


def test_every_kind_of_damage_is_noticed(saved):
    """A flipped bit in any object, by verify; of chunks, by load and by slices too."""
    lazies = checkpoint.open(saved)
    names = {one.array: name for name, one in lazies.manifest.tensors.items()}
    rng = np.random.default_rng(1)
    for key in objects(saved):
        content = (saved / key).read_bytes()
        for at in rng.integers(0, len(content), 4):
            damaged = bytearray(content)
            damaged[at] ^= 1 << rng.integers(8)
            (saved / key).write_bytes(damaged)
            with pytest.raises(GpucodecError):
                checkpoint.verify(saved)
            if "/c." in key:
                with pytest.raises(GpucodecError):
                    checkpoint.load(None, saved)
                lazy = lazies[names[key.rpartition("/")[0]]]
                with pytest.raises(GpucodecError):  # a selection that zarr reads
                    lazy[(slice(None, None, 1),) * len(lazy.shape) or ()].shape  # noqa: B018
        for n in (0, len(content) // 2, len(content) - 1):
            (saved / key).write_bytes(content[:n])
            with pytest.raises(GpucodecError):
                checkpoint.verify(saved)
        (saved / key).write_bytes(content + b"\0")
        with pytest.raises(GpucodecError):
            checkpoint.verify(saved)
        (saved / key).write_bytes(content)
    assert checkpoint.verify(saved) == len(objects(saved)) - 1


def test_a_manifest_cut_anywhere_is_an_error(saved):
    content = (saved / "manifest.json").read_bytes()
    try:
        for n in (*range(200), *range(200, len(content), 97)):
            (saved / "manifest.json").write_bytes(content[:n])
            with pytest.raises(GpucodecError):
                checkpoint.open(saved)
    finally:
        (saved / "manifest.json").write_bytes(content)


def test_parts_of_a_verification_are_the_whole(saved):
    total = sum(checkpoint.verify(saved, subset=(n, 7)) for n in range(1, 8))
    assert total == checkpoint.verify(saved)
    with pytest.raises(ValueError, match="subset"):
        checkpoint.verify(saved, subset=(0, 3))


def test_files_of_others_are_never_deleted(states, tmp_path):
    others = (
        "arrays/readme.txt",
        "arrays/0123/zarr.json",
        "arrays/" + "a" * 32 + "/data.npy",
        "notes.tmp",
    )
    for name in others:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("mine")
    for state in states:
        checkpoint.save(state, tmp_path)
    assert all((tmp_path / name).read_text() == "mine" for name in others)


def test_a_damaged_object_is_not_reused(states, tmp_path):
    old, _ = states
    checkpoint.save(old, tmp_path)
    manifest = checkpoint.open(tmp_path).manifest
    key = min(key for key in manifest.keys() if "/c." in key)  # noqa: SIM118
    (tmp_path / key).write_bytes(b"short")
    checkpoint.save(old, tmp_path)
    checkpoint.verify(tmp_path)
