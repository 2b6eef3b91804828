"""Coordinate ascent, memoized updates and stochastic steps of one mixture."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from skmm.core.mixture import Expectation, Mixture, Totals
from skmm.fitting.alternating import Run, alternate
from skmm.fitting.mixture._data import Batches
from skmm.fitting.mixture._moves import candidates, merge, propose
from skmm.fitting.mixture._state import (
    Rule,
    State,
    batch_totals,
    expected_bound,
    lap,
    updated,
)

# Laps after which pairs to merge are looked for, converged or not.
MERGE_EVERY = 10
# Sweeps with mergers after stochastic steps.
MOST_SETTLING = 10


@dataclass(frozen=True)
class Settings:
    """How a mixture is fitted.

    Parameters
    ----------
    tol : float
        Change of the bound in a lap, in nats a unit of weight.
    max_iter : int
        Most laps.
    moves : tuple of str
        Among "merge", "delete" and "birth".
    proposals : bool
        Whether moves are also proposed once converged, which takes laps to find out.
    learning_offset, learning_decay : float
        Stochastic step t has the rate ``(t + offset) ** -decay``.
    """

    tol: float
    max_iter: int
    moves: tuple[str, ...] = ()
    learning_offset: float = 1.0
    learning_decay: float = 0.7
    proposals: bool = True


def start(totals: Totals, rule: Rule, like: Mixture) -> State:
    """The state whose factors follow from the sums of a first assignment."""
    priors, mixture = rule.update(totals, rule.priors, like)
    return State(priors, mixture, totals)


def fit_laps(
    state: State,
    rule: Rule,
    batches: Batches,
    settings: Settings,
    random_state: np.random.RandomState,
    on_iteration: Callable[[State, Run], bool | None] | None = None,
) -> tuple[State, Run]:
    """Raise the bound lap by lap: coordinate ascent, or memoized for several batches.

    The fit has converged when the bound changes by at most `tol`, no merger would
    raise it, and no proposal has.
    """
    weight = batches.weight

    def step(state: State) -> State:
        before, pairs = state.bound, state.pending
        state = lap(state, rule, batches, pairs)
        state.pending = None
        n_merged = state.moves.get("merge", 0)
        if pairs is not None:
            state = merge(state, rule, pairs)
        failed = pairs is not None and state.moves.get("merge", 0) == n_merged
        state.change = abs(state.bound - before) / weight
        settled = state.change <= settings.tol
        due = settled or state.lap % MERGE_EVERY == 0
        # Settled, pairs that have just failed would only fail again.
        if "merge" in settings.moves and due and not (settled and failed):
            state.pending = candidates(state)
        if settled and state.pending is None and settings.proposals:
            moved = propose(state, rule, batches, settings.moves, random_state)
            if moved is not state:
                state, state.change = moved, float("inf")
        return state

    def residual(state: State) -> float:
        return state.change if state.pending is None else float("inf")

    return alternate(
        step,
        state,
        residual=residual,
        tol=settings.tol,
        max_iter=settings.max_iter,
        on_iteration=on_iteration,
    )


def stochastic_step(
    state: State, rule: Rule, new: Totals, scale: float, rate: float
) -> State:
    """A natural-gradient step of the given rate, from a batch's sums.

    Natural parameters are the prior's plus sums, so that to average them is to average
    the sums.
    """
    new = new * scale
    if rate == 1:
        totals = new
    else:
        old = replace(state.totals, pairs=new.pairs)
        totals = old * (1 - rate) + new * rate
    priors, mixture = rule.update(totals, state.priors, state.mixture)
    return replace(state, priors=priors, mixture=mixture, totals=totals)


def fit_stochastic(
    state: State,
    rule: Rule,
    batches: Batches,
    settings: Settings,
    random_state: np.random.RandomState,
    on_iteration: Callable[[State, Run], bool | None] | None = None,
) -> tuple[State, Run]:
    """Natural-gradient steps, a batch each, in a new order each lap.

    Mergers are judged by the averaged sums and by a lap's entropies.

    The residual is the change, between laps, of the mean bound that the steps saw. In
    the end `settle` makes the bound exact.
    """
    weight = batches.weight

    def step(state: State) -> State:
        before, seen = state.bound, 0.0
        pairs = None
        if "merge" in settings.moves and state.lap:
            pairs = candidates(state)
        lost: Tensor | float = 0.0
        for done, batch in enumerate(random_state.permutation(len(batches))):
            t = state.lap * len(batches) + done
            rate = (t + settings.learning_offset) ** -settings.learning_decay
            new = batch_totals(Expectation(state.mixture, pairs), batches, batch)
            lost = lost + new.pairs
            new = replace(new, pairs=new.pairs[:0])
            scale = weight / batches.weights[batch]
            seen += expected_bound(new * scale, state.priors, state.mixture)
            state = stochastic_step(state, rule, new, scale, min(rate, 1.0))
        if pairs is not None:
            totals = replace(state.totals, pairs=lost)
            state = merge(replace(state, totals=totals, memory=[totals]), rule, pairs)
        value = seen / len(batches)
        change = abs(value - before) / weight
        return replace(state, lap=state.lap + 1, bound=value, change=change)

    state, run = alternate(
        step,
        state,
        residual=lambda state: state.change,
        tol=settings.tol,
        max_iter=settings.max_iter,
        on_iteration=on_iteration,
    )
    return settle(state, rule, batches, settings.moves), run


def settle(state: State, rule: Rule, batches: Batches, moves: tuple[str, ...]) -> State:
    """Sweeps over all rows after stochastic steps: the exact bound, and mergers.

    Steps of a small rate are slow to empty a component that is one too many.
    """
    state = _sweep(state, rule, batches, None)
    for _ in range(MOST_SETTLING if "merge" in moves else 0):
        pairs = candidates(state)
        if pairs is None:
            break
        n_before = state.moves.get("merge", 0)
        state = merge(_sweep(state, rule, batches, pairs), rule, pairs)
        if state.moves.get("merge", 0) == n_before:
            break
    return state


def _sweep(state: State, rule: Rule, batches: Batches, pairs: Tensor | None) -> State:
    """One update from all rows, whatever the batches; keeps no memory of these."""
    expectation = Expectation(state.mixture, pairs)
    total = batch_totals(expectation, batches, 0)
    for batch in range(1, len(batches)):
        total = total + batch_totals(expectation, batches, batch)
    return updated(replace(state, totals=total, memory=[total]), rule)
