"""Normal-Wishart factors: conjugacy, expectations and unobserved cells."""

import math

import numpy as np
import pytest
import torch
from scipy.special import multigammaln
from scipy.stats import multivariate_normal, wishart

from skmm.core.gaussian import marginal_log_density
from skmm.core.normal_wishart import (
    LOG_2PI,
    Completer,
    NormalWishart,
    NotPositiveDefinite,
    Sums,
    cholesky,
    coefficients,
    completed_sums,
    divergence,
    expected_log_det,
    features,
    log_normaliser,
    n_features,
    pack_sums,
    posterior,
    sums_from_features,
    with_cells,
    without_cells,
)

SEEDS = range(4)
KINDS = [False, True]  # diagonal


def draw_prior(rng, d, diagonal):
    root = rng.normal(size=(d, d))
    scale = root @ root.T + d * np.eye(d)
    if diagonal:
        scale = scale.diagonal()
    return NormalWishart(
        torch.tensor(rng.normal(size=(1, d))),
        torch.tensor([rng.uniform(0.2, 2)], dtype=torch.float64),
        torch.tensor(scale.copy())[None],
        torch.tensor([d + rng.uniform(0, 3)], dtype=torch.float64),
    )


def draw_factors(rng, d, diagonal, k=3, n=40):
    """A prior, rows, responsibilities and the posterior that they give."""
    prior = draw_prior(rng, d, diagonal)
    z = torch.tensor(rng.normal(size=(d, n)) * 2)
    resp = torch.tensor(rng.dirichlet(np.ones(k), size=n).T.copy())
    return prior, z, resp, posterior(prior, sums(z, resp, diagonal))


def sums(z, resp, diagonal):
    second = torch.einsum("kn,in,jn->kij", resp, z, z)
    if diagonal:
        second = second.diagonal(dim1=1, dim2=2)
    return Sums(resp.sum(1), resp @ z.T, second)


def expected_densities(q, z):
    """E log N(z) of each component by the formula, one row and component at a time."""
    out = np.empty((len(q.dof), z.shape[1]))
    d = q.size
    for k in range(len(q.dof)):
        scale = q.scale[k].numpy()
        inverse = np.diag(1 / scale) if q.diagonal else np.linalg.inv(scale)
        nu = float(q.dof[k])
        log_det = sum(
            torch.special.digamma(torch.tensor((nu - i) / 2, dtype=torch.float64))
            for i in range(d)
        )
        log_det = float(log_det) + d * math.log(2) + np.linalg.slogdet(inverse)[1]
        for i in range(z.shape[1]):
            apart = z[:, i].numpy() - q.mean[k].numpy()
            square = nu * apart @ inverse @ apart
            out[k, i] = 0.5 * (
                log_det - d * LOG_2PI - d / float(q.precision[k]) - square
            )
    return out


@pytest.mark.parametrize("diagonal", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_densities_are_one_product(seed, diagonal):
    rng = np.random.default_rng(seed)
    _, z, _, q = draw_factors(rng, 4, diagonal)
    c = coefficients(q)
    c = without_cells(c, 4) if diagonal else c
    phi = features(z, torch.ones(z.shape[1], dtype=z.dtype), None, diagonal)
    assert len(phi) == n_features(4, diagonal)
    # Rounding of some hundred terms of size 100.
    np.testing.assert_allclose(c @ phi, expected_densities(q, z), atol=1e-10)


@pytest.mark.parametrize("diagonal", KINDS)
def test_a_row_that_does_not_count_says_nothing(diagonal):
    rng = np.random.default_rng(0)
    _, z, _, q = draw_factors(rng, 3, diagonal)
    seen = torch.ones(z.shape[1], dtype=z.dtype)
    seen[5], z[:, 5] = 0, 0
    c = coefficients(q)
    c = without_cells(c, 3) if diagonal else c
    assert (c @ features(z, seen, None, diagonal))[:, 5].abs().max() == 0


@pytest.mark.parametrize("diagonal", KINDS)
def test_sums_and_back(diagonal):
    rng = np.random.default_rng(1)
    _, z, resp, _ = draw_factors(rng, 5, diagonal)
    phi = features(z, torch.ones(z.shape[1], dtype=z.dtype), None, diagonal)
    total = resp @ phi.T
    if diagonal:
        total = with_cells(total, 5)
    found, entropy = sums_from_features(total, 5, diagonal, None)
    direct = sums(z, resp, diagonal)
    for name in ("count", "first", "second"):
        torch.testing.assert_close(getattr(found, name), getattr(direct, name))
    assert entropy == 0
    torch.testing.assert_close(pack_sums(found), total)


@pytest.mark.parametrize("seed", SEEDS)
def test_posterior_by_the_natural_parameters(seed):
    """The prior's and the rows' natural parameters add up."""
    rng = np.random.default_rng(seed)
    prior, z, resp, q = draw_factors(rng, 4, False)
    direct = sums(z, resp, False)
    torch.testing.assert_close(q.precision, prior.precision + direct.count)
    first = prior.precision * prior.mean + direct.first
    torch.testing.assert_close(q.precision[:, None] * q.mean, first)
    outer = torch.einsum("ki,kj->kij", q.mean, q.mean) * q.precision[:, None, None]
    before = prior.precision * prior.mean.T @ prior.mean
    torch.testing.assert_close(q.scale + outer, prior.scale + before + direct.second)


@pytest.mark.parametrize("diagonal", KINDS)
def test_no_rows_leave_exactly_the_prior(diagonal):
    rng = np.random.default_rng(2)
    prior, z, resp, _ = draw_factors(rng, 4, diagonal)
    q = posterior(prior, sums(z, resp * 0, diagonal))
    for name in ("mean", "precision", "scale", "dof"):
        got, wanted = getattr(q, name), getattr(prior, name)
        assert torch.equal(got, wanted.expand_as(got))


@pytest.mark.parametrize("seed", SEEDS)
def test_expected_log_det_against_draws(seed):
    rng = np.random.default_rng(seed)
    _, _, _, q = draw_factors(rng, 3, False, k=1)
    law = wishart(float(q.dof[0]), np.linalg.inv(q.scale[0].numpy()))
    draws = np.linalg.slogdet(law.rvs(20000, random_state=seed))[1]
    found = float(expected_log_det(q, cholesky(q.scale))[0])
    # Five standard errors of the mean of the draws.
    assert found == pytest.approx(draws.mean(), abs=5 * draws.std() / math.sqrt(20000))


def test_normaliser_against_scipy():
    rng = np.random.default_rng(3)
    _, _, _, q = draw_factors(rng, 4, False)
    d = 4
    expected = (
        multigammaln(q.dof.numpy() / 2, d)
        - d * (d - 1) / 4 * np.log(np.pi)  # depends on D alone
        + q.dof.numpy() * d / 2 * np.log(2)
        - q.dof.numpy() / 2 * np.linalg.slogdet(q.scale.numpy())[1]
        - d / 2 * np.log(q.precision.numpy())
    )
    np.testing.assert_allclose(log_normaliser(q), expected, rtol=1e-13)


@pytest.mark.parametrize("diagonal", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_expected_likelihood_less_divergence_is_the_ratio_of_normalisers(
    seed, diagonal
):
    """At the posterior, and below it at any other factor."""
    rng = np.random.default_rng(seed)
    prior, z, resp, q = draw_factors(rng, 4, diagonal)

    def value(q):
        likelihood = (resp.numpy() * expected_densities(q, z)).sum(1)
        return likelihood - divergence(q, prior).numpy()

    gain = log_normaliser(q) - log_normaliser(prior)
    gain = gain - 0.5 * 4 * LOG_2PI * resp.sum(1)
    np.testing.assert_allclose(value(q), gain, atol=1e-10)
    other = NormalWishart(q.mean + 0.1, q.precision * 1.2, q.scale * 1.1, q.dof + 1)
    assert (value(other) < value(q)).all()


@pytest.mark.parametrize("diagonal", KINDS)
def test_divergence_is_zero_at_the_prior(diagonal):
    prior = draw_prior(np.random.default_rng(4), 5, diagonal)
    assert float(divergence(prior, prior)[0]) == pytest.approx(0, abs=1e-12)


def certain(rng, d, diagonal):
    """Factors so concentrated that they are Gaussians with known parameters."""
    q = draw_prior(rng, d, diagonal)
    nu = 1e7
    return NormalWishart(q.mean, q.precision * 1e12, q.scale * nu, q.dof * 0 + nu)


@pytest.mark.parametrize("diagonal", KINDS)
@pytest.mark.parametrize("seed", SEEDS)
def test_unobserved_cells_are_integrated_out(seed, diagonal):
    rng = np.random.default_rng(seed)
    d = 5
    q = certain(rng, d, diagonal)
    z = torch.tensor(rng.normal(size=(8, d)))
    pattern = torch.tensor([True, False, True, True, False])
    covariance = torch.diag_embed(q.covariance) if diagonal else q.covariance
    expected = marginal_log_density(z, pattern.expand(8, d), q.mean, covariance)[:, 0]
    if diagonal:
        cells = pattern[:, None].expand(d, 8).to(z)
        phi = features(z.T * cells, torch.ones(8, dtype=z.dtype), cells, True)
        found = (coefficients(q) @ phi)[0]
    else:
        hidden = torch.tensor([[1, 4]]).expand(8, 2)
        found = Completer(q)(z, hidden).log_density[0]
    # The factors' own spread is of the order of D^2 / nu.
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("seed", SEEDS)
def test_completion_is_the_conditional_gaussian(seed):
    rng = np.random.default_rng(seed)
    _, z, _, q = draw_factors(rng, 4, False)
    n = z.shape[1]
    done = Completer(q)(z.T, torch.tensor([[0, 3]]).expand(n, 2))
    fixed = Completer(
        NormalWishart(q.mean, q.precision, q.covariance, q.dof), fixed=True
    )(z.T, torch.tensor([[0, 3]]).expand(n, 2))
    torch.testing.assert_close(fixed.filled, done.filled)
    o, u = [1, 2], [0, 3]
    for k in range(len(q.dof)):
        precision = np.linalg.inv(q.covariance[k].numpy())
        apart = z.T.numpy()[:, o] - q.mean[k].numpy()[o]
        spread = np.linalg.inv(precision[np.ix_(u, u)])
        mean = q.mean[k].numpy()[u] - apart @ precision[np.ix_(o, u)] @ spread
        np.testing.assert_allclose(done.filled[k][:, u], mean, atol=1e-11)
        np.testing.assert_array_equal(done.filled[k][:, o], z.T[:, o])
        entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * spread)[1]
        np.testing.assert_allclose(done.entropy[k], entropy, atol=1e-11)
        known = multivariate_normal(
            q.mean[k].numpy()[o], q.covariance[k].numpy()[np.ix_(o, o)]
        )
        np.testing.assert_allclose(
            fixed.log_density[k], known.logpdf(z.T.numpy()[:, o]), atol=1e-10
        )
    resp = torch.tensor(rng.uniform(size=(len(q.dof), n)))
    found, entropy = completed_sums(done, resp)
    for k in range(len(q.dof)):
        spread = np.zeros((4, 4))
        precision = np.linalg.inv(q.covariance[k].numpy())
        spread[np.ix_(u, u)] = np.linalg.inv(precision[np.ix_(u, u)])
        filled = done.filled[k].numpy()
        second = (filled * resp[k].numpy()[:, None]).T @ filled
        second = second + float(resp[k].sum()) * spread
        np.testing.assert_allclose(found.second[k], second, atol=1e-9)
    torch.testing.assert_close(entropy, (resp * done.entropy).sum())


@pytest.mark.parametrize("diagonal", KINDS)
def test_a_singular_scale_is_named(diagonal):
    scale = torch.zeros(1, 3, dtype=torch.float64)
    scale = scale if diagonal else torch.diag_embed(scale)
    with pytest.raises(NotPositiveDefinite, match="not positive"):
        cholesky(scale)
