r"""The manifold on which a joint graphical lasso is smooth, for Newton's method.

The penalty of `skmm.core.precision` is not differentiable, but along the precisions
with the zeros and the ties of a given split it is. A proximal step finds the solution's
manifold after finitely many iterations, and from then on the problem is a smooth one
in far fewer coordinates (Lewis, 2002; Bareilles, Iutzeler & Malick, 2023). The
coordinates for a split into two parts are ours.
"""

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from skmm.core.precision import Penalty

SPARSE_BELOW = 0.13  # share of entries that move; above, dense products are as fast
SPARSE_FROM = 150  # nodes


@dataclass(frozen=True)
class Manifold:
    r"""The precisions near a split (A, B) on which the penalty is smooth.

    Per pair of nodes: where ``A = 0``, the classes with ``B_c != 0`` move freely and
    the others stay zero; where ``A != 0``, the classes with ``B_c = 0`` move together,
    with A, and the others freely. With the group norm all classes move freely where B
    is not zero, and the penalty is curved there. The diagonal is free.

    A direction is given by its coordinates: first the free ones, one a pair and class,
    then the tied ones, one a pair, then the diagonal, one a node and class.

    Attributes
    ----------
    place : long Tensor of shape (k,)
        Entries of the flattened ``(C, p, p)`` that move.
    coordinate : long Tensor of shape (k,)
        The coordinate that each of them follows.
    count : Tensor of shape (m,)
        How many entries follow a coordinate.
    gradient : Tensor of shape (m,)
        The derivative of the penalty.
    free : long Tensor of shape (f, 3)
        Class, row and column of the free coordinates; rows are below columns.
    tied : long Tensor of shape (g, 2)
        Row and column of the tied coordinates.
    partner : long Tensor of shape (f,)
        The tied coordinate of the same pair, as a row of `tied`, or -1.
    """

    place: Tensor
    coordinate: Tensor
    count: Tensor
    gradient: Tensor
    free: Tensor
    tied: Tensor
    partner: Tensor
    shape: torch.Size
    unit: Tensor | None = None  # group norm: B / |B|, (C, f / C)
    stiffness: Tensor | None = None  # group norm: its weight over |B|, (f / C,)
    common_moves: Tensor | None = None  # group norm: where A is not zero, (f / C,)

    def single(self) -> "Manifold":
        """The same in single precision."""
        parts = (self.unit, self.stiffness, self.common_moves)
        unit, stiffness, common_moves = (
            None if part is None else part.float() for part in parts
        )
        return replace(
            self,
            count=self.count.float(),
            gradient=self.gradient.float(),
            unit=unit,
            stiffness=stiffness,
            common_moves=common_moves,
        )

    def spread(self, x: Tensor, out: Tensor) -> Tensor:
        """The symmetric matrices (C, p, p) of a direction, written to a zero `out`.

        Every call with the same manifold writes the same places.
        """
        out.view(-1)[self.place] = x[self.coordinate]
        return out

    def gather(self, matrices: Tensor) -> Tensor:
        """The adjoint of `spread`: sums over the entries of each coordinate."""
        entries = matrices.view(-1)[self.place]
        return torch.zeros_like(self.count).index_add_(0, self.coordinate, entries)

    def curvature(self, x: Tensor) -> Tensor | None:
        """The penalty's Hessian applied to a direction; None where it is zero."""
        if self.unit is None or self.stiffness is None or self.common_moves is None:
            return None
        unit = self.unit
        n = unit.numel()
        own = x[:n].view_as(unit)
        across = own - unit * (unit * own).sum(0)
        ones = 1 - unit * unit.sum(0)
        # A follows B at no cost, so the shift that suits the penalty best drops out.
        room = ones.sum(0)
        shift = torch.where(room > 0, across.sum(0) / room, 0) * self.common_moves
        out = torch.zeros_like(x)
        # Twice: each pair stands in both triangles.
        out[:n] = (2 * self.stiffness * (across - shift * ones)).flatten()
        return out

    def move(
        self, common: Tensor, specific: Tensor, x: Tensor, step: float
    ) -> tuple[Tensor, Tensor]:
        """The split after a step; entries that would change sign become zero.

        Not for the group norm, where the split follows from the precisions.
        """
        n_free, n_tied = len(self.free), len(self.tied)
        common = common.clone()
        by_tied = step * x[n_free : n_free + n_tied]
        rows, columns = self.tied[:, 0], self.tied[:, 1]
        entries = _keep_sign(common[rows, columns], by_tied)
        common[rows, columns] = entries
        common[columns, rows] = entries
        by_node = step * x[n_free + n_tied :].view(self.shape[0], -1)
        if self.shape[0] == 1 and not n_free:
            common.diagonal().add_(by_node[0])
            return common, specific
        specific = specific.clone()
        classes, rows, columns = self.free.unbind(1)
        by_free = step * x[:n_free]
        has_partner = self.partner >= 0
        by_free[has_partner] -= by_tied[self.partner[has_partner]]
        entries = _keep_sign(specific[classes, rows, columns], by_free)
        specific[classes, rows, columns] = entries
        specific[classes, columns, rows] = entries
        mean = by_node.mean(0)
        common.diagonal().add_(mean)
        specific.diagonal(dim1=-2, dim2=-1).add_(by_node - mean)
        return common, specific


def _keep_sign(old: Tensor, change: Tensor) -> Tensor:
    new = old + change
    return torch.where(new * old > 0, new, 0)


def manifold(common: Tensor, specific: Tensor, penalty: Penalty) -> Manifold:
    """The manifold through a split, with the penalty's gradient along it."""
    n_classes, p, _ = specific.shape
    tied = torch.triu(common, diagonal=1).nonzero()
    if n_classes == 1 and penalty.specific is None:
        free = tied.new_zeros((0, 3))
    else:
        moves = torch.triu(specific, diagonal=1) != 0
        if penalty.group:
            moves = moves.any(0).expand_as(specific)
        free = moves.nonzero()
    rows, columns = tied.unbind(1)
    follows = specific[:, rows, columns] == 0
    if penalty.group:
        follows = follows.all(0).expand_as(follows)
    # Without a follower A only shifts between the parts, and stays.
    keep = follows.any(0)
    tied, rows, columns, follows = (
        tied[keep], rows[keep], columns[keep], follows[:, keep]
    )  # fmt: skip
    n_free, n_tied, n_nodes = len(free), len(tied), n_classes * p
    number = torch.full((p, p), -1, dtype=torch.long, device=common.device)
    number[rows, columns] = torch.arange(n_tied, device=common.device)
    classes, free_rows, free_columns = free.unbind(1)
    partner = number[free_rows, free_columns]
    # Places and coordinates: free pairs, tied pairs (one place a class), diagonal.
    tied_class, tied_coordinate = follows.nonzero(as_tuple=True)
    upper = [
        (classes * p + free_rows) * p + free_columns,
        (tied_class * p + rows[tied_coordinate]) * p + columns[tied_coordinate],
    ]
    lower = [
        (classes * p + free_columns) * p + free_rows,
        (tied_class * p + columns[tied_coordinate]) * p + rows[tied_coordinate],
    ]
    node = torch.arange(n_nodes, device=common.device)
    diagonal = (node // p) * p * p + (node % p) * (p + 1)
    place = torch.cat([*upper, *lower, diagonal])
    pairs = torch.cat(
        [torch.arange(n_free, device=common.device), n_free + tied_coordinate]
    )
    coordinate = torch.cat([pairs, pairs, n_free + n_tied + node])
    count = torch.zeros(n_free + n_tied + n_nodes, dtype=common.dtype).to(common)
    count.index_add_(0, coordinate, torch.ones_like(coordinate, dtype=common.dtype))
    gradient = torch.zeros_like(count)
    pull = penalty.common[rows, columns] * common[rows, columns].sign()
    unit = stiffness = common_moves = None
    if n_free and penalty.specific is not None:
        if penalty.group:
            pair = free[: n_free // n_classes, 1:]
            values = specific[:, pair[:, 0], pair[:, 1]]
            size = torch.linalg.vector_norm(values, dim=0)
            weight = penalty.specific[0, pair[:, 0], pair[:, 1]]
            unit, stiffness = values / size, weight / size
            common_moves = (common[pair[:, 0], pair[:, 1]] != 0).to(common)
            slope = (weight * unit).flatten()
        else:
            every = penalty.specific.expand_as(specific)
            slope = every[classes, free_rows, free_columns]
            slope = slope * specific[classes, free_rows, free_columns].sign()
            # The classes that leave A behind pay for it, or are paid.
            has_partner = partner >= 0
            pull = pull.index_add(0, partner[has_partner], -slope[has_partner])
        gradient[:n_free] = 2 * slope
    gradient[n_free : n_free + n_tied] = 2 * pull
    return Manifold(
        place, coordinate, count, gradient, free, tied, partner, specific.shape,
        unit, stiffness, common_moves,
    )  # fmt: skip


# Products with directions -------------------------------------------------------------

Products = Callable[[Tensor, Tensor], Tensor]


def products(surface: Manifold) -> Products:
    r"""The map of x and M to the coordinates of :math:`M_c X_c M_c`, X spread from x.

    It is the cost of Newton's method. Where few entries move, and on a CPU, it takes
    sparse products: two of the cost of as many multiplications as p times the entries.
    """
    n_classes, p, _ = surface.shape
    few = len(surface.place) < SPARSE_BELOW * n_classes * p * p
    if few and p >= SPARSE_FROM and surface.place.device.type == "cpu":
        return sparse_products(surface)
    return dense_products(surface)


def dense_products(surface: Manifold) -> Products:
    """`products` by dense matrix products."""
    buffer = surface.count.new_zeros(surface.shape)

    def multiply(x: Tensor, matrices: Tensor) -> Tensor:
        return surface.gather(matrices @ (surface.spread(x, buffer) @ matrices))

    return multiply


def sparse_products(surface: Manifold) -> Products:
    """`products` by sparse ones: of X and M, then of what is needed of M and X M."""
    n_classes, p, _ = surface.shape
    order = surface.place.argsort()
    place, coordinate = surface.place[order], surface.coordinate[order]
    _hush_torch()
    parts = []
    for c in range(n_classes):
        first, last = torch.searchsorted(
            place, torch.tensor([c, c + 1], device=place.device) * p * p
        ).tolist()
        rows, columns = (place[first:last] % (p * p)) // p, place[first:last] % p
        follows = coordinate[first:last]
        # M X M is symmetric: its upper triangle tells all.
        upper = columns >= rows
        some = (rows[upper], columns[upper], follows[upper])
        times = torch.where(some[0] == some[1], 1.0, 2.0).to(surface.count)
        wanted = _csr(_row_starts(some[0], p), some[1], torch.zeros_like(times))
        parts.append((_row_starts(rows, p), columns, follows, wanted, some[2], times))

    def multiply(x: Tensor, matrices: Tensor) -> Tensor:
        out = torch.zeros_like(surface.count)
        for matrix, part in zip(matrices, parts, strict=True):
            starts, columns, follows, wanted, gathers, times = part
            moved = _csr(starts, columns, x[follows])
            found = torch.sparse.sampled_addmm(wanted, matrix, moved @ matrix)
            out.index_add_(0, gathers, found.values() * times)
        return out

    return multiply


def _csr(starts: Tensor, columns: Tensor, values: Tensor) -> Tensor:
    p = len(starts) - 1
    return torch.sparse_csr_tensor(
        starts, columns, values, (p, p), check_invariants=False
    )


def _row_starts(rows: Tensor, p: int) -> Tensor:
    """Where each row's entries begin, of sorted rows."""
    return torch.searchsorted(rows, torch.arange(p + 1, device=rows.device))


@functools.cache
def _hush_torch() -> None:
    """Let torch say now that its CSR tensors are in beta, and to nobody."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _csr(torch.tensor([0, 1]), torch.tensor([0]), torch.ones(1))
