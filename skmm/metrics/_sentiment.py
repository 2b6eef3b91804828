"""Scores of sentiment regression on CMU-MOSI, CMU-MOSEI and CH-SIMS."""

from typing import Any

import numpy as np
from sklearn.metrics import f1_score
from sklearn.utils import Bunch, assert_all_finite, column_or_1d

DATASETS = ("mosi", "mosei", "sims")
BINARIES = ("non0", "has0")

# MOSI and MOSEI: labels are clipped to [-limit, limit] and rounded.
LIMITS = {7: 3.0, 5: 2.0, 3: 1.0}
# SIMS: the upper ends of all bins but the last; a bin includes its upper end.
CUTS = {2: (0.0,), 3: (-0.1, 0.1), 5: (-0.7, -0.1, 0.1, 0.7)}


def sentiment_scores(y_true: Any, y_pred: Any, *, dataset: str = "mosi") -> Bunch:
    r"""All scores of sentiment regression that the field's tables report.

    For CMU-MOSI and CMU-MOSEI, whose labels are in [-3, 3],

    .. math:: \mathrm{Acc}_{2c+1} = \frac1n \sum_i
        [\mathrm{round}(\mathrm{clip}_c\, y_i) = \mathrm{round}(\mathrm{clip}_c\,
        \hat y_i)], \qquad c = 3, 2, 1,

    where :math:`\mathrm{clip}_c` clips to [-c, c] and a half is rounded to the even
    number: 0.5 to 0, 1.5 and 2.5 to 2. There are two conventions for two classes:
    *has0* compares whether values are :math:`\ge 0`, in all rows; *non0* leaves out
    the rows of label 0 and compares whether values are :math:`> 0`.

    For CH-SIMS, whose labels are in [-1, 1], everything is clipped to [-1, 1] first,
    for the mean absolute error and the correlation too, and classes are bins that
    include their upper ends: two are cut at 0, three at -0.1 and 0.1, five at -0.7,
    -0.1, 0.1 and 0.7.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,) or (n_samples, 1)
        Labels.
    y_pred : array-like of shape (n_samples,) or (n_samples, 1)
        Predictions, real numbers.
    dataset : {"mosi", "mosei", "sims"}, default="mosi"
        Whose rules apply. "mosi" and "mosei" have the same.

    Returns
    -------
    scores : :class:`~sklearn.utils.Bunch`
        Floats by name, to be read as ``scores["mae"]`` or ``scores.mae``. Accuracies
        and F1 are shares, not percentages.

        mae : float
            Mean absolute error.
        corr : float
            Pearson correlation; NaN if labels or predictions are constant.
        acc_7 : float
            Accuracy in 7 classes; not for "sims".
        acc_5, acc_3 : float
            Accuracies in 5 and 3 classes.
        acc_2_has0, f1_has0, acc_2_non0, f1_non0 : float
            Accuracy and F1 in two classes by both conventions; not for "sims". Those
            of *non0* are NaN if all labels are 0.
        acc_2, f1 : float
            The same for "sims", which has one convention.

    Raises
    ------
    ValueError
        If lengths differ, values are missing or infinite, there are none, or the data
        set is unknown.

    See Also
    --------
    sentiment_accuracy : One of the accuracies, to make a scorer of.
    sentiment_f1 : One of the F1 scores, likewise.
    sentiment_correlation : The correlation, likewise.

    Notes
    -----
    F1 is the mean of the two classes' F1, weighted by their number of labels.

    These are the rules of the evaluation code of MMSA [1]_, which rounds its results
    to four digits; here nothing is rounded. Its names are ``Mult_acc_7`` for `acc_7`,
    ``Has0_acc_2`` for `acc_2_has0`, ``Non0_F1_score`` for `f1_non0` and so on. Papers
    that report a single Acc-2 and F1 of MOSI mean *non0* for the most part.

    Values are compared with the cuts in their own precision, so that a label -0.1 of
    float32 is at the cut -0.1 as well.

    References
    ----------
    .. [1] H. Mao, Z. Yuan, H. Xu, W. Yu, Y. Liu, K. Gao, "M-SENA: an integrated
       platform for multimodal sentiment analysis", ACL: System Demonstrations, 2022.

    Examples
    --------
    >>> from skmm.metrics import sentiment_scores
    >>> y_true = [-2.0, -0.4, 0.0, 1.2, 3.0]
    >>> y_pred = [-1.2, 0.2, -0.1, 1.4, 2.6]
    >>> scores = sentiment_scores(y_true, y_pred)
    >>> {name: round(value, 3) for name, value in scores.items()}
    {'mae': 0.42, 'corr': 0.986, 'acc_7': 0.8, 'acc_5': 0.8, 'acc_3': 1.0,
     'acc_2_has0': 0.6, 'f1_has0': 0.6, 'acc_2_non0': 0.75, 'f1_non0': 0.733}
    """
    y_true, y_pred = _check_pair(y_true, y_pred, dataset)
    scores = {
        "mae": float(np.mean(np.abs(np.subtract(y_true, y_pred, dtype=np.float64)))),
        "corr": _correlation(y_true, y_pred),
    }
    sims = dataset == "sims"
    for n_classes in (5, 3) if sims else (7, 5, 3):
        codes = (_codes(y, n_classes, dataset) for y in (y_true, y_pred))
        scores[f"acc_{n_classes}"] = _accuracy(*codes)
    for binary, suffix in (
        [("", "")] if sims else [("has0", "_has0"), ("non0", "_non0")]
    ):
        pair = _two_classes(y_true, y_pred, binary, dataset)
        scores[f"acc_2{suffix}"], scores[f"f1{suffix}"] = _accuracy(*pair), _f1(*pair)
    return Bunch(**scores)


def sentiment_accuracy(
    y_true: Any,
    y_pred: Any,
    *,
    n_classes: int = 7,
    binary: str = "non0",
    dataset: str = "mosi",
) -> float:
    """Accuracy of sentiment regression after values are put into classes.

    See :func:`sentiment_scores` for the classes.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,) or (n_samples, 1)
        Labels.
    y_pred : array-like of shape (n_samples,) or (n_samples, 1)
        Predictions, real numbers.
    n_classes : {7, 5, 3, 2}, default=7
        Number of classes; "sims" has no 7.
    binary : {"non0", "has0"}, default="non0"
        With two classes, whether rows of label 0 are left out or count as positive.
        "sims" has one convention, where 0 is negative, and does not read it.
    dataset : {"mosi", "mosei", "sims"}, default="mosi"
        Whose rules apply.

    Returns
    -------
    accuracy : float
        Between 0 and 1; NaN if no row is left, which "non0" allows.

    Raises
    ------
    ValueError
        If lengths differ, values are missing or infinite, there are none, or an option
        is unknown.

    Examples
    --------
    >>> from sklearn.metrics import make_scorer
    >>> from skmm.metrics import sentiment_accuracy
    >>> sentiment_accuracy([-2.0, 0.0, 0.4], [-1.6, 0.7, -0.2], n_classes=7)
    0.6666666666666666
    >>> sentiment_accuracy([-2.0, 0.0, 0.4], [-1.6, 0.7, -0.2], n_classes=2)
    0.5
    >>> scorer = make_scorer(sentiment_accuracy, n_classes=5, dataset="sims")
    """
    y_true, y_pred = _check_pair(y_true, y_pred, dataset)
    offered = (5, 3, 2) if dataset == "sims" else (7, 5, 3, 2)
    if isinstance(n_classes, bool) or n_classes not in offered:
        raise ValueError(
            f"n_classes: expected one of {offered} for {dataset!r}, got {n_classes!r}. "
            "Use a number of classes that the tables of this data set report."
        )
    if n_classes == 2:
        return _accuracy(*_two_classes(y_true, y_pred, binary, dataset))
    codes = (_codes(y, n_classes, dataset) for y in (y_true, y_pred))
    return _accuracy(*codes)


def sentiment_f1(
    y_true: Any, y_pred: Any, *, binary: str = "non0", dataset: str = "mosi"
) -> float:
    """Weighted F1 of sentiment regression in two classes.

    With the F1 of the negative and of the positive class, their mean weighted by the
    number of labels of each. See :func:`sentiment_scores` for the classes.

    Parameters
    ----------
    y_true : array-like of shape (n_samples,) or (n_samples, 1)
        Labels.
    y_pred : array-like of shape (n_samples,) or (n_samples, 1)
        Predictions, real numbers.
    binary : {"non0", "has0"}, default="non0"
        Whether rows of label 0 are left out or count as positive. "sims" has one
        convention, where 0 is negative, and does not read it.
    dataset : {"mosi", "mosei", "sims"}, default="mosi"
        Whose rules apply.

    Returns
    -------
    f1 : float
        Between 0 and 1; NaN if no row is left, which "non0" allows.

    Raises
    ------
    ValueError
        If lengths differ, values are missing or infinite, there are none, or an option
        is unknown.

    Examples
    --------
    >>> from skmm.metrics import sentiment_f1
    >>> round(sentiment_f1([-2.0, -1.0, 0.0, 0.4], [-1.6, 0.7, -0.2, 0.1]), 3)
    0.667
    >>> round(sentiment_f1([-2.0, -1.0, 0.0, 0.4], [-1.6, 0.7, -0.2, 0.1],
    ...                    binary="has0"), 3)
    0.5
    """
    y_true, y_pred = _check_pair(y_true, y_pred, dataset)
    return _f1(*_two_classes(y_true, y_pred, binary, dataset))


def sentiment_correlation(y_true: Any, y_pred: Any, *, dataset: str = "mosi") -> float:
    r"""Pearson correlation of labels and predictions.

    .. math:: \frac{\sum_i (y_i - \bar y)(\hat y_i - \bar{\hat y})}{\sqrt{
        \sum_i (y_i - \bar y)^2 \sum_i (\hat y_i - \bar{\hat y})^2}}

    Parameters
    ----------
    y_true : array-like of shape (n_samples,) or (n_samples, 1)
        Labels.
    y_pred : array-like of shape (n_samples,) or (n_samples, 1)
        Predictions, real numbers.
    dataset : {"mosi", "mosei", "sims"}, default="mosi"
        With "sims" both are clipped to [-1, 1] first.

    Returns
    -------
    correlation : float
        Between -1 and 1. NaN, without a warning, if labels or predictions are
        constant: it is undefined there. A search of parameters ranks NaN last.

    Raises
    ------
    ValueError
        If lengths differ, values are missing or infinite, there are none, or the data
        set is unknown.

    Examples
    --------
    >>> from skmm.metrics import sentiment_correlation
    >>> round(sentiment_correlation([-2.0, 0.0, 1.0], [-1.0, 0.5, 0.5]), 3)
    0.945
    >>> sentiment_correlation([-2.0, 0.0, 1.0], [0.5, 0.5, 0.5])
    nan
    """
    return _correlation(*_check_pair(y_true, y_pred, dataset))


def _check_pair(y_true: Any, y_pred: Any, dataset: Any) -> tuple[Any, Any]:
    """Labels and predictions as float vectors of one length, those of SIMS clipped."""
    _check_option("dataset", dataset, DATASETS)
    pair = []
    for name, values in (("y_true", y_true), ("y_pred", y_pred)):
        values = column_or_1d(values)
        if values.dtype.kind not in "biuf":
            raise ValueError(
                f"{name}: expected real numbers, got the type {values.dtype}. Pass "
                "the regression labels, not names of classes."
            )
        if values.dtype not in (np.float32, np.float64):
            values = values.astype(np.float64)
        assert_all_finite(values, input_name=name)
        pair.append(np.clip(values, -1, 1) if dataset == "sims" else values)
    if len(pair[0]) != len(pair[1]):
        raise ValueError(
            f"y_pred: expected {len(pair[0])} values, one for each of y_true, got "
            f"{len(pair[1])}. Predict the rows that the labels belong to."
        )
    if len(pair[0]) == 0:
        raise ValueError("y_true: expected at least one value, got none. Pass some.")
    return pair[0], pair[1]


def _check_option(name: str, value: Any, options: tuple[str, ...]) -> None:
    if not isinstance(value, str) or value not in options:
        raise ValueError(
            f"{name}: expected one of {options}, got {value!r}. Choose one of these."
        )


def _codes(y: np.ndarray, n_classes: int, dataset: str) -> np.ndarray:
    """The class of each value."""
    if dataset == "sims":
        # The cuts in the values' precision: 0.1 of float32 is above 0.1 of float64.
        return np.searchsorted(np.asarray(CUTS[n_classes], dtype=y.dtype), y)
    limit = LIMITS[n_classes]
    return np.round(np.clip(y, -limit, limit))


def _two_classes(
    y_true: np.ndarray, y_pred: np.ndarray, binary: str, dataset: str
) -> tuple[np.ndarray, np.ndarray]:
    """Whether labels and predictions are positive, of the rows that count."""
    if dataset == "sims":
        return y_true > 0, y_pred > 0
    _check_option("binary", binary, BINARIES)
    if binary == "has0":
        return y_true >= 0, y_pred >= 0
    counted = y_true != 0
    return y_true[counted] > 0, y_pred[counted] > 0


def _accuracy(true: np.ndarray, predicted: np.ndarray) -> float:
    return float(np.mean(true == predicted)) if len(true) else float("nan")


def _f1(true: np.ndarray, predicted: np.ndarray) -> float:
    if not len(true):
        return float("nan")
    return float(f1_score(true, predicted, average="weighted", zero_division=0.0))


def _correlation(y_true: np.ndarray, y_pred: np.ndarray) -> float:
    directions = []
    for y in (y_true.astype(np.float64), y_pred.astype(np.float64)):
        # Not by the deviation: the mean of equal numbers need not be that number.
        if y.min() == y.max():
            return float("nan")
        y = y / np.abs(y).max()
        y = y - y.mean()
        directions.append(y / np.linalg.norm(y))
    return float(np.clip(directions[0] @ directions[1], -1, 1))
