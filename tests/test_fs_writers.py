# SPDX-License-Identifier: Apache-2.0
"""When files appear: whole, once, and never mixed, whoever writes, fails or is killed."""

from __future__ import annotations

import subprocess
import sys
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fs_places import DATA

from gpucodec.fs import sink


def test_exclusive_creation(place):
    fs, _, folder = place
    path = f"{folder}/one"
    with fs.open(path, "xb") as file:
        file.write(b"first")
    with pytest.raises(FileExistsError):
        fs.open(path, "xb")
    with pytest.raises(FileExistsError):
        fs.pipe_file(path, b"second", mode="create")
    assert fs.cat_file(path) == b"first"


def test_one_of_two_exclusive_writers_wins(local):
    fs, folder = local
    path = str(folder / "one")
    first, second = fs.open(path, "xb"), fs.open(path, "xb")
    first.write(b"first")
    second.write(b"second")
    second.close()
    with pytest.raises(FileExistsError):
        first.close()
    assert fs.cat_file(path) == b"second"
    assert [path.name for path in folder.iterdir()] == ["one"]


def test_exclusive_creation_without_hard_links(local, monkeypatch):
    fs, folder = local

    def refuse(*_):
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(sink.os, "link", refuse)
    path = str(folder / "one")
    first, second = fs.open(path, "xb"), fs.open(path, "xb")
    second.close()
    with pytest.raises(FileExistsError):
        first.close()
    assert [path.name for path in folder.iterdir()] == ["one"]


def test_writers_do_not_interleave(place):
    fs, _, folder = place
    path = f"{folder}/contested"
    contents = [bytes([i]) * 3_000_000 for i in range(4)]
    files = [fs.open(path, "wb") for _ in contents]
    for at in range(0, 3_000_000, 1_000_000):
        for file, content in zip(files, contents, strict=True):
            file.write(content[at : at + 1_000_000])
    threads = [threading.Thread(target=file.close) for file in files]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert fs.cat_file(path) in contents


def test_appenders_do_not_interleave(local):
    fs, folder = local
    path = str(folder / "log")

    def append(i):
        for _ in range(20):
            with fs.open(path, "ab") as file:
                file.write(bytes([i]) * 100)

    threads = [threading.Thread(target=append, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = np.frombuffer(fs.cat_file(path), np.uint8).reshape(-1, 100)
    assert (found == found[:, :1]).all()
    assert np.bincount(found[:, 0]).tolist() == [20] * 4


def test_readers_see_whole_appends(local):
    fs, folder = local
    path = str(folder / "log")
    piece = np.random.default_rng(0).bytes(300_000)  # many pages, which show one by one
    done = threading.Event()
    lengths = []

    def read():
        while not done.is_set() or not lengths:
            if fs.exists(path):
                lengths.append(fs.size(path))
                lengths.append(fs.ls(str(folder), detail=True)[0]["size"])
                with fs.open(path, "rb") as file:
                    lengths.append(file.seek(0, 2))

    def append():
        for _ in range(60):
            with fs.open(path, "ab") as file:
                file.write(piece)
        done.set()

    with ThreadPoolExecutor() as pool:
        for job in [pool.submit(read), pool.submit(read), pool.submit(append)]:
            job.result()
    assert all(length % len(piece) == 0 for length in lengths)
    assert fs.cat_file(path) == piece * 60


def test_nothing_appears_before_the_end(place):
    fs, below, folder = place
    path = f"{folder}/late"
    fs.pipe_file(path, b"old")
    file = fs.open(path, "wb")
    file.write(DATA * 6)  # more than a window
    assert fs.cat_file(path) == b"old"
    file.close()
    assert fs.cat_file(path, end=9) == DATA[:9]

    def fail():
        with fs.open(path, "wb") as file:
            file.write(b"half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert fs.cat_file(path, end=9) == DATA[:9]
    assert [name.rsplit("/", 1)[-1] for name in below.ls(folder, detail=False)] == ["late"]


def test_a_file_that_nobody_closes_does_not_appear(local):
    fs, folder = local
    path = str(folder / "model")
    fs.pipe_file(path, b"old")

    def fail():
        file = fs.open(path, "wb")
        file.write(b"half")
        raise RuntimeError

    def attempt():
        try:
            fail()
        except RuntimeError as error:
            traceback.clear_frames(error.__traceback__)

    with pytest.warns(ResourceWarning, match="not closed"):
        attempt()
    assert fs.cat_file(path) == b"old"
    assert [path.name for path in folder.iterdir()] == ["model"]


def test_transactions(place):
    fs, below, folder = place
    with fs.transaction:
        with fs.open(f"{folder}/a", "wb") as file:
            file.write(b"a" * 1000)
        fs.pipe_file(f"{folder}/b", b"b" * 1000)
        assert not below.exists(f"{folder}/a")
        assert not below.exists(f"{folder}/b")
    assert fs.cat_file(f"{folder}/a") == b"a" * 1000
    assert fs.cat_file(f"{folder}/b") == b"b" * 1000

    def fail():
        with fs.transaction:
            with fs.open(f"{folder}/c", "wb") as file:
                file.write(b"c")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert not below.exists(f"{folder}/c")


def test_a_killed_writer_leaves_the_old_file(local):
    fs, folder = local
    fs.pipe_file(str(folder / "model"), b"old")
    code = (
        "import fsspec, os, sys;"
        "file = fsspec.open('gpucodec::file://' + sys.argv[1], 'wb').open();"
        "file.write(bytes(40 << 20)); file.flush(); os._exit(9)"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder / "model")], check=False)
    assert done.returncode == 9
    assert fs.cat_file(str(folder / "model")) == b"old"


def test_a_failed_append_takes_nothing_back_and_adds_nothing(local, monkeypatch):
    fs, folder = local
    path = folder / "log"
    fs.pipe_file(str(path), b"old")
    before = path.read_bytes()

    def no_space(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(sink.os, "fsync", no_space)
    with pytest.raises(OSError, match="No space"), fs.open(str(path), "ab") as file:
        file.write(b"new")
    assert path.read_bytes() == before


def test_links_and_permissions_stay(local):
    fs, folder = local
    target, link = folder / "target", folder / "link"
    fs.pipe_file(str(target), b"old")
    target.chmod(0o640)
    link.symlink_to(target)
    with fs.open(str(link), "wb") as file:
        file.write(b"new")
    assert link.is_symlink()
    assert fs.cat_file(str(target)) == b"new"
    assert target.stat().st_mode & 0o777 == 0o640
    with pytest.raises(OSError, match="null"):
        fs.open("/dev/null", "wb")


def test_large_uploads_wait_on_disk(place, monkeypatch, tmp_path):
    fs, _, folder = place
    monkeypatch.setattr(sink, "SPOOL_BYTES", 1 << 20)
    with fs.open(f"{folder}/large", "wb") as file:
        file.write(DATA)
    assert fs.cat_file(f"{folder}/large") == DATA
    (tmp_path / "in").write_bytes(DATA[::-1])
    fs.put_file(str(tmp_path / "in"), f"{folder}/large")
    assert fs.cat_file(f"{folder}/large") == DATA[::-1]
