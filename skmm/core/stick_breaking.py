r"""Weights of a truncated Dirichlet process, by sticks that are broken one by one.

.. math:: \beta_k \sim \mathrm{Beta}(1, \eta), \qquad
          \pi_k = \beta_k \prod_{l<k} (1 - \beta_l), \qquad k = 1..K.

With expected counts N_k of the rows, the optimal factors are
:math:`q(\beta_k) = \mathrm{Beta}(1 + N_k,\ \eta + \sum_{l>k} N_l)`. Sticks are the last
axis; any axes before it are batches. Logarithms are natural.
"""

import torch
from torch import Tensor
from torch.special import digamma


def beta_posterior(counts: Tensor, concentration: float) -> tuple[Tensor, Tensor]:
    """Parameters of the sticks' Beta factors, given counts in the sticks' order."""
    from_here = counts.flip(-1).cumsum(-1).flip(-1)
    after = torch.cat([from_here[..., 1:], torch.zeros_like(counts[..., :1])], -1)
    return 1 + counts, concentration + after


def expected_log_weights(a: Tensor, b: Tensor) -> Tensor:
    r""":math:`E \log \pi_k` under Beta(a, b) sticks."""
    total = digamma(a + b)
    rest = digamma(b) - total
    return digamma(a) - total + rest.cumsum(-1) - rest


def log_expected_weights(a: Tensor, b: Tensor) -> Tensor:
    r""":math:`\log E \pi_k`, where :math:`E \pi_k` may be too small for a number.

    The weights sum to one minus what is left of the stick.
    """
    total = torch.log(a + b)
    rest = torch.log(b) - total
    return torch.log(a) - total + rest.cumsum(-1) - rest


def log_beta(a: Tensor, b: Tensor) -> Tensor:
    """Logarithm of the beta function."""
    return torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)


def log_evidence(counts: Tensor, concentration: float) -> Tensor:
    """Log-probability of assignments with these counts, sticks integrated out.

    The sum over sticks of the log-normaliser of the Beta posterior less that of the
    prior. Among all orders of the sticks it is largest for decreasing counts.
    """
    a, b = beta_posterior(counts, concentration)
    one = torch.ones((), dtype=counts.dtype, device=counts.device)
    return (log_beta(a, b) - log_beta(one, one * concentration)).sum(-1)


def beta_divergence(a: Tensor, b: Tensor, concentration: float) -> Tensor:
    """KL(Beta(a, b) || Beta(1, concentration)) of each stick."""
    one = torch.ones((), dtype=a.dtype, device=a.device)
    prior = log_beta(one, one * concentration)
    total = (a - 1 + b - concentration) * digamma(a + b)
    return (
        prior
        - log_beta(a, b)
        + (a - 1) * digamma(a)
        + (b - concentration) * digamma(b)
        - total
    )


def sorted_order(counts: Tensor) -> Tensor:
    """The order of decreasing counts, ties by index."""
    return torch.argsort(counts, dim=-1, descending=True, stable=True)


def in_order(values: Tensor, order: Tensor) -> Tensor:
    """Values along the last axis, taken in an order."""
    return torch.gather(values, -1, order)


def out_of_order(values: Tensor, order: Tensor) -> Tensor:
    """Undo `in_order`."""
    return torch.empty_like(values).scatter_(-1, order, values)
