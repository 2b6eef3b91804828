r"""Joint sparse precision matrices: one part for all classes, one for each.

For class covariances :math:`S_c`, class weights :math:`t_c`, and non-negative
symmetric penalties :math:`\Lambda^A` and :math:`\Lambda^B_c` with zero diagonal, over
symmetric :math:`A, B_1..B_C` with :math:`\Theta_c = A + B_c \succ 0`:

.. math:: \min \sum_c t_c \big[-\log\det \Theta_c + \mathrm{tr}(S_c \Theta_c)\big]
          + \sum_{ij} \Lambda^A_{ij} |A_{ij}|
          + \sum_c \sum_{ij} \Lambda^B_{c,ij} |B_{c,ij}|

Sums over ij run over both triangles. The diagonal is free; there only
:math:`\Theta_c` is identified, and :math:`A_{jj}` is the classes' mean. The *group*
form has :math:`\sum_{ij} \Lambda^B_{ij} \|(B_{1,ij}..B_{C,ij})\|_2` as its last sum.

The problem is a reconstruction after CM-GLasso (Wang, Zhang & Wang, 2026), whose
equations we could not read. The decomposition is in the spirit of Hara & Washio (2013),
the dual and the screening rule follow the single-class ones of Banerjee et al. (2008)
and Witten et al. (2011); the exact joint update of A and B is ours.

Dual: over :math:`Y_c` with zero diagonal,

.. math:: \max \sum_c t_c \big[\log\det(S_c + Y_c / t_c) + p\big], \quad
          |Y_{c,ij}| \le \Lambda^B_{c,ij},\;
          \big|\sum_c Y_{c,ij}\big| \le \Lambda^A_{ij}

(group: :math:`\|Y_{ij}\|_2 \le \Lambda^B_{ij}`). At the solution
:math:`Y_c = t_c (\Theta_c^{-1} - S_c)`.

Shapes: matrices of classes are ``(C, p, p)``, `class_weight` is ``(C,)``. All values
are in nats.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

TIE = 1e-12  # relative difference of sums of penalties that counts as none


@dataclass(frozen=True)
class Penalty:
    """The penalties of one problem.

    Parameters
    ----------
    common : Tensor of shape (p, p)
        Symmetric, non-negative, zero diagonal.
    specific : Tensor of shape (C, p, p) or (1, p, p), or None
        Likewise; one matrix serves all classes. None is an infinite penalty: specific
        parts are zero off the diagonal.
    group : bool, default=False
        Whether `specific`, then of shape (1, p, p), weighs the Euclidean norm over
        classes instead of the absolute values.
    """

    common: Tensor
    specific: Tensor | None = None
    group: bool = False

    def value(self, common: Tensor, specific: Tensor) -> float:
        """The penalty of a split, in float64."""
        total = (self.common.double() * common.abs()).sum()
        if self.specific is not None:
            size = torch.linalg.vector_norm(specific, dim=0) if self.group else None
            size = specific.abs() if size is None else size[None]
            total = total + (self.specific.double() * size).sum()
        return float(total)

    def take(self, index: Tensor) -> "Penalty":
        """The penalty of a subset of the nodes."""
        block = self.specific
        if block is not None:
            block = block[:, index][:, :, index]
        return Penalty(self.common[index][:, index], block, self.group)

    def to(self, like: Tensor) -> "Penalty":
        """On another device or in another precision."""
        specific = None if self.specific is None else self.specific.to(like)
        return Penalty(self.common.to(like), specific, self.group)


def soft_threshold(x: Tensor, threshold: Tensor) -> Tensor:
    """Shrink towards zero: ``sign(x) max(|x| - threshold, 0)``."""
    return x - x.clamp(-threshold, threshold)


# Likelihood and dual ------------------------------------------------------------------


def half_log_det(cholesky: Tensor) -> Tensor:
    """Half the log-determinant of ``L L^T``, shape (C,)."""
    return cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def factor(matrix: Tensor) -> Tensor | None:
    """Lower Cholesky factors, or None if one matrix is not positive definite."""
    cholesky, info = torch.linalg.cholesky_ex(matrix)
    return None if bool(info.any()) else cholesky


def inverse_of(cholesky: Tensor) -> Tensor:
    """The inverse of the matrix with these factors, its rows contiguous."""
    # Symmetric, and torch lays it out by columns.
    return torch.cholesky_inverse(cholesky).mT


def smooth_value(
    cholesky: Tensor, precision: Tensor, covariance: Tensor, class_weight: Tensor
) -> float:
    r"""The likelihood part, :math:`\sum_c t_c [-\log\det\Theta_c + tr(S_c\Theta_c)]`.

    All but the traces is summed in float64, whatever the matrices are.
    """
    trace = torch.einsum("cij,cij->c", covariance, precision).double()
    value = trace - 2 * half_log_det(cholesky.double())
    return float((class_weight.double() * value).sum())


def objective(
    common: Tensor,
    specific: Tensor,
    covariance: Tensor,
    class_weight: Tensor,
    penalty: Penalty,
) -> float:
    """The whole objective; infinite where a precision is not positive definite."""
    precision = common + specific
    cholesky = factor(precision)
    if cholesky is None:
        return math.inf
    value = smooth_value(cholesky, precision, covariance, class_weight)
    return value + penalty.value(common, specific)


def dual_objective(dual: Tensor, covariance: Tensor, class_weight: Tensor) -> float:
    r"""The dual value of a feasible Y; minus infinity outside its domain."""
    cholesky = factor(covariance + dual / class_weight[:, None, None])
    if cholesky is None:
        return -math.inf
    value = 2 * half_log_det(cholesky.double()) + covariance.shape[-1]
    return float((class_weight.double() * value).sum())


def dual_violation(dual: Tensor, penalty: Penalty) -> float:
    """How far Y is outside the feasible set, in the units of the penalty."""
    off = ~torch.eye(dual.shape[-1], dtype=torch.bool, device=dual.device)
    worst = dual.diagonal(dim1=-2, dim2=-1).abs().max()
    excess = (dual.sum(0).abs() - penalty.common)[off]
    if penalty.specific is not None:
        size = dual.abs() if not penalty.group else dual.norm(dim=0, keepdim=True)
        excess = torch.cat([excess, (size - penalty.specific)[:, off].flatten()])
    return max(float(worst), float(excess.max()) if excess.numel() else 0.0, 0.0)


def likelihood_proximal(shifted: Tensor, scaled_weight: Tensor) -> Tensor:
    r"""The solution of :math:`\Theta - \tau_c \Theta^{-1} = M_c`, positive definite.

    With ``shifted`` :math:`M_c - \tau_c S_c` for :math:`\tau_c = t_c / \rho`, this is
    the proximal point of the likelihood (Boyd et al., 2011, section 6.5).
    """
    eigenvalues, vectors = torch.linalg.eigh(shifted)
    weight = scaled_weight[:, None]
    root = torch.sqrt(eigenvalues**2 + 4 * weight)
    # Both forms are the same number; each is free of cancellation on its side.
    new = torch.where(
        eigenvalues >= 0, (eigenvalues + root) / 2, 2 * weight / (root - eigenvalues)
    )
    # As a product with its own transpose the result is symmetric to the last bit.
    half = vectors * new.sqrt()[:, None, :]
    return half @ half.mT


# The penalty's proximal point: the exact joint update of A and B ----------------------


def split(values: Tensor, penalty: Penalty, step: float) -> tuple[Tensor, Tensor]:
    r"""The exact minimiser over (A, B) of the penalty near `values`.

    .. math:: \tfrac1{2s} \sum_c \|V_c - A - B_c\|_F^2 + \mathrm{penalty}(A, B)

    Entrywise, with :math:`\tau_c = s \Lambda^B_c`, :math:`\kappa = s \Lambda^A`, and
    :math:`\sigma(a) = \sum_c \mathrm{clip}(v_c - a, \pm\tau_c)`: ``a = 0`` where
    :math:`|\sigma(0)| \le \kappa`, else the root of
    :math:`\sigma(a) = \kappa\,\mathrm{sign}\,\sigma(0)` smallest in absolute value;
    then :math:`b_c` is ``v_c - a`` soft-thresholded at :math:`\tau_c`.

    Parameters
    ----------
    values : Tensor of shape (C, p, p)
        Symmetric.
    penalty : Penalty
    step : float
        The step s.

    Returns
    -------
    common : Tensor of shape (p, p)
    specific : Tensor of shape (C, p, p)
        ``(values - common - specific) / step`` is feasible for the dual.
    """
    n_classes = values.shape[0]
    kappa = step * penalty.common
    if penalty.specific is None:
        mean = values.mean(0) if n_classes > 1 else values[0]
        common = soft_threshold(mean, kappa / n_classes if n_classes > 1 else kappa)
        specific = torch.zeros_like(values)
    elif penalty.group:
        common, specific = _split_group(values, kappa, step * penalty.specific)
    else:
        common, specific = _split_entries(values, kappa, step * penalty.specific)
    diagonal = values.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(0)
    common.diagonal().copy_(mean)
    specific.diagonal(dim1=-2, dim2=-1).copy_(diagonal - mean)
    return common, specific


def _split_entries(values: Tensor, kappa: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    total = values.clamp(-tau, tau).sum(0)
    common = torch.zeros_like(kappa)
    rows, columns = torch.triu(total.abs() > kappa, diagonal=1).nonzero(as_tuple=True)
    if rows.numel():
        sign = total[rows, columns].sign()
        v = values[:, rows, columns] * sign
        root = sign * _smallest_root(
            v, tau[:, rows, columns].expand_as(v), kappa[rows, columns]
        )
        common[rows, columns] = root
        common[columns, rows] = root
    return common, soft_threshold(values - common, tau)


def _smallest_root(v: Tensor, tau: Tensor, kappa: Tensor) -> Tensor:
    r"""The smallest a with :math:`\sum_c clip(v_c - a, \pm\tau_c) \le \kappa`.

    All of shape (C, m) but kappa (m,); the sum at ``a = 0`` is above kappa.
    """
    points, order = torch.cat([v - tau, v + tau]).sort(0)
    turn = torch.where(order < v.shape[0], -1.0, 1.0).to(v)
    slope = turn.cumsum(0)
    # The sum at each breakpoint: from the left it is sum(tau), then it falls.
    fall = slope[:-1] * points.diff(dim=0)
    height = torch.cat([tau.sum(0, keepdim=True), fall]).cumsum(0)
    # Between the first breakpoint at or below kappa and the one before it.
    last = (height <= kappa).to(torch.int8).argmax(0).clamp_min(1)[None]
    before = last - 1
    left = points.gather(0, before)
    drop = -slope.gather(0, before)
    root = left + (height.gather(0, before) - kappa) / drop
    # A flat stretch (drop = 0) is only met where rounding put the level on it.
    return torch.where(drop > 0, root, left).clamp_min(0).squeeze(0)


def _split_group(values: Tensor, kappa: Tensor, tau: Tensor) -> tuple[Tensor, Tensor]:
    r"""The update for the group norm, in closed form.

    With the mean :math:`\bar v`, :math:`D^2 = \sum_c (v_c - \bar v)^2` and
    :math:`u = \bar v - a`, the residual's sum is
    :math:`C u \min(1, \tau / \sqrt{C u^2 + D^2})`, increasing in u; a is zero if the
    sum at :math:`u = \bar v` is within kappa, else u solves sum = kappa.
    """
    n_classes = values.shape[0]
    tau = tau[0]
    mean = values.mean(0)
    spread = ((values - mean) ** 2).sum(0)
    norm = torch.sqrt(n_classes * mean**2 + spread)
    total = n_classes * mean.abs() * (tau / norm.clamp_min(1e-300)).clamp_max(1)
    inside = kappa / n_classes
    room = n_classes**2 * tau**2 - n_classes * kappa**2
    outside = kappa * torch.sqrt(spread / room.clamp_min(1e-300))
    shrink = torch.where(n_classes * inside**2 + spread <= tau**2, inside, outside)
    common = torch.where(total > kappa, soft_threshold(mean, shrink), 0)
    rest = values - common
    size = torch.linalg.vector_norm(rest, dim=0)
    # Exactly zero where the norm is at most tau, also where both are zero.
    keep = torch.where(size > tau, 1 - tau / size.clamp_min(1e-300), 0)
    return common, rest * keep


def split_exactly(precision: Tensor, penalty: Penalty) -> tuple[Tensor, Tensor]:
    r"""The cheapest split of given precisions: ``A + B = precision`` exactly.

    With absolute values A is entrywise the weighted median of zero and the classes'
    entries, with weights :math:`\Lambda^A` and :math:`\Lambda^B_c`; ties go to the
    smallest absolute value.
    """
    if penalty.specific is None:
        common = precision.mean(0)
        specific = torch.zeros_like(precision)
        diagonal = (precision - common).diagonal(dim1=-2, dim2=-1)
        specific.diagonal(dim1=-2, dim2=-1).copy_(diagonal)
        return common, specific
    common = torch.zeros_like(penalty.common)
    rows, columns = torch.triu((precision != 0).any(0), 1).nonzero(as_tuple=True)
    v = precision[:, rows, columns]
    weight = penalty.specific[:, rows, columns]
    level = penalty.common[rows, columns]
    entries = (
        _split_norm(v, level, weight[0])
        if penalty.group
        else _weighted_median(v, level, weight.expand_as(v))
    )
    common[rows, columns] = entries
    common[columns, rows] = entries
    common.diagonal().copy_(precision.diagonal(dim1=-2, dim2=-1).mean(0))
    return common, precision - common


def _split_norm(v: Tensor, level: Tensor, weight: Tensor) -> Tensor:
    n_classes = v.shape[0]
    # The mean of equal entries is off by rounding, which would be an edge.
    mean = torch.where((v == v[0]).all(0), v[0], v.mean(0))
    spread = ((v - mean) ** 2).sum(0)
    room = (n_classes * weight) ** 2 - n_classes * level**2
    shrink = torch.where(
        room > 0, level * torch.sqrt(spread / room.clamp_min(1e-300)), math.inf
    )
    # Equal entries: all of it is common if that is the cheaper way to pay.
    return soft_threshold(mean, torch.where(spread > 0, shrink, 0 * level)) * (
        (level < math.sqrt(n_classes) * weight) | (level == 0)
    )


def _weighted_median(v: Tensor, level: Tensor, weight: Tensor) -> Tensor:
    # Signs so that the pull of the classes is upwards; a is then the smallest value at
    # which the classes at or below it outweigh those above, less the pull to zero.
    pull = (weight * v.sign()).sum(0)
    sign = torch.where(pull < 0, -1.0, 1.0).to(v)
    # Weights whose sums are equal but for rounding tie.
    level = level + TIE * (level + weight.sum(0))
    active = pull.abs() > level + (weight * (v == 0)).sum(0)
    points, order = (v * sign).sort(0)
    sorted_weight = weight.gather(0, order)
    above = sorted_weight.sum(0) - 2 * sorted_weight.cumsum(0)
    enough = (above <= level) & (points > 0)
    first = enough.to(torch.int8).argmax(0)[None]
    median = points.gather(0, first).squeeze(0) * sign
    return torch.where(active, median, 0)


# Range of penalties, screening --------------------------------------------------------


def smallest_edgeless(
    covariance: Tensor, class_weight: Tensor, penalty: Penalty
) -> float:
    r"""The factor on both penalties from which on the solution has no edge.

    Zero off-diagonal solutions are optimal iff :math:`Y_c = -t_c S_c` is feasible.
    """
    pull = class_weight[:, None, None] * covariance
    off = ~torch.eye(pull.shape[-1], dtype=torch.bool, device=pull.device)
    ratios = [(pull.sum(0).abs() / penalty.common)[off]]
    if penalty.specific is not None:
        size = pull.norm(dim=0, keepdim=True) if penalty.group else pull.abs()
        ratios.append((size / penalty.specific)[:, off].flatten())
    ratio = torch.cat(ratios)
    # 0 / 0: an unpenalised pair without correlation asks for nothing.
    return (
        float(ratio.nan_to_num(nan=0.0, posinf=math.inf).max()) if len(ratio) else 0.0
    )


def is_connected(covariance: Tensor, class_weight: Tensor, penalty: Penalty) -> Tensor:
    r"""Pairs that keep an edge in the graph whose components split the problem.

    i and j are joined if :math:`-t_c S_{c,ij}` is outside the dual's feasible set; the
    components are exactly those of the solution's union graph. Works on any rectangle
    of the matrices: ``(C, a, b)`` with penalties to match gives ``(a, b)``.
    """
    pull = class_weight[:, None, None] * covariance
    joined = pull.sum(0).abs() > penalty.common
    if penalty.specific is not None:
        size = pull.norm(dim=0, keepdim=True) if penalty.group else pull.abs()
        joined = joined | (size > penalty.specific).any(0)
    return joined
