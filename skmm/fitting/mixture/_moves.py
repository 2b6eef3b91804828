"""Moves between numbers of components; each is kept only if it raises the bound.

merge
    Two atoms become one. What the bound gains without the responsibilities' entropy is
    known from sums alone and bounds the whole gain from above, since a merger loses
    entropy: the pairs that pass are tracked in one lap, then the gain is exact.
delete
    A component hands its rows to the others, in one lap.
birth
    Some rows of a component are split by 2-means; one half takes an unused component.
"""

from dataclasses import replace

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
# Laps that a birth is given to raise the bound, and rows that it looks at.
BIRTH_LAPS = 3
BIRTH_ROWS = 2000
# Candidates that are tried, each a lap or more, before a fit counts as settled.
MOST_TRIALS = 3


# ---------------------------------------------------------------- merge
def candidates(state: State) -> Tensor | None:
    """Pairs of atoms whose merger may raise the bound, the best first."""
    totals = state.totals
    pairs = []
    for g, counts in enumerate(totals.counts):
        used = torch.nonzero(counts > UNUSED).flatten()
        i, j = torch.triu_indices(len(used), len(used), 1, device=counts.device)
        found = torch.stack([torch.full_like(i, g), used[i], used[j]], 1)
        pairs.append(found[_same_modality(state.mixture, found)])
    found = torch.cat(pairs)
    if not len(found):
        return None
    gain = _gain(state, found)
    best = torch.argsort(gain, descending=True, stable=True)[:MOST_PAIRS]
    best = best[gain[best] > 0]
    return found[best] if len(best) else None


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


# ---------------------------------------------------------------- delete, birth
def propose(
    state: State,
    rule: Rule,
    batches: Batches,
    moves: tuple[str, ...],
    random_state: np.random.RandomState,
) -> State:
    """Try a few deletions and births; the first that raises the bound is kept."""
    for kind in ("delete", "birth"):
        if kind not in moves:
            continue
        for g, j in _by_size(state, kind)[:MOST_TRIALS]:
            state.tried.add((kind, g, j))
            if kind == "delete":
                proposal = _without(state.mixture, g, j)
            else:
                proposal = _split(state, batches, g, j, random_state)
            if proposal is None:
                continue
            trial = replace(
                state, mixture=proposal, memory=[], totals=None, pending=None
            )
            for _ in range(1 if kind == "delete" else BIRTH_LAPS):
                trial = lap(trial, rule, batches, None)
            if trial.bound > state.bound:
                trial.count_move(kind)
                return trial
    return state


def _by_size(state: State, kind: str) -> list[tuple[int, int]]:
    """Used atoms that have not been tried: the smallest to delete, largest to split."""
    counts = state.totals.counts
    n_used = (counts > UNUSED).sum(1).tolist()
    found = [
        (float(counts[g, j]), g, j)
        for g, j in torch.nonzero(counts > UNUSED).tolist()
        if (kind, g, j) not in state.tried and (n_used[g] > 1 or kind == "birth")
    ]
    found.sort(reverse=kind == "birth")
    return [(g, j) for _, g, j in found]


def _without(mixture: Mixture, g: int, j: int) -> Mixture:
    """The mixture with one atom out of reach."""
    a, b = mixture.a.clone(), mixture.b.clone()
    at = int((mixture.order[g] == j).nonzero()[0, 0])
    # A stick of which next to nothing is broken off; the others keep their shares.
    a[g, at], b[g, at] = 1e-9, 1e9
    return replace(mixture, a=a, b=b)


def _split(
    state: State,
    batches: Batches,
    g: int,
    j: int,
    random_state: np.random.RandomState,
) -> Mixture | None:
    """The mixture with one atom's rows shared with an unused one, by 2-means."""
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
    return maximise(totals, priors, mixture)


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
            index = torch.nonzero(resp[g, j] > 0.5).flatten()
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
