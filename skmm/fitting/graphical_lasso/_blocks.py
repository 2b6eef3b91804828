"""Scale, screen, solve the blocks, and put them together."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from scipy import sparse
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from skmm.core.precision import Penalty, is_connected

from ._block import solve_block
from ._problem import Problem, rescaled

SCREENING_ROWS = 512  # rows of the screening graph computed at a time


@dataclass(frozen=True)
class Penalties:
    """The penalties of all nodes: strengths, and weights where they are not all one.

    Parameters
    ----------
    common : float
        Strength of the common penalty.
    specific : float or None
        Strength of the specific penalty; None for an infinite one.
    common_weights : Tensor of shape (p, p) or None
    specific_weights : Tensor of shape (C, p, p) or (1, p, p), or None
    group : bool, default=False
    """

    common: float
    specific: float | None
    common_weights: Tensor | None = None
    specific_weights: Tensor | None = None
    group: bool = False

    def take(self, rows: Tensor, columns: Tensor, like: Tensor) -> Penalty:
        """The penalties of a rectangle of pairs; zero where row and column are one."""
        off = (rows[:, None] != columns[None, :]).to(like)
        weights = self.common_weights
        common = self.common * (
            off if weights is None else off * weights[rows][:, columns].to(like)
        )
        if self.specific is None:
            return Penalty(common)
        weights = self.specific_weights
        specific = self.specific * (
            off[None]
            if weights is None
            else off * weights[:, rows][:, :, columns].to(like)
        )
        return Penalty(common, specific, self.group)


def screen(
    covariance: Tensor, class_weight: Tensor, penalties: Penalties
) -> list[np.ndarray]:
    """The nodes of each block of the solution's graph, in order of their first node."""
    p = covariance.shape[-1]
    columns = torch.arange(p, device=covariance.device)
    pieces = []
    for begin in range(0, p, SCREENING_ROWS):
        rows = columns[begin : begin + SCREENING_ROWS]
        penalty = penalties.take(rows, columns, covariance)
        joined = is_connected(covariance[:, rows], class_weight, penalty)
        joined[torch.arange(len(rows)), rows] = False
        pieces.append(sparse.csr_array(joined.cpu().numpy()))
    _, label = connected_components(sparse.vstack(pieces), directed=False)
    order = np.argsort(label, kind="stable")
    blocks = np.split(order, np.flatnonzero(np.diff(label[order])) + 1)
    return sorted(blocks, key=lambda block: int(block[0]))


@dataclass
class Solution:
    """The solution of all blocks together.

    Attributes
    ----------
    common : Tensor of shape (p, p)
    specific : Tensor of shape (C, p, p), or None
        None for one class without a specific part.
    dual : Tensor of shape (C, p, p)
    objective, gap : float
        In nats; summed over blocks.
    n_iter : int
        The largest over blocks.
    converged : bool
    blocks : list of int arrays
    """

    common: Tensor
    specific: Tensor | None
    dual: Tensor
    objective: float
    gap: float
    n_iter: int
    converged: bool
    blocks: list[np.ndarray]

    @property
    def precision(self) -> Tensor:
        """Common plus specific parts, (C, p, p)."""
        return (
            self.common[None] if self.specific is None else self.common + self.specific
        )


def solve(
    covariance: Tensor,
    class_weight: Tensor,
    penalties: Penalties,
    *,
    solver: str = "auto",
    tol: float = 1e-6,
    max_iter: int = 1000,
    init: Solution | None = None,
    blocks: Sequence[np.ndarray] | None = None,
    on_iteration: Callable[[float], bool | None] | None = None,
) -> Solution:
    """Solve the joint graphical lasso.

    Parameters
    ----------
    covariance : Tensor of shape (C, p, p)
        Symmetric, positive semi-definite, with a positive diagonal.
    class_weight : Tensor of shape (C,)
    penalties : Penalties
    solver : {"auto", "newton", "admm"}, default="auto"
    tol : float, default=1e-6
        Duality gap to reach, in nats a node and class.
    max_iter : int, default=1000
    init : Solution, default=None
        A solution of the same size to start from.
    blocks : sequence of int arrays, default=None
        From `screen`, if known.
    on_iteration : callable, default=None
        Told the gap of the block at work, in nats a node and class; true ends the work
        on the block.

    Returns
    -------
    Solution
    """
    n_classes = covariance.shape[0]
    single = n_classes == 1 and penalties.specific is None
    if blocks is None:
        blocks = screen(covariance, class_weight, penalties)
    variance = covariance.diagonal(dim1=-2, dim2=-1)
    # Without edges: also what stands between the blocks.
    diagonal = 1 / variance
    common = torch.zeros_like(covariance[0])
    common.diagonal().copy_(diagonal.mean(0))
    specific = None
    if not single:
        specific = torch.zeros_like(covariance)
        specific.diagonal(dim1=-2, dim2=-1).copy_(diagonal - diagonal.mean(0))
    dual = covariance * -class_weight[:, None, None]
    dual.diagonal(dim1=-2, dim2=-1).zero_()
    alone = [int(block[0]) for block in blocks if len(block) == 1]
    value = float((class_weight[:, None] * (variance[:, alone].log() + 1)).sum())
    solution = Solution(common, specific, dual, value, 0.0, 0, True, list(blocks))
    for block in blocks:
        if len(block) == 1:
            continue
        index = torch.as_tensor(block, device=covariance.device)
        here = (slice(None), index[:, None], index)
        penalty = penalties.take(index, index, covariance)
        scale = variance[:, index].mean(0).sqrt()
        outer = scale[:, None] * scale
        problem = rescaled(Problem(covariance[here], class_weight, penalty), scale)
        size = len(block) * n_classes
        begin = None
        if init is not None:
            begin = (
                init.common[here[1:]] * outer,
                torch.zeros_like(problem.covariance)
                if init.specific is None or single
                else init.specific[here] * outer,
                init.dual[here] / outer,
            )
        found = solve_block(
            problem,
            solver=solver,
            target=tol * size,
            max_iter=max_iter,
            init=begin,
            on_iteration=None
            if on_iteration is None
            else partial(_per_node, on_iteration, size),
        )
        common[here[1:]] = found.common / outer
        if specific is not None:
            specific[here] = found.specific / outer
        dual[here] = found.dual * outer
        shift = float(2 * (class_weight.sum() * scale.double().log().sum()))
        solution.objective += found.objective + shift
        solution.gap += max(found.gap, 0.0)
        solution.n_iter = max(solution.n_iter, found.n_iter)
        solution.converged &= found.converged
    return solution


def _per_node(tell: Callable[[float], bool | None], size: int, gap: float) -> bool:
    return bool(tell(gap / size))
