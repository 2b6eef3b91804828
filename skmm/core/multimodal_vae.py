r"""A variational autoencoder of several modalities with shared and private codes.

Each modality m has one encoder to a shared code z and a private code w, both Gaussian
with a diagonal covariance, and one decoder from (z, w). No posterior of all modalities
is formed: each modality's shared encoder is the prior of the others' shared codes
(Gao et al., 2025; Joy et al., 2022). A row with a single modality takes a mixture of
the others' encoders at *anchors*, learnt stand-ins for what is missing, as its prior.

Shapes: M modalities, B rows, K draws; codes ``(K, B, d)``; a row's modalities are
marked in ``observed (M, B)``.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import cast

import torch
from torch import Tensor, nn

from skmm.core.diagonal_gaussian import (
    DiagonalGaussian,
    log_mixture_density,
    product,
    standard_log_density,
)
from skmm.core.likelihoods import row_log_likelihood
from skmm.core.mutual_supervision import (
    cross_modal_bound,
    draw_weights,
    info_nce,
    log_mean_exp,
)
from skmm.core.networks import takes_steps

# Standard deviations of codes stay between these: nothing in the paired objective
# pins the codes' own scale.
LEAST_LOG_SCALE, LARGEST_LOG_SCALE = -6.0, 3.0
LEAST_LOG_NOISE = -5.0


@dataclass(frozen=True)
class Rows:
    """A batch: blocks ``(B, d_m)``, masks of time steps and of cells, what is there.

    ``cells`` are None for a block without missing cells.
    """

    blocks: list[Tensor]
    steps: list[Tensor | None]
    cells: list[Tensor | None]
    observed: Tensor

    def of(self, m: int, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """Values and mask of some rows of one block."""
        cells = self.cells[m]
        return self.blocks[m][rows], None if cells is None else cells[rows]


@dataclass(frozen=True)
class Codes:
    """Posteriors of shared and private codes, one a modality; N(0, I) where absent."""

    shared: list[DiagonalGaussian]
    private: list[DiagonalGaussian]

    def stacked(self) -> tuple[Tensor, Tensor]:
        """Means and log-scales of the shared codes, ``(M, B, d)``."""
        means = torch.stack([q.mean for q in self.shared])
        return means, torch.stack([q.log_scale for q in self.shared])

    def in_full_precision(self) -> "Codes":
        """The same in float32 where they are in bfloat16."""
        if all(q.mean.dtype != torch.bfloat16 for q in [*self.shared, *self.private]):
            return self
        both = ([q.float() for q in of] for of in (self.shared, self.private))
        return Codes(*both)


@dataclass(frozen=True)
class Objective:
    """What is maximised; see `objective`. Weights are those of the estimator.

    `cross_decoder` has a name a modality: how it is decoded from the others' codes.
    """

    n_samples: int = 2
    cross_weight: float = 10.0
    ib_weight: float = 1.0
    align_weight: float = 1.0
    nce_temperature: float = 0.1
    cross_decoder: Sequence[str] = ()
    stop_gradient: bool = True
    multi: str = "pairwise"
    n_targets: int | None = None
    own_draws: str = "all"
    cross_fraction: float = 1.0
    kl_weight: float = 1.0
    z_prior_weight: float = 0.0
    rescale: Sequence[float] | None = None


class Part(nn.Module):
    """One modality: its networks, its likelihood and its anchors.

    Parameters
    ----------
    encoder : Module
        To ``2 * (n_shared + n_private)`` numbers a row: means of both codes, then
        the logarithms of their scales.
    decoder : Module
        From ``n_shared + n_private`` numbers.
    shape : tuple of int
    n_shared, n_private : int
    likelihood : str
    scale : float or "learn"
        Of "gaussian" and "laplace".
    cross_decoder : Module, default=None
        From ``n_shared`` numbers, where the cross decoder is a network of its own.
    n_anchors : int, default=0
    learn_anchors : bool, default=True
    spherical : bool, default=False
        Whether means of shared codes are scaled to the length ``sqrt(n_shared)``.
    bf16 : bool, default=False
        Whether training decodes in bfloat16 where torch's autocast does.
    """

    anchors: Tensor
    anchor_steps: Tensor
    given_noise: Tensor

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        shape: tuple[int, ...],
        n_shared: int,
        n_private: int,
        likelihood: str = "gaussian",
        scale: float | str = 1.0,
        cross_decoder: nn.Module | None = None,
        n_anchors: int = 0,
        learn_anchors: bool = True,
        spherical: bool = False,
        bf16: bool = False,
    ):
        super().__init__()
        self.spherical = spherical
        self.bf16 = bf16
        self.encoder, self.decoder, self.cross_decoder = encoder, decoder, cross_decoder
        self.shape, self.likelihood = shape, likelihood
        self.n_shared, self.n_private = n_shared, n_private
        self.with_steps = takes_steps(encoder, shape)
        self.size = math.prod(shape)
        if scale == "learn":
            self.learnt_noise = nn.Parameter(torch.zeros(()))
        else:
            noise = torch.tensor(float(scale), dtype=torch.float64).log()
            self.register_buffer("given_noise", noise)
        # Flat, as offsets are: the optimiser shrinks matrices only.
        self.n_anchors = n_anchors
        values = torch.zeros(n_anchors * self.size)
        if learn_anchors:
            self.anchors = nn.Parameter(values)
        else:
            self.register_buffer("anchors", values)
        n_steps = shape[0] if len(shape) == 2 else 0
        self.register_buffer(
            "anchor_steps", torch.ones(n_anchors, n_steps, dtype=torch.bool)
        )

    def encode(
        self, x: Tensor, steps: Tensor | None
    ) -> tuple[DiagonalGaussian, DiagonalGaussian]:
        """Posteriors of the shared and the private code of rows ``(B, d)``."""
        x = x.unflatten(-1, self.shape)
        out = self.encoder(x, steps) if self.with_steps else self.encoder(x)
        n_out = self.n_shared + self.n_private
        if out.shape != (len(x), 2 * n_out):
            raise ValueError(
                f"encoder: expected means and log-scales of shape (n, {2 * n_out}) of "
                f"n = {len(x)} blocks of shape {self.shape}, got {tuple(out.shape)} "
                f"from {type(self.encoder).__name__}."
            )
        mean, log_scale = out.split(n_out, -1)
        log_scale = log_scale.clamp(LEAST_LOG_SCALE, LARGEST_LOG_SCALE)
        sizes = [self.n_shared, self.n_private]
        (z, w), (log_z, log_w) = mean.split(sizes, -1), log_scale.split(sizes, -1)
        if self.spherical:
            z = on_sphere(z)
        return DiagonalGaussian(z, log_z), DiagonalGaussian(w, log_w)

    def decode(self, z: Tensor, w: Tensor | None) -> Tensor:
        """Parameters of the likelihood ``(..., d)``; w None asks the cross decoder."""
        if w is None:
            network, code = self.cross_decoder, z
            assert network is not None
        else:
            network, code = self.decoder, torch.cat([z, w], -1)
        kind = code.device.type
        with torch.autocast(kind, torch.bfloat16, enabled=self.bf16 and self.training):
            out = network(code.flatten(0, -2))
        n_rows = code.shape[:-1].numel()
        if out.shape[:1] != (n_rows,) or out.numel() != n_rows * self.size:
            raise ValueError(
                f"decoder: expected output of shape (n, {self.size}) or "
                f"{('n', *self.shape)}, got {tuple(out.shape)} from "
                f"{type(network).__name__}."
            )
        return out.reshape(*code.shape[:-1], self.size)

    def log_likelihood(self, output: Tensor, x: Tensor, cells: Tensor | None) -> Tensor:
        """Log-likelihood of rows, ``(..., n)``, in float32 or float64."""
        if output.dtype in (torch.bfloat16, torch.float16):
            output = output.float()
        return row_log_likelihood(
            self.likelihood, output, x, self.shape, self.log_noise, cells
        )

    @property
    def log_noise(self) -> Tensor:
        """Log of the likelihood's scale; a learnt one has a floor."""
        if "given_noise" in self._buffers:
            return self.given_noise
        return self.learnt_noise.clamp_min(LEAST_LOG_NOISE)

    def anchor_rows(self) -> tuple[Tensor, Tensor | None]:
        """Anchors as the encoder takes rows, with their time steps."""
        values = self.anchors.view(self.n_anchors, self.size)
        if self.likelihood == "bernoulli":
            values = values.clamp(0, 1)
        elif self.likelihood == "categorical":
            values = values.unflatten(-1, self.shape).softmax(-1).flatten(1)
        return values, self.anchor_steps if len(self.shape) == 2 else None

    @torch.no_grad()
    def set_anchors(self, x: Tensor, steps: Tensor | None) -> None:
        """Start the anchors at rows of the modality, repeated where there are few."""
        pick = torch.arange(self.n_anchors, device=x.device) % len(x)
        values = x[pick]
        if self.likelihood == "categorical":
            # Rows are one-hot; logits of a little less, so that they can move.
            values = (values + 0.01 / self.shape[-1]).log()
        self.anchors.copy_(values.flatten())
        if steps is not None:
            self.anchor_steps.copy_(steps[pick])


def on_sphere(z: Tensor) -> Tensor:
    """Vectors ``(..., d)`` scaled to the length ``sqrt(d)``, as of N(0, I)."""
    return math.sqrt(z.shape[-1]) * nn.functional.normalize(z, dim=-1)


@torch.no_grad()
def start_narrow(encoder: nn.Module, n_codes: int) -> None:
    """Let an encoder's posteriors start with a scale near 1 / e, whatever the row.

    With scales of 1 the draws of the first steps hide the means, which start small.
    """
    last = [layer for layer in encoder.modules() if isinstance(layer, nn.Linear)][-1]
    last.weight[n_codes:] *= 0.1
    last.bias[n_codes:] = -1.0


class MultimodalVAE(nn.Module):
    """One `Part` a modality.

    Parameters
    ----------
    parts : list of Part
    """

    def __init__(self, parts: Sequence[Part]):
        super().__init__()
        self.parts = nn.ModuleList(parts)

    def __iter__(self) -> Iterator[Part]:
        return cast(Iterator[Part], iter(self.parts))

    def __len__(self) -> int:
        return len(self.parts)

    def forward(
        self,
        blocks: list[Tensor],
        steps: list[Tensor | None],
        observed: Tensor | None = None,
    ) -> Codes:
        """Posteriors of rows; only those of observed modalities are computed."""
        shared, private = [], []
        for m, part in enumerate(self):
            if observed is None or bool(observed[m].all()):
                z, w = part.encode(blocks[m], steps[m])
            else:
                rows = observed[m].nonzero().squeeze(1)
                own = steps[m]
                found = part.encode(blocks[m][rows], None if own is None else own[rows])
                z, w = (_scatter(q, rows, len(blocks[m])) for q in found)
            shared.append(z)
            private.append(w)
        return Codes(shared, private)

    def anchor_prior(self, without: int | None = None) -> DiagonalGaussian | None:
        """Shared codes of the anchors of all modalities but one; None if there is none.

        One modality alone has the prior N(0, I).
        """
        if len(self) == 1:
            return None
        parts = [p for m, p in enumerate(self) if m != without]
        codes = [p.encode(*p.anchor_rows())[0] for p in parts]
        return DiagonalGaussian(
            torch.cat([q.mean for q in codes]), torch.cat([q.log_scale for q in codes])
        )


def _scatter(q: DiagonalGaussian, rows: Tensor, n_rows: int) -> DiagonalGaussian:
    empty = q.mean.new_zeros(n_rows, q.mean.shape[-1])
    return DiagonalGaussian(
        empty.index_copy(0, rows, q.mean), empty.index_copy(0, rows, q.log_scale)
    )


def joint_code(
    codes: Codes,
    observed: Tensor,
    rule: str,
    weights: Tensor | None = None,
    spherical: bool = False,
) -> DiagonalGaussian:
    """One shared code a row from all its modalities.

    Parameters
    ----------
    codes : Codes
    observed : bool Tensor of shape (M, B)
    rule : {"mean", "precision"}
        "mean" averages the means and the variances, "precision" is the normalised
        product of the posteriors.
    weights : Tensor of shape (M,), default=None
        Of the modalities in "mean"; all equal by default. A row whose modalities have
        no weight takes them as equal.
    spherical : bool, default=False
        Whether means are put back on the sphere.

    Returns
    -------
    joint : DiagonalGaussian over (B, d)
        With the mean 0 and the scale 1 for rows that have no modality.
    """
    means, log_scales = codes.stacked()
    if rule == "precision":
        joint = product(means, log_scales, observed)
    else:
        share = observed.to(means.dtype)
        if weights is not None:
            weighted = share * weights.to(means)[:, None]
            share = torch.where(weighted.sum(0) > 0, weighted, share)
        total = share.sum(0)
        share = (share / torch.where(total > 0, total, 1)).unsqueeze(-1)
        variance = (share * (2 * log_scales).exp()).sum(0)
        variance = torch.where(total[:, None] > 0, variance, 1)
        joint = DiagonalGaussian((share * means).sum(0), 0.5 * variance.log())
    if not spherical:
        return joint
    return DiagonalGaussian(on_sphere(joint.mean), joint.log_scale)


def log_prior(z: Tensor, prior: DiagonalGaussian | None) -> Tensor:
    """Log-density of a mixture of anchors, or of N(0, I), at ``z (..., d)``."""
    return standard_log_density(z) if prior is None else log_mixture_density(z, prior)


def choose_targets(observed: Tensor, n_targets: int | None) -> Tensor:
    """Which modalities t each source s predicts in each row, bool ``(M, M, B)``.

    All others that the row has, or `n_targets` of them at random.
    """
    n = len(observed)
    other = ~torch.eye(n, dtype=torch.bool, device=observed.device)
    pairs = observed[:, None] & observed[None] & other[:, :, None]
    if n_targets is None or n_targets >= n - 1:
        return pairs
    rank = torch.rand(pairs.shape, device=observed.device).masked_fill(~pairs, -1)
    kept = rank.topk(n_targets, dim=1).indices
    return pairs & torch.zeros_like(pairs).scatter_(1, kept, True)


@dataclass
class _Pairs:
    """Directed pairs of all rows: source, target, row; ``a (K, P)`` where decoded."""

    source: Tensor
    target: Tensor
    row: Tensor
    a: Tensor
    decoded: Tensor


@dataclass
class Terms:
    """Sums over the rows of a batch, and what is minimised.

    `parts` are detached and for the record: log-likelihoods of a row's modalities
    from its own codes, "reconstruction", and of one from another's, "cross", both
    as rescaled; divergences of its codes.
    """

    loss: Tensor
    parts: dict[str, Tensor] = field(default_factory=dict)


def objective(
    network: MultimodalVAE, rows: Rows, codes: Codes, settings: Objective
) -> Terms:
    r"""Loss of a batch: minus the mean over its rows of the bounds below.

    A row with several modalities has, for each of its ordered pairs (s, t),

    .. math:: J(s, t) = \sum_k W_k (b_k - a_k) + \lambda_x \log q(t|s)
              + \lambda_{ib} \big(E \log p(s|z, w) - KL_w - KL_z\big)
              - \alpha\, \ell_{NCE}(s, t),

    whose mean it takes; a row with one modality has the bound of `log_prior` at the
    others' anchors; see `mutual_supervision`.

    Parameters
    ----------
    network : MultimodalVAE
    rows : Rows
    codes : Codes
        ``network(rows.blocks, rows.steps, rows.observed)``.
    settings : Objective

    Returns
    -------
    terms : Terms
    """
    observed = rows.observed
    if _takes_shortcut(rows, settings):
        return _complete_objective(network, rows, codes, settings)
    count = observed.sum(0)
    n_draws = settings.n_samples
    z = torch.stack([q.draw(n_draws) for q in codes.shared])
    w = [q.draw(n_draws) for q in codes.private]
    targets = choose_targets(observed, settings.n_targets)
    pairs = _decode_pairs(network, rows, codes, settings, targets, z, w)
    own, picked = _decode_own(network, rows, settings, pairs, z, w)

    beta = settings.kl_weight
    log_q = torch.stack(
        [q.log_density(v) for q, v in zip(codes.shared, z, strict=True)]
    )
    w_ratio = torch.stack(
        [
            standard_log_density(v) - q.log_density(v)
            for q, v in zip(codes.private, w, strict=True)
        ]
    )
    kl_w = torch.stack([q.divergence() for q in codes.private])
    row_value = own.new_zeros(observed.shape[1])
    parts = {
        "reconstruction": (own.mean(1) * observed).sum().detach(),
        "private_divergence": (kl_w * observed).sum().detach(),
    }

    value, kl_z = _paired(
        codes, settings, pairs, targets, z, own, picked, log_q, w_ratio, kl_w
    )
    row_value = row_value + value
    parts["shared_divergence"] = kl_z.detach().sum()
    if pairs.decoded.any():
        each = log_mean_exp(pairs.a.detach()[:, pairs.decoded])
        parts["cross"] = each.mean() * targets.any((0, 1)).sum()

    alone = observed & (count == 1)
    for m in range(len(network)):
        mine = alone[m].nonzero().squeeze(1)
        if len(mine):
            prior = log_prior(z[m][:, mine], network.anchor_prior(without=m))
            bound = own[m][:, mine] + beta * (prior - log_q[m][:, mine])
            single = bound.mean(0) - beta * kl_w[m, mine]
            row_value = row_value.index_add(0, mine, single)
    if settings.align_weight and len(network) > 1:
        nce, parts["alignment"] = _alignment(observed, codes, settings)
        row_value = row_value - settings.align_weight * nce
    if settings.z_prior_weight:
        kl = torch.stack([q.divergence() for q in codes.shared]) * observed
        row_value = row_value - settings.z_prior_weight * kl.sum(0) / count.clamp_min(1)
    n_rows = (count > 0).sum().clamp_min(1)
    return Terms(-(row_value * (count > 0)).sum() / n_rows, parts)


def _takes_shortcut(rows: Rows, settings: Objective) -> bool:
    """Whether all rows have all modalities, several, and nothing is picked."""
    return (
        len(rows.observed) > 1
        and settings.multi == "pairwise"
        and settings.own_draws == "all"
        and settings.cross_fraction == 1
        and bool(rows.observed.all())
    )


def _complete_objective(
    network: MultimodalVAE, rows: Rows, codes: Codes, settings: Objective
) -> Terms:
    """`objective` for rows that have everything: no row is ever gathered.

    Modalities are stacked, ``(K, M, B)``, and each is decoded once, from its own and
    from the others' codes. With `n_targets` all rows of a step have the same targets.
    """
    n, n_draws, beta = len(network), settings.n_samples, settings.kl_weight
    means, log_scales = codes.stacked()
    shared = DiagonalGaussian(means, log_scales)
    z, log_q = shared.draw_with_density(n_draws)
    drawn = [q.draw_with_density(n_draws) for q in _stacked_if_even(codes.private)]
    w = [v for group, _ in drawn for v in group.unbind(1)]
    w_ratio = torch.cat([standard_log_density(v) - log for v, log in drawn], 1)
    kl_w = torch.cat([q.divergence() for q in _stacked_if_even(codes.private)])
    steps = list(range(1, n))
    if settings.n_targets is not None and settings.n_targets < n - 1:
        order = torch.randperm(n - 1)[: settings.n_targets]
        steps = [steps[i] for i in order.tolist()]

    of_own, of_others = [], []
    for t, part in enumerate(network):
        log_p = _from_all_codes(part, rows, settings, t, steps, z, w[t])
        if settings.rescale is not None:
            log_p = settings.rescale[t] * log_p
        own, *others = log_p.split(n_draws)
        if settings.cross_decoder[t] == "shared_posterior":
            others = [a + beta * w_ratio[:, t] for a in others]
        of_own.append(own)
        of_others.append(others)
    own = torch.stack(of_own, 1)
    weighted = own + beta * (w_ratio - log_q)
    total = torch.zeros_like(own[0])
    cross, kl_z = [], []
    for i, step in enumerate(steps):
        # Source s predicts modality s + step.
        a = torch.stack([of_others[(s + step) % n][i] for s in range(n)], 1)
        prior = DiagonalGaussian(means.roll(-step, 0), log_scales.roll(-step, 0))
        b = weighted + beta * prior.log_density(z)
        value = cross_modal_bound(a, b, settings.cross_weight, settings.stop_gradient)
        divergence = shared.divergence(prior)
        if settings.ib_weight:
            ib = own.mean(0) - beta * (kl_w + divergence)
            value = value + settings.ib_weight * ib
        total = total + value
        cross.append(log_mean_exp(a.detach()).mean())
        kl_z.append(divergence.detach().mean())
    row_value = total.mean(0) / len(steps)
    n_rows = len(row_value)
    parts = {
        "reconstruction": own.detach().mean(0).sum(),
        "private_divergence": kl_w.detach().sum(),
        "shared_divergence": torch.stack(kl_z).mean() * n_rows,
        "cross": torch.stack(cross).mean() * n_rows,
    }
    if settings.align_weight:
        left, right = torch.tril_indices(n, n, -1, device=means.device)
        nce = info_nce(means[left], means[right], settings.nce_temperature).mean(0)
        row_value = row_value - settings.align_weight * nce
        parts["alignment"] = nce.detach().sum()
    if settings.z_prior_weight:
        row_value = row_value - settings.z_prior_weight * shared.divergence().mean(0)
    return Terms(-row_value.mean(), parts)


def _stacked_if_even(codes: list[DiagonalGaussian]) -> list[DiagonalGaussian]:
    """Codes ``(B, d)`` stacked to ``(M, B, d)`` if of one size, else ``(1, B, d)``."""
    if len({q.mean.shape[-1] for q in codes}) > 1:
        return [DiagonalGaussian(q.mean[None], q.log_scale[None]) for q in codes]
    means = torch.stack([q.mean for q in codes])
    return [DiagonalGaussian(means, torch.stack([q.log_scale for q in codes]))]


def _from_all_codes(
    part: Part,
    rows: Rows,
    settings: Objective,
    t: int,
    steps: list[int],
    z: Tensor,
    w: Tensor,
) -> Tensor:
    """Log-likelihoods of modality t from its own codes and others', draws first."""
    n = z.shape[1]
    own, others = z[:, t], [z[:, (t - step) % n] for step in steps]
    private = [_private_of_target(settings.cross_decoder[t], w) for _ in steps]
    given = [v for v in private if v is not None]
    if given:
        outputs = part.decode(torch.cat([own, *others]), torch.cat([w, *given]))
    else:
        outputs = torch.cat([part.decode(own, w), part.decode(torch.cat(others), None)])
    return part.log_likelihood(outputs, rows.blocks[t], rows.cells[t])


def _private_of_target(kind: str, own: Tensor) -> Tensor | None:
    """Private codes with which a target is decoded from others' shared codes."""
    if kind == "separate":
        return None
    if kind == "shared_posterior":
        return own
    return torch.randn_like(own) if kind == "shared_prior" else torch.zeros_like(own)


def _decode_pairs(
    network: MultimodalVAE,
    rows: Rows,
    codes: Codes,
    settings: Objective,
    targets: Tensor,
    z: Tensor,
    w: list[Tensor],
) -> _Pairs:
    """Log-likelihoods of all targets from their sources' shared codes.

    With "shared_posterior" the private code is drawn from the target's own posterior
    and reweighted by prior over posterior: an unbiased estimate of the likelihood with
    the private code integrated out.
    """
    target, source, row = targets.transpose(0, 1).nonzero().unbind(1)
    decoded = torch.ones_like(row, dtype=torch.bool)
    if settings.cross_fraction < 1:
        share = torch.rand(targets.shape[-1], device=z.device) < settings.cross_fraction
        decoded = share[row]
    pairs = _Pairs(source, target, row, z.new_zeros(z.shape[1], len(row)), decoded)
    scale = settings.rescale
    found = []
    order = []
    for t, part in enumerate(network):
        mine = (decoded & (target == t)).nonzero().squeeze(1)
        if not len(mine):
            continue
        code = z[source[mine], :, row[mine]].transpose(0, 1)
        kind = settings.cross_decoder[t]
        private = _private_of_target(kind, w[t][:, row[mine]])
        a = part.log_likelihood(part.decode(code, private), *rows.of(t, row[mine]))
        a = a if scale is None else scale[t] * a
        if kind == "shared_posterior":
            assert private is not None
            ratio = standard_log_density(private)
            ratio = ratio - codes.private[t][row[mine]].log_density(private)
            a = a + settings.kl_weight * ratio
        found.append(a)
        order.append(mine)
    if found:
        pairs.a = pairs.a.index_copy(1, torch.cat(order), torch.cat(found, 1))
    return pairs


def _decode_own(
    network: MultimodalVAE,
    rows: Rows,
    settings: Objective,
    pairs: _Pairs,
    z: Tensor,
    w: list[Tensor],
) -> tuple[Tensor, bool]:
    """Log-likelihoods of what is observed from its own codes, ``(M, K, B)``.

    With ``own_draws="one"`` of one draw only, ``(M, 1, B)``, picked with the weights
    that the draws have in the bound: the expectation over the pick is the weighted
    sum. The reconstruction in the information bottleneck is then that of the pick, too.
    """
    picked = settings.own_draws == "one"
    if picked:
        n_modalities, n_draws, n_rows = z.shape[:3]
        share = z.new_zeros(n_draws, n_modalities * n_rows)
        place = pairs.source * n_rows + pairs.row
        a = pairs.a.detach()
        if settings.multi == "pairwise":
            share.index_add_(1, place, draw_weights(a))
        else:
            share = draw_weights(share.index_add_(1, place, a))
        share = torch.where(share.sum(0) > 0, share, 1)
        pick = torch.multinomial(share.T, 1).view(n_modalities, 1, n_rows, 1)
    own = []
    for m, part in enumerate(network):
        mine = rows.observed[m].nonzero().squeeze(1)
        code, private = z[m], w[m]
        if picked:
            code = code.gather(0, pick[m].expand(-1, -1, code.shape[-1]))
            private = private.gather(0, pick[m].expand(-1, -1, private.shape[-1]))
        log_p = part.log_likelihood(
            part.decode(code[:, mine], private[:, mine]), *rows.of(m, mine)
        )
        if settings.rescale is not None:
            log_p = settings.rescale[m] * log_p
        empty = log_p.new_zeros(len(log_p), code.shape[1])
        own.append(empty.index_copy(1, mine, log_p))
    return torch.stack(own), picked


def _paired(
    codes: Codes,
    settings: Objective,
    pairs: _Pairs,
    targets: Tensor,
    z: Tensor,
    own: Tensor,
    picked: bool,
    log_q: Tensor,
    w_ratio: Tensor,
    kl_w: Tensor,
) -> tuple[Tensor, Tensor]:
    """Mean over a row's pairs of J without alignment ``(B,)``, and the pairs' KL_z."""
    if settings.multi == "pairwise":
        s, row, a = pairs.source, pairs.row, pairs.a
        means, log_scales = codes.stacked()
        prior = DiagonalGaussian(
            means[pairs.target, row], log_scales[pairs.target, row]
        )
        posterior = DiagonalGaussian(means[s, row], log_scales[s, row])
        log_p = prior.log_density(z[s, :, row].transpose(0, 1))
        kl_z = posterior.divergence(prior)
    else:
        s, row = targets.any(1).nonzero().unbind(1)
        a, log_p, kl_z = _given_all_others(codes, settings, pairs, targets, z, s, row)
        if settings.multi == "mixture":
            kl_z = (log_q[s, :, row] - log_p.T).mean(1)
    rest = settings.kl_weight * (w_ratio[s, :, row].T + log_p - log_q[s, :, row].T)
    own_pairs = own[s, :, row].T
    stop = settings.stop_gradient
    if picked:
        value = own_pairs[0] + cross_modal_bound(a, rest, settings.cross_weight, stop)
    else:
        value = cross_modal_bound(a, own_pairs + rest, settings.cross_weight, stop)
    if settings.ib_weight:
        ib = own_pairs.mean(0) - settings.kl_weight * (kl_w[s, row] + kl_z)
        value = value + settings.ib_weight * ib
    n_rows = targets.shape[-1]
    n_pairs = torch.bincount(row, minlength=n_rows).clamp_min(1)
    total = value.new_zeros(n_rows).index_add(0, row, value / n_pairs[row])
    return total, kl_z / n_pairs[row]


def _given_all_others(
    codes: Codes,
    settings: Objective,
    pairs: _Pairs,
    targets: Tensor,
    z: Tensor,
    s: Tensor,
    row: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The pairs of a source put together: a, log-prior ``(K, P)`` and KL of each.

    The targets are independent given the code, so their log-likelihoods add up; the
    prior is the mixture or the product of their encoders.
    """
    n_modalities, n_rows = len(targets), targets.shape[-1]
    place = torch.full((n_modalities, n_rows), -1, device=z.device)
    place[s, row] = torch.arange(len(s), device=z.device)
    a = pairs.a.new_zeros(len(pairs.a), len(s))
    a = a.index_add(1, place[pairs.source, pairs.row], pairs.a)
    means, log_scales = codes.stacked()
    present = targets[s, :, row].T
    if settings.multi == "product":
        prior = product(means[:, row], log_scales[:, row], present)
        own = DiagonalGaussian(means[s, row], log_scales[s, row])
        log_p = prior.log_density(z[s, :, row].transpose(0, 1))
        return a, log_p, own.divergence(prior)
    of_source = z[s, :, row].transpose(0, 1)
    each = torch.stack([q[row].log_density(of_source) for q in codes.shared])
    each = each.masked_fill(~present[:, None], -torch.inf)
    log_p = torch.logsumexp(each, 0) - present.sum(0).to(z.dtype).log()
    return a, log_p, log_p.new_zeros(len(s))


def _alignment(
    observed: Tensor, codes: Codes, settings: Objective
) -> tuple[Tensor, Tensor]:
    """InfoNCE of each row's means, a mean over its pairs, and the sum over rows."""
    z, _ = codes.stacked()
    n_modalities, n_rows = observed.shape
    loss = z.new_zeros(n_rows)
    n_pairs = z.new_zeros(n_rows)
    for i in range(n_modalities):
        for j in range(i):
            rows = (observed[i] & observed[j]).nonzero().squeeze(1)
            if len(rows) > 1:
                each = info_nce(z[i][rows], z[j][rows], settings.nce_temperature)
                loss = loss.index_add(0, rows, each)
                n_pairs = n_pairs.index_add(0, rows, torch.ones_like(each))
    loss = loss / n_pairs.clamp_min(1)
    return loss, loss.detach().sum()


def log_weights(
    network: MultimodalVAE, rows: Rows, codes: Codes, n_draws: int
) -> tuple[Tensor, Tensor]:
    """Log importance weights of a row's modalities, for `row_bounds`.

    Returns
    -------
    first : Tensor of shape (M, K, B)
        With the prior of a row's first modality: N(0, I) or the others' anchors.
    given : Tensor of shape (M, M, K, B)
        Entry (i, t) with the prior given modality t.
    """
    # The same noise for all rows: a row's bound must not depend on the others.
    z = torch.stack([q.draw(n_draws, common=True) for q in codes.shared])
    first, given = [], []
    for m, part in enumerate(network):
        w = codes.private[m].draw(n_draws, common=True)
        log_p = part.log_likelihood(part.decode(z[m], w), rows.blocks[m], rows.cells[m])
        common = log_p + standard_log_density(w) - codes.private[m].log_density(w)
        common = common - codes.shared[m].log_density(z[m])
        first.append(common + log_prior(z[m], network.anchor_prior(without=m)))
        given.append(torch.stack([common + q.log_density(z[m]) for q in codes.shared]))
    return torch.stack(first), torch.stack(given)


def row_bounds(first: Tensor, given: Tensor, observed: Tensor) -> Tensor:
    r"""Importance-weighted lower bounds of the log-likelihood of rows ``(B,)``.

    A row has the density :math:`p(x_t) \prod_{i \ne t} p(x_i | x_t)` for each of its
    modalities t; the bound is the mean over t, below the log of their mean. Zero for a
    row without any modality.

    Parameters
    ----------
    first, given : Tensor
        Of `log_weights`.
    observed : bool Tensor of shape (M, B)
    """
    alone = log_mean_exp(first.transpose(0, 1))
    pair = log_mean_exp(given.movedim(2, 0))
    n_modalities = len(observed)
    other = ~torch.eye(n_modalities, dtype=torch.bool, device=observed.device)
    both = observed[:, None] & observed[None] & other[:, :, None]
    # Absent modalities have codes that mean nothing, but are finite.
    centred = torch.where(observed, alone, 0) + torch.where(both, pair, 0).sum(0)
    return centred.sum(0) / observed.sum(0).clamp_min(1)
