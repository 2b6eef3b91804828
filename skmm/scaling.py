"""Standardise the blocks of X on what is observed, and fill what is not.

A column with values x_i, weights w_i and W = sum w_i over its observed cells has

    mean = sum w_i x_i / W,    M2 = sum w_i (x_i - mean)^2,    scale = sqrt(M2 / W).

Statistics are gathered in float64 over chunks of rows and merged pairwise (Chan, Golub
and LeVeque), so that X is read once and never copied whole.
"""

# License: BSD-3-Clause

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from .modalities import Block, Layout, row_chunks

__all__ = ["BlockScaler"]

Floats = NDArray[np.float64]

# Values of one column that went through some arithmetic differ by tens of units in the
# last place; a spread below this share of the mean is rounding, not information.
ROUNDING = 100 * np.finfo(np.float64).eps


@dataclass(frozen=True, eq=False)
class BlockScaler:
    """Centres and scales, one array of shape (size,) and type float64 a block.

    A new value x becomes (x - center) / scale, and a missing one
    (mean - center) / scale.

    Parameters
    ----------
    mean : tuple of ndarray of shape (size,)
        Weighted mean of the observed cells of each column, or of each of the D
        variables of a sequence; 0 where none was observed.
    center : tuple of ndarray of shape (size,)
        What is subtracted: the mean, or 0 for a block with no scaling.
    scale : tuple of ndarray of shape (size,)
        What is divided by: with scaling "column" the weighted standard deviation
        (divisor W, not W - 1) of each column or variable, with "block" the root mean
        square of all centred cells, with None 1. Where the values are constant up to
        rounding, and for a column that was never observed, 1.

    Examples
    --------
    >>> import numpy as np
    >>> from skmm.modalities import resolve_modalities
    >>> X = np.array([[0.0, 10.0], [2.0, np.nan], [4.0, 30.0]])
    >>> scaler = BlockScaler.fit(X, resolve_modalities(None, X))
    >>> scaler.apply(0, X).round(2)
    array([[-1.22, -1.  ],
           [ 0.  ,  0.  ],
           [ 1.22,  1.  ]])
    """

    mean: tuple[Floats, ...]
    center: tuple[Floats, ...]
    scale: tuple[Floats, ...]

    @classmethod
    def fit(
        cls,
        X: NDArray[Any],
        layout: Layout,
        sample_weight: NDArray[Any] | None = None,
    ) -> "BlockScaler":
        """Gather the statistics of all blocks in one pass over X.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Validated data without infinities; NaN is left out.
        layout : Layout
            Modalities and their scaling.
        sample_weight : ndarray of shape (n_samples,), default=None
            Weights. An integer weight equals repeating the row, zero equals leaving it
            out. All equal by default.

        Returns
        -------
        scaler : BlockScaler
            Fitted scaler.
        """
        weight = np.ones(len(X)) if sample_weight is None else sample_weight
        weight = np.asarray(weight, dtype=np.float64)
        moments = [_Moments(block.size) for block in layout]
        for rows in row_chunks(*X.shape):
            for block, gathered in zip(layout, moments, strict=True):
                gathered.update(X[rows, block.columns], weight[rows])
        parts = [
            _center_and_scale(block, gathered)
            for block, gathered in zip(layout, moments, strict=True)
        ]
        mean, center, scale = zip(*parts, strict=True)
        return cls(mean, center, scale)

    def apply(
        self, m: int, values: NDArray[Any], dtype: DTypeLike | None = None
    ) -> NDArray[Any]:
        """Standardise the values of one block and fill its missing cells.

        Parameters
        ----------
        m : int
            Position of the block in the layout.
        values : ndarray of shape (n_samples, size)
            Values of the block; NaN where missing.
        dtype : dtype, default=None
            Type of the result; that of `values` by default.

        Returns
        -------
        scaled : ndarray of shape (n_samples, size)
            A new array without NaN. Missing cells hold the scaled training mean.
        """
        center, scale = self.center[m], self.scale[m]
        fill = (self.mean[m] - center) / scale
        scaled = np.empty(values.shape, dtype=values.dtype if dtype is None else dtype)
        for rows in row_chunks(*values.shape):
            # In float64: a float32 mean of 1e5 would take the digits of a spread of 1.
            chunk = values[rows] - center
            chunk /= scale
            np.copyto(chunk, fill, where=np.isnan(chunk))
            scaled[rows] = chunk
        return scaled

    def inverse(self, m: int, values: NDArray[Any]) -> NDArray[Any]:
        """Take standardised values of one block back to the units of X.

        Parameters
        ----------
        m : int
            Position of the block in the layout.
        values : ndarray of shape (n_samples, size)
            Standardised values.

        Returns
        -------
        original : ndarray of shape (n_samples, size)
            A new array of the type of `values`.
        """
        original = np.empty_like(values)
        for rows in row_chunks(*values.shape):
            original[rows] = values[rows] * self.scale[m] + self.center[m]
        return original


class _Moments:
    """Weight, mean and sum of squared deviations M2 of each column, chunk by chunk.

    Values are taken relative to a pivot, the first value that counts. A constant column
    then has a mean deviation and an M2 of exactly 0, whatever its size.
    """

    def __init__(self, size: int) -> None:
        self.weight = np.zeros(size)
        self.pivot = np.full(size, np.nan)
        self.deviation = np.zeros(size)
        self.m2 = np.zeros(size)

    @property
    def mean(self) -> Floats:
        return np.where(self.weight > 0, self.pivot + self.deviation, 0.0)

    def update(self, values: NDArray[Any], weight: Floats) -> None:
        """Merge a chunk of shape (n, size) with weights of shape (n,)."""
        seen = ~np.isnan(values) & (weight > 0)[:, np.newaxis]
        self._set_pivots(values, seen)
        new = weight @ seen
        # The pivot is float64, and so is everything from here on.
        deviations = np.where(seen, values - self.pivot, 0.0)
        mean = weight @ deviations / np.where(new > 0, new, 1.0)
        deviations -= mean
        deviations *= seen
        deviations *= deviations
        self._merge(new, mean, weight @ deviations)

    def _set_pivots(self, values: NDArray[Any], seen: NDArray[np.bool_]) -> None:
        columns = np.flatnonzero(np.isnan(self.pivot))
        columns = columns[seen[:, columns].any(axis=0)]
        first = seen[:, columns].argmax(axis=0)
        self.pivot[columns] = values[first, columns]

    def _merge(self, weight: Floats, mean: Floats, m2: Floats) -> None:
        total = self.weight + weight
        share = weight / np.where(total > 0, total, 1.0)
        difference = mean - self.deviation
        self.m2 += m2 + difference**2 * self.weight * share
        self.deviation += difference * share
        self.weight = total


def _center_and_scale(block: Block, moments: _Moments) -> tuple[Floats, Floats, Floats]:
    weight, mean, m2 = moments.weight, moments.mean, moments.m2
    if block.is_sequence:
        weight, mean, m2 = (
            np.tile(part, block.shape[0])
            for part in _pool_time_steps(block, weight, mean, m2)
        )
    ones = np.ones(block.size)
    if block.scaling is None:
        return mean, np.zeros(block.size), ones
    if block.scaling == "block":
        # One number: the sums run over all cells.
        scale = _scale(weight.sum(), weight @ mean**2, m2.sum()) * ones
    else:
        scale = _scale(weight, weight * mean**2, m2)
    return mean, mean, np.where(weight > 0, scale, 1.0)


def _pool_time_steps(
    block: Block, weight: Floats, mean: Floats, m2: Floats
) -> tuple[Floats, Floats, Floats]:
    """Merge the T time steps of each variable: (T * D,) -> (D,)."""
    weight, mean, m2 = (part.reshape(block.shape) for part in (weight, mean, m2))
    total = weight.sum(axis=0)
    pooled = (weight * mean).sum(axis=0) / np.where(total > 0, total, 1.0)
    between = weight * (mean - pooled) ** 2
    return total, pooled, (m2 + between).sum(axis=0)


def _scale(weight: Any, square: Any, m2: Any) -> Any:
    """Root of M2 / W, or 1 where it is at rounding level of the root mean square."""
    constant = m2 <= ROUNDING**2 * square
    return np.sqrt(np.where(constant, 1.0, m2 / np.where(constant, 1.0, weight)))
