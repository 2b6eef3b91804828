"""Rows in working coordinates, in batches of chunks."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from skmm.core.mixture import Rows
from skmm.core.normal_wishart import n_features
from skmm.fitting.data import should_stream
from skmm.modalities import Layout
from skmm.projection import BlockProjection

# The features of a chunk should stay in a core's cache between the product that reads
# them for densities and the one that sums them.
CHUNK_BYTES = 2**23


def chunk_size(sizes: list[int], diagonal: bool, n_components: int) -> int:
    """Rows of a chunk."""
    widest = max(n_features(size, diagonal) for size in sizes)
    return max(128, CHUNK_BYTES // (8 * (widest + n_components)))


@dataclass(frozen=True)
class Source:
    """Rows of an X, with all that turns them into `Rows`.

    Parameters
    ----------
    X : ndarray of shape (n_samples, n_features)
    layout : Layout
    projection : BlockProjection
    device : torch.device
    weight : ndarray of shape (n_samples,) or None
        Weights of the rows; None for ones.
    factor : float
        Times which all weights are taken.
    labels : ndarray of int of shape (n_samples,) or None
        Codes, -1 where open.
    """

    X: np.ndarray
    layout: Layout
    projection: BlockProjection
    device: torch.device
    weight: np.ndarray | None = None
    factor: float = 1.0
    labels: np.ndarray | None = None

    def rows(self, index: Any) -> Rows:
        """Some rows, given by a slice or by their numbers."""
        z, seen, cells = [], [], []
        X = self.X[index]
        for m, block in enumerate(self.layout):
            coordinates, known = self.projection.apply(m, X[:, block.columns])
            present = known.any(axis=1)
            seen.append(present)
            partly = present & ~known.all(axis=1)
            cells.append(self._tensor(known.T) if partly.any() else None)
            z.append(self._tensor(coordinates.T))
        if self.weight is None:
            weight = np.full(len(X), self.factor)
        else:
            weight = self.weight[index] * self.factor
        labels = None
        if self.labels is not None:
            labels = torch.as_tensor(self.labels[index], device=self.device)
        return Rows(
            z, self._tensor(np.stack(seen)), cells, self._tensor(weight), labels
        )

    def _tensor(self, values: np.ndarray) -> torch.Tensor:
        values = np.ascontiguousarray(values, dtype=np.float64)
        return torch.from_numpy(values).to(self.device)


class Batches:
    """The rows that count, dealt to batches, each served in chunks.

    Parameters
    ----------
    source : Source
    n_batches : int
    chunk : int
        Rows of a chunk.
    random_state : RandomState
        Deals the rows. One batch keeps their order.
    stream : bool, default=None
        Whether chunks are read from X each time; None decides by its size. Rows are
        then dealt in contiguous pieces.
    """

    def __init__(
        self,
        source: Source,
        n_batches: int,
        chunk: int,
        random_state: np.random.RandomState,
        stream: bool | None = None,
    ):
        self.source = source
        self.stream = (
            should_stream(source.X, source.device) if stream is None else stream
        )
        n = len(source.X)
        pieces: list[Any]
        if self.stream:
            chunk = min(chunk, -(-n // n_batches))
            pieces = [slice(i, min(i + chunk, n)) for i in range(0, n, chunk)]
            # A piece of weight zero has nothing to say.
            pieces = [p for p in pieces if self._weight(p) > 0]
            if n_batches > 1:
                pieces = [pieces[i] for i in random_state.permutation(len(pieces))]
            dealt = np.array_split(np.arange(len(pieces)), min(n_batches, len(pieces)))
            self.pieces = [[pieces[i] for i in part] for part in dealt]
        else:
            kept = np.arange(n)
            if source.weight is not None:
                kept = kept[source.weight > 0]
            if n_batches > 1:
                kept = random_state.permutation(kept)
            self.pieces = []
            for part in np.array_split(kept, min(n_batches, len(kept))):
                if n_batches > 1:
                    part = np.sort(part)
                cuts = range(chunk, len(part), chunk)
                self.pieces.append(np.split(part, cuts))
        self.weights = [sum(map(self._weight, part)) for part in self.pieces]
        self._resident: dict[tuple[int, int], Rows] = {}

    def __len__(self) -> int:
        return len(self.pieces)

    @property
    def weight(self) -> float:
        """Weight of all rows."""
        return float(sum(self.weights))

    def chunks(self, batch: int) -> Iterator[Rows]:
        """Rows of one batch."""
        for _, rows in self.numbered(batch):
            yield rows

    def numbered(self, batch: int) -> Iterator[tuple[Any, Rows]]:
        """Rows of one batch, after a slice or array of their numbers in X."""
        for i, piece in enumerate(self.pieces[batch]):
            if self.stream:
                yield piece, self.source.rows(piece)
                continue
            if (batch, i) not in self._resident:
                self._resident[batch, i] = self.source.rows(piece)
            yield piece, self._resident[batch, i]

    def _weight(self, piece: Any) -> float:
        weight, factor = self.source.weight, self.source.factor
        if weight is None:
            n = piece.stop - piece.start if isinstance(piece, slice) else len(piece)
            return n * factor
        return float(weight[piece].sum()) * factor
