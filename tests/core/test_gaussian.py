"""Gaussians with missing entries against SciPy and loops."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import multivariate_normal

from skmm.core.gaussian import (
    conditional_mean,
    log_density,
    marginal_log_density,
    moments,
    nearest_correlation_scale,
    patterns,
)


def draw(seed, n=12, p=5, n_classes=3):
    """Rows, masks with empty and full rows, means and covariances."""
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(n, p)) * 2
    observed = rng.random((n, p)) < 0.6
    observed[0], observed[1] = False, True
    mean = rng.normal(size=(n_classes, p))
    m = rng.normal(size=(n_classes, p, 2 * p))
    covariance = m @ m.swapaxes(1, 2) / p
    return (torch.as_tensor(a) for a in (z, observed, mean, covariance))


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shared", [False, True])
def test_log_density(seed, shared):
    z, _, mean, covariance = draw(seed)
    covariance = covariance[:1] if shared else covariance
    found = log_density(z, mean, covariance).numpy()
    assert found.shape == (12, 3)
    for c in range(3):
        one = multivariate_normal(mean[c].numpy(), covariance[0 if shared else c])
        # Rounding of squares over eigenvalues down to 0.1.
        np.testing.assert_allclose(found[:, c], one.logpdf(z), rtol=1e-10)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("shared", [False, True])
def test_marginal_density_is_that_of_the_submatrix(seed, shared):
    z, observed, mean, covariance = draw(seed)
    covariance = covariance[:1] if shared else covariance
    z[~observed] = 1e9  # what is missing must not matter
    found = marginal_log_density(z, observed, mean, covariance).numpy()
    for i in range(len(z)):
        o = observed[i].numpy()
        for c in range(3):
            if not o.any():
                assert found[i, c] == 0
                continue
            S = covariance[0 if shared else c].numpy()[np.ix_(o, o)]
            one = multivariate_normal(mean[c].numpy()[o], S)
            expected = one.logpdf(z[i].numpy()[o])
            assert found[i, c] == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_conditional_mean(seed):
    z, observed, mean, covariance = draw(seed)
    mu, S = mean[0].numpy(), covariance[0].numpy()
    for o in observed.numpy():
        before = z.clone()
        found = conditional_mean(z, mean[0], covariance[0], torch.as_tensor(o)).numpy()
        assert torch.equal(z, before)
        assert np.array_equal(found[:, o], z.numpy()[:, o])
        slope = S[np.ix_(~o, o)] @ np.linalg.inv(S[np.ix_(o, o)])
        expected = mu[~o] + (z.numpy()[:, o] - mu[o]) @ slope.T
        # Inverse and Cholesky differ by roundings times a condition of some hundreds.
        np.testing.assert_allclose(found[:, ~o], expected, rtol=0, atol=1e-11)


@pytest.mark.parametrize("seed", range(3))
def test_conditional_mean_maximises_the_joint_density(seed):
    z, observed, mean, covariance = draw(seed)
    rng = np.random.default_rng(seed)
    for i in range(2, 6):
        o = observed[i]
        filled = conditional_mean(z[i : i + 1], mean[0], covariance[0], o)
        best = float(log_density(filled, mean[:1], covariance[:1]))
        for _ in range(5):
            other = filled.clone()
            other[:, ~o] += 0.1 * torch.as_tensor(rng.normal(size=int((~o).sum())))
            if bool((~o).any()):
                assert float(log_density(other, mean[:1], covariance[:1])) < best


@settings(max_examples=30)
@given(
    seed=st.integers(0, 2**32 - 1),
    n=st.integers(1, 15),
    p=st.integers(1, 5),
    rate=st.sampled_from([0.0, 0.4, 0.9, 1.0]),
)
def test_moments_against_loops(seed, n, p, rate):
    rng = np.random.default_rng(seed)
    z, weight = rng.normal(size=(n, p)) + 3, rng.uniform(0, 2, size=n)
    observed = rng.random((n, p)) < rate
    mean, scatter, total = moments(*(torch.as_tensor(a) for a in (z, observed, weight)))
    expected = np.zeros(p)
    for j in range(p):
        rows = observed[:, j]
        if rows.any():
            expected[j] = np.average(z[rows, j], weights=weight[rows])
    # Rounding of sums of at most 15 numbers.
    np.testing.assert_allclose(mean, expected, rtol=1e-12, atol=1e-14)
    for j in range(p):
        for k in range(p):
            both = observed[:, j] & observed[:, k]
            d = (z[both] - expected)[:, [j, k]]
            s = (weight[both] * d[:, 0] * d[:, 1]).sum()
            assert float(scatter[j, k]) == pytest.approx(s, rel=1e-10, abs=1e-12)
            assert float(total[j, k]) == pytest.approx(weight[both].sum(), rel=1e-12)
    assert torch.equal(scatter, scatter.T)
    assert torch.equal(total, total.T)


@pytest.mark.parametrize("seed", range(4))
def test_weights_are_repetitions(seed):
    z, observed, _, _ = draw(seed)
    times = torch.as_tensor(np.random.default_rng(seed).integers(0, 4, size=12))
    one = moments(z, observed, times.double())
    rows = torch.repeat_interleave(torch.arange(12), times)
    two = moments(z[rows], observed[rows], torch.ones(len(rows)).double())
    for a, b in zip(one, two, strict=True):
        # The same sums in another order.
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_complete_rows_give_numpys_covariance():
    z, _, _, _ = draw(0)
    everywhere = torch.ones(12, 5, dtype=torch.bool)
    mean, scatter, total = moments(z, everywhere, torch.ones(12).double())
    np.testing.assert_allclose(mean, z.numpy().mean(0), rtol=1e-12)
    expected = np.cov(z.numpy().T, bias=True)
    np.testing.assert_allclose(scatter / total, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("smallest", [1e-3, 0.1])
def test_raising_the_eigenvalues_of_correlations(seed, smallest):
    rng = np.random.default_rng(seed)
    m = rng.normal(size=(2, 6, 6))
    indefinite = m + m.swapaxes(1, 2) + 3 * np.eye(6)
    m = rng.normal(size=(1, 6, 30))
    well = m @ m.swapaxes(1, 2)
    units = 10 ** rng.uniform(-3, 3, size=6)
    covariance = np.concatenate([indefinite, well])
    diagonal = np.abs(np.diagonal(covariance, axis1=1, axis2=2)) + 0.1
    np.einsum("cjj->cj", covariance)[:] = diagonal
    covariance = torch.as_tensor(covariance * np.outer(units, units))
    before = covariance.clone()
    found = nearest_correlation_scale(covariance, smallest)
    assert torch.equal(covariance, before)
    assert torch.equal(found[2], covariance[2])
    raised = 0
    for c in range(3):
        d = covariance[c].diagonal().sqrt()
        old, new = (m[c] / torch.outer(d, d) for m in (covariance, found))
        # Two roundings of one.
        torch.testing.assert_close(
            new.diagonal(), torch.ones(6).double(), rtol=1e-14, atol=0
        )
        smallest_old = float(torch.linalg.eigvalsh(old)[0])
        smallest_new = float(torch.linalg.eigvalsh(new)[0])
        if smallest_old >= smallest:
            assert torch.equal(found[c], covariance[c])
            continue
        raised += 1
        # Raising, the diagonal grows, by at most 1 + smallest + |lowest|; scaling back
        # to one divides the eigenvalues by at most that.
        most = float((old.diagonal() + smallest - min(smallest_old, 0)).max())
        assert smallest_new >= smallest / most * (1 - 1e-10)
        assert smallest_new > max(smallest_old, 0)
    assert raised >= 1


def test_raised_eigenvalues_keep_a_zero_variance():
    covariance = torch.tensor([[[1.0, 0.0], [0.0, 0.0]]], dtype=torch.float64)
    found = nearest_correlation_scale(covariance, 0.01)
    assert bool(found.isfinite().all())
    assert float(found[0, 0, 0]) == pytest.approx(1.0, rel=1e-14)


def test_patterns_partition_the_rows():
    _, observed, _, _ = draw(1, n=40, p=3)
    seen = []
    distinct = set()
    for pattern, rows in patterns(observed):
        assert bool((observed[rows] == pattern).all())
        assert len(rows) > 0
        distinct.add(tuple(pattern.tolist()))
        seen.extend(rows.tolist())
    assert sorted(seen) == list(range(40))
    assert distinct == {tuple(row) for row in observed.tolist()}
    complete = list(patterns(torch.ones(4, 2, dtype=torch.bool)))
    assert len(complete) == 1
    assert complete[0][0].tolist() == [True, True]
    assert complete[0][1].tolist() == [0, 1, 2, 3]
