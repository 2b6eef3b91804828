"""Newton's method on the manifold that a proximal step finds.

An iteration costs a few Cholesky factorisations and matrix products, each a small part
of an eigendecomposition.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from skmm.core.precision import dual_objective, factor, split, split_exactly
from skmm.core.precision_manifold import Manifold, manifold

from ._problem import Problem, inner


@dataclass
class NewtonState:
    """The split with everything known about it, and the length of the next step.

    `dual` is the feasible Y of the last proximal step and `dual_value` its value.
    """

    common: Tensor
    specific: Tensor
    precision: Tensor
    gradient: Tensor
    inverse: Tensor
    smooth: float
    value: float
    step: float
    dual: Tensor
    dual_value: float = -math.inf
    gap: float = math.inf
    stuck: bool = False  # no step makes progress: the limit of rounding
    slow: bool = False  # the steps are too short to find the manifold
    gaps: list[float] = field(default_factory=list)


class Newton:
    """A proximal-gradient step, then a Newton step on the manifold it found.

    The Newton system is solved by conjugate gradients, preconditioned by the precisions
    themselves: the Hessian of the likelihood is the Kronecker square of the covariance,
    whose inverse is that of the precision, and restricting both is close when the graph
    is sparse.
    """

    max_cg = 60
    forcing = 0.2  # relative residual that the system is solved to, at most
    max_finish = 4
    sufficient = 1e-4  # of the predicted decrease
    # Signs that steps are too short to find the manifold: ADMM is then ahead.
    shortest_step = 0.03  # times the largest class weight, on correlations
    shortest_search = 0.2
    slowest_gap = 0.4  # times the one before

    def __init__(self, problem: Problem, target: float):
        self.problem = problem
        self.target = target
        self.heaviest = float(problem.class_weight.max())
        self.single = (
            problem.covariance.shape[0] == 1 and problem.penalty.specific is None
        )
        self._buffer = torch.zeros_like(problem.covariance)

    def init(self, common: Tensor, specific: Tensor) -> NewtonState | None:
        """A state from a split; None if its sum is not positive definite."""
        precision = self.join(common, specific)
        cholesky = factor(precision)
        if cholesky is None:
            return None
        smooth = self.problem.smooth(cholesky, precision)
        inverse = torch.cholesky_inverse(cholesky)
        return NewtonState(
            common,
            specific,
            precision,
            self.problem.gradient(inverse),
            inverse,
            smooth,
            smooth + self.problem.penalty.value(common, specific),
            1 / self.heaviest,
            torch.zeros_like(precision),
        )

    def join(self, common: Tensor, specific: Tensor) -> Tensor:
        """The precisions; for one class without a specific part, without a sum."""
        return common[None] if self.single else common + specific

    def step(self, state: NewtonState) -> NewtonState:
        """One iteration: proximal step, certificate, Newton step."""
        state = self.proximal_step(state)
        return state if state.gap <= self.target else self.newton_step(state)

    def try_step(self, state: NewtonState) -> NewtonState:
        """One iteration, without the Newton step where that would do little."""
        state = self.proximal_step(state)
        if state.gap <= self.target or self.is_slow(state):
            return state
        return self.newton_step(state)

    def proximal_step(self, state: NewtonState) -> NewtonState:
        """A descent step that lands on a manifold, and the gap there."""
        problem, step = self.problem, state.step
        while True:
            shifted = state.precision.sub(state.gradient, alpha=step)
            common, specific = split(shifted, problem.penalty, step)
            precision = self.join(common, specific)
            move = precision - state.precision
            cholesky = factor(precision)
            square = inner(move, move)
            if cholesky is not None:
                smooth = problem.smooth(cholesky, precision)
                bound = inner(state.gradient, move) + square / (2 * step)
                slack = 1e-12 * abs(state.smooth) + 1e-300
                if smooth <= state.smooth + bound + slack:
                    break
            step /= 2
            if step < 1e-12:  # rounding, at the bottom: nothing left to gain
                return replace(state, stuck=True)
        dual = shifted.sub_(precision).div_(step)
        dual_value = dual_objective(dual, problem.covariance, problem.class_weight)
        if dual_value < state.dual_value:
            dual, dual_value = state.dual, state.dual_value
        inverse = torch.cholesky_inverse(cholesky)
        gradient = problem.gradient(inverse)
        value = smooth + problem.penalty.value(common, specific)
        # Barzilai and Borwein's length for the next time.
        curvature = inner(move, gradient) - inner(move, state.gradient)
        following = square / curvature if curvature > 0 else 2 * step
        return NewtonState(
            common,
            specific,
            precision,
            gradient,
            inverse,
            smooth,
            value,
            min(max(following, step / 10), 10 * step),
            dual,
            dual_value,
            value - dual_value,
            slow=min(step, following) * self.heaviest < self.shortest_step,
            gaps=[*state.gaps, value - dual_value],
        )

    def newton_step(self, state: NewtonState) -> NewtonState:
        """A step towards the minimiser on the manifold, with a line search."""
        problem = self.problem
        surface = manifold(state.common, state.specific, problem.penalty)
        gradient = surface.gather(state.gradient) + surface.gradient
        direction = self.solve(surface, state, gradient)
        slope = inner(gradient, direction)
        length = 1.0
        while length > 1e-3:
            if problem.penalty.group:
                precision = state.precision + length * self.spread(surface, direction)
                common, specific = split_exactly(precision, problem.penalty)
            else:
                common, specific = surface.move(
                    state.common, state.specific, direction, length
                )
            precision = self.join(common, specific)
            cholesky = factor(precision)
            if cholesky is not None:
                smooth = problem.smooth(cholesky, precision)
                value = smooth + problem.penalty.value(common, specific)
                if value <= state.value + self.sufficient * length * slope:
                    break
            length /= 2
        else:
            return replace(state, slow=True)
        inverse = torch.cholesky_inverse(cholesky)
        return replace(
            state,
            common=common,
            specific=specific,
            precision=precision,
            gradient=problem.gradient(inverse),
            inverse=inverse,
            smooth=smooth,
            value=value,
            slow=state.slow or length < self.shortest_search,
        )

    def spread(self, surface: Manifold, direction: Tensor) -> Tensor:
        """A direction as symmetric matrices, in a fresh array."""
        return surface.spread(direction, torch.zeros_like(self.problem.covariance))

    def solve(self, surface: Manifold, state: NewtonState, gradient: Tensor) -> Tensor:
        """The Newton direction by preconditioned conjugate gradients."""
        weight, one = self.problem.by_class, self.problem.class_weight.numel() == 1
        buffer = self._buffer.zero_()
        scale = surface.count

        def hessian(x: Tensor) -> Tensor:
            out = state.inverse @ (surface.spread(x, buffer) @ state.inverse)
            out = surface.gather(out if one else weight * out)
            bend = surface.curvature(x)
            out = out * float(weight) if one else out
            return out if bend is None else out + bend

        def precondition(x: Tensor) -> Tensor:
            out = state.precision @ (
                surface.spread(x / scale, buffer) @ state.precision
            )
            out = surface.gather(out if one else out / weight) / scale
            return out / float(weight) if one else out

        x = torch.zeros_like(gradient)
        residual = -gradient
        target = float(gradient.norm())
        target *= min(self.forcing, math.sqrt(target))
        preconditioned = precondition(residual)
        conjugate = preconditioned.clone()
        product = inner(residual, preconditioned)
        for _ in range(self.max_cg):
            image = hessian(conjugate)
            bend = inner(conjugate, image)
            if not bend > 0:
                break
            length = product / bend
            x.add_(conjugate, alpha=length)
            residual.sub_(image, alpha=length)
            if float(residual.norm()) <= target:
                break
            preconditioned = precondition(residual)
            new = inner(residual, preconditioned)
            conjugate.mul_(new / product).add_(preconditioned)
            product = new
        return x

    def residual(self, state: NewtonState) -> float:
        """The gap; once it seems small enough, in float64."""
        if state.gap <= self.target and state.common.dtype != torch.float64:
            parts = state.common, state.specific, state.dual
            return self.problem.certificate(*parts)[1]
        return state.gap

    def is_stuck(self, state: NewtonState) -> bool:
        """Whether nothing is left to gain."""
        return state.stuck

    def is_slow(self, state: NewtonState) -> bool:
        """Whether another method should take over."""
        gaps = state.gaps
        if len(gaps) > 1 and gaps[-1] <= self.slowest_gap * gaps[-2] < math.inf:
            return state.stuck
        return state.stuck or state.slow or len(gaps) > 2

    def finish(self, state: NewtonState, step: float) -> NewtonState:
        """Newton steps alone, from a split whose manifold may be the solution's.

        `step` is the one of the feasible dual that certifies them.
        """
        for _ in range(self.max_finish):
            state = self.newton_step(state)
            shifted = state.precision.sub(state.gradient, alpha=step)
            common, specific = split(shifted, self.problem.penalty, step)
            dual = shifted.sub_(self.join(common, specific)).div_(step)
            value = dual_objective(
                dual, self.problem.covariance, self.problem.class_weight
            )
            gap = state.value - value
            if not gap < 0.5 * state.gap:
                break
            state = replace(state, dual=dual, dual_value=value, gap=gap)
            if gap <= self.target or state.stuck:
                break
        return state
