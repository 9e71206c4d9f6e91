# SPDX-License-Identifier: Apache-2.0
"""What the tests of the command line share."""

from __future__ import annotations

import ml_dtypes
import numpy as np
from click.testing import CliRunner

from gpucodec.cli import main
from gpucodec.tensorfiles.tensors import Contents, Tensor

FLOAT8 = ("float8_e4m3fn", "float8_e5m2")
DTYPES = (
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "bfloat16", "float32", "float64", "complex64", *FLOAT8),
)


def dtype_of(name):
    return np.dtype(getattr(ml_dtypes, name, name))


def random_tensor(name, shape, seed=0):
    dtype = dtype_of(name)
    generator = np.random.default_rng(seed)
    if name == "bool":
        return generator.random(shape) < 0.5
    raw = generator.integers(0, 256, (int(np.prod(shape)) * dtype.itemsize,), np.uint8)
    return raw.view(dtype).reshape(shape)  # NaNs with payloads, infinities and subnormals too


def every_tensor():
    made = {f"layer.{name}": random_tensor(name, (37, 19)) for name in DTYPES}
    made["scalar"] = np.array(3.5, np.float32)
    made["empty"] = np.empty((0, 4), dtype_of("bfloat16"))
    made["a/b"] = np.arange(5)
    made["a"] = np.arange(6)
    made["../__odd .name"] = np.arange(7, dtype=np.int8)
    return made


def contents_of(tensors, kind="safetensors", **extra):
    listed = [Tensor(name, a.dtype, a.shape, lambda a=a: a) for name, a in tensors.items()]
    return Contents(kind, listed, extra)


def run(*arguments, code=0):
    result = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert result.exit_code == code, (result.output, result.stderr, result.exception)
    return result


def fails(*arguments, code=2):
    """The command ends with this code and one line on stderr, which is returned."""
    result = run(*arguments, code=code)
    assert "Traceback" not in result.stderr
    lines = result.stderr.strip().splitlines()
    assert lines[-1].lower().startswith("error: "), result.stderr
    return lines[-1]


def same(a, b):
    return (a.dtype, a.shape, a.tobytes()) == (b.dtype, b.shape, b.tobytes())


def only(folder):
    """Names in a folder, hidden ones too."""
    return sorted(path.name for path in folder.iterdir())
