"""Moves between numbers of components; each is kept only if it raises the bound.

Two atoms are merged at once where their sums say so: what the bound gains without the
responsibilities' entropy is known from sums alone and bounds the whole gain from above,
since a merger loses entropy; the pairs that pass are tracked in one lap, then the gain
is exact. Of a fit that has converged, some more moves are tried for a few laps:

merge
    Two atoms become one, though the bound may fall at first.
delete
    An atom loses all rows; the others share them.
birth
    Some rows of an atom are split by 2-means; one half takes an unused atom.
"""

from dataclasses import replace
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from skmm.core.mixture import (
    Expectation,
    Mixture,
    Rows,
    Totals,
    given_totals,
    label_evidence,
    maximise,
    unpacked,
)
from skmm.core.normal_wishart import cholesky, log_normaliser, posterior
from skmm.core.stick_breaking import log_evidence
from skmm.fitting.mixture._data import Batches
from skmm.fitting.mixture._start import StartRows, start_labels
from skmm.fitting.mixture._state import (
    UNUSED,
    Rule,
    State,
    lap,
    sum_of,
    updated,
)

MOVES = ("merge", "delete", "birth")
# Pairs that one lap tracks.
MOST_PAIRS = 64
# Memory for the candidates' posteriors.
PAIR_CELLS = 2**22
# Rows that a birth looks at.
BIRTH_ROWS = 2000
# Laps that a proposal is given to raise the bound, by this many nats a unit of weight.
# After some laps it is dropped where ten more gains like the last would not do.
TRIAL_LAPS = 30
SURE_LAPS = 4
FORESIGHT = 10
LEAST_GAIN = 1e-5
# Pairs whose exact gain is looked up before some are proposed.
RANKED_PAIRS = 16
# Proposals of each kind before a fit counts as settled.
MOST_TRIALS = 3


# ---------------------------------------------------------------- merge
def candidates(state: State) -> Tensor | None:
    """Pairs of atoms whose merger may raise the bound, the best first."""
    found = _all_pairs(state)
    if not len(found):
        return None
    gain = _gain(state, found)
    best = torch.argsort(gain, descending=True, stable=True)[:MOST_PAIRS]
    best = best[gain[best] > 0]
    return found[best] if len(best) else None


def _all_pairs(state: State) -> Tensor:
    """Pairs (g, i, j) of used atoms that could be one."""
    pairs = []
    for g, counts in enumerate(state.totals.counts):
        used = torch.nonzero(counts > UNUSED).flatten()
        i, j = torch.triu_indices(len(used), len(used), 1, device=counts.device)
        found = torch.stack([torch.full_like(i, g), used[i], used[j]], 1)
        pairs.append(found[_same_modality(state.mixture, found)])
    return torch.cat(pairs)


def merge(state: State, rule: Rule, pairs: Tensor) -> State:
    """Merge tracked pairs for as long as the exact bound rises."""
    taken: set[tuple[int, int]] = set()
    while True:
        free = [
            p
            for p, (g, i, j) in enumerate(pairs.tolist())
            if not {(g, i), (g, j)} & taken
        ]
        if not free:
            return state
        index = torch.tensor(free, device=pairs.device)
        gain = _gain(state, pairs[index]) - state.totals.pairs[index]
        best = int(gain.argmax())
        if not float(gain[best]) > 0:
            return state
        chosen = int(index[best])
        g, i, j = pairs[chosen].tolist()
        taken |= {(g, i), (g, j)}
        memory = [_merged(t, chosen, g, i, j, state.mixture) for t in state.memory]
        totals = memory[0] if len(memory) == 1 else sum_of(memory)
        state = updated(replace(state, memory=memory, totals=totals), rule)
        state.count_move("merge")


def _same_modality(mixture: Mixture, pairs: Tensor) -> Tensor:
    """Whether both atoms have the same blocks: always, but on a joint stick."""
    if mixture.coupling != "joint_stick":
        return torch.ones(len(pairs), dtype=torch.bool, device=pairs.device)
    k = len(mixture.blocks[0].dof)
    return pairs[:, 1] // k == pairs[:, 2] // k


def _blocks_of(mixture: Mixture, g: int, j: int) -> list[tuple[int, int]]:
    """Modalities and components that an atom has."""
    k = len(mixture.blocks[0].dof)
    if mixture.coupling == "shared":
        return [(m, j) for m in range(len(mixture.blocks))]
    if mixture.coupling == "joint_stick":
        return [(j // k, j % k)]
    return [(g, j)]


def _gain(state: State, pairs: Tensor) -> Tensor:
    """What the bound gains by each merger, but for the entropy."""
    totals, priors, mixture = state.totals, state.priors, state.mixture
    gain = _stick_gain(state, pairs)
    k = len(mixture.blocks[0].dof)
    for m, prior in enumerate(priors.blocks):
        if mixture.coupling == "shared":
            here = torch.arange(len(pairs), device=pairs.device)
        elif mixture.coupling == "joint_stick":
            here = torch.nonzero(pairs[:, 1] // k == m).flatten()
        else:
            here = torch.nonzero(pairs[:, 0] == m).flatten()
        if not len(here):
            continue
        total = totals.blocks[m]
        own = log_normaliser(mixture.blocks[m]) - log_normaliser(prior)
        i, j = pairs[here, 1] % k, pairs[here, 2] % k
        size = max(1, PAIR_CELLS // prior.scale[0].numel())
        for part in torch.split(torch.arange(len(here), device=pairs.device), size):
            both = posterior(prior, unpacked(total[i[part]] + total[j[part]], prior))
            merged = log_normaliser(both) - log_normaliser(prior)
            gain[here[part]] += merged - own[i[part]] - own[j[part]]
    if totals.labels is not None:
        g, i, j = pairs.T
        own = label_evidence(priors.label + totals.labels, priors.label)
        both = priors.label + totals.labels[g, i] + totals.labels[g, j]
        gain += label_evidence(both, priors.label) - own[g, i] - own[g, j]
    return gain


def _stick_gain(state: State, pairs: Tensor) -> Tensor:
    counts, priors = state.totals.counts.clamp_min(0), state.priors
    g, i, j = pairs.T
    after = counts[g]  # (P, J)
    each = torch.arange(len(pairs), device=pairs.device)
    after[each, i] += after[each, j]
    after[each, j] = 0
    order = state.mixture.order
    if priors.by_size:
        before = torch.sort(counts, descending=True).values
        after = torch.sort(after, descending=True).values
    else:
        before = torch.gather(counts, -1, order)
        after = torch.gather(after, -1, order[g])
    evidence = log_evidence(before, priors.concentration)
    return log_evidence(after, priors.concentration) - evidence[g]


def _merged(
    totals: Totals, pair: int, g: int, i: int, j: int, mixture: Mixture
) -> Totals:
    """Sums after atom j has been merged into atom i."""

    def moved(values: Tensor, at: tuple, other: tuple) -> Tensor:
        values = values.clone()
        values[at] += values[other]
        values[other] = 0
        return values

    blocks = list(totals.blocks)
    for (m, k), (_, other) in zip(
        _blocks_of(mixture, g, i), _blocks_of(mixture, g, j), strict=True
    ):
        blocks[m] = moved(blocks[m], (k,), (other,))
    labels = totals.labels
    if labels is not None:
        labels = moved(labels, (g, i), (g, j))
    return replace(
        totals,
        counts=moved(totals.counts, (g, i), (g, j)),
        blocks=blocks,
        labels=labels,
        entropy=totals.entropy - totals.pairs[pair],
    )


# ---------------------------------------------------------------- proposals
def propose(
    state: State,
    rule: Rule,
    batches: Batches,
    moves: tuple[str, ...],
    random_state: np.random.RandomState,
) -> State:
    """Try some moves of each kind; the first that raises the bound is kept."""
    for kind in (kind for kind in MOVES if kind in moves):
        options = OPTIONS[kind](state, batches)
        untried = (option for option in options if (kind, *option) not in state.tried)
        for option in islice(untried, MOST_TRIALS):
            state.tried.add((kind, *option))
            if kind == "merge":
                proposal = _joined(state, *option)
            elif kind == "delete":
                proposal = _without(state, *option)
            else:
                proposal = _split(state, batches, *option, random_state)
            trial = None
            if proposal is not None:
                trial = _tried(state, proposal, rule, batches)
            if trial is not None:
                trial.count_move(kind)
                return trial
    return state


def _tried(
    state: State, proposal: Totals, rule: Rule, batches: Batches
) -> State | None:
    """A proposal after some laps, if its bound is above that of the state."""
    target = state.bound + LEAST_GAIN * batches.weight
    mixture = maximise(proposal, state.priors, state.mixture)
    trial = replace(state, mixture=mixture, totals=proposal, memory=[], pending=None)
    before = -float("inf")
    for done in range(TRIAL_LAPS):
        trial = lap(trial, rule, batches, None)
        if trial.bound > target:
            return trial
        hopeless = trial.bound + FORESIGHT * (trial.bound - before) < target
        if done >= SURE_LAPS and hopeless:
            break
        before = trial.bound
    return None


def _mergers(state: State, batches: Batches) -> list[tuple[int, ...]]:
    """Pairs by what the bound loses, the least first."""
    pairs = _all_pairs(state)
    if not len(pairs):
        return []
    gain = _gain(state, pairs)
    best = torch.argsort(gain, descending=True, stable=True)[:RANKED_PAIRS]
    pairs, gain = pairs[best], gain[best]
    expectation = Expectation(state.mixture, pairs)
    for batch in range(len(batches)):
        for rows in batches.chunks(batch):
            gain = gain - expectation.totals(rows).pairs
    order = torch.argsort(gain, descending=True, stable=True)
    return [tuple(pair) for pair in pairs[order].tolist()]


def _deletions(state: State, batches: Batches) -> list[tuple[int, ...]]:
    """Atoms by what the rows' log-normalisers lose without them, the least first."""
    counts = state.totals.counts
    loss = torch.zeros_like(counts)
    expectation = Expectation(state.mixture)
    for batch in range(len(batches)):
        for rows in batches.chunks(batch):
            resp, _ = expectation.responsibilities(rows)
            rest = torch.log1p(-resp.clamp_max(1 - 1e-12))
            loss -= (rest * rows.weight).sum(-1)
    several = (counts > UNUSED).sum(1, keepdim=True) > 1
    found = torch.nonzero((counts > UNUSED) & several).tolist()
    return sorted(map(tuple, found), key=lambda atom: float(loss[atom]))


def _births(state: State, batches: Batches) -> list[tuple[int, ...]]:
    """Atoms, the largest first."""
    counts = state.totals.counts
    found = torch.nonzero(counts > UNUSED).tolist()
    return sorted(map(tuple, found), key=lambda atom: -float(counts[atom]))


OPTIONS = {"merge": _mergers, "delete": _deletions, "birth": _births}


def _joined(state: State, g: int, i: int, j: int) -> Totals:
    """Sums with two atoms in one."""
    totals = replace(state.totals, pairs=state.totals.counts.new_zeros(1))
    merged = _merged(totals, 0, g, i, j, state.mixture)
    return replace(merged, pairs=totals.pairs[:0])


def _without(state: State, g: int, j: int) -> Totals:
    """Sums without those of one atom."""
    empty = replace(state.totals * 0.0, pairs=state.totals.pairs)
    return _set_atom(state.totals, empty, state.mixture, g, j)


def _split(
    state: State,
    batches: Batches,
    g: int,
    j: int,
    random_state: np.random.RandomState,
) -> Totals | None:
    """Sums with one atom's rows shared with an unused one, by 2-means."""
    mixture, priors = state.mixture, state.priors
    counts = state.totals.counts
    free = _unused(counts, mixture, g, j)
    rows = None if free is None else _rows_of(mixture, batches, g, j)
    if rows is None:
        return None
    labels = start_labels(_whitened(rows, mixture, g, j), 2, "kmeans", random_state)
    if len(np.unique(labels)) < 2:
        return None
    resp = counts.new_zeros((*counts.shape, rows.n_rows))
    side = torch.as_tensor(labels, device=counts.device)
    resp[g, j], resp[g, free] = (side == 0).to(resp), (side == 1).to(resp)
    n_classes = None if mixture.labels is None else mixture.labels.shape[-1]
    halves = given_totals(resp, rows, mixture.coupling, priors.blocks, n_classes)
    # Few rows stand for all of the component.
    halves = halves * float(counts[g, j] / halves.counts[g].sum())
    totals = state.totals
    for atom in (j, free):
        totals = _set_atom(totals, halves, mixture, g, atom)
    return totals


def _unused(counts: Tensor, mixture: Mixture, g: int, j: int) -> int | None:
    """An atom without rows that has the same modalities."""
    k = len(mixture.blocks[0].dof)
    for free in torch.nonzero(counts[g] <= UNUSED).flatten().tolist():
        if mixture.coupling != "joint_stick" or free // k == j // k:
            return free
    return None


def _rows_of(mixture: Mixture, batches: Batches, g: int, j: int) -> Rows | None:
    """Some rows of which an atom has the larger part."""
    expectation = Expectation(mixture)
    found, n_found = [], 0
    for batch in range(len(batches)):
        for rows in batches.chunks(batch):
            resp, _ = expectation.responsibilities(rows)
            own = (resp[g, j] > 0.5) & (rows.weight > 0)
            index = torch.nonzero(own).flatten()
            if len(index):
                found.append(rows.take(index[: BIRTH_ROWS - n_found]))
                n_found += found[-1].n_rows
            if n_found >= BIRTH_ROWS:
                return Rows.joined(found)
    return Rows.joined(found) if n_found > 1 else None


def _whitened(rows: Rows, mixture: Mixture, g: int, j: int) -> StartRows:
    """Rows in the units of an atom's covariances."""
    blocks, seen = [], []
    for m, k in _blocks_of(mixture, g, j):
        q = mixture.blocks[m].take(torch.tensor([k]))
        root = cholesky(q.covariance)[0]
        apart = rows.z[m] - q.mean[0, :, None]
        if q.diagonal:
            white = apart / root[:, None]
        else:
            white = torch.linalg.solve_triangular(root, apart, upper=False)
        blocks.append(white.T.cpu().numpy())
        seen.append((rows.seen[m] > 0).cpu().numpy())
    return StartRows.of(blocks, np.stack(seen, 1), rows.weight.cpu().numpy())


def _set_atom(
    totals: Totals, source: Totals, mixture: Mixture, g: int, j: int
) -> Totals:
    """Sums with those of one atom taken from others."""

    def put(values: Tensor, other: Tensor, at: tuple) -> Tensor:
        values = values.clone()
        values[at] = other[at]
        return values

    blocks = list(totals.blocks)
    for m, k in _blocks_of(mixture, g, j):
        blocks[m] = put(blocks[m], source.blocks[m], (k,))
    labels = totals.labels
    if labels is not None and source.labels is not None:
        labels = put(labels, source.labels, (g, j))
    return replace(
        totals,
        counts=put(totals.counts, source.counts, (g, j)),
        blocks=blocks,
        labels=labels,
    )
