"""`joint_graphical_lasso` against scikit-learn, closed forms and its own promises."""

import numpy as np
import pytest
from sklearn.covariance import graphical_lasso
from sklearn.exceptions import ConvergenceWarning

from skmm import joint_graphical_lasso
from skmm.estimators._joint_graphical_lasso import JointGraphicalLassoResult

SOLVERS = ["auto", "newton", "admm"]


def covariances(seed, n_classes=3, p=12, n=60):
    rng = np.random.default_rng(seed)
    mixing = np.eye(p) + 0.25 * rng.normal(size=(p, p))
    rows = [
        rng.normal(size=(n, p)) @ (mixing + 0.1 * rng.normal(size=(p, p)))
        for _ in range(n_classes)
    ]
    return np.stack([np.cov(x.T) for x in rows])


def off_diagonal(matrices):
    p = matrices.shape[-1]
    return matrices[..., ~np.eye(p, dtype=bool)]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("alpha", [0.05, 0.15, 0.3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_one_class_is_the_graphical_lasso(seed, alpha, solver):
    S = covariances(seed, 1)[0]
    covariance, precision = graphical_lasso(S, alpha, tol=1e-10, enet_tol=1e-12)
    result = joint_graphical_lasso(S, alpha, solver=solver, tol=1e-12)
    # scikit-learn's gap of 1e-10: the root of it, times eigenvalues of up to 10.
    np.testing.assert_allclose(result.precision, precision, rtol=0, atol=1e-4)
    inverse = np.linalg.inv(result.precision)
    np.testing.assert_allclose(inverse, covariance, rtol=0, atol=1e-4)
    assert np.array_equal(result.common, result.precision)
    assert not result.specific.any()
    # The value is no worse than scikit-learn's, which is feasible.
    value = np.trace(S @ precision) - np.linalg.slogdet(precision)[1]
    value += alpha * np.abs(off_diagonal(precision)).sum()
    assert result.objective <= value + 1e-11


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("solver", SOLVERS)
def test_equal_classes_share_everything(seed, solver):
    S = covariances(seed, 1)[0]
    r = 0.471 * 3
    result = joint_graphical_lasso(np.stack([S] * 3), 0.2, solver=solver, tol=1e-12)
    assert not off_diagonal(result.specific).any()
    # Per class the common part costs alpha r / 3.
    one = joint_graphical_lasso(S, 0.2 * r / 3, tol=1e-12)
    # Root of the gap, 1e-12 * 36, times precisions of a few.
    np.testing.assert_allclose(result.common, one.precision, rtol=0, atol=1e-4)
    assert result.objective == pytest.approx(3 * one.objective, abs=1e-10)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("specific_penalty", ["l1", "group"])
def test_from_a_ratio_on_nothing_is_shared(seed, specific_penalty):
    S = covariances(seed)
    # At 1 itself rounding decides which of the equally good splits is found.
    ratio = 1.0 if specific_penalty == "l1" else 3**-0.5
    for common_ratio in (ratio * (1 + 1e-9), 1.3):
        result = joint_graphical_lasso(
            S, 0.15, common_ratio=common_ratio, tol=1e-12,
            specific_penalty=specific_penalty,
        )  # fmt: skip
        assert not off_diagonal(result.common).any()
    if specific_penalty == "group":
        return
    for c in range(3):
        one = joint_graphical_lasso(S[c], 0.15, tol=1e-12)
        # Root of the gap times precisions of a few.
        np.testing.assert_allclose(result.precision[c], one.precision, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
def test_ratio_zero_is_one_pattern(seed):
    # A free common part: the classes' covariances are met on average.
    S = covariances(seed)
    result = joint_graphical_lasso(S, 50.0, common_ratio=0, tol=1e-12)
    assert not off_diagonal(result.specific).any()
    residual = (np.linalg.inv(result.precision) - S).sum(0)
    # Root of the gap times the covariances, of a few.
    np.testing.assert_allclose(off_diagonal(residual), 0, atol=1e-4)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("specific_penalty", ["l1", "group"])
@pytest.mark.parametrize("solver", SOLVERS)
def test_conditions_of_optimality(seed, specific_penalty, solver):
    rng = np.random.default_rng(seed)
    S = covariances(seed)
    W = rng.uniform(0.5, 1.5, size=(4, 12, 12))
    W = (W + W.swapaxes(1, 2)) / 2
    specific = W[1:] if specific_penalty == "l1" else W[1]
    t = np.array([0.5, 1.0, 2.0])
    alpha, ratio = 0.12, 0.35
    result = joint_graphical_lasso(
        S, alpha, common_ratio=ratio, weights=W[0], specific_weights=specific,
        class_weights=t, specific_penalty=specific_penalty, solver=solver, tol=1e-13,
        max_iter=5000,
    )  # fmt: skip
    # Exactly, as documented.
    assert np.array_equal(result.precision, result.common + result.specific)
    G = t[:, None, None] * (np.linalg.inv(result.precision) - S)
    # Root of the gap, 36 * 1e-13, times the covariances' largest eigenvalue, below 10,
    # twice: 4e-5.
    atol = 4e-5
    np.testing.assert_allclose(G, result.dual, rtol=0, atol=atol)
    diagonal = np.diagonal(G, axis1=1, axis2=2)
    np.testing.assert_allclose(diagonal, 0, atol=atol)
    a = off_diagonal(3 * ratio * alpha * W[0])
    A = off_diagonal(result.common)
    total = off_diagonal(G.sum(0))
    edge = A != 0
    assert 0 < edge.sum() < edge.size
    assert (np.abs(total) <= a + 3 * atol).all()
    np.testing.assert_allclose(total[edge], (a * np.sign(A))[edge], atol=3 * atol)
    b, B, g = (off_diagonal(m) for m in (alpha * specific, result.specific, G))
    if specific_penalty == "l1":
        edge = B != 0
        assert (np.abs(g) <= b + atol).all()
        np.testing.assert_allclose(g[edge], (b * np.sign(B))[edge], atol=atol)
        paid = (b * np.abs(B)).sum()
    else:
        norm = np.linalg.norm(B, axis=0)
        edge = norm > 1e-2  # the direction of a small B is not well determined
        assert (np.linalg.norm(g, axis=0) <= b + 2 * atol).all()
        direction = B[:, edge] / norm[edge]
        np.testing.assert_allclose(g[:, edge], b[edge] * direction, atol=1e-2)
        paid = (b * norm).sum()
    assert 0 < edge.sum() < edge.size
    # The scalar corollary: what the likelihood gives up is what the penalty takes.
    paid += (a * np.abs(A)).sum()
    trace = np.einsum("cij,cji->c", S, result.precision)
    # First-order in the error of the precisions.
    assert (t * (12 - trace)).sum() == pytest.approx(paid, rel=1e-4)
    log_det = np.linalg.slogdet(result.precision)[1]
    value = (t * (trace - log_det)).sum() + paid
    # Rounding.
    assert result.objective == pytest.approx(value, rel=1e-12)
    assert 0 <= result.duality_gap <= 36e-13
    assert result.converged


def test_default_penalty_is_as_documented():
    S = covariances(0)
    W = np.random.default_rng(0).uniform(0.5, 1.5, size=(12, 12))
    W = W + W.T
    one = joint_graphical_lasso(S, 0.1, weights=W)
    kwargs = {"common_ratio": 0.471, "class_weights": np.ones(3), "solver": "auto"}
    for specific in (W, np.stack([W] * 3)):
        two = joint_graphical_lasso(
            S, 0.1, weights=W, specific_weights=specific, **kwargs
        )
        # The same numbers in the same order.
        assert np.array_equal(one.precision, two.precision)
    plain = joint_graphical_lasso(S, 0.1)
    ones = joint_graphical_lasso(S, 0.1, weights=np.ones((12, 12)))
    assert np.array_equal(plain.precision, ones.precision)
    # The diagonal of the weights is not used.
    other = joint_graphical_lasso(S, 0.1, weights=W + 7 * np.eye(12))
    assert np.array_equal(one.precision, other.precision)


def test_ratio_is_ignored_for_one_class():
    S = covariances(1, 1)
    one = joint_graphical_lasso(S, 0.1, common_ratio=0)
    two = joint_graphical_lasso(S, 0.1, common_ratio=5)
    assert np.array_equal(one.precision, two.precision)


def test_shapes():
    S = covariances(2)
    result = joint_graphical_lasso(S, 0.1)
    assert result.precision.shape == result.specific.shape == (3, 12, 12)
    assert result.dual.shape == (3, 12, 12)
    assert result.common.shape == (12, 12)
    one = joint_graphical_lasso(S[:1], 0.1)
    assert one.precision.shape == one.specific.shape == one.dual.shape == (1, 12, 12)
    assert one.common.shape == (12, 12)
    squeezed = joint_graphical_lasso(S[0], 0.1)
    for name in ("precision", "specific", "dual", "common"):
        assert getattr(squeezed, name).shape == (12, 12)
        np.testing.assert_array_equal(
            getattr(squeezed, name), np.reshape(getattr(one, name), (12, 12))
        )
    assert not one.specific.any()
    assert sorted(np.concatenate(result.blocks).tolist()) == list(range(12))
    assert isinstance(result.objective, float)
    assert isinstance(result.duality_gap, float)
    assert isinstance(result.n_iter, int)
    assert result.converged is True


@pytest.mark.parametrize("n_classes", [1, 3])
def test_one_feature(n_classes):
    S = np.arange(2.0, 2 + n_classes).reshape(n_classes, 1, 1)
    result = joint_graphical_lasso(S, 0.1)
    # Two roundings, of the mean and of the rest.
    np.testing.assert_allclose(result.precision, 1 / S, rtol=1e-15)
    assert result.objective == pytest.approx(float(np.log(S).sum()) + n_classes)


def test_blocks_are_the_components_of_the_graph():
    S = np.zeros((2, 6, 6))
    S[:] = np.eye(6)
    S[0, 0, 4] = S[0, 4, 0] = 0.5
    S[1, 4, 2] = S[1, 2, 4] = -0.5
    S[:, 1, 5] = S[:, 5, 1] = 0.3
    blocks = joint_graphical_lasso(S, 0.25, common_ratio=0.4).blocks
    assert [block.tolist() for block in blocks] == [[0, 2, 4], [1, 5], [3]]
    # 0.3 + 0.3 exceeds 0.4 * 2 * 0.25 = 0.2, but not 0.9 * 2 * 0.4.
    blocks = joint_graphical_lasso(S, 0.4, common_ratio=0.9).blocks
    assert [block.tolist() for block in blocks] == [[0, 2, 4], [1], [3], [5]]


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("squeeze", [False, True])
def test_float32_is_kept(solver, squeeze):
    S = covariances(3, 1 if squeeze else 3)
    S = S[0] if squeeze else S
    exact = joint_graphical_lasso(S, 0.1, tol=1e-12)
    result = joint_graphical_lasso(S.astype(np.float32), 0.1, solver=solver, tol=1e-4)
    for name in ("precision", "common", "specific", "dual"):
        assert getattr(result, name).dtype == np.float32
        assert getattr(exact, name).dtype == np.float64
    # The gap of 1e-4 a node and class bounds the objective, up to float32's rounding of
    # S, 6e-8 a digit, times precisions below 10 and 12 * 12 * 3 entries.
    assert abs(result.objective - exact.objective) <= 36e-4 + 3e-4
    assert result.converged


def test_other_numbers_are_solved_in_float64():
    for S in ([[2, 1], [1, 2]], np.array([[2, 1], [1, 2]], dtype=np.float16)):
        result = joint_graphical_lasso(S, 0.5)
        assert result.precision.dtype == np.float64
        # The docstring's closed form: off the diagonal 1 - 0.5. Root of the gap.
        inverse = np.linalg.inv(result.precision)
        np.testing.assert_allclose(inverse, [[2, 0.5], [0.5, 2]], atol=1e-2)


def test_input_is_not_modified_and_runs_agree(global_rng_untouched):
    S = covariances(4)
    rng = np.random.default_rng(0)
    W = rng.uniform(0.5, 1.5, size=(3, 12, 12))
    W = W + W.swapaxes(1, 2)
    t = np.array([1.0, 2.0, 0.5])
    arrays = S, W[0], W, t
    copies = [a.copy() for a in arrays]
    for a in arrays:
        a.flags.writeable = False
    kwargs = {"weights": W[0], "specific_weights": W, "class_weights": t}
    with np.errstate(all="raise"):
        one = joint_graphical_lasso(S.copy(), 0.1, **copy_of(kwargs))
    for a, b in zip(arrays, copies, strict=True):
        assert np.array_equal(a, b)
    two = joint_graphical_lasso(S.copy(), 0.1, **copy_of(kwargs))
    for name in ("precision", "common", "specific", "dual"):
        assert np.array_equal(getattr(one, name), getattr(two, name))
    begin = joint_graphical_lasso(S.copy(), 0.3)
    before = begin.precision.copy(), begin.dual.copy(), begin.specific.copy()
    joint_graphical_lasso(S.copy(), 0.1, init=begin)
    assert np.array_equal(begin.precision, before[0])
    assert np.array_equal(begin.dual, before[1])
    assert np.array_equal(begin.specific, before[2])
    # Nor is what is given written to later on: the results are their own memory.
    given = S.copy()
    result = joint_graphical_lasso(given, 0.1)
    assert not any(
        np.shares_memory(given, getattr(result, name))
        for name in ("precision", "common", "specific", "dual")
    )


def copy_of(kwargs):
    return {name: value.copy() for name, value in kwargs.items()}


@pytest.mark.parametrize("n_classes", [1, 3])
@pytest.mark.parametrize("solver", SOLVERS)
def test_warm_start(n_classes, solver):
    S = covariances(5, n_classes)
    S = S[0] if n_classes == 1 else S
    cold = joint_graphical_lasso(S, 0.05, solver=solver, tol=1e-10)
    again = joint_graphical_lasso(S, 0.05, solver=solver, tol=1e-10, init=cold)
    assert again.n_iter < cold.n_iter
    other = joint_graphical_lasso(S, 0.2, solver=solver)
    warm = joint_graphical_lasso(S, 0.05, solver=solver, tol=1e-10, init=other)
    size = 12 * n_classes
    for result in (again, warm):
        assert result.converged
        # Both certified within the tolerance.
        assert abs(result.objective - cold.objective) <= 1e-10 * size


def test_warm_start_takes_one_class_squeezed_or_not():
    S = covariances(6, 1)
    one, squeezed = joint_graphical_lasso(S, 0.2), joint_graphical_lasso(S[0], 0.2)
    a = joint_graphical_lasso(S, 0.1, init=squeezed)
    b = joint_graphical_lasso(S, 0.1, init=one)
    assert np.array_equal(a.precision, b.precision)


@pytest.mark.parametrize("solver", SOLVERS)
def test_not_converging_is_warned_of(solver):
    S = covariances(7)
    text = (
        r"did not reach tol=1e-12: the duality gap is .* nats a node and class after 1 "
        r"iterations\. Increase max_iter \(now 1\), increase tol or the penalties\."
    )
    with pytest.warns(ConvergenceWarning, match=text):
        result = joint_graphical_lasso(S, 0.02, solver=solver, tol=1e-12, max_iter=1)
    assert result.converged is False
    assert result.n_iter == 1
    assert result.duality_gap > 36e-12
    assert np.isfinite(result.precision).all()


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n_classes", [1, 3])
def test_singular_without_penalty_is_warned_of(solver, n_classes):
    S = np.stack([np.ones((3, 3))] * n_classes)
    with pytest.warns(ConvergenceWarning, match="did not reach tol"):
        result = joint_graphical_lasso(S, 0, solver=solver, max_iter=50)
    assert not result.converged
    assert result.duality_gap == np.inf


def test_verbose_prints_the_gaps(capsys):
    S = covariances(8)
    joint_graphical_lasso(S, 0.02)
    assert capsys.readouterr().out == ""
    result = joint_graphical_lasso(S, 0.02, verbose=1)
    lines = capsys.readouterr().out.splitlines()
    assert len(result.blocks) == 1
    assert len(lines) == result.n_iter
    for line in lines:
        assert line.startswith("duality gap ")
        assert line.endswith(" nats a node and class")
    last = float(lines[-1].split()[2])
    assert last == pytest.approx(result.duality_gap / 36, rel=1e-2)  # three digits


EYE = np.eye(3)
SKEW = EYE + np.array([[0, 0.1, 0], [0, 0, 0], [0, 0, 0]])


@pytest.mark.parametrize(
    ("emp_cov", "text"),
    [
        (np.ones((2, 3)), r"emp_cov: expected shape .*, got \(2, 3\)\."),
        (np.ones((2, 2, 3)), r"emp_cov: expected shape .*, got \(2, 2, 3\)\."),
        (np.ones((1, 2, 3, 3)), r"emp_cov: expected shape .*, got \(1, 2, 3, 3\)\."),
        (SKEW, r"emp_cov: expected a symmetric matrix, .* transpose by 0\.1\."),
        (np.stack([EYE, SKEW]), r"emp_cov: expected a symmetric matrix"),
        (
            np.stack([EYE, np.diag([1.0, 0.0, 1.0])]),
            r"emp_cov: expected a positive diagonal, got 0 for feature 1 of class 1\. "
            r"Drop constant features or add to the diagonal\.",
        ),
        (-EYE, r"emp_cov: expected a positive diagonal, got -1 for feature 0 of"),
        (EYE * np.nan, r"Input emp_cov contains NaN"),
        (np.full((3, 3), np.inf), r"Input emp_cov contains infinity"),
        (np.ones(3), r"Expected 2D array, got 1D array"),
        (np.zeros((0, 2, 2)), r"Found array with 0 sample"),
        (EYE + 0j, r"Complex data not supported"),
        (3.0, r"'emp_cov' parameter of joint_graphical_lasso must be an array-like"),
    ],
)
def test_bad_covariance(emp_cov, text):
    with pytest.raises(ValueError, match=text):
        joint_graphical_lasso(emp_cov, 0.1)


@pytest.mark.parametrize(
    ("kwargs", "text"),
    [
        ({"weights": np.ones((2, 2))}, r"weights: expected shape \(3, 3\), got \(2, 2"),
        ({"weights": np.ones((2, 3, 3))}, r"weights: expected shape \(3, 3\), got \(2"),
        ({"weights": -EYE}, r"weights: expected no negative value, got -1\."),
        ({"weights": SKEW}, r"weights: expected a symmetric matrix"),
        ({"weights": EYE * np.nan}, r"Input weights contains NaN"),
        (
            {"specific_weights": np.ones((3, 3, 3))},
            r"specific_weights: expected shape \(3, 3\) or \(2, 3, 3\), got \(3, 3, 3",
        ),
        ({"specific_weights": np.stack([EYE, SKEW])}, r"specific_weights: .*symmetric"),
        ({"specific_weights": -EYE}, r"specific_weights: expected no negative value"),
        (
            {"specific_weights": np.ones((2, 3, 3)), "specific_penalty": "group"},
            r"specific_weights: with specific_penalty='group' expected one matrix "
            r"\(3, 3\) for all classes, got one a class\.",
        ),
        ({"class_weights": [1.0]}, r"class_weights: expected 2 positive finite"),
        ({"class_weights": [1.0, 0.0]}, r"class_weights: expected 2 .*got \[1\. 0\.\]"),
        ({"class_weights": [1.0, -1.0]}, r"class_weights: expected 2 positive finite"),
        ({"class_weights": [1.0, np.inf]}, r"class_weights: expected 2 positive"),
        ({"class_weights": [1.0, np.nan]}, r"class_weights: expected 2 positive"),
        ({"alpha": -0.1}, r"'alpha' parameter .* \[0\.0, inf\)\. Got -0\.1"),
        ({"alpha": np.inf}, r"alpha"),
        ({"alpha": np.nan}, r"'alpha' parameter"),
        ({"common_ratio": -1}, r"'common_ratio' parameter"),
        ({"common_ratio": np.inf}, r"'common_ratio' parameter"),
        ({"specific_penalty": "l2"}, r"'specific_penalty' parameter .* Got 'l2'"),
        ({"solver": "cd"}, r"'solver' parameter .* Got 'cd'"),
        ({"tol": 0}, r"'tol' parameter"),
        ({"max_iter": 0}, r"'max_iter' parameter"),
        ({"max_iter": 1.5}, r"'max_iter' parameter"),
        ({"init": EYE}, r"'init' parameter"),
        ({"device": "nope"}, r"device: expected .* got 'nope'"),
        ({"verbose": -1}, r"'verbose' parameter"),
    ],
)
def test_bad_parameters(kwargs, text):
    kwargs = {"alpha": 0.1} | kwargs
    with pytest.raises(ValueError, match=text):
        joint_graphical_lasso(np.stack([EYE, EYE]), **kwargs)


def test_specific_weights_are_not_for_one_class():
    text = r"specific_weights: one class has no specific part\. Pass `weights` only\."
    for emp_cov in (EYE, EYE[None]):
        with pytest.raises(ValueError, match=text):
            joint_graphical_lasso(emp_cov, 0.1, specific_weights=np.ones((3, 3)))


def test_start_of_another_size():
    one = joint_graphical_lasso(EYE, 0.1)
    three = joint_graphical_lasso(np.stack([EYE] * 3), 0.1)
    text = r"init: expected a result for {} classes and {} features, got one for {} "
    for emp_cov, init, numbers in (
        (np.stack([EYE] * 3), one, (3, 3, "1 and 3")),
        (EYE, three, (1, 3, "3 and 3")),
        (np.stack([EYE] * 2), three, (2, 3, "3 and 3")),
        (np.eye(4), one, (1, 4, "1 and 3")),
    ):
        with pytest.raises(ValueError, match=text.format(*numbers).rstrip()):
            joint_graphical_lasso(emp_cov, 0.1, init=init)


def test_result_is_frozen():
    result = joint_graphical_lasso(EYE, 0.1)
    assert isinstance(result, JointGraphicalLassoResult)
    with pytest.raises(AttributeError, match="cannot assign to field 'common'"):
        result.common = None


@pytest.mark.gpu
@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize("n_classes", [1, 3])
def test_cuda_agrees_with_the_cpu(solver, n_classes):
    S = covariances(0, n_classes)
    settings = {"solver": solver, "tol": 1e-10}
    there = joint_graphical_lasso(S, 0.2, device="cuda", **settings)
    here = joint_graphical_lasso(S, 0.2, device="cpu", **settings)
    assert there.converged
    # Root of the gaps, times precisions of a few.
    np.testing.assert_allclose(there.precision, here.precision, rtol=0, atol=1e-3)
    assert there.objective == pytest.approx(here.objective, abs=1e-8)


@pytest.mark.parametrize("alpha", [0, 1e-8, 1e-7, 1e-6, 1e-5, 1e-3])
@pytest.mark.parametrize("seed", range(2))
def test_next_to_no_penalty(seed, alpha):
    """Covariances of condition 1e5, and more."""
    rng = np.random.default_rng(seed)
    mixing = rng.normal(size=(6, 6))
    mixing[:, 0] = mixing[:, 1] + 1e-2 * mixing[:, 0]
    S = np.stack([np.cov((rng.normal(size=(60, 6)) @ mixing).T) for _ in range(3)])
    assert np.linalg.cond(S).min() > 1e5
    result = joint_graphical_lasso(S, alpha, tol=1e-6)
    assert result.converged
    if alpha == 0:
        np.testing.assert_allclose(result.precision @ S, [np.eye(6)] * 3, atol=1e-6)


@pytest.mark.parametrize("solver", SOLVERS)
@pytest.mark.parametrize(
    ("n_classes", "ratio"), [(2, 0.0), (3, 1 / 3), (4, 0.5), (5, 0.2)]
)
def test_of_equal_splits_the_smallest_common_part(n_classes, ratio, solver):
    S = covariances(1, n_classes, p=6)
    result = joint_graphical_lasso(
        S, 1 / 16, common_ratio=ratio, solver=solver, tol=1e-9
    )
    i, j = np.triu_indices(6, 1)
    for a, v in zip(result.common[i, j], result.precision[:, i, j].T, strict=True):

        def price(x, v=v):
            return ratio * n_classes * abs(x) + np.abs(v - x).sum()

        best = min(price(x) for x in [0, *v])
        # Rounding of sums of a few numbers of about one.
        ties = [abs(x) for x in [0, *v] if price(x) <= best + 1e-12]
        assert price(a) <= best + 1e-12
        assert abs(a) <= min(ties) + 1e-12


@pytest.mark.filterwarnings("error")
def test_arrays_that_torch_would_not_take():
    S = covariances(0, 1)[0]
    expected = joint_graphical_lasso(S, 0.2).precision
    flipped = joint_graphical_lasso(S[::-1, ::-1], 0.2, weights=np.ones((12, 12)).T)
    np.testing.assert_allclose(flipped.precision[::-1, ::-1], expected, atol=1e-2)
    S.setflags(write=False)
    np.testing.assert_array_equal(joint_graphical_lasso(S, 0.2).precision, expected)


def test_covariances_that_are_symmetric_but_for_rounding():
    S = covariances(0)
    rough = S + 1e-7 * np.random.default_rng(0).normal(size=S.shape)
    middle = (rough + rough.swapaxes(1, 2)) / 2
    one, two = (joint_graphical_lasso(x, 0.1) for x in (rough, middle))
    np.testing.assert_array_equal(one.precision, two.precision)


@pytest.mark.parametrize("n_classes", [3, 5, 6, 7])
@pytest.mark.parametrize("solver", SOLVERS)
def test_zeros_of_the_group_norm_are_exact(n_classes, solver):
    S = covariances(2, n_classes)
    result = joint_graphical_lasso(
        S, 0.6, common_ratio=0.2, specific_penalty="group", solver=solver, tol=1e-8
    )
    size = np.linalg.norm(off_diagonal(result.specific), axis=0)
    assert (size == 0).any()
    assert size[size > 0].min() > 1e-10
