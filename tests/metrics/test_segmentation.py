"""Mean intersection over union against the definition and scikit-learn."""

import math

import numpy as np
import pytest
from sklearn.base import BaseEstimator
from sklearn.metrics import jaccard_score, make_scorer

from skmm.metrics import mean_iou

SEEDS = range(5)


def draw(seed, shape=(3, 4, 5), n_classes=4):
    rng = np.random.default_rng(seed)
    return rng.integers(n_classes, size=shape), rng.integers(n_classes, size=shape)


def loop(y_true, y_pred, labels, ignore=None):
    shares = []
    for label in labels:
        both = either = 0
        for t, p in zip(y_true.ravel(), y_pred.ravel(), strict=True):
            if t != ignore:
                both += t == label and p == label
                either += t == label or p == label
        if either:
            shares.append(both / either)
    return sum(shares) / len(shares)


@pytest.mark.parametrize("seed", SEEDS)
def test_equals_the_loop(seed):
    y_true, y_pred = draw(seed)
    assert mean_iou(y_true, y_pred) == pytest.approx(
        loop(y_true, y_pred, range(4)), abs=1e-12
    )
    assert mean_iou(y_true, y_pred, labels=[1, 3, 9]) == pytest.approx(
        loop(y_true, y_pred, [1, 3]), abs=1e-12
    )
    assert mean_iou(y_true, y_pred, ignore_index=2) == pytest.approx(
        loop(y_true, y_pred, [0, 1, 3], ignore=2), abs=1e-12
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_equals_scikit_learn(seed):
    y_true, y_pred = draw(seed)
    expected = jaccard_score(y_true.ravel(), y_pred.ravel(), average="macro")
    assert mean_iou(y_true, y_pred) == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_names_and_order_do_not_matter(seed):
    y_true, y_pred = draw(seed)
    names = np.array(["sky", "bird", "tree", "wing"])
    score = mean_iou(y_true, y_pred)
    assert mean_iou(names[y_true], names[y_pred]) == pytest.approx(score)
    assert mean_iou(y_pred, y_true) == pytest.approx(score)  # symmetric
    assert mean_iou(y_true.ravel().tolist(), y_pred.ravel().tolist()) == score
    order = np.random.default_rng(seed).permutation(y_true.size)
    assert mean_iou(y_true.ravel()[order], y_pred.ravel()[order]) == score


def test_limits():
    y_true, _ = draw(0)
    assert mean_iou(y_true, y_true) == 1
    assert mean_iou(np.zeros((2, 2)), np.ones((2, 2))) == 0
    assert math.isnan(mean_iou(np.zeros(3), np.zeros(3), labels=[5]))
    assert math.isnan(mean_iou(np.full(3, 255), np.zeros(3), ignore_index=255))


def test_prediction_of_the_ignored_label_is_wrong():
    # It is no class, but the pixel is missed by its own.
    assert mean_iou([0, 0, 1], [0, 255, 1], ignore_index=255) == pytest.approx(0.75)


def test_as_a_scorer():
    class Constant(BaseEstimator):
        def predict(self, X):
            return np.zeros((len(X), 2, 2), dtype=int)

    scorer = make_scorer(mean_iou)
    y = np.zeros((3, 2, 2), dtype=int)
    y[:, 0] = 1
    assert scorer(Constant(), np.zeros((3, 5)), y) == pytest.approx(0.25)


def test_bad_input():
    with pytest.raises(ValueError, match=r"y_pred: expected the shape.*\(2,\).*\(3,\)"):
        mean_iou([0, 1], [0, 1, 1])
    with pytest.raises(ValueError, match=r"y_true: expected labels, got NaN.*ignore"):
        mean_iou([0.0, np.nan], [0.0, 1.0])
    with pytest.raises(ValueError, match=r"labels: expected each class once"):
        mean_iou([0, 1], [0, 1], labels=[0, 0])
