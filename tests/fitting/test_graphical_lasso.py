"""The solvers by what defines a solution: optimality conditions and duality gap.

What is asserted holds for every draw: the tolerances on matrices follow from the
certified gap (see `entry_error`), not from how well some seeds went.
"""

import math

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.sparse.csgraph import connected_components

from skmm.core.precision import Penalty, smallest_edgeless
from skmm.core.precision_manifold import manifold
from skmm.fitting.graphical_lasso import Penalties, screen, solve
from skmm.fitting.graphical_lasso._newton import Newton
from skmm.fitting.graphical_lasso._problem import Problem, edgeless

SOLVERS = ["auto", "newton", "admm"]
TOL = 1e-8  # nats a node and class; rounding of the objective is below 1e-11 of it


def covariances(rng, n_classes, p, n):
    """Sample covariances of factor models that share half of their factors."""
    shared = rng.normal(size=(p, max(p // 4, 1)))
    out = []
    for _ in range(n_classes):
        loadings = np.hstack([2 * shared, rng.normal(size=(p, max(p // 4, 1)))])
        x = rng.normal(size=(n, loadings.shape[1])) @ loadings.T
        x += rng.normal(size=(n, p)) * 2
        out.append(np.cov(x.T, bias=True).reshape(p, p))
    return np.stack(out)


def random_weights(rng, *shape):
    w = rng.uniform(0.3, 2.0, size=shape)
    return torch.as_tensor((w + np.swapaxes(w, -1, -2)) / 2)


def draw_problem(seed, n_classes, p, group=False, weighted=True, singular=False):
    """Covariances, class weights and `Penalties` between no edge and many."""
    rng = np.random.default_rng(seed)
    n = max(p // 2, 3) if singular else 4 * p + 10
    S = torch.as_tensor(covariances(rng, n_classes, p, n))
    t = torch.as_tensor(
        rng.uniform(0.3, 3.0, size=n_classes) if weighted else np.ones(n_classes)
    )
    common = random_weights(rng, p, p) if weighted else None
    specific = None
    if weighted:
        specific = random_weights(
            rng, 1 if group or rng.random() < 0.5 else n_classes, p, p
        )
    ratio = rng.uniform(0.1, 1.1) * (math.sqrt(n_classes) if group else n_classes)
    unit = Penalties(ratio, 1.0, common, specific, group)
    index = torch.arange(p)
    top = smallest_edgeless(S, t, unit.take(index, index, S))
    alpha = top * 10 ** rng.uniform(-1.2 if singular else -2, -0.1)
    return S, t, Penalties(ratio * alpha, alpha, common, specific, group)


def full(penalties, S):
    """The penalties of all pairs, as numpy arrays with zero diagonal."""
    p = S.shape[-1]
    off = 1 - np.eye(p)
    a = penalties.common * off
    if penalties.common_weights is not None:
        a = a * penalties.common_weights.numpy()
    if penalties.specific is None:
        return a, None
    b = penalties.specific * off[None]
    if penalties.specific_weights is not None:
        b = b * penalties.specific_weights.numpy()
    return a, b


def value_and_gap(solution, S, t, penalties):
    """Primal value and duality gap, by numpy from the definitions."""
    S, t = S.double().numpy(), t.double().numpy()
    a, b = full(penalties, S)
    A = solution.common.double().numpy()
    theta = solution.precision.double().numpy()
    B = theta - A
    Y = solution.dual.double().numpy()
    primal = (a * np.abs(A)).sum()
    dual = 0.0
    for c in range(len(S)):
        sign, log_det = np.linalg.slogdet(theta[c])
        assert sign > 0
        assert np.linalg.eigvalsh(theta[c])[0] > 0
        primal += t[c] * (np.trace(S[c] @ theta[c]) - log_det)
        sign, log_det = np.linalg.slogdet(S[c] + Y[c] / t[c])
        assert sign > 0
        dual += t[c] * (log_det + S.shape[-1])
    off = ~np.eye(S.shape[-1], dtype=bool)
    if b is not None:
        size = np.linalg.norm(B, axis=0)[None] if penalties.group else np.abs(B)
        primal += (b * size)[:, off].sum()
    else:
        assert not B[:, off].any()
    return primal, primal - dual


def violation(Y, a, b, group):
    """How far Y is from satisfying the dual's constraints."""
    worst = [np.abs(np.diagonal(Y, axis1=1, axis2=2)).max()]
    worst.append((np.abs(Y.sum(0)) - a).max())
    if b is not None:
        size = np.linalg.norm(Y, axis=0)[None] if group else np.abs(Y)
        worst.append((size - b).max())
    return max(worst)


def entry_error(theta, t, gap):
    r"""How far :math:`t (\Theta^{-1} - S)` can be from the certificate Y, per class.

    The gap contains :math:`t \sum_k (m_k - 1 - \log m_k)` over the eigenvalues m of
    :math:`(S + Y/t) \Theta`. Each term is at least :math:`(m_k - 1)^2 / 4` while
    :math:`m_k \le 2`, so the difference is at most
    :math:`2 \lambda_{max}(\Theta^{-1}) \sqrt{gap \cdot t}`.
    """
    largest = np.array([1 / np.linalg.eigvalsh(m)[0] for m in theta])
    return 2 * largest * np.sqrt(gap * t)


def assert_optimal(solution, S, t, penalties, tol=TOL):
    """Feasibility, certified gap, and all conditions of optimality."""
    size = S.shape[0] * S.shape[-1]
    scale = float(S.abs().max())
    a, b = full(penalties, S)
    Y = solution.dual.numpy()
    # Y is a difference of numbers of the size of S over one step: 1e3 roundings.
    assert violation(Y, a, b, penalties.group) <= 1e-12 * max(scale, 1)
    primal, gap = value_and_gap(solution, S, t, penalties)
    rounding = 1e-12 * (abs(primal) + size)
    assert solution.converged
    assert abs(solution.objective - primal) <= rounding
    assert -rounding <= gap <= tol * size + rounding
    assert abs(max(gap, 0) - solution.gap) <= rounding
    # The conditions of optimality, within what the gap allows.
    gap = max(gap, 0) + rounding
    theta, weight = solution.precision.numpy(), t.numpy()
    G = weight[:, None, None] * (np.linalg.inv(theta) - S.numpy())
    error = entry_error(theta, weight, gap)
    assert (np.abs(np.diagonal(G, axis1=1, axis2=2)) <= error[:, None]).all()
    A = solution.common.numpy()
    B = theta - A
    p = S.shape[-1]
    np.einsum("cjj->cj", B)[:] = 0
    off = ~np.eye(p, dtype=bool)
    assert ((np.abs(G.sum(0)) - a)[off] <= error.sum()).all()
    # lambda |x| - G x is not negative and vanishes at the solution, also where x is
    # zero; its sum is part of the gap.
    pay = (a * np.abs(A) - G.sum(0) * A)[off].sum()
    slack = gap + (error[:, None, None] * (np.abs(A) * off + np.abs(B))).sum()
    if b is not None:
        distance = np.linalg.norm(G, axis=0) if penalties.group else np.abs(G)
        limit = np.linalg.norm(error) if penalties.group else error[:, None, None]
        excess = distance - (b[0] if penalties.group else b)
        excess[..., ~off] = 0
        assert (excess <= limit).all()
        norm = np.linalg.norm(B, axis=0)[None] if penalties.group else np.abs(B)
        pay += (b * norm).sum() - (G * B).sum()
    assert -slack <= pay <= slack


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_classes=st.integers(1, 6),
    p=st.integers(2, 40),
    group=st.booleans(),
    weighted=st.booleans(),
    singular=st.booleans(),
    solver=st.sampled_from(SOLVERS),
)
def test_conditions_of_optimality_and_gap(
    seed, n_classes, p, group, weighted, singular, solver
):
    S, t, penalties = draw_problem(seed, n_classes, p, group, weighted, singular)
    solution = solve(S, t, penalties, solver=solver, tol=TOL, max_iter=5000)
    assert_optimal(solution, S, t, penalties)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_classes=st.integers(1, 4),
    p=st.integers(2, 20),
    solver=st.sampled_from(SOLVERS),
)
def test_infinite_specific_penalty(seed, n_classes, p, solver):
    S, t, penalties = draw_problem(seed, n_classes, p)
    penalties = Penalties(penalties.common, None, penalties.common_weights)
    solution = solve(S, t, penalties, solver=solver, tol=TOL, max_iter=5000)
    assert_optimal(solution, S, t, penalties)


def distance_bound(theta, t, gap):
    r"""How far a precision can be from the solution, in the Frobenius norm, per class.

    The objective is :math:`t`-strongly convex in :math:`\Theta^{-1/2} . \Theta^{-1/2}`
    up to a factor 2 close by: :math:`\|\Delta\| \le 2 \lambda_{max} \sqrt{gap / t}`.
    """
    largest = np.array([np.linalg.eigvalsh(m)[-1] for m in theta])
    return 2 * largest * np.sqrt(gap / t)


def assert_same(one, two, t):
    """Two solutions of one problem agree, within what their gaps allow."""
    assert one.converged and two.converged
    x, y = one.precision.numpy(), two.precision.numpy()
    size = x.shape[0] * x.shape[-1]
    gap = max(one.gap, two.gap) + 1e-12 * (abs(one.objective) + size)
    limit = 2 * distance_bound(x, t.numpy(), gap)
    assert (np.linalg.norm(x - y, axis=(1, 2)) <= limit).all()
    assert abs(one.objective - two.objective) <= gap


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_classes=st.integers(1, 5),
    p=st.integers(2, 25),
    group=st.booleans(),
)
def test_solvers_agree(seed, n_classes, p, group):
    S, t, penalties = draw_problem(seed, n_classes, p, group)
    kwargs = {"tol": TOL, "max_iter": 5000}
    auto, newton, admm = (solve(S, t, penalties, solver=s, **kwargs) for s in SOLVERS)
    assert_same(auto, newton, t)
    assert_same(auto, admm, t)


def blocks_of(support):
    """Components of a boolean graph, as `screen` gives them."""
    _, label = connected_components(support, directed=False)
    return sorted(
        (np.flatnonzero(label == k).tolist() for k in range(label.max() + 1)),
        key=lambda block: block[0],
    )


@settings(max_examples=25)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_classes=st.integers(1, 5),
    p=st.integers(2, 25),
    group=st.booleans(),
    share=st.floats(0.4, 0.98),
)
def test_screening_finds_the_solutions_components(seed, n_classes, p, group, share):
    S, t, penalties = draw_problem(seed, n_classes, p, group)
    index = torch.arange(p)
    top = smallest_edgeless(S, t, penalties.take(index, index, S))

    def at(factor):
        return Penalties(
            penalties.common * factor,
            penalties.specific * factor,
            penalties.common_weights,
            penalties.specific_weights,
            group,
        )

    def screened(factor):
        return [block.tolist() for block in screen(S, t, at(factor))]

    # An edge of size e changes the value by about e^2. The gap can't tell whether it
    # is there unless e is far above the gap's root, so nothing may hang on an edge
    # that comes or goes within 0.3 % of the penalty.
    found = screened(top * share)
    assume(screened(top * share * 1.003) == found == screened(top * share * 0.997))
    here = at(top * share)
    one = solve(S, t, here, tol=1e-11, max_iter=5000)
    assert [block.tolist() for block in one.blocks] == found
    whole = solve(S, t, here, tol=1e-11, max_iter=5000, blocks=[np.arange(p)])
    assert_same(one, whole, t)
    # Zeros between the blocks are exact, with and without screening.
    for solution in (one, whole):
        assert blocks_of((solution.precision != 0).any(0).numpy()) == found


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("solver", SOLVERS)
def test_units_of_the_nodes_do_not_matter(seed, solver):
    S, t, penalties = draw_problem(seed, 3, 12)
    units = torch.as_tensor(10.0 ** np.random.default_rng(seed).uniform(-4, 4, 12))
    outer = units[:, None] * units
    scaled = Penalties(
        penalties.common,
        penalties.specific,
        penalties.common_weights * outer,
        penalties.specific_weights * outer,
    )
    one = solve(S, t, penalties, solver=solver, tol=TOL)
    two = solve(S * outer, t, scaled, solver=solver, tol=TOL)
    # Both are solved on the scale of correlations: only rounding differs.
    assert [b.tolist() for b in one.blocks] == [b.tolist() for b in two.blocks]
    two.common, two.specific = two.common * outer, two.specific * outer
    two.objective -= float(2 * t.sum() * units.log().sum())
    assert_same(one, two, t)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("group", [False, True])
def test_order_of_nodes_and_classes_does_not_matter(seed, group):
    S, t, penalties = draw_problem(seed, 4, 14, group)
    rng = np.random.default_rng(seed)
    nodes, classes = (torch.as_tensor(rng.permutation(n)) for n in (14, 4))
    b = penalties.specific_weights
    b = b if len(b) == 1 else b[classes]
    mixed = Penalties(
        penalties.common,
        penalties.specific,
        penalties.common_weights[nodes][:, nodes],
        b[:, nodes][:, :, nodes],
        group,
    )
    one = solve(S, t, penalties, tol=TOL)
    two = solve(S[classes][:, nodes][:, :, nodes], t[classes], mixed, tol=TOL)
    back_nodes, back_classes = nodes.argsort(), classes.argsort()
    two.common = two.common[back_nodes][:, back_nodes]
    two.specific = two.specific[back_classes][:, back_nodes][:, :, back_nodes]
    assert_same(one, two, t)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("factor", [0.2, 1.0, 1.5, 20.0])
def test_warm_start_from_another_strength(solver, group, factor):
    S, t, penalties = draw_problem(3, 3, 15, group)
    other = Penalties(
        penalties.common * factor,
        penalties.specific * factor,
        penalties.common_weights,
        penalties.specific_weights,
        group,
    )
    begin = solve(S, t, other, solver=solver, tol=TOL, max_iter=5000)
    warm = solve(S, t, penalties, solver=solver, tol=TOL, init=begin, max_iter=5000)
    cold = solve(S, t, penalties, solver=solver, tol=TOL, max_iter=5000)
    assert_optimal(warm, S, t, penalties)
    assert_same(warm, cold, t)
    if factor == 1:
        assert warm.n_iter < cold.n_iter


@pytest.mark.parametrize("max_iter", [1, 2, 5])
@pytest.mark.parametrize("seed", range(3))
def test_an_early_end_is_positive_definite(seed, max_iter):
    S = torch.as_tensor(covariances(np.random.default_rng(seed), 2, 30, 12))
    t = torch.ones(2, dtype=torch.float64)
    solution = solve(
        S, t, Penalties(0.1, 0.1), solver="admm", tol=TOL, max_iter=max_iter
    )
    assert not solution.converged
    assert torch.equal(solution.precision, solution.common + solution.specific)
    torch.linalg.cholesky(solution.precision)


@pytest.mark.parametrize("solver", SOLVERS)
def test_useless_start_is_survived(solver):
    S, t, penalties = draw_problem(5, 2, 10)
    begin = solve(S, t, penalties, tol=TOL)
    begin.specific = -3 * begin.specific - 100 * torch.eye(10)  # not positive definite
    begin.dual = 50 * begin.dual
    found = solve(S, t, penalties, solver=solver, tol=TOL, init=begin, max_iter=5000)
    assert_optimal(found, S, t, penalties)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("n_classes", [1, 3])
@pytest.mark.parametrize("group", [False, True])
def test_collinear_features(seed, n_classes, group):
    # Three copies of each feature that differ by 1e-4 of a standard deviation.
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_classes, 60, 5))
    x = np.concatenate([x + 1e-4 * rng.normal(size=x.shape) for _ in range(3)], axis=2)
    S = torch.as_tensor(np.stack([np.cov(m.T) for m in x]))
    t = torch.ones(n_classes, dtype=torch.float64)
    penalties = Penalties(0.4 * n_classes * 0.01, 0.01, group=group)
    for solver in ("auto", "admm"):
        solution = solve(S, t, penalties, solver=solver, tol=TOL, max_iter=5000)
        assert_optimal(solution, S, t, penalties)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n_classes", [1, 3])
def test_float32(solver, n_classes):
    S, t, penalties = draw_problem(7, n_classes, 15, weighted=False)
    single = Penalties(penalties.common, penalties.specific)
    # 1e-4 a node and class is some hundred roundings of float32.
    found = solve(S.float(), t.float(), single, solver=solver, tol=1e-4)
    assert found.converged
    for part in (found.common, found.specific, found.dual):
        assert part.dtype == torch.float32
    # The certificate is of the problem with the rounded S, whose value differs by less
    # than eps |S| |Theta|, summed over classes.
    exact = solve(S, t, penalties, tol=TOL)
    size = 15 * n_classes
    theta = exact.precision
    rounding = 1e-6 * float((S.norm(dim=(1, 2)) * theta.norm(dim=(1, 2)) * t).sum())
    assert -rounding <= found.objective - exact.objective <= 1e-4 * size + rounding
    a, b = full(single, S)
    limit = 1e-5 * float(S.abs().max())  # a hundred roundings
    assert violation(found.dual.double().numpy(), a, b, False) <= limit
    # Symmetric to the last bit, as in float64.
    assert torch.equal(found.common, found.common.mT)
    assert torch.equal(found.specific, found.specific.mT)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("group", [False, True])
@pytest.mark.parametrize("max_iter", [1, 2])
def test_running_out_of_iterations_is_told(solver, group, max_iter):
    S, t, penalties = draw_problem(11, 3, 20, group)
    solution = solve(S, t, penalties, solver=solver, tol=1e-12, max_iter=max_iter)
    assert not solution.converged
    assert solution.n_iter == max_iter
    assert solution.gap > 1e-12 * 60
    if math.isfinite(solution.gap):
        _, gap = value_and_gap(solution, S, t, penalties)
        # The same sums in another order.
        assert gap == pytest.approx(solution.gap, rel=1e-9)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n_classes", [1, 3])
@pytest.mark.parametrize("group", [False, True])
def test_without_penalty_it_is_the_inverse(solver, n_classes, group):
    S, t, _ = draw_problem(13, n_classes, 8)
    solution = solve(
        S, t, Penalties(0.0, 0.0, group=group), solver=solver, tol=1e-12, max_iter=5000
    )
    assert solution.converged
    theta = solution.precision.numpy()
    inverse = np.linalg.inv(S.numpy())
    limit = distance_bound(inverse, t.numpy(), 1e-11 * theta.size / 8)
    assert (np.linalg.norm(theta - inverse, axis=(1, 2)) <= limit).all()


def test_no_edges_is_closed_form():
    S, t, _ = draw_problem(17, 3, 9)
    huge = Penalties(1e6, 1e6)
    solution = solve(S, t, huge)
    assert solution.n_iter == 0
    assert [len(block) for block in solution.blocks] == [1] * 9
    variance = S.diagonal(dim1=1, dim2=2)
    expected = torch.diag_embed(1 / variance)
    # One addition and one subtraction of the mean.
    torch.testing.assert_close(solution.precision, expected, rtol=1e-14, atol=0)
    value = float((t[:, None] * (variance.log() + 1)).sum())
    assert solution.objective == pytest.approx(value, rel=1e-14)
    assert solution.gap == 0


def test_gap_of_each_iteration_is_told():
    S, t, penalties = draw_problem(19, 2, 10)
    gaps = []
    solution = solve(S, t, penalties, tol=TOL, on_iteration=gaps.append)
    if len([b for b in solution.blocks if len(b) > 1]) == 1:
        assert len(gaps) == solution.n_iter
    assert gaps[-1] <= TOL
    assert gaps[0] > TOL


@pytest.mark.parametrize("size", [0.0, 1e-12, 1e-24, 1e-40])
def test_newtons_direction_is_linear_in_the_gradient(size):
    """Also where the gradient's square would be zero in single precision."""
    S = torch.as_tensor(covariances(np.random.default_rng(0), 1, 6, 40))
    problem = Problem(S, torch.ones(1, dtype=torch.float64), Penalty(0 * S[0]))
    newton = Newton(problem, 1e-8)
    state = newton.init(*edgeless(problem))
    surface = manifold(state.common + S[0], state.specific, problem.penalty)
    one = torch.ones_like(surface.count)
    found, expected = (newton.solve(surface, state, g * one) for g in (size, 1e-6))
    # Single precision, and a system solved to 1e-3.
    np.testing.assert_allclose(found, expected * size / 1e-6, rtol=1e-2)
