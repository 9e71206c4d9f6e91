# SPDX-License-Identifier: Apache-2.0
"""The filesystem: what its files look like to programs."""

from __future__ import annotations

import asyncio
import gc
import io
import os
from pathlib import Path

import fsspec
import pytest
from fs_places import DATA
from fsspec.implementations.memory import MemoryFileSystem

from gpucodec import CorruptionError, TruncatedError
from gpucodec.fs import GpucodecFileSystem


def test_written_files_are_smaller_and_look_plain(place):
    fs, below, folder = place
    path = f"{folder}/data"
    with fs.open(path, "wb") as file:
        assert file.write(DATA[:10]) == 10
        file.write(memoryview(DATA)[10:])
        assert file.tell() == len(DATA)
    info = fs.info(path)
    assert info["size"] == fs.size(path) == len(DATA)
    assert info["physical_size"] == below.size(path) < 0.8 * len(DATA)
    assert fs.ls(folder)[0]["size"] == fs.du(folder) == len(DATA)
    assert fs.find(folder, detail=True)[info["name"]]["size"] == len(DATA)
    assert fs.glob(f"{folder}/d*") == [info["name"]]
    [(_, _, files)] = fs.walk(folder, detail=True)
    assert files["data"]["size"] == len(DATA)
    assert fs.cat_file(path) == DATA
    assert fs.cat_file(path, start=-9) == DATA[-9:]
    assert fs.cat_file(path, start=5, end=-5) == DATA[5:-5]
    assert fs.cat_file(path, start=len(DATA) + 5) == b""
    with fs.open(path) as file:
        assert file.read() == DATA
        assert file.seek(-100, 2) == len(DATA) - 100
        assert file.read(1000) == DATA[-100:]
        for start in (0, 1 << 20, 3 << 20):  # forward, with what was read ahead
            file.seek(start)
            assert b"".join(file.read(40_000) for _ in range(9)) == DATA[start : start + 360_000]
        file.seek(5)
        into = bytearray(2 << 20)
        assert file.readinto(into) == len(into)
        assert into == DATA[5 : 5 + len(into)]
        file.seek(len(DATA) - 7)
        assert file.readinto(into) == 7


def test_ranges_of_many_files_come_in_one_batch(place):
    fs, below, folder = place
    for name in "ab":
        fs.pipe_file(f"{folder}/{name}", DATA)
    below.pipe_file(f"{folder}/plain", DATA)
    paths = [f"{folder}/{name}" for name in ("a", "b", "plain", "a", "gone", "b", "a")]
    starts, ends = [0, 100, 3, 50, 0, None, -20], [10, 1 << 20, 9, 70, 5, 4, None]
    found = fs.cat_ranges(paths, starts, ends)
    for path, start, end, one in zip(paths, starts, ends, found, strict=True):
        if path.endswith("gone"):
            assert isinstance(one, FileNotFoundError)
        else:
            assert one == DATA[start:end]
    with pytest.raises(FileNotFoundError):
        fs.cat_ranges(paths, starts, ends, on_error="raise")


def test_batches_fetch_a_block_once():
    fetched = []

    class Counting(MemoryFileSystem):
        cachable = False

        def cat_file(self, path, start=None, end=None, **kwargs):
            fetched.append((start, end))
            return super().cat_file(path, start, end, **kwargs)

    below = Counting()
    fs = GpucodecFileSystem(fs=below, skip_instance_cache=True)
    fs.pipe_file("/blocks", DATA)
    fs.info("/blocks")
    fetched.clear()
    starts = [1000 * i for i in range(50)]
    found = fs.cat_ranges(["/blocks"] * 50, starts, [start + 500 for start in starts])
    assert found == [DATA[start : start + 500] for start in starts]
    assert len(fetched) == 1
    fetched.clear()
    with fs.open("/blocks") as file:
        file.seek(1 << 20)
        file.read(65536)
    index, *fetches = fetched
    assert len(fetches) == 1
    assert index[1] == fs.info("/blocks")["physical_size"]


def test_files_of_others_pass_through(place):
    fs, below, folder = place
    for content in (b"", b"x", b"gpcf" + bytes(9), DATA):
        below.pipe_file(f"{folder}/plain", content)
        fs.invalidate_cache()
        assert fs.cat_file(f"{folder}/plain") == content
        info = fs.info(f"{folder}/plain")
        assert info["size"] == len(content)
        assert "physical_size" not in info
        with fs.open(f"{folder}/plain") as file:
            assert file.read() == content
    with fs.open(f"{folder}/plain", "ab") as file:
        file.write(b"more")
    assert below.cat_file(f"{folder}/plain") == DATA + b"more"


def test_append(place):
    fs, below, folder = place
    path = f"{folder}/log"
    expected = b""
    for i in range(4):
        line = f"line {i}\n".encode() * 50
        with fs.open(path, "ab") as file:
            assert file.tell() == len(expected)
            file.write(line)
        expected += line
        assert fs.cat_file(path) == expected
        assert fs.info(path)["size"] == len(expected)
    assert below.size(path) < len(expected)
    with fs.open(path, "a") as file:
        file.write("the end")
    assert fs.read_text(path) == expected.decode() + "the end"


def test_an_open_file_stays_as_it_was(local):
    fs, folder = local
    path = str(folder / "model")
    fs.pipe_file(path, DATA)
    with fs.open(path) as file:
        file.read(10)
        fs.pipe_file(path, b"new")
        assert file.read() == DATA[10:]
    assert fs.cat_file(path) == b"new"


def test_changed_files_are_read_anew(place):
    fs, below, folder = place
    path = f"{folder}/changing"
    other = GpucodecFileSystem(fs=below, skip_instance_cache=True)
    for content in (b"one", b"two", DATA, b"three" * 1000):
        other.pipe_file(path, content)
        fs.invalidate_cache(path)
        assert fs.cat_file(path) == content


def test_damage_and_truncation_are_errors(place):
    fs, below, folder = place
    path = f"{folder}/damaged"
    fs.pipe_file(path, DATA)
    stored = below.cat_file(path)
    damaged = bytearray(stored)
    damaged[len(stored) // 2] ^= 1
    below.pipe_file(path, bytes(damaged))
    fs.invalidate_cache()
    with pytest.raises(CorruptionError):
        fs.cat_file(path)
    with fs.open(path) as file, pytest.raises(CorruptionError):
        file.read()
    sound, bad = fs.cat_ranges([path] * 2, [0, 0], [10, None])
    assert sound == DATA[:10]
    assert isinstance(bad, CorruptionError)
    below.pipe_file(path, stored[:-1])
    fs.invalidate_cache()
    for read in (fs.cat_file, fs.info, fs.open):
        with pytest.raises(TruncatedError):
            read(path)
    assert fs.ls(folder)[0]["size"] == len(stored) - 1  # a folder can be listed nevertheless
    with pytest.raises(TruncatedError):
        fs.open(path, "ab")


def test_get_and_put(place, tmp_path):
    fs, below, folder = place
    (tmp_path / "in").write_bytes(DATA)
    fs.put_file(str(tmp_path / "in"), f"{folder}/put")
    assert below.size(f"{folder}/put") < 0.8 * len(DATA)
    fs.get_file(f"{folder}/put", str(tmp_path / "out"))
    assert (tmp_path / "out").read_bytes() == DATA
    with pytest.raises(FileExistsError):
        fs.put_file(str(tmp_path / "in"), f"{folder}/put", mode="create")
    fs.mv(f"{folder}/put", f"{folder}/moved")
    assert fs.cat_file(f"{folder}/moved") == DATA
    assert not fs.exists(f"{folder}/put")


def test_folders(local):
    fs, folder = local
    fs.makedirs(str(folder / "a" / "b"))
    fs.touch(str(folder / "a" / "b" / "empty"))
    assert fs.info(str(folder / "a" / "b" / "empty"))["size"] == 0
    with pytest.raises(OSError, match="not empty"):
        fs.rmdir(str(folder / "a" / "b"))
    fs.rm_file(str(folder / "a" / "b" / "empty"))
    fs.rmdir(str(folder / "a" / "b"))
    fs.rm(str(folder / "a"), recursive=True)
    assert not list(folder.iterdir())


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")  # fsspec's block cache
def test_urls_and_caches_below_and_above(tmp_path):
    path = tmp_path / "file"
    with fsspec.open(f"gpucodec::file://{path}", "wb") as file:
        file.write(DATA)
    fs, _ = fsspec.url_to_fs(f"gpucodec::file://{path}")
    assert fs is fsspec.url_to_fs(f"gpucodec::file://{tmp_path}")[0]
    url = fs.unstrip_protocol(str(path))
    assert fsspec.open(url).open().read() == DATA
    assert fs.cat_file(url, end=3) == DATA[:3]
    for chain in (
        "gpucodec::simplecache::file://",
        "gpucodec::filecache::file://",
        "gpucodec::blockcache::file://",
        "simplecache::gpucodec::file://",
        "filecache::gpucodec::file://",
        "blockcache::gpucodec::file://",
    ):
        with fsspec.open(f"{chain}{path}", "rb") as file:
            file.seek(1000)
            assert file.read(5000) == DATA[1000:6000], chain
    with fsspec.open(f"gpucodec::simplecache::file://{path}2", "wb") as file:
        file.write(DATA)
    with fsspec.open(f"gpucodec::file://{path}2", "rb") as file:
        assert file.read() == DATA
    gc.collect()


@pytest.mark.parametrize("cache_type", ["none", "readahead", "blockcache", "bytes"])
def test_caches_of_fsspec(local, cache_type):
    fs, folder = local
    fs.pipe_file(str(folder / "file"), DATA)
    with fs.open(str(folder / "file"), cache_type=cache_type) as file:
        file.seek(100_000)
        assert file.read(5000) == DATA[100_000:105_000]


def test_asynchronous_use():
    async def use():
        fs = fsspec.filesystem(
            "gpucodec", target_protocol="memory", asynchronous=True, skip_instance_cache=True
        )
        await fs._pipe_file("/async", DATA)
        assert await fs._cat_file("/async", start=7, end=70) == DATA[7:70]
        assert (await fs._info("/async"))["size"] == len(DATA)

    asyncio.run(use())


def test_a_forked_child_can_read(local):
    fs, folder = local
    fs.pipe_file(str(folder / "file"), DATA)
    held = fs.open(str(folder / "file"))
    read, write = os.pipe()
    child = os.fork()
    if not child:
        sound = held.read(9) == DATA[:9] and fs.cat_file(str(folder / "file")) == DATA
        os.write(write, b"y" if sound else b"n")
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 1) == b"y"
    os.close(read)
    os.close(write)
    held.close()


def test_wrong_arguments_are_named():
    with pytest.raises(ValueError, match="target_protocol"):
        GpucodecFileSystem()
    fs = GpucodecFileSystem(fs=MemoryFileSystem())
    with pytest.raises(NotImplementedError, match="r\\+b"):
        fs.open("/x", "r+b")
    with pytest.raises(FileNotFoundError):
        fs.open("/nowhere")
    with pytest.raises(ValueError, match="2 paths"):
        fs.cat_ranges(["/x", "/y"], [0], [1])


def test_compression_by_name(tmp_path):
    path = str(tmp_path / "table.csv.gpc")
    with fsspec.open(path, "wt", compression="infer") as file:
        file.write("a,b\n" * 10_000)
    assert Path(path).stat().st_size < 2000
    with fsspec.open(path, "rt", compression="infer") as file:
        assert file.readline() == "a,b\n"
        assert len(file.read()) == 4 * 9_999
    with fsspec.open(f"gpucodec::file://{path}", "rt") as file:  # the same format
        assert file.read() == "a,b\n" * 10_000
    from gpucodec.fs.compression import open_stream

    with pytest.raises(ValueError, match="not a file of gpucodec"):
        open_stream(io.BytesIO(b"plain"), "r")
