# SPDX-License-Identifier: Apache-2.0
"""Fixtures and helpers of the tests of streamed activations."""

from __future__ import annotations

import threading

import pytest
import torch

from gpucodec.activations import record, stream_activations


@pytest.fixture
def stream(tmp_path):
    """Makes streams that write all they can; checks that their folder stays empty."""

    def make(**options):
        return stream_activations(tmp_path / "spill", **{"min_bytes": 1} | options)

    yield make
    assert not list((tmp_path / "spill").glob("*"))


@pytest.fixture
def held(monkeypatch):
    """Writers that wait until they are let go: what is saved stays in the queue."""
    gate = threading.Event()
    encode = record.Source.encode
    monkeypatch.setattr(record.Source, "encode", lambda *a: (gate.wait(60), encode(*a))[1])
    yield gate
    gate.set()


def leaf(*shape, seed=0, **options):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, **options).requires_grad_()


def round_trip(stream, tensor, **options):
    """What backward is given for a saved tensor that went to disk, and the counts."""

    class Save(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x, saved):
            ctx.save_for_backward(saved)
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            result.extend(ctx.saved_tensors)
            return grad, None

    result = []
    context = stream(**options)
    with context:
        y = Save.apply(torch.ones((), requires_grad=True), tensor)
    context.flush()
    y.backward()
    return result[0], context.stats()
