"""Clustering accuracy under the best one-to-one matching of clusters to classes."""

from typing import Any

import numpy as np
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import make_scorer
from sklearn.metrics.cluster import contingency_matrix
from sklearn.utils.multiclass import type_of_target
from sklearn.utils.validation import (
    assert_all_finite,
    check_array,
    check_consistent_length,
)


def clustering_accuracy(y_true: Any, y_pred: Any) -> float:
    r"""Share of samples whose cluster is matched to their class.

    With `n_ck` samples of class `c` in cluster `k`, it is

    .. math::  \frac{1}{n} \max_{\pi} \sum_c n_{c, \pi(c)}

    over all one-to-one maps :math:`\pi` of classes to clusters. When there are more
    clusters than classes, or fewer, the surplus is matched to nothing and its
    samples count as wrong.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,)
        Class labels: integers, strings or booleans.
    y_pred : array-like of shape (n_samples,)
        Cluster labels. Their names do not matter; -1 (noise in scikit-learn's
        density clusterers) is a cluster like any other.

    Returns
    -------
    accuracy : float
        Between ``1 / max(n_classes, n_clusters)`` and 1; 1.0 for no samples.
        The score is symmetric in its arguments.

    Raises
    ------
    ValueError
        If the labels are not one-dimensional, differ in length, hold NaN, or are
        continuous.

    See Also
    --------
    sklearn.metrics.adjusted_rand_score : Chance-corrected agreement of pairs.
    sklearn.metrics.normalized_mutual_info_score : Agreement in information.

    Notes
    -----
    Not corrected for chance: many small clusters score low, one cluster scores the
    share of the largest class. The matching takes
    O(n_classes * n_clusters * min(n_classes, n_clusters)) time.

    References
    ----------
    .. [1] H. W. Kuhn, "The Hungarian method for the assignment problem", Naval
       Research Logistics Quarterly 2, 83-97, 1955.

    Examples
    --------
    >>> from skmm.metrics import clustering_accuracy
    >>> clustering_accuracy(["a", "a", "b", "b"], [1, 1, 0, 0])
    1.0
    >>> clustering_accuracy(["a", "a", "b", "b"], [0, 1, 2, 2])
    0.75

    As a score of a clusterer in cross-validation:

    >>> from sklearn.cluster import KMeans
    >>> from sklearn.datasets import load_iris
    >>> from sklearn.model_selection import StratifiedKFold, cross_val_score
    >>> from skmm.metrics import clustering_accuracy_scorer
    >>> X, y = load_iris(return_X_y=True)
    >>> scores = cross_val_score(
    ...     KMeans(3, random_state=0), X, y,
    ...     cv=StratifiedKFold(5), scoring=clustering_accuracy_scorer)
    >>> bool(scores.mean() > 0.8)
    True
    """
    y_true, y_pred = _check_labels(y_true, y_pred)
    if len(y_true) == 0:
        return 1.0
    counts = contingency_matrix(y_true, y_pred)
    classes, clusters = linear_sum_assignment(counts, maximize=True)
    return float(counts[classes, clusters].sum() / len(y_true))


def _check_labels(y_true: Any, y_pred: Any) -> tuple[np.ndarray, np.ndarray]:
    """Two label vectors of one length, checked as scikit-learn's scores do."""
    labels = [_check_one(y_true, "y_true"), _check_one(y_pred, "y_pred")]
    check_consistent_length(*labels)
    return labels[0], labels[1]


def _check_one(y: Any, name: str) -> np.ndarray:
    y = check_array(
        y,
        ensure_2d=False,
        ensure_min_samples=0,
        ensure_all_finite=False,
        dtype=None,
        input_name=name,
    )
    if y.ndim != 1:
        raise ValueError(
            f"{name}: expected a 1-D array of labels, got shape {y.shape}. Pass one "
            "label a sample, for instance the output of fit_predict."
        )
    assert_all_finite(y, input_name=name)
    if len(y) and type_of_target(y).startswith("continuous"):
        raise ValueError(
            f"{name}: expected discrete labels, got continuous values such as "
            f"{y[0]!r}. Pass integers, strings or booleans."
        )
    return y


clustering_accuracy_scorer = make_scorer(clustering_accuracy)
