r"""Losses that decouple and align the parts of several modalities.

With unique parts s and common parts c of M modalities (Qian et al., "DecAlign", 2026,
whose equations the functions name):

- `decoupling`: cosines of a row's two parts, squared;
- `prototype_pull`: rows near the prototypes of the other modalities that the transport
  plan matches with their own;
- `moment_distance`: mean, covariance and skewness of the common parts;
- `mmd`: their maximum mean discrepancy;
- `supervised_contrastive`: rows of one label near each other.

Shapes: ``x (M, N, d)``, row weights ``(M, N)``, zero where a row lacks a modality. A
modality without a row in the batch is left out of every mean.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

MOMENTS = ("mean", "covariance", "skewness")
# Bandwidths of the kernels of `mmd` relative to the mean squared distance.
OCTAVES = (-2, -1, 0, 1, 2)
# Variances below this part of their mean do not blow the skewness up.
LEAST_VARIANCE = 1e-3
# Rows of the kernel's matrix that are held at a time.
KERNEL_ROWS = 64


def shares(weight: Tensor) -> tuple[Tensor, Tensor]:
    """Weights that sum to one in each modality that has any, and which those are."""
    total = weight.sum(-1, keepdim=True)
    active = total.squeeze(-1) > 0
    return weight / torch.where(total > 0, total, 1), active


def row_mean(values: Tensor, weight: Tensor) -> Tensor:
    """Mean over the rows of each modality, then over the modalities that have rows."""
    share, active = shares(weight)
    own = torch.where(share > 0, share * values, 0).sum(-1)
    return own.sum() / active.sum().clamp_min(1)


def pooled_scale(x: Tensor, weight: Tensor) -> Tensor:
    """Root mean variance over dimensions and modalities: the unit of distances."""
    share, active = shares(weight)
    share = share.unsqueeze(-1)
    centred = x - (share * x).sum(-2, keepdim=True)
    variance = (share * centred.square()).sum((-2, -1)) / x.shape[-1]
    pooled = variance.sum() / active.sum().clamp_min(1)
    return torch.where(pooled > 0, pooled, 1).sqrt()


def decoupling(
    unique: Tensor, common: Tensor, weight: Tensor, form: str = "squared"
) -> Tensor:
    r"""Cosines of the unique and the common part of each row.

    "squared" is the mean of :math:`\cos^2`, in [0, 1], least where the parts are
    orthogonal. "plain" is the mean of :math:`\cos`, the paper's printed form, whose
    least value of -1 has them anti-parallel.

    Parameters
    ----------
    unique, common : Tensor of shape (M, N, d)
        Sequences flattened, with zeros at padded steps.
    weight : Tensor of shape (M, N)
    form : {"squared", "plain"}, default="squared"

    Returns
    -------
    Tensor of shape ()
    """
    # An absent row is zeros, at which a norm has no gradient.
    there = (weight > 0).unsqueeze(-1)
    s, c = torch.where(there, unique, 1), torch.where(there, common, 1)
    cosine = F.cosine_similarity(s, c, dim=-1)
    return row_mean(cosine.square() if form == "squared" else cosine, weight)


def moment_distance(
    x: Tensor,
    weight: Tensor,
    moments: Sequence[str] = MOMENTS,
    reduction: str = "mean",
    correction: int = 0,
    least_variance: float = LEAST_VARIANCE,
    relative: bool = True,
) -> Tensor:
    r"""Distance of the modalities' means, covariances and skewnesses (L_sem).

    With the moments :math:`\mu_m`, :math:`\Sigma_m` and
    :math:`\Gamma_m = E (x - \mu_m)^3 / \max(v_m, v_0)^{3/2}`, "sum" is the paper's

    .. math:: \frac1{M (M - 1)} \sum_{i<j} \|\mu_i - \mu_j\|^2
              + \|\Sigma_i - \Sigma_j\|_F^2 + \|\Gamma_i - \Gamma_j\|^2,

    and "mean" the published code's: the mean over the pairs of mean squared
    differences, so that width does not weigh.

    Parameters
    ----------
    x : Tensor of shape (M, N, d)
    weight : Tensor of shape (M, N)
    moments : sequence of {"mean", "covariance", "skewness"}
    reduction : {"mean", "sum"}, default="mean"
    correction : int, default=0
        1 divides covariances by the number of rows less one.
    least_variance : float, default=1e-3
        :math:`v_0`.
    relative : bool, default=True
        Whether :math:`v_0` is a part of the mean variance.

    Returns
    -------
    Tensor of shape ()
        Zero where fewer than two modalities have two rows.
    """
    n_rows = (weight > 0).sum(-1)
    kept = n_rows > 1
    if int(kept.sum()) < 2:
        return x.sum() * 0
    if not bool(kept.all()):
        x, weight, n_rows = x[kept], weight[kept], n_rows[kept]
    share = shares(weight)[0].unsqueeze(-1)
    mean = (share * x).sum(-2)
    centred = x - mean.unsqueeze(-2)
    variance = (share * centred.square()).sum(-2)
    parts = []
    if "mean" in moments:
        parts.append(mean)
    if "covariance" in moments:
        covariance = (share * centred).mT @ centred
        if correction:
            n = n_rows.to(x.dtype)
            covariance = covariance * (n / (n - correction))[:, None, None]
        parts.append(covariance)
    if "skewness" in moments:
        floor: Tensor | float = least_variance
        if relative:
            floor = least_variance * variance.mean(-1, keepdim=True).detach() + 1e-30
        third = (share * centred.pow(3)).sum(-2)
        parts.append(third / torch.clamp(variance, min=floor).pow(1.5))
    total = x.new_zeros(())
    for part in parts:
        total = total + _mean_over_pairs(part, reduction)
    return total


def _mean_over_pairs(part: Tensor, reduction: str) -> Tensor:
    r"""Squared differences over pairs, from the distances to the mean of all.

    :math:`\sum_{i<j} \|a_i - a_j\|^2 = M \sum_i \|a_i - \bar a\|^2`.
    """
    m = len(part)
    pairs = m * (part - part.mean(0)).square().sum()
    if reduction == "sum":
        return pairs / (m * (m - 1))
    return pairs / (0.5 * m * (m - 1) * part[0].numel())


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances ``(..., N, N')``, never negative."""
    cross = x @ y.mT
    xx, yy = x.square().sum(-1), y.square().sum(-1)
    return (xx.unsqueeze(-1) + yy.unsqueeze(-2) - 2 * cross).clamp_min(0)


def kernel_widths(
    x: Tensor, weight: Tensor, bandwidths: str | Sequence[float]
) -> list[float]:
    r"""Divisors w of the squared distances in the kernels :math:`\exp(-D / w)`.

    Of bandwidths b they are 2 b. "auto" takes :math:`s_0 2^q` for q from -2 to 2, with
    :math:`s_0` the mean squared distance of all pairs of rows of all modalities:
    kernels of a fixed width are flat, or zero, at distances of another scale.

    Parameters
    ----------
    x : Tensor of shape (R, d)
        Rows of all modalities.
    weight : Tensor of shape (R,)
        Those of a modality sum to one.
    bandwidths : "auto" or sequence of float
    """
    if not isinstance(bandwidths, str):
        return [2.0 * b for b in bandwidths]
    share = (weight / weight.sum()).unsqueeze(1)
    x = x.detach()
    # The mean over pairs of independent rows is twice the total variance.
    unit = 2 * float((share * (x - (share * x).sum(0)).square()).sum())
    unit = max(unit, torch.finfo(torch.float64).tiny * 1e6)
    return [unit * 2.0**q for q in OCTAVES]


class _KernelForm(torch.autograd.Function):
    r"""The form :math:`\sum_{ab} B_{ab} \sum_w e^{-D_{ab} / w}` and its gradient.

    B is ``left @ right.T``, symmetric. A block of rows at a time, only blocks on one
    side of the diagonal, value and gradient in one pass: the matrices of all pairs are
    never kept. Half as many exponentials as kernels where widths double.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, left: Tensor, right: Tensor, widths: list[float]
    ) -> Tensor:
        # Around their mean: squares of distances are differences of squares.
        centred = x - x.mean(0)
        squares = centred.square().sum(1)
        value = x.new_zeros(())
        slope = torch.zeros_like(x)
        for start in range(0, len(x), KERNEL_ROWS):
            rows, rest = slice(start, start + KERNEL_ROWS), slice(start, None)
            n = len(x[rows])
            distance = torch.addmm(
                squares[rest].expand(n, -1), centred[rows], centred[rest].mT, alpha=-2
            )
            distance.add_(squares[rows].unsqueeze(1)).clamp_(min=0)
            total, fall = _kernels(distance, widths)
            form = left[rows] @ right[rest].mT
            # What lies beside the block on the diagonal stands for its mirror image.
            form[:, n:] *= 2
            value = value + torch.dot(form.flatten(), total.flatten())
            if ctx.needs_input_grad[0]:
                pull = fall.mul_(form)
                here, there = centred[rows], centred[rest]
                slope[rows] -= 2 * (pull.sum(1, keepdim=True) * here - pull @ there)
                slope[rest] -= 2 * (pull.sum(0).unsqueeze(1) * there - pull.mT @ here)
        ctx.save_for_backward(slope)
        return value

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, None, None, None


def _kernels(distance: Tensor, widths: list[float]) -> tuple[Tensor, Tensor]:
    """Sum of kernels, and of kernels over their widths; overwrites the distances."""
    doubling = all(b == 2 * a for a, b in pairwise(widths))
    if not doubling:
        parts = [torch.exp(-distance / w) for w in widths]
        falls = [part / w for part, w in zip(parts, widths, strict=True)]
        return torch.stack(parts).sum(0), torch.stack(falls).sum(0)
    # Each narrower kernel is the square of the one before.
    value = distance.mul_(-1 / widths[-1]).exp_()
    total, fall = value.clone(), value / widths[-1]
    for w in widths[-2::-1]:
        value.square_()
        total.add_(value)
        fall.add_(value, alpha=1 / w)
    return total, fall


def mmd(
    x: Tensor, weight: Tensor, bandwidths: str | Sequence[float] = "auto"
) -> Tensor:
    r"""Squared maximum mean discrepancy, the mean over pairs of modalities (L_MMD).

    .. math:: \frac{2}{M (M - 1)} \sum_{i<j}
              E k(x_i, x_i') + E k(x_j, x_j') - 2 E k(x_i, x_j)

    with the mean k of Gaussian kernels. The biased form: diagonals count, so that it
    is never negative and zero for equal samples. Only first derivatives are right; the
    widths of "auto" are constants.

    Parameters
    ----------
    x : Tensor of shape (M, N, d)
    weight : Tensor of shape (M, N)
    bandwidths : "auto" or sequence of float
        Variances b of the kernels :math:`\exp(-D / 2b)`, or see `kernel_widths`; the
        same for all pairs.

    Returns
    -------
    Tensor of shape ()
    """
    share, active = shares(weight)
    m = int(active.sum())
    if m < 2:
        return x.sum() * 0
    there = share > 0
    label = (active.cumsum(0) - 1).unsqueeze(1).expand_as(there)[there]
    rows, own = x[there], share[there]
    # (R, M): rows' shares in the means of their modality. The sum over pairs is that
    # of M times the blocks on the diagonal less all blocks.
    means = own.unsqueeze(1) * F.one_hot(label, m).to(own.dtype)
    left = m * means - own.unsqueeze(1)
    widths = kernel_widths(rows, own, bandwidths)
    pairs = _KernelForm.apply(rows, left, means, widths)
    return pairs / (0.5 * m * (m - 1) * len(widths))


def prototype_pull(
    x: Tensor,
    weight: Tensor,
    resp: Tensor,
    means: Tensor,
    conditional: Tensor | None,
    reduction: str = "mean",
) -> Tensor:
    r"""Squared distance of rows to the prototypes of other modalities (L_Proto).

    .. math:: \frac1{M (M - 1)} \sum_{i \ne j} \frac1N \sum_n \sum_k w_i^n(k)
              \sum_{k'} T_{ij}(k' | k) \|x_i^n - \mu_j^{k'}\|^2

    The plan T finds which components belong together (ours); the paper's form matches
    equal numbers, which mean nothing unless all modalities' mixtures start alike.

    Parameters
    ----------
    x : Tensor of shape (M, N, d)
    weight : Tensor of shape (M, N)
    resp : Tensor of shape (M, N, K)
    means : Tensor of shape (M, K, d)
    conditional : Tensor of shape (M, M, K, K) or None
        :math:`T_{ij}(k' | k)`; None matches equal numbers.
    reduction : {"mean", "sum"}, default="mean"
        Over the dimensions of the squared distances.

    Returns
    -------
    Tensor of shape ()
    """
    m = len(x)
    if m < 2:
        return x.sum() * 0
    distance = squared_distances(x.unsqueeze(1), means.unsqueeze(0))  # (M, M, N, K)
    if conditional is None:
        matched = resp.unsqueeze(1)
    else:
        matched = resp.unsqueeze(1) @ conditional
    per_row = (matched * distance).sum(-1)  # (M, M, N)
    share, _ = shares(weight)
    own = torch.where(share.unsqueeze(1) > 0, share.unsqueeze(1) * per_row, 0).sum(-1)
    total = (own.sum() - own.diagonal().sum()) / (m * (m - 1))
    return total / x.shape[-1] if reduction == "mean" else total


def supervised_contrastive(
    z: Tensor, labels: Tensor, temperature: float, weight: Tensor | None = None
) -> Tensor:
    r"""Contrast of rows of one label against all others (Khosla et al., 2020).

    .. math:: -\frac1N \sum_n \frac1{|P_n|} \sum_{p \in P_n}
              \log \frac{\exp(z_n \cdot z_p / \tau)}
                        {\sum_{a \ne n} \exp(z_n \cdot z_a / \tau)}

    on vectors of unit length, over the rows n that share their label with others,
    :math:`P_n`.

    Parameters
    ----------
    z : Tensor of shape (N, d)
    labels : integer Tensor of shape (N,)
        Negative ones mark rows without a label, which are left out.
    temperature : float
    weight : Tensor of shape (N,), default=None
        A row of weight w counts as w rows.

    Returns
    -------
    Tensor of shape ()
    """
    labelled = labels >= 0
    z, labels = F.normalize(z[labelled], dim=-1), labels[labelled]
    w = z.new_ones(len(z)) if weight is None else weight[labelled].to(z)
    # A row of weight w stands for w rows, of which w - 1 are other than itself.
    others = w - torch.eye(len(z), dtype=z.dtype, device=z.device)
    others = others.clamp_min(0)
    positive = torch.where(labels.unsqueeze(1) == labels, others, 0)
    kept = (positive.sum(1) > 0) & (w > 0)
    if not bool(kept.any()):
        return z.sum() * 0
    positive, others = positive[kept], others[kept]
    logits = z[kept] @ z.mT / temperature
    counted = torch.where(others > 0, others, 1).log()
    log_all = torch.logsumexp(
        (logits + counted).masked_fill(others == 0, -torch.inf), 1
    )
    own = (positive * (logits - log_all.unsqueeze(1))).sum(1) / positive.sum(1)
    return -(w[kept] * own).sum() / w[kept].sum()
