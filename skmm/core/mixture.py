r"""Dirichlet-process mixtures over modalities: one bound, three couplings.

Block m of row i is :math:`z_{im}`, the components of modality m are Gaussians
:math:`N_{mk}` with Normal-Wishart factors, and weights come from one or several broken
sticks. An *atom* is what a row is assigned to:

========================  ===============  =======================================
coupling                  atoms            log-density of row i under an atom
========================  ===============  =======================================
shared                    k                :math:`\sum_m \log N_{mk}(z_{im})`
joint stick               (m, k)           :math:`\log N_{mk}(z_{im}) - \log h_m(z_{im})
                                           + \sum_l \log h_l(z_{il})`
per modality              k, M times       :math:`\log N_{mk}(z_{im})`
========================  ===============  =======================================

Sums run over the observed blocks; a joint-stick atom of an absent block has no weight,
except in a row that has nothing. The reference densities :math:`h_m` are fixed; they
make the second a density of the whole row. Labels, where there are any, are one more
view of an atom: :math:`\log \theta_{jy}` with :math:`\theta_j \sim \mathrm{Dir}(a_0)`.

With responsibilities r, weights w and sums under them, the bound after the factors have
been updated is

.. math:: L = \sum_k [\log Z(q_k) - \log Z(p)] + \text{(sticks, labels: likewise)}
          - \tfrac12 \log 2\pi \sum_{mk} N_{mk} D_m + H[r] + \text{const}.

Tensors: atoms are ``(G, J)`` for G sticks of J atoms, rows are the last axis.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.special import digamma

from skmm.core import stick_breaking as sticks
from skmm.core.normal_wishart import (
    LOG_2PI,
    Completer,
    Completion,
    NormalWishart,
    Sums,
    cholesky,
    coefficients,
    completed_sums,
    divergence,
    features,
    log_det,
    log_normaliser,
    pack_sums,
    posterior,
    quadratic_coefficients,
    sums_from_features,
    with_cells,
    without_cells,
)

COUPLINGS = ("shared", "joint_stick", "per_modality")
# Log-weight of an atom that a row can't have: finite, so that 0 times it is 0.
NEVER = -1e300
# Numbers that the completion of rows may take at a time.
COMPLETED_CELLS = 2**21


@dataclass(frozen=True)
class Rows:
    """Rows of all modalities, transposed: the last axis is rows.

    Parameters
    ----------
    z : list of Tensor of shape (D_m, n)
        Zero where not observed.
    seen : Tensor of shape (M, n)
        1 where a row has a modality, else 0.
    cells : list of (Tensor of shape (D_m, n) or None)
        1 where a cell is observed; None where all cells of the rows that have the
        modality are.
    weight : Tensor of shape (n,)
    labels : long Tensor of shape (n,) or None
        Codes of the classes, -1 where open.
    """

    z: list[Tensor]
    seen: Tensor
    cells: list[Tensor | None]
    weight: Tensor
    labels: Tensor | None = None

    @property
    def n_rows(self) -> int:
        """N."""
        return self.seen.shape[1]

    def take(self, index: Tensor) -> "Rows":
        """Some of the rows."""
        return Rows(
            [z[:, index] for z in self.z],
            self.seen[:, index],
            [None if c is None else c[:, index] for c in self.cells],
            self.weight[index],
            None if self.labels is None else self.labels[index],
        )

    @classmethod
    def joined(cls, parts: "Sequence[Rows]") -> "Rows":
        """The rows of several parts."""
        labels = [part.labels for part in parts if part.labels is not None]
        cells: list[Tensor | None] = []
        for m in range(len(parts[0].z)):
            own = [
                p.seen[m].expand_as(p.z[m]) if p.cells[m] is None else p.cells[m]
                for p in parts
            ]
            partly = any(p.cells[m] is not None for p in parts)
            cells.append(
                torch.cat([c for c in own if c is not None], 1) if partly else None
            )
        return cls(
            [torch.cat([p.z[m] for p in parts], 1) for m in range(len(parts[0].z))],
            torch.cat([p.seen for p in parts], 1),
            cells,
            torch.cat([p.weight for p in parts]),
            torch.cat(labels) if labels else None,
        )


@dataclass(frozen=True)
class Mixture:
    """Factors of a mixture.

    Parameters
    ----------
    coupling : {"shared", "joint_stick", "per_modality"}
    a, b : Tensor of shape (G, J)
        Beta factors of the sticks, in their order.
    order : long Tensor of shape (G, J)
        The atom that each stick belongs to.
    blocks : list of NormalWishart
        K factors of each modality.
    labels : Tensor of shape (G, J, C) or None
        Dirichlet factors of the labels.
    reference : list of NormalWishart or None
        Fixed Gaussians h_m of a joint stick, of one factor each.
    """

    coupling: str
    a: Tensor
    b: Tensor
    order: Tensor
    blocks: list[NormalWishart]
    labels: Tensor | None = None
    reference: list[NormalWishart] | None = None

    @property
    def log_weights(self) -> Tensor:
        r""":math:`E \log \pi` of the atoms, (G, J)."""
        return sticks.out_of_order(
            sticks.expected_log_weights(self.a, self.b), self.order
        )

    @property
    def log_mean_weights(self) -> Tensor:
        r""":math:`\log E \pi` of the atoms, (G, J), unnormalised."""
        values = sticks.log_expected_weights(self.a, self.b)
        return sticks.out_of_order(values, self.order)

    def weights_within(self, m: int) -> Tensor:
        """Weights (K,) of the components of one modality, summing to one."""
        values = of_block(self.log_mean_weights, m, self.coupling, len(self.blocks))
        return torch.softmax(values, 0)

    @property
    def log_labels(self) -> Tensor | None:
        r""":math:`E \log \theta`, (G, J, C)."""
        if self.labels is None:
            return None
        return digamma(self.labels) - digamma(self.labels.sum(-1, keepdim=True))


@dataclass(frozen=True)
class Priors:
    """What the factors are measured against.

    Parameters
    ----------
    concentration : float
        eta of the sticks.
    blocks : list of NormalWishart
        One factor a modality.
    label : float
        a0 of the labels' Dirichlet.
    by_size : bool
        Whether sticks are broken in the order of decreasing counts, rather than in the
        order of the atoms.
    """

    concentration: float
    blocks: list[NormalWishart]
    label: float = 1.0
    by_size: bool = True


@dataclass(frozen=True)
class Totals:
    """Weighted sums over rows: all that an update of the factors needs.

    Additive over disjoint sets of rows.

    Parameters
    ----------
    counts : Tensor of shape (G, J)
    blocks : list of Tensor of shape (K, n_features)
        Responsibilities times features, unobserved cells filled in.
    labels : Tensor of shape (G, J, C) or None
    entropy : Tensor of shape ()
        Of the responsibilities and of unobserved cells.
    log_norm : Tensor of shape ()
        Weighted sum of the rows' log-normalisers under the factors that gave the
        responsibilities.
    constant : Tensor of shape ()
        Weighted sum of the reference log-densities of all observed blocks.
    assigned : Tensor of shape ()
        The same of the blocks that rows are assigned by.
    pairs : Tensor of shape (P,)
        What the entropy would lose if the tracked pairs of atoms were merged.
    """

    counts: Tensor
    blocks: list[Tensor]
    labels: Tensor | None
    entropy: Tensor
    log_norm: Tensor
    constant: Tensor
    assigned: Tensor
    pairs: Tensor

    def __add__(self, other: "Totals") -> "Totals":
        return self._with(other, torch.add)

    def __sub__(self, other: "Totals") -> "Totals":
        return self._with(other, torch.sub)

    def __mul__(self, factor: float) -> "Totals":
        return self.map(lambda t: t * factor)

    def map(self, operate: Callable[[Tensor], Tensor]) -> "Totals":
        """Every tensor changed by a function."""
        return self._with(self, lambda t, _: operate(t))

    def overwritten(self, other: "Totals") -> "Totals":
        """The values of others in this one's memory, but for the tracked pairs."""
        pairs = torch.zeros_like(other.pairs)
        same = replace(self, pairs=pairs)
        return same._with(other, lambda t, new: t.copy_(new))

    def _with(
        self, other: "Totals", operate: Callable[[Tensor, Tensor], Tensor]
    ) -> "Totals":
        labels = None
        if self.labels is not None and other.labels is not None:
            labels = operate(self.labels, other.labels)
        return Totals(
            operate(self.counts, other.counts),
            [operate(x, y) for x, y in zip(self.blocks, other.blocks, strict=True)],
            labels,
            operate(self.entropy, other.entropy),
            operate(self.log_norm, other.log_norm),
            operate(self.constant, other.constant),
            operate(self.assigned, other.assigned),
            operate(self.pairs, other.pairs),
        )


class Expectation:
    """Responsibilities of rows under a mixture, and their sums.

    Coefficients are computed once; `rows` may then come in chunks.

    Parameters
    ----------
    mixture : Mixture
    pairs : long Tensor of shape (P, 3), default=None
        Pairs of atoms ``(g, i, j)`` to track.
    """

    def __init__(self, mixture: Mixture, pairs: Tensor | None = None):
        self.mixture = mixture
        self.pairs = pairs
        self.log_weights = mixture.log_weights
        self.log_labels = mixture.log_labels
        self.coefficients = [coefficients(q) for q in mixture.blocks]
        # Of rows whose cells are all observed.
        self.complete = [
            without_cells(c, q.size) if q.diagonal else c
            for c, q in zip(self.coefficients, mixture.blocks, strict=True)
        ]
        self.completers: dict[int, Completer] = {}
        self.references = [fixed_coefficients(h) for h in mixture.reference or ()]

    # ------------------------------------------------------------ one chunk
    def responsibilities(self, rows: Rows) -> tuple[Tensor, Tensor]:
        """Responsibilities (G, J, n) and log-normalisers (G, n).

        The reference densities of a joint stick are in the log-normalisers.
        """
        resp, references, _ = self._logits(rows)
        top = _shift_(resp)
        total = resp.exp_().sum(1, keepdim=True)
        resp.div_(total)
        log_norm = (top + total.log())[:, 0]
        if len(references):
            log_norm = log_norm + references.sum(0)
        return self._taking_part(resp, rows), log_norm

    def totals(self, rows: Rows) -> Totals:
        """Sums over rows."""
        mixture = self.mixture
        logits, references, phi = self._logits(rows)
        top = _shift_(logits)
        resp = logits.exp()
        total = resp.sum(1, keepdim=True)
        weight = self._taking_part(rows.weight.expand_as(total), rows)
        # Responsibilities times weights from here on, in one pass.
        resp.mul_(weight / total)
        log_total = total.log()
        # Logits are small where responsibilities are not: nothing cancels.
        entropy = (log_total * weight).sum() - torch.vdot(
            resp.flatten(), logits.flatten()
        )
        log_norm = ((top + log_total) * weight).sum()
        blocks = []
        for m, feature in enumerate(phi):
            part = self._of_block(resp, m)
            total = part @ feature.mT
            if mixture.blocks[m].diagonal and rows.cells[m] is None:
                total = with_cells(total, mixture.blocks[m].size)
            total, hidden = self._fill(m, total, rows.cells[m])
            entropy = entropy + hidden
            for index, done in self._completions(m, rows):
                sums, hidden = completed_sums(done, part[:, index])
                total = total + pack_sums(sums)
                entropy = entropy + hidden
            blocks.append(total)
        constant = assigned = entropy.new_zeros(())
        for m, reference in enumerate(references):
            constant = constant + (reference * rows.weight).sum()
            assigned = assigned + (self._of_block(resp, m).sum(0) * reference).sum()
        labels = None
        if self.mixture.labels is not None:
            labels = label_sums(resp, rows.labels, self.mixture.labels.shape[-1])
        return Totals(
            resp.sum(-1),
            blocks,
            labels,
            entropy,
            log_norm,
            constant,
            assigned,
            self._pair_entropy(resp),
        )

    def share(self, resp: Tensor, rows: Rows, m: int) -> Tensor:
        """Responsibilities (K, n) within one modality, summing to one.

        Where a row's assignment says nothing of the modality, the weights.
        """
        own = self.mixture.weights_within(m)[:, None]
        if self.mixture.coupling == "shared":
            return resp[0]
        if self.mixture.coupling == "per_modality":
            return torch.where(rows.seen[m] > 0, resp[m], own)
        # Those of an atom of another modality may be too small to be normalised.
        part, _ = self._part(m, rows)
        weights = of_block(self.log_weights, m, "joint_stick", len(rows.z))
        return torch.where(
            rows.seen[m] > 0, torch.softmax(part + weights[:, None], 0), own
        )

    def filled(
        self, rows: Rows, share: Tensor, m: int, noise: Tensor | None = None
    ) -> Tensor:
        """Coordinates (D, n) of one modality, expectations where not observed.

        Parameters
        ----------
        rows : Rows
        share : Tensor of shape (K, n)
            Of `share`, or a draw from it.
        m : int
        noise : Tensor of shape (D, n), default=None
            Standard normal; added in the units of the components where not observed,
            which makes the expectations draws if `share` is one.
        """
        q, z, seen, cells = (
            self.mixture.blocks[m],
            rows.z[m],
            rows.seen[m],
            rows.cells[m],
        )
        mean = q.mean.mT @ share
        if noise is not None:
            mean = mean + _colour(cholesky(q.covariance), share, noise)
        if cells is None:
            return torch.where(seen > 0, z, mean)
        out = torch.where(cells > 0, z, mean)
        if q.diagonal:
            return out
        for at, done in self._completions(m, rows):
            some = share[:, at]
            out[:, at] = torch.einsum("kn,knd->dn", some, done.filled)
            if noise is not None:
                rank = torch.arange(len(at), device=at.device)[:, None]
                own = noise.mT[at][rank, done.hidden][None, ..., None]
                own = torch.linalg.solve_triangular(
                    done.factor.mT, own.expand(*done.factor.shape[:-1], 1), upper=True
                )
                drawn = torch.einsum("kn,kns->ns", some, own[..., 0])
                out[done.hidden, at[:, None]] += drawn
        return out

    # ------------------------------------------------------------ parts
    def _logits(self, rows: Rows) -> tuple[Tensor, Tensor, list[Tensor]]:
        """Log-weights plus log-densities, (G, J, n), and what the sums need besides.

        Besides: references' log-densities, (M, n) or none, and features of each
        modality.
        """
        mixture = self.mixture
        parts: list[Tensor] = []
        phi: list[Tensor] = []
        for m in range(len(mixture.blocks)):
            part, feature = self._part(m, rows)
            parts.append(part)
            phi.append(feature)
        references = rows.weight.new_zeros((0, rows.n_rows))
        if self.references:
            references = self._references(rows)
            parts = [p - h for p, h in zip(parts, references, strict=True)]
        logits = self._combined(parts, rows.seen)
        if rows.labels is not None and self.log_labels is not None:
            known = rows.labels >= 0
            own = self.log_labels[:, :, rows.labels.clamp_min(0)]
            logits += torch.where(known, own, 0)
        return logits, references, phi

    def _part(self, m: int, rows: Rows) -> tuple[Tensor, Tensor]:
        """Log-densities (K, n) of one modality, 0 where absent, and its features.

        Rows that have to be completed have no features.
        """
        q = self.mixture.blocks[m]
        z, seen, cells = rows.z[m], rows.seen[m], rows.cells[m]
        if cells is None or q.diagonal:
            feature = features(z, seen, cells, q.diagonal)
            every = self.complete[m] if cells is None else self.coefficients[m]
            return every @ feature, feature
        partial = (cells.sum(0) < len(cells)) & (seen > 0)
        feature = features(
            torch.where(partial, 0, z), torch.where(partial, 0, seen), None, False
        )
        part = self.complete[m] @ feature
        for at, done in self._completions(m, rows):
            part[:, at] = done.log_density
        return part, feature

    def _completions(
        self, m: int, rows: Rows, completer: Completer | None = None
    ) -> Iterator[tuple[Tensor, Completion]]:
        """Rows of a full modality that lack some of its cells, few at a time.

        Computed anew for densities and for sums: kept, they would be K rows a row.
        """
        cells, q = rows.cells[m], self.mixture.blocks[m]
        if cells is None or q.diagonal:
            return
        if completer is None:
            if m not in self.completers:
                self.completers[m] = Completer(q)
            completer = self.completers[m]
        n_hidden = torch.where(rows.seen[m] > 0, len(cells) - cells.sum(0), 0)
        for s in range(1, len(cells)):
            index = torch.nonzero(n_hidden == s).flatten()
            step = max(1, COMPLETED_CELLS // (len(q.dof) * (len(cells) + s * s)))
            for at in torch.split(index, step):
                if len(at):
                    where = torch.nonzero(cells[:, at].mT == 0)[:, 1].view(-1, s)
                    yield at, completer(rows.z[m][:, at].mT, where)

    def _combined(self, parts: list[Tensor], seen: Tensor) -> Tensor:
        weights = self.log_weights[:, :, None]
        if self.mixture.coupling == "shared":
            total = parts[0]
            for part in parts[1:]:
                total += part
            return total[None].add_(weights)
        stacked = torch.stack(parts)  # (M, K, n)
        if self.mixture.coupling == "per_modality":
            return stacked + weights
        absent = (seen == 0) & (seen.sum(0) > 0)
        stacked = stacked.masked_fill(absent[:, None], NEVER)
        return stacked.flatten(0, 1)[None] + weights

    def _taking_part(self, values: Tensor, rows: Rows) -> Tensor:
        """Values (G, ., n) with zeros where a row has no part in a stick."""
        if self.mixture.coupling != "per_modality":
            return values
        return values * rows.seen[:, None]

    def _of_block(self, resp: Tensor, m: int) -> Tensor:
        """Responsibilities (K, n) of the components of one modality."""
        return of_block(resp, m, self.mixture.coupling, len(self.mixture.blocks))

    def _fill(
        self, m: int, total: Tensor, cells: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Sums with unobserved cells of diagonal components filled in."""
        q = self.mixture.blocks[m]
        if cells is None or not q.diagonal:
            return total, total.new_zeros(())
        sums, entropy = sums_from_features(total, q.size, True, q)
        return pack_sums(sums), entropy

    def _references(self, rows: Rows) -> Tensor:
        """Log-densities (M, n) of the reference Gaussians; 0 for absent blocks."""
        out = []
        for m, h in enumerate(self.mixture.reference or ()):
            z, seen, cells = rows.z[m], rows.seen[m], rows.cells[m]
            if cells is None or h.diagonal:
                phi = features(z, seen, cells, h.diagonal)
                own = self.references[m]
                if h.diagonal and cells is None:
                    own = without_cells(own, h.size)
                out.append((own @ phi)[0])
                continue
            full = seen * (cells.sum(0) == len(cells))
            phi = features(z * full, full, None, False)
            value = (self.references[m] @ phi)[0]
            completer = Completer(h, fixed=True)
            for at, done in self._completions(m, rows, completer):
                value[at] = done.log_density[0]
            out.append(value)
        return torch.stack(out)

    def _pair_entropy(self, resp: Tensor) -> Tensor:
        """Entropy that is lost by merging; a weight times its logarithm cancels."""
        if self.pairs is None or not len(self.pairs):
            return resp.new_zeros(0)
        lost = []
        for g, i, j in self.pairs.tolist():
            x, y = resp[g, i], resp[g, j]
            both = x + y
            change = torch.xlogy(both, both) - torch.xlogy(x, x) - torch.xlogy(y, y)
            lost.append(change.sum())
        return torch.stack(lost)


def of_block(resp: Tensor, m: int, coupling: str, n_blocks: int) -> Tensor:
    """The part of values of atoms (G, J, ...) that belongs to one modality."""
    if coupling == "shared":
        return resp[0]
    if coupling == "per_modality":
        return resp[m]
    k = resp.shape[1] // n_blocks
    return resp[0, m * k : (m + 1) * k]


def label_sums(resp: Tensor, labels: Tensor | None, n_classes: int) -> Tensor:
    """Sums (G, J, C) of responsibilities (G, J, n) over the rows of each class."""
    if labels is None:
        return resp.new_zeros((*resp.shape[:-1], n_classes))
    one_hot = torch.nn.functional.one_hot(labels + 1, n_classes + 1)
    return resp @ one_hot[:, 1:].to(resp)


def atoms_shape(coupling: str, n_blocks: int, n_components: int) -> tuple[int, int]:
    """G and J."""
    return {
        "shared": (1, n_components),
        "joint_stick": (1, n_blocks * n_components),
        "per_modality": (n_blocks, n_components),
    }[coupling]


def given_totals(
    resp: Tensor,
    rows: Rows,
    coupling: str,
    blocks: Sequence[NormalWishart],
    n_classes: int | None,
) -> Totals:
    """Sums over rows under responsibilities (G, J, n) that are given.

    Unobserved cells are filled in at the means of `blocks`, one factor a modality. A
    start: the entropy, and what the references of a joint stick add, are left out.
    """
    weighted = resp * rows.weight
    totals = []
    for m, prior in enumerate(blocks):
        part = of_block(weighted, m, coupling, len(blocks)) * rows.seen[m]
        cells = rows.cells[m]
        z = rows.z[m]
        if cells is not None:
            z = z + (rows.seen[m] - cells) * prior.mean[0, :, None]
        phi = features(z, rows.seen[m], None, prior.diagonal)
        total = part @ phi.mT
        totals.append(with_cells(total, prior.size) if prior.diagonal else total)
    labels = None
    if n_classes is not None and rows.labels is not None:
        labels = label_sums(weighted, rows.labels, n_classes)
    zero = weighted.new_zeros(())
    return Totals(
        weighted.sum(-1),
        totals,
        labels,
        entropy=zero,
        log_norm=zero,
        constant=zero,
        assigned=zero,
        pairs=zero.new_zeros(0),
    )


def maximise(totals: Totals, priors: Priors, like: Mixture) -> Mixture:
    """The optimal factors, given sums."""
    counts = totals.counts.clamp_min(0)
    order = like.order
    if priors.by_size:
        order = sticks.sorted_order(counts)
    a, b = sticks.beta_posterior(sticks.in_order(counts, order), priors.concentration)
    blocks = [
        posterior(prior, unpacked(total, prior))
        for prior, total in zip(priors.blocks, totals.blocks, strict=True)
    ]
    labels = None
    if totals.labels is not None:
        labels = priors.label + totals.labels
    return replace(like, a=a, b=b, order=order, blocks=blocks, labels=labels)


def unpacked(total: Tensor, prior: NormalWishart) -> Sums:
    """Sums of a modality, whose cells are all filled in."""
    return sums_from_features(total, prior.size, prior.diagonal, None)[0]


def bound(totals: Totals, priors: Priors, mixture: Mixture) -> float:
    """The lower bound right after `maximise`, in nats times weights."""
    value = totals.entropy + totals.constant - totals.assigned
    value = value + stick_evidence(totals.counts, priors, mixture.order)
    for q, prior, total in zip(
        mixture.blocks, priors.blocks, totals.blocks, strict=True
    ):
        gain = log_normaliser(q) - log_normaliser(prior)
        value = value + (gain - 0.5 * q.size * LOG_2PI * total[:, 0]).sum()
    if mixture.labels is not None:
        value = value + label_evidence(mixture.labels, priors.label).sum()
    return float(value)


def stick_evidence(counts: Tensor, priors: Priors, order: Tensor) -> Tensor:
    """The sticks' part of the bound."""
    counts = counts.clamp_min(0)
    in_order = sticks.in_order(counts, order)
    return sticks.log_evidence(in_order, priors.concentration).sum()


def label_evidence(labels: Tensor, prior: float) -> Tensor:
    """The labels' part of the bound, of each atom."""
    n_classes = labels.shape[-1]
    return (
        torch.lgamma(labels).sum(-1)
        - torch.lgamma(labels.sum(-1))
        - n_classes * math.lgamma(prior)
        + math.lgamma(n_classes * prior)
    )


def factor_divergence(priors: Priors, mixture: Mixture) -> Tensor:
    """KL of all factors of a mixture to the priors.

    ``log_norm + constant - factor_divergence`` is the lower bound right after
    responsibilities have been updated.
    """
    value = sticks.beta_divergence(mixture.a, mixture.b, priors.concentration).sum()
    for q, prior in zip(mixture.blocks, priors.blocks, strict=True):
        value = value + divergence(q, prior).sum()
    if mixture.labels is not None and mixture.log_labels is not None:
        gain = ((mixture.labels - priors.label) * mixture.log_labels).sum()
        value = value + gain - label_evidence(mixture.labels, priors.label).sum()
    return value


def sorted_by_size(mixture: Mixture, totals: Totals) -> tuple[Mixture, Totals]:
    """Components by decreasing counts, within each modality or for all together."""
    n_blocks, k = len(mixture.blocks), len(mixture.blocks[0].dof)
    orders = [
        sticks.sorted_order(of_block(totals.counts, m, mixture.coupling, n_blocks))
        for m in range(n_blocks)
    ]
    if mixture.coupling == "joint_stick":
        atoms = torch.cat([m * k + order for m, order in enumerate(orders)])[None]
    elif mixture.coupling == "per_modality":
        atoms = torch.stack(orders)
    else:
        atoms = orders[0][None]
    place = torch.argsort(atoms, dim=-1)
    labels = mixture.labels
    label_totals = totals.labels
    index = atoms[:, :, None]
    if labels is not None:
        labels = torch.take_along_dim(labels, index, 1)
    if label_totals is not None:
        label_totals = torch.take_along_dim(label_totals, index, 1)
    mixture = replace(
        mixture,
        order=torch.gather(place, -1, mixture.order),
        blocks=[q.take(order) for q, order in zip(mixture.blocks, orders, strict=True)],
        labels=labels,
    )
    totals = replace(
        totals,
        counts=torch.gather(totals.counts, -1, atoms),
        blocks=[t[order] for t, order in zip(totals.blocks, orders, strict=True)],
        labels=label_totals,
    )
    return mixture, totals


def fixed_coefficients(h: NormalWishart) -> Tensor:
    """Coefficients (1, n_features) of the Gaussian with a factor's mean and scale."""
    root = cholesky(h.scale)
    if h.diagonal:
        precision = 1 / h.scale
        linear = precision * h.mean
        cell = -0.5 * (h.scale.log() + LOG_2PI + linear * h.mean)
        zero = cell.new_zeros((1, 1))
        return torch.cat([zero, cell, linear, -0.5 * precision], 1)
    precision = torch.cholesky_inverse(root)
    constant = -0.5 * (log_det(root) + h.size * LOG_2PI)
    return quadratic_coefficients(constant, h.mean, precision)


def empirical_scale(
    prior: NormalWishart, blocks: NormalWishart, used: Tensor, least: Tensor
) -> NormalWishart:
    r"""The prior's scale that raises the bound most, given the factors.

    .. math:: S_0 = \nu_0 n \Big(\sum_k \nu_k W_k\Big)^{-1}

    over the n components that are used (the others' factors follow the prior), under
    :math:`S_0 \ge \nu_0 \cdot` `least`: in coordinates where `least` is the identity,
    eigenvalues are raised to :math:`\nu_0`.

    Parameters
    ----------
    prior : NormalWishart
        Of one factor.
    blocks : NormalWishart
    used : bool Tensor of shape (K,)
    least : Tensor of shape (1, D, D) or (1, D)
        The smallest covariance that the prior may expect.
    """
    q = blocks.take(torch.nonzero(used).flatten())
    n = len(q.dof)
    if n == 0:
        return prior
    if q.diagonal:
        precision = (q.dof[:, None] / q.scale).sum(0, keepdim=True)
        scale = torch.maximum(n / precision, least) * prior.dof[:, None]
        return replace(prior, scale=scale)
    inverse = torch.cholesky_inverse(cholesky(q.scale))
    precision = (q.dof[:, None, None] * inverse).sum(0)
    root = cholesky(least)[0]
    values, vectors = torch.linalg.eigh(root.mT @ precision @ root)
    # A precision of rank below D has no largest scale there: keep to the prior's.
    raised = (n / values.clamp_min(1e-300)).clamp_min(1.0)
    half = root @ (vectors * raised.sqrt())
    scale = (half @ half.mT)[None] * prior.dof[:, None, None]
    return replace(prior, scale=(scale + scale.mT) / 2)


def _shift_(logits: Tensor) -> Tensor:
    """Take each row's largest logit off, in place; returns it, (G, 1, n)."""
    top = logits.amax(1, keepdim=True)
    logits.sub_(top)
    return top


def _colour(root: Tensor, share: Tensor, noise: Tensor) -> Tensor:
    """Noise (D, n) in the units of the component that each row was drawn."""
    if root.ndim == 2:
        return (root.mT @ share) * noise
    return torch.einsum("kij,kn,jn->in", root, share, noise)
