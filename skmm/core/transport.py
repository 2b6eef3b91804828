r"""Entropic optimal transport between the prototypes of any number of modalities.

Modality m has prototypes with masses :math:`\nu_m`, and a tuple of prototypes, one a
modality, has the cost :math:`C(k_1..k_M) = \sum_{i<j} C_{ij}(k_i, k_j)`. The plan is

.. math:: \min_{T \ge 0} \langle T, C \rangle + \lambda \sum T \log T
          \quad\text{s.t. the m-th marginal of } T \text{ is } \nu_m

(Qian et al., "DecAlign", 2025). Its dual,

.. math:: \max_f \sum_m \langle f_m, \nu_m \rangle
          - \lambda \log \sum_k
            \exp \Big( \tfrac1\lambda \big(\textstyle\sum_m f_m(k_m) - C(k)\big) \Big),

is smooth and concave with one unknown a prototype; the plan is the normalised
exponential, so that its mass is one whether or not f is optimal. Coordinate ascent is
Sinkhorn's sweep. The Hessian is that of a log-partition function, made of the plan's
marginals of one and of two modalities, so Newton's steps cost little more than sweeps.

With relaxed marginals (`rho`) the problem is

.. math:: \min_T \langle T, C \rangle + \lambda \big(\sum T (\log T - 1) + 1\big)
          + \rho \sum_m \mathrm{KL}(T_m \| \nu_m)

with the KL divergence of unnormalised measures; both agree as :math:`\rho` grows.

Squared distances have a second form without the :math:`K^M` tensor: since
:math:`\sum_{i<j} \|x_i - x_j\|^2 = \min_a M \sum_i \|x_i - a\|^2`, the problem is that
of a barycentre (Agueh & Carlier, 2011). With S atoms a it costs O(M K S) a sweep.

The relative scale of :math:`\lambda`, Newton's steps, the relaxed marginals and the
barycentre form are ours.
"""

import itertools
import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor

__all__ = [
    "Plan",
    "StarPlan",
    "TransportWarning",
    "bures_cost",
    "conditional",
    "envelope_value",
    "full_bures_cost",
    "gaussian_points",
    "joint_cost",
    "multi_marginal_sinkhorn",
    "star_transport",
    "transport_between",
]

Reduction = Literal["sum", "mean"]
Scale = Literal["mean_cost", "absolute"]

NEWTON_UP_TO = 1500  # unknowns; above, factorising the Hessian costs more than sweeps
ANNEAL_ABOVE = 60.0  # spread of the costs in units of lambda
ANNEAL_FACTOR = 4.0
ANNEAL_TOL = 0.01
DAMPINGS = (1e-12, 1e-10, 1e-8, 1e-6, 1e-4)  # of a unit diagonal, until it factorises
LONGEST_STEP = 10.0  # of a log-potential
STD_FLOOR = 1e-4  # of the largest standard deviation
ON_CPU_UP_TO = 2**18  # entries; smaller problems wait for a GPU's launches


class TransportWarning(RuntimeWarning):
    """A transport plan that stopped before its marginals were met."""


# ---------------------------------------------------------------------------- costs


def _root(var: Tensor, floor: Tensor) -> Tensor:
    """Square roots whose derivative is that of at least `floor`.

    The derivative of a root has no bound at zero, and one collapsed dimension would
    outweigh all others. Values are exact: the floor is in the derivative alone.
    """
    value = var.detach().sqrt()
    slope = 2 * torch.maximum(value, floor)
    # Where every variance is zero so is the floor, and any finite slope will do.
    slope = torch.where(slope > 0, slope, 1)
    return value + (var - var.detach()) / slope


def _std_floor(variances: Sequence[Tensor]) -> Tensor:
    tops = [var.detach().amax() for var in variances]
    return STD_FLOOR * torch.stack(tops).amax().sqrt()


def _per_dimension(reduction: str, n_dims: int) -> float:
    if reduction not in ("sum", "mean"):
        raise ValueError(
            f"reduction must be 'sum' or 'mean', got {reduction!r}: 'mean' divides the "
            "cost by the number of dimensions"
        )
    return 1.0 if reduction == "sum" else 1.0 / max(n_dims, 1)


def squared_distances(x: Tensor, y: Tensor) -> Tensor:
    """Squared Euclidean distances ``(K, K')`` of the rows.

    From differences and not from products: zero for equal rows, never negative, and
    no digits lost far from the origin.
    """
    return (x[:, None] - y[None]).square().sum(-1)


def gaussian_points(
    means: Sequence[Tensor], variances: Sequence[Tensor], reduction: Reduction = "sum"
) -> list[Tensor]:
    r"""Points :math:`\phi = [\mu; \sqrt v]` whose squared distances are Bures costs.

    Parameters
    ----------
    means, variances : sequence of M Tensors of shape (K_m, d)
        Diagonal Gaussians of each modality.
    reduction : {"sum", "mean"}, default="sum"
        "mean" divides the points by :math:`\sqrt d`, hence the cost by d.

    Returns
    -------
    points : list of M Tensors of shape (K_m, 2 d)
        With gradients in means and variances.

    Examples
    --------
    >>> import torch
    >>> from skmm.core.transport import gaussian_points, squared_distances
    >>> (x, y) = gaussian_points([torch.zeros(1, 2)] * 2, [torch.ones(1, 2)] * 2)
    >>> squared_distances(x, y)
    tensor([[0.]])
    """
    scale = math.sqrt(_per_dimension(reduction, means[0].shape[-1]))
    floor = _std_floor(variances)
    return [
        torch.cat([mean, _root(var, floor)], -1) * scale
        for mean, var in zip(means, variances, strict=True)
    ]


def bures_cost(
    mean_i: Tensor,
    var_i: Tensor,
    mean_j: Tensor,
    var_j: Tensor,
    reduction: Reduction = "sum",
) -> Tensor:
    r"""Squared 2-Wasserstein distances of diagonal Gaussians.

    .. math:: C(k, l) = \sum_d (\mu_{kd} - \mu'_{ld})^2
              + (\sqrt{v_{kd}} - \sqrt{v'_{ld}})^2

    Zero for equal components and never negative. The derivative of a root is taken at
    no less than 1e-4 of the largest standard deviation, so gradients stay finite at
    variances of zero.

    Parameters
    ----------
    mean_i, var_i : Tensor of shape (K_i, d)
        Components of one modality.
    mean_j, var_j : Tensor of shape (K_j, d)
        Those of another.
    reduction : {"sum", "mean"}, default="sum"
        Over the dimensions; the paper's is "sum".

    Returns
    -------
    cost : Tensor of shape (K_i, K_j)
        In squared units of the means.

    Examples
    --------
    >>> import torch
    >>> from skmm.core.transport import bures_cost
    >>> mean, var = torch.tensor([[0.0], [3.0]]), torch.tensor([[1.0], [4.0]])
    >>> bures_cost(mean, var, mean, var)
    tensor([[ 0., 10.],
            [10.,  0.]])
    """
    x, y = gaussian_points([mean_i, mean_j], [var_i, var_j])
    return squared_distances(x, y) * _per_dimension(reduction, mean_i.shape[-1])


def full_bures_cost(
    mean_i: Tensor,
    cov_i: Tensor,
    mean_j: Tensor,
    cov_j: Tensor,
    reduction: Reduction = "sum",
) -> Tensor:
    r"""Squared 2-Wasserstein distances of Gaussians with full covariances.

    .. math:: C(k, l) = \|\mu_k - \mu'_l\|^2
              + \mathrm{Tr}(A + B - 2 (A^{1/2} B A^{1/2})^{1/2})

    with A, B the covariances. The second term is the smallest squared distance
    :math:`\min_R \|L_A - L_B R\|_F^2` of their Cholesky factors over orthogonal R: a
    sum of squares, and with the best R held fixed its gradient is exact and needs no
    derivative of a singular value decomposition.

    Parameters
    ----------
    mean_i : Tensor of shape (K_i, d)
        Means of one modality's components.
    cov_i : Tensor of shape (K_i, d, d)
        Positive definite.
    mean_j : Tensor of shape (K_j, d)
        Means of another's.
    cov_j : Tensor of shape (K_j, d, d)
        Positive definite.
    reduction : {"sum", "mean"}, default="sum"
        "mean" divides by d.

    Returns
    -------
    cost : Tensor of shape (K_i, K_j)
        In squared units of the means.

    Examples
    --------
    >>> import torch
    >>> from skmm.core.transport import full_bures_cost
    >>> mean, cov = torch.zeros(1, 2), torch.eye(2)[None]
    >>> full_bures_cost(mean, cov, mean, 4 * cov)
    tensor([[2.]])
    """
    factor_i, factor_j = (_cholesky(cov)[..., :, :] for cov in (cov_i, cov_j))
    left, right = factor_i[:, None], factor_j[None]
    with torch.no_grad():
        u, _, vh = torch.linalg.svd(right.mT @ left)
        rotation = u @ vh
    shape_cost = (left - right @ rotation).square().sum((-1, -2))
    cost = squared_distances(mean_i, mean_j) + shape_cost
    return cost * _per_dimension(reduction, mean_i.shape[-1])


def _cholesky(cov: Tensor) -> Tensor:
    factor, info = torch.linalg.cholesky_ex(cov)
    if bool((info > 0).any()):
        bad = torch.nonzero(info)[:, 0].tolist()
        raise ValueError(
            "covariances must be positive definite, those of components "
            f"{bad} are not: add a small multiple of the identity"
        )
    return factor


def joint_cost(
    pairwise: Mapping[tuple[int, int], Tensor], sizes: Sequence[int]
) -> Tensor:
    r"""The cost of a tuple of prototypes, :math:`\sum_{i<j} C_{ij}(k_i, k_j)`.

    Parameters
    ----------
    pairwise : mapping from (i, j), i < j, to Tensor of shape (K_i, K_j)
        A pair that is left out costs nothing.
    sizes : sequence of M ints
        :math:`K_1..K_M`.

    Returns
    -------
    cost : Tensor of shape (K_1, ..., K_M)
        An axis a modality.

    Examples
    --------
    >>> import torch
    >>> from skmm.core.transport import joint_cost
    >>> pairwise = {(0, 1): torch.ones(2, 3), (1, 2): torch.ones(3, 1)}
    >>> joint_cost(pairwise, (2, 3, 1)).sum()
    tensor(12.)
    """
    sizes = tuple(sizes)
    some = next(iter(pairwise.values()), None)
    total = (some.new_zeros(()) if some is not None else torch.zeros(())).expand(sizes)
    for (i, j), cost in pairwise.items():
        if not 0 <= i < j < len(sizes) or cost.shape != (sizes[i], sizes[j]):
            raise ValueError(
                f"pairwise[{i}, {j}] must have i < j and the sizes of these two among "
                f"{sizes}, got shape {tuple(cost.shape)}"
            )
        shape = [1] * len(sizes)
        shape[i], shape[j] = cost.shape
        total = total + cost.reshape(shape)
    return total


# --------------------------------------------------------------- marginals and scale


@dataclass(frozen=True)
class _Marginals:
    """The masses of all modalities in one vector, without the components of no mass."""

    mass: Tensor  # (n,)
    log_mass: Tensor  # (n,)
    sizes: tuple[int, ...]
    of_modality: Tensor  # (n, M), 0 or 1
    alive: tuple[Tensor, ...] | None  # places of the components kept; None for all
    full_sizes: tuple[int, ...]

    @property
    def slices(self) -> list[slice]:
        ends = [0]
        for size in self.sizes:
            ends.append(ends[-1] + size)
        return [slice(*pair) for pair in itertools.pairwise(ends)]

    def split(self, flat: Tensor) -> tuple[Tensor, ...]:
        return flat.split(self.sizes)

    def restore(self, flat: Tensor, fill: float) -> tuple[Tensor, ...]:
        """One tensor a modality, with `fill` for the components of no mass."""
        parts = self.split(flat)
        if self.alive is None:
            return parts
        out = []
        for part, places, size in zip(parts, self.alive, self.full_sizes, strict=True):
            whole = part.new_full((size, *part.shape[1:]), fill)
            whole[places] = part
            out.append(whole)
        return tuple(out)


def _check_marginals(
    marginals: Sequence[Tensor], sizes: Sequence[int], device: torch.device, total: bool
) -> _Marginals:
    if len(marginals) != len(sizes):
        raise ValueError(
            f"marginals must be {len(sizes)} vectors, one a modality, got "
            f"{len(marginals)}"
        )
    parts = []
    for m, (part, size) in enumerate(zip(marginals, sizes, strict=True)):
        if part.shape != (size,):
            raise ValueError(
                f"marginals[{m}] must have shape ({size},), got {tuple(part.shape)}"
            )
        parts.append(part.detach().to(device, torch.float64))
    mass = torch.cat(parts)
    lowest = mass.amin().item() if mass.numel() else math.nan
    if not (lowest >= 0 and math.isfinite(mass.amax().item())):
        raise ValueError(
            "marginals must be finite and not negative, "
            f"got {lowest} to {mass.amax().item() if mass.numel() else math.nan}"
        )
    alive = None
    full_sizes = kept = tuple(sizes)
    if lowest == 0:
        alive = tuple(torch.nonzero(part)[:, 0] for part in parts)
        parts = [part[places] for part, places in zip(parts, alive, strict=True)]
        mass, kept = torch.cat(parts), tuple(map(len, parts))
    labels = torch.arange(len(kept), device=device).repeat_interleave(
        torch.tensor(kept, device=device)
    )
    of_modality = torch.nn.functional.one_hot(labels, len(kept)).double()
    sums = mass @ of_modality
    if min(kept) == 0 or (total and bool(((sums - 1).abs() > 1e-4).any())):
        raise ValueError(
            f"each of the marginals must sum to one, got {sums.tolist()}: divide them "
            "by their sums, or relax them with rho"
        )
    if total:
        mass = mass / sums[labels]
    return _Marginals(mass, mass.log(), kept, of_modality, alive, full_sizes)


def _strengths(
    reg: float, rho: float | None, reg_scale: str, mean_cost: float, largest: float
) -> tuple[float, float | None, float | None]:
    """Lambda and rho in units of the cost, and rho / lambda."""
    if reg_scale not in ("mean_cost", "absolute"):
        raise ValueError(
            f"reg_scale must be 'mean_cost' or 'absolute', got {reg_scale!r}"
        )
    if not (reg > 0 and math.isfinite(reg)):
        raise ValueError(f"reg must be positive and finite, got {reg}")
    if rho is not None and not (rho > 0 and math.isfinite(rho)):
        raise ValueError(
            f"rho must be positive and finite, got {rho}: None keeps the marginals"
        )
    if not math.isfinite(largest):
        raise ValueError("cost must be finite, got NaN or infinity")
    ratio = None if rho is None else rho / reg
    if reg_scale == "absolute":
        return reg, rho, ratio
    if mean_cost < 0 or (mean_cost == 0 and largest > 0):
        raise ValueError(
            "cost must be non-negative under reg_scale='mean_cost', its mean is "
            f"{mean_cost}: add a constant, or use reg_scale='absolute'"
        )
    # Costs that are all zero give a lambda of zero; the plan depends on rho / lambda.
    return reg * mean_cost, None if rho is None else rho * mean_cost, ratio


def _work_device(tensor: Tensor, entries: int) -> torch.device:
    # Apple's GPUs have no float64.
    small = entries <= ON_CPU_UP_TO or tensor.device.type == "mps"
    return torch.device("cpu") if small else tensor.device


# ------------------------------------------------------------------ the two oracles


class _Oracle(Protocol):
    """The exponential family of plans, at the log-potentials of the last `set`."""

    spread: float

    def scale(self, reg: float) -> None: ...
    def set(self, g: Tensor) -> None: ...
    def log_marginal(self, m: int) -> Tensor: ...
    def shift(self, m: int, delta: Tensor) -> None: ...
    def evaluate(self) -> tuple[float, Tensor]: ...
    def couplings(self) -> Tensor: ...


class _Dense:
    """All tuples: weights ``exp(sum_m g_m(k_m) - C(k) / reg)``."""

    def __init__(self, cost: Tensor, slices: list[slice]) -> None:
        self.cost, self.slices = cost, slices
        M = cost.ndim
        self.axes = [tuple(j for j in range(M) if j != m) for m in range(M)]
        self.spread = (cost.amax() - cost.amin()).item()

    def scale(self, reg: float) -> None:
        self.scaled = self.cost / reg if reg > 0 else torch.zeros_like(self.cost)

    def set(self, g: Tensor) -> None:
        total = g[self.slices[-1]]
        for part in self.slices[-2::-1]:
            total = g[part].view(-1, *[1] * total.ndim) + total
        self.logits = total - self.scaled

    def log_marginal(self, m: int) -> Tensor:
        axes = self.axes[m]
        return torch.logsumexp(self.logits, axes) if axes else self.logits.clone()

    def shift(self, m: int, delta: Tensor) -> None:
        self.logits += delta.view(-1, *[1] * (self.logits.ndim - 1 - m))

    def evaluate(self) -> tuple[float, Tensor]:
        top = self.logits.amax()
        self.plan = (self.logits - top).exp_()
        mass = self.plan.sum()
        self.plan /= mass
        marginals = [self.plan.sum(axes) if axes else self.plan for axes in self.axes]
        return (top + mass.log()).item(), torch.cat(marginals)

    def couplings(self) -> Tensor:
        n = self.slices[-1].stop
        out = self.plan.new_zeros(n, n)
        M = self.plan.ndim
        for i in range(M):
            for j in range(i + 1, M):
                axes = tuple(m for m in range(M) if m not in (i, j))
                pair = self.plan.sum(axes) if axes else self.plan
                out[self.slices[i], self.slices[j]] = pair
                out[self.slices[j], self.slices[i]] = pair.mT
        return out


class _Star:
    """Tuples with an atom: weights ``1/S exp(sum_m g_m(k_m) - C_m(k_m, s) / reg)``.

    Modalities of fewer components are filled up with ones of infinite cost.
    """

    def __init__(self, nu: "_Marginals", n_atoms: int) -> None:
        self.sizes, self.n_atoms = nu.sizes, n_atoms
        M, most = len(self.sizes), max(self.sizes)
        place = [m * most + k for m, size in enumerate(self.sizes) for k in range(size)]
        self.place = torch.tensor(place, device=nu.mass.device)
        self.same = len(place) == M * most
        self.padded = nu.mass.new_full((M * most, n_atoms), math.inf)
        self.across = 1 - nu.of_modality @ nu.of_modality.mT

    def set_costs(self, costs: Tensor) -> None:
        """Of all prototypes at all atoms, ``(n, S)``."""
        widths = costs.amax(1) - costs.amin(1)
        self.spread = widths.amax().item() * len(self.sizes)
        if not self.same:
            costs = self.padded.index_copy_(0, self.place, costs)
        self.cost = costs.view(len(self.sizes), -1, self.n_atoms)

    def scale(self, reg: float) -> None:
        if reg > 0:
            self.scaled = self.cost / reg
        else:
            self.scaled = torch.where(self.cost.isinf(), self.cost, 0.0)

    def set(self, g: Tensor) -> None:
        M, most, _ = self.cost.shape
        if not self.same:
            g = g.new_zeros(M * most).index_copy_(0, self.place, g)
        self.logits = g.view(M, most, 1) - self.scaled
        self.given_atom = torch.logsumexp(self.logits, 1)

    def _atoms(self) -> Tensor:
        return self.given_atom.sum(0) - math.log(self.n_atoms)

    def log_marginal(self, m: int) -> Tensor:
        others = self._atoms() - self.given_atom[m]
        return torch.logsumexp(self.logits[m, : self.sizes[m]] + others, 1)

    def shift(self, m: int, delta: Tensor) -> None:
        self.logits[m, : len(delta)] += delta[:, None]
        self.given_atom[m] = torch.logsumexp(self.logits[m], 0)

    def evaluate(self) -> tuple[float, Tensor]:
        atoms = self._atoms()
        log_mass = torch.logsumexp(atoms, 0)
        self.weights = (atoms - log_mass).exp_()
        given = (self.logits - self.given_atom[:, None]).exp_()
        self.given = given.view(-1, self.n_atoms)
        if not self.same:
            self.given = self.given[self.place]
        return log_mass.item(), self.given @ self.weights

    def means(self, points: Tensor) -> Tensor:
        """What each atom holds of each modality, on average, ``(M, S, D)``."""
        parts = zip(self.given.split(self.sizes), points.split(self.sizes), strict=True)
        return torch.stack([part.mT @ x for part, x in parts])

    def couplings(self) -> Tensor:
        return ((self.given * self.weights) @ self.given.mT).mul_(self.across)


# -------------------------------------------------------------------- the dual ascent


@dataclass(frozen=True)
class _Point:
    """Log-potentials ``g = f / lambda`` and what the plan there looks like."""

    g: Tensor
    log_mass: float
    marginals: Tensor  # of the plan divided by its mass
    target: Tensor  # what they should be
    gradient: Tensor
    residual: float


@dataclass(frozen=True)
class _Dual:
    """The dual in units of lambda; `ratio` is rho / lambda, None where balanced."""

    oracle: _Oracle
    nu: _Marginals
    ratio: float | None

    def look(self, g: Tensor) -> _Point:
        """Evaluate; the oracle is at g already."""
        log_mass, marginals = self.oracle.evaluate()
        target = self.nu.mass
        if self.ratio is not None:
            # The bound keeps a far start finite.
            log_target = self.nu.log_mass - g / self.ratio - log_mass
            target = log_target.clamp(max=200.0).exp_()
        gradient = target - marginals
        residual = (gradient.abs() @ self.nu.of_modality).amax().item()
        return _Point(g, log_mass, marginals, target, gradient, residual)

    def sweep(self, g: Tensor) -> _Point:
        """Sinkhorn's sweep: each modality's potential to its maximum, in turn."""
        g = g.clone()
        for m, part in enumerate(self.nu.slices):
            delta = self.nu.log_mass[part] - self.oracle.log_marginal(m)
            if self.ratio is not None:
                tau = self.ratio / (self.ratio + 1)
                delta = tau * delta + (tau - 1) * g[part]
            self.oracle.shift(m, delta)
            g[part] += delta
        return self.look(g)

    def gain(self, old: _Point, new: _Point) -> float:
        """How much the dual grew, in units of the old plan's mass."""
        step, growth = new.g - old.g, new.log_mass - old.log_mass
        if self.ratio is None:
            return torch.dot(self.nu.mass, step).item() - growth
        relaxed = torch.dot(old.target, torch.expm1(-step / self.ratio)).item()
        return -self.ratio * relaxed - math.expm1(min(growth, 700.0))

    def direction(self, point: _Point) -> Tensor | None:
        """Newton's direction, on unknowns scaled to a Hessian of unit diagonal."""
        hessian = self.oracle.couplings()
        diagonal = point.marginals
        if self.ratio is not None:
            diagonal = diagonal + point.target / self.ratio
        hessian.diagonal().add_(diagonal)
        # Scaled by the target where the plan lacks mass: there the quadratic model
        # asks for far too long a step.
        scale = torch.maximum(diagonal, point.target).clamp(min=1e-290).rsqrt()
        hessian *= scale[:, None] * scale
        # Kept marginals leave it singular: potentials may be shifted against each
        # other. The gradient has no such part, so a trace of damping settles it.
        for damping in DAMPINGS:
            hessian.diagonal().add_(damping)
            factor, info = torch.linalg.cholesky_ex(hessian)
            if info.item() == 0:
                right = (scale * point.gradient)[:, None]
                return torch.cholesky_solve(right, factor)[:, 0] * scale
        return None

    def newton(self, point: _Point, noise: float) -> _Point | None:
        """A step that raises the dual, or None where none was found."""
        d = self.direction(point)
        if d is None:
            return None
        slope = torch.dot(point.gradient, d).item()
        longest = d.abs().amax().item()
        if not (slope > 0 and math.isfinite(longest)):
            return None
        step = min(1.0, LONGEST_STEP / longest)
        for _ in range(4):
            new = self.try_step(point, step * d)
            rises = self.gain(point, new) >= 1e-4 * step * slope - noise
            if rises and math.isfinite(new.residual):
                return self.lengthen(point, new, d, step)
            step /= 4
        self.oracle.set(point.g)
        return None

    def try_step(self, point: _Point, d: Tensor) -> _Point:
        g = point.g + d
        self.oracle.set(g)
        return self.look(g)

    def lengthen(self, point: _Point, new: _Point, d: Tensor, step: float) -> _Point:
        """Go on along a direction while the dual grows, at most as far as Newton says.

        Where parts of the plan have come apart the dual rises in a straight line, over
        as many lambda as the costs are wide.
        """
        gain = self.gain(point, new)
        while step < 1:
            step = min(1.0, 4 * step)
            further = self.try_step(point, step * d)
            grown = self.gain(point, further)
            if not (grown > gain and math.isfinite(further.residual)):
                return self.try_step(new, torch.zeros_like(d))
            new, gain = further, grown
        return new

    def ascend(
        self, g: Tensor, tol: float, max_iter: int, use_newton: bool, noise: float
    ) -> tuple[_Point, int]:
        """Sweeps and Newton steps until the marginals are met."""
        self.oracle.set(g)
        point = self.look(g)
        n_iter, swept = 0, False
        while point.residual > tol or not math.isfinite(point.residual):
            if n_iter >= max_iter:
                break
            n_iter += 1
            # A sweep mends large errors at once, Newton the small ones.
            if use_newton and (swept or point.residual < 0.1):
                new = self.newton(point, noise)
                if new is not None:
                    point, swept = new, new.residual > 0.3
                    continue
            point, swept = self.sweep(point.g), True
        return point, n_iter


def _solve(
    oracle: _Oracle,
    nu: _Marginals,
    reg: float,
    ratio: float | None,
    start: Tensor | None,
    tol: float,
    max_iter: int,
    newton: bool,
) -> tuple[_Dual, _Point, int]:
    """Ascend the dual, over a falling lambda where the costs are many lambda wide."""
    use_newton = newton and len(nu.mass) <= NEWTON_UP_TO
    dual = _Dual(oracle, nu, ratio)
    spread = oracle.spread / reg if reg > 0 else 0.0
    noise = 1e-15 * (spread + 10.0)
    g = torch.zeros_like(nu.mass)
    spent = 0
    if start is not None and reg > 0:
        g = start / reg
        limit = 10 if spread > ANNEAL_ABOVE else max_iter
        oracle.scale(reg)
        point, spent = dual.ascend(g, tol, min(limit, max_iter), use_newton, noise)
        if point.residual <= tol or spent >= max_iter:
            return dual, point, spent
        g = torch.zeros_like(nu.mass)
    if spread > ANNEAL_ABOVE:
        n_stages = math.ceil(math.log(spread / ANNEAL_ABOVE) / math.log(ANNEAL_FACTOR))
        for stage in range(n_stages, 0, -1):
            factor = ANNEAL_FACTOR**stage
            oracle.scale(reg * factor)
            coarse = replace(dual, ratio=None if ratio is None else ratio / factor)
            point, n_iter = coarse.ascend(
                g, max(ANNEAL_TOL, tol), 20, use_newton, noise
            )
            spent += n_iter
            g = point.g * ANNEAL_FACTOR
    oracle.scale(reg)
    point, n_iter = dual.ascend(g, tol, max_iter, use_newton, noise)
    return dual, point, spent + n_iter


def _warm(start: Sequence[Tensor], nu: _Marginals) -> Tensor:
    """Earlier potentials as one vector; a component that had no mass gets the least."""
    if [len(part) for part in start] != list(nu.full_sizes):
        raise ValueError(
            f"potentials must have lengths {list(nu.full_sizes)}, got "
            f"{[len(part) for part in start]}"
        )
    parts = []
    for m, part in enumerate(start):
        kept = part.detach().to(nu.mass.device, torch.float64)
        if nu.alive is not None:
            kept = kept[nu.alive[m]]
        finite = kept.isfinite()
        if not bool(finite.all()):
            least = kept[finite].amin() if bool(finite.any()) else kept.new_zeros(())
            kept = torch.where(finite, kept, least)
        parts.append(kept)
    return torch.cat(parts)


# ----------------------------------------------------------------------- the results


@dataclass(frozen=True)
class Solution:
    r"""What a plan over all tuples and one through atoms have in common.

    Attributes
    ----------
    potentials : tuple of M Tensors of shape (K_m,)
        Dual variables f, in units of the cost, shifted to equal
        :math:`\langle f_m, \nu_m \rangle` if the marginals are kept. Minus infinity
        where the marginal is zero.
    reg : float
        The :math:`\lambda` used.
    rho : float or None
        The strength of the marginals that was used.
    value : Tensor, scalar
        The regularised value, by the dual: at convergence
        :math:`\langle T, C \rangle + \lambda \sum T \log T`, plus the divergences of
        relaxed marginals; before that a lower bound.
    transport_cost : Tensor, scalar
        :math:`\langle T, C \rangle = \sum_{i<j} \langle T_{ij}, C_{ij} \rangle`.
    residual : float
        The largest L1 violation of a marginal, relative to the plan's mass.
    n_iter : int
        Sweeps and Newton steps taken.
    converged : bool
        Whether the residual is within the tolerance.
    """

    potentials: tuple[Tensor, ...]
    reg: float
    rho: float | None
    value: Tensor
    transport_cost: Tensor
    residual: float
    n_iter: int
    converged: bool

    @property
    def mass_gradients(self) -> tuple[Tensor, ...]:
        r"""The value's derivative by each marginal, up to a constant.

        The potential f, or :math:`\rho (1 - e^{-f/\rho})` with relaxed marginals. Zero
        where the marginal is zero, as if that component were not there.
        """
        alive = [torch.where(f.isinf(), 0.0, f) for f in self.potentials]
        if self.rho is None or self.rho == 0:
            return tuple(alive)
        return tuple(-self.rho * torch.expm1(-f / self.rho) for f in alive)


@dataclass(frozen=True)
class Plan(Solution):
    r"""A transport plan over all tuples of prototypes.

    What `multi_marginal_sinkhorn` returns.

    Parameters
    ----------
    potentials : tuple of M Tensors of shape (K_m,)
        Dual variables f, in units of the cost, shifted to equal
        :math:`\langle f_m, \nu_m \rangle` if the marginals are kept. Minus infinity
        where the marginal is zero.
    reg : float
        The :math:`\lambda` used.
    rho : float or None
        The strength of the marginals that was used.
    value : Tensor, scalar
        The regularised value, by the dual: at convergence
        :math:`\langle T, C \rangle + \lambda \sum T \log T`, plus the divergences of
        relaxed marginals; before that a lower bound.
    transport_cost : Tensor, scalar
        :math:`\langle T, C \rangle = \sum_{i<j} \langle T_{ij}, C_{ij} \rangle`.
    residual : float
        The largest L1 violation of a marginal, relative to the plan's mass.
    n_iter : int
        Sweeps and Newton steps taken.
    converged : bool
        Whether the residual is within the tolerance.
    plan : Tensor of shape (K_1, ..., K_M)
        Carries no graph.

    Examples
    --------
    >>> import torch
    >>> from skmm.core.transport import multi_marginal_sinkhorn
    >>> half = torch.tensor([0.5, 0.5])
    >>> plan = multi_marginal_sinkhorn(torch.eye(2), [half, half])
    >>> plan.pairwise(0, 1).round(decimals=3)
    tensor([[0.0000, 0.5000],
            [0.5000, 0.0000]])
    """

    plan: Tensor

    @property
    def atoms(self) -> None:
        """None: the plan has no atoms."""
        return None

    def pairwise(self, i: int, j: int) -> Tensor:
        """The marginal of two modalities.

        Parameters
        ----------
        i, j : int
            Their numbers.

        Returns
        -------
        pair : Tensor of shape (K_i, K_j)
            Diagonal where both are one modality.
        """
        if i == j:
            return torch.diag(self.marginal(i))
        axes = tuple(m for m in range(self.plan.ndim) if m not in (i, j))
        pair = self.plan.sum(axes) if axes else self.plan
        return pair if i < j else pair.mT

    def marginal(self, m: int) -> Tensor:
        """The marginal of one modality.

        Parameters
        ----------
        m : int
            Its number.

        Returns
        -------
        mass : Tensor of shape (K_m,)
            Of each prototype.
        """
        axes = tuple(j for j in range(self.plan.ndim) if j != m)
        return self.plan.sum(axes) if axes else self.plan


@dataclass(frozen=True)
class StarPlan(Solution):
    r"""A transport plan in which prototypes meet at atoms.

    They are independent given the atom. What `star_transport` returns.

    Parameters
    ----------
    potentials : tuple of M Tensors of shape (K_m,)
        Dual variables f, in units of the cost, shifted to equal
        :math:`\langle f_m, \nu_m \rangle` if the marginals are kept. Minus infinity
        where the marginal is zero.
    reg : float
        The :math:`\lambda` used.
    rho : float or None
        The strength of the marginals that was used.
    value : Tensor, scalar
        The regularised value, by the dual: at convergence
        :math:`\langle T, C \rangle + \lambda \sum T \log T`, plus the divergences of
        relaxed marginals; before that a lower bound.
    transport_cost : Tensor, scalar
        :math:`\langle T, C \rangle = \sum_{i<j} \langle T_{ij}, C_{ij} \rangle`.
    residual : float
        The largest L1 violation of a marginal, relative to the plan's mass.
    n_iter : int
        Sweeps and Newton steps taken.
    converged : bool
        Whether the residual is within the tolerance.
    atoms : Tensor of shape (S, D)
        Where they are.
    atom_weights : Tensor of shape (S,)
        The plan's mass at each atom.
    given_atom : tuple of M Tensors of shape (K_m, S)
        How the mass of each atom is shared out; columns sum to one.
    atom_cost : Tensor, scalar
        The expectation of ``M sum_i ||x_i - a||^2``, which the value holds in place
        of the transport cost and which is no less.

    Examples
    --------
    >>> import torch
    >>> from skmm.core.transport import star_transport
    >>> points = [torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [5.0]])]
    >>> half = torch.tensor([0.5, 0.5])
    >>> plan = star_transport(points, [half, half], n_atoms=2)
    >>> plan.atoms.sort(0).values.round(decimals=2)
    tensor([[0.5000],
            [4.5000]])
    """

    atoms: Tensor
    atom_weights: Tensor
    given_atom: tuple[Tensor, ...]
    atom_cost: Tensor

    def pairwise(self, i: int, j: int) -> Tensor:
        """The marginal of two modalities.

        Parameters
        ----------
        i, j : int
            Their numbers.

        Returns
        -------
        pair : Tensor of shape (K_i, K_j)
            Diagonal where both are one modality.
        """
        if i == j:
            return torch.diag(self.marginal(i))
        return (self.given_atom[i] * self.atom_weights) @ self.given_atom[j].mT

    def marginal(self, m: int) -> Tensor:
        """The marginal of one modality.

        Parameters
        ----------
        m : int
            Its number.

        Returns
        -------
        mass : Tensor of shape (K_m,)
            Of each prototype.
        """
        return self.given_atom[m] @ self.atom_weights


def _dual_value(dual: _Dual, point: _Point, reg: float, rho: float | None) -> float:
    if dual.ratio is None or rho is None:
        return reg * (torch.dot(dual.nu.mass, point.g).item() - point.log_mass)
    relaxed = torch.dot(dual.nu.mass, torch.expm1(-point.g / dual.ratio)).item()
    return -rho * relaxed - reg * math.expm1(point.log_mass)


def _potentials(
    dual: _Dual, point: _Point, reg: float, like: Tensor
) -> tuple[Tensor, ...]:
    """The potentials in units of the cost, shifted where that is free."""
    nu, g = dual.nu, point.g
    if dual.ratio is None:
        means = (nu.mass * g) @ nu.of_modality
        level = (means.sum() - point.log_mass) / len(nu.sizes)
        g = g + nu.of_modality @ (level - means)
    return tuple(part.to(like) for part in nu.restore(g * reg, -math.inf))


def _warn(solution: Solution, tol: float, spread: float) -> None:
    warnings.warn(
        f"the transport did not converge in {solution.n_iter} iterations: the largest "
        f"L1 violation of a marginal is {solution.residual:.1e}, tol={tol:.1e}. Raise "
        f"reg (lambda is {solution.reg:.1e} and the costs are {spread:.1e} wide) or "
        "max_iter",
        TransportWarning,
        stacklevel=3,
    )


# ------------------------------------------------------------------- over all tuples


def multi_marginal_sinkhorn(
    cost: Tensor,
    marginals: Sequence[Tensor],
    reg: float = 0.1,
    *,
    reg_scale: Scale = "mean_cost",
    rho: float | None = None,
    max_iter: int = 500,
    tol: float = 1e-6,
    potentials: Sequence[Tensor] | None = None,
    newton: bool = True,
    warn: bool = True,
) -> Plan:
    r"""The entropic transport plan between M sets of prototypes.

    .. math:: \min_T \langle T, C \rangle + \lambda \sum T \log T
              \quad\text{s.t. } T_m = \nu_m

    in float64 and the log domain. Where the costs are wide against :math:`\lambda`, it
    falls to its value geometrically. The balanced plan has mass one, converged or not.

    Parameters
    ----------
    cost : Tensor of shape (K_1, ..., K_M)
        M may be one. Its graph is not used; see `envelope_value`.
    marginals : sequence of M Tensors of shape (K_m,)
        Each sums to one. A component of no mass is left out.
    reg : float, default=0.1
        :math:`\lambda`, in the unit that `reg_scale` names.
    reg_scale : {"mean_cost", "absolute"}, default="mean_cost"
        Whether `reg` and `rho` are multiples of the expected cost under independence,
        which makes the plan independent of the unit of the cost, or absolute.
    rho : float or None, default=None
        Strength of the KL divergence that holds the marginals; None holds them
        exactly.
    max_iter : int, default=500
        Sweeps and Newton steps at the final :math:`\lambda`.
    tol : float, default=1e-6
        Largest L1 violation of a marginal, relative to the plan's mass.
    potentials : sequence of M Tensors of shape (K_m,) or None, default=None
        Where to start: those of a similar problem.
    newton : bool, default=True
        Whether to take Newton steps; without them this is Sinkhorn's algorithm.
    warn : bool, default=True
        Whether to give a `TransportWarning` where `max_iter` did not suffice.

    Returns
    -------
    plan : Plan
        Without a graph.

    Examples
    --------
    >>> import torch
    >>> from skmm.core.transport import multi_marginal_sinkhorn
    >>> cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]])
    >>> half = torch.tensor([0.5, 0.5])
    >>> result = multi_marginal_sinkhorn(cost, [half, half])
    >>> result.plan.round(decimals=3)
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    >>> result.converged
    True
    """
    device = _work_device(cost, cost.numel())
    nu = _check_marginals(marginals, cost.shape, device, rho is None)
    work = cost.detach().to(device, torch.float64)
    if nu.alive is not None:
        work = work[torch.meshgrid(*nu.alive, indexing="ij")]
    mean = work
    for part in reversed(nu.split(nu.mass)):
        mean = mean @ (part / part.sum() if rho is not None else part)
    largest = work.abs().amax().item()
    reg, rho, ratio = _strengths(reg, rho, reg_scale, mean.item(), largest)
    oracle = _Dense(work, nu.slices)
    start = None if potentials is None else _warm(potentials, nu)
    dual, point, n_iter = _solve(oracle, nu, reg, ratio, start, tol, max_iter, newton)
    plan = oracle.plan
    if rho is not None:
        plan = plan * math.exp(point.log_mass)
    transport_cost = (plan * work).sum()
    if nu.alive is not None:
        whole = plan.new_zeros(cost.shape)
        whole[torch.meshgrid(*nu.alive, indexing="ij")] = plan
        plan = whole
    like = cost.detach()
    result = Plan(
        potentials=_potentials(dual, point, reg, like),
        reg=reg,
        rho=rho,
        value=like.new_tensor(_dual_value(dual, point, reg, rho)),
        transport_cost=transport_cost.to(like),
        residual=point.residual,
        n_iter=n_iter,
        converged=point.residual <= tol,
        plan=plan.to(like),
    )
    if warn and not result.converged:
        _warn(result, tol, oracle.spread)
    return result


def envelope_value(
    result: Plan,
    cost: Tensor | Mapping[tuple[int, int], Tensor],
    marginals: Sequence[Tensor] | None = None,
) -> Tensor:
    r"""The regularised value as a function of the costs and the marginals.

    .. math:: \frac{\partial L}{\partial C} = T, \qquad
              \frac{\partial L}{\partial \nu_m} = f_m + \text{const}

    by the envelope theorem, so that no iteration is differentiated. The unit of
    :math:`\lambda` is a constant. Only first derivatives are right.

    Parameters
    ----------
    result : Plan
        Solved for this cost.
    cost : Tensor of shape (K_1, ..., K_M), or mapping as for `joint_cost`
        With a graph.
    marginals : sequence of M Tensors of shape (K_m,) or None, default=None
        Those that carry a graph get their gradients too.

    Returns
    -------
    value : Tensor, scalar
        Equal to ``result.value``.

    Examples
    --------
    >>> import torch
    >>> from skmm.core.transport import envelope_value, multi_marginal_sinkhorn
    >>> cost = torch.tensor([[0.0, 1.0], [1.0, 0.0]], requires_grad=True)
    >>> half = torch.tensor([0.5, 0.5])
    >>> result = multi_marginal_sinkhorn(cost, [half, half])
    >>> envelope_value(result, cost).backward()
    >>> bool((cost.grad == result.plan).all())
    True
    """
    if isinstance(cost, Mapping):
        slopes = [(result.pairwise(*pair), part) for pair, part in cost.items()]
    else:
        slopes = [(result.plan, cost)]
    if marginals is not None:
        slopes += zip(result.mass_gradients, marginals, strict=True)
    return _with_slopes(result.value, slopes)


def _with_slopes(value: Tensor, slopes: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The value with given gradients: the difference added is an exact zero."""
    for slope, x in slopes:
        if x.requires_grad:
            value = value + (slope * (x - x.detach())).sum()
    return value


# --------------------------------------------------------------------- through atoms


def _pick_atoms(points: Tensor, mass: Tensor, n_atoms: int | None) -> Tensor:
    """Prototypes far apart: next is that of most mass times squared distance.

    From the prototypes alone, so that no order plays a part but between exact ties.
    """
    if n_atoms is None or n_atoms == len(points):
        return points
    if not 1 <= n_atoms <= len(points):
        raise ValueError(
            f"n_atoms must be in 1..{len(points)}, the prototypes with mass, got "
            f"{n_atoms}: give more as atoms"
        )
    centre = (mass @ points) / mass.sum()
    chosen = [int((points - centre).square().sum(1).argmin())]
    near = (points - points[chosen[0]]).square().sum(1)
    while len(chosen) < n_atoms:
        score = mass * near
        score[chosen] = -1
        chosen.append(int(score.argmax()))
        near = torch.minimum(near, (points - points[chosen[-1]]).square().sum(1))
    return points[chosen]


def _distances_by_product(x: Tensor, y: Tensor) -> Tensor:
    """As `squared_distances`; faster, for points that are centred."""
    squares = x.square().sum(1)[:, None] + y.square().sum(1)
    return (squares - 2 * x @ y.mT).clamp_(min=0)


def star_transport(
    points: Sequence[Tensor],
    marginals: Sequence[Tensor],
    reg: float = 0.1,
    *,
    reg_scale: Scale = "mean_cost",
    rho: float | None = None,
    n_atoms: int | None = None,
    atoms: Tensor | None = None,
    potentials: Sequence[Tensor] | None = None,
    max_moves: int = 50,
    move_tol: float = 1e-6,
    max_iter: int = 500,
    tol: float = 1e-6,
    newton: bool = True,
    warn: bool = True,
) -> StarPlan:
    r"""Transport for squared distances, through the atoms of a barycentre.

    .. math:: \min_{a, T} M \sum_i \langle T, \|x_i - a\|^2 \rangle
              + \lambda \sum T \log (S\, T)
              \quad\text{s.t. } T_m = \nu_m

    over plans T of a prototype a modality and one of S atoms, whose masses are free.
    T has the prototypes independent given the atom, so a sweep costs O(M K S). Each
    atom then moves to the mean of what it holds, which never raises the value. The
    atoms are a local minimum; for any atoms at all, the costs bound those of the best
    plan from above, and an even, fine cover of the space gives the very plan of
    `multi_marginal_sinkhorn`.

    Parameters
    ----------
    points : sequence of M Tensors of shape (K_m, D)
        Pair costs are the squared distances; see `gaussian_points`.
    marginals : sequence of M Tensors of shape (K_m,)
        Each sums to one. A component of no mass is left out.
    reg : float, default=0.1
        :math:`\lambda`, see `multi_marginal_sinkhorn`.
    reg_scale : {"mean_cost", "absolute"}, default="mean_cost"
        The unit of `reg` and `rho`; "mean_cost" is the expected cost of the pairs under
        independence, as there.
    rho : float or None, default=None
        Strength of relaxed marginals; None holds them exactly.
    n_atoms : int or None, default=None
        S, at most the number of prototypes with mass, which is the default.
    atoms : Tensor of shape (S, D) or None, default=None
        Where they start. Else at prototypes: all, or `n_atoms` that lie far apart.
    potentials : sequence of M Tensors of shape (K_m,) or None, default=None
        Where to start.
    max_moves : int, default=50
        How often the atoms may move; zero holds them.
    move_tol : float, default=1e-6
        They stop when a move lowers the value by less than this part of the expected
        cost.
    max_iter : int, default=500
        Sweeps and Newton steps after each move.
    tol : float, default=1e-6
        Largest L1 violation of a marginal, relative to the plan's mass.
    newton : bool, default=True
        Whether to take Newton steps.
    warn : bool, default=True
        Whether to give a `TransportWarning` where `max_iter` did not suffice.

    Returns
    -------
    plan : StarPlan
        Its value carries the gradients with respect to points and marginals.

    Examples
    --------
    >>> import torch
    >>> from skmm.core.transport import star_transport
    >>> points = [torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [5.0]])]
    >>> half = torch.tensor([0.5, 0.5])
    >>> result = star_transport(points, [half, half])
    >>> result.pairwise(0, 1).round(decimals=3)
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    >>> result.transport_cost.round(decimals=3)
    tensor(1.)
    """
    M, like = len(points), points[0].detach()
    device = _work_device(like, sum(map(len, points)) ** 2)
    nu = _check_marginals(marginals, [len(x) for x in points], device, rho is None)
    x, centre = _centred(points, nu)
    mean_cost = _mean_cost(x.split(nu.sizes), nu).item()
    reg, rho, ratio = _strengths(reg, rho, reg_scale, mean_cost, mean_cost)
    if atoms is None:
        a = _pick_atoms(x, nu.mass, n_atoms)
    elif atoms.ndim != 2 or atoms.shape[1] != x.shape[1] or len(atoms) == 0:
        raise ValueError(
            f"atoms must have shape (S, {x.shape[1]}), got {tuple(atoms.shape)}"
        )
    else:
        a = atoms.detach().to(device, torch.float64) - centre
    oracle = _Star(nu, len(a))
    f = None if potentials is None else _warm(potentials, nu)
    spent, before = 0, math.inf
    for move in range(max_moves + 1):
        costs = M * _distances_by_product(x, a)
        oracle.set_costs(costs)
        dual, point, n_iter = _solve(oracle, nu, reg, ratio, f, tol, max_iter, newton)
        spent += n_iter
        value = _dual_value(dual, point, reg, rho)
        if move == max_moves or before - value <= move_tol * mean_cost:
            break
        before, f = value, point.g * reg
        a = oracle.means(x).mean(0)
    mass = 1.0 if rho is None else math.exp(point.log_mass)
    weights = oracle.weights * mass
    joint = oracle.given * weights
    # d/dx of M sum_i <T, ||x_i - a||^2>; at the means of what they hold the atoms'
    # own movement changes nothing.
    slope = 2 * M * (joint.sum(1, keepdim=True) * x - joint @ a)
    result = StarPlan(
        potentials=_potentials(dual, point, reg, like),
        reg=reg,
        rho=rho,
        value=like.new_tensor(value),
        transport_cost=_pair_cost(oracle, weights, x).to(like),
        residual=point.residual,
        n_iter=spent,
        converged=point.residual <= tol,
        atoms=(a + centre).to(like),
        atom_weights=weights.to(like),
        given_atom=tuple(part.to(like) for part in nu.restore(oracle.given, 0.0)),
        atom_cost=(joint * costs).sum().to(like),
    )
    if warn and not result.converged:
        _warn(result, tol, oracle.spread)
    slopes = [part.to(like) for part in nu.restore(slope, 0.0)]
    pairs = [*zip(slopes, points, strict=True)]
    pairs += zip(result.mass_gradients, marginals, strict=True)
    return replace(result, value=_with_slopes(result.value, pairs))


def _centred(points: Sequence[Tensor], nu: _Marginals) -> tuple[Tensor, Tensor]:
    """Prototypes with mass in one matrix about their mean, and the mean."""
    parts = [x.detach().to(nu.mass.device, torch.float64) for x in points]
    if nu.alive is not None:
        parts = [x[places] for x, places in zip(parts, nu.alive, strict=True)]
    x = torch.cat(parts)
    centre = (nu.mass @ x) / nu.mass.sum()
    return x - centre, centre


def _mean_cost(points: Sequence[Tensor], nu: _Marginals) -> Tensor:
    r"""Expectation of :math:`\sum_{i<j} \|x_i - x_j\|^2` under independence."""
    means, variance = [], torch.zeros_like(nu.mass[0])
    for x, mass in zip(points, nu.split(nu.mass), strict=True):
        share = mass / mass.sum()
        means.append(share @ x)
        variance = variance + share @ (x - means[-1]).square().sum(1)
    mean = torch.stack(means)
    between = len(points) * (mean - mean.mean(0)).square().sum()
    return between + (len(points) - 1) * variance


def _pair_cost(oracle: _Star, weights: Tensor, x: Tensor) -> Tensor:
    r""":math:`\sum_{i<j} E \|x_i - x_j\|^2`, independent given the atom."""
    means = oracle.means(x)
    M = len(means)
    squares = (oracle.given @ weights) @ x.square().sum(1)
    between = means.square().sum((0, 2)) - means.sum(0).square().sum(1)
    return ((M - 1) * squares + weights @ between).clamp(min=0)


# ------------------------------------------------------------------------ either form


def transport_between(
    geometry: Sequence[Tensor] | Mapping[tuple[int, int], Tensor],
    marginals: Sequence[Tensor],
    reg: float = 0.1,
    *,
    reg_scale: Scale = "mean_cost",
    rho: float | None = None,
    max_cells: int = 20_000,
    potentials: Sequence[Tensor] | None = None,
    atoms: Tensor | None = None,
    n_atoms: int | None = None,
    max_moves: int = 50,
    max_iter: int = 500,
    tol: float = 1e-6,
    warn: bool = True,
) -> Plan | StarPlan:
    r"""Transport over all tuples if they are few, through atoms otherwise.

    Parameters
    ----------
    geometry : sequence of M Tensors of shape (K_m, D), or mapping as for `joint_cost`
        Points whose squared distances are the costs, or the costs of all pairs.
    marginals : sequence of M Tensors of shape (K_m,)
        Each sums to one. A component of no mass is left out.
    reg : float, default=0.1
        :math:`\lambda`, see `multi_marginal_sinkhorn`.
    reg_scale : {"mean_cost", "absolute"}, default="mean_cost"
        The unit of `reg` and `rho`.
    rho : float or None, default=None
        Strength of relaxed marginals; None holds them exactly.
    max_cells : int, default=20000
        The most tuples of prototypes to hold a plan of.
    potentials : sequence of M Tensors of shape (K_m,) or None, default=None
        Where to start.
    atoms : Tensor of shape (S, D) or None, default=None
        Where atoms start, see `star_transport`; unused over all tuples.
    n_atoms : int or None, default=None
        Number of atoms; unused over all tuples.
    max_moves : int, default=50
        How often atoms may move; unused over all tuples.
    max_iter : int, default=500
        Sweeps and Newton steps at the final :math:`\lambda`.
    tol : float, default=1e-6
        Largest L1 violation of a marginal, relative to the plan's mass.
    warn : bool, default=True
        Whether to give a `TransportWarning` where `max_iter` did not suffice.

    Returns
    -------
    result : Plan or StarPlan
        Its value carries the gradients with respect to geometry and marginals. Both
        have `pairwise`, `residual`, `converged`, `potentials` and `atoms`.

    Examples
    --------
    >>> import torch
    >>> from skmm.core.transport import transport_between
    >>> points = [torch.tensor([[0.0], [4.0]]), torch.tensor([[1.0], [5.0]])]
    >>> half = torch.tensor([0.5, 0.5])
    >>> transport_between(points, [half, half]).pairwise(0, 1).round(decimals=3)
    tensor([[0.5000, 0.0000],
            [0.0000, 0.5000]])
    """
    sizes = [len(part) for part in marginals]
    cells = math.prod(sizes)
    if cells > max_cells:
        if isinstance(geometry, Mapping):
            raise ValueError(
                f"{cells} tuples of prototypes are more than max_cells={max_cells}: "
                "give points in place of the costs of pairs, fewer prototypes, or a "
                "larger max_cells"
            )
        return star_transport(
            geometry,
            marginals,
            reg,
            reg_scale=reg_scale,
            rho=rho,
            n_atoms=n_atoms,
            atoms=atoms,
            potentials=potentials,
            max_moves=max_moves,
            max_iter=max_iter,
            tol=tol,
            warn=warn,
        )
    if isinstance(geometry, Mapping):
        cost = joint_cost({key: c.detach() for key, c in geometry.items()}, sizes)
    else:
        cost = _cost_of_points([x.detach() for x in geometry])
    result = multi_marginal_sinkhorn(
        cost,
        marginals,
        reg,
        reg_scale=reg_scale,
        rho=rho,
        max_iter=max_iter,
        tol=tol,
        potentials=potentials,
        warn=warn,
    )
    # The gradients need the plans of the pairs alone, not the tensor of all costs.
    if isinstance(geometry, Mapping):
        return replace(result, value=envelope_value(result, geometry, marginals))
    slopes = [*zip(_slopes_of_points(result, geometry), geometry, strict=True)]
    slopes += zip(result.mass_gradients, marginals, strict=True)
    return replace(result, value=_with_slopes(result.value, slopes))


def _cost_of_points(points: Sequence[Tensor]) -> Tensor:
    """Sum of the squared distances in each tuple, ``(K_1, ..., K_M)``."""
    pairs = {
        (i, j): squared_distances(points[i], points[j])
        for j in range(len(points))
        for i in range(j)
    }
    if not pairs:
        return points[0].new_zeros(len(points[0]))
    return joint_cost(pairs, [len(x) for x in points])


def _slopes_of_points(result: Plan, points: Sequence[Tensor]) -> list[Tensor]:
    r"""Derivatives :math:`2 \sum_{j \ne i} \sum_l T_{ij}(k, l) (x_i^k - x_j^l)`."""
    fixed = [x.detach() for x in points]
    slopes = [torch.zeros_like(x) for x in fixed]
    for j, y in enumerate(fixed):
        for i, x in enumerate(fixed[:j]):
            pair = 2 * result.pairwise(i, j)
            slopes[i] += pair.sum(1, keepdim=True) * x - pair @ y
            slopes[j] += pair.sum(0)[:, None] * y - pair.mT @ x
    return slopes


def conditional(pairwise_plan: Tensor, marginal: Tensor) -> Tensor:
    """Where the mass of each prototype goes, ``T(k' | k)``.

    Parameters
    ----------
    pairwise_plan : Tensor of shape (K, K')
        The plan's marginal of two modalities.
    marginal : Tensor of shape (K',)
        The target's marginal, for rows of no mass.

    Returns
    -------
    conditional : Tensor of shape (K, K')
        Rows sum to one.

    Examples
    --------
    >>> import torch
    >>> from skmm.core.transport import conditional
    >>> conditional(torch.tensor([[0.3, 0.1], [0.0, 0.0]]), torch.tensor([0.6, 0.4]))
    tensor([[0.7500, 0.2500],
            [0.6000, 0.4000]])
    """
    # By the largest entry first: the sum of a row of tiny masses may have no digits.
    top = pairwise_plan.amax(1, keepdim=True)
    tiny = torch.finfo(pairwise_plan.dtype).tiny
    rows = torch.where(top > tiny, pairwise_plan / top.clamp(min=tiny), marginal)
    return rows / rows.sum(1, keepdim=True)
