"""The bidirectional bound on models with known answers, and as inequalities.

The linear-Gaussian chain: z, w ~ N(0, I), s = (a z + e1, c w + e2), t = d z + e3, a
dimension at a time, so that all posteriors are diagonal and q(z|s) q(w|s) p(t|z) /
p(t|s) is the true posterior of (z, w) given s and t.
"""

import math
from dataclasses import dataclass

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, Normal

from skmm.core.diagonal_gaussian import DiagonalGaussian, standard_log_density
from skmm.core.mutual_supervision import (
    cross_modal_bound,
    draw_weights,
    info_nce,
    log_mean_exp,
)

SEEDS = range(5)
# Sums of some ten float64 terms of size up to a hundred.
EXACT = {"rtol": 1e-12, "atol": 1e-12}
D = 3


def normal(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def mean_and_error(values):
    return float(values.mean()), float(values.std() / math.sqrt(values.numel()))


@dataclass
class Chain:
    """One row of the chain, drawn with a seed, and all that is known of it."""

    seed: int

    def __post_init__(self):
        self.a, self.c, self.d = 0.5 + normal(3, D, seed=self.seed).abs()
        self.noise = 0.5 + normal(3, D, seed=self.seed + 40).abs()
        z, w = normal(2, D, seed=self.seed + 80)
        e = self.noise * normal(3, D, seed=self.seed + 120)
        self.s1, self.s2, self.t = (
            self.a * z + e[0],
            self.c * w + e[1],
            self.d * z + e[2],
        )

    def posterior(self, loading, noise, value):
        precision = 1 + (loading / noise) ** 2
        mean = loading * value / noise**2 / precision
        return DiagonalGaussian(mean, -0.5 * precision.log())

    @property
    def z_given_s(self):
        return self.posterior(self.a, self.noise[0], self.s1)

    @property
    def w_given_s(self):
        return self.posterior(self.c, self.noise[1], self.s2)

    @property
    def z_given_t(self):
        return self.posterior(self.d, self.noise[2], self.t)

    @property
    def log_p_t(self):
        scale = (self.d**2 + self.noise[2] ** 2).sqrt()
        return Normal(0, scale).log_prob(self.t).sum()

    @property
    def log_p_s(self):
        total = 0.0
        for loading, noise, value in (
            (self.a, self.noise[0], self.s1),
            (self.c, self.noise[1], self.s2),
        ):
            scale = (loading**2 + noise**2).sqrt()
            total = total + Normal(0, scale).log_prob(value).sum()
        return total

    @property
    def log_p_joint(self):
        """Of s and t, from the covariance of (s1, t)."""
        total = (
            Normal(0, (self.c**2 + self.noise[1] ** 2).sqrt()).log_prob(self.s2).sum()
        )
        for j in range(D):
            loading = torch.stack([self.a[j], self.d[j]])
            noise = torch.diag(self.noise[[0, 2], j] ** 2)
            p = MultivariateNormal(
                torch.zeros(2).double(), torch.outer(loading, loading) + noise
            )
            total = total + p.log_prob(torch.stack([self.s1[j], self.t[j]]))
        return total

    def a_and_b(self, n_draws, n_rows, q_z=None, q_w=None, seed=0):
        """Draws of the row, ``(K, n)`` independent of each other."""
        q_z, q_w = q_z or self.z_given_s, q_w or self.w_given_s
        with torch.random.fork_rng():
            torch.manual_seed(1000 + seed)
            z, w = (
                DiagonalGaussian(
                    q.mean.expand(n_rows, D), q.log_scale.expand(n_rows, D)
                ).draw(n_draws)
                for q in (q_z, q_w)
            )
        a = Normal(self.d * z, self.noise[2]).log_prob(self.t).sum(-1)
        b = (
            Normal(self.a * z, self.noise[0]).log_prob(self.s1).sum(-1)
            + Normal(self.c * w, self.noise[1]).log_prob(self.s2).sum(-1)
            + standard_log_density(w)
            + self.z_given_t.log_density(z)
            - q_w.log_density(w)
            - q_z.log_density(z)
        )
        return a, b


class TestLinearGaussianChain:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_exact_encoders_make_the_bound_exact(self, seed):
        chain = Chain(seed)
        a, b = chain.a_and_b(7, 11)
        expected = (chain.log_p_s - chain.log_p_t).expand(7, 11)
        # Densities of size a hundred cancel.
        torch.testing.assert_close(b - a, expected, rtol=0, atol=1e-11)
        log_p_t_given_s = chain.log_p_joint - chain.log_p_s
        estimated = cross_modal_bound(a, b)
        exact = estimated - log_mean_exp(a) + log_p_t_given_s + chain.log_p_t
        torch.testing.assert_close(
            exact, chain.log_p_joint.expand(11), rtol=0, atol=1e-11
        )

    @pytest.mark.parametrize("seed", SEEDS)
    def test_estimated_evidence_is_below_with_a_gap_like_one_over_k(self, seed):
        chain = Chain(seed)
        a, b = chain.a_and_b(64, 3000, seed=seed)
        gaps = []
        for n_draws in (16, 64):
            groups = [v.unflatten(0, (-1, n_draws)).transpose(0, 1) for v in (a, b)]
            value = cross_modal_bound(*(g.flatten(1) for g in groups)) + chain.log_p_t
            gaps.append(mean_and_error(chain.log_p_joint - value))
        (wide, wide_error), (narrow, narrow_error) = gaps
        assert narrow > -4 * narrow_error
        assert wide > narrow
        # Four times the draws, a fourth of the gap, in the limit: 16 draws of which
        # few are effective are not quite there.
        assert abs(wide - 4 * narrow) < 0.35 * wide + 4 * (
            wide_error + 4 * narrow_error
        )

    @pytest.mark.parametrize("moved", ["z", "w", "both"])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_perturbed_encoders_are_below(self, seed, moved):
        chain = Chain(seed)
        q_z, q_w = (
            DiagonalGaussian(q.mean + 0.7 * q.scale, q.log_scale - 0.3)
            for q in (chain.z_given_s, chain.w_given_s)
        )
        q_z = q_z if moved in ("z", "both") else chain.z_given_s
        q_w = q_w if moved in ("w", "both") else chain.w_given_s
        for n_draws in (2, 10):
            a, b = chain.a_and_b(n_draws, 2000, q_z, q_w, seed)
            mean, error = mean_and_error(cross_modal_bound(a, b) + chain.log_p_t)
            assert mean + 4 * error < float(chain.log_p_joint)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_any_other_a_keeps_the_bound(self, seed):
        """A wrong cross decoder costs tightness, never validity."""
        chain = Chain(seed)
        a, b = chain.a_and_b(6, 2000, seed=seed)
        for other in (torch.zeros_like(a), -2 * a, a * 3 + 5, b):
            value = cross_modal_bound(other, b) + chain.log_p_t
            mean, error = mean_and_error(value)
            assert mean < float(chain.log_p_joint) + 4 * error

    @pytest.mark.parametrize("seed", SEEDS)
    def test_importance_weighted_bound_grows_with_the_draws(self, seed):
        chain = Chain(seed)
        q = DiagonalGaussian(chain.z_given_s.mean + 0.5, chain.z_given_s.log_scale)
        _, b = chain.a_and_b(64, 1000, q, seed=seed)
        exact = float(chain.log_p_joint - chain.log_p_t)
        previous = b.mean(0)  # the ELBO, with K = 1
        n_draws = 1
        while n_draws < 64:
            n_draws *= 2
            groups = b.unflatten(0, (-1, n_draws)).transpose(0, 1)
            value = log_mean_exp(groups).mean(0)
            # Jensen on the same draws, group by group: no chance is involved.
            assert (value >= previous - 1e-12).all()
            mean, error = mean_and_error(value)
            assert mean < exact + 4 * error
            previous = value


# Up to the logs of what float64 holds, and beyond.
SIZES = st.sampled_from([1e-3, 1.0, 30.0, 700.0, 1e5])


class TestInequalities:
    @given(st.integers(0, 10_000), st.integers(1, 12), SIZES, SIZES)
    def test_bound_is_below_the_importance_weighted_one(self, seed, k, size_a, size_b):
        a, b = size_a * normal(k, 5, seed=seed), size_b * normal(k, 5, seed=seed + 1)
        for stop in (True, False):
            value = cross_modal_bound(a, b, stop_gradient=stop)
            assert value.isfinite().all()
            # Rounding of the largest terms.
            slack = 1e-14 * (1 + a.abs().max() + b.abs().max())
            assert (value <= log_mean_exp(b) + slack).all()

    @given(
        st.lists(
            st.tuples(st.floats(-1e6, 1e6), st.floats(-1e6, 1e6)),
            min_size=1,
            max_size=8,
        )
    )
    def test_bound_is_below_for_any_numbers(self, pairs):
        a, b = torch.tensor(pairs, dtype=torch.float64).T.unsqueeze(-1)
        value = cross_modal_bound(a, b)
        slack = 1e-14 * (1 + a.abs().max() + b.abs().max())
        assert (value <= log_mean_exp(b) + slack).all()

    @given(st.integers(0, 10_000), SIZES, SIZES)
    def test_one_draw_is_its_own_bound(self, seed, size_a, size_b):
        a, b = size_a * normal(1, 4, seed=seed), size_b * normal(1, 4, seed=seed + 1)
        slack = 1e-15 * float(1 + a.abs().max() + b.abs().max())
        torch.testing.assert_close(cross_modal_bound(a, b), b[0], rtol=0, atol=slack)

    @given(st.integers(0, 10_000), st.integers(1, 9), SIZES, st.floats(-1e3, 1e3))
    def test_equality_where_the_difference_is_constant(self, seed, k, size, constant):
        a = size * normal(k, 4, seed=seed)
        b = a + constant
        slack = 1e-13 * float(1 + a.abs().max() + abs(constant))
        torch.testing.assert_close(
            cross_modal_bound(a, b), log_mean_exp(b), rtol=0, atol=slack
        )

    @given(
        st.integers(0, 10_000),
        st.integers(1, 9),
        st.floats(-1e3, 1e3),
        st.sampled_from([0.0, 1.0, 10.0]),
    )
    def test_weights_order_and_constants(self, seed, k, constant, cross_weight):
        a, b = 20 * normal(k, 4, seed=seed), normal(k, 4, seed=seed + 1)
        weights = draw_weights(a)
        torch.testing.assert_close(weights.sum(0), torch.ones(4).double(), **EXACT)
        assert (weights >= 0).all()
        value = cross_modal_bound(a, b, cross_weight)
        order = torch.randperm(k, generator=torch.Generator().manual_seed(seed))
        # Sums of terms up to a thousand in another order.
        close = {"rtol": 1e-10, "atol": 1e-10}
        torch.testing.assert_close(
            cross_modal_bound(a[order], b[order], cross_weight), value, **close
        )
        torch.testing.assert_close(
            cross_modal_bound(a + constant, b, cross_weight),
            value + (cross_weight - 1) * constant,
            **close,
        )
        torch.testing.assert_close(
            cross_modal_bound(a, b + constant, cross_weight), value + constant, **close
        )

    @pytest.mark.parametrize("cross_weight", [0.0, 1.0, 10.0])
    @pytest.mark.parametrize("stop", [True, False])
    def test_written_formula(self, stop, cross_weight):
        a, b = 3 * normal(6, 4), normal(6, 4, seed=1)
        weights = a.exp() / a.exp().sum(0)
        expected = (weights * (b - a)).sum(0) + cross_weight * a.exp().mean(0).log()
        torch.testing.assert_close(
            cross_modal_bound(a, b, cross_weight, stop), expected, **EXACT
        )


class TestGradients:
    """Of a through a cross decoder, here the row's own network ``a = v @ u``."""

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("size", [1.0, 1e3])
    def test_none_in_a_with_weight_one(self, seed, size):
        features, u = size * normal(6, 4, 3, seed=seed), normal(3, seed=seed + 1)
        u.requires_grad_()
        b = normal(6, 4, seed=seed + 2).requires_grad_()
        value = cross_modal_bound(features @ u, b, 1.0)
        found = torch.autograd.grad(value.sum(), [u, b], allow_unused=True)
        assert found[0] is None or (found[0] == 0).all()
        torch.testing.assert_close(
            found[1], draw_weights(features @ u).detach(), **EXACT
        )

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("cross_weight", [0.0, 0.5, 2.0, 10.0])
    def test_a_multiple_of_the_evidence_otherwise(self, seed, cross_weight):
        features, u = normal(6, 4, 3, seed=seed), normal(3, seed=seed + 1)
        b = normal(6, 4, seed=seed + 2)
        u.requires_grad_()
        value = cross_modal_bound(features @ u, b, cross_weight).sum()
        (found,) = torch.autograd.grad(value, u)
        h = 1e-5
        steps = h * torch.eye(3).double()
        with torch.no_grad():
            differences = torch.stack(
                [
                    log_mean_exp(features @ (u + e)).sum()
                    - log_mean_exp(features @ (u - e)).sum()
                    for e in steps
                ]
            )
        expected = (cross_weight - 1) * differences / (2 * h)
        # Central differences: h ** 2 times third derivatives, and rounding over h.
        torch.testing.assert_close(found, expected, rtol=1e-7, atol=1e-7)

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("cross_weight", [0.0, 1.0, 10.0])
    def test_whole_gradient_of_the_written_formula(self, seed, cross_weight):
        a = (2 * normal(5, 4, seed=seed)).requires_grad_()
        b = normal(5, 4, seed=seed + 1).requires_grad_()
        value = cross_modal_bound(a, b, cross_weight, stop_gradient=False)
        found = torch.autograd.grad(value.sum(), [a, b])
        share = a.exp() / a.exp().sum(0)
        written = (share * (b - a)).sum(0) + cross_weight * a.exp().mean(0).log()
        expected = torch.autograd.grad(written.sum(), [a, b])
        torch.testing.assert_close(found, expected, **EXACT)
        assert torch.autograd.gradcheck(
            lambda a, b: cross_modal_bound(a, b, cross_weight, False), (a, b)
        )

    @pytest.mark.parametrize("stop", [True, False])
    def test_extreme_values_have_finite_gradients(self, stop):
        a = torch.tensor([[-1e5], [0.0], [-800.0]]).double().requires_grad_()
        b = torch.tensor([[1e5], [-1e5], [3.0]]).double().requires_grad_()
        value = cross_modal_bound(a, b, 10.0, stop)
        for gradient in torch.autograd.grad(value.sum(), [a, b]):
            assert gradient.isfinite().all()


def test_log_mean_exp():
    values = normal(7, 4)
    torch.testing.assert_close(
        log_mean_exp(values), values.exp().mean(0).log(), **EXACT
    )
    torch.testing.assert_close(log_mean_exp(values + 1e5), log_mean_exp(values) + 1e5)
    assert torch.equal(log_mean_exp(values[:1]), values[0])


class TestInformationBottleneck:
    """Why the unweighted bound separates shared from private, on finite tables."""

    @staticmethod
    def tables(seed):
        g = torch.Generator().manual_seed(seed)
        p = torch.rand(4, 3, generator=g, dtype=torch.float64) ** 3
        q_z, q_w = (
            torch.rand(4, n, generator=g, dtype=torch.float64) ** 2 for n in (3, 2)
        )
        p = p / p.sum()
        q_z, q_w = (q / q.sum(1, keepdim=True) for q in (q_z, q_w))
        return torch.einsum("st,sz,sw->stzw", p, q_z, q_w), p, q_z

    @staticmethod
    def information(joint, left, right, given=()):
        """Mutual information of two sets of axes given a third, of a table."""

        def entropy(axes):
            drop = [i for i in range(joint.dim()) if i not in axes]
            p = joint.sum(drop) if drop else joint
            return -torch.xlogy(p, p).sum()

        left, right, given = set(left), set(right), set(given)
        return (
            entropy(left | given)
            + entropy(right | given)
            - entropy(left | right | given)
            - (entropy(given) if given else 0)
        )

    @pytest.mark.parametrize("seed", SEEDS)
    def test_identity(self, seed):
        joint, _, _ = self.tables(seed)
        s, t, z, w = ({i} for i in range(4))
        info = self.information
        interaction = info(joint, z, s) - info(joint, z, s, t)
        left = interaction - info(joint, z, w)
        right = info(joint, s, z | w) - info(joint, s, w) - info(joint, z, s, t)
        torch.testing.assert_close(left, right, **EXACT)
        torch.testing.assert_close(interaction, info(joint, z, t), **EXACT)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_divergence_of_encoders_bounds_the_conditional_information(self, seed):
        joint, p, q_z = self.tables(seed)
        information = self.information(joint, {2}, {0}, {1})
        for other in range(5):
            r = torch.softmax(2 * normal(3, 3, seed=other), 1)
            ratio = (q_z[:, None] / r[None]).log()
            divergence = (p * (q_z[:, None] * ratio).sum(-1)).sum()
            assert divergence >= information
        best = joint.sum((0, 3)) / p.sum(0)[:, None]
        ratio = (q_z[:, None] / best[None]).log()
        divergence = (p * (q_z[:, None] * ratio).sum(-1)).sum()
        torch.testing.assert_close(divergence, information, **EXACT)


class TestInfoNCE:
    @pytest.mark.parametrize("temperature", [0.1, 1.0])
    @pytest.mark.parametrize("seed", SEEDS)
    def test_cross_entropy_of_torch(self, seed, temperature):
        left, right = normal(8, 3, seed=seed), normal(8, 3, seed=seed + 1)
        cosine = torch.nn.functional.cosine_similarity(left[:, None], right[None], -1)
        logits = cosine / temperature
        expected = 0.5 * sum(
            torch.nn.functional.cross_entropy(g, torch.arange(8), reduction="none")
            for g in (logits, logits.T)
        )
        found = info_nce(left, right, temperature)
        # Logits of size ten and their exponentials.
        torch.testing.assert_close(found, expected, rtol=1e-11, atol=1e-11)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_facts(self, seed):
        n = 8
        left, right = normal(n, 3, seed=seed), normal(n, 3, seed=seed + 1)
        loss = info_nce(left, right, 0.2)
        assert (loss >= 0).all()
        torch.testing.assert_close(info_nce(right, left, 0.2), loss, **EXACT)
        scale = 0.1 + normal(n, 1, seed=seed + 2).abs()
        torch.testing.assert_close(
            info_nce(scale * left, 7 * right, 0.2), loss, **EXACT
        )
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
        torch.testing.assert_close(
            info_nce(left[order], right[order], 0.2), loss[order], **EXACT
        )
        same = torch.ones(n, 3).double()
        expected = torch.full((n,), math.log(n), dtype=torch.float64)
        torch.testing.assert_close(info_nce(same, same, 0.2), expected, **EXACT)

    def test_orthogonal_codes_reach_log_n(self):
        codes = torch.eye(5).double()
        assert info_nce(codes, codes, 0.01).max() < 1e-12
        one = normal(1, 3)
        assert info_nce(one, normal(1, 3, seed=1), 0.1).abs().max() < 1e-12

    @pytest.mark.parametrize("seed", SEEDS)
    def test_below_the_mutual_information_on_average(self, seed):
        """Two codes that share a fair label of c values, and nothing else."""
        c, n, n_batches = 3, 8, 150
        g = torch.Generator().manual_seed(seed)
        labels = torch.randint(c, (n_batches, n), generator=g)
        codes = torch.eye(c).double()
        values = torch.stack(
            [math.log(n) - info_nce(codes[y], codes[y], 0.05).mean() for y in labels]
        )
        mean, error = mean_and_error(values)
        assert mean < math.log(c) + 4 * error
        assert mean > 0.8 * math.log(c)

    def test_zero_codes_have_finite_values_and_gradients(self):
        left, right = torch.zeros(4, 3).double().requires_grad_(), normal(4, 3)
        loss = info_nce(left, right, 0.1)
        (gradient,) = torch.autograd.grad(loss.sum(), left)
        assert loss.isfinite().all()
        assert gradient.isfinite().all()
