r"""Gaussians whose means and precisions are uncertain: the conjugate family.

.. math:: q(\mu, \Lambda) = N(\mu \mid m, (b \Lambda)^{-1})\,
          \mathcal{W}(\Lambda \mid W, \nu), \qquad S = W^{-1}.

From rows z of weights r with the sums N = sum r, s = sum r z and T = sum r z z', the
prior (m0, b0, S0, nu0) becomes

.. math:: b = b_0 + N, \quad \nu = \nu_0 + N, \quad m = (b_0 m_0 + s) / b, \quad
          S = S_0 + A + \frac{b_0 N}{b} (\bar z - m_0)(\bar z - m_0)^T,

with the mean :math:`\bar z = s / N` and the scatter :math:`A = T - N \bar z \bar z^T`.

Diagonal covariances keep the diagonal of S, and the Wishart's degrees of freedom: the
family of Wisharts with a diagonal scale, as in scikit-learn, not a product of Gammas.

Everything is batched over components: shapes begin with K. Both covariance types are
linear in *features* of a row,

    full:      1, z_i, z_i z_j for i <= j        (1 + D + D (D + 1) / 2)
    diagonal:  1, o_i, z_i, z_i^2                (1 + 3 D)

(o_i = 1 where a cell is observed; unobserved cells have zeros), so that log-densities
are one matrix product with coefficients, and sums of the rows another. Where all cells
of the rows are observed the o_i are left out, since each is the first feature.
"""

import math
from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor
from torch.special import digamma

LOG_2PI = math.log(2 * math.pi)
# Share of all rows below which a component has none.
ROUNDING = 1e-14


class NotPositiveDefinite(ValueError):
    """A scale matrix that can't be inverted."""


@dataclass(frozen=True)
class NormalWishart:
    """Parameters of K factors.

    Parameters
    ----------
    mean : Tensor of shape (K, D)
        m.
    precision : Tensor of shape (K,)
        b, the precision of the mean in units of the precision of a row.
    scale : Tensor of shape (K, D, D) or (K, D)
        S, the inverse of the Wishart's scale W; two axes for diagonal covariances.
    dof : Tensor of shape (K,)
        Degrees of freedom, above D - 1.
    """

    mean: Tensor
    precision: Tensor
    scale: Tensor
    dof: Tensor

    @property
    def diagonal(self) -> bool:
        """Whether covariances are diagonal."""
        return self.scale.ndim == 2

    @property
    def size(self) -> int:
        """D."""
        return self.mean.shape[-1]

    def take(self, index: Tensor) -> "NormalWishart":
        """Some of the factors."""
        return NormalWishart(
            self.mean[index], self.precision[index], self.scale[index], self.dof[index]
        )

    @property
    def covariance(self) -> Tensor:
        r"""The inverse :math:`S / \nu` of the expected precision."""
        return self.scale / self.dof.reshape(-1, *[1] * (self.scale.ndim - 1))


@dataclass(frozen=True)
class Sums:
    """Weighted sums over rows: what a posterior is made from.

    Parameters
    ----------
    count : Tensor of shape (K,)
    first : Tensor of shape (K, D)
    second : Tensor of shape (K, D, D) or (K, D)
    """

    count: Tensor
    first: Tensor
    second: Tensor


def posterior(prior: NormalWishart, sums: Sums) -> NormalWishart:
    """The prior, one for all components, updated by their sums."""
    # Where sums were taken off sums, what is left of an empty component is rounding,
    # and its mean could be anything.
    n = torch.where(sums.count > ROUNDING * sums.count.sum(), sums.count, 0)
    b = prior.precision + n
    some = (n > 0)[:, None]
    centre = torch.where(some, sums.first / torch.where(some, n[:, None], 1), 0)
    apart = torch.where(some, centre - prior.mean, 0)
    pull = (prior.precision * n / b)[:, None]
    mean = prior.mean + n[:, None] * apart / b[:, None]
    if prior.diagonal:
        scatter = (sums.second - sums.first * centre).clamp_min(0)
        scatter = torch.where(some, scatter, 0)
        scale = prior.scale + scatter + pull * apart**2
    else:
        scatter = sums.second - sums.first[:, :, None] * centre[:, None, :]
        scatter = torch.where(some[:, :, None], scatter, 0)
        scale = prior.scale + scatter + (pull * apart)[:, :, None] * apart[:, None, :]
        scale = (scale + scale.mT) / 2
    return NormalWishart(mean, b, scale, prior.dof + n)


def cholesky(scale: Tensor) -> Tensor:
    """Cholesky factors (full) or roots (diagonal) of scale matrices.

    Raises
    ------
    NotPositiveDefinite
        If one is not positive definite.
    """
    if scale.ndim == 2:
        if not bool((scale > 0).all()):
            raise NotPositiveDefinite("a variance is not positive")
        return scale.sqrt()
    factor, info = torch.linalg.cholesky_ex(scale)
    if bool((info > 0).any()):
        raise NotPositiveDefinite("a scale matrix is not positive definite")
    return factor


def log_det(factor: Tensor) -> Tensor:
    """Log-determinants of matrices with these factors."""
    roots = factor if factor.ndim == 2 else factor.diagonal(dim1=-2, dim2=-1)
    return 2 * roots.log().sum(-1)


def log_normaliser(q: NormalWishart) -> Tensor:
    """Logarithms of the integrals of the unnormalised densities, (K,).

    Without the terms that depend on D alone, which cancel between two members.
    """
    d = q.size
    halves = (q.dof[:, None] - _steps(d, q.dof)) / 2
    return (
        torch.lgamma(halves).sum(-1)
        + 0.5 * d * (q.dof * math.log(2) - q.precision.log())
        - 0.5 * q.dof * log_det(cholesky(q.scale))
    )


def expected_log_det(q: NormalWishart, factor: Tensor) -> Tensor:
    r""":math:`E \log |\Lambda|` of each factor."""
    halves = (q.dof[:, None] - _steps(q.size, q.dof)) / 2
    return digamma(halves).sum(-1) + q.size * math.log(2) - log_det(factor)


def divergence(q: NormalWishart, prior: NormalWishart) -> Tensor:
    """KL(q || prior) of each factor, for a prior of one factor."""
    d = q.size
    factor = cholesky(q.scale)
    precision = _expected_precision(q, factor)
    apart = q.mean - prior.mean
    if q.diagonal:
        trace = (precision * prior.scale).sum(-1)
        far = (precision * apart**2).sum(-1)
    else:
        trace = (precision * prior.scale).sum((-2, -1))
        far = torch.einsum("ki,kij,kj->k", apart, precision, apart)
    return (
        log_normaliser(prior)
        - log_normaliser(q)
        + 0.5 * (q.dof - prior.dof) * expected_log_det(q, factor)
        - 0.5 * d * q.dof
        + 0.5 * trace
        + 0.5 * prior.precision * (far + d / q.precision)
        - 0.5 * d
    )


# ---------------------------------------------------------------- features
def features(z: Tensor, seen: Tensor, cells: Tensor | None, diagonal: bool) -> Tensor:
    """Features of rows, transposed: one column a row.

    Parameters
    ----------
    z : Tensor of shape (D, n)
        Zero where not observed.
    seen : Tensor of shape (n,)
        1 for the rows to count, 0 for those to leave out; these have z = 0.
    cells : Tensor of shape (D, n) or None
        1 where a cell is observed; None if all cells of the rows that count are.
    diagonal : bool
        Of which covariance type.

    Returns
    -------
    Tensor of shape (n_features, n)
    """
    d, n = z.shape
    out = z.new_empty((n_features(d, diagonal, cells is None), n))
    out[0] = seen
    if diagonal:
        if cells is not None:
            out[1 : 1 + d] = cells
        out[-2 * d : -d] = z
        torch.mul(z, z, out=out[-d:])
        return out
    out[1 : 1 + d] = z
    at = 1 + d
    for i in range(d):
        torch.mul(z[i], z[i:], out=out[at : at + d - i])
        at += d - i
    return out


def n_features(size: int, diagonal: bool, complete: bool = True) -> int:
    """Number of features of a block, of rows whose cells are all observed or not."""
    if diagonal:
        return 1 + (2 if complete else 3) * size
    return 1 + size + size * (size + 1) // 2


def without_cells(coefficients: Tensor, size: int) -> Tensor:
    """Coefficients of a diagonal block for rows whose cells are all observed."""
    cells = coefficients[:, 1 : 1 + size].sum(1, keepdim=True)
    return torch.cat([coefficients[:, :1] + cells, coefficients[:, 1 + size :]], 1)


def with_cells(total: Tensor, size: int) -> Tensor:
    """Totals of a diagonal block with the cells' counts, all observed."""
    count = total[:, :1]
    return torch.cat([count, count.expand(-1, size), total[:, 1:]], dim=1)


def coefficients(q: NormalWishart) -> Tensor:
    r"""Coefficients (K, n_features) of the expected log-densities.

    .. math:: E \log N(z) = \frac12 [E \log|\Lambda| - D \log 2\pi - D / b
              - \nu (z - m)^T W (z - m)].

    An unobserved cell of a diagonal component, with precision
    :math:`\lambda_i = \nu W_{ii}`, is a latent variable whose optimal factor is
    :math:`N(m_i, 1 / \lambda_i)`; it adds
    :math:`-\frac12 \log \lambda_i + \frac12 \log 2\pi` in place of its square.
    """
    factor = cholesky(q.scale)
    precision = _expected_precision(q, factor)
    constant = 0.5 * (
        expected_log_det(q, factor) - q.size * (LOG_2PI + 1 / q.precision)
    )
    if q.diagonal:
        linear = precision * q.mean
        hidden = 0.5 * (LOG_2PI - precision.log())
        return torch.cat(
            [
                (constant + hidden.sum(-1))[:, None],
                -hidden - 0.5 * linear * q.mean,
                linear,
                -0.5 * precision,
            ],
            dim=1,
        )
    return quadratic_coefficients(constant, q.mean, precision)


def quadratic_coefficients(constant: Tensor, mean: Tensor, precision: Tensor) -> Tensor:
    r"""Coefficients of :math:`c - \frac12 (z - m)^T \Lambda (z - m)`, full.

    Parameters
    ----------
    constant : Tensor of shape (K,)
    mean : Tensor of shape (K, D)
    precision : Tensor of shape (K, D, D)
    """
    linear = (precision @ mean[:, :, None])[:, :, 0]
    constant = constant - 0.5 * (linear * mean).sum(-1)
    half = -precision
    half.diagonal(dim1=-2, dim2=-1).mul_(0.5)
    i, j = _half(mean.shape[1], mean.device)
    return torch.cat([constant[:, None], linear, half[:, i, j]], dim=1)


def sums_from_features(
    total: Tensor, size: int, diagonal: bool, q: NormalWishart | None
) -> tuple[Sums, Tensor]:
    """Sums of the rows, from responsibilities times features.

    Parameters
    ----------
    total : Tensor of shape (K, n_features)
    size : int
        D.
    diagonal : bool
    q : NormalWishart or None
        Factors that the unobserved cells were filled by; None if there are none.

    Returns
    -------
    sums : Sums
    entropy : Tensor of shape ()
        Of the unobserved cells of diagonal components.
    """
    entropy = total.new_zeros(())
    count = total[:, 0]
    if diagonal:
        _, seen, first, second = torch.split(total, [1, size, size, size], dim=1)
        if q is not None:
            variance = q.covariance
            hidden = (count[:, None] - seen).clamp_min(0)
            first = first + hidden * q.mean
            second = second + hidden * (q.mean**2 + variance)
            entropy = 0.5 * (hidden * (1 + LOG_2PI + variance.log())).sum()
        return Sums(count, first, second), entropy
    _, first, half = torch.split(total, [1, size, total.shape[1] - 1 - size], dim=1)
    i, j = _half(size, total.device)
    second = total.new_empty((len(total), size, size))
    second[:, i, j] = half
    second[:, j, i] = half
    return Sums(count, first, second), entropy


def pack_sums(sums: Sums) -> Tensor:
    """The totals (K, n_features) that these sums come from, all cells observed."""
    count = sums.count[:, None]
    if sums.second.ndim == 2:
        seen = count.expand_as(sums.first)
        return torch.cat([count, seen, sums.first, sums.second], dim=1)
    i, j = _half(sums.first.shape[1], sums.first.device)
    return torch.cat([count, sums.first, sums.second[:, i, j]], dim=1)


# ---------------------------------------------------------------- unobserved cells
@dataclass(frozen=True)
class Completion:
    """Rows with the same number s of unobserved cells, under full covariances.

    Parameters
    ----------
    hidden : long Tensor of shape (n, s)
        Which cells are unobserved.
    log_density : Tensor of shape (K, n)
        Expected log-densities of what is observed.
    filled : Tensor of shape (K, n, D)
        Rows with unobserved cells at their conditional means.
    factor : Tensor of shape (K, n, s, s)
        Cholesky factors of the precisions of the unobserved cells.
    """

    hidden: Tensor
    log_density: Tensor
    filled: Tensor
    factor: Tensor

    @property
    def entropy(self) -> Tensor:
        """Of the unobserved cells, (K, n), in nats."""
        half = self.factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        return 0.5 * self.hidden.shape[1] * (1 + LOG_2PI) - half


class Completer:
    r"""Integrates the unobserved cells u of rows out.

    They are latent variables with the optimal factors
    :math:`N(m_u - \Lambda_{uu}^{-1} \Lambda_{uo} (z_o - m_o), \Lambda_{uu}^{-1})` for
    :math:`\Lambda = \nu W`, hence

    .. math:: \frac12 [E \log|\Lambda| - \log|\Lambda_{uu}| - |o| \log 2\pi - D / b
              - d^T \Lambda d + (\Lambda d)_u^T \Lambda_{uu}^{-1} (\Lambda d)_u]

    with the deviations d, zero in u: what has to be factorised is as small as the
    number of unobserved cells, a row and component at a time.

    Parameters
    ----------
    q : NormalWishart
        With full covariances.
    fixed : bool, default=False
        Whether the Gaussians are known: means and, as scales, covariances.
    """

    def __init__(self, q: NormalWishart, fixed: bool = False):
        factor = cholesky(q.scale)
        self.q = q
        if fixed:
            self.precision = torch.cholesky_inverse(factor)
            self.constant = -log_det(factor)
        else:
            self.precision = _expected_precision(q, factor)
            self.constant = expected_log_det(q, factor) - q.size / q.precision

    def __call__(self, z: Tensor, hidden: Tensor) -> Completion:
        """Complete rows (n, D) whose cells `hidden`, (n, s), are unobserved."""
        n, s = hidden.shape
        k, d = self.q.mean.shape
        rows = torch.arange(n, device=z.device)[:, None]
        apart = z - self.q.mean[:, None]  # (K, n, D)
        apart[:, rows, hidden] = 0
        pull = apart @ self.precision
        square = (pull * apart).sum(-1)
        inner = self.precision[:, hidden[:, :, None], hidden[:, None, :]]
        factor = cholesky(inner.reshape(k * n, s, s)).view(k, n, s, s)
        own = pull[:, rows, hidden][..., None]  # (K, n, s, 1)
        white = torch.linalg.solve_triangular(factor, own, upper=False)
        shift = torch.linalg.solve_triangular(factor.mT, white, upper=True)
        apart[:, rows, hidden] = -shift[..., 0]
        log_hidden = 2 * factor.diagonal(dim1=-2, dim2=-1).log().sum(-1)
        log_density = 0.5 * (
            self.constant[:, None]
            - log_hidden
            - (d - s) * LOG_2PI
            - square
            + (white[..., 0] ** 2).sum(-1)
        )
        filled = torch.where(_is_hidden(hidden, d), apart + self.q.mean[:, None], z)
        return Completion(hidden, log_density, filled, factor)


def _is_hidden(hidden: Tensor, size: int) -> Tensor:
    mask = torch.zeros((len(hidden), size), dtype=torch.bool, device=hidden.device)
    return mask.scatter_(1, hidden, True)


def completed_sums(completion: Completion, resp: Tensor) -> tuple[Sums, Tensor]:
    """Sums of rows with unobserved cells, and the entropy of these cells.

    Parameters
    ----------
    completion : Completion
    resp : Tensor of shape (K, n)
        Responsibilities times weights.
    """
    weighted = completion.filled * resp[:, :, None]
    second = weighted.mT @ completion.filled
    k, n, s, _ = completion.factor.shape
    spread = torch.cholesky_inverse(completion.factor.reshape(k * n, s, s))
    spread = spread.view(k, n, s, s) * resp[:, :, None, None]
    size = second.shape[1]
    at = completion.hidden[:, :, None] * size + completion.hidden[:, None, :]
    second.view(k, -1).index_add_(1, at.flatten(), spread.reshape(k, -1))
    entropy = (resp * completion.entropy).sum()
    return Sums(resp.sum(1), weighted.sum(1), second), entropy


def _expected_precision(q: NormalWishart, factor: Tensor) -> Tensor:
    if q.diagonal:
        return q.dof[:, None] / q.scale
    return q.dof[:, None, None] * torch.cholesky_inverse(factor)


def _steps(size: int, like: Tensor) -> Tensor:
    return torch.arange(size, dtype=like.dtype, device=like.device)


@lru_cache(maxsize=64)
def _half(size: int, device: torch.device) -> tuple[Tensor, Tensor]:
    i, j = torch.triu_indices(size, size, device=device)
    return i, j
