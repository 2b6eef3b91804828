r"""Mutual supervision of two modalities: the bidirectional bound and its companions.

For a paired row (s, t), draws :math:`z_k \sim q(z|s)`, :math:`w_k \sim q(w|s)` and

.. math::

    a_k &= \log q(t | z_k), \\
    b_k &= \log p(s | z_k, w_k) + \log p(w_k) + \log q(z_k | t)
           - \log q(w_k | s) - \log q(z_k | s),

the posterior of the bound weighs the draws by :math:`q(t|z_k) / q(t|s)` with
:math:`q(t|s) = E_{q(z|s)} q(t|z)`. With weights :math:`W = \mathrm{softmax}(a)`,

.. math:: \sum_k W_k (b_k - a_k) + \log \tfrac1K \sum_k e^{a_k}
          \le \log \tfrac1K \sum_k e^{b_k}

on the same draws, for any a: the left side is a lower bound of log p(s|t) in
expectation. (Gao et al., 2025, after Joy et al., 2022; the weights over all draws in
place of one draw, and this inequality, are ours.)

The draws are the first axis, rows the second.
"""

import math

import torch
from torch import Tensor


def draw_weights(a: Tensor) -> Tensor:
    """Weights of the draws ``(K, n)``, summing to one over the first axis."""
    return torch.softmax(a, 0)


def log_mean_exp(values: Tensor) -> Tensor:
    """Log of the mean of exponentials over the first axis."""
    return torch.logsumexp(values, 0) - math.log(len(values))


def cross_modal_bound(
    a: Tensor, b: Tensor, cross_weight: float = 1.0, stop_gradient: bool = True
) -> Tensor:
    r"""Self-normalised bound of each row, with the cross term taken more than once.

    .. math:: \sum_k W_k (b_k - a_k) + \lambda \log \tfrac1K \sum_k e^{a_k}

    Parameters
    ----------
    a : Tensor of shape (K, n)
        Log-likelihoods of the other modality.
    b : Tensor of shape (K, n)
        Log importance weights of the modality's own bound.
    cross_weight : float, default=1.0
        :math:`\lambda`. One gives a bound of log p(s|t); more adds a multiple of
        log q(t|s).
    stop_gradient : bool, default=True
        Whether the weights are constants for the gradient. The gradient with respect
        to `a` is then ``(cross_weight - 1)`` times that of the last term: with
        `cross_weight` 1 the cross decoder learns nothing.

    Returns
    -------
    value : Tensor of shape (n,)
    """
    weights = draw_weights(a)
    if not stop_gradient:
        return (weights * (b - a)).sum(0) + cross_weight * log_mean_exp(a)
    # The gradients of both terms in `a` cancel, exactly and not to rounding.
    fixed = a.detach()
    bound = (weights.detach() * (b - fixed)).sum(0) + log_mean_exp(fixed)
    if cross_weight == 1:
        return bound
    return bound + (cross_weight - 1) * log_mean_exp(a)


def info_nce(
    left: Tensor, right: Tensor, temperature: float, weight: Tensor | None = None
) -> Tensor:
    r"""Symmetric InfoNCE of paired codes, a value a row.

    With unit vectors c, d of the two sides and logits
    :math:`G_{ij} = c_i \cdot d_j / T`,

    .. math:: \ell_i = -\tfrac12 \big(\log \mathrm{softmax}_j(G_{ij})_i
              + \log \mathrm{softmax}_j(G_{ji})_i\big);

    :math:`\log n` minus its mean is a lower bound of the mutual information of the
    codes, at most log n (van den Oord et al., 2018).

    Parameters
    ----------
    left, right : Tensor of shape (..., n, d)
        Row i of one belongs to row i of the other.
    temperature : float
    weight : Tensor of shape (n,), default=None
        A row of weight w stands for w rows among those that the others are told from.

    Returns
    -------
    loss : Tensor of shape (..., n)
    """
    c = torch.nn.functional.normalize(left, dim=-1)
    d = torch.nn.functional.normalize(right, dim=-1)
    logits = c @ d.mT / temperature
    own = logits.diagonal(dim1=-2, dim2=-1)
    if weight is None:
        both = torch.logsumexp(logits, -1) + torch.logsumexp(logits, -2)
    else:
        log_w = weight.log()
        both = torch.logsumexp(logits + log_w, -1)
        both = both + torch.logsumexp(logits + log_w.unsqueeze(-1), -2)
    return 0.5 * both - own
