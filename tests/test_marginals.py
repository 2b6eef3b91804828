"""Marginal transforms against scipy's ranks and quantiles, and what they promise."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, rankdata, spearmanr

from skmm.marginals import GaussianScores, rank_correlation

VARIANTS = ["shrinkage", "truncation"]


def column(seed, n=40):
    """A column with ties."""
    return np.random.default_rng(seed).normal(size=n).round(1)[:, None]


def reference(x, variant):
    """Scores of training rows, by scipy."""
    n, r = len(x), rankdata(x)
    if variant == "shrinkage":
        z = norm.ppf(r / (n + 1))
    else:
        d = 1 / (4 * n**0.25 * math.sqrt(math.pi * math.log(n)))
        z = norm.ppf(np.clip(r / n, d, 1 - d))
    return z / z.std()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("seed", range(5))
def test_training_rows_have_the_scores_of_their_ranks(seed, variant):
    x = column(seed)
    z = GaussianScores.fit(x, variant=variant).transform(x)
    # norm.ppf and ndtri are the same function.
    np.testing.assert_allclose(z[:, 0], reference(x[:, 0], variant), atol=1e-13)


def test_the_margins_of_truncation():
    """Of Liu et al.: 0.0208, 0.0120 and 0.0095 for 100, 500 and 1000 rows."""
    for n, margin in [(100, 0.0208), (500, 0.0120), (1000, 0.0095)]:
        x = np.arange(float(n))[:, None]
        found = GaussianScores.fit(x, variant="truncation")
        lowest = found.transform(x[:1])[0, 0] * found.scale[0]
        assert norm.cdf(lowest) == pytest.approx(margin, abs=5e-5)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from([None, *VARIANTS]))
def test_weights_are_repetitions(seed, variant):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(15, 2)).round(1)
    x[rng.random(x.shape) < 0.2] = np.nan
    weight = rng.integers(0, 4, 15)
    many = np.repeat(x, weight, axis=0)
    new = rng.normal(size=(8, 2))
    one = GaussianScores.fit(x, weight.astype(float), variant).transform(new)
    two = GaussianScores.fit(many, None, variant).transform(new)
    np.testing.assert_allclose(one, two, atol=1e-12)
    np.testing.assert_allclose(
        rank_correlation(x, weight.astype(float)), rank_correlation(many), atol=1e-12
    )


@pytest.mark.parametrize("variant", VARIANTS)
def test_new_values(variant):
    x = np.array([[1.0], [2.0], [2.0], [4.0]])
    scores = GaussianScores.fit(x, variant=variant).transform
    at = scores(np.array([[0.0], [1.0], [1.5], [2.0], [3.0], [4.0], [9.0], [np.nan]]))
    at = at[:, 0]
    assert at[0] == at[1]  # beyond the training values nothing changes
    assert at[5] == at[6]
    assert (np.diff(at[1:6]) >= 0).all()
    assert at[1] < at[2] < at[3] < at[4] <= at[5]
    assert np.isnan(at[7])


@pytest.mark.parametrize("variant", [None, *VARIANTS])
def test_gaps_are_left_out(variant):
    x = column(0)
    gaps = np.vstack([x, np.full((10, 1), np.nan)])
    one, two = (GaussianScores.fit(v, variant=variant) for v in (x, gaps))
    np.testing.assert_array_equal(one.transform(x), two.transform(x))


@pytest.mark.parametrize("variant", [None, *VARIANTS])
@pytest.mark.parametrize("seed", range(3))
def test_inverse(seed, variant):
    x = np.unique(column(seed))[:, None]
    found = GaussianScores.fit(x, variant=variant)
    z = found.transform(x)
    back = found.inverse_transform(z)
    if variant == "truncation":  # the tails are cut to one score
        inside = (z[:, 0] > z.min()) & (z[:, 0] < z.max())
        x, back = x[inside], back[inside]
    # Interpolation at a knot: rounding of the abscissa over the slope.
    np.testing.assert_allclose(back, x, atol=1e-10)
    assert np.isnan(found.inverse_transform(np.full((1, 1), np.nan))).all()


@pytest.mark.parametrize("variant", [None, *VARIANTS])
def test_degenerate_columns(variant):
    x = np.array([[3.0, np.nan, 5.0], [3.0, np.nan, np.nan], [3.0, np.nan, np.nan]])
    found = GaussianScores.fit(x, variant=variant)
    z = found.transform(x)
    # Constant; truncated ranks are not symmetric, by their definition.
    np.testing.assert_allclose(z[:, 0], norm.ppf(2 / 3) * (variant == "truncation"))
    assert np.isnan(z[:, 1]).all()  # never seen
    assert z[0, 2] == 0  # seen once
    assert np.isfinite(found.transform(np.full((1, 3), 4.0))[0, [0, 2]]).all()


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("empty", [0, 1, 2])
def test_columns_do_not_touch_one_another(empty, variant):
    x = np.random.default_rng(0).normal(size=(20, 3))
    x[:, empty] = np.nan
    z = GaussianScores.fit(x, variant=variant).transform(x)
    for j in set(range(3)) - {empty}:
        alone = GaussianScores.fit(x[:, [j]], variant=variant).transform(x[:, [j]])
        np.testing.assert_array_equal(z[:, [j]], alone)


@pytest.mark.parametrize("seed", range(5))
def test_rank_correlation_is_spearmans(seed):
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(60, 4)) @ rng.normal(size=(4, 4))).round(1)
    expected = 2 * np.sin(np.pi / 6 * spearmanr(x).statistic)
    np.testing.assert_allclose(rank_correlation(x), expected, atol=1e-12)


def test_rank_correlation_with_gaps():
    x = np.column_stack([np.arange(6.0), np.arange(6.0) ** 3, -np.arange(6.0)])
    x[:3, 1], x[3:, 2] = np.nan, np.nan
    x = np.column_stack([x, np.full(6, 2.0)])
    found = rank_correlation(x)
    assert found[0, 1] == pytest.approx(1)
    assert found[0, 2] == pytest.approx(-1)
    assert found[1, 2] == 0  # no row has both
    np.testing.assert_array_equal(found[3], [0, 0, 0, 1])  # constant
    np.testing.assert_array_equal(found, found.T)


def test_rank_correlation_of_gaussians_is_the_correlation():
    """The map from Spearman's to Pearson's correlation, which holds for Gaussians."""
    rng = np.random.default_rng(0)
    for rho in (-0.8, 0.0, 0.5):
        x = rng.multivariate_normal([0, 0], [[1, rho], [rho, 1]], 20_000)
        # Standard error of some 1 / sqrt(20000).
        assert rank_correlation(np.exp(x))[0, 1] == pytest.approx(rho, abs=0.03)
