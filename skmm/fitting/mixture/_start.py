r"""Where a mixture starts: responsibilities of some rows.

Distances between rows and centres are means over the blocks that a row has,

.. math:: d^2(i, k) = \frac{1}{|O_i|} \sum_{m \in O_i}
          \frac{\|z_{im} - c_{km}\|^2}{V_m},

with V_m the total variance of block m, so that a block counts the same whatever its
width, and a row is compared by what it has. Filled-in means would group rows by what
they lack. Where nothing is missing this is k-means, and scikit-learn's is used.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from sklearn.cluster import KMeans

from skmm.core.mixture import (
    Mixture,
    Priors,
    Rows,
    Totals,
    atoms_shape,
    given_totals,
)
from skmm.fitting.mixture._data import Batches

# A start is looked for among at most so many rows.
START_ROWS = 20_000
SWEEPS = 30
# Candidates of which each k-means++ step takes the best.
TRIALS = 4


@dataclass(frozen=True)
class StartRows:
    """Rows to find a start from.

    Parameters
    ----------
    blocks : list of ndarray of shape (n, D_m)
        Centred, of unit total variance, zero where not observed.
    seen : bool ndarray of shape (n, M)
    weight : ndarray of shape (n,)
    """

    blocks: list[np.ndarray]
    seen: np.ndarray
    weight: np.ndarray

    @classmethod
    def of(cls, z: list[np.ndarray], seen: np.ndarray, weight: np.ndarray):
        """Centre and scale coordinates, zero where not observed."""
        blocks = []
        for m, values in enumerate(z):
            there = seen[:, m]
            if there.any():
                own = weight[there]
                centre = np.average(values[there], axis=0, weights=own)
                far = np.average(((values[there] - centre) ** 2).sum(1), weights=own)
                values = (values - centre) / np.sqrt(far if far > 0 else 1.0)
            blocks.append(np.where(there[:, None], values, 0.0))
        return cls(blocks, seen, weight)

    def distances(self, centres: list[np.ndarray]) -> np.ndarray:
        """Mean squared distances (n, k) to centres, one array (k, D_m) a block."""
        total = np.zeros((len(self.seen), len(centres[0])))
        for m, (x, c) in enumerate(zip(self.blocks, centres, strict=True)):
            squares = (x**2).sum(1)[:, None] - 2 * x @ c.T + (c**2).sum(1)
            total += np.where(self.seen[:, m, None], squares, 0.0)
        total /= np.maximum(self.seen.sum(1), 1)[:, None]
        return np.maximum(total, 0.0)

    def at(self, rows: np.ndarray) -> list[np.ndarray]:
        """Rows as centres; a block that a row lacks is at the mean."""
        return [x[rows] for x in self.blocks]


def start_labels(
    rows: StartRows, k: int, kind: str, random_state: np.random.RandomState
) -> np.ndarray:
    """Component of each row, by k-means or by its k-means++ seeds."""
    if kind == "kmeans" and rows.seen.all():
        stacked = np.hstack(rows.blocks)
        k = min(k, len(np.unique(stacked, axis=0)))
        seed = random_state.randint(2**31 - 1)
        means = KMeans(k, n_init=1, random_state=seed)
        return means.fit(stacked, sample_weight=rows.weight).labels_
    centres = rows.at(_seeds(rows, k, random_state))
    labels = rows.distances(centres).argmin(1)
    for _ in range(SWEEPS if kind == "kmeans" else 0):
        centres = _means(rows, labels, centres)
        before, labels = labels, rows.distances(centres).argmin(1)
        if (labels == before).all():
            break
    return labels


def _seeds(rows: StartRows, k: int, random_state: np.random.RandomState) -> np.ndarray:
    """k-means++ among the rows that have the most modalities."""
    n_seen = rows.seen.sum(1)
    candidates = np.flatnonzero((n_seen == n_seen.max()) & (rows.weight > 0))
    if len(candidates) < 4 * k:
        by_seen = np.argsort(-n_seen, kind="stable")
        candidates = by_seen[rows.weight[by_seen] > 0][: 4 * k]
    weight = rows.weight[candidates]
    first = random_state.choice(len(candidates), p=weight / weight.sum())
    seeds = [candidates[first]]
    nearest = rows.distances(rows.at(np.array(seeds)))[:, 0]
    while len(seeds) < k:
        chance = nearest[candidates] * weight
        if chance.sum() <= 0:  # no more distinct rows
            break
        trial = candidates[
            random_state.choice(len(candidates), size=TRIALS, p=chance / chance.sum())
        ]
        reach = np.minimum(nearest[:, None], rows.distances(rows.at(trial)))
        best = (rows.weight @ reach).argmin()
        seeds.append(trial[best])
        nearest = reach[:, best]
    return np.array(seeds)


def _means(
    rows: StartRows, labels: np.ndarray, centres: list[np.ndarray]
) -> list[np.ndarray]:
    k = len(centres[0])
    assigned = np.zeros((k, len(labels)))
    assigned[labels, np.arange(len(labels))] = rows.weight
    new = []
    for m, x in enumerate(rows.blocks):
        count = assigned @ rows.seen[:, m]
        mean = assigned @ x / np.where(count > 0, count, 1.0)[:, None]
        new.append(np.where(count[:, None] > 0, mean, centres[m]))
    return new


@dataclass(frozen=True)
class Start:
    """How responsibilities begin.

    Parameters
    ----------
    kind : {"kmeans", "k-means++", "random"}
    given : ndarray or None
        Labels (n_samples,) or responsibilities (n_samples, n_atoms) in place of it.
    n_components : int
    like : Mixture
        Coupling and shape.
    n_classes : int or None
    """

    kind: str
    given: np.ndarray | None
    n_components: int
    like: Mixture
    n_classes: int | None

    def totals(
        self,
        batches: Batches,
        priors: Priors,
        random_state: np.random.RandomState,
        turn: int = 0,
    ) -> Totals:
        """Sums of a first assignment, scaled up to all rows.

        On a joint stick no update takes rows from one modality's atoms to another's as
        a whole: turn 0 divides each row among its modalities, turn m gives rows to
        modality m - 1 where they have it.
        """
        source = batches.source
        if self.given is not None:
            return self._given_totals(batches, priors)
        index = distinct_rows(source.X, source.weight, source.labels, random_state)
        total = None
        rows = source.rows(index.rows)
        weight = torch.as_tensor(index.weight * source.factor, device=source.device)
        rows = replace(rows, weight=weight)
        resp = torch.as_tensor(
            self._responsibilities(rows, random_state, turn),
            device=source.device,
        )
        blocks, coupling = priors.blocks, self.like.coupling
        for part in torch.split(torch.arange(rows.n_rows), 1024):
            new = given_totals(
                resp[:, :, part], rows.take(part), coupling, blocks, self.n_classes
            )
            total = new if total is None else total + new
        return total * index.scale

    def _given_totals(self, batches: Batches, priors: Priors) -> Totals:
        shape = atoms_shape(self.like.coupling, len(priors.blocks), self.n_components)
        coupling, device = self.like.coupling, batches.source.device
        total = None
        for batch in range(len(batches)):
            for piece, rows in batches.numbered(batch):
                given = self.given[piece]
                resp = np.eye(shape[1])[given] if given.ndim == 1 else given
                resp = torch.as_tensor(np.ascontiguousarray(resp.T), device=device)
                new = given_totals(
                    resp.double().expand(*shape, rows.n_rows),
                    rows,
                    coupling,
                    priors.blocks,
                    self.n_classes,
                )
                total = new if total is None else total + new
        return total

    def _responsibilities(
        self,
        rows: Rows,
        random_state: np.random.RandomState,
        turn: int,
    ) -> np.ndarray:
        n_blocks, k = len(rows.z), self.n_components
        shape = atoms_shape(self.like.coupling, n_blocks, k)
        seen = (rows.seen > 0).cpu().numpy()
        if self.kind == "random":
            resp = random_state.uniform(size=(*shape, rows.n_rows))
            return resp / resp.sum(1, keepdims=True)
        weight = rows.weight.cpu().numpy()
        z = [block.T.cpu().numpy() for block in rows.z]
        if self.like.coupling == "shared":
            start = StartRows.of(z, seen.T, weight)
            return _one_hot(start_labels(start, k, self.kind, random_state), k)[None]
        parts = np.zeros((n_blocks, k, rows.n_rows))
        for m in range(n_blocks):
            there = np.flatnonzero(seen[m])
            start = StartRows.of([z[m][there]], seen[m][there, None], weight[there])
            labels = start_labels(start, k, self.kind, random_state)
            parts[m][:, there] = _one_hot(labels, k)
        if self.like.coupling == "per_modality":
            return parts
        if turn:
            chosen = (turn - 1) % n_blocks
            parts[:, :, seen[chosen]] *= (np.arange(n_blocks) == chosen)[:, None, None]
        # A row's modalities share it; one that has none is anywhere.
        resp = parts.reshape(1, n_blocks * k, -1)
        empty = ~seen.any(0)
        resp[..., empty] = 1.0
        return resp / resp.sum(1, keepdims=True)


@dataclass(frozen=True)
class Distinct:
    """Rows of X to start from, their weights, and times which they stand for all."""

    rows: np.ndarray
    weight: np.ndarray
    scale: float


def distinct_rows(
    X: np.ndarray,
    weight: np.ndarray | None,
    labels: np.ndarray | None,
    random_state: np.random.RandomState,
) -> Distinct:
    """Rows of positive weight, repeated ones once with their weights together.

    Weights and repetitions then give the same start, whatever the order of the rows.
    """
    kept, total = np.arange(0), float(len(X) if weight is None else weight.sum())
    if len(X) > START_ROWS:
        # With replacement, since a permutation of all rows would not be small.
        kept = np.unique(random_state.randint(len(X), size=START_ROWS))
        kept = kept if weight is None else kept[weight[kept] > 0]
    if not len(kept):
        kept = np.arange(len(X)) if weight is None else np.flatnonzero(weight > 0)
    own = np.ones(len(kept)) if weight is None else weight[kept]
    rows = np.ascontiguousarray(X[kept])
    # Compared as bytes: NaN equals itself, and a row sorts as one key.
    key = rows.view(np.dtype((np.void, rows.dtype.itemsize * rows.shape[1]))).ravel()
    _, code = np.unique(key, return_inverse=True)
    if labels is not None:
        code = code * (labels.max() + 2) + labels[kept] + 1
    _, first, inverse = np.unique(code, return_index=True, return_inverse=True)
    summed = np.bincount(inverse, own, len(first))
    return Distinct(kept[first], summed, float(total / summed.sum()))


def _one_hot(labels: np.ndarray, k: int) -> np.ndarray:
    return (labels == np.arange(k)[:, None]).astype(np.float64)
