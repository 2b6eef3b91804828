"""Ways of fitting a mixture: one fixed point, exact bounds, moves that only help."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import adjusted_rand_score

from skmm.core.mixture import (
    COUPLINGS,
    Expectation,
    Mixture,
    Priors,
    atoms_shape,
    bound,
)
from skmm.core.normal_wishart import NormalWishart
from skmm.fitting.mixture import (
    Batches,
    Rule,
    Settings,
    Source,
    Start,
    State,
    batch_totals,
    distinct_rows,
    expected_bound,
    fit_laps,
    fit_stochastic,
    lap,
    start,
    stochastic_step,
)
from skmm.fitting.mixture._moves import candidates, merge, propose
from skmm.fitting.mixture._start import StartRows, start_labels
from skmm.modalities import resolve_modalities
from skmm.projection import BlockProjection

SEEDS = range(4)
CPU = torch.device("cpu")
RNG = np.random.RandomState
WIDTHS = [5, 3]


def f64(values):
    return torch.as_tensor(np.asarray(values, dtype=np.float64))


def planted(seed, n=300, k=4, spread=6.0, drop=0.4, widths=WIDTHS):
    """Rows of k groups; a share of the second block is missing."""
    rng = np.random.default_rng(seed)
    group = rng.integers(k, size=n)
    X = spread * rng.normal(size=(k, sum(widths)))[group]
    X = X + rng.normal(size=X.shape)
    X[rng.uniform(size=n) < drop, widths[0] :] = np.nan
    return X, group


class Problem:
    """Source, rule and start as the estimator makes them, with plain priors."""

    def __init__(
        self,
        X,
        coupling="shared",
        k=8,
        weight=None,
        empirical=False,
        labels=None,
        factor=1.0,
    ):
        layout = resolve_modalities(WIDTHS, X)
        projection = BlockProjection.fit(X, layout, None, weight)
        self.source = Source(X, layout, projection, CPU, weight, factor, labels)
        blocks = []
        for spread in projection.spread:
            d = len(spread)
            dof = d + 2.0
            scale = spread * (dof if empirical else 1.0)
            blocks.append(
                NormalWishart(
                    f64(np.zeros((1, d))), f64([0.1]), f64(scale[None]), f64([dof])
                )
            )
        least = [f64(0.01 * s[None]) if empirical else None for s in projection.spread]
        self.rule = Rule(Priors(0.5, blocks), least)
        shape = atoms_shape(coupling, 2, k)
        reference = None
        if coupling == "joint_stick":
            one = f64([1.0])
            reference = [
                NormalWishart(p.mean, one, f64(s[None]), one)
                for p, s in zip(blocks, projection.spread, strict=True)
            ]
        self.like = Mixture(
            coupling,
            torch.zeros(shape),
            torch.zeros(shape),
            torch.arange(shape[1]).repeat(shape[0], 1),
            blocks,
            reference=reference,
        )
        self.k = k
        self.n_classes = None if labels is None else int(labels.max()) + 1

    def begin(self, seed=0, kind="kmeans"):
        first = Start(kind, None, self.k, self.like, self.n_classes)
        random_state = np.random.RandomState(seed)
        totals = first.totals(self.batches(), self.rule.priors, random_state)
        return start(totals, self.rule, self.like)

    def batches(self, n=1, stream=False, seed=0, chunk=64):
        return Batches(self.source, n, chunk, np.random.RandomState(seed), stream)

    def labels(self, state):
        rows = self.source.rows(slice(None))
        resp, _ = Expectation(state.mixture).responsibilities(rows)
        return resp[0].argmax(0).numpy()


def run(problem, n_batches=1, seed=0, moves=(), tol=1e-9, max_iter=400, state=None):
    bounds = []
    state = problem.begin(seed) if state is None else state
    state, done = fit_laps(
        state,
        problem.rule,
        problem.batches(n_batches),
        Settings(tol, max_iter, moves),
        np.random.RandomState(seed),
        lambda state, _: bounds.append(state.bound),
    )
    return state, done, np.array(bounds)


# ------------------------------------------------------------ laps
@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("seed", SEEDS)
def test_a_lap_of_one_batch_is_a_sweep(seed, coupling):
    problem = Problem(planted(seed)[0], coupling)
    state = problem.begin(seed)
    after = lap(state, problem.rule, problem.batches(), None)
    totals = Expectation(state.mixture).totals(problem.source.rows(slice(None)))
    priors, mixture = problem.rule.update(totals, state.priors, state.mixture)
    assert after.bound == pytest.approx(bound(totals, priors, mixture), rel=1e-12)
    for got, wanted in zip(after.mixture.blocks, mixture.blocks, strict=True):
        torch.testing.assert_close(got.mean, wanted.mean, rtol=0, atol=1e-12)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stochastic_step_of_rate_one_is_a_sweep(seed):
    problem = Problem(planted(seed)[0])
    state = problem.begin(seed)
    new = batch_totals(Expectation(state.mixture), problem.batches(), 0)
    step = stochastic_step(state, problem.rule, new, 1.0, 1.0)
    after = lap(state, problem.rule, problem.batches(), None)
    for got, wanted in zip(step.mixture.blocks, after.mixture.blocks, strict=True):
        torch.testing.assert_close(got.scale, wanted.scale, rtol=1e-12, atol=0)
    torch.testing.assert_close(step.mixture.a, after.mixture.a, rtol=1e-12, atol=0)


def test_a_stochastic_step_averages_natural_parameters():
    problem = Problem(planted(0)[0])
    state = lap(problem.begin(0), problem.rule, problem.batches(), None)
    batches = problem.batches(3)
    new = batch_totals(Expectation(state.mixture), batches, 1)
    scale, rate = batches.weight / batches.weights[1], 0.3

    def natural(q):
        outer = torch.einsum("ki,kj->kij", q.mean, q.mean)
        return (
            q.precision,
            q.precision[:, None] * q.mean,
            q.scale + q.precision[:, None, None] * outer,
            q.dof,
        )

    priors = state.priors
    _, target = problem.rule.update(new * scale, priors, state.mixture)
    step = stochastic_step(state, problem.rule, new, scale, rate)
    for m in range(2):
        parts = (
            natural(x.mixture.blocks[m] if hasattr(x, "mixture") else x.blocks[m])
            for x in (state, target, step)
        )
        for old, wanted, got in zip(*parts, strict=True):
            torch.testing.assert_close(got, (1 - rate) * old + rate * wanted)


@pytest.mark.parametrize("empirical", [False, True])
@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("seed", SEEDS)
def test_memoized_bound_never_falls_after_the_first_pass(seed, coupling, empirical):
    problem = Problem(planted(seed)[0], coupling, empirical=empirical)
    state, batches = problem.begin(seed), problem.batches(5)
    bounds = []
    for _ in range(15):
        state = lap(state, problem.rule, batches, None)
        bounds.append(state.bound)
    assert np.diff(bounds).min() >= -1e-9 * abs(bounds[-1])


@pytest.mark.parametrize("seed", SEEDS)
def test_memoized_bound_is_exact(seed):
    """At a fixed point it is the bound that a pass over all rows gives."""
    problem = Problem(planted(seed)[0])
    state, _, _ = run(problem, 4, seed, tol=1e-13, max_iter=2000)
    totals = batch_totals(Expectation(state.mixture), problem.batches(), 0)
    again = expected_bound(totals, state.priors, state.mixture)
    assert state.bound == pytest.approx(again, abs=1e-6)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_fixed_point_for_all_ways(seed):
    """From coordinate ascent's fixed point no way of fitting leaves."""
    problem = Problem(planted(seed)[0])
    state, _, _ = run(problem, seed=seed, tol=1e-14, max_iter=3000)
    fixed = state.mixture.blocks[0].mean
    fresh = State(state.priors, state.mixture, state.totals)
    memoized = lap(
        lap(fresh, problem.rule, problem.batches(4), None),
        problem.rule,
        problem.batches(4),
        None,
    )
    torch.testing.assert_close(
        memoized.mixture.blocks[0].mean, fixed, atol=1e-5, rtol=0
    )
    # A stochastic step from all rows, at any rate, stays there too.
    new = batch_totals(Expectation(state.mixture), problem.batches(), 0)
    step = stochastic_step(state, problem.rule, new, 1.0, 0.37)
    torch.testing.assert_close(step.mixture.blocks[0].mean, fixed, atol=1e-7, rtol=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_stochastic_steps_find_the_groups(seed):
    problem = Problem(planted(seed, n=1000)[0])
    best, _, _ = run(problem, seed=seed, moves=("merge",))
    state, _ = fit_stochastic(
        problem.begin(seed),
        problem.rule,
        problem.batches(10),
        Settings(0.0, 20, ("merge",), 1.0, 0.7),
        np.random.RandomState(seed),
    )
    assert int((state.totals.counts > 1).sum()) == 4
    # A last sweep follows; what it leaves is below 0.01 nats a row.
    assert state.bound > best.bound - 0.01 * 1000


@pytest.mark.parametrize("n_batches", [1, 4])
def test_streamed_rows_give_the_same(n_batches):
    X, _ = planted(1)
    weight = np.random.default_rng(0).integers(0, 3, size=len(X)).astype(float)
    problem = Problem(X, weight=weight)
    state = problem.begin(0)
    results = []
    for stream in (False, True):
        batches = problem.batches(n_batches, stream)
        assert batches.weight == pytest.approx(weight.sum())
        assert sum(batches.weights) == pytest.approx(weight.sum())
        # Batches hold other rows; one pass over all of them has the same sums.
        total = None
        for b in range(len(batches)):
            part = batch_totals(Expectation(state.mixture), batches, b)
            total = part if total is None else total + part
        results.append(total)
    torch.testing.assert_close(results[0].counts, results[1].counts)
    torch.testing.assert_close(results[0].blocks[1], results[1].blocks[1])


# ------------------------------------------------------------ recovery
@pytest.mark.parametrize("moves", [(), ("merge", "delete")])
@pytest.mark.parametrize("k", [6, 10, 20])
def test_planted_groups_are_recovered(k, moves):
    for seed in SEEDS:
        X, group = planted(seed, n=400)
        problem = Problem(X, k=k)
        problem.rule = replace(
            problem.rule, priors=replace(problem.rule.priors, concentration=1 / k)
        )
        best = None
        for attempt in range(5):
            found, _, _ = run(problem, seed=10 * seed + attempt, moves=moves, tol=1e-6)
            best = found if best is None or found.bound > best.bound else best
        assert int((best.totals.counts > 1).sum()) == 4
        # Rows without the second block may lie between two groups.
        assert adjusted_rand_score(group, problem.labels(best)) > 0.97


# ------------------------------------------------------------ moves
@pytest.mark.parametrize("coupling", COUPLINGS)
@pytest.mark.parametrize("seed", SEEDS)
def test_moves_only_raise_the_bound(seed, coupling):
    problem = Problem(planted(seed, spread=2.5)[0], coupling, k=10)
    _, _, bounds = run(
        problem, 3, seed, ("merge", "delete", "birth"), tol=1e-6, max_iter=200
    )
    assert np.diff(bounds).min() >= -1e-9 * abs(bounds[-1])


@pytest.mark.parametrize("coupling", COUPLINGS)
def test_a_split_group_is_merged_exactly(coupling):
    problem = Problem(planted(3)[0], coupling, k=10)
    state = lap(problem.begin(0, "k-means++"), problem.rule, problem.batches(2), None)
    for _ in range(3):
        state = lap(state, problem.rule, problem.batches(2), None)
    pairs = candidates(state)
    assert pairs is not None
    state = lap(state, problem.rule, problem.batches(2), pairs)
    merged = merge(state, problem.rule, pairs)
    assert merged.bound > state.bound
    assert merged.moves["merge"] >= 1
    assert merged.totals.counts.sum() == pytest.approx(float(state.totals.counts.sum()))
    gone = (state.totals.counts > 1e-6) & (merged.totals.counts == 0)
    assert 1 <= int(gone.sum()) <= merged.moves["merge"]
    # The bound of the merged responsibilities, from their sums alone, is exact: a
    # sweep can only raise it.
    after = lap(merged, problem.rule, problem.batches(2), None)
    assert after.bound >= merged.bound - 1e-9 * abs(merged.bound)


def test_birth_splits_what_holds_two_groups():
    X, group = planted(0, drop=0.0)
    problem = Problem(X, k=6)
    # All rows in one component.
    given = Start("given", np.zeros(len(X), dtype=int), 6, problem.like, None)
    totals = given.totals(
        problem.batches(), problem.rule.priors, np.random.RandomState(0)
    )
    state = start(totals, problem.rule, problem.like)
    state, _, _ = run(problem, moves=("birth",), tol=1e-6, state=state)
    assert state.moves["birth"] >= 1
    assert adjusted_rand_score(group, problem.labels(state)) == 1


def test_delete_removes_a_component_that_does_not_pay():
    X, _ = planted(2)
    problem = Problem(X, k=4)
    state, _, _ = run(problem, tol=1e-8)
    # A handful of rows in a component of their own.
    rows = problem.source.rows(slice(None))
    resp = Expectation(state.mixture).responsibilities(rows)[0]
    spoiled = Problem(X, k=5)
    wide = torch.cat([resp, torch.zeros_like(resp[:, :1])], 1).clone()
    wide[0, :, :6] = 0
    wide[0, 4, :6] = 1
    given = Start("given", wide[0].T.numpy(), 5, spoiled.like, None)
    totals = given.totals(
        spoiled.batches(), spoiled.rule.priors, np.random.RandomState(0)
    )
    begun = start(totals, spoiled.rule, spoiled.like)
    begun = lap(begun, spoiled.rule, spoiled.batches(), None)
    tried = propose(
        begun, spoiled.rule, spoiled.batches(), ("delete",), np.random.RandomState(0)
    )
    assert tried.bound >= begun.bound
    assert int((tried.totals.counts > 1).sum()) <= 4


# ------------------------------------------------------------ starts
def test_start_does_not_group_by_what_is_missing():
    X, group = planted(5, n=600, drop=0.5)
    seen = ~np.isnan(X).any(axis=1)
    blocks = [np.nan_to_num(X[:, :5]), np.nan_to_num(X[:, 5:])]
    has = np.stack([np.ones(600, bool), seen], axis=1)
    rows = StartRows.of(blocks, has, np.ones(600))
    labels = start_labels(rows, 4, "kmeans", np.random.RandomState(0))
    assert adjusted_rand_score(seen, labels) < 0.05
    assert adjusted_rand_score(group, labels) > 0.6


def test_start_takes_fewer_groups_where_rows_repeat():
    rows = StartRows.of(
        [np.repeat(np.eye(3), 4, axis=0)], np.ones((12, 1), bool), np.ones(12)
    )
    for kind in ("kmeans", "k-means++"):
        labels = start_labels(rows, 8, kind, np.random.RandomState(0))
        assert len(np.unique(labels)) == 3


@pytest.mark.parametrize("with_labels", [False, True])
def test_weights_and_repetitions_start_alike(with_labels):
    X, group = planted(1, n=60)
    weight = np.random.default_rng(3).integers(0, 4, size=60)
    order = np.random.default_rng(4).permutation(int(weight.sum()))
    again = np.repeat(X, weight, axis=0)[order]
    labels = group if with_labels else None
    labels_again = np.repeat(group, weight)[order] if with_labels else None
    random_state = np.random.RandomState(0)
    one = distinct_rows(X, weight.astype(float), labels, random_state)
    other = distinct_rows(again, None, labels_again, random_state)
    np.testing.assert_array_equal(X[one.rows], again[other.rows])
    np.testing.assert_array_equal(one.weight, other.weight)
    assert one.scale == other.scale == 1


@pytest.mark.parametrize("kind", ["kmeans", "k-means++", "random"])
@pytest.mark.parametrize("coupling", COUPLINGS)
def test_starts_hand_out_every_row_once(coupling, kind):
    X, _ = planted(0)
    problem = Problem(X, coupling)
    first = Start(kind, None, 8, problem.like, None)
    totals = first.totals(
        problem.batches(), problem.rule.priors, np.random.RandomState(0)
    )
    if coupling == "per_modality":
        seen = [300, int((~np.isnan(X[:, 5])).sum())]
        if kind == "random":  # absent blocks take part in counts of no block
            seen = totals.counts.sum(1).tolist()
        np.testing.assert_allclose(totals.counts.sum(1), seen)
    else:
        assert float(totals.counts.sum()) == pytest.approx(300)
