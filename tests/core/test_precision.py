"""The formulas of the joint graphical lasso against brute force."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize, minimize_scalar

from skmm.core.precision import (
    Penalty,
    dual_objective,
    dual_violation,
    factor,
    half_log_det,
    is_connected,
    likelihood_proximal,
    objective,
    smallest_edgeless,
    smooth_value,
    soft_threshold,
    split,
    split_exactly,
)
from skmm.fitting.graphical_lasso import Penalties, solve


def pair(v):
    """Symmetric (C, 2, 2) matrices with these entries beside the diagonal."""
    v = torch.as_tensor(v, dtype=torch.float64)
    out = torch.zeros(len(v), 2, 2, dtype=torch.float64)
    out[:, 0, 1] = out[:, 1, 0] = v
    return out


def pair_penalty(kappa, tau, group=False):
    specific = None if tau is None else pair(np.atleast_1d(tau))
    return Penalty(pair([kappa])[0], specific, group)


def cost(a, b, v, kappa, tau, group=False):
    """The objective of `split` at step 1, for the one entry of a pair."""
    b = np.asarray(b)
    pay = tau * np.linalg.norm(b) if group else (tau * np.abs(b)).sum()
    return 0.5 * ((v - a - b) ** 2).sum() + kappa * abs(a) + pay


def profile(a, v, kappa, tau, group=False):
    """The cost at the best b for this a."""
    rest = v - a
    if group:
        norm = np.linalg.norm(rest)
        b = rest * max(1 - tau / norm, 0) if norm > 0 else 0 * rest
    else:
        b = np.sign(rest) * np.maximum(np.abs(rest) - tau, 0)
    return cost(a, b, v, kappa, tau, group)


def draw_entry(seed, n_classes):
    """Values and penalties on a grid (ties, zeros), or continuous."""
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        v = rng.integers(-4, 5, size=n_classes) / 2
        tau = rng.integers(0, 4, size=n_classes) / 2
        kappa = rng.integers(0, 6) / 2
    else:
        v = rng.normal(size=n_classes) * 10 ** rng.uniform(-1, 1)
        tau = rng.exponential(size=n_classes) * (rng.random(n_classes) < 0.8)
        kappa = rng.exponential() * n_classes * (rng.random() < 0.8)
    return v, float(kappa), tau


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), n_classes=st.sampled_from([1, 2, 3, 5]))
def test_split_is_the_global_minimum(seed, n_classes):
    v, kappa, tau = draw_entry(seed, n_classes)
    common, specific = split(pair(v), pair_penalty(kappa, tau), 1.0)
    a, b = float(common[0, 1]), specific[:, 0, 1].numpy()
    found = cost(a, b, v, kappa, tau)
    # The profile is convex and piecewise quadratic in a, with kinks at zero and at
    # v +- tau: its minimum is at one of them or at the vertex of a piece between.
    kinks = np.unique(np.concatenate([[0.0], v - tau, v + tau]))
    candidates = list(kinks)
    for left, right in itertools.pairwise(kinks):
        result = minimize_scalar(
            profile, (left, right), (left, right), (v, kappa, tau), "bounded"
        )
        candidates.append(result.x)
    best = min(profile(x, v, kappa, tau) for x in candidates)
    # Rounding of a sum of squares of this size.
    assert found <= best + 1e-13 * (1 + (v**2).sum())
    # Of all minimisers, the smallest |a|: nothing nearer to zero is as good. The cost
    # is flat to second order only, so a step of 1e-3 is needed to see a difference.
    for share in (0.0, 0.5, 0.9):
        if abs(a) * (1 - share) > 1e-3:
            assert profile(a * share, v, kappa, tau) > found
    assert torch.equal(common, common.T)
    assert torch.equal(specific, specific.mT)


@settings(max_examples=40)
@given(seed=st.integers(0, 2**32 - 1), n_classes=st.sampled_from([1, 2, 3, 5]))
def test_split_beats_alternating_sweeps(seed, n_classes):
    # The sweep of Hara & Washio's kind has the same fixed points.
    v, kappa, tau = draw_entry(seed, n_classes)
    common, specific = split(pair(v), pair_penalty(kappa, tau), 1.0)
    a, b = 0.0, np.zeros(n_classes)
    for _ in range(2000):
        rest = (v - b).mean()
        a = np.sign(rest) * max(abs(rest) - kappa / n_classes, 0)
        b = np.sign(v - a) * np.maximum(np.abs(v - a) - tau, 0)
    found = cost(float(common[0, 1]), specific[:, 0, 1].numpy(), v, kappa, tau)
    assert found <= cost(a, b, v, kappa, tau) + 1e-13 * (1 + (v**2).sum())


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_classes=st.sampled_from([1, 2, 3, 5]),
    p=st.integers(1, 9),
    step=st.sampled_from([0.01, 1.0, 7.0]),
    kind=st.sampled_from(["own", "one", "group", "infinite"]),
)
def test_split_of_matrices_entry_by_entry(seed, n_classes, p, step, kind):
    rng = np.random.default_rng(seed)
    values = rng.normal(size=(n_classes, p, p)) * 2
    common, specific = (rng.exponential(size=(n, p, p)) for n in (1, n_classes))
    values, common, specific = (
        torch.as_tensor(m + m.swapaxes(1, 2)) for m in (values, common, specific)
    )
    off = 1 - torch.eye(p, dtype=torch.float64)
    common = common[0] * off * n_classes**0.5
    specific = {"own": specific, "infinite": None}.get(kind, specific[:1])
    specific = None if specific is None else specific * off
    penalty = Penalty(common, specific, kind == "group")
    A, B = split(values, penalty, step)
    assert A.shape == (p, p)
    assert B.shape == (n_classes, p, p)
    for i in range(p):
        for j in range(i):
            tau = None if specific is None else specific[:, i, j].numpy() * step
            one = pair_penalty(float(common[i, j]) * step, tau, kind == "group")
            a, b = split(pair(values[:, i, j]), one, 1.0)
            # The same operations, on another batch.
            assert float(A[i, j]) == pytest.approx(float(a[0, 1]), abs=1e-13)
            torch.testing.assert_close(B[:, i, j], b[:, 0, 1], rtol=0, atol=1e-13)
    # The diagonal is free: split into the mean and what is left of each class.
    diagonal = values.diagonal(dim1=1, dim2=2)
    torch.testing.assert_close(A.diagonal(), diagonal.mean(0), rtol=0, atol=0)
    left = (A + B - values).diagonal(dim1=1, dim2=2)
    assert float(left.abs().max()) <= 1e-14 * float(diagonal.abs().max())
    # What the step leaves over is feasible for the dual. It is a difference of numbers
    # of the size of the values over the step: some roundings of that quotient.
    dual = (values - A - B) / step
    limit = 1e-14 * float(values.abs().max()) * n_classes / step
    dual.diagonal(dim1=1, dim2=2).zero_()
    assert dual_violation(dual, penalty) <= limit


@settings(max_examples=60)
@given(seed=st.integers(0, 2**32 - 1), n_classes=st.sampled_from([1, 2, 3, 5]))
def test_split_with_the_group_norm(seed, n_classes):
    rng = np.random.default_rng(seed)
    if rng.random() < 0.5:
        v = rng.integers(-2, 3, size=n_classes) / 2.0
    else:
        v = rng.normal(size=n_classes)
    kappa = float(rng.integers(0, 5) / 4) if rng.random() < 0.5 else rng.exponential()
    tau = float(rng.integers(0, 5) / 4) if rng.random() < 0.5 else rng.exponential()
    common, specific = split(pair(v), pair_penalty(kappa, [tau], True), 1.0)
    a, b = float(common[0, 1]), specific[:, 0, 1].numpy()
    found = cost(a, b, v, kappa, tau, True)
    # Convex in a, with its only kink at zero and its minimum between zero and the
    # classes' values.
    bounds = (min(v.min(), 0.0) - 1e-3, max(v.max(), 0.0) + 1e-3)
    result = minimize_scalar(
        profile, bounds, bounds, (v, kappa, tau, True), "bounded",
        options={"xatol": 1e-9},
    )  # fmt: skip
    best = min(result.fun, profile(0.0, v, kappa, tau, True))
    assert found <= best + 1e-14 * (1 + (v**2).sum())


def test_group_split_against_a_general_convex_solver():
    # Over (a, b) jointly, smoothed by 1e-10, which costs at most 2e-10 of penalty.
    rng = np.random.default_rng(0)
    for n_classes in (2, 3, 5):
        for _ in range(5):
            v, kappa, tau = rng.normal(size=n_classes), *rng.exponential(size=2)

            def smoothed(x, v=v, kappa=kappa, tau=tau):
                a, b = x[0], x[1:]
                return (
                    0.5 * ((v - a - b) ** 2).sum()
                    + kappa * math.sqrt(a * a + 1e-20)
                    + tau * math.sqrt((b * b).sum() + 1e-20)
                )

            common, specific = split(pair(v), pair_penalty(kappa, [tau], True), 1.0)
            found = smoothed(np.array([common[0, 1], *specific[:, 0, 1]]))
            for _ in range(3):
                begin = rng.normal(size=n_classes + 1)
                result = minimize(smoothed, begin, method="Powell")
                assert found <= result.fun + 1e-9


def test_infinite_penalty_is_the_limit_of_large_ones():
    rng = np.random.default_rng(1)
    for n_classes in (1, 2, 5):
        v = rng.normal(size=n_classes)
        for kappa in (0.0, 0.3, 1.0, 30.0):
            a, b = split(pair(v), pair_penalty(kappa, None), 1.0)
            large = pair_penalty(kappa, np.full(n_classes, 1e3))
            other, none = split(pair(v), large, 1.0)
            assert not b[:, 0, 1].any()
            assert not none[:, 0, 1].any()
            # The sorted sums contain tau: rounding of 1e3.
            assert float(a[0, 1]) == pytest.approx(float(other[0, 1]), abs=1e-11)


@pytest.mark.parametrize("group", [False, True])
def test_split_in_float32_is_near_float64(group):
    rng = np.random.default_rng(2)
    for n_classes in (1, 2, 4):
        v = rng.normal(size=(n_classes, 40, 40))
        v = torch.as_tensor(v + v.swapaxes(1, 2))
        off = 1 - torch.eye(40, dtype=torch.float64)
        for ratio in (0.3, n_classes**0.5, float(n_classes)):
            penalty = Penalty(off * ratio, off[None].clone(), group)
            exact = split(v, penalty, 0.7)
            rounded = split(v.float(), penalty.to(v.float()), 0.7)
            whole = exact[0] + exact[1]
            found = rounded[0] + rounded[1]
            assert found.dtype == torch.float32
            # The proximal point does not stretch: an error in v or the penalties is at
            # most itself in the sum of the parts. Ten roundings of about 10.
            assert float((whole - found.double()).abs().max()) <= 1e-5


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("group", [False, True])
def test_split_of_zeros(dtype, group):
    # 0 / 0 in a closed form would be NaN, which comparisons hide.
    for kappa in (0.0, 1.0):
        for tau in (0.0, 1.0):
            penalty = pair_penalty(kappa, [tau], group)
            zero = torch.zeros(3, 2, 2, dtype=dtype)
            common, specific = split(zero, penalty.to(zero), 1.0)
            assert torch.equal(common, torch.zeros(2, 2, dtype=dtype))
            assert torch.equal(specific, zero)


def test_soft_threshold():
    x = torch.tensor([-3.0, -1.0, -0.5, 0.0, 0.5, 1.0, 3.0])
    expected = torch.tensor([-2.0, 0.0, 0.0, 0.0, 0.0, 0.0, 2.0])
    assert torch.equal(soft_threshold(x, torch.tensor(1.0)), expected)


@settings(max_examples=200)
@given(seed=st.integers(0, 2**32 - 1), n_classes=st.sampled_from([1, 2, 3, 5]))
def test_exact_split_is_a_weighted_median(seed, n_classes):
    v, kappa, tau = draw_entry(seed, n_classes)
    v = np.where(v == 0, 2.5, v)
    common, specific = split_exactly(pair(v), pair_penalty(kappa, tau))
    a = float(common[0, 1])
    # One subtraction.
    np.testing.assert_allclose(a + specific[:, 0, 1].numpy(), v, rtol=0, atol=1e-14)

    def pay(x):
        return kappa * abs(x) + (tau * np.abs(v - x)).sum()

    # Convex and piecewise linear: the minimum is at a kink.
    kinks = [0.0, *v]
    best = min(map(pay, kinks))
    assert pay(a) <= best + 1e-13 * (1 + abs(best))
    # A value as it stands, and the smallest of those that are as good.
    assert a in kinks
    as_good = [abs(x) for x in kinks if pay(x) <= best + 1e-13 * (1 + abs(best))]
    assert abs(a) == min(as_good)


@settings(max_examples=150)
@given(seed=st.integers(0, 2**32 - 1), n_classes=st.sampled_from([1, 2, 3, 4, 5]))
def test_exact_split_with_the_group_norm(seed, n_classes):
    rng = np.random.default_rng(seed)
    v = rng.normal(size=n_classes)
    if rng.random() < 0.4:
        v = np.full(n_classes, rng.integers(-2, 3) / 2.0)  # all of them equal
    kappa, tau = rng.exponential(size=2)
    if rng.random() < 0.3:
        kappa, tau = rng.integers(0, 3, size=2) / 2.0
    common, specific = split_exactly(pair(v), pair_penalty(kappa, [tau], True))
    a = float(common[0, 1])
    np.testing.assert_allclose(a + specific[:, 0, 1].numpy(), v, rtol=0, atol=1e-14)

    def pay(x):
        return kappa * abs(x) + tau * np.linalg.norm(v - x)

    bounds = (min(v.min(), 0.0) - 1e-3, max(v.max(), 0.0) + 1e-3)
    result = minimize_scalar(pay, bounds, bounds, (), "bounded")
    best = min(result.fun, pay(0.0), pay(v.mean()))
    # Rounding; the brute force may stand above the minimum, not below.
    assert pay(a) <= best + 1e-14 * (1 + best)


def test_exact_split_with_an_infinite_penalty():
    theta = pair([0.5, 0.5, 0.5]) + torch.diag_embed(
        torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 9.0]], dtype=torch.float64)
    )
    common, specific = split_exactly(theta, pair_penalty(1.0, None))
    assert torch.equal(common, torch.tensor([[3.0, 0.5], [0.5, 5.0]]).double())
    assert not specific[:, 0, 1].any()
    assert torch.equal(common + specific, theta)


@pytest.mark.parametrize("seed", range(3))
def test_exact_split_of_a_solution_is_the_solution(seed):
    # Section "weighted median": given the precisions, nothing is cheaper.
    rng = np.random.default_rng(seed)
    n_classes, p = 5, 12
    x = rng.normal(size=(n_classes, 30, p)) @ (
        np.eye(p) + 0.3 * rng.normal(size=(p, p))
    )
    S = torch.as_tensor(np.stack([np.cov(m.T) for m in x]))
    t = torch.ones(n_classes, dtype=torch.float64)
    for group, ratio in ((False, 2.2), (True, 1.3)):
        penalties = Penalties(0.4 * ratio, 0.4, group=group)
        solution = solve(S, t, penalties, tol=1e-10, max_iter=3000)
        index = torch.arange(p)
        penalty = penalties.take(index, index, S)
        common, specific = split_exactly(solution.precision, penalty)
        cheapest = penalty.value(common, specific)
        paid = penalty.value(solution.common, solution.specific)
        # Not more than the gap above, and not below: it is the minimum.
        assert -1e-12 * paid <= paid - cheapest <= solution.gap + 1e-12 * paid


# Likelihood and dual ------------------------------------------------------------------


@settings(max_examples=40)
@given(
    seed=st.integers(0, 2**32 - 1),
    n_classes=st.integers(1, 4),
    p=st.integers(1, 12),
    size=st.sampled_from([1e-3, 1.0, 1e3]),
)
def test_proximal_point_of_the_likelihood(seed, n_classes, p, size):
    rng = np.random.default_rng(seed)
    m = rng.normal(size=(n_classes, p, p)) * size
    m = torch.as_tensor((m + m.swapaxes(1, 2)) / 2)
    tau = torch.as_tensor(rng.exponential(size=n_classes) + 1e-3)
    theta = likelihood_proximal(m, tau)
    eigenvalues, vectors = torch.linalg.eigh(m)
    # theta has the eigenvectors of m, and each eigenvalue x solves x - tau / x = d.
    diagonal = vectors.mT @ theta @ vectors
    x = diagonal.diagonal(dim1=1, dim2=2)
    scale = torch.maximum(eigenvalues.abs().amax(1, keepdim=True), tau[:, None].sqrt())
    # Backward error of the eigendecomposition: roundings of the largest eigenvalue.
    off = diagonal - torch.diag_embed(x)
    assert bool((off.abs() <= 1e-13 * p * scale[:, :, None]).all())
    root = (eigenvalues + (eigenvalues**2 + 4 * tau[:, None]).sqrt()) / 2
    assert bool(((x - root).abs() <= 1e-13 * p * scale).all())


def test_proximal_point_keeps_the_digits_of_small_eigenvalues():
    # (d + sqrt(d^2 + 4 t)) / 2 cancels for d < 0: at -1e9 nothing would be left.
    d = torch.tensor([[-1e9, -1e4, 0.0, 1e4, 1e9]], dtype=torch.float64)
    theta = likelihood_proximal(torch.diag_embed(d), torch.ones(1).double())
    expected = torch.tensor([1e-9, 1e-4, 1.0, 1e4, 1e9], dtype=torch.float64)
    # The next terms of the series are t / d^2 = 1e-8 smaller.
    torch.testing.assert_close(theta[0].diagonal(), expected, rtol=2e-8, atol=0)


def random_problem(seed, n_classes=3, p=7):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(n_classes, 3 * p, p)) @ rng.normal(size=(p, p))
    S = torch.as_tensor(np.stack([np.cov(m.T) for m in x]))
    t = torch.as_tensor(rng.uniform(0.3, 3, size=n_classes))
    w = rng.uniform(0.2, 2, size=(n_classes + 1, p, p))
    w = torch.as_tensor(w + w.swapaxes(1, 2)) * (1 - torch.eye(p))
    return rng, S, t, w[0] * n_classes / 2, w[1:]


def random_precisions(rng, n_classes, p):
    m = rng.normal(size=(n_classes, p, 2 * p))
    return torch.as_tensor(m @ m.swapaxes(1, 2) / p)


def test_values_by_their_definitions():
    rng, S, t, a, b = random_problem(0)
    theta = random_precisions(rng, *S.shape[:2])
    A = theta.mean(0)
    B = theta - A
    log_det = np.array([np.linalg.slogdet(m.numpy())[1] for m in theta])
    cholesky = factor(theta)
    # Rounding, here and in the sums below.
    np.testing.assert_allclose(2 * half_log_det(cholesky), log_det, rtol=1e-12)
    trace = np.trace(S.numpy() @ theta.numpy(), axis1=1, axis2=2)
    smooth = (t.numpy() * (trace - log_det)).sum()
    assert smooth_value(cholesky, theta, S, t) == pytest.approx(smooth, rel=1e-12)
    own = float((a * A.abs()).sum() + (b * B.abs()).sum())
    one = float((a * A.abs()).sum() + (b[:1] * B.abs()).sum())
    group = float((a * A.abs()).sum() + (b[0] * B.norm(dim=0)).sum())
    infinite = float((a * A.abs()).sum())
    for penalty, value in (
        (Penalty(a, b), own),
        (Penalty(a, b[:1]), one),
        (Penalty(a, b[:1], True), group),
        (Penalty(a, None), infinite),
    ):
        assert penalty.value(A, B) == pytest.approx(value, rel=1e-12)
        whole = objective(A, B, S, t, penalty)
        assert whole == pytest.approx(smooth + value, rel=1e-12)
    assert objective(A, B - 100 * torch.eye(7), S, t, Penalty(a, b)) == math.inf
    assert factor(theta - 100 * torch.eye(7)) is None
    Y = torch.zeros_like(S)
    log_det = np.array([np.linalg.slogdet(m)[1] for m in S.numpy()])
    expected = (t.numpy() * (log_det + 7)).sum()
    assert dual_objective(Y, S, t) == pytest.approx(expected, rel=1e-12)
    Y[:, 0, 1] = Y[:, 1, 0] = 1e6
    assert dual_objective(Y, S, t) == -math.inf


@settings(max_examples=60)
@given(
    seed=st.integers(0, 2**32 - 1),
    kind=st.sampled_from(["own", "one", "group", "infinite"]),
    share=st.floats(0, 1),
)
def test_weak_duality(seed, kind, share):
    rng, S, t, a, b = random_problem(seed)
    b = {"own": b, "infinite": None}.get(kind, b[:1])
    penalty = Penalty(a, b, kind == "group")
    theta = random_precisions(rng, *S.shape[:2])
    A = torch.as_tensor(rng.normal()) * theta.mean(0)
    if b is None:
        A = theta[0].clone()
        theta = A + torch.diag_embed(torch.as_tensor(rng.exponential(size=(3, 7))))
    B = theta - A
    if b is None:
        B = torch.diag_embed(B.diagonal(dim1=1, dim2=2))
    # A random Y, scaled to lie on or inside the edge of the feasible set.
    Y = rng.normal(size=tuple(S.shape))
    Y = torch.as_tensor(Y + Y.swapaxes(1, 2)) * (1 - torch.eye(7))
    off = ~torch.eye(7, dtype=torch.bool)
    ratio = float((Y.sum(0).abs() / a)[off].max())
    if b is not None:
        size = Y.norm(dim=0, keepdim=True) if kind == "group" else Y.abs()
        ratio = max(ratio, float((size / b)[:, off].max()))
    Y *= share / ratio
    # Rounding of the scaling at share = 1.
    assert dual_violation(Y, penalty) <= 1e-14 * float(a.max())
    primal = objective(A, B, S, t, penalty)
    dual = dual_objective(Y, S, t)
    assert dual <= primal + 1e-12 * abs(primal)


def test_violation_of_the_dual():
    _, _, _, a, b = random_problem(1)
    zero = torch.zeros_like(b)
    for penalty in (Penalty(a, b), Penalty(a, b[:1], True), Penalty(a, None)):
        assert dual_violation(zero, penalty) == 0
        # On the diagonal nothing is allowed.
        Y = zero.clone()
        Y[1, 2, 2] = -0.25
        assert dual_violation(Y, penalty) == 0.25
        # The sum over the classes.
        Y = zero.clone()
        Y[:, 0, 1] = Y[:, 1, 0] = -(a[0, 1] + 6.0) / 3
        expected = 6.0
        if penalty.specific is not None:
            size = Y[:, 0, 1].norm() if penalty.group else Y[:, 0, 1].abs().max()
            limit = b[0, 0, 1] if penalty.group else b[:, 0, 1].min()
            expected = max(expected, float(size - limit))
        # Two roundings.
        assert dual_violation(Y, penalty) == pytest.approx(expected, rel=1e-12)
    # One class alone, the sum being zero.
    Y = zero.clone()
    Y[0, 3, 4] = Y[0, 4, 3] = b[0, 3, 4] + 1.5
    Y[1] = -Y[0]
    excess = max(1.5, float(b[0, 3, 4] + 1.5 - b[1, 3, 4]))
    assert dual_violation(Y, Penalty(a, b)) == pytest.approx(excess, rel=1e-12)
    size = math.sqrt(2) * float(b[0, 3, 4] + 1.5)
    found = dual_violation(Y, Penalty(a, b[:1], True))
    assert found == pytest.approx(size - float(b[0, 3, 4]), rel=1e-12)
    assert dual_violation(Y, Penalty(a, None)) == 0
    assert dual_violation(torch.zeros(2, 1, 1), Penalty(torch.zeros(1, 1))) == 0


# Range of penalties, screening --------------------------------------------------------


@pytest.mark.parametrize("kind", ["own", "one", "group", "infinite"])
@pytest.mark.parametrize("seed", range(5))
def test_smallest_penalty_without_edges(seed, kind):
    _, S, t, a, b = random_problem(seed)
    group = kind == "group"
    b = {"own": b, "infinite": None}.get(kind, b[:1])
    top = smallest_edgeless(S, t, Penalty(a, b, group))

    def edges(factor):
        specific = None if b is None else factor
        # As one block, so that it is the solver that finds no edge, not the screening.
        solution = solve(
            S, t, Penalties(factor, specific, a, b, group), tol=1e-10, max_iter=3000,
            blocks=[np.arange(7)],
        )  # fmt: skip
        assert solution.converged
        pairs = torch.triu((solution.precision != 0).any(0), 1)
        joined = is_connected(
            S, t, Penalty(a * factor, None if b is None else b * factor, group)
        )
        return int(pairs.sum()), int(torch.triu(joined, 1).sum())

    assert edges(1.0001 * top) == (0, 0)
    # One pair attains the maximum, the others are below it by more than 0.1 %.
    assert edges(0.999 * top) == (1, 1)


def test_smallest_penalty_without_edges_at_the_extremes():
    S = pair([0.0, 0.0]) + torch.eye(2, dtype=torch.float64)
    t = torch.ones(2, dtype=torch.float64)
    assert smallest_edgeless(S, t, pair_penalty(1.0, [1.0])) == 0
    assert smallest_edgeless(S, t, pair_penalty(0.0, [0.0])) == 0
    S = S + pair([0.5, 0.0])
    assert smallest_edgeless(S, t, pair_penalty(0.0, [1.0])) == math.inf
    assert smallest_edgeless(S, t, pair_penalty(1.0, [0.0])) == math.inf
    assert smallest_edgeless(S, t, pair_penalty(4.0, [0.25])) == 2
    assert smallest_edgeless(S, t, pair_penalty(0.25, [4.0])) == 2
    assert smallest_edgeless(S, t, pair_penalty(0.25, None)) == 2
    one = torch.ones(2, 1, 1, dtype=torch.float64)
    nothing = Penalty(torch.zeros(1, 1).double(), torch.zeros(1, 1, 1).double())
    assert smallest_edgeless(one, t, nothing) == 0


def test_connected_pairs_of_a_rectangle():
    _, S, t, a, b = random_problem(3)
    for penalty in (Penalty(a, b), Penalty(a, b[:1], True), Penalty(a, None)):
        whole = is_connected(S, t, penalty)
        rows, columns = slice(1, 4), slice(2, 7)
        part = penalty.specific
        piece = Penalty(
            a[rows, columns],
            None if part is None else part[:, rows, columns],
            penalty.group,
        )
        found = is_connected(S[:, rows, columns], t, piece)
        assert torch.equal(found, whole[rows, columns])
        assert int(torch.triu(whole, 1).sum()) > 0


def test_penalty_of_some_nodes():
    _, _, _, a, b = random_problem(4)
    index = torch.tensor([5, 0, 3])
    for penalty in (Penalty(a, b), Penalty(a, b[:1], True), Penalty(a, None)):
        taken = penalty.take(index)
        assert taken.group == penalty.group
        for i, j in np.ndindex(3, 3):
            assert taken.common[i, j] == a[index[i], index[j]]
            if penalty.specific is not None:
                expected = penalty.specific[:, index[i], index[j]]
                assert torch.equal(taken.specific[:, i, j], expected)
