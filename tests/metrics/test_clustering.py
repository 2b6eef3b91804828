"""Clustering accuracy against the definition, and as a scorer."""

from itertools import permutations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.datasets import make_blobs
from sklearn.metrics import make_scorer
from sklearn.model_selection import GridSearchCV, StratifiedKFold, cross_val_score

from skmm.metrics import clustering_accuracy, clustering_accuracy_scorer

LABELS = st.integers(1, 40).flatmap(
    lambda n: st.tuples(
        *(st.lists(st.integers(0, 4), min_size=n, max_size=n) for _ in range(2))
    )
)


def best_of_all_matchings(y_true, y_pred, k=5):
    """Try every one-to-one renaming of clusters 0..k-1 to classes 0..k-1."""
    y_true, y_pred = np.array(y_true), np.array(y_pred)
    return max((np.array(p)[y_pred] == y_true).mean() for p in permutations(range(k)))


@given(LABELS)
def test_equals_brute_force(labels):
    expected = best_of_all_matchings(*labels)
    assert clustering_accuracy(*labels) == pytest.approx(expected, abs=1e-12)


@given(LABELS, st.permutations(range(5)))
def test_names_of_labels_do_not_matter(labels, order):
    y_true, y_pred = labels
    score = clustering_accuracy(y_true, y_pred)
    assert clustering_accuracy(y_true, [order[c] for c in y_pred]) == score
    assert clustering_accuracy(["abcde"[c] for c in y_true], y_pred) == score


@given(LABELS)
def test_bounds_and_symmetry(labels):
    score = clustering_accuracy(*labels)
    k = max(len(set(part)) for part in labels)
    assert 1 / k - 1e-12 <= score <= 1
    assert clustering_accuracy(*labels[::-1]) == score
    # The plain accuracy is one of the matchings.
    assert score >= np.mean(np.equal(*labels)) - 1e-12


@pytest.mark.parametrize(
    "y_true, y_pred, expected",
    [
        (["x", "x", "y", "y"], [7, 7, -1, -1], 1.0),
        ([0, 0, 1, 1], [0, 0, 0, 0], 0.5),
        ([0, 0, 1, 1], [0, 1, 2, 3], 0.5),
        ([0, 0, 1, 2], [5, 5, 5, 6], 0.75),
        ([True, False], [0, 1], 1.0),
        (np.array(["u", "v"], dtype=object), [1, 0], 1.0),
        ([], [], 1.0),
    ],
)
def test_by_hand(y_true, y_pred, expected):
    score = clustering_accuracy(y_true, y_pred)
    assert score == expected and type(score) is float


@pytest.mark.parametrize(
    "y_true, y_pred, text",
    [
        ([0, 1], [0, 1, 1], "inconsistent numbers of samples"),
        ([[0, 1]], [0, 1], r"y_true: expected a 1-D array of labels, got shape \(1, 2"),
        ([0, 1], [0.5, 1.2], "y_pred: expected discrete labels, got continuous"),
        ([0, np.nan], [0, 1], "y_true contains NaN"),
    ],
)
def test_refuses(y_true, y_pred, text):
    with pytest.raises(ValueError, match=text):
        clustering_accuracy(y_true, y_pred)


@pytest.mark.parametrize(
    "scorer", [clustering_accuracy_scorer, make_scorer(clustering_accuracy)]
)
def test_scores_a_clusterer_in_cross_validation(scorer):
    X, y = make_blobs(150, centers=3, random_state=0, cluster_std=0.3)
    model = KMeans(3, random_state=0)
    scores = cross_val_score(model, X, y, cv=StratifiedKFold(5), scoring=scorer)
    np.testing.assert_array_equal(scores, 1.0)


def test_chooses_the_number_of_clusters():
    X, y = make_blobs(150, centers=3, random_state=0, cluster_std=0.3)
    search = GridSearchCV(
        KMeans(random_state=0),
        {"n_clusters": [2, 3, 6]},
        cv=StratifiedKFold(3),
        scoring=clustering_accuracy_scorer,
    )
    assert search.fit(X, y).best_params_ == {"n_clusters": 3}
