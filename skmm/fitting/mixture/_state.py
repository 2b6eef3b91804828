"""The state of a fit, and the updates that all ways of fitting share."""

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from skmm.core.mixture import (
    Expectation,
    Mixture,
    Priors,
    Totals,
    bound,
    empirical_scale,
    factor_divergence,
    maximise,
)
from skmm.fitting.mixture._data import Batches

# Rows' weight below which a component counts as unused.
UNUSED = 1e-6


@dataclass(frozen=True)
class Rule:
    """How factors follow from sums.

    Parameters
    ----------
    priors : Priors
        Where the fit starts.
    least : list of (Tensor or None)
        For each modality the least covariance that the prior may expect; None keeps
        the prior's scale as it is.
    """

    priors: Priors
    least: list[Tensor | None]

    def update(
        self, totals: Totals, priors: Priors, like: Mixture
    ) -> tuple[Priors, Mixture]:
        """Factors, and priors where these are estimated, that raise the bound."""
        if any(least is not None for least in self.least):
            mixture = maximise(totals, priors, like)
            blocks = [
                prior
                if least is None
                else empirical_scale(prior, q, total[:, 0] > UNUSED, least)
                for prior, q, total, least in zip(
                    priors.blocks,
                    mixture.blocks,
                    totals.blocks,
                    self.least,
                    strict=True,
                )
            ]
            priors = replace(priors, blocks=blocks)
        return priors, maximise(totals, priors, like)


@dataclass
class State:
    """A fit between two laps over the data.

    Attributes
    ----------
    priors, mixture
        The factors, and what they are measured against.
    totals : Totals
        Sums over all rows; before the first lap those of a start or a proposal.
    memory : list of Totals
        Sums over each batch, by the factors that it was last seen under. The next lap
        overwrites them.
    bound : float
        The lower bound, in nats times weights.
    pending : Tensor of shape (P, 3) or None
        Pairs of atoms to track in the next lap, for merging.
    lap : int
    change : float
        How much the bound has changed in the last lap, a unit of weight.
    tried : set
        Moves that were proposed since the last accepted one.
    moves : dict of str to int
        Moves accepted so far.
    """

    priors: Priors
    mixture: Mixture
    totals: Totals
    memory: list[Totals] = field(default_factory=list)
    bound: float = -float("inf")
    pending: Tensor | None = None
    lap: int = 0
    change: float = float("inf")
    tried: set = field(default_factory=set)
    moves: dict[str, int] = field(default_factory=dict)

    def count_move(self, kind: str) -> None:
        """Note an accepted move."""
        self.moves = self.moves | {kind: self.moves.get(kind, 0) + 1}
        self.tried = set()


def batch_totals(expectation: Expectation, batches: Batches, batch: int) -> Totals:
    """Sums over the rows of one batch."""
    total = None
    for rows in batches.chunks(batch):
        part = expectation.totals(rows)
        total = part if total is None else total + part
    return total


def lap(state: State, rule: Rule, batches: Batches, pairs: Tensor | None) -> State:
    """Visit every batch once, and update the factors after each.

    With one batch this is a sweep of coordinate ascent. With more, sums of the batch
    that is visited replace those of its last visit, so the bound is exact once every
    batch has been seen, and never falls after. Before its first visit a batch has its
    share of the sums that the state began with: alone, the first batches would be too
    few rows for any component.
    """
    priors, mixture, totals = state.priors, state.mixture, state.totals
    memory = state.memory or _shared_out(totals, batches)
    for batch in range(len(batches)):
        new = batch_totals(Expectation(mixture, pairs), batches, batch)
        if len(batches) > 1:
            old = _same_pairs(memory[batch], new)
            totals = _same_pairs(totals, new) - old + new
            priors, mixture = rule.update(totals, priors, mixture)
        memory[batch] = memory[batch].overwritten(new)
    state = replace(
        state, priors=priors, mixture=mixture, memory=memory, lap=state.lap + 1
    )
    # Summed anew, so that rounding does not add up.
    state.totals = sum_of(memory)
    return updated(state, rule)


def updated(state: State, rule: Rule) -> State:
    """The state with factors, priors and bound that follow from its sums."""
    priors, mixture = rule.update(state.totals, state.priors, state.mixture)
    value = bound(state.totals, priors, mixture)
    return replace(state, priors=priors, mixture=mixture, bound=value)


def _shared_out(totals: Totals, batches: Batches) -> list[Totals]:
    """Each batch's share of sums, in one piece of memory for all batches.

    Small pieces, replaced one by one among the large ones of chunks, would leave holes.
    """
    shares = [weight / batches.weight for weight in batches.weights]
    together = totals.map(lambda t: torch.stack([t * share for share in shares]))
    return [together.map(lambda t, b=b: t[b]) for b in range(len(shares))]


def _same_pairs(totals: Totals, like: Totals) -> Totals:
    """Totals that track the pairs of others; sums over pairs are taken anew."""
    if len(totals.pairs) == len(like.pairs):
        return totals
    return replace(totals, pairs=torch.zeros_like(like.pairs))


def sum_of(memory: list[Totals]) -> Totals:
    """Sums over all batches."""
    total = memory[0]
    for part in memory[1:]:
        total = total + part
    return total


def expected_bound(totals: Totals, priors: Priors, mixture: Mixture) -> float:
    """The lower bound of the mixture that these sums were taken under."""
    value = totals.log_norm + totals.constant - factor_divergence(priors, mixture)
    return float(value)
