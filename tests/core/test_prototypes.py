"""Mixtures of prototypes against loops, SciPy and scikit-learn, in float64."""

import itertools
import math
import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import logsumexp
from scipy.stats import multivariate_normal
from sklearn.exceptions import ConvergenceWarning
from sklearn.mixture import GaussianMixture

from skmm.core.prototypes import (
    LEAST_SHARE,
    START_ROWS,
    Prototypes,
    blend,
    expectation_maximisation,
    full_covariances,
    greedy_start,
    log_joint,
    log_likelihood,
    mean_variance,
    moment_step,
    responsibilities,
    row_start,
    unrolled_em,
)

SEEDS = range(4)
# Sums of some dozen float64 terms of size ten.
EXACT = {"rtol": 1e-11, "atol": 1e-11}
FEW = settings(max_examples=15)
seeds = st.integers(0, 10_000)
both_forms = pytest.mark.parametrize("full", [False, True])


def normal(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def mixture(seed, m, k, d, full=False):
    """Prototypes of m modalities whose components overlap."""
    weights = normal(m, k, seed=seed).softmax(-1)
    means = 2 * normal(m, k, d, seed=seed + 1)
    if full:
        root = normal(m, k, d, d, seed=seed + 2)
        return Prototypes(weights, means, root @ root.mT + 0.3 * torch.eye(d))
    return Prototypes(weights, means, normal(m, k, d, seed=seed + 2).exp())


def clusters(seed, n=40, d=2, k=3, m=2):
    """Rows of k groups, apart but not far."""
    x = normal(m, n, d, seed=seed)
    centres = torch.tensor([[4.0 * j, -3.0 * (j % 2)] for j in range(k)])[:, :d]
    return x + centres[torch.arange(n) % k].double()


def random_resp(seed, m, n, k):
    return (2 * normal(m, n, k, seed=seed)).softmax(-1)


def some_weight(seed, m, n):
    """Positive weights, with a third of the rows absent, never the first two."""
    weight = normal(m, n, seed=seed).abs() + 0.1
    weight[normal(m, n, seed=seed + 1) < -0.4] = 0
    weight[:, :2] = weight[:, :2].clamp_min(0.5)
    return weight


def parts_of(prototypes, m):
    return (part[m].numpy() for part in prototypes)


def loop_log_joint(x, prototypes):
    out = np.zeros((*x.shape[:2], prototypes.weights.shape[-1]))
    for m in range(len(x)):
        weights, means, covariances = parts_of(prototypes, m)
        for k, (pi, mu, cov) in enumerate(
            zip(weights, means, covariances, strict=True)
        ):
            cov = cov if prototypes.is_full else np.diag(cov)
            with np.errstate(divide="ignore"):
                log_pi = np.log(pi)
            density = multivariate_normal(mu, cov).logpdf(x[m].numpy())
            out[m, :, k] = log_pi + density
    return torch.from_numpy(out)


def loop_moments(x, resp, weight, floor, full):
    """Weights, means and covariances of one modality, two passes, row by row."""
    x, resp, weight = x.numpy(), resp.numpy(), weight.numpy()
    n, d = x.shape
    weights, means, covariances = [], [], []
    for k in range(resp.shape[1]):
        count = sum(weight[i] * resp[i, k] for i in range(n))
        mean = sum(weight[i] * resp[i, k] * x[i] for i in range(n)) / count
        cov = np.zeros((d, d))
        for i in range(n):
            centred = x[i] - mean
            cov += weight[i] * resp[i, k] * np.outer(centred, centred) / count
        cov += floor * np.eye(d)
        weights.append(count / weight.sum())
        means.append(mean)
        covariances.append(cov if full else np.diag(cov))
    return Prototypes(
        *(torch.from_numpy(np.array(part)) for part in (weights, means, covariances))
    )


def assert_close(found, expected, **close):
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, **(close or EXACT))


class TestDensities:
    @both_forms
    @FEW
    @given(seeds, st.integers(1, 5), st.integers(1, 4))
    def test_log_joint_is_scipys(self, full, seed, k, d):
        prototypes = mixture(seed, 2, k, d, full)
        x = 3 * normal(2, 6, d, seed=seed + 9)
        expected = loop_log_joint(x, prototypes)
        # Distances of up to some thousand, solved with covariances of condition 100.
        torch.testing.assert_close(
            log_joint(x, prototypes), expected, rtol=1e-9, atol=1e-9
        )

    @both_forms
    def test_component_without_weight(self, full):
        prototypes = mixture(0, 1, 3, 2, full)
        prototypes.weights[0, 1] = 0
        x = normal(1, 5, 2)
        found = log_joint(x, prototypes)
        assert (found[..., 1] == -math.inf).all()
        torch.testing.assert_close(found, loop_log_joint(x, prototypes), **EXACT)
        assert (responsibilities(x, prototypes)[..., 1] == 0).all()

    @both_forms
    @pytest.mark.parametrize("seed", SEEDS)
    def test_far_from_the_origin(self, seed, full):
        """Squares of the coordinates are 1e12, those of the distances one."""
        prototypes, x = mixture(seed, 2, 3, 2, full), normal(2, 7, 2, seed=seed)
        shift = 1e6
        moved = Prototypes(
            prototypes.weights, prototypes.means + shift, prototypes.covariances
        )
        # The shifted coordinates themselves are rounded to 1e-10.
        torch.testing.assert_close(
            log_joint(x + shift, moved),
            log_joint(x, prototypes),
            rtol=1e-6,
            atol=1e-6,
        )

    @both_forms
    @FEW
    @given(seeds)
    def test_responsibilities_are_bayes_rule(self, full, seed):
        prototypes, x = mixture(seed, 2, 3, 2, full), normal(2, 5, 2, seed=seed)
        joint = loop_log_joint(x, prototypes).exp()
        torch.testing.assert_close(
            responsibilities(x, prototypes),
            joint / joint.sum(-1, keepdim=True),
            **EXACT,
        )

    def test_rows_far_from_all_components_belong_to_one(self):
        prototypes = mixture(0, 1, 3, 2)
        resp = responsibilities(1e6 * normal(1, 5, 2), prototypes)
        torch.testing.assert_close(resp.sum(-1), torch.ones(1, 5).double(), **EXACT)

    @FEW
    @given(seeds)
    def test_log_likelihood_is_the_weighted_mean(self, seed):
        prototypes, x = mixture(seed, 2, 3, 2), normal(2, 6, 2, seed=seed + 5)
        weight = some_weight(seed, 2, 6)
        log_p = logsumexp(loop_log_joint(x, prototypes).numpy(), axis=-1)
        expected = np.average(log_p, axis=1, weights=weight.numpy())
        found = log_likelihood(x, prototypes, weight)
        torch.testing.assert_close(found, torch.from_numpy(expected), **EXACT)
        x[weight == 0] = 1e200
        torch.testing.assert_close(log_likelihood(x, prototypes, weight), found)

    @FEW
    @given(seeds)
    def test_mean_variance_is_numpys(self, seed):
        x, weight = normal(2, 7, 3, seed=seed), some_weight(seed, 2, 7)
        for m in range(2):
            cov = np.cov(x[m].T.numpy(), aweights=weight[m].numpy(), ddof=0)
            torch.testing.assert_close(
                float(mean_variance(x, weight)[m]), np.trace(cov) / 3, **EXACT
            )


class TestMomentStep:
    @both_forms
    @FEW
    @given(seeds, st.integers(1, 4), st.integers(1, 3))
    def test_weighted_moments_by_loop(self, full, seed, k, d):
        x, weight = normal(2, 6, d, seed=seed), some_weight(seed, 2, 6)
        resp = random_resp(seed, 2, 6, k)
        floor = torch.tensor([0.1, 0.02]).double()
        found = moment_step(x, resp, weight, floor, full)
        for m in range(2):
            expected = loop_moments(x[m], resp[m], weight[m], float(floor[m]), full)
            assert_close(found[m], expected)
        number = moment_step(x, resp, weight, 0.3, full)
        assert_close(number[1], loop_moments(x[1], resp[1], weight[1], 0.3, full))

    @both_forms
    def test_floor_is_zero_by_default(self, full):
        x, resp = normal(1, 6, 2), random_resp(0, 1, 6, 2)
        weight = torch.ones(1, 6).double()
        expected = loop_moments(x[0], resp[0], weight[0], 0.0, full)
        assert_close(moment_step(x, resp, weight, full=full)[0], expected)

    @both_forms
    @pytest.mark.parametrize("seed", SEEDS)
    def test_gradients(self, seed, full):
        """Of the written formula, though a constant is subtracted from the rows."""
        x = normal(2, 5, 2, seed=seed).requires_grad_()
        resp, weight = random_resp(seed, 2, 5, 2), some_weight(seed, 2, 5)
        assert torch.autograd.gradcheck(
            lambda x: tuple(moment_step(x, resp, weight, 0.1, full)), x
        )
        found = moment_step(x, resp, weight, 0.1, full)
        share = resp * weight[..., None]
        (slope,) = torch.autograd.grad(found.means.sum(), x)
        expected = (share / share.sum(1, keepdim=True)).sum(-1, keepdim=True)
        torch.testing.assert_close(slope, expected.expand_as(x), **EXACT)

    @both_forms
    @FEW
    @given(seeds)
    def test_weights_are_repetition(self, full, seed):
        x, resp = normal(1, 5, 2, seed=seed), random_resp(seed, 1, 5, 3)
        times = torch.randint(1, 4, (5,), generator=torch.Generator().manual_seed(seed))
        weighted = moment_step(x, resp, times.double()[None], 0.1, full)
        longer = [part.repeat_interleave(times, 1) for part in (x, resp)]
        ones = torch.ones(1, int(times.sum())).double()
        assert_close(weighted, moment_step(*longer, ones, 0.1, full))

    @both_forms
    @pytest.mark.parametrize("garbage", [1e3, -1e100])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_absent_rows_have_no_part(self, seed, garbage, full):
        x, weight = normal(2, 6, 2, seed=seed), some_weight(seed, 2, 6)
        weight[:, -1] = 0
        resp = random_resp(seed, 2, 6, 2)
        clean = moment_step(x, resp, weight, 0.1, full)
        filled = torch.where(weight[..., None] > 0, x, garbage).requires_grad_()
        found = moment_step(filled, resp, weight, 0.1, full)
        assert_close(found, clean)
        (slope,) = torch.autograd.grad(sum(part.sum() for part in found), filled)
        assert (slope[weight == 0] == 0).all()
        assert (slope[weight > 0] != 0).any()

    @both_forms
    def test_component_without_rows(self, full):
        x, weight = normal(2, 5, 2), torch.ones(2, 5).double()
        resp = random_resp(0, 2, 5, 3)
        resp[1, :, 2] = 0
        before = normal(2, 3, 2, seed=8)
        kept = moment_step(x, resp, weight, 0.1, full, before)
        assert kept.weights[1, 2] == 0
        torch.testing.assert_close(kept.means[1, 2], before[1, 2])
        assert not torch.equal(kept.means[0], before[0])
        middle = moment_step(x, resp, weight, 0.1, full)
        torch.testing.assert_close(middle.means[1, 2], x[1].mean(0), **EXACT)
        assert all(part.isfinite().all() for part in (*kept, *middle))
        expected = loop_moments(x[0], resp[0], weight[0], 0.1, full)
        assert_close(kept[0], expected)

    @both_forms
    def test_one_row_and_constant_columns(self, full):
        """More components than rows, and variances that are the floor alone."""
        x = normal(2, 1, 3)
        found = moment_step(
            x, torch.ones(2, 1, 4).double() / 4, torch.ones(2, 1), 0.2, full
        )
        torch.testing.assert_close(found.means, x.expand(2, 4, 3), **EXACT)
        constant = 7.0 + torch.zeros(2, 9, 3).double()
        same = moment_step(
            constant, random_resp(0, 2, 9, 4), torch.ones(2, 9), 0.2, full
        )
        flat = 0.2 * torch.ones(2, 4, 3).double()
        for prototypes in (found, same):
            expected = torch.diag_embed(flat) if full else flat
            torch.testing.assert_close(prototypes.covariances, expected, **EXACT)

    def test_modality_without_rows(self):
        x, weight = normal(2, 5, 2), torch.ones(2, 5).double()
        weight[1] = 0
        found = moment_step(x, random_resp(0, 2, 5, 2), weight, 0.1)
        assert all(part.isfinite().all() for part in found)
        assert responsibilities(x, found).isfinite().all()

    @both_forms
    def test_variance_far_from_the_origin(self, full):
        """E x^2 - (E x)^2 would have no digit left."""
        x, weight = normal(1, 20, 2), torch.ones(1, 20).double()
        resp = random_resp(0, 1, 20, 2)
        near = moment_step(x, resp, weight, 0.0, full)
        far = moment_step(x + 1e8, resp, weight, 0.0, full)
        # Coordinates of 1e8 are rounded to 1e-8.
        torch.testing.assert_close(far.covariances, near.covariances, rtol=0, atol=1e-6)


class TestBlend:
    @both_forms
    @FEW
    @given(seeds, st.floats(0.0, 1.0))
    def test_moments_of_the_mixture_of_both(self, full, seed, rate):
        old, new = mixture(seed, 2, 3, 2, full), mixture(seed + 50, 2, 3, 2, full)
        found = blend(old, new, rate)
        for m, k in itertools.product(range(2), range(3)):
            a = (1 - rate) * float(old.weights[m, k])
            b = rate * float(new.weights[m, k])
            parts, total = [(a, old), (b, new)], a + b
            mean = sum(w * p.means[m, k] for w, p in parts) / total
            second = torch.zeros(2, 2).double()
            for w, p in parts:
                cov = p.covariances[m, k]
                cov = cov if full else torch.diag(cov)
                mu = p.means[m, k]
                second += w / total * (cov + torch.outer(mu, mu))
            cov = second - torch.outer(mean, mean)
            torch.testing.assert_close(float(found.weights[m, k]), total, **EXACT)
            torch.testing.assert_close(found.means[m, k], mean, **EXACT)
            torch.testing.assert_close(
                found.covariances[m, k], cov if full else cov.diagonal(), **EXACT
            )

    @both_forms
    @pytest.mark.parametrize("seed", SEEDS)
    def test_two_batches_are_one(self, seed, full):
        x, resp = normal(1, 9, 2, seed=seed), random_resp(seed, 1, 9, 3)
        weight = torch.ones(1, 9).double()
        old, new = (
            moment_step(x[:, rows], resp[:, rows], weight[:, rows], 0.0, full)
            for rows in (slice(0, 6), slice(6, 9))
        )
        whole = moment_step(x, resp, weight, 0.0, full)
        assert_close(blend(old, new, 3 / 9), whole)

    def test_components_that_one_side_lacks(self):
        old, new = mixture(0, 1, 3, 2), mixture(1, 1, 3, 2)
        old.weights[0, 0], new.weights[0, 1] = 0, 0
        old.weights[0, 2] = new.weights[0, 2] = 0
        found = blend(old, new, 0.3)
        torch.testing.assert_close(found.means[0, 0], new.means[0, 0], **EXACT)
        torch.testing.assert_close(found.covariances[0, 0], new.covariances[0, 0])
        torch.testing.assert_close(found.means[0, 1], old.means[0, 1], **EXACT)
        torch.testing.assert_close(found.covariances[0, 1], old.covariances[0, 1])
        assert all(part.isfinite().all() for part in found)


def loop_cost(x, weight, chosen):
    """Weighted sum of the squared distances to the nearest of some points."""
    return sum(
        float(w) * min(float((row - c).square().sum()) for c in chosen)
        for row, w in zip(x, weight, strict=True)
        if w > 0
    )


class TestStarts:
    @FEW
    @given(seeds, st.integers(1, 4))
    def test_greedy_tries_all_rows(self, seed, k):
        x, weight = normal(2, 8, 2, seed=seed), some_weight(seed, 2, 8)
        floor = torch.tensor([0.1, 0.2]).double()
        weights, means, covariances = greedy_start(x, weight, k, floor)
        assert (weights == 1 / k).all()
        for m in range(2):
            rows = x[m][weight[m] > 0]
            for t in range(k):
                before = [*means[m, :t]]
                least = min(loop_cost(x[m], weight[m], [*before, r]) for r in rows)
                found = loop_cost(x[m], weight[m], [*before, means[m, t]])
                torch.testing.assert_close(found, least, **EXACT)
                assert (rows == means[m, t]).all(1).any()
            everything = torch.ones(8, 1).double()
            expected = loop_moments(x[m], everything, weight[m], float(floor[m]), False)
            torch.testing.assert_close(
                covariances[m], expected.covariances.expand(k, 2), **EXACT
            )

    @FEW
    @given(seeds)
    def test_greedy_knows_neither_order_nor_repetition(self, seed):
        x, weight = normal(2, 30, 3, seed=seed), some_weight(seed, 2, 30)
        start = greedy_start(x, weight, 4)
        order = torch.randperm(30, generator=torch.Generator().manual_seed(seed))
        assert_close(greedy_start(x[:, order], weight[:, order], 4), start)
        twice = greedy_start(x.repeat(1, 2, 1), weight.repeat(1, 2), 4)
        assert_close(twice, start)
        times = torch.arange(30) % 3 + 1
        longer = [v.repeat_interleave(times, 1) for v in (x, weight)]
        assert_close(greedy_start(*longer, 4), greedy_start(x, weight * times, 4))

    @FEW
    @given(seeds)
    def test_greedy_of_pairs(self, seed):
        """Either row of a pair leaves the same sum: rounding must not decide."""
        centres = 20 * torch.eye(4).double()[:3] + normal(3, 4, seed=seed)
        x = (centres[:, None] + normal(3, 2, 4, seed=seed + 1)).reshape(1, 6, 4)
        start = greedy_start(x, torch.ones(1, 6).double(), 3)
        for turn in range(3):
            order = torch.randperm(
                6, generator=torch.Generator().manual_seed(seed + turn)
            )
            for unit in (1.0, 37.0):
                again = greedy_start(unit * x[:, order], torch.ones(1, 6).double(), 3)
                torch.testing.assert_close(again.means, unit * start.means, **EXACT)

    def test_greedy_never_takes_absent_rows(self):
        x, weight = normal(2, 9, 2), some_weight(0, 2, 9)
        x = torch.where(weight[..., None] > 0, x, 1e3)
        assert (greedy_start(x, weight, 4).means < 100).all()

    def test_greedy_without_rows_and_with_few(self):
        x, weight = normal(2, 3, 2), torch.ones(2, 3).double()
        weight[1] = 0
        start = greedy_start(x, weight, 5, 0.1)
        assert (start.means[1] == 0).all()
        assert all(part.isfinite().all() for part in start)
        # With every row taken, those that are left are taken again.
        assert {tuple(r) for r in start.means[0].tolist()} == {
            tuple(r) for r in x[0].tolist()
        }

    def test_greedy_of_many_rows_looks_at_some(self):
        n = START_ROWS + 500
        x = torch.where(torch.arange(n) % 2 == 0, 0.0, 5.0).double()[None, :, None]
        start = greedy_start(x, torch.ones(1, n).double(), 2)
        assert sorted(start.means.flatten().tolist()) == [0.0, 5.0]

    def test_rows_are_evenly_spaced_and_the_same(self):
        x, weight = normal(2, 11, 2), torch.ones(2, 11).double()
        start = row_start(x, weight, 3, 0.1)
        torch.testing.assert_close(start.means, x[:, [0, 5, 10]])
        assert (start.weights == 1 / 3).all()
        variance = x.var(1, correction=0) + 0.1
        torch.testing.assert_close(
            start.covariances, variance[:, None].expand(2, 3, 2), **EXACT
        )

    def test_rows_are_complete_ones_while_there_are_enough(self):
        x, weight = normal(2, 8, 2), torch.ones(2, 8).double()
        weight[0, [0, 3]] = 0
        weight[1, 7] = 0
        start = row_start(x, weight, 3)
        # Complete: 1, 2, 4, 5, 6.
        torch.testing.assert_close(start.means, x[:, [1, 4, 6]])
        weight[1, :6] = 0
        start = row_start(x, weight, 2)
        torch.testing.assert_close(start.means[0], x[0, [1, 7]])
        torch.testing.assert_close(start.means[1], x[1, [6, 6]])
        weight[1] = 0
        assert row_start(x, weight, 2).means.isfinite().all()

    @both_forms
    def test_diagonals_as_matrices(self, full):
        prototypes = mixture(3, 2, 3, 2)
        wide = full_covariances(prototypes)
        assert wide.is_full and not prototypes.is_full
        x = normal(2, 5, 2)
        torch.testing.assert_close(
            log_joint(x, wide), log_joint(x, prototypes), **EXACT
        )

    def test_index_and_detach(self):
        prototypes = mixture(3, 2, 3, 2)
        assert prototypes[1].means.shape == (3, 2)
        chosen = prototypes[torch.tensor([1, 0, 1])]
        assert_close(chosen[0], prototypes[1])
        prototypes.means.requires_grad_()
        assert not prototypes.detach().means.requires_grad


def numpy_em(x, weight, weights, means, variances, n_iter, floor):
    """The published scheme of one modality with diagonal covariances."""
    n, k = len(x), len(means)

    def posterior():
        log_r = np.zeros((n, k))
        for i, c in itertools.product(range(n), range(k)):
            terms = (x[i] - means[c]) ** 2 / variances[c] + np.log(variances[c])
            log_r[i, c] = np.log(weights[c]) - 0.5 * (
                terms.sum() + x.shape[1] * np.log(2 * np.pi)
            )
        return np.exp(log_r - logsumexp(log_r, axis=1, keepdims=True))

    for _ in range(n_iter):
        r = posterior() * weight[:, None]
        count = r.sum(0)
        weights = count / weight.sum()
        means = (r.T @ x) / count[:, None]
        variances = np.stack(
            [r[:, c] @ (x - means[c]) ** 2 / count[c] + floor for c in range(k)]
        )
    return weights, means, variances, posterior()


class TestUnrolled:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_published_scheme_by_hand(self, seed):
        x, weight = clusters(seed, 13), some_weight(seed, 2, 13)
        floor = torch.tensor([0.05, 0.1]).double()
        start = row_start(x, weight, 3, floor)
        found, resp = unrolled_em(x, weight, start, 5, floor)
        for m in range(2):
            *expected, posterior = numpy_em(
                x[m].numpy(),
                weight[m].numpy(),
                *parts_of(start, m),
                5,
                float(floor[m]),
            )
            assert_close(found[m], map(torch.from_numpy, expected))
            torch.testing.assert_close(resp[m], torch.from_numpy(posterior), **EXACT)

    @both_forms
    def test_gradients_through_all_steps(self, full):
        x, weight = clusters(1, 7, k=2, m=1), torch.ones(1, 7).double()
        start = row_start(x, weight, 2, 0.1)
        start = full_covariances(start) if full else start
        x.requires_grad_()

        def run(x):
            prototypes, resp = unrolled_em(x, weight, start, 3, 0.1)
            return (*prototypes, resp)

        assert torch.autograd.gradcheck(run, x)

    def test_no_step_is_the_start(self):
        x, weight = clusters(1, 7), torch.ones(2, 7).double()
        start = row_start(x, weight, 2, 0.1)
        found, resp = unrolled_em(x, weight, start, 0, 0.1)
        assert_close(found, start)
        torch.testing.assert_close(resp, responsibilities(x, start))


def sklearn_em(x, start, n_iter, floor, full):
    weights, means, covariances = (part.numpy() for part in start)
    model = GaussianMixture(
        len(weights),
        covariance_type="full" if full else "diag",
        weights_init=weights,
        means_init=means,
        precisions_init=np.linalg.inv(covariances) if full else 1 / covariances,
        max_iter=n_iter,
        tol=0.0,
        reg_covar=floor,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)
        return model.fit(x.numpy())


class TestExpectationMaximisation:
    @both_forms
    @pytest.mark.parametrize("n_iter", [1, 12])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_as_scikit_learn(self, seed, n_iter, full):
        x, weight = clusters(seed), torch.ones(2, 40).double()
        floor = 0.01
        start = greedy_start(x, weight, 3, floor)
        start = full_covariances(start) if full else start
        found, curve = expectation_maximisation(
            x, weight, start, floor, n_iter, tol=-math.inf
        )
        assert len(curve) == n_iter
        for m in range(2):
            model = sklearn_em(x[m], start[m], n_iter, floor, full)
            expected = (model.weights_, model.means_, model.covariances_)
            # scikit-learn adds 1e-15 to the counts; EM carries differences on.
            assert_close(
                found[m], map(torch.from_numpy, expected), rtol=1e-8, atol=1e-8
            )
            score = model.score(x[m].numpy())
            own = float(log_likelihood(x[m], found[m], weight[m]))
            torch.testing.assert_close(own, score, rtol=1e-8, atol=1e-8)

    @both_forms
    @FEW
    @given(seeds)
    def test_log_likelihood_never_falls(self, full, seed):
        x, weight = clusters(seed, k=2), some_weight(seed, 2, 40)
        start = greedy_start(x, weight, 2)
        start = full_covariances(start) if full else start
        found, curve = expectation_maximisation(x, weight, start, 0.0, 30, tol=1e-9)
        torch.testing.assert_close(curve[0], log_likelihood(x, start, weight), **EXACT)
        curve.append(log_likelihood(x, found, weight))
        # Rounding of a mean of forty terms of size ten.
        assert (torch.stack(curve).diff(dim=0) >= -1e-12).all()
        assert (curve[-1] > curve[0]).all()

    def test_stops_when_no_modality_gains(self):
        x, weight = clusters(0), torch.ones(2, 40).double()
        start = greedy_start(x, weight, 3, 0.01)
        _, curve = expectation_maximisation(x, weight, start, 0.01, 500, tol=1e-4)
        steps = torch.stack(curve).diff(dim=0)
        assert len(curve) < 500
        assert (steps[-1] <= 1e-4).all()
        assert (steps[:-1] > 1e-4).any(1).all()

    def test_weights_and_absent_rows(self):
        x, weight = clusters(2), some_weight(2, 2, 40)
        start = greedy_start(x, weight, 3, 0.01)
        found, _ = expectation_maximisation(x, weight, start, 0.01)
        garbage = torch.where(weight[..., None] > 0, x, 1e3)
        assert_close(expectation_maximisation(garbage, weight, start, 0.01)[0], found)
        doubled, _ = expectation_maximisation(
            x.repeat(1, 2, 1), weight.repeat(1, 2), start, 0.01
        )
        assert_close(doubled, found, rtol=1e-9, atol=1e-9)

    @both_forms
    @pytest.mark.parametrize("seed", SEEDS)
    def test_lost_component_is_put_elsewhere(self, seed, full):
        x, weight = clusters(seed), torch.ones(2, 40).double()
        start = greedy_start(x, weight, 3, 0.01)
        start = full_covariances(start) if full else start
        good, _ = expectation_maximisation(x, weight, start, 0.01, 200)
        means = start.means.clone()
        means[:, 2] = 1e4
        lost = Prototypes(start.weights, means, start.covariances)
        found, _ = expectation_maximisation(x, weight, lost, 0.01, 200)
        assert (found.weights > LEAST_SHARE / 3).all()
        assert (found.means.abs() < 100).all()
        two = Prototypes(*(part[:, :2] for part in start))
        two, _ = expectation_maximisation(
            x, weight, Prototypes(two.weights * 1.5, two.means, two.covariances), 0.01
        )
        gained = log_likelihood(x, found, weight) - log_likelihood(x, two, weight)
        assert (gained > 0).all()
        assert good.means.isfinite().all()

    @both_forms
    def test_where_a_lost_component_is_put(self, full):
        """At the row that is explained worst, with the variances of all rows."""
        x, weight = clusters(0), torch.ones(2, 40).double()
        x[0, 5], x[1, 9], x[0, 7] = 30.0, -30.0, 90.0
        weight[0, 7] = 0
        start = greedy_start(x, weight, 2, 0.01)
        weights = torch.tensor([0.5, 0.5, 0.0]).double().expand(2, 3)
        means = torch.cat([0 * start.means, start.means[:, :1]], 1)
        covariances = start.covariances[:, :1].expand(2, 3, 2)
        lost = Prototypes(weights, means, covariances)
        lost = full_covariances(lost) if full else lost
        found, _ = expectation_maximisation(x, weight, lost, 0.01, 1)
        for m, row in ((0, 5), (1, 9)):
            torch.testing.assert_close(found.means[m, 2], x[m, row])
            spread = found.covariances[m, 2]
            spread = spread.diagonal() if full else spread
            torch.testing.assert_close(spread, covariances[m, 2], **EXACT)
        torch.testing.assert_close(found.weights.sum(1), torch.ones(2).double())
        assert (found.weights > 0.2).all()

    def test_rows_that_are_all_the_same_end(self):
        x, weight = torch.full((1, 6, 2), 3.0).double(), torch.ones(1, 6).double()
        start = greedy_start(x, weight, 3, 0.1)
        found, curve = expectation_maximisation(x, weight, start, 0.1, 300)
        assert len(curve) < 20
        torch.testing.assert_close(found.means, x[:, :3], **EXACT)
        torch.testing.assert_close(found.covariances, 0.1 + 0 * x[:, :3], **EXACT)

    def test_more_components_than_rows(self):
        x, weight = normal(2, 2, 2), torch.ones(2, 2).double()
        start = greedy_start(x, weight, 4, 0.1)
        found, curve = expectation_maximisation(x, weight, start, 0.1, 50)
        assert all(part.isfinite().all() for part in found)
        assert torch.stack(curve).isfinite().all()
        torch.testing.assert_close(found.weights.sum(-1), torch.ones(2).double())
