"""Newton's method on the manifold that the subgradient points to.

An iteration costs a few Cholesky factorisations and matrix products, on the CPU with
sparse matrices where few entries move: each a small part of an eigendecomposition.
"""

import math
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from skmm.core.precision import (
    dual_objective,
    factor,
    inverse_of,
    split,
    split_exactly,
)
from skmm.core.precision_manifold import Manifold, manifold, products

from ._problem import Problem, inner


@dataclass
class NewtonState:
    """The split with everything known about it.

    `dual` is the best feasible Y so far and `dual_value` its value.
    """

    common: Tensor
    specific: Tensor
    precision: Tensor
    gradient: Tensor
    inverse: Tensor
    value: float
    dual: Tensor
    dual_value: float = -math.inf
    gap: float = math.inf
    stuck: bool = False  # no step makes progress
    short: bool = False  # the line search has cut the step to a small part
    gaps: list[float] = field(default_factory=lambda: [math.inf])


class Newton:
    """Newton steps in the coordinates that the smallest subgradient wants to move.

    A proximal step, as short as one likes, tells these: entries that are not zero, and
    zeros that the gradient would have left. Their signs are kept in the step, entries
    that would change theirs become zero, and a line search asks for descent. For one
    class this is the orthant-based method of Olsen et al. (2012).

    The Newton system is solved by conjugate gradients, preconditioned by the precisions
    themselves: the Hessian of the likelihood is the Kronecker square of the covariance,
    whose inverse is that of the precision, and restricting both is close when the graph
    is sparse.
    """

    max_cg = 60
    forcing = 0.2  # relative residual that the system is solved to, at most
    max_finish = 4
    # A step to the brink of singularity lowers the objective, but leaves a gradient
    # that tells nothing: it is cut like one that lowers it too little.
    sufficient = 0.35  # of the decrease that the slope predicts; half is a full step's
    growth = 2.0  # of the norm of the covariances
    shortest = 1e-4  # part of a Newton step
    shortest_proximal = 1e-12
    reach = 1e-2  # of the short proximal step, in parts of the longest safe one
    # Signs that the signs are not the solution's: ADMM is then ahead.
    short_step = 0.2
    slowest = 0.5  # of the gap before, after a short step, or some iterations before
    patience = 3

    def __init__(self, problem: Problem, target: float):
        self.problem = problem
        self.target = target
        self.heaviest = float(problem.class_weight.max())
        self.single = (
            problem.covariance.shape[0] == 1 and problem.penalty.specific is None
        )

    def init(self, common: Tensor, specific: Tensor) -> NewtonState | None:
        """A state from a split; None if its sum is not positive definite."""
        precision = self.join(common, specific)
        cholesky = factor(precision)
        if cholesky is None:
            return None
        inverse = inverse_of(cholesky)
        return NewtonState(
            common,
            specific,
            precision,
            self.problem.gradient(inverse),
            inverse,
            self.problem.smooth(cholesky, precision)
            + self.problem.penalty.value(common, specific),
            torch.zeros_like(precision),
        )

    def join(self, common: Tensor, specific: Tensor) -> Tensor:
        """The precisions; for one class without a specific part, without a sum."""
        return common[None] if self.single else common + specific

    def step(self, state: NewtonState) -> NewtonState:
        """One iteration: a Newton step and its certificate."""
        return self.certify(self.newton_step(state))

    def certify(self, state: NewtonState) -> NewtonState:
        """The gap to the best of the dual points so far, the gradient's among them."""
        problem, step = self.problem, 1 / self.heaviest
        shifted, common, specific = self.proximal(state, step)
        dual = shifted.sub_(self.join(common, specific)).div_(step)
        value = dual_objective(dual, problem.covariance, problem.class_weight)
        if value < state.dual_value:
            dual, value = state.dual, state.dual_value
        gap = state.value - value
        return replace(
            state, dual=dual, dual_value=value, gap=gap, gaps=[*state.gaps, gap]
        )

    def proximal(self, state: NewtonState, step: float) -> tuple[Tensor, ...]:
        """The precisions after a gradient step, and the split nearest to them."""
        shifted = state.precision.sub(state.gradient, alpha=step)
        return shifted, *split(shifted, self.problem.penalty, step)

    def newton_step(self, state: NewtonState, extend: bool = True) -> NewtonState:
        """A step towards the minimiser on the manifold, with a line search.

        Zeros that the gradient would have left move only where it is to `extend`.
        """
        problem = self.problem
        if extend and problem.penalty.group:  # whose norm bends too much near zero
            state, extend = self.proximal_step(state), False
        common, specific = state.common, state.specific
        if extend:
            # The longest step that surely descends is one over the Hessian's norm.
            longest = 1 / (self.heaviest * inner(state.inverse, state.inverse))
            _, common, specific = self.proximal(state, self.reach * longest)
        surface = manifold(common, specific, problem.penalty)
        gradient = surface.gather(state.gradient) + surface.gradient
        direction = self.solve(surface, state, gradient)
        slope = inner(gradient, direction)
        begin, length = (common, specific), 1.0
        while length > self.shortest:
            if problem.penalty.group:
                precision = self.join(*begin) + length * surface.spread(
                    direction, torch.zeros_like(problem.covariance)
                )
                common, specific = split_exactly(precision, problem.penalty)
            else:
                common, specific = surface.move(*begin, direction, length)
            new = self.descend(state, common, specific, length * slope)
            if new is not None:
                return replace(new, short=length < self.short_step)
            length /= 2
        return self.proximal_step(state)

    def proximal_step(self, state: NewtonState) -> NewtonState:
        """Slow but sure: a gradient step, halved until it descends."""
        step = 1 / self.heaviest
        while step > self.shortest_proximal:
            _, common, specific = self.proximal(state, step)
            move = self.join(common, specific) - state.precision
            decrease = inner(move, move) / step
            new = self.descend(state, common, specific, -decrease)
            if new is not None:
                return replace(new, short=True)
            step /= 2
        return replace(state, stuck=True)

    def descend(
        self, state: NewtonState, common: Tensor, specific: Tensor, slope: float
    ) -> NewtonState | None:
        """The state at a split; None unless safe, and lower by a part of `slope`."""
        problem = self.problem
        precision = self.join(common, specific)
        cholesky = factor(precision)
        if cholesky is None:
            return None
        value = problem.smooth(cholesky, precision)
        value += problem.penalty.value(common, specific)
        if not value <= state.value + self.sufficient * slope:
            return None
        inverse = inverse_of(cholesky)
        if inner(inverse, inverse) > self.growth**2 * inner(
            state.inverse, state.inverse
        ):
            return None
        return replace(
            state,
            common=common,
            specific=specific,
            precision=precision,
            gradient=problem.gradient(inverse),
            inverse=inverse,
            value=value,
            stuck=False,
        )

    def solve(self, surface: Manifold, state: NewtonState, gradient: Tensor) -> Tensor:
        """The Newton direction by preconditioned conjugate gradients."""
        surface = surface.single()
        multiply, scale = products(surface), surface.count
        weight = self.problem.by_class.sqrt()  # to each of two factors
        covariance = (state.inverse * weight).to(scale)
        precision = (state.precision / weight).to(scale)

        def hessian(x: Tensor) -> Tensor:
            out = multiply(x, covariance)
            bend = surface.curvature(x)
            return out if bend is None else out + bend

        def precondition(x: Tensor) -> Tensor:
            return multiply(x / scale, precision).div_(scale)

        # Of length one: close to the solution its square would be zero.
        size = float(gradient.norm())
        residual = (gradient / -max(size, torch.finfo(gradient.dtype).tiny)).to(scale)
        x = torch.zeros_like(residual)
        target = min(self.forcing, math.sqrt(size))
        preconditioned = precondition(residual)
        conjugate = preconditioned.clone()
        product = inner(residual, preconditioned)
        for _ in range(self.max_cg):
            image = hessian(conjugate)
            bend = inner(conjugate, image)
            if not (bend > 0 and product > 0):
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
        return x.to(gradient) * size

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
        if state.stuck or len(state.gaps) < 2:
            return state.stuck
        *_, before, last = state.gaps
        if state.short and not last < self.slowest * before:
            return True
        early = len(state.gaps) <= self.patience + 1
        return not early and not last < self.slowest * state.gaps[-1 - self.patience]

    def finish(self, state: NewtonState) -> NewtonState:
        """Newton steps from a split whose manifold may be the solution's."""
        for _ in range(self.max_finish):
            before = state.gap
            state = self.certify(self.newton_step(state, extend=False))
            if state.gap <= self.target or not state.gap < 0.5 * before:
                break
        return state
