"""Retrieval: against loops and scikit-learn, ties, pairs and labels, bad input."""

import numpy as np
import pytest
from sklearn.metrics import (
    average_precision_score,
    label_ranking_average_precision_score,
)
from sklearn.metrics.pairwise import cosine_similarity, euclidean_distances

from skmm.metrics import _alignment, mean_average_precision, recall_at_k

SEEDS = range(5)
METRICS = ("cosine", "euclidean")


def draw(seed, n=25, m=40, d=5, n_classes=4, grid=False):
    """Queries, gallery and labels; on a grid many similarities are equal."""
    rng = np.random.default_rng(seed)
    queries, gallery = rng.normal(size=(n, d)), rng.normal(size=(m, d))
    if grid:
        queries, gallery = np.sign(queries), np.sign(gallery)
    labels = rng.integers(n_classes, size=n), np.arange(m) % n_classes
    return queries, gallery, *labels


def similarity(queries, gallery, metric):
    if metric == "cosine":
        # Rounded, so that equal ones are equal.
        return cosine_similarity(queries, gallery).round(12)
    return -euclidean_distances(queries, gallery).round(10)


def slow_recall(scores, relevant, k):
    """Shuffled against us: what is tied with a relevant item stands before it."""
    hits = 0
    for row, good in zip(scores, relevant, strict=True):
        order = sorted(range(len(row)), key=lambda j: (-row[j], good[j]))
        hits += any(good[j] for j in order[:k])
    return hits / len(scores)


def slow_map(scores, relevant, k):
    """Ranks are numbers of items that are at least as similar."""
    total = 0.0
    for row, good in zip(scores, relevant, strict=True):
        ranks = [sum(other >= s for other in row) for s in row]
        chosen = [rank for rank, g in zip(ranks, good, strict=True) if g]
        found = [sum(r <= rank for r in chosen) / rank for rank in chosen if rank <= k]
        total += sum(found) / min(len(chosen), k)
    return total / len(scores)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("grid", [False, True])
def test_equal_the_loops(seed, metric, grid):
    queries, gallery, query_labels, gallery_labels = draw(seed, grid=grid)
    scores = similarity(queries, gallery, metric)
    relevant = query_labels[:, None] == gallery_labels
    ks = [1, 3, 10, 40]
    found = recall_at_k(
        queries,
        gallery,
        ks,
        query_labels=query_labels,
        gallery_labels=gallery_labels,
        metric=metric,
    )
    np.testing.assert_array_equal(found, [slow_recall(scores, relevant, k) for k in ks])
    for k in ks:
        # A mean of 25 means of at most 40 numbers in [0, 1].
        assert mean_average_precision(
            queries, gallery, query_labels, gallery_labels, k=k, metric=metric
        ) == pytest.approx(slow_map(scores, relevant, k), abs=1e-13)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("grid", [False, True])
def test_equals_scikit_learn(seed, metric, grid):
    queries, gallery, query_labels, gallery_labels = draw(seed, grid=grid)
    scores = similarity(queries, gallery, metric)
    relevant = query_labels[:, None] == gallery_labels
    found = mean_average_precision(
        queries, gallery, query_labels, gallery_labels, metric=metric
    )
    ranking = label_ranking_average_precision_score(relevant, scores)
    single = [
        average_precision_score(*pair) for pair in zip(relevant, scores, strict=True)
    ]
    assert found == pytest.approx(ranking, abs=1e-13)
    assert found == pytest.approx(np.mean(single), abs=1e-13)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("metric", METRICS)
def test_pairs_are_labels_of_their_own(seed, metric):
    queries, gallery, *_ = draw(seed, n=30, m=30)
    gallery = queries + gallery
    found = recall_at_k(queries, gallery, [1, 2, 30], metric=metric)
    scores = similarity(queries, gallery, metric)
    expected = [slow_recall(scores, np.eye(30, dtype=bool), k) for k in (1, 2, 30)]
    np.testing.assert_array_equal(found, expected)
    names = np.array([f"clip {i}" for i in range(30)])
    same = recall_at_k(
        queries,
        gallery,
        [1, 2, 30],
        query_labels=names,
        gallery_labels=names,
        metric=metric,
    )
    np.testing.assert_array_equal(same, found)
    assert expected[0] < 1 and expected[-1] == 1


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("metric", METRICS)
def test_chunks_change_nothing(seed, metric, monkeypatch):
    queries, gallery, *labels = draw(seed)
    whole = (
        recall_at_k(
            queries, gallery, 3, query_labels=labels[0], gallery_labels=labels[1]
        ),
        mean_average_precision(queries, gallery, *labels, metric=metric),
    )
    monkeypatch.setattr(_alignment, "CHUNK_CELLS", 100)
    again = (
        recall_at_k(
            queries, gallery, 3, query_labels=labels[0], gallery_labels=labels[1]
        ),
        mean_average_precision(queries, gallery, *labels, metric=metric),
    )
    assert again == pytest.approx(whole, abs=1e-13)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("n", [7, 100])
def test_a_constant_embedding_finds_nothing(seed, metric, n):
    # Equal rows of any direction: their products may differ in the last digit.
    row = np.random.default_rng(seed).normal(size=17)
    constant = np.tile(row, (n, 1))
    found = recall_at_k(constant, constant, [1, n // 2, n - 1, n], metric=metric)
    np.testing.assert_array_equal(found, [0, 0, 0, 1])
    labels = np.arange(n) % 2
    # Chance: all share the last rank, so the precision is the share of the class.
    counts = np.bincount(labels) / n
    assert mean_average_precision(
        constant, constant, labels, labels, metric=metric
    ) == pytest.approx((counts**2).sum(), abs=1e-13)
    assert mean_average_precision(constant, constant, labels, labels, k=n - 1) == 0


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("metric", METRICS)
def test_copies_find_themselves(seed, metric):
    queries, *_ = draw(seed)
    assert recall_at_k(queries, queries.copy(), metric=metric) == 1
    labels = np.arange(len(queries))
    assert mean_average_precision(queries, queries, labels, labels, metric=metric) == 1
    assert recall_at_k(queries, np.roll(queries, 1, axis=0), metric=metric) == 0


@pytest.mark.parametrize("seed", SEEDS)
def test_invariances(seed):
    queries, gallery, *labels = draw(seed)
    rng = np.random.default_rng(seed)
    lengths = rng.uniform(0.1, 10, size=(len(queries), 1))
    expected = mean_average_precision(queries, gallery, *labels)
    # No two similarities of random rows are near a tie.
    assert mean_average_precision(lengths * queries, gallery, *labels) == pytest.approx(
        expected, abs=1e-13
    )
    shift = rng.normal(size=5)
    assert mean_average_precision(
        queries + shift, gallery + shift, *labels, metric="euclidean"
    ) == pytest.approx(
        mean_average_precision(queries, gallery, *labels, metric="euclidean"), abs=1e-13
    )
    order = rng.permutation(len(gallery))
    assert mean_average_precision(
        queries, gallery[order], labels[0], labels[1][order]
    ) == pytest.approx(expected, abs=1e-13)


@pytest.mark.parametrize("seed", SEEDS)
def test_an_item_far_away_ties_nothing(seed):
    queries, gallery, query_labels, gallery_labels = draw(seed)
    found = [
        recall_at_k(
            queries + 1e3,
            items + 1e3,
            query_labels=query_labels,
            gallery_labels=labels,
            metric="euclidean",
        )
        for items, labels in (
            (gallery, gallery_labels),
            (np.vstack([gallery, np.full((1, 5), 1e9)]), [*gallery_labels, -1]),
        )
    ]
    assert found[0] == found[1] > 0


def test_recall_by_hand():
    # On a line: query 0 is nearest to item 1, and as far from 0 as from 2.
    queries, gallery = [[1.0], [5.0], [9.0]], [[0.0], [1.0], [2.0]]
    found = recall_at_k(queries, gallery, [1, 2, 3], metric="euclidean")
    np.testing.assert_allclose(found, [1 / 3, 2 / 3, 1], atol=1e-15)


def test_average_precision_by_hand():
    # Ranks of the relevant items: 1 and 3 of 4.
    queries, gallery = [[0.0]], [[1.0], [2.0], [3.0], [4.0]]
    options = {"query_labels": ["a"], "gallery_labels": ["a", "b", "a", "b"]}
    for k, expected in ((None, 5 / 6), (1, 1.0), (2, 1 / 2), (3, 5 / 6)):
        assert mean_average_precision(
            queries, gallery, **options, k=k, metric="euclidean"
        ) == pytest.approx(expected, abs=1e-15)
    # An item that is equal to the first relevant one shares its rank.
    assert mean_average_precision(
        [[0.0]], [[1.0], [1.0], [3.0]], ["a"], ["a", "b", "a"], metric="euclidean"
    ) == pytest.approx((1 / 2 + 2 / 3) / 2, abs=1e-15)


def test_returns_a_number_or_an_array():
    queries, *_ = draw(0)
    assert type(recall_at_k(queries, queries, 2)) is float
    assert type(recall_at_k(queries, queries, np.int64(2))) is float
    for k in ([2], (2,), np.array([2])):
        assert recall_at_k(queries, queries, k).shape == (1,)
    labels = np.zeros(len(queries))
    assert type(mean_average_precision(queries, queries, labels, labels)) is float


@pytest.mark.parametrize(
    "change, text",
    [
        (
            {"queries": [[1.0, np.nan], [1.0, 1.0]]},
            r"queries: expected finite .* row 0\. Leave out the rows .* on both sides",
        ),
        (
            {"gallery": [[1.0, 0.0], [0.0, 0.0]]},
            r"gallery: .* direction, got only zeros in row 1\. Use metric='euclidean'",
        ),
        (
            {"gallery": np.ones((3, 2))},
            "gallery: expected 2 rows, .* got 3. Pass pairs",
        ),
        (
            {"gallery": np.ones((2, 3))},
            "gallery: expected 2 columns, .* got 3. Compare",
        ),
        ({"k": 0}, r"k: expected integers from 1 to 2, .* got 0\. Look at fewer"),
        ({"k": [1, 3]}, r"k: expected integers from 1 to 2, .* got \[1, 3\]"),
        ({"k": 1.5}, "k: expected integers .* got 1.5"),
        ({"k": []}, r"k: expected integers .* got \[\]"),
        ({"k": True}, "k: expected integers .* got True"),
        ({"metric": "dot"}, r"metric: expected one of .* got 'dot'\. Choose"),
        ({"query_labels": [0, 1]}, "gallery_labels: expected labels, got None. Give"),
        ({"gallery_labels": [0, 1]}, "query_labels: expected labels, got None. Give"),
        (
            {"query_labels": [0], "gallery_labels": [0, 1]},
            "query_labels: expected 2, one a row, got 1. Pass",
        ),
        (
            {"query_labels": [0, np.nan], "gallery_labels": [0, 1]},
            "query_labels: expected labels, got NaN in row 1. Leave out",
        ),
        (
            {"query_labels": [0, 7], "gallery_labels": [0, 1]},
            "query_labels: expected labels that occur .* in row 1. Leave out",
        ),
    ],
)
def test_refuses(change, text):
    good = {"queries": np.eye(2), "gallery": np.eye(2), "k": 1}
    with pytest.raises(ValueError, match=text):
        recall_at_k(**good | change)


def test_map_refuses():
    with pytest.raises(ValueError, match="query_labels: .* occur in gallery_labels"):
        mean_average_precision(np.eye(2), np.eye(2), [0, 3], [0, 1])
    with pytest.raises(ValueError, match="k: expected integers from 1 to 2"):
        mean_average_precision(np.eye(2), np.eye(2), [0, 1], [0, 1], k=3)
    with pytest.raises(ValueError, match="gallery: expected finite values"):
        mean_average_precision(np.eye(2), np.eye(2) * np.nan, [0, 1], [0, 1])
