"""One connected joint graphical lasso: what its solvers share."""

from dataclasses import dataclass

import torch
from torch import Tensor

from skmm.core.precision import (
    Penalty,
    dual_objective,
    factor,
    inverse_of,
    objective,
    smooth_value,
    split_exactly,
)

RIDGE_BELOW = 1e-6  # penalty on correlations, by trial


@dataclass(frozen=True)
class Problem:
    """Covariances (C, p, p), class weights (C,) and penalties of one block."""

    covariance: Tensor
    class_weight: Tensor
    penalty: Penalty

    @property
    def by_class(self) -> Tensor:
        """The class weights, to multiply matrices with."""
        return self.class_weight[:, None, None]

    def gradient(self, inverse: Tensor) -> Tensor:
        """Of the likelihood part, at the precisions with this inverse."""
        out = self.covariance - inverse
        return out if bool((self.class_weight == 1).all()) else out.mul_(self.by_class)

    def smooth(self, cholesky: Tensor, precision: Tensor) -> float:
        """The likelihood part."""
        return smooth_value(cholesky, precision, self.covariance, self.class_weight)

    def value(self, common: Tensor, specific: Tensor) -> float:
        """The objective at a split."""
        return objective(
            common, specific, self.covariance, self.class_weight, self.penalty
        )

    def certificate(
        self, common: Tensor, specific: Tensor, dual: Tensor
    ) -> tuple[float, float]:
        """Objective and duality gap, in float64 whatever the parts are."""
        covariance, weight = self.covariance.double(), self.class_weight.double()
        # A feasible Y in float32 may leave the set by its last digit, which moves the
        # value by less than float32 tells apart.
        primal = objective(
            common.double(), specific.double(), covariance, weight, self.penalty
        )
        return primal, primal - dual_objective(dual.double(), covariance, weight)


def inner(x: Tensor, y: Tensor) -> float:
    """Sum of products, without a temporary."""
    return float(torch.dot(x.reshape(-1), y.reshape(-1)))


def edgeless(problem: Problem) -> tuple[Tensor, Tensor]:
    """The solution without edges."""
    diagonal = 1 / problem.covariance.diagonal(dim1=-2, dim2=-1)
    mean = diagonal.mean(0)
    return torch.diag(mean), torch.diag_embed(diagonal - mean)


def ridge(problem: Problem) -> float:
    """What the penalty amounts to on the diagonal of a class's covariance."""
    weight = problem.class_weight.sum()
    out = problem.penalty.common.mean() / weight
    if problem.penalty.specific is not None:
        specific = problem.penalty.specific.mean() * len(problem.class_weight)
        out = torch.minimum(out, specific / weight)
    return float(out)


def start(problem: Problem) -> tuple[Tensor, Tensor]:
    """Where to begin: without edges, or with next to no penalty at ridge estimates."""
    begin, size = edgeless(problem), ridge(problem)
    if size > RIDGE_BELOW:
        return begin
    eye = torch.eye(problem.covariance.shape[-1]).to(problem.covariance)
    cholesky = factor(problem.covariance + size * eye)
    if cholesky is None:
        return begin
    dense = split_exactly(inverse_of(cholesky), problem.penalty)
    return dense if problem.value(*dense) < problem.value(*begin) else begin


def rescaled(problem: Problem, units: Tensor) -> Problem:
    """The same problem with the nodes measured in other units."""
    outer = units[:, None] * units
    penalty = problem.penalty
    specific = None if penalty.specific is None else penalty.specific / outer
    return Problem(
        problem.covariance / outer,
        problem.class_weight,
        Penalty(penalty.common / outer, specific, penalty.group),
    )


def balanced_units(problem: Problem) -> Tensor:
    """Units of the nodes in which ADMM takes the fewest iterations.

    On the scale of correlations, nodes that the others predict well have precisions far
    above one. In these units their variance and a guess of their precision, that of a
    ridge estimate, are equal. Found by trial: it saves a third of the iterations on
    collinear data and costs none elsewhere.
    """
    correlation = problem.covariance.mean(0)
    size = (problem.penalty.common / problem.class_weight.sum()).mean().clamp(1e-3, 1)
    cholesky = factor((correlation + size * torch.eye(len(correlation)).to(size))[None])
    if cholesky is None:  # not quite positive semi-definite
        return torch.ones_like(correlation[0])
    diagonal = inverse_of(cholesky[0]).diagonal() * (1 + size)
    return diagonal.clamp_min(1) ** -0.25
