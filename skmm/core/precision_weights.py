r"""Penalty weights from prior knowledge of edges, and the extended BIC.

A prior edge strength :math:`V_{ij} \in [0, 1]` becomes a weight through a logistic
curve (the tailored graphical lasso of Lingjaerde et al., 2021):

.. math:: P = 1 - \frac1{1 + \exp(-k (V - w_0))}, \qquad
          W = P \Big/ \mathrm{mean}_{i \ne j} P_{ij}

so that likely edges are penalised less and the mean penalty stays what it was. With
steepness :math:`k = 0` all weights are one. Taking the mean off the diagonal, which is
not penalised, is ours; theirs is over all entries.
"""

import math

import torch
from torch import Tensor

# No edge becomes free, however strong the prior.
SMALLEST_WEIGHT = 1e-2


def default_midpoint(prior: Tensor) -> float:
    """The strength at which the weight is halfway.

    For a sparse prior (most pairs zero) the lower 5 % quantile of the entries other
    than 0 and 1, as Lingjaerde et al. have it; for a dense one, where this would free
    nearly all pairs, their median, which is ours.
    """
    p = prior.shape[-1]
    off = ~torch.eye(p, dtype=torch.bool, device=prior.device)
    entries = prior[..., off].flatten()
    inner = entries[(entries > 0) & (entries < 1)]
    if len(inner) == 0:
        return 0.5
    sparse = float((entries == 0).to(prior).mean()) > 0.5
    # torch's quantile refuses more than 2^24 entries.
    order = inner.sort().values
    return float(order[int((0.05 if sparse else 0.5) * (len(order) - 1))])


def tailored_weights(prior: Tensor, steepness: float, midpoint: float) -> Tensor:
    """Penalty weights of a prior, with mean one off the diagonal.

    Parameters
    ----------
    prior : Tensor of shape (..., p, p)
        Entries in [0, 1], symmetric.
    steepness, midpoint : float
        k and w_0.

    Returns
    -------
    Tensor of shape (..., p, p)
        At least 0.01; ones on the diagonal.
    """
    p = prior.shape[-1]
    weights = torch.sigmoid(-steepness * (prior - midpoint))
    off = ~torch.eye(p, dtype=torch.bool, device=prior.device)
    if p > 1:
        mean = torch.where(off, weights, 0).sum((-2, -1), keepdim=True) / (p * (p - 1))
        weights = (weights / mean.clamp_min(1e-300)).clamp_min(SMALLEST_WEIGHT)
    return torch.where(off, weights, 1)


def extended_bic(
    common: Tensor,
    specific: Tensor | None,
    smooth: Tensor,
    n_rows: Tensor,
    gamma: float,
) -> float:
    r"""The extended Bayesian information criterion of Foygel and Drton (2010).

    .. math:: \sum_c n_c [\mathrm{tr}(S_c\Theta_c) - \log\det\Theta_c]
              + E \log n + 4 \gamma E \log p

    with the number E of pairs in A and in each :math:`B_c`: free parameters, so that a
    shared edge counts once. Counting the parts is ours.

    Parameters
    ----------
    common : Tensor of shape (p, p)
    specific : Tensor of shape (C, p, p), or None
    smooth : Tensor of shape (C,)
        :math:`\mathrm{tr}(S_c\Theta_c) - \log\det\Theta_c`.
    n_rows : Tensor of shape (C,)
    gamma : float

    Returns
    -------
    float
        Smaller is better.
    """
    edges = float((torch.triu(common, 1) != 0).sum())
    if specific is not None:
        edges += float((torch.triu(specific, 1) != 0).sum())
    n, p = float(n_rows.sum()), common.shape[-1]
    size = math.log(max(n, 1.0)) + 4 * gamma * math.log(max(p, 1))
    return float((n_rows * smooth).sum()) + edges * size
