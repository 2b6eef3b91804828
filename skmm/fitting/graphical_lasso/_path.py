"""Warm-started solutions along a path of penalties, scored as they come."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from skmm.core.precision import smallest_edgeless

from ._blocks import Penalties, Solution, solve


@dataclass(frozen=True)
class Strengths:
    """What is selected: penalty, common part's share, steepness of the prior."""

    alpha: float
    common_ratio: float
    steepness: float


@dataclass
class Task:
    """One set of rows to fit, and how a solution on them is scored.

    Attributes
    ----------
    covariance : Tensor of shape (C, p, p)
    class_weight : Tensor of shape (C,)
    penalties : callable
        From `Strengths` to `Penalties`.
    score : callable
        From a `Solution` to a number; larger is better.
    last : Solution or None
        Where the next solution starts.
    """

    covariance: Tensor
    class_weight: Tensor
    penalties: Callable[[Strengths], Penalties]
    score: Callable[[Solution], float]
    last: Solution | None = None

    def evaluate(self, strengths: Strengths, **settings: Any) -> float:
        """Solve, from the last solution and with these settings, and score."""
        self.last = solve(
            self.covariance,
            self.class_weight,
            self.penalties(strengths),
            init=self.last,
            **settings,
        )
        return self.score(self.last)

    def largest(self, strengths: Strengths) -> tuple[float, float]:
        """The smallest alpha without edges at these other strengths.

        Also that with all weights one: where a few pairs weigh little, the first of
        their edges says nothing of the others.
        """
        p = self.covariance.shape[-1]
        index = torch.arange(p, device=self.covariance.device)
        weighted = self.penalties(replace(strengths, alpha=1.0))
        plain = replace(weighted, common_weights=None, specific_weights=None)
        first, second = (
            smallest_edgeless(
                self.covariance,
                self.class_weight,
                penalties.take(index, index, self.covariance),
            )
            for penalties in (weighted, plain)
        )
        return first, second


@dataclass
class Search:
    """Candidates and their scores, one a task, in the order of evaluation.

    `settings` are those of `solve`: solver, tol and max_iter.
    """

    tasks: list[Task]
    settings: dict[str, Any]
    on_candidate: Callable[[Strengths, float], None] | None = None
    candidates: list[Strengths] = field(default_factory=list)
    scores: list[list[float]] = field(default_factory=list)

    def mean(self, strengths: Strengths) -> float:
        """Mean score of a candidate over the tasks; each is evaluated once."""
        if strengths not in self.candidates:
            values = [task.evaluate(strengths, **self.settings) for task in self.tasks]
            self.candidates.append(strengths)
            self.scores.append(values)
            if self.on_candidate is not None:
                self.on_candidate(strengths, sum(values) / len(values))
        values = self.scores[self.candidates.index(strengths)]
        return sum(values) / len(values)

    @property
    def best(self) -> Strengths:
        """The candidate with the best mean score."""
        means = [sum(values) / len(values) for values in self.scores]
        return self.candidates[max(range(len(means)), key=means.__getitem__)]

    def along_alpha(
        self, start: Strengths, n_alphas: int, span: float, *, patience: int | None
    ) -> None:
        """From the edgeless penalty down, then twice beside the best.

        A geometric grid from the largest over the tasks down to `span` times that of
        equal weights; `patience` scores in a row below the best end it. Then the two
        intervals around the best are halved, once.
        """
        tops = [task.largest(start) for task in self.tasks]
        top = max(first for first, _ in tops) or 1.0
        bottom = span * min(top, max(second for _, second in tops) or 1.0)
        ratio = (bottom / top) ** (1 / max(n_alphas - 1, 1))
        for task in self.tasks:
            task.last = None
        scores: list[float] = []
        alphas: list[float] = []
        for k in range(n_alphas):
            alphas.append(top * ratio**k)
            scores.append(self.mean(replace(start, alpha=alphas[-1])))
            if patience is None or k < patience:
                continue
            if max(scores[-patience:]) < max(scores[:-patience]):
                break
        best = max(range(len(scores)), key=scores.__getitem__)
        for shift in (-0.5, 0.5):
            if best > 0 or shift > 0:
                self.mean(replace(start, alpha=alphas[best] * ratio**shift))
