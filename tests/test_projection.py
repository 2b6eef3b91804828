"""Working coordinates: principal components, what is missing, and the way back."""

import numpy as np
import pytest
from sklearn.decomposition import PCA

from skmm.modalities import Modality, resolve_modalities
from skmm.projection import BlockProjection

SEEDS = range(4)


def draw(seed, n=200, d=8, rank=3, noise=0.3):
    rng = np.random.default_rng(seed)
    low = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, d)) * 2
    return low + noise * rng.normal(size=(n, d)) + rng.normal(size=d) * 5


def fit(X, q, weight=None, groups=None, **kwargs):
    layout = resolve_modalities(groups, X)
    return BlockProjection.fit(X, layout, q, weight, **kwargs), layout


@pytest.mark.parametrize("seed", SEEDS)
def test_coordinates_are_principal_components(seed):
    X = draw(seed)
    projection, _ = fit(X, 3)
    z, cells = projection.apply(0, X)
    assert cells.all()
    scaled = (X - X.mean(0)) / X.std(0)
    pca = PCA(3).fit(scaled)
    expected = pca.transform(scaled)
    signs = np.sign((z * expected).sum(0))
    np.testing.assert_allclose(z, expected * signs, atol=1e-10)
    axes = projection.axes[0]
    # scikit-learn divides by n - 1.
    np.testing.assert_allclose(axes.values, pca.explained_variance_ * 199 / 200)
    assert axes.rest == pytest.approx(pca.noise_variance_ * 199 / 200)
    np.testing.assert_allclose(projection.spread[0], np.cov(z.T, bias=True), atol=1e-10)
    assert projection.size(0) == 3


def test_the_way_back_is_the_best_approximation():
    X = draw(0, noise=0.0)  # three axes hold everything
    projection, _ = fit(X, 3)
    z, _ = projection.apply(0, X)
    np.testing.assert_allclose(projection.inverse(0, z), X, atol=1e-10)


@pytest.mark.parametrize("seed", SEEDS)
def test_missing_cells_have_their_conditional_expectation(seed):
    """Against the Gaussian of probabilistic principal components, written out."""
    X = draw(seed)
    projection, _ = fit(X, 3)
    axes = projection.axes[0]
    v = axes.vectors
    # The latent coordinates have the whole eigenvalue, noise comes on top.
    full = (v * axes.values) @ v.T + axes.rest * np.eye(8)
    holed = X[:5].copy()
    holed[0, [1, 4]] = np.nan
    holed[1, :6] = np.nan
    holed[2] = np.nan
    scale, mean = projection.scaler.scale[0], projection.scaler.mean[0]
    filled = projection.fill(0, holed)
    for i in (0, 1):
        o = ~np.isnan(holed[i])
        x = ((X[i] - mean) / scale)[o]
        guess = full[np.ix_(~o, o)] @ np.linalg.solve(full[np.ix_(o, o)], x)
        np.testing.assert_allclose(
            filled[i, ~o], guess * scale[~o] + mean[~o], atol=1e-9
        )
        np.testing.assert_allclose(filled[i, o], X[i, o], rtol=1e-12)
    assert np.isnan(filled[2]).all()
    z, cells = projection.apply(0, holed)
    assert not cells[2].any() and (z[2] == 0).all()
    whole, _ = projection.apply(0, filled[[0, 1, 3]])
    np.testing.assert_allclose(z[[0, 1, 3]], whole, atol=1e-10)


def test_narrow_blocks_are_only_scaled():
    X = draw(1)
    X[3, 2] = np.nan
    projection, _ = fit(X, 5, groups=[3, 5])
    assert projection.axes == (None, None)
    z, cells = projection.apply(0, X[:, :3])
    assert not cells[3, 2] and z[3, 2] == 0
    back = projection.inverse(0, z)
    np.testing.assert_allclose(back[cells], X[:, :3][cells], rtol=1e-12)
    log_scale = projection.log_scale(0, cells)
    scale = projection.scaler.scale[0]
    assert log_scale[0] == pytest.approx(np.log(scale).sum())
    assert log_scale[3] == pytest.approx(np.log(scale[:2]).sum())


@pytest.mark.parametrize("diagonal", [False, True])
def test_weights_are_repetitions(diagonal):
    X = draw(2, n=40)
    X[::5, 1] = np.nan
    weight = np.random.default_rng(0).integers(0, 4, size=40)
    groups = [6, 2]
    one, _ = fit(X, 3, weight, groups, diagonal=diagonal)
    other, _ = fit(np.repeat(X, weight, axis=0), 3, None, groups, diagonal=diagonal)
    for mine, theirs in zip(one.spread, other.spread, strict=True):
        np.testing.assert_allclose(mine, theirs, atol=1e-12)
    np.testing.assert_allclose(
        one.apply(0, X[:, :6])[0], other.apply(0, X[:, :6])[0], atol=1e-9
    )


def test_moments_go_with_the_coordinates():
    X = draw(3)
    for q in (None, 3):
        projection, _ = fit(X, q)
        mean, covariance = projection.forward_moments(
            0, X.mean(0), np.cov(X.T, bias=True)
        )
        z, _ = projection.apply(0, X)
        np.testing.assert_allclose(mean, z.mean(0), atol=1e-10)
        np.testing.assert_allclose(covariance, np.cov(z.T, bias=True), atol=1e-10)
        assert projection.forward_moments(0, None, None) == (None, None)
    projection, _ = fit(X, None)
    np.testing.assert_allclose(
        projection.backward_covariance(0, projection.spread[0][None])[0],
        np.cov(X.T, bias=True),
        rtol=1e-10,
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_noise_has_the_variance_that_was_left_out(seed):
    X = draw(seed, n=4000, noise=1.0)
    projection, _ = fit(X, 3)
    z, _ = projection.apply(0, X)
    noisy = projection.noise(0, z, np.random.RandomState(seed))
    scale = projection.scaler.scale[0]
    left = (noisy - projection.inverse(0, z)) / scale
    np.testing.assert_allclose(left @ projection.axes[0].vectors, 0, atol=1e-9)
    total = (left**2).sum(1).mean()
    # Five axes are left out; the mean of 4000 draws is within a few hundredths.
    assert total == pytest.approx(5 * projection.axes[0].rest, rel=0.08)


def test_constant_block_has_one_axis():
    X = np.hstack([np.ones((20, 4)), draw(0, n=20, d=4)])
    projection, _ = fit(X, 2, groups=[4, 4])
    assert projection.size(0) == 1
    assert np.isfinite(projection.apply(0, X[:, :4])[0]).all()


def test_without_scaling_the_mean_is_still_taken_off():
    X = draw(4)
    layout = resolve_modalities({"x": Modality(slice(0, 8), scaling=None)}, X)
    projection = BlockProjection.fit(X, layout, None)
    z, _ = projection.apply(0, X)
    np.testing.assert_allclose(z, X - X.mean(0), atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_wide_blocks_have_the_same_axes_by_passes(seed, monkeypatch):
    X = draw(seed, n=60, d=150, rank=5, noise=0.5)
    weight = np.random.default_rng(seed).uniform(0.5, 2, size=60)
    exact, _ = fit(X, 5, weight)
    monkeypatch.setattr("skmm.projection.WIDE", 100)
    passes, _ = fit(X, 5, weight)
    one, other = exact.axes[0], passes.axes[0]
    # Eight passes, with a gap of a few times between the fifth and the sixth value.
    np.testing.assert_allclose(other.values, one.values, rtol=1e-6)
    np.testing.assert_allclose(other.vectors, one.vectors, atol=1e-4)
    assert other.rest == pytest.approx(one.rest, rel=1e-6)


def test_twenty_thousand_columns_of_two_hundred_rows():
    X = draw(0, n=200, d=20_000, rank=3)
    projection, _ = fit(X, 10)
    z, _ = projection.apply(0, X)
    assert z.shape == (200, 10)
    assert projection.axes[0].values[3] < 0.1 * projection.axes[0].values[2]
