"""Sentiment scores: by hand, against loops, as scorers, where they are undefined."""

import math

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from sklearn.metrics import make_scorer
from sklearn.model_selection import cross_val_score

from skmm.metrics import (
    sentiment_accuracy,
    sentiment_correlation,
    sentiment_f1,
    sentiment_scores,
)

SEEDS = range(5)
MOSI_NAMES = [
    "mae",
    "corr",
    "acc_7",
    "acc_5",
    "acc_3",
    "acc_2_has0",
    "f1_has0",
    "acc_2_non0",
    "f1_non0",
]
SIMS_NAMES = ["mae", "corr", "acc_5", "acc_3", "acc_2", "f1"]


def draw(seed, n=60, scale=3.0):
    """Labels on a grid with many halves and zeros, predictions beyond its ends."""
    rng = np.random.default_rng(seed)
    y_true = rng.integers(-4, 5, size=n) / 4 * scale
    y_pred = y_true + rng.normal(scale=scale / 2, size=n)
    return y_true, np.where(rng.random(n) < 0.3, np.round(2 * y_pred) / 2, y_pred)


# --------------------------------------------- slow implementations, number by number
def half_to_even(value):
    below = math.floor(value)
    if value - below == 0.5:
        return below if below % 2 == 0 else below + 1
    return math.floor(value + 0.5)


def clip(value, limit):
    return min(max(value, -limit), limit)


def share(hits):
    hits = list(hits)
    return sum(hits) / len(hits)


def weighted_f1(pairs):
    total = 0
    for label in (False, True):
        hit = sum(t == label and p == label for t, p in pairs)
        support = sum(t == label for t, _ in pairs)
        guessed = sum(p == label for _, p in pairs)
        if hit:
            total += support * 2 * hit / (support + guessed)
    return total / len(pairs)


def pearson(y_true, y_pred):
    return np.corrcoef(y_true, y_pred)[0, 1]


def slow_mosi(y_true, y_pred):
    pairs = list(zip(y_true.tolist(), y_pred.tolist(), strict=True))
    has0 = [(t >= 0, p >= 0) for t, p in pairs]
    non0 = [(t > 0, p > 0) for t, p in pairs if t != 0]
    scores = {
        "mae": share(abs(t - p) for t, p in pairs),
        "corr": pearson(y_true, y_pred),
    }
    for n_classes, limit in ((7, 3), (5, 2), (3, 1)):
        scores[f"acc_{n_classes}"] = share(
            half_to_even(clip(t, limit)) == half_to_even(clip(p, limit))
            for t, p in pairs
        )
    for name, two in (("has0", has0), ("non0", non0)):
        scores[f"acc_2_{name}"] = share(t == p for t, p in two)
        scores[f"f1_{name}"] = weighted_f1(two)
    return scores


def slow_sims(y_true, y_pred):
    pairs = [
        (clip(t, 1), clip(p, 1))
        for t, p in zip(y_true.tolist(), y_pred.tolist(), strict=True)
    ]

    def bin_of(value, edges):
        return next(i for i in range(len(edges)) if edges[i] < value <= edges[i + 1])

    scores = {
        "mae": share(abs(t - p) for t, p in pairs),
        "corr": pearson(*np.transpose(pairs)),
    }
    for name, edges in (
        ("acc_5", [-1.01, -0.7, -0.1, 0.1, 0.7, 1.01]),
        ("acc_3", [-1.01, -0.1, 0.1, 1.01]),
        ("acc_2", [-1.01, 0.0, 1.01]),
    ):
        scores[name] = share(bin_of(t, edges) == bin_of(p, edges) for t, p in pairs)
    scores["f1"] = weighted_f1([(t > 0, p > 0) for t, p in pairs])
    return scores


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("dataset", ["mosi", "mosei", "sims"])
def test_equals_the_slow_implementation(seed, dataset):
    sims = dataset == "sims"
    y_true, y_pred = draw(seed, scale=1.0 if sims else 3.0)
    scores = sentiment_scores(y_true, y_pred, dataset=dataset)
    expected = (slow_sims if sims else slow_mosi)(y_true, y_pred)
    assert list(scores) == (SIMS_NAMES if sims else MOSI_NAMES)
    # Means of 60 numbers of order 1: some 60 roundings.
    assert dict(scores) == pytest.approx(expected, abs=1e-13)
    assert all(type(score) is float for score in scores.values())


@pytest.mark.parametrize("dataset", ["mosi", "sims"])
def test_the_single_scores_are_those(dataset):
    y_true, y_pred = draw(0, scale=1.0 if dataset == "sims" else 3.0)
    scores = sentiment_scores(y_true, y_pred, dataset=dataset)
    for n_classes in (5, 3) if dataset == "sims" else (7, 5, 3):
        assert scores[f"acc_{n_classes}"] == sentiment_accuracy(
            y_true, y_pred, n_classes=n_classes, dataset=dataset
        )
    for binary in ("has0", "non0"):
        suffix = "" if dataset == "sims" else f"_{binary}"
        assert scores[f"acc_2{suffix}"] == sentiment_accuracy(
            y_true, y_pred, n_classes=2, binary=binary, dataset=dataset
        )
        assert scores[f"f1{suffix}"] == sentiment_f1(
            y_true, y_pred, binary=binary, dataset=dataset
        )
    assert scores.corr == sentiment_correlation(y_true, y_pred, dataset=dataset)


def test_mosi_by_hand():
    y_true = [-3.0, -1.0, 0.0, 0.0, 2.0, 1.0]
    y_pred = [-4.0, 0.5, 0.5, -0.5, 2.5, 1.5]
    scores = sentiment_scores(y_true, y_pred)
    # Absolute errors 1, 1.5, 0.5, 0.5, 0.5, 0.5.
    assert scores.mae == 4.5 / 6
    # Rounded: -3, 0, 0, 0, 2, 2. Half to even: 0.5 to 0, -0.5 to 0, 2.5 and 1.5 to 2.
    assert scores.acc_7 == 4 / 6
    assert scores.acc_5 == 4 / 6
    assert scores.acc_3 == 5 / 6
    # Signs >= 0: true - - + + + +, predicted - + + - + +.
    assert scores.acc_2_has0 == 4 / 6
    # Negative: 1 hit, 2 true, 2 guessed; positive: 3 hits, 4 true, 4 guessed.
    assert scores.f1_has0 == pytest.approx((2 * 0.5 + 4 * 0.75) / 6, abs=1e-15)
    # Rows 0, 1, 4, 5: true - - + +, predicted - + + +.
    assert scores.acc_2_non0 == 3 / 4
    assert scores.f1_non0 == pytest.approx((2 * 2 / 3 + 2 * 4 / 5) / 4, abs=1e-15)


def test_sims_by_hand():
    y_true = [-1.0, -0.6, 0.0, 0.2, 1.0]
    y_pred = [-0.7, -0.1, 0.1, -3.0, 5.0]
    scores = sentiment_scores(y_true, y_pred, dataset="sims")
    # Predictions are clipped: -0.7, -0.1, 0.1, -1, 1; errors 0.3, 0.5, 0.1, 1.2, 0.
    assert scores.mae == pytest.approx(2.1 / 5, abs=1e-15)
    # Upper ends belong to the bins: 0 1 2 3 4 against 0 1 2 0 4.
    assert scores.acc_5 == 4 / 5
    # 0 0 1 2 2 against 0 0 1 0 2.
    assert scores.acc_3 == 4 / 5
    # - - - + + against - - + - +.
    assert scores.acc_2 == 3 / 5
    assert scores.f1 == pytest.approx((3 * 2 / 3 + 2 * 1 / 2) / 5, abs=1e-15)


def test_perfect_predictions():
    for scale, dataset in ((3.0, "mosi"), (1.0, "sims")):
        y_true, _ = draw(1, scale=scale)
        scores = sentiment_scores(y_true, y_true, dataset=dataset)
        assert scores.pop("mae") == 0
        # A dot product of unit vectors of 60 numbers.
        assert scores.pop("corr") == pytest.approx(1, abs=1e-14)
        assert set(scores.values()) == {1.0}


def test_cuts_are_those_of_the_labels_precision():
    cuts = [-0.7, -0.1, 0.0, 0.1, 0.7]
    # The value at each cut is in the bin below, in either precision.
    below = [-0.8, -0.2, -0.05, 0.05, 0.6]
    for dtype in (np.float32, np.float64):
        at_the_cut = np.array(cuts, dtype=dtype)
        scores = sentiment_scores(at_the_cut, below, dataset="sims")
        assert (scores.acc_5, scores.acc_3, scores.acc_2) == (1, 1, 1)


@pytest.mark.parametrize("constant", ["y_true", "y_pred"])
@pytest.mark.parametrize("value", [0.1, -0.7, 0.0])
def test_correlation_of_a_constant_is_undefined(constant, value):
    # The mean of three times 0.1 is not 0.1: rounding must not look like a slope.
    y_true, y_pred = draw(0, n=3, scale=1.0)
    pair = {"y_true": y_true, "y_pred": y_pred} | {constant: np.full(3, value)}
    for dataset in ("mosi", "sims"):
        assert math.isnan(sentiment_correlation(**pair, dataset=dataset))
        assert math.isnan(sentiment_scores(**pair, dataset=dataset).corr)


def test_correlation_of_clipped_constants_is_undefined():
    assert math.isnan(sentiment_correlation([0.2, 0.4], [3.0, 2.0], dataset="sims"))
    assert sentiment_correlation([0.2, 0.4], [3.0, 2.0]) == pytest.approx(-1)


@pytest.mark.parametrize("scale", [1e-200, 1.0, 1e200])
def test_correlation_of_any_scale(scale):
    y_true, y_pred = draw(2)
    # Nothing but the scale changes, up to the rounding of 60 terms.
    assert sentiment_correlation(y_true, scale * y_pred) == pytest.approx(
        pearson(y_true, y_pred), abs=1e-13
    )


def test_labels_of_zero_only():
    scores = sentiment_scores(np.zeros(3), [-1.0, 0.0, 2.0])
    assert math.isnan(scores.acc_2_non0) and math.isnan(scores.f1_non0)
    assert scores.acc_2_has0 == pytest.approx(2 / 3)
    assert scores.f1_has0 == pytest.approx(0.8)
    assert math.isnan(sentiment_f1(np.zeros(3), [-1.0, 0.0, 2.0]))


def test_a_class_that_is_never_predicted_warns_not():
    assert sentiment_f1([-1.0, -2.0], [1.0, 2.0]) == 0
    assert sentiment_f1([-1.0, 2.0], [1.0, 2.0]) == pytest.approx(1 / 3)


def test_forms_of_input():
    y_true, y_pred = draw(3)
    scores = sentiment_scores(y_true, y_pred)
    assert sentiment_scores(y_true[:, None], y_pred[:, None].tolist()) == scores
    whole = sentiment_scores([1, -2, 3], [1, 2, 3])
    assert whole == sentiment_scores([1.0, -2.0, 3.0], [1.0, 2.0, 3.0])


@pytest.mark.parametrize(
    "scorer",
    [
        make_scorer(sentiment_accuracy, n_classes=5),
        make_scorer(sentiment_f1, binary="has0"),
        make_scorer(sentiment_correlation),
    ],
)
def test_as_scorers(scorer):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(120, 3))
    y = np.clip(X @ [1.0, -1.0, 0.5] + 0.02 * rng.normal(size=120), -3, 3)
    scores = cross_val_score(LinearRegression(), X, y, cv=3, scoring=scorer)
    # Errors of 0.02 cross one in some 30 borders of classes.
    assert ((scores > 0.8) & (scores <= 1)).all()
    shuffled = rng.permutation(y)
    worse = cross_val_score(LinearRegression(), X, shuffled, cv=3, scoring=scorer)
    assert worse.max() < 0.8


@pytest.mark.parametrize(
    "y_true, y_pred, options, text",
    [
        ([0.0, 1.0], [0.0], {}, "y_pred: expected 2 values, one for each .* got 1. P"),
        ([], [], {}, "y_true: expected at least one value, got none. Pass"),
        ([0.0, np.nan], [0.0, 1.0], {}, "Input y_true contains NaN"),
        ([0.0, 1.0], [0.0, np.inf], {}, "Input y_pred contains infinity"),
        (["a", "b"], [0.0, 1.0], {}, "y_true: expected real numbers, got the type <U1"),
        ([[0.0, 1.0]], [0.0, 1.0], {}, r"y should be a 1d array, got .* shape \(1, 2"),
        ([0.0], [0.0], {"dataset": "iemocap"}, r"dataset: .* got 'iemocap'. Choose"),
        ([0.0], [0.0], {"dataset": None}, r"dataset: expected one of .* got None"),
    ],
)
def test_refuses(y_true, y_pred, options, text):
    for score in (sentiment_scores, sentiment_f1, sentiment_accuracy):
        with pytest.raises(ValueError, match=text):
            score(y_true, y_pred, **options)


@pytest.mark.parametrize(
    "options, text",
    [
        (
            {"n_classes": 4},
            r"n_classes: expected one of \(7, 5, 3, 2\) for 'mosi', .* 4",
        ),
        ({"n_classes": 7, "dataset": "sims"}, r"one of \(5, 3, 2\) for 'sims', got 7"),
        ({"n_classes": "7"}, r"n_classes: expected one of .* got '7'"),
        ({"n_classes": 2, "binary": "both"}, r"binary: expected one of .* got 'both'"),
    ],
)
def test_accuracy_refuses(options, text):
    with pytest.raises(ValueError, match=text):
        sentiment_accuracy([0.0, 1.0], [0.0, 1.0], **options)
