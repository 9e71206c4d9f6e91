# SPDX-License-Identifier: Apache-2.0
"""The command line refuses in one line, and never leaves half an output behind."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import zarr
from cli_cases import contents_of, every_tensor, fails, only, random_tensor, run

import gpucodec
from gpucodec.cli import output, stores
from gpucodec.cli.errors import CommandError
from gpucodec.errors import UnsupportedError
from gpucodec.tensorfiles import numpyfiles, safetensors


@pytest.fixture
def tensors():
    return every_tensor()


@pytest.fixture
def checkpoint(tmp_path, tensors):
    path = tmp_path / "model.safetensors"
    safetensors.write(path, contents_of(tensors, metadata={"format": "pt", "note": "naïve"}))
    return path


@pytest.fixture
def store(tmp_path, checkpoint):
    path = tmp_path / "model.zarr"
    run("compress", checkpoint, path)
    return path


def test_verify_finds_damage_and_loss(store, tmp_path):
    assert "sound" in run("verify", store).output
    [chunk] = [
        path for path in (store / "layer.float32").rglob("*") if path.name == "0" and path.is_file()
    ]
    good = chunk.read_bytes()
    for at in (0, 50, len(good) // 2, len(good) - 1):
        bad = bytearray(good)
        bad[at] ^= 4
        chunk.write_bytes(bad)
        result = run("verify", store, code=1)
        assert "layer.float32" in result.stderr
        fails("decompress", store, tmp_path / "x.safetensors", code=1)
        fails("copy", store, tmp_path / "x.zarr", "--codec", "zstd", code=1)
    chunk.write_bytes(good[:-1])
    fails("verify", store, code=1)
    chunk.unlink()
    assert "missing" in run("verify", store, code=1).stderr
    assert "missing" in fails("decompress", store, tmp_path / "x.safetensors", code=1)
    assert "missing" in fails("inspect", store, code=1)
    shutil.rmtree(store / "layer.float32")
    assert "missing" in fails("verify", store, code=1)
    assert only(tmp_path) == ["model.safetensors", "model.zarr"]


def test_metadata_that_lies_is_an_error(store):
    metadata = store / "zarr.json"
    good = metadata.read_text()
    metadata.write_text(good.replace('"layout": 1', '"layout": 2'))
    assert "layout 2" in fails("verify", store)
    metadata.write_text(good.replace('"tensors"', '"tensor"'))
    fails("verify", store, code=1)
    metadata.write_text(good[:-20])
    fails("verify", store, code=1)


def test_frames_in_files(tmp_path):
    path = tmp_path / "one.gpcf"
    path.write_bytes(gpucodec.encode(np.arange(100_000, dtype=np.float32)))
    assert "float32" in run("inspect", path).output
    assert "sound" in run("verify", path).output
    broken = bytearray(path.read_bytes())
    broken[-200] ^= 1
    path.write_bytes(broken)
    fails("verify", path, code=1)
    path.write_bytes(broken[:-1])
    fails("verify", path, code=1)
    fails("inspect", path, code=1)
    path.write_bytes(b"")
    fails("verify", path, code=1)
    path.write_bytes(b"something else entirely, but long enough")
    fails("verify", path, code=2)


def test_existing_output_stays_unless_forced(tmp_path, checkpoint, store):
    assert "--force" in fails("compress", checkpoint, store)
    back = tmp_path / "back.safetensors"
    back.write_text("precious")
    assert "--force" in fails("decompress", store, back)
    assert back.read_text() == "precious"
    (store / "layer.int8" / "c" / "0" / "0").unlink()
    fails("decompress", store, back, "--force", code=1)
    assert back.read_text() == "precious"  # a failure replaces nothing
    run("compress", checkpoint, store, "--force")
    run("decompress", store, back, "--force")
    assert back.read_bytes() == checkpoint.read_bytes()
    assert only(tmp_path) == ["back.safetensors", "model.safetensors", "model.zarr"]


def test_source_and_target_may_be_the_same_store(store):
    run("copy", store, store, "--codec", "zstd", "--force")
    assert '"zstd"' in (store / "layer.float32" / "zarr.json").read_text()
    run("verify", store)


def test_unusable_input(tmp_path, store):
    fails("compress", tmp_path / "absent.safetensors", tmp_path / "x.zarr")
    (tmp_path / "notes.txt").write_text("hello")
    fails("compress", tmp_path / "notes.txt", tmp_path / "x.zarr")
    fails("decompress", store, tmp_path / "x.txt")
    fails("decompress", store, tmp_path / "x.npy")  # several tensors
    assert "bfloat16" in fails("decompress", store, tmp_path / "x.npz")
    fails("compress", tmp_path / "notes.txt", tmp_path / "no" / "folder.zarr")
    (tmp_path / "folder").mkdir()
    fails("verify", tmp_path / "folder")
    fails("copy", tmp_path / "folder", tmp_path / "x.zarr", "--codec", "none")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    assert "pickle" in fails("compress", tmp_path / "o.npy", tmp_path / "x.zarr")
    np.savez(tmp_path / "o.npz", o=np.array([{}], dtype=object))
    assert "pickle" in fails("compress", tmp_path / "o.npz", tmp_path / "x.zarr")
    np.save(tmp_path / "s.npy", np.zeros(3, "S4"))
    fails("compress", tmp_path / "s.npy", tmp_path / "x.zarr")
    assert not (tmp_path / "x.zarr").exists()


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"[]",
        b'{"a":1}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"a":{}}',
        b'{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1.0],"data_offsets":[0,4]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}',
        b'{"a":{"dtype":"F32","shape":[1],"data_offsets":[0]}}',
        b'{"a":{"shape":[1],"data_offsets":[0,4]}}',
        b'{"__metadata__":{}}',
        b"[" * 10_000,
        b'{"a":{"dtype":"U8","shape":[9223372036854775807,4],"data_offsets":[0,4]}}',
    ],
)
def test_safetensors_that_lie_are_refused(tmp_path, header):
    path = tmp_path / "x.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    code = 2 if b'"dtype"' not in header and b'"shape"' in header else 1
    fails("compress", path, tmp_path / "x.zarr", code=code)
    path.write_bytes(b"\xff" * 8 + header)
    fails("compress", path, tmp_path / "x.zarr", code=1)


def test_torch_files_that_are_not_weights(tmp_path, monkeypatch):
    torch = pytest.importorskip("torch")
    for number, state in enumerate(
        [{"f": os.system}, {"s": {1, 2}}, {"b": b"bytes"}, {(1, 2): torch.zeros(1)}]
    ):
        path = tmp_path / f"{number}.pt"
        torch.save(state, path)
        fails("compress", path, tmp_path / "x.zarr")
    (tmp_path / "no.pt").write_bytes(b"not a file of torch.save")
    fails("compress", tmp_path / "no.pt", tmp_path / "x.zarr", code=1)
    monkeypatch.setitem(sys.modules, "torch", None)
    assert "gpucodec[torch]" in fails("compress", tmp_path / "0.pt", tmp_path / "x.zarr")


def test_a_pickle_codec_is_never_run(tmp_path):
    root = zarr.create_group(tmp_path / "p.zarr", zarr_format=2)
    root.create_array("a", shape=(2,), dtype="i4", compressors=None)
    metadata = tmp_path / "p.zarr" / "a" / ".zarray"
    text = metadata.read_text()
    metadata.write_text(text.replace('"compressor": null', '"compressor": {"id": "pickle"}'))
    for command in (["verify"], ["inspect"]):  # zarr itself takes it for an unknown data type
        assert "pickle" in fails(*command, tmp_path / "p.zarr", code=1)

    class Array:
        path = "a"

        class metadata:  # noqa: N801
            @staticmethod
            def to_dict():
                inner = {"name": "any-numcodecs.bytes-bytes", "configuration": {"id": "pickle"}}
                return {"codecs": ({"name": "bytes"}, inner), "attributes": {"id": "pickle"}}

    with pytest.raises(CommandError, match="pickle"):
        stores._refuse_pickles(Array)


def test_failure_while_writing_leaves_nothing(tmp_path, checkpoint, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stores, "fill", full)
    assert "No space" in fails("compress", checkpoint, tmp_path / "x.zarr")
    monkeypatch.setattr(output, "_flush", full)
    fails("compress", checkpoint, tmp_path / "x.zarr")

    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(stores, "fill", interrupt)
    fails("compress", checkpoint, tmp_path / "x.zarr", code=130)
    assert only(tmp_path) == ["model.safetensors"]


@pytest.mark.skipif(os.name != "posix", reason="signals as POSIX has them")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_leave_nothing(tmp_path, request, number):
    source = tmp_path / "big.npy"
    array = np.lib.format.open_memmap(
        source, "w+", np.float32, (256 << 20,)
    )  # holes, which take time to read, but no space
    del array
    command = [
        sys.executable,
        "-m",
        "gpucodec",
        "--threads",
        "1",
        "compress",
        "big.npy",
        "big.zarr",
    ]
    # Shells ignore SIGINT for background jobs, and children inherit that, but never a handler.
    before = signal.signal(number, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(number, before))
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 240  # the kernels may have to be compiled
        while not any(tmp_path.glob(".big.zarr.*/big.zarr/arr_0/c/0")):
            if time.monotonic() > deadline or process.poll() is not None:
                process.kill()
                pytest.fail(f"nothing was written: {process.stderr.read()}")
            time.sleep(0.002)
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "error: interrupted\n")
    assert only(tmp_path) == ["big.npy"]


def test_the_command_itself(tmp_path, checkpoint):
    def command(*arguments):
        line = [sys.executable, "-m", "gpucodec", *map(str, arguments)]
        return subprocess.run(line, capture_output=True, text=True, check=False, cwd=tmp_path)

    assert command("--version").stdout.strip().endswith(gpucodec.__version__)
    assert command("compress", checkpoint, "s.zarr").returncode == 0
    done = command("verify", "s.zarr")
    assert (done.returncode, done.stderr) == (0, "")
    failed = command("compress", checkpoint, "s.zarr")
    assert failed.returncode == 2
    assert failed.stderr.startswith("error: ")
    assert failed.stderr.count("\n") == 1


def test_npy_cannot_hold_what_numpy_does_not_name(tmp_path):
    array = random_tensor("bfloat16", (3,))
    with pytest.raises(UnsupportedError, match="bfloat16"):
        numpyfiles.write_npy(tmp_path / "x.npy", contents_of({"a": array}))
