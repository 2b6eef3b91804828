r"""Working coordinates of the blocks: scaled, and projected on principal components.

A block of d scaled columns with covariance C keeps its q leading eigenvectors V, with
eigenvalues :math:`\lambda`; its coordinates are :math:`z = V^T x`. What is left has the
variance :math:`\sigma^2`, the mean of the other eigenvalues: probabilistic principal
components (Tipping and Bishop, 1999). Unobserved cells u of a row are filled by their
expectation given the observed ones o in that model,

.. math:: E[x_u | x_o] = V_u (\Lambda^{-1} + V_o^T V_o / \sigma^2)^{-1}
          V_o^T x_o / \sigma^2,

before the row is projected. A block of at most q columns is scaled only, and its
unobserved cells stay unobserved.
"""

# License: BSD-3-Clause

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .modalities import Layout, row_chunks
from .scaling import BlockScaler

__all__ = ["BlockProjection"]

Floats = NDArray[np.float64]

# Eigenvalues below this share of the largest are rounding.
RANK = 1e-10
# Columns from which on the covariance of a block is never formed: its leading axes come
# from passes over the rows, of these more than are asked for.
WIDE = 2000
PASSES = 8
EXTRA_AXES = 10


@dataclass(frozen=True, eq=False)
class Axes:
    """Principal components of one block.

    Parameters
    ----------
    vectors : ndarray of shape (d, q)
    values : ndarray of shape (q,)
        Variances of the coordinates.
    rest : float
        Variance of each direction that is left out.
    """

    vectors: Floats
    values: Floats
    rest: float

    def filled(self, x: Floats, cells: NDArray[np.bool_]) -> Floats:
        """Scaled rows with unobserved cells at their conditional expectation."""
        some = np.flatnonzero(~cells.all(axis=1))
        if not len(some):
            return x
        x = x.copy()
        rest = max(self.rest, RANK * float(self.values[0]))
        v, q = self.vectors, len(self.values)
        pairs = (v[:, :, np.newaxis] * v[:, np.newaxis, :]).reshape(len(v), q * q)
        for rows in row_chunks(len(some), q * q):
            at = some[rows]
            o = cells[at].astype(np.float64)
            inner = (o @ pairs).reshape(-1, q, q) / rest + np.diag(1 / self.values)
            right = (np.where(cells[at], x[at], 0.0) @ v) / rest
            latent = np.linalg.solve(inner, right[:, :, np.newaxis])[:, :, 0]
            x[at] = np.where(cells[at], x[at], latent @ v.T)
        return x


@dataclass(frozen=True, eq=False)
class BlockProjection:
    """Scaling and axes of each block.

    Parameters
    ----------
    scaler : BlockScaler
    axes : tuple of (Axes or None)
        None for a block that is scaled only.
    spread : tuple of ndarray of shape (q, q) or (q,)
        Covariance of the coordinates, or their variances.
    """

    scaler: BlockScaler
    axes: tuple[Axes | None, ...]
    spread: tuple[Floats, ...]

    @classmethod
    def fit(
        cls,
        X: NDArray[Any],
        layout: Layout,
        n_components: int | None,
        sample_weight: NDArray[Any] | None = None,
        *,
        diagonal: bool = False,
    ) -> "BlockProjection":
        """Gather what is needed in passes over X, without copying it.

        Parameters
        ----------
        X : ndarray of shape (n_samples, n_features)
            Validated data without infinities; NaN is left out.
        layout : Layout
        n_components : int or None
            Most axes of a block; None projects nothing.
        sample_weight : ndarray of shape (n_samples,), default=None
            Weights.
        diagonal : bool, default=False
            Whether variances of the coordinates are enough.
        """
        scaler = BlockScaler.fit(X, layout, sample_weight)
        axes: list[Axes | None] = []
        spread: list[Floats] = []
        for m, block in enumerate(layout):
            if n_components is not None and block.size > n_components:
                arguments = X, block.columns, scaler, m, sample_weight
                if block.size > WIDE:
                    own = _axes_by_passes(*arguments, n_components)
                else:
                    own = _axes(_covariance(*arguments), n_components)
                axes.append(own)
                spread.append(own.values if diagonal else np.diag(own.values))
                continue
            axes.append(None)
            if diagonal:
                spread.append(_variances(X, block.columns, scaler, m, sample_weight))
            else:
                covariance = _covariance(X, block.columns, scaler, m, sample_weight)
                spread.append(_without_negative(covariance))
        return cls(scaler, tuple(axes), tuple(spread))

    def size(self, m: int) -> int:
        """Number of coordinates of one block."""
        axes = self.axes[m]
        return len(self.scaler.center[m]) if axes is None else len(axes.values)

    def apply(self, m: int, values: NDArray[Any]) -> tuple[Floats, NDArray[np.bool_]]:
        """Coordinates of one block, and which are observed.

        Parameters
        ----------
        m : int
            Position of the block in the layout.
        values : ndarray of shape (n_samples, d)
            NaN where missing.

        Returns
        -------
        z : ndarray of shape (n_samples, q)
            Zero where not observed.
        cells : bool ndarray of shape (n_samples, q)
            All or none of a row where the block is projected.
        """
        cells = ~np.isnan(values)
        x = (values - self._shift(m)) / self.scaler.scale[m]
        np.copyto(x, 0.0, where=~cells)
        axes = self.axes[m]
        if axes is None:
            return x, cells
        seen = cells.any(axis=1)
        z = axes.filled(x, cells | ~seen[:, np.newaxis]) @ axes.vectors
        return z, np.repeat(seen[:, np.newaxis], len(axes.values), axis=1)

    def inverse(self, m: int, z: Floats) -> Floats:
        """Take coordinates of one block back to the units of X."""
        axes = self.axes[m]
        x = z if axes is None else z @ axes.vectors.T
        return np.asarray(x * self.scaler.scale[m] + self._shift(m))

    def fill(self, m: int, values: NDArray[Any]) -> Floats:
        """Values of a projected block with cells filled from the others of the row."""
        axes = self.axes[m]
        cells = ~np.isnan(values)
        if axes is None or not (cells.any(axis=1) & ~cells.all(axis=1)).any():
            return np.asarray(values, dtype=np.float64)
        x = (values - self._shift(m)) / self.scaler.scale[m]
        seen = cells.any(axis=1)[:, np.newaxis]
        x = axes.filled(np.where(cells, x, 0.0), cells | ~seen)
        return np.where(seen, x * self.scaler.scale[m] + self._shift(m), np.nan)

    def noise(self, m: int, z: Floats, rng: np.random.RandomState) -> Floats:
        """Coordinates taken back to X, plus noise in the directions left out."""
        axes = self.axes[m]
        if axes is None:
            return self.inverse(m, z)
        noise = rng.standard_normal((len(z), len(axes.vectors))) * np.sqrt(axes.rest)
        noise -= (noise @ axes.vectors) @ axes.vectors.T
        x = z @ axes.vectors.T + noise
        return np.asarray(x * self.scaler.scale[m] + self._shift(m))

    def forward_moments(
        self, m: int, mean: Floats | None, covariance: Floats | None
    ) -> tuple[Floats | None, Floats | None]:
        """A mean and a covariance (or variances) in X's units, in coordinates."""
        scale = self.scaler.scale[m]
        axes = self.axes[m]
        if mean is not None:
            mean = (mean - self._shift(m)) / scale
            mean = mean if axes is None else mean @ axes.vectors
        if covariance is not None:
            if covariance.ndim == 1:
                covariance = covariance / scale**2
                if axes is not None:
                    covariance = covariance @ axes.vectors**2
            else:
                covariance = covariance / scale / scale[:, np.newaxis]
                if axes is not None:
                    covariance = axes.vectors.T @ covariance @ axes.vectors
        return mean, covariance

    def backward_covariance(self, m: int, covariance: Floats) -> Floats:
        """Covariances or variances of a block that is scaled only, in X's units.

        Those of a projected block are returned as they are.
        """
        if self.axes[m] is not None:
            return covariance
        scale = self.scaler.scale[m]
        if self.spread[m].ndim == 1:
            return covariance * scale**2
        return covariance * scale * scale[:, np.newaxis]

    def log_scale(self, m: int, cells: NDArray[np.bool_]) -> Floats:
        """Log-volume that scaling took from each row's observed cells.

        Zero for a projected block, whose density is that of its coordinates.
        """
        if self.axes[m] is not None:
            return np.zeros(len(cells))
        return np.asarray(cells @ np.log(self.scaler.scale[m]))

    def _shift(self, m: int) -> Floats:
        # The mean, also of a block without scaling: sums are then about zero.
        return self.scaler.mean[m]


def _covariance(
    X: NDArray[Any],
    columns: Any,
    scaler: BlockScaler,
    m: int,
    sample_weight: NDArray[Any] | None,
) -> Floats:
    """Second moments of the scaled cells of a block, pair by pair."""
    size = len(scaler.center[m])
    total, products = np.zeros((size, size)), np.zeros((size, size))
    for rows in row_chunks(len(X), size):
        values = X[rows, columns]
        cells = ~np.isnan(values)
        x = (values - scaler.mean[m]) / scaler.scale[m]
        np.copyto(x, 0.0, where=~cells)
        left = x
        seen = cells.astype(np.float64)
        counted = seen
        if sample_weight is not None:
            weight = np.asarray(sample_weight[rows], dtype=np.float64)[:, np.newaxis]
            left, counted = x * weight, seen * weight
        products += left.T @ x
        total += counted.T @ seen
    return np.asarray(products / np.where(total > 0, total, 1.0))


def _variances(
    X: NDArray[Any],
    columns: Any,
    scaler: BlockScaler,
    m: int,
    sample_weight: NDArray[Any] | None,
) -> Floats:
    """The diagonal of `_covariance`."""
    size = len(scaler.center[m])
    total, squares = np.zeros(size), np.zeros(size)
    for rows in row_chunks(len(X), size):
        x = (X[rows, columns] - scaler.mean[m]) / scaler.scale[m]
        weight = np.ones(len(x))
        if sample_weight is not None:
            weight = np.asarray(sample_weight[rows], dtype=np.float64)
        total += weight @ ~np.isnan(x)
        squares += weight @ np.nan_to_num(x) ** 2
    return np.asarray(squares / np.where(total > 0, total, 1.0))


def _without_negative(covariance: Floats) -> Floats:
    """Moments taken pair by pair may have negative eigenvalues: without these."""
    covariance = (covariance + covariance.T) / 2
    values, vectors = np.linalg.eigh(covariance)
    if values[0] >= 0:
        return covariance
    return np.asarray((vectors * values.clip(0)) @ vectors.T)


def _axes_by_passes(
    X: NDArray[Any],
    columns: Any,
    scaler: BlockScaler,
    m: int,
    sample_weight: NDArray[Any] | None,
    n_components: int,
) -> Axes:
    """Leading axes by subspace iteration, unobserved cells at their means.

    Each pass multiplies a few directions by the covariance, row by row.
    """
    size = len(scaler.center[m])
    width = min(size, n_components + EXTRA_AXES)
    random_state = np.random.RandomState(0)  # the same axes for the same rows
    basis = np.linalg.qr(random_state.standard_normal((size, width)))[0]
    for _ in range(PASSES):
        product, trace, total = np.zeros((size, width)), 0.0, 0.0
        for rows in row_chunks(len(X), size):
            x = (X[rows, columns] - scaler.mean[m]) / scaler.scale[m]
            seen = ~np.isnan(x)
            np.copyto(x, 0.0, where=~seen)
            weight = seen.any(axis=1).astype(np.float64)
            if sample_weight is not None:
                weight *= sample_weight[rows]
            product += x.T @ ((x @ basis) * weight[:, np.newaxis])
            trace += float(weight @ np.square(x).sum(axis=1))
            total += float(weight.sum())
        small, before = basis.T @ product, basis
        basis = np.linalg.qr(product)[0]
    # The covariance as it acts on the last basis.
    values, turn = np.linalg.eigh((small + small.T) / 2 / total)
    values, vectors = values[::-1].clip(0), (before @ turn)[:, ::-1]
    return _kept(values, vectors, n_components, trace / total, size)


def _axes(covariance: Floats, n_components: int) -> Axes:
    values, vectors = np.linalg.eigh((covariance + covariance.T) / 2)
    values, vectors = values[::-1].clip(0), vectors[:, ::-1]
    return _kept(values, vectors, n_components, float(values.sum()), len(values))


def _kept(
    values: Floats, vectors: Floats, n_components: int, total: float, size: int
) -> Axes:
    """The leading axes; what they leave of the total variance is spread evenly."""
    rank = int((values > RANK * values[0]).sum()) if values[0] > 0 else 0
    kept = max(1, min(n_components, rank))
    # The sign of an eigenvector is arbitrary; the largest entry is made positive.
    vectors = vectors[:, :kept]
    largest = np.abs(vectors).argmax(axis=0)
    vectors = vectors * np.where(vectors[largest, np.arange(kept)] < 0, -1.0, 1.0)
    floor = values[0] if values[0] > 0 else 1.0
    rest = max(0.0, total - float(values[:kept].sum())) / max(1, size - kept)
    return Axes(
        np.ascontiguousarray(vectors),
        np.maximum(values[:kept], RANK * floor),
        rest,
    )
