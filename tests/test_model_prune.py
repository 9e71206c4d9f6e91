# SPDX-License-Identifier: Apache-2.0
"""Masks keep what they should, and pruned weights cost the bits that arithmetic says."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from hypothesis import given, strategies as st  # noqa: E402

import gpucodec  # noqa: E402
from gpucodec.checkpoint.leaves import leaf  # noqa: E402
from gpucodec.model import Prune  # noqa: E402
from gpucodec.model.account import effective_bits, entropy, n_m_bits  # noqa: E402
from gpucodec.model.prune import apply, frozen, masks  # noqa: E402


def weights(**shapes):
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@given(
    amount=st.floats(0, 0.99),
    rows=st.integers(2, 9),
    columns=st.integers(1, 17),
    scope=st.sampled_from(["global", "tensor"]),
)
def test_exactly_the_smallest_are_pruned(amount, rows, columns, scope):
    found = weights(a=(rows, columns), b=(columns + 1, rows))
    found["a"][0] = found["a"][0, 0]  # ties
    keep = masks(found, Prune(amount, scope, min_numel=0))
    groups = [list(found)] if scope == "global" else [[name] for name in found]
    for names in groups:
        values = torch.cat([found[name].abs().flatten() for name in names])
        stays = torch.cat([keep[name].flatten() for name in names])
        assert int((~stays).sum()) == round(amount * len(values))
        if stays.any() and not stays.all():
            assert values[~stays].max() <= values[stays].min()


@given(
    st.integers(1, 4), st.integers(0, 4), st.integers(1, 5), st.sampled_from([(7,), (3, 3), (8,)])
)
def test_n_of_m_keeps_the_largest_of_each_group(n, more, rows, inner):
    m = n + more
    found = weights(a=(rows, *inner))
    keep = masks(found, Prune(n_m=(n, m), min_numel=0))["a"].flatten(1)
    values = found["a"].abs().flatten(1)
    for start in range(0, values.shape[1], m):
        group, kept = values[:, start : start + m], keep[:, start : start + m]
        assert (kept.sum(1) == min(n, group.shape[1])).all()
        lowest = torch.where(kept, group, torch.inf).amin(1)
        assert (torch.where(kept, 0.0, group).amax(1) <= lowest).all()


def test_zeros_are_positive_and_stay_through_training():
    layer = torch.nn.Linear(64, 64)
    live = dict(layer.named_parameters())
    keep = masks(live, Prune(0.7, min_numel=0))
    assert set(keep) == {"weight"}
    apply(live, keep)
    assert not torch.signbit(layer.weight[~keep["weight"]]).any()
    optimizer = torch.optim.Adam(layer.parameters(), 0.1)
    with frozen(live, keep):
        for _ in range(5):
            optimizer.zero_grad()
            (layer(torch.ones(3, 64)) ** 2).sum().backward()
            assert not layer.weight.grad[~keep["weight"]].any()
            optimizer.step()
    assert int((layer.weight == 0).sum()) == int((~keep["weight"]).sum())
    (layer(torch.ones(3, 64)) ** 2).sum().backward()  # afterwards gradients are free again
    assert layer.weight.grad[~keep["weight"]].any()


def test_a_model_that_is_pruned_already_loses_nothing_more():
    found = weights(a=(64, 64))
    apply(found, masks(found, Prune(0.5, min_numel=0)))
    before = found["a"].clone()
    apply(found, masks(found, Prune(0.5, min_numel=0)))
    assert torch.equal(found["a"], before)


@pytest.mark.parametrize(
    ("prune", "effective"), [(Prune(0.5), 9.0), (Prune(n_m=(2, 4)), 8.65), (Prune(0.9), 2.07)]
)
def test_pruned_bf16_costs_what_is_derived(prune, effective):
    """Kept values at 16 bits and the mask's entropy, less what coding saves of exponents."""
    found = {"w": weights(w=(1024, 1024))["w"].mul(0.02).bfloat16()}
    keep = masks(found, prune)
    apply(found, keep)
    array = leaf("w", (), found["w"]).chunk(...)
    kept = array[array != 0]
    part = kept.size / array.size
    mask = n_m_bits(2, 4) if prune.n_m else None
    bits = effective_bits(16, part, mask)
    assert bits == pytest.approx(effective, abs=0.01)
    counts = np.bincount((kept.view(np.uint16) >> 7 & 255).astype(int))
    p = counts[counts > 0] / counts.sum()
    saved = part * (8 + (p * np.log2(p)).sum())  # 8 bits of exponent need their entropy only
    measured = 8 * gpucodec.encode(array).nbytes / array.size
    print(f"{measured:.3f} bits, derived {bits - saved:.3f} = {bits:.3f} - {saved:.3f}")
    assert measured == pytest.approx(bits - saved, rel=0.02)


def test_arithmetic():
    assert entropy(0.5) == 1
    assert entropy(0) == entropy(1) == 0
    assert n_m_bits(2, 4) == pytest.approx(np.log2(6) / 4)
    assert 16 / effective_bits(16, 0.1) == pytest.approx(7.7, abs=0.05)


@pytest.mark.parametrize(
    "wrong",
    [{"amount": 1}, {"scope": "layer"}, {"n_m": (4, 2)}, {"n_m": (2, 4), "structured": True}],
)
def test_wrong_arguments_are_refused(wrong):
    with pytest.raises(ValueError):
        Prune(**wrong)
