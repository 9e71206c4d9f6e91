# SPDX-License-Identifier: Apache-2.0
"""Wheel and source distribution, each in an environment that holds nothing else."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
EXTRAS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]

# What a user does first, from outside the checkout.
USE = """
import sys, numpy as np, gpucodec, zarr
from gpucodec import checkpoint
from gpucodec.zarr import TensorCodec
assert "site-packages" in gpucodec.__file__, gpucodec.__file__
assert "torch" not in sys.modules
array = np.linspace(0, 1, 5000, dtype=np.float32)
assert (gpucodec.decode(gpucodec.encode(array)) == array).all()
stored = zarr.create_array("s.zarr", data=array, serializer=TensorCodec(), compressors=None)
assert (zarr.open_array("s.zarr", mode="r")[:] == array).all()
checkpoint.save({"w": array}, "run")
assert (checkpoint.open("run")["w"][10:20] == array[10:20]).all()
"""


def python(version: str) -> str | None:
    """An interpreter of this version: on the path, of pyenv, or this one."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        return sys.executable
    found = sorted(Path.home().glob(f".pyenv/versions/{version}.*/bin/python"))
    return str(found[-1]) if found else shutil.which(f"python{version}")


@pytest.fixture(scope="module")
def distributions(tmp_path_factory) -> dict[str, Path]:
    """Built from a copy: a build leaves files behind."""
    folder = tmp_path_factory.mktemp("dist")
    files = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split("\0")
    for name in filter(None, files):
        place = folder / "source" / name
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place)
    code = "from setuptools import build_meta as b; print(b.build_sdist('..')); print(b.build_wheel('..'))"
    subprocess.run(
        [sys.executable, "-c", code], cwd=folder / "source", check=True, capture_output=True
    )
    [wheel], [source] = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": source}


@pytest.mark.long
def test_the_wheel_holds_the_package_and_nothing_else(distributions):
    names = zipfile.ZipFile(distributions["wheel"]).namelist()
    assert all(name.startswith(("gpucodec/", "gpucodec-")) for name in names)
    sources = {p.name for folder in ("gpucodec", "kernels") for p in (ROOT / folder).rglob("*.py")}
    sources |= {path.name for path in (ROOT / "kernels").glob("*.cu*")}
    assert sources <= {Path(name).name for name in names}
    assert distributions["wheel"].name.endswith("-py3-none-any.whl")
    with tarfile.open(distributions["sdist"]) as packed:
        assert any(name.endswith("/kernels/spec.py") for name in packed.getnames())


@pytest.mark.long
@pytest.mark.parametrize("kind", ["wheel", "sdist"])
@pytest.mark.parametrize("version", PYTHONS)
def test_it_works_alone(version, kind, distributions, tmp_path):
    interpreter = python(version)
    if interpreter is None:
        pytest.skip(f"no Python {version} here")

    def run(*command: str) -> str:
        clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        done = subprocess.run(
            command, cwd=tmp_path, env=clean, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    run(interpreter, "-m", "venv", "env")
    inside = str(tmp_path / "env" / "bin" / "python")
    run(inside, "-m", "pip", "install", "-q", str(distributions[kind]))
    run(inside, "-W", "error", "-c", USE)
    command = str(tmp_path / "env" / "bin" / "gpucodec")
    assert "compress" in run(command, "--help")


@pytest.mark.long
@pytest.mark.parametrize("extra", sorted(set(EXTRAS) - {"cuda12", "cuda13", "gds12", "gds13"}))
def test_extras_resolve(extra, distributions):
    """pip finds versions of all packages that go together; nothing is installed."""
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--dry-run",
            f"{distributions['wheel']}[{extra}]",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
