"""Transport plans against POT, linear programs, closed forms and the theory."""

import itertools
import math
import warnings

import numpy as np
import ot as pot  # codespell:ignore ot
import pytest
import scipy.linalg
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linprog

from skmm.core.transport import (
    Plan,
    StarPlan,
    TransportWarning,
    bures_cost,
    conditional,
    envelope_value,
    full_bures_cost,
    gaussian_points,
    joint_cost,
    multi_marginal_sinkhorn,
    squared_distances,
    star_transport,
    transport_between,
)

SEEDS = range(4)
# Sums of some ten float64 terms of the size of one.
EXACT = {"rtol": 1e-12, "atol": 1e-12}
# Solved to 1e-12; a log-potential is off by the residual over the smallest mass.
SOLVED = {"rtol": 1e-8, "atol": 1e-8}
TIGHT = {"tol": 1e-12, "max_iter": 5000}

seeds = st.integers(0, 10_000)
some_sizes = st.lists(st.integers(1, 5), min_size=1, max_size=4)


def normal(*size, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64)


def masses(sizes, seed=0):
    out = []
    for m, size in enumerate(sizes):
        part = normal(size, seed=7919 * seed + m).abs() + 0.1
        out.append(part / part.sum())
    return out


def problem(sizes, seed=0, d=3):
    """Points and masses of each modality."""
    points = [normal(size, d, seed=seed + 31 * m) for m, size in enumerate(sizes)]
    return points, masses(sizes, seed)


def pairs_of(points):
    return {
        (i, j): squared_distances(points[i], points[j])
        for i, j in itertools.combinations(range(len(points)), 2)
    }


def cost_of(points):
    return joint_cost(pairs_of(points), [len(x) for x in points])


def constraints(sizes):
    """The matrix that maps a flattened plan to its marginals."""
    cells = torch.eye(math.prod(sizes), dtype=torch.float64).view(-1, *sizes)
    rows = []
    for m in range(len(sizes)):
        axes = [j + 1 for j in range(len(sizes)) if j != m]
        rows.append((cells.sum(axes) if axes else cells).T)
    return torch.cat(rows).numpy()


def linear_program(cost, nu):
    done = linprog(
        cost.numpy().ravel(),
        A_eq=constraints(cost.shape),
        b_eq=torch.cat(nu).numpy(),
        method="highs",
    )
    assert done.status == 0
    return done.fun


def plain_sinkhorn(cost, nu, reg, n_sweeps, rho=None):
    """The textbook's sweeps, written without regard to speed."""
    M = cost.ndim
    tau = 1.0 if rho is None else rho / (rho + reg)
    f = [torch.zeros_like(part) for part in nu]

    def exponent():
        total = -cost
        for m, part in enumerate(f):
            total = total + part.view([-1 if j == m else 1 for j in range(M)])
        return total / reg

    for _ in range(n_sweeps):
        for m in range(M):
            axes = [j for j in range(M) if j != m]
            others = exponent() - (f[m] / reg).view(
                [-1 if j == m else 1 for j in range(M)]
            )
            lse = torch.logsumexp(others, axes) if axes else others
            f[m] = tau * reg * (nu[m].log() - lse)
    return exponent().exp(), f


def entropic_value(plan, cost, reg):
    return (plan * cost).sum() + reg * torch.special.entr(plan).sum().neg()


def marginal_error(plan, nu):
    errors = [plan.marginal(m) - part for m, part in enumerate(nu)]
    return max(error.abs().sum().item() for error in errors)


def moved(x, places):
    return x[torch.tensor(places)]


class TestCosts:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_diagonal_equals_pot(self, seed):
        mean_i, mean_j = normal(4, 3, seed=seed), normal(5, 3, seed=seed + 50)
        var_i, var_j = (normal(k, 3, seed=seed + 9 * k).square() for k in (4, 5))
        expected = pot.gmm.dist_bures_squared(
            mean_i, mean_j, torch.diag_embed(var_i), torch.diag_embed(var_j)
        )
        ours = bures_cost(mean_i, var_i, mean_j, var_j)
        # POT takes matrix roots and does not clamp what cancels.
        torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-10)
        torch.testing.assert_close(
            bures_cost(mean_i, var_i, mean_j, var_j, "mean"), ours / 3, **EXACT
        )
        torch.testing.assert_close(
            bures_cost(mean_j, var_j, mean_i, var_i), ours.T, **EXACT
        )
        x, y = gaussian_points([mean_i, mean_j], [var_i, var_j], "mean")
        torch.testing.assert_close(squared_distances(x, y), ours / 3, **EXACT)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    @pytest.mark.parametrize("var", [0.0, 1e-30, 1e-4])
    def test_equal_components_cost_exactly_nothing(self, dtype, var):
        mean = 1e3 + normal(4, 6).to(dtype)
        var = torch.full((4, 6), var, dtype=dtype)
        cost = bures_cost(mean, var, mean, var)
        assert (cost.diagonal() == 0).all()
        assert (cost + torch.eye(4) > 0).all()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_gradients_at_collapsed_variances_are_bounded(self, dtype):
        mean = normal(3, 2).to(dtype)
        var_i = torch.tensor([[0.0, 1.0], [1e-35, 4.0], [1.0, 0.0]], dtype=dtype)
        var_j = torch.ones(3, 2, dtype=dtype)
        for var in (var_i, torch.zeros_like(var_i)):
            var = var.clone().requires_grad_()
            bures_cost(mean, var, mean, var_j).sum().backward()
            # d/dv of (sqrt v - s)^2, three times, at a root of 1e-4 of the largest.
            assert var.grad.isfinite().all()
            assert var.grad.abs().max() <= 3 / 1e-4
        both = torch.zeros(3, 2, dtype=dtype, requires_grad=True)
        bures_cost(mean, both, mean, both).sum().backward()
        assert (both.grad == 0).all()

    def test_gradients(self):
        args = [normal(3, 2, seed=s) for s in range(4)]
        args[1], args[3] = args[1].square() + 0.1, args[3].square() + 0.1
        args = [a.requires_grad_() for a in args]
        assert torch.autograd.gradcheck(bures_cost, args)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_full_equals_matrix_roots(self, seed):
        mean_i, mean_j = normal(2, 3, seed=seed), normal(3, 3, seed=seed + 50)
        a, b = normal(2, 3, 5, seed=seed + 1), normal(3, 3, 5, seed=seed + 2)
        a, b = a @ a.mT, b @ b.mT
        ours = full_bures_cost(mean_i, a, mean_j, b)
        for k, j in itertools.product(range(2), range(3)):
            root = scipy.linalg.sqrtm(a[k].numpy())
            cross = scipy.linalg.sqrtm(root @ b[j].numpy() @ root)
            shape = np.trace(a[k].numpy() + b[j].numpy() - 2 * cross.real)
            expected = (mean_i[k] - mean_j[j]).square().sum().item() + shape
            # The reference's roots lose half the digits of what cancels.
            assert ours[k, j].item() == pytest.approx(expected, rel=1e-8, abs=1e-8)
        half = full_bures_cost(mean_i, a, mean_j, b, reduction="mean")
        torch.testing.assert_close(half, ours / 3, **EXACT)

    def test_full_of_diagonal_covariances_is_the_diagonal_form(self):
        mean = normal(4, 3)
        var = normal(4, 3, seed=1).square() + 0.01
        full = full_bures_cost(
            mean,
            torch.diag_embed(var),
            mean[:2],
            torch.eye(3) + 0 * torch.diag_embed(var[:2]),
        )
        diagonal = bures_cost(mean, var, mean[:2], torch.ones(2, 3).double())
        torch.testing.assert_close(full, diagonal, **EXACT)

    def test_full_is_never_negative_and_its_gradient_is_right(self):
        a = normal(2, 3, 5)
        cov = a @ a.mT
        mean = normal(2, 3, seed=3)
        same = full_bures_cost(mean, cov, mean, cov)
        assert (same >= 0).all()
        # The square of what rounding leaves of a difference of factors.
        assert same.diagonal().max() < 1e-24

        def of_factors(mean_i, left, mean_j, right):
            return full_bures_cost(mean_i, left @ left.mT, mean_j, right @ right.mT)

        args = [mean, a, normal(3, 3, seed=4), normal(3, 3, 4, seed=5)]
        assert torch.autograd.gradcheck(of_factors, [x.requires_grad_() for x in args])

    def test_full_has_a_gradient_at_repeated_singular_values(self):
        mean = normal(2, 3)
        cov = torch.eye(3, dtype=torch.float64).repeat(2, 1, 1).requires_grad_()
        full_bures_cost(mean, cov, mean, 4 * cov.detach()).sum().backward()
        # d/ds of 3 (s - 2)^2 at s = 1 with a covariance of s^2, twice each.
        expected = -2 * torch.eye(3, dtype=torch.float64).expand(2, 3, 3)
        torch.testing.assert_close(cov.grad, expected, **EXACT)

    def test_joint_cost_sums_the_pairs(self):
        sizes = (2, 3, 4)
        points, _ = problem(sizes)
        cost = cost_of(points)
        assert cost.shape == sizes
        for k in itertools.product(*map(range, sizes)):
            chosen = [points[m][k[m]] for m in range(3)]
            expected = sum(
                (x - y).square().sum() for x, y in itertools.combinations(chosen, 2)
            )
            torch.testing.assert_close(cost[k], expected, **EXACT)
        left_out = joint_cost({(0, 2): torch.ones(2, 4)}, sizes)
        torch.testing.assert_close(left_out, torch.ones(sizes))

    def test_errors(self):
        one = torch.ones(2, 2)
        with pytest.raises(ValueError, match="reduction must be 'sum' or 'mean', got"):
            bures_cost(one, one, one, one, reduction="max")
        with pytest.raises(ValueError, match=r"components \[1\] are not: add a small"):
            full_bures_cost(
                one, torch.stack([torch.eye(2), -torch.eye(2)]), one, one[None]
            )
        with pytest.raises(ValueError, match=r"pairwise\[1, 0\] must have i < j"):
            joint_cost({(1, 0): one}, (2, 2))
        with pytest.raises(ValueError, match=r"got shape \(2, 2\)"):
            joint_cost({(0, 1): one}, (2, 3))


class TestAgainstReferences:
    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("reg", [0.3, 2.0])
    def test_two_marginals_equal_pot(self, seed, reg):
        points, nu = problem((4, 6), seed)
        cost = cost_of(points)
        expected = pot.bregman.sinkhorn_log(
            *nu, cost, reg, numItermax=100_000, stopThr=1e-13
        )
        ours = multi_marginal_sinkhorn(cost, nu, reg, reg_scale="absolute", **TIGHT)
        torch.testing.assert_close(ours.plan, expected, rtol=0, atol=1e-10)
        assert ours.reg == reg

    @pytest.mark.parametrize("seed", SEEDS)
    @pytest.mark.parametrize("rho", [0.2, 3.0])
    def test_relaxed_marginals_equal_pot(self, seed, rho):
        points, nu = problem((4, 6), seed)
        nu = [nu[0] * 1.5, nu[1]]
        cost = cost_of(points) / 4
        with warnings.catch_warnings():
            # POT tells that it takes the entropy it was asked to take.
            warnings.filterwarnings("ignore", "If reg_type = entropy", UserWarning)
            expected = pot.unbalanced.sinkhorn_unbalanced(
                *(part.numpy() for part in nu),
                cost.numpy(),
                0.3,
                rho,
                reg_type="entropy",
                numItermax=100_000,
                stopThr=1e-14,
            )
        ours = multi_marginal_sinkhorn(
            cost, nu, 0.3, rho=rho, reg_scale="absolute", **TIGHT
        )
        torch.testing.assert_close(
            ours.plan, torch.tensor(expected), rtol=0, atol=1e-10
        )
        assert ours.plan.sum() != pytest.approx(1, abs=1e-3)

    @pytest.mark.parametrize("sizes", [(5,), (4, 3), (3, 2, 4), (2, 3, 2, 3)])
    @pytest.mark.parametrize("rho", [None, 0.7])
    @pytest.mark.parametrize("newton", [True, False])
    def test_any_number_equals_plain_sweeps(self, sizes, rho, newton):
        reg = 3.0
        for seed in range(2):
            points, nu = problem(sizes, seed)
            cost = cost_of(points) if len(sizes) > 1 else points[0][:, 0].abs()
            plan, f = plain_sinkhorn(cost, nu, reg, 300, rho)
            ours = multi_marginal_sinkhorn(
                cost, nu, reg, rho=rho, reg_scale="absolute", newton=newton, **TIGHT
            )
            torch.testing.assert_close(ours.plan, plan, **SOLVED)
            if rho is not None:
                for part, expected in zip(ours.potentials, f, strict=True):
                    torch.testing.assert_close(part, expected, **SOLVED)

    @pytest.mark.parametrize("sizes", [(4, 5), (4, 3, 4), (2, 3, 3, 2)])
    def test_small_reg_descends_to_the_linear_program(self, sizes):
        for seed in SEEDS:
            points, nu = problem(sizes, seed)
            cost = cost_of(points)
            best = linear_program(cost, nu)
            costs = [
                multi_marginal_sinkhorn(cost, nu, reg).transport_cost.item()
                for reg in (1.0, 0.1, 0.01, 1e-3, 1e-4)
            ]
            # A marginal may be off by 1e-6 at costs of some ten.
            assert all(a >= b - 1e-5 for a, b in itertools.pairwise(costs))
            assert costs[-1] >= best - 1e-5
            entropy = sum(math.log(size) for size in sizes)
            assert costs[-1] <= best + 1e-4 * cost.mean() * 2 * entropy + 1e-5

    def test_the_program_is_bounded_by_the_pairs(self):
        points, nu = problem((4, 4, 4), 1)
        ours = multi_marginal_sinkhorn(cost_of(points), nu, 1e-4)
        pairs = sum(
            pot.emd2(nu[i], nu[j], c).item() for (i, j), c in pairs_of(points).items()
        )
        assert ours.transport_cost >= pairs - 1e-5

    @pytest.mark.parametrize("seed", SEEDS)
    def test_large_reg_gives_independence(self, seed):
        points, nu = problem((3, 4, 2), seed)
        ours = multi_marginal_sinkhorn(cost_of(points), nu, 1e9)
        expected = torch.einsum("i,j,k->ijk", *nu)
        # The plan's logarithm differs by cost / lambda.
        torch.testing.assert_close(ours.plan, expected, rtol=1e-7, atol=1e-7)


class TestPlan:
    @settings(max_examples=60)
    @given(some_sizes, seeds, st.floats(-6, 6), st.sampled_from([1e-3, 0.02, 0.1, 3.0]))
    def test_marginals_are_met_at_every_scale(self, sizes, seed, log_scale, reg):
        points, nu = problem(sizes, seed)
        cost = cost_of(points) if len(sizes) > 1 else points[0][:, 0].abs()
        scale = 10**log_scale
        plan = multi_marginal_sinkhorn(scale * cost, nu, reg)
        assert plan.converged
        assert plan.residual <= 1e-6
        # Rounding of the sums that make the marginals.
        assert marginal_error(plan, nu) <= 1e-6 + 1e-12
        assert (plan.plan >= 0).all()
        assert plan.plan.sum().item() == pytest.approx(1, abs=1e-12)
        one = multi_marginal_sinkhorn(cost, nu, reg)
        # Two solutions within the tolerance of the marginals.
        torch.testing.assert_close(plan.plan, one.plan, rtol=0, atol=1e-5)
        assert plan.reg == pytest.approx(scale * one.reg, rel=1e-12)
        # The dual is flat at its maximum: errors of the square of the residual.
        assert plan.value.item() == pytest.approx(
            scale * one.value.item(), rel=1e-7, abs=1e-7 * one.reg * scale
        )

    @pytest.mark.parametrize("scale", [1.0, 1e2, 1e4, 1e6])
    @pytest.mark.parametrize("max_iter", [3, 500])
    def test_no_mass_is_lost_at_an_absolute_reg(self, scale, max_iter):
        for seed in SEEDS:
            points, nu = problem((4, 5, 3), seed)
            cost = scale * cost_of(points)
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                plan = multi_marginal_sinkhorn(
                    cost, nu, 0.1, reg_scale="absolute", max_iter=max_iter
                )
            assert plan.plan.sum().item() == pytest.approx(1, abs=1e-12)
            assert plan.converged == (plan.residual <= 1e-6) == (not caught)
            # Rounding: the residual was taken before the plan was brought in order.
            assert marginal_error(plan, nu) == pytest.approx(plan.residual, abs=1e-12)
            assert plan.converged or max_iter == 3
            if plan.converged and scale >= 1e2:
                best = linear_program(cost, nu)
                # Entropy at lambda 0.1, and marginals off by 1e-6.
                assert plan.transport_cost == pytest.approx(
                    best, abs=0.5 + 1e-6 * cost.max().item()
                )

    def test_the_warning_names_residual_and_remedy(self):
        points, nu = problem((4, 5, 3))
        cost = cost_of(points)
        with pytest.warns(TransportWarning, match="did not converge in") as seen:
            plan = multi_marginal_sinkhorn(cost, nu, 0.01, max_iter=1)
        text = str(seen[0].message)
        assert f"{plan.residual:.1e}" in text
        assert "Raise reg" in text and "max_iter" in text
        assert issubclass(TransportWarning, RuntimeWarning)
        assert not plan.converged
        quiet = multi_marginal_sinkhorn(cost, nu, 0.01, max_iter=1, warn=False)
        assert quiet.residual == plan.residual

    @pytest.mark.parametrize("rho", [None, 0.5])
    @pytest.mark.parametrize("newton", [True, False])
    def test_the_dual_rises_with_every_iteration(self, rho, newton):
        for seed in SEEDS:
            points, nu = problem((4, 3, 3), seed)
            values = [
                multi_marginal_sinkhorn(
                    cost_of(points),
                    nu,
                    0.05,
                    rho=rho,
                    newton=newton,
                    max_iter=n,
                    warn=False,
                    tol=1e-11,
                ).value.item()
                for n in range(1, 25)
            ]
            # Rounding of values of the size of one.
            assert all(b >= a - 1e-12 for a, b in itertools.pairwise(values))
            assert values[-1] > values[0]

    @pytest.mark.parametrize("seed", SEEDS)
    def test_value_is_cost_and_entropy(self, seed):
        points, nu = problem((3, 4, 2), seed)
        cost = cost_of(points)
        plan = multi_marginal_sinkhorn(cost, nu, **TIGHT)
        torch.testing.assert_close(
            plan.value, entropic_value(plan.plan, cost, plan.reg), **SOLVED
        )
        torch.testing.assert_close(plan.transport_cost, (plan.plan * cost).sum())
        products = torch.einsum("i,j,k,ijk->", *nu, cost)
        assert plan.reg == pytest.approx(0.1 * products.item(), rel=1e-12)
        total = sum((f * n).sum() for f, n in zip(plan.potentials, nu, strict=True))
        torch.testing.assert_close(plan.value, total, **SOLVED)
        levels = [(f * n).sum() for f, n in zip(plan.potentials, nu, strict=True)]
        torch.testing.assert_close(levels, [levels[0]] * 3, **SOLVED)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_relaxed_value_is_the_primal_one(self, seed):
        points, nu = problem((3, 4, 2), seed)
        cost = cost_of(points)
        plan = multi_marginal_sinkhorn(cost, nu, 0.2, rho=0.4, **TIGHT)
        scale = torch.einsum("i,j,k,ijk->", *nu, cost).item()
        assert plan.reg == pytest.approx(0.2 * scale, rel=1e-12)
        assert plan.rho == pytest.approx(0.4 * scale, rel=1e-12)
        T = plan.plan
        expected = (T * cost).sum() + plan.reg * (
            -torch.special.entr(T).sum() - T.sum() + 1
        )
        for m, part in enumerate(nu):
            own = plan.marginal(m)
            kl = (own * (own / part).log() - own + part).sum()
            expected = expected + plan.rho * kl
        torch.testing.assert_close(plan.value, expected, **SOLVED)

    def test_strong_relaxation_is_none(self):
        points, nu = problem((3, 4, 2))
        cost = cost_of(points)
        exact = multi_marginal_sinkhorn(cost, nu, **TIGHT)
        relaxed = multi_marginal_sinkhorn(cost, nu, rho=1e6, **TIGHT)
        # Of the order of lambda / rho.
        torch.testing.assert_close(relaxed.plan, exact.plan, rtol=0, atol=1e-6)
        torch.testing.assert_close(relaxed.value, exact.value, rtol=1e-5, atol=0)

    @settings(max_examples=30)
    @given(st.data(), st.lists(st.integers(2, 4), min_size=2, max_size=3), seeds)
    def test_invariances(self, data, sizes, seed):
        points, nu = problem(sizes, seed)
        plan = transport_between(points, nu, **TIGHT)
        orders = [data.draw(st.permutations(range(size))) for size in sizes]
        shuffled = transport_between(
            [moved(x, o) for x, o in zip(points, orders, strict=True)],
            [moved(n, o) for n, o in zip(nu, orders, strict=True)],
            **TIGHT,
        )
        expected = plan.plan
        for m, order in enumerate(orders):
            expected = expected.index_select(m, torch.tensor(order))
        torch.testing.assert_close(shuffled.plan, expected, **SOLVED)
        torch.testing.assert_close(shuffled.value, plan.value, **SOLVED)

        order = data.draw(st.permutations(range(len(sizes))))
        swapped = transport_between(
            [points[m] for m in order], [nu[m] for m in order], **TIGHT
        )
        torch.testing.assert_close(swapped.plan, plan.plan.permute(order), **SOLVED)
        torch.testing.assert_close(swapped.value, plan.value, **SOLVED)

        turn = torch.linalg.qr(normal(3, 3, seed=seed)).Q
        turned = [x @ turn + 10.0 for x in points]
        torch.testing.assert_close(
            transport_between(turned, nu, **TIGHT).plan, plan.plan, **SOLVED
        )
        # phi by a and lambda by a^2: the value by a^2, the plan as it was.
        scaled = transport_between(
            [7 * x for x in points], nu, 49 * plan.reg, reg_scale="absolute", **TIGHT
        )
        torch.testing.assert_close(scaled.plan, plan.plan, **SOLVED)
        torch.testing.assert_close(scaled.value, 49 * plan.value, **SOLVED)

    @pytest.mark.parametrize("M", [2, 3, 4])
    def test_identical_prototypes_meet_on_the_diagonal(self, M):
        for seed in SEEDS:
            (x,), (nu,) = problem((4,), seed)
            plan = multi_marginal_sinkhorn(cost_of([x] * M), [nu] * M, 1e-3)
            diagonal = torch.stack([plan.plan[(k,) * M] for k in range(4)])
            # What exp(-gap / lambda) leaves elsewhere, and the marginals' 1e-6.
            torch.testing.assert_close(diagonal, nu, rtol=0, atol=1e-5)
            assert plan.transport_cost < 1e-4 * plan.reg / 1e-3
            assert abs(plan.value) <= plan.reg * math.log(4) * 1.01

    @pytest.mark.parametrize("seed", SEEDS)
    def test_on_a_line_the_sorted_plan_is_best(self, seed):
        points, nu = problem((4, 5, 4), seed, d=1)
        plan = multi_marginal_sinkhorn(cost_of(points), nu, 1e-4)
        x = [part[:, 0].numpy() for part in points]
        mass = [part.numpy() for part in nu]
        pairs = sum(
            pot.emd2_1d(x[i], x[j], mass[i], mass[j])
            for i, j in itertools.combinations(range(3), 2)
        )
        # lambda times the entropy, and the marginals' 1e-6.
        assert plan.transport_cost.item() == pytest.approx(pairs, abs=plan.reg * 5)

    def test_pairwise(self):
        points, nu = problem((3, 4, 2))
        plan = multi_marginal_sinkhorn(cost_of(points), nu)
        torch.testing.assert_close(plan.pairwise(0, 2), plan.plan.sum(1))
        torch.testing.assert_close(plan.pairwise(2, 0), plan.plan.sum(1).T)
        torch.testing.assert_close(plan.pairwise(1, 1), plan.marginal(1).diag())
        torch.testing.assert_close(plan.marginal(1), plan.plan.sum((0, 2)))
        total = sum(
            (plan.pairwise(*pair) * cost).sum()
            for pair, cost in pairs_of(points).items()
        )
        torch.testing.assert_close(plan.transport_cost, total)
        assert plan.atoms is None


class TestSpecialCases:
    @pytest.mark.parametrize("rho", [None, 0.5])
    def test_components_of_no_mass_are_as_if_absent(self, rho):
        points, nu = problem((4, 3, 3))
        nu[0] = torch.tensor([0.5, 0.0, 0.25, 0.25]).double()
        nu[2] = torch.tensor([0.0, 1.0, 0.0]).double()
        cost = cost_of(points)
        plan = multi_marginal_sinkhorn(cost, nu, rho=rho, **TIGHT)
        kept = cost[[0, 2, 3]][:, :, [1]]
        small = multi_marginal_sinkhorn(
            kept, [nu[0][[0, 2, 3]], nu[1], nu[2][1:2]], rho=rho, **TIGHT
        )
        torch.testing.assert_close(plan.plan[[0, 2, 3]][:, :, [1]], small.plan)
        assert (plan.plan[1] == 0).all() and (plan.plan[:, :, [0, 2]] == 0).all()
        torch.testing.assert_close(plan.value, small.value)
        assert plan.potentials[0][1] == -math.inf
        assert all(not f.isnan().any() for f in plan.potentials)
        assert all(g.isfinite().all() for g in plan.mass_gradients)
        assert plan.mass_gradients[0][1] == 0
        # The potentials start a problem in which these components have mass.
        _, nu = problem((4, 3, 3))
        again = multi_marginal_sinkhorn(
            cost, nu, rho=rho, potentials=plan.potentials, **TIGHT
        )
        fresh = multi_marginal_sinkhorn(cost, nu, rho=rho, **TIGHT)
        torch.testing.assert_close(again.plan, fresh.plan, **SOLVED)

    def test_masses_are_brought_to_a_sum_of_one(self):
        points, nu = problem((4, 3, 3))
        rounded = [n * (1 + 5e-5) for n in nu]
        plan = transport_between(points, rounded, **TIGHT)
        assert plan.converged
        expected = transport_between(points, nu, **TIGHT)
        torch.testing.assert_close(plan.plan, expected.plan, **SOLVED)

    @pytest.mark.parametrize("tiny", [1e-12, 1e-30, 1e-300])
    def test_tiny_masses(self, tiny):
        points, nu = problem((4, 3, 3))
        nu[1] = torch.tensor([tiny, 0.4, 0.6], dtype=torch.float64)
        plan = multi_marginal_sinkhorn(cost_of(points), nu, 0.02)
        assert plan.converged and plan.plan.isfinite().all()
        assert all(f.isfinite().all() for f in plan.potentials)

    @pytest.mark.parametrize("form", [multi_marginal_sinkhorn, star_transport])
    def test_one_modality_keeps_its_masses(self, form):
        (x,), (nu,) = problem((5,))
        geometry = x.square().sum(1) if form is multi_marginal_sinkhorn else [x]
        plan = form(geometry, [nu])
        torch.testing.assert_close(plan.marginal(0), nu, rtol=0, atol=1e-6)
        torch.testing.assert_close(plan.pairwise(0, 0), nu.diag(), rtol=0, atol=1e-6)
        between = transport_between([x], [nu])
        assert between.value == 0 and between.converged

    def test_costs_of_zero(self):
        _, nu = problem((3, 4))
        zero = torch.zeros(3, 4).double()
        plan = multi_marginal_sinkhorn(zero, nu)
        torch.testing.assert_close(plan.plan, torch.outer(*nu), rtol=0, atol=1e-6)
        assert plan.value == 0 and plan.reg == 0
        x = [torch.ones(3, 2).double(), torch.ones(4, 2).double()]
        star = star_transport(x, nu)
        torch.testing.assert_close(
            star.pairwise(0, 1), torch.outer(*nu), rtol=0, atol=1e-6
        )
        relaxed = multi_marginal_sinkhorn(zero, [nu[0], nu[1] * 2], 0.1, rho=1.0)
        expected = multi_marginal_sinkhorn(
            zero, [nu[0], nu[1] * 2], 0.1, rho=1.0, reg_scale="absolute"
        )
        torch.testing.assert_close(relaxed.plan, expected.plan, rtol=0, atol=1e-5)

    @pytest.mark.parametrize("form", ["dense", "star"])
    def test_single_precision_in_and_out(self, form):
        points, nu = problem((4, 3, 5))
        max_cells = 1000 if form == "dense" else 0
        exact = transport_between(points, nu, max_cells=max_cells)
        single = transport_between(
            [x.float() for x in points],
            [n.float() for n in nu],
            max_cells=max_cells,
        )
        assert single.converged and single.value.dtype == torch.float32
        assert (
            single.pairwise(0, 1).dtype == single.potentials[0].dtype == torch.float32
        )
        # float32 inputs; the plan's logarithm moves by their rounding over lambda.
        torch.testing.assert_close(
            single.pairwise(0, 1).double(), exact.pairwise(0, 1), rtol=0, atol=1e-4
        )
        torch.testing.assert_close(
            single.value.double(), exact.value, rtol=1e-4, atol=1e-5
        )

    @pytest.mark.parametrize("reg", [0.1, 1e-3])
    def test_warm_start(self, reg):
        for seed in SEEDS:
            points, nu = problem((6, 6, 6), seed)
            cost = cost_of(points)
            cold = multi_marginal_sinkhorn(cost, nu, reg)
            same = multi_marginal_sinkhorn(cost, nu, reg, potentials=cold.potentials)
            assert same.n_iter == 0
            torch.testing.assert_close(same.plan, cold.plan, **EXACT)
            near = cost * (1 + 1e-3 * normal(6, 6, 6, seed=seed))
            warm = multi_marginal_sinkhorn(near, nu, reg, potentials=cold.potentials)
            fresh = multi_marginal_sinkhorn(near, nu, reg)
            assert warm.n_iter < fresh.n_iter
            torch.testing.assert_close(warm.plan, fresh.plan, rtol=0, atol=1e-5)
            # A bad start costs time, not the solution.
            bad = [50 * normal(6, seed=seed + m) for m in range(3)]
            lost = multi_marginal_sinkhorn(near, nu, reg, potentials=bad)
            assert lost.converged
            torch.testing.assert_close(lost.plan, fresh.plan, rtol=0, atol=1e-5)

    def test_newton_needs_fewer_iterations(self):
        points, nu = problem((8, 8, 8))
        cost = cost_of(points)
        quick = multi_marginal_sinkhorn(cost, nu, 0.05)
        slow = multi_marginal_sinkhorn(cost, nu, 0.05, newton=False, max_iter=5000)
        assert 3 * quick.n_iter < slow.n_iter
        torch.testing.assert_close(quick.plan, slow.plan, rtol=0, atol=1e-5)

    def test_errors(self):
        points, nu = problem((3, 4))
        cost = cost_of(points)
        solve = multi_marginal_sinkhorn
        with pytest.raises(
            ValueError, match="must be 2 vectors, one a modality, got 1"
        ):
            solve(cost, nu[:1])
        with pytest.raises(ValueError, match=r"marginals\[1\] must have shape \(4,\)"):
            solve(cost, [nu[0], nu[0]])
        with pytest.raises(ValueError, match="finite and not negative, got -"):
            solve(cost, [nu[0] - 0.5, nu[1]])
        with pytest.raises(ValueError, match="finite and not negative"):
            solve(cost, [nu[0] * math.nan, nu[1]])
        with pytest.raises(ValueError, match="must sum to one, got .* relax them"):
            solve(cost, [nu[0] * 2, nu[1]])
        with pytest.raises(ValueError, match="must sum to one"):
            solve(cost, [nu[0] * 0, nu[1]], rho=1.0)
        with pytest.raises(ValueError, match="reg must be positive and finite, got 0"):
            solve(cost, nu, 0.0, rho=1.0)
        with pytest.raises(ValueError, match="rho must be positive and finite, got -1"):
            solve(cost, nu, rho=-1.0)
        with pytest.raises(ValueError, match="reg_scale must be .* got 'std'"):
            solve(cost, nu, reg_scale="std")
        with pytest.raises(ValueError, match="cost must be finite, got NaN"):
            solve(cost * math.nan, nu)
        with pytest.raises(ValueError, match="non-negative .* add a constant"):
            solve(-cost, nu)
        with pytest.raises(ValueError, match=r"potentials must have lengths \[3, 4\]"):
            solve(cost, nu, potentials=nu[:1])
        with pytest.raises(ValueError, match=r"n_atoms must be in 1..7, .* got 8"):
            star_transport(points, nu, n_atoms=8)
        with pytest.raises(ValueError, match=r"atoms must have shape \(S, 3\), got"):
            star_transport(points, nu, atoms=torch.zeros(2, 2))
        with pytest.raises(ValueError, match="12 tuples .* than max_cells=11: give p"):
            transport_between(pairs_of(points), nu, max_cells=11)


class TestEnvelope:
    @pytest.mark.parametrize("sizes", [(3, 4), (2, 3, 2)])
    @pytest.mark.parametrize("rho", [None, 0.8])
    def test_gradients_are_those_of_the_solved_problem(self, sizes, rho):
        points, nu = problem(sizes, 2)
        logits = [n.log().requires_grad_() for n in nu]
        cost = cost_of(points).requires_grad_()

        def value(cost, *logits):
            marginals = [torch.softmax(part, 0) for part in logits]
            result = multi_marginal_sinkhorn(
                cost, marginals, 0.9, rho=rho, reg_scale="absolute", **TIGHT
            )
            return envelope_value(result, cost, marginals)

        assert torch.autograd.gradcheck(value, (cost, *logits), atol=1e-6)

    def test_relaxed_masses_need_no_constant_sum(self):
        points, nu = problem((3, 4), 5)
        nu = [n.requires_grad_() for n in nu]
        cost = cost_of(points)

        def value(*nu):
            result = multi_marginal_sinkhorn(
                cost, nu, 0.9, rho=0.8, reg_scale="absolute", **TIGHT
            )
            return envelope_value(result, cost, nu)

        assert torch.autograd.gradcheck(value, nu, atol=1e-6)

    def test_value_is_kept_exactly_and_the_gradient_is_the_plan(self):
        points, nu = problem((3, 4, 2))
        cost = cost_of(points).requires_grad_()
        nu = [n.requires_grad_() for n in nu]
        result = multi_marginal_sinkhorn(cost, nu)
        assert not result.plan.requires_grad and not result.value.requires_grad
        value = envelope_value(result, cost, nu)
        assert value.item() == result.value.item()
        value.backward()
        assert torch.equal(cost.grad, result.plan)
        for n, f in zip(nu, result.potentials, strict=True):
            assert torch.equal(n.grad, f)

    @pytest.mark.parametrize("max_cells", [1000, 0])
    def test_points_get_their_gradients(self, max_cells):
        points, nu = problem((3, 2, 3), 3)
        points = [x.requires_grad_() for x in points]
        start = normal(6, 3, seed=9)

        def value(*points):
            return transport_between(
                points,
                nu,
                2.0,
                reg_scale="absolute",
                max_cells=max_cells,
                atoms=start,
                max_moves=0,
                **TIGHT,
            ).value

        assert torch.autograd.gradcheck(value, points, atol=1e-6)

    def test_all_ways_to_the_value_agree(self):
        points, nu = problem((3, 2, 4), 3)
        points = [x.requires_grad_() for x in points]

        def gradients(value):
            return torch.autograd.grad(value, points, retain_graph=True)

        direct = transport_between(points, nu, **TIGHT)
        pairs = pairs_of(points)
        by_pairs = transport_between(pairs, nu, **TIGHT)
        result = multi_marginal_sinkhorn(cost_of(points), nu, **TIGHT)
        expected = gradients(envelope_value(result, cost_of(points)))
        for value in (direct.value, by_pairs.value, envelope_value(result, pairs)):
            torch.testing.assert_close(value, result.value, **EXACT)
            torch.testing.assert_close(gradients(value), expected, **SOLVED)

    def test_gradients_of_settled_atoms(self):
        points, nu = problem((3, 3, 3), 1)

        def value(points, atoms=None):
            return star_transport(
                points,
                nu,
                2.0,
                reg_scale="absolute",
                atoms=atoms,
                max_moves=2000,
                move_tol=0.0,
                **TIGHT,
            )

        settled = value([x.requires_grad_() for x in points])
        slopes = torch.autograd.grad(settled.value, points)
        direction = [normal(3, 3, seed=70 + m) for m in range(3)]
        with torch.no_grad():
            step = 1e-4
            ends = [
                value(
                    [x + s * step * d for x, d in zip(points, direction, strict=True)],
                    settled.atoms,
                ).value
                for s in (1, -1)
            ]
        expected = (ends[0] - ends[1]) / (2 * step)
        ours = sum((s * d).sum() for s, d in zip(slopes, direction, strict=True))
        # Central differences with a step of 1e-4, of values that settled to 1e-12.
        torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


class TestStar:
    @pytest.mark.parametrize("seed", SEEDS)
    def test_a_fine_even_cover_gives_the_plan_over_tuples(self, seed):
        # Integrating exp(-M sum_i |x_i - a|^2 / lambda) over a leaves the kernel of
        # the pair costs; an even grid integrates a Gaussian to rounding.
        points, nu = problem((3, 4, 2), seed, d=1)
        dense = multi_marginal_sinkhorn(cost_of(points), nu, 0.2, **TIGHT)
        width = math.sqrt(dense.reg) / 3
        reach = max(x.abs().max().item() for x in points) + 8 * width
        grid = torch.arange(-reach, reach, width / 3, dtype=torch.float64)[:, None]
        star = star_transport(points, nu, 0.2, atoms=grid, max_moves=0, **TIGHT)
        assert star.reg == pytest.approx(dense.reg, rel=1e-12)
        for i, j in itertools.combinations(range(3), 2):
            torch.testing.assert_close(
                star.pairwise(i, j), dense.pairwise(i, j), **SOLVED
            )
            torch.testing.assert_close(star.pairwise(j, i), star.pairwise(i, j).T)
        torch.testing.assert_close(star.transport_cost, dense.transport_cost, **SOLVED)
        assert star.atom_cost > star.transport_cost
        total = sum((f * n).sum() for f, n in zip(star.potentials, nu, strict=True))
        torch.testing.assert_close(star.value, total, **SOLVED)

    @pytest.mark.parametrize("seed", SEEDS)
    def test_atoms_at_all_means_reach_the_linear_program(self, seed):
        points, nu = problem((3, 3, 4), seed)
        tuples = itertools.product(*map(range, (3, 3, 4)))
        means = torch.stack(
            [sum(points[m][k[m]] for m in range(3)) / 3 for k in tuples]
        )
        best = linear_program(cost_of(points), nu)
        star = star_transport(points, nu, 1e-4, atoms=means, max_moves=0)
        # lambda times the entropy, and the marginals' 1e-6.
        assert star.transport_cost.item() == pytest.approx(best, abs=star.reg * 10)
        assert star.atom_cost.item() == pytest.approx(best, abs=star.reg * 10)

    @pytest.mark.parametrize("sizes", [(4, 3), (3, 4, 3), (3, 2, 3, 3)])
    def test_its_costs_bound_the_linear_program_closely(self, sizes):
        for seed in SEEDS:
            points, nu = problem(sizes, seed)
            best = linear_program(cost_of(points), nu)
            star = star_transport(points, nu, 1e-2)
            scale = star.reg / 1e-2
            assert star.converged
            assert best - 1e-5 * scale <= star.transport_cost
            assert star.transport_cost <= star.atom_cost + 1e-9 * scale
            # The atoms are a local minimum, some hundredths above in these.
            assert star.transport_cost <= best + 0.05 * scale

    @pytest.mark.parametrize("rho", [None, 0.5])
    def test_moving_the_atoms_never_raises_the_value(self, rho):
        for seed in SEEDS:
            points, nu = problem((3, 4, 3), seed)
            values = [
                star_transport(
                    points, nu, 0.05, rho=rho, max_moves=n, move_tol=0.0, tol=1e-10
                ).value.item()
                for n in range(8)
            ]
            assert all(b <= a + 1e-9 for a, b in itertools.pairwise(values))
            assert values[-1] < values[0]

    @settings(max_examples=15)
    @given(st.data(), seeds, st.sampled_from([None, 5]))
    def test_invariances(self, data, seed, n_atoms):
        sizes = (3, 4, 2)
        points, nu = problem(sizes, seed)
        options = {"n_atoms": n_atoms, "max_moves": 5, "move_tol": 0.0, **TIGHT}
        star = star_transport(points, nu, **options)
        orders = [data.draw(st.permutations(range(size))) for size in sizes]
        shuffled = star_transport(
            [moved(x, o) for x, o in zip(points, orders, strict=True)],
            [moved(n, o) for n, o in zip(nu, orders, strict=True)],
            **options,
        )
        expected = star.pairwise(0, 1)[orders[0]][:, orders[1]]
        torch.testing.assert_close(shuffled.pairwise(0, 1), expected, **SOLVED)
        torch.testing.assert_close(shuffled.value, star.value, **SOLVED)
        order = data.draw(st.permutations(range(3)))
        swapped = star_transport(
            [points[m] for m in order], [nu[m] for m in order], **options
        )
        places = [order.index(m) for m in range(2)]
        torch.testing.assert_close(
            swapped.pairwise(*places), star.pairwise(0, 1), **SOLVED
        )
        turn = torch.linalg.qr(normal(3, 3, seed=seed)).Q
        for scale in (1e-3, 1e3):
            turned = [scale * (x @ turn + 10.0) for x in points]
            other = star_transport(turned, nu, **options)
            torch.testing.assert_close(
                other.pairwise(0, 1), star.pairwise(0, 1), rtol=0, atol=1e-6
            )
            assert other.value.item() == pytest.approx(
                scale**2 * star.value.item(), rel=1e-6
            )

    def test_few_atoms_start_one_a_cluster(self):
        centres = torch.tensor([[0.0], [10.0], [21.0], [33.0]], dtype=torch.float64)
        points = [centres + 0.1 * normal(4, 1, seed=m) for m in range(3)]
        star = star_transport(points, masses((4,) * 3), n_atoms=4, max_moves=0)
        nearest = squared_distances(star.atoms, centres).argmin(1)
        assert sorted(nearest.tolist()) == [0, 1, 2, 3]

    def test_copies_of_the_atoms_change_nothing(self):
        points, nu = problem((3, 4, 3))
        atoms = normal(5, 3, seed=4)
        once = star_transport(points, nu, atoms=atoms, **TIGHT)
        twice = star_transport(points, nu, atoms=torch.cat([atoms, atoms]), **TIGHT)
        torch.testing.assert_close(twice.value, once.value, **SOLVED)
        torch.testing.assert_close(twice.pairwise(0, 2), once.pairwise(0, 2), **SOLVED)

    def test_identical_prototypes_meet_on_the_diagonal(self):
        (x,), (nu,) = problem((4,))
        star = star_transport([x] * 6, [nu] * 6, 1e-3)
        assert star.transport_cost < 1e-4 * star.reg / 1e-3
        torch.testing.assert_close(star.pairwise(1, 4), nu.diag(), rtol=0, atol=1e-5)

    def test_parts_are_consistent(self):
        points, nu = problem((3, 4, 2))
        nu[1] = torch.tensor([0.5, 0.0, 0.25, 0.25]).double()
        star = star_transport(points, nu, n_atoms=4, **TIGHT)
        assert star.atoms.shape == (4, 3)
        assert star.atom_weights.sum().item() == pytest.approx(1, abs=1e-12)
        assert marginal_error(star, nu) < 1e-10
        assert (star.given_atom[1][1] == 0).all()
        assert star.potentials[1][1] == -math.inf
        cost = sum(
            (star.pairwise(*pair) * c).sum() for pair, c in pairs_of(points).items()
        )
        torch.testing.assert_close(star.transport_cost, cost, **SOLVED)
        at_atoms = sum(
            (squared_distances(x, star.atoms) * given * star.atom_weights).sum()
            for x, given in zip(points, star.given_atom, strict=True)
        )
        torch.testing.assert_close(star.atom_cost, 3 * at_atoms, **SOLVED)
        torch.testing.assert_close(star.pairwise(1, 1), star.marginal(1).diag())

    @pytest.mark.parametrize("seed", SEEDS)
    def test_relaxed_marginals(self, seed):
        points, nu = problem((3, 4, 2), seed)
        star = star_transport(points, nu, rho=0.5, **TIGHT)
        # Where the dual is stationary, f = rho log(nu / T).
        for m, f in enumerate(star.potentials):
            expected = star.rho * (nu[m] / star.marginal(m)).log()
            torch.testing.assert_close(f, expected, **SOLVED)
        assert star.atom_weights.sum().item() != pytest.approx(1, abs=1e-3)

    def test_warm_start(self):
        points, nu = problem((5,) * 6)
        cold = star_transport(points, nu)
        near = [x + 1e-3 * normal(5, 3, seed=m) for m, x in enumerate(points)]
        warm = star_transport(
            near, nu, atoms=cold.atoms, potentials=cold.potentials, max_moves=2
        )
        assert warm.converged and warm.n_iter < cold.n_iter
        assert warm.value.item() == pytest.approx(cold.value.item(), rel=1e-2)

    def test_warning(self):
        points, nu = problem((4, 5, 3))
        with pytest.warns(TransportWarning, match="Raise reg"):
            star = star_transport(points, nu, 0.01, max_iter=1, max_moves=0)
        assert star.atom_weights.sum().item() == pytest.approx(1, abs=1e-12)


class TestTransportBetween:
    def test_the_number_of_tuples_decides(self):
        points, nu = problem((3, 4, 2))
        plan = transport_between(points, nu, max_cells=24)
        assert isinstance(plan, Plan)
        assert transport_between(points, nu, potentials=plan.potentials).n_iter == 0
        star = transport_between(points, nu, max_cells=23)
        assert isinstance(star, StarPlan)
        again = transport_between(
            points,
            nu,
            max_cells=23,
            atoms=star.atoms,
            potentials=star.potentials,
            max_moves=0,
        )
        assert again.n_iter == 0
        torch.testing.assert_close(again.pairwise(0, 1), star.pairwise(0, 1))

    @pytest.mark.parametrize("max_cells", [1000, 0])
    @pytest.mark.parametrize("scale", [1e-2, 1e2])
    def test_costs_never_vanish_as_inputs_grow(self, max_cells, scale):
        points, nu = problem((3, 4, 2))
        one = transport_between(points, nu, max_cells=max_cells)
        other = transport_between([scale * x for x in points], nu, max_cells=max_cells)
        assert other.transport_cost.item() == pytest.approx(
            scale**2 * one.transport_cost.item(), rel=1e-4
        )

    @pytest.mark.parametrize("max_cells", [1000, 0])
    def test_the_scale_is_that_of_normalised_masses(self, max_cells):
        points, nu = problem((3, 4, 2))
        one = transport_between(points, nu, rho=0.5, max_cells=max_cells)
        heavy = [nu[0], 2 * nu[1], 3 * nu[2]]
        other = transport_between(points, heavy, rho=0.5, max_cells=max_cells)
        assert other.reg == pytest.approx(one.reg, rel=1e-12)
        assert other.rho == pytest.approx(5 * one.reg, rel=1e-12)

    def test_masses_get_gradients_in_both_forms(self):
        points, nu = problem((3, 4, 2))
        nu = [n.requires_grad_() for n in nu]
        for max_cells in (1000, 0):
            result = transport_between(points, nu, max_cells=max_cells)
            found = torch.autograd.grad(result.value, nu)
            for slope, f in zip(found, result.potentials, strict=True):
                assert torch.equal(slope, f)

    def test_uses_no_global_random_state(self, global_rng_untouched):
        points, nu = problem((3, 4, 2))
        first = transport_between(points, nu, max_cells=0)
        assert torch.equal(
            first.atoms, transport_between(points, nu, max_cells=0).atoms
        )


class TestConditional:
    def test_rows_sum_to_one_and_follow_the_plan(self):
        points, nu = problem((3, 4))
        pair = multi_marginal_sinkhorn(cost_of(points), nu).pairwise(0, 1)
        rows = conditional(pair, nu[1])
        torch.testing.assert_close(rows.sum(1), torch.ones(3).double(), **EXACT)
        torch.testing.assert_close(rows * pair.sum(1, keepdim=True), pair, **EXACT)

    def test_rows_of_no_mass_get_the_targets_marginal(self):
        rows = [[0.0, 0.0], [0.3, 0.1], [5e-324, 0.0]]
        plan = torch.tensor(rows, dtype=torch.float64)
        target = torch.tensor([0.3, 0.1], dtype=torch.float64)
        rows = conditional(plan, target)
        torch.testing.assert_close(
            rows, torch.tensor([[0.75, 0.25]] * 3).double(), **EXACT
        )

    def test_tiny_rows_keep_their_digits(self):
        plan = torch.tensor([[3e-300, 1e-300]], dtype=torch.float64)
        rows = conditional(plan, torch.tensor([0.5, 0.5]).double())
        torch.testing.assert_close(rows, torch.tensor([[0.75, 0.25]]).double(), **EXACT)
