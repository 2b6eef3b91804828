r"""Which row of one modality belongs to which of another, when few pairs are known.

All of it is ours; DecAlign has no such step. Rows have kernel principal components
:math:`\phi` of their modality; :math:`n_p` rows have both modalities, lone rows only
one. Starting with the pairs alone, these steps repeat:

1. canonical correlation of the components, from the moments of the pairs and of the
   lone rows, these weighted by the plan T and by a share that grows from step to step;
2. T, the entropic plan with even marginals between the lone rows, by the cosines of
   their canonical variates, with a regularisation that falls.

A pair and a lone row with its partners count alike within modalities and between them:
whitening with rows that the cross-covariance lacks is worse. The plan uses that lone
rows of both modalities come from one population; a row may share several partners.
"""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional as F

from skmm.core.alignment import squared_distances

# Landmarks of the kernel, components, and canonical variates.
N_LANDMARKS = 1000
N_FEATURES = 200
N_VARIATES = 64
N_ROUNDS = 15
# Regularisation of the plan at the first and the last round, of cosines.
WIDEST, NARROWEST = 0.05, 0.02
# Weight of a lone row, of that of a pair: it rises from the first to the last number.
FIRST_WEIGHT, LAST_WEIGHT = 0.02, 0.3
# Of the covariances, over the root of the number of rows; in units of the variance of a
# standardised column.
RIDGE = 4.0
SWEEPS = 25


def kernel_features(
    x: Tensor, landmarks: Tensor, n_features: int = N_FEATURES
) -> Tensor:
    r"""Principal components of rows under a Gaussian kernel, through landmarks.

    The kernel's width is the median squared distance of the landmarks.

    Parameters
    ----------
    x : Tensor of shape (n, d)
    landmarks : Tensor of shape (L, d)
        Some of the rows.
    n_features : int, default=200

    Returns
    -------
    Tensor of shape (n, min(n_features, L))
        Centred, with a total variance of d.
    """
    between = squared_distances(landmarks, landmarks)
    width = between.median().clamp_min(1e-30)
    values, vectors = torch.linalg.eigh(torch.exp(-between / width))
    values, vectors = values.flip(0)[:n_features], vectors.flip(1)[:, :n_features]
    kernel = torch.exp(-squared_distances(x, landmarks) / width)
    features = kernel @ vectors / values.clamp_min(1e-6).sqrt()
    features = features - features.mean(0)
    total = features.square().sum(1).mean().clamp_min(1e-30)
    return features * (x.shape[1] / total).sqrt()


def pair_rows(
    left: Tensor,
    right: Tensor,
    lone_left: Tensor,
    lone_right: Tensor,
    n_rounds: int = N_ROUNDS,
) -> Tensor:
    """The plan between lone rows, from their features and those of pairs.

    Parameters
    ----------
    left, right : Tensor of shape (n_p, d), (n_p, d')
        Features of the pairs: row i of one belongs to row i of the other.
    lone_left, lone_right : Tensor of shape (n, d), (n', d')
        Features of lone rows.
    n_rounds : int, default=15

    Returns
    -------
    plan : Tensor of shape (n, n')
        Rows sum to one, columns to about n / n'.
    """
    plan = None
    for t in range(n_rounds):
        a, b = _variates(left, right, lone_left, lone_right, plan, _weight(t, n_rounds))
        share = t / max(n_rounds - 1, 1)
        reg = WIDEST * (NARROWEST / WIDEST) ** share
        plan = even_plan(F.normalize(a, dim=1) @ F.normalize(b, dim=1).mT, reg)
    assert plan is not None
    return plan


def _weight(t: int, n_rounds: int) -> float:
    return FIRST_WEIGHT + (LAST_WEIGHT - FIRST_WEIGHT) * t / n_rounds


def even_plan(similarity: Tensor, reg: float, n_sweeps: int = SWEEPS) -> Tensor:
    """Entropic plan with even marginals for similarities ``(n, n')`` of at most one.

    A fixed number of sweeps; rows sum to one exactly.
    """
    kernel = torch.exp((similarity - 1) / reg)
    tiny = torch.finfo(kernel.dtype).tiny * 1e4
    n, m = kernel.shape
    v = kernel.new_ones(m)
    for _ in range(n_sweeps):
        u = 1 / (kernel @ v).clamp_min(tiny)
        v = (n / m) / (kernel.mT @ u).clamp_min(tiny)
    plan = kernel * v
    return plan / plan.sum(1, keepdim=True).clamp_min(tiny)


def _variates(
    left: Tensor,
    right: Tensor,
    lone_left: Tensor,
    lone_right: Tensor,
    plan: Tensor | None,
    weight: float,
) -> tuple[Tensor, Tensor]:
    """Canonical variates of the lone rows, weighted by their correlations."""
    w = 0.0 if plan is None else weight
    total = len(left) + w * len(lone_left)
    mean_left = (left.sum(0) + w * lone_left.sum(0)) / total
    # Columns of the plan sum to the share of a lone row on this side.
    share = len(lone_left) / len(lone_right)
    mean_right = (right.sum(0) + w * share * lone_right.sum(0)) / total
    cross = left.mT @ right
    if plan is not None:
        cross = cross + w * (lone_left.mT @ (plan @ lone_right))
    cross = cross / total - torch.outer(mean_left, mean_right)
    whiten = []
    for own, lone, size, mean in (
        (left, lone_left, w, mean_left),
        (right, lone_right, w * share, mean_right),
    ):
        moment = (own.mT @ own + size * (lone.mT @ lone)) / total
        whiten.append(_inverse_root(moment - torch.outer(mean, mean), total))
    u, s, v = torch.linalg.svd(whiten[0] @ cross @ whiten[1], full_matrices=False)
    k = min(N_VARIATES, len(s))
    if plan is None:
        k = max(min(k, len(left) - 1), 1)
    a = (lone_left - mean_left) @ (whiten[0] @ u[:, :k] * s[:k])
    b = (lone_right - mean_right) @ (whiten[1] @ v[:k].mT * s[:k])
    return a, b


def _inverse_root(covariance: Tensor, n_rows: float) -> Tensor:
    """Inverse square root, with a ridge that falls as rows are added."""
    values, vectors = torch.linalg.eigh(covariance)
    values = values.clamp_min(0) + RIDGE / n_rows**0.5
    return vectors / values.sqrt() @ vectors.mT


def rows_alone(observed: Tensor) -> Iterator[tuple[int, int, Tensor, Tensor, Tensor]]:
    """Pairs of modalities ``i < j`` with the rows that have both, only i and only j.

    A lone row has no other modality at all.
    """
    alone = observed.sum(0) == 1
    for i in range(len(observed)):
        for j in range(i + 1, len(observed)):
            both = (observed[i] & observed[j]).nonzero().squeeze(1)
            left, right = ((observed[m] & alone).nonzero().squeeze(1) for m in (i, j))
            yield i, j, both, left, right
