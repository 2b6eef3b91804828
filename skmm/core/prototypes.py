r"""Prototypes of several modalities: the components of a Gaussian mixture of each.

For features :math:`x_n` of one modality with weights :math:`\omega_n`, one step of
expectation maximisation is

.. math::

    w_{nk} &= \operatorname{softmax}_k\big(\log \pi_k
              + \log N(x_n; \mu_k, \Sigma_k)\big), \\
    N_k &= \sum_n \omega_n w_{nk}, \quad \pi_k = N_k / \textstyle\sum_n \omega_n, \\
    \mu_k &= \tfrac1{N_k} \sum_n \omega_n w_{nk} x_n, \quad
    \Sigma_k = \tfrac1{N_k} \sum_n \omega_n w_{nk}
               (x_n - \mu_k)(x_n - \mu_k)^\top .

DecAlign (Qian et al., 2026) fits such a mixture to the unique features of each
modality; its published code unrolls five steps from rows of the batch (`unrolled_em`).
Ours is `moment_step`: the responsibilities are constants, found from the mixture that
was carried over from the batch before, and one step of moments has gradients. It needs
no memory of the steps, and neither depends on the order of the rows.

Leading axes stand for modalities; rows that lack one have weight zero in it.
Everything is computed in float64: the tensors are small.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

# Rows from which a start is chosen; distances of all pairs are needed.
START_ROWS = 2048
# A component with less than this part of an even share is put elsewhere.
LEAST_SHARE = 0.01


@dataclass(frozen=True)
class Prototypes:
    """Weights ``(..., K)``, means ``(..., K, d)`` and covariances of components.

    Covariances are ``(..., K, d)`` where they are diagonal, else ``(..., K, d, d)``.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def __iter__(self) -> Iterator[Tensor]:
        yield from (self.weights, self.means, self.covariances)

    @property
    def is_full(self) -> bool:
        """Whether covariances are matrices."""
        return self.covariances.dim() > self.means.dim()

    def __getitem__(self, index: Tensor | int) -> "Prototypes":
        return Prototypes(*(part[index] for part in self))

    def detach(self) -> "Prototypes":
        """The same without gradients."""
        return Prototypes(*(part.detach() for part in self))


def mean_variance(x: Tensor, weight: Tensor) -> Tensor:
    """Variance of each modality's rows, averaged over the dimensions, ``(...)``."""
    total = weight.sum(-1, keepdim=True).clamp_min(1e-300)
    share = (weight / total).unsqueeze(-1)
    centred = x - (share * x).sum(-2, keepdim=True)
    return (share * centred.square()).sum(-2).mean(-1)


def log_joint(x: Tensor, prototypes: Prototypes) -> Tensor:
    r"""Weighted log-densities :math:`\log \pi_k + \log N(x_n; \mu_k, \Sigma_k)`.

    Parameters
    ----------
    x : Tensor of shape (..., N, d)
    prototypes : Prototypes
        A component of weight zero has minus infinity.

    Returns
    -------
    Tensor of shape (..., N, K)
    """
    weights, means, covariances = prototypes
    if prototypes.is_full:
        factor = torch.linalg.cholesky(covariances)
        centred = (x.unsqueeze(-3) - means.unsqueeze(-2)).mT
        solved = torch.linalg.solve_triangular(factor, centred, upper=False)
        distance = solved.square().sum(-2).mT
        log_volume = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    else:
        # Around a point in the middle, so that squares do not cancel.
        middle = means.mean(-2, keepdim=True)
        x, means = x - middle, means - middle
        inverse = 1 / covariances
        distance = (
            x.square() @ inverse.mT
            - 2 * x @ (means * inverse).mT
            + (means.square() * inverse).sum(-1).unsqueeze(-2)
        ).clamp_min(0)
        log_volume = covariances.log().sum(-1)
    constant = x.shape[-1] * math.log(2 * math.pi)
    log_density = -0.5 * (distance + (log_volume + constant).unsqueeze(-2))
    return weights.log().unsqueeze(-2) + log_density


def responsibilities(x: Tensor, prototypes: Prototypes) -> Tensor:
    """Posterior of the components of each row, ``(..., N, K)``, rows summing to one."""
    return log_joint(x, prototypes).softmax(-1)


def log_likelihood(x: Tensor, prototypes: Prototypes, weight: Tensor) -> Tensor:
    """Mean log-likelihood of each modality's rows, ``(...)``, in nats."""
    log_p = torch.logsumexp(log_joint(x, prototypes), -1)
    total = weight.sum(-1).clamp_min(1e-300)
    return torch.where(weight > 0, weight * log_p, 0).sum(-1) / total


def moment_step(
    x: Tensor,
    resp: Tensor,
    weight: Tensor,
    floor: Tensor | float = 0.0,
    full: bool = False,
    before: Tensor | None = None,
) -> Prototypes:
    """Moments of each component under fixed responsibilities; differentiable in x.

    Parameters
    ----------
    x : Tensor of shape (..., N, d)
    resp : Tensor of shape (..., N, K)
    weight : Tensor of shape (..., N)
        Row weights, zero for absent rows.
    floor : Tensor of shape (...) or float
        Added to the variances.
    full : bool, default=False
        Whether covariances are matrices.
    before : Tensor of shape (..., K, d), default=None
        Means of components that no row belongs to; else these are at the mean of
        all rows. Such components have weight zero.

    Returns
    -------
    Prototypes
    """
    # Rows without weight may have no responsibilities at all.
    there = weight.unsqueeze(-1) > 0
    r = torch.where(there, resp * weight.unsqueeze(-1), 0)
    count = r.sum(-2)  # (..., K)
    total = weight.sum(-1, keepdim=True).clamp_min(1e-300)
    middle = (weight.unsqueeze(-1) * x).sum(-2, keepdim=True) / total.unsqueeze(-1)
    # Around the mean of all rows: the square of the mean is subtracted below.
    x = x - middle.detach()
    there = count > 1e-12 * total
    share = (r / torch.where(there, count, 1).unsqueeze(-2)).mT  # (..., K, N)
    means = share @ x
    if full:
        outer = means.unsqueeze(-1) * means.unsqueeze(-2)
        second = torch.einsum("...kn,...ni,...nj->...kij", share, x, x)
        eye = torch.eye(x.shape[-1], dtype=x.dtype, device=x.device)
        covariances = second - outer + _last(floor, 3) * eye
    else:
        second = share @ x.square()
        covariances = (second - means.square()).clamp_min(0) + _last(floor, 2)
    means = means + middle.detach()
    if not bool(there.all()):
        elsewhere = middle.detach() if before is None else before
        means = torch.where(there.unsqueeze(-1), means, elsewhere)
        count = torch.where(there, count, 0)
    # Without any row there is nothing to prefer a component for.
    some = weight.sum(-1, keepdim=True) > 0
    weights = torch.where(some, count / total, 1 / resp.shape[-1])
    return Prototypes(weights, means, covariances)


def _last(value: Tensor | float, n: int) -> Tensor | float:
    """A number a modality, with n axes more."""
    if isinstance(value, Tensor) and value.dim():
        return value[(..., *[None] * n)]
    return value


def blend(old: Prototypes, new: Prototypes, rate: float) -> Prototypes:
    """Mixture of which a part `rate` of the rows is new: step-wise EM.

    Weights, means and covariances of the components are those of old and new rows
    together, the new ones counting `rate`.
    """
    a, b = (1 - rate) * old.weights, rate * new.weights
    weights = a + b
    share = torch.where(weights > 0, b / weights.clamp_min(1e-300), 0).unsqueeze(-1)
    step = new.means - old.means
    means = old.means + share * step
    if old.is_full:
        share = share.unsqueeze(-1)
        between = step.unsqueeze(-1) * step.unsqueeze(-2)
    else:
        between = step.square()
    within = old.covariances + share * (new.covariances - old.covariances)
    return Prototypes(weights, means, within + share * (1 - share) * between)


def choose(first: Tensor, a: Prototypes, b: Prototypes) -> Prototypes:
    """Mixtures of `a` for the modalities where `first (M,)` is true, else of `b`."""
    return Prototypes(
        *(
            torch.where(first[(..., *[None] * (x.dim() - 1))], x, y)
            for x, y in zip(a, b, strict=True)
        )
    )


@torch.no_grad()
def greedy_start(
    x: Tensor, weight: Tensor, n_components: int, floor: Tensor | float = 0.0
) -> Prototypes:
    """Even weights, means at rows that reduce the distances most, one at a time.

    Each mean is the row that leaves the least weighted sum of squared distances to
    the nearest mean. Nothing is drawn, and neither the order of the rows nor their
    repetition matters (of more than `START_ROWS` rows, an even choice is looked at).
    Covariances are those of all rows, diagonal.

    Parameters
    ----------
    x : Tensor of shape (M, N, d)
    weight : Tensor of shape (M, N)
    n_components : int
    floor : Tensor of shape (M,) or float

    Returns
    -------
    Prototypes
    """
    means = torch.stack(
        [_greedy_rows(*pair, n_components) for pair in zip(x, weight, strict=True)]
    )
    return _around(means, x, weight, floor)


def _greedy_rows(x: Tensor, weight: Tensor, n: int) -> Tensor:
    rows = weight.nonzero().squeeze(1)
    if len(rows) > START_ROWS:
        rows = rows[torch.linspace(0, len(rows) - 1, START_ROWS).long()]
    x, weight = x[rows], weight[rows]
    if not len(rows):
        return x.new_zeros(n, x.shape[1])
    distance = torch.cdist(x, x).square()
    away = (x - (weight @ x) / weight.sum()).square().sum(1)
    nearest, chosen = torch.full_like(weight, math.inf), []
    for _ in range(n):
        left = weight @ torch.minimum(distance, nearest.unsqueeze(1))
        # Of two rows near each other only, either leaves the same.
        tied = left <= left.min() + 1e-9 * weight @ away
        chosen.append(int(torch.where(tied, away, math.inf).argmin()))
        nearest = torch.minimum(nearest, distance[chosen[-1]])
    return x[chosen]


@torch.no_grad()
def row_start(
    x: Tensor, weight: Tensor, n_components: int, floor: Tensor | float = 0.0
) -> Prototypes:
    """Even weights, means at evenly spaced rows, the same for all modalities.

    As in the published code of DecAlign: component k of one modality starts at the
    same row as component k of another. Rows that lack a modality do not count.
    """
    complete = (weight > 0).all(0).nonzero().squeeze(1)
    chosen = []
    for own in weight:
        rows = complete if len(complete) >= n_components else own.nonzero().squeeze(1)
        if not len(rows):
            rows = torch.zeros(1, dtype=torch.long, device=x.device)
        even = torch.linspace(0, len(rows) - 1, n_components).round().long()
        chosen.append(rows[even.to(rows.device)])
    means = torch.stack([x[m, rows] for m, rows in enumerate(chosen)])
    return _around(means, x, weight, floor)


def _around(
    means: Tensor, x: Tensor, weight: Tensor, floor: Tensor | float
) -> Prototypes:
    total = weight.sum(-1, keepdim=True).clamp_min(1e-300)
    share = (weight / total).unsqueeze(-1)
    middle = (share * x).sum(-2, keepdim=True)
    variance = (share * (x - middle).square()).sum(-2, keepdim=True) + _last(floor, 2)
    n = means.shape[-2]
    weights = means.new_full(means.shape[:-1], 1 / n)
    return Prototypes(weights, means, variance.expand_as(means).contiguous())


def full_covariances(prototypes: Prototypes) -> Prototypes:
    """Diagonal covariances as matrices."""
    return Prototypes(
        prototypes.weights, prototypes.means, torch.diag_embed(prototypes.covariances)
    )


def unrolled_em(
    x: Tensor, weight: Tensor, start: Prototypes, n_iter: int, floor: Tensor | float
) -> tuple[Prototypes, Tensor]:
    """Steps of EM with gradients through all of them, as the published code does.

    Returns the mixture and the responsibilities under it.
    """
    prototypes = start
    for _ in range(n_iter):
        resp = responsibilities(x, prototypes)
        prototypes = moment_step(
            x, resp, weight, floor, start.is_full, prototypes.means.detach()
        )
    return prototypes, responsibilities(x, prototypes)


@torch.no_grad()
def expectation_maximisation(
    x: Tensor,
    weight: Tensor,
    start: Prototypes,
    floor: Tensor | float,
    max_iter: int = 100,
    tol: float = 1e-4,
) -> tuple[Prototypes, list[Tensor]]:
    """EM until no modality's log-likelihood changes by more than `tol` nats a row.

    A component that almost no row belongs to is put at the row that is explained
    worst, with the variances of all rows.

    Parameters
    ----------
    x : Tensor of shape (M, N, d)
    weight : Tensor of shape (M, N)
    start : Prototypes
    floor : Tensor of shape (M,) or float
    max_iter : int, default=100
    tol : float, default=1e-4

    Returns
    -------
    prototypes : Prototypes
    curve : list of Tensor of shape (M,)
        Mean log-likelihoods before each step.
    """
    prototypes, curve = start, []
    n = start.weights.shape[-1]
    reseeded = 0
    for _ in range(max_iter):
        joint = log_joint(x, prototypes)
        log_p = torch.logsumexp(joint, -1)
        total = weight.sum(-1).clamp_min(1e-300)
        curve.append(torch.where(weight > 0, weight * log_p, 0).sum(-1) / total)
        prototypes = moment_step(
            x, joint.softmax(-1), weight, floor, start.is_full, prototypes.means
        )
        poor = prototypes.weights < LEAST_SHARE / n
        # A few times only: a component that no data want would keep EM from ending.
        if bool(poor.any()) and reseeded < n:
            prototypes = _reseed(prototypes, poor, x, weight, log_p, floor)
            reseeded += 1
        elif len(curve) > 1 and bool(((curve[-1] - curve[-2]).abs() <= tol).all()):
            break
    return prototypes, curve


def _reseed(
    prototypes: Prototypes,
    poor: Tensor,
    x: Tensor,
    weight: Tensor,
    log_p: Tensor,
    floor: Tensor | float,
) -> Prototypes:
    """Put one poor component of each modality where rows are explained worst."""
    weights, means, covariances = (part.clone() for part in prototypes)
    spread = _around(means, x, weight, floor)
    if prototypes.is_full:
        spread = full_covariances(spread)
    worst = torch.where(weight > 0, log_p, math.inf).argmin(-1)
    n = weights.shape[-1]
    for m in range(len(x)):
        if not bool(poor[m].any()):
            continue
        k = int(poor[m].nonzero()[0])
        means[m, k], covariances[m, k] = x[m, worst[m]], spread.covariances[m, k]
        weights[m, k] = 1 / n
        weights[m] /= weights[m].sum()
    return Prototypes(weights, means, covariances)
