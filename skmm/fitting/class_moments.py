"""Means and covariances of classes from scores with gaps."""

from dataclasses import dataclass

import torch
from torch import Tensor

from skmm.core.gaussian import moments, nearest_correlation_scale

# The smallest eigenvalue that a covariance from different rows for different pairs may
# keep, on the scale of correlations.
SMALLEST_EIGENVALUE = 1e-3
# The variance of a node that is constant within every class, and the share of the
# pooled variance that each class has at least.
SMALLEST_VARIANCE = 1e-6
SMALLEST_SHARE = 1e-3


@dataclass(frozen=True)
class ClassMoments:
    """Moments of C classes over p nodes.

    Attributes
    ----------
    location : Tensor of shape (C, p)
        Means; those of all rows for a node that a class never shows.
    covariance : Tensor of shape (C, p, p), or (1, p, p) where `shared`
        Positive semi-definite, with a positive diagonal.
    n_rows : Tensor of shape (C,)
        Weight of the rows of each class.
    shared : bool
        Whether one covariance serves all classes.
    """

    location: Tensor
    covariance: Tensor
    n_rows: Tensor
    shared: bool


def class_moments(
    z: Tensor,
    observed: Tensor,
    codes: Tensor,
    weight: Tensor,
    n_classes: int,
    *,
    shrinkage: float,
    pooling: float,
    correlation: Tensor | None = None,
) -> ClassMoments:
    """Moments over the rows in which a pair of nodes is observed.

    Each class's covariance is drawn towards that of all classes together (`pooling`,
    as in Friedman, 1989), then towards the diagonal of the latter (`shrinkage`). With
    gaps, pairs rest on different rows, and the result is projected to the
    positive-definite cone by raising small eigenvalues of the correlations.

    Parameters
    ----------
    z : Tensor of shape (n, p)
        Finite also where not observed.
    observed : bool Tensor of shape (n, p)
    codes : long Tensor of shape (n,)
    weight : Tensor of shape (n,)
    n_classes : int
    shrinkage, pooling : float
        In [0, 1].
    correlation : Tensor of shape (C, p, p), default=None
        Correlations to use in place of those of the scores.

    Returns
    -------
    ClassMoments
    """
    overall, _, total_weight = moments(z, observed, weight)
    location, scatter, total = [], [], []
    for c in range(n_classes):
        rows = codes == c
        mean, products, pairs = moments(z[rows], observed[rows], weight[rows])
        seen = pairs.diagonal() > 0
        location.append(torch.where(seen, mean, overall))
        scatter.append(products)
        total.append(pairs)
    products, pairs = torch.stack(scatter), torch.stack(total)
    pooled_pairs = pairs.sum(0)
    pooled = products.sum(0) / torch.where(pooled_pairs > 0, pooled_pairs, 1)
    if correlation is not None:
        pooled = correlation.mean(0)
    shared = pooling == 1 and n_classes > 1
    if shared:
        covariance = pooled[None]
    else:
        own = products / torch.where(pairs > 0, pairs, 1)
        if correlation is not None:
            own = correlation
        # A pair that a class never shows is as in all classes together.
        own = torch.where(pairs > 0, own, pooled)
        covariance = (1 - pooling) * own + pooling * pooled
    variance = pooled.diagonal()
    # A node constant in all rows tells nothing: variance one, no covariance.
    constant = (variance <= SMALLEST_VARIANCE) & _constant(
        z, observed, weight, overall, total_weight
    )
    variance = torch.where(constant, 1, variance.clamp_min(SMALLEST_VARIANCE))
    covariance = (1 - shrinkage) * covariance
    diagonal = covariance.diagonal(dim1=-2, dim2=-1)
    diagonal += shrinkage * variance
    floor = SMALLEST_SHARE * variance
    diagonal.copy_(
        torch.where(constant, 1, torch.maximum(diagonal, floor.expand_as(diagonal)))
    )
    if correlation is not None or not bool(observed.all()):
        covariance = nearest_correlation_scale(covariance, SMALLEST_EIGENVALUE)
    return ClassMoments(
        torch.stack(location),
        covariance,
        torch.stack([weight[codes == c].sum() for c in range(n_classes)]),
        shared,
    )


def _constant(
    z: Tensor, observed: Tensor, weight: Tensor, mean: Tensor, total: Tensor
) -> Tensor:
    """Nodes whose observed values are all alike."""
    spread = (weight[:, None] * observed * (z - mean) ** 2).sum(0)
    count = total.diagonal()
    return spread <= SMALLEST_VARIANCE * torch.where(count > 0, count, 1)
