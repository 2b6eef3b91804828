r"""DecAlign: unique and common parts of modalities, decoupled, aligned and fused.

A row's modality m becomes tokens, these a unique part :math:`s_m` by an encoder of its
own and a common part :math:`c_m` by one encoder for all. Transformers refine the unique
parts to :math:`h_m`, and :math:`z = [h_1, .., h_M, \bar c_1, .., \bar c_M]` with the
common parts averaged over their tokens goes to the head. Training minimises

.. math:: L = L_{task} + \gamma L_{dec} + \alpha (L_{OT} + L_{Proto})
          + \beta (L_{sem} + L_{MMD}) + \dots

(Qian et al., "DecAlign", 2026; see `skmm.core.alignment`, `prototypes` and
`transport` for the terms). Prediction needs the network alone: no row's output depends
on another row.

Shapes: M modalities, N rows, K prototypes, width d. ``observed (M, N)`` marks what is
there; the parts of absent modalities are zeros, and no loss sees them.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skmm.core.alignment import (
    decoupling,
    mmd,
    moment_distance,
    pooled_scale,
    prototype_pull,
)
from skmm.core.likelihoods import expectation, row_log_likelihood
from skmm.core.mutual_supervision import info_nce
from skmm.core.networks import linear
from skmm.core.prototypes import (
    LEAST_SHARE,
    Prototypes,
    blend,
    choose,
    expectation_maximisation,
    full_covariances,
    greedy_start,
    mean_variance,
    moment_step,
    responsibilities,
    row_start,
    unrolled_em,
)
from skmm.core.tokens import OnlyToken, TokenPool, positions
from skmm.core.transport import (
    Plan,
    StarPlan,
    bures_cost,
    conditional,
    full_bures_cost,
    gaussian_points,
    transport_between,
)

# What a step adds to the mixtures that are carried over from earlier ones.
BLEND = 0.2
FUSIONS = ("cross", "self", "none")
# Rows whose discrepancy is taken in a step: all pairs of them are compared.
MMD_ROWS = 128
# The buffers that hold the mixtures.
MIXTURE = ("weights", "means", "covariances")


@dataclass(frozen=True)
class Settings:
    """What is minimised; the names and values are those of the estimator."""

    decoupling: str = "squared"
    decoupling_weight: float = 1.0
    heterogeneity_weight: float = 0.05
    homogeneity_weight: float = 0.05
    reconstruction_weight: float = 0.0
    pair_weight: float = 0.0
    pair_temperature: float = 0.1
    contrastive_weight: float = 0.0
    contrastive_temperature: float = 0.1
    covariance: str = "diag"
    em: str = "carried"
    em_iter: int = 5
    reg_covar: float = 1e-3
    prototype_match: str = "observed"
    reduction: str = "mean"
    ot_reg: float = 0.1
    ot_reg_scale: str = "mean_cost"
    ot_rho: float | None = None
    ot_max_iter: int = 200
    ot_tol: float = 1e-6
    max_cells: int = 20_000
    moments: Sequence[str] = ("mean", "covariance", "skewness")
    mmd_bandwidths: str | Sequence[float] = "auto"
    scale_free: bool = True


@dataclass(frozen=True)
class Parts:
    """What the network makes of a batch.

    `unique` and `common` are tokens ``(N, T_m, d)`` a modality with masks ``(N, T_m)``
    of the real ones; `unique_mean` and `common_mean` pool them to ``(M, N, d)``;
    `refined` is ``(M, N, d)`` and `fused` ``(N, 2 M d)``, of the modalities that are
    `kept`; `output` is the head's, None without one.
    """

    unique: list[Tensor]
    common: list[Tensor]
    masks: list[Tensor]
    unique_mean: Tensor
    common_mean: Tensor
    refined: Tensor
    fused: Tensor
    output: Tensor | None
    observed: Tensor
    kept: Tensor

    def in_full_precision(self) -> "Parts":
        """The same with float32 where it is in bfloat16."""

        def wide(t: Tensor) -> Tensor:
            return t.float() if t.dtype == torch.bfloat16 else t

        return replace(
            self,
            unique=list(map(wide, self.unique)),
            common=list(map(wide, self.common)),
            unique_mean=wide(self.unique_mean),
            common_mean=wide(self.common_mean),
            refined=wide(self.refined),
            fused=wide(self.fused),
            output=None if self.output is None else wide(self.output),
        )


class ModalityPart(nn.Module):
    """One modality's networks.

    Parameters
    ----------
    front : Module
        To tokens, see `skmm.core.tokens`.
    shape : tuple of int
        Of the block.
    width : int
        Of the tokens.
    layers : sequence of RefinerLayer
    decoder : Module or None
        From ``2 * width`` numbers to the block.
    likelihood : str
        Of the block's values.
    dropout : float, default=0.0
        Share of the block's values that training sets to zero; the others grow by
        as much.
    several : bool, default=True
        Whether the front end may give more than one token.
    """

    def __init__(
        self,
        front: nn.Module,
        shape: Sequence[int],
        width: int,
        layers: Sequence[nn.Module] = (),
        decoder: nn.Module | None = None,
        likelihood: str = "gaussian",
        dropout: float = 0.0,
        several: bool = True,
    ):
        super().__init__()
        self.drop = nn.Dropout(dropout)
        self.front, self.shape = front, tuple(shape)
        self.unique = linear(width, width, bias=False)
        pool = TokenPool if several else OnlyToken
        self.pool, self.pool_refined = pool(width), pool(width)
        self.layers = nn.ModuleList(layers)
        self.decoder, self.likelihood = decoder, likelihood
        self.size = math.prod(shape)

    def tokens(self, x: Tensor, steps: Tensor | None) -> tuple[Tensor, Tensor]:
        """Tokens ``(n, T, d)`` of rows ``(n, d_m)``, and the mask of the real ones."""
        tokens, mask = self.front(self.drop(x).unflatten(-1, self.shape), steps)
        if mask is None:
            mask = tokens.new_ones(tokens.shape[:2], dtype=torch.bool)
        return tokens, mask

    def decode(self, parts: Tensor) -> Tensor:
        """What the decoder makes of parts ``(n, 2 d)``, ``(n, d_m)``."""
        assert self.decoder is not None
        output = self.decoder(parts)
        if output.shape[:1] != parts.shape[:1] or output[:1].numel() != self.size:
            raise ValueError(
                f"decoder: expected output of shape (n, {self.size}) or "
                f"{('n', *self.shape)}, got {tuple(output.shape)} from "
                f"{type(self.decoder).__name__}."
            )
        return output.flatten(1)

    def values(self, parts: Tensor) -> Tensor:
        """Expected values ``(n, d_m)`` of the block given parts ``(n, 2 d)``."""
        return expectation(self.likelihood, self.decode(parts), self.shape)

    def row_error(
        self, parts: Tensor, x: Tensor, cells: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Reconstruction error of rows from their parts ``(n, 2 d)``.

        The mean over the cells that are there of the squared deviation, the absolute
        one ("laplace") or the cross-entropy; and which rows have cells.
        """
        output = self.decode(parts)
        if self.likelihood in ("bernoulli", "categorical"):
            error = -row_log_likelihood(
                self.likelihood, output, x, self.shape, None, cells
            )
        else:
            deviation = output - x
            if cells is not None:
                deviation = torch.where(cells, deviation, 0)
            laplace = self.likelihood == "laplace"
            error = (deviation.abs() if laplace else deviation.square()).sum(-1)
        if cells is None:
            return error / x.shape[-1], torch.ones_like(error, dtype=torch.bool)
        count = cells.sum(-1)
        return error / count.clamp_min(1), count > 0


class DecAlignNetwork(nn.Module):
    """Parts of all modalities, their refinement and the head.

    Parameters
    ----------
    modalities : list of ModalityPart
    width : int
        d.
    n_prototypes : int
        K.
    fusion : {"cross", "self", "none"}
        What a modality's tokens attend to: those of the other modalities, or their own.
    n_outputs : int, default=0
        Of the head; 0 is none.
    dropout : float, default=0.0
        Before the head.
    modality_dropout : float, default=0.0
        Chance in training that a present modality is left out of the fusion; one is
        always kept.
    imputation : {"transport", "token"}, default="transport"
        What stands for an absent modality's unique part: what the transport plan makes
        of the present ones, or a learnt vector.
    full : bool, default=False
        Whether prototypes have covariance matrices.
    projector : list of Module, default=()
        Maps of the common parts before their distributions are compared: one for all
        or one a modality.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor
    matches: Tensor
    started: Tensor
    middle: Tensor

    def __init__(
        self,
        modalities: Sequence[ModalityPart],
        width: int,
        n_prototypes: int,
        fusion: str = "cross",
        n_outputs: int = 0,
        dropout: float = 0.0,
        modality_dropout: float = 0.0,
        imputation: str = "transport",
        full: bool = False,
        projector: Sequence[nn.Module] = (),
    ):
        super().__init__()
        m, k = len(modalities), n_prototypes
        self.modalities = nn.ModuleList(modalities)
        self.width, self.fusion, self.imputation = width, fusion, imputation
        self.modality_dropout = modality_dropout
        self.common = linear(width, width, bias=False)
        several = any(isinstance(part.pool, TokenPool) for part in modalities)
        self.pool = TokenPool(width) if several else OnlyToken(width)
        self.names = nn.Parameter(torch.zeros(m, 1, width))
        self.absent = nn.Parameter(torch.zeros(m, width))
        self.projector = nn.ModuleList(projector)
        self.drop = nn.Dropout(dropout)
        self.head = linear(2 * m * width, n_outputs) if n_outputs else None
        # The mixtures that were carried over, and which component of one modality
        # belongs to which of another, T(k'|k): what prediction takes from training.
        self.register_buffer("weights", torch.full((m, k), 1 / k))
        self.register_buffer("means", torch.zeros(m, k, width))
        self.register_buffer(
            "covariances",
            torch.eye(width).repeat(m, k, 1, 1) if full else torch.ones(m, k, width),
        )
        self.register_buffer("matches", torch.full((m, m, k, k), 1 / k))
        self.register_buffer("middle", torch.zeros(width))
        self.register_buffer("started", torch.zeros(m, dtype=torch.bool))

    def __len__(self) -> int:
        return len(self.modalities)

    @property
    def prototypes(self) -> Prototypes:
        """The mixtures of the unique parts, in float64."""
        parts = (self.weights, self.means, self.covariances)
        return Prototypes(*(part.double() for part in parts))

    @torch.no_grad()
    def keep(self, prototypes: Prototypes, active: Tensor, rate: float) -> None:
        """Carry mixtures of the active modalities over, the new rows counting `rate`.

        A modality that was not met before takes the new ones.
        """
        new, old = prototypes.detach(), self.prototypes
        mixed = choose(self.started, blend(old, new, rate), new)
        for name, value in zip(MIXTURE, mixed, strict=True):
            getattr(self, name)[active] = value[active].to(self.weights)
        self.started[active] = True

    def starts(self, x: Tensor, weight: Tensor, floor: Tensor | float) -> Prototypes:
        """The mixtures that were carried over, new ones where there are none."""
        carried = self.prototypes
        if bool(self.started.all()):
            return carried
        fresh = greedy_start(x, weight, self.weights.shape[-1], floor)
        fresh = full_covariances(fresh) if carried.is_full else fresh
        return choose(self.started, carried, fresh)

    def forward(
        self,
        blocks: list[Tensor],
        steps: list[Tensor | None],
        observed: Tensor | None = None,
    ) -> Parts:
        """Parts, fused vectors and the head's output of rows."""
        n = len(blocks[0])
        if observed is None:
            observed = torch.ones(
                len(self), n, dtype=torch.bool, device=blocks[0].device
            )
        unique, common, masks = [], [], []
        for m, part in enumerate(self._parts()):
            s, c, mask = self._encode(part, blocks[m], steps[m], observed[m])
            unique.append(s)
            common.append(c)
            masks.append(mask)
        pools = [part.pool for part in self._parts()]
        unique_mean = torch.stack(
            [f(s, mask) for f, s, mask in zip(pools, unique, masks, strict=True)]
        )
        common_mean = torch.stack(list(map(self.pool, common, masks)))
        kept = observed
        if self.training and self.modality_dropout:
            kept = keep_some(observed, self.modality_dropout)
        refined, shared = self._fuse(unique, masks, unique_mean, common_mean, kept)
        fused = torch.cat([*refined, *shared], dim=1)
        output = None if self.head is None else self.head(self.drop(fused))
        return Parts(
            unique,
            common,
            masks,
            unique_mean,
            common_mean,
            refined,
            fused,
            output,
            observed,
            kept,
        )

    def _parts(self) -> list[ModalityPart]:
        return cast(list[ModalityPart], list(self.modalities))

    def _encode(
        self, part: ModalityPart, x: Tensor, steps: Tensor | None, there: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Unique and common tokens and their mask; zeros where the row lacks them."""
        if bool(there.all()):
            tokens, mask = part.tokens(x, steps)
            return part.unique(tokens), self.common(tokens), mask
        rows = there.nonzero().squeeze(1)
        found, own = part.tokens(x[rows], None if steps is None else steps[rows])
        mask = own.new_zeros(len(x), own.shape[1]).index_copy(0, rows, own)
        empty = found.new_zeros(len(x), *found.shape[1:])
        unique = empty.index_copy(0, rows, part.unique(found))
        return unique, empty.index_copy(0, rows, self.common(found)), mask

    def common_of(self, m: int, x: Tensor, steps: Tensor | None) -> Tensor:
        """Common parts ``(n, d)`` of rows that have modality m."""
        tokens, mask = self._parts()[m].tokens(x, steps)
        return cast(Tensor, self.pool(self.common(tokens), mask))

    # ------------------------------------------------------------ fusion
    def _fuse(
        self,
        unique: list[Tensor],
        masks: list[Tensor],
        unique_mean: Tensor,
        common_mean: Tensor,
        kept: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Refined unique parts and common parts ``(M, N, d)``, absent ones filled."""
        refine = self.fusion != "none"
        if bool(kept.all()):
            refined = self._refine(unique, masks, masks) if refine else unique_mean
            return refined, common_mean
        mean = self.mean_of_common(common_mean, kept)
        shared = torch.where(kept.unsqueeze(-1), common_mean, mean)
        stand_in = self.impute(unique_mean, kept)
        if not refine:
            return torch.where(kept.unsqueeze(-1), unique_mean, stand_in), shared
        queries, query_masks, key_masks = [], [], []
        for m, mask in enumerate(masks):
            absent = ~kept[m]
            first = torch.zeros_like(mask)
            first[:, 0] = True
            own = stand_in[m].unsqueeze(1) * first.unsqueeze(-1)
            queries.append(torch.where(absent[:, None, None], own, unique[m]))
            query_masks.append(torch.where(absent[:, None], first, mask))
            key_masks.append(mask & kept[m].unsqueeze(1))
        return self._refine(queries, query_masks, key_masks), shared

    def _refine(
        self, tokens: list[Tensor], masks: list[Tensor], key_masks: list[Tensor]
    ) -> Tensor:
        """Transformers over the tokens, and the mean of what they give."""
        pools = [part.pool_refined for part in self._parts()]
        placed = [
            t + positions(t.shape[1], self.width).to(t) if t.shape[1] > 1 else t
            for t in tokens
        ]
        named = [t + name for t, name in zip(placed, self.names, strict=True)]
        refined = []
        for m, part in enumerate(self._parts()):
            h = placed[m]
            keys, mask = None, masks[m]
            if self.fusion == "cross":
                others = [j for j in range(len(self)) if j != m]
                keys = torch.cat([named[j] for j in others] or [h[:, :0]], 1)
                mask = torch.cat([key_masks[j] for j in others] or [mask[:, :0]], 1)
            for layer in part.layers:
                h = layer(h, keys, mask)
            refined.append(pools[m](h, masks[m]))
        return torch.stack(refined)

    def mean_of_common(self, common_mean: Tensor, kept: Tensor) -> Tensor:
        """Mean ``(N, d)`` of the common parts that are kept; of all rows' without."""
        there = kept.unsqueeze(-1)
        count = there.sum(0)
        mean = torch.where(there, common_mean, 0).sum(0) / count.clamp_min(1)
        return torch.where(count > 0, mean, self.middle)

    def fill_unique(self, unique_mean: Tensor, kept: Tensor) -> Tensor:
        """Unique parts ``(M, N, d)``, with stand-ins for those that are not kept."""
        if bool(kept.all()):
            return unique_mean
        return torch.where(
            kept.unsqueeze(-1), unique_mean, self.impute(unique_mean, kept)
        )

    def impute(self, unique_mean: Tensor, kept: Tensor) -> Tensor:
        """Stand-ins ``(M, N, d)`` for unique parts, from those that are kept."""
        if self.imputation == "token":
            return self.absent.unsqueeze(1).expand_as(unique_mean)
        return self.shares(unique_mean, kept) @ self.means

    @torch.no_grad()
    def shares(self, unique_mean: Tensor, kept: Tensor) -> Tensor:
        r"""Shares ``(M, N, K)`` of the prototypes in rows of which some parts are kept.

        Where a modality is kept, its responsibilities; else the mean over the kept i of
        :math:`\sum_k w_i(k) T_{ij}(k'|k)`, and the prototypes' weights without any.
        """
        own = self.prototypes
        there = kept.unsqueeze(-1)
        w = torch.where(there, responsibilities(unique_mean.double(), own), 0)
        said = torch.einsum("ink,ijkl->jnl", w, self.matches.to(w))
        count = there.sum(0)
        guess = torch.where(
            count > 0, said / count.clamp_min(1), own.weights.unsqueeze(1)
        )
        return torch.where(there, w, guess).to(unique_mean.dtype)


def keep_some(observed: Tensor, chance: float) -> Tensor:
    """Leave present modalities ``(M, N)`` out at random, but one of each row."""
    score = torch.rand(observed.shape, device=observed.device)
    kept = observed & (score >= chance)
    lucky = torch.where(observed, score, -1.0).argmax(0)
    first = F.one_hot(lucky, len(observed)).T.bool()
    return kept | (first & observed)


# ------------------------------------------------------------------------ objective


@dataclass
class Memory:
    """What one step's transport leaves to the next: where to start."""

    potentials: Sequence[Tensor] | None = None
    atoms: Tensor | None = None


def pair_costs(
    prototypes: Prototypes, reduction: str, scale: Tensor | float = 1.0
) -> dict[tuple[int, int], Tensor]:
    """Squared 2-Wasserstein distances of the components of all pairs i < j."""
    _, means, covariances = prototypes
    cost = full_bures_cost if prototypes.is_full else bures_cost
    how = cast(Literal["sum", "mean"], reduction)
    m = len(means)
    return {
        (i, j): cost(means[i], covariances[i], means[j], covariances[j], how) / scale**2
        for i in range(m)
        for j in range(i + 1, m)
    }


def seen_together(resp: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """How often components of two modalities meet in a row, ``(M, M, K, K)``.

    Shares of the rows with both; and the weight of these rows, ``(M, M)``.
    """
    w = torch.minimum(weight.unsqueeze(1), weight.unsqueeze(0))
    met = torch.einsum("ink,jnl,ijn->ijkl", resp, resp, w)
    total = w.sum(-1)
    share = met / torch.where(total > 0, total, 1)[..., None, None]
    return share, total


def match_prototypes(
    prototypes: Prototypes,
    settings: Settings,
    scale: Tensor | float = 1.0,
    memory: Memory | None = None,
    max_iter: int | None = None,
    seen: tuple[Tensor, Tensor] | None = None,
) -> tuple[Plan | StarPlan, Tensor]:
    """The transport plan between the mixtures of all modalities, and T(k'|k).

    The plan's value has gradients in the prototypes. `scale` is the unit of length.
    The matches are ``(M, M, K, K)``; of a modality with itself the unit matrix.

    The plan compares places and spreads, and knows nothing of which rows are where.
    With what `seen_together` gives, the matches are mixed (ours): of n rows with both
    modalities, what was seen counts ``n / (n + K^2)`` and the plan the rest.
    """
    weights, means, covariances = prototypes
    memory = Memory() if memory is None else memory
    m = len(means)
    geometry: list[Tensor] | dict[tuple[int, int], Tensor]
    if prototypes.is_full:
        geometry = pair_costs(prototypes, settings.reduction, scale)
    else:
        reduction = cast(Literal["sum", "mean"], settings.reduction)
        points = gaussian_points(list(means), list(covariances), reduction)
        geometry = [point / scale for point in points]
    plan = transport_between(
        geometry,
        list(weights),
        settings.ot_reg,
        reg_scale=cast(Literal["mean_cost", "absolute"], settings.ot_reg_scale),
        rho=settings.ot_rho,
        max_cells=settings.max_cells,
        potentials=memory.potentials,
        atoms=memory.atoms,
        max_iter=settings.ot_max_iter if max_iter is None else max_iter,
        # Atoms go on from where the last step left them.
        max_moves=50 if memory.atoms is None else 2,
        tol=settings.ot_tol,
        warn=False,
    )
    memory.potentials, memory.atoms = plan.potentials, plan.atoms
    k = weights.shape[-1]
    matches = torch.eye(k, dtype=means.dtype, device=means.device).repeat(m, m, 1, 1)
    if settings.prototype_match == "index":
        return plan, matches
    with torch.no_grad():
        for i in range(m):
            for j in range(m):
                if i == j:
                    continue
                pairs = plan.pairwise(i, j)
                if seen is not None:
                    share, n = seen[0][i, j], float(seen[1][i, j])
                    trust = n / (n + share.numel())
                    pairs = (1 - trust) * pairs / pairs.sum() + trust * share
                matches[i, j] = conditional(pairs, weights[j])
    return plan, matches


def prototypes_of(
    network: DecAlignNetwork, x: Tensor, weight: Tensor, settings: Settings
) -> tuple[Prototypes, Tensor]:
    """Mixtures of a batch's unique parts, with gradients, and responsibilities.

    Those of all modalities; one with fewer rows than components keeps its old ones.
    """
    k = network.weights.shape[-1]
    full = settings.covariance == "full"
    floor: Tensor | float = settings.reg_covar
    if settings.scale_free:
        floor = settings.reg_covar * mean_variance(x, weight).detach() + 1e-12
    if settings.em == "unrolled":
        start = row_start(x.detach(), weight, k, floor)
        start = full_covariances(start) if full else start
        return unrolled_em(x, weight, start, settings.em_iter, floor)
    with torch.no_grad():
        start = network.starts(x, weight, floor)
        # What one modality needs does not move the mixtures of the others.
        needs = ~network.started | (start.weights < LEAST_SHARE / k).any(-1)
        if bool(needs.any()):
            moved, _ = expectation_maximisation(
                x, weight, start, floor, settings.em_iter
            )
            start = choose(needs, moved, start)
        resp = responsibilities(x, start)
    return moment_step(x, resp, weight, floor, full, start.means), resp


def heterogeneity(
    network: DecAlignNetwork,
    x: Tensor,
    weight: Tensor,
    settings: Settings,
    memory: Memory,
    rate: float,
) -> dict[str, Tensor]:
    """Transport and pull of the unique parts; carries the mixtures over in training.

    Modalities with fewer rows than prototypes have no part in it.
    """
    k = network.weights.shape[-1]
    active = ((weight > 0).sum(-1) >= k).nonzero().squeeze(1)
    if len(active) < 2:
        return {}
    every = len(active) == len(x)
    scale = pooled_scale(x, weight) if settings.scale_free else 1.0
    prototypes, resp = prototypes_of(network, x, weight, settings)
    if not every:
        x, weight, resp = x[active], weight[active], resp[active]
        own = prototypes[active]
        memory = Memory()
    else:
        own = prototypes
    seen = None
    if settings.prototype_match == "observed":
        with torch.no_grad():
            seen = seen_together(resp, weight)
    plan, matches = match_prototypes(own, settings, scale, memory, seen=seen)
    if network.training:
        _carry_over(network, prototypes, matches, active, rate)
    pull = prototype_pull(x, weight, resp, own.means, matches, settings.reduction)
    return {"transport": plan.value, "prototypes": pull / scale**2}


def _carry_over(
    network: DecAlignNetwork,
    prototypes: Prototypes,
    matches: Tensor,
    active: Tensor,
    rate: float,
) -> None:
    known = network.started[active]
    network.keep(prototypes, active, rate)
    i, j = torch.meshgrid(active, active, indexing="ij")
    old = network.matches[i, j]
    both = (known.unsqueeze(1) & known)[..., None, None]
    step = torch.where(both, rate, 1.0) * (matches.to(old) - old)
    network.matches[i, j] = old + step


def homogeneity(
    network: DecAlignNetwork, x: Tensor, weight: Tensor, settings: Settings
) -> dict[str, Tensor]:
    """Moments and discrepancy of the common parts ``(M, N, d)``.

    The discrepancy is that of `MMD_ROWS` rows at most.
    """
    if len(network.projector) == 1:
        x = network.projector[0](x)
    elif len(network.projector):
        x = torch.stack([f(c) for f, c in zip(network.projector, x, strict=True)])
    if settings.scale_free:
        x = x / pooled_scale(x, weight)
        moments = moment_distance(x, weight, settings.moments, settings.reduction)
    else:
        moments = moment_distance(
            x, weight, settings.moments, settings.reduction, 1, 1e-6, relative=False
        )
    few, own = some_of_each(x, weight, MMD_ROWS)
    return {"moments": moments, "mmd": mmd(few, own, settings.mmd_bandwidths)}


def some_of_each(x: Tensor, weight: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """At most so many rows of each modality among those that have it, with weights."""
    counts = (weight > 0).sum(1)
    if int(counts.max()) <= most:
        return x, weight
    rows = torch.zeros(len(x), most, dtype=torch.long, device=x.device)
    kept = torch.zeros_like(rows, dtype=torch.bool)
    for m, count in enumerate(counts.tolist()):
        n = min(count, most)
        even = torch.linspace(0, max(count - 1, 0), n).round().long().to(x.device)
        rows[m, :n] = weight[m].nonzero().squeeze(1)[even]
        kept[m, :n] = True
    chosen = x.gather(1, rows.unsqueeze(-1).expand(-1, -1, x.shape[-1]))
    return chosen, torch.where(kept, weight.gather(1, rows), 0)


def reconstruction(
    network: DecAlignNetwork,
    parts: Parts,
    blocks: Sequence[Tensor],
    cells: Sequence[Tensor | None],
    weight: Tensor,
) -> Tensor:
    """Mean over the modalities of their rows' errors from their own two parts."""
    errors = []
    for m, part in enumerate(network.modalities):
        rows = parts.observed[m].nonzero().squeeze(1)
        if not len(rows):
            continue
        both = torch.cat([parts.unique_mean[m][rows], parts.common_mean[m][rows]], 1)
        own = cells[m]
        error, known = cast(ModalityPart, part).row_error(
            both, blocks[m][rows], None if own is None else own[rows]
        )
        w = torch.where(known, weight[m, rows], 0)
        errors.append((w * error).sum() / w.sum().clamp_min(1e-30))
    return torch.stack(errors).mean() if errors else parts.fused.sum() * 0


PairedParts = Mapping[tuple[int, int], tuple[Tensor, Tensor, Tensor]]
"""Common parts (n, d) of two modalities i < j that belong together, and weights (n,).
"""


def pair_contrast(
    common: Tensor,
    observed: Tensor,
    weight: Tensor,
    temperature: float,
    more: PairedParts | None = None,
) -> Tensor:
    """InfoNCE of the common parts of rows with two modalities, over all pairs (ours).

    The mean over the pairs of modalities of the mean over their rows, to which `more`
    adds parts of different rows that were found to belong together.
    """
    losses = []
    m = len(common)
    for i in range(m):
        for j in range(i + 1, m):
            rows = (observed[i] & observed[j]).nonzero().squeeze(1)
            left, right, w = common[i][rows], common[j][rows], weight[rows]
            if more is not None and (i, j) in more:
                found = zip((left, right, w), more[i, j], strict=True)
                left, right, w = (torch.cat(both) for both in found)
            if int((w > 0).sum()) > 1:
                value = info_nce(left, right, temperature, w)
                losses.append((w * value).sum() / w.sum().clamp_min(1e-30))
    return torch.stack(losses).mean() if losses else common.sum() * 0


def alignment_terms(
    network: DecAlignNetwork,
    parts: Parts,
    settings: Settings,
    memory: Memory,
    row_weight: Tensor | None = None,
    rate: float = BLEND,
    more_pairs: PairedParts | None = None,
) -> tuple[Tensor, dict[str, Tensor]]:
    """The weighted sum of the terms that need no target, and each of them.

    Terms of weight zero are not computed.
    """
    unique = parts.unique_mean.double()
    weight = parts.observed.to(unique)
    if row_weight is not None:
        weight = weight * row_weight.double()
    total, terms = unique.new_zeros(()), {}
    if settings.decoupling_weight:
        values = [
            decoupling(
                s.flatten(1)[None], c.flatten(1)[None], w[None], settings.decoupling
            )
            for s, c, w in zip(parts.unique, parts.common, weight, strict=True)
            if bool((w > 0).any())
        ]
        total_cosine = unique.new_zeros(()) if not values else torch.stack(values).sum()
        if settings.reduction == "mean":
            total_cosine = total_cosine / max(len(values), 1)
        terms["decoupling"] = total_cosine
        total = total + settings.decoupling_weight * total_cosine
    if len(network) > 1 and (
        settings.heterogeneity_weight or network.imputation == "transport"
    ):
        with torch.set_grad_enabled(
            torch.is_grad_enabled() and settings.heterogeneity_weight > 0
        ):
            found = heterogeneity(network, unique, weight, settings, memory, rate)
        terms |= found
        if found:
            total = total + settings.heterogeneity_weight * sum(found.values())
    if len(network) > 1 and settings.homogeneity_weight:
        own = weight.to(parts.common_mean)
        found = homogeneity(network, parts.common_mean, own, settings)
        terms |= found
        total = total + settings.homogeneity_weight * sum(found.values())
    if len(network) > 1 and settings.pair_weight:
        terms["pairs"] = pair_contrast(
            parts.common_mean,
            parts.observed,
            weight.amax(0).to(parts.common_mean),
            settings.pair_temperature,
            more_pairs,
        )
        total = total + settings.pair_weight * terms["pairs"]
    return total, terms


@dataclass(frozen=True)
class Matching:
    """The mixtures of a data set's unique parts, and what transport says of them.

    `matches` are T(k'|k), ``(M, M, K, K)``; `plan` is None where there is one modality.
    """

    prototypes: Prototypes
    plan: Plan | StarPlan | None
    matches: Tensor
    scale: float


@torch.no_grad()
def match_all(
    network: DecAlignNetwork,
    unique: Tensor,
    weight: Tensor,
    settings: Settings,
    max_iter: int,
) -> Matching:
    """Mixtures of all rows' unique parts by EM to convergence, and the plan of them.

    From the mixtures that training carried over; the network is left as it is.
    """
    k = network.weights.shape[-1]
    x, weight = unique.double(), weight.double()
    floor: Tensor | float = settings.reg_covar
    if settings.scale_free:
        floor = settings.reg_covar * mean_variance(x, weight) + 1e-12
    start = network.starts(x, weight, floor)
    prototypes, _ = expectation_maximisation(x, weight, start, floor)
    scale = float(pooled_scale(x, weight)) if settings.scale_free else 1.0
    if len(x) < 2:
        return Matching(prototypes, None, torch.eye(k)[None, None].to(x), scale)
    seen = None
    if settings.prototype_match == "observed":
        seen = seen_together(responsibilities(x, prototypes), weight)
    plan, matches = match_prototypes(prototypes, settings, scale, None, max_iter, seen)
    return Matching(prototypes, plan, matches, scale)
