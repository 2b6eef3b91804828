"""The loop of alternating solvers, on states that are plain numbers."""

import math

import pytest

from skmm.fitting.alternating import Run, alternate


def halve(x):
    return x / 2


def run(state=1.0, tol=0.1, max_iter=100, **kwargs):
    return alternate(halve, state, residual=abs, tol=tol, max_iter=max_iter, **kwargs)


def test_stops_at_the_tolerance():
    state, record = run(tol=0.125)
    # At most the tolerance: equal to it is enough.
    assert state == 0.125
    assert record.residuals == [0.5, 0.25, 0.125]
    assert record.n_iter == 3
    assert record.converged is True


def test_starts_with_a_step_even_at_the_solution():
    state, record = run(state=0.0)
    assert (state, record.n_iter, record.converged) == (0.0, 1, True)


@pytest.mark.parametrize("max_iter", [1, 2])
def test_stops_after_max_iter(max_iter):
    state, record = run(tol=0.2, max_iter=max_iter)
    assert state == 0.5**max_iter
    assert record.n_iter == max_iter
    assert record.converged is False


def test_converging_in_the_last_iteration_counts():
    _, record = run(tol=0.25, max_iter=2)
    assert record.converged is True


def test_no_iterations():
    state, record = run(state=3.0, max_iter=0)
    assert state == 3.0
    assert record == Run([], False)


def test_gives_up():
    asked = []

    def give_up(x):
        asked.append(x)
        return x < 0.3

    state, record = run(give_up=give_up)
    assert asked == [0.5, 0.25]
    assert state == 0.25
    assert record.n_iter == 2
    assert record.converged is False


def test_is_not_asked_to_give_up_what_has_converged():
    asked = []
    _, record = run(tol=0.5, give_up=lambda x: asked.append(x) or True)
    assert asked == []
    assert record.converged is True


def test_callback_hears_each_iteration():
    heard = []

    def listen(state, record):
        heard.append((state, record.n_iter, record.residuals[-1], record.converged))

    run(tol=0.25, on_iteration=listen)
    assert heard == [(0.5, 1, 0.5, False), (0.25, 2, 0.25, True)]


@pytest.mark.parametrize("bad", [math.inf, math.nan])
def test_a_residual_that_cannot_be_told_is_no_convergence(bad):
    residuals = iter([bad, 0.01])
    _, record = alternate(
        halve, 1.0, residual=lambda _: next(residuals), tol=0.1, max_iter=5
    )
    assert record.n_iter == 2
    assert record.converged is True
    _, record = alternate(halve, 1.0, residual=lambda _: bad, tol=0.1, max_iter=5)
    assert record.n_iter == 5
    assert record.converged is False


def test_converged_tells_of_the_last_iteration_only():
    # A callback that goes on with a run may not find a stale verdict.
    verdicts = []
    residuals = iter([1.0, 0.5, 0.05])
    alternate(
        halve,
        1.0,
        residual=lambda _: next(residuals),
        tol=0.1,
        max_iter=3,
        on_iteration=lambda _, record: verdicts.append(record.converged),
    )
    assert verdicts == [False, False, True]
