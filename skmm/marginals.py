"""Gaussian scores of columns: the marginal half of the nonparanormal model.

A column with values x_i and weights w_i over its observed cells, W = sum w_i, gives a
new value x the mid-rank

    r = clip((lo + hi + 1) / 2, 1, W),   lo = sum of w_i with x_i < x,
                                         hi = sum of w_i with x_i <= x

and the score Phi^-1(F), divided by its standard deviation over the training cells, with

    "shrinkage"   F = r / (W + 1)
    "truncation"  F = clip(r / W, d, 1 - d),  d = 1 / (4 W^(1/4) sqrt(pi log W))

(Liu, Lafferty and Wasserman, 2009; the shrinkage form is that of the R package huge).
None standardises: centred and divided by the standard deviation. An integer weight is
the same as so many rows.
"""

# License: BSD-3-Clause

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri
from scipy.stats import rankdata

__all__ = ["GaussianScores", "rank_correlation"]

Floats = NDArray[np.float64]

# A spread below this share of the values' size is rounding, as in `skmm.scaling`.
ROUNDING = 100 * np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class GaussianScores:
    """Marginal transforms of p columns, fitted.

    Parameters
    ----------
    variant : {"shrinkage", "truncation"} or None
        How ranks become scores; None standardises.
    values, cumulative : ndarray
        Distinct training values of all columns, one column after the other, and the
        weight of those up to each; empty for None.
    offsets : ndarray of shape (p + 1,)
        Where each column begins.
    center, scale : ndarray of shape (p,)
        What is subtracted from, and divided out of, the unscaled scores; the divisor of
        a constant column is 1.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm.marginals import GaussianScores
    >>> X = np.array([[1.0], [10.0], [100.0]])
    >>> GaussianScores.fit(X).transform(X).round(3).ravel()
    array([-1.225,  0.   ,  1.225])
    """

    variant: str | None
    values: Floats
    cumulative: Floats
    offsets: NDArray[np.intp]
    center: Floats
    scale: Floats

    @classmethod
    def fit(
        cls,
        X: NDArray[Any],
        weight: Floats | None = None,
        variant: str | None = "shrinkage",
    ) -> "GaussianScores":
        """Learn the marginals of the observed cells.

        Parameters
        ----------
        X : ndarray of shape (n, p)
            NaN where a cell is missing.
        weight : ndarray of shape (n,), default=None
            Row weights, all one by default.
        variant : {"shrinkage", "truncation"} or None, default="shrinkage"
            See the module.

        Returns
        -------
        GaussianScores
            The transforms.
        """
        n, p = X.shape
        weight = np.ones(n) if weight is None else np.asarray(weight, np.float64)
        values, cumulative, offsets = [], [], [0]
        center, scale = np.zeros(p), np.ones(p)
        for j in range(p):
            column = np.asarray(X[:, j], dtype=np.float64)
            seen = ~np.isnan(column) & (weight > 0)
            column, w = column[seen], weight[seen]
            offsets.append(offsets[-1])
            if variant is not None and len(column):
                distinct, inverse = np.unique(column, return_inverse=True)
                values.append(distinct)
                cumulative.append(np.bincount(inverse, w).cumsum())
                offsets[-1] += len(distinct)
                column = _rank_scores(column, distinct, cumulative[-1], variant)
            if len(column) == 0:
                continue
            mean = np.average(column, weights=w)
            spread = math.sqrt(np.average((column - mean) ** 2, weights=w))
            # Ranks are symmetric: their mean is that of a Gaussian already.
            center[j] = 0.0 if variant else mean
            if spread > ROUNDING * max(abs(mean), 1e-300):
                scale[j] = spread
        empty = np.zeros(0)
        return cls(
            variant,
            np.concatenate([empty, *values]),
            np.concatenate([empty, *cumulative]),
            np.array(offsets),
            center,
            scale,
        )

    def transform(self, X: NDArray[Any]) -> Floats:
        """Scores of rows; NaN where X is.

        Parameters
        ----------
        X : ndarray of shape (n, p)
            New rows.

        Returns
        -------
        ndarray of shape (n, p)
            Scores in float64.
        """
        if self.variant is None:
            return (np.asarray(X, np.float64) - self.center) / self.scale
        out = np.full(X.shape, np.nan)
        for j in range(X.shape[1]):
            part = slice(self.offsets[j], self.offsets[j + 1])
            column = np.asarray(X[:, j], dtype=np.float64)
            seen = ~np.isnan(column)
            scores = _rank_scores(
                column[seen], self.values[part], self.cumulative[part], self.variant
            )
            out[seen, j] = scores / self.scale[j]
        return out

    def inverse_transform(self, Z: NDArray[Any]) -> Floats:
        """Values with these scores, interpolated between the training values.

        Beyond the largest and smallest training value the nearest of them is returned,
        since ranks say nothing there.

        Parameters
        ----------
        Z : ndarray of shape (n, p)
            Scores; NaN stays.

        Returns
        -------
        ndarray of shape (n, p)
            Values in the units of X.
        """
        Z = np.asarray(Z, np.float64)
        if self.variant is None:
            return Z * self.scale + self.center
        out = np.full(Z.shape, np.nan)
        for j in range(Z.shape[1]):
            part = slice(self.offsets[j], self.offsets[j + 1])
            distinct, cumulative = self.values[part], self.cumulative[part]
            if len(distinct):
                knots = _rank_scores(distinct, distinct, cumulative, self.variant)
                out[:, j] = np.interp(Z[:, j], knots / self.scale[j], distinct)
        return np.where(np.isnan(Z), np.nan, out)


def _rank_scores(
    x: Floats, distinct: Floats, cumulative: Floats, variant: str
) -> Floats:
    """Unscaled scores of values of one column."""
    if len(distinct) == 0:
        return np.zeros_like(x)
    total = cumulative[-1]
    before = np.concatenate([[0.0], cumulative])
    low = before[np.searchsorted(distinct, x, side="left")]
    high = before[np.searchsorted(distinct, x, side="right")]
    middle = (total + 1) / 2
    rank = np.clip((low + high + 1) / 2, min(1.0, middle), max(total, middle))
    if variant == "shrinkage":
        return ndtri(rank / (total + 1))
    if total < 2:  # log(1) = 0: no quantile can be told
        return np.zeros_like(x)
    margin = 1 / (4 * total**0.25 * math.sqrt(math.pi * math.log(total)))
    margin = min(margin, 0.5)
    return ndtri(np.clip(rank / total, margin, 1 - margin))


def rank_correlation(X: NDArray[Any], weight: Floats | None = None) -> Floats:
    """The skeptic estimate of a correlation matrix from Spearman's rank correlations.

    ``2 sin(pi / 6 * spearman)`` entrywise (Liu et al., 2012), over the rows in which
    both columns are observed, ranks taken among each column's observed cells. It need
    not be positive definite.

    Parameters
    ----------
    X : ndarray of shape (n, p)
        NaN where a cell is missing.
    weight : ndarray of shape (n,), default=None
        Row weights, all one by default.

    Returns
    -------
    ndarray of shape (p, p)
        Zero for pairs that no row has, and for constant columns; the diagonal is 1.
    """
    n, p = X.shape
    weight = np.ones(n) if weight is None else np.asarray(weight, np.float64)
    centred = np.zeros((n, p))
    seen = ~np.isnan(X)
    for j in range(p):
        rows = np.flatnonzero(seen[:, j] & (weight > 0))
        if len(rows) == 0:
            continue
        ranks = _weighted_ranks(X[rows, j], weight[rows])
        centred[rows, j] = ranks - np.average(ranks, weights=weight[rows])
    # Each pair's own means and spreads, over the rows that have both.
    mask = seen * weight[:, None]
    total = np.maximum(mask.T @ seen, 1e-300)
    mean = (centred.T @ mask) / total
    product = (centred * weight[:, None]).T @ centred - total * mean * mean.T
    square = (centred**2).T @ mask - total * mean**2
    square[square <= ROUNDING * ((centred**2).T @ mask)] = 0
    norm = np.sqrt(square * square.T)
    spearman = np.divide(product, norm, out=np.zeros((p, p)), where=norm > 0)
    out = 2 * np.sin(np.pi / 6 * np.clip(spearman, -1, 1))
    np.fill_diagonal(out, 1.0)
    return out


def _weighted_ranks(x: Floats, weight: Floats) -> Floats:
    if (weight == 1).all():
        return rankdata(x)
    _, inverse = np.unique(x, return_inverse=True)
    cumulative = np.concatenate([[0.0], np.bincount(inverse, weight).cumsum()])
    return (cumulative[inverse] + cumulative[inverse + 1] + 1) / 2
