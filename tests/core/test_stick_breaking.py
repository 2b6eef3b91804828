"""Broken sticks: closed forms, limits and independent references."""

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.special import beta, digamma
from scipy.stats import beta as beta_law

from skmm.core.stick_breaking import (
    beta_divergence,
    beta_posterior,
    expected_log_weights,
    in_order,
    log_evidence,
    log_expected_weights,
    out_of_order,
    sorted_order,
)

SEEDS = range(5)


def draw(seed, n=7):
    rng = np.random.default_rng(seed)
    counts = torch.tensor(rng.gamma(1.0, 20.0, size=n))
    return counts, float(rng.uniform(0.1, 5.0))


@pytest.mark.parametrize("seed", SEEDS)
def test_posterior_counts_own_rows_and_those_after(seed):
    counts, eta = draw(seed)
    a, b = beta_posterior(counts, eta)
    assert (a >= 1).all() and (b >= eta).all()
    assert b[-1] == eta  # nothing comes after the last
    assert float((a - 1).sum()) == pytest.approx(float(counts.sum()), rel=1e-14)
    torch.testing.assert_close(b[0] - eta, counts[1:].sum(), rtol=1e-13, atol=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_expectations_against_loops(seed):
    counts, eta = draw(seed)
    a, b = (t.numpy() for t in beta_posterior(counts, eta))
    log_weights, weights, left, log_left = [], [], 1.0, 0.0
    for x, y in zip(a, b, strict=True):
        log_weights.append(digamma(x) - digamma(x + y) + log_left)
        weights.append(x / (x + y) * left)
        log_left += digamma(y) - digamma(x + y)
        left *= y / (x + y)
    parts = torch.tensor(a), torch.tensor(b)
    # Only the order of the operations differs.
    np.testing.assert_allclose(expected_log_weights(*parts), log_weights, rtol=1e-12)
    np.testing.assert_allclose(log_expected_weights(*parts).exp(), weights, rtol=1e-12)
    assert float(log_expected_weights(*parts).exp().sum()) == pytest.approx(
        1 - left, abs=1e-14
    )
    assert float(log_expected_weights(*parts).exp().sum()) < 1


def test_weights_of_the_prior_halve():
    counts = torch.zeros(6, dtype=torch.float64)
    weights = log_expected_weights(*beta_posterior(counts, 1.0)).exp()
    np.testing.assert_allclose(weights, 0.5 ** np.arange(1, 7), rtol=1e-14)


def test_tiny_concentration_stays_finite():
    counts = torch.tensor([5.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    log_weights = expected_log_weights(*beta_posterior(counts, 1e-3))
    assert torch.isfinite(log_weights).all()
    assert log_weights[-1] < -1e3  # fine as a logarithm


@pytest.mark.parametrize("seed", SEEDS)
def test_divergence_against_torch(seed):
    counts, eta = draw(seed)
    a, b = beta_posterior(counts, eta)
    law = torch.distributions.Beta
    prior = law(torch.ones_like(a), torch.full_like(a, eta))
    expected = torch.distributions.kl_divergence(law(a, b), prior)
    # Both subtract log-gammas of some hundred.
    torch.testing.assert_close(beta_divergence(a, b, eta), expected, rtol=0, atol=1e-11)
    assert (beta_divergence(a, b, eta) >= -1e-12).all()


def test_divergence_is_zero_at_the_prior():
    a, b = beta_posterior(torch.zeros(4, dtype=torch.float64), 2.5)
    np.testing.assert_allclose(beta_divergence(a, b, 2.5), 0, atol=1e-14)


def kumaraswamy_divergence(a, b, alpha, eta, n_terms=2000):
    """KL of Kumaraswamy(a, b) to Beta(alpha, eta), by Nalisnick and Smyth's series."""
    terms = np.arange(1, n_terms + 1)
    tail = (eta - 1) * b * np.sum(beta(terms / a, b) / (terms + a * b))
    return (
        (a - alpha) / a * (-np.euler_gamma - digamma(b) - 1 / b)
        + np.log(a * b)
        + np.log(beta(alpha, eta))
        - (b - 1) / b
        + tail
    )


@pytest.mark.parametrize("b", [1.0, 1.6, 4.0])
@pytest.mark.parametrize("eta", [0.5, 1.0, 3.0])
def test_divergence_against_the_kumaraswamy_series(b, eta):
    # Kumaraswamy(1, b) is Beta(1, b).
    ours = beta_divergence(*torch.tensor([[1.0], [b]], dtype=torch.float64), eta)
    # The series is cut after 2000 terms that fall as a power.
    expected = kumaraswamy_divergence(1.0, b, 1.0, eta)
    assert float(ours[0]) == pytest.approx(expected, abs=2e-3 if eta != 1 else 1e-12)


def test_the_kumaraswamy_series_itself():
    assert kumaraswamy_divergence(1.0, 1.7, 1.0, 1.0) == pytest.approx(
        -np.log(1 / 1.7) - 0.7 / 1.7, abs=1e-12
    )
    found = kumaraswamy_divergence(1.3, 2.5, 1.0, 1.0)
    assert found == pytest.approx(0.190877, abs=1e-6)

    def integrand(x):
        density = 1.3 * 2.5 * x**0.3 * (1 - x**1.3) ** 1.5
        return density * np.log(density)

    assert found == pytest.approx(quad(integrand, 0, 1)[0], abs=1e-7)


@pytest.mark.parametrize("seed", SEEDS)
def test_evidence_is_that_of_the_assignments(seed):
    """For whole counts: the chance of the assignments, by its integral over sticks."""
    rng = np.random.default_rng(seed)
    counts, eta = rng.integers(0, 6, size=3), float(rng.uniform(0.3, 3))
    expected = 1.0
    density = beta_law(1, eta).pdf
    later = counts.sum() - counts.cumsum()
    for n, after in zip(counts, later, strict=True):

        def chance(v, n=n, after=after):
            return v**n * (1 - v) ** after * density(v)

        expected *= quad(chance, 0, 1)[0]
    found = log_evidence(torch.tensor(counts, dtype=torch.float64), eta)
    assert float(found) == pytest.approx(np.log(expected), abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_decreasing_order_has_the_largest_evidence(seed):
    counts, eta = draw(seed, n=6)
    order = sorted_order(counts)
    best = log_evidence(in_order(counts, order), eta)
    rng = np.random.default_rng(seed)
    for _ in range(50):
        other = counts[torch.as_tensor(rng.permutation(6))]
        assert log_evidence(other, eta) <= best + 1e-10


def test_order_and_back():
    counts = torch.tensor([[3.0, 9.0, 1.0, 9.0]])
    order = sorted_order(counts)
    assert order.tolist() == [[1, 3, 0, 2]]  # ties by index
    assert torch.equal(out_of_order(in_order(counts, order), order), counts)
