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

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
PYTHONS = ("3.11", "3.12", "3.13")
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())
PROJECT, BUILD = SETTINGS["project"], SETTINGS["build-system"]
EXTRAS = PROJECT["optional-dependencies"]

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


def run(*command: str, cwd: Path) -> str:
    """What a command prints, outside of any other environment."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
    done = subprocess.run(command, cwd=cwd, env=clean, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def environment(interpreter: str, folder: Path, *packages: str) -> Path:
    """The commands of a new environment with these packages."""
    run(interpreter, "-m", "venv", "env", cwd=folder)
    commands = folder / "env" / "bin"
    run(str(commands / "python"), "-m", "pip", "install", "-q", *packages, cwd=folder)
    return commands


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
    builder = environment(sys.executable, folder, *BUILD["requires"])
    run(str(builder / "python"), "-c", code, cwd=folder / "source")
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
    commands = environment(interpreter, tmp_path, str(distributions[kind]))
    run(str(commands / "python"), "-W", "error", "-c", USE, cwd=tmp_path)
    assert "compress" in run(str(commands / "gpucodec"), "--help", cwd=tmp_path)


@pytest.mark.long
def test_it_works_with_the_oldest_packages_it_allows(distributions, tmp_path):
    interpreter = python("3.11")
    if interpreter is None:
        pytest.skip("no Python 3.11 here, for which the oldest were built")
    oldest = [one.split(",")[0].replace(">=", "==") for one in PROJECT["dependencies"]]
    assert all("==" in one for one in oldest), oldest
    commands = environment(interpreter, tmp_path, str(distributions["wheel"]), *oldest)
    run(str(commands / "python"), "-c", USE, cwd=tmp_path)
    np.savez(tmp_path / "a.npz", a=np.arange(10_000.0))
    command = str(commands / "gpucodec")
    for arguments in (["compress", "a.npz", "a.zarr", "--check"], ["verify", "a.zarr"]):
        run(command, *arguments, cwd=tmp_path)


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
