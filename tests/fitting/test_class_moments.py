"""Moments of classes: by numpy on complete rows, and what gaps and options do."""

import numpy as np
import pytest
import torch

from skmm.fitting.class_moments import class_moments


def draw(seed, n=60, p=5, n_classes=3, gaps=0.0):
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, p)) @ rng.normal(size=(p, p))
    codes = np.arange(n) % n_classes
    return z, rng.random((n, p)) >= gaps, codes, rng.integers(1, 4, n).astype(float)


def moments_of(z, observed, codes, weight, n_classes=3, shrinkage=0.0, pooling=0.0):
    return class_moments(
        torch.as_tensor(np.where(observed, z, 0.0)),
        torch.as_tensor(observed),
        torch.as_tensor(codes),
        torch.as_tensor(weight),
        n_classes,
        shrinkage=shrinkage,
        pooling=pooling,
    )


def within(z, codes, weight):
    """Covariances of classes, and of all around their own means."""
    own = np.stack(
        [np.cov(z[codes == c].T, aweights=weight[codes == c], ddof=0) for c in range(3)]
    )
    share = np.bincount(codes, weight) / weight.sum()
    return own, np.einsum("c,cij->ij", share, own)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(
    ("shrinkage", "pooling"), [(0, 0), (0, 0.3), (0.2, 0), (0.2, 0.3), (0, 1), (1, 1)]
)
def test_complete_rows(seed, shrinkage, pooling):
    z, observed, codes, weight = draw(seed)
    found = moments_of(z, observed, codes, weight, 3, shrinkage, pooling)
    own, pooled = within(z, codes, weight)
    expected = (1 - pooling) * own + pooling * pooled
    expected = (1 - shrinkage) * expected + shrinkage * np.diag(np.diag(pooled))
    assert found.shared == (pooling == 1)
    if found.shared:
        expected = expected[:1]
    np.testing.assert_allclose(found.covariance, expected, atol=1e-12)
    means = [
        np.average(z[codes == c], axis=0, weights=weight[codes == c]) for c in range(3)
    ]
    np.testing.assert_allclose(found.location, means, atol=1e-12)
    np.testing.assert_allclose(found.n_rows, np.bincount(codes, weight))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("gaps", [0.2, 0.6])
def test_gaps_leave_it_positive_definite(seed, gaps):
    z, observed, codes, weight = draw(seed, n=18, p=12, gaps=gaps)
    found = moments_of(z, observed, codes, weight)
    assert bool(torch.isfinite(found.covariance).all())
    torch.linalg.cholesky(found.covariance)
    torch.testing.assert_close(found.covariance, found.covariance.mT)


def test_pairs_rest_on_the_rows_that_have_both():
    """Many rows, so that no eigenvalue needs to be raised."""
    z, observed, codes, weight = draw(0, n=3000, gaps=0.3)
    z += np.random.default_rng(1).normal(size=z.shape)
    found = moments_of(z, observed, codes, weight)
    for c in range(3):
        for i, j in [(0, 1), (2, 4), (3, 3)]:
            rows = (codes == c) & observed[:, i] & observed[:, j]
            # Around the means of all that is observed of each node.
            centre = [
                np.average(
                    z[(codes == c) & observed[:, k], k],
                    weights=weight[(codes == c) & observed[:, k]],
                )
                for k in (i, j)
            ]
            product = (z[rows, i] - centre[0]) * (z[rows, j] - centre[1])
            expected = np.average(product, weights=weight[rows])
            assert float(found.covariance[c, i, j]) == pytest.approx(expected, abs=1e-9)


def test_what_a_class_never_shows_is_as_in_all():
    z, observed, codes, weight = draw(1)
    observed[codes == 0, 2] = False
    found = moments_of(z, observed, codes, weight)
    others = codes != 0
    mean = np.average(z[others, 2], weights=weight[others])
    assert float(found.location[0, 2]) == pytest.approx(mean)
    torch.linalg.cholesky(found.covariance)


def test_constant_nodes():
    z, observed, codes, weight = draw(2)
    z[:, 0] = 7.0  # in all rows: variance one, no covariance
    z[:, 1] = codes  # within each class: a small variance, nothing of the means
    found = moments_of(z, observed, codes, weight)
    np.testing.assert_allclose(found.covariance[:, 0, 0], 1)
    np.testing.assert_allclose(found.covariance[:, 0, 1:], 0, atol=1e-12)
    np.testing.assert_allclose(found.location[:, 1], [0, 1, 2], atol=1e-12)
    assert bool((found.covariance[:, 1, 1] > 0).all())
    assert bool((found.covariance[:, 1, 1] < 1e-3).all())
