"""How well one modality finds its counterpart, or its class, in another."""

from collections.abc import Iterator, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.utils import column_or_1d

from skmm.metrics._alignment import check_embedding, chunks, list_rows, unit_rows

METRICS = ("cosine", "euclidean")


def recall_at_k(
    queries: Any,
    gallery: Any,
    k: int | Sequence[int] = 1,
    *,
    query_labels: Any = None,
    gallery_labels: Any = None,
    metric: str = "cosine",
) -> Any:
    r"""Share of queries that have a relevant item among the k nearest.

    With the items :math:`R_i` that are relevant to query i, and its similarity
    :math:`s_{ij}` to item j,

    .. math:: \frac1n \sum_i [r_i \le k], \qquad
        r_i = 1 + \big|\{j \notin R_i : s_{ij} \ge \max_{j' \in R_i} s_{ij'}\}\big|.

    Without labels :math:`R_i` is the row i of the gallery; with labels, all rows of the
    label of query i.

    Parameters
    ----------
    queries : array-like of shape (n_queries, n_features)
        Embedding of one modality.
    gallery : array-like of shape (n_gallery, n_features)
        Embedding of the other, in the same space. Without labels of as many rows, in
        the same order.
    k : int or sequence of int, default=1
        How many items are looked at, from 1 to n_gallery.
    query_labels : array-like of shape (n_queries,), default=None
        Label of each query.
    gallery_labels : array-like of shape (n_gallery,), default=None
        Label of each item. Give both or neither.
    metric : {"cosine", "euclidean"}, default="cosine"
        Similarity is the cosine of the angle, or minus the distance.

    Returns
    -------
    recall : float or ndarray of shape (len(k),)
        Between 0 and 1; an array if k is a sequence.

    Raises
    ------
    ValueError
        If shapes do not fit, values are missing or infinite, rows are zero (with
        "cosine"), k is out of range, or a query's label is not in the gallery.

    See Also
    --------
    mean_average_precision : Takes the ranks of all relevant items into account.

    Notes
    -----
    Ties count against: an item that is as similar as the relevant one is in front of
    it. An embedding that sends all rows to one point has a recall of 0 until k reaches
    the end of the gallery. Similarities that differ by less than their rounding error
    are ties.

    A query is not left out of the gallery where both are the same rows.

    Takes O(n_queries n_gallery n_features) time, and memory for some 2 million
    similarities at once.

    Examples
    --------
    >>> from skmm.metrics import recall_at_k
    >>> image = [[1.0, 0.0], [0.0, 1.0], [1.0, 1.0]]
    >>> text = [[1.0, 0.1], [0.7, 1.0], [0.1, 1.0]]
    >>> recall_at_k(image, text, k=[1, 2, 3])
    array([0.33333333, 0.66666667, 1.        ])
    >>> recall_at_k(image, text, query_labels=[0, 1, 1], gallery_labels=[0, 1, 1])
    1.0
    """
    queries, gallery = _check_sides(queries, gallery, metric)
    ks, single = _check_ks(k, len(gallery))
    if query_labels is None and gallery_labels is None:
        if len(queries) != len(gallery):
            raise ValueError(
                f"gallery: expected {len(queries)} rows, one for each query, got "
                f"{len(gallery)}. Pass pairs, or query_labels and gallery_labels."
            )
        query_codes = gallery_codes = np.arange(len(queries))
    else:
        query_codes, gallery_codes = _check_labels(
            query_labels, gallery_labels, len(queries), len(gallery)
        )
    hits = np.zeros(len(ks))
    for rows, similarity, threshold in _similarities(queries, gallery, metric):
        relevant = query_codes[rows, np.newaxis] == gallery_codes
        best = np.where(relevant, threshold, -np.inf).max(axis=1, keepdims=True)
        in_front = (similarity >= best) & ~relevant
        hits += (in_front.sum(axis=1)[:, np.newaxis] < ks).sum(axis=0)
    recall = hits / len(queries)
    return float(recall[0]) if single else recall


def mean_average_precision(
    queries: Any,
    gallery: Any,
    query_labels: Any,
    gallery_labels: Any,
    *,
    k: int | None = None,
    metric: str = "cosine",
) -> float:
    r"""Mean over the queries of the average precision of their ranked lists.

    With the items :math:`R_i` of the label of query i, and the number :math:`r_{ij}`
    of items that are at least as similar to it as item j,

    .. math:: \frac1n \sum_i \frac1{\min(|R_i|, k)} \sum_{j \in R_i,\, r_{ij} \le k}
        \frac{|\{j' \in R_i : r_{ij'} \le r_{ij}\}|}{r_{ij}}.

    Parameters
    ----------
    queries : array-like of shape (n_queries, n_features)
        Embedding of one modality.
    gallery : array-like of shape (n_gallery, n_features)
        Embedding of the other, in the same space.
    query_labels : array-like of shape (n_queries,)
        Label of each query.
    gallery_labels : array-like of shape (n_gallery,)
        Label of each item.
    k : int, default=None
        Length of the lists, from 1 to n_gallery. None takes the whole gallery.
    metric : {"cosine", "euclidean"}, default="cosine"
        Similarity is the cosine of the angle, or minus the distance.

    Returns
    -------
    map : float
        Between 0 and 1.

    Raises
    ------
    ValueError
        If shapes do not fit, values are missing or infinite, rows are zero (with
        "cosine"), k is out of range, or a query's label is not in the gallery.

    See Also
    --------
    recall_at_k : Whether one relevant item is near; also for pairs without labels.
    sklearn.metrics.label_ranking_average_precision_score : The same without k, of a
        matrix of similarities.

    Notes
    -----
    Ties share the last of their ranks, as in scikit-learn's average precision: an
    embedding that sends all rows to one point scores the share of relevant items, which
    is chance. Similarities that differ by less than their rounding error are ties.

    With k, the sum is divided by the number of relevant items that could have been in
    the list. Some code divides by those that are in it, which rewards short lists.

    A query is not left out of the gallery where both are the same rows.

    Takes O(n_queries n_gallery (n_features + log n_gallery)) time, and memory for a few
    million similarities at once.

    Examples
    --------
    >>> from skmm.metrics import mean_average_precision
    >>> image = [[1.0, 0.0], [0.0, 1.0]]
    >>> text = [[1.0, 0.1], [1.0, 0.2], [0.1, 1.0]]
    >>> round(mean_average_precision(image, text, [0, 1], [0, 1, 1]), 3)
    1.0
    >>> round(mean_average_precision(image, text, [1, 0], [0, 1, 1]), 3)
    0.458
    """
    queries, gallery = _check_sides(queries, gallery, metric)
    query_codes, gallery_codes = _check_labels(
        query_labels, gallery_labels, len(queries), len(gallery)
    )
    length = len(gallery) if k is None else int(_check_ks(k, len(gallery))[0][0])
    total = 0.0
    for rows, similarity, threshold in _similarities(queries, gallery, metric):
        relevant = query_codes[rows, np.newaxis] == gallery_codes
        for query in zip(similarity, threshold, relevant, strict=True):
            total += _average_precision(*query, length)
    return total / len(queries)


def _average_precision(
    similarity: np.ndarray, threshold: np.ndarray, relevant: np.ndarray, length: int
) -> float:
    """Average precision of one query; an item is tied with those above `threshold`."""
    threshold = threshold[relevant]
    # Numbers of items, and of relevant ones, that are at least as similar.
    rank = len(similarity) - np.searchsorted(np.sort(similarity), threshold)
    found = len(threshold) - np.searchsorted(np.sort(similarity[relevant]), threshold)
    precision = (found / rank)[rank <= length]
    return float(precision.sum() / min(len(threshold), length))


def _check_sides(
    queries: Any, gallery: Any, metric: Any
) -> tuple[np.ndarray, np.ndarray]:
    """Both embeddings, of unit rows for the cosine."""
    if not isinstance(metric, str) or metric not in METRICS:
        raise ValueError(
            f"metric: expected one of {METRICS}, got {metric!r}. Choose one of these."
        )
    queries = check_embedding(queries, "queries")
    gallery = check_embedding(gallery, "gallery")
    if queries.shape[1] != gallery.shape[1]:
        raise ValueError(
            f"gallery: expected {queries.shape[1]} columns, as queries have, got "
            f"{gallery.shape[1]}. Compare embeddings in one space."
        )
    if metric == "cosine":
        remedy = "Use metric='euclidean', or leave these rows out."
        queries = unit_rows(queries, "queries", remedy)
        gallery = unit_rows(gallery, "gallery", remedy)
    return queries, gallery


def _check_ks(k: Any, n_gallery: int) -> tuple[np.ndarray, bool]:
    """The values of k, and whether a single one was given."""
    single = isinstance(k, Integral)
    ks = [k] if single or not isinstance(k, Sequence | np.ndarray) else list(k)
    good = [
        isinstance(one, Integral)
        and not isinstance(one, bool)
        and 1 <= int(one) <= n_gallery
        for one in ks
    ]
    if not good or not all(good):
        raise ValueError(
            f"k: expected integers from 1 to {n_gallery}, the size of the gallery, got "
            f"{k!r}. Look at fewer items, or pass a larger gallery."
        )
    return np.array(ks, dtype=np.intp), single


def _check_labels(
    query_labels: Any, gallery_labels: Any, n_queries: int, n_gallery: int
) -> tuple[np.ndarray, np.ndarray]:
    """One number a label, the same on both sides."""
    sides = []
    for name, labels, n in (
        ("query_labels", query_labels, n_queries),
        ("gallery_labels", gallery_labels, n_gallery),
    ):
        if labels is None:
            raise ValueError(
                f"{name}: expected labels, got None. Give labels of both sides, or of "
                "neither for pairs."
            )
        labels = column_or_1d(labels)
        if len(labels) != n:
            raise ValueError(
                f"{name}: expected {n}, one a row, got {len(labels)}. Pass labels in "
                "the order of the rows."
            )
        if labels.dtype.kind == "f" and np.isnan(labels).any():
            raise ValueError(
                f"{name}: expected labels, got NaN in "
                f"{list_rows(np.flatnonzero(np.isnan(labels)))}. Leave out unlabelled "
                "rows."
            )
        sides.append(labels)
    _, codes = np.unique(np.concatenate(sides), return_inverse=True)
    query_codes, gallery_codes = codes[:n_queries], codes[n_queries:]
    lost = np.flatnonzero(~np.isin(query_codes, gallery_codes))
    if len(lost):
        raise ValueError(
            "query_labels: expected labels that occur in gallery_labels, got others in "
            f"{list_rows(lost)}. Leave out these queries: nothing is relevant to them."
        )
    return query_codes, gallery_codes


def _similarities(
    queries: np.ndarray, gallery: np.ndarray, metric: str
) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
    """Rows, their similarities to the gallery, and from where others are ties of them.

    Products of equal rows may differ in their last digits, by the order in which they
    are summed: a product of n_features terms is known up to as many roundings.
    """
    unit = 4 * queries.shape[1] * np.finfo(np.float64).eps
    if metric == "euclidean":
        # Not the mean: one item far away would move it, and cost the others digits.
        centre = np.median(gallery, axis=0)
        queries, gallery = queries - centre, gallery - centre
        half_squares = 0.5 * np.square(gallery).sum(axis=1)
        query_norms, norms = (np.linalg.norm(Z, axis=1) for Z in (queries, gallery))
    for rows in chunks(len(queries), len(gallery)):
        similarity = queries[rows] @ gallery.T
        if metric == "cosine":
            yield rows, similarity, similarity - unit
        else:
            # Minus half the squared distance, but for a term of the query alone. An
            # item at the distance of another has a norm of at most that of the other
            # and twice the query's.
            similarity -= half_squares
            longest = 2 * query_norms[rows, np.newaxis] + norms
            yield rows, similarity, similarity - unit * longest**2
