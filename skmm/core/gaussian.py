r"""Gaussians with missing entries: moments, marginals, conditional means.

For a Gaussian with mean :math:`\mu` and covariance :math:`\Sigma`, what is observed (o)
of a row has the mean :math:`\mu_o` and the covariance :math:`\Sigma_{oo}`, and what is
missing (m) the conditional mean
:math:`\mu_m + \Sigma_{mo} \Sigma_{oo}^{-1} (z_o - \mu_o)`.

Shapes: rows ``(n, p)``, classes ``(C, ...)``, masks are true where observed. All
logarithms are natural.
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor


def moments(
    z: Tensor, observed: Tensor, weight: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted mean and second moments over the cells and pairs that are observed.

    Parameters
    ----------
    z : Tensor of shape (n, p)
        Values where missing do not matter, but must be finite.
    observed : bool Tensor of shape (n, p)
    weight : Tensor of shape (n,)

    Returns
    -------
    mean : Tensor of shape (p,)
        Zero for a column without any cell.
    scatter : Tensor of shape (p, p)
        Weighted sums of products of deviations from the mean.
    total : Tensor of shape (p, p)
        Weight of the rows in which both are observed.
    """
    mask = observed.to(z)
    weighted = mask * weight[:, None]
    total = weighted.T @ mask
    count = total.diagonal()
    mean = (weighted * z).sum(0) / torch.where(count > 0, count, 1)
    centred = (z - mean) * mask
    scatter = centred.T @ (centred * weight[:, None])
    return mean, (scatter + scatter.T) / 2, (total + total.T) / 2


def nearest_correlation_scale(covariance: Tensor, smallest: float) -> Tensor:
    """Raise the eigenvalues of the correlations to at least `smallest`.

    The diagonal is kept; a matrix that needs no raising is returned as it is.

    Parameters
    ----------
    covariance : Tensor of shape (C, p, p)
        Symmetric with a non-negative diagonal.
    smallest : float
        Relative to a unit diagonal.

    Returns
    -------
    Tensor of shape (C, p, p)
    """
    scale = covariance.diagonal(dim1=-2, dim2=-1).clamp_min(0).sqrt()
    scale = torch.where(scale > 0, scale, 1)
    outer = scale[:, :, None] * scale[:, None, :]
    values, vectors = torch.linalg.eigh(covariance / outer)
    out = covariance.clone()
    for c in torch.nonzero(values[:, 0] < smallest).flatten().tolist():
        half = vectors[c] * values[c].clamp_min(smallest).sqrt()
        raised = half @ half.T
        unit = raised.diagonal().sqrt()
        out[c] = raised / (unit[:, None] * unit) * outer[c]
    return out


def log_density(z: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Log-densities of complete rows under each class.

    Parameters
    ----------
    z : Tensor of shape (n, p)
    mean : Tensor of shape (C, p)
    covariance : Tensor of shape (C, p, p) or (1, p, p)
        One matrix serves all classes.

    Returns
    -------
    Tensor of shape (n, C)
        In nats.
    """
    cholesky = torch.linalg.cholesky(covariance)
    half = cholesky.diagonal(dim1=-2, dim2=-1).log().sum(-1)
    columns = []
    for c in range(len(mean)):
        factor = cholesky[c if len(cholesky) > 1 else 0]
        white = torch.linalg.solve_triangular(factor, (z - mean[c]).T, upper=False)
        columns.append(-0.5 * (white**2).sum(0))
    constant = 0.5 * z.shape[1] * math.log(2 * math.pi)
    return torch.stack(columns, dim=1) - half - constant


def conditional_mean(
    z: Tensor, mean: Tensor, covariance: Tensor, observed: Tensor
) -> Tensor:
    """Rows with the missing entries of one pattern replaced by conditional means.

    Parameters
    ----------
    z : Tensor of shape (n, p)
    mean : Tensor of shape (p,)
    covariance : Tensor of shape (p, p)
    observed : bool Tensor of shape (p,)

    Returns
    -------
    Tensor of shape (n, p)
    """
    filled = z.clone()
    missing = ~observed
    if observed.any():
        cholesky = torch.linalg.cholesky(covariance[observed][:, observed])
        slope = torch.cholesky_solve(covariance[observed][:, missing], cholesky)
        filled[:, missing] = mean[missing] + (z[:, observed] - mean[observed]) @ slope
    else:
        filled[:, missing] = mean[missing]
    return filled


def residuals(z: Tensor, observed: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    r"""Each observed entry minus its expectation given the row's other observed ones.

    With :math:`K = \Sigma_{oo}^{-1}`,
    :math:`\mathrm{diag}(K)^{-1} K (z_o - \mu_o)`.

    Parameters
    ----------
    z : Tensor of shape (n, p)
    observed : bool Tensor of shape (n, p)
    mean : Tensor of shape (p,)
    covariance : Tensor of shape (p, p)

    Returns
    -------
    Tensor of shape (n, p)
        Zero where not observed.
    """
    out = torch.zeros_like(z)
    for pattern, rows in patterns(observed):
        index = torch.nonzero(pattern).flatten()
        part = torch.linalg.cholesky(covariance[index][:, index])
        precision = torch.cholesky_inverse(part)
        deviation = z[rows][:, index] - mean[index]
        out[rows[:, None], index] = deviation @ precision / precision.diagonal()
    return out


def patterns(observed: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """Each pattern of observed entries, with the rows that have it.

    Parameters
    ----------
    observed : bool Tensor of shape (n, p)

    Yields
    ------
    pattern : bool Tensor of shape (p,)
    rows : long Tensor
    """
    if not len(observed):
        return
    if bool(observed.all()):
        yield (
            torch.ones_like(observed[0]),
            torch.arange(len(observed), device=observed.device),
        )
        return
    distinct, inverse = torch.unique(observed, dim=0, return_inverse=True)
    for k, pattern in enumerate(distinct):
        yield pattern, torch.nonzero(inverse == k).flatten()


def marginal_log_density(
    z: Tensor, observed: Tensor, mean: Tensor, covariance: Tensor
) -> Tensor:
    """Log-densities of what is observed of each row, the rest integrated out.

    Parameters
    ----------
    z : Tensor of shape (n, p)
    observed : bool Tensor of shape (n, p)
    mean : Tensor of shape (C, p)
    covariance : Tensor of shape (C, p, p) or (1, p, p)

    Returns
    -------
    Tensor of shape (n, C)
        Zero for a row without any entry.
    """
    out = z.new_zeros((len(z), len(mean)))
    for pattern, rows in patterns(observed):
        if pattern.any():
            index = torch.nonzero(pattern).flatten()
            out[rows] = log_density(
                z[rows][:, index], mean[:, index], covariance[:, index][:, :, index]
            )
    return out
