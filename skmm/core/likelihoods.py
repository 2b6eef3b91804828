r"""Likelihoods of a modality's values given what its decoder returns.

A decoder returns one number a cell: the location of a Gaussian or Laplace value, the
logit of a Bernoulli one, the unnormalised log-probability of a category, which lies
along the last axis of the block's shape. "bernoulli" takes values in [0, 1] and not
only 0 and 1: between them it is the usual cross-entropy, no density.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

CONTINUOUS = ("gaussian", "laplace")


def row_log_likelihood(
    likelihood: str,
    output: Tensor,
    x: Tensor,
    shape: Sequence[int],
    log_scale: Tensor | None = None,
    cells: Tensor | None = None,
) -> Tensor:
    """Log-likelihood of each row, summed over its cells.

    Parameters
    ----------
    likelihood : {"gaussian", "laplace", "bernoulli", "categorical"}
    output : Tensor of shape (..., n, d)
        What the decoder returns, flat.
    x : Tensor of shape (n, d)
        Values, finite everywhere.
    shape : sequence of int
        Shape of the block.
    log_scale : Tensor of shape (), (d,) or None
        Log of the scale of "gaussian" and "laplace"; None is scale 1.
    cells : bool Tensor of shape (n, d), default=None
        Where values count; all by default.

    Returns
    -------
    log_p : Tensor of shape (..., n)
    """
    if likelihood in CONTINUOUS:
        return _continuous(likelihood, output, x, log_scale, cells)
    if likelihood == "bernoulli":
        log_p = x * output - F.softplus(output)
    else:
        log_p = x * _categories(output, shape).log_softmax(-1).flatten(-len(shape))
    return log_p.sum(-1) if cells is None else torch.where(cells, log_p, 0).sum(-1)


def _continuous(
    likelihood: str,
    output: Tensor,
    x: Tensor,
    log_scale: Tensor | None,
    cells: Tensor | None,
) -> Tensor:
    deviation = output - x
    if cells is not None:
        deviation = torch.where(cells, deviation, 0)
    if log_scale is None:
        log_scale = output.new_zeros(())
    if log_scale.dim():  # a scale a column
        deviation = deviation * (-log_scale).exp()
    if likelihood == "gaussian":
        # Norms, not sums of squares: one pass, and the array of squares is not kept.
        energy = 0.5 * torch.linalg.vector_norm(deviation, dim=-1).square()
        factor, constant = 2.0, 0.5 * math.log(2 * math.pi)
    else:
        energy = deviation.abs().sum(-1)
        factor, constant = 1.0, math.log(2.0)
    if not log_scale.dim():
        energy = energy * (-factor * log_scale).exp()
    if cells is None:
        width = x.shape[-1]
        logs = log_scale.sum() if log_scale.dim() else width * log_scale
        return -energy - logs - width * constant
    count = cells.to(x.dtype)
    logs = count @ log_scale if log_scale.dim() else count.sum(-1) * log_scale
    return -energy - logs - count.sum(-1) * constant


def expectation(likelihood: str, output: Tensor, shape: Sequence[int]) -> Tensor:
    """Mean of the values, ``(..., d)``: probabilities for the discrete ones."""
    if likelihood == "bernoulli":
        return output.sigmoid()
    if likelihood == "categorical":
        return _categories(output, shape).softmax(-1).flatten(-len(shape))
    return output


def draw(
    likelihood: str,
    output: Tensor,
    shape: Sequence[int],
    log_scale: Tensor | None = None,
) -> Tensor:
    """Values drawn from the likelihood, ``(..., d)``; one-hot for "categorical"."""
    if likelihood == "bernoulli":
        return torch.bernoulli(output.sigmoid())
    if likelihood == "categorical":
        logits = _categories(output, shape)
        flat = logits.softmax(-1).reshape(-1, shape[-1])
        chosen = torch.multinomial(flat, 1).view(logits.shape[:-1])
        one_hot = F.one_hot(chosen, shape[-1]).to(output.dtype)
        return one_hot.flatten(-len(shape))
    scale = 1.0 if log_scale is None else log_scale.exp()
    if likelihood == "gaussian":
        return output + scale * torch.randn_like(output)
    # The difference of two exponentials is Laplace.
    noise = torch.empty_like(output).exponential_()
    return output + scale * (noise - torch.empty_like(output).exponential_())


def _categories(output: Tensor, shape: Sequence[int]) -> Tensor:
    return output.unflatten(-1, tuple(shape))
