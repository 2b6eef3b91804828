"""Discrepancy and gap of two embeddings: formulas as loops, invariances, limits."""

import math

import numpy as np
import pytest
from scipy.stats import ortho_group

from skmm.metrics import _alignment, mmd, modality_gap

SEEDS = range(5)


def draw(seed, n=30, m=20, d=4, shift=0.7):
    rng = np.random.default_rng(seed)
    return rng.normal(size=(n, d)), shift + 1.3 * rng.normal(size=(m, d))


def loop_kernel_mean(X, Y, bandwidths, skip_same=False):
    terms = []
    for i, x in enumerate(X):
        for j, y in enumerate(Y):
            if not (skip_same and i == j):
                distance = sum((a - b) ** 2 for a, b in zip(x, y, strict=True))
                kernels = [math.exp(-distance / (2 * b)) for b in bandwidths]
                terms.append(sum(kernels) / len(kernels))
    return sum(terms) / len(terms)


def loop_mmd(X, Y, bandwidths, unbiased=False):
    return (
        loop_kernel_mean(X, X, bandwidths, unbiased)
        + loop_kernel_mean(Y, Y, bandwidths, unbiased)
        - 2 * loop_kernel_mean(X, Y, bandwidths)
    )


def auto_bandwidths(X, Y):
    pooled = [*X, *Y]
    distances = [((x - y) ** 2).sum() for x in pooled for y in pooled]
    return [np.mean(distances) * 2.0**q / 2 for q in (-2, -1, 0, 1, 2)]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("unbiased", [False, True])
def test_equals_the_loops(seed, unbiased):
    X, Y = draw(seed)
    # Means of at most 900 numbers in [0, 1].
    assert mmd(X, Y, unbiased=unbiased) == pytest.approx(
        loop_mmd(X, Y, auto_bandwidths(X, Y), unbiased), abs=1e-13
    )
    for bandwidths in (0.7, [0.5, 2.0, 8.0], np.array([3.0])):
        assert mmd(X, Y, bandwidths=bandwidths, unbiased=unbiased) == pytest.approx(
            loop_mmd(X, Y, np.atleast_1d(bandwidths), unbiased), abs=1e-13
        )


@pytest.mark.parametrize("seed", SEEDS)
def test_chunks_change_nothing(seed, monkeypatch):
    X, Y = draw(seed)
    whole = mmd(X, Y)
    monkeypatch.setattr(_alignment, "CHUNK_CELLS", 50)
    # Sums of the same numbers in another order.
    assert mmd(X, Y) == pytest.approx(whole, abs=1e-14)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bandwidths", ["auto", 0.3, [0.1, 10.0]])
def test_zero_on_equal_samples(seed, bandwidths):
    X, _ = draw(seed)
    assert mmd(X, X, bandwidths=bandwidths) == 0
    assert mmd(X, X.copy(), bandwidths=bandwidths) == 0
    order = np.random.default_rng(seed).permutation(len(X))
    # The kernel of a pair is the same to the bit; only sums differ in their order.
    assert mmd(X, X[order], bandwidths=bandwidths) <= 1e-15


@pytest.mark.parametrize("seed", SEEDS)
def test_bounds_and_symmetry(seed):
    X, Y = draw(seed, shift=seed)
    for bandwidths in ("auto", 0.01, 100.0):
        value = mmd(X, Y, bandwidths=bandwidths)
        assert 0 < value <= 2 and type(value) is float
        assert mmd(Y, X, bandwidths=bandwidths) == pytest.approx(value, abs=1e-14)


@pytest.mark.parametrize("seed", SEEDS)
def test_invariant_when_both_are_moved(seed):
    X, Y = draw(seed)
    turn = ortho_group.rvs(4, random_state=seed)
    shift = np.random.default_rng(seed).normal(size=4)
    # Squared distances of some 10 change by their rounding, relative 1e-15.
    for bandwidths in ("auto", 2.0):
        assert mmd(
            X @ turn + shift, Y @ turn + shift, bandwidths=bandwidths
        ) == pytest.approx(mmd(X, Y, bandwidths=bandwidths), abs=1e-12)
    # The automatic bandwidths scale too, in exact arithmetic by powers of 2.
    for scale in (2.0**-40, 2.0**40):
        assert mmd(scale * X, scale * Y) == mmd(X, Y)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("bandwidths", ["auto", 1.0])
def test_grows_with_a_shift(seed, bandwidths):
    X, Y = np.random.default_rng(seed).normal(size=(2, 60, 4))
    direction = np.array([1.0, 0, 0, 0])
    values = [mmd(X, Y + s * direction, bandwidths=bandwidths) for s in (0, 1, 2, 4)]
    assert values == sorted(values) and values[-1] > 4 * values[0]


def test_unbiased_has_the_mean_of_the_population():
    # Two samples of one normal distribution: the population's value is 0.
    values = [
        mmd(*np.split(np.random.default_rng(seed).normal(size=(20, 2)), 2), **options)
        for options in ({"bandwidths": 1.0, "unbiased": True},)
        for seed in range(200)
    ]
    error = np.std(values, ddof=1) / math.sqrt(len(values))
    # Four standard errors; seeds are fixed. The biased form is far above.
    assert abs(np.mean(values)) < 4 * error
    assert min(values) < 0
    biased = mmd(
        *np.split(np.random.default_rng(0).normal(size=(20, 2)), 2), bandwidths=1.0
    )
    assert biased > 10 * error


def test_many_dimensions_do_not_saturate():
    X, Y = draw(0, n=50, m=50, d=200, shift=0.3)
    # With one fixed bandwidth nothing but the diagonal is left: 1/n + 1/m.
    assert mmd(X, Y, bandwidths=1.0) == pytest.approx(0.04, abs=1e-12)
    # All within-pairs are nearer than the others, of automatic kernels of order 1.
    near, far = mmd(X, Y - 0.3), mmd(X, Y + 0.7)
    assert far > 3 * near


def test_constant_samples():
    X = np.full((3, 2), 0.1)
    assert mmd(X, X) == 0 and mmd(X, np.full((5, 2), 0.1)) == 0
    # Two points: their pooled mean squared distance is half of theirs.
    expected = 2 - 2 * np.mean([math.exp(-2 / 2.0**q) for q in (-2, -1, 0, 1, 2)])
    assert mmd(np.zeros((3, 1)), np.ones((3, 1))) == pytest.approx(expected, abs=1e-14)


def test_whole_numbers_and_float32():
    X, Y = (np.round(3 * Z) for Z in draw(0))
    assert mmd(X.astype(int), Y.astype(np.float32)) == mmd(X, Y)


@pytest.mark.parametrize("seed", SEEDS)
def test_gap_equals_the_formula(seed):
    X, Y = draw(seed)
    unit = [[row / math.sqrt((row**2).sum()) for row in Z] for Z in (X, Y)]
    means = [sum(rows) / len(rows) for rows in unit]
    expected = math.sqrt(((means[0] - means[1]) ** 2).sum())
    assert modality_gap(X, Y) == pytest.approx(expected, abs=1e-14)
    assert modality_gap(Y, X) == modality_gap(X, Y)
    plain = np.linalg.norm(X.mean(0) - Y.mean(0))
    assert modality_gap(X, Y, normalize=False) == pytest.approx(plain, abs=1e-14)


@pytest.mark.parametrize("seed", SEEDS)
def test_gap_invariances(seed):
    X, Y = draw(seed)
    gap = modality_gap(X, Y)
    rng = np.random.default_rng(seed)
    turn = ortho_group.rvs(4, random_state=seed)
    assert modality_gap(X @ turn, Y @ turn) == pytest.approx(gap, abs=1e-14)
    lengths = rng.uniform(1e-3, 1e3, size=(len(X), 1))
    assert modality_gap(lengths * X, Y) == pytest.approx(gap, abs=1e-14)
    assert modality_gap(X[rng.permutation(len(X))], Y) == pytest.approx(gap, abs=1e-14)
    assert modality_gap(X, X) == 0


def test_gap_limits():
    # Opposite poles; tiny and huge rows have a direction as well.
    assert modality_gap([[1e-200, 0.0]], [[-1e200, 0.0]]) == 2
    assert modality_gap([[1.0, 0.0]], [[0.0, 1.0]]) == pytest.approx(math.sqrt(2))
    with pytest.raises(
        ValueError, match=r"Y: expected .* direction, .* in row 1\. Use"
    ):
        modality_gap(np.ones((2, 2)), [[1.0, 1.0], [0.0, 0.0]])
    assert modality_gap(np.ones((2, 2)), np.zeros((2, 2)), normalize=False) == (
        pytest.approx(math.sqrt(2))
    )


@pytest.mark.parametrize("score", [mmd, modality_gap])
@pytest.mark.parametrize(
    "X, Y, text",
    [
        (
            np.ones((3, 2)),
            [[1, 2], [np.nan, 1], [1, np.inf]],
            r"Y: .* got NaN or infinity in rows 1, 2 \(2 in all\)\. Leave out the rows",
        ),
        (np.ones((3, 2)), np.ones((3, 3)), "Y: expected 2 columns, as X has, got 3. C"),
        (np.ones(3), np.ones((3, 3)), r"X: expected numbers of shape .* shape \(3,\)"),
        ([["a"]], [["b"]], "X: expected numbers of shape .* the type <U1"),
        (np.ones((0, 2)), np.ones((3, 2)), "X: expected at least 1 row, got 0. Pass"),
    ],
)
def test_refuses(score, X, Y, text):
    with pytest.raises(ValueError, match=text):
        score(X, Y)


@pytest.mark.parametrize(
    "bandwidths", [0, -1.0, [], [1.0, 0.0], "median", np.nan, [True]]
)
def test_refuses_bandwidths(bandwidths):
    with pytest.raises(
        ValueError, match="bandwidths: expected 'auto' or .* They are in"
    ):
        mmd(np.ones((2, 2)), np.ones((2, 2)), bandwidths=bandwidths)


def test_unbiased_needs_two_rows():
    with pytest.raises(ValueError, match=r"Y: expected at least 2 rows, got 1\. Pass"):
        mmd(np.ones((2, 2)), np.ones((1, 2)), unbiased=True)


def test_many_bad_rows_are_cut_short():
    X = np.full((9, 2), np.nan)
    with pytest.raises(ValueError, match=r"rows 0, 1, 2, 3, 4, \.\.\. \(9 in all\)"):
        mmd(X, np.ones((2, 2)))
