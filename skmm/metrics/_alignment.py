"""How far apart the embeddings of two modalities are, as clouds of points."""

from collections.abc import Iterator, Sequence
from numbers import Real
from typing import Any

import numpy as np
from scipy.spatial.distance import cdist

# Twice the automatic bandwidths, as multiples of the mean squared distance.
MULTIPLES = (0.25, 0.5, 1.0, 2.0, 4.0)

# Two million cells are 16 MiB of float64.
CHUNK_CELLS = 2**21


def mmd(
    X: Any,
    Y: Any,
    *,
    bandwidths: float | Sequence[float] | str = "auto",
    unbiased: bool = False,
) -> float:
    r"""Squared maximum mean discrepancy between two samples.

    .. math:: \mathrm{MMD}^2 = \frac1{n^2} \sum_{i, i'} k(x_i, x_{i'})
        + \frac1{m^2} \sum_{j, j'} k(y_j, y_{j'})
        - \frac2{nm} \sum_{i, j} k(x_i, y_j)

    with the mean of B Gaussian kernels

    .. math:: k(x, y) = \frac1B \sum_b \exp(-\lVert x - y \rVert^2 / 2b).

    Parameters
    ----------
    X : array-like of shape (n, n_features)
        One sample, such as the embedding of one modality.
    Y : array-like of shape (m, n_features)
        Another one. Rows are not paired.
    bandwidths : float, sequence of float or "auto", default="auto"
        The b of each kernel, in units of squared distance: the variance of a Gaussian.
        "auto" makes 2b :math:`s 2^q` for q = -2, ..., 2, where s is the mean squared
        distance over all pairs of rows of both samples together.
    unbiased : bool, default=False
        Leave out the terms of a row with itself, and divide by n (n - 1) and
        m (m - 1). The result has the mean of the population's value, and may be
        negative.

    Returns
    -------
    mmd : float
        The square, as losses use it. Without `unbiased` between 0 and 2, and 0 for
        equal samples.

    Raises
    ------
    ValueError
        If samples differ in width, are empty (with `unbiased`: have a single row), have
        missing or infinite values, or bandwidths are not positive.

    See Also
    --------
    modality_gap : Distance of the means alone.

    Notes
    -----
    The kernels are averaged. Some code sums them, which gives B times this value. With
    "auto" the value does not change when both samples are moved, turned or scaled
    together, and does not vanish where rows are far apart, as that of one fixed
    bandwidth does; it depends on both samples through s.

    Takes O((n + m)^2 n_features B) time, and memory for some 2 million distances at
    once.

    References
    ----------
    .. [1] A. Gretton, K. M. Borgwardt, M. J. Rasch, B. Schölkopf, A. Smola, "A kernel
       two-sample test", Journal of Machine Learning Research 13, 723-773, 2012.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm.metrics import mmd
    >>> X = np.random.default_rng(0).normal(size=(100, 4))
    >>> mmd(X, X)
    0.0
    >>> mmd(X, X + 0.5) < mmd(X, X + 1)
    True
    """
    X, Y = _check_two(X, Y, at_least=2 if unbiased else 1)
    widths = _check_bandwidths(bandwidths, X, Y)
    if widths is None:
        return 0.0
    within = _mean_kernel(X, X, widths, unbiased) + _mean_kernel(Y, Y, widths, unbiased)
    value = within - 2 * _mean_kernel(X, Y, widths, False)
    # The biased form is a squared norm, below 0 by rounding only.
    return float(value if unbiased else max(value, 0.0))


def modality_gap(X: Any, Y: Any, *, normalize: bool = True) -> float:
    r"""Distance between the centres of two modalities' embeddings.

    .. math:: \Big\lVert \frac1n \sum_i \frac{x_i}{\lVert x_i \rVert}
        - \frac1m \sum_j \frac{y_j}{\lVert y_j \rVert} \Big\rVert

    Parameters
    ----------
    X : array-like of shape (n, n_features)
        Embedding of one modality.
    Y : array-like of shape (m, n_features)
        Embedding of the other, in the same space. Rows are not paired.
    normalize : bool, default=True
        Put rows on the unit sphere first, as in the formula; else take their means as
        they are.

    Returns
    -------
    gap : float
        Between 0 and 2 with `normalize`, else at least 0.

    Raises
    ------
    ValueError
        If embeddings differ in width, are empty, have missing or infinite values, or,
        with `normalize`, rows of zeros.

    See Also
    --------
    mmd : Compares the whole distributions.

    Notes
    -----
    A gap of 0 does not say that pairs are close: shuffled rows have the same gap. See
    :func:`recall_at_k` for pairs.

    References
    ----------
    .. [1] V. W. Liang, Y. Zhang, Y. Kwon, S. Yeung, J. Zou, "Mind the gap:
       understanding the modality gap in multi-modal contrastive representation
       learning", NeurIPS, 2022.

    Examples
    --------
    >>> from skmm.metrics import modality_gap
    >>> image = [[1.0, 0.0], [3.0, 0.0]]
    >>> text = [[0.0, 2.0], [0.0, 1.0]]
    >>> round(modality_gap(image, text), 3)
    1.414
    >>> round(modality_gap(image, text, normalize=False), 3)
    2.5
    """
    X, Y = _check_two(X, Y)
    if normalize:
        X = unit_rows(X, "X", "Use normalize=False, or leave these rows out.")
        Y = unit_rows(Y, "Y", "Use normalize=False, or leave these rows out.")
    return float(np.linalg.norm(X.mean(axis=0) - Y.mean(axis=0)))


def check_embedding(values: Any, name: str, *, at_least: int = 1) -> np.ndarray:
    """Return the embedding as float64, if it is a finite table of enough rows."""
    values = np.asarray(values)
    if values.dtype.kind not in "biuf" or values.ndim != 2 or values.shape[1] == 0:
        raise ValueError(
            f"{name}: expected numbers of shape (n_samples, n_features), got the type "
            f"{values.dtype} and shape {values.shape}. Pass one row a sample."
        )
    if len(values) < at_least:
        rows = "row" if at_least == 1 else "rows"
        raise ValueError(
            f"{name}: expected at least {at_least} {rows}, got {len(values)}. Pass "
            "more."
        )
    values = values.astype(np.float64)
    bad = np.flatnonzero(~np.isfinite(values).all(axis=1))
    if len(bad):
        raise ValueError(
            f"{name}: expected finite values, got NaN or infinity in {list_rows(bad)}. "
            "Leave out the rows that lack this modality, on both sides where rows are "
            "paired."
        )
    return values


def list_rows(rows: np.ndarray) -> str:
    """Name the first of some rows."""
    shown = ", ".join(str(row) for row in rows[:5])
    if len(rows) == 1:
        return f"row {shown}"
    return f"rows {shown}{', ...' * (len(rows) > 5)} ({len(rows)} in all)"


def unit_rows(values: np.ndarray, name: str, remedy: str) -> np.ndarray:
    """Scale rows to length one; a row of zeros has no direction, and raises."""
    largest = np.abs(values).max(axis=1, keepdims=True)
    if not largest.all():
        raise ValueError(
            f"{name}: expected rows that have a direction, got only zeros in "
            f"{list_rows(np.flatnonzero(largest == 0))}. {remedy}"
        )
    # First by the largest entry: squares of tiny or huge numbers leave float64.
    values = values / largest
    return values / np.linalg.norm(values, axis=1, keepdims=True)


def chunks(n_rows: int, n_columns: int) -> Iterator[slice]:
    """Slices of rows such that one has some two million cells."""
    step = max(1, CHUNK_CELLS // max(1, n_columns))
    for start in range(0, n_rows, step):
        yield slice(start, min(start + step, n_rows))


def _check_two(X: Any, Y: Any, *, at_least: int = 1) -> tuple[np.ndarray, np.ndarray]:
    X, Y = (
        check_embedding(Z, name, at_least=at_least) for Z, name in ((X, "X"), (Y, "Y"))
    )
    if X.shape[1] != Y.shape[1]:
        raise ValueError(
            f"Y: expected {X.shape[1]} columns, as X has, got {Y.shape[1]}. Compare "
            "embeddings in one space."
        )
    return X, Y


def _check_bandwidths(
    bandwidths: Any, X: np.ndarray, Y: np.ndarray
) -> np.ndarray | None:
    """2b of each kernel; None if they are automatic and all rows are equal."""
    if isinstance(bandwidths, str) and bandwidths == "auto":
        pooled = np.vstack([X, Y])
        if (pooled == pooled[0]).all():
            return None
        # The mean over all pairs is twice the total variance.
        mean_distance = 2 * pooled.var(axis=0).sum()
        return mean_distance * np.array(MULTIPLES)
    given = [bandwidths] if isinstance(bandwidths, Real | str) else list(bandwidths)
    good = [
        isinstance(b, Real) and not isinstance(b, bool) and 0 < b < np.inf
        for b in given
    ]
    if not good or not all(good):
        raise ValueError(
            "bandwidths: expected 'auto' or one or more positive numbers, got "
            f"{bandwidths!r}. They are in units of squared distance."
        )
    return 2 * np.asarray(given, dtype=np.float64)


def _mean_kernel(
    X: np.ndarray, Y: np.ndarray, widths: np.ndarray, off_diagonal: bool
) -> float:
    """Mean of the kernel over all pairs, or over those of different rows of X = Y."""
    total = 0.0
    for rows in chunks(len(X), len(Y)):
        # Not by the products: differences are exact for equal rows in any order.
        distances = cdist(X[rows], Y, "sqeuclidean")
        for width in widths:
            total += np.exp(distances / -width).sum()
    total /= len(widths)
    if off_diagonal:
        return (total - len(X)) / (len(X) * (len(X) - 1))
    return total / (len(X) * len(Y))
