"""Standardising on what is observed, with weights, and filling the rest."""

import pickle
import tracemalloc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.testing import assert_allclose, assert_array_equal
from sklearn.base import BaseEstimator, TransformerMixin
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks
from sklearn.utils.validation import _check_sample_weight, check_is_fitted

from skmm.modalities import (
    Modality,
    check_observed,
    observed_modalities,
    resolve_modalities,
    split_blocks,
    validate_input,
)
from skmm.scaling import BlockScaler

quick = settings(max_examples=60, deadline=None, derandomize=True)

# Sums of a few hundred terms in another order: some hundred roundings of 1e-16.
SAME = {"rtol": 1e-12, "atol": 1e-12}


def layout_of(X, shape=None, scaling="column"):
    modality = Modality(slice(None), shape=shape, scaling=scaling)
    return resolve_modalities({"a": modality}, X)


def fit_one(X, shape=None, scaling="column", sample_weight=None):
    return BlockScaler.fit(X, layout_of(X, shape, scaling), sample_weight)


def assert_same(left, right, **tolerance):
    for name in ("mean", "center", "scale"):
        for a, b in zip(getattr(left, name), getattr(right, name), strict=True):
            assert a.dtype == b.dtype == np.float64
            assert_allclose(a, b, **(tolerance or SAME), err_msg=name)


@st.composite
def samples(draw, max_rows=30, missing=(0.0, 0.2, 0.6)):
    """X of 12 columns with missing blocks and cells, and how it is to be scaled."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    n = draw(st.integers(2, max_rows))
    X = rng.normal(rng.normal(0, 10, 12), rng.lognormal(0, 2, 12), size=(n, 12))
    X[rng.random(X.shape) < draw(st.sampled_from(missing))] = np.nan
    shape = draw(st.sampled_from([None, (4, 3), (3, 2, 2)]))
    scaling = draw(st.sampled_from(["column", "block", None]))
    return X, shape, scaling, rng


def reference(X, shape, scaling, weight):
    """The definition, in plain numpy over observed cells."""
    steps = shape[0] if shape is not None and len(shape) == 2 else 1
    size = X.shape[1] // steps
    mean, m2, total = np.zeros(size), np.zeros(size), np.zeros(size)
    for j in range(size):
        values = X[:, j::size]
        cells = ~np.isnan(values) & (weight > 0)[:, np.newaxis]
        w = np.broadcast_to(weight[:, np.newaxis], values.shape)[cells]
        if len(w):
            mean[j] = np.average(values[cells], weights=w)
            m2[j] = w @ (values[cells] - mean[j]) ** 2
            total[j] = w.sum()
    scale = np.ones(size)
    for j in range(size):
        if scaling == "column" and total[j] and m2[j] > 1e-26:
            scale[j] = np.sqrt(m2[j] / total[j])
        if scaling == "block" and total[j] and m2.sum() > 1e-26:
            scale[j] = np.sqrt(m2.sum() / total.sum())
    return np.tile(mean, steps), np.tile(scale, steps)


class TestFit:
    @given(samples())
    @quick
    def test_definition(self, drawn):
        X, shape, scaling, rng = drawn
        weight = rng.choice([0.0, 0.3, 1.0, 2.5], size=len(X))
        scaler = fit_one(X, shape, scaling, weight)
        mean, scale = reference(X, shape, scaling, weight)
        assert_allclose(scaler.mean[0], mean, **SAME)
        assert_allclose(scaler.scale[0], scale, **SAME)
        center = np.zeros(12) if scaling is None else scaler.mean[0]
        assert_array_equal(scaler.center[0], center)

    @given(samples(missing=(0.0, 0.2)), st.booleans())
    @quick
    def test_columns_as_standard_scaler(self, drawn, weighted):
        X, _, _, rng = drawn
        X[:2] = rng.normal(size=(2, 12))  # StandardScaler warns of columns of NaN
        weight = rng.random(len(X)) if weighted else None
        scaler = fit_one(X, sample_weight=weight)
        expected = StandardScaler().fit(X, sample_weight=weight)
        assert_allclose(scaler.mean[0], expected.mean_, **SAME)
        assert_allclose(scaler.scale[0], expected.scale_, **SAME)
        scaled = scaler.apply(0, X)
        complete = ~np.isnan(X)
        assert_allclose(scaled[complete], expected.transform(X)[complete], **SAME)

    @given(samples())
    @quick
    def test_integer_weights_are_repetition(self, drawn):
        X, shape, scaling, rng = drawn
        weight = rng.integers(0, 4, size=len(X))
        weight[0] = 2
        repeated = fit_one(X.repeat(weight, axis=0), shape, scaling)
        assert_same(fit_one(X, shape, scaling, weight), repeated)

    @given(samples())
    @quick
    def test_zero_weight_is_deletion(self, drawn):
        X, shape, scaling, rng = drawn
        weight = rng.choice([0.0, 0.5, 1.5], size=len(X))
        weight[0] = 1.0
        X[weight == 0] = rng.choice([np.nan, 1e6], size=12)
        kept = weight > 0
        expected = fit_one(X[kept], shape, scaling, weight[kept])
        assert_same(fit_one(X, shape, scaling, weight), expected)

    @given(samples())
    @quick
    def test_only_ratios_of_weights_count(self, drawn):
        X, shape, scaling, rng = drawn
        weight = rng.random(len(X)) + 0.1
        expected = fit_one(X, shape, scaling, weight)
        assert_same(fit_one(X, shape, scaling, 1e6 * weight), expected)

    @given(samples(), st.sampled_from([1, 12, 40]))
    @quick
    def test_chunks_do_not_matter(self, drawn, cells):
        X, shape, scaling, rng = drawn
        weight = rng.choice([0.0, 1.0, 2.0], size=len(X))
        expected = fit_one(X, shape, scaling, weight)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("skmm.modalities.CHUNK_CELLS", cells)
            scaler = fit_one(X, shape, scaling, weight)
            applied = scaler.apply(0, X)
        assert_same(scaler, expected)
        assert_allclose(applied, expected.apply(0, X), rtol=1e-10, atol=1e-10)

    @given(samples())
    @quick
    def test_memory_order_and_row_order_do_not_matter(self, drawn):
        X, shape, scaling, rng = drawn
        expected = fit_one(X, shape, scaling)
        assert_same(fit_one(np.asfortranarray(X), shape, scaling), expected)
        assert_same(fit_one(X[rng.permutation(len(X))], shape, scaling), expected)

    def test_each_block_by_its_own_rule(self):
        X = np.random.default_rng(0).normal(3, 5, size=(50, 12))
        groups = {
            "a": Modality([5, 1], scaling="block"),
            "drop": [0, 2, 3, 4],
            "b": Modality(slice(6, 12), shape=(3, 2)),
        }
        layout = resolve_modalities(groups, X)
        scaler = BlockScaler.fit(X, layout)
        blocks = split_blocks(X, layout)
        a, b = (scaler.apply(m, block) for m, block in enumerate(blocks))
        assert_allclose(a.mean(axis=0), 0, atol=1e-14)
        assert_allclose(np.mean(a**2), 1)
        assert_allclose(a.std(axis=0), X[:, [5, 1]].std(axis=0) / scaler.scale[0])
        variables = b.reshape(-1, 2)
        assert_allclose(variables.mean(axis=0), 0, atol=1e-14)
        assert_allclose(variables.std(axis=0), 1)

    def test_a_block_of_sequences_centres_each_variable(self):
        X = np.array([[0.0, 10.0, 2.0, 30.0], [4.0, 20.0, np.nan, np.nan]])
        scaler = fit_one(X, (2, 2), "block")
        assert_allclose(scaler.mean[0], [2, 20, 2, 20])
        # Deviations -2, 2, 0 of the first variable and -10, 0, 10 of the second.
        assert_allclose(scaler.scale[0], np.sqrt(208 / 6))

    @pytest.mark.parametrize("scaling", ["column", "block"])
    @pytest.mark.parametrize("value", [0.0, 0.1, -3.7, 1e8 / 3, 1e-300])
    @pytest.mark.parametrize("shape", [None, (2, 2)])
    @pytest.mark.parametrize("dtype", [np.float32, np.float64])
    def test_constant_values_get_divisor_1(self, scaling, value, shape, dtype):
        X = np.full((1001, 4), value, dtype=dtype)
        weight = np.random.default_rng(0).random(1001)
        for sample_weight in (None, weight, 1e6 * weight):
            scaler = fit_one(X, shape, scaling, sample_weight)
            assert_array_equal(scaler.scale[0], 1)
            assert_allclose(scaler.apply(0, X), 0, atol=1e-7)

    @pytest.mark.parametrize("scaling", ["column", "block"])
    def test_a_spread_of_rounding_is_constant(self, scaling):
        X = np.array([[0.1 + 0.2], [0.3], [0.3]])
        assert X.std() > 0
        assert_array_equal(fit_one(X, scaling=scaling).scale[0], 1)

    def test_one_constant_column_beside_another(self):
        X = np.column_stack([np.full(20, 0.1), np.arange(20.0)])
        assert_allclose(fit_one(X).scale[0], [1, np.arange(20).std()])
        block = fit_one(X, scaling="block").scale[0]
        assert_allclose(block, np.sqrt(np.arange(20).var() / 2))

    @pytest.mark.parametrize("scaling", ["column", "block", None])
    def test_a_column_never_observed(self, scaling):
        X = np.array([[1.0, np.nan], [3.0, np.nan]])
        scaler = fit_one(X, scaling=scaling)
        assert_array_equal(scaler.mean[0], [2, 0])
        assert_array_equal(scaler.center[0], [0, 0] if scaling is None else [2, 0])
        assert_array_equal(scaler.scale[0], [1, 1])
        assert_array_equal(scaler.apply(0, X)[:, 1], [0, 0])

    def test_a_step_never_observed_has_its_variables_statistics(self):
        X = np.array([[1.0, np.nan], [3.0, np.nan]])
        scaler = fit_one(X, (2, 1))
        assert_array_equal(scaler.mean[0], [2, 2])
        assert_array_equal(scaler.scale[0], [1, 1])

    @pytest.mark.parametrize("scaling", ["column", "block"])
    def test_a_mean_of_1e8_keeps_six_digits(self, scaling):
        # Six digits at chunks of any size, and with a first value far off.
        deviations = np.random.default_rng(0).normal(size=(5000, 3))
        X = 1e8 + deviations
        exact = deviations.std(axis=0)
        if scaling == "block":
            exact = np.sqrt(np.mean((deviations - deviations.mean(axis=0)) ** 2))
        for cells in (3, 100, 2**18):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("skmm.modalities.CHUNK_CELLS", cells)
                scaler = fit_one(X, scaling=scaling)
            assert_allclose(scaler.scale[0], exact, rtol=1e-6)
            assert_allclose(scaler.mean[0] - 1e8, deviations.mean(axis=0), atol=1e-6)

    def test_a_first_value_far_off(self):
        X = np.random.default_rng(0).normal(size=(5000, 3))
        X[0] = 1e8
        assert_allclose(fit_one(X).scale[0], X.std(axis=0), rtol=1e-12)
        weight = np.ones(5000)
        weight[0] = 1e-12
        expected = np.sqrt(X[1:].var(axis=0) + 1e4 / 4999)
        assert_allclose(fit_one(X, sample_weight=weight).scale[0], expected, rtol=1e-6)

    def test_float32_accumulates_in_float64(self):
        X = (
            np.random.default_rng(0)
            .normal(1000, 1, size=(20_000, 3))
            .astype(np.float32)
        )
        assert_same(fit_one(X), fit_one(X.astype(np.float64)))


class TestApply:
    @given(samples(), st.sampled_from([np.float32, np.float64]))
    @quick
    def test_formula_and_fill(self, drawn, dtype):
        X, shape, scaling, _ = drawn
        X = X.astype(dtype)
        scaler = fit_one(X, shape, scaling)
        before = X.copy()
        scaled = scaler.apply(0, X)
        assert_array_equal(X, before)
        assert scaled.dtype == dtype
        mean, center, scale = scaler.mean[0], scaler.center[0], scaler.scale[0]
        filled = np.where(np.isnan(X), mean, X)
        expected = ((filled - center) / scale).astype(dtype)
        assert_array_equal(scaled, expected)
        if scaling is not None:
            assert_array_equal(scaled[np.isnan(X)], 0)
        assert scaler.apply(0, X, dtype=np.float32).dtype == np.float32

    def test_without_scaling_nan_becomes_the_mean(self):
        X = np.array([[1.0, 5.0], [3.0, np.nan]])
        scaled = fit_one(X, scaling=None).apply(0, X)
        assert_array_equal(scaled, [[1, 5], [3, 5]])
        assert not np.shares_memory(scaled, X)

    @given(samples(), st.data())
    @quick
    def test_rows_do_not_depend_on_one_another(self, drawn, data):
        X, shape, scaling, _ = drawn
        scaler = fit_one(X, shape, scaling)
        i = data.draw(st.integers(0, len(X) - 1))
        assert_array_equal(scaler.apply(0, X[i : i + 1]), scaler.apply(0, X)[i : i + 1])

    @given(samples(), st.sampled_from([np.float32, np.float64]))
    @quick
    def test_inverse(self, drawn, dtype):
        X, shape, scaling, _ = drawn
        scaler = fit_one(X, shape, scaling)
        filled = np.where(np.isnan(X), scaler.mean[0], X).astype(dtype)
        original = scaler.inverse(0, scaler.apply(0, filled))
        assert original.dtype == dtype
        # Relative to the size of the column: values near 0 lose digits to its mean.
        size = np.abs(scaler.mean[0]) + scaler.scale[0]
        error = np.abs(original - filled) / (size + np.abs(filled))
        assert error.max() < 10 * np.finfo(dtype).eps

    def test_float32_keeps_the_digits_of_a_small_spread(self):
        X = np.array([[100_000.0], [100_000.5], [100_001.0]], dtype=np.float32)
        expected = (X.astype(np.float64) - 100_000.5) / np.sqrt(1 / 6)
        assert_allclose(fit_one(X).apply(0, X), expected, rtol=1e-6, atol=1e-6)


def test_state_is_plain_arrays(tmp_path):
    X = np.random.default_rng(0).normal(size=(10, 4))
    scaler = fit_one(X)
    assert_same(pickle.loads(pickle.dumps(scaler)), scaler)
    for arrays in vars(scaler).values():
        assert isinstance(arrays, tuple)
        assert all(type(array) is np.ndarray for array in arrays)
    skops_io = pytest.importorskip("skops.io")
    data = skops_io.dumps(scaler)
    untrusted = skops_io.get_untrusted_types(data=data)
    assert untrusted == ["skmm.scaling.BlockScaler"]
    assert_same(skops_io.loads(data, trusted=untrusted), scaler)


def test_a_memory_map_is_never_copied_whole(tmp_path):
    n, p = 20_000, 1_000
    disk = np.memmap(tmp_path / "X", dtype=np.float32, mode="w+", shape=(n, p))
    disk[:] = np.arange(p) + np.arange(n)[:, np.newaxis]
    disk[5, :400] = np.nan
    disk.flush()
    X = np.memmap(tmp_path / "X", dtype=np.float32, mode="r", shape=(n, p))
    groups = {
        "a": slice(0, 400),
        "b": np.arange(400, 900),
        "c": np.arange(900, 1000)[::-1],
    }
    tracemalloc.start()
    try:
        layout = resolve_modalities(groups, X)
        observed_modalities(X, layout)
        scaler = BlockScaler.fit(X, layout)
        scaler.apply(1, split_blocks(X[:100], layout)[1])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < X.nbytes / 8
    assert_allclose(scaler.mean[1], np.arange(400, 900) + (n - 1) / 2)
    assert_allclose(scaler.scale[2], np.arange(n).std())


class Standardize(TransformerMixin, BaseEstimator):
    """The shortest estimator on the layout: what all of them do before their method."""

    def __init__(self, modalities=None):
        self.modalities = modalities

    def fit(self, X, y=None, sample_weight=None):
        validated = validate_input(self, X, reset=True)
        self.layout_ = resolve_modalities(self.modalities, X)
        if sample_weight is not None:
            sample_weight = _check_sample_weight(sample_weight, validated)
        observed = observed_modalities(validated, self.layout_)
        check_observed(observed, self.layout_, sample_weight=sample_weight)
        self.scaler_ = BlockScaler.fit(validated, self.layout_, sample_weight)
        return self

    def transform(self, X):
        check_is_fitted(self)
        X = validate_input(self, X, reset=False)
        blocks = split_blocks(X, self.layout_)
        return np.hstack([self.scaler_.apply(m, b) for m, b in enumerate(blocks)])

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.transformer_tags.preserves_dtype = ["float64", "float32"]
        return tags


def halves(X):
    half = X.shape[1] // 2
    return {"left": slice(0, half), "right": slice(half, None)}


def odd_and_even(X):
    p = X.shape[1]
    return {"odd": list(range(1, p, 2)), "even": list(range(0, p, 2))}


@parametrize_with_checks(
    [Standardize(), Standardize(halves), Standardize(odd_and_even)]
)
def test_scikit_learns_checks(estimator, check):
    check(estimator)
