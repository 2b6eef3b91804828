"""Partners of rows that have one modality only, drawn anew each epoch."""

import numpy as np
import torch
from torch import Tensor

from skmm.core.decalign import DecAlignNetwork, PairedParts
from skmm.core.pairing import (
    N_LANDMARKS,
    kernel_features,
    pair_rows,
    rows_alone,
)
from skmm.fitting.data import Batch, BlockData

# Fewer pairs say nothing of the modalities' relation; fewer lone rows need no partner.
LEAST_PAIRS, LEAST_LONE = 3, 20
# Rows of a kind that a plan is made of: it is held whole.
MOST_ROWS = 4000


class Partners:
    """Lone rows of two modalities, the plan between them and what it says of a batch.

    Parameters
    ----------
    data : BlockData
        The training rows.
    """

    def __init__(self, data: BlockData):
        self.data = data
        self.plans: dict[tuple[int, int], tuple[Tensor, Tensor, Tensor]] = {}
        self.sums: dict[tuple[int, int], Tensor] = {}
        self.known: dict[tuple[int, int], Tensor] = {}
        self.drawn: dict[tuple[int, int], Tensor] = {}
        for i, j, both, left, right in rows_alone(self._counted()):
            lone = min(len(left), len(right))
            if len(both) >= LEAST_PAIRS and lone >= LEAST_LONE:
                rows = both, _some(left), _some(right)
                self.plans[i, j] = (*rows[1:], self._plan(i, j, *rows))
                self.known[i, j] = both
                plan = self.plans[i, j][2]
                # Running sums of the shares, from which a level picks a partner.
                self.sums[i, j] = plan.cumsum(1)
                self.sums[j, i] = plan.mT.contiguous().cumsum(1)

    def __bool__(self) -> bool:
        return bool(self.plans)

    def _counted(self) -> Tensor:
        """Observed modalities (M, N), of rows that have a weight."""
        weight = self.data.weight
        observed = self.data.observed
        return observed if weight is None else observed & (weight > 0)

    def _plan(
        self, i: int, j: int, both: Tensor, left: Tensor, right: Tensor
    ) -> Tensor:
        both = _some(both)
        sides = [
            self._features(m, torch.cat([both, lone]))
            for m, lone in ((i, left), (j, right))
        ]
        n = len(both)
        a, b = sides
        return pair_rows(a[:n], b[:n], a[n:], b[n:])

    def _features(self, m: int, rows: Tensor) -> Tensor:
        # Single precision is enough for shares, and takes a third of the time.
        x = self.data.batch(rows)["blocks"][m].float()
        return kernel_features(x, x[_some(torch.arange(len(x)), N_LANDMARKS)])

    def draw(self) -> None:
        """Draw a partner of each lone row, from either side, with the plan's shares."""
        n = len(self.data)
        for (i, j), (left, right, _) in self.plans.items():
            for key, own, others in (((i, j), left, right), ((j, i), right, left)):
                sums = self.sums[key]
                level = torch.rand(len(own), 1).to(sums) * sums[:, -1:]
                chosen = torch.searchsorted(sums, level).squeeze(1)
                partner = torch.full((n,), -1, device=sums.device)
                partner[own] = others[chosen.clamp_max(len(others) - 1)]
                self.drawn[key] = partner

    def of(self, network: DecAlignNetwork, batch: Batch, common: Tensor) -> PairedParts:
        """Common parts of a batch's lone rows and of their partners.

        And those of as many known pairs: among many lone rows, few pairs would be met
        too seldom.
        """
        found = {}
        for i, j in self.plans:
            left, right, rows = [], [], []
            for own, other in ((i, j), (j, i)):
                partner = self.drawn[own, other][batch["rows"]]
                lone = (partner >= 0).nonzero().squeeze(1)
                if len(lone):
                    theirs = self._common(network, partner[lone], other).to(common)
                    sides = (common[own][lone], theirs)
                    left.append(sides[own > other])
                    right.append(sides[own < other])
                    rows.append(partner[lone])
            if not rows:
                continue
            known = self.known[i, j]
            few = torch.randperm(len(known))[: sum(map(len, rows))]
            rows.append(known[few.to(known.device)])
            left.append(self._common(network, rows[-1], i).to(common))
            right.append(self._common(network, rows[-1], j).to(common))
            weight = self._weights(torch.cat(rows)).to(common)
            found[i, j] = (torch.cat(left), torch.cat(right), weight)
        return found

    def _common(self, network: DecAlignNetwork, rows: Tensor, m: int) -> Tensor:
        batch = self.data.batch(rows)
        return network.common_of(m, batch["blocks"][m], batch["steps"][m])

    def _weights(self, rows: Tensor) -> Tensor:
        weight = self.data.weight
        return torch.ones(len(rows)) if weight is None else weight[rows]

    def likeliest(self, i: int, j: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Lone rows of i, the likeliest partner of each and its share in the plan."""
        left, right, plan = self.plans[i, j]
        share, place = plan.max(1)
        return tuple(t.cpu().numpy() for t in (left, right[place], share))


def _some(rows: Tensor, most: int = MOST_ROWS) -> Tensor:
    """At most so many rows, evenly spaced."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most).round().long().to(rows.device)]
