"""The method of the literature: alternating directions with eigendecompositions.

One eigendecomposition a class and iteration, and the steadier of the solvers where
covariances are ill-conditioned.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from skmm.core.precision import likelihood_proximal, split

from ._newton import Newton, NewtonState
from ._problem import Problem

FINISH_FROM = 100.0  # Newton tries to finish when the gap is so many targets


@dataclass
class AdmmState:
    """The split, the scaled dual U, the step rho, and what was last seen."""

    common: Tensor
    specific: Tensor
    scaled_dual: Tensor
    rho: float
    iteration: int = 0
    gap: float = math.inf
    best_gap: float = math.inf
    best_at: int = 0
    primal_residual: float = math.inf
    dual_residual: float = math.inf
    finished: NewtonState | None = None  # better than the split, at the end

    @property
    def dual(self) -> Tensor:
        """Y, feasible after every iteration."""
        return self.rho * self.scaled_dual


class Admm:
    """Alternating directions with the exact joint update of both parts.

    Over-relaxed (Eckstein & Bertsekas, 1992). The step follows the ratio of the
    *relative* residuals, which makes it independent of the class weights' size, and is
    frozen after `adapt_until` iterations, as convergence asks.
    """

    over_relaxation = 1.6
    check_every = 5
    adapt_every = 10
    adapt_until = 300
    patience = 500  # iterations without a smaller gap

    def __init__(self, problem: Problem, target: float, finisher: Newton | None = None):
        self.problem = problem
        self.target = target
        self.finisher = finisher
        self.try_below = FINISH_FROM * target

    def init(self, common: Tensor, specific: Tensor, dual: Tensor | None) -> AdmmState:
        """A state from a split and, for a warm start, the unscaled dual."""
        rho = float(self.problem.class_weight.mean())
        scaled = torch.zeros_like(specific) if dual is None else dual / rho
        return AdmmState(common, specific, scaled, rho)

    def step(self, state: AdmmState) -> AdmmState:
        """One iteration."""
        problem, rho = self.problem, state.rho
        weight = problem.class_weight / rho
        old = state.common + state.specific
        precision = likelihood_proximal(
            old - state.scaled_dual - weight[:, None, None] * problem.covariance, weight
        )
        shifted = precision * self.over_relaxation
        shifted.add_(old, alpha=1 - self.over_relaxation).add_(state.scaled_dual)
        common, specific = split(shifted, problem.penalty, 1 / rho)
        new = common + specific
        state = AdmmState(
            common, specific, shifted.sub_(new), rho, state.iteration + 1, state.gap,
            state.best_gap, state.best_at,
        )  # fmt: skip
        adapt = state.iteration % self.adapt_every == 0
        if adapt:
            size = max(float(precision.norm()), float(new.norm()))
            state.primal_residual = float((precision - new).norm()) / size
            size = max(float(state.scaled_dual.norm()), 1e-12)
            state.dual_residual = float((new - old).norm()) / size
        if state.iteration % self.check_every == 0:
            self.check(state)
        if adapt and state.iteration <= self.adapt_until:
            tiny = torch.finfo(common.dtype).tiny
            ratio = state.primal_residual / max(state.dual_residual, tiny)
            change = min(max(math.sqrt(ratio), 0.1), 10.0)
            if not 1 / 1.5 < change < 1.5:
                state.rho *= change
                state.scaled_dual /= change
        return state

    def check(self, state: AdmmState) -> None:
        """Evaluate the gap; where it is small, let Newton's method finish."""
        _, state.gap = self.problem.certificate(
            state.common, state.specific, state.dual
        )
        if state.gap < 0.99 * state.best_gap:
            state.best_gap, state.best_at = state.gap, state.iteration
        if self.finisher is None or not self.target < state.gap <= self.try_below:
            return
        self.try_below = state.gap / FINISH_FROM
        begin = self.finisher.init(state.common, state.specific)
        if begin is not None:
            begin.gap = state.gap
            end = self.finisher.finish(begin, 1 / state.rho)
            _, gap = self.problem.certificate(end.common, end.specific, end.dual)
            if gap <= self.target:
                state.finished, state.gap = end, gap

    def is_stuck(self, state: AdmmState) -> bool:
        """Whether the gap has reached the limit of rounding."""
        return (
            state.best_gap < math.inf
            and state.iteration - state.best_at > self.patience
        )
