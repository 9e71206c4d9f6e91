# SPDX-License-Identifier: Apache-2.0
"""A mount: programs that know nothing of gpucodec see plain files."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from helpers import sample

from gpucodec.fs import GpucodecFileSystem


def reason_to_skip() -> str:
    if sys.platform != "linux" or not os.access("/dev/fuse", os.W_OK):
        return "no /dev/fuse that this user may open"
    try:
        import mfusepy  # noqa: F401
    except (ImportError, OSError) as error:
        return f"no FUSE: {error}"
    if not shutil.which("fusermount3") and not shutil.which("fusermount"):
        return "no fusermount"
    return ""


pytestmark = pytest.mark.skipif(bool(reason_to_skip()), reason=reason_to_skip() or "-")
UNMOUNT = shutil.which("fusermount3") or shutil.which("fusermount") or "fusermount"
VALUES = sample("float32", 400_000, "values")


@contextlib.contextmanager
def mounted(folder: Path, *options: str):
    """The backing folder and the mounted one."""
    backing, seen = folder / "backing", folder / "seen"
    backing.mkdir(exist_ok=True)
    seen.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "gpucodec", "mount", *options, str(backing), str(seen)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        for _ in range(600):
            if os.path.ismount(seen) or process.poll() is not None:
                break
            time.sleep(0.05)
        if not os.path.ismount(seen):
            pytest.skip(f"FUSE does not mount here: {process.communicate()[0]}")
        yield backing, seen
        subprocess.run([UNMOUNT, "-u", str(seen)], check=True)
        assert process.wait(30) == 0
        assert not os.path.ismount(seen)
        assert not list(seen.iterdir())
    finally:
        if process.poll() is None:
            subprocess.run([UNMOUNT, "-u", "-z", str(seen)], check=False)
            process.kill()
        process.communicate()


def shell(script: str, folder: Path) -> str:
    done = subprocess.run(
        ["sh", "-euc", script], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_unmodified_programs(tmp_path):
    plain = tmp_path / "plain"
    np.save(plain.with_suffix(".npy"), VALUES)
    with mounted(tmp_path) as (backing, seen):
        fs = GpucodecFileSystem(fs=LocalFileSystem())
        shell("cp ../plain.npy a.npy; cmp ../plain.npy a.npy", seen)
        assert fs.info(str(backing / "a.npy"))["size"] == plain.with_suffix(".npy").stat().st_size
        assert (backing / "a.npy").stat().st_size < 0.9 * VALUES.nbytes
        assert (np.load(seen / "a.npy", mmap_mode="r")[1000:1010] == VALUES[1000:1010]).all()
        # Appending, changing in place, growing, cutting.
        shell("seq 1 9 > log; seq 10 20 >> log; echo 21 >> log", seen)
        assert shell("cat log", seen).split() == [str(i) for i in range(1, 22)]
        shell(
            "printf XY | dd of=log bs=1 seek=2 conv=notrunc 2> /dev/null; truncate -s 5 log", seen
        )
        assert (seen / "log").read_bytes() == b"1\nXY3"[:5]
        assert fs.cat_file(str(backing / "log")) == (seen / "log").read_bytes()
        with (seen / "random").open("w+b") as file:
            file.write(bytes(100_000))
            file.seek(50_000)
            file.write(b"middle")
            file.seek(0)
            assert len(file.read()) == 100_000
        assert fs.cat_file(str(backing / "random"), start=50_000, end=50_006) == b"middle"
        # Names.
        shell("mkdir -p d/e; mv log d/e/moved; rm random; cp -r d copy", seen)
        assert shell("find . | sort", seen).split() == [
            *(".", "./a.npy", "./copy", "./copy/e", "./copy/e/moved", "./d", "./d/e"),
            "./d/e/moved",
        ]
        shell("mv a.npy copy/e/moved; cmp copy/e/moved ../plain.npy; rm -r d", seen)
        shell(
            "tar cf all.tar copy; tar xf all.tar --to-stdout copy/e/moved > x; cmp x copy/e/moved",
            seen,
        )
    assert not list(backing.rglob("*.partial"))


def test_errors_are_numbers(tmp_path):
    with mounted(tmp_path) as (backing, seen):
        (seen / "file").write_bytes(VALUES.tobytes())
        (seen / "folder").mkdir()
        damaged = bytearray((backing / "file").read_bytes())
        damaged[len(damaged) // 2] ^= 1
        (backing / "damaged").write_bytes(damaged)
        (backing / "cut").write_bytes(damaged[:-3])
        (backing / "plain").write_bytes(b"of others")
        assert (seen / "plain").read_bytes() == b"of others"
        for number, act in (
            (errno.ENOENT, (seen / "gone").read_bytes),
            (errno.EIO, (seen / "damaged").read_bytes),
            (errno.EIO, (seen / "cut").read_bytes),
            (errno.EEXIST, lambda: (seen / "file").open("x")),
            (errno.EEXIST, (seen / "folder").mkdir),
            (errno.ENOENT, lambda: (seen / "no" / "file").write_bytes(b"")),
            (errno.EISDIR, (seen / "folder").read_bytes),
        ):
            with pytest.raises(OSError) as caught:
                act()
            assert caught.value.errno == number
        (seen / "folder" / "x").touch()
        with pytest.raises(OSError) as caught:
            (seen / "folder").rmdir()
        assert caught.value.errno == errno.ENOTEMPTY


def test_read_only_and_sigterm(tmp_path):
    (tmp_path / "backing").mkdir()
    fs = GpucodecFileSystem(fs=LocalFileSystem())
    fs.pipe_file(str(tmp_path / "backing" / "file"), VALUES.tobytes())
    with mounted(tmp_path, "--read-only") as (_, seen):
        assert (seen / "file").read_bytes() == VALUES.tobytes()
        with pytest.raises(OSError) as caught:
            (seen / "new").write_bytes(b"")
        assert caught.value.errno == errno.EROFS


def test_wrong_arguments_are_named(tmp_path):
    command = [sys.executable, "-m", "gpucodec", "mount", str(tmp_path / "gone"), str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "gone is no folder" in done.stderr
