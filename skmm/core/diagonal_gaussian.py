r"""Gaussians with a diagonal covariance: densities, divergences, distances, products.

With means :math:`\mu` and scales :math:`\sigma` (standard deviations), a dimension at a
time. All logarithms are natural; the last axis holds the dimensions and is summed over.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

LOG_2PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class DiagonalGaussian:
    """A batch of Gaussians.

    Parameters
    ----------
    mean, log_scale : Tensor of shape (..., d)
        Log of the standard deviations.
    """

    mean: Tensor
    log_scale: Tensor

    @property
    def scale(self) -> Tensor:
        """Standard deviations, of shape (..., d)."""
        return self.log_scale.exp()

    def __getitem__(self, rows: Tensor | slice) -> "DiagonalGaussian":
        return DiagonalGaussian(self.mean[rows], self.log_scale[rows])

    def float(self) -> "DiagonalGaussian":
        """The same in float32."""
        return DiagonalGaussian(self.mean.float(), self.log_scale.float())

    def draw(self, n_draws: int, common: bool = False) -> Tensor:
        """Reparameterised draws ``(n_draws, ..., d)``, with `common` noise for all."""
        *batch, size = self.mean.shape
        shape = (
            (n_draws, *(1 for _ in batch), size) if common else (n_draws, *batch, size)
        )
        noise = torch.randn(shape, dtype=self.mean.dtype, device=self.mean.device)
        return torch.addcmul(self.mean, self.scale, noise)

    def draw_with_density(self, n_draws: int) -> tuple[Tensor, Tensor]:
        """`draw` and the `log_density` of what is drawn, from the noise itself."""
        noise = torch.randn(
            (n_draws, *self.mean.shape), dtype=self.mean.dtype, device=self.mean.device
        )
        constant = 0.5 * (noise.square().sum(-1) + LOG_2PI * noise.shape[-1])
        z = torch.addcmul(self.mean, self.scale, noise)
        return z, -constant - self.log_scale.sum(-1)

    def log_density(self, z: Tensor) -> Tensor:
        """Log-density of ``z (..., d)``, broadcast against the batch."""
        deviation = (z - self.mean) * (-self.log_scale).exp()
        constant = self.log_scale.sum(-1) + 0.5 * LOG_2PI * self.mean.shape[-1]
        return -0.5 * deviation.square().sum(-1) - constant

    def divergence(self, other: "DiagonalGaussian | None" = None) -> Tensor:
        """Kullback-Leibler divergence from `other`, N(0, I) if None; ``(...)``."""
        variance = (2 * self.log_scale).exp()
        if other is None:
            terms = variance + self.mean.square() - 1 - 2 * self.log_scale
            return 0.5 * terms.sum(-1)
        ratio = 2 * (self.log_scale - other.log_scale)
        squared = (self.mean - other.mean).square() * (-2 * other.log_scale).exp()
        return 0.5 * (ratio.exp() - 1 - ratio + squared).sum(-1)


def standard_log_density(z: Tensor) -> Tensor:
    """Log-density of N(0, I) at ``z (..., d)``."""
    return -0.5 * z.square().sum(-1) - 0.5 * LOG_2PI * z.shape[-1]


def log_mixture_density(z: Tensor, components: DiagonalGaussian) -> Tensor:
    """Log-density of an equal mixture of B components at ``z (..., d)``.

    The squared distance is expanded, so that no array of size (..., B, d) is made, and
    in float64: where components are narrow and apart, float32 loses whole nats.
    """
    dtype = z.dtype
    centre = components.mean.detach().double().mean(0)
    z, mean = z.double() - centre, components.mean.double() - centre
    precision = (-2 * components.log_scale.double()).exp()
    weighted = mean * precision
    squared = z.square() @ precision.T - 2 * z @ weighted.T + (mean * weighted).sum(-1)
    constant = components.log_scale.sum(-1) + 0.5 * LOG_2PI * z.shape[-1]
    log_p = torch.logsumexp(-0.5 * squared - constant, -1)
    return (log_p - math.log(len(mean))).to(dtype)


def product(means: Tensor, log_scales: Tensor, present: Tensor) -> DiagonalGaussian:
    """Normalised product of the present ones of M Gaussians.

    Parameters
    ----------
    means, log_scales : Tensor of shape (M, B, d)
    present : bool Tensor of shape (M, B)

    Returns
    -------
    product : DiagonalGaussian over (B, d)
        Precisions add up; the mean is weighted by them. N(0, I) where none is present.
    """
    precision = torch.where(present.unsqueeze(-1), (-2 * log_scales).exp(), 0)
    total = precision.sum(0)
    total = torch.where(total > 0, total, 1)
    return DiagonalGaussian((precision * means).sum(0) / total, -0.5 * total.log())


def wasserstein(left: DiagonalGaussian, right: DiagonalGaussian) -> Tensor:
    r"""2-Wasserstein distances of all pairs ``(n, m)``.

    :math:`W_2^2 = |\mu_1 - \mu_2|^2 + |\sigma_1 - \sigma_2|^2` for diagonal
    covariances (the appendix of MEME prints a sum of the means for the difference).
    """
    a = torch.cat([left.mean, left.scale], -1)
    b = torch.cat([right.mean, right.scale], -1)
    return torch.cdist(a, b, compute_mode="donot_use_mm_for_euclid_dist")
