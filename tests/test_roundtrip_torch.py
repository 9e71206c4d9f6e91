# SPDX-License-Identifier: Apache-2.0
"""Promise 1 for torch tensors, which go by view: NumPy lacks some of their types."""

from __future__ import annotations

import numpy as np
import pytest
from helpers import same, sample

import gpucodec

torch = pytest.importorskip("torch")


@pytest.mark.parametrize(
    "name",
    [
        "bfloat16",
        "float16",
        "float32",
        "float64",
        "int8",
        "int64",
        "bool",
        "complex64",
        "float8_e4m3fn",
        "float8_e5m2",
        "uint8",
        "float8_e4m3fnuz",
        "float8_e5m2fnuz",
    ],
)
def test_tensors_equal_arrays(name):
    array = sample(name, 3000, "values")
    tensor = torch.from_numpy(array.view(np.uint8).copy())
    tensor = tensor.view(getattr(torch, name)).reshape(30, 100)
    frame = gpucodec.encode(tensor)
    assert frame.tobytes() == gpucodec.encode(array.reshape(30, 100)).tobytes()
    out = torch.zeros_like(tensor)
    assert gpucodec.decode(frame, out) is out
    assert torch.equal(out.view(torch.uint8), tensor.view(torch.uint8))
    strided = tensor.t()
    assert same(gpucodec.decode(gpucodec.encode(strided)), array.reshape(30, 100).T)


def test_tensors_with_gradients_and_of_no_dimension():
    tensor = torch.ones((), requires_grad=True)
    assert same(gpucodec.decode(gpucodec.encode(tensor)), np.ones((), np.float32))
    parameter = torch.nn.Parameter(torch.randn(7, 9))
    array = parameter.detach().numpy()
    assert same(gpucodec.decode(gpucodec.encode(parameter)), array)
    out = torch.zeros(9, 7).t()
    gpucodec.decode(gpucodec.encode(parameter), out)
    np.testing.assert_array_equal(out.numpy(), array)


def test_conjugate_and_negative_views_are_resolved():
    tensor = torch.randn(100, dtype=torch.complex64)
    assert same(
        gpucodec.decode(gpucodec.encode(tensor.conj())), tensor.conj().resolve_conj().numpy()
    )
    assert same(gpucodec.decode(gpucodec.encode(tensor.conj().imag)), -tensor.imag.numpy())


@pytest.mark.parametrize("n", [0, 1])
def test_strides_of_one_element_or_none_mean_nothing(n):
    """torch calls them contiguous whatever the strides are."""
    tensor = torch.arange(8.0)[2::3][:n]
    assert tensor.is_contiguous()
    assert gpucodec.decode(gpucodec.encode(tensor)).tolist() == tensor.tolist()
    out = torch.zeros(8)[2::3][:n]
    assert gpucodec.decode(gpucodec.encode(tensor), out).tolist() == tensor.tolist()
