"""Gaussians with a diagonal covariance against torch, general formulas and draws."""

import itertools
import math

import pytest
import torch
from torch.distributions import Independent, Normal, kl_divergence

from skmm.core.diagonal_gaussian import (
    DiagonalGaussian,
    log_mixture_density,
    product,
    standard_log_density,
    wasserstein,
)

SEEDS = range(5)
# Sums of some ten float64 terms of size up to a hundred.
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def normal(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def gaussians(*size, seed=0):
    return DiagonalGaussian(
        normal(*size, seed=seed), 0.7 * normal(*size, seed=seed + 99)
    )


def reference(q):
    return Independent(Normal(q.mean, q.scale), 1)


def direct_mixture(z, components):
    """The mixture's log-density from differences, in float64."""
    z, mean, log_scale = (
        v.double() for v in (z, components.mean, components.log_scale)
    )
    each = DiagonalGaussian(mean, log_scale).log_density(z.unsqueeze(-2))
    return torch.logsumexp(each, -1) - math.log(len(mean))


class TestDensityAndDivergence:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_density_of_torch_and_of_the_standard_gaussian(self, seed):
        q, z = gaussians(4, 3, seed=seed), 2 * normal(6, 4, 3, seed=seed + 7)
        torch.testing.assert_close(q.log_density(z), reference(q).log_prob(z), **EXACT)
        standard = Independent(Normal(torch.zeros(3).double(), 1.0), 1)
        torch.testing.assert_close(
            standard_log_density(z), standard.log_prob(z), **EXACT
        )

    @pytest.mark.parametrize("seed", SEEDS)
    def test_divergence_of_torch(self, seed):
        q, p = gaussians(5, 3, seed=seed), gaussians(5, 3, seed=seed + 1)
        zero = torch.zeros_like(q.mean)
        expected = kl_divergence(reference(q), reference(p))
        torch.testing.assert_close(q.divergence(p), expected, **EXACT)
        standard = DiagonalGaussian(zero, zero)
        torch.testing.assert_close(q.divergence(), q.divergence(standard), **EXACT)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_divergence_is_zero_for_equals_and_positive_otherwise(self, seed):
        q = gaussians(50, 3, seed=seed)
        assert torch.equal(q.divergence(q), torch.zeros(50).double())
        for p in (
            DiagonalGaussian(q.mean + 1e-3, q.log_scale),
            DiagonalGaussian(q.mean, q.log_scale + 1e-3),
            DiagonalGaussian(q.mean, q.log_scale - 1e-3),
        ):
            assert (q.divergence(p) > 0).all()
            assert (p.divergence(q) > 0).all()

    @pytest.mark.parametrize("seed", SEEDS)
    def test_divergence_is_the_mean_log_ratio_of_draws(self, seed):
        q, p = gaussians(4, 2, seed=seed), gaussians(4, 2, seed=seed + 1)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            z = q.draw(20_000)
        for other, log_p in ((p, p.log_density(z)), (None, standard_log_density(z))):
            ratio = q.log_density(z) - log_p
            error = ratio.std(0) / math.sqrt(len(z))
            # Four standard errors of the mean, of 40 comparisons in all.
            assert ((ratio.mean(0) - q.divergence(other)).abs() < 4 * error).all()

    @pytest.mark.parametrize("empty", [(4, 0), (0, 3)])
    def test_no_dimensions_and_no_rows(self, empty):
        q = DiagonalGaussian(torch.zeros(empty), torch.zeros(empty))
        z = q.draw(3)
        assert z.shape == (3, *empty)
        for value in (q.log_density(z), standard_log_density(z)):
            assert torch.equal(value, torch.zeros(3, empty[0]))
        assert torch.equal(q.divergence(), torch.zeros(empty[0]))
        assert torch.equal(q.divergence(q), torch.zeros(empty[0]))


class TestDraws:
    @pytest.mark.parametrize("common", [False, True])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_moments(self, seed, common):
        q, n = gaussians(3, 2, seed=seed), 20_000
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            z = q.draw(n, common)
        assert z.shape == (n, 3, 2)
        # Standard errors of a mean and of a Gaussian's variance: five, of 120 in all.
        mean_error, variance_error = q.scale / n**0.5, q.scale**2 * (2 / n) ** 0.5
        assert ((z.mean(0) - q.mean).abs() < 5 * mean_error).all()
        assert ((z.var(0) - q.scale**2).abs() < 5 * variance_error).all()

    @pytest.mark.parametrize("seed", SEEDS)
    def test_noise_is_independent_or_common_to_rows(self, seed):
        q = gaussians(3, 2, seed=seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            noise = (q.draw(5000) - q.mean) / q.scale
            shared = (q.draw(4, common=True) - q.mean) / q.scale
        correlation = torch.corrcoef(noise.flatten(1).T) - torch.eye(6)
        # Five standard errors of a correlation, 1 / sqrt(5000): 75 of them are seen.
        assert correlation.abs().max() < 5 / 5000**0.5
        torch.testing.assert_close(shared, shared[:, :1].expand_as(shared), **EXACT)
        assert shared[:, 0].flatten().unique().numel() == 8

    @pytest.mark.parametrize("common", [False, True])
    def test_gradient_is_that_of_mean_and_noise_times_scale(self, common):
        q = gaussians(3, 2)
        mean, log_scale = q.mean.requires_grad_(), q.log_scale.requires_grad_()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            z = q.draw(4, common)
        weight = normal(4, 3, 2, seed=5)
        (weight * z).sum().backward()
        torch.testing.assert_close(mean.grad, weight.sum(0), **EXACT)
        expected = (weight * (z - mean)).sum(0).detach()
        torch.testing.assert_close(log_scale.grad, expected, **EXACT)

    def test_common_noise_does_not_depend_on_the_number_of_rows(self):
        q = gaussians(5, 2)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            together = q.draw(3, common=True)
            torch.manual_seed(0)
            alone = q[2:3].draw(3, common=True)
        assert torch.equal(together[:, 2:3], alone)


class TestMixture:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_one_component_is_the_gaussian(self, seed):
        q, z = gaussians(1, 3, seed=seed), normal(4, 5, 3, seed=seed + 1)
        torch.testing.assert_close(log_mixture_density(z, q), q.log_density(z), **EXACT)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_direct_computation_and_torch(self, seed):
        q, z = gaussians(7, 3, seed=seed), 2 * normal(4, 5, 3, seed=seed + 1)
        value = log_mixture_density(z, q)
        torch.testing.assert_close(value, direct_mixture(z, q), **EXACT)
        mixture = torch.distributions.MixtureSameFamily(
            torch.distributions.Categorical(torch.ones(7).double()), reference(q)
        )
        torch.testing.assert_close(value, mixture.log_prob(z), **EXACT)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_duplicates_and_order_do_not_matter(self, seed):
        q, z = gaussians(6, 3, seed=seed), normal(5, 3, seed=seed + 1)
        value = log_mixture_density(z, q)
        order = torch.randperm(6, generator=torch.Generator().manual_seed(seed))
        for index in (order, torch.arange(6).repeat(3), order.repeat_interleave(2)):
            torch.testing.assert_close(log_mixture_density(z, q[index]), value, **EXACT)

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize(
        ("dtype", "offset", "tolerance"),
        [
            # Rounding of squares of size ten and of sums, as at the origin: the
            # inputs' own digits are the same for both computations.
            (torch.float64, 1e8, 1e-10),
            (torch.float64, 1e3, 1e-10),
            (torch.float32, 1e4, 1e-4),
            (torch.float32, -3e5, 1e-4),
        ],
    )
    def test_far_from_the_origin_no_digits_are_lost(
        self, dtype, offset, tolerance, seed
    ):
        q, z = gaussians(6, 3, seed=seed), normal(5, 3, seed=seed + 1)
        q = DiagonalGaussian((q.mean + offset).to(dtype), 0.3 * q.log_scale.to(dtype))
        z = (z + offset).to(dtype)
        value = log_mixture_density(z, q)
        assert value.dtype == dtype
        torch.testing.assert_close(
            value.double(), direct_mixture(z, q), rtol=tolerance, atol=tolerance
        )

    @pytest.mark.parametrize("seed", SEEDS)
    def test_gradients_of_the_direct_computation(self, seed):
        q, z = gaussians(4, 3, seed=seed), normal(5, 3, seed=seed + 1)
        inputs = [v.requires_grad_() for v in (z, q.mean, q.log_scale)]
        found = torch.autograd.grad(log_mixture_density(z, q).sum(), inputs)
        expected = torch.autograd.grad(direct_mixture(z, q).sum(), inputs)
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)

    def test_density_integrates_to_one(self):
        q = gaussians(3, 1)
        z = torch.linspace(-30, 30, 60_001, dtype=torch.float64)
        total = torch.trapezoid(log_mixture_density(z[:, None], q).exp(), z)
        # The trapezoid rule on a smooth density that is zero at the ends.
        assert float(total) == pytest.approx(1, abs=1e-10)

    def test_draw_at_a_sharp_component_is_never_above_its_peak(self):
        """Rounding must not make a squared distance negative."""
        mean = 100 * normal(8, 4).float()
        q = DiagonalGaussian(mean, torch.full_like(mean, -6.0))
        peak = 4 * (6 - 0.5 * math.log(2 * math.pi)) - math.log(8)
        assert (log_mixture_density(mean, q) <= peak + 1e-4).all()


class TestProduct:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_direct_formula_over_the_present(self, seed):
        q = gaussians(3, 8, 2, seed=seed)
        subsets = itertools.product([False, True], repeat=3)
        present = torch.tensor(list(subsets)).T
        found = product(q.mean, q.log_scale, present)
        for b in range(8):
            mine = present[:, b]
            if not mine.any():
                zero = torch.zeros(2).double()
                assert torch.equal(found.mean[b], zero)
                assert torch.equal(found.log_scale[b], zero)
                continue
            precision = 1 / q.scale[mine, b] ** 2
            mean = (precision * q.mean[mine, b]).sum(0) / precision.sum(0)
            torch.testing.assert_close(found.mean[b], mean, **EXACT)
            torch.testing.assert_close(
                found.scale[b], precision.sum(0) ** -0.5, **EXACT
            )

    @pytest.mark.parametrize("seed", SEEDS)
    def test_density_is_proportional_to_the_product(self, seed):
        q, z = gaussians(3, 1, 2, seed=seed), normal(9, 1, 2, seed=seed + 1)
        joint = product(q.mean, q.log_scale, torch.ones(3, 1).bool())
        logs = q.log_density(z.unsqueeze(1)).sum(1) - joint.log_density(z)
        torch.testing.assert_close(logs, logs[:1].expand_as(logs), **EXACT)

    @pytest.mark.parametrize("garbage", [1e30, -5.0])
    def test_absent_ones_have_no_influence_on_value_and_gradient(self, garbage):
        q = gaussians(3, 4, 2)
        present = torch.tensor([[1, 1, 0, 0], [1, 0, 1, 0], [0, 1, 1, 1]]).bool()
        results = []
        for value in (0.0, garbage):
            absent = ~present.unsqueeze(-1)
            mean = q.mean.masked_fill(absent, value).requires_grad_()
            log_scale = q.log_scale.masked_fill(absent, min(value, 50)).requires_grad_()
            joint = product(mean, log_scale, present)
            (joint.mean + joint.log_scale).sum().backward()
            results.append((joint.mean, joint.log_scale, mean.grad, log_scale.grad))
            assert (mean.grad[~present] == 0).all()
            assert (log_scale.grad[~present] == 0).all()
        for left, right in zip(*results, strict=True):
            assert torch.equal(left, right)

    def test_one_alone_is_itself(self):
        q = gaussians(2, 4, 3)
        present = torch.tensor([[True] * 4, [False] * 4])
        found = product(q.mean, q.log_scale, present)
        torch.testing.assert_close(found.mean, q.mean[0], **EXACT)
        torch.testing.assert_close(found.log_scale, q.log_scale[0], **EXACT)


class TestWasserstein:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_general_trace_formula(self, seed):
        p, q = gaussians(4, 3, seed=seed), gaussians(5, 3, seed=seed + 1)
        found = wasserstein(p, q)
        assert found.shape == (4, 5)
        for i, j in itertools.product(range(4), range(5)):
            left, right = (torch.diag(v) ** 2 for v in (p.scale[i], q.scale[j]))
            root = root_of(left)
            trace = torch.trace(left + right - 2 * root_of(root @ right @ root))
            squared = (p.mean[i] - q.mean[j]).square().sum() + trace
            # The trace formula subtracts numbers of size ten.
            torch.testing.assert_close(found[i, j] ** 2, squared, rtol=0, atol=1e-11)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_metric(self, seed):
        q = gaussians(12, 3, seed=seed)
        d = wasserstein(q, q)
        assert torch.equal(d.diagonal(), torch.zeros(12).double())
        torch.testing.assert_close(d, d.T, **EXACT)
        assert (d[~torch.eye(12).bool()] > 0).all()
        detour = (d[:, :, None] + d[None]).amin(1)
        assert (d <= detour + 1e-12).all()

    def test_differs_in_mean_or_scale_alone(self):
        zero = torch.zeros(1, 2).double()
        standard = DiagonalGaussian(zero, zero)
        moved = DiagonalGaussian(zero + torch.tensor([3.0, 4.0]), zero)
        wider = DiagonalGaussian(zero, zero + math.log(3))
        assert wasserstein(standard, moved).item() == pytest.approx(5, abs=1e-12)
        expected = math.sqrt(8)
        assert wasserstein(standard, wider).item() == pytest.approx(expected, abs=1e-12)

    def test_near_equal_ones_far_from_the_origin(self):
        """Differences before squares: 1e-3 at 1e6 keeps seven digits."""
        mean = torch.full((1, 2), 1e6, dtype=torch.float64)
        p = DiagonalGaussian(mean, torch.zeros_like(mean))
        q = DiagonalGaussian(mean + 2.0**-10, torch.zeros_like(mean))
        expected = 2.0**-10 * math.sqrt(2)
        assert wasserstein(p, q).item() == pytest.approx(expected, rel=1e-7)


def root_of(matrix):
    values, vectors = torch.linalg.eigh(matrix)
    return vectors @ torch.diag(values.clamp_min(0).sqrt()) @ vectors.T
