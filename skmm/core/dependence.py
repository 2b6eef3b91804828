r"""Total correlation of several embeddings and a label, as a training loss.

For embeddings :math:`z^1..z^M` and a label :math:`y` in :math:`\{1..C\}`, the
Donsker-Varadhan bound of their total correlation with the critic
:math:`T(z, y) = f(z^1..z^M)[y]` is :math:`E_P[f] - \log E_Q[\exp f]`, where
:math:`P` is the joint law and :math:`Q` the product of the modalities' marginals
and a uniform label. The loss is the negated bound (Yu et al., ICLR 2026, Eq. 11
and 14).

Two computations of :math:`\log E_Q[\exp f]`:

- *additive* critics :math:`f = \sum_m f_m(z^m)` (the paper's Eq. 16, here in
  log-sum-exp and for any number of modalities)

  .. math:: \log \frac1C \sum_y \prod_m A_m(y), \qquad
            A_m(y) = \sum_i w_i \exp f_m(z^m_i)[y],

  which costs ``O(M B C)`` and is exactly the sum over all ``B ** M`` tuples;
- any other critic: over all tuples, or over sampled ones (Eq. 15).

Symbols: ``M`` modalities, ``B`` rows, ``C`` classes, ``D`` embedding size. Logits
of additive critics come stacked as ``(M, B, C)``, observation masks as ``(M, B)``,
row weights as ``(B,)``. All logarithms are natural, all values in nats.

The treatment of missing modalities, of row weights and of more than two modalities
is ours: the paper has all modalities of all rows.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

Score = Callable[[list[Tensor]], Tensor]
"""A critic: ``M`` tensors ``(N, D)`` to logits ``(N, C)``."""


def log_row_weights(weight: Tensor, observed: Tensor) -> Tensor:
    """Log weights of the rows, normalised over each modality's observed rows.

    Parameters
    ----------
    weight : Tensor of shape (B,)
        Non-negative row weights.
    observed : bool Tensor of shape (M, B)
        Whether a row has a modality.

    Returns
    -------
    Tensor of shape (M, B)
        ``-inf`` where the row does not count. A modality without any row counts all,
        so that sums over it stay finite; callers replace its value.
    """
    counts = observed & (weight > 0)
    counts = counts | ~counts.any(1, keepdim=True)
    w = torch.where(counts, weight.clamp_min(torch.finfo(weight.dtype).tiny), 0)
    return torch.log(w) - torch.log(w.sum(1, keepdim=True))


def log_partition(logits: Tensor, log_weight: Tensor) -> Tensor:
    r"""Per modality and class, :math:`\log A_m(y) = \log \sum_i w_i \exp f_m[y]`.

    Parameters
    ----------
    logits : Tensor of shape (M, B, C)
    log_weight : Tensor of shape (M, B)
        From `log_row_weights`.

    Returns
    -------
    Tensor of shape (M, C)
    """
    return torch.logsumexp(logits + log_weight.unsqueeze(-1), dim=1)


def additive_loss(
    logits: Tensor,
    y: Tensor,
    weight: Tensor | None = None,
    observed: Tensor | None = None,
) -> Tensor:
    r"""Negated total-correlation bound of an additive critic, in ``O(M B C)``.

    .. math:: L = -\sum_i w_i \Big[\sum_{m \in S_i} f_m(z^m_i)[y_i]
              + \sum_{m \notin S_i} \log A_m(y_i)\Big]
              + \log \frac1C \sum_y \prod_m A_m(y)

    where :math:`S_i` are the modalities that row i has: the paper's Eq. 16 when it
    has all, else the marginal likelihood of what is there. A modality that no row of
    the batch has plays no part.

    Parameters
    ----------
    logits : Tensor of shape (M, B, C)
        Values at unobserved places are not used; they must be finite.
    y : long Tensor of shape (B,)
    weight : Tensor of shape (B,), default=None
        Row weights, equal by default. Only their ratios matter.
    observed : bool Tensor of shape (M, B), default=None
        All observed by default.

    Returns
    -------
    Tensor of shape ()
        The loss in nats; zero for a constant critic.
    """
    n_modalities, n_rows, n_classes = logits.shape
    if weight is None:
        weight = logits.new_ones(n_rows)
    complete = observed is None
    if observed is None:
        observed = torch.ones(
            (n_modalities, n_rows), dtype=torch.bool, device=logits.device
        )
    log_a = log_partition(logits, log_row_weights(weight, observed))
    own = logits.gather(2, y.expand(n_modalities, n_rows).unsqueeze(-1)).squeeze(-1)
    if not complete:
        present = (observed & (weight > 0)).any(1, keepdim=True)
        log_a = torch.where(present, log_a, 0)
        own = torch.where(observed, own, log_a[:, y])
    reached = (own.sum(0) * weight).sum() / weight.sum()
    return torch.logsumexp(log_a.sum(0), dim=0) - math.log(n_classes) - reached


class AdditiveTotals:
    """Sums over a data set, batch by batch, that give an additive critic's bound.

    Parameters
    ----------
    n_modalities, n_classes : int
    dtype : torch.dtype
        Of the sums; float64 keeps long sums exact.
    device : torch.device
    """

    def __init__(
        self,
        n_modalities: int,
        n_classes: int,
        dtype: torch.dtype = torch.float64,
        device: torch.device | None = None,
    ):
        def zeros(*size: int) -> Tensor:
            return torch.zeros(size, dtype=dtype, device=device)

        self.log_sum = zeros(n_modalities, n_classes) - math.inf
        self.reached = zeros(n_modalities)
        self.seen = zeros(n_modalities, n_classes)
        self.classes = zeros(n_classes)

    def add(
        self, logits: Tensor, y: Tensor, weight: Tensor, observed: Tensor
    ) -> "AdditiveTotals":
        """Add a batch: ``(M, B, C)``, ``(B,)``, ``(B,)`` and ``(M, B)``."""
        logits, weight = logits.to(self.log_sum), weight.to(self.log_sum)
        w = torch.where(observed, weight, 0)
        log_sum = torch.logsumexp(logits + torch.log(w).unsqueeze(-1), dim=1)
        self.log_sum = torch.logaddexp(self.log_sum, log_sum)
        own = logits.gather(2, y.expand(w.shape).unsqueeze(-1)).squeeze(-1)
        self.reached += (own * w).sum(1)
        self.seen.index_add_(1, y, w)
        self.classes.index_add_(0, y, weight)
        return self

    @property
    def log_partition(self) -> Tensor:
        """Log of A, ``(M, C)``; zero for a modality without rows."""
        total = self.seen.sum(1, keepdim=True)
        return torch.where(total > 0, self.log_sum - torch.log(total), 0)

    @property
    def class_prior(self) -> Tensor:
        """Weighted class frequencies, ``(C,)``."""
        return self.classes / self.classes.sum()

    @property
    def label_entropy(self) -> Tensor:
        """Entropy of the weighted class frequencies, in nats."""
        return torch.special.entr(self.class_prior).sum()

    @property
    def modality_information(self) -> Tensor:
        r"""Mean of :math:`g_m(z^m, y)` over the rows that have m, ``(M,)``, in nats.

        In the population a lower bound of the mutual information of z^m and y.
        """
        offset = (self.seen * self.log_partition).sum(1)
        return (self.reached - offset) / self.seen.sum(1)

    @property
    def bound(self) -> Tensor:
        """Negated loss over all rows added: `additive_loss`, in one pass."""
        log_a, n_classes = self.log_partition, len(self.classes)
        lacking = self.classes - self.seen
        reached = self.reached.sum() + (lacking * log_a).sum()
        partition = torch.logsumexp(log_a.sum(0), 0) - math.log(n_classes)
        return reached / self.classes.sum() - partition

    @property
    def total_correlation(self) -> Tensor:
        r"""Bound of the total correlation: :math:`-L - (\log C - H(Y))`.

        The uniform label law in Q makes the plain loss bound
        :math:`TC + \log C - H(Y)` (ours; the paper takes labels as balanced).
        """
        return self.bound - (math.log(len(self.classes)) - self.label_entropy)


def all_tuples(sizes: list[int], device: torch.device | None = None) -> Tensor:
    """Every tuple of row numbers, ``(prod(sizes), M)``, last modality fastest."""
    return torch.cartesian_prod(*(torch.arange(s, device=device) for s in sizes)).view(
        -1, len(sizes)
    )


def sample_tuples(
    sizes: list[int], n_tuples: int, device: torch.device | None = None
) -> Tensor:
    """Random tuples of row numbers, one row number a modality.

    Drawn without replacement (the paper's rule) while a permutation of the whole
    grid is affordable; beyond 4 million cells independently, where repeats are rare.

    Parameters
    ----------
    sizes : list of int
        Rows to draw from, a modality.
    n_tuples : int

    Returns
    -------
    long Tensor of shape (min(n_tuples, prod(sizes)), M)
    """
    n_cells = math.prod(sizes)
    if n_cells <= 1 << 22:
        flat = torch.randperm(n_cells, device=device)[:n_tuples]
        return torch.stack(torch.unravel_index(flat, sizes), dim=1)
    columns = [torch.randint(s, (n_tuples,), device=device) for s in sizes]
    return torch.stack(columns, dim=1)


def tuple_log_partition(
    score: Score,
    embeddings: list[Tensor],
    log_weights: list[Tensor],
    tuples: Tensor,
    chunk_size: int = 1 << 16,
) -> Tensor:
    r"""Self-normalised estimate of :math:`\log E_Q[\exp f]` over given tuples.

    Exact when the tuples are all of the grid. Chunked in log-sum-exp; gradients pass
    through every chunk, so that memory with gradients grows with the tuples.

    Parameters
    ----------
    score : callable
        ``M`` tensors ``(N, D)`` to logits ``(N, C)``.
    embeddings : list of Tensor of shape (B_m, D)
    log_weights : list of Tensor of shape (B_m,)
    tuples : long Tensor of shape (N, M)
    chunk_size : int, default=65536
        Tuples scored at a time.

    Returns
    -------
    Tensor of shape ()
    """
    parts, weights = [], []
    for chunk in tuples.split(chunk_size):
        rows = chunk.unbind(1)
        logits = score([z[i] for z, i in zip(embeddings, rows, strict=True)])
        log_w = sum(
            (w[i] for w, i in zip(log_weights, rows, strict=True)),
            start=logits.new_zeros(()),
        )
        parts.append(torch.logsumexp(logits + log_w.unsqueeze(1), dim=(0, 1)))
        weights.append(torch.logsumexp(log_w, dim=0))
    total = torch.logsumexp(torch.stack(parts), 0) - torch.logsumexp(
        torch.stack(weights), 0
    )
    return total - math.log(logits.shape[1])


def marginal_log_score(
    score: Score, embeddings: Tensor, observed: Tensor, bank: Tensor
) -> Tensor:
    r"""Log of the critic's exponential, averaged over the modalities a row lacks.

    :math:`\log \frac1K \sum_k \exp f(z^S, \tilde z^k)[y]`, where the draws
    :math:`\tilde z^k` come from each modality's marginal. A row with nothing missing
    gets its plain logits.

    Parameters
    ----------
    score : callable
    embeddings : Tensor of shape (M, B, D)
        Values at unobserved places are not used.
    observed : bool Tensor of shape (M, B)
    bank : Tensor of shape (M, K, D)
        Draws from the marginals, independent across modalities.

    Returns
    -------
    Tensor of shape (B, C)
    """
    complete = observed.all(0)
    if bool(complete.all()):
        return score(list(embeddings))
    rows = torch.nonzero(~complete).squeeze(1)
    n_draws, size = bank.shape[1:]
    mixed = torch.where(
        observed[:, rows, None, None],
        embeddings[:, rows].unsqueeze(2),
        bank.unsqueeze(1),
    ).reshape(len(bank), len(rows) * n_draws, size)
    drawn = score(list(mixed)).view(len(rows), n_draws, -1)
    partial = torch.logsumexp(drawn, dim=1) - math.log(n_draws)
    if len(rows) == len(complete):
        return partial
    whole = torch.nonzero(complete).squeeze(1)
    filled = partial.new_empty(len(complete), partial.shape[1])
    filled = filled.index_copy(0, rows, partial)
    return filled.index_copy(0, whole, score(list(embeddings[:, whole])))


def draw_bank(
    embeddings: Tensor, observed: Tensor, weight: Tensor, n_draws: int
) -> Tensor:
    """Independent draws from each modality's observed rows, by weight.

    Parameters
    ----------
    embeddings : Tensor of shape (M, B, D)
    observed : bool Tensor of shape (M, B)
    weight : Tensor of shape (B,)
    n_draws : int

    Returns
    -------
    Tensor of shape (M, n_draws, D)
        A modality without rows gives zeros.
    """
    draws = []
    for z, seen in zip(embeddings, observed, strict=True):
        p = torch.where(seen, weight, 0)
        if float(p.sum()) == 0:
            draws.append(z.new_zeros(n_draws, z.shape[1]))
        else:
            # Inverse of the cumulated weights: multinomial stops at 2 ** 24 rows.
            cumulated = p.double().cumsum(0)
            u = torch.rand(n_draws, dtype=cumulated.dtype, device=p.device)
            rows = torch.searchsorted(cumulated, u * cumulated[-1], right=True)
            draws.append(z[rows.clamp_max(int(torch.nonzero(p).max()))])
    return torch.stack(draws)


def tuple_loss(
    score: Score,
    embeddings: Tensor,
    y: Tensor,
    weight: Tensor | None = None,
    observed: Tensor | None = None,
    n_tuples: int | None = None,
    n_draws: int = 16,
    max_tuples: int = 1 << 14,
) -> Tensor:
    r"""Negated total-correlation bound of any critic, over all or sampled tuples.

    Parameters
    ----------
    score : callable
        ``M`` tensors ``(N, D)`` to logits ``(N, C)``.
    embeddings : Tensor of shape (M, B, D)
    y : long Tensor of shape (B,)
    weight : Tensor of shape (B,), default=None
    observed : bool Tensor of shape (M, B), default=None
    n_tuples : int, default=None
        Tuples drawn for the partition term. None takes all tuples where they are at
        most `max_tuples`, else `max_tuples` drawn ones. The value is biased upward
        by the sampling (the logarithm of a mean), the less the more tuples.
    n_draws : int, default=16
        Draws for the modalities that a row lacks.
    max_tuples : int, default=16384

    Returns
    -------
    Tensor of shape ()
    """
    n_modalities, n_rows, _ = embeddings.shape
    device = embeddings.device
    if weight is None:
        weight = embeddings.new_ones(n_rows)
    if observed is None:
        observed = torch.ones((n_modalities, n_rows), dtype=torch.bool, device=device)
        bank = embeddings[:, :0]
    else:
        bank = draw_bank(embeddings, observed, weight, n_draws)
    own = marginal_log_score(score, embeddings, observed, bank)
    own = own.gather(1, y.unsqueeze(1)).squeeze(1)
    reached = (own * weight).sum() / weight.sum()

    log_weight = log_row_weights(weight, observed)
    present = (observed & (weight > 0)).any(1).tolist()
    drawn, drawn_weight = [], []
    for z, w, here in zip(embeddings, log_weight, present, strict=True):
        # A modality that no row has is zero here, as `draw_bank` makes it above:
        # any other value would tell the two terms apart, which has no lower bound.
        rows = torch.nonzero(w > -math.inf).squeeze(1)
        drawn.append(z[rows] if here else z.new_zeros(1, z.shape[1]))
        drawn_weight.append(w[rows] if here else w.new_zeros(1))
    sizes = [len(z) for z in drawn]
    limit = max_tuples if n_tuples is None else n_tuples
    if math.prod(sizes) <= limit:
        tuples = all_tuples(sizes, device)
    else:
        tuples = sample_tuples(sizes, limit, device)
    return tuple_log_partition(score, drawn, drawn_weight, tuples) - reached


def joint_cross_entropy(
    logits: Tensor, y: Tensor, weight: Tensor | None = None
) -> Tensor:
    """Weighted mean cross-entropy of fused logits ``(B, C)``, in nats."""
    loss = torch.nn.functional.cross_entropy(logits, y, reduction="none")
    if weight is None:
        return loss.mean()
    return (loss * weight).sum() / weight.sum()


def unimodal_cross_entropy(
    logits: Tensor,
    y: Tensor,
    weight: Tensor | None = None,
    observed: Tensor | None = None,
) -> Tensor:
    """Sum over modalities of the cross-entropy of each, on the rows that have it.

    Parameters
    ----------
    logits : Tensor of shape (M, B, C)
    y : long Tensor of shape (B,)
    weight : Tensor of shape (B,), default=None
    observed : bool Tensor of shape (M, B), default=None
    """
    if weight is None:
        weight = logits.new_ones(logits.shape[1])
    w = weight.expand(logits.shape[:2])
    if observed is not None:
        w = torch.where(observed, w, 0)
    own = logits.gather(2, y.expand(logits.shape[:2]).unsqueeze(-1)).squeeze(-1)
    loss = torch.logsumexp(logits, dim=2) - own
    # A modality that no row of the batch has contributes zero, not 0 / 0.
    return ((loss * w).sum(1) / w.sum(1).clamp_min(1e-30)).sum()


def ogm_coefficients(
    logits: Tensor,
    y: Tensor,
    weight: Tensor | None = None,
    observed: Tensor | None = None,
    alpha: float = 0.8,
) -> Tensor:
    r"""Gradient factors of OGM-GE (Peng et al., CVPR 2022, Eq. 9 and 10).

    With :math:`s_m` the mean probability that modality m alone gives the true class
    and :math:`\rho_m` the ratio of :math:`s_m` to the mean of the others, the factor
    is :math:`1 - \tanh(\alpha \rho_m)` where :math:`\rho_m > 1`, else 1. The ratio
    to the mean of the others is our reading for more than two modalities.

    Parameters
    ----------
    logits : Tensor of shape (M, B, C)
    y : long Tensor of shape (B,)
    weight : Tensor of shape (B,), default=None
    observed : bool Tensor of shape (M, B), default=None
    alpha : float, default=0.8

    Returns
    -------
    Tensor of shape (M,)
        Values in (0, 1].
    """
    n_modalities, n_rows, _ = logits.shape
    if n_modalities == 1:
        return logits.new_ones(1)
    true = y.expand(n_modalities, n_rows).unsqueeze(-1)
    p = torch.softmax(logits, dim=2).gather(2, true).squeeze(-1)
    w = logits.new_ones(n_rows) if weight is None else weight
    seen = w.expand(p.shape) if observed is None else torch.where(observed, w, 0)
    s = (p * seen).sum(1) / seen.sum(1).clamp_min(torch.finfo(p.dtype).tiny)
    others = (s.sum() - s) / (n_modalities - 1)
    ratio = s / others.clamp_min(torch.finfo(s.dtype).tiny)
    return torch.where(ratio > 1, 1 - torch.tanh(alpha * ratio), torch.ones_like(s))


def additive_posterior_logits(
    logits: Tensor, observed: Tensor, log_partition: Tensor
) -> Tensor:
    r"""Class logits from whatever a row has: :math:`\beta + \sum_{m \in S} g_m`.

    :math:`g_m(z, y) = f_m(z)[y] - \log A_m(y)` and
    :math:`\beta(y) = \sum_m \log A_m(y)`: the unobserved modalities are summed out
    under :math:`Q`. With all observed these are the plain summed logits (the
    paper's Eq. 13); with none, the class prior at the optimum.

    Parameters
    ----------
    logits : Tensor of shape (M, B, C)
    observed : bool Tensor of shape (M, B)
    log_partition : Tensor of shape (M, C)

    Returns
    -------
    Tensor of shape (B, C)
    """
    return torch.where(observed.unsqueeze(-1), logits, log_partition.unsqueeze(1)).sum(
        0
    )
