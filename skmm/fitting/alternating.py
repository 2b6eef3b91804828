"""The loop of solvers that alternate over an explicit state."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TypeVar

State = TypeVar("State")


@dataclass
class Run:
    """How a loop went.

    Attributes
    ----------
    residuals : list of float
        The residual after each iteration; infinite where it could not be told.
    converged : bool
        Whether the last one is within the tolerance.
    stopped : bool
        Whether `on_iteration` asked to stop.
    """

    residuals: list[float] = field(default_factory=list)
    converged: bool = False
    stopped: bool = False

    @property
    def n_iter(self) -> int:
        """Iterations done."""
        return len(self.residuals)


def alternate(
    step: Callable[[State], State],
    state: State,
    *,
    residual: Callable[[State], float],
    tol: float,
    max_iter: int,
    give_up: Callable[[State], bool] | None = None,
    on_iteration: Callable[[State, Run], bool | None] | None = None,
) -> tuple[State, Run]:
    """Repeat `step` until `residual` is at most `tol`.

    Parameters
    ----------
    step : callable
        Maps a state to the next one.
    state : State
        Where to start.
    residual : callable
        The non-negative distance of a state from the solution.
    tol : float
    max_iter : int
    give_up : callable, default=None
        Told each state that has not converged; true ends the loop.
    on_iteration : callable, default=None
        Told the state and the run after each iteration; true ends the loop.

    Returns
    -------
    state : State
    run : Run
    """
    run = Run()
    while run.n_iter < max_iter:
        state = step(state)
        run.residuals.append(residual(state))
        run.converged = run.residuals[-1] <= tol
        run.stopped = on_iteration is not None and bool(on_iteration(state, run))
        if run.converged or run.stopped or (give_up is not None and give_up(state)):
            break
    return state, run
