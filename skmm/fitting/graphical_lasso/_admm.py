"""Alternating directions with eigendecompositions, accelerated.

The steadier solver where covariances are ill-conditioned: one eigendecomposition
a class and iteration.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from skmm.core.precision import likelihood_proximal, split

from ._newton import Newton, NewtonState
from ._problem import Problem

FINISH_FROM = 100.0  # Newton tries to finish when the gap is so many targets


class Memory:
    """Of the last points of a fixed-point iteration: their images and residuals.

    Anderson's acceleration (type II): the next point is the image, corrected by the
    combination of past changes that cancels the residual best.
    """

    def __init__(self, size: int):
        self.size = size
        self.clear()

    def clear(self) -> None:
        """Forget, after the map has changed or a step was refused."""
        self.count = 0
        self.last: tuple[Tensor, Tensor] | None = None
        self.images = self.residuals = self.gram = torch.empty(0)

    def extrapolate(self, image: Tensor, residual: Tensor) -> Tensor | None:
        """The next point, or None as long as nothing is remembered."""
        if self.last is None:
            self.last = image, residual
            return None
        if self.count == 0:
            self.images = image.new_empty((self.size, image.numel()))
            self.residuals = torch.empty_like(self.images)
            self.gram = image.new_zeros((self.size, self.size))
        k = self.count % self.size  # the oldest makes room
        torch.sub(image.flatten(), self.last[0].flatten(), out=self.images[k])
        torch.sub(residual.flatten(), self.last[1].flatten(), out=self.residuals[k])
        self.count += 1
        self.last = image, residual
        n = min(self.count, self.size)
        changes = self.residuals[:n]
        self.gram[k, :n] = self.gram[:n, k] = changes @ changes[k]
        gram = self.gram[:n, :n].clone()
        # The changes soon are nearly collinear; this much keeps the system solvable.
        gram.diagonal().add_(RIDGE[gram.dtype] * gram.diagonal().max())
        factors, info = torch.linalg.solve_ex(gram, changes @ residual.flatten())
        if bool(info) or not bool(factors.isfinite().all()):
            self.clear()
            return None
        return torch.addmv(
            image.flatten(), self.images[:n].T, factors, alpha=-1
        ).view_as(image)


RIDGE = {torch.float64: 1e-10, torch.float32: 1e-5}


@dataclass
class AdmmState:
    """The split, the scaled dual U, and what the next iteration needs.

    `point` is the sum of split and dual, whose iterates approach a fixed point as long
    as the step rho stays; `fallback` is where to go should an extrapolation to `point`
    turn out bad, and `residual` the residual's norm before it.
    """

    common: Tensor
    specific: Tensor
    scaled_dual: Tensor
    rho: float
    point: Tensor
    iteration: int = 0
    gap: float = math.inf
    best_gap: float = math.inf
    best_at: int = 0
    adapt_at: int = 10
    fallback: Tensor | None = None
    residual: float = math.inf
    finished: NewtonState | None = None  # better than the split, at the end

    @property
    def dual(self) -> Tensor:
        """Y, feasible after every iteration."""
        return self.rho * self.scaled_dual


class Admm:
    """Alternating directions with the exact joint update of both parts.

    Over-relaxed (Eckstein & Bertsekas, 1992). The step follows the ratio of the
    *relative* residuals, which makes it independent of the class weights' size; it is
    changed at ever longer intervals, since convergence asks for a step that settles.
    In between, Anderson's acceleration cuts the iterations to a half or a third; an
    extrapolation that doubles the residual is taken back.
    """

    over_relaxation = 1.6
    check_every = 5
    adapt_beyond = 1.5  # ratios of residuals that change the step
    patience = 500  # iterations without a smaller gap
    accelerate_from = 5
    remembered = 6

    def __init__(self, problem: Problem, target: float, finisher: Newton | None = None):
        self.problem = problem
        self.target = target
        self.finisher = finisher
        self.tried = False
        self.memory = Memory(self.remembered)

    def init(self, common: Tensor, specific: Tensor, dual: Tensor | None) -> AdmmState:
        """A state from a split and, for a warm start, the unscaled dual."""
        rho = float(self.problem.class_weight.mean())
        precision = common + specific
        scaled = torch.zeros_like(specific) if dual is None else dual / rho
        return AdmmState(common, specific, scaled, rho, precision + scaled)

    def step(self, state: AdmmState) -> AdmmState:
        """One iteration."""
        problem, rho, point = self.problem, state.rho, state.point
        common, specific = split(point, problem.penalty, 1 / rho)
        new = common + specific
        scaled_dual = point - new
        weight = problem.class_weight / rho
        precision = likelihood_proximal(
            new - scaled_dual - weight[:, None, None] * problem.covariance, weight
        )
        image = precision * self.over_relaxation
        image.add_(new, alpha=1 - self.over_relaxation).add_(scaled_dual)
        residual = image - point
        size = float(residual.norm())
        state = replace(
            state,
            common=common,
            specific=specific,
            scaled_dual=scaled_dual,
            point=image,
            iteration=state.iteration + 1,
        )
        if state.iteration % self.check_every == 0:
            self.check(state)
            if state.gap <= self.target:
                return state
        if state.iteration >= state.adapt_at:
            state.adapt_at = 2 * state.iteration
            if self.adapt(state, precision, new):
                return state
        if state.fallback is not None and not size <= 2 * state.residual:
            state.point, state.fallback = state.fallback, None
            self.memory.clear()
            return state
        state.fallback = None
        if state.iteration >= self.accelerate_from:
            following = self.memory.extrapolate(image, residual)
            if following is not None:
                state.fallback, state.point, state.residual = image, following, size
        return state

    def adapt(self, state: AdmmState, precision: Tensor, old: Tensor) -> bool:
        """Balance the residuals; whether the step has changed."""
        common, specific = split(state.point, self.problem.penalty, 1 / state.rho)
        new = common + specific
        scaled_dual = state.point - new
        size = max(float(precision.norm()), float(old.norm()))
        primal = float((precision - old).norm()) / size
        dual = float((new - old).norm()) / max(float(scaled_dual.norm()), 1e-12)
        ratio = primal / max(dual, torch.finfo(common.dtype).tiny)
        change = min(max(math.sqrt(ratio), 0.1), 10.0)
        if 1 / self.adapt_beyond < change < self.adapt_beyond:
            return False
        # What this iteration has is certified under the old step; the next one begins
        # at the same split and the same dual under the new step.
        state.common, state.specific, state.scaled_dual = (
            common, specific, scaled_dual / change,
        )  # fmt: skip
        state.rho *= change
        state.point = new + state.scaled_dual
        state.fallback = None
        self.memory.clear()
        return True

    def check(self, state: AdmmState) -> None:
        """Evaluate the gap; where it is small, let Newton's method finish."""
        _, state.gap = self.problem.certificate(
            state.common, state.specific, state.dual
        )
        if state.gap < 0.99 * state.best_gap:
            state.best_gap, state.best_at = state.gap, state.iteration
        if self.finisher is None or self.tried or state.gap <= self.target:
            return
        if state.gap > FINISH_FROM * self.target:
            return
        self.tried = True
        begin = self.finisher.init(state.common, state.specific)
        if begin is not None:
            begin.gap = state.gap
            end = self.finisher.finish(begin)
            _, gap = self.problem.certificate(end.common, end.specific, end.dual)
            if gap <= self.target:
                state.finished, state.gap = end, gap

    def is_stuck(self, state: AdmmState) -> bool:
        """Whether the gap has reached the limit of rounding, in single precision."""
        return (
            state.point.dtype != torch.float64
            and state.best_gap < math.inf
            and state.iteration - state.best_at > self.patience
        )
