# SPDX-License-Identifier: Apache-2.0
"""The row/column predictor: a bijection whatever the model, and models as the rules describe them."""

from __future__ import annotations

import fit_reference
import numpy as np
import pytest
from mutation_worker import Guarded
from transform_worker import Kernels, matrix

from gpucodec.kernels import predictor, spec
from gpucodec.kernels.predictor_fit import fit

KINDS = {2: np.uint16, 4: np.uint32}
NAMES = tuple(spec.PREDICTED_TYPES)


def random_model(name: str, n_rows: int, n_columns: int, tile_rows: int, rank: int, seed: int = 0):
    """A model of any bytes, as a hostile frame may hold it."""
    rng = np.random.default_rng([seed, n_rows, n_columns, rank])
    size = spec.n_offsets(n_rows, n_columns, tile_rows, rank)
    offsets = rng.integers(0, 256, size, np.uint8)
    base = int(rng.integers(-(1 << 15), 1 << 15))
    model = predictor.split(offsets, name, n_rows, n_columns, tile_rows, rank, base)
    assert (predictor.join(model) == offsets).all()
    return model


def reference_shift(words, model, name: str, first: int, direction: int):
    """Words with their offsets added or subtracted, by the formula."""
    mantissa_bits = spec.PREDICTED_TYPES[name].mantissa_bits
    bits = 8 * words.itemsize
    n_columns, tile_rows, rank, base = model.n_columns, model.tile_rows, model.rank, model.base
    index = first + np.arange(words.size)
    i, j = index // n_columns, index % n_columns
    products = np.zeros(words.size, np.int64)
    for k in range(rank):
        a = model.row_factors[i * rank + k].astype(np.int64)
        products += a * model.column_factors[k, j]
    products = ((products + (1 << 15)) % (1 << 16) - (1 << 15)) >> 1
    offset = base + products + 8 * model.rows[i].astype(np.int64)
    offset += 8 * model.columns[i // tile_rows * n_columns + j].astype(np.int64)
    whole = 1 << (bits - 1)
    moved_by = direction * offset * (1 << (mantissa_bits - spec.OFFSET_LOG)) % whole
    x = words.astype(np.int64)
    low = x % whole
    moved = (low + moved_by) % whole
    moved = np.where(moved == 0, moved_by, moved)
    return (np.where(low == 0, 0, moved) + x - low).astype(words.dtype)


def shifted(words, model, first: int, direction: int):
    out = np.zeros_like(words)
    raw, target = words.view(np.uint8), out.view(np.uint8)
    Kernels.shift_words(raw, words.itemsize, first, model, direction, target)
    return out


def sample(name: str, n: int) -> np.ndarray:
    word_bytes = 4 if name == "float32" else 2
    rng = np.random.default_rng(n)
    words = rng.integers(0, 1 << (8 * word_bytes), n, np.uint64).astype(KINDS[word_bytes])
    words[rng.random(n) < 0.1] = 0
    words[rng.random(n) < 0.1] = 1 << (8 * word_bytes - 1)
    return words


@pytest.mark.parametrize("name", NAMES)
def test_any_model_is_the_formula_and_can_be_undone(name):
    for n_rows, n_columns, tile_rows, rank in (
        *((7, 50, 7, 0), (70, 65, 32, 3), (3, 1, 1, 16), (1, 1, 1, 1), (90, 96, 64, 16)),
    ):
        model = random_model(name, n_rows, n_columns, tile_rows, rank)
        words = sample(name, n_rows * n_columns)
        for first, last in ((0, words.size), (words.size // 3, words.size), (0, 1)):
            part = words[first:last].copy()
            moved = shifted(part, model, first, -1)
            assert (moved == reference_shift(part, model, name, first, -1)).all()
            assert (shifted(moved, model, first, 1) == part).all()
            raw = moved.view(np.uint8)  # in place
            Kernels.shift_words(raw, moved.itemsize, first, model, 1, raw)
            assert (moved == part).all()


@pytest.mark.parametrize("name", ["bfloat16", "float16"])
def test_every_bit_pattern_under_every_kind_of_offset(name):
    words = np.arange(1 << 16).astype(np.uint16)
    for seed in range(8):
        model = random_model(name, 64, 1024, 32, 2, seed)
        moved = shifted(words, model, 0, -1)
        assert (shifted(moved, model, 0, 1) == words).all()
        assert ((moved & 0x7FFF == 0) == (words & 0x7FFF == 0)).all()
        assert ((moved ^ words) & 0x8000 == 0).all()
    for offset in range(-40, 40):  # one offset for all: a bijection
        model = predictor.split(np.zeros(1025, np.uint8), name, 1, 1024, 1, 0, 131 * offset)
        moved = [shifted(words[at : at + 1024], model, 0, -1) for at in range(0, 1 << 16, 1024)]
        assert np.unique(np.concatenate(moved)).size == 1 << 16


@pytest.mark.parametrize("name", NAMES)
def test_nothing_outside_is_touched(name):
    guarded = Guarded()
    for i, (n_rows, n_columns) in enumerate(((5, 3), (9, 33), (64, 100), (3, 1000))):
        model = random_model(name, n_rows, n_columns, 2, 4)
        words = sample(name, n_rows * n_columns)
        for first in (0, 7):
            part = words[first:]
            raw, canary = guarded.place(part.nbytes, low=bool(i & 1))
            canary[:] = 0xA5
            raw[:] = part.view(np.uint8)
            Kernels.shift_words(raw, words.itemsize, first, model, -1, raw)
            Kernels.shift_words(raw, words.itemsize, first, model, 1, raw)
            assert (canary == 0xA5).all()
            assert raw.tobytes() == part.tobytes()


def values(kind: str, n_rows: int, n_columns: int) -> np.ndarray:
    """float32 matrices, with all that a model must not stumble over."""
    rng = np.random.default_rng([n_rows, n_columns])
    array = matrix(n_rows, n_columns)
    if kind == "signed":
        array *= rng.choice([-1, 1], array.shape).astype(np.float32)
        array *= np.abs(rng.normal(size=array.shape)).astype(np.float32)
    elif kind == "holes":
        array[rng.random(array.shape) < 0.3] = 0
        array[n_rows // 2] = 0
        array[:, 3] = 0
    elif kind == "special":
        for value in (np.nan, np.inf, -np.inf, -0.0, 1e-45, 3e38):
            array[rng.integers(0, n_rows, 9), rng.integers(0, n_columns, 9)] = value
    elif kind == "noise":
        array = rng.normal(size=array.shape).astype(np.float32)
    elif kind == "zero":
        array[:] = 0
    return array


@pytest.mark.parametrize("kind", ["plain", "signed", "holes", "special", "noise", "zero"])
@pytest.mark.parametrize("shape", [(100, 130), (300, 64), (40, 600), (1, 50), (64, 32)])
def test_models_are_those_of_the_rules(kind, shape):
    array = values(kind, *shape)
    with np.errstate(over="ignore"):
        halves = np.clip(array * 2**18, -6e4, 6e4).astype(np.float16)
    cases = {
        "float32": array.view(np.uint32),
        "bfloat16": np.ascontiguousarray(array.view(np.uint32) >> 16).astype(np.uint16),
        "float16": halves.view(np.uint16),
    }
    for name, words in cases.items():
        model, expected = fit(words, name, 5), fit_reference.fit(words, name, 5)
        assert (model is None) == (expected is None)
        if model is None:
            continue
        rows, columns, row_factors, column_factors, tile_rows, rank, base = expected
        assert (model.tile_rows, model.rank, model.base) == (tile_rows, rank, base)
        arrays = [np.ravel(a).astype(np.int8) for a in (rows, columns, row_factors, column_factors)]
        assert (predictor.join(model).view(np.int8) == np.concatenate(arrays)).all()


def test_narrow_and_wide_matrices_have_no_model():
    assert fit(matrix(1000, 31).view(np.uint32), "float32") is None
    assert fit(np.ones((2, (1 << 15) + 1), np.uint32), "float32") is None


def test_heads_and_patterns_are_found():
    model = fit(matrix(512, 256).view(np.uint32), "float32")
    assert model is not None
    assert model.tile_rows == 32
    assert 3 <= model.rank <= 6


def test_a_model_takes_most_of_the_spread_away():
    array = matrix(256, 300)
    words = array.view(np.uint32)
    model = fit(words, "float32")
    assert model is not None
    moved = shifted(words.ravel(), model, 0, -1).view(np.float32)
    assert np.log2(array).std() > 2
    assert np.abs(np.log2(moved).mean() - (96 - 127)) < 1  # the middle of a quarter of exponents
    assert np.log2(moved).std() < 0.6
