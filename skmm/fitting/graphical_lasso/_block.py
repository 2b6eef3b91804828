"""Solve one connected problem with the method that suits it."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from skmm.core.precision import split_exactly
from skmm.fitting.alternating import Run, alternate

from ._admm import Admm, AdmmState
from ._newton import Newton, NewtonState
from ._problem import Problem, balanced_units, edgeless, rescaled, start


@dataclass
class BlockSolution:
    """The split and the feasible dual of one block, with the gap between them."""

    common: Tensor
    specific: Tensor
    dual: Tensor
    objective: float
    gap: float
    n_iter: int
    converged: bool


def certified(
    problem: Problem, state: AdmmState | NewtonState, n_iter: int, target: float
) -> BlockSolution:
    """A state as a solution, its objective and gap evaluated anew in float64.

    Of the cheapest splits of the precisions, the one with the smallest common part is
    taken. One that ended before its sum was positive definite is drawn to the edgeless
    one as little as makes it so.
    """
    common, specific = state.common, state.specific
    if not problem.penalty.group:
        common, specific = split_exactly(common + specific, problem.penalty)
    value, gap = problem.certificate(common, specific, state.dual)
    if value == math.inf:
        common, specific = drawn_to_edgeless(problem, state)
        value, gap = problem.certificate(common, specific, state.dual)
    parts = common, specific, state.dual
    return BlockSolution(*parts, value, gap, n_iter, gap <= target)


def drawn_to_edgeless(
    problem: Problem, state: AdmmState | NewtonState
) -> tuple[Tensor, Tensor]:
    """A split on the way to the edgeless one whose sum is positive definite."""
    ends = edgeless(problem)
    for share in (0.001, 0.01, 0.1, 0.3):
        common = torch.lerp(state.common, ends[0], share)
        specific = torch.lerp(state.specific, ends[1], share)
        if problem.value(common, specific) < math.inf:
            return common, specific
    return ends


def solve_block(
    problem: Problem,
    *,
    solver: str = "auto",
    target: float = 1e-6,
    max_iter: int = 1000,
    init: tuple[Tensor, Tensor, Tensor | None] | None = None,
    on_iteration: Callable[[float], bool | None] | None = None,
) -> BlockSolution:
    """Solve one connected problem until the gap is at most `target`.

    Parameters
    ----------
    problem : Problem
        On the scale of correlations.
    solver : {"auto", "newton", "admm"}, default="auto"
        "auto" begins with Newton's method, goes on with ADMM where that is slow, and
        lets Newton finish. With the group norm, whose curvature makes Newton's systems
        slow to solve, it begins with ADMM.
    target : float, default=1e-6
        Duality gap in nats.
    max_iter : int, default=1000
        Iterations of both methods together, without Newton's last few after ADMM.
    init : tuple of common, specific and dual or None, default=None
        Where to start, if that is better than no edges.
    on_iteration : callable, default=None
        Told the gap after each iteration; true ends the solver.
    """
    begin = (*start(problem), None)
    if init is not None and problem.value(*init[:2]) < problem.value(*begin[:2]):
        begin = init
    done = 0

    def tell(state: AdmmState | NewtonState, run: Run) -> bool:
        return on_iteration is not None and bool(on_iteration(state.gap))

    if solver == "newton" or (solver == "auto" and not problem.penalty.group):
        newton = Newton(problem, target)
        state = newton.init(*begin[:2]) or newton.init(*edgeless(problem))
        assert state is not None  # the start without edges is positive definite
        state, run = alternate(
            newton.step,
            state,
            residual=newton.residual,
            tol=target,
            max_iter=max_iter,
            give_up=newton.is_stuck if solver == "newton" else newton.is_slow,
            on_iteration=tell,
        )
        done = run.n_iter
        ended = run.converged or run.stopped or done >= max_iter
        if ended or solver == "newton":
            return certified(problem, state, done, target)
    # What little Newton's method did is no better a start for ADMM than none.
    units = balanced_units(problem)
    outer = units[:, None] * units
    balanced = rescaled(problem, units)
    common, specific, dual = begin
    admm = Admm(
        balanced, target, Newton(balanced, target) if solver == "auto" else None
    )
    state_admm, run = alternate(
        admm.step,
        admm.init(
            common * outer, specific * outer, None if dual is None else dual / outer
        ),
        residual=lambda state: state.gap,
        tol=target,
        max_iter=max_iter - done,
        give_up=admm.is_stuck,
        on_iteration=tell,
    )
    found = state_admm.finished or state_admm
    solution = certified(balanced, found, done + run.n_iter, target)
    return replace(
        solution,
        common=solution.common / outer,
        specific=solution.specific / outer,
        dual=solution.dual * outer,
        objective=solution.objective
        + float(2 * problem.class_weight.sum() * units.double().log().sum()),
    )
