r"""Patches condensed into semantic nodes by cross-attention, and what footprints tell.

An image is a set of patch features :math:`H` (N, d), a node a prototype :math:`P_k`
in the same space. On features of unit length, the footprint of node k is

.. math:: \alpha_k = \mathrm{softmax}_N\!\left(
          \frac{H P_k}{\tau \sqrt d}\right)

and its vector :math:`\alpha_k H`. The score of a node is the cosine of its vector with
its prototype; the prior strength of a pair of nodes is the mean cosine of their
footprints, on request damped by the distance of their centroids:

.. math:: V_{jk} = \frac1n \sum_i \cos(\alpha_{ij}, \alpha_{ik})
          \exp\!\left(-\frac{\|c_{ij} - c_{ik}\|^2}{2 s^2}\right).

After CM-GLasso (Wang, Zhang and Wang, arXiv 2604.03953). That attention condenses
patches into nodes and that footprints weight the pairs is theirs; these formulas are a
reconstruction, since the body of the paper was not readable.

Everywhere `present` marks the patches that are there: an absent one has no share in a
footprint, and an image without any has footprints and vectors of zeros.
"""

import math

import torch
from torch import Tensor

# Below this a norm is taken as zero: what is divided by it stays zero.
TINY = 1e-12


def unit_length(features: Tensor) -> Tensor:
    """Features divided by their Euclidean norm; zeros stay zeros."""
    return features / features.norm(dim=-1, keepdim=True).clamp_min(TINY)


def cosines(prototypes: Tensor, patches: Tensor) -> Tensor:
    """Of every prototype (K, d) with every patch (..., N, d): (..., K, N)."""
    return unit_length(prototypes) @ unit_length(patches).transpose(-1, -2)


def softness(prototypes: Tensor, temperature: float) -> float:
    r"""What cosines are divided by, :math:`\tau \sqrt d`."""
    return temperature * math.sqrt(prototypes.shape[-1])


def attention(
    prototypes: Tensor,
    patches: Tensor,
    temperature: float,
    present: Tensor | None = None,
) -> Tensor:
    r"""Footprints: where in each image each prototype is found.

    Parameters
    ----------
    prototypes : Tensor of shape (K, d)
        Any length; they are normalised.
    patches : Tensor of shape (..., N, d)
        Any length; they are normalised.
    temperature : float
        :math:`\tau`; small ones make footprints sharp.
    present : Tensor of shape (..., N), optional
        Which patches are there.

    Returns
    -------
    Tensor of shape (..., K, N)
        Non-negative, each row with sum one, or zero in an image without patches.
    """
    logits = cosines(prototypes, patches) / softness(prototypes, temperature)
    if present is None:
        return logits.softmax(-1)
    there = present.unsqueeze(-2)
    shares = logits.masked_fill(~there, -math.inf).softmax(-1)
    return torch.where(there, shares, 0)  # NaN where no patch is there


def likeness(
    prototypes: Tensor,
    patches: Tensor,
    temperature: float,
    present: Tensor | None = None,
) -> Tensor:
    r"""Footprints before they are normalised over the patches, (..., K, N).

    :math:`\exp((\cos - 1) / (\tau \sqrt d))`: one where a patch points as its prototype
    does. Unlike a footprint, it is small everywhere in an image without the node, so
    that nodes compare within a patch. Zero for absent patches.
    """
    below_one = cosines(prototypes, patches) - 1
    alike = torch.exp(below_one / softness(prototypes, temperature))
    return alike if present is None else torch.where(present.unsqueeze(-2), alike, 0)


def node_vectors(footprints: Tensor, patches: Tensor) -> Tensor:
    """The mean of the normalised patches under each footprint, (..., K, d)."""
    return footprints @ unit_length(patches)


def node_scores(vectors: Tensor, prototypes: Tensor) -> Tensor:
    """The cosine of each node's vector with its prototype, (..., K)."""
    return (unit_length(vectors) * unit_length(prototypes)).sum(-1)


def grid_positions(rows: int, columns: int) -> Tensor:
    """The centres (y, x) of the patches in the unit square, row by row, (N, 2).

    Examples
    --------
    >>> grid_positions(1, 2)
    tensor([[0.5000, 0.2500],
            [0.5000, 0.7500]], dtype=torch.float64)
    """
    y = (torch.arange(rows, dtype=torch.float64) + 0.5) / rows
    x = (torch.arange(columns, dtype=torch.float64) + 0.5) / columns
    return torch.cartesian_prod(y, x)


def centroids(footprints: Tensor, positions: Tensor) -> Tensor:
    """The centre of mass of each footprint, (..., K, 2)."""
    return footprints @ positions.to(footprints)


def spatial_factor(centres: Tensor, scale: float) -> Tensor:
    r""":math:`\exp(-\|c_j - c_k\|^2 / (2 s^2))` of all pairs, (..., K, K)."""
    difference = centres.unsqueeze(-2) - centres.unsqueeze(-3)
    return torch.exp(-difference.square().sum(-1) / (2 * scale**2))


def footprint_similarity(
    footprints: Tensor,
    positions: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """The prior's summands: what each image tells about each pair of nodes.

    Parameters
    ----------
    footprints : Tensor of shape (..., K, N)
        Non-negative.
    positions : Tensor of shape (N, 2), optional
        Where the patches are.
    scale : float, optional
        s, in the unit of the positions. Without it pairs are not damped by distance.

    Returns
    -------
    Tensor of shape (..., K, K)
        In [0, 1] up to rounding.
    """
    unit = unit_length(footprints)
    similarity = unit @ unit.transpose(-1, -2)
    if scale is not None and positions is not None:
        similarity = similarity * spatial_factor(
            centroids(footprints, positions), scale
        )
    return similarity


def finish_prior(total: Tensor, n_images: int) -> Tensor:
    """The prior from the sum of its summands: symmetric, in [0, 1], unit diagonal.

    Sums over batches may be added up before. Without an image it is the unit matrix.
    """
    prior = (total / max(n_images, 1)).clamp(0, 1)
    prior = (prior + prior.transpose(-1, -2)) / 2
    eye = torch.eye(prior.shape[-1], dtype=torch.bool, device=prior.device)
    return torch.where(eye, 1, prior)


def footprint_prior(
    footprints: Tensor,
    positions: Tensor | None = None,
    scale: float | None = None,
) -> Tensor:
    """The prior of one batch of footprints (n, K, N): (K, K).

    Examples
    --------
    Two nodes that share half of their patches, and one elsewhere:

    >>> footprints = torch.tensor([[[0.5, 0.5, 0, 0], [0, 0.5, 0.5, 0], [0, 0, 0, 1]]])
    >>> footprint_prior(footprints)
    tensor([[1.0000, 0.5000, 0.0000],
            [0.5000, 1.0000, 0.0000],
            [0.0000, 0.0000, 1.0000]])
    """
    summands = footprint_similarity(footprints, positions, scale)
    return finish_prior(summands.sum(0), len(footprints))


def graph_operator(precision: Tensor) -> Tensor:
    r"""The normalised graph of precision matrices (..., K, K).

    :math:`G = D^{-1/2} |\mathrm{offdiag}\,\Theta| D^{-1/2}` with the row sums D. A
    node without an edge has a row of zeros. The eigenvalues lie in [-1, 1].
    """
    weights = precision.abs()
    eye = torch.eye(weights.shape[-1], dtype=torch.bool, device=weights.device)
    weights = weights.masked_fill(eye, 0)
    degrees = weights.sum(-1)
    inverse = torch.where(degrees > 0, degrees.clamp_min(1e-300).rsqrt(), 0)
    return inverse.unsqueeze(-1) * weights * inverse.unsqueeze(-2)


def smooth_over_graph(
    scores: Tensor, graph: Tensor, amount: float = 0.5, rounds: int = 2
) -> Tensor:
    """Scores mixed with those of their neighbours: f <- (1 - g) f + g G f.

    A node without neighbours keeps its score, so that an empty graph changes nothing.

    Parameters
    ----------
    scores : Tensor of shape (..., K)
    graph : Tensor of shape (..., K, K)
        See :func:`graph_operator`.
    amount : float
        g in [0, 1].
    rounds : int
        How often.
    """
    alone = (graph == 0).all(-1)
    for _ in range(rounds):
        mixed = (graph @ scores.unsqueeze(-1)).squeeze(-1)
        scores = torch.where(alone, scores, (1 - amount) * scores + amount * mixed)
    return scores
