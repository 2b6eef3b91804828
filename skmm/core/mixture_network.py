r"""Encoders, a mixture over their embeddings, a fusion and a linear head.

After Chan et al. (2025): every modality's unit-length embedding :math:`z_m` follows a
mixture of K Gaussians with diagonal covariances, and all :math:`J = MK` weights come
from one broken stick, modality by modality. The mixture's loss is the profiled bound

.. math:: L_{dp} = -\frac1B \sum_i \log \sum_{j: m(j) \in O_i} \exp\big(E \log \pi_j
          + \log N(z_{i m(j)} | \mu_j, s_j^2)\big)
          + \frac1n \sum_j \mathrm{KL}(q(\beta_j) \| \mathrm{Beta}(1, \eta)),

over the observed modalities O_i, and the training loss of epoch t

.. math:: L_{task} / \max(e^{-\tau t}, 10^{-3}) + \lambda L_{dp}.

The published code differs: it adds each component's entropy, which cancels the
log-determinant, so that nothing holds scales back; it leaves out the divergence; it
draws stick fractions a row at a time; and it updates the sticks by the *mean* of a
batch's responsibilities, one pseudo-observation at most (`batch_mean` here), where the
natural-gradient step counts the rows.
"""

import math

import torch
from torch import Tensor, nn

from skmm.core.networks import FusionNetwork
from skmm.core.normal_wishart import LOG_2PI
from skmm.core.stick_breaking import (
    beta_divergence,
    beta_posterior,
    expected_log_weights,
    log_expected_weights,
)

FUSIONS = ("concat", "lstm", "attention")
# The least scale of a component, relative to that of a coordinate of a unit vector:
# without a decoder, all embeddings in one point would have an unbounded density.
LEAST_SCALE = 0.1
LEAST_TASK_FACTOR = 1e-3
N_HEADS = 8


class ConcatFusion(nn.Module):
    """Embeddings side by side, ``(M, B, D)`` to ``(B, M * D)``."""

    def forward(self, z: Tensor) -> Tensor:
        """Fuse embeddings."""
        return z.transpose(0, 1).flatten(1)


class LSTMFusion(nn.Module):
    """Last state of an LSTM over the modalities as a sequence."""

    def __init__(self, size: int):
        super().__init__()
        self.lstm = nn.LSTM(size, 2 * size)

    def forward(self, z: Tensor) -> Tensor:
        """Fuse embeddings."""
        _, (state, _) = self.lstm(z)
        return state[-1]


class AttentionFusion(nn.Module):
    """Each modality attends to the others, or alone to itself; results side by side.

    For two modalities the cross-attention each way of the paper's code; for more, where
    the code goes round in a ring, to all others.
    """

    def __init__(self, size: int, n_modalities: int):
        super().__init__()
        heads = math.gcd(size, N_HEADS)
        self.attentions = nn.ModuleList(
            nn.MultiheadAttention(size, heads, batch_first=True)
            for _ in range(n_modalities)
        )

    def forward(self, z: Tensor) -> Tensor:
        """Fuse embeddings."""
        rows = z.transpose(0, 1)  # (B, M, D)
        out = []
        for m, attention in enumerate(self.attentions):
            others = [j for j in range(rows.shape[1]) if j != m] or [m]
            keys = rows[:, others]
            out.append(attention(rows[:, m : m + 1], keys, keys, need_weights=False)[0])
        return torch.cat(out, dim=1).flatten(1)


def build_fusion(kind: str, n_modalities: int, size: int) -> tuple[nn.Module, int]:
    """A fusion and the size of what it gives."""
    if kind == "lstm":
        return LSTMFusion(size), 2 * size
    if kind == "attention":
        return AttentionFusion(size, n_modalities), n_modalities * size
    return ConcatFusion(), n_modalities * size


class EmbeddingMixture(nn.Module):
    """A mixture over the embeddings of M modalities on one broken stick.

    Parameters
    ----------
    n_modalities, n_components, size : int
        M, K and D.
    concentration : float
        eta.
    """

    a: Tensor
    b: Tensor
    steps: Tensor

    def __init__(
        self, n_modalities: int, n_components: int, size: int, concentration: float
    ):
        super().__init__()
        self.shape = (n_modalities, n_components, size)
        self.concentration = concentration
        n = n_modalities * n_components
        # Of one axis, because weights of more are decayed by the optimiser.
        self.flat_means = nn.Parameter(torch.zeros(n * size))
        self.flat_scales = nn.Parameter(torch.zeros(n * size))
        self.register_buffer("a", torch.ones(n))
        self.register_buffer("b", torch.full((n,), float(concentration)))
        self.register_buffer("steps", torch.zeros((), dtype=torch.long))

    @property
    def means(self) -> Tensor:
        """mu, (M, K, D)."""
        return self.flat_means.view(self.shape)

    @property
    def scales(self) -> Tensor:
        """Standard deviations s, (M, K, D)."""
        least = LEAST_SCALE / math.sqrt(self.shape[-1])
        return nn.functional.softplus(self.flat_scales).view(self.shape) + least

    def set_components(self, means: Tensor, scales: Tensor) -> None:
        """Start from given components."""
        least = LEAST_SCALE / math.sqrt(self.shape[-1])
        above = (scales - least).clamp_min(1e-2 * least)
        with torch.no_grad():
            self.flat_means.copy_(means.flatten())
            self.flat_scales.copy_(torch.log(torch.expm1(above)).flatten())

    def logits(self, z: Tensor, observed: Tensor) -> Tensor:
        """Log-weights plus log-densities (B, J); -inf for absent modalities."""
        scales = self.scales[:, None]
        white = (z[:, :, None] - self.means[:, None]) / scales  # (M, B, K, D)
        half = -0.5 * (white**2).sum(-1) - scales.log().sum(-1)
        density = half - 0.5 * self.shape[-1] * LOG_2PI
        density = density.masked_fill(~observed[:, :, None], -torch.inf)
        log_weights = expected_log_weights(self.a, self.b)
        return density.transpose(0, 1).flatten(1) + log_weights

    def loss(
        self, z: Tensor, observed: Tensor, weight: Tensor | None, n_rows: float
    ) -> tuple[Tensor, Tensor]:
        """The loss of a batch, and its weighted mean responsibilities (J,)."""
        some = observed.any(0)
        logits = self.logits(z[:, some], observed[:, some])
        w = torch.ones_like(logits[:, 0]) if weight is None else weight[some]
        total = w.sum().clamp_min(torch.finfo(w.dtype).tiny)
        loss = -(torch.logsumexp(logits, 1) * w).sum() / total
        resp = torch.softmax(logits.detach(), 1)
        divergence = beta_divergence(self.a, self.b, self.concentration).sum()
        return loss + divergence / n_rows, (resp * w[:, None]).sum(0) / total

    def update_sticks(
        self, share: Tensor, n_rows: float, offset: float, decay: float, mean: bool
    ) -> None:
        """A natural-gradient step of the sticks, or the published code's update.

        Parameters
        ----------
        share : Tensor of shape (J,)
            Mean responsibilities of a batch.
        n_rows : float
            Rows that the batch stands for.
        offset, decay : float
            Step t has the rate ``(t + offset) ** -decay``.
        mean : bool
            Whether to do as the published code: the sticks see one row at most.
        """
        a, b = beta_posterior(share * (1 if mean else n_rows), self.concentration)
        rate = 1.0 if mean else min(1.0, (int(self.steps) + offset) ** -decay)
        self.a.lerp_(a.to(self.a), rate)
        self.b.lerp_(b.to(self.b), rate)
        self.steps += 1

    def weights(self) -> Tensor:
        """Weights (M, K), each modality's summing to one."""
        weights = log_expected_weights(self.a, self.b).view(self.shape[:2])
        return torch.softmax(weights, 1)

    def fill(self, z: Tensor, observed: Tensor, draw: bool) -> Tensor:
        """Embeddings with absent ones at the mixture's mean, or drawn from it."""
        if bool(observed.all()):
            return z
        weights = self.weights()
        if draw:
            n = z.shape[1]
            chosen = torch.multinomial(weights, n, replacement=True)[:, :, None]
            chosen = chosen.expand(-1, -1, z.shape[2])
            means = torch.gather(self.means, 1, chosen)
            absent = means + torch.gather(self.scales, 1, chosen) * torch.randn_like(z)
        else:
            absent = (weights[:, None] @ self.means).expand_as(z)
        # The task trains the encoders; components follow the embeddings alone.
        return torch.where(observed[:, :, None], z, absent.detach())


class MixtureFusionNetwork(FusionNetwork):
    """Encoders, mixture, fusion and head.

    Parameters
    ----------
    encoders : list of Module
    shapes : list of tuple of int
    mixture : EmbeddingMixture
    fusion : Module
    n_fused, n_classes : int
    """

    def __init__(
        self,
        encoders: list[nn.Module],
        shapes: list[tuple[int, ...]],
        mixture: EmbeddingMixture,
        fusion: nn.Module,
        n_fused: int,
        n_classes: int,
    ):
        head = nn.Linear(n_fused, n_classes)
        super().__init__(encoders, shapes, head, False, mixture.shape[-1])
        self.mixture = mixture
        self.fusion = fusion

    def embed(self, blocks: list[Tensor], steps: list[Tensor | None]) -> Tensor:
        """Unit-length embeddings ``(M, B, D)``."""
        return nn.functional.normalize(super().embed(blocks, steps), dim=-1)

    def fused(self, z: Tensor, observed: Tensor, draw: bool = False) -> Tensor:
        """What enters the head, ``(B, n_fused)``."""
        fused: Tensor = self.fusion(self.mixture.fill(z, observed, draw))
        return fused


def task_factor(epoch: int, temperature: float) -> float:
    """Times which the task's loss is taken in an epoch; grows to 1000 at most."""
    return 1 / max(math.exp(-temperature * epoch), LEAST_TASK_FACTOR)
